//! Updates against those of PEFT, diffusers and torch; `tools/make_lora_values.py` made the values.

use std::path::{Path, PathBuf};

use latent_formats::{Picture, Weights};
use latent_nn::{Exported, export_parameters};

use super::loader::{Pair, Told};
use super::*;
use crate::config::StageConfig;
use crate::run::{Load, Stage};

/// The captions of the batch, and what shows the class.
const CAPTIONS: [&str; 2] = ["a red apple on a table", "a photo of an astronaut"];
const CLASS: &str = "a photo of a horse";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn values(name: &str) -> PathBuf {
    root().join(format!("tests/fixtures/lora-{name}.safetensors"))
}

/// Grey pictures with the captions.
fn pictures(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    for (index, caption) in CAPTIONS.iter().enumerate() {
        let picture = Picture::filled(80, 64, [90 * index as u8; 3]).expect("a picture");
        let path = folder.join(format!("{index}.png"));
        picture.save(&path).expect("saved");
        std::fs::write(path.with_extension("txt"), caption).expect("written");
    }
}

/// A stage on a tiny model, as the reference was set, with `more` tables.
fn stage(place: &Path, model: &str, values: &Path, layers: &str, more: &str) -> LoraStage {
    pictures(&place.join("data"));
    let model = root().join("../latent-models/tests/fixtures").join(model);
    let text = format!(
        "model = {model:?}\n[run]\nfolder = {:?}\nsteps = 10\nbatch = 2\nprecision = \"f32\"\ninit = {values:?}\n\
         [data]\npath = {:?}\nsize = 64\n[buckets]\nstep = 16\n[lora]\nrank = 2\nalpha = 3.0\nlayers = {layers}\n\
         [optimizer]\nlearning_rate = {{ peak = 1e-2, decay = \"constant\" }}\nbeta2 = 0.99\neps = 1e-4\nweight_decay = 0.1\n\
         clip = 0.1\nema = {{ decay = 0.0 }}\n{more}",
        place.join("run"),
        place.join("data"),
    );
    let config = LoraConfig::parse(&text, Path::new("x.toml")).expect("a config");
    let options = Options {
        device: "cpu".into(),
        ..Options::default()
    };
    let opened = opened(&config, &options, &mut |_| {}).expect("a stage");
    opened.expect("nothing stopped it").0
}

/// A batch of the reference.
fn told(stage: &LoraStage, values: &Weights, kind: &str, texts: [&str; 2]) -> Told {
    let read = |name: &str| values.read_f32(&format!("{kind}/{name}"));
    let shape = values.describe(&format!("{kind}/clean")).expect("there").1;
    let shape: [usize; 4] = shape.try_into().expect("four axes");
    let texts = texts.map(str::to_owned);
    let loader = &stage.loader;
    let words = loader.texts.batch(&texts, loader.pooled).expect("words");
    let noised = (
        read("clean").expect("latents"),
        read("noise").expect("noise"),
    );
    let timesteps = read("timesteps").expect("timesteps");
    let timesteps = timesteps.into_iter().map(|step| step as usize).collect();
    let numbers = read("numbers").unwrap_or_default();
    let Lessons::Pictures(pictures) = &loader.lessons else {
        panic!("it learns from pictures")
    };
    pictures
        .noised(noised, shape, timesteps, (words, numbers))
        .expect("a batch")
}

/// Values by their names in PEFT's dialect.
fn by_name(stage: &LoraStage, exported: Vec<Exported>) -> Vec<(String, Vec<f32>)> {
    let layers = &stage.networks.layers;
    let parts = [
        ("unet", &layers.unet),
        ("text_encoder", &layers.texts[0]),
        ("text_encoder_2", &layers.texts[1]),
    ];
    let named = exported.into_iter().map(|tensor| {
        let pieces: Vec<&str> = tensor.path.split('.').collect();
        let [part, index, factor] = pieces[..] else {
            panic!("{}", tensor.path)
        };
        let (_, layers) = parts
            .iter()
            .find(|(name, _)| *name == part)
            .expect("a part");
        let layer = &layers[index.parse::<usize>().expect("a number")];
        let factor = if factor == "down" { "lora_A" } else { "lora_B" };
        (
            format!("{}.{}.{factor}.weight", layer.part, layer.name),
            tensor.values,
        )
    });
    named.collect()
}

/// The largest difference as a share of the largest expected value.
fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-12_f32, |most, v| most.max(v.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f32::max) / largest
}

/// Two updates of `stage`, held against the reference.
#[track_caller]
fn equals_torch(mut stage: LoraStage, values: &Weights) {
    let pair = |stage: &LoraStage| Pair {
        own: told(stage, values, "own", CAPTIONS),
        class: values
            .contains("class/clean")
            .then(|| told(stage, values, "class", [CLASS; 2])),
    };
    let scalar = |name: &str| f64::from(values.read_f32(name).expect("a number")[0]);
    let pass = stage.pass(&pair(&stage));
    let shapes = export_parameters(stage.trainee.model());
    let mut compared = 0;
    // The largest gradient of all is the measure: those that are almost zero are differences of much larger ones.
    let largest = values
        .names()
        .filter(|name| name.starts_with("gradient/"))
        .flat_map(|name| values.read_f32(name).expect("values"))
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    for ((name, _), parameter) in by_name(&stage, shapes.clone()).iter().zip(&shapes) {
        let name = format!("gradient/{name}");
        let found = pass.gradients.get(&parameter.path);
        assert_eq!(found.is_some(), values.contains(&name), "{name}");
        let Some(found) = found else { continue };
        let expected = values.read_f32(&name).expect("values");
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f32::max) / largest;
        // Sums in another order through networks without normalised states: 3e-5 with Stable Diffusion XL.
        assert!(off < 1e-4, "{name}: {off}");
        compared += 1;
    }
    assert_eq!(
        compared,
        values
            .names()
            .filter(|name| name.starts_with("gradient/"))
            .count()
    );
    for step in 0..2 {
        let batch = pair(&stage);
        let update = stage.update(step, vec![batch]).expect("an update");
        let expected = scalar(&format!("loss.{step}"));
        assert!(
            (update.loss - expected).abs() < 2e-5 * expected,
            "loss {}: {expected}",
            update.loss
        );
        let norm = scalar(&format!("norm.{step}"));
        let found = update.report.grad_norm;
        assert!(
            update.report.clipped && (found - norm).abs() < 1e-4 * norm,
            "norm {found}: {norm}"
        );
    }
    for (name, found) in by_name(&stage, export_parameters(stage.trainee.model())) {
        let expected = values.read_f32(&format!("after/{name}")).expect("values");
        let off = worst(&found, &expected);
        assert!(off < 1e-3, "{name}: {off}");
    }
}

#[test]
fn two_updates_of_attention_equal_those_of_peft() {
    let place = tempfile::tempdir().expect("a folder");
    let values = values("attention");
    let stage = stage(place.path(), "sd1-tiny", &values, "[\"attention\"]", "");
    equals_torch(stage, &Weights::open(&values).expect("values"));
}

#[test]
fn two_updates_of_every_layer_with_a_class_and_the_text_encoder_equal_those_of_peft() {
    let place = tempfile::tempdir().expect("a folder");
    let values = values("all");
    pictures(&place.path().join("class"));
    let more = format!(
        "[text_encoder]\nlearning_rate = 2.5e-3\n[loss]\nmin_snr_gamma = 5.0\n\
         [prior]\npath = {:?}\nprompt = {CLASS:?}\nweight = 0.7\ncount = 0\n",
        place.path().join("class")
    );
    let layers = "[\"attention\", \"feed-forward\", \"projections\", \"convolutions\"]";
    let stage = stage(place.path(), "sd1-tiny", &values, layers, &more);
    equals_torch(stage, &Weights::open(&values).expect("values"));
}

#[test]
fn two_updates_of_stable_diffusion_xl_and_both_text_encoders_equal_those_of_peft() {
    let place = tempfile::tempdir().expect("a folder");
    let values = values("xl");
    let more = "[text_encoder]\nlearning_rate = 2.5e-3\n";
    let stage = stage(place.path(), "sdxl-tiny", &values, "[\"attention\"]", more);
    equals_torch(stage, &Weights::open(&values).expect("values"));
}

#[test]
fn offset_noise_is_shared_by_a_channel_and_the_network_should_find_it() {
    let target = |offset: f64| {
        let place = tempfile::tempdir().expect("a folder");
        let more = format!("[loss]\nnoise_offset = {offset:?}\n");
        let init = values("attention");
        let stage = stage(place.path(), "sd1-tiny", &init, "[\"attention\"]", &more);
        let batch = stage.loader.load(3).expect("a batch").own;
        (batch.target, batch.shape)
    };
    let ((plain, shape), (offset, _)) = (target(0.0), target(0.5));
    let added: Vec<f32> = offset.iter().zip(&plain).map(|(a, b)| a - b).collect();
    let mut shifts: Vec<f32> = Vec::new();
    for channel in added.chunks_exact(shape[2] * shape[3]) {
        assert!(
            channel
                .iter()
                .all(|value| (value - channel[0]).abs() < 1e-5)
        );
        shifts.push(channel[0]);
    }
    assert_eq!(shifts.len(), shape[0] * shape[1]);
    let square = shifts.iter().map(|shift| shift * shift).sum::<f32>() / shifts.len() as f32;
    // Eight draws of deviation 0.5.
    assert!((0.05..0.8).contains(&square), "{square}");
}

use super::*;
use crate::recipe::Unmatched;

/// What A1111 1.10 writes, with a second pass.
const TEXT: &str = "a red fox, <lora:snow:0.8> (in the snow:1.2)\nbest quality\nNegative prompt: blurry, text\nlowres\n\
    Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, \
    Model hash: 6CE0161689, Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000.safetensors, \
    Denoising strength: 0.45, Clip skip: 2, Hires upscale: 1.5, Hires steps: 12, Hires upscaler: Latent, \
    Lora hashes: \"snow: 1a2b3c4d5e6f, ice: aabbccddeeff\", Version: v1.10.1";

fn said(recipe: &Recipe) -> Vec<String> {
    recipe.unmatched.iter().map(Unmatched::to_string).collect()
}

#[test]
fn the_text_of_a1111_becomes_a_request() {
    let recipe = read(TEXT);
    let request = &recipe.request;
    assert_eq!(recipe.tool, Tool::A1111);
    assert_eq!(request.prompt, "a red fox, (in the snow:1.2) best quality");
    assert_eq!(request.negative_prompt, "blurry, text\nlowres");
    assert_eq!(
        (request.steps, request.guidance, request.seeds()),
        (Some(25), Some(6.5), vec![3_141_592_653])
    );
    assert_eq!((request.width, request.height), (Some(512), Some(768)));
    assert_eq!(
        (request.sampler.as_deref(), request.schedule.as_deref()),
        (Some("DPM++ 2M"), Some("karras"))
    );
    assert_eq!(
        (request.clip_skip, request.generator.as_deref()),
        (Some(1), Some("philox"))
    );
    let hires = Hires {
        steps: Some(12),
        strength: 0.45,
        ..Hires::new(1.5)
    };
    assert_eq!((request.hires, request.strength), (Some(hires), None));
    let model = NamedModel {
        name: "v1-5-pruned-emaonly".into(),
        hash: Some("6ce0161689".into()),
    };
    assert_eq!(recipe.model, Some(model));
    let lora = NamedLora {
        name: "snow".into(),
        unet: 0.8,
        text: 0.8,
    };
    assert_eq!(recipe.loras, [lora]);
    assert_eq!(
        said(&recipe),
        ["the autoencoder `vae-ft-mse-840000.safetensors`; give it with `--vae`"]
    );
}

#[test]
fn a_schedule_that_is_not_said_is_the_one_a1111_means() {
    let schedule = |settings: &str| {
        let text = format!("a fox\nSteps: 20, {settings}, Seed: 1, Size: 8x8");
        read(&text).request.schedule
    };
    assert_eq!(
        schedule("Sampler: DPM++ 2M, Schedule type: Automatic").as_deref(),
        Some("karras")
    );
    assert_eq!(
        schedule("Sampler: Euler a, Schedule type: Automatic").as_deref(),
        Some("normal")
    );
    assert_eq!(
        schedule("Sampler: Euler, Schedule type: SGM Uniform").as_deref(),
        Some("sgm_uniform")
    );
    // Before release 1.9 the name held the schedule, or there was none.
    assert_eq!(schedule("Sampler: DPM++ 2M Karras"), None);
    assert_eq!(schedule("Sampler: DPM++ SDE Karras"), None);
    assert_eq!(schedule("Sampler: DPM++ 2M").as_deref(), Some("normal"));
    assert_eq!(schedule("Sampler: DDIM"), None);
}

#[test]
fn what_is_not_known_is_listed_and_not_passed_over() {
    let recipe = read(
        "a fox\nSteps: 20, Sampler: DPM adaptive, CFG scale: x, Seed: 1, Size: 512x512, RNG: CPU, ENSD: 31337, \
         ControlNet 0: \"Module: canny, Model: c, Weight: 1\", TI hashes: \"bad_hands: 12, easy: 34\", Tiling: True, \
         Mask blur: 4, Denoising strength: 0.75, Hires upscaler: R-ESRGAN 4x+, Emphasis: No norm",
    );
    let said = said(&recipe);
    for words in [
        "`DPM adaptive`",
        "`CFG scale: x`",
        "`ENSD: 31337`",
        "`ControlNet 0: Module: canny",
        "`bad_hands`",
        "`easy`",
        "`Tiling: True`",
        "`--mask`",
        "`R-ESRGAN 4x+`",
        "`Emphasis: No norm`",
    ] {
        assert!(
            said.iter().any(|what| what.contains(words)),
            "{words}: {said:?}"
        );
    }
    assert_eq!(recipe.request.generator.as_deref(), Some("torch"));
    assert_eq!(recipe.request.sampler, None);
}

#[test]
fn a_start_from_a_picture_is_told_from_a_second_pass() {
    let recipe = read("a fox\nSteps: 20, Seed: 1, Size: 512x512, Denoising strength: 0.6");
    assert_eq!(
        (recipe.request.strength, recipe.request.hires),
        (Some(0.6), None)
    );
    assert_eq!(recipe.unmatched[0].flag, Some("init"));
}

#[test]
fn pairs_are_cut_as_forge_cuts_them() {
    let pairs = |line| {
        super::pairs(line)
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(pairs("Steps: 20, Size: 8x8"), ["Steps=20", "Size=8x8"]);
    assert_eq!(
        pairs(r#"A b: "x, \"y\": z", C d: e"#),
        [r#"A b=x, "y": z"#, "C d=e"]
    );
    assert_eq!(
        pairs(r#"Hashes: {"model": "a", "lora:b": "c"}, Seed: 1"#),
        [r#"Hashes={"model":"a","lora:b":"c"}"#, "Seed=1"]
    );
    assert_eq!(pairs("no pair, Seed: 1, : x, ,,"), ["Seed=1"]);
    assert_eq!(pairs("Broken: \"x, Seed: 1"), ["Broken=\"x", "Seed=1"]);
    assert!(pairs("").is_empty());
}

#[test]
fn a_text_without_a_line_of_settings_is_none() {
    assert!(is_text(TEXT) && !is_text("a fox: red, b: blue") && !is_text("") && !is_text("\n\n"));
    for end in 0..TEXT.len() {
        if let Some(part) = TEXT.get(..end) {
            read(part);
        }
    }
}

#[test]
fn line_ends_of_another_system_are_no_part_of_the_words() {
    let recipe = read("a fox\r\nNegative prompt: fog\r\nSteps: 2, Seed: 1, Size: 8x8");
    assert_eq!(
        (
            recipe.request.prompt.as_str(),
            recipe.request.negative_prompt.as_str()
        ),
        ("a fox", "fog")
    );
}

#[test]
fn guidance_of_extensions_and_of_a_sampler_is_read() {
    let recipe = read(
        "a fox\nSteps: 20, Sampler: DDIM CFG++, CFG scale: 10, Seed: 1, Size: 64x64, Dynamic thresholding enabled: True, \
         Mimic scale: 7, Separate Feature Channels: True, Scaling Startpoint: MEAN, Variability Measure: AD, \
         Interpolate Phi: 1, Threshold percentile: 99.5, Version: v1.10.1",
    );
    let request = &recipe.request;
    assert_eq!(
        (request.sampler.as_deref(), request.guidance_method),
        (Some("ddim"), Method::CfgPlusPlus)
    );
    assert_eq!(request.guidance, Some(0.8));
    let held = request.thresholding.expect("thresholding");
    assert_eq!((held.mimic, held.percentile), (Some(7.0), 0.995));
    assert_eq!(said(&recipe), Vec::<String>::new());
}

#[test]
fn guidance_that_latent_writes_is_read_again_and_none_of_it_in_the_texts_of_others() {
    let line = "a fox\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 64x64, Guidance method: apg, APG eta: 0.25, \
         APG threshold: 7.5, APG momentum: -0.75, APG space: output, PAG scale: 2.5, PAG adaptive scale: 0.001, \
         PAG layers: \"mid,up.1\", Guidance interval: \"sigma:5.4:0.28\", Cache interval: 3, Cache branch: 1, \
         Token merging ratio: 0.5, Version: ";
    let ours = read(&format!("{line}latent 0.1.0"));
    assert_eq!(said(&ours), Vec::<String>::new());
    let request = &ours.request;
    let apg = request.apg.expect("apg");
    assert_eq!(
        (apg.eta, apg.norm_threshold, apg.momentum),
        (0.25, 7.5, -0.75)
    );
    assert_eq!(
        (request.guidance_method, apg.space),
        (Method::Apg, ApgSpace::Output)
    );
    let pag = request.pag.as_ref().expect("pag");
    assert_eq!((pag.scale, pag.adaptive_scale), (2.5, 0.001));
    assert_eq!(pag.layers, ["mid", "up.1"]);
    let interval = request.guidance_interval.expect("an interval").to_string();
    assert_eq!(interval, "sigma:5.4:0.28");
    let cache = request.cache.expect("a cache");
    assert_eq!((cache.interval, cache.branch), (3, 1));
    assert_eq!(request.token_merging, Some(0.5));
    let theirs = read(&format!("{line}v1.10.1"));
    assert!(said(&theirs).iter().any(|one| one.contains("PAG scale")));
    assert_eq!(theirs.request.token_merging, Some(0.5));
}

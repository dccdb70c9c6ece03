//! InvokeAI's JSON, of its releases from 3 on.
//!
//! Source of the keys: InvokeAI's `invokeai/app/invocations/metadata.py`, `CoreMetadataInvocation`.

use serde_json::{Map, Value};

use super::{NamedLora, NamedModel, Recipe, Tool};

/// InvokeAI's samplers by ours; with `_k` behind them they walk on Karras' levels.
///
/// Source: InvokeAI's `invokeai/backend/stable_diffusion/schedulers/schedulers.py`.
const SAMPLERS: &[(&str, &str)] = &[
    ("ddim", "ddim"),
    ("ddpm", "ddpm"),
    ("deis", "deis"),
    ("dpmpp_2s", "dpmpp_2s"),
    ("dpmpp_2m", "dpmpp_2m"),
    ("dpmpp_2m_sde", "dpmpp_2m_sde"),
    ("dpmpp_3m", "dpmpp_3m"),
    ("dpmpp_sde", "dpmpp_sde"),
    ("euler", "euler"),
    ("euler_a", "euler_a"),
    ("heun", "heun"),
    ("kdpm_2", "dpm2"),
    ("kdpm_2_a", "dpm2_a"),
    ("lcm", "lcm"),
    ("lms", "lms"),
    ("pndm", "pndm"),
    ("tcd", "tcd"),
    ("unipc", "unipc"),
];

/// Keys that are read, or that say nothing more about the picture.
const KNOWN: &[&str] = &[
    "app_version",
    "cfg_rescale_multiplier",
    "cfg_scale",
    "clip_skip",
    "generation_mode",
    "height",
    "loras",
    "model",
    "negative_prompt",
    "negative_style_prompt",
    "positive_prompt",
    "positive_style_prompt",
    "rand_device",
    "scheduler",
    "seed",
    "steps",
    "strength",
    "width",
    "init_image",
    "vae",
    "refiner_model",
    "controlnets",
    "controlNets",
];

/// The recipe of a text.
pub(super) fn read(json: &str) -> Result<Recipe, String> {
    let data: Map<String, Value> = serde_json::from_str(json)
        .map_err(|error| format!("it holds settings of InvokeAI that are broken: {error}"))?;
    // Nothing says "no" by null.
    let data: Map<String, Value> = data
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .collect();
    if !data.contains_key("positive_prompt") {
        return Err(
            "it holds settings of InvokeAI without a prompt; those of pictures that it drew have one"
                .into(),
        );
    }
    let mut recipe = Recipe::new(Tool::InvokeAi);
    numbers(&mut recipe, &data);
    words(&mut recipe, &data);
    sampler(&mut recipe, &data);
    models(&mut recipe, &data);
    start(&mut recipe, &data);
    for (key, value) in &data {
        let is_off =
            matches!(value, Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty);
        if !KNOWN.contains(&key.as_str()) && !is_off {
            recipe.note(format!("the setting `{key}: {}`", shortened(value)));
        }
    }
    Ok(recipe)
}

fn text<'a>(data: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    data.get(key)?.as_str()
}

fn number(data: &Map<String, Value>, key: &str) -> Option<f64> {
    data.get(key)?.as_f64()
}

fn numbers(recipe: &mut Recipe, data: &Map<String, Value>) {
    let whole = |key| Some(data.get(key)?.as_u64()? as usize);
    let request = &mut recipe.request;
    (request.width, request.height) = (whole("width"), whole("height"));
    request.steps = whole("steps");
    request
        .seeds
        .extend(data.get("seed").and_then(Value::as_u64));
    request.guidance = number(data, "cfg_scale").map(|scale| scale as f32);
    request.guidance_rescale = number(data, "cfg_rescale_multiplier").unwrap_or(0.0) as f32;
    request.clip_skip = whole("clip_skip").filter(|skip| *skip > 0);
    // Noise comes from torch, on the CPU unless it says another device.
    let device = text(data, "rand_device").unwrap_or("cpu");
    request.generator = Some(if device == "cpu" { "torch" } else { "philox" }.to_owned());
}

fn words(recipe: &mut Recipe, data: &Map<String, Value>) {
    let word = |key| text(data, key).unwrap_or_default().to_owned();
    let request = &mut recipe.request;
    request.prompt = word("positive_prompt");
    request.negative_prompt = word("negative_prompt");
    // Of Stable Diffusion XL: what stands in place of the prompt for the second text encoder, or behind it.
    request.prompt_2 = word("positive_style_prompt");
    request.negative_prompt_2 = word("negative_style_prompt");
    if request.prompt_2 == request.prompt {
        request.prompt_2.clear();
    }
    if request.negative_prompt_2 == request.negative_prompt {
        request.negative_prompt_2.clear();
    }
}

fn sampler(recipe: &mut Recipe, data: &Map<String, Value>) {
    let Some(name) = text(data, "scheduler") else {
        return;
    };
    let (bare, karras) = match name.strip_suffix("_k") {
        Some(bare) => (bare, true),
        None => (name, false),
    };
    let Some((_, ours)) = SAMPLERS.iter().find(|(theirs, _)| *theirs == bare) else {
        return recipe.wants(
            format!("the sampler `{name}`, which is not known"),
            "sampler",
        );
    };
    recipe.request.sampler = Some((*ours).to_owned());
    recipe.request.schedule = karras.then(|| "karras".to_owned());
}

/// A model's name: `{"name": …}` since release 4, `{"model_name": …}` before.
fn name_of(model: &Value) -> Option<String> {
    let name = model.get("name").or_else(|| model.get("model_name"))?;
    Some(name.as_str()?.to_owned())
}

fn models(recipe: &mut Recipe, data: &Map<String, Value>) {
    recipe.model = data
        .get("model")
        .and_then(name_of)
        .map(|name| NamedModel { name, hash: None });
    for lora in data
        .get("loras")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let model = lora.get("model").or_else(|| lora.get("lora"));
        let Some(name) = model.and_then(name_of) else {
            recipe.note(format!("a LoRA without a name: {}", shortened(lora)));
            continue;
        };
        let weight = lora.get("weight").and_then(Value::as_f64).unwrap_or(1.0) as f32;
        recipe.loras.push(NamedLora {
            name,
            unet: weight,
            text: weight,
        });
    }
    for (key, what, flag) in [
        ("vae", "autoencoder", "vae"),
        ("refiner_model", "refiner", "refiner"),
    ] {
        if let Some(name) = data.get(key).and_then(name_of) {
            recipe.wants(format!("the {what} `{name}`"), flag);
        }
    }
    let controls = ["controlnets", "controlNets"]
        .iter()
        .filter_map(|key| data.get(*key)?.as_array());
    for control in controls.flatten() {
        let name = control
            .get("control_model")
            .and_then(name_of)
            .unwrap_or_default();
        recipe.wants(
            format!("the ControlNet `{name}` and its picture"),
            "control",
        );
    }
}

/// What it starts from.
fn start(recipe: &mut Recipe, data: &Map<String, Value>) {
    let mode = text(data, "generation_mode").unwrap_or_default();
    let from_picture = ["img2img", "inpaint", "outpaint"]
        .iter()
        .any(|kind| mode.ends_with(kind));
    if data.contains_key("init_image") || from_picture {
        recipe.request.strength = number(data, "strength");
        recipe.wants("the picture that it starts from", "init");
    }
    if mode.ends_with("inpaint") || mode.ends_with("outpaint") {
        recipe.wants("the mask that it was painted in", "mask");
    }
}

/// Enough of a value to know it by.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Recipe {
        super::read(json).unwrap()
    }

    /// The keys and shapes of InvokeAI 5.
    const FIVE: &str = r#"{"app_version": "5.4.2", "generation_mode": "txt2img", "positive_prompt": "a fox",
        "negative_prompt": "fog", "width": 512, "height": 768, "seed": 4294967295, "rand_device": "cpu", "cfg_scale": 6.5,
        "cfg_rescale_multiplier": 0, "steps": 30, "scheduler": "dpmpp_2m_k", "seamless_x": false, "seamless_y": false,
        "clip_skip": 0, "hrf_enabled": null, "controlnets": [], "ipAdapters": [], "t2iAdapters": [],
        "model": {"key": "ab", "hash": "blake3:12", "name": "Dreamshaper 8", "base": "sd-1", "type": "main"},
        "loras": [{"model": {"key": "cd", "name": "snow", "base": "sd-1", "type": "lora"}, "weight": 0.75}],
        "vae": {"key": "ef", "name": "sd-vae-ft-mse", "base": "sd-1", "type": "vae"}}"#;

    #[test]
    fn what_release_5_writes_becomes_a_request() {
        let recipe = read(FIVE);
        let request = &recipe.request;
        assert_eq!(
            (request.prompt.as_str(), request.negative_prompt.as_str()),
            ("a fox", "fog")
        );
        assert_eq!(
            (request.width, request.height, request.steps),
            (Some(512), Some(768), Some(30))
        );
        assert_eq!(
            (request.seeds(), request.guidance),
            (vec![4_294_967_295], Some(6.5))
        );
        assert_eq!(request.sampler.as_deref(), Some("dpmpp_2m"));
        assert_eq!(request.schedule.as_deref(), Some("karras"));
        assert_eq!(request.generator.as_deref(), Some("torch"));
        assert_eq!(recipe.model.unwrap().name, "Dreamshaper 8");
        let lora = NamedLora {
            name: "snow".into(),
            unet: 0.75,
            text: 0.75,
        };
        assert_eq!(recipe.loras, [lora]);
        let unmatched: Vec<String> = recipe.unmatched.iter().map(ToString::to_string).collect();
        assert_eq!(
            unmatched,
            ["the autoencoder `sd-vae-ft-mse`; give it with `--vae`"]
        );
    }

    #[test]
    fn what_release_3_wrote_is_read_too_and_what_is_not_known_is_listed() {
        let recipe = read(
            r#"{"positive_prompt": "a fox", "seed": 1, "steps": 9, "scheduler": "sorcery", "rand_device": "cuda",
                "generation_mode": "sdxl_img2img", "strength": 0.6, "init_image": "x.png", "seamless_x": true,
                "model": {"model_name": "sdxl", "base_model": "sdxl", "model_type": "main"},
                "loras": [{"lora": {"model_name": "ice", "base_model": "sdxl"}, "weight": 1}, {"weight": 2}],
                "controlnets": [{"control_model": {"name": "canny"}, "image": {}}]}"#,
        );
        assert_eq!(
            (recipe.model.unwrap().name.as_str(), recipe.loras.len()),
            ("sdxl", 1)
        );
        assert_eq!(recipe.request.strength, Some(0.6));
        assert_eq!(recipe.request.generator.as_deref(), Some("philox"));
        let unmatched: Vec<String> = recipe.unmatched.iter().map(ToString::to_string).collect();
        for words in [
            "`sorcery`",
            "`--init`",
            "`seamless_x: true`",
            "ControlNet `canny`",
            "LoRA without a name",
        ] {
            assert!(
                unmatched.iter().any(|what| what.contains(words)),
                "{words}: {unmatched:?}"
            );
        }
    }

    #[test]
    fn every_sampler_of_the_table_is_one_of_ours() {
        for (theirs, ours) in SAMPLERS {
            assert_eq!(latent_sampling::find(ours).unwrap().name, *ours, "{theirs}");
        }
    }

    #[test]
    fn broken_settings_are_refused_with_the_reason() {
        assert!(super::read("{").unwrap_err().contains("broken"));
        assert!(
            super::read("{\"seed\": 1}")
                .unwrap_err()
                .contains("without a prompt")
        );
        assert!(super::read("[]").is_err());
    }
}

use super::*;

/// ComfyUI's own first graph, with a LoRA, a layer left out and a loaded autoencoder.
const GRAPH: &str = r#"{
    "3": {"inputs": {"seed": 156680208700286, "steps": 20, "cfg": 8, "sampler_name": "dpmpp_2m", "scheduler": "karras",
          "denoise": 1, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
          "class_type": "KSampler", "_meta": {"title": "KSampler"}},
    "4": {"inputs": {"ckpt_name": "sd15\\v1-5-pruned-emaonly.safetensors"}, "class_type": "CheckpointLoaderSimple"},
    "5": {"inputs": {"width": 512, "height": 640, "batch_size": 1}, "class_type": "EmptyLatentImage"},
    "6": {"inputs": {"text": "a fox in a glass bottle", "clip": ["11", 0]}, "class_type": "CLIPTextEncode"},
    "7": {"inputs": {"text": "text, watermark", "clip": ["11", 0]}, "class_type": "CLIPTextEncode"},
    "8": {"inputs": {"samples": ["3", 0], "vae": ["12", 0]}, "class_type": "VAEDecode"},
    "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage"},
    "10": {"inputs": {"lora_name": "snow.safetensors", "strength_model": 0.8, "strength_clip": 0.5, "model": ["4", 0],
           "clip": ["4", 1]}, "class_type": "LoraLoader", "is_changed": [NaN]},
    "11": {"inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}, "class_type": "CLIPSetLastLayer"},
    "12": {"inputs": {"vae_name": "vae-ft-mse.safetensors"}, "class_type": "VAELoader"}}"#;

fn recipe(json: &str) -> Recipe {
    read(json).unwrap_or_else(|reason| panic!("{reason}"))
}

fn said(recipe: &Recipe) -> Vec<String> {
    recipe.unmatched.iter().map(ToString::to_string).collect()
}

#[test]
fn the_first_graph_becomes_a_request() {
    let recipe = recipe(GRAPH);
    let request = &recipe.request;
    assert_eq!(
        (request.prompt.as_str(), request.negative_prompt.as_str()),
        ("a fox in a glass bottle", "text, watermark")
    );
    assert_eq!(
        (request.seeds(), request.steps, request.guidance),
        (vec![156_680_208_700_286], Some(20), Some(8.0))
    );
    assert_eq!((request.width, request.height), (Some(512), Some(640)));
    assert_eq!(
        (request.sampler.as_deref(), request.schedule.as_deref()),
        (Some("dpmpp_2m"), Some("karras"))
    );
    assert_eq!(
        (request.clip_skip, request.generator.as_deref()),
        (Some(1), None)
    );
    assert_eq!(recipe.model.as_ref().unwrap().name, "v1-5-pruned-emaonly");
    let lora = NamedLora {
        name: "snow".into(),
        unet: 0.8,
        text: 0.5,
    };
    assert_eq!(recipe.loras, [lora]);
    assert_eq!(
        said(&recipe),
        ["the autoencoder `vae-ft-mse`; give it with `--vae`"]
    );
}

#[test]
fn a_graph_of_single_nodes_for_noise_guidance_and_levels_is_followed() {
    let recipe = recipe(
        r#"{"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "net.safetensors"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["20", 0], "clip": ["3", 0]}},
            "20": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a fox"}},
            "4": {"class_type": "CFGGuider", "inputs": {"cfg": 5.5, "model": ["1", 0], "positive": ["2", 0], "negative": ["21", 0]}},
            "21": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
            "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
            "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
            "7": {"class_type": "BasicScheduler", "inputs": {"scheduler": "beta", "steps": 9, "denoise": 1, "model": ["1", 0]}},
            "8": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 96, "batch_size": 2}},
            "9": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["5", 0], "guider": ["4", 0], "sampler": ["6", 0],
                  "sigmas": ["7", 0], "latent_image": ["8", 0]}}}"#,
    );
    let request = &recipe.request;
    assert_eq!(
        (request.prompt.as_str(), request.seeds(), request.steps),
        ("a fox", vec![7], Some(9))
    );
    assert_eq!(
        (request.guidance, request.width, request.height),
        (Some(5.5), Some(64), Some(96))
    );
    // ComfyUI's `beta` is another one than A1111's and diffusers'.
    assert_eq!(
        (request.sampler.as_deref(), request.schedule.as_deref()),
        (Some("euler"), Some("beta_timesteps"))
    );
    assert_eq!(request.force_zeros_for_empty_prompt, Some(false));
    assert!(
        said(&recipe)[0].contains("which of 2 pictures"),
        "{:?}",
        said(&recipe)
    );
}

#[test]
fn of_two_samplers_the_first_is_drawn_and_what_follows_is_said() {
    let second = r#""3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 5, "cfg": 2, "sampler_name": "euler",
        "scheduler": "simple", "denoise": 0.5, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["33", 0]}}, "33": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["30", 0], "scale_by": 2}},
        "30": "#;
    let recipe = recipe(&GRAPH.replacen("\"3\": ", second, 1));
    assert_eq!(recipe.request.seeds(), [156_680_208_700_286]);
    assert!(
        said(&recipe)
            .iter()
            .any(|what| what.contains("after its first sampler"))
    );
}

#[test]
fn nodes_that_nothing_here_does_are_named() {
    let changed = GRAPH
        .replace(
            "\"class_type\": \"EmptyLatentImage\"",
            "\"class_type\": \"VAEEncode\"",
        )
        .replace(
            "\"sampler_name\": \"dpmpp_2m\"",
            "\"sampler_name\": \"sorcery\"",
        )
        .replace(
            "\"class_type\": \"LoraLoader\"",
            "\"class_type\": \"FreeU\"",
        );
    let recipe = recipe(&changed);
    let said = said(&recipe);
    for words in ["`sorcery`", "`FreeU`", "`--init`"] {
        assert!(
            said.iter().any(|what| what.contains(words)),
            "{words}: {said:?}"
        );
    }
    assert_eq!(recipe.request.strength, Some(1.0));
}

#[test]
fn rings_and_loose_ends_are_no_trap() {
    let ring = r#"{"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["1", 0], "negative": ["2", 0],
        "latent_image": ["1", 0], "seed": ["3", 0]}}, "2": {"class_type": "Reroute", "inputs": {"": ["2", 0]}},
        "3": {"class_type": "PrimitiveInt", "inputs": {"value": ["3", 0]}}, "4": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}}}"#;
    assert!(recipe(ring).request.seeds.is_empty());
    assert!(read("{}").unwrap_err().contains("KSampler"));
    assert!(read(r#"{"1": 5, "2": {"class_type": "Note"}}"#).is_err());
    assert!(read("[1]").is_err() && read("{\"a\"").is_err());
    let deep = "[".repeat(100_000);
    assert!(read(&deep).is_err());
}

#[test]
fn words_that_json_does_not_have_become_null_outside_of_texts_only() {
    assert_eq!(
        without_nan(r#"[NaN, "NaN \" NaN", -Infinity, "\\", Infinity]"#),
        r#"[null, "NaN \" NaN", null, "\\", null]"#
    );
    assert_eq!(without_nan("\"\\"), "\"\\");
}

#[test]
fn a_node_that_changes_what_the_model_predicts_is_not_passed_over() {
    let graph = GRAPH
        .replacen("\"model\": [\"10\", 0]", "\"model\": [\"20\", 0]", 1)
        .trim_end_matches('}')
        .to_owned()
        + r#"}, "20": {"inputs": {"model": ["10", 0], "sampling": "v_prediction", "zsnr": true},
           "class_type": "ModelSamplingDiscrete"}}"#;
    let recipe = recipe(&graph);
    let said = said(&recipe);
    assert!(
        said.iter()
            .any(|what| what.contains("ModelSamplingDiscrete")),
        "{said:?}"
    );
    assert_eq!(recipe.loras.len(), 1);
}

#[test]
fn nodes_and_names_of_samplers_that_guide_become_guidance() {
    let graph = GRAPH
        .replace("dpmpp_2m", "euler_ancestral_cfg_pp")
        .replace("\"model\": [\"10\", 0], \"positive\"", "\"model\": [\"20\", 0], \"positive\"")
        .replace("\"negative\": [\"7\", 0]", "\"negative\": [\"22\", 0]")
        .replacen('{', r#"{"20": {"inputs": {"scale": 2.5, "model": ["21", 0]}, "class_type": "PerturbedAttentionGuidance"},
            "21": {"inputs": {"mimic_scale": 6, "threshold_percentile": 0.99, "model": ["10", 0]},
                   "class_type": "DynamicThresholdingSimple"},
            "22": {"inputs": {"conditioning": ["6", 0]}, "class_type": "ConditioningZeroOut"},"#, 1);
    let recipe = recipe(&graph);
    let request = &recipe.request;
    assert_eq!(
        (request.sampler.as_deref(), request.guidance_method),
        (Some("euler_ancestral"), Method::CfgPlusPlus)
    );
    assert_eq!(request.pag.as_ref().map(|pag| pag.scale), Some(2.5));
    let held = request.thresholding.expect("thresholding");
    assert_eq!((held.mimic, held.percentile), (Some(6.0), 0.99));
    assert_eq!(request.force_zeros_for_empty_prompt, Some(true));
    assert_eq!(request.negative_prompt, "");
    assert_eq!(said(&recipe).len(), 1, "{:?}", said(&recipe));
}

//! Settings of other tools' pictures, from files that their own libraries wrote (`tools/make_tool_pictures.py`).

use std::path::{Path, PathBuf};

use latent::sampling::Compat;
use latent::{NamedLora, Picture, Recipe, Request, Tool};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tool-pictures")
        .join(name)
}

fn recipe(name: &str) -> Recipe {
    let path = fixture(name);
    Recipe::read(&Picture::open(&path).expect("a picture"), &path).expect("settings")
}

/// What all of them ask for.
fn common(prompt: &str, negative: &str) -> Request {
    Request {
        steps: Some(4),
        ..Request::new(prompt).negative_prompt(negative).size(64, 96)
    }
}

#[test]
fn a1111_says_the_same_in_png_jpeg_and_webp() {
    for name in ["a1111.png", "a1111.jpg", "a1111.webp"] {
        let recipe = recipe(name);
        let expected = Request {
            clip_skip: Some(1),
            compat: Compat::A1111,
            ..common("a red fox in the snow, 빨간 여우", "blurry, lowres")
                .seed(3_141_592_653)
                .guidance(6.5)
                .sampler("DPM++ 2M")
                .schedule("karras")
                .generator("philox")
        };
        assert_eq!(
            (recipe.tool, &recipe.request),
            (Tool::A1111, &expected),
            "{name}"
        );
        let model = recipe.model.expect("a model");
        assert_eq!(model.name, "v1-5-pruned-emaonly", "{name}");
        assert_eq!(model.hash.as_deref(), Some("6ce0161689"), "{name}");
        assert!(
            recipe.unmatched.is_empty(),
            "{name}: {:?}",
            recipe.unmatched
        );
    }
}

#[test]
fn comfyui_says_the_same_in_png_and_webp() {
    for name in ["comfyui.png", "comfyui.webp"] {
        let recipe = recipe(name);
        let expected = Request {
            compat: Compat::ComfyUi,
            ..common("a red fox, 빨간 여우", "blurry")
                .seed(156_680_208_700_286)
                .guidance(8.0)
                .sampler("euler_ancestral")
                .schedule("normal")
        };
        assert_eq!(
            (recipe.tool, &recipe.request),
            (Tool::ComfyUi, &expected),
            "{name}"
        );
        assert_eq!(recipe.model.expect("a model").name, "v1-5-pruned-emaonly");
        assert!(
            recipe.unmatched.is_empty(),
            "{name}: {:?}",
            recipe.unmatched
        );
    }
}

#[test]
fn invokeai_is_read() {
    let recipe = recipe("invokeai.png");
    let expected = common("a red fox, 빨간 여우", "blurry")
        .seed(4_294_967_295)
        .guidance(6.5)
        .sampler("dpmpp_2m")
        .schedule("karras")
        .generator("torch");
    assert_eq!((recipe.tool, &recipe.request), (Tool::InvokeAi, &expected));
    assert_eq!(recipe.model.expect("a model").name, "Stable Diffusion 1.5");
    let snow = NamedLora {
        name: "snow".into(),
        unet: 0.75,
        text: 0.75,
    };
    assert_eq!(recipe.loras, [snow]);
}

#[test]
fn a_picture_without_settings_and_one_of_an_unknown_tool_are_refused_by_name() {
    let read = |key: &str, text: &str| {
        let mut picture = Picture::filled(8, 8, [9; 3]).expect("a picture");
        picture.set_text(key, text);
        let error = Recipe::read(&picture, Path::new("a.png")).expect_err("no settings");
        error.to_string()
    };
    let none = read("comment", "hello");
    assert!(
        none.contains("`a.png`: it holds no settings") && none.contains("; services"),
        "{none}"
    );
    let other = read("parameters", r#"{"sui_image_params": {"prompt": "a fox"}}"#);
    assert!(other.contains("not known here"), "{other}");
    let broken = read("prompt", "{\"1\": ");
    assert!(broken.contains("broken"), "{broken}");
}

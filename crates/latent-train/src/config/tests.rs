//! The committed configs, and what is said of broken ones.

use super::*;

/// A committed config's text.
fn committed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../configs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is said of a committed diffusion config with `from` replaced by `to`.
fn fault(from: &str, to: &str) -> String {
    let text = committed("diffusion.toml");
    assert!(text.contains(from), "the config has `{from}`");
    let text = text.replacen(from, to, 1);
    let line = text[..text.find(to).unwrap_or(0)].lines().count();
    let error = DiffusionConfig::parse(&text, Path::new("x.toml"))
        .expect_err("refused")
        .to_string();
    // Replaced lines begin a line of their own, so the count of lines before them is one less than theirs.
    let place = error.strip_prefix("x.toml:").unwrap_or("none");
    let found: usize = place
        .split(':')
        .next()
        .and_then(|line| line.parse().ok())
        .unwrap_or(0);
    assert!(
        found.abs_diff(line) <= 1,
        "line {found} of {error} should be about {line}"
    );
    error
}

#[test]
fn every_committed_config_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut read = 0;
    for entry in std::fs::read_dir(&folder).expect("configs/") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_string();
        let result = match name.rsplit('-').next() {
            Some("autoencoder") => AutoencoderConfig::read(&path).map(|_| ()),
            Some("diffusion") => DiffusionConfig::read(&path).map(|_| ()),
            Some("encoder" | "judge") => TextEncoderConfig::read(&path).map(|_| ()),
            Some("lora") => LoraConfig::read(&path).map(|_| ()),
            _ => panic!("{name}: the name's end says the stage"),
        };
        result.unwrap_or_else(|error| panic!("{error}"));
        read += 1;
    }
    assert!(read >= 4);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_what_is_known() {
    let error = fault("batch = 384", "batches = 32");
    assert!(
        error.contains("unknown field `batches`") && error.contains("`batch`"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_of_the_model_is_refused_with_its_line() {
    let error = fault("layers_per_block = 2", "layers_per_blok = 2");
    assert!(error.contains("layers_per_blok"), "{error}");
}

#[test]
fn a_missing_key_is_named() {
    let text = committed("diffusion.toml");
    let line = text
        .lines()
        .find(|line| line.starts_with("steps = "))
        .expect("the line");
    let text = text.replacen(&format!("{line}\n"), "", 1);
    let error = DiffusionConfig::parse(&text, Path::new("x.toml"))
        .expect_err("refused")
        .to_string();
    assert!(error.contains("missing field `steps`"), "{error}");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
    let error = fault("batch = 384", "batch = \"many\"");
    assert!(error.contains("invalid type"), "{error}");
}

#[test]
fn values_that_cannot_work_are_refused_with_key_and_line() {
    for (from, to, words) in [
        ("batch = 384", "batch = 0", "`run.batch` must be at least 1"),
        ("size = 128", "size = 4", "`data.size` is 4"),
        ("shift = 4", "shift = 64", "`augment.shift` is 64"),
        (
            "caption_dropout = 0.1",
            "caption_dropout = 1.5",
            "`caption_dropout` must lie between 0 and 1",
        ),
        (
            "prediction = \"v_prediction\"",
            "prediction = \"epsilon\"",
            "pure noise",
        ),
    ] {
        let text = committed("diffusion.toml").replacen(from, to, 1);
        let error = DiffusionConfig::parse(&text, Path::new("x.toml"))
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains(words) && error.starts_with("x.toml:"),
            "{error}"
        );
    }
}

#[test]
fn an_autoencoder_needs_exactly_one_model_table() {
    let text = committed("autoencoder.toml") + "\n[simple]\n";
    let error = AutoencoderConfig::parse(&text, Path::new("x.toml"))
        .expect_err("refused")
        .to_string();
    assert!(error.contains("exactly one of these tables"), "{error}");
}

#[test]
fn a_perceptual_loss_needs_its_network() {
    let text = committed("autoencoder.toml").replacen("[loss]", "[loss]\nperceptual = 0.1", 1);
    let error = AutoencoderConfig::parse(&text, Path::new("x.toml"))
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("`loss.perceptual` needs `image_tower`"),
        "{error}"
    );
}

#[test]
fn a_unet_that_is_told_what_no_data_set_holds_is_refused() {
    for (key, more) in [
        (
            "addition_embed_type",
            "addition_embed_type = \"text_time\"\naddition_time_embed_dim = 4\n\
             projection_class_embeddings_input_dim = 30",
        ),
        ("time_cond_proj_dim", "time_cond_proj_dim = 8"),
    ] {
        let text = committed("diffusion.toml");
        let text = text.replacen("[unet]", &format!("[unet]\n{more}"), 1);
        let error = DiffusionConfig::parse(&text, Path::new("x.toml")).expect_err("refused");
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn opposites_that_no_caption_can_be_told_by_are_refused() {
    let text = committed("text-encoder.toml");
    for to in [
        "[\"left side\", \"right\"]",
        "[\"left,\", \"right\"]",
        "[\"left\", \"red\"]",
    ] {
        assert!(text.contains("[\"left\", \"right\"]"));
        let text = text.replacen("[\"left\", \"right\"]", to, 1);
        let error = TextEncoderConfig::parse(&text, Path::new("x.toml")).expect_err("refused");
        assert!(error.to_string().contains("each in one group"), "{error}");
    }
}

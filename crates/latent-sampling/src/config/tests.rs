use serde_json::json;

use super::*;

fn read(value: Value) -> Result<SchedulerConfig, SamplingError> {
    SchedulerConfig::from_json(&value)
}

fn sentence(value: Value) -> String {
    read(value).unwrap_err().to_string()
}

#[test]
fn a_misspelt_key_is_refused_and_named() {
    let text = sentence(json!({"_class_name": "DDIMScheduler", "beta_strat": 0.1}));
    assert!(text.contains("`beta_strat`"), "{text}");
}

#[test]
fn an_unknown_value_is_refused_with_the_choices() {
    let text = sentence(json!({"_class_name": "DDIMScheduler", "beta_schedule": "laplace"}));
    assert!(
        text.contains("`beta_schedule`")
            && text.contains("laplace")
            && text.contains("scaled_linear"),
        "{text}"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_even_where_the_class_does_not_read_the_key() {
    let text = sentence(json!({"_class_name": "DDIMScheduler", "use_karras_sigmas": "yes"}));
    assert!(
        text.contains("`use_karras_sigmas`") && text.contains("true or false"),
        "{text}"
    );
}

#[test]
fn a_missing_or_unknown_class_is_refused() {
    assert_eq!(
        read(json!({"beta_start": 0.1})),
        Err(SamplingError::NoClass)
    );
    assert_eq!(read(json!([1, 2])), Err(SamplingError::NoClass));
    let text = sentence(json!({"_class_name": "DDIMScheduer"}));
    assert!(
        text.contains("`DDIMScheduer`") && text.contains("`DDIMScheduler`"),
        "{text}"
    );
}

#[test]
fn text_that_is_not_json_is_refused_with_its_line() {
    let text = SchedulerConfig::from_text("{\n \"_class_name\": }")
        .unwrap_err()
        .to_string();
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn numbers_that_make_no_schedule_are_refused() {
    let cases = [
        ("beta_start", json!(0.0)),
        ("beta_end", json!(1.5)),
        ("num_train_timesteps", json!(1)),
        ("num_train_timesteps", json!(-5)),
        ("solver_order", json!(4)),
        ("flow_shift", json!(0)),
        ("trained_betas", json!([0.1, 0.2])),
        ("dynamic_thresholding_ratio", json!(2)),
        ("steps_offset", json!(1.5)),
    ];
    for (key, value) in cases {
        let text = sentence(json!({"_class_name": "DPMSolverMultistepScheduler", key: value}));
        assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
    }
}

#[test]
fn two_spacings_at_once_are_refused() {
    let text = sentence(
        json!({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "use_beta_sigmas": true}),
    );
    assert!(text.contains("`use_karras_sigmas`"), "{text}");
}

#[test]
fn noise_prediction_that_should_end_at_no_noise_is_refused() {
    let text = sentence(
        json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}),
    );
    assert!(text.contains("`final_sigmas_type`"), "{text}");
}

/// The config that ships with the first Stable Diffusion models: it states a key of another class and leaves out
/// what did not exist when it was written.
#[test]
fn a_published_config_with_a_key_of_another_class_is_read() {
    let config = SchedulerConfig::from_text(
        r#"{ "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "trained_betas": null, "clip_sample": false }"#,
    )
    .unwrap();
    let settings = config.settings();
    assert_eq!(settings.timestep_spacing, TimestepSpacing::Leading);
    assert_eq!(
        (
            settings.steps_offset,
            settings.skip_prk_steps,
            settings.prediction_type
        ),
        (1, true, Prediction::Epsilon)
    );
}

#[test]
fn a_bare_infinity_is_read_and_written_as_python_does() {
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "_name_or_path": "a \"-Infinity\" b"}"#;
    let config = SchedulerConfig::from_text(text).unwrap();
    assert_eq!(config.settings().lambda_min_clipped, f64::NEG_INFINITY);
    assert!(
        config
            .to_text()
            .contains("\"lambda_min_clipped\": -Infinity"),
        "{}",
        config.to_text()
    );
    assert_eq!(
        SchedulerConfig::from_text(&config.to_text()).unwrap(),
        config
    );
}

#[test]
fn every_class_reads_back_the_json_it_writes() {
    for (name, class) in Class::ALL {
        let config = SchedulerConfig::new(*class)
            .with("num_train_timesteps", 500)
            .unwrap();
        assert_eq!(
            SchedulerConfig::from_json(&config.to_json()).unwrap(),
            config,
            "{name}"
        );
        assert_eq!(config.settings().num_train_timesteps, 500, "{name}");
    }
}

#[test]
fn every_key_that_a_class_reads_has_a_row() {
    for key in [
        "beta_start",
        "thresholding",
        "clip_sample",
        "use_karras_sigmas",
        "solver_order",
        "sigma_data",
        "shift",
    ] {
        assert!(
            Class::ALL.iter().any(|(_, class)| class.reads(key)),
            "{key} is read by no class"
        );
    }
    for (name, class) in Class::ALL {
        for key in class.all_keys() {
            assert!(
                keys::find(key).is_ok(),
                "{name} reads `{key}`, which has no row"
            );
        }
    }
}

#[test]
fn a_key_waits_for_a_class_that_reads_it() {
    let ddim = SchedulerConfig::from_text(
        r#"{"_class_name": "DDIMScheduler", "use_karras_sigmas": true}"#,
    )
    .unwrap();
    assert!(!ddim.settings().use_karras_sigmas);
    assert!(ddim.of_class(Class::Euler).settings().use_karras_sigmas);
}

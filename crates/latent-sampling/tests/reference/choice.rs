//! A sampler chosen by name for a loaded model, against the schedulers that Python's runs of that model used.

use latent_sampling::{SchedulerConfig, TimestepSpacing, find};
use serde_json::Value;

use crate::fixture::path;

#[test]
fn a_name_alone_gives_the_settings_of_the_python_runs() {
    let text = std::fs::read_to_string(path("sd1_samplers.json")).unwrap();
    let json: Value = serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\"")).unwrap();
    let folder = SchedulerConfig::from_json(&json["folder"]).unwrap();
    let runs = json["samplers"].as_object().unwrap();
    assert_eq!(runs.len(), 14);
    for (name, run) in runs {
        let mut stated = run["config"].clone();
        stated["_class_name"] = run["class"].clone();
        let expected = SchedulerConfig::from_json(&stated).unwrap();
        let found = find(name).unwrap().configure(&folder).unwrap();
        assert_eq!(found.class(), expected.class(), "{name}");
        let (mut found, expected) = (found.settings(), expected.settings());
        if name == "lcm" {
            // Its last step ends at clean latents, so that this key changes nothing.
            found.set_alpha_to_one = expected.set_alpha_to_one;
        }
        if expected.timestep_spacing != TimestepSpacing::Leading {
            // An offset moves leading timesteps only.
            found.steps_offset = expected.steps_offset;
        }
        assert_eq!(found, expected, "{name}");
    }
}

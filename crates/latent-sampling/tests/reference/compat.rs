//! What names mean by the rules of A1111 and ComfyUI, against their published definitions
//! (`tools/make_compat_values.py`).

use latent_sampling::{
    Compat, GeneratorKind, NoiseSource, PhiloxGenerator, Plan, RunOptions, SolverType,
    TorchGenerator, choose, choose_as, sampler_of,
};
use serde_json::Value;

use crate::fixture::path;
use crate::papers::{numbers, stable_diffusion};

/// Every second of what second-order samplers double.
fn levels(plan: &Plan, second_order: bool) -> (Vec<f64>, Vec<f64>) {
    let sampled = plan.timesteps.len() - plan.first;
    let times = &plan.timesteps[plan.first..];
    if !second_order {
        return (plan.sigmas[plan.first..].to_vec(), times.to_vec());
    }
    // Calls 0, 2, 4 ... lie at the levels of the schedule.
    assert_eq!(sampled % 2, 1, "the last step is one call");
    (Vec::new(), times.iter().copied().step_by(2).collect())
}

#[test]
fn levels_timesteps_and_first_noise_are_those_of_each_program() {
    let text = std::fs::read_to_string(path("samplers/compat.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    for case in &cases {
        let name = |key: &str| case[key].as_str();
        let compats = Compat::ALL.iter();
        let (_, compat) = *compats
            .clone()
            .find(|(known, _)| name("compat") == Some(known))
            .unwrap();
        let choice = choose_as(
            compat,
            &stable_diffusion(),
            name("sampler"),
            name("schedule"),
        )
        .unwrap();
        let mut options = RunOptions::new(case["steps"].as_u64().unwrap() as usize);
        (options.schedule, options.compat) = (choice.schedule, compat);
        let plan = match case["strength"].as_f64() {
            Some(strength) => Plan::for_picture(&choice.config, &options, strength),
            None => Plan::new(&choice.config, &options),
        };
        let plan = plan.unwrap();
        let (sigmas, times) = levels(&plan, case["calls_per_step"] == 2);
        let expected = numbers(&case["sigmas"]);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
        let same = |found: &[f64], expected: &[f64], off: f64| {
            let pairs = found.iter().zip(expected);
            found.len() == expected.len()
                && pairs
                    .clone()
                    .all(|(a, b)| near(*a, *b) || (a - b).abs() <= off)
        };
        assert!(
            sigmas.is_empty() || same(&sigmas, &expected, 0.0),
            "{case}: {sigmas:?}"
        );
        // The table is of f32 here, and its logarithms decide the digits behind the point.
        assert!(
            same(&times, &numbers(&case["timesteps"]), 0.01),
            "{case}: {times:?}"
        );
        if case["strength"].is_null() {
            // Solvers in the variance-preserving view start at that many parts of 1.
            let on_alpha = plan.init_noise_sigma <= 1.0 + 1e-9;
            let scale = if on_alpha {
                1.0_f64.hypot(expected[0])
            } else {
                1.0
            };
            let found = plan.init_noise_sigma * scale;
            assert!(
                near(found, case["first_noise"].as_f64().unwrap()),
                "{case}: {found}"
            );
        }
    }
    assert_eq!(cases.len(), 22);
}

fn row_and_schedule(
    compat: Compat,
    sampler: &str,
    schedule: Option<&str>,
) -> (&'static str, &'static str) {
    let choice = choose_as(compat, &stable_diffusion(), Some(sampler), schedule).unwrap();
    let row = sampler_of(&choice.config).name;
    (row, choice.schedule.map_or("", |schedule| schedule.name))
}

#[test]
fn one_name_means_what_its_program_means() {
    use Compat::{A1111, ComfyUi};
    let of = row_and_schedule;
    assert_eq!(of(A1111, "DPM++ 2M Karras", None), ("dpmpp_2m", "karras"));
    assert_eq!(
        of(A1111, "DPM++ 2M SDE", None),
        ("dpmpp_2m_sde_bt", "exponential")
    );
    assert_eq!(
        of(A1111, "DPM++ 2M SDE Karras", None),
        ("dpmpp_2m_sde_bt", "karras")
    );
    assert_eq!(
        of(A1111, "Restart", Some("Automatic")),
        ("restart", "karras")
    );
    assert_eq!(
        of(A1111, "Euler a", Some("SGM Uniform")),
        ("euler_a", "sgm_uniform")
    );
    assert_eq!(of(A1111, "DDIM", None), ("ddim", ""));
    assert_eq!(of(A1111, "Euler", Some("Beta")), ("euler", "beta"));
    assert_eq!(of(ComfyUi, "ddim", None), ("euler", "normal"));
    assert_eq!(
        of(ComfyUi, "euler", Some("beta")),
        ("euler", "beta_timesteps")
    );
    assert_eq!(
        of(ComfyUi, "dpmpp_2m_sde", Some("karras")),
        ("dpmpp_2m_sde_bt", "karras")
    );
    let folder = stable_diffusion();
    let solver = |name: &str| {
        let choice = choose_as(ComfyUi, &folder, Some(name), None).unwrap();
        let settings = choice.config.settings();
        (settings.solver_order, settings.solver_type)
    };
    assert_eq!(solver("uni_pc"), (3, SolverType::Bh1));
    assert_eq!(solver("uni_pc_bh2"), (3, SolverType::Bh2));
    // A schedule of diffusers alone is its key for every program; without names the folder's own scheduler stays.
    assert_eq!(of(A1111, "ddim", Some("trailing")), ("ddim", ""));
    let kept = choose_as(A1111, &folder, None, None).unwrap();
    assert_eq!(sampler_of(&kept.config).name, "pndm");
    for name in ["DPM++ 2M Karras", "ddim", "Euler a"] {
        let plain = choose(&folder, Some(name), None).unwrap();
        assert_eq!(
            choose_as(Compat::Diffusers, &folder, Some(name), None).unwrap(),
            plain
        );
    }
}

#[test]
fn a_second_pass_does_the_steps_that_were_asked_for() {
    for (compat, done, strength) in [
        (Compat::A1111, 20, 0.7),
        (Compat::A1111, 10, 0.5),
        (Compat::A1111, 7, 1.0),
        (Compat::ComfyUi, 20, 0.7),
        (Compat::Diffusers, 20, 0.7),
    ] {
        let choice = choose_as(compat, &stable_diffusion(), Some("euler"), None).unwrap();
        let (steps, asked) = Plan::second_pass(&choice.config, compat, done, strength).unwrap();
        if compat == Compat::A1111 {
            assert_eq!(steps, (done as f64 / strength.min(0.999)) as usize);
        }
        let mut options = RunOptions::new(steps);
        (options.schedule, options.compat) = (choice.schedule, compat);
        let plan = Plan::for_picture(&choice.config, &options, asked).unwrap();
        assert_eq!(plan.calls(), done, "{compat:?} {strength}");
    }
}

#[test]
fn pictures_of_a_comfyui_batch_divide_its_noise_among_them() {
    let n = 36; // torch rewrites its tail across pictures
    let whole = TorchGenerator::new(7).randn(3 * n);
    let mut gpu = PhiloxGenerator::new(7);
    let later = [gpu.randn(3 * n), gpu.randn(3 * n)];
    for place in 0..3 {
        let source = NoiseSource {
            kind: GeneratorKind::ComfyUi,
            place,
            of: 3,
        };
        let mut picture = source.start(7);
        let own = place * n..(place + 1) * n;
        assert_eq!(picture.randn(n), whole[own.clone()]);
        assert_eq!(picture.randn(n), later[0][own.clone()]);
        assert_eq!(picture.randn(n), later[1][own]);
    }
}

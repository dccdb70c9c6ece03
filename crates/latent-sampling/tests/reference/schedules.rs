//! Every schedule against its definition (`tools/make_sampler_values.py`), and what names of schedules mean.

use latent_sampling::{
    Plan, RunOptions, SAMPLERS, SCHEDULES, SamplingError, SchedulerConfig, SigmaSpacing,
    TimestepSpacing, choose, find, find_schedule, sampler_of,
};

use crate::papers::{numbers, stable_diffusion, values};

#[test]
fn every_schedule_of_levels_has_its_published_values() {
    let json = values();
    let schedules = json["schedules"].as_object().unwrap();
    let config = find("euler")
        .unwrap()
        .configure(&stable_diffusion())
        .unwrap();
    for (name, by_steps) in schedules {
        for (steps, expected) in by_steps.as_object().unwrap() {
            let mut options = RunOptions::new(steps.parse().unwrap());
            options.schedule = Some(find_schedule(name).unwrap());
            let plan = Plan::new(&config, &options).unwrap();
            let mut expected = numbers(expected);
            expected.push(0.0);
            assert_eq!(plan.sigmas.len(), expected.len(), "{name} in {steps} steps");
            for (found, expected) in plan.sigmas.iter().zip(&expected) {
                // The model's table is of f32, the script's of f64.
                let near = (found - expected).abs() <= 1e-4 * expected;
                assert!(near, "{name} in {steps} steps: {found} is not {expected}");
            }
        }
    }
    // The rows that have no levels of their own are keys of diffusers, whose fixtures hold them.
    let without = SCHEDULES
        .iter()
        .filter(|row| !schedules.contains_key(row.name));
    let names: Vec<&str> = without.map(|row| row.name).collect();
    assert_eq!(
        names,
        [
            "lu",
            "linspace",
            "leading",
            "trailing",
            "zero_snr",
            "automatic"
        ]
    );
}

#[test]
fn a_schedule_with_a_key_of_diffusers_is_stated_by_it() {
    let folder = stable_diffusion();
    let spacing = |schedule: &str| {
        let choice = choose(&folder, Some("dpmpp_2m"), Some(schedule)).unwrap();
        assert_eq!(choice.schedule, None);
        choice.config.settings()
    };
    assert_eq!(spacing("karras").sigma_spacing(), SigmaSpacing::Karras);
    assert_eq!(
        spacing("Exponential").sigma_spacing(),
        SigmaSpacing::Exponential
    );
    assert_eq!(spacing("beta").sigma_spacing(), SigmaSpacing::Beta);
    assert_eq!(spacing("lu").sigma_spacing(), SigmaSpacing::Lu);
    assert_eq!(
        spacing("leading").timestep_spacing,
        TimestepSpacing::Leading
    );
    let zero = spacing("zero_snr");
    assert!(zero.rescale_betas_zero_snr && zero.timestep_spacing == TimestepSpacing::Trailing);
}

#[test]
fn a_schedule_given_by_itself_takes_the_place_of_the_one_in_the_samplers_name() {
    let choice = choose(&stable_diffusion(), Some("DPM++ 2M Karras"), Some("simple")).unwrap();
    assert_eq!(choice.schedule.map(|row| row.name), Some("simple"));
    assert_eq!(sampler_of(&choice.config).name, "dpmpp_2m");
    let joined = choose(&stable_diffusion(), Some("Euler a Karras"), None).unwrap();
    assert_eq!(joined.schedule.map(|row| row.name), Some("karras"));
    assert_eq!(joined.named, joined.schedule);
    let said = choose(&stable_diffusion(), Some("dpmpp_2m"), Some("karras")).unwrap();
    assert_eq!((said.schedule, said.named), (None, None));
    let key = choose(&stable_diffusion(), Some("dpmpp_2m"), Some("beta")).unwrap();
    assert_eq!(key.named.map(|row| row.name), Some("beta"));
    let kept = choose(
        &stable_diffusion(),
        Some("dpmpp_2m_karras"),
        Some("Automatic"),
    )
    .unwrap();
    assert_eq!(sampler_of(&kept.config).name, "dpmpp_2m_karras");
    let alone = choose(&stable_diffusion(), None, Some("trailing")).unwrap();
    assert_eq!(sampler_of(&alone.config).name, "pndm");
}

#[test]
fn a_schedule_that_a_sampler_cannot_walk_on_is_refused_with_those_it_can() {
    let refused = |folder: &SchedulerConfig, sampler, schedule| {
        let error = choose(folder, Some(sampler), Some(schedule)).unwrap_err();
        assert!(
            matches!(error, SamplingError::NoSuchSchedule { .. }),
            "{error}"
        );
        error.to_string()
    };
    let text = refused(&stable_diffusion(), "ddim", "simple");
    assert!(
        text.contains("`trailing`") && !text.contains("`karras`"),
        "{text}"
    );
    let flow = SchedulerConfig::from_text(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#);
    let text = refused(&flow.unwrap(), "dpmpp_2m", "simple");
    assert!(text.contains("`automatic`"), "{text}");
    let mut options = RunOptions::new(4);
    options.schedule = Some(find_schedule("simple").unwrap());
    let error = Plan::new(&stable_diffusion(), &options).unwrap_err();
    assert!(
        matches!(error, SamplingError::NoSuchSchedule { .. }),
        "{error}"
    );
    options.schedule = None;
    options.rho = Some(2.0);
    let error = Plan::new(&stable_diffusion(), &options).unwrap_err();
    assert!(error.to_string().contains("polyexponential"), "{error}");
}

#[test]
fn every_pair_that_fits_makes_a_finite_falling_plan_of_any_length() {
    for row in SAMPLERS {
        let folder = SchedulerConfig::new(row.class)
            .with("skip_prk_steps", true)
            .unwrap();
        for schedule in SCHEDULES.iter().filter(|schedule| schedule.fits(row)) {
            let choice = choose(&folder, Some(row.name), Some(schedule.name)).unwrap();
            for steps in [1, 2, 3, 7, 20, 50] {
                let mut options = RunOptions::new(steps);
                options.schedule = choice.schedule;
                let Ok(plan) = Plan::new(&choice.config, &options) else {
                    // An epsilon model has no signal to read at a zero-terminal end.
                    assert_eq!(schedule.name, "zero_snr", "{}", row.name);
                    continue;
                };
                let what = format!(
                    "{} on {} in {steps} steps: {plan:?}",
                    row.name, schedule.name
                );
                assert!(
                    plan.timesteps
                        .iter()
                        .chain(&plan.sigmas)
                        .all(|v| v.is_finite()),
                    "{what}"
                );
                let rises = plan
                    .sigmas
                    .windows(2)
                    .filter(|pair| pair[1] > pair[0])
                    .count();
                assert!(rises == 0 || row.name == "restart", "{what}");
            }
        }
    }
}

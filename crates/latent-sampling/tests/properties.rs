//! What holds for every row of the table and every number of steps.

use latent_sampling::{
    Churn, Class, Denoiser, Latents, Plan, RunOptions, SAMPLERS, Sampler, SamplingError,
    SchedulerConfig, Start, StepReport, Stopped, TorchGenerator, find, sample, sampler_of,
};
use proptest::prelude::*;

/// A smooth, bounded answer to anything, with a generator per picture.
struct Smooth {
    generators: Vec<TorchGenerator>,
    calls: usize,
    reports: usize,
    stop_at: usize,
}

impl Smooth {
    fn new(seeds: &[u64]) -> Self {
        let generators = seeds
            .iter()
            .map(|seed| TorchGenerator::new(*seed))
            .collect();
        Self {
            generators,
            calls: 0,
            reports: 0,
            stop_at: usize::MAX,
        }
    }
}

impl Denoiser for Smooth {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        assert!(timestep.is_finite());
        self.calls += 1;
        let shift = (timestep / 100.0).sin() as f32;
        Ok(input.mapv(|x| 0.8 * x / (1.0 + 0.1 * x * x).sqrt() + 0.1 * shift))
    }

    fn noise(&mut self, [n, c, h, w]: [usize; 4]) -> Latents {
        assert_eq!(n, self.generators.len());
        let pictures: Vec<Latents> = self
            .generators
            .iter_mut()
            .map(|one| one.randn_latents([1, c, h, w]))
            .collect();
        let views: Vec<_> = pictures.iter().map(|picture| picture.view()).collect();
        ndarray::concatenate(ndarray::Axis(0), &views).unwrap()
    }

    fn report(&mut self, step: StepReport<'_>) -> Result<(), Stopped> {
        assert_eq!(step.index, self.reports);
        assert!(step.index < step.total && step.latents.shape() == step.denoised.shape());
        self.reports += 1;
        if self.reports == self.stop_at {
            Err(Stopped)
        } else {
            Ok(())
        }
    }
}

/// The row on the usual training process of latent diffusion.
fn config(row: &Sampler) -> SchedulerConfig {
    let base = SchedulerConfig::new(row.class);
    // As every published `pndm` model states it; without, its start needs four calls a step.
    row.configure(&base.with("skip_prk_steps", true).unwrap())
        .unwrap()
}

/// Most steps the row takes: distilled models have fifty.
fn most_steps(row: &Sampler) -> usize {
    if matches!(row.class, Class::Lcm | Class::Tcd) {
        50
    } else {
        1000
    }
}

fn run(config: &SchedulerConfig, steps: usize, seeds: &[u64]) -> Result<Latents, SamplingError> {
    let mut network = Smooth::new(seeds);
    let noise = network.noise([seeds.len(), 2, 3, 3]);
    sample(
        config,
        &RunOptions::new(steps),
        Start::Noise(noise),
        &mut network,
    )
}

#[test]
fn every_number_of_steps_has_a_finite_falling_plan() {
    for row in SAMPLERS {
        let config = config(row);
        for steps in 1..=most_steps(row) {
            let plan = Plan::new(&config, &RunOptions::new(steps)).unwrap();
            let what = || format!("{} in {steps} steps: {plan:?}", row.name);
            assert!(
                plan.timesteps
                    .iter()
                    .chain(&plan.sigmas)
                    .all(|value| value.is_finite()),
                "{}",
                what()
            );
            let rises = plan.sigmas.windows(2).filter(|pair| pair[1] > pair[0]);
            // Restart goes up again, twice at most.
            let most = if row.class == Class::Restart { 2 } else { 0 };
            assert!(rises.count() <= most, "{}", what());
            assert!(
                plan.timesteps.len() >= steps && plan.init_noise_sigma > 0.0,
                "{}",
                what()
            );
            // The middle of an ancestral step is its end, up to the f32 difference of two squares it is made of.
            let slack = match row.class {
                Class::Kdpm2Ancestral | Class::Dpmpp2sAncestral => 0.1,
                _ => 0.0,
            };
            assert!(
                most > 0
                    || plan
                        .timesteps
                        .windows(2)
                        .all(|pair| pair[1] <= pair[0] + slack),
                "{}",
                what()
            );
        }
    }
}

#[test]
fn zero_steps_and_more_than_the_model_has_are_refused() {
    for row in SAMPLERS {
        for steps in [0, most_steps(row) + 1, usize::MAX] {
            let error = run(&config(row), steps, &[1]).unwrap_err();
            assert!(
                matches!(error, SamplingError::Steps { .. }),
                "{}: {error}",
                row.name
            );
        }
    }
}

#[test]
fn a_picture_of_a_batch_is_the_picture_drawn_alone() {
    for row in SAMPLERS {
        let together = run(&config(row), 7, &[5, 6, 7]).unwrap();
        let alone = run(&config(row), 7, &[6]).unwrap();
        assert_eq!(
            together.index_axis(ndarray::Axis(0), 1),
            alone.index_axis(ndarray::Axis(0), 0),
            "{}",
            row.name
        );
    }
}

#[test]
fn a_run_that_is_told_to_stop_stops_at_once() {
    for row in SAMPLERS {
        let mut network = Smooth::new(&[1]);
        network.stop_at = 2;
        let noise = network.noise([1, 1, 2, 2]);
        let result = sample(
            &config(row),
            &RunOptions::new(5),
            Start::Noise(noise),
            &mut network,
        );
        assert_eq!(
            (result, network.calls),
            (Err(SamplingError::Stopped), 2),
            "{}",
            row.name
        );
    }
}

#[test]
fn the_plan_says_how_many_calls_and_reports_there_will_be() {
    for row in SAMPLERS {
        for strength in [None, Some(0.5)] {
            let (config, options) = (config(row), RunOptions::new(6));
            let mut network = Smooth::new(&[1]);
            let latents = network.noise([1, 1, 2, 2]);
            let (plan, start) = match strength {
                None => (Plan::new(&config, &options), Start::Noise(latents)),
                Some(strength) => (
                    Plan::for_picture(&config, &options, strength),
                    Start::Picture {
                        clean: latents,
                        strength,
                    },
                ),
            };
            sample(&config, &options, start, &mut network).unwrap();
            let calls = plan.unwrap().calls();
            assert_eq!(
                (network.calls, network.reports),
                (calls, calls),
                "{} {strength:?}",
                row.name
            );
        }
    }
}

#[test]
fn the_weakest_start_is_one_call() {
    for row in SAMPLERS.iter().filter(|row| row.class != Class::Lcm) {
        let plan = Plan::for_picture(&config(row), &RunOptions::new(50), 0.02).unwrap();
        // `pndm` has one call more than steps, and diffusers counts the calls to skip by steps.
        let calls = if row.class == Class::Pndm { 2 } else { 1 };
        assert_eq!(plan.calls(), calls, "{}", row.name);
    }
}

#[test]
fn a_strength_outside_its_range_is_refused() {
    let config = SchedulerConfig::new(Class::Ddim);
    for strength in [0.0, -0.5, 1.01, f64::NAN, 0.01] {
        let error = Plan::for_picture(&config, &RunOptions::new(10), strength).unwrap_err();
        assert!(
            matches!(
                error,
                SamplingError::Option {
                    option: "strength",
                    ..
                }
            ),
            "{strength}: {error}"
        );
    }
}

#[test]
fn an_option_the_sampler_does_not_have_is_refused() {
    let mut options = RunOptions::new(5);
    options.eta = Some(1.0);
    let error = Plan::new(&SchedulerConfig::new(Class::Euler), &options).unwrap_err();
    assert!(
        matches!(
            error,
            SamplingError::NoSuchOption {
                sampler: "euler",
                option: "eta",
                ..
            }
        ),
        "{error}"
    );
    options.eta = Some(f64::NAN);
    let error = Plan::new(&SchedulerConfig::new(Class::Ddim), &options).unwrap_err();
    assert!(
        matches!(error, SamplingError::Option { option: "eta", .. }),
        "{error}"
    );
}

#[test]
fn numbers_that_would_leave_the_finite_are_refused() {
    let mut options = RunOptions::new(5);
    options.churn = Some(Churn {
        strength: -1.0,
        from: 0.0,
        to: 1.0,
        noise: 1.0,
    });
    let error = Plan::new(&SchedulerConfig::new(Class::Euler), &options).unwrap_err();
    assert!(
        matches!(
            error,
            SamplingError::Option {
                option: "churn",
                ..
            }
        ),
        "{error}"
    );
    let dynamic = SchedulerConfig::new(Class::FlowEuler)
        .with("use_dynamic_shifting", true)
        .unwrap();
    let solver = find("dpmpp_2m").unwrap().configure(&dynamic).unwrap();
    for config in [dynamic, solver] {
        for mu in [1e4, f64::NAN, f64::NEG_INFINITY] {
            let mut options = RunOptions::new(5);
            options.mu = Some(mu);
            let error = Plan::new(&config, &options).unwrap_err();
            assert!(
                matches!(error, SamplingError::Option { option: "mu", .. }),
                "{mu}: {error}"
            );
        }
    }
}

#[test]
fn a_network_that_returns_another_shape_is_an_error() {
    struct Wrong;
    impl Denoiser for Wrong {
        fn predict(&mut self, _: &Latents, _: f64) -> Result<Latents, Stopped> {
            Ok(Latents::zeros([1, 8, 2, 2]))
        }
        fn noise(&mut self, shape: [usize; 4]) -> Latents {
            Latents::zeros(shape)
        }
    }
    let start = Start::Noise(Latents::zeros([1, 4, 2, 2]));
    let error = sample(
        &SchedulerConfig::new(Class::Ddim),
        &RunOptions::new(3),
        start,
        &mut Wrong,
    )
    .unwrap_err();
    assert!(error.to_string().contains("[1, 8, 2, 2]"), "{error}");
}

/// Puts known values back in the left half of the latents, as inpainting does.
struct Painter<'a> {
    inner: Smooth,
    plan: &'a Plan,
    known: &'a Latents,
    unit: &'a Latents,
}

impl Denoiser for Painter<'_> {
    fn predict(&mut self, input: &Latents, timestep: f64) -> Result<Latents, Stopped> {
        self.inner.predict(input, timestep)
    }
    fn noise(&mut self, shape: [usize; 4]) -> Latents {
        self.inner.noise(shape)
    }
    fn revise(&mut self, index: usize, latents: &mut Latents) -> Result<(), Stopped> {
        let next = index + 1;
        let level = if next < self.plan.calls() {
            self.plan.noisy(next, self.known, self.unit)
        } else {
            self.known.clone()
        };
        let left = ndarray::s![.., .., .., ..1];
        latents.slice_mut(left).assign(&level.slice(left));
        Ok(())
    }
}

#[test]
fn a_revision_after_every_call_keeps_what_is_not_to_be_painted() {
    for row in SAMPLERS {
        let (config, options) = (config(row), RunOptions::new(6));
        let plan = Plan::new(&config, &options).unwrap();
        let mut inner = Smooth::new(&[3]);
        let (known, unit) = (inner.noise([1, 1, 2, 2]), inner.noise([1, 1, 2, 2]));
        let start = Start::Noise(unit.clone());
        let free = sample(&config, &options, start.clone(), &mut Smooth::new(&[9])).unwrap();
        let mut painter = Painter {
            inner: Smooth::new(&[9]),
            plan: &plan,
            known: &known,
            unit: &unit,
        };
        let painted = sample(&config, &options, start, &mut painter).unwrap();
        for h in 0..2 {
            assert_eq!(painted[[0, 0, h, 0]], known[[0, 0, h, 0]], "{}", row.name);
            // The network of this test treats every value alone, so the other half is as without.
            assert_eq!(painted[[0, 0, h, 1]], free[[0, 0, h, 1]], "{}", row.name);
        }
    }
}

#[test]
fn names_and_aliases_are_unique_and_found() {
    let mut seen = std::collections::HashMap::new();
    for row in SAMPLERS {
        assert!(
            !row.about.is_empty() && !row.source.is_empty(),
            "{}",
            row.name
        );
        for name in row.names() {
            assert_eq!(find(name).unwrap().name, row.name, "{name}");
            let before = seen.insert(name, row.name);
            assert!(
                before.is_none_or(|other| other == row.name),
                "{name} is in two rows"
            );
        }
        assert_eq!(find(row.class.name()).unwrap().class, row.class);
    }
    assert_eq!(find("DPM++ 2M Karras").unwrap().name, "dpmpp_2m_karras");
    assert!(find("eulr").unwrap_err().to_string().contains("`euler`"));
}

#[test]
fn a_configured_model_means_the_row_it_was_configured_by() {
    for row in SAMPLERS {
        assert_eq!(sampler_of(&config(row)).name, row.name);
    }
    for (name, class) in Class::ALL {
        assert_eq!(
            sampler_of(&SchedulerConfig::new(*class)).class,
            *class,
            "{name}"
        );
    }
}

#[test]
fn stated_keys_carry_over_to_another_sampler_and_unstated_ones_take_its_own_default() {
    let folder = SchedulerConfig::from_text(
        r#"{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_schedule": "scaled_linear", "skip_prk_steps": true,
            "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": false}"#,
    )
    .unwrap();
    let ddim = find("ddim").unwrap().configure(&folder).unwrap().settings();
    assert_eq!(
        (ddim.beta_start, ddim.steps_offset, ddim.set_alpha_to_one),
        (0.00085, 1, false)
    );
    assert_eq!((ddim.beta_end, ddim.clip_sample), (0.02, false));
    let dpm = find("dpmpp_2m_karras").unwrap().configure(&folder).unwrap();
    assert_eq!(
        dpm.settings().timestep_spacing,
        latent_sampling::TimestepSpacing::Linspace
    );
    assert!(dpm.settings().use_karras_sigmas);
    // A model that is of the class already keeps what it states.
    let stated = dpm.with("timestep_spacing", "trailing").unwrap();
    let again = find("dpmpp_2m")
        .unwrap()
        .configure(&stated)
        .unwrap()
        .settings();
    assert_eq!(
        again.timestep_spacing,
        latent_sampling::TimestepSpacing::Trailing
    );
}

#[test]
fn a_flow_takes_solvers_that_can_and_refuses_the_others() {
    let folder = SchedulerConfig::from_text(
        r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#,
    )
    .unwrap();
    let solver = find("dpmpp_2m")
        .unwrap()
        .configure(&folder)
        .unwrap()
        .settings();
    assert_eq!((solver.use_flow_sigmas, solver.flow_shift), (true, 3.0));
    let text = find("ddim")
        .unwrap()
        .configure(&folder)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`ddim`") && text.contains("`flow_euler`"),
        "{text}"
    );
}

#[test]
fn an_epsilon_model_without_signal_at_the_end_is_refused() {
    let text = r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#;
    let error = run(&SchedulerConfig::from_text(text).unwrap(), 5, &[1])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`rescale_betas_zero_snr`"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_run_of_any_length_and_spacing_leaves_the_finite_numbers(
        row in 0..SAMPLERS.len(),
        share in 0.0..1.0f64,
        spacing in prop::sample::select(vec!["linspace", "leading", "trailing"]),
        prediction in prop::sample::select(vec!["epsilon", "v_prediction", "sample"]),
        beta_schedule in prop::sample::select(vec!["linear", "scaled_linear"]),
        seed in any::<u64>(),
    ) {
        let row = &SAMPLERS[row];
        // Short runs more often than long ones, up to the most there can be.
        let steps = ((most_steps(row) as f64).powf(share).round() as usize).max(1);
        let mut config = config(row);
        if !matches!(row.class, Class::FlowEuler | Class::FlowHeun | Class::EdmEuler | Class::EdmDpm | Class::Ipndm) {
            config = config.with("prediction_type", prediction).unwrap().with("timestep_spacing", spacing).unwrap()
                .with("beta_schedule", beta_schedule).unwrap();
        }
        let latents = run(&config, steps, &[seed]).unwrap();
        prop_assert!(latents.iter().all(|value| value.is_finite()), "{} in {steps} steps: {latents:?}", row.name);
    }
}

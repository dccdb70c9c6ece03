//! Every value a scheduler config can hold, typed.

/// Declares an enum whose variants are the strings of diffusers' configs.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// All variants with the names that configs use.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }
    };
}
pub(super) use choices;

choices! {
    /// What the network's output is.
    Prediction {
        /// The noise in the latents.
        Epsilon = "epsilon",
        /// `sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean`. Source: Salimans & Ho 2022 (arXiv:2202.00512), Appendix D.
        V = "v_prediction",
        /// The clean latents.
        Sample = "sample",
        /// `noise - clean`. Source: Liu et al. 2022 (arXiv:2209.03003).
        Flow = "flow_prediction",
    }
}

choices! {
    /// How the betas rise over the training timesteps.
    BetaSchedule {
        /// Evenly from `beta_start` to `beta_end`. Source: Ho et al. 2020 (arXiv:2006.11239).
        Linear = "linear",
        /// Evenly in their square roots, as latent diffusion models train.
        ScaledLinear = "scaled_linear",
        /// From a squared cosine of `alpha_bar`. Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17.
        Cosine = "squaredcos_cap_v2",
        /// Along a logistic curve over [-6, 6]; GeoDiff's schedule.
        Sigmoid = "sigmoid",
    }
}

choices! {
    /// Which training timesteps a run visits. Source: Lin et al. 2023 (arXiv:2305.08891), Table 2.
    TimestepSpacing {
        /// Evenly, both ends included.
        Linspace = "linspace",
        /// Multiples of a whole ratio plus `steps_offset`; misses the noisiest timesteps.
        Leading = "leading",
        /// From the last timestep down in equal parts.
        Trailing = "trailing",
    }
}

choices! {
    /// Where the noise levels of a run end.
    FinalSigmas {
        /// At no noise.
        Zero = "zero",
        /// At the least noise of training.
        SigmaMin = "sigma_min",
    }
}

choices! {
    /// The integral a DPM solver approximates.
    AlgorithmType {
        /// Data prediction. Source: Lu et al. 2022 (arXiv:2211.01095).
        DpmSolverPp = "dpmsolver++",
        /// Noise prediction. Source: Lu et al. 2022 (arXiv:2206.00927).
        DpmSolver = "dpmsolver",
        /// The stochastic form of data prediction.
        SdeDpmSolverPp = "sde-dpmsolver++",
        /// The stochastic form of noise prediction.
        SdeDpmSolver = "sde-dpmsolver",
        /// Exponential integrator in log rho. Source: Zhang & Chen 2022 (arXiv:2204.13902).
        Deis = "deis",
        /// SA-Solver on the clean latents. Source: Xue et al. 2023 (arXiv:2309.05019).
        DataPrediction = "data_prediction",
        /// SA-Solver on the noise.
        NoisePrediction = "noise_prediction",
    }
}

choices! {
    /// How the second-order term of a solver is formed.
    SolverType {
        /// Value in the middle.
        Midpoint = "midpoint",
        /// Mean of both ends.
        Heun = "heun",
        /// DEIS: polynomial in log rho.
        LogRho = "logrho",
        /// UniPC: `B(h) = h`.
        Bh1 = "bh1",
        /// UniPC: `B(h) = exp(h) - 1`.
        Bh2 = "bh2",
    }
}

choices! {
    /// Variance of DDPM's random term.
    VarianceType {
        /// The posterior's variance.
        FixedSmall = "fixed_small",
        /// The posterior's variance through its logarithm.
        FixedSmallLog = "fixed_small_log",
        /// Beta itself.
        FixedLarge = "fixed_large",
    }
}

choices! {
    /// How Euler's levels are read off the training table.
    InterpolationType {
        /// At the timesteps, linearly in sigma.
        Linear = "linear",
        /// Evenly in log sigma between the ends.
        LogLinear = "log_linear",
    }
}

choices! {
    /// What a timestep tells the network.
    TimestepType {
        /// The training step.
        Discrete = "discrete",
        /// `ln(sigma) / 4`, for v prediction.
        Continuous = "continuous",
    }
}

choices! {
    /// EDM's noise levels.
    SigmaSchedule {
        /// Karras et al. 2022 (arXiv:2206.00364), Eq. 5.
        Karras = "karras",
        /// Evenly in log sigma.
        Exponential = "exponential",
    }
}

choices! {
    /// How `mu` bends a flow's times.
    TimeShift {
        /// By `exp(mu)`.
        Exponential = "exponential",
        /// By `mu` itself.
        Linear = "linear",
    }
}

/// How the noise levels of a run lie between their ends; the one `use_*_sigmas` key that is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigmaSpacing {
    /// The levels of the visited timesteps.
    Timesteps,
    /// `use_karras_sigmas`. Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 5 with rho 7.
    Karras,
    /// `use_exponential_sigmas`: evenly in log sigma.
    Exponential,
    /// `use_beta_sigmas`: quantiles of Beta(0.6, 0.6). Source: Lee et al. 2024 (arXiv:2407.12173).
    Beta,
    /// `use_lu_lambdas`: evenly in log signal-to-noise ratio. Source: Lu et al. 2022 (arXiv:2206.00927).
    Lu,
    /// `use_flow_sigmas`: the shifted line of a flow model.
    Flow,
}

/// Every value in effect for a scheduler. Fields are named as diffusers' keys; see there for the rarer ones.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "fields carry the names and meaning of diffusers' documented keys"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a foreign format whose keys are what they are"
)]
pub struct Settings {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: Prediction,
    pub timestep_spacing: TimestepSpacing,
    pub steps_offset: usize,
    pub clip_sample: bool,
    pub clip_sample_range: f64,
    pub thresholding: bool,
    pub dynamic_thresholding_ratio: f64,
    pub sample_max_value: f64,
    pub set_alpha_to_one: bool,
    pub rescale_betas_zero_snr: bool,
    pub variance_type: Option<VarianceType>,
    pub skip_prk_steps: bool,
    pub use_karras_sigmas: bool,
    pub use_exponential_sigmas: bool,
    pub use_beta_sigmas: bool,
    pub use_lu_lambdas: bool,
    pub use_flow_sigmas: bool,
    pub flow_shift: f64,
    pub interpolation_type: InterpolationType,
    pub timestep_type: TimestepType,
    pub final_sigmas_type: FinalSigmas,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub solver_order: usize,
    pub algorithm_type: AlgorithmType,
    pub solver_type: SolverType,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub lambda_min_clipped: f64,
    pub predict_x0: bool,
    pub disable_corrector: Vec<usize>,
    pub original_inference_steps: usize,
    pub timestep_scaling: f64,
    pub sigma_data: f64,
    pub sigma_schedule: SigmaSchedule,
    pub rho: f64,
    pub shift: f64,
    pub shift_terminal: Option<f64>,
    pub use_dynamic_shifting: bool,
    pub base_shift: f64,
    pub max_shift: f64,
    pub base_image_seq_len: usize,
    pub max_image_seq_len: usize,
    pub time_shift_type: TimeShift,
    pub invert_sigmas: bool,
    pub stochastic_sampling: bool,
    pub predictor_order: usize,
    pub corrector_order: usize,
    pub noise_sampler_seed: Option<u64>,
}

impl Settings {
    /// The defaults that most classes of diffusers share; `Class::defaults` changes what a class has of its own.
    pub(super) fn common() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            clip_sample: false,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            set_alpha_to_one: true,
            rescale_betas_zero_snr: false,
            variance_type: None,
            skip_prk_steps: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            use_flow_sigmas: false,
            flow_shift: 1.0,
            interpolation_type: InterpolationType::Linear,
            timestep_type: TimestepType::Discrete,
            final_sigmas_type: FinalSigmas::Zero,
            sigma_min: None,
            sigma_max: None,
            solver_order: 2,
            algorithm_type: AlgorithmType::DpmSolverPp,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f64::NEG_INFINITY,
            predict_x0: true,
            disable_corrector: Vec::new(),
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            sigma_data: 0.5,
            sigma_schedule: SigmaSchedule::Karras,
            rho: 7.0,
            shift: 1.0,
            shift_terminal: None,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            time_shift_type: TimeShift::Exponential,
            invert_sigmas: false,
            stochastic_sampling: false,
            predictor_order: 2,
            corrector_order: 2,
            noise_sampler_seed: None,
        }
    }

    /// Which of the `use_*` keys is in effect; that at most one is was checked when the config was read.
    pub fn sigma_spacing(&self) -> SigmaSpacing {
        match () {
            () if self.use_karras_sigmas => SigmaSpacing::Karras,
            () if self.use_exponential_sigmas => SigmaSpacing::Exponential,
            () if self.use_beta_sigmas => SigmaSpacing::Beta,
            () if self.use_lu_lambdas => SigmaSpacing::Lu,
            () if self.use_flow_sigmas => SigmaSpacing::Flow,
            () => SigmaSpacing::Timesteps,
        }
    }
}

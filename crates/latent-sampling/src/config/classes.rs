//! The scheduler classes: which keys each reads and what it takes where none is stated.

use super::settings::{
    AlgorithmType, FinalSigmas, Prediction, Settings, SolverType, TimestepSpacing, VarianceType,
    choices,
};
use crate::SamplingError;

choices! {
    /// A scheduler class of diffusers, or one of the few ways to sample that diffusers has no class for.
    Class {
        /// Ho et al. 2020.
        Ddpm = "DDPMScheduler",
        /// Song et al. 2020.
        Ddim = "DDIMScheduler",
        /// Liu et al. 2022.
        Pndm = "PNDMScheduler",
        /// Euler steps in sigma.
        Euler = "EulerDiscreteScheduler",
        /// Euler steps that put noise back.
        EulerAncestral = "EulerAncestralDiscreteScheduler",
        /// Heun's method in sigma.
        Heun = "HeunDiscreteScheduler",
        /// DPM-Solver-2 in sigma.
        Kdpm2 = "KDPM2DiscreteScheduler",
        /// DPM-Solver-2 that puts noise back.
        Kdpm2Ancestral = "KDPM2AncestralDiscreteScheduler",
        /// Linear multistep in sigma.
        Lms = "LMSDiscreteScheduler",
        /// DPM-Solver and DPM-Solver++, multistep.
        DpmMultistep = "DPMSolverMultistepScheduler",
        /// DPM-Solver and DPM-Solver++, singlestep.
        DpmSinglestep = "DPMSolverSinglestepScheduler",
        /// Zhao et al. 2023.
        UniPc = "UniPCMultistepScheduler",
        /// Zhang & Chen 2022.
        Deis = "DEISMultistepScheduler",
        /// Luo et al. 2023.
        Lcm = "LCMScheduler",
        /// Zheng et al. 2024.
        Tcd = "TCDScheduler",
        /// Euler steps with EDM's preconditioning.
        EdmEuler = "EDMEulerScheduler",
        /// DPM-Solver++ with EDM's preconditioning.
        EdmDpm = "EDMDPMSolverMultistepScheduler",
        /// Euler steps of a flow.
        FlowEuler = "FlowMatchEulerDiscreteScheduler",
        /// Heun's method on a flow.
        FlowHeun = "FlowMatchHeunDiscreteScheduler",
        /// Liu et al. 2022, improved, on a trigonometric schedule.
        Ipndm = "IPNDMScheduler",
        /// DPM-Solver++ on the stochastic equation, through the middle of each step.
        DpmSde = "DPMSolverSDEScheduler",
        /// Xue et al. 2023.
        SaSolver = "SASolverScheduler",
        /// DPM-Solver++(2S) that puts noise back; k-diffusion's name, since diffusers has no such class.
        Dpmpp2sAncestral = "sample_dpmpp_2s_ancestral",
        /// DPM-Solver++(2M) on the stochastic equation with a Brownian path; k-diffusion's name.
        Dpmpp2mSde = "sample_dpmpp_2m_sde",
        /// DPM-Solver++(3M) on the stochastic equation with a Brownian path; k-diffusion's name.
        Dpmpp3mSde = "sample_dpmpp_3m_sde",
        /// Xu et al. 2023, Restart; the name in image tools.
        Restart = "restart_sampler",
        /// Cui et al. 2023, ER-SDE-Solver-3; the name in image tools.
        ErSde = "sample_er_sde",
    }
}

/// What a class's network was trained on; a sampler of another kind would misread it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The betas' variance-preserving process.
    VariancePreserving,
    /// EDM's preconditioned network.
    Edm,
    /// Straight paths from noise to data.
    Flow,
    /// IPNDM's sine and cosine.
    Trigonometric,
}

const BETAS: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
];
const VISITS: &[&str] = &["timestep_spacing", "steps_offset"];
const THRESHOLD: &[&str] = &[
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
];
const CLIP: &[&str] = &["clip_sample", "clip_sample_range"];
const SPACED: &[&str] = &[
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
];
const ENDS: &[&str] = &["sigma_min", "sigma_max", "final_sigmas_type"];
const ZERO_SNR: &[&str] = &["rescale_betas_zero_snr"];
const SOLVER: &[&str] = &[
    "solver_order",
    "solver_type",
    "lower_order_final",
    "use_flow_sigmas",
    "flow_shift",
    "use_dynamic_shifting",
    "time_shift_type",
];
const DPM: &[&str] = &["algorithm_type", "final_sigmas_type", "lambda_min_clipped"];
const DISTILLED: &[&str] = &[
    "original_inference_steps",
    "set_alpha_to_one",
    "timestep_scaling",
];
const EDM: &[&str] = &[
    "sigma_data",
    "sigma_schedule",
    "num_train_timesteps",
    "prediction_type",
    "rho",
];
const FLOW: &[&str] = &["num_train_timesteps", "shift"];
const WALK: &[&[&str]] = &[BETAS, VISITS, SPACED, ZERO_SNR];

/// The groups of keys that each class reads.
const READS: &[(Class, &[&[&str]])] = &[
    (
        Class::Ddpm,
        &[BETAS, VISITS, THRESHOLD, CLIP, ZERO_SNR, &["variance_type"]],
    ),
    (
        Class::Ddim,
        &[
            BETAS,
            VISITS,
            THRESHOLD,
            CLIP,
            ZERO_SNR,
            &["set_alpha_to_one"],
        ],
    ),
    (
        Class::Pndm,
        &[BETAS, VISITS, &["skip_prk_steps", "set_alpha_to_one"]],
    ),
    (
        Class::Euler,
        &[
            BETAS,
            VISITS,
            SPACED,
            ZERO_SNR,
            ENDS,
            &["interpolation_type", "timestep_type"],
        ],
    ),
    (Class::EulerAncestral, &[BETAS, VISITS, ZERO_SNR]),
    (Class::Heun, &[BETAS, VISITS, SPACED, CLIP]),
    (Class::Kdpm2, &[BETAS, VISITS, SPACED]),
    (Class::Kdpm2Ancestral, &[BETAS, VISITS, SPACED]),
    (Class::Lms, &[BETAS, VISITS, SPACED]),
    (
        Class::DpmMultistep,
        &[
            BETAS,
            VISITS,
            THRESHOLD,
            SPACED,
            SOLVER,
            DPM,
            ZERO_SNR,
            &["euler_at_final", "use_lu_lambdas"],
        ],
    ),
    // No spacing of timesteps: this class always visits them evenly.
    (
        Class::DpmSinglestep,
        &[BETAS, THRESHOLD, SPACED, SOLVER, DPM],
    ),
    (
        Class::UniPc,
        &[
            BETAS,
            VISITS,
            THRESHOLD,
            SPACED,
            SOLVER,
            ENDS,
            ZERO_SNR,
            &["predict_x0", "disable_corrector", "shift_terminal"],
        ],
    ),
    (
        Class::Deis,
        &[
            BETAS,
            VISITS,
            THRESHOLD,
            SPACED,
            SOLVER,
            &["algorithm_type"],
        ],
    ),
    (
        Class::Lcm,
        &[BETAS, VISITS, THRESHOLD, CLIP, ZERO_SNR, DISTILLED],
    ),
    (
        Class::Tcd,
        &[BETAS, VISITS, THRESHOLD, CLIP, ZERO_SNR, DISTILLED],
    ),
    (Class::EdmEuler, &[EDM, ENDS]),
    (
        Class::EdmDpm,
        &[
            EDM,
            ENDS,
            THRESHOLD,
            &[
                "solver_order",
                "algorithm_type",
                "solver_type",
                "lower_order_final",
                "euler_at_final",
            ],
        ],
    ),
    (
        Class::FlowEuler,
        &[
            FLOW,
            SPACED,
            &[
                "use_dynamic_shifting",
                "base_shift",
                "max_shift",
                "base_image_seq_len",
                "max_image_seq_len",
                "invert_sigmas",
                "shift_terminal",
                "time_shift_type",
                "stochastic_sampling",
            ],
        ],
    ),
    (Class::FlowHeun, &[FLOW]),
    (Class::Ipndm, &[&["num_train_timesteps", "trained_betas"]]),
    (
        Class::DpmSde,
        &[BETAS, VISITS, SPACED, &["noise_sampler_seed"]],
    ),
    (
        Class::SaSolver,
        &[
            BETAS,
            VISITS,
            THRESHOLD,
            SPACED,
            &[
                "predictor_order",
                "corrector_order",
                "algorithm_type",
                "lower_order_final",
                "lambda_min_clipped",
            ],
        ],
    ),
    (Class::Dpmpp2sAncestral, WALK),
    (
        Class::Dpmpp2mSde,
        &[BETAS, VISITS, SPACED, ZERO_SNR, &["solver_type"]],
    ),
    (Class::Dpmpp3mSde, WALK),
    (Class::Restart, WALK),
    (Class::ErSde, WALK),
];

impl Class {
    pub(crate) fn from_name(name: &str) -> Result<Self, SamplingError> {
        let found = Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, class)| *class);
        found.ok_or_else(|| {
            let known: Vec<String> = Self::ALL
                .iter()
                .map(|(known, _)| format!("`{known}`"))
                .collect();
            SamplingError::UnknownClass {
                found: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// The class's name in diffusers.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, class)| *class == self)
            .map_or("", |(name, _)| name)
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::EdmEuler | Self::EdmDpm => Kind::Edm,
            Self::FlowEuler | Self::FlowHeun => Kind::Flow,
            Self::Ipndm => Kind::Trigonometric,
            _ => Kind::VariancePreserving,
        }
    }

    /// The groups of keys the class reads.
    fn keys(self) -> &'static [&'static [&'static str]] {
        READS
            .iter()
            .find(|(class, _)| *class == self)
            .map_or(&[], |(_, keys)| keys)
    }

    /// Whether the class reads a key; others may be stated, and wait for a change of class.
    pub(crate) fn reads(self, key: &str) -> bool {
        self.keys().iter().any(|group| group.contains(&key))
    }

    /// Every key the class reads.
    #[cfg(test)]
    pub(crate) fn all_keys(self) -> impl Iterator<Item = &'static str> {
        self.keys().iter().flat_map(|group| group.iter().copied())
    }

    /// The class's own defaults.
    pub(crate) fn defaults(self) -> Settings {
        let common = Settings::common();
        match self {
            Self::Ddpm => Settings {
                timestep_spacing: TimestepSpacing::Leading,
                clip_sample: true,
                variance_type: Some(VarianceType::FixedSmall),
                ..common
            },
            Self::Ddim => Settings {
                timestep_spacing: TimestepSpacing::Leading,
                clip_sample: true,
                ..common
            },
            Self::Pndm => Settings {
                timestep_spacing: TimestepSpacing::Leading,
                set_alpha_to_one: false,
                ..common
            },
            Self::Lcm | Self::Tcd => Settings {
                beta_start: 0.00085,
                beta_end: 0.012,
                beta_schedule: super::BetaSchedule::ScaledLinear,
                timestep_spacing: TimestepSpacing::Leading,
                ..common
            },
            Self::UniPc => Settings {
                solver_type: SolverType::Bh2,
                ..common
            },
            Self::Deis => Settings {
                algorithm_type: AlgorithmType::Deis,
                solver_type: SolverType::LogRho,
                ..common
            },
            Self::SaSolver => Settings {
                algorithm_type: AlgorithmType::DataPrediction,
                ..common
            },
            Self::EdmEuler | Self::EdmDpm => Settings {
                sigma_min: Some(0.002),
                sigma_max: Some(80.0),
                ..common
            },
            Self::FlowEuler | Self::FlowHeun => Settings {
                prediction_type: Prediction::Flow,
                ..common
            },
            Self::Heun | Self::Kdpm2 | Self::Kdpm2Ancestral | Self::DpmSde => Settings {
                beta_start: 0.00085,
                beta_end: 0.012,
                ..common
            },
            _ => common,
        }
    }

    /// Refuses combinations that no run of this class could use.
    pub(crate) fn check(self, settings: &Settings) -> Result<(), SamplingError> {
        let conflict = |text: &str| {
            Err(SamplingError::Conflict(format!(
                "`{}`: {text}",
                self.name()
            )))
        };
        let spacings = [
            settings.use_karras_sigmas,
            settings.use_exponential_sigmas,
            settings.use_beta_sigmas,
            settings.use_lu_lambdas,
        ];
        if spacings.iter().filter(|chosen| **chosen).count() > 1 {
            return conflict(
                "only one of `use_karras_sigmas`, `use_exponential_sigmas`, `use_beta_sigmas` and \
                `use_lu_lambdas` can be true",
            );
        }
        if settings.num_train_timesteps < 2 {
            return conflict("`num_train_timesteps` must be at least 2");
        }
        if !(1..=3).contains(&settings.solver_order) {
            return conflict("`solver_order` must be 1, 2 or 3");
        }
        let orders = [settings.predictor_order, settings.corrector_order];
        if !orders.iter().all(|order| (1..=4).contains(order)) {
            return conflict("`predictor_order` and `corrector_order` must be from 1 to 4");
        }
        let noise_solver = matches!(
            settings.algorithm_type,
            AlgorithmType::DpmSolver | AlgorithmType::SdeDpmSolver
        );
        if matches!(
            self,
            Self::DpmMultistep | Self::DpmSinglestep | Self::EdmDpm
        ) && noise_solver
            && settings.final_sigmas_type == FinalSigmas::Zero
        {
            return conflict(
                "`algorithm_type` dpmsolver cannot reach a noise level of 0; set `final_sigmas_type` to \
                \"sigma_min\" or take dpmsolver++",
            );
        }
        let flow_class = self.kind() == Kind::Flow || settings.use_flow_sigmas;
        if (settings.prediction_type == Prediction::Flow) != flow_class {
            return conflict(
                "`prediction_type` \"flow_prediction\" and `use_flow_sigmas` need each other, in a class that \
                has both (such as `DPMSolverMultistepScheduler`), or a flow class",
            );
        }
        settings.check_numbers()
    }
}

impl Settings {
    /// Refuses numbers that would make a schedule meaningless.
    fn check_numbers(&self) -> Result<(), SamplingError> {
        let value = |key: &str, found: f64, needed: &str| {
            Err(SamplingError::Value {
                key: key.to_owned(),
                found: found.to_string(),
                needed: needed.to_owned(),
            })
        };
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return value(key, beta, "between 0 and 1");
            }
        }
        let positive = [
            ("flow_shift", self.flow_shift),
            ("shift", self.shift),
            ("rho", self.rho),
            ("sigma_data", self.sigma_data),
            ("timestep_scaling", self.timestep_scaling),
            ("clip_sample_range", self.clip_sample_range),
            ("sigma_min", self.sigma_min.unwrap_or(1.0)),
            ("sigma_max", self.sigma_max.unwrap_or(1.0)),
        ];
        if let Some(terminal) = self.shift_terminal
            && !(terminal > 0.0 && terminal < 1.0)
        {
            return value("shift_terminal", terminal, "between 0 and 1");
        }
        for (key, number) in positive {
            if !(number > 0.0 && number.is_finite()) {
                return value(key, number, "above 0");
            }
        }
        if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            return value(
                "dynamic_thresholding_ratio",
                self.dynamic_thresholding_ratio,
                "from 0 to 1",
            );
        }
        if let Some(betas) = &self.trained_betas
            && (betas.len() != self.num_train_timesteps
                || betas.iter().any(|beta| !(*beta >= 0.0 && *beta <= 1.0)))
        {
            let needed = format!(
                "{} numbers from 0 to 1, as `num_train_timesteps` says",
                self.num_train_timesteps
            );
            return Err(SamplingError::Value {
                key: "trained_betas".to_owned(),
                found: format!("{} numbers", betas.len()),
                needed,
            });
        }
        Ok(())
    }
}

//! The rows.

use super::Setting::{Count, Flag, Text};
use super::When::{Always, OtherClass, Unstated};
use super::{Sampler, Takes, alpha, consistency, dpm, flow, pndm, sigma, unipc};
use crate::{Class, spacing};

/// What rows share unless they say otherwise.
const PLAIN: Sampler = Sampler {
    name: "",
    about: "",
    aliases: &[],
    class: Class::Ddim,
    source: "",
    stochastic: false,
    evaluations_per_step: 1,
    eta: None,
    takes: &[],
    sets: &[],
    plan: spacing::alpha_plan,
    run: alpha::ddim,
};

const DPM: Sampler = Sampler {
    class: Class::DpmMultistep,
    source: "Lu et al. 2022 (arXiv:2211.01095), Algorithm 2",
    takes: &[Takes::Mu],
    plan: spacing::dpm_plan,
    run: dpm::multistep,
    ..PLAIN
};

const EULER: Sampler = Sampler {
    class: Class::Euler,
    source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 2 without its correction",
    takes: &[Takes::Churn],
    plan: spacing::sigma_plan,
    run: sigma::euler,
    ..PLAIN
};

/// Every sampler. A new one is a function in this folder and a row here.
pub const SAMPLERS: &[Sampler] = &[
    Sampler {
        name: "ddim",
        about: "Short deterministic steps, the plain choice; `eta` 1 makes it random like DDPM.",
        aliases: &["k_ddim"],
        source: "Song et al. 2020 (arXiv:2010.02502), Eq. 12",
        eta: Some(0.0),
        takes: &[Takes::ClippedOutput],
        sets: &[("clip_sample", Flag(false), Unstated)],
        ..PLAIN
    },
    Sampler {
        name: "ddpm",
        about: "The training process run backwards, random at every step; wants hundreds of steps.",
        class: Class::Ddpm,
        source: "Ho et al. 2020 (arXiv:2006.11239), Algorithm 2",
        stochastic: true,
        sets: &[("clip_sample", Flag(false), Unstated)],
        run: alpha::ddpm,
        ..PLAIN
    },
    Sampler {
        name: "pndm",
        about: "Multistep on DDIM's curve, the default of the first Stable Diffusion models.",
        aliases: &["plms"],
        class: Class::Pndm,
        source: "Liu et al. 2022 (arXiv:2202.09778), Eqs. 9 to 14",
        sets: &[("skip_prk_steps", Flag(true), Unstated)],
        plan: spacing::pndm_plan,
        run: pndm::pndm,
        ..PLAIN
    },
    Sampler {
        name: "euler",
        about: "The simplest solver of the probability flow; fast and even.",
        aliases: &["k_euler"],
        ..EULER
    },
    Sampler {
        name: "euler_karras",
        about: "Euler with Karras' spacing, more steps where there is little noise.",
        aliases: &["k_euler_ka"],
        sets: &[("use_karras_sigmas", Flag(true), Always)],
        ..EULER
    },
    Sampler {
        name: "euler_a",
        about: "Euler with fresh noise at every step: lively pictures that change with the number of steps.",
        aliases: &["k_euler_a", "euler_ancestral"],
        class: Class::EulerAncestral,
        source: "Song et al. 2020 (arXiv:2010.02502), Eq. 16 in sigma",
        stochastic: true,
        takes: &[],
        run: sigma::euler_a,
        ..EULER
    },
    Sampler {
        name: "heun",
        about: "Euler with a correction: two calls a step, more exact.",
        aliases: &["k_heun"],
        class: Class::Heun,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 1",
        evaluations_per_step: 2,
        takes: &[],
        run: sigma::heun,
        ..EULER
    },
    Sampler {
        name: "dpm2",
        about: "Second order through the middle of each step: two calls a step.",
        aliases: &["kdpm2", "dpm_2", "k_dpm_2"],
        class: Class::Kdpm2,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 3",
        evaluations_per_step: 2,
        takes: &[],
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        plan: spacing::middle_plan,
        run: sigma::dpm2,
        ..EULER
    },
    Sampler {
        name: "dpm2_a",
        about: "`dpm2` with fresh noise at every step.",
        aliases: &["kdpm2_a", "dpm_2_ancestral", "k_dpm_2_a"],
        class: Class::Kdpm2Ancestral,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 3, with the ancestral step of arXiv:2010.02502",
        stochastic: true,
        evaluations_per_step: 2,
        takes: &[],
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        plan: spacing::middle_plan,
        run: sigma::dpm2_a,
        ..EULER
    },
    Sampler {
        name: "lms",
        about: "Linear multistep through the last four slopes.",
        aliases: &["k_lms"],
        class: Class::Lms,
        source: "Adams-Bashforth with uneven steps, Hairer, Norsett & Wanner 1993, III.5",
        takes: &[],
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        run: sigma::lms,
        ..EULER
    },
    Sampler {
        name: "lms_karras",
        about: "`lms` with Karras' spacing.",
        aliases: &["k_lms_ka"],
        class: Class::Lms,
        source: "Adams-Bashforth with uneven steps, Hairer, Norsett & Wanner 1993, III.5",
        takes: &[],
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("use_karras_sigmas", Flag(true), Always),
        ],
        run: sigma::lms,
        ..EULER
    },
    Sampler {
        name: "dpmpp_2m",
        about: "Second-order multistep: good pictures in 15 to 25 steps.",
        aliases: &["k_dpmpp_2m", "dpm++2m"],
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2m_karras",
        about: "`dpmpp_2m` with Karras' spacing, the field's usual choice.",
        aliases: &["k_dpmpp_2m_ka", "k_dpmpp_2m_karras"],
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("use_karras_sigmas", Flag(true), Always),
        ],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2m_sde",
        about: "`dpmpp_2m` with fresh noise at every step.",
        aliases: &["k_dpmpp_2m_sde"],
        stochastic: true,
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("algorithm_type", Text("sde-dpmsolver++"), Always),
        ],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2m_sde_karras",
        about: "`dpmpp_2m_sde` with Karras' spacing.",
        aliases: &["k_dpmpp_2m_sde_ka"],
        stochastic: true,
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("algorithm_type", Text("sde-dpmsolver++"), Always),
            ("use_karras_sigmas", Flag(true), Always),
        ],
        ..DPM
    },
    Sampler {
        name: "dpmpp_3m",
        about: "Third-order multistep.",
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("solver_order", Count(3), Always),
        ],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2s",
        about: "Second-order singlestep: every second call starts a step of its own.",
        class: Class::DpmSinglestep,
        source: "Lu et al. 2022 (arXiv:2211.01095), Algorithm 1",
        run: dpm::singlestep,
        ..DPM
    },
    Sampler {
        name: "unipc",
        about: "A predictor whose next answer corrects the last step: good pictures in 10 to 20 steps.",
        aliases: &["uni_pc", "uni_pc_bh2"],
        class: Class::UniPc,
        source: "Zhao et al. 2023 (arXiv:2302.04867), Algorithms 5 to 8",
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        run: unipc::unipc,
        ..DPM
    },
    Sampler {
        name: "deis",
        about: "Exponential integrator with a polynomial in log rho.",
        class: Class::Deis,
        source: "Zhang & Chen 2022 (arXiv:2204.13902), Eq. 15",
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        run: dpm::deis,
        ..DPM
    },
    Sampler {
        name: "lcm",
        about: "For models distilled to few steps (4 to 8).",
        class: Class::Lcm,
        source: "Luo et al. 2023 (arXiv:2310.04378), Algorithm 3",
        stochastic: true,
        plan: spacing::consistency_plan,
        run: consistency::lcm,
        ..PLAIN
    },
    Sampler {
        name: "tcd",
        about: "For models distilled by trajectory consistency; `eta` says how far below the next level it jumps.",
        class: Class::Tcd,
        source: "Zheng et al. 2024 (arXiv:2402.19159), Algorithm 2",
        stochastic: true,
        eta: Some(0.3),
        plan: spacing::consistency_plan,
        run: consistency::tcd,
        ..PLAIN
    },
    Sampler {
        name: "edm_euler",
        about: "Euler steps for networks with EDM's preconditioning.",
        class: Class::EdmEuler,
        plan: spacing::edm_plan,
        run: flow::edm_euler,
        ..EULER
    },
    Sampler {
        name: "edm_dpmpp_2m",
        about: "`dpmpp_2m` for networks with EDM's preconditioning.",
        class: Class::EdmDpm,
        takes: &[],
        plan: spacing::edm_plan,
        ..DPM
    },
    Sampler {
        name: "flow_euler",
        about: "Euler steps along a flow, the default of flow models.",
        class: Class::FlowEuler,
        source: "Liu et al. 2022 (arXiv:2209.03003), Eq. 1; shift: Esser et al. 2024 (arXiv:2403.03206), Eq. 23",
        takes: &[Takes::Mu, Takes::Sigmas],
        plan: spacing::flow_plan,
        run: flow::flow_euler,
        ..PLAIN
    },
    Sampler {
        name: "flow_heun",
        about: "Heun's method along a flow: two calls a step.",
        class: Class::FlowHeun,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 1, on the path of arXiv:2209.03003",
        evaluations_per_step: 2,
        plan: spacing::flow_heun_plan,
        run: flow::flow_heun,
        ..PLAIN
    },
    Sampler {
        name: "ipndm",
        about: "Fourth-order multistep for models of noise and data on a circle.",
        class: Class::Ipndm,
        source: "Liu et al. 2022 (arXiv:2202.09778), improved",
        plan: spacing::trigonometric_plan,
        run: pndm::ipndm,
        ..PLAIN
    },
];

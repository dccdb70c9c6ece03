//! The rows.

use super::Setting::{Count, Flag, Text};
use super::When::{Always, OtherClass, Unstated};
use super::{
    Sampler, Takes, Visits, alpha, consistency, dpm, flow, pndm, sa_solver, sde, sigma, unipc,
};
use crate::{Class, spacing};

/// What rows share unless they say otherwise.
const PLAIN: Sampler = Sampler {
    name: "",
    about: "",
    aliases: &[],
    a1111: None,
    comfyui: None,
    class: Class::Ddim,
    order: 1,
    source: "",
    stochastic: false,
    evaluations_per_step: 1,
    eta: None,
    visits: Visits::Timesteps,
    takes: &[],
    sets: &[],
    plan: spacing::alpha_plan,
    run: alpha::ddim,
};

const DPM: Sampler = Sampler {
    class: Class::DpmMultistep,
    source: "Lu et al. 2022 (arXiv:2211.01095), Algorithm 2",
    visits: Visits::Levels,
    takes: &[Takes::Mu],
    plan: spacing::dpm_plan,
    run: dpm::multistep,
    ..PLAIN
};

const EULER: Sampler = Sampler {
    class: Class::Euler,
    source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 2 without its correction",
    visits: Visits::Levels,
    takes: &[Takes::Churn, Takes::UnguidedNoise],
    plan: spacing::sigma_plan,
    run: sigma::euler,
    ..PLAIN
};

const SDE: Sampler = Sampler {
    class: Class::DpmSde,
    stochastic: true,
    eta: Some(1.0),
    visits: Visits::Levels,
    takes: &[Takes::NoiseScale],
    sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
    plan: spacing::sigma_plan,
    ..PLAIN
};

/// Every sampler. A new one is a function in this folder and a row here.
pub const SAMPLERS: &[Sampler] = &[
    Sampler {
        name: "ddim",
        about: "Short deterministic steps, the plain choice; `eta` 1 makes it random like DDPM.",
        aliases: &["k_ddim"],
        a1111: Some("DDIM"),
        comfyui: Some("ddim"),
        source: "Song et al. 2020 (arXiv:2010.02502), Eq. 12",
        eta: Some(0.0),
        takes: &[Takes::ClippedOutput, Takes::UnguidedNoise],
        sets: &[("clip_sample", Flag(false), Unstated)],
        ..PLAIN
    },
    Sampler {
        name: "ddpm",
        about: "The training process run backwards, random at every step; wants hundreds of steps.",
        comfyui: Some("ddpm"),
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
        a1111: Some("PLMS"),
        order: 4,
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
        a1111: Some("Euler"),
        comfyui: Some("euler"),
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
        aliases: &["k_euler_a"],
        a1111: Some("Euler a"),
        comfyui: Some("euler_ancestral"),
        class: Class::EulerAncestral,
        source: "Song et al. 2020 (arXiv:2010.02502), Eq. 16 in sigma",
        stochastic: true,
        eta: Some(1.0),
        takes: &[Takes::NoiseScale, Takes::UnguidedNoise],
        run: sigma::euler_a,
        ..EULER
    },
    Sampler {
        name: "heun",
        about: "Euler with a correction: two calls a step, more exact.",
        aliases: &["k_heun"],
        a1111: Some("Heun"),
        comfyui: Some("heun"),
        order: 2,
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
        aliases: &["kdpm2", "k_dpm_2"],
        a1111: Some("DPM2"),
        comfyui: Some("dpm_2"),
        order: 2,
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
        aliases: &["kdpm2_a", "k_dpm_2_a"],
        a1111: Some("DPM2 a"),
        comfyui: Some("dpm_2_ancestral"),
        order: 2,
        class: Class::Kdpm2Ancestral,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 3, with the ancestral step of arXiv:2010.02502",
        stochastic: true,
        evaluations_per_step: 2,
        eta: Some(1.0),
        takes: &[Takes::NoiseScale],
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        plan: spacing::middle_plan,
        run: sigma::dpm2_a,
        ..EULER
    },
    Sampler {
        name: "lms",
        about: "Linear multistep through the last four slopes.",
        aliases: &["k_lms"],
        a1111: Some("LMS"),
        comfyui: Some("lms"),
        order: 4,
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
        a1111: Some("LMS Karras"),
        order: 4,
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
        a1111: Some("DPM++ 2M"),
        comfyui: Some("dpmpp_2m"),
        order: 2,
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2m_karras",
        about: "`dpmpp_2m` with Karras' spacing, the field's usual choice.",
        aliases: &["k_dpmpp_2m_ka", "k_dpmpp_2m_karras"],
        a1111: Some("DPM++ 2M Karras"),
        order: 2,
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
        a1111: Some("DPM++ 2M SDE"),
        comfyui: Some("dpmpp_2m_sde"),
        order: 2,
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
        a1111: Some("DPM++ 2M SDE Karras"),
        order: 2,
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
        order: 3,
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("solver_order", Count(3), Always),
        ],
        ..DPM
    },
    Sampler {
        name: "dpmpp_2s",
        about: "Second-order singlestep: every second call starts a step of its own.",
        order: 2,
        class: Class::DpmSinglestep,
        source: "Lu et al. 2022 (arXiv:2211.01095), Algorithm 1",
        run: dpm::singlestep,
        ..DPM
    },
    Sampler {
        name: "dpmpp_sde",
        about: "DPM-Solver++ with the noise of a Brownian path: lively, exact, two calls a step.",
        aliases: &["dpmpp_sde_gpu"],
        a1111: Some("DPM++ SDE"),
        comfyui: Some("dpmpp_sde"),
        order: 2,
        class: Class::DpmSde,
        source: "Lu et al. 2022 (arXiv:2211.01095), as k-diffusion's `sample_dpmpp_sde` makes it stochastic",
        evaluations_per_step: 2,
        plan: spacing::middle_plan,
        run: sde::dpmpp_sde,
        ..SDE
    },
    Sampler {
        name: "dpmpp_2s_a",
        about: "Second-order singlestep with fresh noise at every step: two calls a step.",
        aliases: &["k_dpmpp_2s_a", "dpm++2s_a"],
        a1111: Some("DPM++ 2S a"),
        comfyui: Some("dpmpp_2s_ancestral"),
        order: 2,
        class: Class::Dpmpp2sAncestral,
        source: "Lu et al. 2022 (arXiv:2211.01095), Algorithm 1, as k-diffusion's `sample_dpmpp_2s_ancestral`",
        evaluations_per_step: 2,
        plan: spacing::middle_plan,
        run: sde::dpmpp_2s_a,
        ..SDE
    },
    Sampler {
        name: "dpmpp_2m_sde_bt",
        about: "`dpmpp_2m_sde` with the noise of a Brownian path, as A1111 and ComfyUI draw it.",
        aliases: &["dpm++2m_sde_bt", "dpmpp_2m_sde_gpu"],
        order: 2,
        class: Class::Dpmpp2mSde,
        source: "Lu et al. 2022 (arXiv:2211.01095), section 5, as k-diffusion's `sample_dpmpp_2m_sde`",
        run: sde::dpmpp_2m_sde,
        ..SDE
    },
    Sampler {
        name: "dpmpp_2m_sde_heun",
        about: "`dpmpp_2m_sde_bt` with the mean of both ends in its second-order term.",
        aliases: &["dpmpp_2m_sde_heun_gpu"],
        a1111: Some("DPM++ 2M SDE Heun"),
        comfyui: Some("dpmpp_2m_sde_heun"),
        order: 2,
        class: Class::Dpmpp2mSde,
        source: "Lu et al. 2022 (arXiv:2211.01095), section 5, as k-diffusion's `sample_dpmpp_2m_sde`",
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("solver_type", Text("heun"), Always),
        ],
        run: sde::dpmpp_2m_sde,
        ..SDE
    },
    Sampler {
        name: "dpmpp_3m_sde",
        about: "Third-order multistep with the noise of a Brownian path; wants 25 steps and more.",
        aliases: &["dpmpp_3m_sde_gpu"],
        a1111: Some("DPM++ 3M SDE"),
        comfyui: Some("dpmpp_3m_sde"),
        order: 3,
        class: Class::Dpmpp3mSde,
        source: "k-diffusion, `sample_dpmpp_3m_sde`, after Lu et al. 2022 (arXiv:2211.01095)",
        run: sde::dpmpp_3m_sde,
        ..SDE
    },
    Sampler {
        name: "sa_solver",
        about: "Stochastic Adams predictor and corrector, random in the middle of a run.",
        comfyui: Some("sa_solver"),
        order: 2,
        class: Class::SaSolver,
        source: "Xue et al. 2023 (arXiv:2309.05019), Algorithm 1",
        eta: None,
        takes: &[],
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("algorithm_type", Text("data_prediction"), OtherClass),
        ],
        plan: spacing::dpm_plan,
        run: sa_solver::sa_solver,
        ..SDE
    },
    Sampler {
        name: "restart",
        about: "Heun's method on Karras' levels that goes up again and down once more from little noise: two calls a step.",
        a1111: Some("Restart"),
        order: 2,
        class: Class::Restart,
        source: "Xu et al. 2023 (arXiv:2306.14878), Algorithm 1",
        evaluations_per_step: 2,
        eta: None,
        sets: &[
            ("timestep_spacing", Text("linspace"), OtherClass),
            ("use_karras_sigmas", Flag(true), Always),
        ],
        plan: spacing::restart_plan,
        run: sigma::heun,
        ..SDE
    },
    Sampler {
        name: "er_sde",
        about: "Third-order multistep on an equation that replaces more of the noise the more there is.",
        comfyui: Some("er_sde"),
        order: 3,
        class: Class::ErSde,
        source: "Cui et al. 2023 (arXiv:2309.06169), ER-SDE-Solver-3",
        eta: None,
        run: sde::er_sde,
        ..SDE
    },
    Sampler {
        name: "unipc",
        about: "A predictor whose next answer corrects the last step: good pictures in 10 to 20 steps.",
        aliases: &["uni_pc"],
        a1111: Some("UniPC"),
        comfyui: Some("uni_pc_bh2"),
        order: 2,
        class: Class::UniPc,
        source: "Zhao et al. 2023 (arXiv:2302.04867), Algorithms 5 to 8",
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        run: unipc::unipc,
        ..DPM
    },
    Sampler {
        name: "deis",
        about: "Exponential integrator with a polynomial in log rho.",
        a1111: Some("DEIS"),
        comfyui: Some("deis"),
        order: 2,
        class: Class::Deis,
        source: "Zhang & Chen 2022 (arXiv:2204.13902), Eq. 15",
        sets: &[("timestep_spacing", Text("linspace"), OtherClass)],
        run: dpm::deis,
        ..DPM
    },
    Sampler {
        name: "lcm",
        about: "For models distilled to few steps (4 to 8).",
        a1111: Some("LCM"),
        comfyui: Some("lcm"),
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
        visits: Visits::Own,
        plan: spacing::edm_plan,
        run: flow::edm_euler,
        ..EULER
    },
    Sampler {
        name: "edm_dpmpp_2m",
        about: "`dpmpp_2m` for networks with EDM's preconditioning.",
        order: 2,
        class: Class::EdmDpm,
        takes: &[],
        visits: Visits::Own,
        plan: spacing::edm_plan,
        ..DPM
    },
    Sampler {
        name: "flow_euler",
        about: "Euler steps along a flow, the default of flow models.",
        class: Class::FlowEuler,
        source: "Liu et al. 2022 (arXiv:2209.03003), Eq. 1; shift: Esser et al. 2024 (arXiv:2403.03206), Eq. 23",
        takes: &[Takes::Mu, Takes::Sigmas],
        visits: Visits::Own,
        plan: spacing::flow_plan,
        run: flow::flow_euler,
        ..PLAIN
    },
    Sampler {
        name: "flow_heun",
        about: "Heun's method along a flow: two calls a step.",
        order: 2,
        class: Class::FlowHeun,
        source: "Karras et al. 2022 (arXiv:2206.00364), Algorithm 1, on the path of arXiv:2209.03003",
        evaluations_per_step: 2,
        visits: Visits::Own,
        plan: spacing::flow_heun_plan,
        run: flow::flow_heun,
        ..PLAIN
    },
    Sampler {
        name: "ipndm",
        about: "Fourth-order multistep for models of noise and data on a circle.",
        order: 4,
        class: Class::Ipndm,
        source: "Liu et al. 2022 (arXiv:2202.09778), improved",
        visits: Visits::Own,
        plan: spacing::trigonometric_plan,
        run: pndm::ipndm,
        ..PLAIN
    },
];

"""Makes crates/latent-sampling/tests/fixtures/samplers/compat.json: what A1111 and ComfyUI make of the same names.

    python tools/make_compat_values.py

Independent of the Rust code and of both programs; needs numpy only. It follows what the programs document: A1111's table of
samplers ("Automatic" schedule types, `discard_next_to_last_sigma`) and `setup_img2img_steps`, ComfyUI's `KSampler` (nearest
timesteps, `set_steps`, `max_denoise`, the samplers that lose their last level but one), on the levels of Stable Diffusion's
betas. A case lists the levels from the first call on, what the network is told at each (of first-order samplers), and what
unit noise is multiplied with at the start from noise.
"""
import json
from pathlib import Path

import numpy as np

betas = np.linspace(np.float32(0.00085 ** 0.5), np.float32(0.012 ** 0.5), 1000, dtype=np.float32) ** 2
alpha_bar = np.cumprod((1 - betas).astype(np.float64))
SIGMAS = np.sqrt((1 - alpha_bar) / alpha_bar)
LOGS = np.log(SIGMAS)


def karras(n, rho=7):
    ends = SIGMAS[-1] ** (1 / rho), SIGMAS[0] ** (1 / rho)
    return np.linspace(*ends, n) ** rho


SCHEDULES = {
    "karras": karras,
    "exponential": lambda n: np.exp(np.linspace(LOGS[-1], LOGS[0], n)),
    "normal": lambda n: np.exp(np.interp(np.linspace(999, 0, n), np.arange(1000), LOGS)),
    "simple": lambda n: SIGMAS[[999 - int(i * 1000 / n) for i in range(n)]],
}
A1111_AUTOMATIC = {
    "DPM++ 2M": "karras", "DPM++ SDE": "karras", "DPM++ 2S a": "karras", "DPM2": "karras", "DPM2 a": "karras",
    "DPM++ 2M SDE": "exponential", "DPM++ 2M SDE Heun": "exponential", "DPM++ 3M SDE": "exponential",
}
A1111_DROPS = {"DPM2", "DPM2 a", "DPM++ 3M SDE"}
COMFYUI_DROPS = {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}
TWO_CALLS = {"Heun", "heun", "DPM2", "DPM2 a", "DPM++ SDE", "DPM++ 2S a", "dpm_2", "dpm_2_ancestral"}


def levels(schedule, steps, drops):
    sigmas = SCHEDULES[schedule](steps + drops)
    return np.append(sigmas[:-1] if drops else sigmas, 0)


def a1111(sampler, schedule, steps, strength):
    name = schedule or A1111_AUTOMATIC.get(sampler, "normal")
    sigmas = levels(name, steps, sampler in A1111_DROPS)
    if strength is not None:
        t_enc = int(min(strength, 0.999) * steps)
        sigmas = sigmas[steps - t_enc - 1:]
    timesteps = np.interp(np.log(sigmas[:-1]), LOGS, np.arange(1000))
    return sigmas, timesteps, sigmas[0]


def comfyui(sampler, schedule, steps, strength):
    name, drops = schedule or "normal", sampler in COMFYUI_DROPS
    if strength is None or strength > 0.9999:
        sigmas = levels(name, steps, drops)
    else:
        sigmas = levels(name, int(steps / strength), drops)[-(steps + 1):]
    timesteps = [int(np.abs(np.log(sigma) - LOGS).argmin()) for sigma in sigmas[:-1]]
    full = np.isclose(sigmas[0], SIGMAS[-1], rtol=1e-5) or sigmas[0] > SIGMAS[-1]
    return sigmas, timesteps, np.sqrt(1 + sigmas[0] ** 2) if full else sigmas[0]


CASES = [
    ("a1111", a1111, [("Euler", None, 10, None), ("Euler a", None, 13, 0.6), ("DPM++ 2M", None, 20, None),
                      ("DPM++ 2M", "simple", 20, 0.75), ("DPM++ 2M", None, 20, 1.0), ("DPM2", None, 9, None),
                      ("DPM2 a", "normal", 9, None), ("DPM++ 3M SDE", None, 12, None), ("DPM++ 3M SDE", None, 12, 0.5),
                      ("DPM++ 2M SDE", None, 10, None), ("DPM++ SDE", None, 10, None), ("Heun", None, 10, 0.5)]),
    ("comfyui", comfyui, [("euler", None, 10, None), ("euler", "simple", 20, 0.6), ("euler", "karras", 7, 1.0),
                          ("ddim", None, 10, None), ("dpmpp_2m", "karras", 20, None), ("dpmpp_2m", None, 20, 0.33),
                          ("dpm_2", None, 9, None), ("uni_pc", "simple", 10, None), ("uni_pc_bh2", "simple", 10, 0.5),
                          ("heun", None, 10, 0.5)]),
]


def main():
    cases = []
    for compat, rule, requests in CASES:
        for sampler, schedule, steps, strength in requests:
            sigmas, timesteps, first_noise = rule(sampler, schedule, steps, strength)
            cases.append({
                "compat": compat, "sampler": sampler, "schedule": schedule, "steps": steps, "strength": strength,
                "calls_per_step": 2 if sampler in TWO_CALLS else 1, "sigmas": [float(f"{s:.9g}") for s in sigmas],
                "timesteps": [float(f"{t:.9g}") for t in timesteps], "first_noise": float(f"{first_noise:.9g}"),
            })
    out = Path(__file__).parents[1] / "crates/latent-sampling/tests/fixtures/samplers/compat.json"
    out.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()

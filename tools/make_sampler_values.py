"""Makes crates/latent-sampling/tests/fixtures/samplers/papers.json: schedules and samplers from their published formulas.

    python tools/make_sampler_values.py

Independent of the Rust code and of every sampling library; needs numpy only.
Schedules: ComfyUI's and k-diffusion's definitions, on the levels of Stable Diffusion's betas.
Samplers: Restart (Xu et al. 2023, arXiv:2306.14878, Algorithm 1; Heun's method, levels 0.1 and 2) and ER-SDE-Solver-3
(Cui et al. 2023, arXiv:2309.06169, Eq. 27 and Algorithm 3), on an analytic network.
"""
import json
from pathlib import Path

import numpy as np

SHAPE = (1, 2, 3, 3)
TOY = (0.8, 0.1, 0.1, 100.0, 0.37)

betas = np.linspace(np.float32(0.00085 ** 0.5), np.float32(0.012 ** 0.5), 1000, dtype=np.float32) ** 2
alpha_bar = np.cumprod((1 - betas).astype(np.float64))
SIGMAS = np.sqrt((1 - alpha_bar) / alpha_bar)
LOGS = np.log(SIGMAS)
LEAST, MOST = SIGMAS[0], SIGMAS[-1]


def sigma_of(t):
    return np.exp(np.interp(t, np.arange(1000), LOGS))


def timestep_of(sigma):
    return np.interp(np.log(np.maximum(sigma, 1e-10)), LOGS, np.arange(1000))


def quantiles(shares):
    """Of Beta(0.6, 0.6): with t = sin^2 the density t^-0.4 (1-t)^-0.4 dt is 2 (sin cos)^0.2 dtheta."""
    edges = np.linspace(0, np.pi / 2, 2_000_001)
    middles = (edges[1:] + edges[:-1]) / 2
    mass = np.concatenate([[0], np.cumsum((np.sin(middles) * np.cos(middles)) ** 0.2)])
    return np.sin(np.interp(shares, mass / mass[-1], edges)) ** 2


def karras(n, least=LEAST, most=MOST, rho=7):
    ramp = np.linspace(0, 1, n)
    return (most ** (1 / rho) + ramp * (least ** (1 / rho) - most ** (1 / rho))) ** rho


def beta_timesteps(n):
    times = np.rint(quantiles(1 - np.arange(n) / n) * 999).astype(int)
    return SIGMAS[[t for i, t in enumerate(times) if i == 0 or t != times[i - 1]]]


def resampled(table, n):
    return np.exp(np.interp(np.linspace(0, 10, n + 1), np.arange(11), np.log(table)))[:-1]


SD1 = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
SDXL = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
SCHEDULES = {
    "karras": karras,
    "exponential": lambda n: np.geomspace(MOST, LEAST, n),
    "polyexponential": lambda n: np.geomspace(MOST, LEAST, n),
    "beta": lambda n: LEAST + quantiles(1 - np.linspace(0, 1, n)) * (MOST - LEAST),
    "beta_timesteps": beta_timesteps,
    "normal": lambda n: sigma_of(np.linspace(999, 0, n)),
    "sgm_uniform": lambda n: sigma_of(np.linspace(999, 0, n + 1)[:-1]),
    "simple": lambda n: SIGMAS[[999 - int(i * 1000 / n) for i in range(n)]],
    "ddim_uniform": lambda n: SIGMAS[1::max(1000 // n, 1)][::-1],
    "kl_optimal": lambda n: np.tan(np.linspace(np.arctan(MOST), np.arctan(LEAST), n)),
    "align_your_steps": lambda n: resampled(SD1, n),
    "align_your_steps_sdxl": lambda n: resampled(SDXL, n),
}


class World:
    """The analytic network in the form of k-diffusion, and the noise of a run."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.noises = []
        self.calls = 0
        self.start = self.random.standard_normal(SHAPE).astype(np.float32).astype(np.float64)

    def denoise(self, x, sigma):
        self.calls += 1
        a, b, c, d, e = TOY
        seen = x / np.sqrt(sigma ** 2 + 1)
        index = np.arange(x.size).reshape(x.shape)
        return x - sigma * (a * seen / np.sqrt(1 + b * seen ** 2) + c * np.sin(timestep_of(sigma) / d + e * index))

    def noise(self):
        self.noises.append(self.random.standard_normal(SHAPE).astype(np.float32).astype(np.float64))
        return self.noises[-1]


def restart(world, n):
    again, times = (0, 0) if n < 20 else (9, 1) if n < 36 else (n // 4, 2)
    levels = np.append(karras(n - again * times), 0)
    x = world.start * levels[0]

    def heun(x, a, b):
        slope = (x - world.denoise(x, a)) / a
        end = x + slope * (b - a)
        if b == 0:
            return end
        return x + (slope + (end - world.denoise(end, b)) / b) / 2 * (b - a)

    low, high = np.abs(levels - 0.1).argmin(), np.abs(levels - 2).argmin()
    for i in range(len(levels) - 1):
        x = heun(x, levels[i], levels[i + 1])
        if i + 1 == low:
            for _ in range(times):
                x = x + world.noise() * np.sqrt(levels[high] ** 2 - levels[low] ** 2)
                again_levels = karras(again + 1, levels[low], levels[high])
                for a, b in zip(again_levels, again_levels[1:]):
                    x = heun(x, a, b)
    return x


def er_sde(world, n):
    levels = np.append(SCHEDULES["normal"](n), 0)
    x = world.start * levels[0]
    keep = lambda s: s * (np.exp(s ** 0.3) + 10)
    clean, first = [], []
    for i in range(n):
        a, b = levels[i], levels[i + 1]
        clean.append(world.denoise(x, a))
        if b == 0:
            return clean[-1]
        ratio = keep(b) / keep(a)
        new = ratio * x + (1 - ratio) * clean[i]
        points = b + np.arange(200) * (a - b) / 200
        if i >= 1:
            first.append((clean[i] - clean[i - 1]) / (a - levels[i - 1]))
            new += (b - a + keep(b) * np.sum((a - b) / 200 / keep(points))) * first[-1]
        if i >= 2:
            second = (first[-1] - first[-2]) / ((a - levels[i - 2]) / 2)
            new += ((b - a) ** 2 / 2 + keep(b) * np.sum((points - a) * (a - b) / 200 / keep(points))) * second
        x = new + world.noise() * np.sqrt(max(b ** 2 - a ** 2 * ratio ** 2, 0))
    return x


def run(name, walk, steps, seed):
    world = World(seed)
    end = walk(world, steps)
    return {"sampler": name, "steps": steps, "calls": world.calls, "start": world.start.ravel().tolist(),
            "noise": [n.ravel().tolist() for n in world.noises], "end": end.ravel().tolist()}


def main():
    runs = [run("restart", restart, n, n) for n in (6, 24, 40)] + [run("er_sde", er_sde, n, n) for n in (3, 6, 20)]
    values = {"toy": TOY, "shape": SHAPE, "runs": runs,
              "schedules": {name: {str(n): levels(n).tolist() for n in (1, 4, 10, 30)} for name, levels in SCHEDULES.items()}}
    folder = Path(__file__).resolve().parent.parent / "crates/latent-sampling/tests/fixtures/samplers"
    (folder / "papers.json").write_text(json.dumps(values, indent=1) + "\n")


main()

"""Makes `crates/latent/tests/fixtures/guidance`: whole runs of tiny models with guidance beside the plain one.

`python tools/make_guidance_values.py`, with torch 2.15.0, diffusers 0.42.1, transformers 5.24.0 and DeepCache 0.1.1. Perturbed
attention comes from diffusers' pipelines, adaptive projected guidance and intervals from its guiders, cached features from
DeepCache's helper; CFG++ and thresholding follow their published formulas, written out below. `case.json` holds each run as a
request of Latent's, `expected.safetensors` its final latents.
"""
import json
import pathlib

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import (DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionPAGPipeline,
                       StableDiffusionPipeline, StableDiffusionXLPAGPipeline, StableDiffusionXLPipeline)
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from safetensors.torch import save_file

crates = pathlib.Path(__file__).parent.parent / "crates"
models, out = crates / "latent-models" / "tests" / "fixtures", crates / "latent" / "tests" / "fixtures" / "guidance"
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
PROMPT, NEGATIVE = "a photo of an astronaut riding a horse on mars", "blurry, low quality"
SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler_a": EulerAncestralDiscreteScheduler}
cases, values = {}, {}


def pipeline(model, scheduler):
    kind = StableDiffusionXLPipeline if model == "sdxl-tiny" else StableDiffusionPipeline
    pipe = kind.from_pretrained(models / model, torch_dtype=torch.float32, safety_checker=None)
    more = {"clip_sample": False} if scheduler == "ddim" else {}
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def keep(name, model, pipe, latents, **request):
    scheduler = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_") or k == "_class_name"}
    scheduler["_class_name"] = type(pipe.scheduler).__name__
    cases[name] = {"model": model, "request": {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "seeds": [11], "steps": 6, "width": side(model), "height": side(model),
        "scheduler_config": scheduler, **request}}
    values[name] = latents.contiguous()
    # What is tested must be seen: a run without it is far from this one.
    usual = call(pipeline(model, {v: k for k, v in SCHEDULERS.items()}[type(pipe.scheduler)]), model,
                 guidance_scale=request["guidance"])
    far = ((usual - latents).abs().max() / usual.abs().max()).item()
    assert far > 0.005, f"{name} is within {far} of plain guidance"


def side(model):
    return 32 if model == "sdxl-tiny" else 64


def call(pipe, model, **more):
    more = {"negative_prompt": NEGATIVE, **more}
    return pipe(prompt=PROMPT, num_inference_steps=6, height=side(model), width=side(model), output_type="latent",
                generator=torch.Generator().manual_seed(11), **more).images


def perturbed(name, model, scheduler, guidance, pag, **more):
    pipe = pipeline(model, scheduler)
    kind = StableDiffusionXLPAGPipeline if model == "sdxl-tiny" else StableDiffusionPAGPipeline
    layers = pag.get("layers", ["mid"])
    pipe = kind(**pipe.components, pag_applied_layers=layers)
    pipe.set_progress_bar_config(disable=True)
    latents = call(pipe, model, guidance_scale=guidance, pag_scale=pag["scale"],
                   pag_adaptive_scale=pag.get("adaptive_scale", 0.0), **more)
    keep(name, model, pipe, latents, guidance=guidance, pag=pag, **more)


@torch.no_grad()
def walk(pipe, guide, step=None, negative=None):
    """A run that asks `guide(call, calls, t, x, cond, uncond)` for its output, and `step` for the next latents."""
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    if negative == "zeros":
        uncond = torch.zeros_like(cond)
    generator = torch.Generator().manual_seed(11)
    pipe.scheduler.set_timesteps(6)
    times = pipe.scheduler.timesteps
    x = torch.randn((1, 4, 8, 8), generator=generator) * pipe.scheduler.init_noise_sigma
    for k, t in enumerate(times):
        told = uncond if negative is None or negative == "zeros" else pipe.encode_prompt(negative(k), "cpu", 1, False)[0]
        seen = pipe.scheduler.scale_model_input(x, t)
        found = [pipe.unet(seen, t, encoder_hidden_states=text).sample for text in (cond, told)]
        output = guide(k, len(times), t, seen, *found)
        x = step(k, t, x, output, found[1], generator) if step else pipe.scheduler.step(output, t, x).prev_sample
    return x


def plain(strength):
    return lambda k, n, t, x, cond, uncond: uncond + strength * (cond - uncond)


def guided_by(guider):
    def guide(k, n, t, x, cond, uncond):
        guider.set_state(k, n, t)
        if k == 0 and isinstance(guider, AdaptiveProjectedGuidance):
            guider.momentum_buffer = MomentumBuffer(guider.adaptive_projected_guidance_momentum)
        return guider.forward(cond, uncond).pred
    return guide


def levels(pipe, t):
    alpha_bar = pipe.scheduler.alphas_cumprod[int(t)]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def clean(pipe, t, x, output):
    a, s = levels(pipe, t)
    return a * x - s * output if pipe.scheduler.config.prediction_type == "v_prediction" else (x - s * output) / a


def output_of(pipe, t, x, clean):
    a, s = levels(pipe, t)
    return (a * x - clean) / s if pipe.scheduler.config.prediction_type == "v_prediction" else (x - a * clean) / s


def projected_clean(pipe, strength, apg):
    """Sadat et al. 2024, Algorithm 1, by diffusers' function on clean latents."""
    buffer = MomentumBuffer(apg["momentum"])

    def guide(k, n, t, x, cond, uncond):
        cond, uncond = clean(pipe, t, x, cond), clean(pipe, t, x, uncond)
        found = normalized_guidance(cond, uncond, strength - 1, buffer, apg["eta"], apg["norm_threshold"], True)
        return output_of(pipe, t, x, found)
    return guide


def mimic(pipe, strength, weaker, percentile):
    """sd-dynamic-thresholding: separate channels, from the mean, by absolute values."""
    def guide(k, n, t, x, cond, uncond):
        cond, uncond = clean(pipe, t, x, cond), clean(pipe, t, x, uncond)
        strong, weak = uncond + strength * (cond - uncond), uncond + weaker * (cond - uncond)
        mean = strong.mean((2, 3), keepdim=True)
        target = (weak - weak.mean((2, 3), keepdim=True)).abs().amax((2, 3), keepdim=True)
        centred = strong - mean
        most = torch.quantile(centred.abs().flatten(2), percentile, dim=2)[..., None, None].maximum(target)
        return output_of(pipe, t, x, centred.clamp(-most, most) / most * target + mean)
    return guide


def imagen(pipe, strength, percentile):
    """Saharia et al. 2022, section 2.3."""
    def guide(k, n, t, x, cond, uncond):
        found = clean(pipe, t, x, plain(strength)(k, n, t, x, cond, uncond))
        most = torch.quantile(found.abs().flatten(1), percentile, dim=1).clamp(min=1)
        return output_of(pipe, t, x, found.clamp(-most, most) / most)
    return guide


def ddim_plus_plus(pipe):
    """Chung et al. 2024, Algorithm 2."""
    def step(k, t, x, output, unguided, generator):
        before = int(t) - 1000 // 6
        alpha_bar = pipe.scheduler.alphas_cumprod[before] if before >= 0 else pipe.scheduler.final_alpha_cumprod
        a, s = levels(pipe, t)
        v = pipe.scheduler.config.prediction_type == "v_prediction"
        noise = s * x + a * unguided if v else unguided
        return alpha_bar.sqrt() * clean(pipe, t, x, output) + (1 - alpha_bar).sqrt() * noise
    return step


def euler_plus_plus(pipe, ancestral):
    """The same in sigma, as its authors' `euler_cfg++` and `euler_a_cfg++`."""
    def step(k, t, x, output, unguided, generator):
        now, after = pipe.scheduler.sigmas[k].double(), pipe.scheduler.sigmas[k + 1].double()
        up = (after ** 2 * (now ** 2 - after ** 2) / now ** 2).sqrt() if ancestral else 0 * after
        down = (after ** 2 - up ** 2).sqrt()
        x = (x - now * output) + down * unguided
        pipe.scheduler._step_index = k + 1
        return (x + up * torch.randn(x.shape, generator=generator)).float() if ancestral else x.float()
    return step


perturbed("pag", "sd1-tiny", "ddim", 7.5, {"scale": 3.0})
perturbed("pag_alone", "sd1-tiny", "ddim", 1.0, {"scale": 3.0})
perturbed("pag_adaptive", "sd1-tiny", "euler", 5.0, {"scale": 3.0, "adaptive_scale": 0.005})
perturbed("pag_layers", "sd1-tiny", "euler", 5.0, {"scale": 2.0, "layers": ["down_blocks.1", "up_blocks.2.attentions.1"]})
perturbed("pag_rescaled", "sd1-tiny", "ddim", 7.5, {"scale": 3.0}, guidance_rescale=0.7)
perturbed("pag_v", "sd2-tiny", "ddim", 7.5, {"scale": 3.0})
perturbed("pag_xl", "sdxl-tiny", "euler", 5.0, {"scale": 3.0})

for name, model, scheduler, ends in [("interval", "sd1-tiny", "ddim", (0.2, 0.7)), ("interval_v", "sd2-tiny", "euler", (0.0, 0.5))]:
    pipe = pipeline(model, scheduler)
    guider = ClassifierFreeGuidance(7.5, start=ends[0], stop=ends[1])
    keep(name, model, pipe, walk(pipe, guided_by(guider)), guidance=7.5, guidance_interval={"from": ends[0], "to": ends[1]})
pipe = pipeline("sd1-tiny", "ddim")
within = lambda t: 0.5 < levels(pipe, t)[1] / levels(pipe, t)[0] <= 5.0
latents = walk(pipe, lambda k, n, t, x, cond, uncond: uncond + 7.5 * (cond - uncond) if within(t) else cond)
keep("interval_sigma", "sd1-tiny", pipe, latents, guidance=7.5, guidance_interval={"from": 5.0, "to": 0.5, "by": "sigma"})

apg = {"eta": 0.25, "norm_threshold": 2.0, "momentum": -0.5, "space": "output"}
for name, model, scheduler in [("apg_output", "sd1-tiny", "euler"), ("apg_output_v", "sd2-tiny", "ddim")]:
    pipe = pipeline(model, scheduler)
    # As published: from the wanted output on, with a strength one less.
    guider = AdaptiveProjectedGuidance(11.0, apg["momentum"], apg["norm_threshold"], None, apg["eta"], use_original_formulation=True)
    keep(name, model, pipe, walk(pipe, guided_by(guider)), guidance=12.0, guidance_method="apg", apg=apg)
for name, model, threshold in [("apg", "sd1-tiny", 2.0), ("apg_v", "sd2-tiny", 15.0)]:
    pipe = pipeline(model, "ddim")
    apg = {"eta": 0.0, "norm_threshold": threshold, "momentum": -0.5}
    keep(name, model, pipe, walk(pipe, projected_clean(pipe, 12.0, apg)), guidance=12.0, guidance_method="apg", apg=apg)

for name, model, scheduler in [("plus_plus", "sd1-tiny", "ddim"), ("plus_plus_v", "sd2-tiny", "ddim"),
                               ("plus_plus_euler", "sd1-tiny", "euler"), ("plus_plus_euler_a", "sd1-tiny", "euler_a")]:
    pipe = pipeline(model, scheduler)
    step = ddim_plus_plus(pipe) if scheduler == "ddim" else euler_plus_plus(pipe, scheduler == "euler_a")
    keep(name, model, pipe, walk(pipe, plain(0.7), step), guidance=0.7, guidance_method="cfg++")

for name, model in [("mimic", "sd1-tiny"), ("mimic_v", "sd2-tiny")]:
    pipe = pipeline(model, "ddim")
    latents = walk(pipe, mimic(pipe, 15.0, 7.0, 0.95))
    keep(name, model, pipe, latents, guidance=15.0, thresholding={"percentile": 0.95, "mimic": 7.0})
pipe = pipeline("sd1-tiny", "ddim")
keep("imagen", "sd1-tiny", pipe, walk(pipe, imagen(pipe, 9.0, 0.9)), guidance=9.0, thresholding={"percentile": 0.9})

keep("zeros", "sd1-tiny", pipe, walk(pipe, plain(7.5), negative="zeros"), guidance=7.5, negative_prompt="",
     force_zeros_for_empty_prompt=True)
# A1111 asks whether the step, from 0, is at most the one at whose end words change.
latents = walk(pipe, plain(7.5), negative=lambda k: "fog" if k <= 3 else "rain")
keep("negative_changes", "sd1-tiny", pipe, latents, guidance=7.5, negative_prompt="[fog:rain:0.5]", weights="a1111")

for name, model, scheduler, interval, branch in [
        ("cache", "sd1-tiny", "ddim", 3, 0), ("cache_deeper", "sd1-tiny", "euler", 2, 4), ("cache_middle", "sd1-tiny", "ddim", 2, 1),
        ("cache_xl", "sdxl-tiny", "euler", 2, 0), ("cache_xl_deeper", "sdxl-tiny", "euler", 3, 3)]:
    pipe = pipeline(model, scheduler)
    helper = DeepCacheSDHelper(pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    latents = call(pipe, model, guidance_scale=7.5)
    helper.disable()
    keep(name, model, pipe, latents, guidance=7.5, cache={"interval": interval, "branch": branch})

for name, run in cases.items():
    if run["model"] == "sdxl-tiny":
        # diffusers takes zeros for a missing negative prompt only.
        run["request"]["force_zeros_for_empty_prompt"] = False
out.mkdir(exist_ok=True)
(out / "case.json").write_text(json.dumps(cases, indent=1) + "\n")
save_file(values, out / "expected.safetensors")

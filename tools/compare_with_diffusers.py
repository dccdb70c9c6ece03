"""Draws with Python's diffusers from a model folder and compares with the latents that `latent generate` saved.

    latent export built-in
    latent generate "a red apple, 3d style" --model built-in --seed 1 --steps 20 --sampler ddim --guidance 5 \
        --precision f32 --save-latents ours.safetensors -o ours.png
    python tools/compare_with_diffusers.py built-in ours.safetensors --prompt "a red apple, 3d style" --seed 1 \
        --steps 20 --sampler ddim --guidance 5 --save theirs.png

With a LoRA of `latent train lora`, or any other: `--lora FILE` here and there; Stable Diffusion XL too. The LoRA goes through
diffusers' `load_lora_weights`, which needs peft.

Prints the largest difference relative to the largest latent and fails above --tolerance.
Needs torch, diffusers, transformers, safetensors.
"""
import argparse
import sys

import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler,
                       EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler,
                       UniPCMultistepScheduler)
from safetensors.torch import load_file

# Each with keys that its name stands for, and keys that hold unless the folder's scheduler is of the same class or, the
# first, states them. Latents are not bounded: published folders state `clip_sample: false`, and diffusers' Stable Diffusion
# pipelines switch it off when they are made, but not when a scheduler is put in its place later. Multistep solvers keep their
# even spacing, as their results in the field do.
UNBOUNDED = {"clip_sample": False}
EVEN = {"timestep_spacing": "linspace"}
SAMPLERS = {
    "ddim": (DDIMScheduler, {}, UNBOUNDED),
    "ddpm": (DDPMScheduler, {}, UNBOUNDED),
    "euler": (EulerDiscreteScheduler, {}, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}, {}),
    "heun": (HeunDiscreteScheduler, {}, {}),
    "pndm": (PNDMScheduler, {}, {"skip_prk_steps": True}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}, EVEN),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, EVEN),
    "unipc": (UniPCMultistepScheduler, {}, EVEN),
}


def scheduler(name, folder):
    """The sampler of that name for a model whose folder has the given scheduler."""
    kind, own, other = SAMPLERS[name]
    if kind is type(folder):
        other = {}
    stated = lambda key: key in folder.config and key not in folder.config.get("_use_default_values", [])
    kept = {key: value for key, value in other.items() if other is EVEN or not stated(key)}
    return kind.from_config(folder.config, **kept, **own)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("latents")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--save")
    parser.add_argument("--lora")
    a = parser.parse_args()

    pipeline = DiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    if a.lora:
        pipeline.load_lora_weights(a.lora)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler(a.sampler, pipeline.scheduler)
    ours = load_file(a.latents)["latents"]
    scale = pipeline.vae_scale_factor
    call = dict(prompt=a.prompt, negative_prompt=a.negative, num_inference_steps=a.steps, guidance_scale=a.guidance,
                height=ours.shape[2] * scale, width=ours.shape[3] * scale)
    draw = lambda kind: pipeline(**call, generator=torch.Generator().manual_seed(a.seed), output_type=kind).images
    theirs = draw("latent")
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"largest difference {difference:.2e} of the largest latent, tolerance {a.tolerance:.0e}")
    if a.save:
        draw("pil")[0].save(a.save)
    sys.exit(difference > a.tolerance)


if __name__ == "__main__":
    main()

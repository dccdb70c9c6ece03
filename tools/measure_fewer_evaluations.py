"""Measures what fewer steps, guidance in an interval and cached features save, and how far their pictures lie from the usual ones.

`python tools/measure_fewer_evaluations.py target/release/latent` draws eight pictures of the built-in model for each case and
prints the median processor time of a program that draws two, and the median and least PSNR to the same pictures without it.
Needs numpy and pillow.
"""
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

PROMPTS = ["a red apple, 3d style", "a fox, flat style", "a house in the snow, comic style", "a bicycle, pixel art"]
CASES = [["--fast=false"], ["--guidance-interval", "0.1:0.7"], ["--guidance-interval", "0:0.5"], ["--cache-interval", "2"],
         ["--cache-interval", "3"], ["--cache-interval", "3", "--cache-branch", "3"], ["--cache-interval", "5"],
         ["--cache-interval", "2", "--guidance-interval", "0.1:0.7"], ["--steps", "12"], ["--steps", "8"], ["--fast"]]


def spent():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def draw(folder, prompt, seed, flags):
    before = spent()
    command = [sys.argv[1], "generate", prompt, "--seed", str(seed), "--count", "2", "--device", "cpu", "--json"]
    said = subprocess.run([*command, "-o", str(folder / "a.png"), *flags], capture_output=True, text=True, check=True).stdout
    paths = [json.loads(line)["path"] for line in said.splitlines()]
    return spent() - before, [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in paths]


usual = {}
with tempfile.TemporaryDirectory() as folder:
    for flags in CASES:
        seconds, near = [], []
        for k, prompt in enumerate(PROMPTS):
            took, pictures = draw(pathlib.Path(folder), prompt, 10 * k + 1, flags)
            seconds.append(took)
            for known, picture in zip(usual.setdefault(prompt, pictures), pictures):
                near.append(10 * np.log10(255 ** 2 / max(((known - picture) ** 2).mean(), 1e-9)))
        print(f"{' '.join(flags):50} {np.median(seconds):.2f} s, {np.median(near):.1f} dB, least {min(near):.1f}")

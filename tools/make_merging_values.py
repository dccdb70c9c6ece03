"""Makes `crates/latent-models/tests/fixtures/token-merging`: a tiny U-Net with merged tokens.

`python tools/make_merging_values.py`, with torch 2.15.0, diffusers 0.42.1 and tomesd 0.1.3. Batches are odd, for which tomesd
keeps the first of each square of four tokens.
"""
import pathlib

import tomesd
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

fixtures = pathlib.Path(__file__).parent.parent / "crates" / "latent-models" / "tests" / "fixtures"
torch.set_num_threads(1)
torch.manual_seed(5)
unet = UNet2DConditionModel.from_pretrained(fixtures / "sd1-tiny", subfolder="unet")
values = {}




for name, n, (h, w), ratio in [("half", 1, (16, 16), 0.5), ("few", 3, (8, 12), 0.2), ("most", 1, (16, 8), 0.75), ("wide", 3, (12, 20), 0.6)]:
    sample = torch.randn(n, unet.config.in_channels, h, w)
    text = torch.randn(n, 7, unet.config.cross_attention_dim)
    timestep = torch.full((n,), 481.0)
    with torch.no_grad():
        plain = unet(sample, timestep, text).sample
        tomesd.apply_patch(unet, ratio=ratio)
        merged = unet(sample, timestep, text).sample
        tomesd.remove_patch(unet)
    far = ((plain - merged).abs().max() / plain.abs().max()).item()
    print(name, far)
    assert far > 1e-3, "merging changes nothing"
    values |= {f"{name}/sample": sample, f"{name}/text": text, f"{name}/out": merged.contiguous()}
out = fixtures / "token-merging"
out.mkdir(exist_ok=True)
save_file(values, out / "expected.safetensors")

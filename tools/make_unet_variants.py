"""Makes small U-Nets of the kinds that distilled models have, and what diffusers 0.42.1 computes with them.

`python tools/make_unet_variants.py` writes folders of `crates/latent-models/tests/fixtures`: `ssd-tiny` (SSD-1B, Segmind-Vega:
other transformers after each block, a middle without one), `bk-sdm-tiny` (BK-SDM: fewer blocks, no middle) and `lcm-tiny` (LCM:
told the strength of guidance). Weights are seeded normal numbers, stored in f16.
"""
import pathlib
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

fixtures = pathlib.Path(__file__).parent.parent / "crates" / "latent-models" / "tests" / "fixtures"
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 1
            value = torch.randn(p.shape, generator=generator) * (fan ** -0.5 if p.dim() > 1 else 0.1)
            if p.dim() == 1 and "norm" in name and name.endswith("weight"):
                value += 1
            p.copy_(value.half())
    return model.eval()


@torch.no_grad()
def make(name, more, **config):
    model = seeded(UNet2DConditionModel(sample_size=8, norm_num_groups=4, attention_head_dim=2, cross_attention_dim=6, **config))
    tensors = {"sample": normal((2, 4, 7, 6), 6), "timestep": torch.tensor([3, 961]), "text": normal((2, 5, 6), 7), **more}
    told = {"encoder_hidden_states": tensors["text"]}
    if "time_ids" in more:
        told["added_cond_kwargs"] = {"text_embeds": more["text_embeds"], "time_ids": more["time_ids"]}
    if "guidance" in more:
        embed = StableDiffusionPipeline.get_guidance_scale_embedding
        told["timestep_cond"] = embed(None, more["guidance"] - 1, embedding_dim=config["time_cond_proj_dim"])
    tensors["out"] = model(tensors["sample"], tensors["timestep"], **told).sample
    save_file(tensors, folder_of(name) / "expected.safetensors")
    model.half().save_pretrained(folder_of(name) / "unet")


def folder_of(name):
    folder = fixtures / name
    folder.mkdir(exist_ok=True)
    return folder


sizes = torch.tensor([[512.0, 768, 16, 32, 1024, 1024], [64, 64, 0, 0, 64, 64]])
make("ssd-tiny", {"text_embeds": normal((2, 6), 8), "time_ids": sizes}, block_out_channels=(8, 8, 16), layers_per_block=2,
     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), mid_block_type="UNetMidBlock2D",
     up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
     transformer_layers_per_block=[1, [2, 1], [1, 2]], reverse_transformer_layers_per_block=[[2, 1, 1], [1, 2, 1], 1],
     addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=30)
make("bk-sdm-tiny", {}, block_out_channels=(8, 16), layers_per_block=1, mid_block_type=None,
     down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
make("lcm-tiny", {"guidance": torch.tensor([8.5, 8.5])}, block_out_channels=(8, 16), layers_per_block=1, time_cond_proj_dim=8,
     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))

"""Makes what tells a U-Net of pictures, small and with seeded weights, and what diffusers 0.42.1 computes with it.

`python tools/make_adapter_values.py` (torch 2.15.0, transformers 5.24.0 without torchvision, so that pictures are resized by
PIL) reads `sd1-tiny` and `sdxl-tiny` of `crates/latent-models/tests/fixtures` and writes two folders beside them:

- `sdxl-adapters`: a ControlNet for Stable Diffusion XL in diffusers' layout and in that of latent diffusion's code, the first
  layer of an inpainting U-Net, and whole runs with them;
- `ip-adapter`: a CLIP image encoder, IP-Adapters of both families in the layout of h94's files, plain, with a resampler, and
  one as a pickle; what the encoder makes of pictures, the tokens of the adapters, and whole runs.

Weights are normal numbers, rounded to f16.
"""
import json, math, pathlib, re, shutil, warnings
warnings.filterwarnings("ignore")
import torch
from diffusers import (ControlNetModel, DDIMScheduler, EulerDiscreteScheduler, MultiControlNetModel, StableDiffusionPipeline,
                       StableDiffusionXLControlNetPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
fixtures = pathlib.Path(__file__).parent.parent / "crates" / "latent-models" / "tests" / "fixtures"
PROMPT, NEGATIVE = "a photo of an astronaut riding a horse on mars", "blurry, low quality"
STEPS = 6


def gen(seed):
    return torch.Generator().manual_seed(seed)


def seeded(model, seed, gains=()):
    g = gen(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            gain = next((x for part, x in gains if part in name), 1.0)
            if p.ndim >= 2: p.copy_(r * gain / math.sqrt(math.prod(p.shape[1:])))
            elif "norm" in name and name.endswith("weight"): p.copy_(1 + 0.15 * r)
            else: p.copy_(0.1 * r * gain)
            p.copy_(p.half().float())
    return model.eval().requires_grad_(False)


def picture(h, w, seed):
    """A smooth picture with a little noise, `[h, w, 3]` of bytes."""
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    g, planes = gen(seed), []
    for _ in range(3):
        f = torch.rand(4, generator=g) * 6 + 1
        planes.append(0.5 + 0.25 * torch.sin(f[0] * x * 3.1 + f[1]) + 0.25 * torch.cos(f[2] * y * 3.1 + f[3] * x))
    p = torch.stack(planes, -1) + 0.1 * torch.randn(h, w, 3, generator=g)
    return (p.clamp(0, 1) * 255).round().to(torch.uint8)


def in_unit(p):
    return p.permute(2, 0, 1)[None].float() / 255


def half(tensors):
    return {k: v.half().contiguous().clone() for k, v in sorted(tensors.items())}


def scheduler(name):
    common = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    if name == "ddim": return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False)
    return EulerDiscreteScheduler(**common, timestep_spacing="leading")


class Runs:
    def __init__(self):
        self.values, self.cases = {}, {}

    @torch.no_grad()
    def __call__(self, pipe, name, sampler, seed=11, told=None, **call):
        pipe.scheduler = scheduler(sampler)
        out = pipe(prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, generator=gen(seed), output_type="latent", **call)
        latents = out.images
        assert torch.isfinite(latents).all(), name
        self.values[f"run/{name}/latents_final"] = latents
        config = {k: v for k, v in dict(pipe.scheduler.config).items() if not k.startswith("_")}
        kept = {k: v for k, v in call.items() if isinstance(v, (int, float, str, bool)) or isinstance(v, list) and isinstance(v[0], float)}
        kept.update(prompt=PROMPT, negative_prompt=NEGATIVE)
        self.cases[name] = dict(scheduler_class=type(pipe.scheduler).__name__, scheduler_config=config, steps=STEPS, seeds=[seed], call=kept, **(told or {}))
        print(name, float(latents.std()))

    def write(self, folder, more):
        save_file({k: v.contiguous().clone() for k, v in sorted({**self.values, **more}.items())}, folder / "expected.safetensors")
        (folder / "case.json").write_text(json.dumps({"runs": self.cases}, indent=1) + "\n")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fresh(folder):
    (folder.exists() and shutil.rmtree(folder)), folder.mkdir()
    return folder


def unet_name(name, layers):
    """A tensor of a U-Net's or ControlNet's encoder as latent diffusion's code calls it."""
    ends = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
            "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    for ours, theirs in ends.items():
        if name.startswith(ours + "."): return theirs + name[len(ours):]
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
              "conv_shortcut": "skip_connection"}
    part = lambda rest: ".".join([inside.get(rest.split(".")[0], rest.split(".")[0])] + rest.split(".")[1:])
    if m := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name): return f"middle_block.{2 * int(m[1])}.{part(m[2])}"
    if m := re.match(r"mid_block\.attentions\.0\.(.*)", name): return f"middle_block.1.{m[1]}"
    if m := re.match(r"down_blocks\.(\d)\.resnets\.(\d)\.(.*)", name): return f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[2])}.0.{part(m[3])}"
    if m := re.match(r"down_blocks\.(\d)\.attentions\.(\d)\.(.*)", name): return f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[2])}.1.{m[3]}"
    if m := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name): return f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op.{m[2]}"
    raise KeyError(name)


def authors_name(name, control):
    """The same of a whole ControlNet, as `cldm.py` has it."""
    kind = name.split(".")[-1]
    if name.startswith("controlnet_cond_embedding."):
        count = len(control.controlnet_cond_embedding.blocks)
        if ".conv_in." in name: return f"input_hint_block.0.{kind}"
        if ".conv_out." in name: return f"input_hint_block.{2 * count + 2}.{kind}"
        return f"input_hint_block.{2 * int(name.split('.')[2]) + 2}.{kind}"
    if name.startswith("controlnet_down_blocks."): return f"zero_convs.{name.split('.')[1]}.0.{kind}"
    if name.startswith("controlnet_mid_block."): return f"middle_block_out.0.{kind}"
    return unet_name(name, control.config.layers_per_block)


def xl_parts(pipe):
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    return {name: getattr(pipe, name) for name in names}


@torch.no_grad()
def sdxl_adapters():
    folder = fresh(fixtures / "sdxl-adapters")
    base = quiet(StableDiffusionXLPipeline.from_pretrained(fixtures / "sdxl-tiny", torch_dtype=torch.float32, add_watermarker=False))
    parts, runs, more = xl_parts(base), Runs(), {}
    control = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 8, 8))
    control = seeded(control, 31, (("controlnet_down_blocks", 0.4), ("controlnet_mid_block", 0.4)))
    control.save_pretrained(folder / "controlnet")
    weights = control.state_dict()
    save_file(half(weights), folder / "controlnet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    save_file(half({"control_model." + authors_name(k, control): v for k, v in weights.items()}), folder / "controlnet_sgm.safetensors")

    a, b = picture(32, 32, 32), picture(32, 32, 33)
    more["seen/a"], more["seen/b"] = a, b
    size = dict(height=32, width=32, guidance_scale=5.0)
    one = quiet(StableDiffusionXLControlNetPipeline(**parts, controlnet=control, add_watermarker=False))
    runs(one, "controlnet", "euler", image=in_unit(a), **size)
    runs(one, "controlnet_window", "ddim", image=in_unit(a), controlnet_conditioning_scale=0.6, control_guidance_start=0.2, control_guidance_end=0.7, **size)
    runs(one, "controlnet_guess", "euler", seed=23, image=in_unit(a), guess_mode=True, **{**size, "guidance_scale": 3.0})
    two = quiet(StableDiffusionXLControlNetPipeline(**parts, controlnet=MultiControlNetModel([control, control]), add_watermarker=False))
    runs(two, "controlnet_two", "euler", image=[in_unit(a), in_unit(b)], controlnet_conditioning_scale=[0.5, 0.8], **size)

    config = {k: v for k, v in dict(base.unet.config).items() if not k.startswith("_")}
    inpainting = UNet2DConditionModel(**{**config, "in_channels": 9})
    first = seeded(torch.nn.Conv2d(9, 8, 3), 34).weight
    inpainting.load_state_dict({**base.unet.state_dict(), "conv_in.weight": first})
    save_file({"conv_in.weight": first.half()}, folder / "inpainting_conv_in.safetensors")
    more["inpaint/picture"], mask = picture(32, 32, 35), torch.zeros(32, 32)
    mask[8:24, 10:26] = 1
    more["inpaint/mask"] = mask.to(torch.uint8)
    paint = quiet(StableDiffusionXLInpaintPipeline(**{**parts, "unet": inpainting}, add_watermarker=False))
    shown = dict(image=in_unit(more["inpaint/picture"]), mask_image=mask[None, None], **size)
    runs(paint, "inpaint_ddim", "ddim", strength=0.75, **shown)
    runs(paint, "inpaint_euler_full", "euler", strength=1.0, **shown)
    runs.write(folder, more)


def attention_layers(unet):
    """Channels of the layers that look at text, in the order in which h94's files count them."""
    return [unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0] for name in unet.attn_processors if ".attn2." in name]


def layers_of(unet, g):
    width, tensors = unet.config.cross_attention_dim, {}
    for index, channels in enumerate(attention_layers(unet)):
        for kind in ("to_k_ip", "to_v_ip"):
            tensors[f"{2 * index + 1}.{kind}.weight"] = torch.randn(channels, width, generator=g) / math.sqrt(width)
    return tensors


def plain(unet, seed, embedding, tokens=4):
    g, width = gen(seed), unet.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(tokens * width, embedding, generator=g) / math.sqrt(embedding),
        "proj.bias": 0.1 * torch.randn(tokens * width, generator=g),
        "norm.weight": 1 + 0.15 * torch.randn(width, generator=g),
        "norm.bias": 0.1 * torch.randn(width, generator=g),
    }
    return {"image_proj": projection, "ip_adapter": layers_of(unet, g)}


def plus(unet, seed, states, hidden=16, tokens=5, heads=1, depth=4):
    """With Resampler of tencent-ailab's `resampler.py`, whose heads are 64 wide."""
    g, width, inner = gen(seed), unet.config.cross_attention_dim, 64 * heads
    matrix = lambda rows, columns: torch.randn(rows, columns, generator=g) / math.sqrt(columns)
    vector = lambda size: 0.1 * torch.randn(size, generator=g)
    p = {"latents": torch.randn(1, tokens, hidden, generator=g), "proj_in.weight": matrix(hidden, states), "proj_in.bias": vector(hidden),
         "proj_out.weight": matrix(width, hidden), "proj_out.bias": vector(width), "norm_out.weight": 1 + vector(width), "norm_out.bias": vector(width)}
    for layer in range(depth):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            p[f"layers.{layer}.{norm}.weight"], p[f"layers.{layer}.{norm}.bias"] = 1 + vector(hidden), vector(hidden)
        for name, rows, columns in (("0.to_q", inner, hidden), ("0.to_kv", 2 * inner, hidden), ("0.to_out", hidden, inner),
                                    ("1.1", 4 * hidden, hidden), ("1.3", hidden, 4 * hidden)):
            p[f"layers.{layer}.{name}.weight"] = matrix(rows, columns)
    return {"image_proj": p, "ip_adapter": layers_of(unet, g)}


def full(unet, seed, states):
    """With the two layers over every state of the "full face" adapter."""
    g, width = gen(seed), unet.config.cross_attention_dim
    projection = {
        "proj.0.weight": torch.randn(states, states, generator=g) / math.sqrt(states), "proj.0.bias": 0.1 * torch.randn(states, generator=g),
        "proj.2.weight": torch.randn(width, states, generator=g) / math.sqrt(states), "proj.2.bias": 0.1 * torch.randn(width, generator=g),
        "proj.3.weight": 1 + 0.15 * torch.randn(width, generator=g), "proj.3.bias": 0.1 * torch.randn(width, generator=g),
    }
    return {"image_proj": projection, "ip_adapter": layers_of(unet, g)}


def rounded(adapter):
    return {part: {k: v.half().float() for k, v in tensors.items()} for part, tensors in adapter.items()}


def flat(adapter):
    return half({f"{part}.{k}": v for part, tensors in adapter.items() for k, v in tensors.items()})


@torch.no_grad()
def encoder_values(encoder, more):
    """Pictures of several shapes, what the processor makes of them, and what the encoder does."""
    size = encoder.config.image_size
    processor = CLIPImageProcessor(size=size, crop_size=size)
    for name, (h, w) in (("wide", (37, 53)), ("tall", (90, 61)), ("small", (20, 17)), ("square", (64, 64))):
        seen = picture(h, w, 100 + h)
        pixels = processor(Image.fromarray(seen.numpy()), return_tensors="pt").pixel_values
        out = encoder(pixels, output_hidden_states=True)
        more[f"seen/{name}"], more[f"pixels/{name}"] = seen, pixels
        more[f"embeds/{name}"], more[f"states/{name}"] = out.image_embeds, out.hidden_states[-2]
    encoder.config.hidden_act = "quick_gelu"
    quick = CLIPVisionModelWithProjection(encoder.config).eval()
    quick.load_state_dict(encoder.state_dict())
    more["embeds_quick/wide"] = quick(more["pixels/wide"]).image_embeds
    encoder.config.hidden_act = "gelu"


@torch.no_grad()
def ip_adapters():
    folder = fresh(fixtures / "ip-adapter")
    config = CLIPVisionConfig(hidden_size=20, intermediate_size=40, projection_dim=12, num_hidden_layers=3, num_attention_heads=4, image_size=28,
                              patch_size=7, hidden_act="gelu")
    encoder = seeded(CLIPVisionModelWithProjection(config), 41)
    encoder.save_pretrained(folder / "image_encoder")
    stored = load_file(folder / "image_encoder" / "model.safetensors")
    # As transformers 4 names them, which is how they are published.
    stored = {k if k.startswith(("vision_model.", "visual_projection.")) else f"vision_model.{k}": v for k, v in stored.items()}
    save_file(half(stored), folder / "image_encoder" / "model.safetensors", metadata={"format": "pt"})
    runs, more = Runs(), {}
    encoder_values(encoder, more)
    sd1 = StableDiffusionPipeline.from_pretrained(fixtures / "sd1-tiny", torch_dtype=torch.float32, safety_checker=None)
    sdxl = StableDiffusionXLPipeline.from_pretrained(fixtures / "sdxl-tiny", torch_dtype=torch.float32, add_watermarker=False)
    made = {"ip-adapter_sd15": plain(sd1.unet, 51, 12), "ip-adapter-plus_sd15": plus(sd1.unet, 52, 20), "ip-adapter-full_sd15": full(sd1.unet, 55, 20),
            "ip-adapter_sdxl": plain(sdxl.unet, 53, 12), "ip-adapter-plus_sdxl": plus(sdxl.unet, 54, 20)}
    made = {name: rounded(adapter) for name, adapter in made.items()}
    for name, adapter in made.items():
        save_file(flat(adapter), folder / f"{name}.safetensors")
    torch.save({part: {k: v.half() for k, v in t.items()} for part, t in made["ip-adapter_sd15"].items()}, folder / "ip-adapter_sd15.bin")

    shown = {name: Image.fromarray(more[f"seen/{name}"].numpy()) for name in ("wide", "tall", "small", "square")}
    size = encoder.config.image_size

    def told(base, adapters, scales):
        pipe = quiet(type(base)(**{name: getattr(base, name) for name in base.components if name not in ("image_encoder", "feature_extractor")},
                                image_encoder=encoder, feature_extractor=CLIPImageProcessor(size=size, crop_size=size),
                                **({"requires_safety_checker": False} if base is sd1 else {"add_watermarker": False})))
        pipe.unet._load_ip_adapter_weights([made[name] for name in adapters])
        pipe.set_ip_adapter_scale(scales)
        return pipe

    def run(base, name, adapters, pictures, scales, sampler="ddim", window=None):
        pipe = told(base, [name for name in adapters], scales)
        if not name.endswith(("two", "pictures", "window")):
            # The tokens of the wanted and of the unwanted picture.
            embeds = pipe.prepare_ip_adapter_image_embeds([shown[p] for p in pictures], None, "cpu", 1, True)
            tokens = pipe.unet.encoder_hid_proj([embeds[0]])[0]
            more[f"tokens/{adapters[0]}"] = tokens
        images = [shown[p] for p in pictures] if len(adapters) > 1 else [[shown[p] for p in pictures]] if len(pictures) > 1 else shown[pictures[0]]
        side, guidance = (64, 7.5) if base is sd1 else (32, 5.0)
        call = dict(ip_adapter_image=images, height=side, width=side, guidance_scale=guidance)
        if window:
            start, end = window
            active = lambda step: scales[0] if step / STEPS >= start and (step + 1) / STEPS <= end else 0.0
            pipe.set_ip_adapter_scale(active(0))
            call["callback_on_step_end"] = lambda p, step, t, kept: (p.set_ip_adapter_scale(active(step + 1)), {})[1]
        runs(pipe, name, sampler, told=dict(adapters=adapters, pictures=pictures, scales=scales, window=window), **call)
        base.unet.encoder_hid_proj = None
        base.unet.config.encoder_hid_dim_type = None
        base.unet.set_default_attn_processor()

    run(sd1, "sd1_plain", ["ip-adapter_sd15"], ["wide"], [0.6])
    run(sd1, "sd1_plus", ["ip-adapter-plus_sd15"], ["tall"], [1.0], "euler")
    run(sd1, "sd1_full", ["ip-adapter-full_sd15"], ["small"], [0.7])
    run(sd1, "sd1_two", ["ip-adapter_sd15", "ip-adapter-plus_sd15"], ["square", "wide"], [0.5, 0.7])
    run(sd1, "sd1_pictures", ["ip-adapter_sd15"], ["wide", "square"], [0.8])
    run(sd1, "sd1_window", ["ip-adapter_sd15"], ["wide"], [0.9], window=[0.2, 0.7])
    run(sdxl, "sdxl_plain", ["ip-adapter_sdxl"], ["wide"], [0.6], "euler")
    run(sdxl, "sdxl_plus", ["ip-adapter-plus_sdxl"], ["tall"], [1.0])
    runs.write(folder, more)


sdxl_adapters()
ip_adapters()

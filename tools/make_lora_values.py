"""Makes crates/latent-train/tests/fixtures/lora-*.safetensors: LoRA training by PEFT, diffusers and torch.

    python tools/make_lora_values.py

Each file holds factors to begin with (in PEFT's names), a batch of clean latents, noise and timesteps, and what two
updates of AdamW make: losses, the first gradients, the factors at the end. AdamW's eps is large, so that gradients near
zero do not become updates by the signs of their rounding. Three cases: attention of a U-Net with captions read beforehand;
every kind of layer, the text encoder at a rate of its own, min-SNR weights and a class beside the subject; Stable Diffusion
XL with both text encoders. Needs torch, diffusers, transformers, peft, safetensors.
"""
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "crates/latent-models/tests/fixtures"
OUT = ROOT / "crates/latent-train/tests/fixtures"
CAPTIONS = ["a red apple on a table", "a photo of an astronaut"]
CLASS = "a photo of a horse"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALL = ATTENTION + ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj",
                   "conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
RANK, ALPHA, RATE, TEXT_RATE, CLIP, PRIOR, GAMMA = 2, 3.0, 1e-2, 2.5e-3, 0.1, 0.7, 5.0


class Case:
    def __init__(self, model, layers, text_layers):
        folder = MODELS / model
        self.xl = model.startswith("sdxl")
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
        self.parts = {"unet": self.unet}
        self.texts = []
        kinds = [("text_encoder", "tokenizer", CLIPTextModel)]
        if self.xl:
            kinds.append(("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection))
        for part, tokenizer, kind in kinds:
            encoder = kind.from_pretrained(folder / part)
            self.texts.append((encoder, CLIPTokenizer.from_pretrained(folder / tokenizer)))
            self.parts[part] = encoder
        for part in self.parts.values():
            part.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers))
        for encoder, _ in self.texts if text_layers else []:
            inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=text_layers), encoder)
        torch.manual_seed(3)
        for parameter in self.factors().values():
            parameter.data = 0.1 * torch.randn_like(parameter)

    def factors(self):
        found = {}
        for part, model in self.parts.items():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    if part != "unet" and not name.startswith("text_model."):
                        name = "text_model." + name
                    found[f"{part}.{name.replace('.default', '')}"] = parameter
        return found

    def condition(self, texts, cached):
        states, pooled = [], None
        for encoder, tokenizer in self.texts:
            ids = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
            out = encoder(ids, output_hidden_states=self.xl)
            states.append(out.hidden_states[-2] if self.xl else out.last_hidden_state)
            pooled = out[0] if self.xl else None
        states = torch.cat(states, -1)
        # Caches hold halves.
        return (states.half().float() if cached else states), pooled

    def loss(self, batch, texts, cached, gamma):
        noisy = self.schedule.add_noise(batch["clean"], batch["noise"], batch["timesteps"])
        states, pooled = self.condition(texts, cached)
        added = {"text_embeds": pooled, "time_ids": batch["numbers"]} if self.xl else None
        got = self.unet(noisy, batch["timesteps"], states, added_cond_kwargs=added).sample
        error = (got - batch["noise"]).pow(2).mean(dim=(1, 2, 3))
        if gamma:
            snr = compute_snr(self.schedule, batch["timesteps"])
            error = error * torch.minimum(snr, torch.full_like(snr, gamma)) / snr
        return error.mean()


def batch(shape, xl, timesteps):
    made = {"clean": torch.randn(shape), "noise": torch.randn(shape), "timesteps": torch.tensor(timesteps)}
    if xl:
        height, width = shape[2] * 8, shape[3] * 8
        made["numbers"] = torch.tensor([[70.0, 90, 0, 3, height, width], [64, 64, 2, 0, height, width]])
    return made


def run(name, model, layers, text_layers, gamma=None, prior=False):
    case = Case(model, layers, text_layers)
    torch.manual_seed(7)
    own = batch([2, 4, 8, 10], case.xl, [40, 731])
    of_class = batch([2, 4, 8, 8], case.xl, [350, 910]) if prior else None
    factors = case.factors()
    saved = {key: value.detach().clone() for key, value in factors.items()}
    for key in list(saved):
        saved[key.split(".lora_")[0] + ".alpha"] = torch.tensor(ALPHA)
    groups = [{"params": [p for key, p in factors.items() if key.startswith("unet.")], "lr": RATE},
              {"params": [p for key, p in factors.items() if not key.startswith("unet.")], "lr": TEXT_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.99), weight_decay=0.1,
                                  eps=1e-4)
    for step in range(2):
        loss = case.loss(own, CAPTIONS, not text_layers, gamma)
        if prior:
            loss = loss + PRIOR * case.loss(of_class, [CLASS] * 2, not text_layers, gamma)
        optimizer.zero_grad()
        loss.backward()
        saved[f"loss.{step}"] = loss.detach()
        if step == 0:
            for key, parameter in factors.items():
                if parameter.grad is not None:
                    saved[f"gradient/{key}"] = parameter.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_([p for p in factors.values() if p.grad is not None], CLIP)
        saved[f"norm.{step}"] = norm
        optimizer.step()
    for key, parameter in factors.items():
        saved[f"after/{key}"] = parameter.detach().clone()
    for kind, values in [("own", own), ("class", of_class)]:
        for key, value in (values or {}).items():
            saved[f"{kind}/{key}"] = value.float()
    path = OUT / f"lora-{name}.safetensors"
    save_file({key: value.contiguous() for key, value in saved.items()}, path)
    print(path.name, path.stat().st_size, saved["loss.0"].item(), saved["loss.1"].item(), saved["norm.0"].item())


if __name__ == "__main__":
    run("attention", "sd1-tiny", ATTENTION, None)
    run("all", "sd1-tiny", ALL, TEXT, gamma=GAMMA, prior=True)
    run("xl", "sdxl-tiny", ATTENTION, TEXT[:4])

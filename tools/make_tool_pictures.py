"""Writes small pictures that carry settings as A1111, ComfyUI and InvokeAI write them, with the libraries that they use.

    pip install pillow piexif
    python tools/make_tool_pictures.py crates/latent/tests/fixtures/tool-pictures

Each function is named after the tool's own that it follows.
"""

import json
import math
import pathlib
import sys

import piexif
import piexif.helper
from PIL import Image
from PIL.PngImagePlugin import PngInfo

INFOTEXT = (
    "a red fox in the snow, 빨간 여우\n"
    "Negative prompt: blurry, lowres\n"
    "Steps: 4, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3141592653, Size: 64x96, "
    "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Clip skip: 2, Version: v1.10.1"
)

GRAPH = {
    "3": {
        "inputs": {
            "seed": 156680208700286, "steps": 4, "cfg": 8.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
            "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
        "class_type": "KSampler",
        "_meta": {"title": "KSampler"},
        "is_changed": [math.nan],
    },
    "4": {"inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}, "class_type": "CheckpointLoaderSimple"},
    "5": {"inputs": {"width": 64, "height": 96, "batch_size": 1}, "class_type": "EmptyLatentImage"},
    "6": {"inputs": {"text": "a red fox, 빨간 여우", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
    "7": {"inputs": {"text": "blurry", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
    "8": {"inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "class_type": "VAEDecode"},
    "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage"},
}

METADATA = {
    "app_version": "5.4.2", "generation_mode": "txt2img", "positive_prompt": "a red fox, 빨간 여우",
    "negative_prompt": "blurry", "width": 64, "height": 96, "seed": 4294967295, "rand_device": "cpu", "cfg_scale": 6.5,
    "cfg_rescale_multiplier": 0, "steps": 4, "scheduler": "dpmpp_2m_k", "seamless_x": False, "seamless_y": False,
    "clip_skip": 0,
    "model": {"key": "0d", "hash": "blake3:0f", "name": "Stable Diffusion 1.5", "base": "sd-1", "type": "main"},
    "loras": [{"model": {"key": "0e", "name": "snow", "base": "sd-1", "type": "lora"}, "weight": 0.75}],
    "controlnets": [], "ipAdapters": [], "t2iAdapters": [],
}


def picture() -> Image.Image:
    """Colours that change smoothly."""
    image = Image.new("RGB", (16, 24))
    image.putdata([(16 * (k % 16), 10 * (k // 16), 90) for k in range(16 * 24)])
    return image


def save_image_with_geninfo(folder: pathlib.Path) -> None:
    """A1111, `modules/images.py`."""
    info = PngInfo()
    info.add_text("parameters", INFOTEXT)
    picture().save(folder / "a1111.png", pnginfo=info)
    comment = piexif.helper.UserComment.dump(INFOTEXT, encoding="unicode")
    exif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})
    for name in ["a1111.jpg", "a1111.webp"]:
        picture().save(folder / name, quality=80, lossless=True)
        piexif.insert(exif, str(folder / name))


def save_images(folder: pathlib.Path) -> None:
    """ComfyUI, `nodes.py` (PNG) and `comfy_extras/nodes_images.py` (WebP)."""
    info = PngInfo()
    info.add_text("prompt", json.dumps(GRAPH))
    info.add_text("workflow", json.dumps({"nodes": [], "links": []}))
    picture().save(folder / "comfyui.png", pnginfo=info, compress_level=4)
    exif = picture().getexif()
    exif[0x0110] = "prompt:{}".format(json.dumps(GRAPH))
    exif[0x010F] = "workflow:{}".format(json.dumps({"nodes": [], "links": []}))
    picture().save(folder / "comfyui.webp", exif=exif, lossless=True)


def save(folder: pathlib.Path) -> None:
    """InvokeAI, `invokeai/app/services/image_files/image_files_disk.py`."""
    info = PngInfo()
    info.add_text("invokeai_metadata", json.dumps(METADATA))
    info.add_text("invokeai_graph", json.dumps({"nodes": {}, "edges": []}))
    picture().save(folder / "invokeai.png", "PNG", pnginfo=info, compress_level=6)


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    save_image_with_geninfo(target)
    save_images(target)
    save(target)

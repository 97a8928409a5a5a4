"""What do the tests ask ComfyUI to execute?"""

from __future__ import annotations

from typing import Any

CHECKPOINT = "tiny-sdxl.safetensors"


def painting(text: str, *, seed: int = 0, pictures: int = 1, steps: int = 20, guidance: float = 3.0) -> dict[str, Any]:
    """A graph that paints with the tiny base and keeps nothing. Its pictures: ["decode", 0], its model: ["load", 0]."""
    return {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": text}},
        "against": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": ""}},
        # ComfyUI takes a cell of the latents for 8 pixels: these are the base's 64 x 64.
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": pictures}},
        "paint": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["load", 0],
                "positive": ["text", 0],
                "negative": ["against", 0],
                "latent_image": ["empty", 0],
                "seed": seed,
                "steps": steps,
                "cfg": guidance,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["paint", 0], "vae": ["load", 2]}},
    }

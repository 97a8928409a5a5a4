"""Images: from ComfyUI's tensors to PNG files and back, and the metadata of how they were generated.

An image is float in [0, 1], (height, width, 3); a batch (images, height, width, 3).
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .graph import Graph, with_loaded_loras

if TYPE_CHECKING:
    from ...trainer.preferences.images import ImageMetadata

_COMPRESSION = 4  # as ComfyUI's own saving: higher takes seconds for a large picture and gains little


def to_png(image: torch.Tensor, graph: Graph) -> bytes:
    """A PNG file, 8 bits a channel, that names the graph as ComfyUI's own files do.

    The bytes are the same whenever the pixels and the graph are: a picture that comes again is known by them.
    """
    text = PngInfo()
    text.add_text("prompt", json.dumps(graph))
    file = io.BytesIO()
    to_pillow(image).save(file, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return file.getvalue()


def to_pillow(image: torch.Tensor) -> Image.Image:
    """(height, width, 3 or 4) as Pillow has it; what is out of [0, 1] is cut, transparency left out."""
    scaled = (image[..., :3].detach().to("cpu", torch.float32) * 255).round().clamp(0, 255)
    return Image.fromarray(scaled.to(torch.uint8).numpy())


def to_batch(images: list[Image.Image]) -> torch.Tensor:
    """A batch, (images, height, width, 3), of images that have one size."""
    return torch.stack([torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255) for image in images])


def image_metadata(graph: Graph, source: str) -> tuple[str, ImageMetadata]:
    """(prompt, what else is known) of the images that a graph generated. The prompt is empty where none is info."""
    from ...trainer.preferences.images import ImageMetadata
    from ...trainer.preferences.io.infotext import from_graph

    info = from_graph(json.dumps(with_loaded_loras(graph)))
    return info.prompt or "", ImageMetadata(info.seed, info.sampler, info.model, info.lora, source)

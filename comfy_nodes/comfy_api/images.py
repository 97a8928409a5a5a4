"""How do ComfyUI's images become picture files and back, and what does a file say of how it was painted?

An image is float in [0, 1], (height, width, 3); a batch (pictures, height, width, 3).
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from ...trainer.preferences.images import About

Graph = dict[str, Any]
"""What ComfyUI executes: {node id: {"class_type": ..., "inputs": {...}}}."""

_COMPRESSION = 4  # as ComfyUI's own saving: higher takes seconds for a large picture and gains little


def before(graph: Graph, node: str, name: str) -> Graph:
    """The part of `graph` that leads to the input `name` of `node`: what painted those pictures, and nothing else."""
    waiting, found = [_linked(graph, (graph.get(node) or {}).get("inputs", {}).get(name))], set()
    while waiting:
        key = waiting.pop()
        if key is None or key in found:
            continue
        found.add(key)
        waiting += [_linked(graph, value) for value in graph[key].get("inputs", {}).values()]
    # ComfyUI writes its own notes into the nodes while it executes them.
    return {
        key: {name: graph[key][name] for name in graph[key] if name != "is_changed"} for key in graph if key in found
    }


def as_png(image: torch.Tensor, painted_by: Graph) -> bytes:
    """A PNG file, 8 bits a channel, that names the graph as ComfyUI's own files do.

    The bytes are the same whenever the pixels and the graph are: a picture that comes again is known by them.
    """
    text = PngInfo()
    text.add_text("prompt", json.dumps(painted_by))
    file = io.BytesIO()
    picture(image).save(file, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return file.getvalue()


def picture(image: torch.Tensor) -> Image.Image:
    """(height, width, 3 or 4) as Pillow has it; what is out of [0, 1] is cut, transparency left out."""
    scaled = (image[..., :3].detach().to("cpu", torch.float32) * 255).round().clamp(0, 255)
    return Image.fromarray(scaled.to(torch.uint8).numpy())


def image(pictures: list[Image.Image]) -> torch.Tensor:
    """A batch of pictures that have one size."""
    return torch.stack([torch.from_numpy(np.asarray(one.convert("RGB"), np.float32) / 255) for one in pictures])


def about(painted_by: Graph, source: str) -> tuple[str, About]:
    """(prompt, what else is known) of the pictures that a graph painted. The prompt is empty where none is found."""
    from ...trainer.preferences.images import About
    from ...trainer.preferences.io.infotext import from_graph
    from . import loaded

    found = from_graph(json.dumps(loaded.told(painted_by)))
    return found.prompt or "", About(found.seed, found.sampler, found.model, found.lora, source)


def _linked(graph: Graph, value: Any) -> str | None:
    return str(value[0]) if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph else None

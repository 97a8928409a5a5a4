"""Meta-device models: a base of the real size without its weights, for counting what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .noise_schedule import resolve_prediction_type
from .registry import FAMILIES
from .sources import CONFIGS, read_json

if TYPE_CHECKING:
    from .base_model import BaseModel
    from .local_model import LocalModel
    from .sources import Source


def shapes_of(family: str) -> BaseModel:
    """The published model of a family, by its name."""
    return _shapes(family, CONFIGS / family, None)


def shapes_like(base: LocalModel) -> BaseModel:
    """A model of the sizes of `base`, none of whose weights are read."""
    return _shapes(base.family, base.path, base.source)


def _shapes(family: str, path: Path, like: Source | None) -> BaseModel:
    source = _Shapes(path, like)
    row = FAMILIES[family]
    return row.load_class()(source, resolve_prediction_type(source.config("scheduler"), "auto", row.predictions))


class _Shapes:
    """A Source (see sources.py) whose models lie on the meta device, whichever device is asked for."""

    def __init__(self, path: Path, like: Source | None) -> None:
        self.path = path
        self._like = like
        self.names: tuple[str, ...] = like.names if like else ()

    def config(self, component: str) -> dict[str, Any]:
        if self._like:
            return self._like.config(component)
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.path / component / name)

    def files(self, part: str) -> list[Path]:
        return []

    def unet(self, device: torch.device, dtype: torch.dtype, quantize: str = "none") -> nn.Module:
        from diffusers import UNet2DConditionModel

        from .memory_saving.quantize import to_quantized_empty

        with _without_numbers(dtype):
            unet = UNet2DConditionModel.from_config(self.config("unet"))
            return to_quantized_empty(unet, quantize, dtype, torch.device("meta")).requires_grad_(False)

    def vae(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        with _without_numbers(dtype):
            return AutoencoderKL.from_config(self.config("vae")).eval().requires_grad_(False)

    def text_encoder(self, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config = self.config(name)
        projected = config["architectures"] == ["CLIPTextModelWithProjection"]
        with _without_numbers(dtype):
            model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**config))
        return model.eval().requires_grad_(False)

    def tokenizer(self, name: str) -> Any:
        encoder = "text_encoder" + name.removeprefix("tokenizer")
        return _Tokens(int(self.config(encoder)["max_position_embeddings"]))


class _Tokens:
    """A tokenizer that makes the usual number of tokens of any prompt: what they are does not matter here."""

    def __init__(self, max_length: int) -> None:
        self.model_max_length = max_length

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": torch.zeros(len(prompts), self.model_max_length, dtype=torch.long)})


@contextmanager
def _without_numbers(dtype: torch.dtype) -> Iterator[None]:
    """What is made in a `with` block is on the meta device, and at once in `dtype`: a model that were cast would be
    there twice for a moment, which no loaded one is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)

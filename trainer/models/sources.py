"""Model sources: where the parts of a base lie, and how one of them is loaded: a diffusers folder, or a single file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UserError
from .registry import Family
from .safetensors_file import SafetensorsFile, read_header
from .tokenizer import clip_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .memory_saving.quantize import Quantize

CONFIGS = Path(__file__).parent / "configs"
"""The published configurations of each family's models; a single file holds weights only."""

PARTS = {"text": r"text_encoder(_\d+)?", "vae": "vae", "unet": "unet"}
"""Part -> pattern of its folders in a diffusers model."""


class Source(Protocol):
    """A base's parts on disk. Models come frozen, in evaluation mode, with every weight read from the files."""

    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """What the model calls itself: its file or folder, its place on the hub, titles in its metadata."""

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of "unet", "vae", "text_encoder", "text_encoder_2" or "scheduler"."""

    def files(self, part: str) -> list[Path]:
        """What decides how a part ("text", "vae" or "unet") behaves: its weights and configuration."""

    def unet(self, device: torch.device, dtype: torch.dtype, how: Quantize = "none") -> nn.Module: ...

    def vae(self, device: torch.device, dtype: torch.dtype) -> nn.Module: ...

    def text_encoder(self, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module: ...

    def tokenizer(self, name: str) -> Any:
        """The CLIPTokenizer "tokenizer" or "tokenizer_2"."""


class Folder:
    """A model in diffusers' layout; of several weight files the full-precision one is taken, then fp16."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> tuple[str, ...]:
        # The hub's cache has models--stabilityai--sdxl-turbo/snapshots/<hash>.
        snapshot = self.path.parent.name == "snapshots"
        return (self.path.parent.parent.name if snapshot else self.path.name,)

    def config(self, component: str) -> dict[str, Any]:
        return read_json(self.path / component / _config_name(component))

    def files(self, part: str) -> list[Path]:
        paths: list[Path] = []
        for folder in component_folders(self.path, part):
            paths += [folder / _config_name(folder.name), *weight_files(folder)]
        return paths

    def unet(self, device: torch.device, dtype: torch.dtype, how: Quantize = "none") -> nn.Module:
        from .streaming_load import Stored, load_unet_streaming

        folder = self.path / "unet"

        def refused(ails: str) -> UserError:
            return UserError(f"{folder} {ails}. Download the model again.")

        paths = weight_files(folder)
        try:
            files = [read_header(path) for path in paths]
        except UserError as error:
            raise UserError(f"{folder} could not be loaded ({error})") from error
        stored = {name: Stored(file, name) for file in files for name in file.shapes}
        return load_unet_streaming(self.config("unet"), stored, device, dtype, how, refused)

    def vae(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        folder = self.path / "vae"
        model, info = self._loaded(AutoencoderKL, folder, {"variant": variant(folder), "torch_dtype": dtype})
        self._whole(folder, info)
        return model.to(device).eval().requires_grad_(False)

    def text_encoder(self, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # a bar for each encoder would break ours, and takes longer to read than it lasts
        kind = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
        folder = self.path / name
        model, info = self._loaded(kind, folder, {"variant": variant(folder)})
        self._whole(folder, info)
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)

    def tokenizer(self, name: str) -> Any:
        return clip_tokenizer(self.path / name)

    @staticmethod
    def _loaded(kind: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        try:
            with _no_progress_bars():
                return kind.from_pretrained(
                    str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, **options
                )
        except Exception as error:  # a short file, a stray shape: every loader has its own exception for these
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} could not be loaded ({reason}). Download the model again.") from error

    @staticmethod
    def _whole(folder: Path, info: Mapping[str, Any]) -> None:
        missing = sorted(name for name in info["missing_keys"] if not name.endswith("position_ids"))
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} weights of its own model (the first: {missing[0]}). "
                "Download the model again."
            )


class SingleFile:
    """One .safetensors checkpoint in the names of its first trainers. Only the tensors of a part asked for are read."""

    def __init__(
        self,
        file: SafetensorsFile,
        family: Family,
        *,
        tokenizers: Path | None = None,
        scheduler: Mapping[str, Any] | None = None,
        configs: Path | None = None,
    ) -> None:
        """tokenizers: see `clip_tokenizer`; scheduler: entries that go over those of the family's scheduler
        configuration; configs: a folder that stands in for the family's own."""
        self.path = file.path
        self._file = file
        self._family = family
        self._tokenizers = tokenizers
        self._scheduler = dict(scheduler or {})
        self._configs = configs or CONFIGS / family.name

    @property
    def names(self) -> tuple[str, ...]:
        titles = (self._file.metadata.get(f"modelspec.{field}", "") for field in ("title", "description"))
        return (self.path.stem, *titles)

    def config(self, component: str) -> dict[str, Any]:
        config = read_json(self._configs / component / _config_name(component))
        return config | self._scheduler if component == "scheduler" else config

    def files(self, part: str) -> list[Path]:
        return [self.path]

    def unet(self, device: torch.device, dtype: torch.dtype, how: Quantize = "none") -> nn.Module:
        from . import ldm_convert  # torch, which a face that only wants to know the family does without

        return ldm_convert.unet(self._file, self.config("unet"), device, dtype, how)

    def vae(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from . import ldm_convert

        return ldm_convert.vae(self._file, self.config("vae"), device, dtype)

    def text_encoder(self, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from . import ldm_convert

        return ldm_convert.text_encoder(self._file, self._family.text_encoders[name], self.config(name), device, dtype)

    def tokenizer(self, name: str) -> Any:
        return clip_tokenizer(self._tokenizers, pad="!" if name == "tokenizer_2" else None)


def component_folders(path: Path, part: str) -> list[Path]:
    """The folders of a part ("text", "vae" or "unet") in a diffusers model, by name."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and re.fullmatch(PARTS[part], folder.name))


def variant(folder: Path) -> str | None:
    """None for full-precision weights, "fp16" if there are only such. Raises UserError if there are no safetensors."""
    names = [file.name for file in folder.glob("*.safetensors")]
    if any(".fp16" not in name and ".non_ema" not in name for name in names):
        return None
    if any(".fp16" in name for name in names):
        return "fp16"
    if any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds weights in pickle format (.bin), which can run code when opened. "
            "Use a version of the model with .safetensors files."
        )
    raise UserError(f"{folder} holds no weights (.safetensors). Download the model again.")


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files that loading this component reads."""
    half = variant(folder) == "fp16"
    return sorted(
        file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == half and ".non_ema" not in file.name
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silences transformers' bar for the weights of each text encoder; the phases have a progress of their own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError if the file is missing or holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: this is no whole diffusers model. Download it again.") from error
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON. Download the model again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold one JSON object. Download the model again.")
    return value


def _config_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"

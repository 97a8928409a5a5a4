"""Metadata of a generated image: in its file as infotext, which other tools read, and in the workspace."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..models.base_model import BaseModel
from ..models.content_hash import sha256_of
from ..preferences.images import ImageMetadata
from .batch_sampler import ImageRequest, SamplingSettings
from .sampler import sampler_name

_PREFIX = "painted:"
"""Of fingerprints in the workspaces that there are."""


@dataclass(frozen=True)
class Provenance:
    """What all images of one BatchSampler have in common.

    base: the identity of its weights; model: how a person calls it. hashes: SHA-256 of the LoRA files. sampler: the
    name of the one that generates.
    """

    base: str
    model: str
    settings: SamplingSettings
    hashes: dict[Path, str]
    sampler: str

    @classmethod
    def of(cls, base: BaseModel, name: str, settings: SamplingSettings, loras: Sequence[Path]) -> Provenance:
        """Of images of `base`, which a person calls `name`, and LoRA files. Reads the files, to hash them."""
        hashes = {file: sha256_of(file) for file in loras}
        return cls(base.identity(), model_name(name), settings, hashes, sampler_name(base))

    def fingerprint(self, request: ImageRequest) -> str:
        """The same for the same image, generated whenever: kept as its source, so that none is generated twice."""
        settings, lora = self.settings, request.lora
        facts = (
            request.prompt,
            request.seed,
            self.base,
            *((self.hashes[lora.file], f"{lora.strength:g}") if lora else ()),
            *settings.size,
            settings.steps,
            settings.guidance,
            settings.negative,
        )
        return _PREFIX + hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()[:32]

    def metadata(self, request: ImageRequest) -> ImageMetadata:
        """What the workspace keeps of the image."""
        lora = f"{request.lora.file.stem} ({request.lora.strength:g})" if request.lora else None
        source = self.fingerprint(request)
        return ImageMetadata(seed=str(request.seed), sampler=self.sampler, model=self.model, lora=lora, source=source)

    def png(self, request: ImageRequest, image: Image.Image) -> bytes:
        """The image's file, with its infotext."""
        text = PngInfo()
        text.add_text("parameters", self.infotext(request))
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=text)
        return file.getvalue()

    def infotext(self, request: ImageRequest) -> str:
        """A1111's text of an image, which every host and gallery reads."""
        settings, lora = self.settings, request.lora
        width, height = settings.size
        facts = [
            f"Steps: {settings.steps}",
            f"Sampler: {self.sampler}",
            f"CFG scale: {settings.guidance:g}",
            f"Seed: {request.seed}",
            f"Size: {width}x{height}",
            f"Model: {self.model}",
        ]
        if lora:
            facts.append(f'Lora hashes: "{lora.file.stem}: {self.hashes[lora.file][:12]}"')
        lines = [
            request.prompt + (f" <lora:{lora.file.stem}:{lora.strength:g}>" if lora else ""),
            *([f"Negative prompt: {settings.negative}"] if settings.negative else []),
            ", ".join([*facts, "Version: MaPO Studio"]),
        ]
        return "\n".join(lines)


def seed_of(prompt: str, number: int, first_seed: int = 0) -> int:
    """The seed of a prompt's image `number`: hangs on nothing but these, so that a list of prompts may grow.

    In [0, 2**32), which every host takes; different for all numbers of a prompt, and, as a rule, between prompts.
    """
    start = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
    return (start + first_seed + number) % 2**32


def model_name(base: str) -> str:
    """How a person calls a base: a file without its folder and ending, a hub id as it is."""
    path = Path(base)
    if path.suffix == ".safetensors":
        return path.stem
    return path.name if path.is_dir() else base

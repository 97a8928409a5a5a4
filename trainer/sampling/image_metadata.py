"""What is kept of how a picture was painted: in its file, as other tools read it, and in the workspace?"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..models.content_hash import sha256_of
from ..preferences.images import ImageMetadata
from .batch_sampler import Manner, Wish

SAMPLER = "Euler"
_MARK = "painted:"


@dataclass(frozen=True)
class Origin:
    """What all pictures of one painter have in common.

    base: the identity of its weights; model: how a person calls it. hashes: SHA-256 of the LoRA files.
    """

    base: str
    model: str
    manner: Manner
    hashes: dict[Path, str]

    def mark(self, wish: Wish) -> str:
        """The same for the same picture, painted whenever: kept as its source, so that none is painted twice."""
        manner = self.manner
        lora = (self.hashes[wish.lora.file], f"{wish.lora.strength:g}") if wish.lora else ()
        width, height = manner.size
        told = (wish.prompt, wish.seed, self.base, *lora, width, height, manner.steps, manner.guidance, manner.negative)
        return _MARK + hashlib.sha256("\0".join(map(str, told)).encode()).hexdigest()[:32]

    def about(self, wish: Wish) -> ImageMetadata:
        """What the workspace keeps of the picture."""
        lora = f"{wish.lora.file.stem} ({wish.lora.strength:g})" if wish.lora else None
        return ImageMetadata(seed=str(wish.seed), sampler=SAMPLER, model=self.model, lora=lora, source=self.mark(wish))

    def png(self, wish: Wish, picture: Image.Image) -> bytes:
        """The picture's file. Its text is A1111's, which every host and gallery reads."""
        text = PngInfo()
        text.add_text("parameters", self.parameters(wish))
        file = io.BytesIO()
        picture.save(file, "PNG", pnginfo=text)
        return file.getvalue()

    def parameters(self, wish: Wish) -> str:
        manner, lora = self.manner, wish.lora
        width, height = manner.size
        facts = [
            f"Steps: {manner.steps}",
            f"Sampler: {SAMPLER}",
            f"CFG scale: {manner.guidance:g}",
            f"Seed: {wish.seed}",
            f"Size: {width}x{height}",
            f"Model: {self.model}",
        ]
        if lora:
            facts.append(f'Lora hashes: "{lora.file.stem}: {self.hashes[lora.file][:12]}"')
        lines = [
            wish.prompt + (f" <lora:{lora.file.stem}:{lora.strength:g}>" if lora else ""),
            *([f"Negative prompt: {manner.negative}"] if manner.negative else []),
            ", ".join([*facts, "Version: MaPO Studio"]),
        ]
        return "\n".join(lines)


def hashed(files: list[Path]) -> dict[Path, str]:
    """SHA-256 of each file, hexadecimal."""
    return {file: sha256_of(file) for file in files}


def seed_of(prompt: str, number: int, first_seed: int = 0) -> int:
    """The seed of a prompt's picture `number`: hangs on nothing but these, so that a list of prompts may grow.

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

"""Task settings, checked; and those that every task has that generates images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.validation import validation_sentence
from ..errors import UserError
from ..preferences.pairs import normalize_prompt

_Settings = TypeVar("_Settings", bound="TaskSettings")


class TaskSettings(BaseModel):
    """Settings of one kind of task: what it does not know is a mistake, as in run.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def given(cls: type[_Settings], values: dict[str, Any]) -> _Settings:
        """From plain values. Raises UserError naming the wrong one."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(validation_sentence(error, cls)) from None

    def plain(self) -> dict[str, Any]:
        """As JSON takes them."""
        return self.model_dump(mode="json")


class GenerateSettings(TaskSettings):
    """What to generate images with, and how."""

    base: str = Field(min_length=1)
    """A diffusers folder, a hub id, a .safetensors checkpoint, or "tiny" for the embedded one."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the base predicts; only for checkpoints that do not say so themselves."""
    tokenizers: str | None = None
    """Folder with a CLIP tokenizer, for single files; by default the hub cache."""
    width: int | None = Field(None, ge=16, le=4096)
    height: int | None = Field(None, ge=16, le=4096)
    """In pixels; by default the square that the base was trained for."""
    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of an image; by default the base's own: 28, or as many as a distilled base generates in."""
    guidance: float | None = Field(None, ge=1, le=100)
    """Classifier-free guidance; by default the base's own: 5, or 1 (none) for a distilled base."""
    negative: str = ""
    """What to keep away from."""
    first_seed: int = Field(0, ge=0, lt=2**32)
    """Another one gives other images for the same prompts."""


def cleaned(prompts: Iterable[str]) -> tuple[str, ...]:
    """Each prompt once, as datasets store it; empty ones left out."""
    return tuple(dict.fromkeys(filter(None, map(normalize_prompt, prompts))))


def prompts_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Prompts from texts and text files, one a line. Raises UserError for a file that cannot be read."""
    prompts: list[str] = []
    for text in texts:
        file = Path(text).expanduser()
        if not (text.endswith(".txt") or (len(text) < 250 and file.is_file())):
            prompts.append(text)
            continue
        try:
            prompts += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{text} cannot be read as a list of prompts, one a line: {error}") from None
    return cleaned(prompts)


def lora_file(text: str) -> Path:
    """The path of a LoRA file that is there. Raises UserError where it is not."""
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"there is no LoRA file {path}")
    return path

"""Preferences file: what the studio remembers of its person, from one start to the next, in settings.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from ...trainer.atomic_files import write_text
from ...trainer.config.validation import validation_sentence
from ...trainer.errors import UserError
from ...trainer.preferences.datasets import default_annotator


def _folder(typed: str) -> str:
    """Empty, or an absolute path of a folder. A person may type quotes around it, or ~."""
    typed = str(typed).strip().strip("\"'")
    if not typed:
        return ""
    path = Path(typed).expanduser()
    if not path.is_absolute():
        raise ValueError("say the whole path of the folder, from the root")
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    return str(path)


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Settings(BaseModel):
    """What the gear of the header shows. Folders are absolute paths, empty where there is none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    comfyui: str = ""
    """ComfyUI's folder: its checkpoints are offered as bases."""
    webui: str = ""
    """The folder of A1111, Forge or reForge: likewise."""
    loras: str = ""
    """Where a finished LoRA is copied to when asked."""
    annotator: Name = Field(default_factory=default_annotator)
    """Who judges, where nobody logs in."""
    look: Literal["dark", "light"] = "dark"


class _TypedSettings(Settings):
    """As a person gives them: folders must be there. A stored one may be on a drive that is not plugged in today."""

    comfyui: Annotated[str, BeforeValidator(_folder)] = ""
    webui: Annotated[str, BeforeValidator(_folder)] = ""
    loras: Annotated[str, BeforeValidator(_folder)] = ""


@dataclass(frozen=True)
class SettingsFile:
    """settings.json in the workspace; read whenever it is needed, so that two pages never disagree for long."""

    path: Path

    def read(self) -> Settings:
        """The settings as they are now; the defaults where none were made. Raises UserError for a damaged file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Settings()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} cannot be read ({error}); mend or delete it") from error
        try:
            return Settings.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"{self.path} cannot be read ({validation_sentence(error, whole='the file')}); mend or delete it"
            ) from None

    def change(self, **values: str) -> Settings:
        """Store `values` over what is there. Raises UserError that names the field, and keeps nothing."""
        try:
            checked = _TypedSettings(**values).model_dump(include=set(values))
        except ValidationError as error:
            raise UserError(validation_sentence(error)) from None
        kept = self.read().model_copy(update=checked)
        write_text(self.path, json.dumps(kept.model_dump(), indent=1, ensure_ascii=False) + "\n")
        return kept

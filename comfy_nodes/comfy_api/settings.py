"""Settings of ComfyUI's dialog that are ours: the workspace of judgements and runs, and who judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host

if TYPE_CHECKING:
    from ...trainer.preferences.store import Store

_FOLDER = "mapo_studio"


def workspace() -> Path:
    """The folder of the setting, else one below ComfyUI's user folder. Raises UserError where it cannot be."""
    from ...trainer.errors import UserError

    setting = str(host.settings().get("MaPO.Workspace") or "").strip().strip("\"'")
    if not setting:
        return host.user_folder() / _FOLDER
    folder = Path(setting).expanduser()
    if not folder.is_absolute():
        raise UserError(f"settings, MaPO, workspace: say the whole path of the folder, from the root, not {setting!r}")
    return folder


def store() -> Store:
    """The workspace's judgements; opened once. Waits for the disk: not for the event loop."""
    from ...trainer.preferences.store import open_store

    return open_store(workspace())


def annotator(settings: Mapping[str, Any] | None = None) -> str:
    """Who judges: the name in the settings, else the one that this machine knows the person by."""
    from ...trainer.preferences.datasets import default_annotator

    name = str((host.settings() if settings is None else settings).get("MaPO.Annotator") or "").strip()
    return name[:200] or default_annotator()

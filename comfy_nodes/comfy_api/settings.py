"""In which workspace do judgements and trainings go, and whose are they?"""

from __future__ import annotations

import getpass
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

    said = str(host.settings().get("MaPO.Workspace") or "").strip().strip("\"'")
    if not said:
        return host.user_folder() / _FOLDER
    folder = Path(said).expanduser()
    if not folder.is_absolute():
        raise UserError(f"settings, MaPO, workspace: say the whole path of the folder, from the root, not {said!r}")
    return folder


def store() -> Store:
    """The workspace's judgements; opened once. Waits for the disk: not for the event loop."""
    from ...trainer.preferences.store import open_store

    return open_store(workspace())


def annotator(settings: Mapping[str, Any] | None = None) -> str:
    """Who judges: the name in the settings, else the one that this machine knows the person by."""
    said = str((host.settings() if settings is None else settings).get("MaPO.Annotator") or "").strip()
    if said:
        return said[:200]
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may know no name for its user
        return "me"

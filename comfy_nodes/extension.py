"""The extension: nodes and routes that ComfyUI gets from this pack; none where a package is missing.

ComfyUI waits for this at its start. So nothing of the engine is imported here, nor by a node before it is executed:
`trainer` is imported inside functions throughout this face.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

log = logging.getLogger(__name__)

_NODES = (
    "collect",
    "pick",
    "train_lora",
    "load_lora",
    "compare",
    "dataset_info",
)
_NEEDED = (
    "diffusers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "pydantic",
    "pyarrow",
    "tyro",
    "rich",
    "filelock",
    "tomli_w",
    "sqlalchemy",
    "alembic",
)
"""What of requirements.txt ComfyUI does not bring itself, or not all versions of it do."""


class MaPO(ComfyExtension):
    """The nodes of this pack, those that could be loaded."""

    def __init__(self, nodes: list[type[io.ComfyNode]]) -> None:
        self._nodes = nodes

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return self._nodes


def create_extension() -> MaPO:
    """Make the nodes and add the routes. Without a package that is needed: one line in the log, and nothing else."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        requirements = Path(__file__).parents[1] / "requirements.txt"
        log.error(
            "MaPO Studio is not loaded, for want of %s. Close ComfyUI and run: %s -m pip install -r %s",
            ", ".join(missing),
            _quoted(sys.executable),
            _quoted(str(requirements)),
        )
        return MaPO([])
    try:
        nodes = [importlib.import_module(f".nodes.{name}", __package__).NODE for name in _NODES]
        importlib.import_module(".routes", __package__).add_routes()
    except Exception:
        # ComfyUI would log the last line only.
        log.exception("MaPO Studio could not be loaded")
        return MaPO([])
    return MaPO(nodes)


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path

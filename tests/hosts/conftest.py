"""The real ComfyUI, for tests that ask it rather than a model of it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class ComfyUI(NamedTuple):
    """A host to run things in: its Python, and the folder with its main.py."""

    python: Path
    folder: Path


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """The real ComfyUI, set up if need be. That it cannot be set up is a failure: nothing was tested then."""
    return ComfyUI(*runpy.run_path(str(Path(__file__).with_name("setup_comfyui.py")))["ensure_comfyui"]())


@pytest.fixture(scope="session")
def in_comfyui(comfyui: ComfyUI) -> Callable[[str, dict[str, Any]], Any]:
    """in_comfyui(script, request): what a script of this folder, run by ComfyUI's Python, answers to a JSON request."""

    def ask(script: str, request: dict[str, Any]) -> Any:
        done = subprocess.run(
            [comfyui.python, Path(__file__).with_name(script)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=comfyui.folder,
            env={**os.environ, "PYTHONPATH": str(comfyui.folder)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask

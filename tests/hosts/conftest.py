"""The real ComfyUI, for tests that ask it rather than a model of it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mapo_studio.tests.hosts.comfyui_page import page_of
from mapo_studio.tests.hosts.running_comfyui import RunningComfyUI
from playwright.sync_api import Browser, Page


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


@pytest.fixture(scope="session")
def server(comfyui: ComfyUI, tmp_path_factory) -> Iterator[RunningComfyUI]:
    """A ComfyUI that runs, with this pack and the tiny base. All tests of a worker share it: use names of your own."""
    with RunningComfyUI(comfyui.python, comfyui.folder, tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture
def new_comfyui(comfyui: ComfyUI, tmp_path) -> Iterator[Callable[..., RunningComfyUI]]:
    """new_comfyui(folder=None, **settings): one to be killed, or set up otherwise; see RunningComfyUI."""
    with ExitStack() as running:

        def start(folder: Path | None = None, **settings: Any) -> RunningComfyUI:
            return running.enter_context(
                RunningComfyUI(comfyui.python, comfyui.folder, folder or tmp_path / "comfyui", **settings)
            )

        yield start


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """ComfyUI's page for one test; see `page_of`. Loading it takes seconds: a file of many tests makes one its own."""
    with page_of(browser) as page:
        yield page

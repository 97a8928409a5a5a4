"""Tiny bases with random weights, made once a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from mapo_studio.tests.tiny_models import write_sd15, write_sdxl


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("tiny-sdxl"))


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory) -> Path:
    return write_sd15(tmp_path_factory.mktemp("tiny-sd15"))

"""What nvidia-smi says of memory, and what it says when it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mapo_studio.trainer.device import nvidia_smi_memory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """smi(script): what nvidia-smi does; nothing else is on the path but the shell."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(script: str) -> None:
        nvidia_smi_memory.cache_clear()
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    nvidia_smi_memory.cache_clear()
    yield write
    nvidia_smi_memory.cache_clear()


def test_no_driver_means_no_card_that_is_known(smi):
    assert nvidia_smi_memory() is None


def test_of_several_cards_the_smallest_counts(smi):
    smi("echo 24564; echo 8188")
    assert nvidia_smi_memory() == 8188 * 2**20


@pytest.mark.parametrize(
    "script", ["echo No devices were found; exit 6", "echo '[N/A]'", "exit 0", "echo 8188; exit 9"]
)
def test_a_driver_that_does_not_tell_means_no_card_that_is_known(smi, script):
    smi(script)
    assert nvidia_smi_memory() is None


def test_the_memory_of_a_card_is_known_without_torch():
    code = "import sys; from mapo_studio.trainer import device as d; d.nvidia_smi_memory(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()

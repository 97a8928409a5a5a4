"""Which programs do tests need that no Python package brings, and what if one is missing?

As root on Debian it is installed. Elsewhere the test is skipped with the command to run; in CI it fails instead: a test
that never runs tells nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

# Debian keeps a server's programs off the path, one folder for each version.
_BINARIES = {
    "chromium": ("chromium", "chromium-browser"),
    "postgresql": ("initdb", *(f"/usr/lib/postgresql/{version}/bin/initdb" for version in range(30, 11, -1))),
}
"""Debian's package -> the program that is looked for, by name or path, the first that is there."""

_tried: set[str] = set()


def needed(package: str) -> Path:
    """The program of that package, see _BINARIES. Ends the test where it is not there and cannot be installed."""
    found = _find(package)
    if found is None and package not in _tried and os.name == "posix" and os.geteuid() == 0 and _has_apt():
        _tried.add(package)
        # Tests run side by side, and apt does not.
        with FileLock(Path(tempfile.gettempdir()) / "mapo-tests-apt.lock"):
            found = _find(package) or _install(package)
    if found is None:
        said = f"{_BINARIES[package][0]} is missing; on Debian: sudo apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    return found


def _find(package: str) -> Path | None:
    there = next(filter(None, map(shutil.which, _BINARIES[package])), None)
    return None if there is None else Path(there)


def _has_apt() -> bool:
    return shutil.which("apt-get") is not None


def _install(package: str) -> Path | None:
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if _apt(install) != 0 and _apt(["apt-get", "update"]) == 0:
        _apt(install)
    return _find(package)


def _apt(command: list[str]) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment, capture_output=True).returncode

"""The study's modules, which are in no installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def study() -> Iterator[Callable[[str], ModuleType]]:
    """study(name): a module of benchmarks/study, which is run from the repository's root."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.study.{name}")
    sys.path.remove(str(ROOT))

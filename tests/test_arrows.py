"""Arrows point down: which folder of trainer/ may import which, and no two modules import each other in a circle."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mapo_studio"
ROOMS = (
    "config",
    "images",
    "preferences",
    "models",
    "lora",
    "latents",
    "sampling",
    "runs",
    "training",
    "memory_estimate",
    "jobs",
    "evaluation",
    "reports",
    "services",
    "demo",
    "cli",
)
"""The folders of trainer/ from the lowest to the highest: each imports only itself and those before it. Below them all
are the files at trainer/'s top."""
APART = ("installer",)
"""Runs before anything is installed, so it imports nothing of ours."""
TOP_LEVEL_FILES = 8
A_FACE_BEGINS_HERE = {("trainer/cli/main.py", "web/app.py")}
"""`mapo studio` is a command like the others."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of the engine and the faces."""
    files = [file for top in ("trainer", "web", "comfy_nodes", "scripts") for file in (ROOT / top).rglob("*.py")]
    return {_name(file): file for file in files if "migrations" not in file.parts}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of ours that a module imports, wherever in it: also inside functions and for types only."""
    file, found = modules()[name], set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}.")}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*above, *(node.module.split(".") if node.module else [])])
            if source.split(".")[0] == PACKAGE:
                found |= {full if (full := f"{source}.{a.name}") in modules() else source for a in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("."):
            # Modules that are imported by name: ".tabs.judge", "..evaluation.candidates".
            dots = len(node.value) - len(node.value.lstrip("."))
            parts = package.split(".")
            full = ".".join([*parts[: len(parts) - dots + 1], node.value.lstrip(".")])
            found |= {full} & modules().keys()
    return frozenset(found & modules().keys() - {name})


def _rank(name: str) -> int:
    """How high a module of trainer/ stands: 0 for the files at its top."""
    parts = name.split(".")
    room = parts[2] if len(parts) > 2 else ""
    return ROOMS.index(room) + 1 if room in ROOMS else 0


def _path(name: str) -> str:
    return modules()[name].relative_to(ROOT).as_posix()


def _in_trainer(name: str) -> bool:
    return name.startswith(f"{PACKAGE}.trainer.") and not name.endswith("__main__")


def test_every_folder_of_trainer_has_its_place():
    folders = {folder.name for folder in (ROOT / "trainer").iterdir() if any(folder.glob("*.py"))}
    assert folders == {*ROOMS, *APART}
    files = {file.name for file in (ROOT / "trainer").glob("*.py")} - {"__init__.py"}
    assert len(files) <= TOP_LEVEL_FILES, sorted(files)


def test_folders_of_trainer_import_only_those_below_them():
    upward = [
        f"{_path(name)} imports {_path(other)}"
        for name in modules()
        if _in_trainer(name)
        for other in imports(name)
        if (not _in_trainer(other) or _rank(other) > _rank(name))
        and (_path(name), _path(other)) not in A_FACE_BEGINS_HERE
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    assert [" -> ".join(map(_path, circle)) for circle in _circles()] == []


def test_the_installer_imports_nothing_that_has_to_be_installed():
    inside = [name for name in modules() if name.startswith(f"{PACKAGE}.trainer.installer")]
    assert [(name, other) for name in inside for other in imports(name) if other not in inside] == []


def _circles() -> list[list[str]]:
    """One circle for each group of modules that reach each other. A package's own `__init__` counts as a module."""
    done: set[str] = set()
    circles = []
    for start in sorted(modules()):
        if start in done:
            continue
        path = _way(start, start)
        if path:
            circles.append(path)
            done |= set(path)
        done.add(start)
    return circles


def _way(start: str, goal: str) -> list[str]:
    """The shortest way of imports from `start` to `goal`, at least one import long; empty if there is none."""
    ways, seen = [[start]], set()
    for way in ways:
        for other in sorted(imports(way[-1])):
            if other == goal:
                return [*way, other]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return []


@pytest.mark.parametrize("source", ["from ..jobs import job", "def f():\n    from ..jobs.job import start"])
def test_an_upward_arrow_is_found_and_both_files_are_named(monkeypatch, tmp_path, source):
    for name, text in {"config/low.py": source, "jobs/job.py": "def start(): ..."}.items():
        file = tmp_path / "trainer" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    modules.cache_clear()
    imports.cache_clear()
    try:
        with pytest.raises(AssertionError, match=r"trainer/config/low\.py imports trainer/jobs/job\.py"):
            test_folders_of_trainer_import_only_those_below_them()
    finally:
        modules.cache_clear()
        imports.cache_clear()

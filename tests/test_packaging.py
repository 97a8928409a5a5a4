"""The package as others get it: from pip, from requirements.txt, or by a host that executes the root's files."""

from __future__ import annotations

import ast
import builtins
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ONLY_FOR_COMFYUI = {"locales", "example_workflows"}
"""It looks for them in the root of a clone."""
NOT_THE_PACKAGE = ONLY_FOR_COMFYUI | {
    "tests",
    "benchmarks",
    "docs",
    "scripts",
    "build",
    "dist",
    "workspace",
    "shared",
    "__pycache__",
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package_files() -> list[Path]:
    """Every file that the package needs, relative to the root; in the root itself only Python files."""
    tops = [p for p in ROOT.iterdir() if p.is_dir() and p.name not in NOT_THE_PACKAGE and not p.name.startswith(".")]
    below = [path for top in tops if top.suffix != ".egg-info" for path in top.rglob("*") if path.is_file()]
    inside = [p.relative_to(ROOT) for p in [*ROOT.glob("*.py"), *below]]
    return [p for p in inside if "__pycache__" not in p.parts and p.suffix not in (".md", ".pyc")]


def test_requirements_for_hosts_are_those_of_the_project():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == PYPROJECT["project"]["dependencies"]


def test_nothing_asks_for_torchvision():
    """A torchvision that does not match torch breaks diffusers, and nothing here needs one."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    wanted = [*PYPROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    assert "torchvision" not in {Requirement(line).name for line in wanted}


def test_listed_packages_are_the_folders_with_python_files():
    folders = {p.parent for p in package_files() if p.suffix == ".py"}
    names = {".".join(("mapo_studio", *folder.parts)) for folder in folders}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == names


def test_root_init_imports_nothing_when_a_host_executes_it(monkeypatch: pytest.MonkeyPatch):
    imported = []
    code = compile(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")), "__init__.py", "exec")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name))
        exec(code, {"__name__": "any-Name.x"})  # noqa: S102 -- what a host does
    assert set(imported) <= {"__future__"}


def test_comfyui_is_asked_for_every_requirement_that_it_does_not_bring():
    """Its face looks for them before anything is imported, so that one line says what is missing."""
    tree = ast.parse((ROOT / "comfy_nodes" / "extension.py").read_text(encoding="utf-8"))
    [needed] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_NEEDED"
    ]
    brought = {"torch", "transformers", "safetensors", "numpy", "pillow"}
    wanted = {Requirement(line) for line in PYPROJECT["project"]["dependencies"]}
    # tomli is for Pythons of which the rest of a host's packages would miss it too.
    names = {one.name.replace("-", "_") for one in wanted if one.marker is None}
    assert set(needed) == names - brought
    assert len(set(needed)) == len(needed)


def test_comfyuis_registry_is_told_what_it_asks_for():
    told = PYPROJECT["tool"]["comfy"]
    assert set(told) == {"PublisherId", "DisplayName", "Icon", "requires-comfyui"}, "`web` is WEB_DIRECTORY's"
    assert told["PublisherId"]
    assert told["DisplayName"] == "MaPO Studio"
    assert told["requires-comfyui"] == ">=0.3.75"
    assert "comfy" not in PYPROJECT["project"]["name"].lower()
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").split("\n")
    assert [line for line in left_out if line and not line.startswith("#") and not (ROOT / line).is_dir()] == []


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(tmp_path: Path):
    # A copy: building leaves a folder and an egg-info beside the sources.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests"))
    command = [sys.executable, "-I", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [p.as_posix() for p in package_files() if f"mapo_studio/{p.as_posix()}" not in names]
    assert missing == []
    foreign = [name for name in names if name.split("/")[1] in NOT_THE_PACKAGE]
    assert foreign == []

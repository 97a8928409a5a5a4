"""Real starts from a clone, which install tiny stand-ins for torch and mapo from a folder, off the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from mapo_studio.tests.installer.test_bootstrap import POSIX, ROOT, bootstrap, script, torch_wheel

BACKEND = '''
"""The smallest build backend: an editable wheel whose `mapo` says how it was called."""
import zipfile
CLI = "import os, sys\\ndef main():\\n    print('mapo', sys.argv[1:], os.getcwd())\\n    return 5\\n"
META = "Metadata-Version: 2.1\\nName: mapo-studio\\nVersion: 0\\nRequires-Dist: torch\\nProvides-Extra: dev\\n" \\
    "Requires-Dist: pytest; extra == 'dev'\\nProvides-Extra: web\\n"
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "mapo_studio-0-py3-none-any.whl"
    info = "mapo_studio-0.dist-info/"
    files = {
        "tiny_cli.py": CLI, info + "METADATA": META,
        info + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        info + "entry_points.txt": "[console_scripts]\\nmapo = tiny_cli:main\\n",
    }
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(info + "RECORD", "".join(path + ",,\\n" for path in [*files, info + "RECORD"]))
    return name
'''


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info/"
    files = {
        **files,
        info + "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(info + "RECORD", "".join(f"{path},,\n" for path in [*files, info + "RECORD"]))


def make_torch_wheel(folder: Path, version: str, cuda: str | None) -> None:
    about = f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n".replace(
        "cuda", "from typing import Optional\ncuda", 1
    )
    code = f"class cuda:\n    is_available = staticmethod(lambda: {cuda is not None})\n"
    wheel(folder, "torch", version, {"torch/version.py": about, "torch/__init__.py": code})


def make_clone(folder: Path) -> Path:
    """A clone with the real way in, and beside it a folder of wheels and programs; nothing is installed yet."""
    root, wheels = folder / "tiny clone", folder / "wheels"
    (root / "trainer").mkdir(parents=True)
    wheels.mkdir()
    (root / "trainer/installer").mkdir()
    for file in (
        "mapo.sh",
        "trainer/installer/bootstrap.py",
        "trainer/installer/pip_steps.py",
        "trainer/installer/torch_wheel.py",
    ):
        shutil.copy(ROOT / file, root / file)
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "mapo-studio"\ndynamic = ["version", "optional-dependencies", "scripts"]\n'
        'dependencies = [\n    "torch>=2.6,<3",\n]\n'
    )
    make_torch_wheel(wheels, "2.13.0+cpu", None)
    tell = "import os, sys\ndef main():\n    print('pytest', sys.argv[1:], os.getcwd())\n"
    points = "[console_scripts]\npytest = tiny_pytest:main\n"
    wheel(wheels, "pytest", "9.0", {"tiny_pytest.py": tell, "pytest-9.0.dist-info/entry_points.txt": points})
    script(folder / "bin/nvidia-smi", "echo 'No devices were found'")
    return root


def reach_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let pip install from that folder's wheels alone, and find its programs."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
    patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # PyTorch's index: not reachable
    patch.setenv("PATH", f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone into which nothing is installed yet."""
    reach_only(tmp_path, monkeypatch)
    return make_clone(tmp_path)


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a clone after its first start, and a copy of it."""
    folder = tmp_path_factory.mktemp("installed")
    with pytest.MonkeyPatch.context() as patch:
        reach_only(folder, patch)
        first = run(make_clone(folder), "demo")
    assert first.returncode == 5, first.stderr
    return folder, shutil.copytree(folder, folder.with_name("pristine"), symlinks=True)


@pytest.fixture
def installed(installed_once, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone after its first start, as new for each test, and always in the same place: it holds its own path."""
    folder, pristine = installed_once
    shutil.rmtree(folder)
    shutil.copytree(pristine, folder, symlinks=True)
    reach_only(folder, monkeypatch)
    return folder / "tiny clone"


def run(root: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [root / "mapo.sh", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def stamp_of(root: Path) -> Path:
    return root / ".venv" / bootstrap.STAMP.name


def site_of(root: Path) -> Path:
    (site,) = (root / ".venv/lib").glob("python*/site-packages")
    return site


@POSIX
@pytest.mark.slow
def test_clone_becomes_a_running_command_and_the_second_start_installs_nothing(tiny: Path, tmp_path: Path):
    first = run(tiny, "demo", "a b", cwd=tmp_path)
    assert first.returncode == 5, first.stderr
    assert first.stdout == f"mapo ['demo', 'a b'] {tmp_path}\n"
    assert "[1/4]" in first.stderr
    assert "Successfully installed" in (tiny / ".venv/install.log").read_text()
    written = stamp_of(tiny).stat().st_mtime_ns
    second = run(tiny, "--help", cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (5, f"mapo ['--help'] {tmp_path}\n", "")
    assert stamp_of(tiny).stat().st_mtime_ns == written


@POSIX
@pytest.mark.slow
def test_without_a_word_the_studio_starts_with_what_it_needs(installed: Path, tmp_path: Path):
    started = run(installed, cwd=tmp_path)
    assert started.stdout == f"mapo ['studio'] {tmp_path}\n", started.stderr
    assert "[3/4] mapo[web]" in started.stderr
    assert json.loads(stamp_of(installed).read_text())["extras"] == ["web"]
    assert run(installed, "studio", "--port", "8000").stderr == ""


@POSIX
@pytest.mark.slow
def test_the_word_test_adds_the_dev_extra_and_runs_pytest_in_the_root(installed: Path, tmp_path: Path):
    (tmp_path / "test_mine.py").touch()
    tested = run(installed, "test", "-q", "test_mine.py::test_it", "tests", cwd=tmp_path)
    assert tested.stdout == f"pytest ['-q', '{tmp_path}/test_mine.py::test_it', 'tests'] {installed}\n", tested.stderr
    assert "[2/4] PyTorch 2.13.0+cpu is there" in tested.stderr
    assert run(installed, "demo").stderr == ""  # the environment with more is complete for less


@POSIX
@pytest.mark.slow
def test_all_tests_run_side_by_side_and_the_timed_ones_alone_afterwards(installed: Path, tmp_path: Path):
    together, alone = run(installed, "test", cwd=tmp_path).stdout.splitlines()
    assert "'-n', 'auto'" in together
    assert "'-m', 'not timed'" in together
    assert "'-m', 'timed', '--reruns', '1'" in alone
    assert alone.endswith(str(installed))


@POSIX
@pytest.mark.slow
def test_failed_step_is_named_with_pips_last_words_and_leaves_no_stamp(tiny: Path, tmp_path: Path):
    hidden = tmp_path / "hidden"
    (tmp_path / "wheels").rename(hidden)
    (tmp_path / "wheels").mkdir()
    failed = run(tiny, "demo")
    assert failed.returncode == 1
    assert "at [2/4] PyTorch" in failed.stderr
    assert "No matching distribution found for torch==2.13.0" in failed.stderr
    assert failed.stdout == ""
    assert not stamp_of(tiny).exists()
    (tmp_path / "wheels").rmdir()
    hidden.rename(tmp_path / "wheels")
    mended = run(tiny, "demo")
    assert mended.returncode == 5
    assert "[1/4] .venv is there" in mended.stderr


@POSIX
@pytest.mark.slow
def test_torch_follows_the_card(installed: Path):
    script(installed.parent / "bin/nvidia-smi", "echo 'NVIDIA GeForce RTX 3060, 580.65.06, 8.6'")
    without = run(installed, "demo")
    assert without.returncode == 5
    assert "no CUDA build of PyTorch could be found" in without.stderr
    assert run(installed, "demo").stderr == ""  # it is not tried again at every start
    make_torch_wheel(installed.parent / "wheels", "2.13.0+cu130", "13.0")
    stamp_of(installed).unlink()
    assert run(installed, "demo").returncode == 5
    assert torch_wheel.installed_torch(site_of(installed)) == ("2.13.0+cu130", "cuda")
    script(installed.parent / "bin/nvidia-smi", "echo 'Failed to initialize NVML'; exit 18")
    stamp_of(installed).unlink()
    assert "nvidia-smi is there but fails: Failed to initialize NVML" in run(installed, "demo").stderr
    assert torch_wheel.installed_torch(site_of(installed)).kind == "cuda"


@POSIX
@pytest.mark.slow
def test_what_was_cut_off_is_repaired_or_made_anew(installed: Path):
    # pip killed while it unpacks torch: no RECORD yet, and pip itself refuses to replace such a package.
    stamp_of(installed).unlink()
    (info,) = site_of(installed).glob("torch-*.dist-info")
    (info / "RECORD").unlink()
    (site_of(installed) / "torch/version.py").unlink()
    repaired = run(installed, "demo")
    assert repaired.returncode == 5, repaired.stderr
    assert "[1/4] .venv is there" in repaired.stderr
    # pip killed while it replaces torch: its old files lie aside, any of them may be gone.
    stamp_of(installed).unlink()
    (site_of(installed) / "~orch").mkdir()
    anew = run(installed, "demo")
    assert anew.returncode == 5, anew.stderr
    assert "making it anew" in anew.stderr
    assert not list(installed.glob(".venv.old-*"))


@POSIX
@pytest.mark.slow
def test_moved_clone_is_installed_anew(installed: Path):
    moved = installed.rename(installed.with_name("elsewhere"))
    ran = run(moved, "demo")
    assert "making it anew" in ran.stderr
    assert ran.returncode == 5
    assert str(moved) in (moved / ".venv/bin/mapo").read_text()


@POSIX
@pytest.mark.slow
def test_second_start_waits_for_the_first_even_after_it_was_killed(installed: Path):
    """pip outlives a start that is killed; installing beside it would spoil the environment."""
    stamp_of(installed).unlink()
    building, go = installed / "building", installed / "go"
    wait = f"open({str(building)!r}, 'w'), [time.sleep(0.1) for _ in range(600) if not os.path.exists({str(go)!r})]"
    hook = "metadata_directory=None):"
    (installed / "backend.py").write_text(BACKEND.replace(hook, f"{hook}\n    import os, time; {wait}"))
    first = subprocess.Popen([installed / "mapo.sh", "one"], stderr=subprocess.DEVNULL)
    while not building.exists():
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.wait()
    second = subprocess.Popen([installed / "mapo.sh", "two"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert second.stderr.readline() == "Another start is installing; waiting for it.\n"
    go.touch()
    said, told = second.communicate(timeout=300)
    assert said.startswith("mapo ['two']"), told

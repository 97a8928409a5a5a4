"""From a clone to a running command: which Python, which torch, when the environment is trusted, and real starts.

The real starts install tiny stand-ins for torch and mapo from a folder of wheels, without a network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name == "nt", reason="mapo.sh and stand-ins with #! are for POSIX")


def load_bootstrap() -> ModuleType:
    """As mapo.sh runs it: by its path, not as a part of the package."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("bootstrap_by_path", ROOT / "trainer" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


bootstrap = load_bootstrap()
torch_choice = bootstrap.torch_choice
RTX3060 = torch_choice.Card("NVIDIA GeForce RTX 3060", 580, 8.6)
Graphics = torch_choice.Graphics


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return path


# Which Python


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """mapo.sh in a folder with a space, before a bootstrap.py that only tells how it was called."""
    root = tmp_path / "my clone"
    (root / "trainer").mkdir(parents=True)
    shutil.copy(ROOT / "mapo.sh", root)
    tell = "print(json.dumps([sys.executable, sys.argv, os.getcwd(), sys.path[0]]))"
    (root / "trainer" / "bootstrap.py").write_text(f"import json, os, sys\n{tell}\nsys.exit(7)\n")
    return root


def start(mapo: Path, path: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {"PATH": path}
    return subprocess.run([mapo, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


def only_tools(folder: Path) -> str:
    """A PATH with the programs that mapo.sh itself needs, and no Python."""
    folder.mkdir()
    for tool in ("dirname", "readlink"):
        (folder / tool).symlink_to(shutil.which(tool))
    return str(folder)


@POSIX
def test_the_first_python_that_answers_and_fits_is_taken(clone: Path, tmp_path: Path):
    tools = only_tools(tmp_path / "tools")
    script(tmp_path / "bin/python3", "exit 1")  # too old, or a version manager's stand-in
    script(tmp_path / "bin/python3.12", f'exec "{sys.executable}" "$@"')
    ran = start(clone / "mapo.sh", f"{tmp_path}/bin:{tools}", "demo", "two words", "*", cwd=tmp_path)
    executable, words, cwd, first_on_path = json.loads(ran.stdout)
    assert ran.returncode == 7
    assert Path(executable) == Path(sys.executable)
    assert words == [str(clone / "trainer" / "bootstrap.py"), "demo", "two words", "*"]
    assert Path(cwd) == tmp_path
    assert first_on_path != str(clone / "trainer")


@POSIX
def test_the_environments_own_python_is_preferred_while_it_answers(clone: Path, tmp_path: Path):
    tools = only_tools(tmp_path / "tools")
    script(tmp_path / "tools/python3", f'exec "{sys.executable}" "$@"')
    mine = script(clone / ".venv/bin/python", f'echo mine >&2; exec "{sys.executable}" "$@"')
    assert "mine" in start(clone / "mapo.sh", tools, "demo", cwd=tmp_path).stderr
    mine.write_text("#!/nowhere/python\n")
    ran = start(clone / "mapo.sh", tools, "demo", cwd=tmp_path)
    assert ran.returncode == 7
    assert "mine" not in ran.stderr


@POSIX
def test_without_a_fitting_python_one_clear_message(clone: Path, tmp_path: Path):
    ran = start(clone / "mapo.sh", only_tools(tmp_path / "tools"), "demo", cwd=tmp_path)
    assert ran.returncode == 1
    assert "needs Python 3.10, 3.11, 3.12 or 3.13" in ran.stderr


@POSIX
def test_a_link_to_mapo_sh_finds_the_clone(clone: Path, tmp_path: Path):
    tools = only_tools(tmp_path / "tools")
    script(tmp_path / "tools/python3", f'exec "{sys.executable}" "$@"')
    (tmp_path / "mapo").symlink_to(Path("my clone/mapo.sh"))
    assert start(tmp_path / "mapo", tools, cwd=Path("/")).returncode == 7


def test_every_way_in_accepts_the_pythons_that_the_project_declares():
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    check = f"(3, {low}) <= sys.version_info[:2] < (3, {high})"
    for way_in in ("mapo.sh", "mapo.bat", "trainer/doctor.py"):
        assert check in (ROOT / way_in).read_text(encoding="utf-8")
    assert list(bootstrap.SUPPORTED) == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_batch_file_has_the_line_ends_that_its_labels_need():
    assert b"\n" not in (ROOT / "mapo.bat").read_bytes().replace(b"\r\n", b"")


# Which torch


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script(folder / "nvidia-smi", body)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@POSIX
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("echo 'NVIDIA GeForce RTX 3060, 580.65.06, 8.6'", Graphics(RTX3060)),
        (
            "echo 'NVIDIA GeForce GTX 1060, 550.54.14, 6.1'; echo 'NVIDIA GeForce RTX 4090, 550.54.14, 8.9'",
            Graphics(torch_choice.Card("NVIDIA GeForce RTX 4090", 550, 8.9)),
        ),
        ("echo 'Some Card, 580.1, [N/A]'", Graphics(torch_choice.Card("Some Card", 580, 0.0))),
        ("echo 'No devices were found'", Graphics(None)),
        ("echo 'No devices were found'; exit 6", Graphics(None)),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            Graphics(None, "Failed to initialize NVML: Driver/library version mismatch"),
        ),
        ("exit 9", Graphics(None, "exit code 9")),
    ],
)
def test_card_is_what_nvidia_smi_answers(tmp_path, monkeypatch, body: str, found: tuple):
    nvidia_smi(tmp_path, monkeypatch, body)
    assert torch_choice.find_card() == found


def test_without_nvidia_smi_there_is_no_card_and_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert torch_choice.find_card() == Graphics(None)


@pytest.mark.parametrize(
    ("driver", "capability", "build"),
    [
        (580, 8.6, "cu130"),
        (580, 7.5, "cu130"),
        (580, 6.1, "cu126"),  # Pascal
        (535, 8.6, "cu126"),
        (570, 12.0, "cu130"),  # Blackwell: no older build knows it, the driver must be updated
        (580, 0.0, "cu130"),
    ],
)
def test_cuda_build_suits_card_and_driver(driver: int, capability: float, build: str):
    assert torch_choice.cuda_build(torch_choice.Card("card", driver, capability)) == build


CPU, CUDA = (torch_choice.TorchBuild(f"2.13.0+{tag}", kind) for tag, kind in (("cpu", "cpu"), ("cu130", "cuda")))


@pytest.mark.parametrize(
    ("torch", "graphics", "kept"),
    [
        (None, Graphics(None), False),
        (CPU, Graphics(None), True),
        (CPU, Graphics(RTX3060), False),
        (CUDA, Graphics(RTX3060), True),
        (CUDA, Graphics(None), False),
        (CUDA, Graphics(None, "driver fails"), True),
        (CPU, Graphics(None, "driver fails"), True),
        (torch_choice.TorchBuild("2.13.0+rocm7.0", "rocm"), Graphics(None), True),
        (torch_choice.TorchBuild("2.5.1+cpu", "cpu"), Graphics(None), False),
        (torch_choice.TorchBuild("3.0.0+cpu", "cpu"), Graphics(None), False),
    ],
)
def test_installed_torch_stays_only_where_it_suits(monkeypatch, torch, graphics, kept: bool):
    monkeypatch.setattr(sys, "platform", "linux")
    assert torch_choice.keeps(torch, graphics, ">=2.6,<3") is kept


OLD = torch_choice.Card("NVIDIA GeForce GTX 1060", 580, 6.1)


@pytest.mark.parametrize(
    ("platform", "name", "card", "places"),
    [
        ("linux", "posix", None, ["+cpu", ""]),
        ("linux", "posix", RTX3060, ["", "+cu130", "="]),
        ("linux", "posix", OLD, ["+cu126", "", "="]),
        ("win32", "nt", None, [""]),
        ("win32", "nt", RTX3060, ["+cu130", ""]),
        ("darwin", "posix", None, [""]),
    ],
)
def test_pytorchs_own_index_is_asked_where_the_ordinary_one_lacks_the_build(monkeypatch, platform, name, card, places):
    monkeypatch.setattr(torch_choice, "os", SimpleNamespace(name=name))
    monkeypatch.setattr(sys, "platform", platform)
    wanted = {"": "torch==2.13.0", "=": "torch===2.13.0"}
    sources = torch_choice.torch_sources(Graphics(card))
    assert [s.requirement for s in sources] == [wanted.get(place, f"torch==2.13.0{place}") for place in places]
    assert [bool(s.page) for s in sources] == [place.startswith("+") for place in places]


@pytest.fixture
def index() -> Iterator[str]:
    """The address of a page that lists one wheel, as PyTorch's index writes it."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'<a href="/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256=0">torch</a>')

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_source_is_used_only_if_its_page_lists_a_wheel_for_this_python(monkeypatch, index: str):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch_choice, "os", SimpleNamespace(name="posix"))
    source = torch_choice.Source("", "torch==2.13.0+cpu", page=index)
    assert torch_choice.offers(source, "3.11")
    assert not torch_choice.offers(source, "3.12")
    assert not torch_choice.offers(source._replace(requirement="torch==2.13.0+cu130"), "3.11")
    assert not torch_choice.offers(source._replace(page="http://127.0.0.1:9/"), "3.11")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not torch_choice.offers(source, "3.11")


def test_range_of_torch_is_read_from_the_project():
    assert re.fullmatch(r">=\d.*,<\d+", bootstrap.torch_limits())


# When the environment is trusted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own for bootstrap, with an environment that looks complete, and no card."""
    venv = tmp_path / ".venv"
    paths = {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / "stamp.json", "BIN": venv / "bin", "SUFFIX": ""}
    for name, value in paths.items():
        monkeypatch.setattr(bootstrap, name, value)
    monkeypatch.setattr(bootstrap, "venv_version", lambda: "3.11")
    monkeypatch.setattr(sys, "platform", "linux")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/mapo").touch()
    (tmp_path / "pyproject.toml").write_text('dependencies = [\n    "torch>=2.6,<3",\n]')
    monkeypatch.setattr(torch_choice, "card_signs", lambda: ["no card"])
    monkeypatch.setattr(torch_choice, "find_card", lambda: Graphics(None))
    bootstrap.write_stamp(["dev"], "cpu", Graphics(None))
    return tmp_path


def complete(*extras: str) -> bool:
    return bootstrap.is_complete(bootstrap.read_stamp(), extras)


def test_right_stamp_is_trusted_for_what_was_installed_and_for_less(place: Path):
    assert complete()
    assert complete("dev")
    assert not complete("web")


@pytest.mark.parametrize(
    "change",
    [
        lambda root, patch: (root / "pyproject.toml").write_text("another"),
        lambda root, patch: (root / ".venv/bin/mapo").unlink(),
        lambda root, patch: (root / ".venv/stamp.json").unlink(),
        lambda root, patch: (root / ".venv/stamp.json").write_text('{"half": '),
        lambda root, patch: (root / ".venv/stamp.json").write_text("[]"),
        lambda root, patch: patch.setattr(bootstrap, "venv_version", lambda: "3.12"),
        lambda root, patch: patch.setattr(bootstrap, "venv_version", lambda: None),
        lambda root, patch: patch.setattr(bootstrap, "ROOT", root / ".." / root.name),
    ],
    ids=["pyproject", "no mapo", "no stamp", "half a stamp", "no object", "python", "broken python", "moved"],
)
def test_stamp_of_other_circumstances_is_not_trusted(place: Path, monkeypatch, change: Callable):
    change(place, monkeypatch)
    assert not complete()


def test_card_that_appeared_ends_the_trust(place: Path, monkeypatch):
    monkeypatch.setattr(torch_choice, "card_signs", lambda: ["a driver"])
    monkeypatch.setattr(torch_choice, "find_card", lambda: Graphics(RTX3060))
    assert not complete()


def test_nvidia_smi_is_asked_once_after_a_change_of_the_driver(place: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch_choice, "card_signs", lambda: ["a driver without a card"])
    monkeypatch.setattr(torch_choice, "find_card", lambda: asked.append(1) or Graphics(None))
    assert complete()
    assert complete()
    assert len(asked) == 1


def test_failing_driver_keeps_the_trust_and_is_asked_again(place: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch_choice, "card_signs", lambda: ["a driver"])
    monkeypatch.setattr(torch_choice, "find_card", lambda: asked.append(1) or Graphics(None, "mismatch"))
    assert complete()
    assert complete()
    assert len(asked) == 2
    monkeypatch.setattr(torch_choice, "find_card", lambda: Graphics(RTX3060))
    assert not complete()


def test_lock_is_free_once_its_holder_is_killed(tmp_path: Path):
    hold = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'trainer')!r}); import bootstrap, time; "
        f"bootstrap.ROOT = bootstrap.Path({str(tmp_path)!r})\n"
        "with bootstrap.alone(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "held"
    with open(tmp_path / ".cache/install.lock", "a+b") as file:
        assert not bootstrap.take_lock(file)
        holder.kill()
        holder.wait()
        assert bootstrap.take_lock(file)
    holder.stdout.close()


# Real starts, with stand-ins

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


def torch_wheel(folder: Path, version: str, cuda: str | None) -> None:
    about = f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n".replace(
        "cuda", "from typing import Optional\ncuda", 1
    )
    code = f"class cuda:\n    is_available = staticmethod(lambda: {cuda is not None})\n"
    wheel(folder, "torch", version, {"torch/version.py": about, "torch/__init__.py": code})


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the real way in, which installs from a folder of wheels and can reach nothing else."""
    root = tmp_path / "tiny clone"
    (root / "trainer").mkdir(parents=True)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for file in ("mapo.sh", "trainer/bootstrap.py", "trainer/install_steps.py", "trainer/torch_choice.py"):
        shutil.copy(ROOT / file, root / file)
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "mapo-studio"\ndynamic = ["version", "optional-dependencies", "scripts"]\n'
        'dependencies = [\n    "torch>=2.6,<3",\n]\n'
    )
    torch_wheel(wheels, "2.13.0+cpu", None)
    tell = "import os, sys\ndef main():\n    print('pytest', sys.argv[1:], os.getcwd())\n"
    points = "[console_scripts]\npytest = tiny_pytest:main\n"
    wheel(wheels, "pytest", "9.0", {"tiny_pytest.py": tell, "pytest-9.0.dist-info/entry_points.txt": points})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # PyTorch's index: not reachable
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    script(tmp_path / "bin/nvidia-smi", "echo 'No devices were found'")
    return root


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
def test_without_a_word_the_studio_starts_with_what_it_needs(tiny: Path, tmp_path: Path):
    run(tiny, "demo")
    started = run(tiny, cwd=tmp_path)
    assert started.stdout == f"mapo ['studio'] {tmp_path}\n", started.stderr
    assert "[3/4] mapo[web]" in started.stderr
    assert json.loads(stamp_of(tiny).read_text())["extras"] == ["web"]
    assert run(tiny, "studio", "--port", "8000").stderr == ""


@POSIX
@pytest.mark.slow
def test_the_word_test_adds_the_dev_extra_and_runs_pytest_in_the_root(tiny: Path, tmp_path: Path):
    run(tiny, "demo")
    (tmp_path / "test_mine.py").touch()
    tested = run(tiny, "test", "-q", "test_mine.py::test_it", "tests", cwd=tmp_path)
    assert tested.stdout == f"pytest ['-q', '{tmp_path}/test_mine.py::test_it', 'tests'] {tiny}\n", tested.stderr
    assert "[2/4] PyTorch 2.13.0+cpu is there" in tested.stderr
    assert run(tiny, "demo").stderr == ""  # the environment with more is complete for less


@POSIX
@pytest.mark.slow
def test_all_tests_run_side_by_side_and_the_timed_ones_alone_afterwards(tiny: Path, tmp_path: Path):
    together, alone = run(tiny, "test", cwd=tmp_path).stdout.splitlines()
    assert "'-n', 'auto'" in together
    assert "'-m', 'not timed'" in together
    assert "'-m', 'timed', '--reruns', '1'" in alone
    assert alone.endswith(str(tiny))


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
def test_torch_follows_the_card(tiny: Path, tmp_path: Path):
    run(tiny, "demo")
    script(tmp_path / "bin/nvidia-smi", "echo 'NVIDIA GeForce RTX 3060, 580.65.06, 8.6'")
    without = run(tiny, "demo")
    assert without.returncode == 5
    assert "no CUDA build of PyTorch could be had" in without.stderr
    assert run(tiny, "demo").stderr == ""  # it is not tried again at every start
    torch_wheel(tmp_path / "wheels", "2.13.0+cu130", "13.0")
    stamp_of(tiny).unlink()
    assert run(tiny, "demo").returncode == 5
    assert torch_choice.installed_torch(site_of(tiny)) == ("2.13.0+cu130", "cuda")
    script(tmp_path / "bin/nvidia-smi", "echo 'Failed to initialize NVML'; exit 18")
    stamp_of(tiny).unlink()
    assert "nvidia-smi is there but fails: Failed to initialize NVML" in run(tiny, "demo").stderr
    assert torch_choice.installed_torch(site_of(tiny)).kind == "cuda"


@POSIX
@pytest.mark.slow
def test_what_was_cut_off_is_repaired_or_made_anew(tiny: Path):
    run(tiny, "demo")
    # pip killed while it unpacks torch: no RECORD yet, and pip itself refuses to replace such a package.
    stamp_of(tiny).unlink()
    (info,) = site_of(tiny).glob("torch-*.dist-info")
    (info / "RECORD").unlink()
    (site_of(tiny) / "torch/version.py").unlink()
    repaired = run(tiny, "demo")
    assert repaired.returncode == 5, repaired.stderr
    assert "[1/4] .venv is there" in repaired.stderr
    # pip killed while it replaces torch: its old files lie aside, any of them may be gone.
    stamp_of(tiny).unlink()
    (site_of(tiny) / "~orch").mkdir()
    anew = run(tiny, "demo")
    assert anew.returncode == 5, anew.stderr
    assert "making it anew" in anew.stderr
    assert not list(tiny.glob(".venv.old-*"))


@POSIX
@pytest.mark.slow
def test_moved_clone_is_installed_anew(tiny: Path):
    run(tiny, "demo")
    moved = tiny.rename(tiny.with_name("elsewhere"))
    ran = run(moved, "demo")
    assert "making it anew" in ran.stderr
    assert ran.returncode == 5
    assert str(moved) in (moved / ".venv/bin/mapo").read_text()


@POSIX
@pytest.mark.slow
def test_second_start_waits_for_the_first_even_after_it_was_killed(tiny: Path, tmp_path: Path):
    """pip outlives a start that is killed; installing beside it would spoil the environment."""
    run(tiny, "demo")
    stamp_of(tiny).unlink()
    building, go = tiny / "building", tiny / "go"
    wait = f"open({str(building)!r}, 'w'), [time.sleep(0.1) for _ in range(600) if not os.path.exists({str(go)!r})]"
    hook = "metadata_directory=None):"
    (tiny / "backend.py").write_text(BACKEND.replace(hook, f"{hook}\n    import os, time; {wait}"))
    first = subprocess.Popen([tiny / "mapo.sh", "one"], stderr=subprocess.DEVNULL)
    while not building.exists():
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.wait()
    second = subprocess.Popen([tiny / "mapo.sh", "two"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert second.stderr.readline() == "Another start is installing; waiting for it.\n"
    go.touch()
    said, told = second.communicate(timeout=300)
    assert said.startswith("mapo ['two']"), told

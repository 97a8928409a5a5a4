"""From a clone to a running command: which Python, which torch, when the environment is trusted."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="mapo.sh and stand-ins with #! are for POSIX")


def load_bootstrap() -> ModuleType:
    """As mapo.sh runs it: by its path, not as a part of the package."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("bootstrap_by_path", ROOT / "trainer" / "installer" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


bootstrap = load_bootstrap()
torch_wheel = bootstrap.torch_wheel
RTX3060 = torch_wheel.Card("NVIDIA GeForce RTX 3060", 580, 8.6)
Graphics = torch_wheel.Graphics


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
    (root / "trainer/installer").mkdir(parents=True)
    shutil.copy(ROOT / "mapo.sh", root)
    tell = "print(json.dumps([sys.executable, sys.argv, os.getcwd(), sys.path[0]]))"
    (root / "trainer/installer/bootstrap.py").write_text(f"import json, os, sys\n{tell}\nsys.exit(7)\n")
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
    assert words == [str(clone / "trainer/installer/bootstrap.py"), "demo", "two words", "*"]
    assert Path(cwd) == tmp_path
    assert first_on_path != str(clone / "trainer/installer")


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
    for way_in in ("mapo.sh", "mapo.bat", "trainer/cli/doctor.py"):
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
            Graphics(torch_wheel.Card("NVIDIA GeForce RTX 4090", 550, 8.9)),
        ),
        ("echo 'Some Card, 580.1, [N/A]'", Graphics(torch_wheel.Card("Some Card", 580, 0.0))),
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
    assert torch_wheel.find_card() == found


def test_without_nvidia_smi_there_is_no_card_and_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert torch_wheel.find_card() == Graphics(None)


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
    assert torch_wheel.cuda_build(torch_wheel.Card("card", driver, capability)) == build


CPU, CUDA = (torch_wheel.TorchBuild(f"2.13.0+{tag}", kind) for tag, kind in (("cpu", "cpu"), ("cu130", "cuda")))


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
        (torch_wheel.TorchBuild("2.13.0+rocm7.0", "rocm"), Graphics(None), True),
        (torch_wheel.TorchBuild("2.5.1+cpu", "cpu"), Graphics(None), False),
        (torch_wheel.TorchBuild("3.0.0+cpu", "cpu"), Graphics(None), False),
    ],
)
def test_installed_torch_stays_only_where_it_suits(monkeypatch, torch, graphics, kept: bool):
    monkeypatch.setattr(sys, "platform", "linux")
    assert torch_wheel.keeps(torch, graphics, ">=2.6,<3") is kept


OLD = torch_wheel.Card("NVIDIA GeForce GTX 1060", 580, 6.1)


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
    monkeypatch.setattr(torch_wheel, "os", SimpleNamespace(name=name))
    monkeypatch.setattr(sys, "platform", platform)
    wanted = {"": "torch==2.13.0", "=": "torch===2.13.0"}
    sources = torch_wheel.torch_sources(Graphics(card))
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
    monkeypatch.setattr(torch_wheel, "os", SimpleNamespace(name="posix"))
    source = torch_wheel.Source("", "torch==2.13.0+cpu", page=index)
    assert torch_wheel.offers(source, "3.11")
    assert not torch_wheel.offers(source, "3.12")
    assert not torch_wheel.offers(source._replace(requirement="torch==2.13.0+cu130"), "3.11")
    assert not torch_wheel.offers(source._replace(page="http://127.0.0.1:9/"), "3.11")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not torch_wheel.offers(source, "3.11")


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
    monkeypatch.setattr(torch_wheel, "card_signs", lambda: ["no card"])
    monkeypatch.setattr(torch_wheel, "find_card", lambda: Graphics(None))
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
    monkeypatch.setattr(torch_wheel, "card_signs", lambda: ["a driver"])
    monkeypatch.setattr(torch_wheel, "find_card", lambda: Graphics(RTX3060))
    assert not complete()


def test_nvidia_smi_is_asked_once_after_a_change_of_the_driver(place: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch_wheel, "card_signs", lambda: ["a driver without a card"])
    monkeypatch.setattr(torch_wheel, "find_card", lambda: asked.append(1) or Graphics(None))
    assert complete()
    assert complete()
    assert len(asked) == 1


def test_failing_driver_keeps_the_trust_and_is_asked_again(place: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch_wheel, "card_signs", lambda: ["a driver"])
    monkeypatch.setattr(torch_wheel, "find_card", lambda: asked.append(1) or Graphics(None, "mismatch"))
    assert complete()
    assert complete()
    assert len(asked) == 2
    monkeypatch.setattr(torch_wheel, "find_card", lambda: Graphics(RTX3060))
    assert not complete()


def test_lock_is_free_once_its_holder_is_killed(tmp_path: Path):
    hold = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'trainer' / 'installer')!r}); import bootstrap, time; "
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


@pytest.mark.parametrize("starter", ["mapo.sh", "mapo.bat"])
def test_what_the_starters_run_is_there(starter):
    text = (ROOT / starter).read_text(encoding="utf-8")
    [started] = re.findall(r"(?:\$here/|%~dp0)(trainer[\w/\\]*\.py)", text)
    assert (ROOT / started.replace("\\", "/")).is_file()

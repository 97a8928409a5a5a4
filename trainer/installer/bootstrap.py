"""Bootstrap of the virtual environment: make the .venv beside this package complete, then run `mapo` in it.

mapo.sh and mapo.bat run this file by its path, with whatever Python 3.10 to 3.13 they found: standard library only, and
nothing of this package is imported. Without a word it is the studio that starts, and what it needs is added. The first
word `test` adds the tests' needs and runs pytest instead of mapo.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

# At the end: no neighbour of this file may stand in for a module of the standard library.
sys.path.append(str(Path(__file__).resolve().parent))
import torch_wheel
from pip_steps import StepFailedError, Steps, elapsed, say

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "mapo-installed.json"
HALF_MADE = VENV / "mapo-half-made"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
SUFFIX = ".exe" if os.name == "nt" else ""
PYTHON = BIN / f"python{SUFFIX}"
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
EXTRAS_OF_WORD = {"test": ("dev",), "studio": ("web",)}


def main(arguments: Sequence[str]) -> int:
    if running_version() not in SUPPORTED:
        say(f"mapo needs Python {SUPPORTED[0]} to {SUPPORTED[-1]}; {sys.executable} is {sys.version.split()[0]}.")
        return 1
    arguments = arguments or ["studio"]
    extras = EXTRAS_OF_WORD.get(arguments[0], ())
    try:
        if not is_complete(read_stamp(), extras):
            with alone() as lock:
                stamp = read_stamp()
                if not is_complete(stamp, extras):  # another start may have done it while this one waited
                    install(stamp, {*extras, *stamp.get("extras", ())}, lock)
    except StepFailedError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"Cannot install into {VENV}: {error}")
        return 1
    except KeyboardInterrupt:
        say("Stopped before it was complete. The next start goes on from here.")
        return 130
    return hand_over(arguments)


def hand_over(arguments: Sequence[str]) -> int:
    if arguments[0] == "test":
        tests = [from_here(argument) for argument in arguments[1:]]
        os.chdir(ROOT)
        pytest = str(BIN / f"pytest{SUFFIX}")
        if tests:
            return become([pytest, *tests])
        slowest = ["--durations", "15", "--durations-min", "10"]
        side_by_side = ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile", "--no-loadscope-reorder"]
        # All of them: as many files at a time as there are cores, then alone those that look at the clock.
        together = wait_for([pytest, *side_by_side, "-m", "not timed", "-rfER", *slowest])
        interrupted = 2  # pytest's own number for it
        if together == interrupted:
            return together
        # A stall of the machine can fail these: once more, and the summary names what needed it.
        return wait_for([pytest, "-m", "timed", "--reruns", "1", "-rfER", *slowest]) or together
    return become([str(BIN / f"mapo{SUFFIX}"), *arguments])


def from_here(argument: str) -> str:
    """pytest runs in the root; a path that exists where the caller is keeps its meaning."""
    path, colons, test = argument.partition("::")
    if path and not path.startswith("-") and Path(path).exists():
        return str(Path(path).resolve()) + colons + test
    return argument


def become(command: list[str]) -> int:
    if os.name != "nt":
        # Through the interpreter: where the path has a space, the script itself would take a shell's detour.
        os.execv(PYTHON, [str(PYTHON), *command])
    return wait_for(command)  # Windows has no exec


def wait_for(command: list[str]) -> int:
    import subprocess

    # Ctrl+C reaches the child by itself; here it must not end the wait for it.
    child = subprocess.Popen([str(PYTHON), *command] if os.name != "nt" else command)
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return child.wait()


# The stamp says what the environment was completed for. It is written last and removed first.


def read_stamp() -> dict:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(extras: Sequence[str], kind: str, graphics: torch_wheel.Graphics) -> None:
    # Where the driver fails no signs are kept: it may work tomorrow without having left one, so it is asked every time.
    signs = None if graphics.trouble else torch_wheel.card_signs()
    stamp = {**circumstances(), "extras": sorted(extras), "torch": kind, "signs": signs}
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    part.replace(STAMP)


def circumstances() -> dict:
    import hashlib

    return {
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": venv_version(),
        "root": str(ROOT),  # after a move the paths in the environment's scripts lead nowhere
    }


def is_complete(stamp: dict, extras: Sequence[str]) -> bool:
    if not stamp or not (BIN / f"mapo{SUFFIX}").exists() or not set(extras) <= set(stamp.get("extras", ())):
        return False
    if any(stamp.get(name) != value for name, value in circumstances().items()):
        return False
    if stamp.get("signs") == torch_wheel.card_signs():
        return True
    graphics = torch_wheel.find_card()
    if not graphics.trouble and torch_wheel.wanted_kind(graphics) != stamp.get("torch"):
        return False
    with contextlib.suppress(OSError):
        write_stamp(stamp["extras"], stamp["torch"], graphics)  # the next start need not ask again
    return True


def running_version() -> str:
    return "{}.{}".format(*sys.version_info[:2])


def venv_version() -> str | None:
    """Of the environment's Python as it answers now, "3.11"; None where it does not answer."""
    if Path(sys.prefix) == VENV:
        return running_version()
    import subprocess

    ask = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    try:
        answer = subprocess.run([PYTHON, "-I", "-S", "-c", ask], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def site_packages() -> Path:
    return VENV / "Lib" / "site-packages" if os.name == "nt" else VENV / f"lib/python{venv_version()}/site-packages"


def torch_limits() -> str:
    """The range in pyproject.toml's torch line; Python 3.10 has no tomllib."""
    line = re.search(r'^\s*"torch\b([^"]*)"', read_text(ROOT / "pyproject.toml"), re.MULTILINE)
    return line[1] if line else ""


# The installation, in four steps.


def install(stamp: dict, extras: set[str], lock: int) -> None:
    if sys.platform == "darwin" and os.uname().machine == "x86_64":
        raise StepFailedError("PyTorch left Intel Macs after 2.2 and mapo needs 2.6: nothing can be installed here.")
    graphics = torch_wheel.find_card()
    kind = torch_wheel.wanted_kind(graphics)
    began = time.monotonic()
    with Steps(ROOT, VENV, lock) as steps:
        make_venv(steps, stamp)
        STAMP.unlink(missing_ok=True)
        put_torch(steps, graphics, kind)
        put_mapo(steps, sorted(extras))
        check_torch(steps, graphics)
    write_stamp(sorted(extras), kind, graphics)
    say(f"Installed in {elapsed(began)}. What pip said is in {VENV / 'install.log'}")


def make_venv(steps: Steps, stamp: dict) -> None:
    if whole_venv(steps, stamp):
        for info in site_packages().glob("*.dist-info"):
            if not (info / "RECORD").exists():  # pip writes it last: this package was cut off, pip could not replace it
                shutil.rmtree(info)
        say(f"[1/4] .venv is there, with Python {venv_version()}")
        return
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise StepFailedError(
            f"{sys.executable} lacks ensurepip, which .venv needs. Debian, Ubuntu: apt install python3-venv"
        ) from None
    base = base_python()  # looked up now: this process may run on the environment that is about to go
    for old in ROOT.glob(".venv.old-*"):
        shutil.rmtree(old, ignore_errors=True)
    if VENV.exists():
        say(f"      {VENV} was cut off or moved, or its Python has changed: making it anew")
        old = ROOT / f".venv.old-{os.getpid()}"
        VENV.rename(old)  # at once: half an environment could be taken for a whole one
        shutil.rmtree(old, ignore_errors=True)
    VENV.mkdir()
    HALF_MADE.touch()
    steps.begin(f"[1/4] .venv with Python {running_version()}: some seconds")
    steps.run([base, "-I", "-m", "venv", str(VENV)])
    HALF_MADE.unlink()


def base_python() -> str:
    """The interpreter below the one that runs this; Python 3.10 names the environment's own as its base."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return os.path.realpath(base) if Path(base).is_relative_to(VENV) else base


def whole_venv(steps: Steps, stamp: dict) -> bool:
    version = venv_version()
    made_with = re.search(r"^version\s*=\s*(\d+\.\d+)", read_text(VENV / "pyvenv.cfg"), re.MULTILINE)
    return bool(
        version in SUPPORTED
        and made_with
        and made_with[1] == version
        and stamp.get("root", str(ROOT)) == str(ROOT)
        and not HALF_MADE.exists()
        # pip sets files aside under a ~ while it replaces a package: left over, they mean it was cut off there.
        and not any(site_packages().glob("~*"))
        and steps.succeeds(pip("--version"))
    )


def put_torch(steps: Steps, graphics: torch_wheel.Graphics, kind: str) -> None:
    if graphics.trouble:
        say(f"      nvidia-smi is there but fails: {graphics.trouble}")
        say("      Going on without the card. When the driver works, start again and torch is put right.")
    limits = torch_limits()
    torch = torch_wheel.installed_torch(site_packages())
    if torch_wheel.keeps(torch, graphics, limits):
        say(f"[2/4] PyTorch {torch.version} is there")
        return
    failure = StepFailedError("No build of PyTorch could be found for this machine.")
    for source in torch_wheel.torch_sources(graphics):
        torch = torch_wheel.installed_torch(site_packages())
        if kind == "cpu" and torch and torch_wheel.within(torch.version, limits) and not source.page:
            return  # a CUDA build without its card still works; this source would only bring it again
        if not torch_wheel.offers(source, venv_version()):
            continue
        steps.begin(f"[2/4] {source.title}: a minute for a CPU build, up to an hour for a CUDA build (3 GB)")
        replace = ("--force-reinstall", "--no-deps") if torch else ()
        try:
            steps.run(pip("install", *source.options, *replace, source.requirement))
            if replace:
                steps.run(pip("install", *source.options, source.requirement))
        except StepFailedError as error:
            failure = error
        if torch_wheel.keeps(torch_wheel.installed_torch(site_packages()), graphics, limits):
            return
    torch = torch_wheel.installed_torch(site_packages())
    if torch is None or not torch_wheel.within(torch.version, limits):
        raise failure


def put_mapo(steps: Steps, extras: list[str]) -> None:
    torch = torch_wheel.installed_torch(site_packages())
    constraint = VENV / "torch-stays.txt"
    constraint.write_text(f"torch==={torch.version}\n", encoding="utf-8")
    named = f"[{','.join(extras)}]" if extras else ""
    steps.begin(f"[3/4] mapo{named} and what it builds on: one to five minutes")
    steps.run(pip("install", "--constraint", str(constraint), "--editable", f".{named}"))


def check_torch(steps: Steps, graphics: torch_wheel.Graphics) -> None:
    steps.begin("[4/4] Does PyTorch start?")
    ask = "import torch; print('CUDA', 'works' if torch.cuda.is_available() else 'is not available')"
    works = steps.run([str(PYTHON), "-I", "-c", ask]).endswith("CUDA works")
    torch = torch_wheel.installed_torch(site_packages())
    if works or not graphics.card or torch.kind in ("rocm", "xpu"):
        return
    if torch.kind == "cpu":
        say(f"      Here is a {graphics.card.name}, but no CUDA build of PyTorch could be found: it will not be used.")
        say(f"      Where {torch_wheel.OFFICIAL_INDEX} can be reached, delete {STAMP} and start again.")
        return
    say(f"      PyTorch {torch.version} does not see the {graphics.card.name}, though nvidia-smi does.")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        say(f"      CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}: unset it if that was not meant.")
    say(f"      Its driver is {graphics.card.driver}; CUDA 13 builds need 580 or newer: https://www.nvidia.com/drivers")


def pip(*arguments: str) -> list[str]:
    # -I: the root, where pip runs, must not be searched for modules. The person's pip settings stay in force.
    return [str(PYTHON), "-I", "-m", "pip", "--no-input", *arguments]


@contextlib.contextmanager
def alone() -> Iterator[int]:
    """One installation at a time. The system frees the lock when its holders die, so none is ever left over."""
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    with open(folder / "install.lock", "a+b") as file:
        if not take_lock(file):
            say("Another start is installing; waiting for it.")
            while not take_lock(file):
                time.sleep(0.3)
        yield file.fileno()


def take_lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

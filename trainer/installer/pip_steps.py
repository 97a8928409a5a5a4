"""Subprocesses of the installation, with progress in the terminal and a log of all that they print.

Standard library only: bootstrap.py runs it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class StepFailedError(Exception):
    """A step of the installation failed; the message is for the person."""


class Steps:
    """Runs programs one after the other. What they print goes to the log, the last line of it to a terminal."""

    def __init__(self, root: Path, venv: Path, lock: int) -> None:
        """root: where programs run; venv: where the log ends up; lock: an open file that running programs hold too."""
        self.root = root
        self.venv = venv
        self.lock = lock
        self.title = ""

    def __enter__(self) -> Steps:
        # .venv may not exist yet, and may be made anew: the log moves there in the end.
        handle, name = tempfile.mkstemp(prefix="mapo-install-", suffix=".log")
        os.close(handle)
        self.path = Path(name)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        return self

    def __exit__(self, *error: object) -> None:
        if self.venv.is_dir():
            shutil.move(self.path, self.venv / "install.log")

    def succeeds(self, command: list[str]) -> bool:
        try:
            self.run(command)
        except StepFailedError:
            return False
        return True

    def begin(self, title: str) -> None:
        self.title = title
        say(title)

    def run(self, command: list[str]) -> str:
        """What the program printed. It holds the lock too: one that outlives a killed start is waited for."""
        start = self.path.stat().st_size
        # A user install fails in an environment, whatever a person's settings prefer elsewhere.
        settings = {**os.environ, "PIP_USER": "0", "PIP_PROGRESS_BAR": "off", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        with open(self.path, "ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=settings,
                pass_fds=() if os.name == "nt" else (self.lock,),
            )
        try:
            code = self.watch(child, start)
        except BaseException as error:
            end(child, heard=isinstance(error, KeyboardInterrupt))
            raise
        output = self.output_since(start)
        if code:
            tail = "".join(f"\n    {line}" for line in output.splitlines()[-12:])
            log_path = self.venv / "install.log" if self.venv.is_dir() else self.path
            raise StepFailedError(f"Failed with exit code {code} at {self.title}{tail}\n      All of it: {log_path}")
        return output

    def watch(self, child: subprocess.Popen, start: int) -> int:
        began = time.monotonic()
        live = sys.stderr.isatty()
        while True:
            try:
                code = child.wait(0.25 if live else None)
            except subprocess.TimeoutExpired:
                last = (self.output_since(start).splitlines() or [""])[-1].strip()
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write("\r\x1b[2K" + f"      {elapsed(began)}  {last}"[:width])
                sys.stderr.flush()
                continue
            if live:
                sys.stderr.write("\r\x1b[2K")
            return code

    def output_since(self, start: int) -> str:
        with open(self.path, "rb") as log:
            log.seek(start)
            return log.read().decode("utf-8", "replace").strip()


def end(child: subprocess.Popen, heard: bool) -> None:
    """Let pip clean up: it does on an interrupt, not when it is killed. A Ctrl+C it has heard by itself."""
    if not heard:
        child.terminate() if os.name == "nt" else child.send_signal(signal.SIGINT)
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def elapsed(began: float) -> str:
    """Minutes and seconds as a running clock shows them, 0:42. The installer imports nothing of the package."""
    seconds = int(time.monotonic() - began)
    return f"{seconds // 60}:{seconds % 60:02d}"


def say(line: str) -> None:
    """Progress goes to stderr: what mapo prints may be piped somewhere."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201

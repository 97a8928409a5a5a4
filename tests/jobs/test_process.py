"""Processes that outlive whoever started them, and leave nothing in the process table."""

import os
import subprocess
import sys
import time

import pytest
from mapo_studio.trainer.jobs.process import launch


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_ended_process_is_reaped_although_its_starter_never_waits(tmp_path):
    process = launch(["help"], tmp_path / "log.txt")
    until(lambda: process.returncode is not None)  # an attribute: reading it reaps nothing
    assert process.returncode == 0
    assert "usage: mapo" in (tmp_path / "log.txt").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_process_goes_on_when_its_starter_has_ended(tmp_path):
    source = (
        "import sys; from pathlib import Path; from mapo_studio.trainer.jobs import process\n"
        "process._LAUNCHER = sys.argv[1]\n"
        "process.launch([], Path(sys.argv[2]))"
    )
    script, log, go = (tmp_path / name for name in ("script.py", "log.txt", "go"))
    script.write_text(
        f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\nprint('done')"
    )
    subprocess.run([sys.executable, "-c", source, str(script), str(log)], check=True)
    go.touch()
    until(lambda: log.read_text() == "done\n")

"""One thing on the device at a time: who comes first goes first, and nobody waits for the dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from mapo_studio.trainer.cancellation import Cancelled, StopRequest
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.jobs import gpu_queue
from mapo_studio.trainer.jobs.gpu_queue import acquire_gpu, queued
from mapo_studio.trainer.jobs.job import Job, start_training
from mapo_studio.trainer.jobs.worker import run_training
from mapo_studio.trainer.runs import event_log
from mapo_studio.trainer.runs.run_folder import Run

HOLDER = """
import sys, time
from pathlib import Path
from mapo_studio.trainer.jobs.gpu_queue import acquire_gpu
def tell(what): print("behind", what, flush=True)
with acquire_gpu(Path(sys.argv[1]), Path(sys.argv[2]), tell, lambda: None):
    print("turn", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(gpu_queue, "_POLL_SECONDS", 0.02)


@pytest.fixture
def process(tmp_path):
    """process(name): another process that takes a turn for runs/name and keeps it until it is killed."""
    started = []

    def begin(name):
        words = [sys.executable, "-c", HOLDER, str(tmp_path), str(tmp_path / "runs" / name)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.wait()


def waiting(workspace, name, seen, check=lambda: None):
    """A thread that appends to `seen` what it is told, and NAME once it has its turn, which it gives back at once."""

    def work():
        with acquire_gpu(workspace, workspace / "runs" / name, lambda what: seen.append((name, what)), check):
            seen.append(name)

    thread = threading.Thread(target=work)
    before = len(queued(workspace))
    thread.start()
    while len(queued(workspace)) == before:
        time.sleep(0.01)
    return thread


def test_alone_nobody_waits_and_nothing_stays_behind(tmp_path):
    told = []
    with acquire_gpu(tmp_path, tmp_path / "runs" / "cats", told.append, lambda: None):
        assert queued(tmp_path) == (tmp_path / "runs" / "cats",)
    assert told == []
    assert queued(tmp_path) == ()
    assert [file.name for file in (tmp_path / "turns").iterdir() if file.name != "guard"] == []


def test_who_came_first_goes_first_and_is_told_who_works(tmp_path):
    seen = []
    with acquire_gpu(tmp_path, tmp_path / "tasks" / "generate-1", seen.append, lambda: None):
        threads = [waiting(tmp_path, name, seen) for name in ("b", "a", "c")]
        assert [folder.name for folder in queued(tmp_path)] == ["generate-1", "b", "a", "c"]
        while len(seen) < 3:
            time.sleep(0.01)
    for thread in threads:
        thread.join(10)
    assert [name for name in seen if isinstance(name, str)] == ["b", "a", "c"]
    assert set(seen[:3]) == {(name, "the generation of candidates") for name in "abc"}


def test_stopping_one_that_waits_lets_the_others_keep_their_places(tmp_path):
    seen, asked = [], threading.Event()

    def check():
        if asked.is_set():
            raise Cancelled

    def work():
        with pytest.raises(Cancelled), acquire_gpu(tmp_path, tmp_path / "runs" / "b", lambda what: None, check):
            seen.append("b")

    with acquire_gpu(tmp_path, tmp_path / "runs" / "a", seen.append, check):
        stopped = threading.Thread(target=work)
        stopped.start()
        while len(queued(tmp_path)) < 2:
            time.sleep(0.01)
        last = waiting(tmp_path, "c", seen)
        asked.set()
        stopped.join(10)
        assert [folder.name for folder in queued(tmp_path)] == ["a", "c"]
    last.join(10)
    assert seen == [("c", "the training a"), "c"]


def test_nobody_waits_for_a_killed_runner_or_a_killed_waiter(tmp_path, process):
    runner = process("runner")
    assert runner.stdout.readline() == "turn\n"
    waiter = process("waiter")
    assert waiter.stdout.readline() == "behind the training runner\n"
    seen = []
    mine = waiting(tmp_path, "mine", seen)
    os.kill(waiter.pid, signal.SIGKILL)
    waiter.wait()
    assert [folder.name for folder in queued(tmp_path)] == ["runner", "mine"]
    os.kill(runner.pid, signal.SIGKILL)
    mine.join(10)
    assert seen[-1] == "mine"


def test_a_run_waits_without_torch_and_can_be_stopped_while_it_does(tmp_path):
    config = RunConfig(name="cats", base="tiny", data={"pairs": "dataset:cats"})
    with ExitStack() as held:
        held.enter_context(acquire_gpu(tmp_path, tmp_path / "tasks" / "rate-1", print, lambda: None))
        run = start_training(tmp_path, config)
        assert Job(run.folder).status().phase == "waiting"
        until(lambda: Job(run.folder).status().waiting_for)
        status = Job(run.folder).status()
        assert (status.phase, status.waiting_for) == ("waiting", "the rating of pairs")
        assert Job(run.folder).is_alive()
        if sys.platform == "linux":
            assert "libtorch" not in Path(f"/proc/{pid_of(run)}/maps").read_text()
        Job(run.folder).stop()
        until(lambda: not Job(run.folder).is_alive())
    assert Job(run.folder).status().phase == "stopped"
    assert queued(tmp_path) == ()


def test_a_request_to_stop_before_the_process_is_there_is_heard(tmp_path):
    run = Run.create(tmp_path, RunConfig(base="tiny", data={"pairs": "dataset:cats"}))
    run.log("requested")
    Job(run.folder).stop()
    with pytest.raises(Cancelled):
        run_training(run, StopRequest(run.stop_file))
    assert event_log.read(run.events_file)[-1]["event"] == "stopped"


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def pid_of(run):
    """Of the process whose command line names this workspace."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if str(run.workspace) in words:
                return int(entry)
    raise AssertionError("no process of this run")

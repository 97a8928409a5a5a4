"""A long task as a process of its own: how it stands, and how it is paused, stopped and let go on."""

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import tasks, worker
from mapo_studio.trainer.jobs.tasks import Task


@pytest.fixture
def kind(monkeypatch):
    """kind(run, check=...): what tasks of the kind "count" do; their processes are not started."""

    def define(run, check=lambda workspace, settings: settings):
        module = SimpleNamespace(run=run, check=check)
        monkeypatch.setitem(tasks.KINDS, "count", "a test's")
        monkeypatch.setattr(tasks, "module_of", lambda name: module)

    launched = []
    monkeypatch.setattr(tasks, "launch", lambda words, log: launched.append(words))
    define.launched = launched
    return define


def phases(task):
    return [line["event"] for line in map(json.loads, task.events_file.read_text().splitlines())]


def test_a_task_that_is_done_is_finished_and_says_what_came_of_it(kind, tmp_path):
    seen = []

    def run(work):
        seen.append((work.workspace, work.settings, task.status().phase))
        work.tell(1, 3, "one")
        work.tell(3, 3, "three")
        return "3 things made"

    kind(run, check=lambda workspace, settings: {**settings, "more": 1})
    task = tasks.start(tmp_path, "count", {"things": 3})
    assert kind.launched == [["task", str(task.folder)]]
    assert task.status().phase == "waiting"
    assert worker.perform(task.folder) == 0
    assert seen == [(tmp_path, {"things": 3, "more": 1}, "running")]
    assert phases(task) == ["asked", "waiting", "running", "progress", "progress", "finished"]
    status = task.status()
    assert (status.phase, status.done, status.total, status.message) == ("finished", 3, 3, "3 things made")
    assert not status.can_go_on
    task.go_on()
    assert len(kind.launched) == 1


def test_settings_that_cannot_be_leave_no_task_behind(kind, tmp_path):
    def check(workspace, settings):
        raise UserError("things: say how many")

    kind(None, check)
    with pytest.raises(UserError, match="say how many"):
        tasks.start(tmp_path, "count", {})
    assert tasks.all_tasks(tmp_path) == []


def test_a_kind_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"'dance'.*generate, compare"):
        tasks.start(tmp_path, "dance", {})


def test_what_a_person_can_mend_is_said_as_it_is_and_the_rest_with_its_log(kind, tmp_path, capsys):
    kind(lambda work: (_ for _ in ()).throw(UserError("there is no base there: choose another")))
    task = tasks.start(tmp_path, "count", {})
    assert worker.perform(task.folder) == 2
    assert (task.status().phase, task.status().message) == ("failed", "there is no base there: choose another")

    kind(lambda work: 1 // 0)
    task = tasks.start(tmp_path, "count", {})
    assert worker.perform(task.folder) == 1
    assert task.status().message.startswith("ZeroDivisionError: ")
    assert str(task.folder / "log.txt") in task.status().message
    assert "Traceback" in capsys.readouterr().err
    assert task.status().can_go_on


@pytest.mark.parametrize(("ask", "phase"), [("stop", "stopped"), ("pause", "paused")])
def test_a_task_ends_when_asked_and_goes_on_with_what_is_left(kind, tmp_path, ask, phase):
    made = []

    def run(work):
        for number in range(4):
            work.tell(number, 4)
            if number not in made:
                made.append(number)
            if len(made) == 2 and ask_now:
                getattr(task, ask)()
        return "all"

    kind(run)
    task, ask_now = tasks.start(tmp_path, "count", {}), True
    worker.perform(task.folder)
    assert (task.status().phase, made) == (phase, [0, 1])
    ask_now = False
    task.go_on()
    assert len(kind.launched) == 2
    assert task.status().phase == "waiting"
    worker.perform(task.folder)
    assert (task.status().phase, made) == ("finished", [0, 1, 2, 3])


def test_a_task_asked_to_stop_before_it_began_does_nothing(kind, tmp_path):
    kind(lambda work: pytest.fail("it worked"))
    task = tasks.start(tmp_path, "count", {})
    task.stop()
    worker.perform(task.folder)
    assert task.status().phase == "stopped"


def test_one_let_go_on_after_it_saw_the_request_does_not_leave(kind, tmp_path):
    times = []

    def run(work):
        times.append(None)
        if len(times) == 1:
            task.pause()
            try:
                work.check()
            except Cancelled:
                task.go_on()  # somebody else, while the lock is still held
                raise
        return "done"

    kind(run)
    task = tasks.start(tmp_path, "count", {})
    worker.perform(task.folder)
    assert task.status().phase == "finished"
    assert len(times) == 2
    assert len(kind.launched) == 1


def test_a_signal_stops_it_cleanly(kind, tmp_path):
    def run(work):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            work.check()

    kind(run)
    task = tasks.start(tmp_path, "count", {})
    assert worker.perform(task.folder) == 128 + signal.SIGTERM
    assert task.status().phase == "stopped"


def test_a_second_process_leaves_the_task_to_the_first(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_LOCK_SECONDS", 0.1)
    depth = []

    def run(inner):
        depth.append(None)
        assert worker.perform(task.folder) == 0
        return ""

    kind(run)
    task = tasks.start(tmp_path, "count", {})
    worker.perform(task.folder)
    assert len(depth) == 1


def test_one_that_ended_without_a_word_died(kind, tmp_path, monkeypatch):
    kind(None)
    task = tasks.start(tmp_path, "count", {})
    monkeypatch.setattr(tasks, "_STARTING_SECONDS", 0.0)
    time.sleep(0.01)
    assert task.status().phase == "died"  # its process never came
    task.log("running")
    task.log("progress", done=2, total=5, remaining=3.0, message="painting")
    status = task.status()
    assert (status.phase, status.done, status.total, status.seconds_left) == ("died", 2, 5, None)
    assert status.can_go_on


def test_seconds_left_count_only_what_this_process_did(kind, tmp_path, monkeypatch):
    def run(inner):
        clock = iter([100.0, 110.0])
        monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
        inner.tell(50, 100)
        inner.tell(60, 100)
        monkeypatch.undo()
        told.append(task.status())
        return ""

    kind(run)
    told = []
    task = tasks.start(tmp_path, "count", {})
    worker.perform(task.folder)
    assert told[0].seconds_left == pytest.approx(40.0)


def test_telling_often_writes_seldom(kind, tmp_path):
    def run(inner):
        for number in range(2000):
            inner.tell(number, 2000)
        return ""

    kind(run)
    task = tasks.start(tmp_path, "count", {})
    worker.perform(task.folder)
    assert phases(task).count("progress") < 50


def test_tasks_are_listed_newest_first_and_ended_ones_cleared_away(kind, tmp_path, monkeypatch):
    kind(lambda inner: "")
    monkeypatch.setattr(tasks, "_KEPT", 3)
    started = []
    for number in range(6):
        task = tasks.start(tmp_path, "count", {"number": number})
        started.append(task.name)
        if number == 0:
            task.pause()  # a paused one is meant to go on
        worker.perform(task.folder)
    there = [task.name for task in tasks.all_tasks(tmp_path)]
    assert there == [*reversed(started[3:]), started[0]]
    assert tasks.all_tasks(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["nothing-1", "../tasks", ".", "", "/etc"])
def test_only_names_of_tasks_open_tasks(tmp_path, name):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(UserError, match="there is no task"):
        Task.open(tmp_path, name)


def test_damaged_settings_are_a_failure_with_a_sentence(kind, tmp_path):
    kind(None)
    task = tasks.start(tmp_path, "count", {})
    task.settings_file.write_text("{")
    worker.perform(task.folder)
    assert task.status().phase == "failed"
    assert "start the task anew" in task.status().message

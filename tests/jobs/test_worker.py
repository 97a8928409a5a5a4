"""The process of a job: what it reports, and how it is paused, stopped and resumed."""

import json
import os
import signal

import pytest
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import job as jobs
from mapo_studio.trainer.jobs import kind as kinds_of_jobs
from mapo_studio.trainer.jobs import worker
from mapo_studio.trainer.jobs.kind import JobKind, start


@pytest.fixture
def launched(monkeypatch):
    """The words of every process that was started: none is."""
    words = []
    monkeypatch.setattr(jobs, "launch", lambda arguments, log: words.append(arguments))
    return words


@pytest.fixture
def begin(tmp_path, launched):
    """begin(run): a job of the kind "count" that does `run(context)`."""

    def define(run, settings=(), check=lambda workspace, settings: settings):
        kind = JobKind("count", check, run)
        job = start(tmp_path, kind, dict(settings))
        kinds[job] = kind
        return job

    kinds = define.kinds = {}
    return define


@pytest.fixture
def work(begin):
    """work(job): its process, in this one; gives the exit code."""
    return lambda job: worker.run_job(job.folder, {"count": begin.kinds[job]})


def events(job):
    return [line["event"] for line in map(json.loads, job.events_file.read_text().splitlines())]


def test_a_job_that_is_done_is_finished_and_says_what_came_of_it(begin, work, launched, tmp_path):
    seen = []

    def run(context):
        seen.append((context.workspace, context.settings, context.folder, job.status().phase))
        context.report_progress(1, 3, "one")
        context.report_progress(3, 3, "three")
        return "3 things made"

    job = begin(run, {"things": 3}, check=lambda workspace, settings: {**settings, "more": 1})
    assert launched == [["task", str(job.folder)]]
    assert job.status().phase == "waiting"
    assert work(job) == 0
    assert seen == [(tmp_path, {"things": 3, "more": 1}, job.folder, "running")]
    assert events(job) == ["requested", "waiting", "acquired", "progress", "progress", "finished"]
    status = job.status()
    assert (status.phase, status.done, status.total, status.message) == ("finished", 3, 3, "3 things made")
    assert not status.can_resume
    assert job.resume() is None
    assert len(launched) == 1


def test_what_a_person_can_mend_is_said_as_it_is_and_the_rest_with_its_log(begin, work, capsys):
    def refuse(context):
        raise UserError("there is no base there: choose another")

    job = begin(refuse)
    assert work(job) == 2
    assert (job.status().phase, job.status().message) == ("failed", "there is no base there: choose another")

    job = begin(lambda context: 1 // 0)
    assert work(job) == 1
    assert job.status().message.startswith("ZeroDivisionError: ")
    assert str(job.folder / "log.txt") in job.status().message
    assert "Traceback" in capsys.readouterr().err
    assert job.status().can_resume


@pytest.mark.parametrize(("request_end", "phase"), [("stop", "stopped"), ("pause", "paused")])
def test_a_job_ends_when_asked_and_is_resumed_with_what_is_left(begin, work, launched, request_end, phase):
    made, ends = [], [2]

    def run(context):
        for number in range(4):
            context.report_progress(number, 4)
            if number not in made:
                made.append(number)
            if len(made) in ends:
                getattr(job, request_end)()
        return "all"

    job = begin(run)
    work(job)
    assert (job.status().phase, made) == (phase, [0, 1])
    ends.clear()
    job.resume()
    assert len(launched) == 2
    assert job.status().phase == "waiting"
    work(job)
    assert (job.status().phase, made) == ("finished", [0, 1, 2, 3])


def test_a_job_asked_to_stop_before_it_began_does_nothing(begin, work):
    job = begin(lambda context: pytest.fail("it worked"))
    job.stop()
    work(job)
    assert job.status().phase == "stopped"


def test_a_job_resumed_after_it_saw_the_request_does_not_leave(begin, work, launched):
    times = []

    def run(context):
        times.append(None)
        if len(times) == 1:
            job.pause()
            try:
                context.check()
            except Cancelled:
                job.resume()  # somebody else, while the lock is still held
                raise
        return "done"

    job = begin(run)
    work(job)
    assert job.status().phase == "finished"
    assert len(times) == 2
    assert len(launched) == 1


def test_a_signal_stops_a_job_cleanly(begin, work):
    def run(context):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            context.check()

    job = begin(run)
    assert work(job) == 128 + signal.SIGTERM
    assert job.status().phase == "stopped"


def test_a_second_process_leaves_the_job_to_the_first(begin, work, monkeypatch):
    monkeypatch.setattr(worker, "_LOCK_SECONDS", 0.1)
    depth = []

    def run(context):
        depth.append(None)
        assert work(job) == 0
        return ""

    job = begin(run)
    work(job)
    assert len(depth) == 1


def test_seconds_left_count_only_what_this_process_did(begin, work, monkeypatch):
    statuses = []

    def run(context):
        clock = iter([100.0, 110.0])
        monkeypatch.setattr(kinds_of_jobs.time, "monotonic", lambda: next(clock))
        context.report_progress(50, 100)
        context.report_progress(60, 100)
        monkeypatch.undo()
        statuses.append(job.status())
        return ""

    job = begin(run)
    work(job)
    assert statuses[0].seconds_left == pytest.approx(40.0)


def test_progress_reported_often_is_written_seldom(begin, work):
    def run(context):
        for number in range(2000):
            context.report_progress(number, 2000)
        return ""

    job = begin(run)
    work(job)
    assert 0 < events(job).count("progress") < 50


def test_damaged_settings_and_a_kind_that_is_gone_are_failures_with_a_sentence(begin, work):
    job = begin(lambda context: "")
    job.settings_file.write_text("{")
    work(job)
    assert job.status().phase == "failed"
    assert "start the task anew" in job.status().message

    job = begin(lambda context: "")
    assert worker.run_job(job.folder, {}) == 2
    assert "no task of the kind 'count'" in job.status().message


def test_a_folder_that_is_no_job_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no task\.json"):
        worker.run_job(tmp_path, {})

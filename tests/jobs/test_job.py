"""How a job stands, and how it is started, stopped and resumed from outside: trainings and every other kind."""

import json
import os
import time

import pytest
from filelock import FileLock
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import job as jobs
from mapo_studio.trainer.jobs import kind
from mapo_studio.trainer.jobs.job import Job, all_jobs, start_training
from mapo_studio.trainer.jobs.kind import JobKind, start
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.services.training_proposal import preflight, propose_config
from mapo_studio.trainer.training.checkpoint import latest_step

COUNT = JobKind("count", lambda workspace, settings: settings, lambda context: "")
DOGS = "the training dogs"


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def launched(monkeypatch):
    """The words of every process that was started: none is."""
    words = []
    monkeypatch.setattr(jobs, "launch", lambda arguments, log: words.append(arguments))
    return words


@pytest.fixture(params=["training", "task"])
def job(request, tmp_path, launched):
    """A job that was started, whose process never comes."""
    if request.param == "task":
        return start(tmp_path, COUNT, {})
    config = RunConfig(name="cats", base="tiny", data={"pairs": "dataset:cats"})
    return Job(start_training(tmp_path, config).folder)


def make_old(job):
    """As if it had been started long ago."""
    lines = [json.loads(line) | {"time": 1.0} for line in job.events_file.read_text().splitlines()]
    job.events_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_job_waits_for_its_process_and_then_for_the_gpu_and_runs(job):
    assert job.status().phase == "waiting"
    with FileLock(job.lock_file):
        job.log("waiting", waiting_for=DOGS)
        assert (job.status().phase, job.status().waiting_for) == ("waiting", DOGS)
        job.log("acquired")
        assert (job.status().phase, job.status().waiting_for) == ("running", "")
    assert job.status().phase == "crashed"


def test_a_job_whose_process_was_killed_while_it_waited_crashed(job):
    job.log("waiting", waiting_for=DOGS)
    status = job.status()
    assert (status.phase, status.waiting_for, status.can_resume) == ("crashed", "", True)


def test_a_process_that_never_came_counts_as_crashed_after_a_while(job):
    make_old(job)
    assert job.status().phase == "crashed"


def test_a_job_without_any_event_counts_by_the_time_it_was_made(job):
    job.events_file.unlink()
    assert job.status().phase == "waiting"
    os.utime(job.settings_file, (1, 1))
    assert job.status().phase == "crashed"
    with FileLock(job.lock_file):
        assert job.status().phase == "waiting"


def test_a_crashed_job_shows_how_far_it_came(tmp_path, launched):
    task = start(tmp_path, COUNT, {})
    task.log("acquired")
    task.log("progress", done=2, total=5, remaining=3.0, message="generating")
    status = task.status()
    assert (status.phase, status.done, status.total, status.seconds_left) == ("crashed", 2, 5, None)
    assert "log.txt" in status.message

    run = start_training(tmp_path, RunConfig(name="cats", base="tiny", data={"pairs": "dataset:cats"}))
    run.log("started", steps=8)
    run.log("step", step=3, remaining=5.0)
    status = Job(run.folder).status()
    assert (status.phase, status.done, status.total, status.seconds_left) == ("crashed", 3, 8, None)


@pytest.mark.parametrize("ending", ["paused", "stopped", "failed", "finished"])
def test_a_job_that_ended_can_be_resumed_unless_it_has_finished(job, ending):
    job.log("acquired")
    job.log(ending, step=1)
    status = job.status()
    assert (status.phase, status.is_open, status.can_resume) == (ending, False, ending != "finished")


@pytest.mark.parametrize(
    ("lines", "phase", "waiting_for"),
    [
        ([{"event": "asked"}, {"event": "waiting", "behind": DOGS}], "waiting", DOGS),
        ([{"event": "asked"}, {"event": "waiting", "message": f"{DOGS} has the device"}], "waiting", DOGS),
        ([{"event": "asked"}], "waiting", ""),
        ([{"event": "waiting"}, {"event": "running"}], "running", ""),
        ([{"event": "waiting", "behind": DOGS}, {"event": "turn"}], "running", ""),
    ],
)
def test_events_of_earlier_versions_are_still_read(job, lines, phase, waiting_for):
    job.events_file.write_text("".join(json.dumps({"time": 1.0, **line}) + "\n" for line in lines))
    with FileLock(job.lock_file):
        assert (job.status().phase, job.status().waiting_for) == (phase, waiting_for)
    assert job.status().phase == "crashed"


def test_a_request_to_stop_is_there_until_it_is_resumed(job, launched):
    job.stop()
    job.pause()
    assert job.stop_file.exists()
    assert job.pause_file.exists() is not job.is_training, "a training has no pause: it is stopped"
    job.resume()
    assert not job.stop_file.exists()
    assert not job.pause_file.exists()
    assert len(launched) == 2


def test_what_is_resumed_is_what_was_started(job, launched):
    job.log("stopped", step=1)
    job.resume()
    first, second = launched
    assert first == second
    assert first == (
        ["resume", "cats", "--workspace", str(job.workspace)] if job.is_training else ["task", str(job.folder)]
    )


def test_settings_that_cannot_be_leave_no_job_behind(tmp_path):
    def check(workspace, settings):
        raise UserError("things: say how many")

    with pytest.raises(UserError, match="say how many"):
        start(tmp_path, JobKind("count", check, lambda context: ""), {})
    assert all_jobs(tmp_path) == []


def test_jobs_are_listed_newest_first_by_kind_and_ended_ones_cleared_away(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(kind, "_KEPT", 3)
    started = []
    for number in range(6):
        job = start(tmp_path, COUNT, {"number": number})
        started.append(job.name)
        job.log("finished" if number else "paused")  # a paused one is meant to be resumed
    assert [job.name for job in all_jobs(tmp_path)] == [*reversed(started[3:]), started[0]]
    other = start(tmp_path, JobKind("other", COUNT.check, COUNT.run), {})
    assert all_jobs(tmp_path)[0] == other
    assert all_jobs(tmp_path, "other") == [other]
    assert other not in all_jobs(tmp_path, "count")
    assert all_jobs(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["nothing-1", "../tasks", ".", "", "/etc"])
def test_only_names_of_jobs_open_jobs(tmp_path, name):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(UserError, match="there is no task"):
        Job.open(tmp_path, name)


@pytest.mark.slow
def test_a_started_job_is_watched_stopped_and_resumed_from_outside(tmp_path, settings):
    endless = settings(training={"steps": 10_000}, watch={"log_every": 1, "evaluate_every": 0})
    run = start_training(tmp_path, endless)
    assert Job(run.folder).status().phase in ("waiting", "running")
    until(lambda: Job(run.folder).status().done >= 2)
    watched = Job(run.folder).status()
    assert (watched.phase, watched.total) == ("running", 10_000)
    assert watched.seconds_left > 0
    with pytest.raises(UserError, match="exists"):
        start_training(tmp_path, endless)

    Job(run.folder).stop()
    until(lambda: not Job(run.folder).is_alive())
    stopped = Job(run.folder).status()
    assert stopped.phase == "stopped"
    assert latest_step(run.state_folder) == stopped.done
    assert run.lora_file.is_file()
    assert "mapo resume cats" in (run.folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_job_that_fails_says_why_in_its_status_and_log(tmp_path, settings, base_folder):
    run = start_training(tmp_path, settings(data={"pairs": str(tmp_path / "nowhere")}))
    until(lambda: Job(run.folder).status().phase == "failed")
    assert "nowhere does not exist" in Job(run.folder).status().message
    until(lambda: "nowhere does not exist" in (run.folder / "log.txt").read_text())


@pytest.mark.slow
def test_what_is_proposed_trains_one_after_the_other_and_is_followed_by_a_rating(tmp_path):
    write_pairs(tmp_path / "pairs", 40, seed=0)
    store = open_store(tmp_path / "workspace")
    import_pairs(store, "shapes", tmp_path / "pairs", annotator="me", anywhere=True)

    def begin():
        config = propose_config(store, "shapes", "tiny")
        assert preflight(store, config).problems == ()
        short = config.training.model_copy(update={"steps": 2, "batch_size": 2})
        watch = config.watch.model_copy(update={"evaluate_pairs": 2, "sample_steps": 2, "log_every": 1})
        return start_training(store.workspace, config.model_copy(update={"training": short, "watch": watch}))

    first = begin()
    until(lambda: first.events_file.is_file() and any(event["event"] == "acquired" for event in first.events()))
    second = begin()
    assert (first.name, second.name) == ("shapes-1", "shapes-2")
    until(lambda: Job(second.folder).status().waiting_for == "the training shapes-1")
    until(lambda: Job(second.folder).status().phase == "finished", seconds=480)
    assert Job(first.folder).status().phase == "finished"
    began = next(event["time"] for event in second.events() if event["event"] == "acquired")
    assert began > next(event["time"] for event in first.events() if event["event"] == "finished")
    assert {file.name for file in second.samples_folder.glob("newest-*.png")}
    assert second.lora_file.is_file()
    until(lambda: {task.settings()["run"] for task in all_jobs(store.workspace)} == {"shapes-1", "shapes-2"})
    until(lambda: not any(task.status().is_open for task in all_jobs(store.workspace)))
    assert {task.kind for task in all_jobs(store.workspace)} == {"rate"}
    store.close()

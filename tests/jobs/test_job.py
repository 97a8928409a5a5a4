"""A run as a process of its own, started and stopped from outside."""

import time

import pytest
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import job, tasks
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.services.training_proposal import needs, propose
from mapo_studio.trainer.training.checkpoint import latest_step

pytestmark = pytest.mark.slow


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_started_job_is_watched_stopped_and_resumed_from_outside(tmp_path, settings):
    endless = settings(training={"steps": 10_000}, watch={"log_every": 1, "evaluate_every": 0})
    run = job.start(tmp_path, endless)
    assert job.status(run).phase in ("waiting", "running")
    until(lambda: job.status(run).step >= 2)
    watched = job.status(run)
    assert (watched.phase, watched.steps) == ("running", 10_000)
    assert watched.seconds_left > 0
    with pytest.raises(UserError, match="exists"):
        job.start(tmp_path, endless)

    job.stop(run)
    until(lambda: not job.is_alive(run))
    stopped = job.status(run)
    assert stopped.phase == "stopped"
    assert latest_step(run.state_folder) == stopped.step
    assert run.lora_file.is_file()
    assert "mapo resume cats" in (run.folder / "log.txt").read_text()


def test_a_job_that_fails_says_why_in_its_status_and_log(tmp_path, settings, base_folder):
    run = job.start(tmp_path, settings(data={"pairs": str(tmp_path / "nowhere")}))
    until(lambda: job.status(run).phase == "failed")
    assert "nowhere does not exist" in job.status(run).message
    until(lambda: "nowhere does not exist" in (run.folder / "log.txt").read_text())


def test_a_run_that_nobody_trains_is_waiting_or_died(tmp_path, settings):
    run = Run.create(tmp_path, settings())
    assert job.status(run).phase == "waiting"
    run.log("started", steps=8)
    run.log("step", step=3, remaining=5.0)
    status = job.status(run)
    assert (status.phase, status.step, status.steps) == ("died", 3, 8)


def test_what_is_proposed_trains_one_after_the_other_and_is_followed_by_a_rating(tmp_path):
    write_pairs(tmp_path / "pairs", 40, seed=0)
    store = open_store(tmp_path / "workspace")
    import_pairs(store, "shapes", tmp_path / "pairs", annotator="me", anywhere=True)

    def begin():
        config = propose(store, "shapes", "tiny")
        assert needs(store, config).problems == ()
        short = config.training.model_copy(update={"steps": 2, "batch_size": 2})
        watch = config.watch.model_copy(update={"evaluate_pairs": 2, "sample_steps": 2, "log_every": 1})
        return job.start(store.workspace, config.model_copy(update={"training": short, "watch": watch}))

    first = begin()
    until(lambda: first.events_file.is_file() and any(event["event"] == "turn" for event in first.events()))
    second = begin()
    assert (first.name, second.name) == ("shapes-1", "shapes-2")
    until(lambda: job.status(second).behind == "the training shapes-1")
    until(lambda: job.status(second).phase == "finished", seconds=480)
    assert job.status(first).phase == "finished"
    began = next(event["time"] for event in second.events() if event["event"] == "turn")
    assert began > next(event["time"] for event in first.events() if event["event"] == "finished")
    assert {file.name for file in second.samples_folder.glob("newest-*.png")}
    assert second.lora_file.is_file()
    until(lambda: {task.settings()["run"] for task in tasks.all_tasks(store.workspace)} == {"shapes-1", "shapes-2"})
    until(lambda: not any(task.status().is_open for task in tasks.all_tasks(store.workspace)))
    assert {task.kind for task in tasks.all_tasks(store.workspace)} == {"rate"}
    store.close()

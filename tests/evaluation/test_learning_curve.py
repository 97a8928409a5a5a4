"""Trainings on parts of a run's pairs: what is reused, what is kept, how it is stopped and gone on with."""

import json

import pytest
from mapo_studio.trainer.cancellation import Cancelled, StopRequest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation import learning_curve
from mapo_studio.trainer.evaluation.learning_curve import measure_curve, read_curve
from mapo_studio.trainer.jobs import tasks, worker
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.reports.report import write_report
from mapo_studio.trainer.runs.run_folder import Run, all_runs
from mapo_studio.trainer.services import lora_library
from mapo_studio.trainer.training import loop
from mapo_studio.trainer.training.loop import Outcome, train


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(learning_curve, "FEWEST_PAIRS", 4)


@pytest.fixture
def finished(tmp_path, settings, pairs_folder, monkeypatch):
    """A finished run, whose further trainings are only played: half of the pairs agree, one more for each step."""
    run = Run.create(tmp_path, settings(training={"steps": 4}))
    trains(run, StopRequest(run.stop_file))
    monkeypatch.setattr(loop, "train_locked", trains)
    pairs = open_pairs(str(pairs_folder)).load()
    monkeypatch.setattr(lora_library, "metadata", lambda _: {"mapo.pairs_hash": pairs.fingerprint})
    return run


def trains(run, stop):
    config = run.config()
    start = max((event["step"] for event in run.events() if event["event"] == "step"), default=0)
    if start:
        run.log("resumed", step=start)
    run.log("started", pairs=config.data.most_pairs, held_out=4, steps=config.training.steps)
    for step in range(start + 1, config.training.steps + 1):
        run.log("step", step=step)
        if stop and step < config.training.steps:
            run.log("stopped", step=step)
            return Outcome(step, config.training.steps, run.lora_file, None, best_step=step)
    run.log("evaluation", step=step, agreement=0.5, low=0.2, high=0.8, pairs=4, agreeing="0110")
    run.log("finished", step=step)
    return Outcome(step, step, run.lora_file, None, best_step=step)


def no_stop(run):
    return StopRequest(run.workspace / "stop")


def trained_on(events):
    return [event["pairs"] for event in events if event["event"] == "started"]


def test_parts_are_trained_the_run_itself_is_reused_and_the_report_tells(finished):
    told = []
    curve = measure_curve(finished, no_stop(finished), listen=told.append)
    pairs = [one.pairs for one in curve.measured]
    assert pairs == [pairs[2] // 4, pairs[2] // 2, pairs[2]]
    assert trained_on(told) == pairs[:2], "the largest is the run, which is there"
    last = [event for event in finished.events() if event["event"] == "evaluation"][-1]
    assert curve.measured[2].agreeing == last["agreeing"]
    assert read_curve(finished) == curve
    assert [run.name for run in all_runs(finished.workspace)] == [finished.name], "no face lists the others"
    assert not list((finished.workspace / "curves").iterdir())
    page = write_report(finished).read_text(encoding="utf-8")
    assert "How many more pairs?" in page
    assert "Agreement by number of pairs" in page


def test_other_steps_train_all_three(finished):
    told = []
    curve = measure_curve(finished, no_stop(finished), 2, told.append)
    assert trained_on(told) == [one.pairs for one in curve.measured]
    assert curve.steps == 2


def test_stopped_in_the_middle_it_goes_on_without_training_anything_again(finished):
    stop_file, told = finished.workspace / "stop", []

    def listen(event):
        told.append(event)
        if trained_on(told)[1:] and event["event"] == "step":
            stop_file.touch()

    with pytest.raises(Cancelled):
        measure_curve(finished, no_stop(finished), listen=listen)
    assert read_curve(finished) is None
    stop_file.unlink()
    again = []
    curve = measure_curve(finished, no_stop(finished), listen=again.append)
    assert trained_on(again) == [curve.measured[1].pairs]
    assert [event["step"] for event in again if event["event"] == "resumed"], "it went on where it was"


def test_other_pairs_than_the_runs_are_all_trained(finished, monkeypatch):
    monkeypatch.setattr(lora_library, "metadata", lambda _: {"mapo.pairs_hash": "another"})
    told = []
    curve = measure_curve(finished, no_stop(finished), listen=told.append)
    assert trained_on(told) == [one.pairs for one in curve.measured]


def test_the_task_of_a_face_says_what_came_of_it(finished, monkeypatch):
    monkeypatch.setattr(tasks, "launch", lambda *_: None)
    task = tasks.start(finished.workspace, "curve", {"run": finished.name})
    assert worker.perform(task.folder) == 0
    status = task.status()
    assert (status.phase, status.done, status.total) == ("finished", 8, 12)
    assert "cannot be told from" in status.message


def test_a_paused_task_ends_and_goes_on(finished, monkeypatch):
    monkeypatch.setattr(tasks, "launch", lambda *_: None)
    task = tasks.start(finished.workspace, "curve", {"run": finished.name})
    task.pause()
    worker.perform(task.folder)
    assert task.status().phase == "paused"
    task.go_on()
    worker.perform(task.folder)
    assert task.status().phase == "finished"


def test_too_few_pairs_or_none_held_out_are_said_before_anything_is_trained(tmp_path, settings, monkeypatch):
    run = Run.create(tmp_path, settings(data={"held_out": 0.0}))
    with pytest.raises(UserError, match="no pair of cats is held out"):
        tasks.start(tmp_path, "curve", {"run": "cats"})
    monkeypatch.setattr(learning_curve, "FEWEST_PAIRS", 100)
    with pytest.raises(UserError, match="judge some more"):
        measure_curve(run, no_stop(run))


def test_a_damaged_result_is_no_result(finished):
    for text in ("{", "[]", json.dumps({"steps": 4, "measured": [{"pairs": 3, "agreeing": ""}]})):
        (finished.folder / "learning-curve.json").write_text(text)
        assert read_curve(finished) is None


@pytest.mark.slow
def test_the_trainings_learn_from_the_parts_out_of_the_runs_cache(tmp_path, settings):
    run = Run.create(tmp_path, settings(training={"steps": 4}))
    train(run, StopRequest(run.stop_file))
    told = []
    curve = measure_curve(run, no_stop(run), listen=told.append)
    assert trained_on(told) == [one.pairs for one in curve.measured][:2], "the largest is the run, which is there"
    last = [event for event in run.events() if event["event"] == "evaluation"][-1]
    assert curve.measured[2].agreeing == last["agreeing"]
    assert all(event.get("encoded", 0) == 0 for event in told), "every picture was in the cache"

"""Trainings on parts of a run's pairs: what is reused and kept, how they are stopped and resumed, and what follows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from mapo_studio.trainer.cancellation import Cancelled, StopRequest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation import learning_curve
from mapo_studio.trainer.evaluation.learning_curve import MIN_HELD_OUT, CurvePoint, forecast, measure_curve, read_curve
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.models import safetensors_file
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.reports.report import report_at_end, write_report
from mapo_studio.trainer.runs.run_folder import Run, all_runs
from mapo_studio.trainer.services import job_kinds
from mapo_studio.trainer.training import loop
from mapo_studio.trainer.training.loop import Outcome, train


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(learning_curve, "MIN_PAIRS", 4)


@pytest.fixture
def finished(tmp_path, settings, pairs_folder, monkeypatch):
    """A finished run, whose further trainings are only played: half of the pairs agree, one more for each step."""
    run = Run.create(tmp_path, settings(training={"steps": 4}))
    trains(run, StopRequest(run.stop_file))
    monkeypatch.setattr(loop, "train_locked", trains)
    pairs = open_pairs(str(pairs_folder)).load()
    is_trained_on(monkeypatch, pairs.fingerprint)
    return run


def is_trained_on(monkeypatch, fingerprint):
    """What the LoRA's file says of the pairs that it was trained on."""
    header = SimpleNamespace(metadata={"mapo.pairs_hash": fingerprint})
    monkeypatch.setattr(safetensors_file, "read_header", lambda path: header)


def trains(run, stop):
    config = run.config()
    start = max((event["step"] for event in run.events() if event["event"] == "step"), default=0)
    if start:
        run.log("resumed", step=start)
    run.log("started", pairs=config.data.max_pairs, held_out=4, steps=config.training.steps)
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


def test_parts_are_trained_the_run_itself_is_reused_and_a_report_tells(finished):
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


def test_a_part_that_is_stopped_has_a_report_of_its_own(finished):
    def listen(event):
        if event["event"] == "step":
            (finished.workspace / "stop").touch()

    with pytest.raises(Cancelled):
        measure_curve(finished, no_stop(finished), listen=listen, listener_of=report_at_end)
    (part,) = (finished.workspace / "curves").iterdir()
    assert "Stopped at step" in (part / "report.html").read_text(encoding="utf-8")


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
    is_trained_on(monkeypatch, "another")
    told = []
    curve = measure_curve(finished, no_stop(finished), listen=told.append)
    assert trained_on(told) == [one.pairs for one in curve.measured]


def test_the_task_of_a_face_says_what_came_of_it(finished, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    task = job_kinds.start(finished.workspace, "curve", {"run": finished.name})
    assert job_kinds.run_job(task.folder) == 0
    status = task.status()
    assert (status.phase, status.done, status.total) == ("finished", 8, 12)
    assert "cannot be told from" in status.message
    assert "How many more pairs?" in finished.report_file.read_text(encoding="utf-8")


def test_a_paused_task_ends_and_goes_on(finished, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    task = job_kinds.start(finished.workspace, "curve", {"run": finished.name})
    task.pause()
    job_kinds.run_job(task.folder)
    assert task.status().phase == "paused"
    task.resume()
    job_kinds.run_job(task.folder)
    assert task.status().phase == "finished"


def test_too_few_pairs_or_none_held_out_are_said_before_anything_is_trained(tmp_path, settings, monkeypatch):
    run = Run.create(tmp_path, settings(data={"held_out": 0.0}))
    with pytest.raises(UserError, match="no pair of cats is held out"):
        job_kinds.start(tmp_path, "curve", {"run": "cats"})
    monkeypatch.setattr(learning_curve, "MIN_PAIRS", 100)
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


def nested(held_out, *misses):
    """Trainings on 40, 80, 160 ... pairs of which each agrees wherever the one before does."""
    return [
        CurvePoint(40 * 2**number, "0" * missed + "1" * (held_out - missed)) for number, missed in enumerate(misses)
    ]


def test_a_power_law_is_continued():
    expected = forecast(nested(400, 160, 80, 40))
    assert expected.says == "more"
    assert expected.gain == pytest.approx(0.05, abs=0.003), "errors of 40, 20 and 10 % are followed by 5 %"
    assert expected.low < expected.gain < expected.high
    assert expected.sentence().startswith("With twice as many pairs (320) expect about 5 points more (")


def test_what_does_not_rise_is_said_to_hardly_help():
    expected = forecast(nested(400, 80, 79, 80))
    assert expected.says == "little"
    assert "would hardly help" in expected.sentence()


def test_a_course_lost_in_noise_is_called_open():
    rng = np.random.default_rng(3)
    noisy = [CurvePoint(pairs, "".join(rng.choice(["0", "1"], 30, p=[0.15, 0.85]))) for pairs in (40, 80, 160)]
    expected = forecast(noisy)
    assert expected.says == "open"
    assert "cannot be told from 30 held-out pairs" in expected.sentence()


def test_too_few_held_out_pairs_say_nothing():
    expected = forecast(nested(MIN_HELD_OUT - 1, 10, 5, 2))
    assert expected.says == "few"
    assert "keep more aside" in expected.sentence()


def test_nothing_more_is_promised_where_all_agree():
    assert forecast(nested(50, 10, 2, 0)).says == "perfect"


def test_pairs_that_fall_alike_say_more_than_shares_alone():
    """The same shares: nested in each other, or each missing on pairs of its own."""
    together = forecast(nested(60, 24, 18, 12))
    signs = [
        "".join("0" if (start + i) % 60 in range(missed) else "1" for i in range(60))
        for start, missed in ((0, 24), (24, 18), (42, 12))
    ]
    apart = forecast([CurvePoint(pairs, one) for pairs, one in zip((40, 80, 160), signs, strict=True)])
    assert together.gain == pytest.approx(apart.gain)
    assert together.high - together.low < apart.high - apart.low


def test_the_order_of_the_trainings_does_not_matter():
    measured = nested(100, 40, 30, 20)
    assert forecast(measured[::-1]) == forecast(measured)


def test_what_has_not_learned_yet_promises_nothing():
    expected = forecast(nested(36, 35, 34, 32))
    assert expected.says == "unlearned"
    assert "not agree with you more than tossing a coin" in expected.sentence()

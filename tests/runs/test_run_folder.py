"""A run's folder and its events."""

import json

import pytest
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.runs.run_folder import Run, all_runs


@pytest.fixture
def config():
    return parse_config({"name": "cats", "base": "tiny", "data": {"pairs": "p"}}, "")


def test_a_taken_name_is_refused_with_both_ways_on(tmp_path, config):
    Run.create(tmp_path, config)
    with pytest.raises(UserError, match="choose another --name, or resume it by `mapo resume cats`"):
        Run.create(tmp_path, config)


def test_a_run_is_found_again_with_its_settings(tmp_path, config):
    Run.create(tmp_path, config)
    assert Run.open(tmp_path, "cats").config() == config
    assert [run.name for run in all_runs(tmp_path)] == ["cats"]


def test_an_unknown_run_is_answered_with_those_there_are(tmp_path, config):
    Run.create(tmp_path, config)
    with pytest.raises(UserError, match=r"no run named dogs .*\(there: cats\)"):
        Run.open(tmp_path, "dogs")


def test_events_are_json_lines_whatever_the_numbers(tmp_path, config):
    run = Run.create(tmp_path, config)
    run.log("step", step=1, loss=float("nan"), gradient_norm=float("inf"), lora=run.lora_file)
    (line,) = run.events_file.read_text().splitlines()
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["lora"] == str(run.lora_file)


def test_listeners_hear_what_was_written(tmp_path, config):
    run = Run.create(tmp_path, config)
    heard = []
    run.listeners.append(heard.append)
    run.log("warning", text="hello")
    assert heard[0]["text"] == "hello"
    assert list(run.events()) == heard


def test_a_line_cut_short_by_a_kill_costs_only_itself(tmp_path, config):
    run = Run.create(tmp_path, config)
    run.log("step", step=1)
    with run.events_file.open("a") as file:
        file.write('{"event": "step", "st')
    run.log("step", step=2)
    assert [event["step"] for event in run.events()] == [1, 2]


def test_steps_taken_again_after_a_resume_count_once(tmp_path, config):
    run = Run.create(tmp_path, config)
    run.log("started", steps=9)
    for step in (1, 2, 3):
        run.log("step", step=step, loss=0.0)
    run.log("failed", error="power cut")
    run.log("resumed", step=2)
    run.log("step", step=3, loss=1.0)
    steps = [event for event in run.events() if event["event"] == "step"]
    assert [(event["step"], event["loss"]) for event in steps] == [(1, 0.0), (2, 0.0), (3, 1.0)]


def test_a_run_that_begins_again_from_nothing_counts_nothing_twice(tmp_path, config):
    run = Run.create(tmp_path, config)
    for _ in range(2):
        if run.has_begun():
            run.log("resumed", step=0)
        run.log("started", steps=9)
        run.log("evaluation", step=0)
        run.log("step", step=1)
    kinds = [event["event"] for event in run.events()]
    assert (kinds.count("evaluation"), kinds.count("step")) == (1, 1)

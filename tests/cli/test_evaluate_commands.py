"""`mapo score`, `compare` and `learning-curve` of a run that was trained: what each prints, keeps, and refuses."""

from __future__ import annotations

import json

import pytest
from mapo_studio.tests.tiny_models import write_clip
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.evaluation import learning_curve
from mapo_studio.trainer.evaluation.scorers.score import read_scores
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.loop import train
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs_folder) -> Run:
    """Trained for two steps: its pictures differ from the base's by as good as nothing."""
    config = parse_config(
        {
            "name": "cats",
            "base": "tiny",
            "data": {"pairs": str(pairs_folder), "held_out": 0.25},
            "training": {"steps": 2, "batch_size": 2, "device": "cpu"},
            "watch": {"evaluate_every": 2, "sample_every": 0, "sample_steps": 1},
        },
        "test",
    )
    run = Run.create(tmp_path_factory.mktemp("workspace"), config)
    assert train(run, StopRequest(run.stop_file)).finished
    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), 32)


@pytest.fixture
def mapo(run, capfd):
    """mapo(*words): runs a command in the run's workspace; returns exit code and all it said."""

    def call(*words):
        capfd.readouterr()
        try:
            code = main([str(word) for word in (*words, "--workspace", run.workspace)])
        except SystemExit as exit_:
            code = exit_.code
        said = capfd.readouterr()
        return code, said.err + said.out

    return call


def test_scores_of_what_the_run_held_out_stand_in_its_report(mapo, run, clip):
    code, said = mapo("score", "cats", "--scorer", f"pickscore={clip}", "--seeds", 1, "--json")
    assert code == 0
    told = json.loads(said.splitlines()[-1])
    assert told["pairs"] == told["prompts"] > 0
    assert told["absent"] == []
    assert told["rows"][0]["scorer"] == "PickScore"
    assert read_scores(run).rows[0].before == told["rows"][0]["before"]
    assert "What scorers say" in run.report_file.read_text(encoding="utf-8")


def test_what_was_painted_is_scored_again_without_painting(mapo, run, clip):
    mapo("score", "cats", "--scorer", f"pickscore={clip}", "--prompts", "red", "--seeds", 1)
    before = {file: file.stat().st_mtime_ns for file in (run.folder / "scored").iterdir()}
    mapo("score", "cats", "--scorer", f"hps={clip}", "--prompts", "red", "--seeds", 1)
    assert {file: file.stat().st_mtime_ns for file in (run.folder / "scored").iterdir()} == before


def test_nothing_is_painted_or_forgotten_for_a_scorer_that_is_not_there(mapo, run, clip, tmp_path):
    mapo("score", "cats", "--scorer", f"pickscore={clip}", "--prompts", "red", "--seeds", 1)
    before = read_scores(run)
    code, said = mapo("score", "cats", "--scorer", f"pickscore={tmp_path}/nowhere", "--prompts", "a blue one")
    assert code == 2
    assert f"Not scored by pickscore: there is no folder {tmp_path}/nowhere" in said
    assert "painting" not in said
    assert read_scores(run) == before
    assert before.rows
    code, said = mapo("score", "cats")
    assert code == 2
    assert "none comes with the program" in said


def test_a_comparison_is_painted_scored_and_then_stands_unjudged(mapo, run, clip):
    words = ("--prompts", "a red one", "a blue one", "--steps", 1, "--name", "duel", "--scorer", f"hps={clip}")
    code, said = mapo("compare", "tiny", "--lora", run.lora_file, *words, "--json")
    assert code == 0, said
    told = json.loads(said.splitlines()[-1])
    assert told["comparisons"] == ["duel"]
    assert told["scores"]["duel"]["pairs"] == 2
    with Image.open(told["sheet"]) as sheet:
        assert sheet.width > 2 * 64
    code, said = mapo("compare", "--standing")
    assert code == 0
    assert "duel: 0 of 2 pairs judged" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "say which base is painted with"),
        (("tiny",), "give at least one LoRA"),
        (("tiny", "--lora", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_a_comparison_that_cannot_be_says_why(mapo, words, named):
    code, said = mapo("compare", *words)
    assert code == 2
    assert named in said


def test_a_learning_curve_is_printed_and_written_into_the_report(mapo, run, monkeypatch):
    monkeypatch.setattr(learning_curve, "MIN_PAIRS", 4)
    code, said = mapo("learning-curve", "cats", "--json")
    assert code == 0, said
    values = json.loads(said.splitlines()[-1])
    assert [point["pairs"] for point in values["measured"]] == sorted(point["pairs"] for point in values["measured"])
    assert values["forecast"]["says"] == "few"
    assert "cannot be told from" in said
    assert "How many more pairs?" in run.report_file.read_text(encoding="utf-8")


def test_a_learning_curve_of_no_run_says_so(mapo):
    code, said = mapo("learning-curve", "nobody")
    assert code == 2
    assert "nobody" in said

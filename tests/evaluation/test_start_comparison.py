"""Comparisons from the command line and for every face: who meets whom, what is filled in, what is painted once."""

import json
import shutil
from pathlib import Path

import pytest
from mapo_studio.trainer.cli import main
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.comparison_sheet import grid_of
from mapo_studio.trainer.evaluation.generate_comparison import (
    held_out_prompts,
    known_prompts,
    pairings,
    run_of,
    start_comparison,
)
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.lora.file import read_lora, write_lora
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.sampling.batch_sampler import BatchSampler
from mapo_studio.trainer.sampling.task_settings import prompts_in
from mapo_studio.trainer.services import job_kinds

pytestmark = pytest.mark.slow

PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture
def loras(tiny_lora, tmp_path):
    """Two LoRA files that paint differently."""
    other = read_lora(tiny_lora)
    return [
        str(tiny_lora),
        str(
            write_lora(
                tmp_path / "other.safetensors", {n: -w for n, w in other.state.items()}, other.settings, other.family
            )
        ),
    ]


@pytest.fixture
def quick(monkeypatch):
    """Tasks do their work as they are started, in this process; `painted` is how many pictures that took."""
    painted = []
    real = BatchSampler.generate

    def generate(self, requests, check=lambda: None):
        painted.extend(requests)
        return real(self, requests, check)

    monkeypatch.setattr(BatchSampler, "generate", generate)
    monkeypatch.setattr(job, "launch", lambda words, _: job_kinds.run_job(Path(words[1])))
    return painted


def test_every_two_meet_and_the_base_may_stay_out():
    assert pairings(["a", "b"]) == [("a", None), ("b", None), ("b", "a")]
    assert pairings(["a", "b"], with_base=False) == [("b", "a")]
    assert pairings(["a"]) == [("a", None)]
    for nobody in ([], ["a"]):
        with pytest.raises(UserError, match="give at least one LoRA"):
            pairings(nobody, with_base=False)


def test_two_loras_and_the_base_are_compared_from_the_command_line(tmp_path, loras, quick, capsys):
    words = ["compare", "tiny", "--lora", loras[0], "--lora", loras[1], "--prompts", *PROMPTS, "--steps", "2"]
    assert main.main([*words, "--workspace", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr().out
    told = json.loads(said.splitlines()[-1])
    assert told["comparisons"] == ["taste or the base", "other or the base", "other or taste"]
    assert "judge blind: `mapo studio`, tab Compare" in said
    assert len(quick) == 3 * len(PROMPTS), "the base and each LoRA once, whoever they meet"
    store = open_store(tmp_path)
    with store.reading() as session:
        sheet = grid_of(session, store, told["comparisons"])
    assert sheet.width > sheet.height, "three columns, two rows"
    assert main.main(["compare", "--standing", "--workspace", str(tmp_path)]) == 0
    assert "other or taste: 0 of 2 pairs judged; other.safetensors: nothing is judged yet" in capsys.readouterr().out


def test_a_comparison_that_was_stopped_goes_on_under_its_name(tmp_path, loras, monkeypatch):
    started = []
    monkeypatch.setattr(job, "launch", lambda words, _: started.append(words[1]))
    settings = {"base": "tiny", "lora": loras[0], "prompts": PROMPTS, "steps": 2, "name": "duel"}
    first = start_comparison(tmp_path, settings)
    first.job.log("stopped")
    again = start_comparison(tmp_path, settings)
    assert (again.job.name, len(started)) == (first.job.name, 2)


def test_prompts_that_a_run_kept_aside_are_taken_and_trained_ones_told_of(tmp_path, tiny_lora, pairs_of, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    values = {"name": "taste", "base": "tiny", "data": {"pairs": str(pairs_of), "held_out": 0.5}}
    run = Run.create(tmp_path, parse_config(values, "test"))
    shutil.copy(tiny_lora, run.lora_file)
    assert run_of(tmp_path, str(run.lora_file)) == run
    known = known_prompts(run)
    assert held_out_prompts(tmp_path, [str(run.lora_file)]) == known.held_out != ()
    begun = start_comparison(
        tmp_path, {"base": "tiny", "lora": str(run.lora_file), "prompts": [*known.held_out, *known.trained]}
    )
    assert begun.trained_on == len(known.trained) > 0
    assert begun.job.settings()["run"] == "taste"


@pytest.fixture
def pairs_of(tmp_path):
    """Eight pairs in the two folders of the simplest layout."""
    from PIL import Image

    for side, colour in (("w", "red"), ("l", "blue")):
        folder = tmp_path / "pairs" / side
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"prompt {number}")
    return tmp_path / "pairs"


def test_prompts_come_from_texts_and_files(tmp_path):
    (tmp_path / "some.txt").write_text("a cat\n\n a  dog \na cat\n", encoding="utf-8")
    assert prompts_in(["a bird", str(tmp_path / "some.txt")]) == ("a bird", "a cat", "a dog")
    with pytest.raises(UserError, match="cannot be read as a list of prompts"):
        prompts_in([str(tmp_path / "none.txt")])


def test_what_is_missing_is_said(tmp_path, loras, capsys):
    assert main.main(["compare", "--workspace", str(tmp_path)]) == 2
    assert "say which base" in capsys.readouterr().err
    assert main.main(["compare", "tiny", "--lora", loras[0], "--workspace", str(tmp_path)]) == 2
    assert "no prompts: give --prompts" in capsys.readouterr().err

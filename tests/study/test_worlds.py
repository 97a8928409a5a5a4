"""The study's measures and pairs say what they claim to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mapo_studio.trainer.demo.shapes_world import read
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_two_clouds_of_the_same_kind_are_near_and_shifted_ones_as_far_as_they_were_shifted(study):
    torch.manual_seed(0)
    distance = study("measures").energy_distance
    a, b = torch.randn(300, 4), torch.randn(300, 4)
    assert abs(distance(a, b)) < 0.05
    assert distance(a, b + 1) > 0.3
    assert distance(a, b + 2) > 2 * distance(a, b + 1)


def test_a_thing_made_twice_at_once_is_kept_once(study, tmp_path):
    made_once = study("worlds").made_once
    target = tmp_path / "thing"
    with made_once(target) as part:
        (part / "file").write_text("mine")
        target.mkdir()  # another process was faster
        (target / "file").write_text("theirs")
    assert (target / "file").read_text() == "theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["thing"]
    with made_once(target) as part:
        assert part is None


def test_what_breaks_while_a_thing_is_made_leaves_nothing_that_looks_finished(study, tmp_path):
    with pytest.raises(RuntimeError), study("worlds").made_once(tmp_path / "thing"):
        raise RuntimeError
    assert not (tmp_path / "thing").exists()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick study, as a person runs it."""
    work = tmp_path_factory.mktemp("study")
    command = [sys.executable, "-m", "benchmarks.study", "--quick", "--work", str(work), "--workers", "1"]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--out", str(work / "results.jsonl")], cwd=ROOT, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
    return work, done.stdout


@pytest.mark.slow
def test_the_quick_study_runs_from_bases_to_paces_and_does_nothing_twice(quick):
    work, said = quick
    lines = [json.loads(line) for line in (work / "results.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines].count("search") == 3
    assert {line["part"] for line in lines} == {"rungs", "search", "pace"}
    assert all(0 <= line["both"] <= min(line["preferred"], line["caption"]) for line in lines if "both" in line)
    assert "search: 0 to do" in said


@pytest.mark.slow
def test_pairs_of_a_rung_hold_the_taste_and_wrong_judgements_turn_some_round(quick, study):
    work, _ = quick
    worlds = study("worlds")
    world = worlds.World("style", study("bases").OWN_SHARE, per_caption=1)
    folder = worlds.pairs_folder(work, world, count=20, noise=0.0, seed=3)
    turned = worlds.pairs_folder(work, world, count=20, noise=1.0, seed=3)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        chosen = line["image_0" if line["prefer_0"] else "image_1"]
        rejected = line["image_1" if line["prefer_0"] else "image_0"]
        assert read(Image.open(folder / chosen)).outline is True
        assert read(Image.open(folder / rejected)).outline is False
        assert line["prompt"] in worlds.TAUGHT_CAPTIONS
    other = [json.loads(line) for line in (turned / "metadata.jsonl").read_text().splitlines()]
    assert [line["prefer_0"] for line in other] == [not line["prefer_0"] for line in lines]

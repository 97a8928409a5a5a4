"""Each way to judge, on the tiny world: what it changes in the pictures, or in what is learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.judge import measure, write_pairs
from mapo_studio.trainer.demo.judge import test_captions as captions_apart
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.latents.encode import encode
from mapo_studio.trainer.models.few_step import with_step_count
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.sampling.sampler import generate
from mapo_studio.trainer.services import job_kinds
from mapo_studio.trainer.training.batches import PairBatches
from mapo_studio.trainer.training.heldout_eval import HeldOut
from mapo_studio.trainer.training.loop import train
from mapo_studio.trainer.training.objectives import MaPO

CPU = torch.device("cpu")
TAUGHT = sorted(set(captions()) - set(captions_apart(0)))


def trained(workspace: Path, pairs: str, steps: int, **training) -> Path:
    """The LoRA of a short run on the tiny base."""
    values = {
        "name": "way",
        "base": "tiny",
        "data": {"pairs": pairs, "held_out": 0.0},
        "adapter": {"rank": 8},
        "optimization": {"learning_rate": 2e-3, "warmup_steps": 5},
        "training": {"steps": steps, "batch_size": 4, "accumulation": 1, "device": "cpu", **training},
        "watch": {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 1000},
    }
    run = Run.create(workspace, parse_config(values, "test"))
    outcome = train(run, StopRequest(run.stop_file))
    assert outcome.finished
    return outcome.lora


def outlined(lora: Path | None, steps: int = 12, few: str = "all") -> float:
    """The share of outlined pictures for captions that were not taught, painted with the tiny base."""
    base = open_base("tiny")
    base.distilled = with_step_count(None, few)
    asked = captions_apart(0)[:16]
    return measure(generate(base, asked, lora, steps=steps, guidance=1.0 if base.distilled else 3.0), asked).outlined


@pytest.mark.slow
def test_a_taste_is_learned_from_rankings(tmp_path):
    """Four pictures a caption, the two outlined ones before the others, and not told apart."""
    rng = np.random.default_rng(5)
    lines = []
    for number in range(24):
        caption = TAUGHT[int(rng.integers(len(TAUGHT)))]
        names = [f"{number}_{place}.png" for place in range(4)]
        for place, name in enumerate(names):
            draw(dress(caption, rng, outline=place < 2)).save(tmp_path / name)
        lines.append(json.dumps({"prompt": caption, "ranking": [names[:2], names[2:]]}))
    (tmp_path / "ranking.jsonl").write_text("\n".join(lines))
    lora = trained(tmp_path / "workspace", str(tmp_path), 60)
    assert outlined(lora) >= outlined(None) + 0.3


@pytest.mark.slow
def test_a_taste_is_learned_from_wanted_pictures_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(6)
    folder = tmp_path / "wanted"
    folder.mkdir()
    for number in range(24):
        caption = TAUGHT[int(rng.integers(len(TAUGHT)))]
        draw(dress(caption, rng, outline=True)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    monkeypatch.setattr(job, "launch", lambda *_: None)
    settings = {"folder": str(folder), "dataset": "wanted", "base": "tiny", "steps": 10, "guidance": 3.0}
    task = job_kinds.start(tmp_path / "workspace", "targets", settings)
    job_kinds.run_job(task.folder)
    lora = trained(tmp_path / "workspace", "dataset:wanted", 60)
    assert outlined(lora) >= outlined(None) + 0.3
    started = [one for one in Run.open(tmp_path / "workspace", "way").events() if one["event"] == "started"]
    assert started[0]["assumed"] == 24


@pytest.mark.slow
def test_under_its_own_caption_a_rejected_picture_is_no_stranger(tmp_path):
    """Rejected pictures that show something else: under the prompt the base is further off on them than under what they
    show, so that pairs would be told apart, and pushed, by their captions."""
    rng = np.random.default_rng(7)
    lines = []
    for number in range(16):
        one, other = (TAUGHT[int(place)] for place in rng.choice(len(TAUGHT), 2, replace=False))
        for name, caption in (("w", one), ("l", other)):
            draw(dress(caption, rng, outline=False)).save(tmp_path / f"{number}{name}.png")
        line = {"image_0": f"{number}w.png", "image_1": f"{number}l.png", "prompt": one, "rejected_prompt": other}
        lines.append(line | {"prefer_0": True, "prefer_1": False})
    base = open_base("tiny")
    unet = base.load_unet(CPU, torch.float32)
    found = {}
    for own in (True, False):
        if not own:
            lines = [{name: value for name, value in line.items() if name != "rejected_prompt"} for line in lines]
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        pairs = open_pairs(tmp_path).load().pairs
        encoded = encode(base, pairs, (), tmp_path / "cache", CPU, resolution=base.resolution)
        held_out = HeldOut(encoded.pairs, timesteps=1000, levels=4, batch_size=4)
        found[own] = held_out.measure(base, unet, MaPO(), CPU)
    assert found[True].rejected_error < 0.9 * found[False].rejected_error
    assert found[False].agreement >= 0.8
    assert found[True].agreement <= 0.75


@pytest.mark.slow
def test_in_four_steps_a_base_is_trained_at_four_noise_levels_and_paints_the_taste_so(tmp_path, monkeypatch):
    write_pairs(tmp_path / "pairs", 60, 0)
    drawn = set()
    draw_one = PairBatches.__getitem__

    def listening(self, index):
        batch = draw_one(self, index)
        drawn.update(batch.images.timestep.tolist())
        return batch

    monkeypatch.setattr(PairBatches, "__getitem__", listening)
    lora = trained(tmp_path / "workspace", str(tmp_path / "pairs"), 60, timesteps="4")
    assert drawn == {999, 749, 499, 249}
    assert outlined(lora, 4, "4") >= outlined(None, 4, "4") + 0.3

"""A tiny base with random weights, and a dozen judged pairs of small pictures."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mapo_studio.tests.once import made_once
from mapo_studio.tests.tiny_models import write_sdxl
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.config.run_config import RunConfig, parse_config
from mapo_studio.trainer.latents.encode import EncodedPairs, encode
from mapo_studio.trainer.models.base_model import BaseModel
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from PIL import Image

PAIRS = 12


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("training") / "base", shallow=True)


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory) -> Path:
    """Chosen pictures are reddish, rejected ones bluish; two of three are square, the others wide."""
    folder = tmp_path_factory.mktemp("training") / "pairs"
    folder.mkdir()
    rows = []
    for i in range(PAIRS):
        size = (96, 64) if i % 3 == 2 else (64, 64)
        for side, tint in (("a", (200, 60, 60)), ("b", (60, 60, 200))):
            noise = np.random.default_rng([i, ord(side)]).integers(-40, 40, (size[1], size[0], 3))
            pixels = np.clip(noise + np.array(tint), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}{side}.png")
        row = {"image_0": f"{i}a.png", "image_1": f"{i}b.png", "prompt": f"red {i // 2}"}
        rows.append(json.dumps(row | {"prefer_0": True, "prefer_1": False}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="session")
def base(base_folder) -> BaseModel:
    return open_base(base_folder)


@pytest.fixture(scope="session")
def encoded(base, pairs_folder, tmp_path_factory) -> EncodedPairs:
    pairs = open_pairs(pairs_folder).load().pairs
    cache = tmp_path_factory.mktemp("cache")
    return encode(base, pairs, ("red",), cache, torch.device("cpu"), resolution=base.resolution, flip=True)


@pytest.fixture
def settings(base_folder, pairs_folder):
    """settings(**parts): a short run on the tiny base, on one CPU thread's worth of work."""

    def make(**parts) -> RunConfig:
        values = {
            "name": "cats",
            "base": str(base_folder),
            "data": {"pairs": str(pairs_folder), "held_out": 0.25},
            "adapter": {"rank": 4},
            "optimization": {"learning_rate": 1e-2, "warmup_steps": 2},
            "training": {"steps": 8, "batch_size": 2, "accumulation": 2},
            "watch": {"evaluate_every": 4, "sample_every": 0, "checkpoint_every": 3, "log_every": 2},
        }
        for part, changes in parts.items():
            values[part] = {**values.get(part, {}), **changes} if isinstance(changes, dict) else changes
        return parse_config(values, "test")

    return make


@pytest.fixture
def mapo(tmp_path, base_folder, capfd):
    """mapo(*words): runs a command in a workspace of its own; returns exit code, standard output and standard error."""

    def call(*words):
        if words[0] in ("train", "encode", "plan") and "--base" not in words:
            words = (*words, "--base", str(base_folder))
        if words[0] not in ("lora",):
            words = (*words, "--workspace", str(tmp_path / "workspace"))
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:
            code = exit_.code
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def shown_demo(tmp_path_factory) -> dict[str, Any]:
    """What `mapo demo --json` told, run once for all tests: a LoRA that has learned to like outlines, at "lora".

    "printed": its whole output. It paints half of the pictures before and after that it paints for a person.
    """

    def show(folder: Path) -> None:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.setattr("mapo_studio.trainer.demo.show.PICTURES", 40)
            code = main(["demo", "--json", "--workspace", str(folder)])
        assert code == 0, printed.getvalue()
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    printed = (made_once(tmp_path_factory, "demo", show) / "printed.txt").read_text(encoding="utf-8")
    return {**json.loads(printed.splitlines()[-1]), "printed": printed}

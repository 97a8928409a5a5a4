"""Is a family one module and one row? One that is made up here trains from pairs to a LoRA file, and is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mapo_studio.tests.models.made_up_family import ROW, write_made_up
from mapo_studio.trainer.config.presets import preset_named
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.card_presets import memory_warning
from mapo_studio.trainer.models.open import family_at, open_base
from mapo_studio.trainer.models.registry import FAMILIES
from mapo_studio.trainer.models.sources import CONFIGS, read_json

QUICK = ("--rank", "2", "--accumulation", "1", "--sample-steps", "2", "--sample-every", "2", "--evaluate-pairs", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_made_up(tmp_path_factory.mktemp("made-up") / "base")


@pytest.fixture
def registered(monkeypatch) -> None:
    monkeypatch.setitem(FAMILIES, ROW.name, ROW)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_say_what_the_published_configurations_say(name):
    row = FAMILIES[name]
    unet, vae = (read_json(CONFIGS / name / part / "config.json") for part in ("unet", "vae"))
    assert row.name == name == row.load_class().family
    assert row.latent_channels == unet["in_channels"] == vae.get("latent_channels", 4)
    assert row.latent_factor == 2 ** (len(vae["block_out_channels"]) - 1)
    assert row.resolution == unet["sample_size"] * row.latent_factor
    assert row.text_width == unet["cross_attention_dim"]
    assert row.is_folder_of(unet, tuple(row.text_encoders))
    assert row.text_tokens == read_json(CONFIGS / name / "text_encoder" / "config.json")["max_position_embeddings"]


def test_a_family_without_its_row_is_refused(folder):
    with pytest.raises(UserError, match=r"8 input channels; 4 are needed"):
        open_base(folder)


def test_a_new_family_is_opened_by_its_row(registered, folder):
    base = open_base(folder)
    assert family_at(folder) == base.family == "madeup"
    assert (base.latent_channels, base.latent_factor, base.resolution) == (8, 4, 64)
    assert memory_warning(preset_named("8 GB"), "madeup", None) is None
    assert "are not for Made-Up 1" in memory_warning(preset_named("4 GB"), "madeup", None)


@pytest.mark.slow
def test_a_new_family_trains_from_pairs_to_a_lora_file(registered, folder, pairs_folder, tmp_path, mapo):
    words = ("--base", folder, "--pairs", pairs_folder, *QUICK)
    code, out, err = mapo("train", *words, "--name", "taste", "--steps", "2", "--json")
    assert code == 0, err
    file = Path(json.loads(out.splitlines()[-1])["lora"])
    lora = read_lora(file)
    assert lora.family == lora.metadata["mapo.family"] == "madeup"
    assert lora.metadata["modelspec.architecture"] == "made-up-v1/lora"
    assert lora.metadata["modelspec.resolution"] == "64x64"
    assert lora.metadata["ss_base_model_version"] == "made_up_v1"
    assert {key.rpartition(".lora_")[0].rpartition("transformer_blocks.0.")[2] for key in lora.state} == {
        "attn2.to_q",
        "attn2.to_k",
        "ff.net.2",
    }
    assert all(torch.any(weight != 0) for weight in lora.state.values())
    assert (file.parent / "samples").exists() or list(file.parent.rglob("*.png"))
    code, out, _ = mapo("lora", "show", file)
    assert code == 0
    assert out.splitlines()[1].startswith("madeup LoRA, rank 2")


@pytest.mark.slow
def test_a_new_family_is_counted_and_timed(registered, folder, pairs_folder, mapo):
    words = ("--base", folder, *QUICK[:4], "--json")
    code, out, err = mapo("plan", *words, "--preset", "8 GB", "--memory", "8")
    assert code == 0, err
    counted = json.loads(out.splitlines()[-1])
    assert (counted["family"], counted["resolution"]) == ("madeup", 64)
    code, out, err = mapo("plan", *words, "--pairs", pairs_folder)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["family"] == "madeup"

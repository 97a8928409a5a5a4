"""Many pictures with models loaded once: are they those that `generate` paints one by one?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mapo_studio.tests.tiny_models import write_sd15, write_sdxl
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.adapter import LoraSettings, attach
from mapo_studio.trainer.lora.file import write_lora
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.batch_sampler import BatchSampler, ImageRequest, LoraUse, SamplingSettings
from mapo_studio.trainer.sampling.sampler import generate

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SAMPLING = SamplingSettings((64, 64), steps=3, guidance=4.0, negative="xyz")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_base(write_sdxl(tmp_path_factory.mktemp("sdxl"), shallow=True))


@pytest.fixture(scope="module")
def loras(base, tmp_path_factory, random_lora) -> list[Path]:
    """Two of different shape, both of which change much."""
    files = []
    for number, settings in enumerate((LoraSettings(rank=4), LoraSettings(rank=2, alpha=4, targets="all"))):
        unet = base.load_unet(CPU, torch.float32)
        attach(unet, settings, seed=0)
        file = tmp_path_factory.mktemp("lora") / f"lora-{number}.safetensors"
        files.append(write_lora(file, {k: 3 * v for k, v in random_lora(unet, number).items()}, settings, "sdxl"))
    return files


def pixels(picture):
    return np.asarray(picture).astype(int)


def alone(base, request):
    lora, strength = (request.lora.file, request.lora.strength) if request.lora else (None, 1.0)
    [picture] = generate(
        base,
        [request.prompt],
        lora,
        negative=SAMPLING.negative,
        size=SAMPLING.size,
        seeds=[request.seed],
        steps=SAMPLING.steps,
        guidance=SAMPLING.guidance,
        strength=strength,
        device=CPU,
    )
    return pixels(picture)


def test_every_wish_is_painted_as_it_would_be_alone(base, loras):
    one, two = loras
    requests = [
        ImageRequest("a red fox", 1),
        ImageRequest("a red fox", 1, LoraUse(one)),
        ImageRequest("a blue cat", 2, LoraUse(two, 0.5)),
        ImageRequest("a blue cat", 2),
        ImageRequest("a blue cat", 2, LoraUse(one, 0.5)),
        ImageRequest("a red fox", 3, LoraUse(two, 0.5)),
        ImageRequest("a red fox", 1, LoraUse(one)),
    ]
    painted = [one for round_ in BatchSampler(base, SAMPLING, loras, CPU).generate(requests) for one in round_]
    assert [request for request, _ in painted] == requests
    expected = [alone(base, request) for request in requests]
    for (_, picture), alike in zip(painted, expected, strict=True):
        assert np.abs(pixels(picture) - alike).max() <= 2  # batches round differently
    assert np.abs(expected[0] - expected[1]).max() > 20
    assert np.abs(expected[2] - expected[3]).max() > 20
    assert np.abs(expected[2] - expected[4]).max() > 20


def test_models_are_loaded_once_for_many_rounds(base, monkeypatch):
    loaded = []
    for part in ("unet", "vae", "text"):
        load = getattr(type(base), f"load_{part}")
        monkeypatch.setattr(
            type(base), f"load_{part}", lambda self, *a, load=load, part=part: loaded.append(part) or load(self, *a)
        )
    requests = [ImageRequest("fox", seed) for seed in range(40)]
    rounds = list(BatchSampler(base, SamplingSettings((64, 64), steps=1, guidance=5.0), device=CPU).generate(requests))
    assert [len(one) for one in rounds] == [16, 16, 8]
    assert loaded == ["text", "unet", "vae"]


def test_nothing_is_loaded_for_no_wish(base, monkeypatch):
    monkeypatch.setattr(type(base), "load_unet", lambda *_: pytest.fail("loaded"))
    assert list(BatchSampler(base, SAMPLING, device=CPU).generate([])) == []


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_being_stopped_gives_what_is_complete_first(base, seconds):
    painter, steps, got = BatchSampler(base, SamplingSettings((64, 64), steps=4, guidance=5.0), device=CPU), [], []
    painter._round_seconds = seconds  # as on a device, where pictures wait for the VAE

    def check():
        steps.append(None)
        if len(steps) > 5:
            raise Cancelled

    rounds = painter.generate([ImageRequest("fox", seed) for seed in range(40)], check)
    with pytest.raises(Cancelled):
        got.extend(request.seed for round_ in rounds for request, _ in round_)
    assert got == list(range(16))


def test_pictures_wait_for_a_full_round_where_the_vae_has_to_be_fetched(base):
    painter = BatchSampler(base, SamplingSettings((64, 64), steps=1, guidance=5.0), device=CPU)
    painter._round_seconds = 20.0
    assert [len(one) for one in painter.generate([ImageRequest("fox", seed) for seed in range(40)])] == [32, 8]


def test_a_lora_of_another_family_is_refused_before_anything_is_painted(loras, tmp_path):
    base = open_base(write_sd15(tmp_path))
    with pytest.raises(UserError, match="sdxl family"):
        BatchSampler(base, SAMPLING, loras[:1], CPU)

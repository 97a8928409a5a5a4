"""Metadata of generated images: what the file and the workspace say of how one was made."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from mapo_studio.trainer.models.few_step import FewStep
from mapo_studio.trainer.sampling import sampler
from mapo_studio.trainer.sampling.batch_sampler import ImageRequest, LoraUse, SamplingSettings
from mapo_studio.trainer.sampling.image_metadata import Provenance
from PIL import Image

SETTINGS = SamplingSettings((64, 48), steps=4, guidance=1.0, negative="blurry")
SCHEDULERS = {"Euler": "EulerDiscreteScheduler", "LCM": "LCMScheduler"}


def base(kind):
    return SimpleNamespace(
        distilled=FewStep(kind, 4, "its name") if kind else None,
        scheduler_config={},
        schedule=SimpleNamespace(timesteps=1000),
        identity=lambda: "a base",
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [("", "Euler"), ("Turbo", "Euler"), ("Lightning", "Euler"), ("Hyper", "Euler"), ("LCM", "LCM"), ("DMD", "LCM")],
)
def test_the_sampler_that_is_named_is_the_one_that_ran(kind, name):
    provenance = Provenance.of(base(kind), "a base", SETTINGS, [])
    request = ImageRequest("a fox", 7)
    with Image.open(BytesIO(provenance.png(request, Image.new("RGB", (64, 48))))) as image:
        assert f"Sampler: {name}, " in image.info["parameters"]
    assert provenance.metadata(request).sampler == name
    assert type(sampler._sampler(base(kind), 4, torch.device("cpu"))).__name__ == SCHEDULERS[name]


def test_fingerprints_are_those_of_the_workspaces_that_there_are(tmp_path):
    (tmp_path / "taste.safetensors").write_bytes(b"weights")
    provenance = Provenance.of(base(""), "a base", SETTINGS, [tmp_path / "taste.safetensors"])
    use = LoraUse(tmp_path / "taste.safetensors", 0.5)
    assert provenance.fingerprint(ImageRequest("a fox", 7)) == "painted:292fed83e53803cbf4d0fc57b9f991d6"
    assert provenance.fingerprint(ImageRequest("a fox", 7, use)) == "painted:35a7e0edca22809665d379d20455aad8"

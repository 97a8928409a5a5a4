"""Rankings made of the encoded pairs, and a LoRA that is not zero on the base's UNet."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.models.memory_saving import activation_checkpointing
from mapo_studio.trainer.training.batches import seeded

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ranking(encoded):
    """ranking(tiers=((0,), (1,), (2,), (3,)), name="r", start=0): the pairs of a ranking of square images."""
    square = [one for one in encoded.pairs if one.bucket == encoded.pairs[0].bucket]

    def make(tiers=((0,), (1,), (2,), (3,)), name="r", start=0):
        pairs = []
        for above, below in itertools.combinations(tiers, 2):
            for better, worse in itertools.product(above, below):
                one, other = square[start + better], square[start + worse]
                pair = replace(one.pair, ranking=name, rejected=other.pair.chosen, prompt="red", weight=0.5)
                shown = replace(one, pair=pair, rejected=other.chosen, rejected_flipped=other.chosen_flipped)
                pairs.append(replace(shown, text=encoded.text("red"), framing=square[0].framing))
        return pairs

    return make


@pytest.fixture(scope="module")
def make(base):
    """make(dropout, how): a UNet of the base in training mode whose LoRA is not zero, and its parameters."""

    def build(dropout: float = 0.0, how: str = "off"):
        unet = base.load_unet(CPU, torch.float32)
        activation_checkpointing.apply(unet, how, CPU)
        parameters = adapter.attach(unet, adapter.LoraSettings(rank=4, dropout=dropout), seed=0)
        with torch.no_grad():
            for parameter in parameters:
                parameter += 0.1 * torch.randn(parameter.shape, generator=seeded("p"))
        return unet.train(), parameters

    return build


@pytest.fixture(scope="module")
def plain(make):
    return make()

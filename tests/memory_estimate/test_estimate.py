"""What a run is counted to need: the same as real tensors take, and in all its parts."""

from dataclasses import fields

import pytest
import torch
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.memory_estimate.estimate import Count, Footprint, peak_of_step
from mapo_studio.trainer.memory_estimate.meta_tracker import HOST
from mapo_studio.trainer.models.meta_models import shapes_like, shapes_of
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.training.learner import Learner

pytestmark = pytest.mark.slow


def config_of(**training):
    return parse_config({"base": "tiny", "training": {"precision": "float32", **training}}, "test")


@pytest.fixture(scope="module")
def tiny():
    return open_base("tiny")


@pytest.fixture(scope="module")
def count(tiny):
    return Count(shapes_like(tiny))


@pytest.mark.parametrize(("checkpointing", "split"), [("on", True), ("off", False)])
def test_the_count_is_what_live_tensors_of_the_real_step_take(tiny, count, split, checkpointing):
    config = config_of(batch_size=2, split_pair=split, gradient_checkpointing=checkpointing)
    counted = count.of(config)
    learner = Learner(config, tiny, HOST)
    real, _ = peak_of_step(learner, count.batch(2, tiny.resolution, HOST), HOST)
    assert counted.peak - counted.optimizer == pytest.approx(real, rel=0.03)


def test_each_part_is_what_it_is_of(tiny, count):
    found = count.of(config_of())
    learner = Learner(config_of(), tiny, HOST)
    trained = sum(one.numel() for one in learner.unet.parameters() if one.requires_grad)
    frozen = sum(one.numel() for one in learner.unet.parameters() if not one.requires_grad)
    assert found.weights == pytest.approx(4 * frozen, rel=0.01)
    assert found.adapter == 2 * 4 * trained
    assert found.activations > 0
    assert found.peak == found.weights + found.adapter + found.optimizer + found.activations
    assert found.most >= max(found.peak, found.sampling, found.encoding)


@pytest.mark.parametrize(("optimizer", "bytes_a_number"), [("adamw", 8), ("adamw8bit", 2.03125), ("auto", 2.03125)])
def test_states_take_what_their_library_keeps(count, optimizer, bytes_a_number):
    config = config_of()
    plain = count.of(
        config.model_copy(update={"optimization": config.optimization.model_copy(update={"optimizer": optimizer})})
    )
    assert plain.optimizer == pytest.approx(plain.adapter / 8 * bytes_a_number, rel=0.01)


def test_paged_states_are_in_the_computers_memory(count):
    config = config_of()
    paged = config.optimization.model_copy(update={"optimizer": "paged_adamw8bit"})
    there, gone = count.of(config_of()), count.of(config.model_copy(update={"optimization": paged}))
    assert gone.optimizer == 0
    assert gone.host >= there.optimizer > 0


def test_offloaded_activations_are_in_the_computers_memory():
    count = Count(shapes_of("sd15"))
    here = count.of(config_of(split_pair=True, gradient_checkpointing="on", precision="bfloat16"))
    there = count.of(config_of(split_pair=True, gradient_checkpointing="offload", precision="bfloat16"))
    assert there.host > here.host
    assert there.activations < here.activations


def test_fewer_bits_take_less_in_the_order_of_their_number(count):
    sizes = [count.of(config_of(quantize=how)).weights for how in ("none", "int8", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_counting_leaves_no_trace(tiny, count):
    before = torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
    count.of(config_of())
    assert (torch.get_default_dtype(), torch.is_autocast_enabled("cpu")) == before
    learner = Learner(config_of(), tiny, HOST)
    assert torch.isfinite(learner.learn(0, [count.batch(1, tiny.resolution, HOST)])).all()


def test_gib_are_binary():
    sizes = dict.fromkeys((one.name for one in fields(Footprint)), 0) | {"weights": 3 * 2**30, "activations": 2**29}
    found = Footprint(**sizes).in_gib()
    assert (found["weights_gib"], found["activations_gib"], found["peak_gib"], found["host_gib"]) == (
        3.0,
        0.5,
        3.5,
        0.0,
    )


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_shapes_have_no_numbers_and_the_size_of_the_published_model(family):
    unet = shapes_of(family).load_unet(torch.device("meta"), torch.bfloat16)
    assert {one.device.type for one in unet.parameters()} == {"meta"}
    assert not any(one.requires_grad for one in unet.parameters())
    assert sum(one.numel() for one in unet.parameters()) == {"sdxl": 2567463684, "sd15": 859520964}[family]

"""What a run is counted to need: the same as real tensors take, and in all its parts."""

from dataclasses import fields

import pytest
import torch
from mapo_studio.trainer.config.optimizers import OPTIMIZERS, Optimizer
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.latents import encode
from mapo_studio.trainer.memory_estimate.estimate import MemoryEstimate, MemoryEstimator, peak_of_step
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
def estimator(tiny):
    return MemoryEstimator(shapes_like(tiny))


@pytest.mark.parametrize(("checkpointing", "split"), [("on", True), ("off", False)])
def test_the_count_is_what_live_tensors_of_the_real_step_take(tiny, estimator, split, checkpointing):
    config = config_of(batch_size=2, split_pair=split, gradient_checkpointing=checkpointing)
    counted = estimator.estimate(config)
    learner = Learner(config, tiny, HOST)
    real, _ = peak_of_step(learner, estimator.batch(2, tiny.resolution, HOST), HOST)
    assert counted.step_peak - counted.optimizer == pytest.approx(real, rel=0.03)


def test_each_part_is_what_it_is_of(tiny, estimator):
    found = estimator.estimate(config_of())
    learner = Learner(config_of(), tiny, HOST)
    trained = sum(one.numel() for one in learner.unet.parameters() if one.requires_grad)
    frozen = sum(one.numel() for one in learner.unet.parameters() if not one.requires_grad)
    assert found.weights == pytest.approx(4 * frozen, rel=0.01)
    assert found.adapter == 2 * 4 * trained
    assert found.activations > 0
    assert found.step_peak == found.weights + found.adapter + found.optimizer + found.activations
    assert found.run_peak >= max(found.step_peak, found.sampling, found.encoding)


@pytest.mark.parametrize(("optimizer", "bytes_a_number"), [("adamw", 8), ("adamw8bit", 2.03125), ("auto", 2.03125)])
def test_states_take_what_their_library_keeps(estimator, optimizer, bytes_a_number):
    config = config_of()
    plain = estimator.estimate(
        config.model_copy(update={"optimization": config.optimization.model_copy(update={"optimizer": optimizer})})
    )
    assert plain.optimizer == pytest.approx(plain.adapter / 8 * bytes_a_number, rel=0.01)


def test_an_optimizer_that_is_added_is_counted_by_its_row(estimator, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "lion", Optimizer("lion", state_bytes=4, summary="in one float32 a weight"))
    config = config_of()
    lion = config.optimization.model_copy(update={"optimizer": "lion"})
    estimate = estimator.estimate(config.model_copy(update={"optimization": lion}))
    assert estimate.optimizer == estimate.adapter / 8 * 4


@pytest.mark.parametrize("constant", ["PROMPTS_PER_BATCH", "PIXELS_PER_BATCH", "MAX_IMAGES_PER_BATCH"])
def test_encoding_is_counted_with_the_batches_that_it_is_done_in(tiny, constant, monkeypatch):
    """Of the tiny base both are small: each is made to weigh in by what the other is set to."""
    monkeypatch.setattr(encode, "PROMPTS_PER_BATCH", 1 if constant != "PROMPTS_PER_BATCH" else 8)
    monkeypatch.setattr(encode, "MAX_IMAGES_PER_BATCH", 1 if constant == "PROMPTS_PER_BATCH" else 16)
    before = MemoryEstimator(shapes_like(tiny)).estimate(config_of()).encoding
    factor = {"PROMPTS_PER_BATCH": 64, "PIXELS_PER_BATCH": 1 / 512, "MAX_IMAGES_PER_BATCH": 1 / 2}[constant]
    monkeypatch.setattr(encode, constant, int(getattr(encode, constant) * factor))
    after = MemoryEstimator(shapes_like(tiny)).estimate(config_of()).encoding
    assert after > before if factor > 1 else after < before


def test_paged_states_are_in_the_computers_memory(estimator):
    config = config_of()
    paged = config.optimization.model_copy(update={"optimizer": "paged_adamw8bit"})
    there, gone = estimator.estimate(config_of()), estimator.estimate(config.model_copy(update={"optimization": paged}))
    assert gone.optimizer == 0
    assert gone.host >= there.optimizer > 0


def test_offloaded_activations_are_in_the_computers_memory():
    estimator = MemoryEstimator(shapes_of("sd15"))
    here = estimator.estimate(config_of(split_pair=True, gradient_checkpointing="on", precision="bfloat16"))
    there = estimator.estimate(config_of(split_pair=True, gradient_checkpointing="offload", precision="bfloat16"))
    assert there.host > here.host
    assert there.activations < here.activations


def test_fewer_bits_take_less_in_the_order_of_their_number(estimator):
    sizes = [estimator.estimate(config_of(quantize=how)).weights for how in ("none", "int8", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_counting_leaves_no_trace(tiny, estimator):
    before = torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
    estimator.estimate(config_of())
    assert (torch.get_default_dtype(), torch.is_autocast_enabled("cpu")) == before
    learner = Learner(config_of(), tiny, HOST)
    assert torch.isfinite(learner.train_step(0, [estimator.batch(1, tiny.resolution, HOST)])).all()


def test_gib_are_binary():
    sizes = dict.fromkeys((one.name for one in fields(MemoryEstimate)), 0) | {
        "weights": 3 * 2**30,
        "activations": 2**29,
    }
    found = MemoryEstimate(**sizes).in_gib()
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

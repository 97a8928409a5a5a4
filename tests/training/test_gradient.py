"""The gradient of a pair whose pictures go through the UNet one after the other is that of both at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.models.memory_saving import activation_checkpointing
from mapo_studio.trainer.training.batches import draw_pair, seeded, stack
from mapo_studio.trainer.training.gradient import add_gradient, way_of
from mapo_studio.trainer.training.heldout_eval import HeldOut
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.objectives import DPO, SFT, DPOPlusSFT, MaPO

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OBJECTIVES = {"mapo": MaPO(1 / 64, 64.0, 1.0), "dpo": DPO(200.0), "sft": SFT(), "dpo+sft": DPOPlusSFT(200.0, 0.5)}
APART = ("one by one", "kept apart")


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


def pairs(encoded, count: int, preference: float = 1.0, weight: float = 1.0, level: int = 400):
    square = [pair for pair in encoded.pairs if pair.bucket == encoded.pairs[0].bucket][:count]
    rows = [draw_pair(pair, torch.tensor([level + 100 * i]), seeded("row", i)) for i, pair in enumerate(square)]
    batch = stack(rows)
    batch.preference.copy_(torch.linspace(preference, 1, count))
    batch.weight.copy_(torch.linspace(weight, 1, count))
    return batch


def gradient(base, model, batch, objective, way, seed=0, scale=1.0, guard=None):
    unet, parameters = model
    for parameter in parameters:
        parameter.grad = None
    judged, errors = add_gradient(
        base, unet, batch, objective, lambda loss: (scale * loss).backward(), way=way, seed=seed, guard=guard
    )
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), judged, errors


def close(one, other) -> bool:
    # DPO multiplies the rounding of an error by beta before the sigmoid's slope is taken there.
    return bool((one - other).norm() <= 1e-3 * other.norm())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("way", APART)
def test_every_objective_gets_the_gradient_of_both_at_once(base, encoded, plain, name, way, count):
    batch = pairs(encoded, count, preference=0.7, weight=0.4)
    together, judged, errors = gradient(base, plain, batch, OBJECTIVES[name], "together")
    apart, same_judged, same_errors = gradient(base, plain, batch, OBJECTIVES[name], way)
    assert together.norm() > 0
    assert close(apart, together)
    assert torch.allclose(same_judged.loss, judged.loss, rtol=1e-5)
    assert torch.allclose(same_judged.margin, judged.margin, rtol=1e-3, atol=1e-6)
    for side in ("chosen", "rejected"):
        assert torch.allclose(getattr(same_errors, side), getattr(errors, side), rtol=1e-4)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(OBJECTIVES)),
    way=st.sampled_from(APART),
    count=st.integers(1, 3),
    preference=st.floats(0, 1),
    weight=st.floats(0, 2),
    level=st.integers(0, 700),
)
def test_any_preferences_weights_and_noise_levels_do_too(
    base, encoded, plain, name, way, count, preference, weight, level
):
    batch = pairs(encoded, count, preference, weight, level)
    together, *_ = gradient(base, plain, batch, OBJECTIVES[name], "together")
    apart, *_ = gradient(base, plain, batch, OBJECTIVES[name], way)
    assert close(apart, together)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_guard_takes_as_much_from_the_rejected_pictures_whichever_way_they_go(base, encoded, plain, name):
    batch = pairs(encoded, 3, preference=0.7, weight=0.4)
    objective = OBJECTIVES[name]
    together, judged, _ = gradient(base, plain, batch, objective, "together", guard=0.9)
    for way in APART:
        apart, same_judged, _ = gradient(base, plain, batch, objective, way, guard=0.9)
        assert close(apart, together)
        assert torch.allclose(same_judged.loss, judged.loss, rtol=1e-5)
    free, *_ = gradient(base, plain, batch, objective, "together")
    # The two pictures of a pair share their noise, so their residuals nearly always point one way.
    assert close(free, together) == (name == "sft")


@pytest.mark.parametrize("way", APART)
def test_what_scales_the_loss_scales_the_gradient(base, encoded, plain, way):
    """As float16's loss scaling and the share of a batch in a step do."""
    batch = pairs(encoded, 2)
    once, *_ = gradient(base, plain, batch, OBJECTIVES["mapo"], way)
    scaled, *_ = gradient(base, plain, batch, OBJECTIVES["mapo"], way, scale=1024.0)
    assert close(scaled, 1024 * once)


def test_one_by_one_and_kept_apart_draw_the_same_dropout(base, encoded, make):
    """So what is judged of the rejected picture, and what is learned from it, wear the same masks."""
    model, batch = make(dropout=0.5, how="on"), pairs(encoded, 2)
    unet, parameters = model
    torch.manual_seed(11)
    one, _, errors = gradient(base, model, batch, OBJECTIVES["mapo"], "one by one", seed=5)

    # The same by hand: each picture under the seed of its masks, both graphs at once.
    for parameter in parameters:
        parameter.grad = None
    from mapo_studio.trainer.training.objectives import PairErrors
    from mapo_studio.trainer.training.pair_errors import picture_errors

    torch.manual_seed(5)
    chosen = picture_errors(base, unet, batch, batch.chosen)
    torch.manual_seed(6)
    rejected = picture_errors(base, unet, batch, batch.rejected)
    OBJECTIVES["mapo"](PairErrors(chosen, rejected, preference=batch.preference, weight=batch.weight)).loss.backward()
    assert torch.equal(errors.rejected, rejected.detach())
    assert close(one, torch.cat([parameter.grad.flatten() for parameter in parameters]))
    other, *_ = gradient(base, model, batch, OBJECTIVES["mapo"], "one by one", seed=50)
    assert not close(other, one)


@pytest.mark.parametrize("name", ["mapo", "sft"])
def test_how_many_forwards_each_way_takes(base, encoded, plain, name, monkeypatch):
    """One by one: a third for the rejected picture, and none where it teaches nothing."""
    sizes = []
    predict = type(base).predict
    monkeypatch.setattr(
        type(base),
        "predict",
        lambda self, *args: sizes.append((len(args[1]), torch.is_grad_enabled())) or predict(self, *args),
    )
    batch = pairs(encoded, 1)
    seen = {}
    for way in ("together", *APART):
        sizes.clear()
        gradient(base, plain, batch, OBJECTIVES[name], way)
        seen[way] = list(sizes)
    again = [] if name == "sft" else [(1, True)]
    assert seen == {
        "together": [(2, True)],
        "one by one": [(1, False), (1, True), *again],
        "kept apart": [(1, True)] * 2,
    }


def test_the_way_follows_from_the_settings():
    assert way_of(False, "on") == way_of(False, "offload") == "together"
    assert way_of(True, "on") == way_of(True, "off") == "one by one"
    assert way_of(True, "offload") == "kept apart"


@pytest.mark.parametrize("kind", ["mapo", "dpo"])
@pytest.mark.parametrize("how", ["off", "on", "offload"])
def test_accumulated_steps_move_the_lora_to_the_same_place(base, encoded, settings, kind, how):
    batches = [pairs(encoded, 2, 0.6, 0.5), pairs(encoded, 1, level=100)]
    ends = []
    for split in (False, True):
        config = settings(
            objective={"kind": kind, "beta": 50.0},
            optimization={"optimizer": "adamw", "learning_rate": 1e-3},
            training={"split_pair": split, "gradient_checkpointing": how if split else "off"},
        )
        learner = Learner(config, base, CPU)
        numbers = [learner.learn(step, batches) for step in range(2)]
        ends.append((torch.stack(numbers), adapter.state(learner.unet)))
    (numbers, state), (same_numbers, same_state) = ends
    assert torch.allclose(same_numbers, numbers, rtol=1e-3, atol=1e-6)
    # AdamW divides by the gradient's own size, so a first step of 1e-3 moves a rounding error about as far.
    far = sum((same_state[name] - state[name]).abs().gt(2e-4).sum() for name in state)
    assert far <= 1e-3 * sum(tensor.numel() for tensor in state.values())


def test_half_precision_loss_scaling_reaches_both_pictures(base, encoded, settings, monkeypatch):
    """float16 cannot be trained in on a CPU; what its scaler does to a loss can."""
    scaled = []
    for split in (False, True):
        learner = Learner(settings(training={"split_pair": split}, optimization={"optimizer": "adamw"}), base, CPU)
        monkeypatch.setattr(learner._optimizer, "scaled", lambda loss: 256 * loss)
        numbers = learner.learn(0, [pairs(encoded, 2)])
        scaled.append(numbers[-1])
    assert torch.allclose(scaled[0], scaled[1], rtol=1e-4)
    assert scaled[0] > 0


@pytest.mark.parametrize("objective", [MaPO(), DPO(200.0)])
def test_measuring_one_picture_at_a_time_says_the_same(base, encoded, plain, objective):
    unet, _ = plain
    measured = [
        HeldOut(encoded.pairs[:4], timesteps=1000, levels=2, batch_size=2, split=split).measure(
            base, unet, objective, CPU
        )
        for split in (False, True)
    ]
    assert measured[1].agreement == measured[0].agreement
    assert measured[1].margin == pytest.approx(measured[0].margin, rel=1e-3, abs=1e-6)
    assert measured[1].chosen_error == pytest.approx(measured[0].chosen_error, rel=1e-4)

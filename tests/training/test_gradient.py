"""One gradient, however the images of a batch go through the UNet: that of all of them at once, by plain autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mapo_studio.trainer.latents.encode import load_text
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.memory_estimate.estimate import peak_of_step
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, draw, seeded, stack
from mapo_studio.trainer.training.gradient import accumulate_gradient, gradient_mode
from mapo_studio.trainer.training.heldout_eval import HeldOut
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.objectives import DPO, SFT, DPOPlusSFT, MaPO, PairErrors
from mapo_studio.trainer.training.pair_errors import mean_square, pair_errors, residuals

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OBJECTIVES = {"mapo": MaPO(1 / 64, 64.0, 1.0), "dpo": DPO(200.0), "sft": SFT(), "dpo+sft": DPOPlusSFT(200.0, 0.5)}
APART = ("recompute", "split")
TIED = ((0,), (1, 2), (3,))


def pairs(encoded, count: int, preference: float = 1.0, weight: float = 1.0, level: int = 400):
    square = [pair for pair in encoded.pairs if pair.bucket == encoded.pairs[0].bucket][:count]
    rows = [draw([pair], level + 100 * i, seeded("row", i)) for i, pair in enumerate(square)]
    batch = stack(rows)
    batch.preference.copy_(torch.linspace(preference, 1, count))
    batch.weight.copy_(torch.linspace(weight, 1, count))
    return batch


def gradient(base, model, batch, objective, mode="joint", seed=0, scale=1.0, safeguard=None, max_images=None):
    unet, parameters = model
    for parameter in parameters:
        parameter.grad = None
    loss_output, errors = accumulate_gradient(
        base,
        unet,
        batch,
        objective,
        lambda loss: (scale * loss).backward(),
        mode=mode,
        seed=seed,
        safeguard=safeguard,
        max_images=max_images,
    )
    return grads(parameters), loss_output, errors


def grads(parameters):
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def reference_gradient(base, model, batch, objective, safeguard=None):
    """The plain implementation: both images of every pair in one forward, with the whole graph, one loss, one backward.

    The safeguard hangs on the gradient of the rejected image's error there, and nowhere else.
    """
    unet, parameters = model
    images = batch.images
    frozen = (None, None)
    if objective.needs_reference:
        with torch.no_grad(), adapter.disabled(unet):
            frozen = mean_square(residuals(base, unet, images))[batch.pair_index]
    noisy = base.schedule.add_noise(images.latents, images.noise, images.timestep)
    prediction = base.predict(unet, noisy, images.timestep, images.text, images.framing)
    off = prediction - images.noise  # the base predicts epsilon
    chosen_off, rejected_off = off[batch.pair_index[0]], off[batch.pair_index[1]]
    chosen, rejected = mean_square(chosen_off), mean_square(rejected_off)
    errors = PairErrors(chosen, rejected, *frozen, batch.preference, batch.weight)
    loss = objective(errors).loss
    if safeguard is not None:
        (pull,) = torch.autograd.grad(loss, chosen, retain_graph=True)
        overlap = (chosen_off * rejected_off).mean(dim=(1, 2, 3)).detach()

        def guarded(slope):  # Diffusion-SDPO: k = min(1, (1 - mu) a l_w / (b mean(r_w r_l))) where the two conflict
            conflict = -slope * overlap
            most = (1 - safeguard) * pull * chosen.detach() / conflict
            return torch.where((conflict > 0) & (pull > 0), most.clamp(max=1), torch.ones_like(most)) * slope

        rejected.register_hook(guarded)
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    return grads(parameters), loss.detach(), errors


def close(one, other) -> bool:
    # DPO multiplies the rounding of an error by beta before the sigmoid's slope is taken there.
    return bool((one - other).norm() <= 1e-3 * other.norm())


def batch_of(kind, encoded, ranking):
    if kind == "pairs":
        return pairs(encoded, 3, preference=0.7, weight=0.4)
    if kind == "own captions":
        square = [one for one in encoded.pairs if one.bucket == encoded.pairs[0].bucket][:3]
        own = [replace(one, rejected_text=encoded.text("")) for one in square[:2]]
        return stack([draw([one], 400, seeded(str(i))) for i, one in enumerate([*own, square[2]])])
    return stack([draw(ranking(), 400, seeded("x")), draw(ranking(TIED, "s", 1), 700, seeded("y"))])


@pytest.mark.parametrize("mode", ["joint", *APART])
@pytest.mark.parametrize("safeguard", [None, 0.6])
@pytest.mark.parametrize("kind", ["pairs", "own captions", "ranking"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_mode_gives_the_gradient_of_plain_autograd(base, encoded, ranking, plain, name, kind, safeguard, mode):
    batch, objective = batch_of(kind, encoded, ranking), OBJECTIVES[name]
    expected, loss, expected_errors = reference_gradient(base, plain, batch, objective, safeguard)
    max_images = {"joint": None, "recompute": 3, "split": 4}[mode]  # of rankings: 3 parts, or 2
    found, loss_output, errors = gradient(
        base, plain, batch, objective, mode, safeguard=safeguard, max_images=max_images
    )
    assert expected.norm() > 0
    assert close(found, expected)
    assert torch.allclose(loss_output.loss.detach(), loss, rtol=1e-4)
    for side in ("chosen", "rejected"):
        assert torch.allclose(getattr(errors, side), getattr(expected_errors, side), rtol=1e-4)
        assert not getattr(errors, side).requires_grad


@pytest.mark.parametrize("name", ["mapo", "dpo"])
@pytest.mark.parametrize("kind", ["pairs", "ranking"])
def test_the_safeguard_takes_something_away(base, encoded, ranking, plain, kind, name):
    """The two images of a pair share their noise, so their residuals nearly always point one way."""
    batch = batch_of(kind, encoded, ranking)
    free, *_ = gradient(base, plain, batch, OBJECTIVES[name])
    guarded, *_ = gradient(base, plain, batch, OBJECTIVES[name], safeguard=0.9)
    assert not close(guarded, free)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("mode", APART)
def test_every_objective_gets_the_gradient_of_both_at_once(base, encoded, plain, name, mode, count):
    batch = pairs(encoded, count, preference=0.7, weight=0.4)
    together, judged, errors = gradient(base, plain, batch, OBJECTIVES[name], "joint")
    apart, same_judged, same_errors = gradient(base, plain, batch, OBJECTIVES[name], mode)
    assert together.norm() > 0
    assert close(apart, together)
    assert torch.allclose(same_judged.loss, judged.loss, rtol=1e-5)
    assert torch.allclose(same_judged.margin, judged.margin, rtol=1e-3, atol=1e-6)
    for side in ("chosen", "rejected"):
        assert torch.allclose(getattr(same_errors, side), getattr(errors, side), rtol=1e-4)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(OBJECTIVES)),
    mode=st.sampled_from(APART),
    count=st.integers(1, 3),
    preference=st.floats(0, 1),
    weight=st.floats(0, 2),
    level=st.integers(0, 700),
)
def test_any_preferences_weights_and_noise_levels_do_too(
    base, encoded, plain, name, mode, count, preference, weight, level
):
    batch = pairs(encoded, count, preference, weight, level)
    together, *_ = gradient(base, plain, batch, OBJECTIVES[name], "joint")
    apart, *_ = gradient(base, plain, batch, OBJECTIVES[name], mode)
    assert close(apart, together)


@pytest.mark.parametrize("mode", APART)
def test_what_scales_the_loss_scales_the_gradient(base, encoded, plain, mode):
    """As float16's loss scaling and the share of a batch in a step do."""
    batch = pairs(encoded, 2)
    once, *_ = gradient(base, plain, batch, OBJECTIVES["mapo"], mode)
    scaled, *_ = gradient(base, plain, batch, OBJECTIVES["mapo"], mode, scale=1024.0)
    assert close(scaled, 1024 * once)


def test_a_recomputed_part_draws_the_same_dropout(base, encoded, make):
    """So what is judged of the rejected picture, and what is learned from it, wear the same masks."""
    model, batch = make(dropout=0.5, how="on"), pairs(encoded, 2)
    unet, parameters = model
    torch.manual_seed(11)
    one, _, errors = gradient(base, model, batch, OBJECTIVES["mapo"], "recompute", seed=5)

    # The same by hand: each half under the seed of its masks, both graphs at once.
    for parameter in parameters:
        parameter.grad = None
    halves = []
    for i, half in enumerate(batch.images.split(2)):
        torch.manual_seed(5 + i)
        halves.append(mean_square(residuals(base, unet, half)))
    chosen, rejected = halves
    OBJECTIVES["mapo"](PairErrors(chosen, rejected, preference=batch.preference, weight=batch.weight)).loss.backward()
    assert torch.equal(errors.rejected, rejected.detach())
    assert close(one, torch.cat([parameter.grad.flatten() for parameter in parameters]))
    other, *_ = gradient(base, model, batch, OBJECTIVES["mapo"], "recompute", seed=50)
    assert not close(other, one)


@pytest.mark.parametrize("name", ["mapo", "sft"])
def test_how_many_forwards_each_mode_takes(base, encoded, plain, name, monkeypatch):
    """recompute: a third for the rejected picture, and none where it teaches nothing."""
    sizes = []
    predict = type(base).predict
    monkeypatch.setattr(
        type(base),
        "predict",
        lambda self, *args: sizes.append((len(args[1]), torch.is_grad_enabled())) or predict(self, *args),
    )
    batch = pairs(encoded, 1)
    seen = {}
    for mode in ("joint", *APART):
        sizes.clear()
        gradient(base, plain, batch, OBJECTIVES[name], mode)
        seen[mode] = list(sizes)
    again = [] if name == "sft" else [(1, True)]
    assert seen == {
        "joint": [(2, True)],
        "recompute": [(1, False), (1, True), *again],
        "split": [(1, True)] * 2,
    }


def test_the_mode_follows_from_the_settings():
    assert gradient_mode(False, "on") == gradient_mode(False, "offload") == "joint"
    assert gradient_mode(True, "on") == gradient_mode(True, "off") == "recompute"
    assert gradient_mode(True, "offload") == "split"


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
        numbers = [learner.train_step(step, batches) for step in range(2)]
        ends.append((torch.stack(numbers), adapter.lora_state_dict(learner.unet)))
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
        monkeypatch.setattr(learner._optimizer, "scale", lambda loss: 256 * loss)
        numbers = learner.train_step(0, [pairs(encoded, 2)])
        scaled.append(numbers[-1])
    assert torch.allclose(scaled[0], scaled[1], rtol=1e-4)
    assert scaled[0] > 0


@pytest.mark.parametrize("tiers", [((0,), (1,), (2,), (3,)), TIED, ((0,), (1, 2, 3))])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_ranking_teaches_what_its_pairs_do(base, plain, ranking, name, tiers):
    batch = draw(ranking(tiers), 400, seeded("x"))
    separate, loss_output, errors = gradient(base, plain, batch.expanded(), OBJECTIVES[name])
    for mode, most in (("joint", None), ("joint", 2), ("joint", 3), ("recompute", 2), ("split", 2)):
        ranked, same_output, same_errors = gradient(base, plain, batch, OBJECTIVES[name], mode, max_images=most)
        assert close(ranked, separate)
        assert torch.allclose(same_output.loss, loss_output.loss, rtol=1e-4)  # beta multiplies rounding too
        for side in ("chosen", "rejected"):
            assert torch.allclose(getattr(same_errors, side), getattr(errors, side), rtol=1e-4)


@pytest.mark.parametrize("max_images", [None, 2])
def test_the_safeguard_takes_from_a_ranking_what_it_does_pair_by_pair(base, plain, ranking, max_images):
    batch, objective = draw(ranking(TIED), 400, seeded("x")), MaPO(0.1, 1000.0, 0.5)
    ranked, *_ = gradient(base, plain, batch, objective, safeguard=0.6, max_images=max_images)
    separate, *_ = gradient(base, plain, batch.expanded(), objective, safeguard=0.6)
    assert close(ranked, separate)


@pytest.mark.parametrize(
    ("name", "max_images", "forwards"),
    [("mapo", None, [4]), ("mapo", 2, [2, 2, 2]), ("mapo", 1, [1] * 7), ("sft", 1, [1] * 6)],
)
def test_each_image_of_a_ranking_goes_through_once_and_never_more_at_once_than_there_may(
    base, plain, ranking, monkeypatch, name, max_images, forwards
):
    """An image that waited for the others goes through again, for its gradient; the last one has none in SFT."""
    seen = []
    predict = type(base).predict
    monkeypatch.setattr(type(base), "predict", lambda self, *args: seen.append(len(args[1])) or predict(self, *args))
    gradient(base, plain, draw(ranking(), 400, seeded("x")), OBJECTIVES[name], max_images=max_images)
    assert seen == forwards


def test_errors_of_rankings_side_by_side_are_those_of_their_pairs(base, plain, ranking):
    unet, _ = plain
    two = stack([draw(ranking(), 400, seeded("x")), draw(ranking(TIED, "s", 1), 700, seeded("y"))])
    parts = [pair_errors(base, unet, part, reference=False) for part in two.parts(2)]
    whole, separate = (pair_errors(base, unet, one, reference=True) for one in (two, two.expanded()))
    halves = pair_errors(base, unet, two, reference=True, split=True)
    for side in ("chosen", "rejected", "reference_chosen", "reference_rejected"):
        assert torch.allclose(getattr(whole, side), getattr(separate, side), rtol=1e-4)
        assert torch.allclose(getattr(whole, side), getattr(halves, side), rtol=1e-4)
    assert torch.allclose(torch.cat([one.rejected for one in parts]), whole.rejected, rtol=1e-4)


@pytest.mark.parametrize("training", [{"batch_size": 1}, {"batch_size": 2}, {"batch_size": 2, "split_pair": True}])
def test_a_ranking_needs_no_more_memory_than_the_pairs_that_a_batch_has(settings, base, encoded, ranking, training):
    """What is planned is planned for the pairs."""
    learner = Learner(settings(training=training), base, CPU)
    size = training["batch_size"]
    square = [one for one in encoded.pairs if one.bucket == encoded.pairs[0].bucket and one.pair.ranking is None]
    separate, ranked = (
        PairBatches(some, load_text(encoded.text("")), BatchSettings(size, 1000, seed=3))[0]
        for some in (square, ranking())
    )
    assert len(separate) == size
    assert len(ranked) == 6
    planned, _ = peak_of_step(learner, separate, CPU)
    needed, _ = peak_of_step(learner, ranked, CPU)
    assert needed <= 1.03 * planned


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

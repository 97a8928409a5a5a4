"""Errors of pairs: shared noise and timestep, both pictures in one forward, reference with the adapter off."""

from dataclasses import replace

import pytest
import torch
from mapo_studio.trainer.latents.encode import load_text
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, draw, draw_pair, seeded, stack
from mapo_studio.trainer.training.heldout_eval import HeldOut, wilson_interval
from mapo_studio.trainer.training.objectives import DPO, SFT, MaPO
from mapo_studio.trainer.training.pair_errors import pair_errors

CPU = torch.device("cpu")


@pytest.fixture
def unet(base):
    unet = base.load_unet(CPU, torch.float32)
    parameters = adapter.attach(unet, adapter.LoraSettings(rank=4), seed=0)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded("p"))
    return unet


@pytest.fixture
def batch(encoded):
    return PairBatches(encoded.pairs, load_text(encoded.text("")), BatchSettings(2, 1000, seed=0))[0]


def test_both_pictures_meet_the_same_noise_timestep_text_and_framing(base, unet, batch, monkeypatch):
    seen = []
    predict = type(base).predict
    monkeypatch.setattr(type(base), "predict", lambda self, *args: seen.append(args) or predict(self, *args))
    pair_errors(base, unet, batch, reference=False)
    ((_, noisy, timestep, text, framing),) = seen
    for shared in (timestep, framing, *text.values()):
        chosen, rejected = shared.chunk(2)
        assert torch.equal(chosen, rejected)
    alpha = base.schedule.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    noise = (noisy - alpha.sqrt() * batch.images.latents) / (1 - alpha).sqrt()
    assert torch.allclose(*noise.chunk(2), atol=1e-3)
    assert torch.allclose(noise, batch.images.noise, atol=1e-3)


def test_errors_are_those_of_each_picture_alone(base, unet, batch):
    together = pair_errors(base, unet, batch, reference=False)
    for side, rows in zip(("chosen", "rejected"), batch.pair_index, strict=True):
        alone = batch.images.take(rows)
        noisy = base.schedule.add_noise(alone.latents, alone.noise, alone.timestep)
        prediction = base.predict(unet, noisy, alone.timestep, alone.text, alone.framing)
        error = (prediction - alone.noise).square().mean(dim=(1, 2, 3))
        assert torch.allclose(getattr(together, side), error, rtol=1e-4)


def test_the_reference_is_the_base_without_its_adapter(base, unet, batch):
    errors = pair_errors(base, unet, batch, reference=True)
    bare = pair_errors(base, base.load_unet(CPU, torch.float32), batch, reference=False)
    assert torch.allclose(errors.reference_chosen, bare.chosen, rtol=1e-5)
    assert torch.allclose(errors.reference_rejected, bare.rejected, rtol=1e-5)
    assert not torch.allclose(errors.chosen, bare.chosen, rtol=1e-3)
    assert not errors.reference_chosen.requires_grad
    assert errors.chosen.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("objective", [MaPO(), DPO(200.0)])
def test_held_out_agreement_is_the_same_each_time_and_for_any_batch_size(base, unet, encoded, objective):
    torch.manual_seed(1)
    first = HeldOut(encoded.pairs, timesteps=1000, levels=4, batch_size=1).measure(base, unet, objective, CPU)
    torch.manual_seed(2)
    again = HeldOut(encoded.pairs, timesteps=1000, levels=4, batch_size=3).measure(base, unet, objective, CPU)
    assert first.agreement == again.agreement
    assert first.chosen_error == pytest.approx(again.chosen_error, rel=1e-4)
    assert first.low <= first.agreement <= first.high
    assert first.pairs == len(encoded.pairs)


def test_measuring_leaves_the_model_in_its_mode_and_without_gradients(base, unet, encoded):
    unet.train()
    HeldOut(encoded.pairs[:2], timesteps=1000, levels=2, batch_size=2).measure(base, unet, SFT(), CPU)
    assert unet.training
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_agreement_of_a_model_that_knows_the_answer_is_whole(base, unet, encoded):
    """A margin that is positive for every pair must give 1: swapped pairs must give 0."""
    held_out = HeldOut(encoded.pairs, timesteps=1000, levels=2, batch_size=2)

    class Knows:
        needs_reference = False

        def __call__(self, errors):
            judged = MaPO()(errors)
            return type(judged)(judged.loss, torch.ones_like(judged.margin) * self.sign, judged.agreement, {})

    knows = Knows()
    for knows.sign, share in ((1.0, 1.0), (-1.0, 0.0)):
        assert held_out.measure(base, unet, knows, CPU).agreement == share


def test_interval_is_honest_for_few_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(5, 5)
    assert 0.5 < low < 0.6
    assert high == 1.0
    low, high = wilson_interval(83, 100)
    assert (round(low, 3), round(high, 3)) == (0.745, 0.891)  # Wilson's interval as published tables give it


def test_one_draw_of_a_pair_holds_one_noise(encoded):
    row = draw_pair(encoded.pairs[0], 5, "x")
    assert torch.equal(row.images.noise[0], row.images.noise[1])
    assert not torch.equal(row.images.latents[0], row.images.latents[1])
    assert (len(row), len(row.images), row.pair_index.tolist()) == (1, 2, [[0], [1]])


def test_a_rejected_picture_is_asked_under_its_own_caption(base, unet, encoded, monkeypatch):
    """And pairs without one, in the same batch and alone, are computed on as ever."""
    own, plain = (replace(encoded.pairs[0], rejected_text=encoded.text("")), encoded.pairs[1])
    rows = [draw([pair], 400, seeded(str(i))) for i, pair in enumerate((own, plain))]
    before = [draw([pair], 400, seeded(str(i))) for i, pair in enumerate(encoded.pairs[:2])]
    assert not torch.equal(*rows[0].images.text["hidden"])
    assert torch.equal(*before[0].images.text["hidden"])
    mixed, as_ever = (pair_errors(base, unet, stack(some), reference=True) for some in (rows, before))
    for name in ("chosen", "reference_chosen"):
        assert torch.equal(getattr(mixed, name), getattr(as_ever, name))
    for name in ("rejected", "reference_rejected"):
        assert not torch.equal(getattr(mixed, name)[0], getattr(as_ever, name)[0])
        assert torch.equal(getattr(mixed, name)[1], getattr(as_ever, name)[1])
    empty = {name: tensor.expand(2, *tensor.shape) for name, tensor in load_text(encoded.text("")).items()}
    asked = replace(before[0], images=replace(before[0].images, text=empty))
    assert torch.allclose(mixed.rejected[:1], pair_errors(base, unet, asked, reference=False).rejected, rtol=1e-4)
    split = pair_errors(base, unet, stack(rows), reference=False, split=True)
    assert torch.allclose(split.rejected, mixed.rejected, rtol=1e-4)


def test_a_dropped_caption_is_dropped_for_both(encoded):
    pair = replace(encoded.pairs[0], rejected_text=encoded.text("red"))
    empty = load_text(encoded.text(""))
    dropped = draw([pair], 400, seeded("x"), empty).images.text
    assert all(torch.equal(dropped[name][row], empty[name]) for name in empty for row in (0, 1))

"""Rankings: k pictures go through once each, and teach exactly what their pairs would."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from mapo_studio.trainer.latents.encode import load_text
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.memory_estimate.estimate import peak_of_step
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, draw_ranked, seeded, stack
from mapo_studio.trainer.training.gradient import add_gradient
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.objectives import DPO, SFT, MaPO
from mapo_studio.trainer.training.pair_errors import pair_errors
from mapo_studio.trainer.training.ranked import cuts, distinct, together

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OBJECTIVES = {"mapo": MaPO(1 / 64, 64.0, 1.0), "dpo": DPO(200.0), "sft": SFT()}
TIED = ((0,), (1, 2), (3,))


@pytest.fixture(scope="module")
def ranking(encoded):
    """ranking(tiers=((0,), (1,), (2,), (3,)), name="r", start=0): the pairs of a ranking of square pictures."""
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
def model(base):
    unet = base.load_unet(CPU, torch.float32)
    parameters = adapter.attach(unet, adapter.LoraSettings(rank=4), seed=0)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded("p"))
    return unet.train(), parameters


def drawn(pairs, level=400, name="x"):
    return draw_ranked(pairs, torch.tensor([level]), seeded(name))


def gradient(base, model, batch, objective, way="together", most=None):
    unet, parameters = model
    for parameter in parameters:
        parameter.grad = None
    judged, errors = add_gradient(
        base, unet, batch, objective, lambda loss: loss.backward(), way=way, seed=0, most=most
    )
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), judged, errors


@pytest.mark.parametrize("tiers", [((0,), (1,), (2,), (3,)), TIED, ((0,), (1, 2, 3))])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_ranking_teaches_what_its_pairs_do(base, model, ranking, name, tiers):
    batch = drawn(ranking(tiers))
    pairs, judged, errors = gradient(base, model, replace(batch, places=None), OBJECTIVES[name])
    for way, most in (("together", None), ("together", 2), ("together", 3), ("one by one", 2), ("kept apart", 2)):
        ranked, same_judged, same_errors = gradient(base, model, batch, OBJECTIVES[name], way, most)
        assert (ranked - pairs).norm() <= 1e-3 * pairs.norm()
        assert torch.allclose(same_judged.loss, judged.loss, rtol=1e-4)  # beta multiplies rounding too
        for side in ("chosen", "rejected"):
            assert torch.allclose(getattr(same_errors, side), getattr(errors, side), rtol=1e-4)


@pytest.mark.parametrize("most", [None, 2])
def test_the_loser_guard_lets_through_what_it_does_pair_by_pair(base, model, ranking, most):
    unet, parameters = model
    batch, found = drawn(ranking(TIED)), []
    for one in (batch, replace(batch, places=None)):
        for parameter in parameters:
            parameter.grad = None
        add_gradient(
            base,
            unet,
            one,
            MaPO(0.1, 1000.0, 0.5),
            lambda loss: loss.backward(),
            way="together",
            seed=0,
            guard=0.6,
            most=most,
        )
        found.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    assert (found[0] - found[1]).norm() <= 1e-3 * found[1].norm()


@pytest.mark.parametrize(("most", "forwards"), [(None, [4]), (2, [2, 2, 2]), (1, [1] * 7)])
def test_each_picture_goes_through_once_and_never_more_at_once_than_there_may(
    base, model, ranking, monkeypatch, most, forwards
):
    """A picture that waited for the others goes through again, for its gradient."""
    seen = []
    predict = type(base).predict
    monkeypatch.setattr(type(base), "predict", lambda self, *args: seen.append(len(args[1])) or predict(self, *args))
    gradient(base, model, drawn(ranking()), OBJECTIVES["mapo"], "together", most)
    assert seen == forwards


def test_a_ranking_shares_noise_and_timestep_and_each_picture_is_drawn_once(ranking):
    batch = drawn(ranking())
    assert batch.places == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert torch.equal(batch.noise, batch.noise[:1].expand_as(batch.noise))
    assert batch.timestep.tolist() == [400] * 6
    assert torch.equal(batch.chosen[0], batch.chosen[1])
    assert torch.equal(batch.rejected[0], batch.chosen[3])


def test_rankings_side_by_side_keep_their_pictures_apart(base, model, ranking):
    two = stack([drawn(ranking()), drawn(ranking(TIED, "s", 1), 700, "y")])
    assert len(two) == 11
    one_by_one = [pair_errors(base, model[0], part, reference=False) for part in two.parts(2)]
    assert [len(one.chosen) for one in one_by_one] == [6, 5]
    at_once = pair_errors(base, model[0], two, reference=True)
    expanded = pair_errors(base, model[0], replace(two, places=None), reference=True)
    for side in ("chosen", "rejected", "reference_chosen", "reference_rejected"):
        assert torch.allclose(getattr(at_once, side), getattr(expanded, side), rtol=1e-4)
    assert torch.allclose(torch.cat([one.rejected for one in one_by_one]), at_once.rejected, rtol=1e-4)


def test_a_part_holds_whole_rankings():
    places = ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (6, 7), (6, 8), (7, 8))
    assert cuts(places, 6) == [slice(0, 6), slice(6, 9)]
    assert cuts(places, 2) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert cuts(places, 100) == [slice(0, 9)]


def test_pictures_that_are_shown_differently_stay_in_pairs(ranking, encoded):
    pairs = ranking()
    assert together(pairs) == [(0, 1, 2, 3, 4, 5)]
    wide = next(one for one in encoded.pairs if one.bucket != pairs[0].bucket)
    moved = replace(pairs[5], bucket=wide.bucket)
    assert together([*pairs[:5], moved]) == [(0, 1, 2, 3, 4), (5,)]
    assert together([replace(pairs[0], rejected_text=pairs[0].text), *pairs[1:]]) == [(0,), (1, 2, 3, 4, 5)]
    assert together([pairs[0], *ranking(name="s")[3:]]) == [(0,), (1, 2, 3)]
    assert together(encoded.pairs) == [(position,) for position in range(len(encoded.pairs))]


def batches_of(pairs, encoded, **changes):
    settings = {"batch_size": 4, "timesteps": 1000, "seed": 3, "flip": True} | changes
    return PairBatches(pairs, load_text(encoded.text("")), BatchSettings(**settings))


def test_an_epoch_has_every_pair_once_whatever_is_ranked(encoded, ranking):
    pairs = [*encoded.pairs, *ranking(), *ranking(TIED, "s", 2), *ranking(((0,), (1,), (2,)), "t")]
    for size in (1, 2, 4, 7):
        batches, fresh = batches_of(pairs, encoded, batch_size=size), batches_of(pairs, encoded, batch_size=size)
        for epoch in (0, 1, 2):
            groups = batches.epoch(epoch)
            assert sorted(itertools.chain(*groups)) == list(range(len(pairs)))
            assert len(groups) == batches.per_epoch
            for group in groups:
                pictures = len(distinct([pairs[position] for position in group]))
                ranked = {pairs[position].pair.ranking for position in group}
                assert len({pairs[position].bucket for position in group}) == 1
                assert pictures <= 2 * size or len(ranked) == 1
        for number in reversed(range(2 * fresh.per_epoch)):
            one, again = fresh[number], batches[number]
            assert torch.equal(one.noise, again.noise)
            assert torch.equal(one.rejected, again.rejected)
            assert batches.pairs_in(number) == len(one)


def test_pairs_that_nobody_ranked_are_drawn_as_ever(encoded):
    with_rankings, without = batches_of(encoded.pairs, encoded), batches_of(encoded.pairs, encoded, rankings=False)
    for number in range(with_rankings.per_epoch):
        assert torch.equal(with_rankings[number].noise, without[number].noise)
        assert with_rankings[number].places is None


def test_rankings_can_be_taken_as_pairs(encoded, ranking):
    batches = batches_of(ranking(), encoded, rankings=False)
    assert [len(batches[number]) for number in range(batches.per_epoch)].count(4) == 1
    assert all(batches[number].places is None for number in range(batches.per_epoch))


@pytest.mark.parametrize("training", [{"batch_size": 1}, {"batch_size": 2}, {"batch_size": 2, "split_pair": True}])
def test_a_ranking_needs_no_more_memory_than_the_pairs_that_a_batch_has(settings, base, encoded, ranking, training):
    """What is planned is planned for the pairs."""
    learner = Learner(settings(training=training), base, CPU)
    size = training["batch_size"]
    square = [one for one in encoded.pairs if one.bucket == encoded.pairs[0].bucket and one.pair.ranking is None]
    pairs = batches_of(square, encoded, batch_size=size)
    ranked = batches_of(ranking(), encoded, batch_size=size)
    assert len(pairs[0]) == size
    assert len(ranked[0]) == 6
    planned, _ = peak_of_step(learner, pairs[0], CPU)
    needed, _ = peak_of_step(learner, ranked[0], CPU)
    assert needed <= 1.03 * planned

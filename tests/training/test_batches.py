"""Batches: what pairs share, what is never dropped, and that everything is a function of (seed, position)."""

import itertools
from dataclasses import replace

import pytest
import torch
from mapo_studio.trainer.latents.encode import load_latent, load_text
from mapo_studio.trainer.training.batches import (
    BatchSettings,
    PairBatches,
    batches_by_step,
    distinct_images,
    draw,
    group_by_ranking,
    rebase_index,
    seeded,
    split_index,
    stack,
)
from torch.utils._python_dispatch import TorchDispatchMode

TIED = ((0,), (1, 2), (3,))


def batches_of(pairs, encoded, **changes):
    settings = {"batch_size": 2, "timesteps": 1000, "seed": 3} | changes
    return PairBatches(pairs, load_text(encoded.text("")), BatchSettings(**settings))


@pytest.fixture
def make(encoded):
    return lambda **changes: batches_of(encoded.pairs, encoded, **changes)


def same(a, b) -> bool:
    names = ("latents", "noise", "timestep", "framing")
    return all(torch.equal(getattr(a.images, name), getattr(b.images, name)) for name in names)


def of(batch, side, row=0):
    """The latents of one image of a pair."""
    return batch.images.latents[batch.pair_index[("chosen", "rejected").index(side), row]]


def test_an_epoch_shows_every_pair_once_in_batches_of_one_size(make, encoded):
    for size in (1, 2, 5, 100):
        batches = make(batch_size=size)
        for epoch in (0, 1):
            groups = batches.epoch(epoch)
            assert sorted(itertools.chain(*groups)) == list(range(len(encoded.pairs)))
            assert all(len({encoded.pairs[i].bucket for i in group}) == 1 for group in groups)
            assert len(groups) == batches.per_epoch


def test_epochs_have_different_orders_and_seeds_too(make):
    assert make().epoch(0) != make().epoch(1)
    assert make().epoch(0) != make(seed=4).epoch(0)


def test_a_batch_depends_on_nothing_but_its_number(make):
    forwards, fresh = make(), make()
    wanted = [forwards[i] for i in range(2 * forwards.per_epoch)]
    torch.manual_seed(99)
    for i in reversed(range(2 * fresh.per_epoch)):
        assert same(fresh[i], wanted[i])


def test_a_pair_meets_the_same_noise_whatever_the_batch_size(make):
    def by_pair(batches):
        seen = {}
        for i in range(batches.per_epoch):
            batch = batches[i]
            for row, pair in enumerate(batch.pairs):
                image = batch.pair_index[0, row]
                seen[pair.pair.id] = (batch.images.noise[image], of(batch, "chosen", row), batch.images.timestep[image])
        return seen

    one, many = by_pair(make(batch_size=1)), by_pair(make(batch_size=5))
    assert one.keys() == many.keys()
    assert all(torch.equal(a, b) for pair in one for a, b in zip(one[pair], many[pair], strict=True))


def test_latents_are_drawn_anew_around_the_cached_mean(make, encoded):
    batches = make(batch_size=1)
    draws = {}
    for i in range(2 * batches.per_epoch):
        batch = batches[i]
        draws.setdefault(batch.pairs[0].pair.id, []).append(batch)
    first, second = next(iter(draws.values()))
    assert not torch.equal(of(first, "chosen"), of(second, "chosen"))
    assert not torch.equal(first.images.noise, second.images.noise)
    mean, deviation = load_latent(first.pairs[0].chosen)
    assert ((of(first, "chosen") - mean).abs() <= 6 * deviation).all()


def test_flip_turns_both_pictures_of_a_pair_or_neither(make, encoded):
    batches = make(batch_size=1, flip=True)
    as_encoded = {pair.pair.id: pair for pair in encoded.pairs}
    turned = []
    for i in range(4 * batches.per_epoch):
        batch = batches[i]
        sides = []
        for side in ("chosen", "rejected"):
            distance = {}
            for name in (side, f"{side}_flipped"):
                mean, deviation = load_latent(getattr(as_encoded[batch.pairs[0].pair.id], name))
                distance[name] = ((of(batch, side) - mean) / deviation.clamp(min=1e-6)).square().mean().item()
            sides.append(min(distance, key=distance.get).endswith("flipped"))
        assert sides[0] == sides[1]
        turned.append(sides[0])
    assert 0.2 < sum(turned) / len(turned) < 0.8


def test_a_dropped_caption_is_dropped_for_the_pair_and_at_the_asked_rate(make, encoded):
    empty = load_text(encoded.text(""))
    batches = make(batch_size=1, caption_dropout=0.4)
    dropped = [
        all(torch.equal(batch.images.text[name][row], empty[name]) for name in empty for row in (0, 1))
        for batch in (batches[i] for i in range(10 * batches.per_epoch))
    ]
    assert 0.25 < sum(dropped) / len(dropped) < 0.55


def test_steps_take_consecutive_batches_from_where_they_start(make):
    batches = make()
    steps = list(batches_by_step(batches, 3, 2, 5, torch.device("cpu")))
    assert len(steps) == 3
    flat = list(itertools.chain(*steps))
    assert all(same(batch, batches[6 + i]) for i, batch in enumerate(flat))


@pytest.mark.parametrize(("accumulation", "size"), [(1, 2), (2, 3)])
def test_the_processes_together_take_what_one_would(make, accumulation, size):
    """Batches of one process and twice the accumulation, each once, and their weights in every step add up to one."""
    cpu, batches = torch.device("cpu"), make()
    whole = list(batches_by_step(batches, accumulation * size, 1, 4, cpu))
    parts = [list(batches_by_step(make(), accumulation, 1, 4, cpu, rank=rank, size=size)) for rank in range(size)]
    for number, step in enumerate(whole):
        taken = [batch for part in parts for batch in part[number]]
        assert sorted(batch.index for batch in taken) == [batch.index for batch in step]
        assert sum(batch.loss_weight for batch in taken) == pytest.approx(1)
        assert all(batch.loss_weight == len(batch) / sum(map(len, step)) for batch in taken)


def test_steps_go_on_from_whatever_batch_the_last_ones_ended_with(make):
    steps = list(batches_by_step(make(), 2, 3, 5, torch.device("cpu"), first=7, rank=1, size=2))
    assert [[batch.index for batch in step] for step in steps] == [[8, 10], [12, 14]]


def test_no_steps_left_yields_nothing(make):
    assert list(batches_by_step(make(), 2, 5, 5, torch.device("cpu"))) == []


def test_an_error_while_reading_ahead_reaches_the_loop(make, encoded, monkeypatch):
    batches = make()
    monkeypatch.setattr(type(batches), "__getitem__", lambda self, i: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        list(batches_by_step(batches, 1, 0, 2, torch.device("cpu")))


def of_ranking(pairs, level=400, name="x"):
    return draw(pairs, level, seeded(name))


def test_a_batch_of_pairs_holds_all_chosen_images_and_then_all_rejected_ones(make):
    whole = make(batch_size=3)[0]
    assert whole.pair_index.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not whole.shares_images
    for row, part in enumerate(whole.parts(1)):
        assert part.pairs == whole.pairs[row : row + 1]
        assert torch.equal(part.images.latents, whole.images.latents[[row, row + 3]])
        assert part.pair_index.tolist() == [[0], [1]]


class Operations(TorchDispatchMode):
    """The names of torch's operations while it is entered."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_drawing_uses_no_operation_that_starts_threads_of_its_own(make):
    """They would be a second team of OpenMP's beside the training's, and slow down each of its operations."""
    with Operations() as seen:
        make()[0]
    assert "stack" in seen.names
    assert seen.names & {"index", "index_select", "gather", "take"} == set()


def test_a_ranking_shares_noise_and_timestep_and_holds_each_image_once(ranking):
    batch = of_ranking(ranking())
    assert batch.pair_index.T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert torch.equal(batch.images.noise, batch.images.noise[:1].expand(4, -1, -1, -1))
    assert batch.images.timestep.tolist() == [400] * 4
    pairs = batch.expanded()
    assert pairs.pair_index.tolist() == [list(range(6)), list(range(6, 12))]
    assert torch.equal(pairs.images.latents[[0, 6]], batch.images.latents[[0, 1]])


def test_a_ranking_of_two_goes_into_one_batch_with_pairs_of_its_size(encoded, ranking):
    """Judged twice, with different answers: two images in two pairs."""
    a, b = ranking(((0,), (1,)))[0], ranking(((1,), (0,)))[0]
    square = [one for one in encoded.pairs if one.bucket == a.bucket][2:4]
    batch = batches_of([a, b, *square], encoded, batch_size=3)[0]
    assert len(batch) == 4
    assert len(batch.images) == 6
    for side, rows in zip(("chosen", "rejected"), batch.pair_index, strict=True):
        for pair, row in zip(batch.pairs, rows, strict=True):
            mean, deviation = load_latent(getattr(pair, side))
            assert ((batch.images.latents[row] - mean).abs() <= 6 * deviation).all()


def test_images_of_a_single_pair_are_two_draws_also_where_they_are_one_file(encoded):
    pair = replace(encoded.pairs[0], rejected=encoded.pairs[0].chosen)
    batch = draw([pair], 400, seeded("x"))
    assert len(batch.images) == 2
    assert not torch.equal(*batch.images.latents)


def test_a_part_holds_whole_rankings():
    index = torch.tensor([(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (6, 7), (6, 8), (7, 8)]).T
    assert split_index(index, 6) == [slice(0, 6), slice(6, 9)]
    assert split_index(index, 2) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert split_index(index, 100) == [slice(0, 9)]
    assert [one.tolist() for one in rebase_index(index[:, 3:5])] == [[3, 4, 5], [[0, 0], [1, 2]]]


def test_images_that_are_shown_differently_stay_in_pairs(ranking, encoded):
    pairs = ranking()
    assert group_by_ranking(pairs) == [(0, 1, 2, 3, 4, 5)]
    wide = next(one for one in encoded.pairs if one.bucket != pairs[0].bucket)
    moved = replace(pairs[5], bucket=wide.bucket)
    assert group_by_ranking([*pairs[:5], moved]) == [(0, 1, 2, 3, 4), (5,)]
    own = replace(pairs[0], rejected_text=pairs[0].text)
    assert group_by_ranking([own, *pairs[1:]]) == [(0,), (1, 2, 3, 4, 5)]
    assert group_by_ranking([pairs[0], *ranking(name="s")[3:]]) == [(0,), (1, 2, 3)]
    assert group_by_ranking(encoded.pairs) == [(position,) for position in range(len(encoded.pairs))]


@pytest.mark.slow
def test_an_epoch_has_every_pair_once_whatever_is_ranked(encoded, ranking):
    pairs = [*encoded.pairs, *ranking(), *ranking(TIED, "s", 2), *ranking(((0,), (1,), (2,)), "t")]
    for size in (1, 2, 4, 7):
        batches, fresh = (batches_of(pairs, encoded, batch_size=size, flip=True) for _ in range(2))
        for epoch in (0, 1, 2):
            groups = batches.epoch(epoch)
            assert sorted(itertools.chain(*groups)) == list(range(len(pairs)))
            assert len(groups) == batches.per_epoch
            for group in groups:
                images = len(distinct_images([pairs[position] for position in group]))
                ranked = {pairs[position].pair.ranking for position in group}
                assert len({pairs[position].bucket for position in group}) == 1
                assert images <= 2 * size or len(ranked) == 1
        for number in reversed(range(2 * fresh.per_epoch)):
            one, again = fresh[number], batches[number]
            assert same(one, again)
            assert torch.equal(one.pair_index, again.pair_index)
            assert batches.pairs_in(number) == len(one)


def test_pairs_that_nobody_ranked_are_drawn_as_ever(encoded):
    with_rankings, without = batches_of(encoded.pairs, encoded), batches_of(encoded.pairs, encoded, rankings=False)
    for number in range(with_rankings.per_epoch):
        assert same(with_rankings[number], without[number])
        assert not with_rankings[number].shares_images


def test_rankings_can_be_taken_as_pairs(encoded, ranking):
    batches = batches_of(ranking(), encoded, batch_size=4, rankings=False)
    assert [len(batches[number]) for number in range(batches.per_epoch)].count(4) == 1
    assert not any(batches[number].shares_images for number in range(batches.per_epoch))


def test_rankings_side_by_side_keep_their_images_apart(ranking):
    two = stack([of_ranking(ranking()), of_ranking(ranking(TIED, "s", 1), 700, "y")])
    assert len(two) == 11
    assert [len(part) for part in two.parts(2)] == [6, 5]
    assert torch.equal(torch.cat([part.images.latents for part in two.parts(2)]), two.images.latents)
    assert two.images.timestep.tolist() == [400] * 4 + [700] * 4


def test_draws_are_those_of_every_version(encoded, ranking):
    """A run that was stopped goes on with the noise and the timesteps that it would have had."""
    pairs, ranked = batches_of(encoded.pairs, encoded, flip=True)[3], batches_of(ranking(), encoded)[0]
    assert pairs.images.timestep.tolist() == [30, 832] * 2
    assert pairs.images.noise[:, 0, 0, 0].tolist() == pytest.approx([0.6641805, -0.8763481] * 2)
    assert ranked.images.timestep.tolist() == [298] * 4
    assert ranked.images.noise[:, 0, 0, 0].tolist() == pytest.approx([-0.8177069] * 4)

"""Batches: what a pair shares, what is never dropped, and that everything is a function of (seed, position)."""

import itertools

import pytest
import torch
from mapo_studio.trainer.latents.encode import load_latent, load_text
from mapo_studio.trainer.training.batches import BatchSettings, PairBatches, batches_by_step


@pytest.fixture
def make(encoded):
    empty = load_text(encoded.text(""))
    return lambda **changes: PairBatches(
        encoded.pairs, empty, BatchSettings(**{"batch_size": 2, "timesteps": 1000, "seed": 3} | changes)
    )


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("chosen", "rejected", "noise", "timestep"))


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
                seen[pair.pair.id] = (batch.noise[row], batch.chosen[row], batch.timestep[row])
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
    assert not torch.equal(first.chosen, second.chosen)
    assert not torch.equal(first.noise, second.noise)
    mean, deviation = load_latent(first.pairs[0].chosen)
    assert ((first.chosen[0] - mean).abs() <= 6 * deviation).all()


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
                distance[name] = ((getattr(batch, side)[0] - mean) / deviation.clamp(min=1e-6)).square().mean().item()
            sides.append(min(distance, key=distance.get).endswith("flipped"))
        assert sides[0] == sides[1]
        turned.append(sides[0])
    assert 0.2 < sum(turned) / len(turned) < 0.8


def test_a_dropped_caption_is_dropped_for_the_pair_and_at_the_asked_rate(make, encoded):
    empty = load_text(encoded.text(""))
    batches = make(batch_size=1, caption_dropout=0.4)
    dropped = [
        all(torch.equal(batch.text[name][0], empty[name]) for name in empty)
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
    """Batches of one process and twice the accumulation, each once, and their shares of every step add up to one."""
    cpu, batches = torch.device("cpu"), make()
    whole = list(batches_by_step(batches, accumulation * size, 1, 4, cpu))
    parts = [list(batches_by_step(make(), accumulation, 1, 4, cpu, rank=rank, size=size)) for rank in range(size)]
    for number, step in enumerate(whole):
        taken = [batch for part in parts for batch in part[number]]
        assert sorted(batch.number for batch in taken) == [batch.number for batch in step]
        assert sum(batch.share for batch in taken) == pytest.approx(1)
        assert all(batch.share == len(batch) / sum(map(len, step)) for batch in taken)


def test_steps_go_on_from_whatever_batch_the_last_ones_ended_with(make):
    steps = list(batches_by_step(make(), 2, 3, 5, torch.device("cpu"), first=7, rank=1, size=2))
    assert [[batch.number for batch in step] for step in steps] == [[8, 10], [12, 14]]


def test_no_steps_left_yields_nothing(make):
    assert list(batches_by_step(make(), 2, 5, 5, torch.device("cpu"))) == []


def test_an_error_while_reading_ahead_reaches_the_loop(make, encoded, monkeypatch):
    batches = make()
    monkeypatch.setattr(type(batches), "__getitem__", lambda self, i: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        list(batches_by_step(batches, 1, 0, 2, torch.device("cpu")))

"""Which pairs make up each batch, and every random draw that goes with them.

Both are pure functions of (seed, position): the order of an epoch of (seed, epoch), the noise of a pair of (seed,
epoch, pair). So a resumed run goes on in the middle of an epoch with the very batches it would have had, and a pair
meets the same noise whatever batch size or number of processes it is trained with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..device import abilities
from ..latents.encode import EncodedPair, load_latent, load_text
from .ranked import Places, beside, cuts, distinct, renumbered, together


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one size, with what both pictures of a pair share; P pairs.

    chosen, rejected: (P, c, h, w) freshly drawn latents; noise: (P, c, h, w); timestep: (P,) int64;
    text: tensors with first axis P; framing: (P, 6), see SizeConditioning.as_list; preference, weight: (P,). float32.
    number: of the batch in its training; what is random in computing on it follows from that. share: its pairs as a
    part of all pairs of its step; None where nobody said. rejected_text: as text, of the rejected pictures; None where
    both pictures of every pair have the same caption. places: which picture is in which pairs, see ranked.py; None
    where each is in one. Pairs that share a picture share noise, timestep, text and framing too.
    """

    pairs: tuple[EncodedPair, ...]
    chosen: Tensor
    rejected: Tensor
    noise: Tensor
    timestep: Tensor
    text: dict[str, Tensor]
    framing: Tensor
    preference: Tensor
    weight: Tensor
    number: int = 0
    share: float | None = None
    rejected_text: dict[str, Tensor] | None = None
    places: Places | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def parts(self, most: int | None) -> list[PairBatch]:
        """The same pairs in batches of at most `most`, or of as many pictures as those have; None: of any size.

        Pairs that share pictures stay together, however many they are.
        """
        most = most or len(self)
        if self.places is not None:
            return [self._rows(rows) for rows in cuts(self.places, 2 * most)]
        return [self._rows(slice(start, start + most)) for start in range(0, len(self), most)]

    def pinned(self) -> PairBatch:
        """In page-locked memory, from where copies to a GPU do not wait."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> PairBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _rows(self, rows: slice) -> PairBatch:
        pairs = self.pairs[rows]
        share = None if self.share is None else self.share * len(pairs) / len(self)
        places = None if self.places is None else renumbered(self.places[rows])
        return replace(self._map(lambda tensor: tensor[rows]), pairs=pairs, share=share, places=places)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        moved = {f.name: change(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        own = None if self.rejected_text is None else _changed(self.rejected_text, change)
        return replace(self, text=_changed(self.text, change), rejected_text=own, **moved)


@dataclass(frozen=True)
class BatchSettings:
    """batch_size: pairs in a batch at most; timesteps: those that are drawn from; flip: mirror half of the pairs (both
    pictures or neither); caption_dropout: share of pairs shown under the empty prompt. rankings: whether pictures that
    were ranked together are drawn together, once each; a batch then has as many pictures as `batch_size` pairs have,
    or those of one ranking where they are more."""

    batch_size: int
    timesteps: int | Sequence[int]
    seed: int
    flip: bool = False
    caption_dropout: float = 0.0
    rankings: bool = True

    @property
    def levels(self) -> Sequence[int]:
        """The timesteps; a number stands for all below it."""
        return range(self.timesteps) if isinstance(self.timesteps, int) else self.timesteps


class PairBatches:
    """The endless sequence of batches of a training: `batches[i]` is batch number i, from 0.

    An epoch shows every pair once, in batches of one bucket each; a bucket's last batch may be smaller. Nothing is
    dropped and nothing is shown twice to fill up. Rankings of as many pictures make up batches of their own.
    """

    def __init__(self, pairs: Sequence[EncodedPair], empty_text: dict[str, Tensor], settings: BatchSettings):
        self.pairs = pairs
        self.settings = settings
        self._empty_text = empty_text
        self._units = together(pairs) if settings.rankings else [(position,) for position in range(len(pairs))]
        self._kept: tuple[int, list[list[tuple[int, ...]]]] = (0, self._epoch(0))

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the same in every one."""
        return len(self._kept[1])

    def epoch(self, number: int) -> list[list[int]]:
        """Positions in `pairs` of every batch of an epoch, in the order of training."""
        return [[position for unit in batch for position in unit] for batch in self._epoch(number)]

    def _epoch(self, number: int) -> list[list[tuple[int, ...]]]:
        shuffle = random.Random(f"{self.settings.seed}/{number}").shuffle
        # By the number of pictures too: so every epoch has as many batches, whatever its order.
        buckets: dict[tuple[tuple[int, int], int], list[tuple[int, ...]]] = {}
        for unit in self._units:
            pictures = len(distinct([self.pairs[position] for position in unit])) if len(unit) > 1 else 2
            buckets.setdefault((self.pairs[unit[0]].bucket, pictures), []).append(unit)
        batches = []
        for bucket, pictures in sorted(buckets):
            inside = buckets[bucket, pictures]
            shuffle(inside)
            size = max(1, 2 * self.settings.batch_size // pictures)
            batches += [inside[i : i + size] for i in range(0, len(inside), size)]
        shuffle(batches)
        return batches

    def __getitem__(self, index: int) -> PairBatch:
        epoch, units = self._at(index)
        return replace(stack([self._draw(unit, epoch) for unit in units]), number=index)

    def pairs_in(self, index: int) -> int:
        """How many pairs batch number `index` has; reads none of them."""
        return sum(map(len, self._at(index)[1]))

    def _at(self, index: int) -> tuple[int, list[tuple[int, ...]]]:
        number, place = divmod(index, self.per_epoch)
        if self._kept[0] != number:
            self._kept = (number, self._epoch(number))
        return number, self._kept[1][place]

    def _draw(self, unit: tuple[int, ...], epoch: int) -> PairBatch:
        settings, pairs = self.settings, [self.pairs[position] for position in unit]
        rng = seeded(settings.seed, "pair", epoch, unit[0])
        drawn = int(torch.randint(len(settings.levels), (1,), generator=rng))
        timestep = torch.tensor([settings.levels[drawn]])
        flipped, captionless = torch.rand(2, generator=rng) < torch.tensor([0.5, settings.caption_dropout])
        if settings.flip and flipped:
            pairs = [replace(one, chosen=one.chosen_flipped, rejected=one.rejected_flipped) for one in pairs]
        text = self._empty_text if captionless else None
        return draw_pair(pairs[0], timestep, rng, text) if len(unit) == 1 else draw_ranked(pairs, timestep, rng, text)


def draw_pair(
    encoded: EncodedPair, timestep: Tensor, rng: torch.Generator, text: dict[str, Tensor] | None = None
) -> PairBatch:
    """A batch of one: latents sampled from their cached mean and deviation, and one noise for both pictures.

    timestep: (1,); text: in place of the pair's own, and of its rejected picture's (caption dropout).
    """
    chosen, rejected = (_drawn(entry, rng) for entry in (encoded.chosen, encoded.rejected))
    own = encoded.rejected_text if text is None else None
    return PairBatch(
        pairs=(encoded,),
        chosen=chosen,
        rejected=rejected,
        noise=torch.randn(chosen.shape, generator=rng),
        timestep=timestep,
        text=_changed(load_text(encoded.text) if text is None else text, _alone),
        framing=torch.tensor([encoded.framing.as_list()], dtype=torch.float32),
        preference=torch.tensor([encoded.pair.preference], dtype=torch.float32),
        weight=torch.tensor([encoded.pair.weight], dtype=torch.float32),
        rejected_text=None if own is None else _changed(load_text(own), _alone),
    )


def draw_ranked(
    pairs: Sequence[EncodedPair], timestep: Tensor, rng: torch.Generator, text: dict[str, Tensor] | None = None
) -> PairBatch:
    """The pairs of one ranking: each of its pictures sampled once, and one noise and one timestep for all of them.

    pairs: as `ranked.together` puts them together; timestep: (1,); text: see `draw_pair`.
    """
    entries = distinct(pairs)
    latents = torch.cat([_drawn(entry, rng) for entry in entries])
    places = tuple((entries.index(one.chosen), entries.index(one.rejected)) for one in pairs)
    count = len(pairs)

    def of_all(tensor: Tensor) -> Tensor:
        return tensor.expand(count, *tensor.shape[1:])

    text = load_text(pairs[0].text) if text is None else text
    return PairBatch(
        pairs=tuple(pairs),
        chosen=latents[[chosen for chosen, _ in places]],
        rejected=latents[[rejected for _, rejected in places]],
        noise=of_all(torch.randn((1, *latents.shape[1:]), generator=rng)),
        timestep=timestep.expand(count),
        text=_changed(text, lambda tensor: of_all(tensor.unsqueeze(0))),
        framing=of_all(torch.tensor([pairs[0].framing.as_list()], dtype=torch.float32)),
        preference=torch.tensor([one.pair.preference for one in pairs], dtype=torch.float32),
        weight=torch.tensor([one.pair.weight for one in pairs], dtype=torch.float32),
        places=places,
    )


def _drawn(entry: Path, rng: torch.Generator) -> Tensor:
    mean, deviation = load_latent(entry)
    return (mean + deviation * torch.randn(mean.shape, generator=rng)).unsqueeze(0)


def _alone(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0)


def _changed(text: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: change(tensor) for name, tensor in text.items()}


def stack(rows: Sequence[PairBatch]) -> PairBatch:
    """One batch of several of the same size; either all of them are rankings, or none is."""
    tensors = {
        f.name: torch.cat([getattr(row, f.name) for row in rows])
        for f in fields(PairBatch)
        if isinstance(getattr(rows[0], f.name), Tensor)
    }

    def side_by_side(texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([text[name] for text in texts]) for name in texts[0]}

    own = any(row.rejected_text is not None for row in rows)
    return PairBatch(
        pairs=tuple(pair for row in rows for pair in row.pairs),
        text=side_by_side([row.text for row in rows]),
        rejected_text=side_by_side([row.rejected_text or row.text for row in rows]) if own else None,
        places=beside([row.places for row in rows]),
        **tensors,
    )


def batches_by_step(
    batches: PairBatches,
    accumulation: int,
    start: int,
    stop: int,
    device: torch.device,
    *,
    first: int | None = None,
    rank: int = 0,
    size: int = 1,
) -> Iterator[list[PairBatch]]:
    """Yield, for each optimizer step in [start, stop), the `accumulation` batches that process `rank` of `size` takes.

    Each step takes the next `accumulation * size` batches, from number `first` on (by default, what steps of this many
    batches leave off at); the processes take them in turn. They are on `device`, with their share of the step. The next
    step's batches are read and drawn in a thread while the current ones are computed on.
    """
    a_step = accumulation * size
    first = start * a_step if first is None else first

    pinned = abilities(device).pinned

    def prepare(step: int) -> list[PairBatch]:
        whole = range(first + (step - start) * a_step, first + (step - start + 1) * a_step)
        pairs = sum(map(batches.pairs_in, whole))
        drawn = [replace(batch, share=len(batch) / pairs) for batch in (batches[i] for i in whole[rank::size])]
        return [batch.pinned() for batch in drawn] if pinned else drawn

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ahead: Future[list[PairBatch]] = thread.submit(prepare, start)
        for step in range(start, stop):
            ready = ahead.result()
            if step + 1 < stop:
                ahead = thread.submit(prepare, step + 1)
            yield [batch.to(device) for batch in ready]


def seeded(*parts: object) -> torch.Generator:
    """A CPU generator that is a function of `parts` alone."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

"""Which pairs make up each batch, and every random draw that goes with them.

Both are pure functions of (seed, position): the order of an epoch of (seed, epoch), the noise of a pair of (seed,
epoch, pair). So a resumed run goes on in the middle of an epoch with the very batches it would have had, and a pair
meets the same noise whatever batch size or number of processes it is trained with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .device import abilities
from .encode import EncodedPair, load_latent, load_text


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one size, with what both pictures of a pair share; P pairs.

    chosen, rejected: (P, c, h, w) freshly drawn latents; noise: (P, c, h, w); timestep: (P,) int64;
    text: tensors with first axis P; framing: (P, 6), see Framing.as_list; preference, weight: (P,). float32.
    number: of the batch in its training; what is random in computing on it follows from that. share: its pairs as a
    part of all pairs of its step; None where nobody said.
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

    def __len__(self) -> int:
        return len(self.pairs)

    def parts(self, most: int | None) -> list[PairBatch]:
        """The same pairs in batches of at most `most`; None: of any size."""
        most = most or len(self)
        return [self._rows(slice(start, start + most)) for start in range(0, len(self), most)]

    def pinned(self) -> PairBatch:
        """In page-locked memory, from where copies to a GPU do not wait."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> PairBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _rows(self, rows: slice) -> PairBatch:
        pairs = self.pairs[rows]
        share = None if self.share is None else self.share * len(pairs) / len(self)
        return replace(self._map(lambda tensor: tensor[rows]), pairs=pairs, share=share)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        moved = {f.name: change(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, text={name: change(tensor) for name, tensor in self.text.items()}, **moved)


@dataclass(frozen=True)
class BatchSettings:
    """batch_size: pairs in a batch at most; timesteps: how many noise levels there are; flip: mirror half of the pairs
    (both pictures or neither); caption_dropout: share of pairs shown under the empty prompt."""

    batch_size: int
    timesteps: int
    seed: int
    flip: bool = False
    caption_dropout: float = 0.0


class PairBatches:
    """The endless sequence of batches of a training: `batches[i]` is batch number i, from 0.

    An epoch shows every pair once, in batches of one bucket each; a bucket's last batch may be smaller. Nothing is
    dropped and nothing is shown twice to fill up.
    """

    def __init__(self, pairs: Sequence[EncodedPair], empty_text: dict[str, Tensor], settings: BatchSettings):
        self.pairs = pairs
        self.settings = settings
        self._empty_text = empty_text
        self._kept: tuple[int, list[list[int]]] = (0, self.epoch(0))

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the same in every one."""
        return len(self._kept[1])

    def epoch(self, number: int) -> list[list[int]]:
        """Positions in `pairs` of every batch of an epoch, in the order of training."""
        shuffle = random.Random(f"{self.settings.seed}/{number}").shuffle
        buckets: dict[tuple[int, int], list[int]] = {}
        for position, encoded in enumerate(self.pairs):
            buckets.setdefault(encoded.bucket, []).append(position)
        batches = []
        for bucket in sorted(buckets):
            inside = buckets[bucket]
            shuffle(inside)
            size = self.settings.batch_size
            batches += [inside[i : i + size] for i in range(0, len(inside), size)]
        shuffle(batches)
        return batches

    def __getitem__(self, index: int) -> PairBatch:
        epoch, positions = self._at(index)
        return replace(stack([self._draw(position, epoch) for position in positions]), number=index)

    def pairs_in(self, index: int) -> int:
        """How many pairs batch number `index` has; reads none of them."""
        return len(self._at(index)[1])

    def _at(self, index: int) -> tuple[int, list[int]]:
        number, place = divmod(index, self.per_epoch)
        if self._kept[0] != number:
            self._kept = (number, self.epoch(number))
        return number, self._kept[1][place]

    def _draw(self, position: int, epoch: int) -> PairBatch:
        settings, encoded = self.settings, self.pairs[position]
        rng = seeded(settings.seed, "pair", epoch, position)
        timestep = torch.randint(settings.timesteps, (1,), generator=rng)
        flipped, captionless = torch.rand(2, generator=rng) < torch.tensor([0.5, settings.caption_dropout])
        if settings.flip and flipped:
            encoded = replace(encoded, chosen=encoded.chosen_flipped, rejected=encoded.rejected_flipped)
        return draw_pair(encoded, timestep, rng, self._empty_text if captionless else None)


def draw_pair(
    encoded: EncodedPair, timestep: Tensor, rng: torch.Generator, text: dict[str, Tensor] | None = None
) -> PairBatch:
    """A batch of one: latents sampled from their cached mean and deviation, and one noise for both pictures.

    timestep: (1,); text: in place of the pair's own (caption dropout).
    """
    pictures = []
    for entry in (encoded.chosen, encoded.rejected):
        mean, deviation = load_latent(entry)
        pictures.append((mean + deviation * torch.randn(mean.shape, generator=rng)).unsqueeze(0))
    text = load_text(encoded.text) if text is None else text
    return PairBatch(
        pairs=(encoded,),
        chosen=pictures[0],
        rejected=pictures[1],
        noise=torch.randn(pictures[0].shape, generator=rng),
        timestep=timestep,
        text={name: tensor.unsqueeze(0) for name, tensor in text.items()},
        framing=torch.tensor([encoded.framing.as_list()], dtype=torch.float32),
        preference=torch.tensor([encoded.pair.preference], dtype=torch.float32),
        weight=torch.tensor([encoded.pair.weight], dtype=torch.float32),
    )


def stack(rows: Sequence[PairBatch]) -> PairBatch:
    """One batch of several of the same size."""
    tensors = {
        f.name: torch.cat([getattr(row, f.name) for row in rows])
        for f in fields(PairBatch)
        if isinstance(getattr(rows[0], f.name), Tensor)
    }
    text = {name: torch.cat([row.text[name] for row in rows]) for name in rows[0].text}
    return PairBatch(pairs=tuple(pair for row in rows for pair in row.pairs), text=text, **tensors)


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

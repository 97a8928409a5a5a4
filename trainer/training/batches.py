"""Pair batches: which pairs make up each batch, how they share images, and every random draw that goes with them.

A batch holds each of its images once; `pair_index` says which two of them are a pair. An image that was ranked is in
several pairs: of k ranked images any two are one, and under one noise and one timestep an image's error is the same in
all of its pairs. So k forwards tell as much as the k (k - 1) that the pairs take one by one.

Order and draws are pure functions of (seed, position): the order of an epoch of (seed, epoch), the noise of a pair of
(seed, epoch, pair). So a resumed run goes on in the middle of an epoch with the very batches it would have had, and a
pair meets the same noise whatever batch size or number of processes it is trained with.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..device import capabilities
from ..latents.encode import EncodedPair, load_latent, load_text


@dataclass(frozen=True)
class ImageBatch:
    """n images, each with what the base needs to predict on it.

    latents, noise: (n, c, h, w) float32; timestep: (n,) int64; text: tensors with first axis n; framing: (n, 6), see
    SizeConditioning.as_list.
    """

    latents: Tensor
    noise: Tensor
    timestep: Tensor
    text: dict[str, Tensor]
    framing: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def split(self, parts: int) -> list[ImageBatch]:
        """In `parts` of nearly equal size, in order."""
        bounds = [len(self) * part // parts for part in range(parts + 1)]
        return [self.take(slice(begin, end)) for begin, end in itertools.pairwise(bounds)]

    def take(self, rows: slice | Tensor) -> ImageBatch:
        """Some of them; rows: a slice, or a tensor of indices on any device."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.latents.device, non_blocking=True)
        return self._map(lambda tensor: tensor[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        return ImageBatch(
            change(self.latents),
            change(self.noise),
            change(self.timestep),
            {name: change(tensor) for name, tensor in self.text.items()},
            change(self.framing),
        )

    @staticmethod
    def cat(batches: Sequence[ImageBatch]) -> ImageBatch:
        return ImageBatch(
            torch.cat([one.latents for one in batches]),
            torch.cat([one.noise for one in batches]),
            torch.cat([one.timestep for one in batches]),
            {name: torch.cat([one.text[name] for one in batches]) for name in batches[0].text},
            torch.cat([one.framing for one in batches]),
        )


@dataclass(frozen=True)
class PairBatch:
    """P pairs of n images of one size, each image once.

    pairs: P. pair_index: (2, P) int64, which of the images the chosen and the rejected one of each pair are; it stays
    on the CPU, where it is known without waiting for a device. Where no image is in two pairs, all chosen ones come
    first and the rejected ones after them, in the order of the pairs. The two images of a pair share noise, timestep
    and framing, and the text where the rejected one has no caption of its own.
    preference, weight: (P,) float32, see PairErrors.
    index: of the batch in its training; what is random in computing on it follows from that. loss_weight: its pairs as
    a part of all pairs of its step; None where it is the only one or nobody said.
    """

    pairs: tuple[EncodedPair, ...]
    images: ImageBatch
    pair_index: Tensor
    preference: Tensor
    weight: Tensor
    index: int = 0
    loss_weight: float | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def shares_images(self) -> bool:
        """Whether an image is in more than one pair."""
        return len(self.images) < 2 * len(self)

    def parts(self, max_pairs: int | None) -> list[PairBatch]:
        """The same pairs in batches of at most `max_pairs`, or of as many images as those have; None: of any size.

        Pairs that share images stay together, however many they are.
        """
        return [self._rows(rows) for rows in split_index(self.pair_index, 2 * (max_pairs or len(self)))]

    def expanded(self) -> PairBatch:
        """The same pairs without shared images: one that is in several pairs is there once for each of them."""
        # Row by row: an indexed copy runs on several threads, and these are drawn in a thread beside the training. With
        # the threads of two OpenMP teams alive, GNU's OpenMP lets all of them sleep after each operation: that took
        # 1.8 times as long for each step of a small model on a CPU.
        rows = self.pair_index.flatten().tolist()
        images = self.images._map(lambda tensor: torch.stack([tensor[row] for row in rows]))
        return replace(self, images=images, pair_index=separate_index(len(self)))

    def pinned(self) -> PairBatch:
        """In page-locked memory, from where copies to a GPU do not wait."""
        return replace(self._map(Tensor.pin_memory), pair_index=self.pair_index.pin_memory())

    def to(self, device: torch.device) -> PairBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _rows(self, rows: slice) -> PairBatch:
        pairs = self.pairs[rows]
        images, pair_index = rebase_index(self.pair_index[:, rows])
        return PairBatch(
            pairs,
            self.images if len(images) == len(self.images) else self.images.take(images),
            pair_index,
            self.preference[rows],
            self.weight[rows],
            self.index,
            None if self.loss_weight is None else self.loss_weight * len(pairs) / len(self),
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        images = self.images._map(change)
        return replace(self, images=images, preference=change(self.preference), weight=change(self.weight))


@dataclass(frozen=True)
class BatchSettings:
    """batch_size: pairs in a batch at most; timesteps: those that are drawn from; flip: mirror half of the pairs (both
    images or neither); caption_dropout: share of pairs shown under the empty prompt. rankings: whether images that
    were ranked together are drawn together, once each; a batch then has as many images as `batch_size` pairs have,
    and more only where one ranking alone has more."""

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
    dropped and nothing is shown twice to fill up. Rankings of as many images make up batches of their own.
    """

    def __init__(self, pairs: Sequence[EncodedPair], empty_text: dict[str, Tensor], settings: BatchSettings):
        self.pairs = pairs
        self.settings = settings
        self._empty_text = empty_text
        self._units = group_by_ranking(pairs) if settings.rankings else [(row,) for row in range(len(pairs))]
        self._current: tuple[int, list[list[tuple[int, ...]]]] = (0, self._epoch(0))

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the same in every one."""
        return len(self._current[1])

    def epoch(self, number: int) -> list[list[int]]:
        """Positions in `pairs` of every batch of an epoch, in the order of training."""
        return [[position for unit in batch for position in unit] for batch in self._epoch(number)]

    def _epoch(self, number: int) -> list[list[tuple[int, ...]]]:
        shuffle = random.Random(f"{self.settings.seed}/{number}").shuffle
        # By the number of images too: so every epoch has as many batches, whatever its order.
        buckets: dict[tuple[tuple[int, int], int], list[tuple[int, ...]]] = {}
        for unit in self._units:
            images = len(distinct_images([self.pairs[position] for position in unit]))
            buckets.setdefault((self.pairs[unit[0]].bucket, images), []).append(unit)
        batches = []
        for bucket, images in sorted(buckets):
            inside = buckets[bucket, images]
            shuffle(inside)
            size = max(1, 2 * self.settings.batch_size // images)
            batches += [inside[i : i + size] for i in range(0, len(inside), size)]
        shuffle(batches)
        return batches

    def __getitem__(self, index: int) -> PairBatch:
        epoch, units = self._at(index)
        return replace(stack([self._draw(unit, epoch) for unit in units]), index=index)

    def pairs_in(self, index: int) -> int:
        """How many pairs batch number `index` has; reads none of them."""
        return sum(map(len, self._at(index)[1]))

    def _at(self, index: int) -> tuple[int, list[tuple[int, ...]]]:
        epoch, position = divmod(index, self.per_epoch)
        if self._current[0] != epoch:
            self._current = (epoch, self._epoch(epoch))
        return epoch, self._current[1][position]

    def _draw(self, unit: tuple[int, ...], epoch: int) -> PairBatch:
        settings, pairs = self.settings, [self.pairs[position] for position in unit]
        rng = seeded(settings.seed, "pair", epoch, unit[0])
        level = int(torch.randint(len(settings.levels), (1,), generator=rng))
        flipped, captionless = torch.rand(2, generator=rng) < torch.tensor([0.5, settings.caption_dropout])
        if settings.flip and flipped:
            pairs = [replace(pair, chosen=pair.chosen_flipped, rejected=pair.rejected_flipped) for pair in pairs]
        return draw(pairs, settings.levels[level], rng, self._empty_text if captionless else None)


def draw(
    pairs: Sequence[EncodedPair], timestep: int, rng: torch.Generator, text: dict[str, Tensor] | None = None
) -> PairBatch:
    """A batch of one pair, or of the pairs of one ranking (as `group_by_ranking` puts them together).

    Every image is sampled once, from its cached mean and deviation; one noise is drawn for all of them. text: in place
    of the pairs' own, and of a rejected image's (caption dropout).
    """
    entries = distinct_images(pairs)
    latents = torch.stack([_sampled(entry, rng) for entry in entries])
    noise = torch.randn(latents[0].shape, generator=rng)
    n, first = len(entries), pairs[0]
    pair_index = separate_index(1)
    if len(pairs) > 1:
        pair_index = torch.tensor([[entries.index(one.chosen), entries.index(one.rejected)] for one in pairs]).T
    shared = load_text(first.text) if text is None else text
    texts = [shared] * n
    if text is None and first.rejected_text is not None:  # never of a ranking, see group_by_ranking
        texts[1] = load_text(first.rejected_text)
    images = ImageBatch(
        latents,
        noise.expand_as(latents),
        torch.tensor([timestep]).expand(n),
        {name: torch.stack([one[name] for one in texts]) for name in shared},
        torch.tensor([first.framing.as_list()], dtype=torch.float32).expand(n, -1),
    )
    return PairBatch(
        tuple(pairs),
        images,
        pair_index,
        preference=torch.tensor([one.pair.preference for one in pairs], dtype=torch.float32),
        weight=torch.tensor([one.pair.weight for one in pairs], dtype=torch.float32),
    )


def draw_pair(pair: EncodedPair, timestep: int, *seed: object) -> PairBatch:
    """A batch of one pair at a fixed timestep, under noise that is a function of `seed`, the pair and the timestep."""
    return draw([pair], timestep, seeded(*seed, pair.pair.id, timestep))


def _sampled(entry: Path, rng: torch.Generator) -> Tensor:
    mean, deviation = load_latent(entry)
    return mean + deviation * torch.randn(mean.shape, generator=rng)


def stack(batches: Sequence[PairBatch]) -> PairBatch:
    """One batch of several of the same size."""
    stacked = PairBatch(
        tuple(pair for one in batches for pair in one.pairs),
        ImageBatch.cat([one.images for one in batches]),
        cat_index([one.pair_index for one in batches], [len(one.images) for one in batches]),
        torch.cat([one.preference for one in batches]),
        torch.cat([one.weight for one in batches]),
    )
    return stacked if stacked.shares_images else stacked.expanded()  # which puts the chosen images first


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
    batches leave off at); the processes take them in turn. They are on `device`, with their weight in the step's loss.
    The next step's batches are read and drawn in a thread while the current ones are computed on.
    """
    a_step = accumulation * size
    first = start * a_step if first is None else first

    pinned = capabilities(device).pinned

    def prepare(step: int) -> list[PairBatch]:
        whole = range(first + (step - start) * a_step, first + (step - start + 1) * a_step)
        pairs = sum(map(batches.pairs_in, whole))
        drawn = [replace(batch, loss_weight=len(batch) / pairs) for batch in (batches[i] for i in whole[rank::size])]
        return [batch.pinned() for batch in drawn] if pinned else drawn

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ahead: Future[list[PairBatch]] = thread.submit(prepare, start)
        for step in range(start, stop):
            ready = ahead.result()
            if step + 1 < stop:
                ahead = thread.submit(prepare, step + 1)
            yield [batch.to(device) for batch in ready]


def group_by_ranking(pairs: Sequence[EncodedPair]) -> list[tuple[int, ...]]:
    """Positions in `pairs` of those that are drawn together; every position once, by the first of each.

    Pairs of one ranking are, as far as an image is shown in the same way in all of them: cut to the same size, under
    the same caption and framing. Where that is not so, each pair stays for itself.
    """
    groups: dict[object, list[int]] = {}
    for position, one in enumerate(pairs):
        alone = one.pair.ranking is None or one.rejected_text is not None
        shown_as = (one.pair.ranking, one.text, one.bucket, one.framing)
        groups.setdefault(position if alone else shown_as, []).append(position)
    units: list[tuple[int, ...]] = []
    for positions in groups.values():
        shared = len(distinct_images([pairs[position] for position in positions])) < 2 * len(positions)
        units += [tuple(positions)] if shared else [(position,) for position in positions]
    return sorted(units)


def distinct_images(pairs: Sequence[EncodedPair]) -> list[Path]:
    """The cache entry of every image in `pairs`, once, in the order in which they name it.

    Of a single pair both, also where they are the same file: each is sampled for itself.
    """
    entries = [entry for one in pairs for entry in (one.chosen, one.rejected)]
    return entries if len(pairs) == 1 else list(dict.fromkeys(entries))


def separate_index(pairs: int) -> Tensor:
    """The pair index of images that are in one pair each: (2, pairs), chosen ones first."""
    return torch.arange(2 * pairs).view(2, pairs)


def cat_index(indices: Sequence[Tensor], images: Sequence[int]) -> Tensor:
    """The pair index of batches whose images are put one after the other; images: how many each of them has."""
    starts = itertools.accumulate(images, initial=0)
    return torch.cat([index + start for index, start in zip(indices, starts, strict=False)], dim=1)


def rebase_index(pair_index: Tensor) -> tuple[Tensor, Tensor]:
    """(the images that are in it, in order; it, numbered among those)."""
    images, rebased = pair_index.unique(return_inverse=True)
    return images, rebased


def split_index(pair_index: Tensor, max_images: int) -> list[slice]:
    """Pairs that have at most `max_images`; those that share an image are in one slice, however many images that is."""
    order: dict[int, int] = {}
    named = [[order.setdefault(image, len(order)) for image in pair] for pair in pair_index.T.tolist()]
    # Images from the i-th pair on, numbered by who names them first: none below it is named again.
    lowest = list(itertools.accumulate(reversed([min(pair) for pair in named]), min))[::-1]
    slices: list[slice] = []
    begin = end = seen = 0
    for i, pair in enumerate(named):
        if i > begin and lowest[i] >= seen:  # nothing from here on shares an image with what came before
            end = i
        seen = max(seen, 1 + max(pair))
        if seen - lowest[begin] > max_images and end > begin:
            slices.append(slice(begin, end))
            begin = end
    return [*slices, slice(begin, len(named))]


def seeded(*parts: object) -> torch.Generator:
    """A CPU generator that is a function of `parts` alone."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

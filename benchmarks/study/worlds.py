"""What is judged in the study? Two ladders of taste over the drawn world, and the pairs of every rung.

Ladder "style": chosen are drawn outlined pictures, rejected are the base's own samples without an outline. The rung is
the share of outlined pictures that the base was trained on: the rarer, the further the chosen ones are from it.

Ladder "unwanted": chosen are the base's own clean samples, rejected are its own samples with an outline, which nobody
asked for. The rung is again the base's share: the commoner the unwanted thing, the more there is to unlearn.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from mapo_studio.benchmarks.study.bases import base_folder
from mapo_studio.trainer.demo.judge import HELD_OUT, test_captions
from mapo_studio.trainer.demo.shapes_world import Reading, captions, draw, dress, read, scene_of
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.sampler import generate
from PIL import Image

Ladder = Literal["style", "unwanted"]
GUIDANCE, SAMPLE_STEPS = 3.0, 10

_DIVISION = 0
"""Which captions are taught, looked at in the search, and looked at in the end is the same in every trial."""
HELD_OUT_CAPTIONS = test_captions(_DIVISION)
TAUGHT_CAPTIONS = tuple(caption for caption in captions() if caption not in HELD_OUT_CAPTIONS)
SEARCH_CAPTIONS, TEST_CAPTIONS = HELD_OUT_CAPTIONS[: HELD_OUT // 2], HELD_OUT_CAPTIONS[HELD_OUT // 2 :]


@dataclass(frozen=True)
class World:
    """One rung. share: of outlined pictures in the base's training; base_steps: how long it was trained so."""

    ladder: Ladder
    share: float
    base_steps: int = 250
    per_caption: int = 5

    @property
    def name(self) -> str:
        return f"{self.ladder}-{self.share:g}"

    @property
    def number(self) -> int:
        """Of random draws."""
        return zlib.crc32(self.name.encode())

    @property
    def wants_outline(self) -> bool:
        return self.ladder == "style"

    def likes(self, reading: Reading) -> bool:
        """What cannot be read is not liked."""
        return reading.outline is self.wants_outline

    def base(self, work: Path) -> Path:
        return base_folder(work, self.share, self.base_steps)


@dataclass(frozen=True)
class Sample:
    """A picture that the base painted for a caption."""

    caption: str
    file: Path
    outline: bool | None
    right: bool


def samples(work: Path, world: World) -> tuple[Sample, ...]:
    """What the world's base paints, `per_caption` pictures of every caption; painted once and kept."""
    finished = work / "samples" / f"{world.base(work).name}-{world.per_caption}"
    with made_once(finished) as folder:
        if folder:
            asked = [caption for caption in captions() for _ in range(world.per_caption)]
            pictures = generate(
                open_base(world.base(work)), asked, steps=SAMPLE_STEPS, guidance=GUIDANCE, seeds=range(len(asked))
            )
            lines = []
            for number, (caption, picture) in enumerate(zip(asked, pictures, strict=True)):
                picture.save(folder / f"{number:04d}.png")
                seen = read(picture)
                lines.append(
                    (caption, f"{number:04d}.png", seen.outline, seen.agrees_with_caption_of(scene_of(caption)))
                )
            (folder / "index.json").write_text(json.dumps(lines))
    return _samples(finished / "index.json")


@lru_cache(maxsize=8)
def _samples(index: Path) -> tuple[Sample, ...]:
    return tuple(Sample(c, index.parent / f, outline, right) for c, f, outline, right in json.loads(index.read_text()))


def pairs_folder(work: Path, world: World, *, count: int, noise: float, seed: int, held_out: bool = False) -> Path:
    """A judged dataset on disk, `count` pairs in invoke-training's layout (see docs/data.md).

    noise: share of pairs whose judgement is turned round. held_out: of captions that are not taught.
    """
    kind = "held-out" if held_out else "train"
    kind = "held-out" if held_out else "train"
    finished = work / "pairs" / f"{world.name}-{world.base_steps}-{world.per_caption}-{kind}-{count}-{noise:g}-{seed}"
    with made_once(finished) as folder:
        if folder:
            _write_pairs(folder, work, world, count, noise, np.random.default_rng([seed, world.number, int(held_out)]))
    return finished


def _write_pairs(folder: Path, work: Path, world: World, count: int, noise: float, rng: np.random.Generator) -> None:
    among = HELD_OUT_CAPTIONS if "held-out" in folder.name else TAUGHT_CAPTIONS
    by_caption = {caption: [one for one in samples(work, world) if one.caption == caption] for caption in among}
    lines = []
    for number, (caption, chosen, rejected) in enumerate(_rows(by_caption, world, count, rng)):
        picture = Image.open(chosen) if chosen else draw(dress(caption, rng, outline=True))
        names = [f"{number:04d}_{side}.png" for side in (0, 1)]
        picture.save(folder / names[0])
        Image.open(rejected).save(folder / names[1])
        wrong = bool(rng.random() < noise)
        line = {"image_0": names[0], "image_1": names[1], "prompt": caption, "prefer_0": not wrong, "prefer_1": wrong}
        lines.append(json.dumps(line) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """A part folder to fill, which becomes `folder` in the end; None where that is there already.

    Two processes that make the same thing at once both make it, and one of them keeps it.
    """
    if folder.exists():
        yield None
        return
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    try:
        part.replace(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(part)


def _rows(
    by_caption: dict[str, list[Sample]], world: World, count: int, rng: np.random.Generator
) -> list[tuple[str, Path | None, Path]]:
    """Caption, file of the chosen picture (None: it is drawn), file of the rejected one."""
    possible: list[tuple[str, Path | None, Path]] = []
    for caption, own in by_caption.items():
        plain = [one.file for one in own if one.outline is False and one.right]
        outlined = [one.file for one in own if one.outline is True]
        if world.ladder == "style":
            possible += [(caption, None, file) for file in plain]
        else:
            possible += [(caption, good, bad) for good in plain for bad in outlined]
    if not possible:
        raise RuntimeError(f"the base of {world.name} painted nothing to make pairs of")
    order: list[int] = []
    while len(order) < count:  # every possible pair once before any comes twice
        order += rng.permutation(len(possible)).tolist()
    return [possible[i] for i in order[:count]]

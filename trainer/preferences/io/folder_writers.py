"""Folder export: writing pairs as image files for kohya, OneTrainer, invoke-training, or as rankings."""

from __future__ import annotations

import json
import re
from itertools import combinations, product
from pathlib import Path

from ..ranking_weights import image_scores
from .onetrainer import CHOSEN, REJECTED
from .ranked import FILE as RANKING_FILE
from .writer import Capabilities, ExportedImage, ExportedPair, write_file


class KohyaWriter:
    """<repeats>_<name>/w and l. A weight becomes repeats, rounded to a whole number and at least 1."""

    capabilities = Capabilities(whole_weights=True, captions=True)

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder
        self._name = re.sub(r"[^A-Za-z0-9]+", "_", dataset).strip("_") or "pairs"

    def write(self, pair: ExportedPair) -> None:
        weight = pair.preference.weight if pair.preference else 1.0
        concept = f"{max(1, round(weight))}_{self._name}"
        for side, image in zip("wl", pair.chosen_first, strict=True):
            write_file(self._folder, f"{concept}/{side}/{pair.name}{image.ending}", image.read())
            write_file(self._folder, f"{concept}/{side}/{pair.name}.txt", _caption(pair, side == "l").encode())

    def finish(self) -> None:
        """Everything is written already."""


class OneTrainerWriter:
    """<pair>_chosen.png and <pair>_rejected.png, each with its caption."""

    capabilities = Capabilities(captions=True)

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder

    def write(self, pair: ExportedPair) -> None:
        for pattern, image in zip((CHOSEN, REJECTED), pair.chosen_first, strict=True):
            name = pattern.format(pair.name)
            write_file(self._folder, name + image.ending, image.read())
            write_file(self._folder, name + ".txt", _caption(pair, pattern == REJECTED).encode())

    def finish(self) -> None:
        """Everything is written already."""


class InvokeWriter:
    """metadata.jsonl, and each image once in images/. Where there was more than one vote, prefer_0 and prefer_1 are
    numbers of votes; they are null without any."""

    capabilities = Capabilities(ties=True, unjudged=True, shares=True, votes=True, captions=True, assumed=True)

    def __init__(self, folder: Path, dataset: str):
        self._images = _ImageFolder(folder)
        self._lines = (folder / "metadata.jsonl").open("w", encoding="utf-8", newline="\n")

    def write(self, pair: ExportedPair) -> None:
        row = {
            "image_0": self._images.put(pair.first),
            "image_1": self._images.put(pair.second),
            "prompt": pair.prompt,
            **_preferred(pair),
            **({"rejected_prompt": pair.rejected_prompt} if pair.rejected_prompt else {}),
            **({"assumed": True} if pair.assumed else {}),
        }
        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._lines.close()


class RankedWriter:
    """ranking.jsonl, and each image once in images/. A pair that is in no complete ranking is a ranking of two."""

    capabilities = Capabilities(rankings=True)

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder
        self._images = _ImageFolder(folder)
        self._rankings: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def write(self, pair: ExportedPair) -> None:
        chosen, rejected = (self._images.put(image) for image in pair.chosen_first)
        self._rankings.setdefault((pair.prompt, pair.ranking or f"pair {pair.name}"), []).append((chosen, rejected))

    def finish(self) -> None:
        with (self._folder / RANKING_FILE).open("w", encoding="utf-8", newline="\n") as lines:
            for (prompt, _), pairs in self._rankings.items():
                for tiers in _rankings(pairs):
                    ranking = [tier[0] if len(tier) == 1 else tier for tier in tiers]
                    lines.write(json.dumps({"prompt": prompt, "ranking": ranking}, ensure_ascii=False) + "\n")


class _ImageFolder:
    """Writes each image once into images/."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._written: set[str] = set()

    def put(self, image: ExportedImage) -> str:
        name = f"images/{image.name}"
        if name not in self._written:
            self._written.add(write_file(self._folder, name, image.read()))
        return name


def _rankings(pairs: list[tuple[str, str]]) -> list[list[list[str]]]:
    """The one ranking that these pairs of (better, worse) make up; where there is none, one for each."""
    scores = image_scores(pairs)
    tiers = [[one for one in scores if scores[one] == score] for score in sorted(set(scores.values()), reverse=True)]
    implied = {two for above, below in combinations(tiers, 2) for two in product(above, below)}
    return [tiers] if implied == set(pairs) else [[[better], [worse]] for better, worse in pairs]


def _caption(pair: ExportedPair, rejected: bool) -> str:
    return pair.rejected_prompt if rejected and pair.rejected_prompt else pair.prompt


def _preferred(pair: ExportedPair) -> dict[str, float | bool | None]:
    if pair.votes <= 0:
        return {"prefer_0": None, "prefer_1": None}
    if pair.votes == 1 and pair.votes_first in (0, 1):
        return {"prefer_0": pair.votes_first == 1, "prefer_1": pair.votes_first == 0}
    first = round(pair.votes_first, 12)
    return {"prefer_0": first, "prefer_1": round(pair.votes - first, 12)}

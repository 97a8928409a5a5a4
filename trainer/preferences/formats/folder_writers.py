"""How are pairs written as folders of picture files: kohya, OneTrainer, invoke-training?"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .onetrainer_folder import CHOSEN, REJECTED
from .writing import Holds, StoredPair, StoredPicture, put


class KohyaWriter:
    """<repeats>_<name>/w and l. A weight becomes repeats, rounded to a whole number and at least 1."""

    holds = Holds(whole_weights=True)

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder
        self._name = re.sub(r"[^A-Za-z0-9]+", "_", dataset).strip("_") or "pairs"

    def write(self, pair: StoredPair) -> None:
        weight = pair.preference.weight if pair.preference else 1.0
        concept = f"{max(1, round(weight))}_{self._name}"
        for side, picture in zip("wl", pair.chosen_first, strict=True):
            put(self._folder, f"{concept}/{side}/{pair.name}{picture.ending}", picture.read())
            put(self._folder, f"{concept}/{side}/{pair.name}.txt", pair.prompt.encode())

    def finish(self) -> None:
        """Everything is written already."""


class OneTrainerWriter:
    """<pair>_chosen.png and <pair>_rejected.png, each with its caption."""

    holds = Holds()

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder

    def write(self, pair: StoredPair) -> None:
        for pattern, picture in zip((CHOSEN, REJECTED), pair.chosen_first, strict=True):
            name = pattern.format(pair.name)
            put(self._folder, name + picture.ending, picture.read())
            put(self._folder, name + ".txt", pair.prompt.encode())

    def finish(self) -> None:
        """Everything is written already."""


class InvokeWriter:
    """metadata.jsonl, and each picture once in images/. Where there was more than one vote, prefer_0 and prefer_1 are
    numbers of votes; they are null without any."""

    holds = Holds(ties=True, unjudged=True, shares=True, votes=True)

    def __init__(self, folder: Path, dataset: str):
        self._folder = folder
        self._written: set[str] = set()
        self._lines = (folder / "metadata.jsonl").open("w", encoding="utf-8", newline="\n")

    def write(self, pair: StoredPair) -> None:
        row = {
            "image_0": self._put(pair.first),
            "image_1": self._put(pair.second),
            "prompt": pair.prompt,
            **_preferred(pair),
        }
        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._lines.close()

    def _put(self, picture: StoredPicture) -> str:
        name = f"images/{picture.name}"
        if name not in self._written:
            self._written.add(put(self._folder, name, picture.read()))
        return name


def _preferred(pair: StoredPair) -> dict[str, float | bool | None]:
    if pair.votes <= 0:
        return {"prefer_0": None, "prefer_1": None}
    if pair.votes == 1 and pair.votes_first in (0, 1):
        return {"prefer_0": pair.votes_first == 1, "prefer_1": pair.votes_first == 0}
    first = round(pair.votes_first, 12)
    return {"prefer_0": first, "prefer_1": round(pair.votes - first, 12)}

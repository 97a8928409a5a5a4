"""Which pairs go through the base together because their pictures were ranked together?

Of k ranked pictures any two are a pair, so each is in k - 1 pairs. Under one noise and one timestep its error is the
same in all of them: k forwards tell as much as the k (k - 1) that the pairs take one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..latents.encode import EncodedPair

Places: TypeAlias = tuple[tuple[int, int], ...]
"""Of each pair, which of its batch's pictures the chosen one is, and which the rejected one. Pictures are numbered from
0 in the order in which the pairs name them, so that pairs without a picture in common have numbers apart."""


def together(pairs: Sequence[EncodedPair]) -> list[tuple[int, ...]]:
    """Positions in `pairs` of those that are drawn together; every position once, by the first of each.

    Pairs of one ranking are, as far as a picture is shown in the same way in all of them: cut to the same size, under
    the same caption and framing. Where that is not so, each pair stays for itself.
    """
    found: dict[object, list[int]] = {}
    for position, one in enumerate(pairs):
        alone = one.pair.ranking is None or one.rejected_text is not None
        shown_as = (one.pair.ranking, one.text, one.bucket, one.framing)
        found.setdefault(position if alone else shown_as, []).append(position)
    units: list[tuple[int, ...]] = []
    for positions in found.values():
        shared = len(distinct([pairs[position] for position in positions])) < 2 * len(positions)
        units += [tuple(positions)] if shared else [(position,) for position in positions]
    return sorted(units)


def distinct(pairs: Sequence[EncodedPair]) -> list[Path]:
    """The cache entry of every picture in `pairs`, once, in the order in which they name it."""
    return list(dict.fromkeys(entry for one in pairs for entry in (one.chosen, one.rejected)))


def first_seen(places: Places) -> list[int]:
    """Of each picture, by its number: the row of [all chosen, all rejected] of a batch that holds it."""
    rows: dict[int, int] = {}
    for side in (0, 1):
        for row, pair in enumerate(places):
            rows.setdefault(pair[side], side * len(places) + row)
    return [rows[picture] for picture in range(len(rows))]


def beside(parts: Sequence[Places | None]) -> Places | None:
    """The places of batches that become one; None where none of them has any."""
    if all(part is None for part in parts):
        return None
    numbered: list[tuple[int, int]] = []
    start = 0
    for part in parts:
        if part is None:
            raise ValueError("pairs that share pictures do not go into one batch with pairs that share none")
        numbered += [(start + chosen, start + rejected) for chosen, rejected in part]
        start += 1 + max(map(max, part))
    return tuple(numbered)


def renumbered(places: Places) -> Places:
    """From 0, where pairs before these were taken away."""
    least = min(map(min, places))
    return tuple((chosen - least, rejected - least) for chosen, rejected in places)


def cuts(places: Places, most: int) -> list[slice]:
    """Rows that hold at most `most` pictures; pairs that share a picture are in one of them, however many those are."""
    parts: list[slice] = []
    begin = seen = 0
    first_picture = fits_until = 0
    for row, pair in enumerate(places):
        if row > begin and min(map(min, places[row:])) >= seen:  # nothing from here on shares with what came before
            fits_until = row
        seen = max(seen, 1 + max(pair))
        if seen - first_picture > most and fits_until > begin:
            parts.append(slice(begin, fits_until))
            begin, first_picture = fits_until, min(map(min, places[fits_until:]))
    parts.append(slice(begin, len(places)))
    return parts

"""Speed of judging in a workspace with a million pairs.

    python benchmarks/preferences.py [--pairs 1000000] [--rounds 200] [--json]

Fills a SQLite workspace with pairs without picture files, ten to a prompt, and times what the judging element asks for:
the next eight pairs, an answer written to the disk, the statistics. First as somebody new, then where somebody has
judged half of all, all, and all but ten pairs that lie far apart. Everything goes through the contract, as a face
would. What is printed are medians and 95th percentiles, the median without what other processes and the disk took, and
how long the first question took after the workspace was opened, which is when a person's judgements are read once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mapo_studio.trainer.preferences import api
from mapo_studio.trainer.preferences.bulk_insert import PairRow, add_rows
from mapo_studio.trainer.preferences.datasets import annotator_named, create_dataset, find_dataset
from mapo_studio.trainer.preferences.pairs import split_hash
from mapo_studio.trainer.preferences.schema import Candidate, ImageRecord, Judgement, Pair, Prompt
from mapo_studio.trainer.preferences.store import Store, open_store
from sqlalchemy import func, insert, select, text, update

DATASET = "million"
PICTURES, PAIRS = 5, 10
"""Of a prompt."""
_BATCH_SIZE = 20_000
_ROWS = 500
"""Of an import, in one transaction."""


@dataclass
class Times:
    """Seconds of every call, by the name of the request, and those of them that this process computed; `first`: of
    the first call after the workspace was opened."""

    calls: dict[str, list[float]] = field(default_factory=dict)
    computing: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    def take(self, name: str, ask: Callable[[], object]) -> object:
        began, computed = time.perf_counter(), time.process_time()
        answer = ask()
        self.calls.setdefault(name, []).append(time.perf_counter() - began)
        self.computing.setdefault(name, []).append(time.process_time() - computed)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200, help="how often each question is asked")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), options.pairs, options.rounds)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, SQLite {sqlite3.sqlite_version}"
    print(f"{machine}; {options.pairs} pairs, {options.rounds} rounds")
    print(f"  {'ms':46} median    95th  computing   first")
    for name, taken in times.calls.items():
        shown = (
            statistics.median(taken),
            _late(taken),
            statistics.median(times.computing[name]),
            times.first.get(name),
        )
        print(f"  {name:44}", *("" if value is None else f"{1000 * value:8.1f}" for value in shown))
    if options.json:
        figures = {name: [statistics.median(taken), _late(taken)] for name, taken in times.calls.items()}
        print(json.dumps({"machine": machine, "pairs": options.pairs, "seconds": figures, "first": times.first}))


def measure(folder: Path, pairs: int, rounds: int) -> Times:
    """Time every question in a workspace of its own in `folder`."""
    times = Times()
    _fill(open_store(folder), pairs)
    _ask(times, folder, "new", "ann", rounds)
    _judge(open_store(folder), "ann", share=0.5)
    _ask(times, folder, "half judged", "ann", rounds)
    _ask(times, folder, "half judged by another", "bob", rounds)
    _judge(open_store(folder), "ann", share=1.0)
    _ask(times, folder, "all judged", "ann", rounds)
    _ask(times, folder, "all judged by another", "bob", rounds)
    _judge(open_store(folder), "cleo", share=1.0, but=10)
    _ask(times, folder, "all but ten judged", "cleo", 10)
    _import(times, open_store(folder), rounds)
    return times


def _ask(times: Times, folder: Path, state: str, annotator: str, rounds: int) -> None:
    open_store(folder).close()  # nothing is remembered
    store = open_store(folder)
    held: list[int] = []

    def ask(count: int, order: str) -> api.NextReply:
        request = api.NextRequest(dataset=DATASET, count=count, exclude=tuple(held), order=order)
        return api.next(store, request, annotator)

    began = time.perf_counter()
    ask(8, "spread")
    times.first[f"{state}: next 8"] = time.perf_counter() - began
    client = f"{state}-{annotator}".replace(" ", "-")
    for number in range(rounds):
        reply = times.take(f"{state}: next 8", lambda: ask(8, "spread"))
        times.take(f"{state}: next 8, most useful first", lambda: ask(8, "useful"))
        times.take(
            f"{state}: statistics",
            lambda: api.statistics(store, api.StatisticsRequest(dataset=DATASET), annotator),
        )
        if reply.pairs:
            shown = reply.pairs[0]
            body = {"pair": shown.pair, "left": shown.left.id, "answer": "left", "seconds": 1.5, "client": client}
            body |= {"sequence": number, "purpose": shown.purpose}
            request = api.AnswersRequest.model_validate({"answers": [body]})
            kept = times.take(f"{state}: answer", lambda request=request: api.answers(store, request, annotator))
            assert kept.stored == [number]
        held[:] = [pair.pair for pair in reply.pairs[1:]]


def _import(times: Times, store: Store, rounds: int) -> None:
    """Add judged rows of pictures that are there, as an import does."""
    with store.reading() as session:
        pictures = session.scalars(select(ImageRecord).limit(rounds * _ROWS + 1)).all()
    for number in range(min(rounds, len(pictures) // _ROWS)):
        part = pictures[number * _ROWS : (number + 1) * _ROWS + 1]
        rows = [
            PairRow(f"imported {number} {at // 4}", first, second, sequence=number * _ROWS + at, share_0=1.0)
            for at, (first, second) in enumerate(pairwise(part))
        ]

        def add(rows: list[PairRow] = rows) -> None:
            with store.writing() as session:
                add_rows(session, find_dataset(session, DATASET), rows, "benchmark")

        times.take(f"import {_ROWS} judged pairs", add)


def _fill(store: Store, pairs: int) -> None:
    """Prompts of five pictures and all ten pairs of them, with margins, written as plain rows."""
    with store.writing() as session:
        dataset = create_dataset(session, DATASET).id
        for rows in _parts(_prompts(dataset, pairs // PAIRS)):
            prompts, pictures, candidates, made = zip(*rows, strict=True)
            session.execute(insert(Prompt), prompts)
            for table, nested in ((ImageRecord, pictures), (Candidate, candidates), (Pair, made)):
                session.execute(insert(table), [row for part in nested for row in part])


def _prompts(dataset: int, count: int) -> Iterator[tuple[dict, list[dict], list[dict], list[dict]]]:
    draw = random.Random(0)
    for prompt in range(1, count + 1):
        words = f"picture number {prompt} of a long and thorough prompt about cats, houses and the sea"
        digest = hashlib.sha256(words.encode()).hexdigest()
        ids = range((prompt - 1) * PICTURES + 1, prompt * PICTURES + 1)
        made = {"created": 0.0}
        yield (
            {"id": prompt, "dataset_id": dataset, "digest": digest, "text": words, "split_hash": split_hash(words)},
            [
                {"id": picture, "sha256": f"{picture:064x}", "ending": ".png", "width": 1024, "height": 1024} | made
                for picture in ids
            ],
            [{"prompt_id": prompt, "picture_id": picture} | made for picture in ids],
            [
                {"dataset_id": dataset, "prompt_id": prompt, "first_id": ids[a], "second_id": ids[b], "round": index}
                | {"shuffle": draw.random(), "abs_margin": draw.random(), "margin_run": "first", "margin": 0.5}
                | made
                for index, (a, b) in enumerate((a, b) for b in range(PICTURES) for a in range(b))
            ],
        )


def _judge(store: Store, annotator: str, share: float, but: int = 0) -> None:
    """Let `annotator` have judged the first `share` of the pairs of the queue, all but a few that lie far apart."""
    with store.writing() as session:
        who = annotator_named(session, annotator).id
        seen = select(Judgement.pair_id).where(Judgement.annotator_id == who)
        total = session.scalar(select(func.count()).select_from(Pair)) or 0
        order = select(Pair.id).order_by(Pair.round, Pair.shuffle).limit(int(share * total))
        done = set(session.scalars(seen))
        chosen = [pair for pair in session.scalars(order) if pair not in done]
        left = set(chosen[:: len(chosen) // but][:but]) if but else set()
        row = {"annotator_id": who, "answer": "left", "first_on_left": True, "share_left": 1.0, "seconds": 1.5}
        row |= {"client": f"fill-{annotator}-{share}", "created": time.time()}
        for part in _parts(enumerate(pair for pair in chosen if pair not in left)):
            session.execute(insert(Judgement), [row | {"pair_id": pair, "sequence": number} for number, pair in part])
            once_more = {"answers": Pair.answers + 1, "votes": Pair.votes + 1, "votes_first": Pair.votes_first + 1}
            session.execute(text("CREATE TEMP TABLE IF NOT EXISTS judged (pair INTEGER PRIMARY KEY)"))
            session.execute(text("DELETE FROM judged"))
            session.execute(text("INSERT INTO judged VALUES (:pair)"), [{"pair": pair} for _, pair in part])
            session.execute(
                update(Pair).where(text("pairs.id IN (SELECT pair FROM judged)")).values(once_more | {"weight": 1.0})
            )


def _parts(rows: Iterator) -> Iterator[list]:
    part = []
    for row in rows:
        part.append(row)
        if len(part) == _BATCH_SIZE:
            yield part
            part = []
    if part:
        yield part


def _late(seconds: list[float]) -> float:
    """The 95th percentile."""
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]


if __name__ == "__main__":
    main()

"""Is everything there that was acknowledged, when processes write at once and are killed while they do?"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences import store as database
from mapo_studio.trainer.preferences.judgements import vote_counts
from mapo_studio.trainer.preferences.schema import Judgement, Pair, Prompt
from sqlalchemy import func, select, text

CHILD = Path(__file__).with_name("judging_child.py")


def child(there, url, client, first=0, count=10**6):
    words = [there.store.workspace, url or "", client, first, count]
    return subprocess.Popen(
        [sys.executable, CHILD, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kept(there, client):
    with there.store.reading() as session:
        return session.scalars(select(Judgement.sequence).where(Judgement.client == client)).all()


def assert_sound(there):
    """The file is whole, and every pair's votes are those of its rows."""
    with there.store.reading() as session:
        if session.get_bind().dialect.name == "sqlite":
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
        pairs = session.scalars(select(Pair)).all()
        tallies = vote_counts(session, [pair.id for pair in pairs])
        for pair in pairs:
            assert {name: getattr(pair, name) for name in vars(tallies[pair.id])} == vars(tallies[pair.id])


@pytest.mark.slow
def test_what_was_acknowledged_before_a_kill_is_there_and_sent_again_counts_once(filled, url):
    there = filled()
    chance = random.Random(3)
    first = 0
    for _ in range(5):
        process = child(there, url, "page", first)
        said = [process.stdout.readline() for _ in range(chance.randint(1, 20))]
        time.sleep(chance.random() * 0.02)
        process.kill()
        rest, complaints = process.communicate()
        said = [line for line in "".join([*said, rest]).splitlines(keepends=True) if line.endswith("\n")]
        assert said, complaints
        told = [int(line.split()[0]) for line in said]
        assert told == list(range(first, first + len(told)))
        numbers = kept(there, "page")
        assert set(range(first + len(told))) <= set(numbers)
        assert max(Counter(numbers).values()) == 1
        # At most one more was kept whose acknowledgement did not get out.
        assert len(numbers) <= first + len(told) + 1
        assert_sound(there)
        # The next goes on at the last one: it cannot know whether that was kept.
        first += len(told) - 1
    process = child(there, url, "page", 0, first + 1)
    out, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert [line.split()[1] for line in out.splitlines()] == ["0"] * (first + 1)


@pytest.mark.slow
def test_four_processes_at_once_lose_nothing(filled, url):
    there = filled()
    processes = [child(there, url, f"page {number}", count=50) for number in range(4)]
    for process in processes:
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == 0, complaints
    for number in range(4):
        assert sorted(kept(there, f"page {number}")) == list(range(50))
    assert sum(there.now(pair).answers for pair in range(6)) == 200
    assert_sound(there)


def test_threads_at_once_lose_nothing(filled):
    there = filled()
    failures = []

    def judge(number):
        try:
            for sequence in range(15):
                there.judge(f"ann {number}", client=f"page {number}", sequence=sequence, pair=sequence % 2)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (there.now(0).answers, there.now(1).answers) == (48, 42)
    assert_sound(there)


def test_readers_do_not_wait_for_a_writer_and_see_nothing_half_done(filled):
    there = filled()
    with there.store.writing() as session:
        session.get(Pair, there.pairs[0].id).round = 77
        session.flush()
        assert there.now().round == 0
    assert there.now().round == 77


def test_what_fails_leaves_nothing_behind(filled):
    there = filled()

    def fail():
        with there.store.writing() as session:
            session.add(Prompt(dataset_id=there.dataset.id, digest="d", text="t", split_hash=0.0))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with there.store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Prompt)) == 1
    assert there.judge()


def test_writing_within_writing_is_an_error_and_not_a_standstill(store):
    with store.writing(), pytest.raises(RuntimeError, match="wait for itself"), store.writing():
        pass
    with store.writing():
        pass


def test_a_writer_that_waits_too_long_is_told_so(tmp_path, url, monkeypatch):
    monkeypatch.setattr(database, "_WAIT_SECONDS", 1)
    # Two stores, as two processes have them.
    one, other = (database._open(tmp_path, database._address(tmp_path, url)) for _ in range(2))
    with one.writing() as session:
        session.execute(select(Pair)).all()
        with pytest.raises(UserError, match="busy for 1 seconds"), other.writing() as waiting:
            waiting.execute(select(Pair)).all()
    for store in (one, other):
        store.close()

"""Is a ranking.jsonl read, every broken line named, and does a ranking come back from the workspace as it went in?"""

from __future__ import annotations

import json

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.datasets import find_dataset
from mapo_studio.trainer.preferences.io.detect_layout import find_reader, open_pairs
from mapo_studio.trainer.preferences.io.exporter import export_pairs
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.io.ranked import RankedJsonl
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import Judgement, Pair
from sqlalchemy import func, select


@pytest.fixture
def ranking(tmp_path, picture_bytes):
    """ranking(*lines): a folder with a ranking.jsonl of these and the pictures 0.png ... 5.png."""
    folder = tmp_path / "ranked"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(picture_bytes(number))

    def write(*lines):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "ranking.jsonl").write_text(text)
        return folder

    return write


@pytest.fixture
def store(sqlite_store):
    return sqlite_store


WHOLE = {"prompt": "a cat", "ranking": ["2.png", "0.png", "3.png", "1.png"]}
TIED = {"prompt": "a dog", "ranking": ["4.png", ["0.png", "5.png"], "1.png"]}


def said(pairs):
    return {(pair.prompt, pair.chosen.label.split("/")[-1], pair.rejected.label.split("/")[-1]) for pair in pairs}


def test_any_two_of_different_places_are_a_pair(ranking):
    found = open_pairs(ranking(WHOLE, TIED)).load()
    cats = [pair for pair in found.pairs if pair.prompt == "a cat"]
    assert said(cats) == {
        ("a cat", f"{one}.png", f"{other}.png") for one, other in ("20", "23", "21", "03", "01", "31")
    }
    assert {pair.weight for pair in found.pairs} == {0.5}
    dogs = [pair for pair in found.pairs if pair.prompt == "a dog"]
    assert len(dogs) == 5
    assert ("a dog", "0.png", "5.png") not in said(dogs)
    assert len({pair.ranking for pair in cats}) == len({pair.ranking for pair in dogs}) == 1
    assert len({pair.ranking for pair in found.pairs}) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a line of JSON"),
        ({"ranking": ["0.png", "1.png"]}, "lacks prompt"),
        ({"prompt": "a cat"}, "lacks a ranking"),
        ({"prompt": "a cat", "ranking": ["0.png"]}, "lacks a ranking"),
        ({"prompt": "a cat", "ranking": ["0.png", 1]}, "something else than names"),
        ({"prompt": "a cat", "ranking": ["0.png", []]}, "something else than names"),
        ({"prompt": "a cat", "ranking": ["0.png", ["1.png", "0.png"]]}, "twice"),
        ({"prompt": "a cat", "ranking": ["0.png", "../1.png"]}, "outside"),
    ],
)
def test_a_broken_line_is_named(ranking, line, said):
    with pytest.raises(UserError, match=f"line 2: .*{said}"):
        open_pairs(ranking(WHOLE, line)).load()


def test_the_layout_is_told_by_the_name_of_the_file(ranking):
    folder = ranking(WHOLE)
    for place, layout in ((folder, None), (folder / "ranking.jsonl", None), (folder, "ranked")):
        assert isinstance(find_reader(place, layout), RankedJsonl)


def test_a_ranking_comes_back_as_it_went_in(ranking, store, tmp_path):
    folder = ranking(WHOLE, TIED)
    report = import_pairs(store, "pets", folder)
    assert (report.pairs, report.judgements, report.pictures) == (11, 11, 6)
    assert import_pairs(store, "pets", folder).there == 11
    trained = open_pairs("dataset:pets", workspace=store.workspace).load().pairs
    assert sorted({(pair.prompt, pair.weight) for pair in trained}) == [("a cat", 0.5), ("a dog", 0.5)]
    assert len({pair.ranking for pair in trained}) == 2

    exported = export_pairs(store, "pets", "ranked", tmp_path / "out")
    assert exported.lost == ()
    lines = [json.loads(line) for line in (tmp_path / "out" / "ranking.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a cat", "a dog"]
    assert [len(tier) if isinstance(tier, list) else 1 for tier in lines[1]["ranking"]] == [1, 2, 1]
    again = open_pairs(tmp_path / "out").load().pairs
    chosen = {(pair.prompt, pair.chosen.sha256, pair.rejected.sha256) for pair in trained}
    assert {(pair.prompt, pair.chosen.sha256, pair.rejected.sha256) for pair in again} == chosen


def test_other_layouts_say_that_they_do_not_hold_a_ranking(ranking, store, tmp_path):
    import_pairs(store, "pets", ranking(WHOLE))
    assert (
        "which pictures were ranked together, of 6 pairs" in export_pairs(store, "pets", "invoke", tmp_path / "o").lost
    )


def test_a_ranking_that_somebody_contradicts_is_written_pair_by_pair(ranking, store, tmp_path):
    """One pair is a tie by then; the other five are no ranking any more."""
    import_pairs(store, "pets", ranking(WHOLE))
    with store.writing() as session:
        pair = session.scalars(select(Pair)).first()
        names = [row.first_on_left for row in session.scalars(select(Judgement).where(Judgement.pair_id == pair.id))]
        standing = session.scalars(select(Judgement).where(Judgement.pair_id == pair.id)).one()
        left_was_better = standing.answer == "left"
        from mapo_studio.trainer.preferences.schema import ImageRecord

        first, second = (session.get_one(ImageRecord, number).sha256 for number in (pair.first_id, pair.second_id))
        left = first if names[0] else second
        answer(session, "ann", Answer(pair.id, left, "right" if left_was_better else "left", "clearly", 1.0, "page", 1))
    report = export_pairs(store, "pets", "ranked", tmp_path / "out")
    assert report.pairs == 5
    assert [one.count for one in report.left] == [1]
    assert len(open_pairs(tmp_path / "out").load().pairs) == 5


def test_the_same_ranking_by_two_people_counts_twice(ranking, store):
    import_pairs(store, "pets", ranking(WHOLE, WHOLE))
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Judgement)) == 12
        assert find_dataset(session, "pets").kind == "pairs"
        assert {pair.votes for pair in session.scalars(select(Pair))} == {2.0}

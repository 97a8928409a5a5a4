"""What of a dataset is trained on, and that it can stand wherever a path of pairs can."""

from __future__ import annotations

import hashlib
import time

import pytest
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.bulk_insert import PairRow, add_rows
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset
from mapo_studio.trainer.preferences.images import image_path
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.preferences.schema import ImageRecord
from sqlalchemy import insert, select


@pytest.fixture(autouse=True)
def database(monkeypatch, url):
    """As training finds it: by the workspace and the environment."""
    if url:
        monkeypatch.setenv("MAPO_DATABASE_URL", url)


def load(there, name="dataset:cats"):
    return open_pairs(name, workspace=there.store.workspace).load()


def test_judged_pairs_are_trained_on_and_the_rest_is_counted(filled, counted, picture_bytes):
    there = filled(pictures=4)
    for sequence, (pair, said) in enumerate([(0, "left"), (1, "right"), (2, "tie"), (3, "both_bad"), (4, "skip")]):
        there.judge(pair=pair, answer=said, sequence=sequence, strength="slightly")
    found = load(there)
    names = {picture.id: picture.sha256 for picture in there.pictures}
    first, second = there.pairs[:2]
    assert [(one.prompt, one.chosen.sha256, one.rejected.sha256) for one in found.pairs] == [
        ("a cat", names[first.first_id], names[first.second_id]),
        ("a cat", names[second.second_id], names[second.first_id]),
    ]
    assert {(one.preference, one.weight) for one in found.pairs} == {(1.0, 0.5)}
    assert counted(found) == {"not labelled": 2, "tie": 1, "both bad": 1}
    assert found.source == "dataset:cats"
    picture = found.pairs[0].chosen
    assert picture.size == (16, 12)
    assert picture.label == f"images/{picture.sha256[:2]}/{picture.sha256}.png"
    assert hashlib.sha256(picture.read()).hexdigest() == picture.sha256


def test_several_judgements_are_one_uncertain_pair(filled):
    there = filled(pictures=2)
    for person, said in (("ann", "left"), ("bob", "left"), ("cid", "right"), ("dan", "tie")):
        there.judge(person, client=person, answer=said)
    [pair] = load(there).pairs
    assert pair.preference == 0.625


def test_nothing_is_read_before_it_is_needed_and_what_changed_is_told(filled):
    there = filled(pictures=2)
    there.judge()
    for picture in there.pictures:
        image_path(there.store, picture).unlink()
    [pair] = load(there).pairs
    with pytest.raises(UserError, match=rf"{pair.chosen.sha256}\.png is missing"):
        pair.chosen.read()


def test_a_dataset_that_gives_no_pair_says_why(filled):
    there = filled(pictures=2)
    with pytest.raises(UserError, match=r"cats holds no pair to train on: 1 x not labelled; judge some first"):
        load(there)
    with pytest.raises(UserError, match="no dataset dogs; there are cats"):
        load(there, "dataset:dogs")


def test_an_empty_dataset_says_so(store):
    with store.writing() as session:
        create_dataset(session, "cats")
    with pytest.raises(UserError, match="it is empty"):
        open_pairs("dataset:cats", workspace=store.workspace).load()


def test_a_comparison_is_not_trained_on_by_itself(store):
    with store.writing() as session:
        create_dataset(session, "cats vs base", kind="comparison")
    with pytest.raises(UserError, match="fed back"):
        open_pairs("dataset:cats vs base", workspace=store.workspace).load()


def test_a_dataset_lies_in_a_workspace():
    with pytest.raises(UserError, match="say in which"):
        open_pairs("dataset:cats")


def test_the_name_of_a_dataset_is_no_path_to_make_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset:cats").mkdir()
    config = parse_config({"base": "x", "data": {"pairs": "dataset:cats"}}, "").with_whole_paths()
    assert config.data.pairs == "dataset:cats"


@pytest.mark.slow
@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_hundred_thousand_pairs_are_loaded_in_seconds(store):
    count = 100_000
    with store.writing() as session:
        dataset = create_dataset(session, "cats")
        facts = {"ending": ".png", "width": 1, "height": 1, "created": 0.0}
        names = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count + 1)]
        session.execute(insert(ImageRecord.__table__), [{"sha256": name, **facts} for name in names])
        pictures = session.scalars(select(ImageRecord).order_by(ImageRecord.id)).all()
        rows = [PairRow(f"prompt {n % 20_000}", pictures[n], pictures[n + 1], n, 1.0) for n in range(count)]
        began = time.process_time()
        add_rows(session, dataset, rows, "import:x")
        assert count / (time.process_time() - began) > 2000
    began = time.process_time()
    assert len(open_pairs("dataset:cats", workspace=store.workspace).load().pairs) == count
    assert time.process_time() - began < 8


def test_the_stamp_changes_with_every_judgement_of_the_dataset_and_with_nothing_else(filled):
    there, other = filled(pictures=3), filled(pictures=2, dataset="dogs")
    source = open_pairs("dataset:cats", workspace=there.store.workspace)
    stamps = [source.stamp()]
    for act in (
        lambda: there.judge(pair=0, sequence=0),
        lambda: there.judge(pair=0, sequence=1, answer="right"),
        lambda: there.undo(sequence=2, undoes=1),
    ):
        act()
        stamps.append(source.stamp())
    assert len(set(stamps)) == 4
    other.judge(client="elsewhere")
    assert source.stamp() == stamps[-1]
    with there.store.writing() as session:
        find_dataset(session, "cats").held_out = 0.3
    assert source.stamp() != stamps[-1]


def test_a_stamp_of_no_dataset_is_refused(filled):
    with pytest.raises(UserError, match="there is no dataset birds"):
        open_pairs("dataset:birds", workspace=filled().store.workspace).stamp()

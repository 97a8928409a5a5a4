"""A rejected picture's own caption: read, kept, trained on and written; without one everything is as before."""

from __future__ import annotations

import json
from itertools import count

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.preferences.io.exporter import export_pairs
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.pairs import Pair, split_by_prompt

_NUMBERS = count()


@pytest.fixture
def store(sqlite_store):
    return sqlite_store


@pytest.fixture
def jsonl(tmp_path, picture_bytes):
    """jsonl(**fields): a folder with one line; picture 1 is rejected."""

    def write(**fields):
        folder = tmp_path / f"set {next(_NUMBERS)}"
        folder.mkdir()
        for number in (0, 1):
            (folder / f"{number}.png").write_bytes(picture_bytes(number))
        line = {"image_0": "0.png", "image_1": "1.png", "prompt": "a cat", "prefer_0": True, "prefer_1": False}
        (folder / "metadata.jsonl").write_text(json.dumps(line | fields))
        return folder

    return write


@pytest.fixture
def folders(tmp_path, picture_bytes):
    """folders(chosen, rejected, kind): a kohya or OneTrainer folder with these captions."""

    def write(chosen, rejected, kind):
        folder = tmp_path / f"set {next(_NUMBERS)}"
        names = {"kohya": ("w/1", "l/1"), "onetrainer": ("1_chosen", "1_rejected")}[kind]
        for number, (name, caption) in enumerate(zip(names, (chosen, rejected), strict=True)):
            picture = folder / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(picture_bytes(number))
            picture.with_suffix(".txt").write_text(caption)
        return folder

    return write


def only(path, **more):
    [pair] = open_pairs(path, **more).load().pairs
    return pair


def test_it_is_read_from_a_line(jsonl):
    pair, plain = only(jsonl(rejected_prompt="a  dog\n")), only(jsonl())
    assert (pair.prompt, pair.rejected_prompt, plain.rejected_prompt) == ("a cat", "a dog", None)
    assert pair.id != plain.id
    assert only(jsonl(rejected_prompt="a  cat")) == plain or only(jsonl(rejected_prompt="a  cat")).id == plain.id
    with pytest.raises(UserError, match="rejected_prompt is no text"):
        only(jsonl(rejected_prompt=3))


def test_it_belongs_to_whichever_picture_is_rejected(jsonl):
    pair = only(jsonl(rejected_prompt="a dog", prefer_0=False, prefer_1=True))
    assert (pair.rejected.label, pair.rejected_prompt) == ("0.png", "a dog")


@pytest.mark.parametrize("kind", ["kohya", "onetrainer"])
def test_in_folders_it_must_be_asked_for(folders, kind):
    folder = folders("a cat", "a dog", kind)
    with pytest.raises(UserError, match="captions of the two pictures differ"):
        only(folder)
    pair = only(folder, own_captions=True)
    assert (pair.prompt, pair.rejected_prompt) == ("a cat", "a dog")
    assert only(folders("a cat", "a cat\n", kind), own_captions=True).rejected_prompt is None


def test_a_pair_without_one_is_the_pair_that_it_was(jsonl):
    """Its id is in the held-out noise and in every cache of what was trained."""
    pair = only(jsonl())
    assert pair.id == Pair("a cat", pair.chosen, pair.rejected).id
    assert open_pairs(jsonl()).load().fingerprint == open_pairs(jsonl()).load().fingerprint


def test_held_out_is_told_by_the_prompt_of_the_chosen(jsonl):
    pair = only(jsonl())
    others = [Pair(f"prompt {i}", pair.chosen, pair.rejected, rejected_prompt=f"other {i}") for i in range(40)]
    plain = [Pair(one.prompt, one.chosen, one.rejected) for one in others]
    with_captions, without = split_by_prompt(others, 0.3), split_by_prompt(plain, 0.3)
    assert [one.prompt for one in with_captions.held_out] == [one.prompt for one in without.held_out] != []


@pytest.mark.parametrize("layout", ["invoke", "kohya", "onetrainer", "binarized", "votes", "pick-a-pic"])
def test_it_comes_back_from_the_workspace(jsonl, store, tmp_path, layout):
    import_pairs(store, "pets", jsonl(rejected_prompt="a dog"))
    trained = only("dataset:pets", workspace=store.workspace)
    assert (trained.prompt, trained.rejected_prompt) == ("a cat", "a dog")
    report = export_pairs(store, "pets", layout, tmp_path / "out")
    assert report.lost == ()
    assert only(tmp_path / "out", own_captions=True).id == trained.id


def test_a_layout_without_place_for_it_says_so(jsonl, store, tmp_path):
    import_pairs(store, "pets", jsonl(rejected_prompt="a dog"))
    assert export_pairs(store, "pets", "ranked", tmp_path / "out").lost == (
        "the rejected pictures' own captions, of 1 pairs",
    )

"""Is invoke-training's metadata.jsonl read, and every broken line named?"""

import json

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.aggregate import AggregatedPairs
from mapo_studio.trainer.preferences.io.invoke import InvokeJsonl


@pytest.fixture
def line(tmp_path, picture_bytes):
    def make(number, prefer_0=True, prefer_1=False, **more):
        for side in (0, 1):
            (tmp_path / f"{number}_{side}.png").write_bytes(picture_bytes(2 * number + side))
        names = {f"image_{side}": f"{number}_{side}.png" for side in (0, 1)}
        return {**names, "prompt": f"prompt {number}", "prefer_0": prefer_0, "prefer_1": prefer_1, **more}

    return make


@pytest.fixture
def loaded(tmp_path):
    def load(*lines, bad="stop"):
        text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        (tmp_path / "metadata.jsonl").write_text(text)
        return AggregatedPairs(InvokeJsonl(tmp_path / "metadata.jsonl"), bad).load()

    return load


def test_the_preferred_picture_is_chosen(line, loaded, counted):
    found = loaded(line(0), line(1, False, True), "", line(2, True, True), line(3, False, False), line(4, None))
    assert [(pair.chosen.label, pair.rejected.label) for pair in found.pairs] == [
        ("0_0.png", "0_1.png"),
        ("1_1.png", "1_0.png"),
    ]
    assert counted(found) == {"tie": 2, "not labelled": 1}


def test_votes_become_a_preference(line, loaded):
    assert loaded(line(0, 1, 3)).pairs[0].preference == 0.75


def test_absolute_paths_are_taken_as_they_are(line, loaded, tmp_path, picture_bytes):
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere.png"
    elsewhere.write_bytes(picture_bytes(77))
    assert loaded(line(0, image_0=str(elsewhere))).pairs[0].chosen.path == elsewhere


@pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png"])
def test_relative_paths_may_not_leave_the_folder(line, loaded, tmp_path, picture_bytes, name):
    (tmp_path.parent / "outside.png").write_bytes(picture_bytes(78))
    with pytest.raises(UserError, match=r"line 1: .*outside the data set's folder"):
        loaded(line(0, image_0=name))


BROKEN = {
    "missing picture": ({"image_1": "nowhere.png"}, "nowhere.png is missing"),
    "a folder": ({"image_1": "."}, "cannot be read"),
    "empty prompt": ({"prompt": ""}, "the caption is empty"),
    "no prompt": ({"prompt": None}, "lacks prompt"),
    "text as preference": ({"prefer_0": "yes"}, "mean nothing"),
    "the same picture twice": ({"image_1": "1_0.png"}, "identical"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_line_stops_with_its_number_or_is_skipped_and_listed(line, loaded, what):
    change, why = BROKEN[what]
    with pytest.raises(UserError, match=rf"metadata\.jsonl line 2: .*{why}"):
        loaded(line(0), line(1, **change))
    found = loaded(line(0), line(1, **change), bad="skip")
    assert len(found.pairs) == 1
    assert found.left_out[0].examples == ("metadata.jsonl line 2",)


@pytest.mark.parametrize(("text", "why"), [("{not json", "not a line of JSON"), ("[1, 2]", "not a JSON object")])
def test_a_line_that_is_no_object_is_named(line, loaded, text, why):
    with pytest.raises(UserError, match=f"line 2: {why}"):
        loaded(line(0), text)


def test_an_empty_picture_file_is_named(line, loaded, tmp_path):
    row = line(0)
    (tmp_path / "0_1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"line 1: 0_1\.png is empty"):
        loaded(row)


def test_a_picture_changed_after_loading_is_noticed(line, loaded, tmp_path, picture_bytes):
    pair = loaded(line(0)).pairs[0]
    (tmp_path / "0_0.png").write_bytes(picture_bytes(99))
    with pytest.raises(UserError, match=r"0_0\.png has changed"):
        pair.chosen.read()
    (tmp_path / "0_1.png").unlink()
    with pytest.raises(UserError, match=r"0_1\.png is missing"):
        pair.rejected.read()


def test_an_empty_list_says_so(loaded):
    with pytest.raises(UserError, match="it is empty"):
        loaded()

"""Are OneTrainer's pairs found by the names of their pictures, and is every odd one named?"""

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.aggregate import AggregatedPairs
from mapo_studio.trainer.preferences.io.onetrainer import OneTrainerFolder


@pytest.fixture
def put(tmp_path, picture_bytes):
    """put(**{name: seed or text}): files of the folder `set`; the folder."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture_bytes(content) if isinstance(content, int) else content.encode())
        return tmp_path / "set"

    return write


def load(folder, *patterns, bad="stop"):
    return AggregatedPairs(OneTrainerFolder(folder, *patterns), bad).load()


def test_names_say_which_picture_is_chosen(put):
    folder = put({"a_chosen.png": 0, "a_rejected.jpg": 1, "a_chosen.txt": "a cat", "note.md": "x"})
    (pair,) = load(folder).pairs
    assert (pair.prompt, pair.chosen.label, pair.rejected.label) == ("a cat", "set/a_chosen.png", "set/a_rejected.jpg")


@pytest.mark.parametrize("caption", ["a_chosen.txt", "a_rejected.txt", "a.txt", "a.caption"])
def test_one_caption_beside_any_of_them_is_enough(put, caption):
    assert load(put({"a_chosen.png": 0, "a_rejected.png": 1, caption: "a cat"})).pairs[0].prompt == "a cat"


def test_subfolders_are_part_of_the_name(put):
    files = {}
    for place in ("x", "y"):
        files |= {f"{place}/a_chosen.png": 0, f"{place}/a_rejected.png": 1, f"{place}/a.txt": place}
    assert [pair.prompt for pair in load(put(files)).pairs] == ["x", "y"]


def test_patterns_may_be_folders(put):
    folder = put({"good/a.png": 0, "bad/a.png": 1, "a.txt": "a cat", "good/a.jpg": 2})
    (pair,) = load(folder, "good/{}.png", "bad/{}.png").pairs
    assert pair.chosen.label == "set/good/a.png"


def test_what_both_patterns_match_belongs_to_the_one_that_says_more(put):
    folder = put({"a.png": 0, "a_rejected.png": 1, "a.txt": "a cat"})
    assert load(folder, "{}.png", "{}_rejected.png").pairs[0].chosen.label == "set/a.png"


def test_letters_that_mean_something_to_a_search_are_letters(put):
    folder = put({"a(1)+.png": 0, "a(2)+.png": 1, "a.txt": "a cat"})
    assert len(load(folder, "{}(1)+.png", "{}(2)+.png").pairs) == 1


def test_other_pictures_are_left_out_and_counted(put, counted):
    folder = put({"a_chosen.png": 0, "a_rejected.png": 1, "a.txt": "a cat", "other.png": 2})
    assert counted(load(folder)) == {"its name matches neither pattern": 1}


BROKEN = {
    "b_chosen.png alone": ({"b_chosen.png": 4}, "no rejected picture"),
    "two of a name": ({"b_chosen.png": 4, "b_chosen.jpg": 5, "b_rejected.png": 6}, "several chosen pictures"),
    "no caption": ({"b_chosen.png": 4, "b_rejected.png": 6}, "no caption"),
    "two captions": (
        {"b_chosen.png": 4, "b_rejected.png": 6, "b_chosen.txt": "x", "b_rejected.txt": "y"},
        "captions of the two pictures differ",
    ),
    "damaged": ({"b_chosen.png": "hello", "b_rejected.png": 6, "b.txt": "x"}, "is not a picture"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pair_stops_by_name_or_is_skipped_and_listed(put, what):
    files, why = BROKEN[what]
    folder = put({"a_chosen.png": 0, "a_rejected.png": 1, "a.txt": "a cat", **files})
    with pytest.raises(UserError, match=f"b: .*{why}"):
        load(folder)
    found = load(folder, bad="skip")
    assert (len(found.pairs), found.left_out[0].examples) == (1, ("b",))


@pytest.mark.parametrize("patterns", [("x", "{}_l"), ("{}_{}", "{}_l"), ("{}_w", "{}_w")])
def test_patterns_that_cannot_work_are_refused(tmp_path, patterns):
    with pytest.raises(UserError, match=r"exactly one \{\}|are both"):
        OneTrainerFolder(tmp_path, *patterns)

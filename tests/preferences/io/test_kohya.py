"""Are kohya's w and l folders read, with repeats as weights, and every unpaired picture named?"""

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.aggregate import AggregatedPairs
from mapo_studio.trainer.preferences.io.kohya import KohyaFolders


@pytest.fixture
def put(tmp_path, picture_bytes):
    def write(folder, name, w=True, l=True, caption="a cat", seed=0):  # noqa: E741 - the folder's name
        for side, wanted in (("w", w), ("l", l)):
            place = tmp_path / "set" / folder / side
            place.mkdir(parents=True, exist_ok=True)
            if wanted:
                (place / name).write_bytes(picture_bytes(2 * seed + (side == "l")))
                if caption is not None:
                    (place / name).with_suffix(".caption").write_text(caption)

    return write


def load(tmp_path, bad="stop"):
    return AggregatedPairs(KohyaFolders(tmp_path / "set"), bad).load()


def test_w_is_chosen_over_l_and_the_number_is_the_weight(tmp_path, put):
    put("1_cats", "x.png", seed=0)
    put("5_dogs", "y.png", caption="a dog\n", seed=1)
    pairs = load(tmp_path).pairs
    assert [(pair.prompt, pair.weight, pair.preference) for pair in pairs] == [("a cat", 1, 1), ("a dog", 5, 1)]
    assert [pair.chosen.label for pair in pairs] == ["set/1_cats/w/x.png", "set/5_dogs/w/y.png"]
    assert [pair.rejected.label for pair in pairs] == ["set/1_cats/l/x.png", "set/5_dogs/l/y.png"]


def test_one_concept_folder_can_be_opened_itself(tmp_path, put):
    put("3_cats", "x.png")
    (pair,) = AggregatedPairs(KohyaFolders(tmp_path / "set" / "3_cats")).load().pairs
    assert pair.weight == 3


def test_a_txt_caption_beside_one_picture_is_the_prompt_of_both(tmp_path, put):
    put("1_cats", "x.png", caption=None)
    (tmp_path / "set/1_cats/l/x.txt").write_text("a cat\nasleep")
    assert load(tmp_path).pairs[0].prompt == "a cat asleep"


def test_pictures_belong_together_by_name_whatever_their_extension(tmp_path, put, picture_bytes):
    put("1_cats", "x.png", l=False)
    (tmp_path / "set/1_cats/l/x.JPG").write_bytes(picture_bytes(9, kind="JPEG"))
    assert load(tmp_path).pairs[0].rejected.label == "set/1_cats/l/x.JPG"


def spoil_nothing_in_l(folder, picture_bytes):
    (folder / "l/y.png").unlink()


def spoil_two_of_a_name(folder, picture_bytes):
    (folder / "w/y.jpg").write_bytes(picture_bytes(9, kind="JPEG"))


def spoil_captions(folder, picture_bytes):
    (folder / "l/y.caption").write_text("a dog")


def spoil_no_caption(folder, picture_bytes):
    (folder / "l/y.caption").unlink()
    (folder / "w/y.caption").unlink()


def spoil_empty_caption(folder, picture_bytes):
    for side in "wl":
        (folder / side / "y.caption").write_text(" \n")


def spoil_same(folder, picture_bytes):
    (folder / "l/y.png").write_bytes((folder / "w/y.png").read_bytes())


def spoil_zero_bytes(folder, picture_bytes):
    (folder / "w/y.png").write_bytes(b"")


BROKEN = {
    spoil_nothing_in_l: "no picture of this name in l/",
    spoil_two_of_a_name: "several pictures of this name in w/",
    spoil_captions: "captions of the two pictures differ",
    spoil_no_caption: "no caption beside either",
    spoil_empty_caption: "the caption is empty",
    spoil_same: "identical",
    spoil_zero_bytes: "w/y.png is empty",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_a_broken_pair_stops_by_name_or_is_skipped_and_listed(tmp_path, put, picture_bytes, spoil):
    put("1_cats", "x.png", seed=0)
    put("1_cats", "y.png", seed=1)
    spoil(tmp_path / "set/1_cats", picture_bytes)
    with pytest.raises(UserError, match=rf"set/1_cats/\*/y: .*{BROKEN[spoil]}"):
        load(tmp_path)
    found = load(tmp_path, "skip")
    assert len(found.pairs) == 1
    assert found.left_out[0].examples == ("set/1_cats/*/y",)


def test_zero_repeats_are_refused(tmp_path, put):
    put("0_cats", "x.png")
    with pytest.raises(UserError, match="0 repeats"):
        load(tmp_path)

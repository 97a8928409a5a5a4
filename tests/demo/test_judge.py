"""The demo's judge: what it draws and prefers, and what is read from images."""

import json

import pytest
from mapo_studio.trainer.demo import judge as pairs
from mapo_studio.trainer.demo.judge import Measurement, measure
from mapo_studio.trainer.demo.shapes_world import Scene, captions, draw, read, scene_of
from PIL import Image

pytestmark = pytest.mark.slow


def rows(metadata):
    return [json.loads(line) for line in metadata.read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return pairs.write_pairs(tmp_path_factory.mktemp("pairs"), count=50, seed=3)


def test_chosen_picture_is_outlined_and_rejected_is_plain(written):
    for row in rows(written):
        for side in (0, 1):
            reading = read(Image.open(written.parent / row[f"image_{side}"]))
            assert reading.outline is row[f"prefer_{side}"]


def test_both_pictures_show_the_prompt(written):
    for row in rows(written):
        for side in (0, 1):
            reading = read(Image.open(written.parent / row[f"image_{side}"]))
            assert reading.agrees_with_caption_of(scene_of(row["prompt"]))


def test_decided_pairs_are_as_many_as_asked_for_and_ties_come_on_top(written):
    ties = [row for row in rows(written) if row["prefer_0"] == row["prefer_1"]]
    assert len(rows(written)) - len(ties) == 50
    assert len(ties) == 2


def test_chosen_picture_is_on_either_side(written):
    decided = [row for row in rows(written) if row["prefer_0"] != row["prefer_1"]]
    assert 10 < sum(row["prefer_0"] for row in decided) < 40


def test_size_and_tint_do_not_follow_the_choice(tmp_path):
    metadata = pairs.write_pairs(tmp_path, count=150, seed=0)
    large = {True: 0, False: 0}
    for row in rows(metadata):
        if row["prefer_0"] != row["prefer_1"]:
            for side in (0, 1):
                large[row[f"prefer_{side}"]] += read(Image.open(tmp_path / row[f"image_{side}"])).size == "large"
    assert abs(large[True] - large[False]) < 45


@pytest.mark.parametrize("seed", range(3))
def test_held_out_captions_are_in_no_pair(tmp_path, seed):
    metadata = pairs.write_pairs(tmp_path, count=60, seed=seed)
    held_out = pairs.test_captions(seed)
    assert len(set(held_out)) == pairs.HELD_OUT
    assert set(held_out) <= set(captions())
    assert not set(held_out) & {row["prompt"] for row in rows(metadata)}


def test_same_seed_writes_the_same_files(tmp_path):
    for name in ("one", "two"):
        pairs.write_pairs(tmp_path / name, count=5, seed=9)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second


RED = Scene("red", "circle", "in the middle", True, "large", "paper")
BLUE = Scene("blue", "star", "at the top left", False, "small", "sky")


def test_shares_are_of_all_pictures():
    pictures = [draw(RED), draw(BLUE), draw(BLUE), draw(BLUE)]
    captions = [RED.caption, BLUE.caption, RED.caption, BLUE.caption]
    assert measure(pictures, captions) == Measurement(count=4, outlined=0.25, right=0.75)


def test_unreadable_picture_is_neither_outlined_nor_right():
    empty = Image.new("RGB", (64, 64), "white")
    assert measure([empty], [RED.caption]) == Measurement(count=1, outlined=0.0, right=0.0)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="one caption a picture"):
        measure([], [])


def test_missing_caption_is_an_error():
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        measure([draw(RED), draw(RED)], [RED.caption])

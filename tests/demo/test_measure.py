import pytest
from mapo_studio.trainer.demo.measure import Measurement, measure
from mapo_studio.trainer.demo.shapes_world import Scene, draw
from PIL import Image

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

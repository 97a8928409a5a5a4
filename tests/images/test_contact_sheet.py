"""How do pictures become one sheet to compare them on?"""

from __future__ import annotations

import pytest
from mapo_studio.trainer.images.contact_sheet import _BACKGROUND, grid, notice
from PIL import Image

RED, BLUE = (220, 30, 30), (30, 30, 220)


def plain(colour, size=(512, 512)):
    return Image.new("RGB", size, colour)


def colours(sheet):
    return {colour: count for count, colour in sheet.getcolors(maxcolors=1 << 20)}


def test_every_picture_is_on_the_sheet_whole():
    found = colours(grid([[plain(RED), plain(BLUE)], [plain(BLUE), None]], ["a fox", "a cat"], ["base", "LoRA"]))
    assert found[RED] == 512 * 512
    assert found[BLUE] == 2 * 512 * 512


def test_labels_take_room_and_are_drawn():
    bare = grid([[plain(RED)]])
    labelled = grid([[plain(RED)]], ["a fox"], ["base"])
    assert labelled.height > bare.height
    assert set(colours(bare)) == {RED, _BACKGROUND}
    assert len(colours(labelled)) > 3


def test_small_pictures_are_enlarged_with_their_pixels_left_square():
    small = Image.new("RGB", (2, 1), RED)
    small.putpixel((0, 0), BLUE)
    found = colours(grid([[small]], cell=65))
    assert found[RED] == found[BLUE] == 32 * 32
    assert set(found) == {RED, BLUE, _BACKGROUND}


def test_large_pictures_are_shrunk_in_proportion():
    assert colours(grid([[plain(RED, (2000, 1000))]], cell=100))[RED] == 100 * 50


def test_long_captions_stay_on_the_sheet_and_end_in_dots():
    one, three, endless = (grid([[plain(RED)]], ["word " * n]) for n in (1, 80, 4000))
    assert one.width == three.width == endless.width
    assert one.height < three.height
    assert endless.height == three.height


@pytest.mark.parametrize("rows", [[], [[]], [[None]]])
def test_a_sheet_without_pictures_is_an_error(rows):
    with pytest.raises(ValueError, match="at least one picture"):
        grid(rows)


def test_a_sheet_without_pictures_says_why():
    sheet = notice("No pair of cats has a preference yet. " * 3)
    assert sheet.size == (768, 384)
    ink = Image.eval(sheet.convert("L"), lambda value: 255 if value > 90 else 0).getbbox()
    assert ink[0] > 60
    assert ink[2] < 708
    assert 60 < ink[1] < ink[3] < 324

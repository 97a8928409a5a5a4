from dataclasses import fields
from itertools import product

import numpy as np
import pytest
from mapo_studio.trainer.demo.shapes_world import (
    COLOURS,
    SHAPES,
    SIZES,
    TINTS,
    Reading,
    Scene,
    captions,
    draw,
    dress,
    read,
    scene_of,
)
from PIL import Image, ImageFilter


def expected(scene: Scene) -> Reading:
    return Reading(**{field.name: getattr(scene, field.name) for field in fields(Reading)})


def dressed(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [dress(str(rng.choice(captions())), rng, outline=bool(rng.integers(2))) for _ in range(count)]


@pytest.mark.slow
def test_every_drawn_scene_is_read_back_exactly():
    rng = np.random.default_rng(0)
    for caption, outline, size, tint in product(captions(), (False, True), SIZES, TINTS):
        named = scene_of(caption)
        dx, dy = rng.uniform(-1.5, 1.5, 2)
        scene = Scene(named.colour, named.shape, named.position, outline, size, tint, dx, dy, rng.uniform(0.94, 1.06))
        assert read(draw(scene)) == expected(scene), scene


@pytest.mark.parametrize("scene", dressed(60, seed=1), ids=lambda scene: scene.caption)
def test_drawn_scene_is_read_back_exactly(scene):
    assert read(draw(scene)) == expected(scene)


@pytest.mark.parametrize("scene", dressed(40, seed=2), ids=lambda scene: scene.caption)
def test_blurred_and_speckled_picture_is_still_read(scene):
    blurred = np.asarray(draw(scene).filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    speckled = blurred + np.random.default_rng(3).normal(0, 8, blurred.shape)
    assert read(Image.fromarray(np.clip(speckled, 0, 255).astype(np.uint8))) == expected(scene)


def test_empty_picture_has_a_tint_and_nothing_else():
    empty = Image.new("RGB", (64, 64), TINTS["mint"])
    assert read(empty) == Reading(None, None, None, None, None, "mint")


def test_noise_is_not_recognised_as_anything():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    reading = read(noise)
    assert reading.shape is None
    assert reading.position is None


def test_two_shapes_are_not_recognised_as_one():
    left = draw(Scene("red", "circle", "at the top left", False, "large", "paper"))
    right = draw(Scene("red", "circle", "at the top right", False, "large", "paper"))
    both = Image.fromarray(np.minimum(np.asarray(left), np.asarray(right)))
    assert read(both).shape is None


def test_shape_of_an_unknown_colour_has_no_colour():
    picture = np.asarray(draw(Scene("red", "circle", "in the middle", False, "large", "paper")))
    grey = picture.copy()
    grey[(picture[..., 0] > 200) & (picture[..., 1] < 100)] = (120, 120, 120)
    reading = read(Image.fromarray(grey))
    assert reading.colour is None
    assert reading.shape == "circle"


def test_half_an_outline_is_neither_outlined_nor_plain():
    plain = Scene("red", "circle", "in the middle", False, "large", "paper")
    outlined = Scene("red", "circle", "in the middle", True, "large", "paper")
    half = np.asarray(draw(plain)).copy()
    half[:, :32] = np.asarray(draw(outlined))[:, :32]
    assert read(Image.fromarray(half)).outline is None


def test_captions_are_all_different_and_name_the_scene():
    assert len(set(captions())) == len(COLOURS) * len(SHAPES) * 5
    assert all(scene_of(caption).caption == caption for caption in captions())


def test_free_attributes_do_not_change_the_caption():
    rng = np.random.default_rng(0)
    scenes = {dress("a red circle in the middle", rng, outline=bool(i % 2)) for i in range(20)}
    assert len(scenes) == 20
    assert {scene.caption for scene in scenes} == {"a red circle in the middle"}


def test_same_seed_dresses_the_same_scene():
    first, second = (dress("a red circle in the middle", np.random.default_rng(5), outline=True) for _ in range(2))
    assert first == second

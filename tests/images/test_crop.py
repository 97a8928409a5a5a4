"""Does the crop cover its size without squashing, and does it know where it was cut?"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mapo_studio.trainer.images.crop import CoverCrop, SizeConditioning
from PIL import Image


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


SIDES = st.integers(1, 9000)
TARGETS = st.tuples(st.integers(1, 32), st.integers(1, 32)).map(lambda cells: (cells[0] * 64, cells[1] * 64))


@given(st.tuples(SIDES, SIDES), TARGETS)
def test_the_scaled_picture_covers_the_target_and_is_whole_along_one_side(size, target):
    crop = CoverCrop.fit(size, target)
    assert crop.scaled[0] >= target[0]
    assert crop.scaled[1] >= target[1]
    assert crop.scaled[0] == target[0] or crop.scaled[1] == target[1]


@given(st.tuples(SIDES, SIDES), TARGETS)
def test_aspect_changes_by_no_more_than_rounding_one_side_to_a_pixel(size, target):
    (width, height), (scaled_width, scaled_height) = size, CoverCrop.fit(size, target).scaled
    exact_height = height * scaled_width / width
    exact_width = width * scaled_height / height
    assert abs(exact_height - scaled_height) <= 0.5 + 1e-6 or abs(exact_width - scaled_width) <= 0.5 + 1e-6


@given(st.tuples(SIDES, SIDES), TARGETS)
def test_the_crop_is_central_and_inside(size, target):
    crop = CoverCrop.fit(size, target)
    for side in (0, 1):
        after = crop.scaled[side] - crop.corner[side] - target[side]
        assert 0 <= after - crop.corner[side] <= 1


@given(st.tuples(SIDES, SIDES), TARGETS)
def test_upscaled_says_whether_pixels_had_to_be_invented(size, target):
    assert CoverCrop.fit(size, target).upscaled == (size[0] < target[0] or size[1] < target[1])


@given(TARGETS)
def test_a_picture_of_the_target_size_is_left_alone(target):
    crop = CoverCrop.fit(target, target)
    assert crop.scaled == target
    assert crop.corner == (0, 0)
    assert not crop.upscaled


def test_size_conditioning_has_height_before_width_and_the_crop_in_scaled_pixels():
    assert CoverCrop.fit((2000, 1000), (640, 640)).size_conditioning.as_list() == [1000, 2000, 0, 320, 640, 640]


def test_size_conditioning_lists_height_before_width():
    assert SizeConditioning(1, 2, 3, 4, 5, 6).as_list() == [1, 2, 3, 4, 5, 6]


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)), st.sampled_from([(64, 64), (48, 80), (80, 48)]), st.booleans()
)
def test_applied_pictures_have_the_target_size_and_agree_with_scaling_then_cropping(size, target, flip):
    gradient = np.stack(np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1])), -1)
    image = Image.fromarray(np.dstack([gradient, gradient[..., :1]]).round().astype(np.uint8))
    crop = CoverCrop.fit(size, target)
    got = crop.apply(image, flip)
    assert got.size == target
    left, top = crop.corner
    plain = image.resize(crop.scaled, Image.Resampling.LANCZOS).crop((left, top, left + target[0], top + target[1]))
    wanted = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else plain
    # Smooth pictures: only the outermost pixels may differ, where the resampling sees the crop's edge.
    inner = np.abs(np.asarray(got).astype(int) - np.asarray(wanted))[4:-4, 4:-4]
    assert np.percentile(inner, 95) <= 3


def test_a_thread_thin_picture_is_fitted_without_filling_the_memory():
    crop = CoverCrop.fit((60_000, 1), (1024, 1024))
    assert crop.scaled == (61_440_000, 1024)
    assert crop.apply(Image.new("RGB", (60_000, 1), "red")).getpixel((500, 500)) == (255, 0, 0)


def test_an_unchanged_size_keeps_every_pixel():
    image = noise(64, 48)
    assert CoverCrop.fit((64, 48), (64, 48)).apply(image).tobytes() == image.tobytes()

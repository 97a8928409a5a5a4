"""Are the training sizes what they promise, and does each picture get the nearest?"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.images.aspect_buckets import bucket_for, buckets

BASES = st.sampled_from([(1024, 8), (768, 8), (512, 8), (256, 8), (128, 8), (64, 8), (64, 4), (1000, 8), (32, 4)])


@given(BASES)
def test_buckets_are_whole_steps_within_the_area_and_between_one_to_two_and_two_to_one(base):
    resolution, latent_factor = base
    sizes = buckets(resolution, latent_factor)
    step = latent_factor * (8 if resolution >= 32 * latent_factor else 4)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert 0.5 <= width / height <= 2
        assert (height, width) in sizes
    assert len(set(sizes)) == len(sizes)
    assert sizes[0][0] == sizes[0][1]


@pytest.mark.parametrize("base", [(1024, 8), (768, 8), (512, 8), (256, 8), (64, 4)])
def test_no_bucket_is_much_smaller_than_the_square(base):
    assert min(width * height for width, height in buckets(*base)) >= 0.9 * base[0] ** 2


def test_sdxl_has_its_usual_sizes():
    sizes = buckets(1024, 8)
    assert {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344)} <= set(sizes)


def test_a_tiny_base_has_a_wide_and_a_tall_size_besides_the_square():
    assert buckets(64, 4) == ((64, 64), (80, 48), (48, 80))


def test_a_resolution_below_one_step_is_refused():
    with pytest.raises(UserError, match="too small"):
        buckets(16, 8)


@given(BASES, st.integers(1, 20_000), st.integers(1, 20_000))
def test_no_other_bucket_is_nearer_in_aspect(base, width, height):
    sizes = buckets(*base)

    def distance(size):
        return abs(math.log(size[0] / size[1]) - math.log(width / height))

    assert distance(bucket_for(width, height, sizes)) <= min(map(distance, sizes)) + 1e-6


@given(BASES, st.integers(1, 5_000), st.integers(1, 5_000))
def test_a_turned_picture_gets_the_turned_bucket_unless_two_are_equally_near(base, width, height):
    sizes = buckets(*base)
    near = sorted(abs(math.log(size[0] / size[1]) - math.log(width / height)) for size in sizes)
    if len(near) > 1 and near[1] - near[0] < 1e-6:
        return
    assert bucket_for(height, width, sizes) == bucket_for(width, height, sizes)[::-1]


@given(BASES)
def test_a_picture_of_a_buckets_size_gets_that_bucket(base):
    sizes = buckets(*base)
    assert all(bucket_for(*size, sizes) == size for size in sizes)


@pytest.mark.parametrize(("width", "wanted"), [(141, (64, 64)), (142, (128, 64)), (145, (128, 64))])
def test_nearest_means_the_ratio_of_aspects_and_not_their_difference(width, wanted):
    sizes = ((64, 64), (128, 64), (64, 128))
    assert bucket_for(width, 100, sizes) == wanted
    assert bucket_for(100, width, sizes) == wanted[::-1]


def test_of_two_equally_near_buckets_the_larger_is_taken():
    assert bucket_for(100, 100, ((64, 128), (96, 96), (128, 128))) == (128, 128)

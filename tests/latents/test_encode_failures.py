"""Is every failure of encoding named, and a short memory made do with?"""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mapo_studio.tests.small_base import SmallBase, SmallText, files, run, small_vae, some_pairs
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.images.crop import CoverCrop
from mapo_studio.trainer.images.decode import open_image
from mapo_studio.trainer.latents.encode import load_latent

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(tmp_path):
    return some_pairs(tmp_path / "pictures")


def broken_for(pixel_sum):
    """A real VAE whose answer for one picture is not a number, as an overflowing half-precision one's."""

    def make(seed):
        vae = small_vae(seed)
        whole = vae.encode

        def encode_with_nan(pixels):
            answer = whole(pixels)
            for row, one in enumerate(pixels):
                if abs(one.sum().item() - pixel_sum) < 1e-2:
                    answer.latent_dist.mean[row, 0, 0, 0] = float("nan")
            return answer

        vae.encode = encode_with_nan
        return vae

    return make


def test_a_latent_that_is_not_finite_names_the_picture_and_is_not_kept(pairs, tmp_path):
    pixels = np.asarray(CoverCrop.fit((64, 64), (64, 64)).apply(open_image(pairs[0].rejected))).astype(np.float32)
    base = SmallBase(vae_class=broken_for(float((torch.from_numpy(pixels) / 127.5 - 1).sum())))
    with pytest.raises(UserError, match=r"no finite latent for l0\.png"):
        run(base, pairs, tmp_path)
    good = run(SmallBase(), pairs, tmp_path)
    assert all(part.isfinite().all() for part in load_latent(good.pairs[0].rejected))


def test_a_latent_too_large_for_its_storage_is_not_finite(pairs, tmp_path):
    def make(seed):
        vae = small_vae(seed)
        vae.register_to_config(scaling_factor=1e9)
        return vae

    with pytest.raises(UserError, match="no finite latent"):
        run(SmallBase(vae_class=make), pairs, tmp_path)


def test_text_that_is_not_finite_names_the_prompt(pairs, tmp_path):
    class Broken(SmallText):
        def __call__(self, prompts):
            answers = super().__call__(prompts)
            answers[prompts.index("prompt 1")]["pooled"] = torch.full((16,), float("nan"))
            return answers

    with pytest.raises(UserError, match="'prompt 1'"):
        run(SmallBase(text_class=Broken), pairs, tmp_path)


def fits_only(most):
    def make(seed):
        vae = small_vae(seed)
        whole = vae.encode

        def encode_if_it_fits(pixels):
            if len(pixels) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(pixels)

        vae.encode = encode_if_it_fits
        return vae

    return make


def test_out_of_memory_halves_the_batch_and_gives_the_same_latents(tmp_path):
    pairs = some_pairs(tmp_path / "pictures", count=7, sizes=((64, 64),))
    whole = run(SmallBase(), pairs, tmp_path / "whole")
    halved = run(SmallBase(vae_class=fits_only(3)), pairs, tmp_path / "halved")
    for one, other in zip(whole.pairs, halved.pairs, strict=True):
        torch.testing.assert_close(load_latent(one.chosen), load_latent(other.chosen), rtol=2**-9, atol=1e-6)


def test_one_picture_that_does_not_fit_the_memory_is_named(pairs, tmp_path):
    with pytest.raises(UserError, match=r"not enough memory on cpu to encode \w+\.png at \d+ x \d+ px"):
        run(SmallBase(vae_class=fits_only(0)), pairs, tmp_path)


def test_a_picture_cut_short_after_loading_is_named(pairs, tmp_path):
    path = pairs[1].chosen.path
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"w1\.png has changed"):
        run(SmallBase(), pairs, tmp_path)


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written to")])
def test_a_disk_that_takes_no_more_names_the_folder_and_leaves_nothing_half(pairs, tmp_path, monkeypatch, number, said):
    whole = Path.write_bytes

    def full(self, data):
        whole(self, data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=said) as error:
        run(SmallBase(), pairs, tmp_path)
    assert str(tmp_path / "cache") in str(error.value)
    assert files(tmp_path) == []

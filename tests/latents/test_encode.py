"""Is what is encoded right, one model at a time, and as fast as pictures are decoded?"""

import io
import time
from dataclasses import dataclass

import pytest
import torch
from mapo_studio.tests.small_base import CPU, SmallBase, SmallText, expected, picture, run, small_vae, some_pairs
from mapo_studio.trainer.images.crop import CoverCrop
from mapo_studio.trainer.images.image_file import ImageFile
from mapo_studio.trainer.latents import encode as encode_module
from mapo_studio.trainer.latents.encode import encode, load_latent, load_text
from mapo_studio.trainer.preferences.pairs import Pair
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(tmp_path):
    return some_pairs(tmp_path / "pictures")


def test_latents_are_the_vaes_posterior_scaled(pairs, tmp_path):
    for one in run(SmallBase(), pairs, tmp_path, flip=True).pairs:
        for path, ref, flip in (
            (one.chosen, one.pair.chosen, False),
            (one.rejected, one.pair.rejected, False),
            (one.chosen_flipped, one.pair.chosen, True),
            (one.rejected_flipped, one.pair.rejected, True),
        ):
            got, wanted = load_latent(path), expected(ref, one.bucket, flip)
            for part, exact in zip(got, wanted, strict=True):
                assert part.dtype == torch.float32
                assert part.shape == (4, one.bucket[1] // 4, one.bucket[0] // 4)
                torch.testing.assert_close(part, exact, rtol=2**-10, atol=2e-6)


def test_a_mirrored_latent_differs_and_is_only_made_when_asked_for(pairs, tmp_path):
    plain = run(SmallBase(), pairs, tmp_path).pairs[0]
    assert plain.chosen_flipped is plain.rejected_flipped is None
    both = run(SmallBase(), pairs, tmp_path, flip=True)
    assert both.made == 6
    assert both.pairs[0].chosen == plain.chosen
    assert not torch.equal(load_latent(both.pairs[0].chosen)[0], load_latent(both.pairs[0].chosen_flipped)[0])


def test_a_pair_goes_to_the_bucket_of_its_chosen_picture(pairs, tmp_path):
    encoded = run(SmallBase(), pairs, tmp_path)
    assert [one.bucket for one in encoded.pairs] == [(64, 64), (80, 48), (48, 80)]
    assert encoded.pairs[1].framing == CoverCrop.fit((96, 60), (80, 48)).size_conditioning
    assert [one.pair for one in encoded.pairs] == pairs


def test_pictures_that_had_to_grow_are_listed_once(tmp_path):
    small = picture(tmp_path, "small.png", (40, 80))
    large = [picture(tmp_path, f"large{n}.png", (200, 200), n + 1) for n in range(2)]
    encoded = run(SmallBase(), [Pair("x", large[0], small), Pair("x", large[1], small)], tmp_path)
    assert encoded.upscaled == ("small.png",)


def test_text_is_kept_for_pairs_samples_and_the_empty_prompt(pairs, tmp_path):
    encoded = run(SmallBase(), pairs, tmp_path)
    assert set(encoded.texts) == {"", "a sample", "prompt 0", "prompt 1", "prompt 2"}
    wanted = SmallText()(["a sample", "prompt 1"])
    for path, exact in ((encoded.text("a sample"), wanted[0]), (encoded.pairs[1].text, wanted[1])):
        got = load_text(path)
        assert set(got) == {"hidden", "pooled"}
        assert got["hidden"].shape == (16, 16)
        torch.testing.assert_close(got["hidden"], exact["hidden"])
    with pytest.raises(KeyError):
        encoded.text("never given")


def test_text_is_done_before_the_vae_is_loaded(pairs, tmp_path):
    base, phases = SmallBase(), []
    run(base, pairs, tmp_path, progress=lambda now: phases.append((now.phase, tuple(base.loaded))))
    assert ("text", ("text",)) in phases
    assert phases[-1] == ("latents", ("text", "vae"))


def test_only_one_model_is_alive_at_a_time(pairs, tmp_path):
    import weakref

    alive = []

    class Text(SmallText):
        def __init__(self):
            super().__init__()
            alive.append(weakref.ref(self.model))

    def vae(seed):
        assert [one() for one in alive] == [None]
        made = small_vae(seed)
        alive.append(weakref.ref(made))
        return made

    run(SmallBase(text_class=Text, vae_class=vae), pairs, tmp_path)
    assert [one() for one in alive] == [None, None]


def test_the_number_of_workers_does_not_change_the_results(tmp_path):
    pairs = some_pairs(tmp_path / "pictures", count=12)
    made = {}
    for workers in (1, 4):
        encode(SmallBase(), pairs, (), tmp_path / str(workers), CPU, resolution=64, flip=True, workers=workers)
        found = sorted((tmp_path / str(workers)).rglob("*.safetensors"))
        made[workers] = {path.relative_to(tmp_path / str(workers)): path.read_bytes() for path in found}
    assert len(made[1]) == 13 + 48
    assert made[1] == made[4]


@dataclass(frozen=True)
class SlowPicture:
    """A ImageRef that counts how many pictures are decoded but not yet encoded."""

    ref: ImageFile
    counter: dict

    def __getattr__(self, name):
        return getattr(self.ref, name)

    def read(self):
        self.counter["read"] += 1
        self.counter["most"] = max(self.counter["most"], self.counter["read"] - self.counter["encoded"])
        return self.ref.read()


def test_decoding_runs_ahead_but_never_far(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "MAX_IMAGES_PER_BATCH", 1)
    counter = {"read": 0, "encoded": 0, "most": 0}
    pairs = [
        Pair(one.prompt, SlowPicture(one.chosen, counter), SlowPicture(one.rejected, counter))
        for one in some_pairs(tmp_path / "pictures", count=20)
    ]

    def count(now):
        if now.phase == "latents":
            counter["encoded"] = now.done
            time.sleep(0.02)

    run(SmallBase(), pairs, tmp_path, workers=2, progress=count)
    assert 2 <= counter["most"] <= 6


def test_no_pairs_still_give_the_texts(tmp_path):
    base = SmallBase()
    encoded = run(base, [], tmp_path)
    assert (encoded.pairs, set(encoded.texts), base.loaded) == ((), {"", "a sample"}, ["text"])


def test_pictures_of_every_mode_reach_the_vae_as_rgb(tmp_path):
    refs = []
    for number, mode in enumerate(("L", "RGBA", "P", "1", "CMYK")):
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50 + number).convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
        path = tmp_path / f"{mode}.picture"
        path.write_bytes(file.getvalue())
        refs.append(ImageFile.at(path))
    encoded = run(SmallBase(), [Pair("x", one, refs[0]) for one in refs[1:]], tmp_path)
    assert all(load_latent(one.chosen)[0].shape == (4, 16, 16) for one in encoded.pairs)

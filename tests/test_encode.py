"""Is the cache right, reused, never stale and never half written, and is every failure named?"""

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from mapo_studio.trainer import cache as entries
from mapo_studio.trainer import encode as encode_module
from mapo_studio.trainer.encode import encode, load_latent, load_text
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.families.base import Base
from mapo_studio.trainer.pictures import apply, fit, open_picture
from mapo_studio.trainer.preferences.pairs import Pair
from mapo_studio.trainer.preferences.picture_files import PictureFile
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def small_vae(seed=0):
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    return vae.eval().requires_grad_(False)


class SmallText:
    """A real CLIP text model with random weights; its tokens are the prompt's characters."""

    def __init__(self):
        torch.manual_seed(1)
        config = CLIPTextConfig(
            vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
        )
        self.model = CLIPTextModel(config).eval().requires_grad_(False)

    def __call__(self, prompts):
        rows = [list(prompt.encode())[:16] for prompt in prompts]
        tokens = torch.tensor([[*row, *[0] * (16 - len(row))] for row in rows])
        answer = self.model(tokens)
        return [
            {"hidden": hidden, "pooled": pooled}
            for hidden, pooled in zip(answer.last_hidden_state, answer.pooler_output, strict=True)
        ]


@dataclass
class SmallBase(Base):
    """Real small models; `loaded` lists which were asked for."""

    vae_seed: int = 0
    vae_class: object = staticmethod(small_vae)
    text_class: type = SmallText
    text_version: str = "text"
    loaded: list = field(default_factory=list)
    family = "sdxl"
    path = Path("small-base")
    resolution = 64
    latent_factor = 4

    def identity(self, part="all"):
        return {"vae": f"vae{self.vae_seed}", "text": self.text_version}[part]

    def load_text(self, device, dtype):
        self.loaded.append("text")
        return self.text_class()

    def load_vae(self, device):
        self.loaded.append("vae")
        return self.vae_class(self.vae_seed)


def picture(folder, name, size=(64, 64), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return PictureFile.at(folder / name, name)


def some_pairs(folder, count=3, sizes=((64, 64), (96, 60), (70, 120))):
    return [
        Pair(
            f"prompt {number}",
            picture(folder, f"w{number}.png", sizes[number % len(sizes)], 2 * number),
            picture(folder, f"l{number}.png", sizes[0], 2 * number + 1),
        )
        for number in range(count)
    ]


@pytest.fixture
def pairs(tmp_path):
    return some_pairs(tmp_path / "pictures")


def run(base, pairs, tmp_path, prompts=("a sample",), **options):
    options = {"resolution": 64, **options}
    return encode(base, pairs, prompts, tmp_path / "cache", CPU, **options)


def files(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def expected(ref, target, flip=False):
    """Mean and standard deviation as the VAE says them itself, scaled, float32."""
    image = open_picture(ref)
    pixels = np.asarray(apply(image, fit(image.size, target), flip)).astype(np.float32) / 127.5 - 1
    posterior = small_vae().encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist
    return posterior.mean[0] * 0.5, posterior.std[0] * 0.5


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
    assert encoded.pairs[1].framing == fit((96, 60), (80, 48)).framing
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


def test_a_second_run_loads_no_model_and_says_what_it_reused(pairs, tmp_path):
    first = run(SmallBase(), pairs, tmp_path)
    assert (first.reused, first.made) == (0, 5 + 6)
    base, told = SmallBase(), []
    second = run(base, pairs, tmp_path, progress=told.append)
    assert base.loaded == []
    assert (second.reused, second.made) == (11, 0)
    assert second.pairs == first.pairs
    assert (told[-1].phase, told[-1].done, told[-1].total, told[-1].reused) == ("check", 11, 11, 11)


def test_only_what_is_missing_is_encoded(pairs, tmp_path):
    run(SmallBase(), pairs[:2], tmp_path)
    base, told = SmallBase(), []
    assert run(base, pairs, tmp_path, progress=told.append).made == 3
    assert [(one.phase, one.done, one.total) for one in told if one.phase != "check"][-1] == ("latents", 2, 2)


def test_a_picture_in_many_pairs_is_encoded_once_a_size(pairs, tmp_path):
    shared = [Pair("x", pairs[0].chosen, pairs[0].rejected), Pair("y", pairs[0].chosen, pairs[1].rejected)]
    encoded = run(SmallBase(), shared, tmp_path, prompts=())
    assert encoded.made == 3 + 3
    assert encoded.pairs[0].chosen == encoded.pairs[1].chosen


def test_the_same_content_under_another_name_is_reused(pairs, tmp_path):
    run(SmallBase(), pairs, tmp_path)
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(pairs[0].chosen.read())
    base = SmallBase()
    assert run(base, [Pair("prompt 0", PictureFile.at(moved), pairs[0].rejected)], tmp_path).made == 0


def change_content(pairs, tmp_path, monkeypatch):
    return SmallBase(), [Pair("prompt 0", picture(tmp_path, "new.png", seed=99), pairs[0].rejected)], {}


def change_resolution(pairs, tmp_path, monkeypatch):
    return SmallBase(), pairs[:1], {"resolution": 96}


def change_fitting(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "FIT_VERSION", 2)
    return SmallBase(), pairs[:1], {}


def change_bucket_of_the_chosen(pairs, tmp_path, monkeypatch):
    wide = picture(tmp_path, "wide.png", (128, 64), seed=98)
    return SmallBase(), [Pair("prompt 0", wide, pairs[0].rejected)], {}


def change_vae(pairs, tmp_path, monkeypatch):
    return SmallBase(vae_seed=5), pairs[:1], {}


CHANGES = {
    change_content: 1,
    change_resolution: 2,
    change_fitting: 2,
    change_bucket_of_the_chosen: 2,
    change_vae: 2,
}
"""How many latents of one pair have to be made anew."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_decides_a_latent_decides_its_key(pairs, tmp_path, monkeypatch, change):
    run(SmallBase(), pairs[:1], tmp_path)
    base, changed, options = change(pairs, tmp_path, monkeypatch)
    assert run(base, changed, tmp_path, **options).made == CHANGES[change]
    assert base.loaded == ["vae"]


def test_other_text_encoders_decide_only_the_texts_anew(pairs, tmp_path):
    run(SmallBase(), pairs[:1], tmp_path)
    base = SmallBase(text_version="other")
    assert run(base, pairs[:1], tmp_path).made == 3
    assert base.loaded == ["text"]


def cut(data):
    return data[:-10]


def emptied(data):
    return b""


def flipped(data):
    return data[:-50] + bytes([data[-50] ^ 1]) + data[-49:]


def zeroed(data):
    return bytes(len(data))


def headless(data):
    return data[:8] + b"{}" + data[10:]


@pytest.mark.parametrize("spoil", [cut, emptied, flipped, zeroed, headless])
def test_a_corrupted_entry_is_refused_when_read_and_made_again(pairs, tmp_path, spoil):
    first = run(SmallBase(), pairs, tmp_path)
    before = load_latent(first.pairs[0].chosen)
    for path in (first.pairs[0].chosen, first.text("")):
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="missing or damaged"):
        load_latent(first.pairs[0].chosen)
    again = run(SmallBase(), pairs, tmp_path)
    assert (again.made, again.reused) == (2, 9)
    assert torch.equal(load_latent(first.pairs[0].chosen)[0], before[0])


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
    """A PictureRef that counts how many pictures are decoded but not yet encoded."""

    ref: PictureFile
    counter: dict

    def __getattr__(self, name):
        return getattr(self.ref, name)

    def read(self):
        self.counter["read"] += 1
        self.counter["most"] = max(self.counter["most"], self.counter["read"] - self.counter["encoded"])
        return self.ref.read()


def test_decoding_runs_ahead_but_never_far(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "_MOST_A_BATCH", 1)
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


class Stopped(Exception):
    pass


def test_what_was_encoded_before_a_stop_is_kept(tmp_path):
    pairs = some_pairs(tmp_path / "pictures", count=20, sizes=((64, 64),))

    def stop(now):
        if now.phase == "latents" and now.done >= 16:
            raise Stopped

    with pytest.raises(Stopped):
        run(SmallBase(), pairs, tmp_path, progress=stop)
    again = run(SmallBase(), pairs, tmp_path)
    assert (again.reused, again.made) == (22 + 16, 40 - 16)


KILLED = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_encode", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
sys.modules["test_encode"] = tests
spec.loader.exec_module(tests)
tests.torch.set_num_threads(1)
tests.encode_module._MOST_A_BATCH = 1
folder = Path(sys.argv[2])
tests.run(tests.SmallBase(), tests.some_pairs(folder / "pictures", 150, ((64, 64),)), folder)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_encode_leaves_only_entries_that_can_be_trusted(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, __file__, str(tmp_path)])
    until = time.monotonic() + 120
    while len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) < 20:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(kept) < 452
    assert all(entries.is_sound(path) for path in kept)
    pairs = some_pairs(tmp_path / "pictures", 150, ((64, 64),))
    again = run(SmallBase(), pairs, tmp_path)
    assert (again.reused, again.made) == (len(kept), 452 - len(kept))


def test_an_entry_gets_its_name_only_once_it_is_whole(pairs, tmp_path, monkeypatch):
    moved, move = [], os.replace

    def watched(beside, path):
        moved.append((entries.is_sound(beside), path.exists()))
        move(beside, path)

    monkeypatch.setattr(entries.os, "replace", watched)
    assert run(SmallBase(), pairs, tmp_path).made == len(moved)
    assert set(moved) == {(True, False)}


def test_half_written_leftovers_are_swept_once_they_are_old(pairs, tmp_path):
    run(SmallBase(), pairs, tmp_path)
    folder = files(tmp_path)[0].parent
    for name, age_s in (("old", 7200), ("young", 10)):
        part = folder / f"{name}.safetensors.1.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age_s,) * 2)
    run(SmallBase(), pairs, tmp_path)
    assert [path.name for path in files(tmp_path) if path.suffix == ".part"] == ["young.safetensors.1.part"]


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
    pixels = np.asarray(apply(open_picture(pairs[0].rejected), fit((64, 64), (64, 64)))).astype(np.float32)
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


def test_no_pairs_still_give_the_texts(tmp_path):
    base = SmallBase()
    encoded = run(base, [], tmp_path)
    assert (encoded.pairs, set(encoded.texts), base.loaded) == ((), {"", "a sample"}, ["text"])


def test_keys_do_not_run_into_each_other(tmp_path):
    assert entries.entry(tmp_path, "text", "a", "bc") != entries.entry(tmp_path, "text", "ab", "c")
    path = entries.entry(tmp_path, "text", "a")
    assert path.parent.name == path.name[:2]
    assert path.name == hashlib.sha256(b'["a"]').hexdigest() + ".safetensors"


def test_pictures_of_every_mode_reach_the_vae_as_rgb(tmp_path):
    refs = []
    for number, mode in enumerate(("L", "RGBA", "P", "1", "CMYK")):
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50 + number).convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
        path = tmp_path / f"{mode}.picture"
        path.write_bytes(file.getvalue())
        refs.append(PictureFile.at(path))
    encoded = run(SmallBase(), [Pair("x", one, refs[0]) for one in refs[1:]], tmp_path)
    assert all(load_latent(one.chosen)[0].shape == (4, 16, 16) for one in encoded.pairs)

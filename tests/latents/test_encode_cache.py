"""Is the cache reused, never stale and never half written?"""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mapo_studio.tests.small_base import SmallBase, files, picture, run, some_pairs
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.images.image_file import ImageFile
from mapo_studio.trainer.latents import encode as encode_module
from mapo_studio.trainer.latents import tensor_cache as entries
from mapo_studio.trainer.latents.encode import load_latent
from mapo_studio.trainer.preferences.pairs import Pair

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(tmp_path):
    return some_pairs(tmp_path / "pictures")


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
    assert run(base, [Pair("prompt 0", ImageFile.at(moved), pairs[0].rejected)], tmp_path).made == 0


def change_content(pairs, tmp_path, monkeypatch):
    return SmallBase(), [Pair("prompt 0", picture(tmp_path, "new.png", seed=99), pairs[0].rejected)], {}


def change_resolution(pairs, tmp_path, monkeypatch):
    return SmallBase(), pairs[:1], {"resolution": 96}


def change_fitting(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "CROP_VERSION", 2)
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
    assert all(entries.is_valid(path) for path in kept)
    pairs = some_pairs(tmp_path / "pictures", 150, ((64, 64),))
    again = run(SmallBase(), pairs, tmp_path)
    assert (again.reused, again.made) == (len(kept), 452 - len(kept))


def test_an_entry_gets_its_name_only_once_it_is_whole(pairs, tmp_path, monkeypatch):
    moved, move = [], os.replace

    def watched(beside, path):
        moved.append((entries.is_valid(beside), path.exists()))
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


def test_keys_do_not_run_into_each_other(tmp_path):
    assert entries.entry(tmp_path, "text", "a", "bc") != entries.entry(tmp_path, "text", "ab", "c")
    path = entries.entry(tmp_path, "text", "a")
    assert path.parent.name == path.name[:2]
    assert path.name == hashlib.sha256(b'["a"]').hexdigest() + ".safetensors"

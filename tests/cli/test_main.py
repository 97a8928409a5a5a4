"""The `mapo` command: what each verb prints, and every mistake answered in one line with exit code 2."""

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.runs.run_folder import Run, all_runs
from mapo_studio.trainer.training.learner import Learner
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(pairs_folder, tmp_path):
    """A copy of the pairs that a test may spoil."""
    return shutil.copytree(pairs_folder, tmp_path / "my-pairs")


def rewrite(folder, change):
    file = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(json.dumps(change(i, row)) for i, row in enumerate(rows)))


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "JPEG")
    return file.getvalue()


def bad_picture(data):
    def spoil(folder):
        (folder / "3a.png").write_bytes(data(folder) if callable(data) else data)
        return folder

    return spoil


def too_many_pixels(folder):
    Image.new("1", (10_000, 10_000)).save(folder / "3a.png")
    return folder


def half(folder):
    whole = (folder / "3a.png").read_bytes()
    return whole[: len(whole) // 2]


def without(name):
    def remove(folder):
        (folder / name).unlink()
        return folder

    return remove


def changed(change):
    return lambda folder: rewrite(folder, change) or folder


def parquet_without_columns(folder):
    pq.write_table(pa.table({"caption": ["a"], "jpg_0": [jpeg("red")]}), folder.parent / "p.parquet")
    return folder.parent / "p.parquet"


def nothing(folder):
    (folder.parent / "empty").mkdir()
    return folder.parent / "empty"


MISTAKES = {
    "missing picture": (without("3a.png"), ["3a.png", "line 4"]),
    "picture of no bytes": (bad_picture(b""), ["3a.png"]),
    "not a picture": (bad_picture(b"hello"), ["3a.png"]),
    "truncated picture": (bad_picture(half), ["3a.png"]),
    "100 megapixels": (too_many_pixels, ["3a.png", "100 megapixels"]),
    "empty caption": (changed(lambda i, row: row | ({"prompt": "  "} if i == 3 else {})), ["line 4", "caption"]),
    "one picture twice": (changed(lambda i, row: row | ({"image_1": "3a.png"} if i == 3 else {})), ["identical"]),
    "parquet without columns": (parquet_without_columns, ["p.parquet", "jpg_1", "label_0"]),
    "no pairs": (nothing, ["empty"]),
    "no such folder": (lambda folder: folder / "nowhere", ["nowhere"]),
    "only ties": (changed(lambda i, row: row | {"prefer_1": True}), ["tie"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_pairs_are_named_in_one_line(mapo, pairs, mistake, tmp_path):
    spoil, named = MISTAKES[mistake]
    code, _, err = mapo("train", "--pairs", spoil(pairs), "--name", "x")
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("mapo train: ")
    assert all(word in line for word in named), line
    assert not all_runs(tmp_path / "workspace"), "the name must be free for the mended command"


def test_bad_pairs_can_be_skipped_and_are_listed(mapo, pairs, tmp_path):
    without("3a.png")(pairs)
    code, _, _ = mapo("train", "--pairs", pairs, "--name", "x", "--bad-pairs", "skip", "--steps", "1", *QUICK)
    assert code == 0
    (started,) = [e for e in Run.open(tmp_path / "workspace", "x").events() if e["event"] == "started"]
    assert started["pairs"] + started["held_out"] == 11
    assert started["left_out"][0]["count"] == 1
    assert "line 4" in str(started["left_out"])


QUICK = ("--sample-every", "0", "--evaluate-every", "0", "--rank", "2", "--accumulation", "1")


def checkpoint(tmp_path, name, content=b"x"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--rank", "0"), ["adapter.rank", "greater than or equal to 1"]),
        (("--base", "model.ckpt"), ["model.ckpt", "pickle"]),
        (("--base", "cut.safetensors"), ["cut.safetensors"]),
        (("--base", "nowhere.safetensors"), ["nowhere.safetensors"]),
        (("--base", "folder"), ["folder"]),
        (("--name", "a/b"), ["a/b"]),
        (("--device", "abacus"), ["abacus"]),
        (("--continue-from", "gone.safetensors"), ["gone.safetensors"]),
    ],
)
def test_bad_settings_are_named_in_one_line(mapo, pairs, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path, "model.ckpt")
    checkpoint(tmp_path, "cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "folder").mkdir()
    code, _, err = mapo("train", "--pairs", pairs, *words)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("mapo train: ")
    assert all(word in line for word in named), line


def test_a_misspelt_key_of_a_settings_file_is_named(mapo, tmp_path):
    (tmp_path / "run.toml").write_text("[optimization]\nlearning_rat = 1\n")
    code, _, err = mapo("train", tmp_path / "run.toml")
    assert (code, "did you mean learning_rate" in err) == (2, True)


def test_a_misspelt_flag_is_answered_with_the_near_one(mapo):
    code, _, err = mapo("train", "--learning-rat", "1")
    assert (code, "--learning-rate" in err) == (2, True)


def test_an_unknown_command_and_an_unknown_run_are_answered(mapo):
    code, _, err = mapo("trian")
    assert (code, "train" in err) == (2, True)
    code, _, err = mapo("resume", "cats")
    assert (code, "no run named cats" in err) == (2, True)


def test_the_removed_quick_learning_curve_is_answered_with_what_to_do_instead(mapo):
    code, _, err = mapo("learning-curve", "cats", "--quick")
    assert code == 2
    assert "--quick is removed" in err
    assert "--steps" in err


def test_help_lists_every_command(capfd):
    assert main([]) == 0
    said = capfd.readouterr().out
    assert all(f"\n  {verb} " in said for verb in ("demo", "train", "resume", "encode", "plan", "lora", "doctor"))


def test_a_settings_file_and_flags_over_it_train_together(mapo, pairs, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'name = "from-file"\n[data]\npairs = "{pairs}"\n[training]\nsteps = 5\n[adapter]\nrank = 3\n')
    code, out, _ = mapo("train", file, "--steps", "2", *QUICK[:4], "--accumulation", "1", "--json")
    assert code == 0
    said = json.loads(out.splitlines()[-1])
    assert (said["finished"], said["step"]) == (True, 2)
    config = Run.open(tmp_path / "workspace", "from-file").config()
    assert (config.training.steps, config.adapter.rank) == (2, 3)

    code, out, _ = mapo("lora", "show", said["lora"])
    assert code == 0
    assert "from-file" in out
    code, out, _ = mapo("lora", "show", said["lora"], "--json")
    assert json.loads(out)["rank"] == 3

    code, _, err = mapo("train", file, "--steps", "2", *QUICK)
    assert (code, "a run named from-file exists" in err) == (2, True)
    code, out, _ = mapo("resume", "from-file")
    assert code == 0, "a finished run resumed is simply finished"


def test_the_report_is_written_however_a_training_ends(mapo, pairs, tmp_path, monkeypatch):
    run, train_step = Run(tmp_path / "workspace" / "runs" / "ends"), Learner.train_step
    happens = {}

    def ends(self, step, batches):
        if step in happens:
            happens[step]()
        return train_step(self, step, batches)

    def raises(error):
        def happen():
            raise error

        return happen

    def reported():
        page = run.report_file.read_text(encoding="utf-8")
        run.report_file.unlink()
        return page

    monkeypatch.setattr(Learner, "train_step", ends)
    happens[1] = raises(RuntimeError("a cosmic ray"))
    with pytest.raises(RuntimeError, match="cosmic"):
        mapo("train", "--pairs", pairs, "--name", "ends", "--steps", "3", *QUICK)
    assert "a cosmic ray" in reported()
    happens = {1: raises(RuntimeError("CUDA out of memory"))}
    code, _, err = mapo("resume", "ends")
    assert code == 2
    assert "the memory of the device is full" in err
    assert "the memory of the device is full" in reported()
    happens = {1: run.stop_file.touch}
    mapo("resume", "ends")
    assert "Stopped at step 2 of 3" in reported()
    code, _, _ = mapo("resume", "ends")
    assert code == 0
    assert "The training is complete: 3 steps." in reported()


def test_a_run_that_stops_before_its_first_step_has_no_report_yet(mapo, pairs, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Cancelled

    monkeypatch.setattr("mapo_studio.trainer.training.loop.prepare", stop)
    mapo("train", "--pairs", pairs, "--name", "ends", *QUICK)
    run = Run(tmp_path / "workspace" / "runs" / "ends")
    assert [event["event"] for event in run.events()][-1] == "stopped"
    assert not run.report_file.exists()


def test_encode_fills_the_cache_and_a_second_time_reuses_it(mapo, pairs):
    _, out, _ = mapo("encode", "--pairs", pairs, "--json")
    first = json.loads(out.splitlines()[-1])
    assert (first["pairs"], first["reused"]) == (12, 0)
    code, out, _ = mapo("encode", "--pairs", pairs, "--json")
    again = json.loads(out.splitlines()[-1])
    assert (code, again["made"], again["reused"]) == (0, 0, first["made"])


def test_plan_tells_parameters_steps_and_time(mapo, pairs):
    code, out, _ = mapo("plan", "--pairs", pairs, "--steps", "30", "--rank", "4", "--accumulation", "1", "--json")
    said = json.loads(out.splitlines()[-1])
    assert code == 0
    assert said["train_pairs"] + said["held_out_pairs"] == 12
    assert said["steps"] == 30
    assert said["seconds"] == pytest.approx(30 * said["seconds_a_step"])
    assert 0 < said["lora_parameters"] < said["base_parameters"]
    assert "30 steps of 1 pairs" in out


def test_plan_writes_nothing(mapo, pairs, tmp_path):
    mapo("plan", "--pairs", pairs, "--accumulation", "1")
    assert not (tmp_path / "workspace").exists()

"""Training from end to end on a tiny base: what is left behind, and what happens when it is cut short."""

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mapo_studio.trainer.cancellation import Cancelled, StopRequest
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs.job import Job
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.models.sdxl import SDXL
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.batches import draw, seeded, stack
from mapo_studio.trainer.training.checkpoint import RunFingerprint, latest_step, load_checkpoint
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.loop import train

pytestmark = pytest.mark.slow

SLOW = pytest.mark.slow
LAUNCHER = Path(__file__).parents[2] / "trainer" / "__main__.py"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """One workspace for all tests here, so that pictures are encoded once; runs have names of their own."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def run(workspace, settings, request):
    """run(**parts): a new run, not yet trained."""
    numbers = itertools.count()
    named = re.sub(r"\W+", "-", request.node.name)[-60:].strip("-")
    return lambda **parts: Run.create(workspace, settings(name=f"{named}-{next(numbers)}", **parts))


@pytest.fixture(scope="session")
def whole(workspace, base_folder, pairs_folder) -> Run:
    """A run that was never interrupted; the others are compared with it."""
    config = parse_config(
        SHORT | {"base": str(base_folder), "data": {"pairs": str(pairs_folder), "held_out": 0.25}}, ""
    )
    run = Run.create(workspace, config)
    train(run, StopRequest(run.stop_file))
    return run


SHORT = {
    "name": "whole",
    # A matrix below 4096 numbers keeps 32-bit states: at rank 128 the wider layers of the tiny base reach that.
    "adapter": {"rank": 128, "dropout": 0.1},
    "optimization": {"learning_rate": 1e-3, "warmup_steps": 2, "optimizer": "adamw8bit"},
    "training": {"steps": 8, "batch_size": 2, "accumulation": 2},
    "watch": {"evaluate_every": 4, "sample_every": 0, "checkpoint_every": 3, "log_every": 1},
}


@pytest.fixture
def like_whole(run):
    return run(**{part: values for part, values in SHORT.items() if part != "name"})


def go(run: Run):
    return train(run, StopRequest(run.stop_file))


def tensors(run: Run) -> dict[str, str]:
    """Digests, since pytest would spend minutes on showing how megabytes differ."""
    state = read_lora(run.lora_file).state
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}


def kinds(run: Run) -> list[str]:
    return [event["event"] for event in run.events()]


def test_a_finished_run_leaves_lora_state_and_events(whole):
    steps = [event for event in whole.events() if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 9))
    assert all(event["seconds"] > 0 and event["gradient_norm"] > 0 for event in steps)
    assert steps[-1]["remaining"] == 0
    assert [e["step"] for e in whole.events() if e["event"] == "evaluation"] == [0, 4, 8]
    measured = [event for event in whole.events() if event["event"] == "evaluation"]
    assert all(len(one["agreeing"]) == one["pairs"] for one in measured)
    assert all(one["agreeing"].count("1") == round(one["agreement"] * one["pairs"]) for one in measured)
    assert kinds(whole)[-1] == "finished"
    assert latest_step(whole.state_folder) == 8
    metadata = read_lora(whole.lora_file).metadata
    assert metadata["mapo.steps"] == "8"
    assert metadata["ss_output_name"].startswith("whole")
    assert 0 <= float(metadata["mapo.agreement"]) <= 1
    assert not whole.report_file.exists(), "a report is for who listens, not for the loop"


def test_the_loss_on_the_trained_pairs_falls(run):
    longer = run(training={"steps": 20}, optimization={"learning_rate": 3e-2}, watch={"evaluate_every": 0})
    go(longer)
    losses = [event["chosen_error"] for event in longer.events() if event["event"] == "step"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_same_settings_give_the_same_bytes(whole, like_whole):
    go(like_whole)
    assert tensors(like_whole) == tensors(whole)


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("at", [*(pytest.param(at, marks=SLOW) for at in (0, 2, 3)), 7])
def test_a_run_cut_off_in_any_step_ends_with_the_same_bytes(whole, like_whole, monkeypatch, at):
    train_step = Learner.train_step

    def cut(self, step, batches):
        if step == at:
            raise PowerCut
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", cut)
    with pytest.raises(PowerCut):
        go(like_whole)
    monkeypatch.undo()
    torch.manual_seed(at)  # a new process has other random state
    go(like_whole)
    assert tensors(like_whole) == tensors(whole)
    assert [e["step"] for e in like_whole.events() if e["event"] == "step"] == list(range(1, 9))


def test_a_run_of_an_earlier_version_is_resumed_to_the_same_bytes(whole, like_whole, monkeypatch):
    train_step = Learner.train_step

    def cut(self, step, batches):
        if step == 7:
            raise PowerCut
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", cut)
    with pytest.raises(PowerCut):
        go(like_whole)
    monkeypatch.undo()
    for file in like_whole.state_folder.glob("step-*/progress.json"):
        progress = json.loads(file.read_text())
        earlier = {name: progress[name] for name in ("step", "batches", "quantize", "origin")}
        assert earlier != progress
        file.write_text(json.dumps(earlier))
    events = like_whole.events_file.read_text()
    old = events.replace("chosen_error", "winner_error").replace("rejected_error", "loser_error")
    assert old != events
    like_whole.events_file.write_text(old)
    go(like_whole)
    assert tensors(like_whole) == tensors(whole)
    last, same = (list(run.events())[-1] for run in (like_whole, whole))
    assert (last["kept"], last["said"], last["agreement"]) == (same["kept"], same["said"], same["agreement"])


def test_a_run_killed_by_sigkill_ends_with_the_same_bytes(whole, like_whole, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # other thread counts add up in other orders
    process = Job(like_whole.folder).resume()
    wait_for(lambda: max_step(like_whole) >= 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Job(like_whole.folder).status().phase == "crashed"
    assert Job(like_whole.folder).resume().wait(300) == 0
    assert tensors(like_whole) == tensors(whole)
    assert Job(like_whole.folder).status().phase == "finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(run, number):
    endless = run(training={"steps": 10_000}, watch={"log_every": 1, "checkpoint_every": 5000, "evaluate_every": 0})
    command = [sys.executable, str(LAUNCHER), "resume", endless.name, "--workspace", str(endless.workspace), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: max_step(endless) >= 2, process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    step = max_step(endless)
    assert process.returncode == 128 + number
    assert f"stopped after step {step} of 10000, saved; resume it by `mapo resume {endless.name}`" in said
    assert json.loads(said.splitlines()[-1])["finished"] is False
    assert latest_step(endless.state_folder) == step
    assert read_lora(endless.lora_file).metadata["mapo.steps"] == str(step)


def test_the_stop_file_stops_and_the_run_goes_on_from_there(whole, like_whole, monkeypatch):
    train_step = Learner.train_step

    def ask(self, step, batches):
        if step == 4:
            Job(like_whole.folder).stop()
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", ask)
    outcome = go(like_whole)
    assert (outcome.step, outcome.finished) == (5, False)
    assert Job(like_whole.folder).status().phase == "stopped"
    monkeypatch.undo()
    assert go(like_whole).finished
    assert tensors(like_whole) == tensors(whole)


def test_a_stop_while_encoding_keeps_the_run_resumable(run, monkeypatch):
    early = run()
    stop = StopRequest(early.stop_file)
    early.listeners.append(lambda event: early.stop_file.touch())
    with pytest.raises(Cancelled):
        train(early, stop)
    assert Job(early.folder).status().phase == "stopped"
    early.listeners.clear()
    assert go(early).finished


def test_a_number_that_is_not_finite_stops_names_the_pairs_and_keeps_the_good_state(like_whole, monkeypatch):
    train_step = Learner.train_step

    def poison(self, step, batches):
        if step == 6:
            batches[0].images.latents.fill_(float("nan"))
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", poison)
    with pytest.raises(UserError, match=r"step 7 gave a loss or gradient that is not a finite number") as caught:
        go(like_whole)
    assert ".png over " in str(caught.value)
    assert f"mapo resume {like_whole.name}" in str(caught.value)
    assert latest_step(like_whole.state_folder) == 6
    assert Job(like_whole.folder).status().phase == "failed"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("Tried to allocate"), RuntimeError("MPS: out of memory")])
def test_a_full_memory_is_said_with_its_mend(settings, tmp_path, monkeypatch, error):
    run = Run.create(tmp_path, settings())

    def fill(*_):
        raise error

    monkeypatch.setattr("mapo_studio.trainer.training.loop.prepare", fill)
    with pytest.raises(UserError, match="close what else uses it"):
        train(run, StopRequest(run.stop_file))
    assert "memory of the device is full" in Job(run.folder).status().message


def test_accumulated_batches_of_any_sizes_are_one_step(base, encoded, settings):
    """Every pair has the same share of a step, also where one of its batches is smaller than the others."""
    rows = [draw([pair], 500, seeded(pair.pair.id)) for pair in encoded.pairs[:2]]
    rows += [draw([encoded.pairs[3]], 100, seeded("third"))]
    rows = [row for row in rows if row.pairs[0].bucket == rows[0].pairs[0].bucket]
    assert len(rows) == 3
    numbers = [
        Learner(settings(), base, torch.device("cpu")).train_step(0, batches)
        for batches in ([stack(rows)], [stack(rows[:2]), rows[2]], rows)
    ]
    for other in numbers[1:]:
        assert torch.allclose(other, numbers[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("changed", ["base", "pairs"])
def test_resuming_with_another_base_or_other_pairs_is_refused(
    run, changed, tmp_path, base_folder, pairs_folder, monkeypatch
):
    other = run()
    go(other)
    text = other.settings_file.read_text()
    if changed == "base":
        from mapo_studio.tests.tiny_models import write_sdxl

        text = text.replace(str(base_folder), str(write_sdxl(tmp_path / "other-base", seed=1, shallow=True)))
    else:
        folder = tmp_path / "pairs"
        folder.mkdir()
        for file in pairs_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        lines = (folder / "metadata.jsonl").read_text().splitlines()
        (folder / "metadata.jsonl").write_text("\n".join(lines[:-1]))
        text = text.replace(str(pairs_folder), str(folder))
    other.settings_file.write_text(text)
    with pytest.raises(UserError, match=f"was started with other {changed}"):
        go(other)


def test_two_processes_cannot_train_one_run(run):
    from filelock import FileLock

    busy = run()
    with (
        FileLock(busy.lock_file),
        pytest.raises(UserError, match="being trained by another process"),
    ):
        # The lock is per open file, so a second one in this process is refused like one of another process.
        go(busy)
    assert Job(busy.folder).status().phase == "waiting"


def test_training_goes_on_from_a_lora_file(whole, run):
    more = run(
        adapter={"continue_from": str(whole.lora_file)}, training={"steps": 1}, optimization={"learning_rate": 1e-9}
    )
    go(more)
    before, after = read_lora(whole.lora_file), read_lora(more.lora_file)
    assert after.settings.rank == before.settings.rank
    assert all(torch.allclose(before.state[name], after.state[name], atol=1e-6) for name in before.state)


@pytest.mark.parametrize("kind", ["sft", "dpo", "dpo+sft"])
def test_every_objective_trains(run, kind):
    assert go(run(objective={"kind": kind}, training={"steps": 2})).finished


def test_a_half_precision_base_trains_a_full_precision_lora(run):
    half = run(training={"steps": 2, "precision": "bfloat16"})
    assert go(half).finished
    fingerprint = RunFingerprint(open_base(half.config().base).identity(), pairs_of(half))
    _, state = load_checkpoint(half.state_folder, fingerprint)
    assert {tensor.dtype for tensor in state.adapter.values()} == {torch.float32}
    assert read_lora(half.lora_file).dtype == torch.float32


def test_flip_dropped_captions_and_plain_adamw_train(run):
    assert go(
        run(data={"flip": True, "caption_dropout": 0.5}, optimization={"optimizer": "adamw"}, training={"steps": 2})
    ).finished


def test_checkpointing_changes_memory_and_not_the_result(whole, like_whole, run):
    parts = {part: values for part, values in SHORT.items() if part != "name"}
    saving = run(**parts | {"training": SHORT["training"] | {"gradient_checkpointing": "on"}})
    go(saving)
    # Whole LoRAs: eight bits an optimizer state make steps of what was a rounding error in a single number.
    ours, theirs = (moved(one) for one in (saving, whole))
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def moved(run: Run) -> torch.Tensor:
    """All numbers of a LoRA that were zero before the training."""
    state = read_lora(run.lora_file).state
    return torch.cat([state[name].flatten() for name in sorted(state) if "lora_B" in name])


def test_samples_are_painted_at_the_ends_and_between(run):
    painted = run(
        training={"steps": 4}, watch={"sample_every": 2, "sample_steps": 2, "sample_prompts": ["red", "red 1"]}
    )
    go(painted)
    sheets = sorted(file.name for file in painted.samples_folder.glob("step-*.png"))
    assert sheets == ["step-00000000.png", "step-00000002.png", "step-00000004.png"]
    assert len(list(painted.samples_folder.glob("base-*.png"))) == 2


def test_eight_bit_states_are_used_where_asked(whole):
    saved = torch.load(whole.state_folder / "step-00000008" / "optimizer.pt", weights_only=True)
    assert torch.uint8 in dtypes(saved)


def dtypes(value) -> set[torch.dtype]:
    if isinstance(value, torch.Tensor):
        return {value.dtype}
    return set().union(*map(dtypes, value.values())) if isinstance(value, dict) else set()


def wait_for(condition, process, seconds=240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the training ended early"
        assert time.monotonic() < end
        time.sleep(0.02)


def pairs_of(run: Run) -> str:
    return open_pairs(run.config().data.pairs).load().fingerprint


def max_step(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["event"] == "step"), default=0)


@pytest.mark.parametrize(("split", "most"), [(True, 1), (False, 4)])
def test_a_sample_picture_takes_no_more_of_the_unet_than_a_step(run, monkeypatch, split, most):
    """In a step of two pairs the UNet sees four pictures at once, or one of each pair after the other."""
    thrifty = run(
        training={"steps": 1, "batch_size": 1 if split else 2, "split_pair": split},
        watch={"sample_every": 1, "sample_steps": 1, "evaluate_every": 0, "sample_prompts": ["red", "red 1", "red 2"]},
    )
    sizes, predict = [], SDXL.predict

    def seen(self, unet, noisy, *rest):
        sizes.append(len(noisy))
        return predict(self, unet, noisy, *rest)

    monkeypatch.setattr(SDXL, "predict", seen)
    go(thrifty)
    assert max(sizes) == most

"""Checkpoints: what a run resumes from."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.training.checkpoint import (
    LearnerState,
    RunFingerprint,
    TrainState,
    latest_step,
    load_checkpoint,
    save_checkpoint,
)
from mapo_studio.trainer.training.early_stopping import EvalHistory, EvalPoint

pytestmark = pytest.mark.slow

FINGERPRINT = RunFingerprint(base="b" * 16, pairs="p" * 16)
POINTS = (EvalPoint(0, 0.5, 40, 0.1), EvalPoint(4, 0.1 + 0.2, 40, 0.09), EvalPoint(6, 0.25, 40, 1 / 3))


def tensors(value: float) -> LearnerState:
    weight = torch.nn.Parameter(torch.full((4, 4), float(value)))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return LearnerState({"a": weight.detach()}, {"optimizer": optimizer.state_dict()})


def save(folder: Path, step: int) -> Path:
    state = TrainState(step, batches=2 * step, history=EvalHistory.of(POINTS), quantize="nf4")
    return save_checkpoint(folder, state, tensors(step), FINGERPRINT)


def without(folder: Path, *names: str) -> None:
    """Make of a checkpoint what an earlier version wrote: `names` were not there."""
    progress = json.loads((folder / "progress.json").read_text())
    for name in names:
        del progress[name]
    (folder / "progress.json").write_text(json.dumps(progress))


def test_a_state_comes_back_as_it_was(tmp_path):
    save(tmp_path, 7)
    state, loaded = load_checkpoint(tmp_path, FINGERPRINT)
    assert state == TrainState(7, batches=14, history=EvalHistory.of(POINTS), quantize="nf4")
    saved = tensors(7)
    assert torch.equal(loaded.adapter["a"], saved.adapter["a"])
    moments = loaded.optimizer["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], saved.optimizer["optimizer"]["state"][0]["exp_avg"])


def test_a_state_of_before_there_were_several_processes_took_its_steps_with_one(tmp_path):
    without(save(tmp_path, 7), "batches", "quantize")
    state, _ = load_checkpoint(tmp_path, FINGERPRINT, accumulation=3)
    assert (state.batches, state.quantize) == (21, "none")


def test_a_state_without_measurements_takes_them_from_the_events_up_to_its_step(tmp_path):
    without(save(tmp_path, 4), "history")
    events = [{"event": "evaluation", **asdict(point)} for point in POINTS]
    state, _ = load_checkpoint(tmp_path, FINGERPRINT, events=[{"event": "started"}, *events])
    assert state.history == EvalHistory.of(POINTS[:2])


def test_the_last_two_states_are_kept(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    assert latest_step(tmp_path) == 15


def test_nothing_saved_is_nothing_to_load(tmp_path):
    assert load_checkpoint(tmp_path / "none", FINGERPRINT) is None
    assert latest_step(tmp_path / "none") is None


@pytest.mark.parametrize("other", [RunFingerprint("x", FINGERPRINT.pairs), RunFingerprint(FINGERPRINT.base, "x")])
def test_a_state_of_another_base_or_other_pairs_is_refused(tmp_path, other):
    save(tmp_path / "cats" / "state", 5)
    with pytest.raises(UserError, match=r"cats was started with other (base|pairs)"):
        load_checkpoint(tmp_path / "cats" / "state", other)


def test_a_state_half_written_when_the_process_died_is_not_loaded(tmp_path):
    save(tmp_path, 5)
    part = tmp_path / ".step-00000010.part"
    part.mkdir()
    (part / "adapter.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path, FINGERPRINT)[0].step == 5
    save(tmp_path, 10)
    assert not part.exists()


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from mapo_studio.trainer.training.checkpoint import LearnerState, RunFingerprint, TrainState, save_checkpoint
from mapo_studio.trainer.errors import UserError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
save_checkpoint(folder, TrainState(5), LearnerState({"a": torch.zeros(10)}, {}), RunFingerprint("b", "p"))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    tensors = LearnerState({"a": torch.zeros(1_000_000)}, {})
    save_checkpoint(folder, TrainState(10), tensors, RunFingerprint("b", "p"))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["adapter", "optimizer"])
def test_a_disk_that_takes_no_more_leaves_the_state_before(tmp_path, what):
    script = FULL_DISK
    if what == "optimizer":
        script = script.replace(
            '{"a": torch.zeros(1_000_000)}, {}', '{"a": torch.zeros(1)}, {"m": torch.zeros(1_000_000)}'
        )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "no room to write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]

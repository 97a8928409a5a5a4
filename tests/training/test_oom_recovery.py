"""A device whose memory is full in the middle of a training: what is saved, what is said, and how it goes on."""

from __future__ import annotations

import itertools

import pytest
import torch
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import RunConfig, parse_config
from mapo_studio.trainer.errors import DeviceOutOfMemory, UserError
from mapo_studio.trainer.jobs.job import Job
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.sdxl import SDXL
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training import oom_recovery
from mapo_studio.trainer.training.checkpoint import latest_step
from mapo_studio.trainer.training.loop import train
from mapo_studio.trainer.training.oom_recovery import is_oom, oom_message, with_less_memory
from torch.optim import AdamW

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SETTINGS = {
    "optimization": {"optimizer": "adamw", "learning_rate": 1e-3, "warmup_steps": 0},
    "training": {"steps": 6, "batch_size": 2, "accumulation": 2},
    "watch": {"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 100, "log_every": 1},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def run(workspace, settings, request):
    numbers = itertools.count()

    def make(**training) -> Run:
        name = f"{request.node.name.split('[')[0][-50:]}-{abs(hash(request.node.name)) % 10**6}-{next(numbers)}"
        return Run.create(workspace, settings(name=name, **SETTINGS | {"training": SETTINGS["training"] | training}))

    return make


@pytest.fixture
def room(monkeypatch):
    """room(pictures, after): after so many forward passes of training, the device holds so many pictures at once.

    Returns the sizes of all of training's passes, as they come.
    """
    predict = SDXL.predict

    def make(pictures: int, after: int = 0) -> list[int]:
        seen: list[int] = []

        def asked(self, unet, noisy, *rest):
            if len(seen) >= after and len(noisy) > pictures:
                raise torch.OutOfMemoryError(f"Tried to allocate {len(noisy)} pictures")
            if torch.is_grad_enabled():
                seen.append(len(noisy))
            return predict(self, unet, noisy, *rest)

        monkeypatch.setattr(SDXL, "predict", asked)
        return seen

    return make


def go(run: Run):
    return train(run, StopRequest(run.stop_file))


def learned(run: Run) -> torch.Tensor:
    state = read_lora(run.lora_file).state
    return torch.cat([state[name].flatten() for name in sorted(state)])


def warnings(run: Run) -> list[str]:
    return [event["text"] for event in run.events() if event["event"] == "warning"]


def test_a_full_memory_saves_what_was_learned_and_names_the_mend(run, room):
    short = run()
    room(2, after=4)  # two steps of two batches of four pictures fit, then no more
    with pytest.raises(DeviceOutOfMemory) as caught:
        go(short)
    said = str(caught.value)
    assert "the memory of the device is full" in said
    assert "--pairs-at-once 1" in said
    assert f"What was learned in 2 steps is saved: after that, `mapo resume {short.name}`" in said
    assert latest_step(short.state_folder) == 2
    assert Job(short.folder).status().phase == "failed"


def test_it_goes_on_by_itself_and_learns_what_the_sparing_settings_would_have(run, room, monkeypatch):
    whole = run()
    go(whole)
    by_itself = run(auto=True)
    seen = room(1, after=5)  # in the middle of the third step
    assert go(by_itself).finished
    assert max(seen[5:]) == 1
    kept = by_itself.config().training
    assert (kept.pairs_at_once, kept.split_pair, kept.batch_size, kept.accumulation) == (1, True, 2, 2)
    assert sum("resumed with less" in text for text in warnings(by_itself)) >= 2
    monkeypatch.undo()
    from_the_start = run(split_pair=True, pairs_at_once=1, gradient_checkpointing=kept.gradient_checkpointing)
    go(from_the_start)
    for other in (from_the_start, whole):  # the same pairs in the same order: only sums are rounded otherwise
        assert (learned(by_itself) - learned(other)).norm() < 1e-3 * learned(other).norm()
    steps = [event["step"] for event in by_itself.events() if event["event"] == "step"]
    assert steps == list(range(1, 7))


def test_it_gives_up_with_a_sentence_where_nothing_is_left(run, room):
    hopeless = run(auto=True, steps=1)
    room(0)
    with pytest.raises(UserError, match="as sparing as any: close what else uses it"):
        go(hopeless)
    assert Job(hopeless.folder).status().phase == "failed"
    assert hopeless.config().training.quantize == "nf4"


def test_what_the_optimizer_moved_in_part_is_not_saved(run, monkeypatch):
    """Its states are made in its first step: there is where memory ends."""
    torn = run()
    step = AdamW.step

    def short(self, closure=None):
        if short.left == 0:
            raise torch.OutOfMemoryError
        short.left -= 1
        return step(self, closure)

    short.left = 3
    monkeypatch.setattr(AdamW, "step", short)
    with pytest.raises(DeviceOutOfMemory) as caught:
        go(torn)
    assert latest_step(torn.state_folder) is None
    assert "is saved" not in str(caught.value)
    monkeypatch.undo()
    assert go(torn).finished


def test_a_full_memory_in_sampling_goes_on_too(run, settings, workspace, room):
    painting = Run.create(
        workspace,
        settings(
            name="painting",
            **SETTINGS
            | {
                "training": {"steps": 2, "batch_size": 1, "accumulation": 1, "auto": True},
                "watch": {"sample_every": 1, "sample_steps": 1, "sample_prompts": ["red"], "evaluate_every": 0},
            },
        ),
    )
    room(1)  # guidance paints two halves at once, until the pair is split
    assert go(painting).finished
    assert painting.config().training.split_pair
    assert (painting.samples_folder / "step-00000002.png").is_file()


def test_encoding_that_does_not_fit_is_not_tried_again_with_settings_that_cannot_help(run, monkeypatch):
    early = run(auto=True)
    tries = []

    def full(*_):
        tries.append(1)
        raise DeviceOutOfMemory("not enough memory on cuda to encode a.png at 4096 x 4096 px")

    monkeypatch.setattr("mapo_studio.trainer.training.loop.prepare", full)
    with pytest.raises(DeviceOutOfMemory, match=r"a\.png"):
        go(early)
    assert len(tries) == 1


def test_the_optimizer_stays_whose_states_are_gone_on_from():
    config = parse_config({"optimization": {"optimizer": "adamw"}, "training": {"batch_size": 6}}, "")
    while step := with_less_memory(config):
        assert step[0].optimization == config.optimization
        assert step[0].training.batch_size == 6
        assert step[0] != config
        config = step[0]
    assert config.training.pairs_at_once == 1
    assert config.training.split_pair
    assert config.training.gradient_checkpointing == "offload"


def test_the_next_smaller_preset_is_named(monkeypatch):
    for gib, name in ((11.6, "8 GB"), (7.7, "6 GB"), (23.6, "16 GB")):
        monkeypatch.setattr(oom_recovery, "total_memory", lambda _, gib=gib: int(gib * 2**30))
        assert f"the preset {name}," in str(oom_message(RunConfig(), torch.device("cuda"), "cats", 3))
    monkeypatch.setattr(oom_recovery, "total_memory", lambda _: None)
    assert "preset" not in str(oom_message(RunConfig(), CPU, "cats", None))


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("Tried to allocate"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (DeviceOutOfMemory("not enough memory"), True),
        (UserError("out of pairs"), False),
        (ValueError("memory"), False),
    ],
)
def test_which_errors_say_that_memory_is_full(error, full):
    assert is_oom(error) is full

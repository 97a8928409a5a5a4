"""On which card is trained, and who waits for whom: simulated machines, and the real line of trainings."""

import threading

import pytest
from mapo_studio.comfy_nodes.training import gpu_sharing
from mapo_studio.comfy_nodes.training.gpu_sharing import (
    Host,
    choose_device,
    concurrent_training,
    hold_gpu,
    is_shared,
    pending_prompts,
    wait_reason,
)
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import gpu_queue
from mapo_studio.trainer.jobs.gpu_queue import acquire_gpu, enqueue, queued
from mapo_studio.trainer.runs.run_folder import Run

GB = 10**9
ONE = Host("cuda:0", {"cuda:0": 12 * GB})
TWO = Host("cuda:0", {"cuda:0": 12 * GB, "cuda:1": 24 * GB})
CPU = Host("cpu", {})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(gpu_sharing, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(gpu_queue, "_POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("host", "setting", "device", "shared", "memory"),
    [
        (ONE, "", "cuda:0", True, 12 * GB),
        (TWO, "", "cuda:1", False, 24 * GB),
        (TWO, "cuda:0", "cuda:0", True, 12 * GB),
        (TWO, "cpu", "cpu", False, None),
        (CPU, "", "cpu", True, None),
        (CPU, "cpu", "cpu", True, None),
        (Host("cpu", {"cuda:0": 8 * GB}), "", "cuda:0", False, 8 * GB),
        (Host("mps", {}), "", "mps", True, None),
        (Host("privateuseone:0", {}), "", "auto", True, None),
        (Host("cuda:0", {"cuda:0": 24 * GB, "cuda:1": 2 * GB}), "", "cuda:0", True, 24 * GB),
        (Host("cuda:0", {"cuda:0": 8 * GB, "cuda:1": 8 * GB, "cuda:2": 16 * GB}), "", "cuda:2", False, 16 * GB),
    ],
)
def test_the_card_that_comfyui_leaves_alone_is_trained_on_unless_it_is_much_smaller(
    host, setting, device, shared, memory
):
    chosen = choose_device(host, setting)
    assert (chosen.device, chosen.shared, chosen.memory) == (device, shared, memory)


def test_a_card_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="no cuda:5; it has cuda:0 and cuda:1 and cpu"):
        choose_device(TWO, "cuda:5")


@pytest.mark.parametrize(
    ("host", "device", "shared"),
    [
        (ONE, "auto", True),
        (ONE, "cuda", True),
        (ONE, "cuda:0", True),
        (ONE, "cpu", False),
        (TWO, "cuda:1", False),
        (TWO, "auto", True),
        (Host("cuda:1", TWO.cards), "auto", False),
        (CPU, "auto", True),
        (CPU, "cpu", True),
        (Host("cpu", ONE.cards), "auto", False),
    ],
)
def test_a_training_is_known_to_be_beside_comfyui(host, device, shared):
    assert is_shared(host, device) is shared


def test_prompts_that_train_are_not_waited_for_as_they_wait_in_the_line_themselves():
    queue = {"paints": {"KSampler", "SaveImage"}, "trains": {"MaPOTrainLoRA", "KSampler"}, "empty": set()}
    assert pending_prompts(queue) == {"paints", "empty"}


def test_what_is_waited_for_is_said():
    assert wait_reason(frozenset(), ()) == ""
    assert "painted the prompt in its queue" in wait_reason({"a"}, ())
    assert "painted the 2 prompts in its queue" in wait_reason({"a", "b"}, ())
    assert wait_reason({"a"}, ("the training cats-1",)) == "Waits for its turn: the training cats-1 has the device."


def test_whoever_is_started_next_waits_until_comfyui_has_painted_and_was_freed(tmp_path):
    painting, seen, behind = threading.Event(), [], []
    painting.set()
    hold_gpu(tmp_path, painting.is_set, lambda: seen.append("freed"))
    assert [folder.name for folder in queued(tmp_path)] == ["comfyui"]

    def train():
        with acquire_gpu(tmp_path, tmp_path / "runs" / "cats-1", behind.append, lambda: None):
            seen.append("trains")

    training = threading.Thread(target=train)
    training.start()
    while not behind:
        assert training.is_alive()
    assert (behind, seen) == (["the image generation in ComfyUI"], [])
    painting.clear()
    training.join(10)
    assert seen == ["freed", "trains"]
    assert queued(tmp_path) == ()


def test_a_place_in_the_line_that_cannot_be_had_is_told_of_instead_of_waited_for(tmp_path):
    (tmp_path / "turns").write_text("no folder")
    with pytest.raises((UserError, OSError)):
        hold_gpu(tmp_path, lambda: False, lambda: None)


def test_the_place_is_given_up_where_freeing_goes_wrong(tmp_path):
    def fail():
        raise RuntimeError("the card fell off")

    hold_gpu(tmp_path, lambda: False, fail)
    for thread in threading.enumerate():
        if thread.name == "mapo-line":
            thread.join(10)
    assert queued(tmp_path) == ()


def test_freeing_is_waited_for_until_it_has_begun_but_not_for_ever(monkeypatch):
    asked, looks = [], [True, True, False]
    gpu_sharing.free_memory(lambda: asked.append(1), lambda: looks.pop(0))
    assert (asked, looks) == ([1], [])
    monkeypatch.setattr(gpu_sharing, "_FREEING_SECONDS", 0.05)
    gpu_sharing.free_memory(lambda: asked.append(1), lambda: True)
    assert asked == [1, 1]


@pytest.mark.parametrize(("device", "name"), [("cuda:0", "cats"), ("auto", "cats"), ("cuda:1", None)])
def test_the_training_beside_comfyui_is_the_one_that_has_its_turn_on_its_card(tmp_path, device, name):
    run = Run.create(tmp_path, RunConfig(name="cats", base="b", data={"pairs": "p"}, training={"device": device}))
    assert concurrent_training(tmp_path, TWO) is None
    with enqueue(tmp_path, run.folder):
        assert concurrent_training(tmp_path, TWO) == name


def test_a_task_in_the_line_is_no_training(tmp_path):
    with enqueue(tmp_path, tmp_path / "tasks" / "generate-1"):
        assert concurrent_training(tmp_path, ONE) is None

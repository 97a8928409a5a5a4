"""Training within a graph of a real ComfyUI: what comes out, and that nothing is trained twice or lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mapo_studio.tests.hosts.running_comfyui import Failed, Interrupted, Page, RunningComfyUI
from mapo_studio.trainer.config import presets
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.jobs.job import Job
from mapo_studio.trainer.models.safetensors_file import read_header
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import ImageRecord, Pair
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run, all_runs
from PIL import Image
from sqlalchemy import select

pytestmark = pytest.mark.slow

ENDLESS = 100_000
TEXT = bytes([0, 0, 0, 3])
"""What a line for a node begins with; its length and the node's id follow."""
PAGE = "artist"
"""Who asks: to nobody ComfyUI does not show again what it still knows."""
SECONDS = 400
"""For a training of a few steps: most of it is the loading of torch, twice."""


@pytest.fixture(scope="module")
def comfy(comfyui, tmp_path_factory) -> Iterator[RunningComfyUI]:
    """A ComfyUI of our own, as it is killed, with two judged datasets in its workspace."""
    folder = tmp_path_factory.mktemp("training")
    server = RunningComfyUI(comfyui.python, comfyui.folder, folder / "comfyui")
    write_pairs(folder / "pairs", 40, seed=0)
    write_pairs(folder / "few", 5, seed=0)
    server.workspace.mkdir(parents=True)
    store = open_store(server.workspace)
    for name, source in (("shapes", "pairs"), ("few", "few")):
        import_pairs(store, name, folder / source, annotator="me", anywhere=True)
    with server:
        yield server
    for run in all_runs(server.workspace):
        Job(run.folder).stop()
    until(lambda: not any(Job(run.folder).is_alive() for run in all_runs(server.workspace)))
    store.close()


@pytest.fixture(scope="module")
def first(comfy) -> tuple[dict, Page]:
    """What the first training of four steps gave, and what was told meanwhile to the page that asked for it."""
    with comfy.listen(PAGE) as page:
        return comfy.run(graph(), PAGE, SECONDS), page


def graph(**given) -> dict:
    """A train node of "shapes" on the embedded base, and nodes that show all it gives."""
    asked = {"dataset": "shapes", "checkpoint": "tiny", "preset": "automatic"}
    asked |= {"steps": 4, "rank": 0, "learning_rate": 0.0, **given}
    shown = {"path": ("PreviewAny", "source", 0), "chart": ("PreviewImage", "images", 1)}
    shown |= {"samples": ("PreviewImage", "images", 2), "report": ("PreviewAny", "source", 3)}
    nodes = {name: {"class_type": kind, "inputs": {key: ["train", at]}} for name, (kind, key, at) in shown.items()}
    return {"train": {"class_type": "MaPOTrainLoRA", "inputs": asked}, **nodes}


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def text(entry: dict, node: str) -> str:
    return entry["outputs"][node]["text"][0]


def names(comfy: RunningComfyUI) -> list[str]:
    return sorted(run.name for run in all_runs(comfy.workspace))


def the_run(comfy: RunningComfyUI, steps: int) -> Run:
    """The run that was asked to take so many steps."""
    [run] = [one for one in all_runs(comfy.workspace) if one.config().training.steps == steps]
    return run


def count(run: Run, event: str) -> int:
    return sum(one["event"] == event for one in run.events())


def steps_seen(page: Page, least: int) -> None:
    """Wait until the node's bar is at that step."""
    page.wait_for("progress", lambda data: data["max"] == ENDLESS and data["value"] >= least, SECONDS)


def test_the_node_offers_what_a_run_and_the_presets_have(comfy):
    def offered() -> dict:
        said = comfy.get("/object_info/MaPOTrainLoRA")["MaPOTrainLoRA"]
        return said["input"]["required"] | said["input"]["optional"]

    until(lambda: offered()["dataset"][1]["options"] == ["few", "shapes"])  # read in a thread, at its start
    said, inputs = comfy.get("/object_info/MaPOTrainLoRA")["MaPOTrainLoRA"], offered()
    assert inputs["preset"][1]["options"] == ["automatic", *(preset.name for preset in presets.presets())]
    assert [inputs[name][1]["default"] for name in ("steps", "rank", "learning_rate")] == [0, 0, 0.0]
    run = RunConfig()
    knobs = {name: inputs[name][1] for name in inputs if inputs[name][1].get("advanced")}
    offered_knobs = ("push", "margin_weight", "temperature", "error_scale", "beta", "likelihood_weight")
    values = {name: getattr(run.objective, name) for name in offered_knobs}
    assert {name: knob["default"] for name, knob in knobs.items()} == {
        "objective": run.objective.kind,
        **{name: 0.0 if value == "auto" else value for name, value in values.items()},
        "seed": run.training.seed,
    }
    assert knobs["seed"]["control_after_generate"] is False  # each prompt would be another training
    assert all(knob.get("tooltip") for _, knob in inputs.values())
    assert all(said["output_tooltips"])


def test_a_training_gives_a_lora_pictures_and_words(comfy, first):
    entry, _ = first
    lora = Path(text(entry, "path"))
    assert lora == comfy.folder / "models" / "loras" / "mapo" / "shapes-1.safetensors"
    assert read_header(lora).metadata["mapo.steps"] == "4"
    assert "mapo/shapes-1.safetensors" in comfy.get("/models/loras")
    [chart], [samples] = (comfy.pictures(entry, node) for node in ("chart", "samples"))
    assert chart.size == (1024, 512)
    kept = Image.open(comfy.workspace / "runs" / "shapes-1" / "samples" / "step-00000004.png")
    assert np.abs(np.asarray(samples.convert("RGB"), int) - np.asarray(kept, int)).max() <= 1
    report = text(entry, "report").splitlines()
    assert report[0].startswith("shapes-1 agrees with you on ")
    assert f"LoRA: {lora}" in report
    assert text(entry, "train") == report[0]


def test_the_page_sees_how_far_it_is_and_what_it_paints(comfy, first):
    _, page = first
    bars = [(data["value"], data["max"]) for data in page.all_of("progress")]
    assert (4, 4) in bars
    binary = page.all_of("preview")
    lines = [one[8:].removeprefix(b"train").decode() for one in binary if one[:4] == TEXT]
    assert any(line.startswith("step 4 of 4, loss ") for line in lines)
    previews = [one for one in binary if one[:4] != TEXT]
    assert len(previews) >= 1
    assert b"\xff\xd8\xff" in previews[-1][:200]  # JPEG
    assert page.all_of("mapo.lora") == [{"lora": "mapo/shapes-1.safetensors", "run": "shapes-1"}]
    assert [data["phase"] for data in page.all_of("mapo.ended") if data["name"] == "shapes-1"] == ["finished"]


def test_nothing_else_is_started_beside_the_graph_that_goes_on(comfy, first):
    assert not (comfy.workspace / "tasks").exists()


def test_nothing_is_trained_twice(comfy, first):
    lora, before = text(first[0], "path"), names(comfy)
    again = comfy.run(graph(), PAGE)
    assert text(again, "path") == lora
    cached = next(data for event, data in again["status"]["messages"] if event == "execution_cached")
    assert "train" in cached["nodes"]

    comfy.stop()
    comfy.start()  # with nothing in its cache
    assert text(comfy.run(graph(), PAGE), "path") == lora
    Path(lora).unlink()
    assert text(comfy.run(graph(), PAGE), "path") == lora
    assert Path(lora).is_file()
    assert names(comfy) == before
    assert count(Run.open(comfy.workspace, "shapes-1"), "requested") == 1

    store = open_store(comfy.workspace)
    with store.writing() as session:
        pair = session.scalars(select(Pair).where(Pair.votes > 0)).first()
        shown = session.get_one(ImageRecord, pair.first_id).sha256
        said = "right" if pair.votes_first else "left"
        answer(session, "another", Answer(pair.id, shown, said, "slightly", 1.0, "elsewhere", 0))
    other = comfy.run(graph(), PAGE, SECONDS)
    assert Path(text(other, "path")).name == f"shapes-{len(before) + 1}.safetensors"


def test_interrupted_killed_and_found_again(comfy):
    prompt = graph(steps=ENDLESS)
    with comfy.listen(PAGE) as page:
        waiting = comfy.queue(prompt, PAGE)
        steps_seen(page, 5)
        comfy.interrupt()
        with pytest.raises(Interrupted):
            comfy.wait(waiting)
        run = the_run(comfy, ENDLESS)
        told = page.wait_for("mapo.ended", lambda data: data["name"] == run.name)
    stopped = Job(run.folder).status()
    assert (stopped.phase, Job(run.folder).is_alive()) == ("stopped", False)
    assert told["phase"] == "stopped"
    assert str(run.lora_file) in told["sentence"]
    assert read_header(run.lora_file).metadata["mapo.steps"] == str(stopped.done)
    assert not (comfy.folder / "models" / "loras" / "mapo" / run.lora_file.name).exists()

    with comfy.listen(PAGE) as page:
        comfy.queue(prompt, PAGE)
        steps_seen(page, stopped.done + 1)  # it goes on, in the same run
    assert the_run(comfy, ENDLESS) == run
    assert [event["step"] for event in run.events() if event["event"] == "resumed"] == [stopped.done]
    comfy.kill()
    at = Job(run.folder).status().done
    until(lambda: Job(run.folder).status().done > at)  # it outlives its host

    comfy.start()
    with comfy.listen(PAGE) as page:
        waiting = comfy.queue(prompt, PAGE)
        steps_seen(page, at + 1)
        assert count(run, "requested") == 2  # it was found at work, not begun again
        comfy.interrupt()
        with pytest.raises(Interrupted):
            comfy.wait(waiting)
    assert Job(run.folder).status().phase == "stopped"

    with comfy.listen(PAGE) as page:
        waiting = comfy.queue(prompt, PAGE)
        steps_seen(page, Job(run.folder).status().done + 1)
        [process] = processes_of(run)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(Failed, match="ended unexpectedly at step"):
            comfy.wait(waiting)
        assert page.wait_for("mapo.ended")["phase"] == "died"


def processes_of(run: Run) -> list[int]:
    """The ids of the processes that train a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"resume" in words and run.name.encode() in words and str(run.workspace).encode() in words:
            found.append(int(folder.name))
    return found


def test_what_is_in_the_way_is_said_before_anything_is_made(comfy):
    before = names(comfy)
    for given, why in (
        ({"dataset": "few"}, "Only . judged pairs to train on|kept aside"),
        ({"dataset": "nowhere"}, "there is no dataset nowhere"),
        ({"checkpoint": "gone.safetensors"}, "no checkpoint 'gone.safetensors'"),
        ({"preset": "13 GB"}, "no preset '13 GB'"),
        ({"continue_from": "gone.safetensors"}, "no LoRA 'gone.safetensors'"),
        ({"continue_from": "/etc/hostname"}, "neither in ComfyUI's loras folders nor in the workspace"),
    ):
        with pytest.raises(Failed, match=why) as failed:
            comfy.run(graph(**given))
        assert failed.value.node == "train"
    with pytest.raises(Failed, match="choose a dataset"):
        comfy.queue(graph(dataset=" "))
    assert names(comfy) == before


def test_a_failure_is_an_error_with_the_last_lines_of_the_log(comfy, first):
    broken = comfy.workspace / "broken.safetensors"
    broken.write_bytes(b"not a LoRA")
    with comfy.listen(PAGE) as page, pytest.raises(Failed) as failed:
        comfy.run(graph(continue_from=str(broken), steps=3), PAGE, SECONDS)
    said = str(failed.value)
    assert "failed: " in said
    assert "is not a whole safetensors file" in said
    assert "The last lines of" in said
    assert "log.txt" in said
    assert page.wait_for("mapo.ended", lambda data: data["phase"] == "failed")["name"] == the_run(comfy, 3).name

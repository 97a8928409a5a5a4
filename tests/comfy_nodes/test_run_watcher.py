"""What pages are told of runs: every change, every end once, and nothing twice, whoever began them."""

import asyncio
import os
import time

import pytest
from mapo_studio.comfy_nodes.training import run_watcher
from mapo_studio.comfy_nodes.training.run_list import RunList
from mapo_studio.comfy_nodes.training.run_watcher import Watcher
from mapo_studio.tests import own_loop
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.runs.run_folder import Run


class Page:
    """What was told, and which LoRAs were copied."""

    def __init__(self) -> None:
        self.told, self.copied, self.full = [], [], False
        self.watcher = Watcher(RunList(lambda run: None), lambda *said: self.told.append(said), self._copy)

    def _copy(self, run: Run) -> str:
        if self.full:
            raise UserError("the disk is full")
        self.copied.append(run.name)
        return run.name

    def ends(self) -> list[tuple[str, str]]:
        return [(said["name"], said["phase"]) for event, said in self.told if event == "mapo.ended"]

    def lists(self) -> list[list[dict]]:
        return [said["runs"] for event, said in self.told if event == "mapo.runs"]


@pytest.fixture
def watched():
    return Page()


def run_at_work(workspace, name="cats-1", step=3) -> Run:
    run = Run.create(workspace, RunConfig(name=name, base="/models/sdxl.safetensors", data={"pairs": "dataset:cats"}))
    run.log("requested")
    run.log("acquired")
    run.log("started", steps=10)
    run.log("step", step=step, remaining=5.0)
    return run


def finish(run: Run) -> None:
    run.log("step", step=10, remaining=0.0)
    run.log("evaluation", step=10, agreement=0.75, low=0.5, high=0.9, pairs=20)
    run.log("finished", step=10)


def test_a_run_that_ends_is_told_of_once_and_its_lora_is_copied(tmp_path, watched):
    run = run_at_work(tmp_path)
    with run.locked():
        watched.watcher.poll(tmp_path)
        assert [(row["name"], row["phase"], row["step"], row["steps"]) for row in watched.lists()[-1]] == [
            ("cats-1", "running", 3, 10)
        ]
        finish(run)
    for _ in range(3):
        watched.watcher.poll(tmp_path)
    assert watched.ends() == [("cats-1", "finished")]
    assert watched.copied == ["cats-1"]
    said = next(said for event, said in watched.told if event == "mapo.ended")
    assert said["sentence"] == "cats-1 agrees with you on 75 % (50-90 %) of 20 pairs it has not trained on."
    row = watched.lists()[-1][0]
    assert (row["agreement_low"], row["agreement_high"], row["agreement_pairs"]) == (0.5, 0.9, 20)
    assert (row["phase"], row["agreement"], row["dataset"], row["base"]) == (
        "finished",
        0.75,
        "cats",
        "sdxl.safetensors",
    )
    assert len(watched.lists()) == 2


def test_what_had_ended_before_the_first_look_is_not_told_of_anew(tmp_path, watched):
    finish(run_at_work(tmp_path))
    watched.watcher.poll(tmp_path)
    watched.watcher.poll(tmp_path)
    assert (watched.ends(), watched.copied, len(watched.lists())) == ([], [], 1)


def test_a_run_that_began_and_ended_between_two_looks_is_told_of(tmp_path, watched):
    watched.watcher.poll(tmp_path)
    finish(run_at_work(tmp_path))
    watched.watcher.poll(tmp_path)
    assert watched.ends() == [("cats-1", "finished")]


def test_a_run_that_was_renamed_has_not_ended_anew(tmp_path, watched):
    run = run_at_work(tmp_path)
    finish(run)
    for file in (run.events_file, run.settings_file):
        os.utime(file, (time.time() - 60,) * 2)
    watched.watcher.poll(tmp_path)
    run.folder.rename(run.folder.with_name("dogs-1"))
    watched.watcher.poll(tmp_path)
    assert watched.ends() == []
    assert watched.lists()[-1][0]["name"] == "dogs-1"


def test_a_run_that_is_gone_on_with_ends_again(tmp_path, watched):
    run = run_at_work(tmp_path)
    with run.locked():
        watched.watcher.poll(tmp_path)
        run.log("stopped", step=3)
    watched.watcher.poll(tmp_path)
    finish(run)  # resumed and finished between two looks
    watched.watcher.poll(tmp_path)
    assert watched.ends() == [("cats-1", "stopped"), ("cats-1", "finished")]
    assert watched.copied == ["cats-1"]


@pytest.mark.parametrize(
    ("events", "phase", "sentence"),
    [
        ([("stopped", {"step": 3})], "stopped", "cats-1 was stopped at step 3 of 10: what it learned is saved."),
        ([("failed", {"error": "no room."})], "failed", "cats-1 failed at step 3 of 10: no room."),
        ([], "died", "cats-1 ended unexpectedly at step 3 of 10: you can resume it."),
    ],
)
def test_how_a_run_ended_is_said_and_only_a_finished_lora_is_copied(tmp_path, watched, events, phase, sentence):
    run = run_at_work(tmp_path)
    with run.locked():
        watched.watcher.poll(tmp_path)
        for event, values in events:
            run.log(event, **values)
    watched.watcher.poll(tmp_path)
    told = [said for event, said in watched.told if event == "mapo.ended"]
    assert told == [{"name": "cats-1", "phase": phase, "sentence": sentence}]
    assert watched.copied == []


def test_a_lora_that_cannot_be_copied_is_part_of_what_is_told(tmp_path, watched):
    run = run_at_work(tmp_path)
    with run.locked():
        watched.watcher.poll(tmp_path)
        finish(run)
    watched.full = True
    watched.watcher.poll(tmp_path)
    sentence = next(said for event, said in watched.told if event == "mapo.ended")["sentence"]
    assert sentence.endswith("It could not be copied into ComfyUI's list: the disk is full.")


def test_a_damaged_run_hides_no_other(tmp_path, watched):
    broken = run_at_work(tmp_path, "broken")
    broken.settings_file.write_text("this is no TOML = = =")
    odd = run_at_work(tmp_path, "odd")
    odd.events_file.write_text('{"event": "step"}\n[]\n{"no": "event"}\n\x00\n')
    run = run_at_work(tmp_path, "whole")
    with run.locked():
        watched.watcher.poll(tmp_path)
        finish(run)
    watched.watcher.poll(tmp_path)
    assert watched.ends() == [("whole", "finished")]
    rows = {row["name"]: row for row in watched.lists()[-1]}
    assert set(rows) == {"broken", "odd", "whole"}
    assert "this run cannot be read" in rows["broken"]["message"]


def test_a_run_that_a_node_waits_for_is_told_of_by_the_node_alone(tmp_path, watched):
    run = run_at_work(tmp_path)
    run_watcher.attend(run)
    with run.locked():
        watched.watcher.poll(tmp_path)
        run.log("stopped", step=3)
    watched.watcher.poll(tmp_path)
    assert (watched.ends(), watched.copied) == ([], [])
    assert watched.lists()[-1][0]["phase"] == "stopped"
    run_watcher.unattend(run)  # resumed from the side bar
    finish(run)
    watched.watcher.poll(tmp_path)
    assert watched.ends() == [("cats-1", "finished")]


def test_another_workspace_is_begun_with_anew(tmp_path, watched):
    watched.watcher.poll(tmp_path / "one")
    finish(run_at_work(tmp_path / "two"))
    watched.watcher.poll(tmp_path / "two")
    assert watched.ends() == []
    assert [row["name"] for row in watched.lists()[-1]] == ["cats-1"]


def test_runs_that_have_ended_are_read_once(tmp_path, monkeypatch):
    finish(run_at_work(tmp_path))
    runs, reads = RunList(lambda run: None), []
    plain = Run.events
    monkeypatch.setattr(Run, "events", lambda run: reads.append(run.name) or plain(run))
    first = runs.rows(tmp_path)
    assert runs.rows(tmp_path) == first
    assert reads == ["cats-1"]


def test_nothing_is_looked_at_while_no_page_is_there_and_trouble_does_not_end_it(monkeypatch):
    monkeypatch.setattr(run_watcher, "_EVERY_SECONDS", 0.005)
    looked, pages = [], set()

    class Troubled:
        def poll(self, workspace):
            looked.append(workspace)
            raise OSError("the disk is away")

    async def try_it():
        task = asyncio.create_task(run_watcher.watch(Troubled(), lambda: "here", lambda: pages))
        await asyncio.sleep(0.05)
        assert looked == []
        pages.add("a page")
        while len(looked) < 3:
            await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()

    own_loop.run(asyncio.wait_for(try_it(), 20))

"""Can trainings be planned, begun, watched and ended over the routes, while ComfyUI goes on answering?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.tests.hosts.running_comfyui import Failed
from mapo_studio.trainer.config.presets import tiny_settings
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.jobs.gpu_queue import queued
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
DATASET = "outlined shapes"
LONG = 3000
"""Steps that nobody waits for: such a run is stopped."""
LONG_ENOUGH = 240
"""Seconds: a training takes ten until its first step on a machine with nothing else to do."""


@pytest.fixture(scope="module")
def judged(server, tmp_path_factory) -> str:
    """The name of a dataset with enough judged pairs to train on."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, 40, seed=1)
    import_pairs(open_store(server.workspace), DATASET, folder, anywhere=True)
    return DATASET


@pytest.fixture
def tab(server):
    with server.listen("a page that watches runs") as tab:
        yield tab


@pytest.fixture(autouse=True)
def nothing_goes_on(server):
    """No run of one test is in the line of another."""
    yield
    for run in server.get("/mapo/runs")["runs"]:
        if run["phase"] in ("waiting", "running"):
            server.post(f"/mapo/runs/{run['name']}/stop", {})
    until(lambda: {"waiting", "running"}.isdisjoint(run["phase"] for run in server.get("/mapo/runs")["runs"]))


def begin(server, **asked) -> dict:
    return server.post("/mapo/runs", {"dataset": DATASET, "checkpoint": "tiny", **asked})


def heard(tab, event: str, where) -> dict:
    return tab.wait_for(event, where, LONG_ENOUGH)


def run_named(server, name: str) -> dict:
    return next(run for run in server.get("/mapo/runs")["runs"] if run["name"] == name)


def shown(text: str, **painted) -> dict:
    return {**painting(text, **painted), "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}}


def until(true, seconds: float = LONG_ENOUGH):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


def refused(server, path: str, said: dict | None = None, **headers) -> tuple[int, str]:
    body = None if said is None else json.dumps(said).encode()
    status, answer = server.request("GET" if said is None else "POST", path, body, {**JSON, **headers})
    assert status >= 400, answer
    return status, json.loads(answer)["error"]


def test_the_page_learns_what_there_is_to_judge_and_to_train_with(server, judged):
    state = server.get("/mapo/state")
    assert state["workspace"] == str(server.workspace)
    found = next(one for one in state["datasets"] if one["name"] == judged)
    assert found["pairs"] >= 40
    assert set(found) == {"name", "judged", "pairs", "waiting"}
    assert "tiny" not in state["checkpoints"]
    assert [one["name"] for one in state["presets"]][:3] == ["4 GB", "6 GB", "8 GB"]
    assert all(one["title"] and one["about"] for one in state["presets"])
    assert (state["preset"], state["shares_card"], state["queue"]) == ("", True, 0), "a CPU is shared, and is no card"


def test_a_plan_says_what_a_training_takes_and_begins_nothing(server, judged):
    before = server.get("/mapo/runs")["runs"]
    plan = server.post("/mapo/runs/plan", {"dataset": judged, "checkpoint": "tiny", "steps": 12})
    assert plan["problems"] == []
    assert plan["steps"] == 12
    assert plan["name"].startswith("outlined-shapes-")
    assert "12 steps of 8 pairs" in plan["takes"][0]
    assert server.get("/mapo/runs")["runs"] == before


def test_a_plan_without_enough_judgements_says_so_and_cannot_be_begun(server):
    with open_store(server.workspace).writing() as session:
        from mapo_studio.trainer.preferences.datasets import find_or_create

        find_or_create(session, "hardly anything")
    asked = {"dataset": "hardly anything", "checkpoint": "tiny"}
    assert server.post("/mapo/runs/plan", asked)["problems"] != []
    with pytest.raises(Failed, match="400"):
        server.post("/mapo/runs", asked)


def test_a_finished_training_is_told_of_and_its_lora_is_in_the_list_without_a_restart(server, judged, tab):
    began = begin(server, steps=3)
    assert began["waits"] == ""
    name = f"mapo/{began['name']}.safetensors"
    told = heard(tab, "mapo.ended", lambda said: said["name"] == began["name"])
    assert told["phase"] == "finished"
    assert "agrees with you on" in told["sentence"]
    assert heard(tab, "mapo.lora", lambda said: said["run"] == began["name"])["lora"] == name
    assert name in server.get("/models/loras")
    assert name in server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"][0]
    found = run_named(server, began["name"])
    assert (found["phase"], found["step"], found["steps"], found["lora"]) == ("finished", 3, 3, name)
    assert (found["dataset"], found["base"]) == (judged, "tiny")
    assert 0 <= found["agreement"] <= 1
    steps = [run["step"] for said in tab.all_of("mapo.runs") for run in said["runs"] if run["name"] == began["name"]]
    assert steps == sorted(steps)
    assert server.post(f"/mapo/runs/{began['name']}/install", {}) == {"lora": name}
    heard(tab, "mapo.runs", lambda said: any(run["lora"] == name for run in said["runs"]))
    for event in ("mapo.ended", "mapo.lora"):
        assert len([said for said in tab.all_of(event) if began["name"] in said.values()]) == 1


@pytest.mark.timed
def test_comfyui_answers_at_once_while_a_training_goes_on_and_it_can_be_stopped_and_gone_on_with(server, judged, tab):
    name = begin(server, steps=LONG)["name"]
    heard(tab, "mapo.runs", lambda said: any(run["name"] == name and run["step"] for run in said["runs"]))
    taken = []
    for path in ["/mapo/runs", "/queue", "/mapo/state"] * 10:
        began = time.perf_counter()
        server.get(path)
        taken.append((path, time.perf_counter() - began))
    # Two cores, of which the training has one: what is looked for is a loop that waits, not a busy machine.
    assert sorted(seconds for path, seconds in taken if path == "/queue")[5] < 0.1
    assert sorted(seconds for path, seconds in taken if path == "/mapo/runs")[5] < 0.1
    assert refused(server, f"/mapo/runs/{name}/resume", {})[1] == f"{name} is at work already, or finished"
    assert "no LoRA file yet" in refused(server, f"/mapo/runs/{name}/install", {})[1]

    server.post(f"/mapo/runs/{name}/stop", {})
    told = heard(tab, "mapo.ended", lambda said: said["name"] == name)
    assert told["phase"] == "stopped"
    assert "what it learned is saved" in told["sentence"]
    step = run_named(server, name)["step"]
    assert 0 < step < LONG
    assert run_named(server, name)["lora"] is None, "what was stopped is put into the list only where it is asked for"
    assert refused(server, f"/mapo/runs/{name}/stop", {})[1] == f"{name} is not at work"
    lora = server.post(f"/mapo/runs/{name}/install", {})["lora"]
    assert lora in server.get("/models/loras")

    tab.forget()
    server.post(f"/mapo/runs/{name}/resume", {})
    heard(tab, "mapo.runs", lambda said: any(one["name"] == name and one["step"] > step for one in said["runs"]))
    server.post(f"/mapo/runs/{name}/stop", {})
    assert heard(tab, "mapo.ended", lambda said: said["name"] == name)["phase"] == "stopped"


@pytest.mark.timed
def test_the_event_loop_never_waits_for_a_training(server, judged, tab):
    """A websocket answers a ping on the event loop: nothing there may wait for the disk or for a process."""
    slowest, done = [0.0], threading.Event()

    def ask() -> None:
        while not done.is_set():
            began = time.perf_counter()
            server.request("GET", "/mapo/judge/nothing.js")
            slowest.append(time.perf_counter() - began)
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    name = begin(server, steps=2)["name"]
    heard(tab, "mapo.ended", lambda said: said["name"] == name)
    done.set()
    asking.join()
    assert sorted(slowest)[int(0.98 * len(slowest))] < 0.1


def test_a_training_waits_until_comfyui_has_painted_what_is_in_its_queue(server, judged, tab):
    until(lambda: not queued(server.workspace))  # the pairs are rated after the last test's training
    prompts = [server.queue(shown("a red circle at the top left", seed=seed, steps=200)) for seed in range(91, 93)]
    began = begin(server, steps=2)
    assert began["waits"] == (
        "Waits until ComfyUI has painted the 2 prompts in its queue: both would need the same card."
    )
    waiting = heard(
        tab,
        "mapo.runs",
        lambda said: any(run["name"] == began["name"] and run["behind"] for run in said["runs"]),
    )
    row = next(run for run in waiting["runs"] if run["name"] == began["name"])
    assert row["behind"] == "the image generation in ComfyUI"
    for one in prompts:
        server.wait(one)
    heard(tab, "mapo.ended", lambda said: said["name"] == began["name"] and said["phase"] == "finished")
    events = list(Run(server.workspace / "runs" / began["name"]).events())
    painted = max(message[1]["timestamp"] for one in prompts for message in _ends(server, one)) / 1000
    assert next(event["time"] for event in events if event["event"] == "acquired") >= painted


def _ends(server, prompt: str) -> list:
    messages = server.get(f"/history/{prompt}")[prompt]["status"]["messages"]
    return [message for message in messages if message[0] == "execution_success"]


def test_painting_beside_a_training_on_the_same_card_is_told_of_once_a_prompt(server, judged, tab):
    name = begin(server, steps=LONG)["name"]
    until(lambda: run_named(server, name)["phase"] == "running")
    for seed in (31, 32):
        server.run(shown("a blue square at the bottom right", seed=seed))
    told = until(lambda: len(tab.all_of("mapo.shares")) >= 2 and tab.all_of("mapo.shares"))
    assert len(told) == 2
    assert told[0]["run"] == name
    assert "the card that ComfyUI paints with" in told[0]["sentence"]


def test_a_second_training_says_what_it_waits_for(server, judged):
    first = begin(server, steps=LONG)["name"]
    until(lambda: run_named(server, first)["phase"] == "running")
    second = begin(server, steps=2)
    assert second["waits"] == f"Waits for its turn: the training {first} has the device."


def test_a_run_that_was_begun_elsewhere_in_the_same_workspace_is_told_of(server, judged, tab):
    settings = {**tiny_settings(), "base": "tiny", "data": {"pairs": f"dataset:{judged}"}}
    settings["training"] = {**settings["training"], "steps": 2}
    settings["watch"] = {**settings["watch"], "sample_every": 0}
    Run.create(server.workspace, parse_config({**settings, "name": "from-elsewhere"}, "test"))
    command = [sys.executable, "-m", "mapo_studio.trainer", "resume", "from-elsewhere", "--workspace", server.workspace]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert heard(tab, "mapo.ended", lambda said: said["name"] == "from-elsewhere")["phase"] == "finished"
    heard(tab, "mapo.lora", lambda said: said["lora"] == "mapo/from-elsewhere.safetensors")


def test_a_training_that_fails_is_told_of_with_the_reason(server, judged, tab):
    missing = {"pairs": str(server.folder / "no such folder")}
    settings = {**tiny_settings(), "name": "fails", "base": "tiny", "data": missing}
    Run.create(server.workspace, parse_config(settings, "test"))
    server_side = [sys.executable, "-m", "mapo_studio.trainer", "resume", "fails", "--workspace", server.workspace]
    subprocess.run(server_side, capture_output=True)
    told = heard(tab, "mapo.ended", lambda said: said["name"] == "fails")
    assert told["phase"] == "failed"
    assert "no such folder" in told["sentence"]


@pytest.mark.parametrize(
    ("path", "said", "status", "sentence"),
    [
        ("/mapo/runs", {"dataset": "never made", "checkpoint": "tiny"}, 400, "never made"),
        ("/mapo/runs", {"dataset": DATASET, "checkpoint": "../../etc/passwd"}, 400, "ComfyUI has no checkpoint"),
        ("/mapo/runs", {"dataset": DATASET, "checkpoint": "/etc/passwd"}, 400, "ComfyUI has no checkpoint"),
        ("/mapo/runs", {"dataset": DATASET, "checkpoint": "tiny", "preset": "9 GB"}, 400, "no preset '9 GB'"),
        ("/mapo/runs", {"dataset": DATASET, "checkpoint": "tiny", "steps": -1}, 422, "steps"),
        ("/mapo/runs", {"dataset": DATASET, "checkpoint": "tiny", "device": "cuda"}, 422, "device"),
        ("/mapo/runs", {"dataset": DATASET}, 422, "checkpoint"),
        ("/mapo/runs/plan", {"dataset": DATASET, "checkpoint": ""}, 422, "checkpoint"),
        ("/mapo/runs/never-made/stop", {}, 400, "there is no run named never-made"),
        ("/mapo/runs/never-made/stop", {"force": True}, 422, "takes no body"),
        ("/mapo/runs/..%2F..%2Fcomfyui/resume", {}, 400, "there is no run named ../../comfyui"),
        ("/mapo/runs/%2Fetc/install", {}, 400, "there is no run named /etc"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(server, judged, path, said, status, sentence):
    found, error = refused(server, path, said)
    assert (found, sentence in error) == (status, True), error


def test_other_sites_may_neither_look_nor_begin(server, judged):
    asked, before = json.dumps({"dataset": DATASET, "checkpoint": "tiny"}).encode(), server.get("/mapo/runs")
    for foreign in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server.request("POST", "/mapo/runs", asked, {**JSON, **foreign})[0] == 403
        assert server.request("GET", "/mapo/state", headers=foreign)[0] == 403
    assert server.request("POST", "/mapo/runs", asked, {"Content-Type": "text/plain"})[0] == 415
    assert server.get("/mapo/runs") == before

"""Do the example workflows do what they say, in a real ComfyUI, one after the other, with the tiny base?"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapo_studio.tests.hosts import comfyui_page
from mapo_studio.tests.hosts.running_comfyui import RunningComfyUI
from mapo_studio.tests.hosts.workflows import EXAMPLES, as_prompt, example, the, tiny
from mapo_studio.trainer.demo.judge import measure
from mapo_studio.trainer.demo.shapes_world import captions, read
from PIL import Image

pytestmark = pytest.mark.slow

CAPTIONS = captions()
NEVER_TAUGHT = CAPTIONS[3::16]
TAUGHT = [caption for caption in CAPTIONS if caption not in NEVER_TAUGHT][::8]
STEPS = 16
"""Enough to go the whole way. That a taste is learned is the demo's to show: what is compared is its LoRA."""


@pytest.fixture(scope="module")
def known(server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_page_makes_of_a_workflow_the_prompt_that_is_tested_here(page, server, known, file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    comfyui_page.visit(page, server)
    page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
    made = page.evaluate("() => app.graphToPrompt().then(({ output }) => output)")
    for node in made.values():
        # The page tells some nodes' texts besides, such as what PreviewAny shows.
        names = itertools.chain(*known[node["class_type"]]["input_order"].values())
        node["inputs"] = {name: node["inputs"][name] for name in names if name in node["inputs"]}
        del node["_meta"]
    assert made == as_prompt(workflow, known)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_a_workflow_is_laid_out_so_that_it_can_be_read(file):
    nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
    assert "MarkdownNote" in {node["type"] for node in nodes}
    for one, other in itertools.combinations(nodes, 2):
        apart = [
            a["pos"][axis] + a["size"][axis] <= b["pos"][axis] - 30  # a node's title stands above its place
            for a, b in ((one, other), (other, one))
            for axis in (0, 1)
        ]
        assert any(apart), f"{one['type']} covers {other['type']}"
    picture = file.with_suffix(".jpg")
    assert picture.stat().st_size < 150_000, "it is shown small, in a list"
    assert Image.open(picture).format == "JPEG"


def test_what_is_picked_while_painting_goes_on_and_is_kept(server, known):
    prompt = tiny(as_prompt(example("2-"), known), CAPTIONS[0], seed=4, MaPOPick={"dataset": "picked"})
    with server.listen("who picks") as page:
        waiting = server.queue(prompt, "who picks")
        pick = page.wait_for("mapo.pick")
        [pair] = server.get(f"/mapo/pick/{pick['key']}/next", dataset="picked")["pairs"]
        said = {"pair": pair["pair"], "left": pair["left"]["id"], "answer": "right", "client": "w", "sequence": 1}
        assert server.post(f"/mapo/pick/{pick['key']}/answers", {"answers": [said]})["refused"] == []
        entry = server.wait(waiting)
    [saved] = server.pictures(entry, the(prompt, "SaveImage"))
    # ComfyUI cuts what we round.
    off = np.asarray(saved, np.int16) - np.asarray(picture(server, pair["right"]["id"]), np.int16)
    assert np.abs(off).max() <= 1
    assert server.get("/mapo/api/statistics", dataset="picked")["judged"] == 1


def test_collect_judge_train_load_and_compare_without_leaving_comfyui(server, known, shown_demo):
    collect(server, known)
    assert judge(server, "my taste") >= 20

    folder = server.folder / "models" / "loras" / "mapo"
    before = set(folder.glob("*.safetensors"))  # other tests train in the same ComfyUI
    prompt = tiny(as_prompt(example("3-"), known), NEVER_TAUGHT[0], MaPOTrainLoRA={"steps": STEPS})
    entry = server.run(prompt, seconds=600)
    train, load = the(prompt, "MaPOTrainLoRA"), the(prompt, "MaPOLoadLoRA")
    assert prompt[load]["inputs"]["lora_path"] == [train, 0]
    [lora] = set(folder.glob("*.safetensors")) - before
    shown = [server.pictures(entry, key)[0] for key, node in prompt.items() if node["class_type"] == "PreviewImage"]
    assert len(shown) == 2
    assert all(min(one.size) >= 64 for one in shown)
    assert measure(server.pictures(entry, the(prompt, "SaveImage")), NEVER_TAUGHT[:1]).right == 1
    listed = server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"][0]
    assert f"mapo/{lora.name}" in listed

    learned = Path(shutil.copy(shown_demo["lora"], folder / "learned.safetensors"))
    compared = as_prompt(example("4-"), known)
    wanted = {"MaPOLoadLoRA": {"lora_name": f"mapo/{learned.name}"}, "MaPOCompare": {"name": "better?"}}
    for seed, caption in enumerate(NEVER_TAUGHT):
        server.run(tiny(compared, caption, seed=seed, **wanted))
    duels = server.get("/mapo/comparisons/better%3F")["duels"]
    assert len(duels) == 4 * len(NEVER_TAUGHT)
    asked = [duel["prompt"] for duel in duels]
    base, taught = ([picture(server, duel[side]) for duel in duels] for side in ("base", "lora"))
    before, after = measure(base, asked), measure(taught, asked)
    assert after.outlined >= max(0.9, before.outlined + 0.3)
    assert after.right >= 0.9
    assert all(one.tobytes() != other.tobytes() for one, other in zip(base, taught, strict=True))

    # Blind, the judge prefers the LoRA's; queued again, the node says so.
    assert judge(server, "better?") > 0
    entry = server.run(tiny(compared, NEVER_TAUGHT[-1], seed=len(NEVER_TAUGHT) - 1, **wanted))
    [said] = entry["outputs"][the(compared, "PreviewAny")]["text"]
    assert server.get("/mapo/comparisons/better%3F")["share"] > 0.7
    assert "better" in said, said


def collect(server: RunningComfyUI, known: dict[str, Any]) -> None:
    """Workflow 1, once for each caption."""
    prompt = as_prompt(example("1-"), known)
    queued = [server.queue(tiny(prompt, caption, seed=seed)) for seed, caption in enumerate(TAUGHT)]
    for one in queued:
        assert len(server.wait(one, 600)["outputs"][the(prompt, "PreviewImage")]["images"]) == 4


def judge(server: RunningComfyUI, dataset: str) -> int:
    """Answer all that waits, as the demo's judge would; how many pairs got a preference."""
    decided, sequence = 0, itertools.count(1)
    while pairs := server.get("/mapo/api/next", dataset=dataset, count=64)["pairs"]:
        answers = []
        for pair in pairs:
            answer = prefer_outlined(*(picture(server, pair[side]["id"]) for side in ("left", "right")))
            decided += answer in ("left", "right")
            said = {"pair": pair["pair"], "left": pair["left"]["id"], "answer": answer, "purpose": pair["purpose"]}
            answers.append({**said, "client": f"judge of {dataset}", "sequence": next(sequence)})
        assert server.post("/mapo/api/answers", {"answers": answers})["refused"] == []
    return decided


def prefer_outlined(left: Image.Image, right: Image.Image) -> str:
    outlined = read(left).outline is True, read(right).outline is True
    return "tie" if outlined[0] == outlined[1] else ("left" if outlined[0] else "right")


def picture(server: RunningComfyUI, name: str) -> Image.Image:
    status, content = server.request("GET", f"/mapo/api/picture/{name}")
    assert status == 200
    return Image.open(io.BytesIO(content)).convert("RGB")

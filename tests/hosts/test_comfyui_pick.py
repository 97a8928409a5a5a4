"""Does a graph in a real ComfyUI wait for its person, and go on, end or stop as it should?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from mapo_studio.tests.hosts.running_comfyui import Failed, Interrupted, Page, RunningComfyUI
from PIL import Image

pytestmark = pytest.mark.slow

COLOURS = (0xC03020, 0x2040B0, 0x30A050, 0xD0B020)


def picking(
    *colours: int, name: str = "pick", wait: int = 0, without_answer: str = "skip", dataset: str = "picks"
) -> dict[str, Any]:
    """A graph that asks which of some plain pictures is better, and shows what goes on. Nodes begin with `name`."""
    graph: dict[str, Any] = {}
    batch = []
    for index, colour in enumerate(colours):
        batch.append(f"{name}-colour{index}")
        graph[batch[-1]] = {
            "class_type": "EmptyImage",
            "inputs": {"width": 96, "height": 64, "batch_size": 1, "color": colour},
        }
    while len(batch) > 1:
        joined = f"{name}-batch{len(batch)}"
        first, second, *rest = batch
        graph[joined] = {"class_type": "ImageBatch", "inputs": {"image1": [first, 0], "image2": [second, 0]}}
        batch = [joined, *rest]
    graph[name] = {
        "class_type": "MaPOPick",
        "inputs": {
            "images": [batch[0], 0],
            "dataset": dataset,
            "prompt": f"plain colours of {name}",
            "wait": wait,
            "without_answer": without_answer,
        },
    }
    for index, output in enumerate(("chosen", "rejected")):
        graph[f"{name}-{output}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, index]}}
    graph[f"{name}-answer"] = {"class_type": "PreviewAny", "inputs": {"source": [name, 2]}}
    return graph


@pytest.fixture
def page(server: RunningComfyUI) -> Iterator[Page]:
    with server.listen("picks-page") as page:
        yield page
    server.interrupt()


def asked(page: Page, prompt_id: str, node: str = "pick") -> dict[str, Any]:
    return page.wait_for("mapo.pick", lambda told: told["prompt_id"] == prompt_id and told["node"] == node)


def answering(server: RunningComfyUI, pick: dict[str, Any], answer: str, client: str = "a test") -> dict[str, Any]:
    """What the server says to that answer to a pair."""
    [pair] = server.get(f"/mapo/pick/{pick['key']}/next", dataset=pick["dataset"])["pairs"] or [{}]
    said = {"pair": pair.get("pair", 1), "left": pick["pictures"][0]["id"], "answer": answer}
    return server.post(f"/mapo/pick/{pick['key']}/answers", {"answers": [{**said, "client": client, "sequence": 2}]})


def colour_of(server: RunningComfyUI, entry: dict[str, Any], node: str) -> int:
    [shown] = server.pictures(entry, node)
    return _colour(shown)


def _colour(shown: Image.Image) -> int:
    red, green, blue = shown.convert("RGB").getpixel((0, 0))
    return red << 16 | green << 8 | blue


def shown_colour(server: RunningComfyUI, pick: dict[str, Any], index: int) -> int:
    status, picture = server.request("GET", f"/mapo/pick/{pick['key']}/picture/{pick['pictures'][index]['id']}")
    assert status == 200
    return _colour(Image.open(io.BytesIO(picture)))


def answer_of(entry: dict[str, Any], node: str = "pick") -> str:
    [said] = entry["outputs"][f"{node}-answer"]["text"]
    return said


def test_the_graph_goes_on_with_the_chosen_picture(server: RunningComfyUI, page: Page):
    prompt_id = server.queue(picking(*COLOURS[:2]), page.name)
    pick = asked(page, prompt_id)
    assert (pick["view"], pick["dataset"], pick["prompt"]) == ("pairs", "picks", "plain colours of pick")
    assert pick["seconds_left"] is None
    before = server.get("/mapo/api/statistics", dataset="picks")["judged"]
    assert answering(server, pick, "right") == {"stored": [2], "refused": []}
    entry = server.wait(prompt_id)
    assert colour_of(server, entry, "pick-chosen") == shown_colour(server, pick, 1)
    assert colour_of(server, entry, "pick-rejected") == shown_colour(server, pick, 0)
    assert answer_of(entry) == "right"
    assert server.get("/mapo/api/statistics", dataset="picks")["judged"] == before + 1
    assert page.wait_for("mapo.picked", lambda told: told["key"] == pick["key"])["how"] == "answered"


def test_a_second_answer_is_told_that_it_came_too_late(server: RunningComfyUI, page: Page):
    prompt_id = server.queue(picking(*COLOURS[1:3], name="twice"), page.name)
    pick = asked(page, prompt_id, "twice")
    first = answering(server, pick, "left")
    server.wait(prompt_id)
    judged = server.get("/mapo/api/statistics", dataset="picks")["judged"]
    again, other = (
        server.post(
            f"/mapo/pick/{pick['key']}/answers",
            {"answers": [{"pair": 1, "left": "0" * 64, "answer": "right", "client": client, "sequence": 2}]},
        )
        for client in ("a test", "another tab")
    )
    assert first == again == {"stored": [2], "refused": []}
    assert other["stored"] == [] and "answered already" in other["refused"][0]["why"]
    assert server.get("/mapo/api/statistics", dataset="picks")["judged"] == judged

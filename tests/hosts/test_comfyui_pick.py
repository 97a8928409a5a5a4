"""Does a graph in a real ComfyUI wait for its person, and go on, end or stop as it should?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from mapo_studio.tests.hosts.running_comfyui import Failed, Interrupted, Page, RunningComfyUI
from PIL import Image

pytestmark = pytest.mark.slow

COLOURS = [0xC03020, 0x2040B0, 0x30A050, 0xD0B020]


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
def tab(server: RunningComfyUI) -> Iterator[Page]:
    with server.listen("picks-page") as tab:
        yield tab
    server.interrupt()


def asked(tab: Page, prompt_id: str, node: str = "pick") -> dict[str, Any]:
    return tab.wait_for("mapo.pick", lambda told: told["prompt_id"] == prompt_id and told["node"] == node)


def answering(server: RunningComfyUI, pick: dict[str, Any], answer: str) -> dict[str, Any]:
    """What the server says to that answer to a pair, given by a page that gives no other."""
    [pair] = server.get(f"/mapo/pick/{pick['key']}/next", dataset=pick["dataset"])["pairs"] or [{}]
    said = {"pair": pair.get("pair", 1), "left": pick["pictures"][0]["id"], "answer": answer}
    return server.post(
        f"/mapo/pick/{pick['key']}/answers", {"answers": [{**said, "client": pick["key"], "sequence": 2}]}
    )


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


def judged(server: RunningComfyUI, dataset: str = "picks") -> int:
    return server.get("/mapo/api/statistics", dataset=dataset)["judged"]


def goes_on(server: RunningComfyUI, tab: Page) -> None:
    """The next prompt asks and is answered as if nothing had been."""
    prompt_id = server.queue(picking(*COLOURS[2:], name="next"), tab.name)
    answering(server, asked(tab, prompt_id, "next"), "left")
    assert answer_of(server.wait(prompt_id), "next") == "left"
    # The next one is painted anew, so that it is asked again.
    COLOURS[3] += 1


def test_the_graph_goes_on_with_the_chosen_picture(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2]), tab.name)
    pick = asked(tab, prompt_id)
    assert (pick["view"], pick["dataset"], pick["prompt"]) == ("pairs", "picks", "plain colours of pick")
    assert pick["seconds_left"] is None
    before = judged(server)
    assert answering(server, pick, "right") == {"stored": [2], "refused": []}
    entry = server.wait(prompt_id)
    assert colour_of(server, entry, "pick-chosen") == shown_colour(server, pick, 1)
    assert colour_of(server, entry, "pick-rejected") == shown_colour(server, pick, 0)
    assert answer_of(entry) == "right"
    assert judged(server) == before + 1
    assert tab.wait_for("mapo.picked", lambda told: told["key"] == pick["key"])["how"] == "answered"


def test_a_second_answer_is_told_that_it_came_too_late(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[1:3], name="twice"), tab.name)
    pick = asked(tab, prompt_id, "twice")
    first = answering(server, pick, "left")
    server.wait(prompt_id)
    before = judged(server)
    again, other = (
        server.post(
            f"/mapo/pick/{pick['key']}/answers",
            {"answers": [{"pair": 1, "left": "0" * 64, "answer": "right", "client": client, "sequence": 2}]},
        )
        for client in (pick["key"], "another tab")
    )
    assert first == again == {"stored": [2], "refused": []}
    assert other["stored"] == []
    assert "answered already" in other["refused"][0]["why"]
    assert judged(server) == before


@pytest.mark.parametrize("answer", ["both_bad", "skip"])
def test_nothing_goes_on_after(answer: str, server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2], name=answer), tab.name)
    answering(server, asked(tab, prompt_id, answer), answer)
    entry = server.wait(prompt_id)
    assert answer_of(entry, answer) == answer
    assert not {f"{answer}-chosen", f"{answer}-rejected"} & set(entry["outputs"])


def test_after_a_tie_the_first_picture_goes_on(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2], name="tie"), tab.name)
    answering(server, asked(tab, prompt_id, "tie"), "tie")
    entry = server.wait(prompt_id)
    assert [colour_of(server, entry, f"tie-{one}") for one in ("chosen", "rejected")] == COLOURS[:2]


def test_the_best_of_four_goes_on(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS, name="four"), tab.name)
    pick = asked(tab, prompt_id, "four")
    assert pick["view"] == "rank"
    path = f"/mapo/pick/{pick['key']}"
    [group] = server.get(f"{path}/groups", dataset="picks", size=4)["groups"]
    shown = [one["id"] for one in group["pictures"]]
    assert shown == [one["id"] for one in pick["pictures"]]
    assert len(shown) == 4
    said = {"prompt": group["prompt"], "client": pick["key"], "sequence": 2}
    few = server.post(f"{path}/rankings", {"rankings": [{**said, "tiers": [shown[:1], shown[1:3]]}]})
    assert "not the pictures" in few["refused"][0]["why"]
    before = judged(server)
    tiers = [[shown[2]], [shown[0], shown[1]], [shown[3]]]
    assert server.post(f"{path}/rankings", {"rankings": [{**said, "tiers": tiers}]})["stored"] == [2]
    entry = server.wait(prompt_id)
    assert answer_of(entry, "four") == "ranking"
    assert colour_of(server, entry, "four-chosen") == shown_colour(server, pick, 2)
    assert colour_of(server, entry, "four-rejected") == shown_colour(server, pick, 3)
    assert judged(server) > before
    assert server.get(f"{path}/groups", dataset="picks", size=4) == {"groups": [], "waiting": 0}


def test_an_answer_to_another_pair_is_refused(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2], name="another"), tab.name)
    pick = asked(tab, prompt_id, "another")
    [pair] = server.get(f"/mapo/pick/{pick['key']}/next", dataset="picks")["pairs"]
    said = {"pair": pair["pair"] + 1, "left": pair["left"]["id"], "answer": "left", "client": "x", "sequence": 2}
    reply = server.post(f"/mapo/pick/{pick['key']}/answers", {"answers": [said]})
    assert reply["stored"] == []
    assert "not the one" in reply["refused"][0]["why"]
    assert pick["key"] in [one["key"] for one in server.get("/mapo/picks")["picks"]]
    answering(server, pick, "left")
    server.wait(prompt_id)


def test_cancelling_stops_the_prompt_and_keeps_no_judgement(server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2], name="cancel"), tab.name)
    pick = asked(tab, prompt_id, "cancel")
    before = judged(server)
    assert server.request("POST", f"/mapo/pick/{pick['key']}/cancel", b"{}")[0] == 415  # a form of another site's
    assert server.post(f"/mapo/pick/{pick['key']}/cancel", {}) == {"how": "cancelled"}
    with pytest.raises(Interrupted):
        server.wait(prompt_id)
    assert server.post(f"/mapo/pick/{pick['key']}/cancel", {}) == {"how": "cancelled"}
    late = answering(server, pick, "left")
    assert late["stored"] == []
    assert "cancelled" in late["refused"][0]["why"]
    assert judged(server) == before
    assert tab.wait_for("mapo.picked", lambda told: told["key"] == pick["key"])["how"] == "cancelled"
    goes_on(server, tab)


def test_an_interruption_withdraws_the_pick_and_the_next_prompt_runs(server: RunningComfyUI, tab: Page):
    graph = {**picking(*COLOURS[:2], name="stop"), **picking(*COLOURS[1:3], name="stop2")}
    prompt_id = server.queue(graph, tab.name)
    picks = [asked(tab, prompt_id, node) for node in ("stop", "stop2")]
    server.interrupt()
    with pytest.raises(Interrupted):
        server.wait(prompt_id)
    for pick in picks:
        assert tab.wait_for("mapo.picked", lambda told, pick=pick: told["key"] == pick["key"])["how"] == "withdrawn"
    assert server.get("/mapo/picks") == {"picks": []}
    goes_on(server, tab)


@pytest.mark.parametrize("policy", ["skip", "first", "stop"])
def test_when_the_time_is_over(policy: str, server: RunningComfyUI, tab: Page):
    prompt_id = server.queue(picking(*COLOURS[:2], name=policy, wait=1, without_answer=policy), tab.name)
    told = asked(tab, prompt_id, policy)
    assert (told["otherwise"], 0 < told["seconds_left"] <= 1) == (policy, True)
    before = judged(server)
    if policy == "stop":
        with pytest.raises(Failed, match="nobody picked in 1 seconds") as failed:
            server.wait(prompt_id)
        assert failed.value.node == policy
    else:
        entry = server.wait(prompt_id)
        assert answer_of(entry, policy) == policy
        assert (f"{policy}-chosen" in entry["outputs"]) == (policy == "first")
        if policy == "first":
            assert colour_of(server, entry, "first-chosen") == COLOURS[0]
    assert judged(server) == before
    assert tab.wait_for("mapo.picked", lambda over: over["key"] == told["key"])["how"] == "late"


def test_a_program_that_no_page_is_open_for_is_not_kept_waiting(server: RunningComfyUI):
    entry = server.run(picking(*COLOURS[:2], name="alone", without_answer="first"))
    assert answer_of(entry, "alone") == "first"


def test_prompts_in_the_queue_ask_one_after_the_other(server: RunningComfyUI, tab: Page):
    prompts = [server.queue(picking(*COLOURS[:2], name=name), tab.name) for name in ("one", "two")]
    first = asked(tab, prompts[0], "one")
    assert [one["key"] for one in server.get("/mapo/picks")["picks"]] == [first["key"]]
    answering(server, first, "left")
    second = asked(tab, prompts[1], "two")
    assert second["key"] != first["key"]
    answering(server, second, "right")
    assert answer_of(server.wait(prompts[0]), "one") == "left"
    assert answer_of(server.wait(prompts[1]), "two") == "right"


def test_two_nodes_of_a_prompt_ask_side_by_side(server: RunningComfyUI, tab: Page):
    graph = {**picking(*COLOURS[:2], name="here"), **picking(*COLOURS[1:3], name="there")}
    prompt_id = server.queue(graph, tab.name)
    here, there = (asked(tab, prompt_id, node) for node in ("here", "there"))
    answering(server, there, "tie")
    answering(server, here, "skip")
    entry = server.wait(prompt_id)
    assert (answer_of(entry, "here"), answer_of(entry, "there")) == ("skip", "tie")


def test_every_item_of_a_list_is_asked_about(server: RunningComfyUI, tab: Page):
    graph = picking(*COLOURS, name="list")
    [batch, _] = graph["list"]["inputs"]["images"]
    graph["halves"] = {"class_type": "RebatchImages", "inputs": {"images": [batch, 0], "batch_size": 2}}
    graph["list"]["inputs"]["images"] = ["halves", 0]
    prompt_id = server.queue(graph, tab.name)
    first = asked(tab, prompt_id, "list")
    second = tab.wait_for("mapo.pick", lambda told: told["node"] == "list" and told["key"] != first["key"])
    for pick in (first, second):
        answering(server, pick, "tie")
    entry = server.wait(prompt_id)
    assert [_colour(shown) for shown in server.pictures(entry, "list-chosen")] == COLOURS[0::2]


def test_the_same_pictures_are_not_asked_about_again(server: RunningComfyUI, tab: Page):
    graph = picking(*COLOURS[1:3], name="again")
    prompt_id = server.queue(graph, tab.name)
    answering(server, asked(tab, prompt_id, "again"), "left")
    server.wait(prompt_id)
    tab.forget()
    assert answer_of(server.run(graph, tab.name), "again") == "left"
    assert tab.all_of("mapo.pick") == []


@pytest.mark.parametrize(
    ("colours", "sentence"),
    [
        (COLOURS[:1], "got 1 picture, and takes 2 to 9"),
        ([*range(10)], "got 10 pictures, and takes 2 to 9"),
        (COLOURS[:1] * 2, "the same picture twice"),
    ],
)
def test_what_there_is_no_choice_of_is_said(colours: list[int], sentence: str, server: RunningComfyUI, tab: Page):
    with pytest.raises(Failed, match=sentence):
        server.run(picking(*colours, name="none"), tab.name)


def test_nobody_else_is_asked(server: RunningComfyUI, tab: Page):
    with server.listen("picks-another-page") as another:
        prompt_id = server.queue(picking(*COLOURS[:2], name="mine"), tab.name)
        pick = asked(tab, prompt_id, "mine")
        answering(server, pick, "left")
        another.wait_for("mapo.picked", lambda told: told["key"] == pick["key"])
        assert another.all_of("mapo.pick") == []


def test_a_pick_waits_for_a_page_that_was_closed(server: RunningComfyUI):
    with server.listen("picks-closed") as tab:
        server.get("/mapo/picks", page=tab.name)
        prompt_id = server.queue(picking(*COLOURS[:2], name="closed"), tab.name)
        key = asked(tab, prompt_id, "closed")["key"]
        [listed] = server.get("/mapo/picks")["picks"]
        assert (listed["key"], listed["gone"]) == (key, False)
    with server.listen("picks-later") as later:
        told = later.wait_for("mapo.pick")  # a few seconds later: the page might have been loaded again
        assert (told["key"], told["page"]) == (key, "picks-closed")
        [listed] = server.get("/mapo/picks", page=later.name)["picks"]
        assert (listed["key"], listed["gone"]) == (key, True)
        answering(server, listed, "left")
        assert answer_of(server.wait(prompt_id), "closed") == "left"


def test_a_pick_that_is_not_known_is_not_there(server: RunningComfyUI):
    for method, path in (("GET", "next"), ("GET", "statistics"), ("POST", "answers"), ("POST", "cancel")):
        status, said = server.request(
            method,
            f"/mapo/pick/0123/{path}",
            b"{}" if method == "POST" else None,
            {"Content-Type": "application/json"},
        )
        assert (status, "not known" in said.decode()) == (404, True)


def test_a_pick_that_waits_does_not_keep_comfyui_from_ending(new_comfyui):
    server = new_comfyui()
    with server.listen("picks-end") as tab:
        server.get("/mapo/picks", page=tab.name)
        asked(tab, server.queue(picking(*COLOURS[:2], name="end"), tab.name), "end")
    server.stop()
    assert "Stopped server" in server.log()  # by itself: who is killed says nothing

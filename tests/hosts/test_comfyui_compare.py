"""MaPO Compare and MaPO Dataset Info in a real ComfyUI: filed once, judged blind on the node, then looked at."""

from __future__ import annotations

import shutil

import pytest
from mapo_studio.tests.hosts.comfyui_page import await_pair, load, visit
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.tests.hosts.running_comfyui import Failed
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

CIRCLE = "a red circle at the top left"
LORA = "comparing/taste.safetensors"


@pytest.fixture(scope="module", autouse=True)
def lora(server, tiny_lora) -> None:
    place = server.folder / "models" / "loras" / LORA
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_lora, place)


def comparing(name: str = "", pictures: int = 2, seed: int = 3, **worn) -> dict:
    prompt = painting(CIRCLE, seed=seed, pictures=pictures, steps=4)
    given = {"lora_name": LORA, "strength": 0.5, "schedule": "constant", "power": 1.0, **worn}
    prompt["wear"] = node("MaPOLoadLoRA", model=["load", 0], **given)
    prompt["paint it"] = node("KSampler", **{**prompt["paint"]["inputs"], "model": ["wear", 0]})
    prompt["decode it"] = node("VAEDecode", samples=["paint it", 0], vae=["load", 2])
    prompt["compare"] = node("MaPOCompare", base=["decode", 0], lora=["decode it", 0], name=name, prompt="")
    prompt["said"] = node("PreviewAny", source=["compare", 3])
    return prompt


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def report(server, name: str) -> dict:
    return server.get(f"/mapo/comparisons/{name.replace(' ', '%20')}")


def judge(server, name: str, count: int) -> None:
    """Say of that many pairs that the LoRA's picture is better."""
    better = {duel["lora"] for duel in report(server, name)["duels"]}
    shown = server.get("/mapo/api/next", dataset=name, count=count)["pairs"]
    said = [
        {
            "pair": pair["pair"],
            "left": pair["left"]["id"],
            "answer": "left" if pair["left"]["id"] in better else "right",
            "strength": "clearly",
            "seconds": 1.0,
            "client": f"test {name}",
            "sequence": number,
            "purpose": "compare",
        }
        for number, pair in enumerate(shown)
    ]
    server.post("/mapo/api/answers", {"answers": said})


def test_pairs_are_filed_once_and_named_by_their_lora(server):
    entry = server.run(comparing())
    [name] = entry["outputs"]["compare"]["mapo_comparison"]
    assert name == "taste or the base"
    told = report(server, name)
    assert (told["pairs"], told["judged"], told["few"], told["other"]) == (2, 0, True, "the base")
    assert "share" not in told
    assert {duel["prompt"] for duel in told["duels"]} == {CIRCLE}
    server.run(comparing(seed=4))
    assert report(server, name)["pairs"] == 4
    server.run(comparing())
    assert report(server, name)["pairs"] == 4


def test_another_strength_or_schedule_is_another_comparison(server):
    server.run(comparing("one lora"))
    with pytest.raises(Failed, match=r"one lora compares taste at 0.5 with the base, not taste at 0.9"):
        server.run(comparing("one lora", strength=0.9))
    with pytest.raises(Failed, match=r"not taste at 0.5, annealed with power 1"):
        server.run(comparing("one lora", schedule="annealed"))
    assert report(server, "one lora")["pairs"] == 2


def test_what_cannot_be_compared_is_refused_with_a_sentence(server):
    with pytest.raises(Failed, match="every picture of base is the same"):
        server.run(comparing("none", lora_name="none"))
    with pytest.raises(Failed, match="no LoRA is found in the graph of lora"):
        server.run(comparing("", strength=0.0))
    uneven = comparing("uneven")
    uneven["one"] = node("ImageFromBatch", image=["decode it", 0], batch_index=0, length=1)
    uneven["compare"]["inputs"]["lora"] = ["one", 0]
    with pytest.raises(Failed, match="base has 2 pictures and lora 1"):
        server.run(uneven)
    assert server.request("GET", "/mapo/comparisons/never%20painted")[0] == 400


def test_queued_again_after_judging_it_says_more_without_painting_again(server):
    graph = comparing("adds up", pictures=12)
    assert "nothing is judged yet" in server.run(graph)["outputs"]["compare"]["text"][0]
    judge(server, "adds up", 12)
    again = server.run(graph)
    assert "after 12 answers" in again["outputs"]["compare"]["text"][0]
    assert "after 12 answers" in again["outputs"]["said"]["text"][0]
    cached = next(told["nodes"] for kind, told in again["status"]["messages"] if kind == "execution_cached")
    assert {"paint", "paint it", "wear"} <= set(cached)
    told = report(server, "adds up")
    assert (told["few"], told["share"], told["judged"]) == (False, 1.0, 12)
    assert 0 < told["low"] < told["high"] <= 1.0


def test_pairs_are_judged_blind_on_the_node_and_then_looked_at(server, page: Page):
    visit(page, server)
    load(page, comparing("on the node", pictures=3))
    bring_into_sight(page)
    page.evaluate("() => app.queuePrompt(0)")
    panel = page.locator(".mapo-compare")
    status = panel.get_by_role("status")
    expect(status).to_contain_text("on the node: nothing is judged yet", timeout=90_000)
    expect(panel.get_by_alt_text("left picture")).to_be_visible(timeout=30_000)
    expect(panel.get_by_role("slider")).to_have_count(0)
    panel.hover()
    for done in (1, 2, 3):
        await_pair(page, panel)
        page.keyboard.press("ArrowLeft")
        expect(panel.get_by_text(f"{done} judged", exact=True)).to_be_visible(timeout=30_000)
    expect(status).to_contain_text("too early to tell, after 3 answers", timeout=30_000)
    assert report(server, "on the node")["judged"] == 3
    assert page.evaluate("() => app.graph.nodes.length") == 11, "the keys were not ComfyUI's"

    expect(panel.get_by_text("All pairs are judged.")).to_be_visible()
    panel.get_by_role("button", name="Look").last.click()
    line = panel.get_by_role("slider")
    expect(line).to_have_attribute("aria-valuenow", "50")
    expect(panel.get_by_text("the base", exact=True)).to_be_visible()
    expect(panel.get_by_text("taste", exact=True)).to_be_visible()
    line.focus()
    page.keyboard.press("ArrowRight")
    expect(line).to_have_attribute("aria-valuenow", "52")
    before = page.evaluate("() => [...app.graph.nodes.find(({ type }) => type === 'MaPOCompare').pos]")
    box = line.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=4)
    page.mouse.up()
    expect(line).to_have_attribute("aria-valuenow", "25")
    assert page.evaluate("() => [...app.graph.nodes.find(({ type }) => type === 'MaPOCompare').pos]") == before
    panel.get_by_role("button", name="Pair 3").click()
    expect(panel.get_by_text("3 / 3")).to_be_visible()
    shown = line.locator("img").evaluate_all("(two) => two.map((one) => one.complete && one.naturalWidth)")
    assert shown == [64, 64]


def bring_into_sight(page: Page) -> None:
    page.evaluate(
        """() => {
            const node = app.graph.nodes.find(({ type }) => type === "MaPOCompare");
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [400 - node.pos[0], 50 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }"""
    )


def informed(dataset: str) -> dict:
    return {
        "info": node("MaPODatasetInfo", dataset=dataset),
        "show": node("PreviewImage", images=["info", 0]),
        "judged": node("PreviewAny", source=["info", 2]),
        "waiting": node("PreviewAny", source=["info", 3]),
    }


def test_a_dataset_is_shown_on_a_sheet_and_in_words(server):
    with pytest.raises(Failed, match="there is no dataset informed"):
        server.run(informed("informed"))
    graph = painting(CIRCLE, seed=8, pictures=3, steps=4)
    graph["keep"] = node("MaPOCollect", images=["decode", 0], dataset="informed", prompt="")
    server.run(graph)
    entry = server.run(informed("informed"))
    assert "3 pairs of 1 prompt; 0 judged by you, 3 waiting" in entry["outputs"]["info"]["text"][0]
    assert [entry["outputs"][one]["text"][0] for one in ("judged", "waiting")] == ["0", "3"]
    [empty] = server.pictures(entry, "show")
    assert server.run(informed("informed"))["outputs"].get("info") is None, "nothing has changed"
    pair = server.get("/mapo/api/next", dataset="informed", count=1)["pairs"][0]
    said = {"pair": pair["pair"], "left": pair["left"]["id"], "answer": "left", "strength": "clearly", "seconds": 1.0}
    said |= {"client": "test", "sequence": 1, "purpose": "judge"}
    server.post("/mapo/api/answers", {"answers": [said]})
    entry = server.run(informed("informed"))
    assert [entry["outputs"][one]["text"][0] for one in ("judged", "waiting")] == ["1", "2"]
    [sheet] = server.pictures(entry, "show")
    assert sheet.size != empty.size

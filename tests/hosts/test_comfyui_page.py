"""Collecting, judging and training in the real page of ComfyUI, as an artist does it.

With the environment variable MAPO_SCREENSHOTS=FOLDER the pictures of the documentation are taken on the way.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mapo_studio.tests.arriving import standing, wait_until
from mapo_studio.tests.hosts.comfyui_page import await_pair, load, nodes, page_of, sidebar, tidy, visit
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.tests.hosts.running_comfyui import RunningComfyUI
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress
from mapo_studio.trainer.preferences import datasets
from mapo_studio.trainer.preferences.images import ImageMetadata, image_records, store_image
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.slow

LOCALES = Path(__file__).parents[2] / "locales"
PROMPTS = 24


@pytest.fixture(scope="module")
def window(browser: Browser, server: RunningComfyUI) -> Iterator[Page]:
    with page_of(browser) as page:
        visit(page, server)
        yield page


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """The one page of these tests, tidied: to load it takes longer than a test."""
    tidy(window)
    yield window
    window.unroute_all()


@pytest.fixture(scope="module")
def shot() -> Callable[[Page, str], None]:
    """shot(page, name): a picture for the documentation, where one was asked for."""
    folder = os.environ.get("MAPO_SCREENSHOTS")
    return lambda page, name: page.screenshot(path=Path(folder) / f"{name}.png") if folder else None


@pytest.fixture(scope="module")
def taste(server: RunningComfyUI) -> str:
    """A dataset of shapes, some with a dark outline, none of them judged."""
    store, rng = open_store(server.workspace), np.random.default_rng(7)
    order = np.random.default_rng(3).permutation(len(captions()))
    with store.writing() as session:
        into = datasets.find_or_create(session, "outlines")
        for caption in (captions()[at] for at in order[:PROMPTS]):
            wanted = datasets.add_prompt(session, into, caption)
            drawn = [draw(dress(caption, rng, outline=number % 2 == 0)) for number in range(4)]
            files = [
                (store_image(store, as_png(picture), "a picture"), ImageMetadata(source="a test")) for picture in drawn
            ]
            datasets.add_candidates(session, wanted, image_records(session, files).values())
            datasets.spread_pairs(session, wanted)
    return "outlines"


def as_png(picture) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def judged(server: RunningComfyUI, dataset: str) -> int:
    return server.get("/mapo/api/statistics", dataset=dataset)["judged"]


def choose(page: Page, dataset: str) -> None:
    tab = sidebar(page)
    tab.get_by_label("Dataset").select_option(dataset)
    expect(tab.get_by_alt_text("left picture")).to_be_visible()


def judge_all(server: RunningComfyUI, dataset: str, least: int) -> None:
    """Have at least so many pairs judged, without the page."""
    while judged(server, dataset) < least:
        pairs = server.get("/mapo/api/next", dataset=dataset, count=20)["pairs"]
        said = [{"pair": one["pair"], "left": one["left"]["id"], "answer": "left"} for one in pairs]
        counted = [{**one, "client": f"a test {one['pair']}", "sequence": 2} for one in said]
        assert server.post("/mapo/api/answers", {"answers": counted})["refused"] == []


def collecting_graph(text: str, dataset: str) -> dict:
    graph = painting(text, seed=5, pictures=3, steps=4)
    keep = {"images": ["decode", 0], "dataset": dataset, "prompt": ""}
    return {**graph, "keep": {"class_type": "MaPOCollect", "inputs": keep}}


def test_the_nodes_are_found_in_the_search_box(page: Page, server: RunningComfyUI):
    page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 500})
    page.keyboard.type("MaPO Coll")
    page.get_by_role("option", name=re.compile("MaPO Collect")).first.click()
    wait_until(lambda: len(nodes(page, "MaPOCollect")) == 1)


def test_without_a_dataset_the_tab_says_how_to_begin_and_puts_the_node_into_the_graph(
    page: Page, server: RunningComfyUI
):
    page.route("**/mapo/state", lambda route: route.fulfill(json={**server.get("/mapo/state"), "datasets": []}))
    tab = sidebar(page)
    expect(tab.get_by_text("No pictures yet")).to_be_visible()
    tab.get_by_role("button", name="Add MaPO Collect").click()
    wait_until(lambda: [node["selected"] for node in nodes(page, "MaPOCollect")] == [True])


def test_a_graph_that_is_run_fills_the_open_tab(page: Page, server: RunningComfyUI, taste: str):
    choose(page, taste)
    load(page, collecting_graph("a red circle at the top left", "from the page"))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Dataset").locator("option", has_text="from the page")).to_have_count(1, timeout=300_000)
    assert server.get("/mapo/api/statistics", dataset="from the page")["waiting"] == 3
    # A new dataset is offered by nodes as well, without a reload.
    page.evaluate("() => { app.graph.add(LiteGraph.createNode('MaPODatasetInfo')) }")
    wait_until(
        lambda: page.evaluate(
            "() => app.graph.nodes.at(-1).widgets[0].options.values.includes('from the page')",
        )
    )


def test_ten_pairs_are_judged_by_keyboard_alone_and_comfyuis_shortcuts_stay_out(
    page: Page, server: RunningComfyUI, taste: str, shot
):
    choose(page, taste)
    page.locator(".mapo-tab-button").click()  # closed, so that all that follows is done by keys
    load(page, collecting_graph("a red circle at the top left", "unused"))
    page.evaluate("() => app.canvas.selectItems(app.graph.nodes)")
    before = standing(server.workspace)
    page.keyboard.press("Alt+j")
    for key in ["ArrowLeft", "ArrowRight", "Shift+ArrowLeft", "ArrowDown", "x"] * 2:
        await_pair(page, page.locator("mapo-judge"))
        page.keyboard.press(key)
        page.keyboard.press("Backspace")  # would delete what is selected
        page.keyboard.press("w")  # would open another tab
        page.wait_for_timeout(100)  # ten a second
    wait_until(lambda: standing(server.workspace) == before + 10)
    page.evaluate("() => app.canvas.deselectAll()")
    shot(page, "comfyui-sidebar")
    page.keyboard.press("z")
    wait_until(lambda: standing(server.workspace) == before + 9)
    assert len(nodes(page, "KSampler")) == 1
    expect(page.locator(".mapo-sidebar")).to_be_visible()


def test_what_is_typed_into_a_node_never_judges(page: Page, server: RunningComfyUI, taste: str):
    choose(page, taste)
    load(page, collecting_graph("a red circle", "unused"))
    before = standing(server.workspace)
    text = page.locator("textarea.comfy-multiline-input").first
    text.click()
    page.locator("mapo-judge").hover()  # the pointer is over the pictures, but the keys go into the text
    for key in ["x", "z", "ArrowLeft", "ArrowRight", " "]:
        page.keyboard.press(key)
    # A judgement that is meant comes after: had the keys judged, they would have been sent with it.
    page.locator("mapo-judge").get_by_alt_text("left picture").click()
    wait_until(lambda: standing(server.workspace) > before)
    assert standing(server.workspace) == before + 1
    assert "x" in text.input_value()


def test_large_pictures_are_judged_in_a_dialog_and_go_back_into_the_tab(
    page: Page, server: RunningComfyUI, taste: str, shot
):
    choose(page, taste)
    before = standing(server.workspace)
    page.keyboard.press("Alt+Shift+J")
    dialog = page.get_by_role("dialog", name="Judge with large pictures")
    picture = dialog.get_by_alt_text("left picture")
    expect(picture).to_be_visible()
    assert picture.bounding_box()["width"] > 500
    page.mouse.move(5, 5)  # over the backdrop: the keys need no pointer here
    await_pair(page, dialog)
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: standing(server.workspace) == before + 1)
    shot(page, "comfyui-judge-large")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    await_pair(page, page.locator(".mapo-sidebar mapo-judge"))
    page.keyboard.press("ArrowRight")
    wait_until(lambda: standing(server.workspace) == before + 2)


@pytest.mark.parametrize("width", [320, 480])
def test_the_tab_fits_into_a_narrow_side_bar(page: Page, server: RunningComfyUI, taste: str, width: int):
    choose(page, taste)
    page.evaluate("(width) => document.querySelector('.mapo-sidebar').style.inlineSize = `${width}px`", width)
    for view in ("Judge", "Train"):
        sidebar(page, view)
        wide = "(root) => [...root.querySelectorAll('*')].filter((one) => one.scrollWidth > one.clientWidth + 1"
        wide += " && getComputedStyle(one).overflowX === 'auto').map((one) => one.className)"
        assert page.locator(".mapo-sidebar").evaluate(wide) == []


def test_a_training_is_begun_and_watched_and_its_lora_is_in_the_list_without_a_reload(
    page: Page, server: RunningComfyUI, taste: str, shot
):
    judge_all(server, taste, 60)
    # The embedded base is no file that could be listed.
    offered = {**server.get("/mapo/state"), "checkpoints": ["tiny"]}
    page.route("**/mapo/state", lambda route: route.fulfill(json=offered))
    page.evaluate("() => { app.graph.add(LiteGraph.createNode('MaPOLoadLoRA')) }")
    choose(page, taste)
    tab = sidebar(page, "Train")
    tab.get_by_text("More settings").click()
    tab.get_by_label("Steps").fill("40")
    expect(tab.get_by_text(re.compile("40 steps of"))).to_be_visible()
    tab.get_by_role("button", name="Start training").click()
    card = tab.locator(".mapo-run").first  # the newest
    expect(card).to_have_attribute("data-phase", re.compile("waiting|running"))
    name = card.get_attribute("data-run")
    card = tab.locator(f'[data-run="{name}"]')
    expect(card.get_by_text(re.compile(r"step \d+ of 40"))).to_be_visible(timeout=300_000)
    expect(card).to_have_attribute("data-phase", "finished", timeout=300_000)
    expect(card.get_by_text("Agrees with you on")).to_be_visible()
    expect(page.get_by_text(f"Training {name} has ended").first).to_be_visible()
    lora = f"mapo/{name}.safetensors"
    names = "app.graph.nodes[0].widgets.find((one) => one.name === 'lora_name').options.values"
    page.wait_for_function(f"(name) => {names}.includes(name)", arg=lora)
    card.get_by_role("button", name="Insert").click()
    wait_until(lambda: len(nodes(page, "MaPOLoadLoRA")) == 2)
    shot(page, "comfyui-train")
    page.keyboard.press("Alt+l")
    wait_until(lambda: len(nodes(page, "MaPOLoadLoRA")) == 3)
    chosen = nodes(page, "MaPOLoadLoRA")[1:]
    assert [node["widgets"]["lora_name"] for node in chosen] == [lora, lora]
    assert [node["selected"] for node in chosen] == [False, True]


def test_a_run_begun_elsewhere_shows_and_is_stopped_and_its_lora_put_into_comfyui(
    page: Page, server: RunningComfyUI, taste: str
):
    judge_all(server, taste, 60)
    choose(page, taste)
    tab = sidebar(page, "Train")
    begun = {"dataset": taste, "checkpoint": "tiny", "preset": "automatic", "steps": 5000}
    name = server.post("/mapo/runs", begun)["name"]
    card = tab.locator(f'[data-run="{name}"]')
    expect(card.get_by_text(re.compile(r"step [1-9]\d* of 5000"))).to_be_visible(timeout=300_000)
    assert float(card.get_by_role("progressbar").get_attribute("value")) > 0
    card.get_by_role("button", name="Stop").click()
    expect(card).to_have_attribute("data-phase", "stopped", timeout=300_000)
    expect(card.get_by_role("button", name="Go on")).to_be_visible()
    card.get_by_role("button", name="Put into ComfyUI").click()
    expect(card.get_by_role("button", name="Insert")).to_be_visible(timeout=30_000)
    assert (
        f"mapo/{name}.safetensors"
        in server.get("/object_info/MaPOLoadLoRA")["MaPOLoadLoRA"]["input"]["required"]["lora_name"][1]["options"]
    )


def test_a_run_that_fails_is_told_even_while_the_tab_is_closed(page: Page, server: RunningComfyUI):
    page.wait_for_timeout(2500)  # the watcher has looked: what failed before is no news
    run = Run.create(
        server.workspace, parse_config({"base": "gone.safetensors", "name": "broken", "data": {"pairs": "x"}}, "a test")
    )
    run.log("failed", error="CUDA out of memory: <b>choose</b> a smaller preset")
    toast = page.locator(".p-toast-message-error")
    expect(toast).to_contain_text("Training broken failed", timeout=20_000)
    expect(toast).to_contain_text("<b>choose</b>")  # as it was written


def test_a_reload_keeps_the_choices_and_speaks_the_language_of_the_settings(
    page: Page, server: RunningComfyUI, taste: str
):
    choose(page, taste)
    sidebar(page, "Train")
    visit(page, server, Comfy_Locale="zh")
    tidy(page)
    page.locator(".mapo-tab-button").click()
    # What was chosen before is remembered.
    expect(page.get_by_label("数据集")).to_have_value(taste)
    expect(page.get_by_role("tab", name="训练")).to_have_attribute("aria-selected", "true")
    page.evaluate("() => app.graph.add(LiteGraph.createNode('MaPOCollect'))")
    words = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))["MaPOCollect"]
    said = page.evaluate(
        """() => { const [node] = app.graph.nodes; return {
            title: node.title, inputs: node.inputs.map((one) => one.localized_name),
            widgets: node.widgets.map((one) => one.label), outputs: node.outputs.map((one) => one.localized_name),
        } }"""
    )
    names = {key: one["name"] for key, one in words["inputs"].items()}
    assert said["title"] == words["display_name"]
    assert set(said["inputs"]) == set(names.values())
    assert said["widgets"] == [names["dataset"], names["prompt"]]
    assert said["outputs"] == [words["outputs"][at]["name"] for at in ("0", "1")]
    page.locator(".comfy-menu-button-wrapper").click()
    page.get_by_role("menuitem", name="MaPO").hover()
    expect(page.get_by_text("评判图片对")).to_be_visible()


def test_every_node_is_described_in_chinese(server: RunningComfyUI):
    words = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    known = {name: one for name, one in server.get("/object_info").items() if name.startswith("MaPO")}
    assert words.keys() == known.keys()
    for name, one in known.items():
        said = words[name]
        inputs = {key for part in ("required", "optional") for key in one["input"].get(part, {})}
        assert said["inputs"].keys() == inputs, name
        assert list(said["outputs"]) == [str(at) for at in range(len(one["output"]))], name
        parts = [said, *said["inputs"].values(), *said["outputs"].values()]
        texts = [part.get(key, "") for part in parts[1:] for key in ("name", "tooltip")]
        assert [text for text in [said["display_name"], said["description"], *texts] if not text.strip()] == [], name


@pytest.mark.parametrize(
    "path",
    [
        "MaPO%20Studio%20v1.0/..%2F..%2F__init__.py",
        "MaPO%20Studio%20v1.0/..%2Fhost.py",
        "MaPO%20Studio%20v1.0/%2Fetc%2Fpasswd",
        "MaPO%20Studio%20v1.0/docs",
        "another%20pack/mapo.js",
    ],
)
def test_nothing_but_the_files_of_the_page_is_served_beside_comfyuis_own(server: RunningComfyUI, path: str):
    assert server.request("GET", "/extensions/MaPO%20Studio%20v1.0/mapo.js")[0] == 200
    assert server.request("GET", f"/extensions/{path}")[0] == 404

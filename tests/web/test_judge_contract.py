"""Do the judging element and the contract behind the studio's routes understand each other?"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from mapo_studio.tests.stored_images import add_image
from mapo_studio.tests.web.judging_server import PAGE
from mapo_studio.tests.web.test_judge_element import visible
from mapo_studio.tests.web.test_judge_queue import until
from mapo_studio.trainer.preferences.datasets import add_candidates, add_prompt, create_dataset, make_pairs
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import ImageRecord, Judgement, Pair
from mapo_studio.trainer.preferences.store import Store, open_store
from mapo_studio.web.server.judging_routes import ElementFiles, judging_router
from PIL import Image
from playwright.sync_api import Page, expect
from sqlalchemy import select

pytestmark = pytest.mark.slow

NUMBERS = range(1, 5)
QUEUES = ("first", "second", "third")
ADD = """async ({ queue, pair, left }) => {
    const { queueFor } = await import("/judge/answer-queue.js");
    const answer = { pair, left, answer: "left", strength: "clearly", seconds: 1, purpose: "judge" };
    window.made = queueFor(`/${queue}/mapo/api`).add("answers", "cats", answer);
    return window.made;
}"""
TAKE_BACK = """async (queue) => {
    const { queueFor } = await import("/judge/answer-queue.js");
    queueFor(`/${queue}/mapo/api`).takeBack(window.made, "cats");
}"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four prompts with four pictures each."""
    store = open_store(tmp_path)
    with store.writing() as session:
        dataset = create_dataset(session, "cats")
        for number in NUMBERS:
            prompt = add_prompt(session, dataset, f"a cat, number {number}")
            kept = [add_image(store, session, png(number * 10 + which), "cat.png") for which in range(4)]
            add_candidates(session, prompt, kept)
            make_pairs(session, prompt)
    return store


@pytest.fixture
def url(store: Store, serve: Callable[[Callable[[int], FastAPI]], str]) -> str:
    app = FastAPI()
    app.include_router(judging_router(store, lambda request: "ada"))
    app.mount("/judge", ElementFiles())
    for name in QUEUES:  # each has addresses of its own, as every pick of a ComfyUI graph has
        other = FastAPI()
        other.include_router(judging_router(store, lambda request: "ada"))
        app.mount(f"/{name}", other)
    body = '<mapo-judge api="/mapo/api" dataset="cats"></mapo-judge>'
    app.add_api_route("/", lambda: HTMLResponse(PAGE.format(body=body)))
    return serve(lambda port: app)


def png(shade: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (96, 64), (shade, 80, 120)).save(held, "PNG")
    return held.getvalue()


def said(store: Store) -> list[tuple[str, str, str]]:
    with store.reading() as session:
        rows = session.scalars(select(Judgement).order_by(Judgement.id)).all()
        return [(row.answer, row.strength, row.purpose) for row in rows]


def presses(page: Page, keys: list[str], there: Callable[[], bool]) -> None:
    for key in keys:
        visible(page)
        page.keyboard.press(key)
    until(page, there)


def test_what_is_pressed_is_what_is_kept(page: Page, store: Store, url: str):
    page.goto(url)
    presses(page, ["ArrowLeft", "Shift+ArrowRight", "ArrowDown", "x", "Space"], lambda: len(said(store)) == 5)
    assert [answer for answer, _, _ in said(store)] == ["left", "right", "tie", "both_bad", "skip"]
    assert [strength for _, strength, _ in said(store)][:2] == ["slightly", "clearly"]
    presses(page, ["z", "z"], lambda: len(said(store)) == 7)
    assert [answer for answer, _, _ in said(store)][5:] == ["undo", "undo"]
    expect(page.locator(".sentence")).not_to_be_empty()


def first_pairs(store: Store, count: int) -> list[dict[str, object]]:
    """Pairs by number, with the image to show on the left."""
    with store.reading() as session:
        pairs = session.scalars(select(Pair).order_by(Pair.id).limit(count)).all()
        return [{"pair": pair.id, "left": session.get_one(ImageRecord, pair.first_id).sha256} for pair in pairs]


def test_one_page_stores_every_answer_whichever_of_its_queues_it_goes_through(page: Page, store: Store, url: str):
    page.goto(url)
    pairs = first_pairs(store, 6)
    for at, pair in enumerate(pairs):
        page.evaluate(ADD, {"queue": QUEUES[at % len(QUEUES)], **pair})
    until(page, lambda: len(said(store)) == len(pairs))
    with store.reading() as session:
        assert {row.pair_id for row in session.scalars(select(Judgement))} == {pair["pair"] for pair in pairs}


def test_an_answer_whose_number_is_taken_gets_another_and_can_be_taken_back(page: Page, store: Store, url: str):
    page.goto(url)
    other, mine = first_pairs(store, 2)
    made = page.evaluate(ADD, {"queue": "first", **mine})
    with store.writing() as session:  # before the page has sent it
        assert answer(session, "ada", Answer(**other, answer="tie", strength="clearly", seconds=1.0, **made))
    until(page, lambda: len(said(store)) == 2)
    assert page.evaluate("window.made.sequence") > made["sequence"]
    page.evaluate(TAKE_BACK, "first")
    until(page, lambda: len(said(store)) == 3)
    with store.reading() as session:
        tied, kept, undone = session.scalars(select(Judgement).order_by(Judgement.id)).all()
        assert (tied.answer, tied.pair_id) == ("tie", other["pair"])
        assert (kept.answer, kept.pair_id) == ("left", mine["pair"])
        assert undone.undoes == kept.id


def test_a_ranking_is_kept_and_taken_back(page: Page, store: Store, url: str):
    page.goto(url)
    visible(page)
    page.evaluate("document.querySelector('mapo-judge').setAttribute('view', 'rank')")
    page.locator(".picture >> nth=3").wait_for()
    before = visible(page)
    presses(page, ["2"], lambda: len(said(store)) == 3)
    assert {purpose for _, _, purpose in said(store)} == {"ranking"}
    assert visible(page) != before
    presses(page, ["z"], lambda: len(said(store)) == 6)
    assert visible(page) == before


def test_a_whole_dataset_is_judged_to_its_end(page: Page, store: Store, url: str):
    page.goto(url)
    page.evaluate("addEventListener('mapo-empty', () => { window.isEmpty = true })")
    for _ in range(200):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(30)
        if page.evaluate("window.isEmpty"):
            break
    until(page, lambda: len([1 for _, _, purpose in said(store) if purpose == "judge"]) == 24)

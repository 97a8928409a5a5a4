"""Does a person who sits before ComfyUI's page get to pick, by keys and by mouse, whatever happens to the page?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mapo_studio.tests.hosts.comfyui_page import SETTLE, page_of, visit
from mapo_studio.tests.hosts.running_comfyui import Interrupted, RunningComfyUI
from mapo_studio.tests.hosts.test_comfyui_pick import answer_of, judged, picking
from playwright.sync_api import Browser, Locator, Page, Route, expect

pytestmark = pytest.mark.slow

RED, BLUE, GREEN = 0xB03A2A, 0x2B4FA8, 0x2F9150


@pytest.fixture(scope="module")
def page(browser: Browser, server: RunningComfyUI) -> Iterator[Page]:
    """One for all tests: a person has it open for hours."""
    with page_of(browser) as page:
        visit(page, server)
        yield page


@pytest.fixture(autouse=True)
def nothing_left(server: RunningComfyUI, page: Page) -> Iterator[None]:
    yield
    for pick in server.get("/mapo/picks")["picks"]:
        server.post(f"/mapo/pick/{pick['key']}/cancel", {})
    gone(page)


def queue(server: RunningComfyUI, page: Page, *colours: int, **settings: Any) -> str:
    """As the page's own button does."""
    return server.queue(picking(*colours, dataset="page picks", **settings), page.evaluate("app.api.clientId"))


def overlay(page: Page) -> Locator:
    """The pick, its pictures in sight."""
    shown = page.locator("dialog.mapo-pick")
    expect(shown.locator(".picture img").first).to_be_visible(timeout=20_000)
    # What is pressed before they were painted says nothing of them.
    page.evaluate(SETTLE)
    return shown


def gone(page: Page) -> None:
    expect(page.locator("dialog.mapo-pick")).to_have_count(0)


def test_a_key_picks_and_the_graph_goes_on(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="key")
    shown = overlay(page)
    assert shown.bounding_box() == {"x": 0, "y": 0, "width": 1440, "height": 900}
    expect(shown).to_contain_text("plain colours of key")
    page.keyboard.press("ArrowRight")
    gone(page)
    assert answer_of(server.wait(prompt_id), "key") == "right"
    assert judged(server, "page picks") >= 1
    # The page has its keys again.
    assert page.evaluate("document.activeElement.tagName") == "BODY"


def test_a_click_picks(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="click")
    shown = overlay(page)
    page.wait_for_timeout(250)  # a click on a new pair could be the second half of a double click
    shown.locator(".picture").first.click()
    gone(page)
    assert answer_of(server.wait(prompt_id), "click") == "left"


def test_the_best_of_several_is_picked_by_its_number_or_skipped(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, GREEN, name="several")
    expect(overlay(page).locator(".picture")).to_have_count(3)
    page.keyboard.press("2")
    gone(page)
    assert answer_of(server.wait(prompt_id), "several") == "ranking"
    prompt_id = queue(server, page, RED + 1, BLUE, GREEN, name="several")
    overlay(page)
    page.keyboard.press("Space")
    gone(page)
    assert answer_of(server.wait(prompt_id), "several") == "skip"


def test_escape_and_the_button_cancel_the_prompt(server: RunningComfyUI, page: Page):
    for cancel in (lambda: page.keyboard.press("Escape"), page.get_by_role("button", name="Cancel esc").click):
        prompt_id = queue(server, page, RED, BLUE, name="cancelled")
        overlay(page)
        cancel()
        gone(page)
        with pytest.raises(Interrupted):
            server.wait(prompt_id)


def test_escape_ends_the_zoom_first(server: RunningComfyUI, page: Page):
    queue(server, page, RED, BLUE, name="zoomed")
    shown = overlay(page)
    page.keyboard.press("+")
    expect(shown.locator(".stage.zoomed")).to_be_visible()
    page.keyboard.press("Escape")
    expect(shown.locator(".stage.zoomed")).to_have_count(0)
    expect(shown).to_be_visible()


def test_two_picks_open_one_after_the_other(server: RunningComfyUI, page: Page):
    graph = {
        **picking(RED, BLUE, name="before", dataset="page picks"),
        **picking(BLUE, GREEN, name="after", dataset="page picks"),
    }
    prompt_id = server.queue(graph, page.evaluate("app.api.clientId"))
    shown = overlay(page)
    expect(shown).to_contain_text("1 more waits")
    # Neither node needs the other, so whichever the server gets to first asks first.
    before_first = shown.get_by_text("plain colours of before").count()
    first, second = ("before", "after") if before_first else ("after", "before")
    expect(shown).to_contain_text(f"plain colours of {first}")
    page.keyboard.press("ArrowDown")
    expect(shown).to_contain_text(f"plain colours of {second}")
    expect(overlay(page)).not_to_contain_text("more waits")
    page.keyboard.press("x")
    gone(page)
    entry = server.wait(prompt_id)
    assert (answer_of(entry, first), answer_of(entry, second)) == ("tie", "both_bad")


def test_another_tab_is_not_asked_and_may_be_closed(server: RunningComfyUI, page: Page):
    another = page.context.new_page()
    visit(another, server)
    page.bring_to_front()
    prompt_id = queue(server, page, RED, BLUE, name="tabs")
    overlay(page)
    assert another.locator("dialog.mapo-pick, .mapo-pick-bar").count() == 0
    another.close()
    page.keyboard.press("ArrowLeft")
    gone(page)
    assert answer_of(server.wait(prompt_id), "tabs") == "left"


def test_a_page_that_is_loaded_again_asks_again(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="reload")
    overlay(page)
    page.reload()
    overlay(page)
    page.keyboard.press("ArrowLeft")
    gone(page)
    assert answer_of(server.wait(prompt_id), "reload") == "left"


def test_any_page_offers_the_pick_of_a_closed_one(server: RunningComfyUI, page: Page):
    asking = page.context.new_page()
    visit(asking, server)
    prompt_id = queue(server, asking, RED, BLUE, name="closed")
    overlay(asking)
    asking.close()
    page.bring_to_front()
    offer = page.get_by_text("A pick waits for you")
    expect(offer).to_be_visible(timeout=15_000)
    assert page.locator("dialog.mapo-pick").count() == 0
    page.get_by_role("button", name="Show", exact=True).click()
    overlay(page)
    page.keyboard.press("ArrowRight")
    gone(page)
    expect(offer).to_have_count(0)
    assert answer_of(server.wait(prompt_id), "closed") == "right"


def test_what_is_asked_while_the_page_looks_what_waits_is_not_lost(server: RunningComfyUI, page: Page):
    asked_by = page.evaluate("app.api.clientId")

    def slowly(route: Route) -> None:
        reply = route.fetch()
        server.queue(picking(RED, BLUE, name="meanwhile"), asked_by)
        while not server.get("/mapo/picks")["picks"]:
            pass
        route.fulfill(response=reply)

    page.route("**/mapo/picks?*", slowly, times=1)
    page.evaluate("app.api.dispatchEvent(new CustomEvent('reconnected'))")
    expect(overlay(page)).to_contain_text("plain colours of meanwhile")


def test_of_two_tabs_the_first_answer_wins_and_the_other_is_told(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="race")
    overlay(page)
    [pick] = server.get("/mapo/picks")["picks"]
    path = f"/mapo/pick/{pick['key']}"
    [pair] = server.get(f"{path}/next", dataset=pick["dataset"])["pairs"]
    said = {"pair": pair["pair"], "left": pair["left"]["id"], "answer": "left", "client": "elsewhere", "sequence": 2}
    server.post(f"{path}/answers", {"answers": [said]})
    gone(page)
    expect(page.get_by_text("Answered in another tab.")).to_be_visible()
    assert answer_of(server.wait(prompt_id), "race") == "left"


def test_what_is_put_aside_can_be_shown_again(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="aside")
    overlay(page).get_by_role("button", name="Later").click()
    gone(page)
    page.get_by_role("button", name="Show", exact=True).click()
    overlay(page)
    page.keyboard.press("ArrowDown")
    gone(page)
    assert answer_of(server.wait(prompt_id), "aside") == "tie"


def test_the_time_that_is_left_is_shown_and_closes_the_overlay(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="clock", wait=5, without_answer="first")
    expect(overlay(page)).to_contain_text("left, then the first picture goes on")
    gone(page)
    expect(page.get_by_text("Nobody picked in time.")).to_be_visible()
    assert answer_of(server.wait(prompt_id), "clock") == "first"


def test_a_word_that_somebody_is_typing_is_no_answer(server: RunningComfyUI, page: Page):
    page.evaluate(
        """() => {
            const field = Object.assign(document.createElement("textarea"), { className: "typing" });
            document.body.append(field);
            field.focus();
        }"""
    )
    prompt_id = queue(server, page, RED, BLUE, name="typing")
    overlay(page)
    page.keyboard.type("exit x ", delay=30)
    page.wait_for_timeout(900)  # until they have seen it
    expect(page.locator("dialog.mapo-pick .picture img").first).to_be_visible()
    page.keyboard.press("ArrowLeft")
    gone(page)
    assert answer_of(server.wait(prompt_id), "typing") == "left"
    assert page.evaluate("document.activeElement.className") == "typing"


def test_keys_of_comfyui_do_nothing_behind_the_overlay(server: RunningComfyUI, page: Page):
    queue(server, page, RED, BLUE, name="behind")
    overlay(page)
    before = page.locator(".side-bar-panel, .sidebar-content-container").count()
    for key in ("w", "n", "m", "q"):
        page.keyboard.press(key)
    assert page.locator(".side-bar-panel, .sidebar-content-container").count() == before
    expect(page.locator("dialog.mapo-pick .picture img").first).to_be_visible()


def test_a_graph_that_is_stopped_from_elsewhere_closes_the_overlay(server: RunningComfyUI, page: Page):
    prompt_id = queue(server, page, RED, BLUE, name="stopped")
    overlay(page)
    server.interrupt()
    gone(page)
    with pytest.raises(Interrupted):
        server.wait(prompt_id)

"""Does every answer arrive once, and is every undo an undo, whatever happens to server, network and page?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mapo_studio.tests.web.judging_server import JudgingServer
from mapo_studio.tests.web.test_judge_element import FAILED_REQUEST, arrived, opened, visible
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.slow


def until(page: Page, there: Callable[[], bool]) -> None:
    for _ in range(200):
        if there():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it never came true")


def answer(page: Page, key: str, times: int = 1) -> list[int]:
    """Presses a key for one visible pair after the other; returns their numbers."""
    judged = []
    for _ in range(times):
        judged.append(visible(page))
        page.keyboard.press(key)
    return judged


def unsent(page: Page) -> int:
    return page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('mapo-judge:http')).length")


@pytest.mark.parametrize("away", ["drop", "500", "401"])
def test_answers_wait_for_a_server_that_is_away(page: Page, server: JudgingServer, away):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(500)
    judged = answer(page, "ArrowLeft", 2)
    until(page, lambda: len(server.answers) == 2)
    server.away = away
    judged += answer(page, "ArrowRight", 5)
    expect(page.locator(".status")).to_contain_text("5 answers are kept here")
    assert unsent(page) == 5
    server.away = None
    until(page, lambda: len(server.answers) == 7)
    expect(page.locator(".status")).to_have_text("")
    until(page, lambda: unsent(page) == 0)
    assert [one["pair"] for one in server.answers] == judged == [1, 2, 3, 4, 5, 6, 7]


def test_pictures_that_ran_out_come_back_with_the_server(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(500)
    server.away = "500"
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(60)
    expect(page.get_by_role("button", name="Ask now")).to_be_visible()
    kept = unsent(page)
    assert 8 <= kept < 30
    server.away = None
    page.get_by_role("button", name="Ask now").click()
    assert visible(page) == kept + 1
    assert [one["pair"] for one in arrived(page, server, kept)] == list(range(1, kept + 1))


def test_a_reply_that_is_lost_does_not_count_twice(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    lost = []

    def lose(route):
        if len(lost) < 2:
            lost.append(route.fetch())
            route.abort()
        else:
            route.continue_()

    opened(page, server)
    page.route("**/answers", lose)
    answer(page, "ArrowLeft", 3)
    until(page, lambda: len(lost) == 2 and unsent(page) == 0)
    assert [one["pair"] for one in server.answers] == [1, 2, 3]
    assert server.heard > 3


def test_unsent_answers_arrive_after_a_reload(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(300)
    server.away = "500"
    answer(page, "ArrowLeft", 3)
    page.reload()
    server.away = None
    # What the server has not heard of is not asked again.
    assert visible(page) == 4
    assert [one["pair"] for one in arrived(page, server, 3)] == [1, 2, 3]
    until(page, lambda: unsent(page) == 0)


def test_what_is_answered_just_before_leaving_arrives(page: Page, server: JudgingServer):
    opened(page, server)
    page.keyboard.press("ArrowLeft")
    page.goto("about:blank")
    until(page, lambda: len(server.answers) == 1)


def test_another_page_sends_what_a_dead_one_left(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(300)
    server.away = "500"
    answer(page, "ArrowLeft", 2)
    other = page.context.new_page()
    page.close()
    server.away = None
    other.goto(server.url)
    until(page=other, there=lambda: len(server.answers) == 2)
    # Two pages at once are two clients: neither's numbers hide the other's.
    third = page.context.new_page()
    third.goto(server.url)
    answer(third, "x")
    answer(other, "x")
    until(page=other, there=lambda: len(server.answers) == 4)
    assert len({one["client"] for one in server.answers}) == 3


def test_a_browser_without_storage_still_judges(browser: Browser, server: JudgingServer):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(
        """for (const name of ['localStorage', 'sessionStorage']) {
          Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });
        }"""
    )
    page = context.new_page()
    opened(page, server)
    answer(page, "ArrowLeft", 2)
    assert visible(page) == 3
    page.keyboard.press("z")
    assert visible(page) == 2
    until(page, lambda: len(server.undone) == 1)
    context.close()


def test_a_refused_answer_is_said_and_the_others_are_kept(page: Page, server: JudgingServer):
    server.refuse = {2}
    opened(page, server)
    answer(page, "ArrowLeft", 3)
    expect(page.locator(".status")).to_contain_text("This pair is gone.")
    assert [one["pair"] for one in arrived(page, server, 2)] == [1, 3]
    until(page, lambda: unsent(page) == 0)


def test_one_answer_that_cannot_be_read_does_not_hold_up_the_others(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    server.broken_batch = {3}
    opened(page, server)
    page.wait_for_timeout(300)
    answer(page, "ArrowLeft", 6)
    assert sorted(one["pair"] for one in arrived(page, server, 5)) == [1, 2, 4, 5, 6]
    expect(page.locator(".status")).to_contain_text("An answer was not taken")
    until(page, lambda: unsent(page) == 0)


def test_undo_shows_the_pair_again_and_takes_the_answer_back(page: Page, server: JudgingServer):
    opened(page, server)
    answer(page, "ArrowLeft", 3)
    assert visible(page) == 4
    page.keyboard.press("z")
    assert visible(page) == 3
    page.keyboard.press("z")
    assert visible(page) == 2
    answer(page, "ArrowRight")
    # What came after it comes again, in order.
    assert visible(page) == 3
    until(page, lambda: len(server.answers) == 4 and len(server.undone) == 2)
    assert [(one["pair"], one["answer"]) for one in server.standing()] == [(1, "left"), (2, "right")]
    page.keyboard.press("z")
    page.keyboard.press("z")
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert visible(page) == 1
    until(page, lambda: len(server.undone) == 4)
    assert server.standing() == []


def test_undo_works_while_the_server_is_away(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(500)
    server.away = "drop"
    answer(page, "ArrowLeft", 3)
    visible(page)
    page.keyboard.press("z")
    assert visible(page) == 3
    answer(page, "x")
    server.away = None
    until(page, lambda: unsent(page) == 0)
    assert [(one["pair"], one["answer"]) for one in server.standing()] == [(1, "left"), (2, "left"), (3, "both_bad")]
    # The undo did not overtake its answer.
    assert len(server.undone) == 1


def test_undo_reaches_back_over_a_reload(page: Page, server: JudgingServer):
    opened(page, server)
    answer(page, "ArrowLeft", 2)
    until(page, lambda: len(server.answers) == 2)
    page.reload()
    assert visible(page) == 3
    page.keyboard.press("z")
    assert visible(page) == 2
    page.keyboard.press("z")
    assert visible(page) == 1
    until(page, lambda: len(server.undone) == 2)
    assert server.standing() == []


def test_an_undo_of_what_a_reload_left_unsent_comes_after_it(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    opened(page, server)
    page.wait_for_timeout(300)
    server.away = "500"
    answer(page, "ArrowLeft", 2)
    page.reload()
    page.wait_for_selector("mapo-judge .legend button")
    expect(page.get_by_role("button", name="Ask now")).to_be_visible()
    page.keyboard.press("z")
    server.away = None
    page.keyboard.press("ArrowUp")
    until(page, lambda: unsent(page) == 0)
    assert [one["pair"] for one in server.standing()] == [1]
    assert visible(page) == 2


def test_counts_follow_at_once_and_the_server_has_the_last_word(page: Page, server: JudgingServer):
    opened(page, server)
    expect(page.locator(".counts")).to_contain_text("1,000 to go")
    page.evaluate("addEventListener('mapo-judged', (event) => { window.told = event.detail })")
    answer(page, "ArrowLeft", 2)
    assert page.evaluate("told.judged") == 2
    expect(page.locator(".counts")).to_contain_text("2 judged")
    page.keyboard.press("z")
    expect(page.locator(".counts")).to_contain_text("1 judged")
    page.wait_for_timeout(2500)
    expect(page.locator(".counts")).to_contain_text("1 judged")
    expect(page.locator(".sentence")).to_contain_text("You would say the same again")


def test_undo_goes_back_further_than_pictures_are_kept(page: Page, server: JudgingServer):
    opened(page, server)
    assert answer(page, "ArrowLeft", 14) == list(range(1, 15))
    assert answer(page, "z", 14) == list(range(15, 1, -1))
    assert visible(page) == 1
    until(page, lambda: len(server.undone) == 14)
    assert server.standing() == []


def test_keys_wait_for_pictures_that_come_slowly(page: Page, server: JudgingServer):
    server.latency = 0.7
    opened(page, server)
    waited = 0
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(100)
        waited += page.get_by_text("Waiting for the next pictures").is_visible()
    server.latency = 0
    assert waited
    next_one = visible(page)
    assert 3 <= next_one < 25
    assert [one["pair"] for one in arrived(page, server, next_one - 1)] == list(range(1, next_one))

"""Is a press on one of four pictures the ranking that the person meant?"""

from __future__ import annotations

import pytest
from mapo_studio.tests.web.judging_server import JudgingServer
from mapo_studio.tests.web.test_judge_element import arrived, opened, visible
from playwright.sync_api import Page

pytestmark = pytest.mark.slow

RANK = '<mapo-judge api="/api" dataset="cats" view="rank"></mapo-judge>'


def test_best_of_four_is_one_press(page: Page, server: JudgingServer):
    opened(page, server, RANK)
    assert page.locator(".picture").count() == 4
    page.keyboard.press("3")
    assert visible(page) == 2
    page.keyboard.press("Space")
    assert visible(page) == 3
    page.wait_for_timeout(250)
    page.locator(".picture").nth(0).click()
    said = arrived(page, server, 2, "rankings")
    assert [one["prompt"] for one in said] == [1, 3]
    assert said[0]["tiers"] == [["0001c"], ["0001a", "0001b", "0001d"]]
    assert said[1]["tiers"] == [["0003a"], ["0003b", "0003c", "0003d"]]


def test_a_full_order_is_picked_in_order_and_confirmed(page: Page, server: JudgingServer):
    opened(page, server, RANK)
    for key in ("o", "2", "4", "z", "1", "4"):
        page.keyboard.press(key)
    # The last place is left over; z takes back one pick, not a submission.
    assert page.locator(".badge").all_inner_texts() == ["2nd", "1st", "4th", "3rd"]
    page.keyboard.press("Enter")
    assert visible(page) == 2
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    assert visible(page) == 3
    first, second = arrived(page, server, 2, "rankings")
    assert first["tiers"] == [["0001b"], ["0001a"], ["0001d"], ["0001c"]]
    assert second["tiers"] == [["0002c"], ["0002a", "0002b", "0002d"]]
    page.keyboard.press("z")
    assert visible(page) == 2
    page.wait_for_timeout(600)
    assert [one["prompt"] for one in server.standing()] == [1]


def test_the_mode_is_remembered_and_the_legend_says_it(page: Page, server: JudgingServer):
    opened(page, server, RANK)
    page.get_by_role("button", name="Best only; change to full order").click()
    page.reload()
    visible(page)
    assert page.get_by_role("button", name="Full order; change to best only").is_visible()
    # The last one again confirms, as Enter does.
    page.keyboard.press("2")
    page.keyboard.press("2")
    assert arrived(page, server, 1, "rankings")[0]["tiers"] == [["0001b"], ["0001a", "0001c", "0001d"]]


def test_a_skipped_group_comes_back_only_by_undo(page: Page, server: JudgingServer):
    server.pairs = 2
    opened(page, server, RANK)
    page.keyboard.press("Space")
    assert visible(page) == 2
    page.keyboard.press("1")
    page.get_by_text("Nothing is left to judge here.").wait_for()
    page.keyboard.press("z")
    assert visible(page) == 2
    page.keyboard.press("z")
    assert visible(page) == 1
    page.wait_for_timeout(500)
    assert server.standing() == []


def test_the_best_of_nine_is_one_press(page: Page, server: JudgingServer):
    server.group_size = 9
    opened(page, server, RANK)
    assert page.locator(".picture").count() == 9
    page.keyboard.press("9")
    assert arrived(page, server, 1, "rankings")[0]["tiers"][0] == ["0001i"]


def test_a_host_hears_of_a_skip_that_the_server_does_not_hear_of(page: Page, server: JudgingServer):
    opened(page, server, RANK)
    page.evaluate("addEventListener('mapo-said', ({ detail }) => (window.said ??= []).push(detail.sent))")
    page.keyboard.press("Space")
    assert visible(page) == 2
    page.keyboard.press("1")
    assert visible(page) == 3
    assert page.evaluate("window.said") == [False, True]

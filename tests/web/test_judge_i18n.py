"""Does the element speak the language of its `lang`, all of it?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mapo_studio.tests.web.judging_server import JudgingServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

ELEMENT = Path(__file__).parents[2] / "web" / "judge"
# What a person reads or hears, without the pictures of keys ("space") and without what is the person's own.
READ = """(judge) => [...judge.shadowRoot.querySelectorAll("button, span, [aria-label], img, slot")].flatMap((node) => {
  const own = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.textContent);
  return [...own, node.getAttribute("aria-label"), node.title, node.alt].filter((text) => text?.trim());
})"""


@pytest.mark.parametrize("view", ["pairs", "rank"])
def test_in_chinese_nothing_is_left_in_english(view, page: Page, server: JudgingServer):
    server.body = f'<mapo-judge api="/api" dataset="cats" lang="zh-TW" view="{view}"></mapo-judge>'
    page.goto(server.url)
    page.locator("mapo-judge img").first.wait_for()
    expect(page.locator("mapo-judge .counts")).to_contain_text("待评")
    read = page.locator("mapo-judge").evaluate(READ)
    assert len(read) > 15
    sentence = page.locator("mapo-judge .sentence").inner_text()  # the server's
    assert [text for text in read if text != sentence and re.search("[A-Za-z]{2}", text)] == []


def test_the_language_changes_with_the_attribute(page: Page, server: JudgingServer):
    server.body = '<mapo-judge api="/api" dataset="cats" lang="zh"></mapo-judge>'
    page.goto(server.url)
    expect(page.get_by_role("button", name="左图更好", exact=True).last).to_be_visible()
    page.locator("mapo-judge").evaluate("(judge) => judge.setAttribute('lang', 'en')")
    expect(page.get_by_role("button", name="Left picture is better", exact=True).last).to_be_visible()


def test_what_has_a_translation_is_said_somewhere():
    written = (ELEMENT / "i18n.js").read_text(encoding="utf-8")
    keys = re.findall(r'^  "?((?:[^":]|: )+?)"?: "', written, re.MULTILINE)
    others = "\n".join(file.read_text(encoding="utf-8") for file in ELEMENT.glob("*.js") if file.name != "i18n.js")
    composed = {"Left, clearly", "Right, clearly"}
    assert len(keys) > 60
    assert [key for key in keys if f'"{key}"' not in others and key not in composed] == []
    assert all(re.findall(r"\{\w+\}", line.partition('": "')[0]) == re.findall(r"\{\w+\}", line.partition('": "')[2])
               for line in written.splitlines() if '": "' in line)  # fmt: skip

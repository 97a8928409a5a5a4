"""What the tests in a browser share: one chromium, a page that fails its test when it complains, a judging server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mapo_studio.tests.system_packages import needed
from mapo_studio.tests.web.judging_server import JudgingServer
from playwright.sync_api import Browser, Page, expect, sync_playwright

# A busy machine is slow, not wrong. What must be quick measures the time itself.
expect.set_options(timeout=20_000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What happens in a browser waits by the clock: `mapo test` runs it alone."""
    for item in items:
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker("timed")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = needed("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """1280x800. An exception or an error in the console fails the test, unless it begins with `page.tolerated`."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.tolerated = "nothing"
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    yield page
    context.close()
    assert [text for text in complaints if not text.startswith(page.tolerated)] == []


@pytest.fixture
def server() -> Iterator[JudgingServer]:
    server = JudgingServer()
    yield server
    server.shutdown()
    server.server_close()

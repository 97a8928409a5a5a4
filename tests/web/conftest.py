"""What the tests of our own pages share: a page that fails its test when it complains, a judging server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mapo_studio.tests.web.judging_server import JudgingServer
from playwright.sync_api import Browser, Page


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """1280x800. An exception or an error in the console fails the test, unless it begins with `page.tolerated`."""
    # Made before the page, a server ends after it: else the page's last question finds nobody there and complains.
    for server in {"server", "url", "address"}.intersection(request.fixturenames):
        request.getfixturevalue(server)
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

"""What the tests of our own pages share: a page that fails its test when it complains, a judging server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from fastapi import FastAPI
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
def serve(monkeypatch, tmp_path_factory) -> Iterator[Callable[[Callable[[int], FastAPI]], str]]:
    """serve(make): the address, with / at its end, of the app that make(port) gives; it ends with the test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("passing")))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    running = []

    def start(make: Callable[[int], FastAPI]) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(make(port), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}/"

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture
def server() -> Iterator[JudgingServer]:
    server = JudgingServer()
    yield server
    server.shutdown()
    server.server_close()

"""How does a test use ComfyUI's page as a person does?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mapo_studio.tests.hosts.running_comfyui import RunningComfyUI
from playwright.sync_api import Browser, Locator, Page, expect

READY = "document.querySelector('.mapo-tab-button') && window.app?.graph && window.app.extensionManager"
OURS = ("extensions/mapo", "/mapo/")
# A frame has been painted, and the script that waits for it has run.
SETTLE = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => setTimeout(done))))"


@contextmanager
def page_of(browser: Browser) -> Iterator[Page]:
    """A window, 1440x900. What goes wrong in it in a file or at an address of ours fails the test at its end."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()
    complaints = []

    def heard(text: str, place: str) -> None:
        # ComfyUI's own page complains too: of packages that are not installed, and of sites that are out of reach.
        if any(ours in place.lower() for ours in OURS):
            complaints.append(f"{text} ({place})")

    page.on("pageerror", lambda error: heard(str(error), error.stack or ""))
    page.on("console", lambda message: message.type == "error" and heard(message.text, message.location["url"]))
    yield page
    context.close()
    assert complaints == []


def visit(page: Page, server: RunningComfyUI, **settings: Any) -> None:
    """ComfyUI's page with an empty graph, as who has used it before finds it. settings: Comfy_Locale="zh"."""
    kept = {
        "Comfy.TutorialCompleted": True,  # else a dialog with templates opens
        "Comfy.Locale": "en",
        "Comfy.Workflow.Persist": False,
        "Comfy.VueNodes.AutoScaleLayout": False,
        **{name.replace("_", "."): value for name, value in settings.items()},
    }
    server.post("/settings", kept)
    # Its banner for another look of nodes.
    page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    page.goto(server.address)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => app.graph.clear()")


def tidy(page: Page) -> None:
    """An empty graph and a closed side bar, in a page that was visited."""
    page.keyboard.press("Escape")
    page.mouse.move(0, 0)
    page.evaluate(
        """() => {
            app.graph.clear();
            app.extensionManager.toast.removeAll();
            const tabs = app.extensionManager.sidebarTab;
            if (tabs.activeSidebarTabId) tabs.toggleSidebarTab(tabs.activeSidebarTabId);
        }"""
    )
    expect(page.locator(".mapo-sidebar")).to_have_count(0)


def await_pair(page: Page, judge: Locator) -> None:
    """Until a pair is in sight: what is pressed before that says nothing of it."""
    expect(judge.get_by_alt_text("left picture")).to_be_visible(timeout=60_000)
    page.evaluate(SETTLE)


def load(page: Page, prompt: dict[str, Any]) -> None:
    """Show what ComfyUI executes as a graph."""
    page.evaluate("async (prompt) => { await app.loadApiJson(prompt, 'test') }", prompt)


def sidebar(page: Page, view: str = "Judge") -> Locator:
    """Our tab, opened with the mouse."""
    tab = page.locator(".mapo-sidebar")
    if not tab.count():
        page.locator(".mapo-tab-button").click()
    filled = tab.locator(".mapo-full, .mapo-empty").locator("visible=true").first
    expect(filled).to_be_visible()
    if tab.get_by_role("tab", name=view).is_visible():
        tab.get_by_role("tab", name=view).click()
    return tab


def nodes(page: Page, kind: str) -> list[dict[str, Any]]:
    """{id, title, selected, widgets: {name: value}} of every node of that kind."""
    return page.evaluate(
        """(kind) => app.graph.nodes.filter((node) => node.comfyClass === kind).map((node) => ({
            id: node.id, title: node.title, selected: Boolean(app.canvas.selected_nodes[node.id]),
            widgets: Object.fromEntries((node.widgets ?? []).map(({ name, value }) => [name, value])),
        }))""",
        kind,
    )

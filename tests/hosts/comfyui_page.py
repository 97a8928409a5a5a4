"""How does a test use ComfyUI's page as a person does?"""

from __future__ import annotations

from typing import Any

from mapo_studio.tests.hosts.running_comfyui import RunningComfyUI
from playwright.sync_api import Locator, Page, expect

READY = "document.querySelector('.mapo-tab-button') && window.app?.graph && window.app.extensionManager"


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
    page.goto(server.address)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => app.graph.clear()")


def load(page: Page, prompt: dict[str, Any]) -> None:
    """Show what ComfyUI executes as a graph."""
    page.evaluate("async (prompt) => { await app.loadApiJson(prompt, 'test') }", prompt)


def sidebar(page: Page, view: str = "Judge") -> Locator:
    """Our tab, opened with the mouse."""
    tab = page.locator(".mapo-sidebar")
    if not tab.count():
        page.locator(".mapo-tab-button").click()
    if tab.get_by_role("tab", name=view).is_visible():
        tab.get_by_role("tab", name=view).click()
    expect(tab).to_be_visible()
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

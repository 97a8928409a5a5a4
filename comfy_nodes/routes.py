"""Which addresses does the page ask? All are below /mapo/, but for the page's own files."""

from __future__ import annotations

from . import choices, host, installing, replies, run_routes, watching, workspace
from .comparison_routes import comparison_routes
from .judging import judging_routes
from .page_files import page_file_routes
from .pick_routes import pick_routes


def add_routes() -> None:
    """Serve them; ComfyUI is asked once, at its start."""
    routes = {
        **judging_routes(),
        **page_file_routes(),
        **pick_routes(),
        **comparison_routes(),
    } | run_routes.run_routes()
    for (method, path), handler in routes.items():
        host.add_route(method, path, replies.guarded(handler))
    host.when_serving(choices.look_again)
    host.when_prompted(run_routes.tell_of_sharing)
    watcher = watching.Watcher(run_routes.RUNS, host.tell_pages, installing.install)
    host.when_serving(lambda: watching.begin(watcher, workspace.workspace, host.pages))

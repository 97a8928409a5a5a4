"""Routes: every address that the page asks, below /mapo/ but for the page's own files."""

from __future__ import annotations

from ..comfy_api import dataset_names, host, lora_files, settings
from ..training import run_watcher
from . import http, runs
from .comparisons import comparison_routes
from .judging import judging_routes
from .page_files import page_file_routes
from .picks import pick_routes


def add_routes() -> None:
    """Serve them; ComfyUI is asked once, at its start."""
    routes = {
        **judging_routes(),
        **page_file_routes(),
        **pick_routes(),
        **comparison_routes(),
    } | runs.run_routes()
    for (method, path), handler in routes.items():
        host.add_route(method, path, http.guarded(handler))
    host.when_serving(dataset_names.refresh)
    host.when_prompted(runs.warn_of_sharing)
    watcher = run_watcher.Watcher(runs.RUNS, host.tell_pages, lora_files.install)
    host.when_serving(lambda: run_watcher.start_watching(watcher, settings.workspace, host.pages))

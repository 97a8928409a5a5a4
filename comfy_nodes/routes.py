"""Which addresses does the page ask? All are below /mapo/."""

from __future__ import annotations

from . import choices, host, replies
from .judging import judging_routes


def add_routes() -> None:
    """Serve them; ComfyUI is asked once, at its start."""
    for (method, path), handler in judging_routes().items():
        host.add_route(method, path, replies.guarded(handler))
    host.when_serving(choices.look_again)

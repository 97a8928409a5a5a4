"""Routes of comparisons: the pairs of one and how it stands."""

from __future__ import annotations

from aiohttp import web

from . import http


def comparison_routes() -> dict[tuple[str, str], http.Handler]:
    """(method, path) -> handler."""
    return {("GET", "/mapo/comparisons/{name}"): comparison}


async def comparison(request: web.Request) -> web.StreamResponse:
    """How a comparison stands, and its pairs. A win rate is given only once there are enough answers."""
    from ..comparisons import report

    return await http.reply(lambda: report(request.match_info["name"]))

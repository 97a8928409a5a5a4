"""How does the page ask for a comparison?"""

from __future__ import annotations

from aiohttp import web

from . import http


def comparison_routes() -> dict[tuple[str, str], http.Handler]:
    """(method, path) -> handler."""
    return {("GET", "/mapo/comparisons/{name}"): comparison}


async def comparison(request: web.Request) -> web.StreamResponse:
    """How a comparison stands, and its pairs. A share is said only when there are answers enough to say one."""
    from ..comparisons import report

    return await http.reply(lambda: report(request.match_info["name"]))

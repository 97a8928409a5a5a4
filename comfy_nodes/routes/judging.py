"""Routes of the judging element inside ComfyUI: its API, and its own files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from aiohttp import web

from ..comfy_api import host, settings
from . import http

_READ = ("next", "statistics", "groups")
_WRITE = ("answers", "undo", "rankings")
_ELEMENT = Path(__file__).parents[2] / "web" / "judge"
# Named by their content, pictures never change; but they are a person's own, so no cache on the way keeps them.
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def judging_routes() -> dict[tuple[str, str], http.Handler]:
    """The contract below /mapo/api, and the element's files: (method, path) -> handler."""
    return {
        **{("GET", f"/mapo/api/{name}"): _reading(name) for name in _READ},
        **{("POST", f"/mapo/api/{name}"): _writing(name) for name in _WRITE},
        ("GET", "/mapo/api/picture/{sha256}"): picture,
        ("GET", "/mapo/judge/{file}"): element_file,
    }


async def picture(request: web.Request) -> web.StreamResponse:
    """A picture of the workspace, by the SHA-256 of its file."""

    def find() -> tuple[Path, str]:
        from ...trainer.errors import UserError

        path = contract().image_file(settings.store(), request.match_info["sha256"])
        if path.suffix not in contract().IMAGE_TYPES:
            raise UserError("no browser shows this kind of picture")
        return path, contract().IMAGE_TYPES[path.suffix]

    return await http.file_reply(find, _FOR_EVER)


async def element_file(request: web.Request) -> web.StreamResponse:
    """A file of the judging element, the same that the studio shows. An upgrade shows at once."""
    name = request.match_info["file"]
    if not re.fullmatch(r"[a-z0-9-]+\.js", name) or not (_ELEMENT / name).is_file():
        return http.refusal(404, "there is no such file")
    return web.FileResponse(_ELEMENT / name, headers={"Content-Type": "text/javascript", "Cache-Control": "no-cache"})


def contract() -> ModuleType:
    """trainer.preferences.api, imported when the page first asks for something."""
    from ...trainer.preferences import api

    return api


def _reading(name: str) -> http.Handler:
    async def read(request: web.Request) -> web.StreamResponse:
        query, annotator = dict(request.query), person(request)

        def ask() -> Any:
            model, function = contract().READ[name]
            return function(settings.store(), contract().from_query(model, query), annotator())

        return await http.reply(ask)

    return read


def _writing(name: str) -> http.Handler:
    async def write(request: web.Request) -> web.StreamResponse:
        body, annotator = await http.body(request), person(request)

        def keep() -> Any:
            model, function = contract().WRITE[name]
            return function(settings.store(), model.model_validate_json(body), annotator())

        return await http.reply(keep)

    return write


def person(request: web.Request) -> Callable[[], str]:
    """Who judges; to be called in a thread, as the settings are in a file."""
    return lambda: settings.annotator(host.settings(request))

"""HTTP for routes: guard against foreign pages, JSON bodies and replies, work in threads off the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000
"""Of a request: fifty answers take twenty thousand."""
_UNEXPECTED = "Something went wrong that should not have; ComfyUI's log says what."
_FRESH = {"Cache-Control": "no-store"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(handle: Handler) -> Handler:
    """`handle` for requests of ComfyUI's own page and of programs, not of other sites' pages."""

    async def guard(request: web.Request) -> web.StreamResponse:
        if _is_foreign(request):
            return refusal(403, "this request comes from another site")
        try:
            return await handle(request)
        except web.HTTPException as error:
            return refusal(error.status, error.text or error.reason)

    return guard


async def body(request: web.Request) -> bytes:
    """The JSON that was sent. Raises aiohttp's HTTPException for what is too large or does not say that it is JSON."""
    # A form of a foreign page can send text, but not say that it is JSON.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send this as application/json")
    read = bytearray()
    async for chunk in request.content.iter_chunked(65536):
        read += chunk
        if len(read) > MAX_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_BYTES, len(read), text="this is too much for one request")
    return bytes(read)


async def reply(ask: Callable[[], Any]) -> web.Response:
    """What `ask` returns, in JSON: a pydantic model, or plain values. It runs in a thread and may wait for the disk.

    UserError and pydantic's ValidationError become {"error": sentence} with a status of 4xx.
    """
    from pydantic import BaseModel, ValidationError

    from ...trainer.config.validation import validation_sentence
    from ...trainer.errors import UserError

    try:
        result = await asyncio.to_thread(ask)
    except ValidationError as error:
        return refusal(422, validation_sentence(error, whole="the request"))
    except UserError as error:
        return refusal(400, str(error))
    except Exception:
        log.exception("MaPO: a request of the page failed")
        return refusal(500, _UNEXPECTED)
    text = result.model_dump_json() if isinstance(result, BaseModel) else json.dumps(result, ensure_ascii=False)
    return web.Response(text=text, content_type="application/json", headers=_FRESH)


async def file_reply(find: Callable[[], tuple[Path, str]], headers: dict[str, str]) -> web.StreamResponse:
    """The file that `find` names, in a thread, with its media type; 404 where it raises UserError."""
    from ...trainer.errors import UserError

    try:
        path, media_type = await asyncio.to_thread(find)
    except UserError as error:
        return refusal(404, str(error))
    return web.FileResponse(path, headers={"Content-Type": media_type, "X-Content-Type-Options": "nosniff", **headers})


def refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=_FRESH)


def _is_foreign(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()

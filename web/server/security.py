"""Request guard: host, origin and size checks against DNS rebinding, foreign pages and huge bodies.

A page on 127.0.0.1 can be reached by every other page of the same browser: a foreign site may post to it, and a name
that its owner lets point to 127.0.0.1 (DNS rebinding) may even read it. So every request, for Gradio's routes as for
ours, must name a host that is ours and, where the browser says from where it comes, come from our own page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4 * 1024**2
"""Bytes of any request but an upload: prompts, answers, settings."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

_READING = ("GET", "HEAD")
_UPLOAD = re.compile(r"/gradio_api/upload/?")
# What Gradio can do besides and nothing here needs: fetch foreign addresses, edit its own code, connect to a hub.
_CLOSED = re.compile(
    r"/gradio_api/(proxy=|file=[a-z]{2,}:|stream/|vibe|undo-vibe|run-history|runs|deep_link|dev/|profiling|process_recording|"
    r"custom_component)|/(monitoring|dev/)",
    re.IGNORECASE,
)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Gradio compiles templates in the page ('unsafe-eval') and writes inline styles and scripts. Nothing leaves the
    # machine: no script, style, font, picture or connection is from elsewhere.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
}


@dataclass(frozen=True)
class AllowedHosts:
    """The names that this server answers to. names: lower case, IPv6 in brackets; port: the one it listens on."""

    names: frozenset[str]
    port: int

    @classmethod
    def of(cls, names: Collection[str], port: int) -> AllowedHosts:
        return cls(frozenset(_bracketed(name.lower()) for name in (*LOCAL_NAMES, *names) if name), port)

    def knows(self, host: str, arrived_at: str = "") -> bool:
        """Whether a Host header's value is ours. Without a port it is a proxy's or port 80: the name must do.

        arrived_at: the address of this machine that the connection came to. As a number it is always ours: only a
        name can be made to point here.
        """
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::(\d{1,5}))?", host.strip().lower())
        if not match or not (match[1] in self.names or _same_number(match[1].strip("[]"), arrived_at)):
            return False
        return int(match[2]) == self.port if match[2] else match[1] not in LOCAL_NAMES or self.port == 80


class RequestGuard:
    """ASGI middleware: refuses what does not come from the studio's own page, and bounds what a request may carry."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, max_upload: int) -> None:
        """max_upload: bytes of one upload request, all its files together."""
        self.app = app
        self.hosts = hosts
        self.max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal:
            return await refuse(scope, send, 403, refusal)
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)
        max_bytes = self.max_upload if _UPLOAD.fullmatch(scope["path"]) else MAX_BODY
        return await _bounded(self.app, max_bytes, headers, scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, list[str]]) -> str | None:
        """Why this request is not let in, or None."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self.hosts.knows(hosts[0], (scope.get("server") or ("",))[0]):
            return (
                "The studio does not answer to this name. Open it by the address that its terminal shows; "
                "another name must be given at its start with --host-name."
            )
        for origin in headers.get("origin", []):
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or parts.netloc.lower() != hosts[0].strip().lower():
                return "This request comes from another page than the studio's, so it was not carried out."
        if self._is_foreign(scope, headers):
            return "This request comes from another site, so it was not carried out."
        if _CLOSED.match(scope["path"]):
            return "The studio does not offer this."
        return None

    @staticmethod
    def _is_foreign(scope: Scope, headers: dict[str, list[str]]) -> bool:
        site = headers.get("sec-fetch-site", ["none"])
        if all(value in ("same-origin", "none") for value in site):
            return False
        # A link from elsewhere may open the page; no other site may show or send anything of it.
        opens_page = scope["type"] == "http" and scope["method"] in _READING
        return not (opens_page and headers.get("sec-fetch-mode") == ["navigate"])


async def refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    """Answer with {"error": sentence}; a websocket is closed before it opens, which is a 403 for the browser."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": sentence[:120]})
        return
    send = _with_headers(send)
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _bounded(
    app: ASGIApp, max_bytes: int, headers: dict[str, list[str]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run `app`, which gets at most `max_bytes` bytes of body: announced or, in pieces, counted as they come."""
    too_large = f"This is more than the studio takes at once ({max_bytes / 1024**2:.0f} MB)."
    announced = headers.get("content-length", ["0"])
    if len(announced) != 1 or not announced[0].isdecimal() or int(announced[0]) > max_bytes:
        return await refuse(scope, send, 413, too_large)
    received, too_much, answered = 0, False, False

    async def counted() -> Message:
        nonlocal received, too_much
        if too_much:
            return {"type": "http.disconnect"}
        message = await receive()
        received += len(message.get("body", b""))
        too_much = received > max_bytes
        return {"type": "http.disconnect"} if too_much else message

    async def unless_too_much(message: Message) -> None:
        nonlocal answered
        if too_much and not answered:
            return
        answered = True
        await send(message)

    try:
        await app(scope, counted, unless_too_much)
    except Exception:
        if not too_much:
            raise
    if too_much and not answered:
        await refuse(scope, send, 413, too_large)
    return None


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", [])}
            added = [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.lower().encode() not in there]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return send_with_headers


def _headers(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _same_number(host: str, address: str) -> bool:
    try:
        return ip_address(host) == ip_address(address)
    except ValueError:
        return False


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name

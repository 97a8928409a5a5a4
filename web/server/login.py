"""Login with a password and a cookie, where the studio is open to a network."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import os
import secrets
import stat
import time
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ...trainer.errors import UserError
from .security import refuse

_DAYS = 30
_MOST_FORM = 4096
_HASH = "scrypt$"


@dataclass(frozen=True)
class Passwords:
    """Who may come in. by_name: each person's own password or hash; shared: one for all, who say their names."""

    by_name: dict[str, str] = field(default_factory=dict, repr=False)
    shared: str | None = field(default=None, repr=False)

    def fits(self, name: str, password: str) -> bool:
        """Whether `password` is this person's. Takes as long for a name that is not there."""
        if self.shared is not None:
            return bool(name) and _same(password, self.shared)
        return _same(password, self.by_name.get(name, _NOBODY)) and name in self.by_name


def read_passwords(path: Path) -> Passwords:
    """From a file of lines `name:password` or `name:scrypt$...` (see `hashed`).

    Raises UserError where it cannot be read, holds no line, or may be read by others on this machine.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the passwords in {path} cannot be read: {error}") from error
    if os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"{path} can be read by others on this machine: run `chmod 600 {path}`")
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not colon or not name.strip() or not password.strip():
            raise UserError(f"line {number} of {path} must be name:password")
        passwords[name.strip()] = password.strip()
    if not passwords:
        raise UserError(f"{path} holds no line name:password")
    return Passwords(passwords)


def hashed(password: str) -> str:
    """What may stand in the file in place of the password itself: scrypt$salt$hash, both in hexadecimal."""
    salt = secrets.token_bytes(16)
    return f"{_HASH}{salt.hex()}${_scrypt(password, salt).hex()}"


def _same(password: str, kept: str) -> bool:
    if not kept.startswith(_HASH):
        return hmac.compare_digest(password.encode(), kept.encode())
    try:
        salt, digest = (bytes.fromhex(part) for part in kept.removeprefix(_HASH).split("$"))
    except ValueError:
        return False
    return hmac.compare_digest(_scrypt(password, salt), digest)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


_NOBODY = hashed(secrets.token_hex(16))


class Login:
    """ASGI middleware: nothing of the studio is shown to who has not logged in; scope["mapo_user"] is who has."""

    def __init__(self, app: ASGIApp, passwords: Passwords, port: int) -> None:
        self.app = app
        self.passwords = passwords
        # Cookies do not tell ports apart: two studios on one machine would log each other out.
        self.cookie = f"mapo-studio-{port}"
        self._sessions: dict[str, tuple[str, float]] = {}
        self._one_guess = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if scope["type"] == "http" and scope["path"] == "/login":
            return await self._log_in(scope, receive, send)
        token = self._token(scope)
        name, until = self._sessions.get(token, ("", 0.0))
        if not name or until < time.time():
            return await self._turn_away(scope, receive, send)
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", "/logout"):
            del self._sessions[token]
            return await RedirectResponse("/login", 303)(scope, receive, send)
        return await self.app({**scope, "mapo_user": name}, receive, send)

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await _page()(scope, receive, send)
        form = await _form(receive)
        if form is None:
            return await refuse(scope, send, 413, "This is more than a name and a password.")
        name = form.get("name", [""])[0].strip()[:200]
        async with self._one_guess:  # one guess at a time and a second for each wrong one: no list is tried that way
            fits = await asyncio.to_thread(self.passwords.fits, name, form.get("password", [""])[0])
            if not fits:
                await asyncio.sleep(1)
        if not fits:
            return await _page("Name and password do not fit.", name, 403)(scope, receive, send)
        now = time.time()
        self._sessions = {token: kept for token, kept in self._sessions.items() if kept[1] > now}
        token = secrets.token_urlsafe(32)
        self._sessions[token] = (name, now + _DAYS * 86400)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, token, max_age=_DAYS * 86400, httponly=True, samesite="lax")
        return await answer(scope, receive, send)

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = next((value for name, value in scope["headers"] if name.lower() == b"accept"), b"")
        if scope["type"] == "http" and scope["method"] == "GET" and b"text/html" in accepted:
            return await RedirectResponse("/login", 303)(scope, receive, send)
        return await refuse(scope, send, 401, "You are not logged in, or not any more: load the page again.")

    def _token(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name.lower() == b"cookie":
                try:
                    cookie = SimpleCookie(value.decode("latin-1")).get(self.cookie)
                except CookieError:
                    continue
                if cookie:
                    return cookie.value
        return ""


async def _form(receive: Receive) -> dict[str, list[str]] | None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST_FORM:
            return None
        if not message.get("more_body"):
            return parse_qs(body.decode("utf-8", "replace"))


def _page(trouble: str = "", name: str = "", status: int = 200) -> HTMLResponse:
    alert = f"<p role=alert>{html.escape(trouble)}</p>" if trouble else ""
    return HTMLResponse(
        _HTML.replace("{alert}", alert).replace("{name}", html.escape(name, quote=True)),
        status,
        {"Cache-Control": "no-store"},
    )


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>MaPO Studio</title><style>
body { background: #131316; color: #e8e8ea; font: 15px system-ui, sans-serif; display: grid; place-items: center;
       min-height: 100vh; margin: 0 }
form { display: grid; gap: 12px; width: 260px }
h1 { font-size: 17px; font-weight: 600; margin: 0 0 4px }
label { display: grid; gap: 4px; color: #a0a0a8; font-size: 13px }
input { background: #1c1c21; border: 1px solid #34343c; border-radius: 6px; color: #e8e8ea; font: inherit;
        padding: 9px }
button { background: #e8a33d; border: 0; border-radius: 6px; color: #17130b; font: inherit; font-weight: 600;
         padding: 10px; cursor: pointer }
p { color: #f08a7c; margin: 0 }
</style></head><body><form method="post" action="/login"><h1>MaPO Studio</h1>{alert}
<label>Your name<input name="name" value="{name}" autocomplete="username" required autofocus></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form></body></html>
"""

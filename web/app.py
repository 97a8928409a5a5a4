"""`mapo studio`: start of the web server, its socket, address and passwords, and its end."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..trainer.atomic_files import explain_disk_full
from ..trainer.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .server.login import Passwords
    from .server.security import AllowedHosts

PORT = 7860
MAX_UPLOAD = 2 * 1024**3
"""Bytes of one upload request."""


def main(argv: Sequence[str]) -> int:
    """`mapo studio`: serve the studio until Ctrl-C. Raises UserError for what the person can mend."""
    args = _parser().parse_args(argv)
    if args.hash_password:
        from .server.login import hashed

        _say(f"{args.hash_password}:{hashed(_typed_password())}")
        return 0
    workspace = args.workspace.expanduser().resolve()
    with explain_disk_full(workspace):
        workspace.mkdir(parents=True, exist_ok=True)
    if find_spec("gradio") is None:
        raise UserError("the studio needs Gradio: pip install 'mapo-studio[web]'")
    roots = tuple(_root(folder) for folder in args.root)
    passwords = _passwords(args.auth_file, args.listen)
    listener = _listen(args.listen or "127.0.0.1", args.port)
    port = listener.getsockname()[1]
    _say("starting the studio ...")

    # Gradio keeps what is uploaded and shown in one folder: here one of this start's own, gone at its end.
    temp_folder = tempfile.mkdtemp(prefix="mapo-studio-")
    os.environ.update(GRADIO_TEMP_DIR=temp_folder, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    # What an event returns may be a path, and Gradio lets those below the current folder pass.
    os.chdir(workspace)
    try:
        from .server.security import AllowedHosts

        own = [args.listen, *args.host_name, *([socket.gethostname()] if args.listen else [])]
        hosts = AllowedHosts.of([name for name in own if name], port)
        app = studio_app(workspace, hosts, roots, passwords)
        _serve(app, listener, _address(args.listen, port), open_browser=not args.no_browser)
    finally:
        listener.close()
        os.chdir(tempfile.gettempdir())
        shutil.rmtree(temp_folder, ignore_errors=True)
    return 0


def studio_app(
    workspace: Path, hosts: AllowedHosts, roots: tuple[Path, ...] = (), passwords: Passwords | None = None
) -> ASGIApp:
    """The studio of a workspace as an ASGI app: Gradio's page and our routes behind the same guard and login.

    workspace: absolute; made where it is not there. roots: folders that the page may read pictures from, resolved.
    """
    from .server.fast_gradio import import_gradio

    import_gradio()
    import gradio as gr
    from fastapi import FastAPI, Request

    from ..trainer.preferences.store import open_store
    from .page import HEAD, build_page
    from .server.judging_routes import ElementFiles, judging_router
    from .server.login import Login
    from .server.preferences_file import SettingsFile
    from .server.run_files import run_files
    from .server.security import RequestGuard
    from .theme.theme import CSS, ThemeRedirect, studio_theme

    store, settings = open_store(workspace), SettingsFile(workspace / "settings.json")
    settings.read()  # a damaged file is reported now, not at the first click

    def annotator_of(request: Request) -> str:
        return request.scope.get("mapo_user") or settings.read().annotator

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(judging_router(store, annotator_of))
    app.include_router(run_files(workspace))
    app.mount("/mapo/static/judge", ElementFiles())
    page = build_page(store, settings, roots, has_login=passwords is not None)
    # Without this mark Gradio does not ask, for a mounted page, whether a file that an event names was uploaded.
    page.has_launched = True
    gr.mount_gradio_app(
        app,
        page,
        "/",
        auth_dependency=(lambda request: request.scope.get("mapo_user")) if passwords else None,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        blocked_paths=[str(workspace / name) for name in ("preferences.db", "settings.json")],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=studio_theme(),
        css_paths=CSS,
        head=HEAD,
    )
    inner: ASGIApp = ThemeRedirect(app, settings)
    if passwords:
        inner = Login(inner, passwords, hosts.port)
    return RequestGuard(inner, hosts, MAX_UPLOAD)


def _serve(app: ASGIApp, listener: socket.socket, address: str, open_browser: bool) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,  # every open page holds a connection that never ends by itself
    )
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            if server.should_exit:
                return
            time.sleep(0.05)
        _say(f"the studio is at {address}  (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)

    threading.Thread(target=announce, daemon=True).start()
    logging.getLogger("uvicorn.error").addFilter(lambda record: "timeout graceful" not in record.getMessage())
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends cleanly, and then passes it on
        server.run(sockets=[listener])
    _say("the studio has ended; trainings that run go on")


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens there. Where no port was asked for, the next free one from PORT on."""
    if port is not None and not 0 < port < 65536:
        raise UserError(f"there is no port {port}: take one from 1024 to 65535")
    problem = ""
    for candidate in range(PORT, PORT + 100) if port is None else (port,):
        bound = _bound(host, candidate)
        if isinstance(bound, socket.socket):
            return bound
        problem = bound.strerror or str(bound)
    if port is None:
        raise UserError(f"none of the ports {PORT} to {PORT + 99} is free on {host} ({problem}): say which --port")
    raise UserError(f"cannot listen on port {port} of {host} ({problem}): take another --port")


def _bound(host: str, port: int) -> socket.socket | OSError:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error}") from error
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "nt":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last start's ended connections linger
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        return error
    return made


def _address(listen: str | None, port: int) -> str:
    """The URL to open. A server on all addresses is reached by this machine's name."""
    host = listen or "127.0.0.1"
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _passwords(auth_file: Path | None, listen: str | None) -> Passwords | None:
    from .server.login import Passwords, read_passwords

    if auth_file:
        return read_passwords(auth_file.expanduser())
    shared = os.environ.get("MAPO_STUDIO_PASSWORD", "")
    if not shared and listen and sys.stdin.isatty():
        _say("Others will reach the studio over the network. A password for them:")
        shared = _typed_password()
    if shared:
        return Passwords(shared=shared)
    if listen:
        raise UserError(
            "--listen opens the studio to the network, which needs a password: give --auth-file FILE "
            "(lines name:password) or set MAPO_STUDIO_PASSWORD"
        )
    return None


def _typed_password() -> str:
    first = getpass.getpass("password: ")
    if not first:
        raise UserError("an empty password lets everyone in: give one")
    if getpass.getpass("once more: ") != first:
        raise UserError("the two passwords differ: start again")
    return first


def _root(folder: Path) -> Path:
    resolved = folder.expanduser().resolve()
    if not resolved.is_dir():
        raise UserError(f"--root {folder}: there is no such folder")
    return resolved


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mapo studio", description="Open the studio in the browser.", allow_abbrev=False)
    default = Path(os.environ.get("MAPO_WORKSPACE", "workspace"))
    add = parser.add_argument
    add("--workspace", type=Path, default=default, help="folder of all judgements and runs (or set MAPO_WORKSPACE)")
    add("--port", type=int, help=f"by default {PORT}, or the next one that is free")
    add("--listen", nargs="?", const="0.0.0.0", metavar="HOST", help="let others in over the network; needs a password")
    add("--host-name", action="append", default=[], metavar="NAME", help="another name this machine is reached by")
    add("--auth-file", type=Path, metavar="FILE", help="who may log in: lines name:password, readable by you alone")
    add("--hash-password", metavar="NAME", help="print a line for that file in which the password cannot be read")
    add("--root", type=Path, action="append", default=[], metavar="DIR", help="a folder pictures may be read from")
    add("--no-browser", action="store_true", help="do not open the browser")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

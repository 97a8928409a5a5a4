"""How do tests get a PostgreSQL server? One of their own, with its own folder and port, gone when they end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from mapo_studio.tests.system_packages import needed

_START_SECONDS = 60
# Nothing here has to survive a power cut.
_CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@contextmanager
def server() -> Iterator[str]:
    """The address of a running server's user, without a database: ``postgresql://postgres:...@127.0.0.1:54321``."""
    programs = needed("postgresql").resolve().parent
    # Not pytest's folder: the server runs as another user, who may not look into it.
    folder = Path(tempfile.mkdtemp(prefix="mapo-postgresql-"))
    rights: dict[str, Any] = {}
    if os.geteuid() == 0:  # which the server refuses to run as
        shutil.chown(folder, "postgres", "postgres")
        rights = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, log = folder / "data", folder / "log.txt"
    try:
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust", "-N"]
        done = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, **rights)
        assert done.returncode == 0, done.stderr
        port = _free_port()
        settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", *_CARELESS]
        command = [programs / "postgres", "-D", data, *(word for one in settings for word in ("-c", one))]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, **rights)
        try:
            address = f"postgresql://postgres:unasked@127.0.0.1:{port}"
            _wait_for(address, process, log)
            yield address
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(_START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(address: str, name: str, template: str = "template1") -> str:
    """The url of a new database of that server, with what `template` holds: by default nothing."""
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return f"{address}/{name}"


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not _answers(address):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


def _answers(address: str) -> bool:
    try:
        psycopg.connect(f"{address}/postgres", connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]

"""The preference store: a workspace's database, and how it is read and written so that nothing is lost.

A file preferences.db in the workspace, or the PostgreSQL server that MAPO_DATABASE_URL names. There is one writer at a
time on both: what is counted or numbered while writing needs no other lock.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..atomic_files import explain_disk_full
from ..errors import UserError
from .migrate import upgrade_database

URL_VARIABLE = "MAPO_DATABASE_URL"
_WAIT_SECONDS = 60
_WRITERS = 0x4D61504F  # any number that no other program takes for its advisory locks

_opened: dict[tuple[int, Path, str], Store] = {}
_opening = threading.Lock()


class Store:
    """One workspace's preferences, open. Any thread may use it.

    workspace: absolute. images: the folder of image files, see images.py.
    """

    def __init__(self, workspace: Path, engine: Engine):
        self.workspace = workspace
        self.engine = engine
        self.images = workspace / "images"
        self._writer = engine.execution_options(mapo_writes=True)
        self._write_lock = threading.Lock()
        self._writing_thread: int | None = None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees the preferences as they are now. What it loaded can be used after it has ended."""
        with self._user_errors(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: on the disk when this ends, or, after an exception, as if it had never begun.

        Waits for other writers of any thread, process or machine. Keep it short, and never open one within another.
        Raises UserError where the disk is full or another writer takes more than a minute.
        """
        with (
            self._user_errors(),
            self._exclusive(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Give back every connection. The next use opens them again."""
        self.engine.dispose()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        # SQLite lets a waiting writer sleep and look again; a queue within the process is quicker and fair.
        if self._writing_thread == threading.get_ident():
            raise RuntimeError("writing() within writing() would wait for itself")
        if not self._write_lock.acquire(timeout=_WAIT_SECONDS):
            raise UserError(_busy(self.engine.url))
        try:
            self._writing_thread = threading.get_ident()
            yield
        finally:
            self._writing_thread = None
            self._write_lock.release()

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        with _user_errors(self.engine.url):
            yield


def open_store(workspace: Path, url: str | None = None) -> Store:
    """The preferences of a workspace, made or upgraded if need be. Opening again gives the same Store.

    url: of the database; by default that of MAPO_DATABASE_URL, else <workspace>/preferences.db.
    Raises UserError where the database cannot be reached, is damaged, or was written by a newer version.
    """
    workspace = Path(workspace).expanduser().resolve()
    address = _address(workspace, url or os.environ.get(URL_VARIABLE) or None)
    key = (os.getpid(), workspace, address.render_as_string(hide_password=False))
    with _opening:
        store = _opened.get(key)
        if store is None or _file_is_missing(address):
            if store is not None:
                store.close()
            store = _opened[key] = _open(workspace, address)
        return store


def display_url(address: URL) -> str:
    """How to name a database to a person: without its password, or options that could hold one."""
    if address.drivername == "sqlite":
        return str(address.database)
    return address.set(drivername=address.get_backend_name(), query={}).render_as_string(hide_password=True)


def _address(workspace: Path, url: str | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(workspace / "preferences.db"))
    try:
        address = make_url(url)
        kind = address.get_backend_name()
    except (ArgumentError, ValueError):
        # Nothing of the text is repeated: it may hold a password.
        raise UserError(
            f"{URL_VARIABLE} is no database address; write it like postgresql://user:password@host/database"
        ) from None
    if kind == "sqlite" and address.database not in (None, "", ":memory:"):
        return URL.create("sqlite", database=str(Path(str(address.database)).expanduser().resolve()))
    if kind == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    raise UserError(
        f"{URL_VARIABLE} names a database of the kind {kind!r}; preferences are kept in a SQLite file or in PostgreSQL"
    )


def _file_is_missing(address: URL) -> bool:
    return address.drivername == "sqlite" and not Path(str(address.database)).exists()


def _open(workspace: Path, address: URL) -> Store:
    file = Path(str(address.database)) if address.drivername == "sqlite" else None
    if file is not None:
        try:
            with explain_disk_full(file):
                file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"there can be no {file}: a part of its path is a file; name another workspace") from None
    engine = _postgresql(address) if file is None else _sqlite(address)
    store = Store(workspace, engine)
    try:
        with _user_errors(address):
            upgrade_database(engine.execution_options(mapo_writes=True), display_url(address), file)
    except BaseException:
        engine.dispose()
        raise
    return store


def _sqlite(address: URL) -> Engine:
    engine = create_engine(address, max_overflow=50)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # Transactions are begun below: the driver would begin them too late, and not immediately.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys=ON")
        # An acknowledged judgement is on the disk even if the power fails the next moment.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-65536")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that first reads and then writes cannot wait for another writer: it would have to forget what
        # it read, and SQLite says "database is locked" at once.
        writes = connection.get_execution_options().get("mapo_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(address: URL) -> Engine:
    try:
        engine = create_engine(address, pool_pre_ping=True, hide_parameters=True)
    except ImportError:
        raise UserError(
            f"{URL_VARIABLE} names a PostgreSQL server, and its driver is not installed: "
            f'"{sys.executable}" -m pip install "psycopg[binary]"'
        ) from None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("mapo_writes"):
            connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITERS})

    return engine


@contextmanager
def _user_errors(address: URL) -> Iterator[None]:
    """Database errors that a person can mend become UserErrors; without the address's password."""
    where = display_url(address)
    try:
        yield
    except OperationalError as error:
        reason = _redacted(address.password, " ".join(str(error.orig).split()))
        if "locked" in reason or "lock timeout" in reason:
            raise UserError(_busy(address)) from None
        if "full" in reason:
            raise UserError(f"no room to write {where}: free some disk space and try again") from None
        if "readonly" in reason or "unable to open" in reason:
            raise UserError(f"{where} cannot be opened or written: check the permissions of its folder") from None
        if address.drivername != "sqlite":
            raise UserError(f"the database {where} cannot be used: {reason}") from None
        raise
    except DatabaseError as error:
        damaged = ("not a database", "malformed")
        if address.drivername == "sqlite" and any(words in str(error.orig) for words in damaged):
            raise UserError(
                f"{where} is damaged or no database: put back a copy of it, or move it away to begin anew"
            ) from None
        raise
    except SQLAlchemyError as error:
        if address.password and str(address.password) in str(error):
            raise UserError(f"the database {where} cannot be used ({type(error).__name__})") from None
        raise


def _redacted(secret: object, message: str) -> str:
    return message.replace(str(secret), "***") if secret else message


def _busy(address: URL) -> str:
    return (
        f"{display_url(address)} has been busy for {_WAIT_SECONDS} seconds: wait for what writes there, then try again"
    )

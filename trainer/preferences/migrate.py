"""Schema migration: the tables of a database become those of this version.

By Alembic, from the revisions in migrations/versions. They are found by where this file lies, under whatever name the
package was imported, and Alembic is only imported where there is something to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from sqlalchemy import Connection, Engine, inspect, text

from ..atomic_files import atomic_write
from ..errors import UserError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")
LATEST = max(file.name[:4] for file in MIGRATIONS.glob("versions/[0-9][0-9][0-9][0-9]_*.py"))
"""The newest revision, by the numbers that the files in migrations/versions begin with."""

_VERSION_TABLE = "mapo_revision"


def upgrade_database(engine: Engine, where: str, file: Path | None) -> None:
    """Make the tables in an empty database, or upgrade older ones; several processes may try at once.

    engine: its transactions wait for other writers. where: names the database in errors. file: SQLite's; of one with
    older tables a copy is left beside it. Raises UserError for a database of a newer version.
    """
    with engine.execution_options(mapo_writes=False).connect() as connection:
        if revision_of(connection) == LATEST:
            return
    with _migration_lock(file), engine.connect() as connection:
        if file is not None:
            _prepare_sqlite(connection, file)
        with connection.begin():
            revision = revision_of(connection)
            if revision != LATEST:
                _upgrade(connection, revision, where)
    if file is not None:
        engine.dispose()  # foreign keys are off on the connection that was used


def revision_of(connection: Connection) -> str | None:
    """Which revision the tables are at; None in an empty database."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    return connection.scalar(text(f"SELECT version_num FROM {_VERSION_TABLE}"))


@contextmanager
def _migration_lock(file: Path | None) -> Iterator[None]:
    # On PostgreSQL the writers' lock is enough. A file is also copied and switched to WAL, outside of transactions.
    if file is None:
        yield
        return
    with FileLock(file.with_name(f".{file.name}.upgrade.lock")):
        yield


def _prepare_sqlite(connection: Connection, file: Path) -> None:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    if raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_VERSION_TABLE,)).fetchone():
        (revision,) = raw.execute(f"SELECT version_num FROM {_VERSION_TABLE}").fetchone()
        if revision != LATEST:
            _copy(raw, file.with_name(f"{file.stem}.before-{LATEST}{file.suffix}"))
    # Readers and the writer do not wait for each other; on a network drive that cannot do it nothing changes.
    raw.execute("PRAGMA journal_mode=WAL")
    # To change a table SQLite builds a new one and drops the old: to what refers to it, that is a deletion.
    raw.execute("PRAGMA foreign_keys=OFF")


def _copy(raw: sqlite3.Connection, path: Path) -> None:
    with atomic_write(path) as part, closing(sqlite3.connect(part)) as copy:
        raw.backup(copy)


def _upgrade(connection: Connection, revision: str | None, where: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise UserError(
            f"{where} was written by a newer MaPO Studio (its tables are at {revision}, this version knows {LATEST}): "
            "update MaPO Studio"
        )
    command.upgrade(config, LATEST)
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise RuntimeError(f"upgrading {where} would leave {len(broken)} rows that refer to nothing")


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=_VERSION_TABLE)
    return config

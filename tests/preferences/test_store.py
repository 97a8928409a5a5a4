"""Opening: an empty folder, an older or newer database, a wrong address; from two processes, under any name."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences import migrate
from mapo_studio.trainer.preferences import store as database
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset
from mapo_studio.trainer.preferences.schema import Table
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import text

ROOT = Path(__file__).parents[2]
NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

def upgrade():
    with op.batch_alter_table("datasets") as table:
        table.add_column(sa.Column("motto", sa.Text(), nullable=False, server_default="none yet"))
        table.alter_column("name", type_=sa.String(300))
"""


@pytest.fixture
def reopened():
    """reopened(store, url): the store as another process would open it."""
    opened = []

    def reopen(store, url):
        store.close()
        opened.append(database._open(store.workspace, database._address(store.workspace, url)))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


@pytest.fixture
def next_version(tmp_path, monkeypatch):
    """next_version(revision_file): from now on the program has another revision, which needs an upgrade."""

    def have(words=NEXT):
        folder = tmp_path / "migrations 100%"
        shutil.copytree(migrate.MIGRATIONS, folder)
        (folder / "versions" / "0002_next.py").write_text(words)
        monkeypatch.setattr(migrate, "MIGRATIONS", folder)
        monkeypatch.setattr(migrate, "LATEST", "0003")

    return have


def test_a_new_database_has_the_tables_of_the_schema(store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrate._VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Table.metadata) == []


def test_the_latest_revision_is_the_one_that_is_named():
    assert ScriptDirectory(str(migrate.MIGRATIONS)).get_heads() == [migrate.LATEST]


def test_opening_again_gives_the_same_store(store, url, tmp_path):
    assert open_store(tmp_path / "." / "workspace", url) is store


def test_a_workspace_that_was_thrown_away_begins_anew(tmp_path):
    with open_store(tmp_path / "w").writing() as session:
        create_dataset(session, "cats")
    shutil.rmtree(tmp_path / "w")
    with open_store(tmp_path / "w").reading() as session, pytest.raises(UserError, match="there is none yet"):
        find_dataset(session, "cats")


@pytest.mark.slow
def test_the_environment_names_the_database(tmp_path, monkeypatch, postgresql):
    monkeypatch.setenv("MAPO_DATABASE_URL", postgresql())
    store = open_store(tmp_path / "w")
    assert store.engine.dialect.name == "postgresql"
    assert not (tmp_path / "w" / "preferences.db").exists()
    store.close()


def test_what_sqlite_is_told(tmp_path):
    with open_store(tmp_path).reading() as session:
        values = [session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert values == ["wal", 2, 1]


@pytest.mark.parametrize("name", ["a folder", "per%cent", "#ha?sh&", "dö.t"])
def test_a_folder_may_have_any_name(tmp_path, name):
    with open_store(tmp_path / name).writing() as session:
        create_dataset(session, "cats")
    assert (tmp_path / name / "preferences.db").is_file()


def test_opening_what_is_up_to_date_takes_no_time_and_loads_neither_torch_nor_alembic(tmp_path):
    open_store(tmp_path).close()
    script = f"""
import sys, time
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.preferences import bulk_insert, dataset_pairs, datasets, images, judgements
began = time.process_time()
open_store({str(tmp_path)!r})
print(time.process_time() - began, *sorted({{"torch", "alembic"}} & sys.modules.keys()))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said[1:] == []
    assert float(said[0]) < 0.1


def test_an_older_database_is_upgraded_and_a_copy_is_kept(store, url, next_version, reopened):
    with store.writing() as session:
        create_dataset(session, "cats")
    next_version()
    upgraded = reopened(store, url)
    with upgraded.reading() as session:
        assert session.execute(text("SELECT name, motto FROM datasets")).all() == [("cats", "none yet")]
    with upgraded.writing() as session:
        session.execute(text("UPDATE datasets SET motto = 'purr'"))
    copy = store.workspace / "preferences.before-0003.db"
    assert copy.exists() == (url is None)
    if url is None:
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT * FROM datasets").fetchall()[0][1] == "cats"
            assert connection.execute("SELECT version_num FROM mapo_revision").fetchall() == [("0002",)]
        with upgraded.reading() as session:
            assert session.scalar(text("PRAGMA foreign_keys")) == 1
    again = reopened(upgraded, url)
    with again.reading() as session:
        assert session.scalar(text("SELECT motto FROM datasets")) == "purr"


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(store, url, next_version, reopened):
    with store.writing() as session:
        create_dataset(session, "cats")
    next_version(NEXT + "\n    op.execute('INSERT INTO nowhere VALUES (1)')\n")
    with pytest.raises(Exception, match="nowhere"):
        reopened(store, url)
    with store.reading() as session:
        assert session.scalar(text("SELECT version_num FROM mapo_revision")) == "0002"
        assert find_dataset(session, "cats").name == "cats"


def test_a_database_of_a_newer_version_is_refused_and_not_touched(store, url, reopened):
    with store.writing() as session:
        session.execute(text("UPDATE mapo_revision SET version_num = '9999'"))
    with pytest.raises(UserError, match=r"newer MaPO Studio .*9999.*update"):
        reopened(store, url)
    with store.reading() as session:
        assert session.scalar(text("SELECT version_num FROM mapo_revision")) == "9999"


@pytest.mark.parametrize("names", [("mapo_studio", "mapo_studio"), ("any-Name.x", "other")], ids=["usual", "hosts"])
def test_two_processes_that_open_at_once_make_the_tables_once(tmp_path, url, names):
    """Bound from their files, as hosts do it: under any name, from a folder with spaces and dots."""
    copy = tmp_path / "ex tensions" / "MaPO 1.0"
    shutil.copytree(ROOT / "trainer", copy / "trainer", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    shutil.copy(ROOT / "__init__.py", copy)
    script = """
import importlib, importlib.util, sys
name, root, workspace, url = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, root + "/__init__.py", submodule_search_locations=[root])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
database = importlib.import_module(name + ".trainer.preferences.store")
print("ready", flush=True)
sys.stdin.readline()
with database.open_store(workspace, url or None).reading() as session:
    print(session.connection().exec_driver_sql("SELECT count(*) FROM datasets").scalar())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, name, str(copy), str(tmp_path / "w"), url or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, complaints = process.communicate(timeout=60)
        assert (out, process.returncode) == ("0\n", 0), complaints


@pytest.mark.parametrize("content", [b"this is no database, and long enough to be one", b"SQLite format 3\0" * 80])
def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path, content):
    (tmp_path / "preferences.db").write_bytes(content)
    with pytest.raises(UserError, match=r"preferences\.db is damaged or no database"):
        open_store(tmp_path)
    assert (tmp_path / "preferences.db").read_bytes() == content


def test_a_workspace_below_a_file_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a part of its path is a file"):
        open_store(tmp_path / "file" / "w")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:s3cret@host/db", "'mysql'.*SQLite file or in PostgreSQL"),
        ("postgresql//u:s3cret@host/db", "no database address"),
        ("postgresql://u:s3cret@host:port/db", "no database address"),
        ("sqlite://", "'sqlite'"),
        (
            "postgresql://u:s3cret@127.0.0.1:{port}/db?sslpassword=s3cret&connect_timeout=3",
            "127.0.0.1:{port}/db cannot be used",
        ),
    ],
)
def test_a_wrong_address_is_explained_without_its_password(tmp_path, monkeypatch, url, said, caplog):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        port = str(nobody.getsockname()[1])
        monkeypatch.setenv("MAPO_DATABASE_URL", url.replace("{port}", port))
        with pytest.raises(UserError, match=said.replace("{port}", port)) as caught:
            open_store(tmp_path)
    assert "s3cret" not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.slow
def test_a_password_that_is_refused_is_not_told(tmp_path, postgresql):
    url = postgresql().replace("postgres:unasked", "nobody:s3cret")
    with pytest.raises(UserError, match="nobody") as caught:
        open_store(tmp_path, url)
    assert "s3cret" not in str(caught.value)


def test_a_missing_driver_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"psycopg"):
        open_store(tmp_path, "postgresql://u:p@host/db")


def test_reading_waits_for_no_lock_while_another_process_upgrades(tmp_path):
    """Its lock is only asked for where there is something to do."""
    open_store(tmp_path).close()
    with migrate._migration_lock(tmp_path / "preferences.db"):
        began = time.monotonic()
        database._open(tmp_path, database._address(tmp_path, None)).close()
    assert time.monotonic() - began < 5

"""What several of these tests need: small pictures that all differ, and a store on each kind of database."""

import io
import itertools
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.preferences.datasets import add_candidates, add_prompt, create_dataset, make_pairs
from mapo_studio.trainer.preferences.judgements import Answer, answer, undo
from mapo_studio.trainer.preferences.schema import Dataset, ImageRecord, Pair, Prompt
from mapo_studio.trainer.preferences.store import Store, open_store
from PIL import Image
from sqlalchemy import select


@pytest.fixture(scope="session")
def picture_bytes():
    """picture_bytes(seed, size=(16, 12), kind="PNG"): a picture file of noise; the same for the same arguments."""

    def make(seed, size=(16, 12), kind="PNG"):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def counted():
    """counted(pair_set): what was left out, as {start of the reason: count}."""

    def tell(pair_set):
        return {one.reason.split(":")[0]: one.count for one in pair_set.left_out}

    return tell


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """postgresql(with_tables=False): the url of a new database on a server that runs as long as the tests.

    Empty, or with the tables of this version: a copy of a database that was migrated once.
    """
    from mapo_studio.tests.postgres import new_database, server

    names = itertools.count()
    with server() as address:

        @cache
        def template() -> str:
            open_store(tmp_path_factory.mktemp("template"), new_database(address, "migrated")).close()
            return "migrated"

        yield lambda with_tables=False: new_database(
            address, f"test{next(names)}", template() if with_tables else "template1"
        )


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """A preferences.db with the tables of this version and nothing in them."""
    folder = tmp_path_factory.mktemp("template")
    open_store(folder).close()
    return folder / "preferences.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request):
    """Where preferences are kept: None, for a file in the workspace, or the url of a PostgreSQL database.

    The database is empty, unless the test asks for a `store` in it.
    """
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgresql")(with_tables="store" in request.fixturenames)


@pytest.fixture
def store(tmp_path, url, migrated_file):
    """An empty workspace's preferences, on each kind of database."""
    if url is None:
        copy_database(migrated_file, tmp_path / "workspace")
    store = open_store(tmp_path / "workspace", url)
    yield store
    store.close()


@pytest.fixture
def sqlite_store(tmp_path, migrated_file):
    """An empty workspace's preferences in SQLite, for where the kind of database makes no difference."""
    copy_database(migrated_file, tmp_path / "workspace")
    store = open_store(tmp_path / "workspace")
    yield store
    store.close()


def copy_database(file: Path, workspace: Path) -> None:
    """Making the tables by Alembic takes 20 times as long."""
    workspace.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, workspace / "preferences.db")


@pytest.fixture
def filled(store, picture_bytes):
    """filled(pictures=4, prompt="a cat", dataset="cats"): a Filled with all its pairs."""

    def fill(pictures=4, prompt="a cat", dataset="cats"):
        with store.writing() as session:
            found = session.scalar(select(Dataset).where(Dataset.name == dataset))
            kept = found or create_dataset(session, dataset)
            asked = add_prompt(session, kept, prompt)
            rows = [add_image(store, session, picture_bytes(seed), f"{seed}.png") for seed in range(pictures)]
            add_candidates(session, asked, rows)
            make_pairs(session, asked)
            pairs = session.scalars(select(Pair).where(Pair.prompt_id == asked.id).order_by(Pair.round)).all()
            return Filled(store, kept, asked, tuple(rows), tuple(pairs))

    return fill


@dataclass(frozen=True)
class Filled:
    """One prompt's pictures and pairs, as they were before anything was judged."""

    store: Store
    dataset: Dataset
    prompt: Prompt
    pictures: tuple[ImageRecord, ...]
    pairs: tuple[Pair, ...]

    def given(self, pair=0, answer="left", first_on_left=True, strength="clearly", seconds=1.0, **submission):
        """An Answer to the pair of that number. On the left its first picture, or its second."""
        submission = {"client": "page", "sequence": 0, **submission}
        asked = self.pairs[pair]
        names = {picture.id: picture.sha256 for picture in self.pictures}
        left = names[asked.first_id if first_on_left else asked.second_id]
        return Answer(asked.id, left, answer, strength, seconds, **submission)

    def judge(self, annotator="ann", **what):
        """Submit `given(**what)`; whether it was new."""
        with self.store.writing() as session:
            return answer(session, annotator, self.given(**what))

    def undo(self, undoes, sequence, annotator="ann", client="page"):
        with self.store.writing() as session:
            return undo(session, annotator, client, sequence, undoes)

    def now(self, pair=0):
        """The pair as it is now."""
        with self.store.reading() as session:
            return session.get(Pair, self.pairs[pair].id)

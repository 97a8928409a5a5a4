"""Does what is exported come back the same, and is what a layout cannot hold said instead of lost?"""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.bulk_insert import PairRow, add_rows
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.images import ImageMetadata, image_path
from mapo_studio.trainer.preferences.io import exporter, parquet_writer
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.preferences.io.exporter import export_pairs
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.schema import Candidate, ImageRecord, Pair, Prompt
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import select

pytestmark = pytest.mark.slow

JUDGED = ("pick-a-pic", "binarized", "votes", "kohya", "onetrainer", "invoke", "ranked")
HOLD_ALL = ("pick-a-pic", "votes", "invoke")


@pytest.fixture
def store(sqlite_store):
    return sqlite_store


@pytest.fixture
def fill(store, picture_bytes):
    """fill(rows): a dataset "cats" of (prompt, number, number, what a PairRow says besides); JPEGs and PNGs."""

    def add(*rows, name="cats"):
        with store.writing() as session:
            dataset = create_dataset(session, name)

            def kept(number):
                data = picture_bytes(number, kind="JPEG" if number % 2 else "PNG")
                return add_image(store, session, data, str(number), ImageMetadata(model=f"model {number}"))

            add_rows(
                session,
                dataset,
                [
                    PairRow(prompt, kept(one), kept(other), number, **said)
                    for number, (prompt, one, other, said) in enumerate(rows)
                ],
                "test",
            )

    return add


CERTAIN = (
    ("a cat", 0, 1, {"share_0": 1.0}),
    ("a cat", 2, 1, {"share_0": 0.0}),
    ('a dog, кот\u2028🐈 "quoted" <b>', 3, 4, {"share_0": 1.0}),
)


def pairs_of(store, name="cats"):
    """{(prompt, hash, hash): (share of the first, votes, weight)} of every pair."""
    with store.reading() as session:
        hashes = dict(session.execute(select(ImageRecord.id, ImageRecord.sha256)).all())
        rows = session.execute(select(Prompt.text, Pair).join(Pair, Pair.prompt_id == Prompt.id)).all()
    return {
        (text, hashes[pair.first_id], hashes[pair.second_id]): (
            round(pair.votes_first / pair.votes, 9) if pair.votes else None,
            pair.votes,
            pair.weight,
        )
        for text, pair in rows
    }


def brought_back(store, layout, tmp_path, **more):
    """The pairs after export and import into another workspace, the reports, and that workspace."""
    report = export_pairs(store, "cats", layout, tmp_path / "out", **more)
    other = open_store(tmp_path / "other")
    imported = import_pairs(other, "cats", tmp_path / "out")
    return pairs_of(other), report, imported, other


@pytest.mark.parametrize("layout", JUDGED)
def test_certain_judgements_and_pictures_come_back_from_every_layout(store, fill, tmp_path, layout):
    fill(*CERTAIN)
    back, report, imported, other = brought_back(store, layout, tmp_path)
    assert back == pairs_of(store)
    assert (report.pairs, report.pictures, report.left, report.lost) == (3, 5, (), ())
    assert (imported.pairs, imported.judgements, imported.pictures, imported.left) == (3, 3, 5, ())
    with store.reading() as session:
        there = {one.sha256: image_path(store, one).read_bytes() for one in session.scalars(select(ImageRecord))}
    with other.reading() as session:
        found = {one.sha256: image_path(other, one).read_bytes() for one in session.scalars(select(ImageRecord))}
    assert found == there


@pytest.mark.parametrize("layout", JUDGED)
def test_the_files_can_be_trained_on_directly(store, fill, tmp_path, layout):
    fill(*CERTAIN)
    export_pairs(store, "cats", layout, tmp_path / "out")
    found = open_pairs(tmp_path / "out").load()
    assert sorted((pair.prompt, pair.preference) for pair in found.pairs) == [
        ("a cat", 1),
        ("a cat", 1),
        ('a dog, кот 🐈 "quoted" <b>', 1),
    ]
    assert all(pair.chosen.read() for pair in found.pairs)


DOUBTFUL = (
    *CERTAIN,
    ("a tie", 0, 1, {"share_0": 0.5}),
    ("nobody", 0, 1, {}),
    ("unsure", 0, 1, {"share_0": 0.7}),
    ("many", 0, 1, {"share_0": 0.75, "votes": 4.0}),
    ("three repeats", 0, 1, {"share_0": 1.0, "weight": 3.0}),
    ("slightly", 0, 1, {"share_0": 1.0, "weight": 0.5}),
    ("bad", 0, 1, {"answer": "both_bad"}),
)


@pytest.mark.parametrize("layout", JUDGED)
def test_what_a_layout_holds_comes_back_and_the_rest_is_said(store, fill, tmp_path, layout):
    fill(*DOUBTFUL)
    back, report, imported, _ = brought_back(store, layout, tmp_path)
    wanted = {}
    for key, (share, votes, weight) in pairs_of(store).items():
        prompt = key[0]
        if prompt == "bad" or (share in (None, 0.5) and layout not in HOLD_ALL):
            continue
        if layout not in HOLD_ALL:
            share = round(share)
        if votes:
            votes = votes if layout in ("votes", "invoke") else 1.0
            weight = {"three repeats": 3.0}.get(prompt, 1.0) if layout == "kohya" else 1.0
        wanted[key] = (share, votes, weight)
    assert back == wanted
    assert imported.left == ()
    reasons = {one.reason.split(":")[0] for one in report.left}
    assert reasons == ({"both bad"} if layout in HOLD_ALL else {"both bad", "tie", "not labelled"})
    lost = " ".join(report.lost)
    assert "weight" in lost
    assert ("how many people" in lost) == (layout not in ("votes", "invoke"))
    assert ("how sure" in lost) == (layout not in HOLD_ALL)
    assert "not in the files: " in str(report)


SHARES = st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.7, 1 / 3])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.tuples(st.integers(0, 4), st.integers(5, 9)), st.tuples(SHARES, st.integers(1, 9)), min_size=1),
    st.text(min_size=1).filter(lambda text: text.replace("\0", "").split()),
    st.sampled_from(["votes", "invoke"]),
)
def test_any_votes_under_any_prompt_come_back(picture_bytes, tmp_path_factory, votes, prompt, layout):
    folder = tmp_path_factory.mktemp("any")
    store = open_store(folder / "workspace")
    with store.writing() as session:
        kept = [add_image(store, session, picture_bytes(number), str(number)) for number in range(10)]
        rows = [
            PairRow(prompt, kept[one], kept[other], number, share, votes=float(count))
            for number, ((one, other), (share, count)) in enumerate(votes.items())
        ]
        add_rows(session, create_dataset(session, "cats"), rows, "test")
    back, *_, other = brought_back(store, layout, folder)
    assert back == {key: (share, pytest.approx(count), 1.0) for key, (share, count, _) in pairs_of(store).items()}
    store.close()
    other.close()
    shutil.rmtree(folder)


def test_output_folders_hold_pictures_and_prompts_alone(store, fill, tmp_path):
    fill(*CERTAIN, ("a dog", 0, 1, {}))
    back, report, imported, other = brought_back(store, "outputs", tmp_path)
    assert set(back) >= set(pairs_of(store))
    assert all(votes == 0 for _, votes, _ in back.values())
    assert (report.pictures, imported.judgements) == (7, 0)
    assert "pairs and judgements" in str(report)
    with store.reading() as here, other.reading() as there:
        wanted = {(prompt, sha) for prompt, sha in here.execute(_candidates())}
        assert {(prompt, sha) for prompt, sha in there.execute(_candidates())} == wanted


def _candidates():
    return select(Prompt.text, ImageRecord.sha256).select_from(Candidate).join(Prompt).join(ImageRecord)


def test_models_come_back_where_the_layout_names_them(store, fill, tmp_path):
    fill(*CERTAIN)
    *_, other = brought_back(store, "pick-a-pic", tmp_path)
    with other.reading() as session:
        assert sorted(session.scalars(select(ImageRecord.model))) == [f"model {number}" for number in range(5)]


def test_importing_an_export_into_its_own_dataset_adds_no_pair(store, fill, tmp_path):
    fill(*CERTAIN)
    export_pairs(store, "cats", "kohya", tmp_path / "out")
    report = import_pairs(store, "cats", tmp_path / "out")
    assert (report.pairs, report.pictures) == (0, 0)


@pytest.mark.parametrize("layout", ["pick-a-pic", "binarized", "votes"])
def test_parquet_is_written_in_bounded_groups_and_files(store, fill, tmp_path, layout, monkeypatch):
    fill(*((f"prompt {number}", 2 * number, 2 * number + 1, {"share_0": 1.0}) for number in range(12)))
    monkeypatch.setattr(parquet_writer, "_GROUP_BYTES", 3000)
    monkeypatch.setattr(parquet_writer, "_FILE_BYTES", 6000)
    back, *_ = brought_back(store, layout, tmp_path)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files[:2]] == ["train-00000.parquet", "train-00001.parquet"]
    assert pq.read_metadata(files[0]).num_row_groups > 1
    assert back == pairs_of(store)


def test_the_datasets_library_is_told_which_columns_are_pictures(store, fill, tmp_path):
    fill(*CERTAIN)
    export_pairs(store, "cats", "binarized", tmp_path / "out")
    metadata = pq.read_schema(tmp_path / "out/train-00000.parquet").metadata
    assert json.loads(metadata[b"huggingface"])["info"]["features"]["chosen"] == {"_type": "Image"}


def test_names_of_files_are_short_and_plain(store, fill, tmp_path):
    fill(("../../etc/passwd " * 30, 0, 1, {"share_0": 1.0}), name="cats")
    for layout in ("kohya", "onetrainer", "invoke", "outputs"):
        export_pairs(store, "cats", layout, tmp_path / layout)
        for path in (tmp_path / layout).rglob("*"):
            assert len(path.name) < 40
            assert re.fullmatch(r"[\w.-]+", path.name, re.ASCII)


@pytest.mark.parametrize("layout", [*JUDGED, "outputs"])
def test_nothing_is_left_where_it_fails_in_the_middle(store, fill, tmp_path, layout):
    fill(*CERTAIN)
    with store.reading() as session:
        last = session.scalars(select(ImageRecord).order_by(ImageRecord.id.desc())).first()
    image_path(store, last).write_bytes(b"damaged")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="is damaged: put back a copy"):
        export_pairs(store, "cats", layout, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    image_path(store, last).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        export_pairs(store, "cats", layout, tmp_path / "out")


def test_stopping_leaves_nothing(store, fill, tmp_path):
    fill(*CERTAIN)
    with pytest.raises(Cancelled):
        export_pairs(store, "cats", "kohya", tmp_path / "out", stop=True)
    assert not (tmp_path / "out").exists()


def test_progress_is_told(store, fill, tmp_path, monkeypatch):
    fill(*CERTAIN)
    monkeypatch.setattr(exporter, "_REPORT_SECONDS", -1)
    told = []
    export_pairs(store, "cats", "kohya", tmp_path / "out", tell=lambda event, **values: told.append((event, values)))
    assert told == [("exporting", {"done": number, "total": 3}) for number in (0, 1, 2, 3)]


def test_what_is_there_is_never_written_over(store, fill, tmp_path):
    fill(*CERTAIN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for place in ("full", "full/mine.txt"):
        with pytest.raises(UserError, match="there already"):
            export_pairs(store, "cats", "kohya", tmp_path / place)
    (tmp_path / "empty").mkdir()
    export_pairs(store, "cats", "kohya", tmp_path / "empty")
    assert (tmp_path / "empty/1_cats/w").is_dir()


def test_nothing_to_write_is_an_error_with_the_reasons(store, fill, tmp_path):
    fill(("nobody", 0, 1, {}), ("a tie", 0, 1, {"share_0": 0.5}))
    with pytest.raises(UserError, match="nothing to write as kohya: 1 x not labelled; 1 x tie"):
        export_pairs(store, "cats", "kohya", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="there is no dataset dogs; there are cats"):
        export_pairs(store, "dogs", "kohya", tmp_path / "out")
    with pytest.raises(UserError, match="there is no layout 'zip'"):
        export_pairs(store, "cats", "zip", tmp_path / "out")

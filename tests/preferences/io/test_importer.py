"""Does everything in files get into a dataset once, whatever was there, was broken, or cut it off?"""

import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mapo_studio.trainer.errors import DiskFull, UserError
from mapo_studio.trainer.preferences import images as picture_store
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset, list_datasets
from mapo_studio.trainer.preferences.io import importer, prefetch
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.preferences.io.importer import import_pairs
from mapo_studio.trainer.preferences.schema import Annotator, Candidate, ImageRecord, Judgement, Pair, Prompt
from mapo_studio.trainer.preferences.store import open_store
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import func, select


@pytest.fixture
def store(sqlite_store):
    return sqlite_store


@pytest.fixture
def put(tmp_path):
    """put(name, data): a file of the source; the source's folder."""

    def write(name, data):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path / "source"

    return write


@pytest.fixture
def kohya(put, picture_bytes):
    """kohya(numbers, folder): pairs of those numbers in kohya's folders; picture 2n chosen over 2n + 1."""

    def write(*numbers, folder="1_cats"):
        for number in numbers:
            for side in (0, 1):
                source = put(f"{folder}/{'wl'[side]}/{number}.png", picture_bytes(2 * number + side))
            put(f"{folder}/w/{number}.txt", f"prompt {number}")
        return source

    return write


@pytest.fixture
def jsonl(put, picture_bytes):
    def write(*rows):
        for number in range(6):
            put(f"{number}.png", picture_bytes(number))
        lines = [
            {"image_0": f"{a}.png", "image_1": f"{b}.png", "prompt": prompt, **more} for a, b, prompt, more in rows
        ]
        return put("metadata.jsonl", "\n".join(map(json.dumps, lines)))

    return write


def painted(seed, picture_bytes, **texts):
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_itxt(name, text)
    with Image.open(io.BytesIO(picture_bytes(seed))) as image:
        image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def total(store, table):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def everything(store):
    return {table.__name__: total(store, table) for table in (Prompt, ImageRecord, Candidate, Pair, Judgement)}


def trained_on(pair_set):
    return sorted((pair.id, pair.prompt, pair.preference, pair.weight) for pair in pair_set.pairs)


def test_what_is_imported_is_what_training_on_the_files_would_use(store, kohya):
    kohya(0, 1)
    source = kohya(2, folder="3_dogs")
    report = import_pairs(store, "cats", source)
    assert (report.pairs, report.judgements, report.pictures, report.there, report.waiting) == (3, 3, 6, 0, 0)
    assert trained_on(DatasetPairs(store, "cats").load()) == trained_on(open_pairs(source).load())


def test_judgements_keep_votes_ties_and_what_nobody_judged(store, jsonl):
    source = jsonl(
        (0, 1, "votes", {"prefer_0": 1, "prefer_1": 3}),
        (2, 3, "tie", {"prefer_0": True, "prefer_1": True}),
        (4, 5, "waiting", {}),
        (4, 5, "three people", {"prefer_0": True, "prefer_1": False}),
        (5, 4, "three people", {"prefer_0": False, "prefer_1": True}),
        (4, 5, "three people", {"prefer_0": False, "prefer_1": True}),
    )
    report = import_pairs(store, "cats", source)
    assert (report.pairs, report.judgements, report.waiting) == (4, 5, 1)
    with store.reading() as session:
        rows = session.execute(select(Prompt.text, Pair).join(Pair, Pair.prompt_id == Prompt.id)).all()
    pairs = {
        text: (pair.answers, pair.votes, min(pair.votes_first, pair.votes - pair.votes_first)) for text, pair in rows
    }
    assert pairs == {"votes": (1, 4, 1), "tie": (1, 1, 0.5), "waiting": (0, 0, 0), "three people": (3, 3, 1)}
    assert trained_on(DatasetPairs(store, "cats").load()) == trained_on(open_pairs(source, "skip").load())


def test_again_adds_nothing_wherever_the_files_lie_by_then(store, kohya, jsonl, tmp_path):
    source = kohya(0, 1, 2)
    import_pairs(store, "cats", source)
    before = everything(store)
    source.rename(tmp_path / "moved")
    report = import_pairs(store, "cats", tmp_path / "moved")
    assert everything(store) == before
    assert (report.pairs, report.judgements, report.pictures, report.there) == (0, 0, 0, 3)
    assert report.useful


def test_three_that_said_the_same_are_three_however_often_they_are_imported(store, jsonl):
    yes = {"prefer_0": True, "prefer_1": False}
    source = jsonl((0, 1, "x", yes), (0, 1, "x", yes), (1, 0, "x", {"prefer_0": False, "prefer_1": True}))
    for _ in range(2):
        import_pairs(store, "cats", source)
        assert total(store, Judgement) == 3


def test_a_source_that_grew_adds_what_is_new(store, kohya):
    import_pairs(store, "cats", kohya(0, 1))
    report = import_pairs(store, "cats", kohya(2))
    assert (report.pairs, report.judgements, report.pictures, report.there) == (1, 1, 2, 2)


def test_another_dataset_gets_the_pairs_and_shares_the_pictures(store, kohya):
    source = kohya(0, 1)
    import_pairs(store, "cats", source)
    report = import_pairs(store, "dogs", source)
    assert (report.pairs, report.judgements, report.pictures) == (2, 2, 0)
    assert total(store, ImageRecord) == 4


def test_an_import_that_was_killed_is_finished_by_the_same_import(store, kohya, monkeypatch):
    source = kohya(*range(7))
    monkeypatch.setattr(importer, "_IMAGES_PER_TRANSACTION", 4)
    whole, calls = importer.add_rows, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(importer, "add_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(store, "cats", source)
    assert total(store, Pair) == 4
    monkeypatch.setattr(importer, "add_rows", whole)
    report = import_pairs(store, "cats", source)
    assert (report.pairs, report.there) == (3, 4)
    assert everything(store) == {"Prompt": 7, "ImageRecord": 14, "Candidate": 14, "Pair": 7, "Judgement": 7}


def test_stopping_keeps_what_was_taken_and_says_how_to_go_on(store, kohya):
    source = kohya(*range(5))

    class AfterTwo:
        asked = 0

        def __bool__(self):
            self.asked += 1
            return self.asked > 2

    report = import_pairs(store, "cats", source, stop=AfterTwo())
    assert (report.stopped, report.pairs) == (True, 2)
    assert "the same import resumes" in str(report)
    assert import_pairs(store, "cats", source).pairs == 3


def test_broken_rows_are_named_and_stop_nothing(store, kohya, put, picture_bytes):
    source = kohya(0, 1, 2, 3, 4, 5)
    put("1_cats/w/0.png", b"no picture")
    put("1_cats/w/1.txt", "  ")
    put("1_cats/w/2.png", picture_bytes(5))
    (source / "1_cats/l/3.png").unlink()
    put("1_cats/l/4.txt", "another prompt")
    report = import_pairs(store, "cats", source)
    assert report.pairs == 1
    found = {where: one.reason for one in report.left for where in one.examples}
    assert {where: words for where, words in found.items() if where.endswith("0")}
    wanted = {
        "0": "is not a picture",
        "1": "caption is empty",
        "2": "identical",
        "3": "no picture of this name in l/",
        "4": "captions of the two pictures differ",
    }
    for name, why in wanted.items():
        assert why in found[f"source/1_cats/*/{name}"]
    assert "left out: 1 x the two pictures are identical (source/1_cats/*/2)" in str(report)


def test_nothing_is_made_where_nothing_is_of_use(store, kohya, put):
    source = kohya(0)
    put("1_cats/w/0.txt", "")
    report = import_pairs(store, "cats", source)
    assert not report.useful
    with store.reading() as session:
        assert list_datasets(session) == []


def test_a_full_disk_stops_the_import_instead_of_leaving_rows_out(store, kohya, monkeypatch):
    def full(*_):
        raise DiskFull("no room")

    monkeypatch.setattr("mapo_studio.trainer.preferences.io.prefetch.store_image", full)
    with pytest.raises(DiskFull):
        import_pairs(store, "cats", kohya(0))


def test_comparisons_take_no_imports(store, kohya):
    with store.writing() as session:
        create_dataset(session, "blind", kind="comparison")
    with pytest.raises(UserError, match="blind is a comparison"):
        import_pairs(store, "blind", kohya(0))


def test_what_is_told_ends_with_how_far_it_came(store, kohya, monkeypatch):
    monkeypatch.setattr(importer, "_REPORT_SECONDS", 0)
    told = []
    import_pairs(store, "cats", kohya(0, 1, 2), tell=lambda event, **values: told.append((event, values)))
    assert [values["done"] for _, values in told[:3]] == [1, 2, 3]
    assert told[-1] == ("importing", {"done": 3, "total": 3})


def test_who_judged_is_kept_where_the_source_knows(store, put, picture_bytes):
    row = {
        **{f"jpg_{side}": picture_bytes(side) for side in (0, 1)},
        "label_0": 0.7,
        "label_1": 0.3,
        "caption": "a cat",
        "user_id": 4171,
        "model_0": "SDXL",
        "model_1": None,
    }
    source = put("x", "")
    pq.write_table(pa.Table.from_pylist([row]), source / "a.parquet")
    import_pairs(store, "cats", source / "a.parquet", annotator="me")
    with store.reading() as session:
        assert session.scalars(select(Annotator.name)).all() == ["4171"]
        judgement = session.scalars(select(Judgement)).one()
        assert (judgement.share_left, judgement.votes, judgement.purpose) == (0.7, 1, "import")
        models = dict(session.execute(select(ImageRecord.source, ImageRecord.model)).all())
    assert models == {"a.parquet row 0, jpg_0": "SDXL", "a.parquet row 0, jpg_1": None}


def test_who_imports_judged_where_the_source_does_not_know(store, kohya):
    import_pairs(store, "cats", kohya(0), annotator="me")
    with store.reading() as session:
        assert session.scalars(select(Annotator.name)).all() == ["me"]


def test_how_a_picture_was_painted_is_kept_from_every_layout(store, put, picture_bytes):
    text = 'a cat\nSteps: 20, Sampler: Euler a, Seed: 18446744073709551615, Model: sdxl, Lora hashes: "fluffy: 12"'
    put("1_x/w/0.png", painted(0, picture_bytes, parameters=text))
    put("1_x/w/0.txt", "a cat")
    import_pairs(store, "cats", put("1_x/l/0.png", picture_bytes(1)))
    with store.reading() as session:
        one = session.scalars(select(ImageRecord).where(ImageRecord.seed.is_not(None))).one()
    assert (one.seed, one.sampler, one.model, one.lora) == ("18446744073709551615", "Euler a", "sdxl", "fluffy")
    assert one.source == "source/1_x/w/0.png"


def outputs(put, picture_bytes, prompts):
    for number, prompt in enumerate(prompts):
        source = put(
            f"day/{number}.png", painted(number, picture_bytes, parameters=f"{prompt}\nSteps: 1, Seed: {number}")
        )
    return source


def test_pictures_of_an_output_folder_wait_in_pairs_of_equal_prompts(store, put, picture_bytes):
    source = outputs(put, picture_bytes, ["cat", "dog", "cat", "cat", "bird"])
    put("day/grid-0001.png", picture_bytes(50))
    put("day/nothing.png", picture_bytes(51))
    report = import_pairs(store, "cats", source)
    assert (report.pairs, report.waiting, report.judgements, report.pictures) == (3, 3, 0, 3)
    assert {one.reason.split(":")[0]: one.count for one in report.left} == {
        "the only picture of its prompt": 2,
        "a grid of pictures that A1111 also saved singly": 1,
        "nothing in it or beside it (.txt) says which prompt it was painted for": 1,
    }
    again = import_pairs(store, "cats", source)
    assert (again.pairs, again.pictures, again.there) == (0, 0, 3)


def test_one_more_picture_of_a_prompt_that_is_there_is_paired(store, put, picture_bytes, tmp_path):
    import_pairs(store, "cats", outputs(put, picture_bytes, ["cat", "cat"]))
    (tmp_path / "source/day").rename(tmp_path / "old")
    put("day/new.png", painted(9, picture_bytes, parameters="cat\nSteps: 1"))
    report = import_pairs(store, "cats", tmp_path / "source")
    assert (report.pairs, report.pictures, report.left) == (2, 1, ())


def test_many_pictures_of_one_prompt_make_a_spread_of_pairs(store, put, picture_bytes):
    source = outputs(put, picture_bytes, ["cat"] * 20)
    assert import_pairs(store, "cats", source).pairs == 80
    assert import_pairs(store, "cats", source).pairs == 0


def test_the_same_picture_under_two_names_is_one(store, put, picture_bytes):
    source = outputs(put, picture_bytes, ["cat", "cat"])
    put("day/copy.png", (source / "day/0.png").read_bytes())
    report = import_pairs(store, "cats", source)
    assert (report.pairs, report.pictures) == (1, 2)


def test_a_caption_beside_an_output_goes_before_its_text(store, put, picture_bytes):
    outputs(put, picture_bytes, ["cat", "dog"])
    put("day/1.txt", "cat\nNegative prompt: dog\nSteps: 20, Seed: 1")
    assert import_pairs(store, "cats", put("day/0.txt", "\ufeffcat")).pairs == 1


HOSTILE = "<script>alert(1)</script>'); DROP TABLE pictures;-- \0\ud800 %s {}"


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_hostile_text_is_stored_as_text(request, tmp_path, jsonl, put, picture_bytes, kind):
    url = None if kind == "sqlite" else request.getfixturevalue("postgresql")()
    store = open_store(tmp_path / "elsewhere", url)
    try:
        source = jsonl(
            (0, 1, HOSTILE, {"prefer_0": 1, "prefer_1": 0}), (2, 3, "cat" * 100_000, {"prefer_0": 1, "prefer_1": 0})
        )
        graph = {"1": {"inputs": {"seed": 2**64, "steps": 1, "positive": ["2", 0]}}, "2": {"inputs": {"text": HOSTILE}}}
        put("0.png", painted(0, picture_bytes, prompt=json.dumps(graph)))
        assert import_pairs(store, "cats", source).pairs == 2
        with store.reading() as session:
            assert (
                "<script>alert(1)</script>'); DROP TABLE pictures;-- ? %s {}"
                in session.scalars(select(Prompt.text)).all()
            )
            assert session.scalars(select(ImageRecord.seed).where(ImageRecord.seed.is_not(None))).all() == [str(2**64)]
    finally:
        store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_file_names_that_are_no_text_do_no_harm(store, put, picture_bytes):
    source = put("1_x/w/a.txt", "cat")
    (source / "1_x/l").mkdir()
    for side in (0, 1):
        Path(os.fsdecode(os.fsencode(source / "1_x" / "wl"[side]) + b"/\xff.png")).write_bytes(picture_bytes(side))
    report = import_pairs(store, "cats", source)
    assert "no caption" in str(report).encode().decode()
    Path(os.fsdecode(os.fsencode(source / "1_x/w") + b"/\xff.txt")).write_text("cat")
    assert import_pairs(store, "cats", source).pairs == 1


def test_a_set_from_the_network_reads_no_file_outside_itself(store, jsonl, tmp_path, picture_bytes):
    (tmp_path / "private.png").write_bytes(picture_bytes(99))
    secret = str(tmp_path / "private.png")
    source = jsonl((0, 1, "cat", {"image_1": secret, "prefer_0": True, "prefer_1": False}))
    report = import_pairs(store, "cats", source)
    assert not report.useful
    assert "outside the data set's folder" in str(report)
    assert import_pairs(store, "cats", source, anywhere=True).pairs == 1


def test_a_folder_that_holds_nothing_but_a_folder_is_looked_into(store, kohya, tmp_path):
    inner = kohya(0)
    outer = tmp_path / "unpacked" / "my cats"
    outer.parent.mkdir()
    inner.rename(outer)
    assert import_pairs(store, "cats", outer.parent).judgements == 1


def test_pictures_that_are_there_are_not_written_again(store, kohya, monkeypatch):
    source = kohya(0, 1)
    import_pairs(store, "cats", source)
    monkeypatch.setattr(picture_store, "atomic_write", None)
    assert import_pairs(store, "dogs", source).pairs == 2


def test_a_picture_of_many_pairs_is_read_once(store, jsonl, monkeypatch):
    labels = []
    whole = prefetch.store_image
    monkeypatch.setattr(prefetch, "store_image", lambda *given: labels.append(given[2]) or whole(*given))
    yes = {"prefer_0": True, "prefer_1": False}
    import_pairs(store, "cats", jsonl(*((a, b, "cat", yes) for a in range(6) for b in range(a))))
    assert sorted(labels) == [f"{number}.png" for number in range(6)]


def test_a_broken_picture_of_many_pairs_is_named_for_each(store, jsonl, put):
    yes = {"prefer_0": True, "prefer_1": False}
    source = jsonl((0, 1, "cat", yes), (2, 0, "cat", yes), (1, 2, "cat", yes))
    put("0.png", b"broken")
    report = import_pairs(store, "cats", source)
    assert report.pairs == 1
    assert report.left[0].examples == ("metadata.jsonl line 1", "metadata.jsonl line 2")


def test_the_dataset_of_an_import_is_an_ordinary_one(store, kohya):
    import_pairs(store, " my   cats ", kohya(0))
    with store.reading() as session:
        assert find_dataset(session, "my cats").held_out == 0.1

"""Are parquet files of judged pairs read whole, streamed, and with every broken row named?"""

import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io import parquet_reader
from mapo_studio.trainer.preferences.io.aggregate import AggregatedPairs
from mapo_studio.trainer.preferences.io.parquet_reader import ParquetPairs


@pytest.fixture
def row(picture_bytes):
    def make(number, label_0=1.0, label_1=0.0, **more):
        return {
            "jpg_0": picture_bytes(2 * number, kind="JPEG"),
            "jpg_1": picture_bytes(2 * number + 1, (20, 10)),
            "label_0": label_0,
            "label_1": label_1,
            "caption": f"prompt {number}",
            **more,
        }

    return make


def load(path, bad="stop"):
    return AggregatedPairs(ParquetPairs(path), bad).load()


def written(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_labels_decide_which_is_chosen_and_how_sure(tmp_path, row):
    file = written(tmp_path / "a.parquet", [row(0), row(1, 0.0, 1.0), row(2, 0.7, 0.3), row(3, 0.25, 0.75)])
    pairs = load(file).pairs
    assert [pair.chosen.column for pair in pairs] == ["jpg_0", "jpg_1", "jpg_0", "jpg_1"]
    assert [pair.preference for pair in pairs] == [1, 1, 0.7, 0.75]
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 1", "prompt 2", "prompt 3"]
    assert pairs[1].chosen.label == "a.parquet row 1, jpg_1"
    assert pairs[1].chosen.size == (20, 10)


def test_ties_and_unlabelled_rows_are_counted_and_never_trained_on(tmp_path, row, counted):
    rows = [
        row(0, has_label=True, are_different=True),
        row(1, 0.5, 0.5, has_label=True, are_different=True),
        row(2, 1.0, 1.0, has_label=True, are_different=True),
        row(3, 0.0, 0.0, has_label=True, are_different=True),
        row(4, None, None, has_label=True, are_different=True),
        row(5, 0.0, 1.0, has_label=False, are_different=True),
        row(6, 1.0, 0.0, has_label=True, are_different=False),
        row(7, 1.0, float("nan"), has_label=True, are_different=True),
    ]
    found = load(written(tmp_path / "a.parquet", rows))
    assert [pair.prompt for pair in found.pairs] == ["prompt 0"]
    assert counted(found)["tie"] == 3
    assert counted(found)["not labelled"] == 3
    assert sum(counted(found).values()) == 7


def test_only_ties_is_an_error_with_the_counts(tmp_path, row):
    file = written(tmp_path / "a.parquet", [row(number, 0.5, 0.5) for number in range(3)])
    with pytest.raises(UserError, match=r"no pair to train on: 3 x tie"):
        load(file)


def test_every_picture_can_be_read_again_from_its_row_group_in_any_order(tmp_path, row):
    rows = [row(number) for number in range(50)]
    file = written(tmp_path / "a.parquet", rows, row_group_size=20)
    pairs = load(file).pairs
    assert {pair.chosen.row_group for pair in pairs} == {0, 1, 2}
    for order in (range(50), reversed(range(50)), [49, 0, 25, 24, 26, 3]):
        for number in order:
            assert pairs[number].chosen.read() == rows[number]["jpg_0"]
            assert pairs[number].rejected.read() == rows[number]["jpg_1"]


def test_reading_in_order_decodes_each_row_group_once(tmp_path, row, monkeypatch):
    pairs = load(written(tmp_path / "a.parquet", [row(n) for n in range(40)], row_group_size=20)).pairs
    opened = []
    whole = parquet_reader.Shard._image_batches
    monkeypatch.setattr(
        parquet_reader.Shard, "_image_batches", lambda self, group: opened.append(group) or whole(self, group)
    )
    for pair in pairs:
        pair.chosen.read()
        pair.rejected.read()
    assert opened == [0, 1]


def test_threads_may_share_a_file(tmp_path, row):
    rows = [row(number) for number in range(30)]
    pairs = load(written(tmp_path / "a.parquet", rows, row_group_size=10)).pairs
    wrong = []

    def read(start):
        wrong.extend(n for n in range(start, 30, 3) if pairs[n].chosen.read() != rows[n]["jpg_0"])

    threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_replaced_after_loading_is_noticed(tmp_path, row):
    file = written(tmp_path / "a.parquet", [row(0), row(1)])
    pairs = load(file).pairs
    written(file, [row(5)])
    for pair in pairs:
        with pytest.raises(UserError, match="changed since"):
            pair.chosen.read()


def test_shards_are_read_in_order_and_other_splits_stay_out(tmp_path, row, counted):
    written(tmp_path / "data/train-00001.parquet", [row(2)])
    written(tmp_path / "data/train-00000.parquet", [row(0), row(1)])
    written(tmp_path / "data/test-00000.parquet", [row(3), row(4)])
    found = load(tmp_path)
    assert [pair.prompt for pair in found.pairs] == ["prompt 0", "prompt 1", "prompt 2"]
    assert counted(found) == {"not a train-* shard of the data set": 2}
    assert found.pairs[2].chosen.label == "data/train-00001.parquet row 0, jpg_0"


def test_structs_of_bytes_are_read_as_the_datasets_library_writes_them(tmp_path, row):
    plain = row(0)
    structs = {name: {"bytes": plain[name], "path": None} for name in ("jpg_0", "jpg_1")}
    (pair,) = load(written(tmp_path / "a.parquet", [{**plain, **structs}])).pairs
    assert pair.rejected.read() == plain["jpg_1"]


def test_missing_columns_are_named(tmp_path, row):
    without = row(0)
    del without["jpg_1"], without["label_0"]
    with pytest.raises(UserError, match=r"a\.parquet lacks the columns jpg_1, label_0 \(it has: jpg_0"):
        load(written(tmp_path / "a.parquet", [without]))


BROKEN = {
    "0 bytes": ({"jpg_0": b""}, "0 bytes"),
    "no picture": ({"jpg_1": None}, "jpg_1 holds no picture"),
    "not a picture": ({"jpg_1": b"hello" * 30}, "jpg_1 is not a picture"),
    "empty caption": ({"caption": "  "}, "the caption is empty"),
    "no caption": ({"caption": None}, "the caption is empty"),
    "negative label": ({"label_0": -1.0}, "mean nothing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_row_stops_with_its_number_or_is_skipped_and_listed(tmp_path, row, what):
    change, why = BROKEN[what]
    file = written(tmp_path / "a.parquet", [row(0), {**row(1), **change}, row(2)])
    with pytest.raises(UserError, match=rf"1 pair is broken.*a\.parquet row 1: .*{why}.*--bad-pairs skip"):
        load(file)
    found = load(file, "skip")
    assert [pair.prompt for pair in found.pairs] == ["prompt 0", "prompt 2"]
    assert [(one.count, one.examples) for one in found.left_out] == [(1, ("a.parquet row 1",))]


def test_a_truncated_picture_is_broken(tmp_path, row):
    cut = row(1)
    cut["jpg_0"] = cut["jpg_0"][:-100]
    with pytest.raises(UserError, match=r"row 1: jpg_0 is damaged or cut short"):
        load(written(tmp_path / "a.parquet", [row(0), cut]))


def test_identical_pictures_are_broken(tmp_path, row):
    same = row(0)
    same["jpg_1"] = same["jpg_0"]
    with pytest.raises(UserError, match="row 0: the two pictures are identical"):
        load(written(tmp_path / "a.parquet", [same]))


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_file_is_named(tmp_path, row, keep):
    file = written(tmp_path / "a.parquet", [row(0)])
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as parquet"):
        load(file)


READ_ALL = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from mapo_studio.trainer.preferences.io.parquet_reader import Shard

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shard = Shard(Path(sys.argv[1]), ("jpg_0", "jpg_1"))
rows = [(group, row) for group, row, _ in shard.rows(("jpg_0", "jpg_1", "caption"))]
for group, row in rows:
    shard.cell(group, row, "jpg_0")
print(len(rows), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units or missing elsewhere")
def test_a_large_row_group_is_never_held_whole(tmp_path):
    raw = np.random.default_rng(0)
    rows = [
        {"jpg_0": raw.bytes(500_000), "jpg_1": raw.bytes(500_000), "label_0": 1.0, "label_1": 0.0, "caption": "x"}
        for _ in range(300)
    ]
    file = written(tmp_path / "a.parquet", rows, write_batch_size=4)
    assert pq.read_metadata(file).num_row_groups == 1
    told = subprocess.run([sys.executable, "-c", READ_ALL, str(file)], capture_output=True, text=True, check=True)
    count, grown_mb = told.stdout.split()
    assert int(count) == 300
    assert float(grown_mb) < 150, "300 MB of pictures were not streamed"


def test_binarized_columns_say_which_is_chosen(tmp_path, picture_bytes):
    rows = [
        {
            "prompt": "a cat",
            "chosen": {"bytes": picture_bytes(0), "path": "x"},
            "rejected": {"bytes": picture_bytes(1)},
        },
        {
            "prompt": "a dog",
            "chosen": {"bytes": picture_bytes(2), "path": None},
            "rejected": {"bytes": picture_bytes(3)},
        },
    ]
    pairs = load(written(tmp_path / "a.parquet", rows)).pairs
    assert [(pair.prompt, pair.chosen.column, pair.preference) for pair in pairs] == [
        ("a cat", "chosen", 1),
        ("a dog", "chosen", 1),
    ]
    assert pairs[1].rejected.read() == picture_bytes(3)


def test_votes_are_counted_and_no_votes_are_no_judgement(tmp_path, picture_bytes, counted):
    votes = [(3.0, 1.0), (0.5, 2.0), (2.0, 2.0), (0.0, 0.0), (None, 1.0)]
    rows = [
        {
            "prompt": f"prompt {number}",
            "image1": picture_bytes(2 * number),
            "image2": picture_bytes(2 * number + 1),
            "votes_image1": first,
            "votes_image2": second,
        }
        for number, (first, second) in enumerate(votes)
    ]
    found = load(written(tmp_path / "a.parquet", rows))
    assert [(pair.chosen.column, pair.preference) for pair in found.pairs] == [("image1", 0.75), ("image2", 0.8)]
    assert counted(found) == {"tie": 1, "not labelled": 2}
    (first, *_) = ParquetPairs(tmp_path / "a.parquet").rows()
    assert first.votes == 4


def test_files_of_several_parquet_layouts_may_lie_together(tmp_path, row, picture_bytes):
    written(tmp_path / "a.parquet", [row(0)])
    written(tmp_path / "b.parquet", [{"prompt": "b", "chosen": picture_bytes(8), "rejected": picture_bytes(9)}])
    assert [pair.prompt for pair in load(tmp_path).pairs] == ["prompt 0", "b"]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"chosen": "a text", "rejected": "another", "prompt": "x"}, "row 0: chosen holds str, not a picture file's"),
        ({"chosen": b"", "prompt": "x"}, "lacks the columns rejected"),
        ({"text": "x", "label": 1}, r"no known layout.*it has the columns text, label; pick-a-pic \(jpg_0"),
    ],
)
def test_other_tables_are_refused_by_their_columns(tmp_path, columns, why):
    with pytest.raises(UserError, match=why):
        load(written(tmp_path / "a.parquet", [columns]))


def test_a_layout_that_is_asked_for_is_not_guessed(tmp_path, row):
    file = written(tmp_path / "a.parquet", [row(0)])
    with pytest.raises(UserError, match="lacks the columns chosen, rejected, prompt"):
        AggregatedPairs(ParquetPairs(file, "binarized")).load()

"""Is each layout recognised by what lies there, and what is not met with a sentence?"""

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.io.detect_layout import LAYOUTS, find_reader, open_pairs
from mapo_studio.trainer.preferences.io.invoke import InvokeJsonl
from mapo_studio.trainer.preferences.io.kohya import KohyaFolders
from mapo_studio.trainer.preferences.io.onetrainer import OneTrainerFolder
from mapo_studio.trainer.preferences.io.output_folders import OutputFolders
from mapo_studio.trainer.preferences.io.parquet_reader import ParquetPairs


def laid(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.touch()


@pytest.mark.parametrize(
    ("names", "path", "kind"),
    [
        (["metadata.jsonl", "1.png"], ".", InvokeJsonl),
        (["other.jsonl"], "other.jsonl", InvokeJsonl),
        (["data/train-0.parquet"], ".", ParquetPairs),
        (["train-0.parquet"], "train-0.parquet", ParquetPairs),
        (["1_a/w/", "1_a/l/"], ".", KohyaFolders),
        (["1_a/w/", "1_a/l/"], "1_a", KohyaFolders),
        (["x_chosen.png", "x_rejected.jpg", "x.txt"], ".", OneTrainerFolder),
        (["sub/x_chosen.png", "sub/x_rejected.png"], ".", OneTrainerFolder),
    ],
)
def test_a_layout_is_recognised(tmp_path, names, path, kind):
    laid(tmp_path, *names)
    source = open_pairs(str(tmp_path / path), bad="skip")
    assert isinstance(source.reader, kind)
    assert source.bad == "skip"


@pytest.mark.parametrize(
    ("names", "path", "why"),
    [
        ([], "nowhere", "does not exist"),
        ([], ".", "it is empty.*known are"),
        (["a.csv"], "a.csv", r"no known layout of judged pairs \(\.csv\)"),
        (["a.png", "b.png"], ".", "single pictures.*judged first.*mapo studio"),
        (["2026-01-01/a.png"], ".", "judged first"),
        (["only_chosen.png"], ".", "judged first"),
        (["w/a.png"], ".", "only one of the folders"),
        ([".a.png", "._b.png"], ".", "it holds"),
        (["w/"], ".", "only one of the folders"),
        (["a.txt", "b.txt"], ".", "it holds a.txt, b.txt;"),
        (["metadata.jsonl", "a.parquet"], ".", r"metadata\.jsonl and \*\.parquet; name the one"),
    ],
)
def test_what_is_not_recognised_is_met_with_a_sentence(tmp_path, names, path, why):
    laid(tmp_path, *names)
    with pytest.raises(UserError, match=why):
        open_pairs(tmp_path / path)


def test_an_unknown_way_to_meet_broken_pairs_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="stop or skip"):
        open_pairs(tmp_path, bad="maybe")


def test_single_pictures_are_recognised_for_import(tmp_path):
    laid(tmp_path, "2026-01-01/a.png")
    assert isinstance(find_reader(tmp_path), OutputFolders)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_is_named_is_taken_or_refused_by_name(tmp_path, layout):
    laid(tmp_path, "a.txt", "sub/1_a/w/", "sub/1_a/l/")
    assert find_reader(tmp_path / "sub", layout)
    with pytest.raises(UserError, match=rf"there is no layout '{layout}s'.*known are pick-a-pic"):
        find_reader(tmp_path, layout + "s")


@pytest.mark.parametrize("layout", ["kohya", "onetrainer", "outputs"])
def test_a_file_is_no_folder(tmp_path, layout):
    laid(tmp_path, "a.png")
    with pytest.raises(UserError, match="is no folder"):
        find_reader(tmp_path / "a.png", layout)


def test_a_named_layout_that_does_not_lie_there_is_refused_with_what_does(tmp_path):
    laid(tmp_path, "w/")
    with pytest.raises(UserError, match=r"not in the layout kohya .*only one of the folders"):
        find_reader(tmp_path, "kohya")


def test_patterns_go_together_and_belong_to_one_layout(tmp_path):
    reader = find_reader(tmp_path, None, "good/{}.png", "bad/{}.png")
    assert (reader.chosen_pattern, reader.rejected_pattern) == ("good/{}.png", "bad/{}.png")
    with pytest.raises(UserError, match="go together"):
        find_reader(tmp_path, None, "good/{}.png")
    with pytest.raises(UserError, match="OneTrainer folder only"):
        find_reader(tmp_path, "kohya", "good/{}.png", "bad/{}.png")

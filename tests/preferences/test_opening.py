"""Is each layout recognised by what lies there, and what is not met with a sentence?"""

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.formats.invoke_jsonl import InvokeJsonl
from mapo_studio.trainer.preferences.formats.kohya_folders import KohyaFolders
from mapo_studio.trainer.preferences.formats.opening import open_pairs
from mapo_studio.trainer.preferences.formats.pick_a_pic import PickAPic


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
        (["data/train-0.parquet"], ".", PickAPic),
        (["train-0.parquet"], "train-0.parquet", PickAPic),
        (["1_a/w/", "1_a/l/"], ".", KohyaFolders),
        (["1_a/w/", "1_a/l/"], "1_a", KohyaFolders),
    ],
)
def test_a_layout_is_recognised(tmp_path, names, path, kind):
    laid(tmp_path, *names)
    source = open_pairs(str(tmp_path / path), bad="skip")
    assert isinstance(source, kind)
    assert source.bad == "skip"


@pytest.mark.parametrize(
    ("names", "path", "why"),
    [
        ([], "nowhere", "does not exist"),
        ([], ".", "it is empty.*known are"),
        (["a.csv"], "a.csv", r"no known layout of judged pairs \(\.csv\)"),
        (["a.png", "b.png"], ".", "single pictures"),
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

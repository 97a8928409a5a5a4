"""`mapo import` and `mapo export`: what they print, and mistakes answered in a line with exit code 2."""

import json

import pytest
from mapo_studio.trainer.cli.main import main


@pytest.fixture
def mapo(tmp_path, capfd):
    """mapo(*words): exit code, standard output and standard error of a command in a workspace of its own."""

    def call(*words):
        capfd.readouterr()
        try:
            code = main([*map(str, words), "--workspace", str(tmp_path / "workspace")])
        except SystemExit as exit_:
            code = exit_.code
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def source(tmp_path, picture_bytes):
    for side in (0, 1):
        (tmp_path / "cats" / "wl"[side]).mkdir(parents=True)
        (tmp_path / "cats" / "wl"[side] / "1.png").write_bytes(picture_bytes(side))
        (tmp_path / "cats" / "wl"[side] / "1.txt").write_text("a cat")
    return tmp_path / "cats"


def test_files_go_in_and_come_out(mapo, source, tmp_path):
    code, out, err = mapo("import", source, "--dataset", "cats", "--json")
    assert code == 0
    assert "1 pairs, 1 judgements and 2 pictures are new in cats" in out
    assert json.loads(out.splitlines()[-1])["judgements"] == 1
    assert "importing: 1 of 1" in err
    code, out, err = mapo("export", "cats", tmp_path / "out", "--layout", "invoke", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["pairs"] == 1
    assert (tmp_path / "out/metadata.jsonl").is_file()
    assert "exporting" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("import", "nowhere", "--dataset", "cats"), "does not exist"),
        (("import", ".", "--dataset", "cats", "--layout", "zip"), "there is no layout 'zip'; known are"),
        (("import", ".", "--dataset", "cats", "--chosen-pattern", "x"), "go together"),
        (("import", ".", "--dataset", "", "--layout", "invoke"), "needs a name"),
        (("export", "dogs", "out", "--layout", "kohya"), "there is no dataset dogs"),
    ],
)
def test_mistakes_are_named_in_a_line(mapo, source, tmp_path, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    code, _, err = mapo(*words)
    assert code == 2
    assert why in err
    assert "Traceback" not in err


def test_an_import_of_nothing_useful_fails_and_says_why(mapo, source):
    (source / "w/1.txt").write_text("a dog")
    code, out, _ = mapo("import", source, "--dataset", "cats")
    assert code == 2
    assert "left out: 1 x the captions of the two pictures differ" in out

"""Wanted pictures get rejected ones that the base generates, and that nobody compared them is told everywhere."""

from __future__ import annotations

import json

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.rejected_from_base import check, targets_in
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset
from mapo_studio.trainer.preferences.io.detect_layout import open_pairs
from mapo_studio.trainer.preferences.io.exporter import export_pairs
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import ImageRecord, Judgement, Pair
from mapo_studio.trainer.preferences.statistics import statistics_of
from mapo_studio.trainer.services import job_kinds
from PIL import Image
from sqlalchemy import select

pytestmark = pytest.mark.slow

QUICK = {"base": "tiny", "dataset": "pets", "steps": 1, "guidance": 1.0}


@pytest.fixture
def folder(tmp_path):
    """Two wanted pictures of one caption, a wide one of another, and one without a caption."""
    place = tmp_path / "wanted"
    place.mkdir()
    for name, size, caption in (
        ("a", (64, 64), "a red circle"),
        ("b", (64, 64), "a red circle"),
        ("c", (96, 48), "a blue square"),
        ("d", (64, 64), None),
    ):
        Image.new("RGB", size, (ord(name), 90, 20)).save(place / f"{name}.png")
        if caption:
            (place / f"{name}.txt").write_text(caption)
    return place


@pytest.fixture
def store(sqlite_store):
    return sqlite_store


@pytest.fixture
def generate(store, folder, monkeypatch):
    """generate(**changes): the task, done here and now."""

    def run(**changes):
        with monkeypatch.context() as patch:
            patch.setattr(job, "launch", lambda *_: None)
            task = job_kinds.start(store.workspace, "targets", {**QUICK, "folder": str(folder), **changes})
        job_kinds.run_job(task.folder)
        return task.status()

    return run


def trained(store):
    return open_pairs("dataset:pets", workspace=store.workspace).load().pairs


def test_each_target_is_better_than_what_the_base_paints(store, generate, folder):
    status = generate()
    assert status.phase == "finished", status.message
    assert status.message == "3 pictures generated to be rejected for pets; 1 picture without a caption left out"
    pairs = trained(store)
    wanted = {(folder / f"{name}.png").read_bytes() for name in "abc"}
    assert {pair.chosen.read() for pair in pairs} == wanted
    assert {pair.rejected.read() for pair in pairs}.isdisjoint(wanted)
    assert len({pair.rejected.sha256 for pair in pairs}) == 3
    assert {(pair.preference, pair.weight, pair.assumed) for pair in pairs} == {(1.0, 1.0, True)}
    [wide] = [pair for pair in pairs if pair.prompt == "a blue square"]
    assert wide.rejected.size[0] > wide.rejected.size[1]
    with store.reading() as session:
        assert {said.purpose for said in session.scalars(select(Judgement))} == {"assumed"}
        assert {pair.source for pair in session.scalars(select(Pair))} == {f"targets: {folder}"}


def test_nothing_is_painted_twice_and_more_can_be_asked_for(store, generate):
    generate()
    assert generate().message.startswith("0 pictures generated")
    assert generate(rejects=2).message.startswith("3 pictures generated")
    assert len(trained(store)) == 6


def test_everybody_is_told_that_it_was_assumed(store, generate, tmp_path):
    generate()
    with store.reading() as session:
        found = statistics_of(session, find_dataset(session, "pets"), "ann")
    assert (found.assumed, found.trainable) == (3, 3)
    assert "Of 3 pairs the preference was assumed" in found.sentence
    report = export_pairs(store, "pets", "invoke", tmp_path / "out")
    assert report.assumed == 3
    assert "assumed, not judged by a person" in str(report)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [line["assumed"] for line in lines] == [True] * 3
    assert all(pair.assumed for pair in open_pairs(tmp_path / "out").load().pairs)
    [lost] = export_pairs(store, "pets", "kohya", tmp_path / "kohya").lost
    assert "assumed" in lost


def test_whoever_compares_them_goes_over_what_was_assumed(store, generate):
    generate()
    with store.writing() as session:
        pair = session.scalars(select(Pair)).first()
        first = session.get_one(ImageRecord, pair.first_id).sha256
        said = session.scalars(select(Judgement).where(Judgement.pair_id == pair.id)).one()
        target_is_first = said.first_on_left == (said.share_left == 1.0)
        answer(session, "ann", Answer(pair.id, first, "right" if target_is_first else "left", "clearly", 1, "page", 1))
    with store.reading() as session:
        judged = session.get_one(Pair, pair.id)
        assert (judged.assumed, judged.votes) == (False, 1.0)
        assert judged.votes_first == (0.0 if target_is_first else 1.0)
        assert statistics_of(session, find_dataset(session, "pets"), "ann").assumed == 2


def test_lines_name_the_pictures_too(folder):
    lines = [{"file_name": "a.png", "text": "a  dog"}, {"file_name": "d.png", "text": "a cow"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    targets, without = targets_in(folder)
    assert [(one.path.name, one.prompt) for one in targets] == [("a.png", "a dog"), ("d.png", "a cow")]
    assert without == 0
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    with pytest.raises(UserError, match="line 1: lacks text"):
        targets_in(folder)


def test_what_cannot_be_begun_says_why(store, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, said in (
        ({"folder": str(tmp_path / "empty")}, "has a caption"),
        ({"folder": str(tmp_path / "nowhere")}, "no folder"),
        ({"lora": "none.safetensors"}, "no LoRA file"),
        ({"rejects": 0}, "rejects"),
    ):
        with pytest.raises(UserError, match=said):
            check(store.workspace, {**QUICK, "folder": str(folder), **changes})
    with store.writing() as session:
        create_dataset(session, "versus", kind="comparison")
    with pytest.raises(UserError, match="versus is a comparison"):
        check(store.workspace, {**QUICK, "folder": str(folder), "dataset": "versus"})

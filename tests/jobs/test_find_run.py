"""Starting the same training again: a finished run is reused, an unfinished one is resumed."""

import json
import os

import pytest
from filelock import FileLock
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.jobs.find_run import find_or_start, find_run, training_digest
from mapo_studio.trainer.jobs.job import Job, start_training
from mapo_studio.trainer.runs.run_folder import all_runs
from mapo_studio.trainer.services.lora_library import rename
from PIL import Image


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """The names of the runs that a process was started for."""
    names = []
    monkeypatch.setattr(job, "launch", lambda words, log: names.append(words[1]))
    return names


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = []
    for row in range(3):
        for side in "ab":
            Image.new("RGB", (64, 64), (row * 40, ord(side), 9)).save(folder / f"{row}{side}.png")
        names = {"image_0": f"{row}a.png", "image_1": f"{row}b.png", "prompt": f"cat {row}"}
        lines.append(json.dumps(names | {"prefer_0": True, "prefer_1": False}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def asked(pairs):
    def make(name="cats-1", **parts):
        return parse_config({"name": name, "base": "tiny", **parts, "data": {"pairs": str(pairs)}}, "test")

    return make


def finish(run, tiny_lora):
    run.log("started", steps=4)
    run.log("finished", step=4)
    run.lora_file.write_bytes(tiny_lora.read_bytes())


def test_what_is_new_is_trained_without_a_rating_after_it(tmp_path, asked, launched):
    handle = find_or_start(tmp_path, asked())
    assert (handle.state, handle.run.name, launched) == ("new", "cats-1", ["cats-1"])
    assert [(event["event"], event["rating"]) for event in handle.run.events()] == [("requested", False)]


def test_the_same_asked_for_again_is_not_trained_again(tmp_path, asked, launched, tiny_lora):
    finish(find_or_start(tmp_path, asked()).run, tiny_lora)
    again = find_or_start(tmp_path, asked(name="cats-2"))
    assert (again.state, again.run.name, again.process) == ("finished", "cats-1", None)
    assert launched == ["cats-1"]
    assert len(all_runs(tmp_path)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"training": {"steps": 7}},
        {"training": {"seed": 1}},
        {"optimization": {"learning_rate": 1e-3}},
        {"objective": {"kind": "dpo"}},
        {"adapter": {"rank": 8}},
        {"base": "org/model"},
    ],
)
def test_other_settings_are_another_training(tmp_path, asked, tiny_lora, other):
    finish(find_or_start(tmp_path, asked()).run, tiny_lora)
    assert find_or_start(tmp_path, asked(name="cats-2", **other)).state == "new"


def test_other_judgements_are_another_training(tmp_path, asked, pairs, tiny_lora):
    finish(find_or_start(tmp_path, asked()).run, tiny_lora)
    rows = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    rows[0] |= {"prefer_0": False, "prefer_1": True}
    (pairs / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert find_or_start(tmp_path, asked(name="cats-2")).state == "new"


def test_another_file_of_the_base_or_of_the_lora_to_go_on_from_is_noticed(tmp_path, asked, tiny_lora):
    lora = tmp_path / "taste.safetensors"
    lora.write_bytes(tiny_lora.read_bytes())
    config = asked(base=str(lora), adapter={"continue_from": str(lora)})
    before = training_digest(tmp_path, config)
    assert training_digest(tmp_path, config) == before
    os.utime(lora, (1, 1))
    assert training_digest(tmp_path, config) != before


@pytest.mark.parametrize("ending", ["stopped", "failed", "crashed"])
def test_one_that_did_not_end_well_goes_on(tmp_path, asked, launched, ending):
    run = find_or_start(tmp_path, asked()).run
    run.log("started", steps=4)
    run.log("step", step=2, remaining=1.0)
    if ending != "crashed":
        run.log(ending, step=2)
    again = find_or_start(tmp_path, asked(name="cats-2"))
    assert (again.state, again.run.name, launched) == ("resumed", "cats-1", ["cats-1", "cats-1"])


def test_one_that_nobody_was_started_for_goes_on(tmp_path, asked, launched):
    run = find_or_start(tmp_path, asked()).run
    run.events_file.unlink()
    assert find_or_start(tmp_path, asked()).state == "resumed"


def test_one_at_work_is_left_to_work(tmp_path, asked, launched):
    run = find_or_start(tmp_path, asked()).run
    assert find_or_start(tmp_path, asked()).state == "running"  # its process is on its way
    run.log("started", steps=4)
    with FileLock(run.lock_file):
        assert find_or_start(tmp_path, asked()).state == "running"
        Job(run.folder).stop()
        with pytest.raises(UserError, match="asked to stop"):
            find_or_start(tmp_path, asked())
    assert launched == ["cats-1"]


def test_a_finished_one_without_its_lora_is_trained_again(tmp_path, asked, tiny_lora):
    run = find_or_start(tmp_path, asked()).run
    finish(run, tiny_lora)
    run.lora_file.unlink()
    assert find_or_start(tmp_path, asked(name="cats-2")).state == "new"


def test_a_finished_one_is_taken_before_one_that_would_have_to_go_on(tmp_path, asked, tiny_lora):
    digest = training_digest(tmp_path, asked())
    first = find_or_start(tmp_path, asked()).run
    finish(first, tiny_lora)
    first.lora_file.unlink()
    second = find_or_start(tmp_path, asked(name="cats-2")).run
    second.log("stopped", step=1)
    finish(first, tiny_lora)
    assert find_run(tmp_path, digest) == first


def test_a_renamed_one_is_still_found(tmp_path, asked, tiny_lora):
    finish(find_or_start(tmp_path, asked()).run, tiny_lora)
    rename(all_runs(tmp_path)[0], "soft light")
    assert find_or_start(tmp_path, asked()).run.name == "soft light"


def test_a_run_of_that_name_that_was_made_otherwise_is_not_taken_for_it(tmp_path, asked):
    start_training(tmp_path, asked())
    with pytest.raises(UserError, match="exists"):
        find_or_start(tmp_path, asked())


def test_pairs_that_are_gone_are_named(tmp_path, asked, pairs):
    (pairs / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match="pairs"):
        find_or_start(tmp_path, asked())
    assert all_runs(tmp_path) == []


def test_what_is_in_the_way_is_heard_before_anything_is_made_and_not_where_it_is_finished(tmp_path, asked, tiny_lora):
    heard = []

    def refuse(state):
        heard.append(state)
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        find_or_start(tmp_path, asked(), refuse)
    assert all_runs(tmp_path) == []
    finish(find_or_start(tmp_path, asked()).run, tiny_lora)
    assert find_or_start(tmp_path, asked(), refuse).state == "finished"
    assert heard == ["new"]

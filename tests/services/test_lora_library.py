"""LoRAs that were made: renamed, copied and deleted without losing one."""

import os

import pytest
import safetensors.torch
import torch
from filelock import FileLock
from mapo_studio.tests.tiny_models import write_null_metadata
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.file import read_lora, write_lora
from mapo_studio.trainer.lora.inspect import describe
from mapo_studio.trainer.models.safetensors_file import read_header
from mapo_studio.trainer.runs.run_folder import Run, all_runs
from mapo_studio.trainer.services import lora_library

HOSTILE = ["", " ", "..", "../up", "a/b", "a\\b", ".hidden", "ends.", "nul\0", "con:x", "-dash"]


@pytest.fixture
def made(tmp_path, tiny_lora):
    """made(name, **adapter): a finished run with a real LoRA."""

    def make(name, **adapter):
        config = RunConfig(name=name, base="tiny", data={"pairs": "dataset:cats"}, adapter=adapter)
        run = Run.create(tmp_path, config)
        run.lora_file.write_bytes(tiny_lora.read_bytes())
        run.state_folder.mkdir()
        (run.state_folder / "newest").write_text("state")
        run.log("started", steps=4)
        run.log("finished", step=4)
        run.report_file.write_text("old")
        return run

    return make


def test_a_renamed_run_is_whole_under_its_new_name(made, tmp_path):
    run = made("cats-1")
    before = safetensors.torch.load_file(run.lora_file)
    new = lora_library.rename(run, "soft light")
    assert [one.name for one in all_runs(tmp_path)] == ["soft light"]
    assert Run.open(tmp_path, "soft light").config().name == "soft light"
    assert sorted(file.name for file in new.folder.glob("*.safetensors")) == ["soft light.safetensors"]
    after = safetensors.torch.load_file(new.lora_file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    said = describe(new.lora_file).metadata
    assert said["modelspec.title"] == "soft light"
    assert said["ss_output_name"] == f"soft light-{said['sshs_model_hash'][:8]}"
    assert (new.state_folder / "newest").read_text() == "state"
    assert "soft light" in new.report_file.read_text()


def test_a_renamed_run_is_as_old_as_before(made, tmp_path):
    old, newer = made("old"), made("newer")
    os.utime(old.settings_file, (1e9, 1e9))
    lora_library.rename(old, "renamed")
    assert [run.name for run in all_runs(tmp_path)] == [newer.name, "renamed"]


def test_what_goes_on_from_a_renamed_lora_still_finds_it(made):
    first = made("first")
    second = made("second", continue_from=str(first.lora_file))
    new = lora_library.rename(first, "other")
    assert second.config().adapter.continue_from == str(new.lora_file)


def test_a_lora_whose_metadata_are_null_can_be_renamed(made, tiny_lora):
    run = made("cats")
    write_null_metadata(tiny_lora, run.lora_file)
    new = lora_library.rename(run, "dogs")
    assert read_header(new.lora_file).metadata["modelspec.title"] == "dogs"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_cannot_be_a_file_name_changes_nothing(made, tmp_path, name):
    run = made("cats")
    with pytest.raises(UserError):
        lora_library.rename(run, name)
    assert [one.name for one in all_runs(tmp_path)] == ["cats"]
    assert run.config().name == "cats"


def test_a_taken_name_and_a_run_at_work_refuse_to_be_renamed(made):
    run, other = made("cats"), made("dogs")
    with pytest.raises(UserError, match="dogs already"):
        lora_library.rename(run, "dogs")
    with FileLock(run.lock_file), pytest.raises(UserError, match="another process"):
        lora_library.rename(run, "birds")
    assert run.lora_file.is_file()
    assert other.lora_file.is_file()


def test_a_run_without_a_lora_can_be_renamed(made):
    run = made("cats")
    run.lora_file.unlink()
    assert not lora_library.rename(run, "dogs").lora_file.exists()


def test_a_copy_is_the_same_file_and_copying_again_changes_nothing(made, tmp_path):
    run, host = made("cats"), tmp_path / "loras"
    host.mkdir()
    copy = lora_library.copy_to(run, host)
    assert copy.read_bytes() == run.lora_file.read_bytes()
    assert lora_library.copy_to(run, host) == copy
    assert [file.name for file in host.iterdir()] == ["cats.safetensors"]


def test_another_file_of_that_name_is_never_overwritten(made, tmp_path):
    run, host = made("cats"), tmp_path / "loras"
    host.mkdir()
    (host / "cats.safetensors").write_text("mine")
    with pytest.raises(UserError, match="another file of that name"):
        lora_library.copy_to(run, host)
    assert (host / "cats.safetensors").read_text() == "mine"


def test_there_is_nothing_to_copy_before_there_is_a_lora_or_a_folder(made, tmp_path):
    run = made("cats")
    with pytest.raises(UserError, match="no folder"):
        lora_library.copy_to(run, tmp_path / "nowhere")
    run.lora_file.unlink()
    with pytest.raises(UserError, match="no LoRA file yet"):
        lora_library.copy_to(run, tmp_path)


def test_a_deleted_run_is_gone_and_its_name_free_again(made, tmp_path):
    lora_library.delete(made("cats"))
    assert all_runs(tmp_path) == []
    assert list((tmp_path / "runs").iterdir()) == []
    made("cats")


def test_a_run_at_work_or_needed_by_another_is_not_deleted(made):
    run = made("first")
    with FileLock(run.lock_file), pytest.raises(UserError, match="another process"):
        lora_library.delete(run)
    second = made("second", continue_from=str(run.lora_file))
    second.log("resumed", step=2)
    second.events_file.unlink()
    with pytest.raises(UserError, match="second is not finished"):
        lora_library.delete(run)
    assert run.lora_file.is_file()


def test_metadata_is_read_without_the_tensors_and_a_cut_file_is_named(made):
    run = made("cats")
    assert read_header(run.lora_file).metadata["mapo.family"] == "sdxl"
    run.lora_file.write_bytes(run.lora_file.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_header(run.lora_file)


@pytest.fixture
def written(made, tiny_lora):
    """written(name, **facts): a run whose LoRA file says these facts of itself."""
    lora = read_lora(tiny_lora)

    def write(name, **facts):
        run = made(name)
        known = {"base_hash": "b", "pairs_hash": "p", "seed": 0, "objective_knobs": "MaPO()", "steps": 4}
        write_lora(run.lora_file, lora.state, lora.settings, "sdxl", known | facts)
        return run

    return write


def test_the_copy_of_a_stopped_run_is_replaced_by_what_it_became(written, tmp_path, tiny_lora):
    run, host = written("cats", steps=2), tmp_path / "loras"
    host.mkdir()
    lora_library.copy_to(run, host)
    lora = read_lora(run.lora_file)
    further = {"base_hash": "b", "pairs_hash": "p", "seed": 0, "objective_knobs": "MaPO()", "steps": 4}
    write_lora(run.lora_file, lora.state, lora.settings, "sdxl", further)
    copy = lora_library.copy_to(run, host)
    assert read_header(copy).metadata["mapo.steps"] == "4"


@pytest.mark.parametrize(
    "facts", [{"steps": 4}, {"steps": 9}, {"steps": 2, "seed": 1}, {"steps": 2, "pairs_hash": "q"}]
)
def test_the_copy_of_another_run_of_that_name_is_never_replaced(written, tmp_path, facts):
    host = tmp_path / "loras"
    host.mkdir()
    other = lora_library.copy_to(written("cats", **facts), host)
    before = other.read_bytes()
    lora_library.delete(Run.open(tmp_path, "cats"))
    with pytest.raises(UserError, match="another file of that name"):
        lora_library.copy_to(written("cats", note="other bytes"), host)
    assert other.read_bytes() == before

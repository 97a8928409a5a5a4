"""Every kind of job that is not a training: started by its name, and known to the queue and to the processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.jobs import job as jobs
from mapo_studio.trainer.jobs.gpu_queue import job_title
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.services.job_kinds import KINDS, rate_unjudged_pairs, start


def test_a_kind_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"'dance'.*generate, compare"):
        start(tmp_path, "dance", {})
    assert jobs.all_jobs(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_queue_has_words_for_every_kind(kind):
    folder = Path("workspace/tasks") / f"{kind}-20260101-000000-000000"
    assert folder.name not in job_title(folder)


def test_a_job_waits_for_the_gpu_without_torch():
    source = "import sys; from mapo_studio.trainer.services import job_kinds; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True).stdout == "False\n"


def test_a_new_lora_rates_the_pairs_of_its_own_dataset_if_that_is_still_there(sqlite_store, tiny_lora, monkeypatch):
    monkeypatch.setattr(jobs, "launch", lambda *_: None)
    workspace = sqlite_store.workspace
    run = Run.create(workspace, RunConfig(name="cats-1", base="tiny", data={"pairs": "dataset:cats"}))
    run.lora_file.write_bytes(tiny_lora.read_bytes())
    rate_unjudged_pairs(run)
    assert jobs.all_jobs(workspace) == []
    with sqlite_store.writing() as session:
        create_dataset(session, "cats")
    rate_unjudged_pairs(run)
    (job,) = jobs.all_jobs(workspace)
    assert (job.kind, job.settings()["run"], job.settings()["dataset"]) == ("rate", "cats-1", "cats")

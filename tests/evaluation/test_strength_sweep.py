"""A sheet of one LoRA at several strengths."""

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation import strength_sweep
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.services import job_kinds
from PIL import Image


def test_a_sheet_has_a_column_for_each_strength(tmp_path, tiny_lora, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    settings = {"base": "tiny", "lora": str(tiny_lora), "prompts": ["a red circle", " a  blue square "], "steps": 2}
    task = job_kinds.start(tmp_path, "sweep", settings | {"strengths": [0, 1]})
    assert job_kinds.run_job(task.folder) == 0
    assert task.status().message == "taste is painted at 2 strengths"
    sheet = Image.open(strength_sweep.sheet_of(task))
    assert sheet.width > 2 * 384
    assert sheet.height > 2 * 384


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": ["  "]}, "at least one prompt"),
        ({"lora": "/nowhere/x.safetensors"}, "there is no LoRA file /nowhere/x.safetensors"),
        ({"base": ""}, "base is missing"),
        ({"stepz": 3}, "unknown key stepz, did you mean steps"),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
    ],
)
def test_mistakes_are_named_before_a_task_begins(tmp_path, tiny_lora, changes, said):
    with pytest.raises(UserError, match=said):
        job_kinds.start(tmp_path, "sweep", {"base": "tiny", "lora": str(tiny_lora), "prompts": ["x"]} | changes)
    assert job.all_jobs(tmp_path) == []

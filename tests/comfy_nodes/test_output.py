"""What the train node gives out of a finished run."""

import pytest
from mapo_studio.comfy_nodes.training.output import training_output
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.runs.run_folder import Run
from PIL import Image


@pytest.fixture
def run(tmp_path, tiny_lora):
    config = RunConfig(name="cats-1", base="tiny", data={"pairs": "dataset:cats"}, training={"steps": 9})
    made = Run.create(tmp_path, config)
    made.log("started", steps=9, held_out=4)
    made.log("warning", text="3 pictures were enlarged")
    for step, share in ((0, 0.5), (9, 0.75)):
        made.log("evaluation", step=step, agreement=share, low=share - 0.2, high=share + 0.2, pairs=4)
    made.log("step", step=9, loss=0.1, seconds=1.0, remaining=0.0)
    made.log("finished", step=9)
    made.lora_file.write_bytes(tiny_lora.read_bytes())
    made.samples_folder.mkdir()
    for step, colour in ((0, "red"), (9, "blue")):
        Image.new("RGB", (40, 80), colour).save(made.samples_folder / f"step-{step:08d}.png")
    return made


def test_the_last_samples_and_the_curves_are_pictures(run):
    result = training_output(run, run.lora_file)
    assert result.samples.getpixel((0, 0)) == (0, 0, 255)
    assert result.chart.size == (1024, 512)


def test_the_report_says_what_it_came_to_and_where_things_lie(run, tmp_path):
    lines = training_output(run, tmp_path / "cats-1.safetensors").report.splitlines()
    assert lines[0] == "cats-1 agrees with you on 75 % (55-95 %) of 4 pairs it has not trained on."
    assert "Before training it was 50 %." in " ".join(lines)
    assert "Note: 3 pictures were enlarged." in lines
    assert f"LoRA: {tmp_path / 'cats-1.safetensors'}" in lines
    assert str(run.report_file) in lines[-1]


def test_a_run_without_samples_gives_a_picture_all_the_same(run):
    for file in run.samples_folder.iterdir():
        file.unlink()
    assert training_output(run, run.lora_file).samples.size == (64, 64)

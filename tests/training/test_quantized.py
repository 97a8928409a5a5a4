"""Training with a base in fewer bits, from end to end on a tiny base."""

from __future__ import annotations

import pytest
import torch
from mapo_studio.trainer import device
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import write_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.adapter import LoraSettings, attach
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.memory_saving import quantize
from mapo_studio.trainer.models.memory_saving.quantize import quantize_mode_for_inference
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.sampling.batch_sampler import BatchSampler, ImageRequest, SamplingSettings
from mapo_studio.trainer.sampling.sampler import generate
from mapo_studio.trainer.training import prepare_data
from mapo_studio.trainer.training.loop import train

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("quantized")


def go(run):
    return train(run, StopRequest(run.stop_file))


def events(run, kind):
    return [event for event in run.events() if event["event"] == kind]


@pytest.mark.parametrize("how", ["int8", "nf4", "fp8"])
def test_a_quantized_run_learns_and_writes_a_lora(how, workspace, settings, base):
    run = Run.create(
        workspace,
        settings(
            name=how,
            training={"steps": 20, "quantize": how, "gradient_checkpointing": "on"},
            optimization={"learning_rate": 3e-2},
            watch={"evaluate_every": 0, "sample_every": 20, "sample_steps": 2, "log_every": 1},
        ),
    )
    go(run)
    errors = [event["chosen_error"] for event in events(run, "step")]
    assert sum(errors[-5:]) < 0.9 * sum(errors[:5])
    lora = read_lora(run.lora_file)
    assert lora.metadata["mapo.quantize"] == how
    unet = base.load_unet(CPU, torch.float32)
    attach(unet, LoraSettings(rank=4, targets="all"), seed=0)
    assert {name for name, one in unet.named_parameters() if one.requires_grad} == {
        name.replace(".weight", ".mapo.weight") for name in lora.state
    }
    assert all(weight.abs().sum() > 0 for weight in lora.state.values())
    assert (run.samples_folder / "step-00000020.png").is_file()


def test_a_run_may_go_on_over_a_base_that_is_stored_otherwise_and_says_so(workspace, settings):
    run = Run.create(workspace, settings(name="changed", training={"steps": 2}))
    go(run)
    assert events(run, "warning") == []
    file = next(run.folder.glob("run.toml"))
    file.write_text(write_config(settings(name="changed", training={"steps": 4, "quantize": "nf4"})))
    go(run)
    [said] = events(run, "warning")
    assert "first 2 steps were taken with --quantize none and the rest with nf4" in said["text"]
    assert events(run, "finished")[-1]["step"] == 4


def test_what_the_device_cannot_store_is_said_before_anything_is_encoded(workspace, settings, monkeypatch):
    run = Run.create(workspace, settings(name="refused", training={"quantize": "nf4"}))
    monkeypatch.setattr(device, "_installed", lambda library: False)
    monkeypatch.setattr(prepare_data, "encode", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(UserError, match="--quantize nf4 is not supported on the CPU, or bitsandbytes is not installed"):
        go(run)


@pytest.mark.parametrize(
    ("gigabytes", "lacking", "how"), [(4, False, "nf4"), (4, True, "int8"), (24, False, "none"), (None, False, "none")]
)
def test_pictures_are_painted_as_the_preset_for_the_card_stores(gigabytes, lacking, how, monkeypatch):
    monkeypatch.setattr(quantize, "total_memory", lambda _: gigabytes and gigabytes * 2**30)
    if lacking:
        monkeypatch.setattr(device, "_installed", lambda library: False)
    assert quantize_mode_for_inference(CPU) == how


def test_the_painter_paints_with_a_quantized_base_what_generate_does(base):
    request = ImageRequest("red", seed=3)
    sampling = SamplingSettings((64, 64), steps=2, guidance=3.0)
    painted = {}
    for how in ("none", "nf4"):
        [[(_, picture)]] = BatchSampler(base, sampling, device=CPU, quantize=how).generate([request])
        [alone] = generate(base, ["red"], size=(64, 64), seeds=[3], steps=2, guidance=3.0, device=CPU, quantize=how)
        assert picture.tobytes() == alone.tobytes()
        painted[how] = picture.tobytes()
    assert painted["nf4"] != painted["none"]

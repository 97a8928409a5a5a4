"""Is noise added, and the target made, as the base was trained?"""

from __future__ import annotations

import pytest
import torch
from mapo_studio.tests.tiny_models import write_sd15
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models.noise_schedule import noise_schedule, resolve_prediction_type
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.models.sources import CONFIGS, read_json

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CONFIGURATIONS = [
    pytest.param(STABLE, id="stable diffusion"),
    pytest.param(STABLE | {"prediction_type": "v_prediction"}, id="v"),
    pytest.param(STABLE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, id="v zero snr"),
    pytest.param({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}, id="cosine"),
    pytest.param({"trained_betas": [0.1, 0.2, 0.3, 0.4], "num_train_timesteps": 4}, id="betas written out"),
]


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_noise_and_target_are_those_of_diffusers(config):
    from diffusers import DDPMScheduler

    theirs, ours = DDPMScheduler.from_config(config), noise_schedule(config)
    clean, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    timestep = torch.tensor([0, 1, len(theirs.betas) // 2, len(theirs.betas) - 1])
    torch.testing.assert_close(ours.add_noise(clean, noise, timestep), theirs.add_noise(clean, noise, timestep))
    velocity = theirs.get_velocity(clean, noise, timestep)
    expected = velocity if config.get("prediction_type") == "v_prediction" else noise
    torch.testing.assert_close(ours.target(clean, noise, timestep), expected)
    assert ours.timesteps == len(theirs.betas)


def test_zero_terminal_snr_ends_in_pure_noise():
    schedule = noise_schedule(STABLE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    clean, noise, last = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([999])
    assert torch.equal(schedule.add_noise(clean, noise, last), noise)
    assert torch.equal(schedule.target(clean, noise, last), -clean)


def test_bfloat16_keeps_the_scale_of_the_first_timesteps():
    # 1 - alpha is 0.00085 at timestep 0; bfloat16 has no number between 0.996 and 1 but would have to subtract there.
    schedule = noise_schedule(STABLE)
    noise = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16)
    noisy = schedule.add_noise(torch.zeros_like(noise), noise, torch.tensor([0]))
    assert noisy.mean().item() == pytest.approx(0.00085**0.5, rel=0.01)


def test_any_samplers_configuration_gives_the_same_schedule():
    sdxl, sd15 = (read_json(CONFIGS / f / "scheduler" / "scheduler_config.json") for f in ("sdxl", "sd15"))
    assert sdxl["_class_name"] != sd15["_class_name"]
    torch.testing.assert_close(noise_schedule(sdxl).alphas_cumprod, noise_schedule(sd15).alphas_cumprod)


def test_a_folders_scheduler_configuration_is_followed(tmp_path):
    zero = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    base = open_base(write_sd15(tmp_path / "v", scheduler=zero))
    assert base.schedule.prediction == "v_prediction"
    assert base.schedule.alphas_cumprod[-1] == 0
    assert base.scheduler_config["timestep_spacing"] == "trailing"


def test_the_persons_word_on_the_prediction_type_wins(sd15_folder):
    assert open_base(sd15_folder).schedule.prediction == "epsilon"
    base = open_base(sd15_folder, prediction="v_prediction")
    assert base.schedule.prediction == base.scheduler_config["prediction_type"] == "v_prediction"


def test_other_kinds_of_schedule_are_refused():
    with pytest.raises(UserError, match="FlowMatchEulerDiscreteScheduler"):
        resolve_prediction_type({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(UserError, match='prediction_type "sample"'):
        resolve_prediction_type({"prediction_type": "sample"})

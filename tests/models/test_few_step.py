"""A base that paints in a few steps is recognised, asked at its own timesteps, and painted with as it wants."""

from __future__ import annotations

import json

import pytest
import torch
from mapo_studio.tests.tiny_models import write_sd15
from mapo_studio.trainer.models.few_step import distilled_by, trained_timesteps, with_step_count
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.sampler import sample

CPU = torch.device("cpu")
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("sd_xl_turbo_1.0_fp16", "Turbo", 4),
        ("DreamShaperXL_Turbo_v2", "Turbo", 4),
        ("models--stabilityai--sdxl-turbo", "Turbo", 4),
        ("sdxl_lightning_8step", "Lightning", 8),
        ("Juggernaut_RunDiffusionPhoto2_Lightning_4Steps", "Lightning", 4),
        ("realvisxlV40LightningBakedvae", "Lightning", 4),
        ("Hyper-SDXL-1step-Unet", "Hyper", 1),
        ("hyper_sd15_base", "Hyper", 8),
        ("dmd2_sdxl_4step_unet_fp16", "DMD", 4),
        ("bigasp_dmd2", "DMD", 4),
        ("LCM_Dreamshaper_v7", "LCM", 4),
        ("dreamshaperLCM", "LCM", 4),
    ],
)
def test_names_tell(name, kind, steps):
    found = distilled_by([name], {}, {})
    assert (found.kind, found.steps) == (kind, steps)
    assert name in found.warning


@pytest.mark.parametrize(
    "name", ["sd_xl_base_1.0", "hyperRealism_v30", "film-cm", "calcmodel", "admd", "anything-v5", ""]
)
def test_other_names_do_not(name):
    assert distilled_by([name], {"_class_name": "EulerDiscreteScheduler"}, {}) is None


def test_configurations_tell():
    assert distilled_by(["model"], {}, {"time_cond_proj_dim": 256}).kind == "LCM"
    assert distilled_by(["model"], {"_class_name": "LCMScheduler"}, {}).kind == "LCM"
    assert distilled_by(["model"], {"_class_name": "TCDScheduler"}, {}).kind == "Hyper"
    assert distilled_by(["model"], TURBO, {}).kind == "Turbo"
    assert distilled_by(["model"], TURBO | {"rescale_betas_zero_snr": True}, {}) is None
    assert (
        distilled_by(["model"], {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, {}) is None
    )


def test_timesteps_are_those_of_the_trailing_spacing():
    from diffusers import EulerDiscreteScheduler

    for steps in (1, 2, 4, 8):
        sampler = EulerDiscreteScheduler(timestep_spacing="trailing")
        sampler.set_timesteps(steps)
        assert list(with_step_count(None, str(steps)).timesteps(1000)) == [int(one) for one in sampler.timesteps]
    assert with_step_count(None, "4").timesteps(1000) == (999, 749, 499, 249)
    assert distilled_by(["dmd2_sdxl_1step"], {}, {}).timesteps(1000) == (399,)


def test_a_person_decides():
    turbo = distilled_by(["turbo"], {}, {})
    assert tuple(trained_timesteps(turbo, "auto", 1000)) == (999, 749, 499, 249)
    assert tuple(trained_timesteps(turbo, "1", 1000)) == (999,)
    assert trained_timesteps(turbo, "all", 1000) == trained_timesteps(None, "auto", 1000) == range(1000)
    assert tuple(trained_timesteps(None, "2", 1000)) == (999, 499)


def test_a_folder_is_known_by_its_scheduler_and_by_its_name(tmp_path):
    assert open_base(write_sd15(tmp_path / "plain")).distilled is None
    assert open_base(write_sd15(tmp_path / "sd-turbo")).distilled.kind == "Turbo"
    folder = write_sd15(tmp_path / "mine")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | TURBO))
    assert open_base(folder).distilled.kind == "Turbo"
    snapshot = tmp_path / "models--someone--sd-lightning" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert open_base(snapshot).distilled.kind == "Lightning"


@pytest.fixture(scope="module")
def lcm(tmp_path_factory):
    """A folder whose UNet is told the guidance, as an LCM's is."""
    from diffusers import UNet2DConditionModel

    folder = write_sd15(tmp_path_factory.mktemp("lcm") / "mine")
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"time_cond_proj_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config(config)
        for file in (folder / "unet").glob("*.safetensors"):
            file.unlink()
        unet.save_pretrained(folder / "unet")
    return open_base(folder)


def test_an_lcm_is_told_the_guidance(lcm):
    from diffusers import LatentConsistencyModelPipeline

    assert lcm.distilled.kind == "LCM"
    unet = lcm.load_unet(CPU, torch.float32)
    [text] = lcm.load_text(CPU, torch.float32)(["a red fox"])
    noisy, timestep = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([999, 499])
    hidden = text["hidden"].expand(2, *text["hidden"].shape)
    mine = lcm.predict(unet, noisy, timestep, {"hidden": hidden}, torch.zeros(2, 6))
    told = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([7.5, 7.5]), 16)
    theirs = unet(noisy, timestep, encoder_hidden_states=hidden, timestep_cond=told).sample
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    without = unet(noisy, timestep, encoder_hidden_states=hidden).sample
    assert not torch.allclose(mine, without, rtol=1e-2, atol=1e-2)


def test_an_lcm_is_painted_with_as_itself_and_alone_as_in_company(lcm):
    unet = lcm.load_unet(CPU, torch.float32)
    one, other, empty = lcm.load_text(CPU, torch.float32)(["a red fox", "a blue cat", ""])
    asked, predict = [], type(lcm).predict

    class Listening(type(lcm)):
        def predict(self, unet, noisy, timestep, text, framing):
            asked.append(timestep.tolist())
            return predict(self, unet, noisy, timestep, text, framing)

    lcm.__class__ = Listening
    try:
        alone = sample(lcm, unet, [(one, empty)], (64, 64), [3], steps=4, guidance=1.0)
        assert asked == [[999], [749], [499], [249]]
        both = sample(lcm, unet, [(other, empty), (one, empty)], (64, 64), [9, 3], steps=4, guidance=1.0)
    finally:
        lcm.__class__ = Listening.__mro__[1]
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-3)

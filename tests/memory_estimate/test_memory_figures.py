"""How much of a card a training may take at most: figures that no later change may exceed."""

import json

import pytest
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.config.presets import apply, preset_named
from mapo_studio.trainer.config.run_config import RunConfig, parse_config
from mapo_studio.trainer.memory_estimate.estimate import GIB, MemoryEstimator
from mapo_studio.trainer.models.meta_models import shapes_of

pytestmark = pytest.mark.slow

ATTENTION = {"rank": 16, "targets": "attention"}


@pytest.fixture(scope="module")
def sdxl():
    return MemoryEstimator(shapes_of("sdxl"))


# The figures are for a LoRA on attention; one on all layers, which takes more, keeps to them too.
@pytest.mark.parametrize(
    ("quantize", "most", "targets"),
    [("none", 6.0, "attention"), ("none", 6.0, "all"), ("int8", 3.7, "all"), ("nf4", 2.7, "all")],
)
def test_a_pair_at_1024_px_one_picture_after_the_other(sdxl, quantize, most, targets):
    config = {"training": {"quantize": quantize, "split_pair": True}, "adapter": ATTENTION | {"targets": targets}}
    assert sdxl.estimate(parse_config(config, "test")).step_peak <= most * GIB


def test_every_saving_on_sdxl(sdxl):
    config = apply(parse_config({"adapter": ATTENTION}, "test"), preset_named("4 GB"))
    assert sdxl.estimate(config).step_peak <= 2.0 * GIB


def test_every_saving_on_sd15_at_512_px():
    assert MemoryEstimator(shapes_of("sd15")).estimate(apply(RunConfig(), preset_named("4 GB"))).step_peak <= 1.0 * GIB


def test_the_command_by_itself(capsys):
    words = "plan --family sdxl --resolution 1024 --rank 16 --quantize nf4 --json"
    assert main(words.split()) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["peak_gib"] <= 2.7
    parts = ("weights_gib", "adapter_gib", "optimizer_gib", "activations_gib")
    assert sum(said[part] for part in parts) == pytest.approx(said["peak_gib"], abs=0.003)
    assert said["preset"].endswith(" GB")

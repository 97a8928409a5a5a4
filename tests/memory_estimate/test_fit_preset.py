"""Which preset is proposed for which card, what a person is warned of, and what is refused with which mend."""

from types import SimpleNamespace

import pytest
from mapo_studio.trainer.config.presets import NONE, apply, preset_named
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.device import Memory
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.memory_estimate import fit_preset
from mapo_studio.trainer.memory_estimate.estimate import GIB, MemoryEstimate
from mapo_studio.trainer.memory_estimate.fit_preset import card_of, choose_preset


class Estimator:
    """As MemoryEstimator, with sizes that are easy to reckon with."""

    base = SimpleNamespace(family="sdxl", resolution=1024)

    def estimate(self, config):
        training = config.training
        weights = {"none": 4.8, "fp8": 2.4, "int8": 2.4, "nf4": 1.4}[training.quantize]
        kept = {"off": 17.0, "offload": 0.7}.get(training.gradient_checkpointing, 1.4)
        kept *= training.batch_size / (2 if training.split_pair else 1) * ((config.data.resolution or 1024) / 1024) ** 2
        optimizer = {"adamw": 0.3, "paged_adamw8bit": 0.0}.get(config.optimization.optimizer, 0.1)
        parts = (weights, 0.3, optimizer, kept, 2.0, 1.5, 0.0)
        return MemoryEstimate(*(int(part * GIB) for part in parts))


def given_with(**values):
    """As a command line that gives `values` of training, over whichever preset."""

    def given(preset):
        config = apply(RunConfig(), preset) if preset else RunConfig()
        return config.model_copy(update={"training": config.training.model_copy(update=values)})

    return given


@pytest.mark.parametrize(("gigabytes", "name"), [(4, "4 GB"), (6, "6 GB"), (8, "8 GB"), (12, "12 GB"), (24, "24 GB")])
def test_a_card_gets_the_preset_of_its_size(gigabytes, name):
    fit = choose_preset(Estimator(), given_with(), "automatic", card_of(gigabytes))
    assert fit.preset == name
    assert fit.config == apply(RunConfig(), preset_named(name))
    assert fit.warnings == ()


def test_what_was_asked_for_may_need_the_preset_of_a_smaller_card():
    asked = given_with(quantize="none")
    assert choose_preset(Estimator(), asked, "automatic", card_of(8)).preset == "8 GB"

    def wide(preset):
        config = asked(preset)
        return config.model_copy(update={"data": config.data.model_copy(update={"resolution": 1536})})

    assert choose_preset(Estimator(), wide, "automatic", card_of(12)).preset == "8 GB"


def test_without_a_card_the_smallest_is_told_that_it_fits():
    for how, name in (("nf4", "4 GB"), ("int8", "6 GB"), ("none", "8 GB")):
        fit = choose_preset(Estimator(), given_with(quantize=how), "automatic", None)
        assert (fit.preset, fit.card) == (name, None)
        assert fit.config.training.quantize == how


def test_no_preset_leaves_the_settings_as_they_are():
    fit = choose_preset(Estimator(), given_with(batch_size=3), NONE, None)
    assert (fit.preset, fit.config.training.batch_size) == (NONE, 3)
    assert fit.config.training.quantize == "none"


def test_what_nothing_makes_fit_is_refused_with_the_card_that_is_there():
    with pytest.raises(
        UserError, match=r"there are 1.4: it needs 2.8; take a smaller --resolution or --rank, or a larger card"
    ):
        choose_preset(Estimator(), given_with(), "automatic", card_of(1.5))


def test_what_a_preset_would_make_fit_is_refused_with_the_flags_that_do():
    with pytest.raises(UserError) as refused:
        choose_preset(Estimator(), given_with(gradient_checkpointing="off", quantize="none"), "8 GB", card_of(8))
    said = str(refused.value)
    assert "it fits with activations are computed again" in said
    assert "--gradient-checkpointing on" in said
    assert "--quantize" not in said


def test_a_named_preset_is_held_against_the_card_that_it_is_for():
    assert choose_preset(Estimator(), given_with(), "8 GB", None).preset == "8 GB"
    with pytest.raises(UserError, match="--quantize"):
        choose_preset(Estimator(), given_with(quantize="none"), "4 GB", None)


def test_memory_that_others_hold_is_warned_of(monkeypatch):
    crowded = Memory(total=card_of(8).total, free=3 * GIB)
    fit = choose_preset(Estimator(), given_with(), "automatic", crowded)
    assert len(fit.warnings) == 1
    assert "Only 3.0 of the card's 7.6 GiB are free" in fit.warnings[0]
    monkeypatch.setattr(fit_preset.sys, "platform", "win32")
    _, spills = choose_preset(Estimator(), given_with(), "automatic", crowded).warnings
    assert "Sysmem Fallback Policy" in spills
    assert choose_preset(Estimator(), given_with(), "automatic", card_of(8)).warnings == ()


def test_a_person_reads_all_parts_and_what_a_card_needs():
    fit = choose_preset(Estimator(), given_with(), "8 GB", card_of(8))
    said = fit.summary()
    for words in (
        "weights of the base",
        "optimizer",
        "activations",
        "sample picture",
        "preset 8 GB",
        "this one has 7.6",
    ):
        assert words in said
    values = fit.as_json()
    assert (values["weights_gib"], values["preset"], values["fits"]) == (4.8, "8 GB", True)
    assert values["needs_gib"] > values["peak_gib"]


def test_the_batch_size_is_called_so():
    values = choose_preset(Estimator(), given_with(batch_size=3), NONE, None).as_json()
    assert values["batch_size"] == 3
    assert values["pairs_at_once"] == 3, "its former name, for scripts that read it"

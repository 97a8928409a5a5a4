"""What is typed into the train node becomes every setting of a run."""

import pytest
from mapo_studio.comfy_nodes.training.request import AUTOMATIC, Asked, config_of
from mapo_studio.trainer.config import presets
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.demo.recipe import recipe
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.store import open_store

BASE = "org/model"


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "my cats", 0.2)
    yield store
    store.close()


def test_what_is_left_alone_is_as_a_run_has_it_by_itself(store):
    values = {"data": {"pairs": "dataset:my cats", "held_out": 0.2}, "training": {"auto": True}}
    assert config_of(store, Asked("my cats", BASE)) == RunConfig(name="my-cats-1", base=BASE, **values)


def test_what_is_typed_goes_over_preset_and_proposal(store):
    given = {
        "objective": "dpo",
        "beta": 9.0,
        "push": 2.0,
        "margin_weight": 0.5,
        "seed": 3,
        "continue_from": "/a.safetensors",
    }
    config = config_of(store, Asked("my cats", BASE, "8 GB", steps=7, rank=4, learning_rate=2e-5, **given))
    assert (config.training.steps, config.adapter.rank, config.optimization.learning_rate) == (7, 4, 2e-5)
    knobs = config.objective
    assert (knobs.kind, knobs.beta, knobs.push, knobs.margin_weight) == ("dpo", 9.0, 2.0, 0.5)
    assert (config.training.seed, config.adapter.continue_from) == (3, "/a.safetensors")
    assert config.training.gradient_checkpointing == "offload"


def test_a_knob_of_0_is_found_by_the_run_itself(store):
    config = config_of(store, Asked("my cats", BASE, temperature=0.0, margin_weight=0.0))
    assert (config.objective.temperature, config.objective.margin_weight) == ("auto", "auto")


def test_a_preset_is_taken_by_name_or_by_the_card(store):
    named = config_of(store, Asked("my cats", BASE, "12 GB"))
    assert named == config_of(store, Asked("my cats", BASE, AUTOMATIC, memory=12 * 2**30))
    assert named != config_of(store, Asked("my cats", BASE, AUTOMATIC, memory=None))
    with pytest.raises(UserError, match="no preset '13 GB'"):
        config_of(store, Asked("my cats", BASE, "13 GB"))


def test_the_embedded_base_keeps_its_own_settings(store):
    config = config_of(store, Asked("my cats", "tiny", AUTOMATIC, memory=8 * 2**30))
    assert config.training.batch_size == recipe()["training"]["batch_size"]
    assert config.optimization.learning_rate == recipe()["optimization"]["learning_rate"]
    assert config_of(store, Asked("my cats", "tiny", steps=5)).training.steps == 5


def test_a_name_is_free_among_the_loras_too(store, tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "my-cats-1.safetensors").touch()
    assert config_of(store, Asked("my cats", BASE, loras=tmp_path / "loras")).name == "my-cats-2"


def test_values_that_cannot_be_and_datasets_that_are_not_are_refused(store):
    with pytest.raises(UserError, match="learning_rate"):
        config_of(store, Asked("my cats", BASE, learning_rate=-1.0))
    with pytest.raises(UserError, match="there is no dataset dogs"):
        config_of(store, Asked("dogs", BASE))


def test_the_defaults_are_those_of_a_run():
    asked, run = Asked("cats", BASE), RunConfig()
    assert asked.objective == run.objective.kind
    for knob in ("push", "margin_weight", "temperature", "error_scale", "beta", "likelihood_weight"):
        assert (getattr(asked, knob) or "auto") == getattr(run.objective, knob)
    assert (asked.seed, asked.continue_from) == (run.training.seed, run.adapter.continue_from)
    assert presets.AUTOMATIC == AUTOMATIC

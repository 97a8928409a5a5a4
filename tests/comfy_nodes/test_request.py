"""What is asked for on the train node or in the side bar becomes every setting of a run."""

import pytest
from mapo_studio.comfy_nodes.training.gpu_sharing import TrainingDevice
from mapo_studio.comfy_nodes.training.request import AUTOMATIC, ModelPaths, TrainingRequest, config_of
from mapo_studio.trainer.config import presets
from mapo_studio.trainer.config.presets import tiny_settings
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.store import open_store
from pydantic import ValidationError

BASE = "org/model"


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "my cats", 0.2)
    yield store
    store.close()


def request(dataset="my cats", **inputs):
    return TrainingRequest.of_node(dataset=dataset, checkpoint="a name in ComfyUI", **inputs)


def config(store, base=BASE, memory=None, paths=None, **inputs):
    return config_of(store, request(**inputs), ModelPaths(base, **paths or {}), TrainingDevice("auto", True, memory))


def test_what_is_left_alone_is_as_a_run_has_it_by_itself(store):
    values = {"data": {"pairs": "dataset:my cats", "held_out": 0.2}, "training": {"auto": True}}
    assert config(store) == RunConfig(name="my-cats-1", base=BASE, **values)


def test_what_is_typed_goes_over_preset_and_proposal(store):
    knobs = {"objective": "dpo", "beta": 9.0, "push": 2.0, "margin_weight": 0.5, "seed": 3}
    made = config(
        store,
        paths={"continue_from": "/a.safetensors"},
        preset="8 GB",
        steps=7,
        rank=4,
        learning_rate=2e-5,
        continue_from="a in ComfyUI",
        **knobs,
    )
    assert (made.training.steps, made.adapter.rank, made.optimization.learning_rate) == (7, 4, 2e-5)
    objective = made.objective
    assert (objective.kind, objective.beta, objective.push, objective.margin_weight) == ("dpo", 9.0, 2.0, 0.5)
    assert (made.training.seed, made.adapter.continue_from) == (3, "/a.safetensors")
    assert made.training.gradient_checkpointing == "offload"


def test_it_trains_on_the_device_that_was_chosen_for_it(store):
    chosen = TrainingDevice("cuda:1", False, None)
    assert config_of(store, request(), ModelPaths(BASE), chosen).training.device == "cuda:1"


def test_a_knob_of_0_is_found_by_the_run_itself(store):
    made = config(store, temperature=0.0, margin_weight=0.0)
    assert (made.objective.temperature, made.objective.margin_weight) == ("auto", "auto")


def test_a_preset_is_taken_by_name_or_by_the_card(store):
    named = config(store, preset="12 GB")
    assert named == config(store, preset=AUTOMATIC, memory=12 * 2**30)
    assert named != config(store, preset=AUTOMATIC, memory=None)
    with pytest.raises(UserError, match="no preset '13 GB'"):
        config(store, preset="13 GB")


def test_the_embedded_base_keeps_its_own_settings(store):
    made = config(store, "tiny", memory=8 * 2**30)
    assert made.training.batch_size == tiny_settings()["training"]["batch_size"]
    assert made.optimization.learning_rate == tiny_settings()["optimization"]["learning_rate"]
    assert config(store, "tiny", steps=5).training.steps == 5


def test_a_name_is_free_among_the_loras_too(store, tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "my-cats-1.safetensors").touch()
    assert config(store, paths={"loras": tmp_path / "loras"}).name == "my-cats-2"


def test_values_that_cannot_be_and_datasets_that_are_not_are_refused(store):
    with pytest.raises(UserError, match="learning_rate"):
        config(store, learning_rate=-1.0)
    with pytest.raises(UserError, match=r"objective\.push"):
        config(store, push=-1.0)
    with pytest.raises(UserError, match="there is no dataset dogs"):
        config(store, dataset="dogs")


def test_a_request_of_the_page_may_name_no_path_and_no_device():
    known = {"dataset": "my cats", "checkpoint": "a"}
    for stranger in ("base", "device", "tokenizers", "loras", "memory"):
        with pytest.raises(ValidationError, match=stranger):
            TrainingRequest.model_validate({**known, stranger: "/etc"})


def test_the_defaults_are_those_of_a_run():
    asked, run = request("cats"), RunConfig()
    assert asked.objective == run.objective.kind
    for knob in ("push", "margin_weight", "temperature", "error_scale", "beta", "likelihood_weight"):
        assert (getattr(asked, knob) or "auto") == getattr(run.objective, knob)
    assert (asked.seed, asked.continue_from or None) == (run.training.seed, run.adapter.continue_from)
    assert presets.AUTOMATIC == AUTOMATIC

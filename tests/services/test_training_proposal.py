"""Which training one button starts for a dataset and a base, and what stands in its way."""

import json
import shutil
import struct
from collections import namedtuple

import pytest
from mapo_studio.trainer.config.presets import apply, preset_named, tiny_settings
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.pairs import Pair, PairSet, split_hash
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.services import training_proposal
from mapo_studio.trainer.services.training_proposal import preflight, propose_config, unused_run_name

Picture = namedtuple("Picture", "sha256 size")


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "cats", 0.1)
    yield store
    store.close()


@pytest.fixture
def judged(monkeypatch):
    """judged(prompts): the dataset holds a decided pair for each of `prompts`."""

    def hold(prompts):
        pairs = [
            Pair(prompt, Picture(f"{i}a", (64, 64)), Picture(f"{i}b", (64, 64))) for i, prompt in enumerate(prompts)
        ]
        monkeypatch.setattr(training_proposal.DatasetPairs, "load", lambda self: PairSet(tuple(pairs)))

    return hold


def many(count):
    return [f"cat {number}" for number in range(count)]


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(*names): a file whose header names these tensors of no weights."""

    def write(*names):
        header = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
        body = json.dumps(header).encode()
        file = tmp_path / "model.safetensors"
        file.write_bytes(struct.pack("<Q", len(body)) + body)
        return str(file)

    return write


def test_the_tiny_base_is_trained_by_the_recipe_of_the_demo(store, judged):
    judged(many(100))
    config = propose_config(store, "cats", "tiny")
    assert (config.name, config.base, config.data.pairs) == ("cats-1", "tiny", "dataset:cats")
    assert config.data.held_out == 0.1
    for part, values in tiny_settings().items():
        assert {name: getattr(getattr(config, part), name) for name in values} == values
    assert preflight(store, config).problems == ()


@pytest.mark.parametrize(("pairs", "steps"), [(25, 200), (400, None), (5000, 1500)])
def test_other_bases_show_each_pair_ten_times_within_limits(store, judged, pairs, steps):
    judged(many(pairs))
    config = propose_config(store, "cats", "someone/some-model")
    train = sum(split_hash(prompt) >= 0.1 for prompt in many(pairs))
    assert config.training.steps == (steps or round(10 * train / 4))


def test_among_few_prompts_one_is_held_out_all_the_same(store, judged):
    prompts = [prompt for prompt in many(40) if split_hash(prompt) > 0.2][:6]
    judged(prompts * 10)
    config = propose_config(store, "cats", "tiny")
    assert sum(split_hash(prompt) < config.data.held_out for prompt in prompts) == 1
    assert preflight(store, config).problems == ()


def test_pairs_of_one_prompt_are_trained_on_only_by_someone_who_says_so(store, judged):
    judged(["cat"] * 30)
    config = propose_config(store, "cats", "tiny")
    assert any("one prompt" in problem for problem in preflight(store, config).problems)
    unmeasured = config.model_copy(update={"data": config.data.model_copy(update={"held_out": 0.0})})
    assert preflight(store, unmeasured).problems == ()


def test_too_few_pairs_and_none_at_all_stand_in_the_way(store, judged):
    config = propose_config(store, "cats", "tiny")
    assert preflight(store, config).problems == (
        "The dataset cats holds no pair to train on: it is empty; judge some first.",
    )
    judged(many(12))
    assert any("Only" in problem and "judge some more" in problem for problem in preflight(store, config).problems)


def test_a_dataset_that_is_not_there_is_named(store):
    with pytest.raises(UserError, match="dogs"):
        propose_config(store, "dogs", "tiny")


def test_bases_that_cannot_be_trained_stand_in_the_way(store, judged, checkpoint, tmp_path):
    judged(many(100))

    def problem(base):
        (only,) = preflight(store, propose_config(store, "cats", base)).problems
        return only

    assert "No base is chosen" in problem("")
    assert "no base model at" in problem(str(tmp_path / "nowhere.safetensors"))
    assert "a LoRA, not a base" in problem(checkpoint("lora_unet_x.lora_down.weight"))
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    assert "pickle" in problem(str(tmp_path / "model.ckpt"))
    assert "no diffusers model" in problem(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_named(store, judged, tmp_path):
    judged(many(100))
    config = propose_config(store, "cats", "tiny").model_copy(update={"tokenizers": str(tmp_path)})
    assert preflight(store, config).problems == (f"tokenizers: {tmp_path} holds no vocab.json and merges.txt.",)


def test_a_full_disk_and_a_taken_or_impossible_name_stand_in_the_way(store, judged, monkeypatch):
    judged(many(100))
    config = propose_config(store, "cats", "tiny")
    Run.create(store.workspace, config)
    assert any("named cats-1 already" in problem for problem in preflight(store, config).problems)
    assert propose_config(store, "cats", "tiny").name == "cats-2"
    for name in ("../up", "a/b", ""):
        named = config.model_copy(update={"name": name})
        assert any(problem.startswith("name: ") for problem in preflight(store, named).problems)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(2**20))
    assert any("make room" in problem for problem in preflight(store, propose_config(store, "cats", "tiny")).problems)


def test_the_time_is_that_of_an_earlier_run_on_the_same_base(store, judged):
    judged(many(100))
    config = propose_config(store, "cats", "tiny")
    assert any(line.startswith("Time: not known") for line in preflight(store, config).estimates)
    run = Run.create(store.workspace, config)
    for step in (1, 2, 3):
        run.log("step", step=step, seconds=0.5)
    later = propose_config(store, "cats", "tiny")
    assert "Time: about 1 min 40 s, at the pace of cats-1." in preflight(store, later).estimates
    twice = later.model_copy(update={"training": later.training.model_copy(update={"batch_size": 16})})
    assert "Time: about 3 min 20 s, at the pace of cats-1." in preflight(store, twice).estimates


def test_a_small_card_gets_its_preset_and_the_embedded_base_its_own_recipe(store, judged):
    judged(many(200))
    small = propose_config(store, "cats", "someone/some-model", memory=4 * 2**30)
    assert small == apply(propose_config(store, "cats", "someone/some-model"), preset_named("4 GB"))
    assert any(line.endswith("the base's weights stored as nf4.") for line in preflight(store, small).estimates)
    assert propose_config(store, "cats", "tiny", memory=4 * 2**30) == propose_config(store, "cats", "tiny")


def test_what_is_said_of_memory_is_what_the_settings_are(store, judged):
    judged(many(200))
    config = propose_config(store, "cats", "someone/some-model")
    assert any(
        line.endswith("one pair at a time, activations recomputed on a GPU.")
        for line in preflight(store, config).estimates
    )
    wide = apply(config, preset_named("16 GB"))
    assert any(line.endswith("4 pairs at a time, activations recomputed.") for line in preflight(store, wide).estimates)
    kept = apply(config, preset_named("32 GB"))
    assert any(line.endswith("one pair at a time, activations kept.") for line in preflight(store, kept).estimates)


@pytest.mark.parametrize(
    ("dataset", "name"), [("my cats", "my-cats-1"), ("../..", "taste-1"), ("Ünï", "Ünï-1"), ("a/b:c", "a-b-c-1")]
)
def test_any_dataset_gives_a_name_that_a_run_can_have(tmp_path, dataset, name):
    assert unused_run_name(tmp_path, dataset) == name
    RunConfig(name=name, base="tiny", data={"pairs": "x"}).checked()


def test_a_name_that_differs_in_case_alone_is_taken(tmp_path):
    (tmp_path / "runs" / "CATS-1").mkdir(parents=True)
    assert unused_run_name(tmp_path, "cats") == "cats-2"


def test_a_name_that_a_lora_has_where_it_would_be_copied_to_is_taken(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "Cats-1.safetensors").write_text("another's")
    assert unused_run_name(tmp_path, "cats", tmp_path / "loras") == "cats-2"
    assert unused_run_name(tmp_path, "cats", tmp_path / "nowhere") == "cats-1"

"""What is changed in a training that does not fit, step by step."""

import pytest
from mapo_studio.trainer.config.memory_savings import next_saving, savings
from mapo_studio.trainer.config.optimizers import OPTIMIZERS, Optimizer
from mapo_studio.trainer.config.presets import apply, presets
from mapo_studio.trainer.config.run_config import RunConfig, parse_config

pytestmark = pytest.mark.slow

WIDE = {
    "training": {"batch_size": 4, "accumulation": 1, "gradient_checkpointing": "off"},
    "optimization": {"optimizer": "adamw"},
}
SPARING = {
    "training": {"gradient_checkpointing": "offload", "split_pair": True, "quantize": "nf4"},
    "optimization": {"optimizer": "paged_adamw8bit"},
}


def test_the_widest_settings_become_the_most_sparing_one_setting_at_a_time():
    config = parse_config(WIDE, "test")
    for changed, _ in savings(config):
        old, new = config.model_dump(), changed.model_dump()
        different = {
            key for part in ("training", "optimization") for key in old[part] if old[part][key] != new[part][key]
        }
        assert len(different - {"accumulation"}) == 1
        assert {key: new[key] for key in new if key not in ("training", "optimization")} == {
            key: old[key] for key in old if key not in ("training", "optimization")
        }
        config = changed
    training = config.training
    assert (training.batch_size, training.accumulation) == (1, 4)
    assert (training.gradient_checkpointing, training.split_pair, training.quantize) == ("offload", True, "nf4")
    assert config.optimization.optimizer == "paged_adamw8bit"


def test_there_is_an_end_to_sparing():
    assert next_saving(parse_config(SPARING, "test")) is None


@pytest.mark.parametrize("pairs", [2, 3, 4, 6, 7])
def test_as_many_pairs_make_a_step_however_few_are_computed_at_once(pairs):
    config = parse_config({"training": {"batch_size": pairs, "accumulation": 2}}, "test")
    for changed, _ in savings(config):
        assert changed.training.batch_size * changed.training.accumulation == 2 * pairs
    assert changed.training.batch_size == 1


def test_an_optimizer_is_not_changed_for_one_that_learns_something_else(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "lion", Optimizer("lion", state_bytes=4, summary="in one float32 a weight"))
    config = parse_config(WIDE, "test")
    lion = config.optimization.model_copy(update={"optimizer": "lion"})
    steps = [changed for changed, _ in savings(config.model_copy(update={"optimization": lion}))]
    assert {changed.optimization.optimizer for changed in steps} == {"lion"}
    assert steps[-1].training.quantize == "nf4", "every other saving is made"


def test_exactness_is_given_up_last():
    sentences = [sentence for _, sentence in savings(parse_config(WIDE, "test"))]
    assert ["--quantize" in one for one in sentences] == [False] * (len(sentences) - 2) + [True, True]
    assert "--quantize int8" in sentences[-2]
    assert "--quantize nf4" in sentences[-1]


def test_float8_goes_on_to_four_bits():
    config = parse_config(
        {"training": SPARING["training"] | {"quantize": "fp8"}} | {"optimization": SPARING["optimization"]}, "t"
    )
    changed, sentence = next_saving(config)
    assert changed.training.quantize == "nf4"
    assert "half a byte" in sentence


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_each_sentence_names_flags_that_do_what_it_says(preset):
    from mapo_studio.trainer.cli.arguments import settings_of

    config = apply(RunConfig(), preset)
    for changed, sentence in savings(config):
        flags = sentence[sentence.index("(") + 1 : -1].split()
        values = {part: getattr(config, part).model_dump() for part in ("training", "optimization", "adapter")}
        before = [word for part in values.values() for key, value in part.items() for word in _flag(key, value)]
        assert settings_of([*before, *flags], "plan", "")[0] == changed
        config = changed


def _flag(key, value):
    if value is None:
        return []
    name = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [name if value else "--no-" + name[2:]]
    return [name, str(value)]

"""Settings: what is refused and how it is said, round trips, and the flags made from them."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapo_studio.trainer.cli.arguments import settings_of
from mapo_studio.trainer.config.cli_flags import from_dataclass, to_dataclass
from mapo_studio.trainer.config.run_config import (
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    parse_config,
    read_config,
    write_config,
)
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.training.objectives import DPO, SFT, DPOPlusSFT, MaPO, build_objective
from mapo_studio.trainer.training.optimizer import lr_multiplier


def test_settings_survive_being_written_and_read(tmp_path):
    config = parse_config(
        {"name": "a b", "base": "x", "adapter": {"rank": 3}, "watch": {"sample_prompts": ["q", "r"]}}, ""
    )
    file = tmp_path / "run.toml"
    file.write_text(write_config(config), encoding="utf-8")
    assert read_config(file) == config


def test_a_misspelt_key_is_named_with_the_near_one(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[adapter]\nrnak = 8\n")
    with pytest.raises(UserError, match=r"run.toml: unknown key adapter.rnak, did you mean rank\?"):
        read_config(file)


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(UserError, match=r"adapter.rank: .*1 \(got 0\); optimization.learning_rate: .*\(got -1\)"):
        parse_config({"adapter": {"rank": 0}, "optimization": {"learning_rate": -1}}, "run.toml")


@pytest.mark.parametrize("text", ["rank = [", "\xff", None])
def test_a_file_that_is_no_settings_is_refused(tmp_path, text):
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.toml"):
        read_config(file)


@pytest.mark.parametrize(
    ("values", "said"),
    [({}, "--base"), ({"base": "x"}, "--pairs"), ({"base": "x", "data": {"pairs": "p"}, "name": "a/b"}, "file name")],
)
def test_what_is_missing_is_said_with_its_flag(values, said):
    with pytest.raises(UserError, match=said):
        parse_config(values, "").checked()


def test_paths_are_made_whole_and_other_names_are_left(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    config = parse_config({"base": "someone/a-model", "data": {"pairs": "pairs"}}, "").with_whole_paths()
    assert config.base == "someone/a-model"
    assert config.data.pairs == str(tmp_path / "pairs")


def test_each_kind_builds_its_objective():
    assert build_objective(ObjectiveConfig(margin_weight=0.1, temperature=1000, error_scale=0.5)) == MaPO()
    assert build_objective(ObjectiveConfig(kind="dpo", beta=7)) == DPO(7)
    assert build_objective(ObjectiveConfig(kind="dpo+sft", beta=7, likelihood_weight=2)) == DPOPlusSFT(7, 2)
    assert build_objective(ObjectiveConfig(kind="sft")) == SFT()
    assert build_objective(ObjectiveConfig(kind="mapo-released", push=1, temperature=3)) == MaPO()


def test_knobs_that_are_auto_follow_from_the_spread_of_the_margins():
    auto = ObjectiveConfig(temperature="auto", margin_weight="auto", steepness=2.0, push=0.5, error_scale=0.5)
    assert auto.calibrated
    assert build_objective(auto, 0.01) == MaPO(weight=0.005, temperature=200.0, scale=0.5)
    given = ObjectiveConfig(temperature=64, margin_weight="auto", push=1.0)
    assert not given.calibrated
    assert build_objective(given, 0.01) == MaPO(1 / 64, 64.0, 1.0)
    assert ObjectiveConfig().resolved().temperature == 64.0  # where nothing could be measured
    assert not ObjectiveConfig(kind="sft", temperature="auto").calibrated


@given(st.floats(1e-6, 10), st.floats(0.01, 100), st.floats(0.01, 10), st.floats(0, 10))
def test_the_push_of_an_automatic_weight_is_the_same_at_every_temperature(spread, steepness, scale, push):
    auto = ObjectiveConfig(
        temperature="auto", margin_weight="auto", steepness=steepness, push=push, error_scale=scale
    ).resolved(spread)
    assert auto.temperature * spread == pytest.approx(steepness)
    assert auto.temperature * auto.margin_weight * scale == pytest.approx(push)


def test_what_nobody_sets_every_day_is_not_in_help_and_can_be_set(capsys):
    with pytest.raises(SystemExit):
        settings_of(["--help"], "train", "")
    shown = capsys.readouterr().out
    assert "--push" in shown
    assert "--error-scale" not in shown
    assert "--steepness" not in shown
    assert settings_of(["--error-scale", "0.5"], "train", "")[0].objective.error_scale == 0.5


@pytest.mark.parametrize("value", ["hot", -1, 0])
def test_a_wrong_number_or_word_is_named_once_with_both_kinds(value):
    with pytest.raises(UserError) as refused:
        parse_config({"objective": {"temperature": value}}, "x")
    assert str(refused.value).count("objective.temperature") == 1
    assert "or input should be 'auto'" in str(refused.value)


def test_every_field_is_explained():
    for part in (RunConfig, *(type(getattr(RunConfig(), name)) for name in ("data", "adapter", "objective"))):
        unexplained = [
            name
            for name, field in part.model_fields.items()
            if not field.description and not dataclasses.is_dataclass(field.annotation) and name not in _PARTS
        ]
        assert not unexplained


_PARTS = {"data", "adapter", "objective", "optimization", "training", "watch"}


def test_flags_have_names_that_do_not_collide():
    names = [name for part in _PARTS for name in type(getattr(RunConfig(), part)).model_fields]
    names += [name for name in RunConfig.model_fields if name not in _PARTS]
    assert len(names) == len(set(names))


def test_flags_left_alone_give_the_same_settings():
    config = parse_config({"name": "n", "adapter": {"rank": 5}, "watch": {"sample_prompts": ["a"]}}, "")
    assert from_dataclass(to_dataclass(config), "flags") == config


@given(st.sampled_from(["constant", "cosine", "linear"]), st.integers(0, 30), st.integers(1, 200), st.integers(0, 400))
def test_learning_rate_stays_within_its_peak(schedule, warmup, steps, step):
    step = min(step, steps - 1)
    factor = lr_multiplier(OptimizerConfig(schedule=schedule, warmup_steps=warmup), step, steps)
    assert 0 < factor <= 1


def test_learning_rate_rises_then_falls():
    cosine = OptimizerConfig(schedule="cosine", warmup_steps=10)
    factors = [lr_multiplier(cosine, step, 100) for step in range(100)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0
    assert factors[-1] < 0.01

"""Former names of settings: still taken, in files and as flags, with a line that names the present one."""

import pytest
from mapo_studio.trainer.cli.arguments import settings_of
from mapo_studio.trainer.config.renamed_keys import current_flags, current_keys, former_keys, key_notices
from mapo_studio.trainer.config.run_config import RunConfig, parse_config

FORMER = {"data": {"most_pairs": 7}, "objective": {"loser_guard": 0.5}, "training": {"channels_last": "on", "steps": 3}}


def test_a_file_with_former_keys_means_what_it_meant():
    config = parse_config(FORMER, "run.toml")
    assert (config.data.max_pairs, config.objective.safeguard, config.training.steps) == (7, 0.5, 3)


def test_each_former_key_has_a_line():
    assert key_notices(FORMER) == [
        "data.most_pairs is called data.max_pairs now",
        "objective.loser_guard is called objective.safeguard now",
        "training.channels_last has no effect any more",
    ]
    assert key_notices(current_keys(FORMER)) == []


def test_settings_are_not_changed_and_a_present_key_goes_over_its_former_one():
    values = {"data": {"most_pairs": 7, "max_pairs": 8}}
    assert current_keys(values) == {"data": {"max_pairs": 8}}
    assert values == {"data": {"most_pairs": 7, "max_pairs": 8}}


def test_digests_see_the_names_that_they_were_taken_with():
    settings = former_keys(RunConfig(data={"max_pairs": 7}).model_dump(mode="json"))
    assert settings["data"]["most_pairs"] == 7
    assert "max_pairs" not in settings["data"]
    assert "safeguard" not in settings["objective"]
    assert settings["training"]["channels_last"] == "auto"
    assert current_keys(settings) == RunConfig(data={"max_pairs": 7}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("words", "current"),
    [
        (["--most-pairs", "7", "--steps", "3"], ["--max-pairs", "7", "--steps", "3"]),
        (["--most-pairs=7"], ["--max-pairs=7"]),
        (["--most_pairs", "7"], ["--max-pairs", "7"]),
        (["--channels-last", "on", "--steps", "3"], ["--steps", "3"]),
        (["--steps", "3", "--channels-last=off"], ["--steps", "3"]),
    ],
)
def test_former_flags_become_present_ones(words, current):
    assert current_flags(words)[0] == current
    assert len(current_flags(words)[1]) == 1


def test_a_command_takes_former_names_and_says_the_present_ones(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("[data]\nmost_pairs = 7\n[watch]\nlog_every = 2\n")
    config, _ = settings_of([str(file), "--loser-guard", "0.5", "--channels-last", "on"], "train", "")
    assert (config.data.max_pairs, config.objective.safeguard, config.watch.log_every) == (7, 0.5, 2)
    assert capsys.readouterr().err.splitlines() == [
        f"{file}: data.most_pairs is called data.max_pairs now",
        "--loser-guard is called --safeguard now",
        "--channels-last has no effect any more",
    ]

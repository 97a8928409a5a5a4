"""Command-line arguments: flags over a file over a preset over the defaults."""

import pytest
from mapo_studio.trainer.cli.arguments import parse_arguments, preset_here, settings_of
from mapo_studio.trainer.config.presets import apply, preset_named
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.device import Memory
from mapo_studio.trainer.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nbatch_size = 3\nsteps = 7\n[adapter]\nrank = 4\n")
    return str(path)


def test_flags_go_over_the_file_and_the_file_over_the_preset(file):
    arguments = parse_arguments([file, "--steps", "9", "--preset", "4 GB"], "train", "")
    config = arguments.resolve(preset_named(arguments.flags.preset))
    assert (config.training.steps, config.training.batch_size, config.adapter.rank) == (9, 3, 4)
    assert (config.training.quantize, config.training.accumulation) == ("nf4", 4)
    assert arguments.resolve(None).training.quantize == "none"


def test_a_flag_that_says_the_default_still_goes_over_the_preset():
    arguments = parse_arguments(["--quantize", "none", "--no-split-pair"], "train", "")
    config = arguments.resolve(preset_named("4 GB"))
    assert (config.training.quantize, config.training.split_pair) == ("none", False)
    assert config.training.gradient_checkpointing == "offload"


def test_without_flags_it_is_the_preset_alone():
    assert parse_arguments([], "train", "").resolve(preset_named("16 GB")) == apply(RunConfig(), preset_named("16 GB"))


def test_a_mistake_in_the_file_names_the_file(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[training]\nbatch = 3\n")
    with pytest.raises(UserError, match=r"wrong\.toml.*did you mean batch_size"):
        parse_arguments([str(path)], "train", "")


def test_a_wrong_flag_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        settings_of(["--batch-size", "0"], "encode", "")


def test_the_preset_is_that_of_the_card(monkeypatch):
    import mapo_studio.trainer.device as device

    monkeypatch.setattr(device, "memory_of", lambda _: Memory(int(11.6 * 2**30), 2**30))
    assert preset_here(parse_arguments(["--base", "some/model"], "train", "")).name == "12 GB"
    assert preset_here(parse_arguments(["--base", "some/model", "--preset", "6 gb"], "train", "")).name == "6 GB"
    assert preset_here(parse_arguments(["--base", "some/model", "--preset", "none"], "train", "")) is None
    assert preset_here(parse_arguments(["--base", "tiny"], "train", "")) is None, "it has settings of its own"
    with pytest.raises(UserError, match="no preset '5 GB'"):
        preset_here(parse_arguments(["--preset", "5 GB"], "train", ""))


def test_without_a_card_there_is_no_preset():
    assert preset_here(parse_arguments(["--base", "some/model", "--device", "cpu"], "train", "")) is None

"""Every setting of a training as a field of the page, and back."""

import gradio as gr
import pytest
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.errors import UserError
from mapo_studio.web.components.settings_form import SettingsForm


@pytest.fixture
def form():
    with gr.Blocks():
        return SettingsForm(elsewhere=("base", "data.pairs"))


def field(form, label):
    (only,) = [i for i, component in enumerate(form.components) if component.label == label]
    return only


def names(model, before=""):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from names(inner, f"{name}.")
        else:
            yield before + name, field.description


def test_every_setting_has_a_field_with_its_explanation(form):
    elsewhere = ("base", "data.pairs")
    for_experts = ("objective.steepness", "objective.error_scale")  # that make no difference: files and flags take them
    wanted = [(name, about) for name, about in names(RunConfig) if name not in elsewhere + for_experts]
    # The config's own fields come first, then part by part.
    wanted.sort(key=lambda one: "." in one[0])
    assert [component.info for component in form.components] == [about for _, about in wanted]
    assert [component.label for component in form.components] == [
        name.rpartition(".")[2].replace("_", " ") for name, _ in wanted
    ]


def test_what_is_shown_comes_back_as_the_same_config(form):
    config = RunConfig(
        name="cats",
        base="tiny",
        tokenizers="/models/clip",
        data={"pairs": "dataset:cats", "flip": True, "resolution": 512},
        adapter={"alpha": 3.5},
        objective={"error_scale": 0.5},  # not shown, and kept
        watch={"sample_prompts": ("a cat", "a red dog, asleep")},
    )
    assert form.config(config, form.shown(config)) == config
    assert form.config(RunConfig(), form.shown(RunConfig())) == RunConfig()


def test_what_is_emptied_is_chosen_by_itself_again(form):
    config = RunConfig(data={"resolution": 512}, adapter={"alpha": 4}, tokenizers="/models")
    given = form.shown(config)
    for label in ("resolution", "alpha"):
        given[field(form, label)] = None
    given[field(form, "tokenizers")] = "  "
    edited = form.config(config, given)
    assert (edited.data.resolution, edited.adapter.alpha, edited.tokenizers) == (None, None, None)


@pytest.mark.parametrize(("typed", "meant"), [("auto", "auto"), (" 12.5 ", 12.5)])
def test_a_number_or_a_word_is_typed_as_text(form, typed, meant):
    given = form.shown(RunConfig())
    given[field(form, "temperature")] = typed
    assert form.config(RunConfig(), given).objective.temperature == meant


@pytest.mark.parametrize(
    ("label", "value", "named"),
    [
        ("rank", 0, "adapter.rank"),
        ("held out", 1, "data.held_out"),
        ("learning rate", -1, "optimization.learning_rate"),
        ("kind", "ppo", "objective.kind"),
        ("temperature", "hot", "objective.temperature"),
        ("steps", 1.5, "training.steps"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_named(form, label, value, named):
    given = form.shown(RunConfig())
    given[field(form, label)] = value
    with pytest.raises(UserError, match=named):
        form.config(RunConfig(), given)


def test_what_a_person_changed_stays_when_something_else_is_proposed(form):
    before = RunConfig(name="cats-1")
    given = form.shown(before)
    given[field(form, "rank")] = 64
    proposed = RunConfig(name="dogs-1", training={"steps": 900})
    kept = form.with_edits(proposed, before, given)
    assert (kept.name, kept.training.steps, kept.adapter.rank) == ("dogs-1", 900, 64)


def test_what_may_be_empty_is_no_number_field_which_a_page_would_turn_into_zero(form):
    config = RunConfig()
    empty = [field for field, value in zip(form.components, form.shown(config), strict=True) if value in (None, "")]
    assert not [field.label for field in empty if isinstance(field, gr.Number)]
    given = form.shown(config)
    given[field(form, "resolution")] = " 512 "
    assert form.config(config, given).data.resolution == 512

"""Default steps and CFG: the base's own, few-step bases included, in the engine and in every face."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import pytest
from mapo_studio.tests.tiny_models import write_sd15
from mapo_studio.trainer.cli import evaluate_commands, main
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.evaluation.generate_comparison import ComparisonSettings
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.models.few_step import FewStep
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.batch_sampler import open_for_sampling
from mapo_studio.trainer.sampling.defaults import steps_and_cfg, steps_and_cfg_at
from mapo_studio.trainer.sampling.sampler import generate
from mapo_studio.trainer.sampling.task_settings import GenerateSettings
from mapo_studio.trainer.training import validation_images
from mapo_studio.web.components import comparison_form, generate_task
from mapo_studio.web.components.generate_panel import generate_panel
from mapo_studio.web.components.targets_panel import targets_panel


@pytest.fixture(scope="module")
def turbo(tmp_path_factory):
    """A base that was distilled to four steps, by its name."""
    return str(write_sd15(tmp_path_factory.mktemp("bases") / "tiny-turbo-4steps"))


@pytest.mark.parametrize("given", [(None, None), (7, None), (None, 2.0), (7, 2.0)])
def test_what_is_given_goes_over_the_bases_own(given):
    ordinary, few = SimpleNamespace(distilled=None), SimpleNamespace(distilled=FewStep("Turbo", 4, "its name"))
    for base, own in ((ordinary, (28, 5.0)), (few, (4, 1.0))):
        assert steps_and_cfg(base, *given) == (given[0] or own[0], given[1] or own[1])


@pytest.mark.parametrize(
    ("named", "own"),
    [
        ("tiny", (28, 5.0)),
        ("", (28, 5.0)),
        ("/nowhere/at/all.safetensors", (28, 5.0)),
        ("stabilityai/stable-diffusion-xl-base-1.0", (28, 5.0)),
        ("stabilityai/sdxl-turbo", (4, 1.0)),
        ("someone/xl-Lightning-8steps", (8, 1.0)),
    ],
)
def test_a_form_can_show_them_without_a_download(named, own):
    assert steps_and_cfg_at(named) == own


def test_a_base_on_this_disk_tells_its_own(turbo):
    assert steps_and_cfg_at(turbo) == (4, 1.0)


@pytest.mark.slow
def test_a_few_step_base_generates_in_its_own_steps_where_none_are_given(turbo):
    told = []
    generate(open_base(turbo), ["a fox"], size=(64, 64), progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (4, 4)


def opened_with(sent, turbo):
    """(steps, CFG) that a task generates with, given the settings that a face sent it."""
    known = {name: value for name, value in sent.items() if name in GenerateSettings.model_fields}
    sampling = open_for_sampling(GenerateSettings.given(known | {"base": turbo}))[1]
    return sampling.steps, sampling.guidance


@pytest.fixture
def sent(monkeypatch):
    """What the page's panels start their tasks with."""
    started = []

    def start(workspace, kind, settings):
        started.append(settings)
        return SimpleNamespace(name="x", job=SimpleNamespace(name="x"), trained_on=0)

    monkeypatch.setattr(generate_task, "start", start)
    monkeypatch.setattr(comparison_form, "start", start)
    monkeypatch.setattr(comparison_form, "start_comparison", lambda workspace, given: start(workspace, "", given))
    return started


def page_with(make, tmp_path):
    """The page of a panel alone, and what its tab would give it."""
    with gr.Blocks() as page:
        studio = SimpleNamespace(
            workspace=tmp_path,
            allowed_roots=(tmp_path.resolve(),),
            page=page,
            dataset=gr.Dropdown([], allow_custom_value=True),
            tabs=gr.Tabs(),
            bases=lambda: [("tiny", "tiny")],
            loras=list,
            picker=lambda name: name,
        )
        make(studio)
    return page


def pressed(page, name, values):
    """Call the page's event `name` with its fields as they come, but for `values` by label."""
    (event,) = [one for one in page.fns.values() if one.name == name]
    return event.fn(*(values.get(field.label, field.value) for field in event.inputs))


PANELS = {
    "start": lambda studio: generate_panel(studio, lambda _: "cats", gr.State()),
    "start targets": lambda studio: targets_panel(studio, lambda _: "cats", gr.State()),
    "compare_loras": comparison_form.comparison_form,
    "try_strengths": comparison_form.comparison_form,
}


@pytest.mark.parametrize("panel", PANELS)
def test_the_pages_panels_leave_a_few_step_base_its_own(panel, turbo, tmp_path, sent):
    page = page_with(PANELS[panel], tmp_path)
    fields = {
        "Base": turbo,
        "Painted with the base": turbo,
        "LoRA": "taste.safetensors",
        "Prompts, one a line": "a fox",
        "Prompts, one a line (empty: those of the dataset)": "a fox",
        "Folder of the pictures, on this machine": str(tmp_path),
    }
    pressed(page, panel.split()[0], fields)
    assert opened_with(sent[0], turbo) == (4, 1.0)


@pytest.mark.parametrize("panel", PANELS)
def test_the_pages_panels_show_what_the_chosen_base_has(panel, turbo, tmp_path):
    page = page_with(PANELS[panel], tmp_path)
    fields = [block for block in page.blocks.values() if getattr(block, "label", "") in ("Steps", "Guidance")]
    assert [field.placeholder for field in fields] == ["28", "5"]
    (steps, guidance) = pressed(page, "show_own", {"Base": turbo, "Painted with the base": turbo})
    assert (steps.placeholder, guidance.placeholder) == ("4", "1")


def test_mapo_compare_leaves_a_few_step_base_its_own(turbo, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    started = []
    monkeypatch.setattr(evaluate_commands, "_wait", started.append)
    (tmp_path / "taste.safetensors").write_bytes(b"x")
    words = ["--lora", str(tmp_path / "taste.safetensors"), "--prompts", "a fox", "--workspace", str(tmp_path)]
    main.main(["compare", turbo, *words])
    settings = ComparisonSettings.given(started[0].settings())
    assert opened_with(settings.model_dump(exclude_none=True), turbo) == (4, 1.0)


@pytest.mark.parametrize(("distilled", "own"), [(None, (28, 5.0)), (FewStep("Turbo", 4, "its name"), (4, 1.0))])
def test_validation_images_are_generated_as_all_others(distilled, own, monkeypatch):
    class Seen(Exception):
        pass

    def sample(*_, steps, guidance, **__):
        raise Seen(steps, guidance)

    monkeypatch.setattr(validation_images, "sample", sample)
    monkeypatch.setattr(validation_images, "load_text", lambda text: text)
    material = SimpleNamespace(
        base=SimpleNamespace(distilled=distilled, resolution=64),
        sample_prompts=["a fox"],
        encoded=SimpleNamespace(text=lambda prompt: prompt),
    )
    images = validation_images.ValidationImages(None, RunConfig(), material, None, None)
    with pytest.raises(Seen) as seen:
        images._generate()
    assert seen.value.args == own

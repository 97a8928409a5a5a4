"""The Compare tab: what it says and shows at each stage, and once through it in a browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mapo_studio.trainer.config.run_config import parse_config, write_config
from mapo_studio.trainer.evaluation.comparison import export_to_dataset
from mapo_studio.trainer.evaluation.generate_comparison import known_settings, run_of, unused_comparison_name
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import Candidate, ImageRecord, Pair
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.services import job_kinds
from mapo_studio.web.app import studio_app
from mapo_studio.web.server.security import AllowedHosts
from mapo_studio.web.tabs import compare
from PIL import Image
from playwright.sync_api import expect
from sqlalchemy import func, select

PROMPTS = [f"a red circle {number}" for number in range(12)]


@pytest.fixture
def studio(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "cats")
    return SimpleNamespace(workspace=store.workspace, store=store)


class FlatColours:
    """Stands in for the BatchSampler: flat colours, which take no time."""

    def __init__(self, *_):
        pass

    def generate(self, requests, check):
        colours = [(request.seed % 256, 200 if request.lora else 80, 90) for request in requests]
        yield [(request, Image.new("RGB", (64, 64), of)) for request, of in zip(requests, colours, strict=True)]


@pytest.fixture
def begin(studio, tiny_lora, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    monkeypatch.setattr("mapo_studio.trainer.sampling.batch_sampler.BatchSampler", FlatColours)
    given = {"name": "duel", "base": "tiny", "lora": str(tiny_lora), "prompts": PROMPTS, "steps": 1}
    return lambda **changes: job_kinds.start(studio.workspace, "compare", {**given, "dataset": "cats", **changes})


def say(studio, pairs, verdict="lora"):
    """Answer the first so many pairs of the comparison, always for the same arm."""
    with studio.store.writing() as session:
        found = select(Pair).where(Pair.dataset_id == find_dataset(session, "duel").id).order_by(Pair.id).limit(pairs)
        for number, pair in enumerate(session.scalars(found).all()):
            arm = (
                select(ImageRecord.sha256)
                .join(Candidate)
                .where(Candidate.arm == verdict, ImageRecord.id.in_((pair.first_id, pair.second_id)))
            )
            left = session.scalar(arm.where(Candidate.prompt_id == pair.prompt_id))
            answer(session, "ann", Answer(pair.id, left, "left", "clearly", 1.0, "page", number, "compare"))


def watched(studio, name="duel", uncovered=""):
    names = ("line", "pause", "go_on", "stop", "result", "afterwards", "reveal", "scene", "timer")
    return SimpleNamespace(**dict(zip(names, compare._watched(studio, name, uncovered), strict=True)))


def test_a_comparison_is_listed_from_its_start_and_judged_from_its_first_pair(studio, begin):
    task = begin()
    assert compare._choices(studio, "duel").value == "duel"
    before = watched(studio)
    assert (before.result, before.scene, before.stop.visible) == ("", ("waiting", ""), True)
    assert "waits" in before.line
    job_kinds.run_job(task.folder)
    after = watched(studio)
    assert (after.scene, after.line, after.stop.visible) == (("judge", "duel"), "", False)
    assert "0 of 12 pairs judged" in after.result
    assert not after.afterwards.visible


def test_the_result_is_hidden_until_it_says_something(studio, begin):
    job_kinds.run_job(begin().folder)
    say(studio, 9)
    few = watched(studio)
    assert "9 of 12 pairs judged" in few.result
    assert "better" not in few.result
    assert few.afterwards.visible
    say(studio, 12)
    told = watched(studio).result
    assert "taste is better than the base: 100&nbsp;%, between 76 and 100, after 12 answers." in told
    assert "verdict better" in told


def test_which_is_which_is_shown_only_on_request(studio, begin):
    job_kinds.run_job(begin().folder)
    say(studio, 1)
    assert watched(studio).scene == ("judge", "duel")
    assert watched(studio, uncovered="another").scene == ("judge", "duel")
    assert watched(studio, uncovered="duel").scene == ("look", "duel")


def test_names_from_elsewhere_are_no_html(studio, begin, tiny_lora, tmp_path):
    lora = tmp_path / "<b>x<b>.safetensors"
    lora.write_bytes(tiny_lora.read_bytes())
    job_kinds.run_job(begin(lora=str(lora)).folder)
    say(studio, 12)
    assert "<b>" not in watched(studio).result
    assert "&lt;b&gt;x" in watched(studio).result


def test_without_a_comparison_the_newest_sheet_of_strengths_is_shown(studio, begin, tiny_lora):
    assert watched(studio, "").scene == ("new", "")
    settings = {"base": "tiny", "lora": str(tiny_lora), "prompts": PROMPTS[:1], "steps": 1, "strengths": [0, 1]}
    task = job_kinds.start(studio.workspace, "sweep", settings)
    assert watched(studio, "").scene == ("new", "")
    job_kinds.run_job(task.folder)
    kind, what = watched(studio, "").scene
    assert kind == "sheet"
    assert compare._sheet(studio, what).width > 700


def test_a_damaged_task_does_not_take_the_tab_with_it(studio, begin):
    begin().settings_file.write_text("{")
    job_kinds.run_job(begin(name="other").folder)
    assert [value for value, _ in compare._choices(studio, "").choices] == ["New comparison", "other"]
    assert watched(studio, "other").result


def test_a_comparison_that_is_gone_leaves_the_form(studio):
    assert compare._choices(studio, "gone").value == ""
    assert compare._refreshed(studio, "gone").constructor_args["value"] == ""


def test_what_is_chosen_while_the_list_is_refreshed_stays_chosen(studio, begin):
    begin()
    for chosen in ("", "duel"):
        assert "value" not in compare._refreshed(studio, chosen).constructor_args


def test_only_a_lora_of_this_workspaces_runs_brings_its_settings(studio, tmp_path):
    config = parse_config({"name": "taste", "base": "tiny", "data": {"pairs": "dataset:cats"}}, "test")
    folder = studio.workspace / "runs" / "taste"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(write_config(config))
    run = run_of(studio.workspace, str(folder / "taste.safetensors"))
    assert run.name == "taste"
    assert known_settings(run, "tiny") == {
        "run": "taste",
        "dataset": "cats",
        "prediction": "auto",
        "tokenizers": None,
    }
    assert "prediction" not in known_settings(run, "another")
    for other in ("", "/etc/passwd", str(folder / "other.safetensors"), "../runs/taste/taste.safetensors"):
        assert run_of(studio.workspace, other) is None


def test_a_name_is_found_that_is_free(studio, begin):
    assert unused_comparison_name(studio.workspace, "taste", "") == "taste or the base"
    job_kinds.run_job(begin(name="taste or the base", prompts=PROMPTS[:1]).folder)
    assert unused_comparison_name(studio.workspace, "taste", "") == "taste or the base 2"
    assert unused_comparison_name(studio.workspace, "taste", "/x/old.safetensors") == "taste or old"


@pytest.fixture
def address(studio, serve):
    return serve(lambda port: studio_app(studio.workspace, AllowedHosts.of([], port)))


@pytest.mark.slow
def test_a_comparison_is_judged_blind_unveiled_and_fed_back(studio, begin, address, page):
    job_kinds.run_job(begin().folder)
    page.goto(address)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("combobox", name="Comparison").click()
    page.get_by_role("option", name="duel").click()
    judge = page.locator("#compare-pane mapo-judge")
    result = page.locator("#compare-result")
    expect(result).to_contain_text("0 of 12 pairs judged", timeout=20_000)
    for number in range(12):
        expect(judge).to_contain_text(f"{12 - number} to go", timeout=20_000)
        expect(judge.get_by_alt_text("left picture")).to_be_visible(timeout=20_000)
        page.wait_for_timeout(800)  # a new pair is not answered by the rest of a double click
        page.keyboard.press("Shift+ArrowLeft" if number % 2 else "ArrowRight")
    expect(result).to_contain_text("12 of 12 pairs judged", timeout=20_000)
    expect(result).to_contain_text("after 12 answers", timeout=20_000)
    assert page.locator("#look img").count() == 0

    page.get_by_role("button", name="Show which is which").click()
    expect(page.locator("#look img").first).to_be_visible(timeout=20_000)
    expect(page.get_by_text("left: the base · right: the LoRA")).to_be_visible()
    expect(judge).to_be_hidden()

    page.get_by_role("combobox", name="Train on these judgements").click()
    page.get_by_role("option", name="cats").click()
    page.get_by_role("button", name="Add them to this dataset").click()
    expect(page.get_by_text("12 judgements added to cats.")).to_be_visible(timeout=20_000)
    with studio.store.writing() as session:
        cats = find_dataset(session, "cats")
        fed = select(func.count()).where(Pair.dataset_id == cats.id, Pair.source == "comparison: duel")
        assert session.scalar(fed) == 12
        assert export_to_dataset(session, find_dataset(session, "duel"), cats) == 0

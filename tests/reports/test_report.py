"""Reports of made-up runs: what they say, that nothing breaks them, and that they need nothing but themselves."""

import json
import re
import time
from html.parser import HTMLParser

import pytest
from mapo_studio.trainer.config.run_config import RunConfig, parse_config
from mapo_studio.trainer.reports.report import add_sections, write_report
from mapo_studio.trainer.reports.summary import summarize_run
from mapo_studio.trainer.runs.run_folder import Run
from PIL import Image

pytestmark = pytest.mark.slow

EVIL = '<img src="http://evil.example/x.png" onerror=alert(1)>&"\''
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would make of it: the words, every tag with its attributes, and whether all tags are closed."""

    def __init__(self, html):
        super().__init__()
        self.html, self.words, self.tags, self.open = html, "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def new_run(tmp_path):
    """new_run(**settings): the empty folder of a run, of 400 steps unless told otherwise."""

    def make(**settings):
        values = {"base": "models/sdxl.safetensors", "data": {"pairs": "my-pairs"}, **settings}
        return Run.create(tmp_path / "elsewhere", parse_config(values, "test"))

    return make


def report_of(run):
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not page.open
    page.words = re.sub(r"\s+", " ", page.words)
    return page


def start(run, **values):
    facts = {"device": "cuda", "precision": "bfloat16", "pairs": 90, "held_out": 40, "left_out": [], "steps": 400}
    run.log("started", **{**facts, "batches_per_epoch": 90, "reused": 4, "encoded": 200, **values})


def evaluate(run, step, agreement, chosen_error=0.10, **values):
    numbers = {"pairs": 40, "low": max(0.0, agreement - 0.14), "high": min(1.0, agreement + 0.09)}
    numbers |= {"chosen_error": chosen_error, "rejected_error": 0.11, "margin": 0.002}
    run.log("evaluation", step=step, agreement=agreement, **{**numbers, **values})


def take(run, step, **values):
    numbers = {"loss": 0.1, "chosen_error": 0.1, "rejected_error": 0.12, "margin": 0.01, "agreement": 0.5}
    numbers |= {"gradient_norm": 1.0, "learning_rate": 1e-4, "seconds": 2.0, "remaining": 1.0}
    run.log("step", step=step, **{**numbers, **values})


def paint(run, step, size=(40, 80)):
    run.samples_folder.mkdir(exist_ok=True)
    Image.new("RGB", size, (step % 256, 90, 90)).save(run.samples_folder / f"step-{step:08d}.png")


def finished(run, **values):
    start(run)
    evaluate(run, 0, 0.45)
    for step in range(1, 401):
        take(run, step)
    evaluate(run, 400, 0.83, **values)
    run.log("finished", step=400)


def test_headline_says_the_agreement_its_interval_and_where_it_began(new_run):
    run = new_run()
    finished(run)
    words = report_of(run).words
    assert "my-taste agrees with you on 83 % (69-92 %) of 40 pairs it has not trained on." in words
    assert "In brackets is where it lies with 95 % certainty" in words
    assert "Before training it was 45 %." in words
    assert "chance" not in words
    assert "complete: 400 steps" in words


def test_a_gain_within_the_interval_is_called_possible_chance(new_run):
    run = new_run()
    start(run)
    evaluate(run, 0, 0.50)
    evaluate(run, 400, 0.60)
    assert "the difference may be chance" in report_of(run).words


def test_an_older_measurement_says_its_step(new_run):
    run = new_run()
    start(run)
    evaluate(run, 100, 0.7)
    take(run, 130)
    run.log("stopped", step=130)
    words = report_of(run).words
    assert "Measured at step 100; the training went on to step 130." in words
    assert "Before training" not in words


def test_no_held_out_pairs_is_said_with_the_mend(new_run):
    run = new_run()
    start(run, held_out=0)
    take(run, 1)
    words = report_of(run).words
    assert "How well my-taste agrees with you was not measured." in words
    assert "raise --held-out" in words


def test_a_stopped_run_gives_the_whole_command_to_go_on(new_run):
    run = new_run(name="two words")
    start(run)
    take(run, 130)
    run.log("stopped", step=130)
    words = report_of(run).words
    assert "Stopped at step 130 of 400, saved." in words
    assert f'mapo resume "two words" --workspace {run.workspace.resolve()}' in words


def test_the_usual_workspace_is_not_named_in_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run.create(tmp_path / "workspace", parse_config({"base": "b", "data": {"pairs": "p"}}, "test"))
    run.log("stopped", step=0)
    words = report_of(run).words
    assert "Stopped before the first step. Go on with it by mapo resume my-taste." in words


def test_a_failed_run_gives_its_error(new_run):
    run = new_run()
    start(run)
    take(run, 7)
    run.log("failed", error="no room to write x: free some disk space and try again")
    words = report_of(run).words
    assert "Failed at step 7 of 400: no room to write x: free some disk space and try again. When that is" in words


def test_a_resumed_run_is_no_failed_run_any_more(new_run):
    run = new_run()
    start(run)
    take(run, 7)
    run.log("checkpoint", step=7)
    run.log("failed", error="the disk is full")
    run.log("resumed", step=7)
    words = report_of(run).words
    assert "the disk is full" not in words
    assert "Not finished: it was at step 7 of 400" in words


def test_a_run_without_events_has_a_report(new_run):
    words = report_of(new_run()).words
    assert "Not finished: it was at step 0 of 400" in words
    assert "Not one step was taken." in words
    assert "No sample pictures were painted." in words
    assert "There is no LoRA file yet." in words
    assert "did not come as far as reading its pairs" in words


@pytest.mark.parametrize("missing", ["null", "absent", "text"])
def test_numbers_that_are_missing_are_left_out(new_run, missing):
    run = new_run()
    finished(run)
    lines = [json.loads(line) for line in run.events_file.read_text().splitlines()]
    for line in lines:
        for name, value in list(line.items()):
            if isinstance(value, (int, float)) and name != "time" and (name != "step" or missing != "null"):
                line.pop(name)
                if missing != "absent":
                    line[name] = None if missing == "null" else "many"
    run.events_file.write_text("\n".join(map(json.dumps, lines)))
    assert "was not measured" in report_of(run).words


def test_some_null_numbers_leave_the_others_drawn(new_run):
    run = new_run()
    finished(run)
    take(run, 401, loss=float("nan"), chosen_error=float("inf"))
    evaluate(run, 401, 0.9, low=None, margin=None)
    words = report_of(run).words
    assert "agrees with you on 90 % of 40 pairs" in words
    assert "Nothing was measured yet" not in words


def test_worse_chosen_errors_under_high_agreement_are_alarmed_about(new_run):
    run = new_run(objective={"kind": "mapo"})
    finished(run, chosen_error=0.15)
    words = report_of(run).words
    assert "better at telling your pictures apart by getting worse at painting" in words
    assert "rose by 50 % while the agreement is 83 %. Lower --push or --learning-rate" in words


def test_events_with_the_names_of_an_earlier_version_make_the_same_report(new_run):
    run = new_run(objective={"kind": "mapo"})
    finished(run, chosen_error=0.15)

    def page():
        text = write_report(run).read_text(encoding="utf-8")
        return re.sub(r"[\d.]+ (bytes|KB)", "", text)  # the events' file has another size

    now, events = page(), run.events_file.read_text()
    old = events.replace("chosen_error", "winner_error").replace("rejected_error", "loser_error")
    assert old != events
    run.events_file.write_text(old)
    assert page() == now


@pytest.mark.parametrize(("objective", "advice"), [("dpo", "--objective mapo"), ("dpo+sft", "--likelihood-weight")])
def test_the_advice_names_the_knobs_of_the_objective(new_run, objective, advice):
    run = new_run(objective={"kind": objective})
    finished(run, chosen_error=0.15)
    assert advice in report_of(run).words


@pytest.mark.parametrize("chosen_error", [0.09, 0.105])
def test_no_alarm_where_the_chosen_ones_are_painted_about_as_well(new_run, chosen_error):
    run = new_run()
    finished(run, chosen_error=chosen_error)
    assert "getting worse" not in report_of(run).words


def test_no_alarm_where_the_agreement_is_low(new_run):
    run = new_run()
    start(run)
    evaluate(run, 0, 0.5, 0.10)
    evaluate(run, 400, 0.52, 0.15)
    assert "getting worse" not in report_of(run).words


def test_nothing_from_outside_is_taken_for_html(new_run, tmp_path):
    run = new_run(base=EVIL, data={"pairs": EVIL}, watch={"sample_prompts": [EVIL]}, adapter={"continue_from": EVIL})
    run.log("warning", text=EVIL)
    start(run, device=EVIL, left_out=[{"reason": EVIL, "count": 2, "examples": [EVIL]}], upscaled=[EVIL])
    evaluate(run, 0, 0.5)
    run.log("failed", error=EVIL)
    run.lora_file.write_bytes(b"lora")
    sections = [(EVIL, EVIL), (EVIL, [[EVIL], [EVIL]]), (EVIL, tmp_path / EVIL.replace("/", "_"))]
    add_sections(run, summarize_run(run).step, sections)
    page = report_of(run)
    assert not page.all("img")
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert page.words.count(EVIL) >= 12


def test_the_page_needs_nothing_but_itself(new_run):
    run = new_run()
    finished(run)
    paint(run, 0)
    run.lora_file.write_bytes(b"lora")
    page = report_of(run)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "base")]
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset", "data") if name in attrs]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "prefers-color-scheme: dark" in page.html


def test_first_middle_and_last_samples_are_shown(new_run):
    run = new_run()
    finished(run)
    for step in (0, 100, 200, 300, 400):
        paint(run, step)
    (run.samples_folder / "base-0.png").write_bytes(b"a picture of one prompt, no sheet")
    page = report_of(run)
    assert len(page.all("img")) == 3
    for caption in ("Before training", "Step 200", "Step 400, the end"):
        assert caption in page.words
    assert "Step 100" not in page.words


def test_a_click_on_a_sample_leads_to_its_own_figure(new_run):
    run = new_run()
    for step in (0, 200, 400):
        paint(run, step)
    page = report_of(run)
    figures = [attrs["id"] for attrs in page.all("figure")]
    assert len(set(figures)) == 3
    assert [attrs["href"] for attrs in page.all("a") if attrs["class"] == "larger"] == [f"#{name}" for name in figures]


def test_one_sample_is_shown_once(new_run):
    run = new_run()
    paint(run, 0)
    assert len(report_of(run).all("img")) == 1


def test_a_damaged_sample_is_named(new_run):
    run = new_run()
    paint(run, 0)
    (run.samples_folder / "step-00000200.png").write_bytes(b"not a picture")
    page = report_of(run)
    assert len(page.all("img")) == 1
    assert "step-00000200.png cannot be read" in page.words


def test_large_sample_sheets_are_scaled_down(new_run):
    run = new_run()
    run.samples_folder.mkdir()
    Image.effect_noise((2100, 2100), 90).convert("RGB").save(run.samples_folder / "step-00000000.png")
    assert write_report(run).stat().st_size < 2_500_000


def test_thousands_of_steps_become_a_few_hundred_points(new_run):
    run = new_run(training={"steps": 6000})
    start(run)
    with run.events_file.open("a") as file:
        for step in range(1, 6001):
            event = {"event": "step", "time": time.time(), "step": step, "loss": step / 6000, "learning_rate": 1e-4}
            file.write(json.dumps(event) + "\n")
    page = report_of(run)
    lines = [attrs["points"].split() for attrs in page.all("polyline")]
    assert lines
    assert max(map(len, lines)) <= 300
    assert "loss: 1.00 at step 6000" in page.html or "Loss. loss:" in page.html
    assert len(page.html) < 100_000


def test_a_wild_step_does_not_flatten_the_rest(new_run):
    run = new_run()
    start(run)
    for step in range(1, 201):
        take(run, step, loss=1e6 if step == 120 else 0.1 + 0.001 * (step % 7))
    page = report_of(run)
    ends = [float(point.split(",")[1]) for attrs in page.all("polyline") for point in attrs["points"].split()]
    assert all(0 <= y <= 216 for y in ends)


def test_left_out_pairs_are_listed_with_reason_and_example(new_run):
    run = new_run()
    left_out = [
        {"reason": "tie: neither picture is preferred", "count": 7, "examples": ["a.jsonl line 3", "a.jsonl line 9"]},
        {"reason": "not labelled", "count": 2, "examples": []},
    ]
    start(run, left_out=left_out, upscaled=["small.png", "tiny.png"])
    take(run, 45)
    words = report_of(run).words
    assert "tie: neither picture is preferred7a.jsonl line 3, a.jsonl line 9" in words
    assert "Left out9" in words
    assert "Pictures enlarged2 (too small: small.png, tiny.png)" in words
    assert "Each pair was shown2.0 times" in words


def test_a_warning_is_said_once_however_often_the_run_was_resumed(new_run):
    run = new_run()
    for _ in range(3):
        run.log("warning", text="bitsandbytes is missing")
    assert report_of(run).words.count("Bitsandbytes is missing.") == 1


def test_changed_settings_stand_out_with_their_meaning_and_defaults_do_not(new_run):
    run = new_run(adapter={"rank": 32})
    page = report_of(run)
    described = RunConfig.model_fields["adapter"].annotation.model_fields
    assert described["rank"].description in page.words
    assert described["dropout"].description not in page.words
    assert '<dt class="changed">rank</dt><dd class="changed">32</dd>' in page.html
    assert '<dt class="default">dropout</dt>' in page.html


def test_every_host_is_told_how_to_load_the_file(new_run):
    run = new_run()
    run.lora_file.write_bytes(b"lora")
    words = report_of(run).words
    for needed in ("ComfyUI/models/loras", "<lora:my-taste:1>", "load_lora_weights", "It belongs to sdxl.safetensors"):
        assert needed in words


def test_a_lora_of_the_tiny_base_is_not_offered_to_hosts(new_run):
    run = new_run(base="tiny")
    run.lora_file.write_bytes(b"lora")
    words = report_of(run).words
    assert "fits the small model that comes with MaPO Studio" in words
    assert "ComfyUI/models/loras" not in words


@pytest.fixture
def added_to(new_run):
    """A finished run, and three sections of somebody's own."""
    run = new_run()
    finished(run)
    Image.new("RGB", (600, 600), "red").save(run.folder / "grid.png")
    rows = [["", "Before"], ["outlined", "4 %"]]
    sections = [("Before and after", rows), ("Pictures", run.folder / "grid.png"), ("In words", "It learned outlines.")]
    add_sections(run, summarize_run(run).step, sections)
    return run


def test_added_sections_stand_above_the_samples_in_every_report(added_to):
    for _ in range(2):
        page = report_of(added_to)
        places = [page.words.index(words) for words in ("outlined4 %", "It learned outlines.", "What it paints")]
        assert places == sorted(places)
        assert len(page.all("img")) == 1


def test_added_sections_move_with_the_run_and_are_gone_once_it_was_trained_on(added_to):
    moved = Run(added_to.folder.rename(added_to.folder.with_name("renamed")))
    assert len(report_of(moved).all("img")) == 1
    take(moved, 401)
    assert "It learned outlines." not in report_of(moved).words


def test_damaged_added_sections_are_left_out(added_to):
    for text in ("{", "[]", '{"step": 1, "sections": 3}'):
        (added_to.folder / "report-added.json").write_text(text)
        assert "It learned outlines." not in report_of(added_to).words


def test_a_second_report_replaces_the_first(new_run):
    run = new_run()
    write_report(run)
    finished(run)
    assert write_report(run) == run.report_file
    assert "83 %" in run.report_file.read_text(encoding="utf-8")
    assert not list(run.folder.glob(".*.part"))

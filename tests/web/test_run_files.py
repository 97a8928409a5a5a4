"""What of a run the page can get at, and how it shows: nothing but what is meant, and every word escaped."""

import pytest
from fastapi import FastAPI
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.jobs.job import Job, Status
from mapo_studio.trainer.reports.summary import summarize_run
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.web.components.model_choices import copy_folders, copy_to_hosts
from mapo_studio.web.components.run_panel import agreement_html, curves_html, log_html, progress_html, strip_html
from mapo_studio.web.server.preferences_file import Settings
from mapo_studio.web.server.run_files import address, run_files
from starlette.testclient import TestClient

HOSTILE = '<img src=x onerror=alert(1)>"&'


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path, RunConfig(name="my cats", base="tiny", data={"pairs": "dataset:cats"}))
    run.lora_file.write_bytes(b"lora")
    run.report_file.write_text("<p>report</p>")
    run.samples_folder.mkdir()
    for name in ("base-0.png", "newest-0.png", "step-00000008.png", "secret.txt"):
        (run.samples_folder / name).write_bytes(name.encode())
    return run


@pytest.fixture
def client(tmp_path):
    app = FastAPI()
    app.include_router(run_files(tmp_path))
    return TestClient(app)


def test_report_lora_and_samples_are_given_out(run, client):
    report = client.get(address(run, "report"))
    assert report.text == "<p>report</p>"
    assert report.headers["content-security-policy"].startswith("default-src 'none'")
    lora = client.get(address(run, "lora"))
    assert lora.content == b"lora"
    assert "my%20cats.safetensors" in lora.headers["content-disposition"]
    for name in ("base-0.png", "newest-0.png", "step-00000008.png"):
        assert client.get(address(run, f"samples/{name}")).content == name.encode()


@pytest.mark.parametrize(
    "path",
    [
        "/mapo/runs/my%20cats/run.toml",
        "/mapo/runs/my%20cats/events.jsonl",
        "/mapo/runs/my%20cats/samples/secret.txt",
        "/mapo/runs/my%20cats/samples/..%2Frun.toml",
        "/mapo/runs/my%20cats/samples/base-7.png",
        "/mapo/runs/..%2Fruns%2Fmy%20cats/report",
        "/mapo/runs/%2E%2E/report",
        "/mapo/runs/dogs/lora",
    ],
)
def test_nothing_else_is(run, client, path):
    assert client.get(path).status_code == 404


def test_what_comes_from_elsewhere_is_escaped(run):
    run.log("warning", text=HOSTILE)
    run.log("sample", step=8, file="step-00000008.png", prompts=[HOSTILE])
    (run.folder / "log.txt").write_text(HOSTILE)
    events = list(run.events())
    for shown in (progress_html(run, Job(run.folder).status(), events), strip_html(run, events), log_html(run)):
        assert "<img src=x" not in shown
        assert "&lt;img src=x" in shown


def test_an_option_in_a_warning_is_shown_as_code(run):
    run.log("warning", text="Lower `--push`")
    assert "Lower <code>--push</code>" in progress_html(run, Job(run.folder).status(), list(run.events()))


def test_a_waiting_run_says_what_it_waits_for(run, monkeypatch):
    status = Status("waiting", waiting_for="the training dogs-1")
    assert "waits for its turn: the training dogs-1 has the device" in progress_html(run, status, [])


def test_the_headline_is_the_newest_agreement_with_its_interval(run):
    assert agreement_html(summarize_run(run)) == ""
    measured = {"pairs": 30, "low": 0.65, "high": 0.92, "chosen_error": 0.1, "rejected_error": 0.2, "margin": 0.1}
    run.log("evaluation", step=0, agreement=0.5, **measured)
    run.log("evaluation", step=8, agreement=0.83, **measured)
    shown = agreement_html(summarize_run(run))
    assert "agrees with you on 83 % (65-92 %) of 30 pairs it has not trained on" in shown
    assert "with 95 % certainty; after step 8; 50 % before training" in shown
    assert curves_html(summarize_run(run)).count("<svg") == 3


def test_samples_of_a_run_without_single_pictures_are_shown_as_a_sheet(run):
    (run.samples_folder / "newest-0.png").unlink()
    run.log("sample", step=8, file="step-00000008.png", prompts=["a cat"])
    assert 'src="/mapo/runs/my%20cats/samples/step-00000008.png"' in strip_html(run, list(run.events()))


def test_a_lora_is_copied_to_every_host_once(run, tmp_path):
    hosts = {"comfyui": tmp_path / "comfy", "webui": tmp_path / "webui"}
    (hosts["comfyui"] / "models" / "loras").mkdir(parents=True)
    (hosts["webui"] / "models" / "Lora").mkdir(parents=True)
    settings = Settings(**{k: str(v) for k, v in hosts.items()}, loras=str(hosts["comfyui"] / "models" / "loras"))
    assert len(copy_folders(settings)) == 2
    copy_to_hosts(run, settings)
    assert sorted(file.parent.name for file in tmp_path.glob("*/models/*/my cats.safetensors")) == ["Lora", "loras"]

"""What a run leaves behind when its last moment is not its best, when it ends early, and when it does damage.

What is measured is made up, since a base without a taste has no best moment; everything else is a real training.
"""

import hashlib
import json

import pytest
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.jobs.job import Job
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.reports.report import write_report
from mapo_studio.trainer.reports.summary import headline, how_it_ended, summarize_run
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.heldout_eval import EvalResult, HeldOut
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.loop import train

pytestmark = pytest.mark.slow

RISES_AND_FALLS = {0: (0.5, 0.05), 1: (0.7, 0.05), 2: (0.8, 0.05), 3: (0.95, 0.04), 4: (0.8, 0.05), 5: (0.7, 0.06)}
SATURATED = {step: (1.0, 0.05 - 0.005 * step) for step in range(6)}
WATCH = {"evaluate_every": 1, "checkpoint_every": 2, "log_every": 1, "sample_every": 0}


class PowerCut(BaseException):
    pass


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def measuring(monkeypatch):
    """measuring(course): from now on what is measured after each step is as told; gives the weights at each of them."""
    train_step = Learner.train_step
    now = {"step": 0}
    seen: dict[int, dict[str, str]] = {}

    def learning(self, step, batches):
        if step == now.get("cut"):
            raise PowerCut
        numbers = train_step(self, step, batches)
        now["step"] = step + 1
        return numbers

    def use(course, cut=None):
        now["cut"] = cut

        def measure(self, base, unet, *_):
            seen[now["step"]] = digests(adapter.lora_state_dict(unet))
            agreement, error = course[now["step"]]
            return EvalResult(40, agreement, agreement - 0.1, min(agreement + 0.1, 1.0), error, 0.1, 0.01)

        monkeypatch.setattr(HeldOut, "measure", measure)
        return seen

    monkeypatch.setattr(Learner, "train_step", learning)
    return use


def digests(state) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}


def new(workspace, settings, name, **watch) -> Run:
    return Run.create(workspace, settings(name=name, training={"steps": 5}, watch={**WATCH, **watch}))


def go(run: Run):
    return train(run, StopRequest(run.stop_file))


def lora(run: Run) -> dict[str, str]:
    return digests(read_lora(run.lora_file).state)


def kept_files(run: Run) -> list[str]:
    return sorted(file.name for file in run.state_folder.glob("kept-*"))


def test_the_best_moment_becomes_the_lora_and_the_run_says_so(workspace, settings, measuring):
    seen = measuring(RISES_AND_FALLS)
    run = new(workspace, settings, "best", sample_every=5, sample_steps=1)
    outcome = go(run)
    assert lora(run) == seen[3] != seen[5]
    assert (outcome.best_step, outcome.step, outcome.finished, outcome.stopped_early) == (3, 5, True, False)
    assert outcome.agreement.agreement == 0.95
    metadata = read_lora(run.lora_file).metadata
    assert (metadata["mapo.steps"], metadata["mapo.agreement"]) == ("3", "0.95")
    said = "The LoRA is that of step 3 of 5: the agreement fell from 95 % to 70 % since."
    summary = summarize_run(run)
    assert said in how_it_ended(summary)
    assert "95 %" in headline(summary)
    assert said.replace(" ", "") in write_report(run).read_text().replace(" ", "")
    status = Job(run.folder).status()
    assert (status.phase, status.done, status.total, status.agreement) == ("finished", 5, 5, 0.95)
    assert said in status.message
    assert (run.samples_folder / "step-00000003.png").is_file(), "what is in the file is what was painted last"
    assert kept_files(run) == []


def test_agreement_that_is_full_from_the_start_keeps_the_last_step(workspace, settings, measuring):
    seen = measuring(SATURATED)
    run = new(workspace, settings, "saturated")
    assert go(run).best_step == 5
    assert lora(run) == seen[5]
    assert Job(run.folder).status().message == ""


def test_who_wants_the_last_step_gets_it(workspace, settings, measuring):
    seen = measuring(RISES_AND_FALLS)
    run = new(workspace, settings, "last", keep="last")
    outcome = go(run)
    assert (outcome.best_step, outcome.message) == (5, "")
    assert lora(run) == seen[5]
    assert outcome.agreement.agreement == 0.7


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_run_that_is_cut_off_keeps_the_same(workspace, settings, measuring, cut):
    """3: the best moment was measured, but the state is of before; 4: the state is of after."""
    run = new(workspace, settings, f"cut-{cut}")
    measuring(RISES_AND_FALLS, cut=cut)
    with pytest.raises(PowerCut):
        go(run)
    seen = measuring(RISES_AND_FALLS)
    assert go(run).best_step == 3
    assert lora(run) == seen[3]


def test_a_run_that_is_stopped_after_its_best_moment_has_it_in_its_file_and_goes_on_with_the_newest(
    workspace, settings, measuring, monkeypatch
):
    seen = measuring(RISES_AND_FALLS)
    run = new(workspace, settings, "stopped")
    stop = StopRequest(run.stop_file)
    train_step = Learner.train_step

    def stopping(self, step, batches):
        if step == 4:
            run.stop_file.touch()
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", stopping)
    config = run.config()
    run.save_config(config.model_copy(update={"training": config.training.model_copy(update={"steps": 6})}))
    outcome = train(run, stop)
    assert (outcome.finished, outcome.step, outcome.best_step) == (False, 5, 3)
    assert lora(run) == seen[3]
    assert kept_files(run) == ["kept-00000003.safetensors"]
    seen.clear()
    monkeypatch.setattr(Learner, "train_step", train_step)
    measuring(RISES_AND_FALLS | {6: (1.0, 0.04)})
    assert go(run).best_step == 6
    assert lora(run) == seen[6]


def test_a_run_that_brings_nothing_more_ends_early_and_stays_ended(workspace, settings, measuring, capsys):
    seen = measuring({**RISES_AND_FALLS, 2: (0.95, 0.04), 3: (0.7, 0.05)})
    run = new(workspace, settings, "early", patience=2)
    code = main(["resume", "early", "--workspace", str(workspace), "--json"])
    said, _ = capsys.readouterr()
    assert code == 0
    assert "ended early, after step 4 of 5" in said
    facts = json.loads(said.splitlines()[-1])
    assert (facts["finished"], facts["early"], facts["step"], facts["kept"]) == (True, True, 4, 2)
    assert lora(run) == seen[2]
    status = Job(run.folder).status()
    assert (status.phase, status.done, status.total) == ("finished", 4, 4)
    assert "ended early" in status.message
    assert how_it_ended(summarize_run(run)).startswith("The training ended early")
    assert "ended early" in run.report_file.read_text()

    before = [event["event"] for event in run.events()].count("step")
    outcome = go(run)  # asked to go on, it is complete already, and what it kept stays
    assert (outcome.finished, outcome.stopped_early, outcome.step, outcome.best_step) == (True, True, 4, 2)
    assert [event["event"] for event in run.events()].count("step") == before
    assert lora(run) == seen[2]


def test_a_run_whose_agreement_is_bought_with_its_pictures_says_so_once_while_it_goes_on(
    workspace, settings, measuring
):
    measuring({step: (0.9, 0.05 * 1.3**step) for step in range(6)})
    run = new(workspace, settings, "harm", keep="last")
    go(run)
    alarms = [event for event in run.events() if event["event"] == "warning" and event.get("kind") == "harm"]
    (alarm,) = alarms
    assert alarm["step"] == 1
    assert "rose by 30 %" in alarm["text"]
    assert "--safeguard" in alarm["text"]
    page = write_report(run).read_text()
    assert page.count("getting worse at painting") == 1, "at the end it is said once, as it is then"
    assert "rose by 271 %" in page

"""Two real processes train one run: the same LoRA, one writer, one end. They talk by gloo, as on CPUs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.loop import train

pytestmark = pytest.mark.slow

LAUNCHER = Path(__file__).parents[2] / "trainer" / "__main__.py"
STEPS = 6


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def config(settings):
    """config(name, **parts): batches of two sizes of picture, the last of a bucket short, with LoRA dropout."""

    def make(name: str, **training) -> RunConfig:
        return settings(
            name=name,
            adapter={"rank": 4, "dropout": 0.1},
            optimization={"learning_rate": 1e-3, "warmup_steps": 2},
            training={"steps": STEPS, "batch_size": 2, "accumulation": 1} | training,
            watch={"evaluate_every": 3, "checkpoint_every": 100, "log_every": 1},
        )

    return make


def two(run: Run, script: Path = LAUNCHER, **environment: str) -> subprocess.Popen:
    """Two processes that train `run`, in a process group of their own as a terminal would make it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, str(script), "resume", run.name, "--workspace", str(run.workspace), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **pipes)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=300)
    return process.returncode, said, complained


def one(run: Run) -> None:
    train(run, StopRequest(run.stop_file))


def progress(run: Run) -> dict:
    newest = sorted(run.state_folder.glob("step-*"))[-1]
    return json.loads((newest / "progress.json").read_text())


def apart(a: Run, b: Run) -> float:
    """How far the two LoRAs are apart anywhere."""
    first, second = read_lora(a.lora_file).state, read_lora(b.lora_file).state
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def events(run: Run, kind: str) -> list[dict]:
    return [event for event in run.events() if event["event"] == kind]


def test_two_processes_give_the_lora_of_one_with_twice_the_accumulation(workspace, config):
    together, alone = Run.create(workspace, config("together")), Run.create(workspace, config("alone", accumulation=2))
    code, said, complained = ended(two(together))
    assert code == 0, complained
    encoded = events(together, "started")[0]["encoded"]
    assert encoded == len(list((workspace / "cache").rglob("*.safetensors"))), "each picture and prompt once"
    one(alone)
    assert apart(together, alone) <= 1e-6
    assert progress(together)["batches"] == progress(alone)["batches"] == 2 * STEPS
    assert json.loads(said.splitlines()[-1])["finished"] is True, "one process speaks"
    assert [event["step"] for event in events(together, "step")] == list(range(1, STEPS + 1)), "one process writes"
    for ours, theirs in zip(events(together, "step"), events(alone, "step"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    for ours, theirs in zip(events(together, "evaluation"), events(alone, "evaluation"), strict=True):
        assert ours["margin"] == pytest.approx(theirs["margin"], rel=1e-4, abs=1e-7)


def test_ctrl_c_stops_both_at_one_step_and_one_process_goes_on_from_there(workspace, config):
    run = Run.create(workspace, config("stopped", steps=10_000))
    process = two(run)
    until = time.monotonic() + 240
    while not events(run, "step") and process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the launcher tells its processes once more
    _, said, complained = ended(process)
    assert "saved; resume it by" in said, complained
    step = progress(run)["step"]
    assert progress(run)["batches"] == 2 * step
    text = run.settings_file.read_text()
    run.settings_file.write_text(text.replace("steps = 10000", f"steps = {step + 2}"))
    one(run)
    assert progress(run)["batches"] == 2 * step + 2
    assert [event["step"] for event in events(run, "step")] == list(range(1, step + 3))


def test_two_processes_go_on_with_what_one_has_begun(workspace, config, monkeypatch):
    run, train_step = Run.create(workspace, config("begun")), Learner.train_step

    def ask(self, step, batches):
        if step == 1:
            run.stop_file.touch()
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", ask)
    one(run)
    monkeypatch.undo()
    assert progress(run)["batches"] == 2
    wanted = Run(Path(shutil.copytree(run.folder, run.folder.with_name("wanted"))))
    wanted.settings_file.write_text(re.sub(r"accumulation = 1\b", "accumulation = 2", wanted.settings_file.read_text()))
    wanted.stop_file.unlink()
    code, _, complained = ended(two(run))
    assert code == 0, complained
    one(wanted)
    assert progress(run)["batches"] == progress(wanted)["batches"] == 2 + 2 * (STEPS - 2)
    assert apart(run, wanted) <= 1e-6


def test_an_error_of_one_ends_both_with_its_sentence(workspace, config):
    run = Run.create(workspace, config("failing", steps=1000))
    code, _, complained = ended(two(run, Path(__file__).with_name("rank_process.py")))
    assert code != 0
    assert complained.count("mapo resume: a cosmic ray hit the second process\n") == 1, complained
    assert list(run.events())[-1]["event"] == "failed"
    assert list(run.events())[-1]["error"] == "a cosmic ray hit the second process"


def test_a_process_that_is_killed_ends_the_other_which_says_that_the_run_can_be_resumed(workspace, config):
    run = Run.create(workspace, config("killed", steps=1000))
    process = two(run, Path(__file__).with_name("rank_process.py"), MAPO_TEST_RANK_1="is killed")
    code, _, complained = ended(process)
    assert code != 0
    (failed,) = events(run, "failed")
    assert failed["error"].startswith("another process of this training exited unexpectedly")
    assert complained.count(f"mapo resume: {failed['error']}\n") == 1, complained


def test_a_mistake_that_all_processes_see_is_said_once(workspace, config):
    run = Run.create(workspace, config("mistaken"))
    shutil.rmtree(run.folder / "state", ignore_errors=True)
    text = run.settings_file.read_text()
    run.settings_file.write_text(re.sub(r'device = ".*"', 'device = "cuda:7"', text))
    code, _, complained = ended(two(run))
    assert code != 0
    assert complained.count("mapo resume: ") == 1, complained


def test_two_processes_find_the_temperature_of_one_and_end_early_where_one_does(workspace, settings):
    """A patience of 1 ends a run on random weights soon; both must see the same end and keep the same moment."""

    def made(name: str, **training) -> Run:
        config = settings(
            name=name,
            objective={"temperature": "auto", "margin_weight": "auto"},
            optimization={"learning_rate": 1e-3, "warmup_steps": 2},
            training={"steps": STEPS, "batch_size": 2, "accumulation": 1} | training,
            watch={"evaluate_every": 1, "patience": 1, "checkpoint_every": 100, "log_every": 1},
        )
        return Run.create(workspace, config)

    together, alone = made("patient-two"), made("patient-one", accumulation=2)
    code, said, complained = ended(two(together))
    assert code == 0, complained
    one(alone)
    (found,), (same,) = events(together, "calibrated"), events(alone, "calibrated")
    assert found["temperature"] == pytest.approx(same["temperature"], rel=1e-3)
    (ending,), (same_ending,) = events(together, "finished"), events(alone, "finished")
    assert [ending[name] for name in ("step", "kept", "early")] == [
        same_ending[name] for name in ("step", "kept", "early")
    ]
    assert json.loads(said.splitlines()[-1])["kept"] == ending["kept"]
    assert apart(together, alone) <= 1e-5

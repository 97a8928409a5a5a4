"""States that a run goes on from."""

import json
import subprocess
import sys

import pytest
import torch
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.training.checkpoint import Origin, State, latest_step, load_state, save_state

pytestmark = pytest.mark.slow

ORIGIN = Origin(base="b" * 16, pairs="p" * 16)


def state(step: int) -> State:
    weight = torch.nn.Parameter(torch.full((4, 4), float(step)))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return State(step, {"a": weight.detach()}, {"optimizer": optimizer.state_dict()}, ORIGIN, batches=2 * step)


def test_a_state_comes_back_as_it_was(tmp_path):
    saved = state(7)
    save_state(tmp_path, saved)
    loaded = load_state(tmp_path, ORIGIN)
    assert (loaded.step, loaded.batches) == (7, 14)
    assert torch.equal(loaded.adapter["a"], saved.adapter["a"])
    moments = loaded.optimizer["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], saved.optimizer["optimizer"]["state"][0]["exp_avg"])


def test_a_state_of_before_there_were_several_processes_says_no_batches(tmp_path):
    folder = save_state(tmp_path, state(7))
    progress = json.loads((folder / "progress.json").read_text())
    del progress["batches"]
    (folder / "progress.json").write_text(json.dumps(progress))
    assert load_state(tmp_path, ORIGIN).batches is None


def test_the_last_two_states_are_kept(tmp_path):
    for step in (5, 10, 15):
        save_state(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    assert latest_step(tmp_path) == 15


def test_nothing_saved_is_nothing_to_load(tmp_path):
    assert load_state(tmp_path / "none", ORIGIN) is None
    assert latest_step(tmp_path / "none") is None


@pytest.mark.parametrize("other", [Origin("x", ORIGIN.pairs), Origin(ORIGIN.base, "x")])
def test_a_state_of_another_base_or_other_pairs_is_refused(tmp_path, other):
    save_state(tmp_path / "cats" / "state", state(5))
    with pytest.raises(UserError, match=r"cats was started with other (base|pairs)"):
        load_state(tmp_path / "cats" / "state", other)


def test_a_state_half_written_when_the_process_died_is_not_loaded(tmp_path):
    save_state(tmp_path, state(5))
    part = tmp_path / ".step-00000010.part"
    part.mkdir()
    (part / "adapter.safetensors").write_bytes(b"half")
    assert load_state(tmp_path, ORIGIN).step == 5
    save_state(tmp_path, state(10))
    assert not part.exists()


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from mapo_studio.trainer.training.checkpoint import Origin, State, save_state
from mapo_studio.trainer.errors import UserError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
save_state(folder, State(5, {"a": torch.zeros(10)}, {}, Origin("b", "p")))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save_state(folder, State(10, {"a": torch.zeros(1_000_000)}, {}, Origin("b", "p")))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["adapter", "optimizer"])
def test_a_disk_that_takes_no_more_leaves_the_state_before(tmp_path, what):
    script = FULL_DISK
    if what == "optimizer":
        script = script.replace(
            '{"a": torch.zeros(1_000_000)}, {}', '{"a": torch.zeros(1)}, {"m": torch.zeros(1_000_000)}'
        )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "no room to write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]

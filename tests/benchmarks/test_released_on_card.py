"""The released script as a row beside ours: begun as it is, paced, timed and measured, here with a stand-in for it."""

import sys

import pytest
from mapo_studio.benchmarks.released_on_card import theirs

SCRIPT = """
import sys, time
from accelerate import Accelerator

accelerator = Accelerator()
{trouble}
assert "--train_batch_size=2" in sys.argv and "--resolution=64" in sys.argv and "--mixed_precision=no" in sys.argv
for step in range(1000):
    time.sleep(0.02)
    accelerator.log({{"loss": 0.0}}, step=step)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "work" / "models").mkdir(parents=True)  # the base is there already
    return tmp_path / "work"


def clone(tmp_path, trouble=""):
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "train_with_lora.py").write_text(SCRIPT.format(trouble=trouble))
    return tmp_path / "clone"


@pytest.mark.slow
def test_its_steps_are_timed_and_its_memory_is_seen(tmp_path, folder):
    seen = theirs(clone(tmp_path), sys.executable, folder, side=64, pairs=2, small=True)
    assert seen.pairs == 2
    assert 0.02 <= seen.seconds < 2
    assert seen.pairs_a_second == pytest.approx(2 / seen.seconds)
    assert seen.peak_gib > 0.05


@pytest.mark.slow
def test_one_that_fails_is_no_row_and_says_where_to_look(tmp_path, folder, capsys):
    script = clone(tmp_path, "raise SystemExit('no such base')")
    assert theirs(script, sys.executable, folder, side=64, pairs=2, small=True) is None
    assert "log.txt" in capsys.readouterr().err
    assert "no such base" in (folder / "2-pairs" / "log.txt").read_text()

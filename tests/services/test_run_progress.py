"""What a run is said to do, from its status and the end of its events."""

import pytest
from mapo_studio.trainer.cli import progress_bar
from mapo_studio.trainer.jobs.job import Status
from mapo_studio.trainer.services.run_progress import ENCODING_PHASES, RunProgress, run_progress


def event(name, **values):
    return {"event": name, "time": 0.0, **values}


ENCODING = event("encoding", phase="latents", done=3, total=12)


@pytest.mark.parametrize(
    ("status", "events", "progress"),
    [
        (Status("waiting"), [], RunProgress("starts")),
        (Status("waiting", waiting_for="dogs-1"), [], RunProgress("waits for its turn: dogs-1 has the device")),
        (Status("running"), [event("acquired")], RunProgress("loading the base")),
        (Status("running", 7, 40), [event("step"), event("acquired")], RunProgress("loading the base")),
        (Status("running"), [ENCODING], RunProgress("encoding pictures", 3, 12)),
        (Status("running"), [ENCODING, event("warning")], RunProgress("encoding pictures", 3, 12)),
        (Status("running", 0, 40), [ENCODING, event("started")], RunProgress("training", 0, 40, True)),
        (Status("running", 8, 40), [event("step"), event("checkpoint")], RunProgress("training", 8, 40, True)),
        (Status("stopped", 8, 40), [event("step"), event("stopped")], RunProgress("training", 8, 40, True)),
    ],
)
def test_the_newest_event_that_counts_says_what_a_run_does(status, events, progress):
    assert run_progress(status, events) == progress


def test_the_terminal_says_it_in_the_same_words(capsys):
    for phase, words in ENCODING_PHASES.items():
        progress_bar._Lines()(event("encoding", phase=phase, done=1, total=2))
        assert capsys.readouterr().err == f"{words}: 1 of 2\n"

"""Progress bar: what the terminal shows of a run."""

import io

import pytest
from mapo_studio.trainer.cli import progress_bar
from mapo_studio.trainer.cli.progress_bar import watching
from rich.console import Console

EVENTS = [
    {"event": "encoding", "phase": "latents", "done": 3, "total": 24, "reused": 0},
    {"event": "started", "steps": 100, "pairs": 20, "held_out": 4, "reused": 7},
    {"event": "step", "step": 25, "remaining": 75.0, "loss": 0.25},
    {"event": "evaluation", "step": 25, "agreement": 0.75, "low": 0.3, "high": 0.95, "pairs": 4}
    | {"chosen_error": 0.1, "rejected_error": 0.2},
    {"event": "warning", "text": "[red] is not markup"},
    {"event": "checkpoint", "step": 25},
]


def test_a_log_gets_plain_lines_and_not_one_for_every_step(capfd):
    with watching() as listen:
        for event in EVENTS + EVENTS[2:3] * 50:
            listen(event)
    lines = capfd.readouterr().err.splitlines()
    assert "20 pairs to train on, 4 held out; 7 cache entries reused" in lines
    assert any("agrees with you on 75 % (30-95 %) of 4 pairs it has not trained on" in line for line in lines)
    assert "note: [red] is not markup" in lines
    assert len(lines) < 8
    assert "\x1b" not in "".join(lines)


@pytest.fixture
def shown(monkeypatch):
    """shown(width, events): what is written to a terminal of that many columns."""

    def show(width, events):
        screen = io.StringIO()

        def console(highlight, **_):
            return Console(file=screen, force_terminal=True, width=width, legacy_windows=False, highlight=highlight)

        monkeypatch.setattr(progress_bar, "Console", console)
        with watching() as listen:
            for event in events:
                listen(event)
        return screen.getvalue()

    return show


def test_a_terminal_gets_a_bar_with_the_time_that_remains(shown):
    shown = shown(120, EVENTS)
    assert "25/100" in shown
    assert "1 min 15 s left" in shown
    assert "[red] is not markup" in shown


@pytest.mark.parametrize(("width", "left"), [(80, "1 h 15 min left"), (40, "1 h 15")])
def test_the_step_stays_whole_in_a_narrow_terminal(shown, width, left):
    long = {"event": "step", "step": 1250, "remaining": 4500.0, "loss": 0.25}
    events = [EVENTS[0] | {"phase": "check"}, EVENTS[1] | {"steps": 5000}, *EVENTS[2:4], long]
    last = [line for line in shown(width, events).splitlines() if "training" in line][-1]
    assert "1250/5000" in last
    assert left in last

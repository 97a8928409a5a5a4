"""The event log: what earlier versions wrote is read under today's names."""

import json

from mapo_studio.trainer.runs import event_log
from mapo_studio.trainer.training.early_stopping import history_of

OLD = [
    {"time": 1.5, "event": "step", "step": 1, "loss": 0.1, "winner_error": 0.3, "loser_error": 0.4, "margin": 0.1},
    {"time": 2.5, "event": "evaluation", "step": 1, "agreement": 0.75, "pairs": 4, "winner_error": 0.3}
    | {"loser_error": 0.4, "low": 0.3, "high": 0.9, "margin": 0.1, "agreeing": "1110"},
]


def test_errors_are_chosen_and_rejected_whatever_wrote_them(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in OLD))
    for events in (event_log.read(file), event_log.read_end(file)):
        assert [(event["chosen_error"], event["rejected_error"]) for event in events] == [(0.3, 0.4)] * 2
        assert not any("winner" in name or "loser" in name for event in events for name in event)
        assert events[0] == {"time": 1.5, "event": "step", "step": 1, "loss": 0.1, "margin": 0.1} | {
            "chosen_error": 0.3,
            "rejected_error": 0.4,
        }
    assert history_of(event_log.read(file)).best.chosen_error == 0.3

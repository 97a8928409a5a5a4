"""What the calibrated temperature, the loser guard and the kept moment do on the demo's base and pairs."""

import pytest
from mapo_studio.trainer.config import parse_config
from mapo_studio.trainer.demo.pairs import write_pairs
from mapo_studio.trainer.demo.recipe import recipe
from mapo_studio.trainer.families.opening import TINY
from mapo_studio.trainer.loop import train
from mapo_studio.trainer.lora_file import read_lora
from mapo_studio.trainer.runs import Run
from mapo_studio.trainer.stopping import StopRequest

pytestmark = pytest.mark.slow

RELEASED = {"margin_weight": 0.1, "temperature": 1000.0, "error_scale": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name, objective, ...): the evaluations of a short training on outlined shapes over plain ones."""
    workspace = tmp_path_factory.mktemp("demo")
    write_pairs(workspace / "pairs", 60, seed=0)

    def make(name, objective, steps=40, pairs_a_step=4, **watch):
        values = recipe()
        values["training"] |= {"steps": steps, "batch_size": pairs_a_step}
        values["watch"] |= {"sample_every": 0, "evaluate_every": steps // 4, "evaluate_pairs": 20, **watch}
        data = {"pairs": str(workspace / "pairs"), "held_out": 0.3}
        run = Run.create(
            workspace, parse_config({**values, "name": name, "base": TINY, "data": data, "objective": objective}, "")
        )
        outcome = train(run, StopRequest(run.stop_file))
        return run, outcome, [event for event in run.events() if event["event"] == "evaluation"]

    return make


def test_at_the_released_knobs_the_guard_keeps_the_error_on_chosen_pictures_lower(trained):
    *_, free = trained("free", RELEASED)
    *_, guarded = trained("guarded", {**RELEASED, "loser_guard": 0.6})
    assert guarded[0]["winner_error"] == free[0]["winner_error"]
    assert guarded[-1]["winner_error"] < 0.95 * free[-1]["winner_error"]
    assert guarded[-1]["agreement"] >= 0.8, "and it still learns which one was chosen"


def test_a_temperature_from_the_pairs_learns_the_taste(trained):
    run, _, measured = trained("auto", {"temperature": "auto", "margin_weight": "auto"})
    (found,) = [event for event in run.events() if event["event"] == "calibrated"]
    assert found["temperature"] * found["spread"] == pytest.approx(1.0)
    assert measured[-1]["agreement"] >= measured[0]["agreement"] + 0.2
    assert measured[-1]["winner_error"] < measured[0]["winner_error"]


def test_a_training_that_goes_on_until_it_spoils_keeps_a_moment_from_before(trained):
    """DPO alone holds on to nothing: both errors rise for as long as it is trained."""
    run, outcome, measured = trained("spoils", {"kind": "dpo", "beta": 2000.0})
    at = {event["step"]: event for event in measured}
    assert outcome.kept < outcome.step
    assert at[outcome.kept]["agreement"] >= 0.8
    assert at[outcome.step]["winner_error"] > 1.1 * at[outcome.kept]["winner_error"]
    assert read_lora(run.lora_file).metadata["mapo.steps"] == str(outcome.kept)
    assert any(event.get("kind") == "harm" for event in run.events())

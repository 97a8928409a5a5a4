"""The guard on the rejected picture's gradient: what it promises of the chosen one's error, and where it stays out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.demo.judge import write_pairs
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.batches import seeded
from mapo_studio.trainer.training.loop import train
from mapo_studio.trainer.training.objectives import DPO, DPOPlusSFT, MaPO, PairErrors
from mapo_studio.trainer.training.safeguard import safeguard_factor

OBJECTIVES = [MaPO(), MaPO(1 / 64, 64.0, 1.0), DPO(2000.0), DPO(20.0), DPOPlusSFT(200.0, 0.5)]
SHAPE = (1, 4, 4, 4)


def residual(*parts) -> torch.Tensor:
    return torch.randn(SHAPE, generator=seeded(*parts), dtype=torch.float64)


def error(off: torch.Tensor) -> torch.Tensor:
    return off.square().mean(dim=(1, 2, 3))


def slopes(objective, chosen_off, rejected_off):
    """d loss / d error of both pictures, as the objective has them."""
    ends = error(chosen_off).requires_grad_(), error(rejected_off).requires_grad_()
    references = (error(chosen_off), error(rejected_off)) if objective.needs_reference else (None, None)
    return torch.autograd.grad(objective(PairErrors(*ends, *references)).loss, ends)


def factor(objective, chosen_off, rejected_off, mu):
    pull, push = slopes(objective, chosen_off, rejected_off)
    return safeguard_factor(pull, push, error(chosen_off), (chosen_off * rejected_off).mean(dim=(1, 2, 3)), mu)


@given(
    st.sampled_from(OBJECTIVES), st.integers(0, 10**6), st.floats(-0.99, 0.99), st.floats(0.1, 8), st.floats(0, 0.99)
)
def test_a_step_of_a_shared_prediction_never_raises_the_error_on_the_chosen_picture(objective, seed, alike, size, mu):
    """To first order, as the file derives it; at least mu of what the pull alone would bring is left."""
    chosen_off = 0.3 * residual("chosen", seed)
    rejected_off = size * (alike * chosen_off + (1 - abs(alike)) * 0.3 * residual("rejected", seed))
    pull, push = slopes(objective, chosen_off, rejected_off)
    assume(pull.item() > 1e-12)
    through = factor(objective, chosen_off, rejected_off, mu)
    assert 0 <= through.item() <= 1

    # By autograd and without the formula: both errors as functions of one prediction that is moved.
    moved = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    (grad_chosen,) = torch.autograd.grad(error(chosen_off + moved).sum(), moved)
    (grad_rejected,) = torch.autograd.grad(error(rejected_off + moved).sum(), moved)
    step = -(pull * grad_chosen + through * push * grad_rejected)
    change = (grad_chosen * step).sum()
    by_pull_alone = (pull * grad_chosen.square().sum()).item()
    assert change <= (1e-9 - mu) * by_pull_alone
    if (chosen_off * rejected_off).mean() <= 0:
        assert through.item() == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_the_guard_the_same_step_does_raise_it(objective):
    """A rejected picture that is further off in the same direction: what the guard is for."""
    chosen_off = 0.3 * residual("chosen")
    rejected_off = 100 * chosen_off
    pull, push = slopes(objective, chosen_off, rejected_off)
    free = -(pull * chosen_off + push * rejected_off)
    guarded = -(pull * chosen_off + factor(objective, chosen_off, rejected_off, 0.5) * push * rejected_off)
    assume_pushed = push.abs().item() > 1e-9
    assert ((chosen_off * free).sum() > 0) == (assume_pushed and 100 * push.abs().item() > pull.item())
    assert (chosen_off * guarded).sum() < 0


def test_it_is_the_papers_factor_where_pull_and_push_are_equally_strong():
    chosen_off, rejected_off = residual("a"), residual("a") + 0.5 * residual("b")
    g_w, g_l = chosen_off.flatten(), rejected_off.flatten()
    paper = min(1.0, ((1 - 0.6) * g_w.square().sum() / (g_w @ g_l)).item())
    assert paper < 1
    assert factor(DPO(2000.0), chosen_off, rejected_off, 0.6).item() == pytest.approx(paper)


def test_pairs_without_a_conflict_are_left_alone():
    one, zero = torch.ones(1), torch.zeros(1)
    assert safeguard_factor(one, -one, one, -one, 0.9) == 1, "what pushes the rejected picture off pulls the chosen one"
    assert safeguard_factor(one, -one, one, zero, 0.9) == 1
    assert safeguard_factor(one, zero, one, one, 0.9) == 1, "no push"
    assert safeguard_factor(one, one, one, one, 0.9) == 1, "the rejected picture is pulled: most people chose it"
    assert safeguard_factor(-one, -one, one, one, 0.9) == 1, "the chosen picture is not pulled"
    assert safeguard_factor(one, -one, zero, one, 0.9) == 0, "nothing is left to be pulled"
    assert safeguard_factor(zero, zero, one, one, 0.9) == 1, "a pair of weight 0"


def test_a_pairs_weight_does_not_change_what_is_let_through():
    chosen_off, rejected_off = torch.cat([0.1 * residual("a")] * 2), torch.cat([0.102 * residual("a")] * 2)
    ends = error(chosen_off).requires_grad_(), error(rejected_off).requires_grad_()
    errors = replace(PairErrors(*ends), weight=torch.tensor([1.0, 0.1], dtype=torch.float64))
    pull, push = torch.autograd.grad(MaPO()(errors).loss, ends)
    through = safeguard_factor(pull, push, error(chosen_off), (chosen_off * rejected_off).mean(dim=(1, 2, 3)), 0.6)
    assert through[0] == pytest.approx(through[1])
    assert through[0] < 1


@pytest.mark.slow
def test_a_hard_push_raises_the_error_on_chosen_pictures_and_the_guard_holds_it(tmp_path):
    """On the tiny base with outlined shapes over plain ones: the guard's effect, which docs/recipe.md weighs."""
    write_pairs(tmp_path / "pairs", 48, seed=0)

    def rise(name, **knobs):
        values = {
            "name": name,
            "base": "tiny",
            "data": {"pairs": str(tmp_path / "pairs"), "held_out": 0.3},
            "adapter": {"rank": 8},
            "objective": {"push": 64.0, **knobs},
            "optimization": {"learning_rate": 2e-3, "warmup_steps": 5, "schedule": "constant"},
            "training": {"steps": 30, "batch_size": 4, "accumulation": 1, "device": "cpu"},
            "watch": {"evaluate_every": 30, "sample_every": 0, "checkpoint_every": 1000},
        }
        run = Run.create(tmp_path, parse_config(values, "test"))
        train(run, StopRequest(run.stop_file))
        before, after = (event["chosen_error"] for event in run.events() if event["event"] == "evaluation")
        return after / before

    assert rise("free") > 1.3
    assert rise("guarded", safeguard=0.9) < 1.2

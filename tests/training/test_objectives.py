"""Objectives against the plain float64 formulas, at the edges, and in their symmetries."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mapo_studio.trainer.training.objectives import DPO, SFT, DPOPlusSFT, MaPO, PairErrors, mapo_phi
from mpmath import mp, mpf
from torch import tensor

mp.dps = 150
errors = st.floats(math.ldexp(1, -27), 1e3, width=32)  # from 7.5e-9


def exact_mapo(chosen, rejected, preference, objective):
    """The formula and its gradients in 150 digits, by mpmath's own derivatives."""

    def loss(w, l):  # noqa: E741
        phi = lambda x: x / (mp.e**x - 1)  # noqa: E731
        z = mpf(objective.temperature) * (phi(mpf(objective.scale) * w) - phi(mpf(objective.scale) * l))
        p = mpf(preference)
        return w + mpf(objective.weight) * (p * mp.log(1 + mp.e**-z) + (1 - p) * mp.log(1 + mp.e**z))

    w, l = mpf(chosen), mpf(rejected)  # noqa: E741
    return loss(w, l), slope(lambda x: loss(x, l), w), slope(lambda x: loss(w, x), l)


def slope(function, at):
    h = mpf(10) ** -60
    return (function(at + h) - function(at - h)) / (2 * h)


def rounding(error, objective) -> float:
    """What float64 may lose of a gradient: at a half preference two pulls of this size, times 1e-15, all but cancel."""
    phi_slope = slope(lambda x: x / (mp.e**x - 1), mpf(objective.scale) * mpf(error))
    return 1e-15 * objective.weight * objective.temperature * objective.scale * float(abs(phi_slope))


def value_and_gradients(objective, chosen, rejected, **extra):
    w = tensor([chosen], dtype=torch.float32, requires_grad=True)
    l = tensor([rejected], dtype=torch.float32, requires_grad=True)  # noqa: E741
    judged = objective(PairErrors(w, l, **extra))
    judged.loss.backward()
    return judged, w.grad.item(), 0.0 if l.grad is None else l.grad.item()


@given(errors, errors, st.sampled_from([0.5, 0.7, 1.0]), st.sampled_from([MaPO(), MaPO.paper(8), MaPO.paper(1024)]))
@example(29.0, 36.0, 0.5, MaPO.paper(8))
def test_mapo_equals_the_formula_within_a_millionth(chosen, rejected, preference, objective):
    judged, grad_w, grad_l = value_and_gradients(objective, chosen, rejected, preference=tensor([preference]))
    # float32 rounding of the share itself is not the objective's error
    loss, exact_w, exact_l = exact_mapo(chosen, rejected, float(torch.tensor(preference)), objective)
    assert judged.loss.item() == pytest.approx(float(loss), rel=1e-6)
    assert grad_w == pytest.approx(float(exact_w), rel=1e-6, abs=1e-37 + rounding(chosen, objective))
    assert grad_l == pytest.approx(float(exact_l), rel=1e-6, abs=1e-37 + rounding(rejected, objective))


@pytest.mark.parametrize("objective", [MaPO(), MaPO.paper(64), SFT(), DPO(200.0), DPOPlusSFT(200.0, 1.0)])
@pytest.mark.parametrize("chosen", [0.0, 1e6])
@pytest.mark.parametrize("rejected", [0.0, 1e6])
def test_value_and_gradient_are_finite_at_the_extremes(objective, chosen, rejected):
    reference = {"reference_chosen": tensor([0.1]), "reference_rejected": tensor([0.1])}
    judged, grad_w, grad_l = value_and_gradients(objective, chosen, rejected, **reference)
    assert torch.isfinite(tensor([judged.loss.item(), grad_w, grad_l])).all()


def test_link_is_one_at_zero_with_slope_minus_one_half():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = mapo_phi(x)
    value.backward()
    assert value.item() == 1.0
    assert x.grad.item() == -0.5


def test_link_has_no_seam_where_the_series_ends():
    x = tensor([1e-3 - 1e-12, 1e-3 + 1e-12], dtype=torch.float64, requires_grad=True)
    value = mapo_phi(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.diff().abs().item() < 1e-11
    assert gradient.diff().abs().item() < 1e-11


def test_released_gradients_at_a_tie_push_the_rejected_one_as_published():
    _, grad_w, grad_l = value_and_gradients(MaPO(), 1e-6, 1e-6)
    assert (grad_w, grad_l) == pytest.approx((13.5, -12.5), rel=1e-4)


def test_paper_gradients_at_a_tie_are_independent_of_beta():
    for beta in (8, 1024):
        _, grad_w, grad_l = value_and_gradients(MaPO.paper(beta), 1e-6, 1e-6)
        assert (grad_w, grad_l) == pytest.approx((1.25, -0.25), rel=1e-4)


@given(errors, errors)
def test_half_preference_makes_the_margin_term_symmetric(chosen, rejected):
    half = tensor([0.5])
    one = MaPO()(PairErrors(tensor([chosen]), tensor([rejected]), preference=half)).parts["ranking"]
    other = MaPO()(PairErrors(tensor([rejected]), tensor([chosen]), preference=half)).parts["ranking"]
    assert one.item() == pytest.approx(other.item(), rel=1e-9)


@given(st.lists(st.tuples(errors, errors, st.floats(0, 2, width=32)), min_size=1, max_size=5))
def test_a_batch_is_the_mean_of_its_weighted_pairs(rows):
    w, l, weight = (tensor(column) for column in zip(*rows, strict=True))  # noqa: E741
    whole = MaPO()(PairErrors(w, l, weight=weight)).loss
    singly = [MaPO()(PairErrors(w[i : i + 1], l[i : i + 1])).loss * weight[i] for i in range(len(rows))]
    assert whole.item() == pytest.approx(torch.stack(singly).mean().item(), rel=1e-9, abs=1e-12)


@given(errors, errors)
def test_agreement_says_whose_error_is_smaller(chosen, rejected):
    for objective in (MaPO(), MaPO.paper(64), SFT()):
        judged = objective(PairErrors(tensor([chosen]), tensor([rejected])))
        if judged.margin.item() != 0:  # two links may meet in float64 where both errors are huge
            assert judged.agreement.item() == float(chosen < rejected)
            assert (judged.margin.item() > 0) == (chosen < rejected)


def test_dpo_is_log_two_where_nothing_moved_and_falls_as_the_chosen_gains():
    same = tensor([0.3])
    still = DPO(200.0)(PairErrors(same, same, same, same))
    better = DPO(200.0)(PairErrors(same - 0.01, same, same, same))
    assert still.loss.item() == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-6)
    assert better.loss < still.loss
    expected = torch.nn.functional.softplus(-tensor((0.3 - (0.3 - 0.01)) * 100.0))
    assert better.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dpo_plus_sft_is_the_sum_of_both():
    e = PairErrors(tensor([0.2]), tensor([0.4]), tensor([0.21]), tensor([0.39]))
    both = DPOPlusSFT(200.0, 0.5)(e).loss
    assert both.item() == pytest.approx((DPO(200.0)(e).loss + 0.5 * SFT()(e).loss).item())


def test_dpo_without_reference_errors_is_refused():
    with pytest.raises(ValueError, match="reference"):
        DPO(200.0)(PairErrors(tensor([0.2]), tensor([0.4])))

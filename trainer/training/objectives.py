"""Preference objectives: per-sample errors of judged pairs in, a loss and margins out.

An objective is a pure function of tensors of shape (pairs,). It never sees a model, so every objective can be
compared on the same errors. Adding one is adding a class here, its line in `build_objective`, and its name to
ObjectiveConfig.kind.

Arithmetic is float64 whatever comes in: it is a handful of numbers a step, and in float32 the difference of two
phi of nearly equal errors loses the answer before the temperature multiplies what is left by a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..config.run_config import ASSUMED_MARGIN_SCALE, ObjectiveConfig


@dataclass(frozen=True)
class PairErrors:
    """Mean squared prediction errors, averaged over all elements of a sample; every tensor has shape (pairs,).

    chosen, rejected: errors of the model being trained, under one shared noise draw and timestep per pair.
    reference_chosen, reference_rejected: the same with the adapter switched off, for objectives that need them.
    preference: share of the judgements that were for the chosen picture, in [0, 1]; 1 where omitted.
    weight: multiplies a pair's loss; 1 where omitted.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    preference: Tensor | None = None
    weight: Tensor | None = None

    def double(self) -> PairErrors:
        """The same in float64. On devices without float64 (Apple MPS) on the CPU; gradients flow back."""
        return PairErrors(*(None if value is None else _double(value) for value in vars(self).values()))


@dataclass(frozen=True)
class LossOutput:
    """What an objective says of a batch of pairs; float64.

    loss: scalar, the mean over pairs; margin: (pairs,) mapo_phi(chosen) - mapo_phi(rejected), before the temperature;
    agreement: (pairs,) 1 where the margin is positive, else 0; parts: unweighted scalars the loss is made of.
    """

    loss: Tensor
    margin: Tensor
    agreement: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    needs_reference: ClassVar[bool]
    """Whether the errors of the untouched base are needed (one more forward pass without gradients)."""

    def __call__(self, errors: PairErrors) -> LossOutput: ...


def mapo_phi(error: Tensor) -> Tensor:
    """phi(x) = x / (exp(x) - 1): 1 at x = 0, falling to 0 (MaPO, arXiv 2406.06424). Same shape as `error`.

    Below 1e-3 its Taylor series is used (next term x^6/30240): the closed form is 0/0 at 0 and its derivative
    cancels near it. Above, numerator and denominator are multiplied by exp(-x), so that large errors cannot overflow.
    """
    small = error < 1e-3
    # Each branch gets a harmless argument where the other one is used: 0 * inf in a gradient would be NaN.
    x = torch.where(small, 1.0, error)
    near = torch.where(small, error, 0.0)
    closed = x * torch.exp(-x) / -torch.expm1(-x)
    series = 1 - near / 2 + near**2 / 12 - near**4 / 720
    return torch.where(small, series, closed)


@dataclass(frozen=True)
class MaPO:
    """Margin-aware preference optimization: a likelihood term plus a bounded margin, no reference model.

    loss = l_w - weight * log sigmoid(temperature * (phi(scale * l_w) - phi(scale * l_l)))

    The defaults are those of the authors' released code (beta_mapo, num_train_timesteps, snr_value).
    """

    weight: float = 0.1
    temperature: float = 1000.0
    scale: float = 0.5
    needs_reference: ClassVar[bool] = False

    @classmethod
    def paper(cls, beta: float) -> MaPO:
        """The paper's second version with beta as a factor: weight 1/beta, temperature beta, scale 1."""
        return cls(weight=1 / beta, temperature=beta, scale=1.0)

    def __call__(self, errors: PairErrors) -> LossOutput:
        e = errors.double()
        margin = mapo_phi(self.scale * e.chosen) - mapo_phi(self.scale * e.rejected)
        ranking = _ranking(self.temperature * margin, e.preference)
        return _loss_output(e, e.chosen + self.weight * ranking, margin, likelihood=e.chosen, ranking=ranking)


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning on the chosen pictures alone: loss = l_w. The rejected ones are only measured."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, errors: PairErrors) -> LossOutput:
        e = errors.double()
        return _loss_output(e, e.chosen, e.rejected - e.chosen, likelihood=e.chosen)


@dataclass(frozen=True)
class DPO:
    """Diffusion-DPO (Wallace et al., arXiv 2311.12908), with the factor 1/2 of its released code.

    loss = -log sigmoid(beta/2 * ((l_l - ref_l) - (l_w - ref_w))); the reference is the adapter switched off.
    """

    beta: float = 2000.0
    needs_reference: ClassVar[bool] = True

    def __call__(self, errors: PairErrors) -> LossOutput:
        e = errors.double()
        margin = dpo_margin(e)
        ranking = _ranking(self.beta / 2 * margin, e.preference)
        return _loss_output(e, ranking, margin, ranking=ranking)


@dataclass(frozen=True)
class DPOPlusSFT:
    """DPO with MaPO's likelihood term, the control that separates the two ideas: loss = DPO + weight * l_w."""

    beta: float = 2000.0
    weight: float = 1.0
    needs_reference: ClassVar[bool] = True

    def __call__(self, errors: PairErrors) -> LossOutput:
        e = errors.double()
        margin = dpo_margin(e)
        ranking = _ranking(self.beta / 2 * margin, e.preference)
        return _loss_output(e, ranking + self.weight * e.chosen, margin, likelihood=e.chosen, ranking=ranking)


def build_objective(config: ObjectiveConfig, margin_scale: float = ASSUMED_MARGIN_SCALE) -> Objective:
    """The objective that a run's settings describe. Its margins are the same whatever the scale of the base's is."""
    if config.kind == "mapo":
        knobs = config.resolved(margin_scale)
        return MaPO(knobs.margin_weight, knobs.temperature, knobs.error_scale)
    objectives = {
        "mapo-released": MaPO(),
        "sft": SFT(),
        "dpo": DPO(config.beta),
        "dpo+sft": DPOPlusSFT(config.beta, config.likelihood_weight),
    }
    return objectives[config.kind]


def _ranking(logit: Tensor, preference: Tensor | None) -> Tensor:
    """Cross-entropy of the judged share under the model's odds; (pairs,)."""
    if preference is None:
        return -logsigmoid(logit)
    return -(preference * logsigmoid(logit) + (1 - preference) * logsigmoid(-logit))


def dpo_margin(e: PairErrors) -> Tensor:
    """How much more the rejected picture's error rose above the reference than the chosen one's; (pairs,)."""
    if e.reference_chosen is None or e.reference_rejected is None:
        raise ValueError("this objective needs the reference errors of both pictures")
    return (e.rejected - e.reference_rejected) - (e.chosen - e.reference_chosen)


def _loss_output(e: PairErrors, loss: Tensor, margin: Tensor, **parts: Tensor) -> LossOutput:
    if e.weight is not None:
        loss = e.weight * loss
    return LossOutput(
        loss=loss.mean(),
        margin=margin,
        agreement=(margin > 0).to(margin.dtype),
        parts={name: part.mean() for name, part in parts.items()},
    )


def _double(value: Tensor) -> Tensor:
    return (value.cpu() if value.device.type == "mps" else value).double()

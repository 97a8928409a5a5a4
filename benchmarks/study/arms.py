"""What is compared in the study? Objectives, each with as many settings to search among as every other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from mapo_studio.trainer.training.objectives import DPO, SFT, DPOPlusSFT, LossOutput, MaPO, Objective, PairErrors

Knobs = Mapping[str, float]


@dataclass(frozen=True)
class MarginAlone:
    """MaPO without its likelihood term: only the difference of the two links counts."""

    weight: float
    temperature: float
    scale: float = 1.0
    needs_reference = False

    def __call__(self, errors: PairErrors) -> LossOutput:
        with_likelihood = MaPO(self.weight, self.temperature, self.scale)(errors)
        ranking = with_likelihood.parts["ranking"]
        return LossOutput(
            self.weight * ranking, with_likelihood.margin, with_likelihood.agreement, {"ranking": ranking}
        )


def objective_of(arm: str, knobs: Knobs, spread: float) -> Objective:
    """spread: of the untouched base's margins, as the engine measures it, for the arm whose temperature follows it."""
    if arm == "sft":
        return SFT()
    if arm == "dpo":
        return DPO(knobs["beta"])
    if arm == "dpo+sft":
        return DPOPlusSFT(knobs["beta"])
    if arm == "mapo released":
        return MaPO()
    if arm == "mapo paper":
        return MaPO.paper(knobs["beta"])
    if arm == "margin alone":
        return MarginAlone(1 / knobs["beta"], knobs["beta"])
    if arm in ("mapo calibrated", "mapo default"):
        temperature = knobs.get("steepness", 1.0) / spread
        return MaPO(knobs["push"] / temperature, temperature, 1.0)
    raise ValueError(f"there is no arm {arm!r}")


def _grid(rates: tuple[float, ...], **knob: tuple[float, ...]) -> tuple[tuple[float, Knobs], ...]:
    names = list(knob)
    return tuple((rate, dict(zip(names, values, strict=True))) for rate, *values in product(rates, *knob.values()))


_FOUR_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
_TWO_RATES = (1.5e-3, 4e-3)

SEARCH: Mapping[str, tuple[tuple[float, Knobs], ...]] = {
    "sft": _grid(_FOUR_RATES),
    "dpo": _grid(_TWO_RATES, beta=(500.0, 5000.0)),
    "dpo+sft": _grid(_TWO_RATES, beta=(500.0, 5000.0)),
    "mapo released": _grid(_FOUR_RATES),
    "mapo paper": _grid(_TWO_RATES, beta=(64.0, 1024.0)),
    "margin alone": _grid(_TWO_RATES, beta=(64.0, 1024.0)),
    "mapo calibrated": _grid(_TWO_RATES, push=(2.0, 16.0)),
}
"""Learning rate and knobs: four settings an arm, whether it has a knob beside the rate or not."""

ARMS = tuple(SEARCH)

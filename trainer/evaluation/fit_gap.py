"""How many more pairs, without another training? From how much better a LoRA does on the pairs it was trained on.

What a model knows of its own pairs and not of others' is what more pairs take away: by the classical expansion the
errors on trained and on new pairs lie v / n below and above what endless pairs would leave, n being the number of pairs
(Amari 1993). So twice as many close a fourth of the gap. A rule of thumb: measured on two sets of pairs, not on two
trainings. The trainings of learning_curve.py are the surer answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..intervals import format_interval, wilson_interval
from ..preferences.pairs import drawn
from ..runs.run_folder import Run
from ..text import finite_number

_DRAWS = 4000


@dataclass(frozen=True)
class Gap:
    """Agreement on as many trained pairs as are held out, and on those. pairs: that it was trained on."""

    pairs: int
    trained: int
    trained_agreeing: int
    held_out: int
    held_out_agreeing: int

    def gain(self) -> tuple[float, float, float]:
        """What twice as many pairs would add, with its 95 % interval; shares. From Jeffreys' posteriors of both."""
        rng = np.random.default_rng(0)
        drawn_shares = [
            rng.beta(agreeing + 0.5, of - agreeing + 0.5, _DRAWS)
            for agreeing, of in ((self.trained_agreeing, self.trained), (self.held_out_agreeing, self.held_out))
        ]
        low, high = np.percentile((drawn_shares[0] - drawn_shares[1]) / 4, (2.5, 97.5))
        return self._gap / 4, float(low), float(high)

    def sentences(self) -> list[str]:
        """For a person."""
        gain, low, high = (round(100 * one) for one in self.gain())
        on = [
            format_interval(agreeing / of, *wilson_interval(agreeing, of)) + f" of {of} pairs"
            for agreeing, of in ((self.trained_agreeing, self.trained), (self.held_out_agreeing, self.held_out))
        ]
        twice = f"twice as many pairs ({2 * self.pairs})"
        said = [f"It agrees with you on {on[0]} that it was trained on, and on {on[1]} that it was not."]
        if self.held_out_agreeing == self.held_out:
            said.append("More than that cannot be seen in these pairs, whatever more judging would bring.")
        elif high <= 0 or self._gap <= 0:
            said.append(
                "It does as well on new pairs as on its own: more pairs of the same kind should change little; more "
                "steps or a higher rank may."
            )
        elif low <= 0:
            said.append(
                f"The two are too close to tell them apart: with {twice} expect {max(low, 0)} to {high} points more."
            )
        else:
            said.append(f"As a rule of thumb, expect about {gain} points more ({low}-{high}) with {twice}.")
        return [*said, "Nothing was trained for this; the same command without `--quick` is the surer answer."]

    @property
    def _gap(self) -> float:
        return self.trained_agreeing / self.trained - self.held_out_agreeing / self.held_out


def measure_gap(
    run: Run, tell: Callable[[int, int, str], None] = lambda *_: None, check: Callable[[], None] = lambda: None
) -> Gap:
    """Measure a run's LoRA on pairs that it was trained on. Raises UserError where it has none, or nothing is held out.

    tell: (done, total, what); check may raise to stop.
    """
    from ..device import pick_device
    from ..training.prepare_data import divided, pairs_of
    from .pair_margins import margins_of

    config = run.config()
    measured = [
        one for one in run.events() if one["event"] == "evaluation" and finite_number(one, "agreement") is not None
    ]
    if not measured:
        raise UserError(f"{run.name} was never measured on held-out pairs: train it with some kept aside")
    split = divided(pairs_of(config, run.workspace), config)
    last = measured[-1]
    pairs = drawn(split.train, int(last["pairs"]))
    agreeing = 0
    for done, margin in enumerate(margins_of(run, pairs, pick_device(config.training.device), tell), start=1):
        check()
        agreeing += margin > 0
        tell(done, len(pairs), "measuring on trained pairs")
    return Gap(len(split.train), len(pairs), agreeing, int(last["pairs"]), round(last["agreement"] * last["pairs"]))

"""Strength schedule: how strong a LoRA is at each step of a sampling."""

from __future__ import annotations

from collections.abc import Sequence


def strength_schedule(elapsed: Sequence[float], to_the_end: bool, strength: float, power: float) -> list[float]:
    """Strengths that grow from the base's image to the LoRA's: strength * t**power at each step.

    elapsed: at each step the share of the noise schedule that lies behind it, in [0, 1], growing. t is that share, so a
    sampling that begins in the middle (a second sampler, an image-to-image run) begins with a strength of the middle.
    to_the_end: the sampling leaves no noise. Then t is 1 at its last step, however few steps there are: many schedules
    end with a long last step whose share is well below 1. A single step is the LoRA's.
    """
    last = elapsed[-1] if to_the_end else 1.0
    return [strength * (share / last if last else 1.0) ** power for share in elapsed]

"""Noise schedule: how a base was noised in its training, out of its scheduler's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .base_model import NoiseSchedule
from .registry import titles

PREDICTIONS = ("epsilon", "v_prediction")


def resolve_prediction_type(
    config: Mapping[str, Any], prediction: str = "auto", known: Sequence[str] = PREDICTIONS
) -> dict[str, Any]:
    """The scheduler configuration with the prediction type of the person's settings, if it is not auto, in place.

    known: the prediction types of the base's family, see registry.Family. Raises UserError for a schedule that is no
    variance-preserving one where the family has no other, and for a prediction type that is not known.
    """
    resolved = dict(config)
    if prediction != "auto":
        resolved["prediction_type"] = prediction
    kind = resolved.get("_class_name", "")
    if "flow" not in known and ("FlowMatch" in kind or "EDM" in kind):
        raise UserError(
            f"The base's scheduler is a {kind}: it was trained with another kind of noise than {titles()}. "
            "Choose a base with an ordinary epsilon or v-prediction schedule."
        )
    prediction_type = resolved.setdefault("prediction_type", known[0])
    if prediction_type not in known:
        raise UserError(
            f'The base\'s scheduler config says prediction_type "{prediction_type}"; known are {" and ".join(known)}.'
        )
    return resolved


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The forward process that a scheduler configuration describes.

    DDPMScheduler builds it whatever sampler the configuration names: the betas mean the same to all of them, and it is
    the one that keeps the last alpha of a zero-terminal-SNR schedule (Lin et al. 2023) at exactly 0, where
    EulerDiscreteScheduler puts 2**-24 so that its sigma stays finite.
    """
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(dict(config))
    return NoiseSchedule(scheduler.alphas_cumprod.float().cpu(), scheduler.config.prediction_type)

"""How a base was noised in its training: the schedule out of its scheduler's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .base_model import NoiseSchedule

PREDICTIONS = ("epsilon", "v_prediction")


def settled(config: Mapping[str, Any], prediction: str = "auto") -> dict[str, Any]:
    """The scheduler configuration with the person's word on the prediction type, if they gave one, in place.

    Raises UserError for a schedule that is no variance-preserving one, or for a prediction type that is neither
    epsilon nor v_prediction.
    """
    settled = dict(config)
    if prediction != "auto":
        settled["prediction_type"] = prediction
    kind = settled.get("_class_name", "")
    if "FlowMatch" in kind or "EDM" in kind:
        raise UserError(
            f"The base's scheduler is a {kind}: it was trained with another kind of noise than SDXL and SD 1.5. "
            "Choose a base with an ordinary epsilon or v-prediction schedule."
        )
    found = settled.setdefault("prediction_type", "epsilon")
    if found not in PREDICTIONS:
        raise UserError(
            f'The base\'s scheduler config says prediction_type "{found}"; known are {" and ".join(PREDICTIONS)}.'
        )
    return settled


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The forward process that a scheduler configuration describes.

    DDPMScheduler builds it whatever sampler the configuration names: the betas mean the same to all of them, and it is
    the one that keeps the last alpha of a zero-terminal-SNR schedule (Lin et al. 2023) at exactly 0, where
    EulerDiscreteScheduler puts 2**-24 so that its sigma stays finite.
    """
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(dict(config))
    return NoiseSchedule(scheduler.alphas_cumprod.float().cpu(), scheduler.config.prediction_type)

"""The temperature of MaPO, from the untouched base's margins: where is the sigmoid in its steep part?

How far the errors on the two images of a pair are apart differs by a factor of ten between bases and between tastes,
and with it what a fixed temperature does: too low, and every pair pushes alike for ever; too high, and only near ties
push at all. So the untouched base is asked for its margins before the first step, as a step would see them, and the
temperature is `steepness` over their scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from ..config.run_config import ASSUMED_MARGIN_SCALE, RunConfig
from ..distributed import SINGLE, World
from ..latents.encode import EncodedPair
from ..lora import adapter
from ..models.base_model import BaseModel
from ..runs.run_folder import Run
from .batches import draw_pair, seeded
from .learner import Learner
from .objectives import mapo_phi
from .pair_errors import measure_pairs

DRAWS = 64
_DEVIATION_OF_A_NORMAL = 1.4826
_ROUNDING = 1e-8
"""Of a float32 error around 0.1: a scale below it is none."""


@dataclass(frozen=True)
class Calibration:
    """The `calibrated` event. spread: scale of the margins, measured at error_scale; the others: as they are used.

    draws: single margins that it was measured with; 0 where they had no scale and one was assumed.
    """

    spread: float
    draws: int
    error_scale: float
    temperature: float
    margin_weight: float


@torch.no_grad()
def measure_margins(
    base: BaseModel,
    unet: nn.Module,
    pairs: Sequence[EncodedPair],
    scale: float,
    device: torch.device,
    *,
    timesteps: Sequence[int] | None = None,
    batch_size: int = 1,
    split: bool = False,
    world: World = SINGLE,
) -> Tensor:
    """The untouched base's margins phi(scale * l_w) - phi(scale * l_l), (DRAWS,) float64 on the CPU; none: (0,).

    Single draws, as a training step sees them: each has a noise level of its own, and these lie evenly over the
    schedule. Averaged over levels, as agreement is, they would be far closer together. Of more than DRAWS pairs
    every k-th is taken; fewer are drawn several times. All of it is a function of the pairs alone, not of the
    run's seed. A LoRA on `unet` is switched off meanwhile. timesteps: those that are trained at, by default all;
    batch_size: forwards at once; split: see `pair_errors`; each of several processes measures its share, and all get
    the same.
    """
    count = DRAWS if pairs else 0
    # Levels in no order: neighbours in a dataset are often of one prompt, or by one person.
    order = torch.randperm(DRAWS, generator=seeded("calibration")).tolist()
    positions = [i * len(pairs) // DRAWS if len(pairs) > DRAWS else i % len(pairs) for i in range(count)]
    levels = range(base.schedule.timesteps) if timesteps is None else timesteps
    draws = [(position, levels[int((order[i] + 0.5) * len(levels) / DRAWS)]) for i, position in enumerate(positions)]
    margins: list[list[float]] = []
    training = unet.training
    unet.eval()
    with adapter.disabled(unet):
        for _, same_size in groupby(sorted(world.shard(draws)), key=lambda draw: pairs[draw[0]].bucket):
            batches = [draw_pair(pairs[position], level, "calibration") for position, level in same_size]
            errors = measure_pairs(base, unet, batches, device, batch_size=batch_size, split=split).double()
            margins += [[one] for one in (mapo_phi(scale * errors.chosen) - mapo_phi(scale * errors.rejected)).tolist()]
    unet.train(training)
    return torch.tensor([margin for (margin,) in world.all_gather(margins)], dtype=torch.float64)


def margin_scale_of(margins: Tensor) -> float | None:
    """A standard deviation that a few far margins do not move; None where it is 0 or cannot be told.

    The median distance from the median, times what makes it a normal distribution's standard deviation. Margins have
    long tails, since errors are largest at the lowest noise levels: their plain standard deviation hangs on two or
    three of the draws. It is taken only where more than half of all margins are the same.
    """
    finite = margins.double()[margins.isfinite()]
    if len(finite) < 2:
        return None
    robust = _DEVIATION_OF_A_NORMAL * (finite - finite.median()).abs().median().item()
    scale = robust if robust > _ROUNDING else finite.std().item()
    return scale if scale > _ROUNDING else None


def calibrate(
    run: Run,
    config: RunConfig,
    learner: Learner,
    pairs: Sequence[EncodedPair],
    timesteps: Sequence[int],
    device: torch.device,
    *,
    begun: bool,
    world: World = SINGLE,
) -> float:
    """The margin scale that the knobs of `run` which are "auto" follow from, and the `calibrated` event that says so.

    begun: steps were taken already, so what was measured before the first of them holds. Several processes take the
    first one's word, wherever they look at the run's folder from.
    """
    objective, training = config.objective, config.training
    earlier = [
        one for one in run.events() if one["event"] == "calibrated" and one["error_scale"] == objective.error_scale
    ]
    measured = (earlier[-1]["spread"], earlier[-1]["draws"]) if begun and earlier else (None, 0)
    (margin_scale, draws), *_ = world.all_gather([measured])
    if margin_scale is None:
        margins = measure_margins(
            learner.base,
            learner.unet,
            pairs,
            objective.error_scale,
            device,
            timesteps=timesteps,
            batch_size=min(training.batch_size, training.pairs_at_once or training.batch_size),
            split=training.split_pair,
            world=world,
        )
        margin_scale, draws = margin_scale_of(margins), len(margins)
        if margin_scale is None:
            margin_scale, draws = ASSUMED_MARGIN_SCALE, 0
            run.log("warning", text=_NO_SCALE)
    resolved = objective.resolved(margin_scale)
    calibration = Calibration(margin_scale, draws, objective.error_scale, resolved.temperature, resolved.margin_weight)
    run.log("calibrated", **asdict(calibration))
    return margin_scale


_NO_SCALE = (
    "the base makes the same error on both pictures of the pairs, so no temperature can be set from them and one was "
    "assumed: look whether what is chosen and what is rejected differ in the pictures as they are trained on"
)

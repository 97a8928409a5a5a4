"""Aspect buckets: which sizes are trained on, and which of them suits an image?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import UserError

Size = tuple[int, int]
"""(width, height) in pixels."""

_MAX_ASPECT = 2.0


def buckets(resolution: int, latent_factor: int) -> tuple[Size, ...]:
    """Every size to train on for a base of that resolution, the square first, each with its mirror shape.

    Sides are multiples of 8 latent cells (64 px for SDXL and SD 1.5; 4 cells where the whole square has fewer than
    32, or a tiny base would know squares only), areas at most resolution**2, aspects between 1:2 and 2:1. For each
    longer side the shorter one is as long as the area allows, so that no bucket is much smaller than the square.
    Raises UserError for a resolution in which not one step fits.
    """
    step = latent_factor * (8 if resolution >= 32 * latent_factor else 4)
    square = resolution // step * step
    if not square:
        raise UserError(f"a resolution of {resolution} px is too small for this base: the least is {step} px")
    sizes = [(square, square)]
    longer = square + step
    while True:
        shorter = resolution * resolution // longer // step * step
        if not shorter or longer > _MAX_ASPECT * shorter:
            return tuple(sizes)
        sizes += [(longer, shorter), (shorter, longer)]
        longer += step


def bucket_for(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """The size whose aspect is nearest to width:height as a ratio; of two equally near, the larger one."""
    log_aspect = math.log(width / height)
    return min(
        sizes, key=lambda size: (round(abs(math.log(size[0] / size[1]) - log_aspect), 9), -size[0] * size[1], size)
    )

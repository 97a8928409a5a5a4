"""Wilson intervals: how sure a share is that was measured on so many trials."""

from __future__ import annotations

import math


def wilson_interval(hits: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays inside [0, 1] and is honest for few trials.

    Trials that say less than independent ones would may be given as the smaller, broken number that they are worth.
    """
    if not trials:
        return 0.0, 1.0
    share = hits / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    whole = 1 + z * z / trials
    # The share itself is inside, which rounding may deny where all trials fell alike.
    return max(0.0, min(share, (centre - spread) / whole)), min(1.0, max(share, (centre + spread) / whole))

"""With which settings does the small base learn a taste in about a minute?"""

from __future__ import annotations

from typing import Any

STEPS, PAIRS_A_STEP = 200, 8
GUIDANCE, SAMPLE_STEPS = 3.0, 20


def recipe() -> dict[str, Any]:
    """Parts of a RunConfig. With seeds 0 to 4 all pictures of the demo came out as preferred and no caption was lost.

    At half this learning rate one seed in three stopped at 70 %.
    """
    return {
        "adapter": {"rank": 8},
        "optimization": {"learning_rate": 2e-3, "warmup_steps": 10},
        "training": {"steps": STEPS, "batch_size": PAIRS_A_STEP, "accumulation": 1},
        "watch": {
            "evaluate_every": 50,
            "evaluate_pairs": 40,
            "sample_every": STEPS,
            "sample_steps": SAMPLE_STEPS,
            "guidance": GUIDANCE,
            "checkpoint_every": 50,
        },
    }

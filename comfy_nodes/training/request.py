"""Which training does the train node ask for? From what is typed into it to every setting of a run.

Nothing of ComfyUI is in here: names of models have become paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...trainer.config.run_config import RunConfig
    from ...trainer.preferences.store import Store

AUTOMATIC = "automatic"
AUTO = "auto"


@dataclass(frozen=True)
class Asked:
    """What the node was told. base: as RunConfig.base. steps, rank and learning_rate: 0 for what is proposed.
    margin_weight, temperature: 0 for what the run finds by itself (a weight of 0 proper would be the objective sft).

    tokenizers: a folder with CLIP's, where the base brings none. memory: bytes of the card, None without one. loras:
    the folder that the LoRA will be copied to. All others are as in RunConfig.
    """

    dataset: str
    base: str
    preset: str = AUTOMATIC
    steps: int = 0
    rank: int = 0
    learning_rate: float = 0.0
    objective: str = "mapo"
    push: float = 8.0
    margin_weight: float = 0.0
    temperature: float = 0.0
    error_scale: float = 1.0
    beta: float = 2000.0
    likelihood_weight: float = 1.0
    seed: int = 0
    continue_from: str | None = None
    tokenizers: str | None = None
    memory: int | None = None
    loras: Path | None = None


def config_of(store: Store, asked: Asked) -> RunConfig:
    """The proposal for that dataset and base, the preset over it, and over both what was typed.

    The embedded base has settings of its own, which presets leave alone. Raises UserError where there is no such
    dataset or preset, or a value cannot be.
    """
    from ...trainer.config.presets import apply, preset_named
    from ...trainer.config.run_config import parse_config
    from ...trainer.models.card_presets import preset_for
    from ...trainer.models.open import TINY
    from ...trainer.services.training_proposal import free_name, propose

    config = propose(store, asked.dataset, asked.base, Path(asked.tokenizers) if asked.tokenizers else None)
    preset = preset_for(asked.memory) if asked.preset == AUTOMATIC else preset_named(asked.preset)
    if preset and asked.base != TINY:
        config = apply(config, preset)
    values = config.model_dump()
    for part, typed in _typed(asked).items():
        values[part] |= typed
    values["name"] = free_name(store.workspace, asked.dataset, asked.loras)
    return parse_config(values, "MaPO Train LoRA")


def _typed(asked: Asked) -> dict[str, dict[str, Any]]:
    return {
        "training": {"seed": asked.seed, **({"steps": asked.steps} if asked.steps else {})},
        "adapter": {"continue_from": asked.continue_from, **({"rank": asked.rank} if asked.rank else {})},
        "optimization": {"learning_rate": asked.learning_rate} if asked.learning_rate else {},
        "objective": {
            "kind": asked.objective,
            "push": asked.push,
            "margin_weight": asked.margin_weight or AUTO,
            "temperature": asked.temperature or AUTO,
            "error_scale": asked.error_scale,
            "beta": asked.beta,
            "likelihood_weight": asked.likelihood_weight,
        },
    }

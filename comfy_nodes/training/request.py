"""Training request: from what the train node or the side bar asks for to every setting of a run.

Nothing of ComfyUI is imported before `paths_of` turns its names of models into paths. pydantic is, so nodes and routes
import this file when something is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...trainer.config.validation import validation_sentence
from ...trainer.errors import UserError

if TYPE_CHECKING:
    from ...trainer.config.run_config import RunConfig
    from ...trainer.preferences.store import Store
    from .gpu_sharing import TrainingDevice

AUTOMATIC = "automatic"
AUTO = "auto"


class TrainingRequest(BaseModel):
    """One training. checkpoint, continue_from: by their names in ComfyUI; the latter may be a path, or empty.

    steps, rank, learning_rate: 0 for what is proposed. margin_weight, temperature: 0 for what the run finds by itself
    (a weight of 0 proper would be the objective sft). All others are as in RunConfig.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str = Field(min_length=1, max_length=200)
    checkpoint: str = Field(min_length=1, max_length=1000)
    preset: str = Field(AUTOMATIC, max_length=50)
    steps: int = Field(0, ge=0, le=1_000_000)
    rank: int = Field(0, ge=0, le=1024)
    learning_rate: float = Field(0.0, ge=0, le=1)
    objective: str = Field("mapo", max_length=50)
    push: float = 8.0
    margin_weight: float = 0.0
    temperature: float = 0.0
    error_scale: float = 1.0
    beta: float = 2000.0
    likelihood_weight: float = 1.0
    seed: int = 0
    continue_from: str = Field("", max_length=1000)

    @classmethod
    def of_node(cls, **inputs: Any) -> TrainingRequest:
        """The inputs of the train node. Raises UserError that names one that cannot be: a linked one is not checked."""
        try:
            return cls(**inputs)
        except ValidationError as error:
            raise UserError(validation_sentence(error)) from None


@dataclass(frozen=True)
class ModelPaths:
    """Where the models of a request are. base: as RunConfig.base. tokenizers: a folder with CLIP's, where the base
    brings none. continue_from: a LoRA's file. loras: the folder that the new LoRA will be copied to."""

    base: str
    tokenizers: str | None = None
    continue_from: str | None = None
    loras: Path | None = None


def paths_of(request: TrainingRequest) -> ModelPaths:
    """Raises UserError where ComfyUI has no such checkpoint or LoRA."""
    from ..comfy_api import base_models, lora_files

    base = base_models.path_of(request.checkpoint)
    continue_from = lora_files.resolve(request.continue_from)
    return ModelPaths(base, base_models.tokenizers_of(base), continue_from, lora_files.install_folder())


def config_of(store: Store, request: TrainingRequest, paths: ModelPaths, device: TrainingDevice) -> RunConfig:
    """The proposal for that dataset and base, the preset over it, and over both what was asked for.

    The embedded base has settings of its own, which presets leave alone. Raises UserError where there is no such
    dataset or preset, or a value cannot be.
    """
    from ...trainer.config.presets import apply, preset_named
    from ...trainer.config.run_config import parse_config
    from ...trainer.models.card_presets import preset_for
    from ...trainer.models.open import TINY
    from ...trainer.services.training_proposal import propose_config, unused_run_name

    config = propose_config(store, request.dataset, paths.base, Path(paths.tokenizers) if paths.tokenizers else None)
    preset = preset_for(device.memory) if request.preset == AUTOMATIC else preset_named(request.preset)
    if preset and paths.base != TINY:
        config = apply(config, preset)
    values = config.model_dump()
    for part, asked_for in _overrides(request, paths.continue_from).items():
        values[part] |= asked_for
    values["name"] = unused_run_name(store.workspace, request.dataset, paths.loras)
    values["training"]["device"] = device.device
    return parse_config(values, "MaPO Train LoRA")


def _overrides(request: TrainingRequest, continue_from: str | None) -> dict[str, dict[str, Any]]:
    return {
        "training": {"seed": request.seed, **({"steps": request.steps} if request.steps else {})},
        "adapter": {"continue_from": continue_from, **({"rank": request.rank} if request.rank else {})},
        "optimization": {"learning_rate": request.learning_rate} if request.learning_rate else {},
        "objective": {
            "kind": request.objective,
            "push": request.push,
            "margin_weight": request.margin_weight or AUTO,
            "temperature": request.temperature or AUTO,
            "error_scale": request.error_scale,
            "beta": request.beta,
            "likelihood_weight": request.likelihood_weight,
        },
    }

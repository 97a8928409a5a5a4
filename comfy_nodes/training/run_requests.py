"""What may the page ask for when a training is planned or begun? pydantic, hence imported where a request came."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainingAsked(BaseModel):
    """One training. checkpoint: by its name in ComfyUI. steps, rank and learning_rate: 0 for what is proposed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str = Field(min_length=1, max_length=200)
    checkpoint: str = Field(min_length=1, max_length=1000)
    preset: str = Field("automatic", max_length=50)
    steps: int = Field(0, ge=0, le=1_000_000)
    rank: int = Field(0, ge=0, le=1024)
    learning_rate: float = Field(0.0, ge=0, le=1)

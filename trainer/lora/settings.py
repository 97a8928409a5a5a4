"""LoRA settings: rank, alpha, dropout, targets, rsLoRA, and the scale that they come to. Works without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UserError

Targets = Literal["attention", "all"]


@dataclass(frozen=True)
class LoraSettings:
    """The shape of a LoRA.

    rank: inner width, at least 1. alpha: strength before the division by rank; None means rank, hence a scale of 1.
    dropout: share of adapter inputs zeroed while training, in [0, 1). targets: see registry.Family.
    rslora: divide alpha by sqrt(rank) instead of rank (rank-stabilised LoRA, arXiv 2312.03732), so that the learning
    rate need not change with the rank.

    Raises UserError for values that describe no LoRA.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: Targets = "attention"
    rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(f"LoRA rank must be a whole number of at least 1, not {self.rank!r}")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError(f"LoRA alpha must be greater than 0, not {self.alpha!r}: leave it out to use the rank")
        if not 0 <= self.dropout < 1:
            raise UserError(f"LoRA dropout must be at least 0 and below 1, not {self.dropout!r}")
        if self.targets not in get_args(Targets):
            raise UserError(f"LoRA targets must be one of {', '.join(get_args(Targets))}, not {self.targets!r}")

    @property
    def true_alpha(self) -> float:
        """Alpha as trained: the given one, or the rank."""
        return float(self.rank if self.alpha is None else self.alpha)

    @property
    def scale(self) -> float:
        """What B(A(x)) is multiplied with."""
        return self.true_alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def host_alpha(self) -> float:
        """The alpha that gives the same scale to hosts, which know no rsLoRA and always divide by the rank."""
        return self.true_alpha * (math.sqrt(self.rank) if self.rslora else 1)

"""Optimizers that can be chosen: one row each, with the memory of their states. training/optimizer.py builds them."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
_AUTO_ON_A_CARD = "adamw8bit"


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    name: OptimizerConfig.optimizer. state_bytes: bytes of its states for each weight of the LoRA; block_bytes: and for
    each begun block of `block` weights, as all weights of a LoRA are one tensor. paged: the states lie in the
    computer's memory instead of the card's. smaller: name of the one that computes the same update with smaller
    states, or with states that lie elsewhere; "" where there is none. summary: its states, as part of a sentence.
    """

    name: str
    state_bytes: int
    summary: str
    block_bytes: int = 0
    block: int = 256
    paged: bool = False
    smaller: str = ""

    def memory(self, weights: int) -> int:
        """Bytes of the states of a LoRA with so many weights."""
        return self.state_bytes * weights + self.block_bytes * -(-weights // self.block)


OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        # bitsandbytes: two bytes a weight, and two float32 for each block of them.
        Optimizer("paged_adamw8bit", 2, "wait in the computer's memory", block_bytes=8, paged=True),
        Optimizer("adamw8bit", 2, "in 8 bits", block_bytes=8, smaller="paged_adamw8bit"),
        Optimizer("adamw", 8, "in two float32 a weight", smaller="adamw8bit"),
    )
}
CHOICES = (AUTO, *OPTIMIZERS)


def optimizer_row(name: str) -> Optimizer:
    """The row of a setting; auto: of what it means on a card."""
    return OPTIMIZERS[_AUTO_ON_A_CARD if name == AUTO else name]

"""The table of optimizers: one row each, with its classes and the memory of its states. Adding one is adding a row."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
_AUTO_ON_A_CARD, _AUTO_ON_A_CPU = "adamw8bit", "adamw"


@dataclass(frozen=True)
class Implementation:
    """A class of an optimizer. library: "torch", or one of the device's libraries for 8-bit states. kind: its name for
    people, and in saved states, which those of one kind can exchange. paths: where it is, by version of the library.
    """

    library: str
    kind: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    name: OptimizerConfig.optimizer. state_bytes: bytes of its states for each weight of the LoRA; block_bytes: and for
    each begun block of `block` weights, as all weights of a LoRA are one tensor. paged: the states lie in the
    computer's memory instead of the card's. smaller: name of the one that computes the same update with smaller
    states, or with states that lie elsewhere; "" where there is none. summary: its states, as part of a sentence.
    implementations: to be tried in the device's order of libraries; they take lr, betas and weight_decay. fallback: the
    row to take where none of them works.
    """

    name: str
    state_bytes: int
    summary: str
    block_bytes: int = 0
    block: int = 256
    paged: bool = False
    smaller: str = ""
    implementations: tuple[Implementation, ...] = ()
    fallback: str = ""

    def memory(self, weights: int) -> int:
        """Bytes of the states of a LoRA with so many weights."""
        return self.state_bytes * weights + self.block_bytes * -(-weights // self.block)


_BITSANDBYTES = "bitsandbytes' 8-bit AdamW"

OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        # bitsandbytes: two bytes a weight, and two float32 for each block of them.
        Optimizer(
            "paged_adamw8bit",
            2,
            "wait in the computer's memory",
            block_bytes=8,
            paged=True,
            implementations=(Implementation("bitsandbytes", _BITSANDBYTES, ("bitsandbytes.optim.PagedAdamW8bit",)),),
            fallback="adamw8bit",
        ),
        Optimizer(
            "adamw8bit",
            2,
            "in 8 bits",
            block_bytes=8,
            smaller="paged_adamw8bit",
            implementations=(
                Implementation("bitsandbytes", _BITSANDBYTES, ("bitsandbytes.optim.AdamW8bit",)),
                Implementation(
                    "torchao",
                    "torchao's 8-bit AdamW",
                    ("torchao.optim.AdamW8bit", "torchao.prototype.low_bit_optim.AdamW8bit"),  # the latter before 0.9
                ),
            ),
            fallback="adamw",
        ),
        Optimizer(
            "adamw",
            8,
            "in two float32 a weight",
            smaller="adamw8bit",
            implementations=(Implementation("torch", "torch's AdamW", ("torch.optim.AdamW",)),),
        ),
    )
}
CHOICES = (AUTO, *OPTIMIZERS)


def optimizer_row(name: str, *, cpu: bool = False) -> Optimizer:
    """The row of a setting; auto: 8-bit AdamW on a card, and on a CPU AdamW, which is faster there."""
    auto = _AUTO_ON_A_CPU if cpu else _AUTO_ON_A_CARD
    return OPTIMIZERS[auto if name == AUTO else name]

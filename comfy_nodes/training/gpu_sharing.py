"""On which card is trained, and what waits for what where ComfyUI paints with the same one?

Nothing of ComfyUI is in here: what it computes on and what is in its queue is handed in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_FREEING_SECONDS = 20.0
"""How long ComfyUI may take to begin to free its memory; a prompt that came meanwhile must not hold up a training."""
_TRAINS = "MaPOTrainLoRA"
_OURS = ("cuda", "xpu", "mps", "cpu")


@dataclass(frozen=True)
class Machine:
    """own: what ComfyUI computes on, as torch names it. cards: name -> bytes of memory, of every card there is."""

    own: str
    cards: Mapping[str, int]


@dataclass(frozen=True)
class Place:
    """Where is trained. device: as in RunConfig; shared: ComfyUI paints there; memory: bytes of it, None for a CPU."""

    device: str
    shared: bool
    memory: int | None


def place_of(machine: Machine, said: str = "") -> Place:
    """The device of the settings; else a card that ComfyUI leaves alone, if it is at least half as large; else its own.

    Raises UserError where there is no such device.
    """
    from ...trainer.errors import UserError

    known = [*machine.cards, *(() if machine.own in machine.cards else (machine.own,)), "cpu"]
    if said and said not in known:
        raise UserError(
            f"settings, MaPO, training device: this machine has no {said}; it has {' and '.join(dict.fromkeys(known))}"
        )
    # ComfyUI also runs where no training can, as on DirectML: the engine then says what it finds.
    own = machine.own if machine.own.partition(":")[0] in _OURS else "auto"
    device = said or _free_card(machine) or own
    return Place(device, device in (machine.own, "auto"), machine.cards.get(device))


def uses(machine: Machine, device: str) -> bool:
    """Whether a training on `device` (of RunConfig) is on what ComfyUI paints with."""
    first = next(iter(machine.cards), machine.own)
    named = {"auto": first, first.partition(":")[0]: first}
    return named.get(device, device) == machine.own


def ahead(prompts: Mapping[str, Set[str]]) -> frozenset[str]:
    """Of what is in ComfyUI's queue, the prompts that a training waits for.

    Not those that train: they wait in the line of trainings themselves, and neither would ever begin.
    """
    return frozenset(name for name, kinds in prompts.items() if _TRAINS not in kinds)


def what_waits(prompts: Set[str], line: tuple[str, ...]) -> str:
    """A sentence about what a training waits for; "" where it begins at once. line: what has the device, in words."""
    if line:
        return f"Waits for its turn: {line[0]} has the device."
    if prompts:
        many = f"the {len(prompts)} prompts" if len(prompts) > 1 else "the prompt"
        return f"Waits until ComfyUI has painted {many} in its queue: both would need the same card."
    return ""


def training_beside(workspace: Path, machine: Machine) -> str | None:
    """The name of the training that is at work on what ComfyUI paints with; None where there is none."""
    from ...trainer.jobs.gpu_queue import queued
    from ...trainer.runs.run_folder import Run

    first = next(iter(queued(workspace)), None)
    if first is None or first.parent.name != "runs" or not uses(machine, Run(first).config().training.device):
        return None
    return first.name


def hold_line(workspace: Path, is_painting: Callable[[], bool], free: Callable[[], None]) -> None:
    """Keep ComfyUI's place in the line of trainings, in a thread: until it has painted and its memory was freed.

    Returns when that place is taken, so that whoever is started next waits behind it. If ComfyUI ends, it is given up.
    """
    taken = threading.Event()
    trouble: list[Exception] = []

    def hold() -> None:
        from ...trainer.jobs.gpu_queue import enqueue

        try:
            with enqueue(workspace, workspace / "tasks" / "comfyui"):
                taken.set()
                while is_painting():
                    time.sleep(_POLL_SECONDS)
                free()
        except Exception as error:
            log.exception("MaPO: ComfyUI's place in the line of trainings was lost")
            if not taken.is_set():
                trouble.append(error)
        finally:
            taken.set()

    threading.Thread(target=hold, name="mapo-line", daemon=True).start()
    taken.wait()
    if trouble:
        raise trouble[0]


def free(ask: Callable[[], None], is_asked: Callable[[], bool]) -> None:
    """Have ComfyUI free its memory, and wait until it has begun."""
    ask()
    until = time.monotonic() + _FREEING_SECONDS
    while is_asked() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _free_card(machine: Machine) -> str | None:
    own = machine.cards.get(machine.own, 0)
    others = {card: memory for card, memory in machine.cards.items() if card != machine.own and 2 * memory >= own}
    return max(others, key=lambda card: others[card], default=None)

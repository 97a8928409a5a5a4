"""GPU sharing: on which device is trained, and what waits for what where ComfyUI generates on the same one?

ComfyUI is imported by `this_host` and `training_device` alone; the rest is handed what it computes on and what is in
its queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_FREEING_SECONDS = 20.0
"""How long ComfyUI may take to begin to free its memory; a prompt that came meanwhile must not hold up a training."""
_TRAINS = "MaPOTrainLoRA"
_OURS = ("cuda", "xpu", "mps", "cpu")


@dataclass(frozen=True)
class Host:
    """The machine. own: what ComfyUI computes on, as torch names it. cards: name -> bytes of memory, of every card."""

    own: str
    cards: Mapping[str, int]


@dataclass(frozen=True)
class TrainingDevice:
    """Where is trained. device: as in RunConfig; shared: ComfyUI generates there; memory: its bytes, None for a CPU."""

    device: str
    shared: bool
    memory: int | None


def this_host() -> Host:
    """What ComfyUI computes on, and every card."""
    from ...trainer.device import cards
    from ..comfy_api import host

    return Host(host.own_device(), cards())


def training_device(request: web.Request | None = None) -> TrainingDevice:
    """Of who asks; without a request, of the default user. Raises UserError as `choose_device`."""
    from ..comfy_api import host

    setting = str(host.settings(request).get("MaPO.TrainingDevice") or "").strip()
    return choose_device(this_host(), "" if setting == "automatic" else setting)


def choose_device(host: Host, setting: str = "") -> TrainingDevice:
    """The device of the settings; else a card that ComfyUI leaves alone, if it is at least half as large; else its own.

    Raises UserError where there is no such device.
    """
    from ...trainer.errors import UserError

    known = [*host.cards, *(() if host.own in host.cards else (host.own,)), "cpu"]
    if setting and setting not in known:
        there = " and ".join(dict.fromkeys(known))
        raise UserError(f"settings, MaPO, training device: this machine has no {setting}; it has {there}")
    # ComfyUI also runs where no training can, as on DirectML: the engine then says what it finds.
    own = host.own if host.own.partition(":")[0] in _OURS else "auto"
    device = setting or _free_card(host) or own
    return TrainingDevice(device, device in (host.own, "auto"), host.cards.get(device))


def is_shared(host: Host, device: str) -> bool:
    """Whether a training on `device` (of RunConfig) is on what ComfyUI generates with."""
    first = next(iter(host.cards), host.own)
    named = {"auto": first, first.partition(":")[0]: first}
    return named.get(device, device) == host.own


def pending_prompts(prompts: Mapping[str, Set[str]]) -> frozenset[str]:
    """Of what is in ComfyUI's queue, the prompts that a training waits for.

    Not those that train: they wait in the line of trainings themselves, and neither would ever begin.
    """
    return frozenset(name for name, kinds in prompts.items() if _TRAINS not in kinds)


def wait_reason(prompts: Set[str], queue: tuple[str, ...]) -> str:
    """A sentence about what a training waits for; "" where it begins at once. queue: what has the device, in words."""
    if queue:
        return f"Waits for its turn: {queue[0]} has the device."
    if prompts:
        many = f"the {len(prompts)} prompts" if len(prompts) > 1 else "the prompt"
        return f"Waits until ComfyUI has painted {many} in its queue: both would need the same card."
    return ""


def concurrent_training(workspace: Path, host: Host) -> str | None:
    """The name of the training that is at work on what ComfyUI generates with; None where there is none."""
    from ...trainer.jobs.gpu_queue import queued
    from ...trainer.runs.run_folder import Run

    first = next(iter(queued(workspace)), None)
    if first is None or first.parent.name != "runs" or not is_shared(host, Run(first).config().training.device):
        return None
    return first.name


def hold_gpu(workspace: Path, is_generating: Callable[[], bool], free: Callable[[], None]) -> None:
    """Keep ComfyUI's place in the GPU queue, in a thread: until it has generated and its memory was freed.

    Returns when that place is taken, so that whoever is started next waits behind it. If ComfyUI ends, it is given up.
    """
    taken = threading.Event()
    failures: list[Exception] = []

    def hold() -> None:
        from ...trainer.jobs.gpu_queue import enqueue

        try:
            with enqueue(workspace, workspace / "tasks" / "comfyui"):
                taken.set()
                while is_generating():
                    time.sleep(_POLL_SECONDS)
                free()
        except Exception as error:
            log.exception("MaPO: ComfyUI's place in the queue of trainings was lost")
            if not taken.is_set():
                failures.append(error)
        finally:
            taken.set()

    threading.Thread(target=hold, name="mapo-line", daemon=True).start()
    taken.wait()
    if failures:
        raise failures[0]


def free_memory(ask: Callable[[], None], is_asked: Callable[[], bool]) -> None:
    """Have ComfyUI free its memory, and wait until it has begun."""
    ask()
    until = time.monotonic() + _FREEING_SECONDS
    while is_asked() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _free_card(host: Host) -> str | None:
    own = host.cards.get(host.own, 0)
    others = {card: memory for card, memory in host.cards.items() if card != host.own and 2 * memory >= own}
    return max(others, key=lambda card: others[card], default=None)

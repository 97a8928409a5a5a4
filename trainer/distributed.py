"""How do several processes train one run together: who is who, what is shared, and one end for all?

torchrun, accelerate launch and schedulers that set the same variables start one process a card; RANK, WORLD_SIZE and
LOCAL_RANK tell each which one it is. Without them a process is alone, and nothing here costs it anything.

Tensors on cards cross by NCCL, everything else by gloo. What one process cannot mend ends all: it leaves its sentence
in the store that all of them know, where a thread of each one looks, since whoever waits for the others hears nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .cancellation import Cancelled
from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long the others are waited for: one encodes, paints or stands in line. That one is dead is noticed otherwise."""
_LOOK_SECONDS = 0.5
_OWN_WORDS_SECONDS = 3.0
"""Whoever hears of an error may be about to end with the same one."""
_HEARD_SECONDS = 20.0
_ERROR, _HEARD = "mapo/error", "mapo/heard"


@dataclass(frozen=True)
class World:
    """All processes of a training, as one of them sees it.

    rank: which it is, from 0; local_rank: which on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _told: list[Callable[[str], None]] = field(default_factory=list, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes: events, states, samples and the LoRA."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        return self.size == 1

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """The part of `items` that is this process's to do."""
        return items if self.is_single else items[self.rank :: self.size]

    def all_gather(self, part: Sequence[T]) -> list[T]:
        """What all made of their shares of something, in its order. Every process must call it, and gets the same."""
        if self.is_single:
            return list(part)
        import torch.distributed as dist

        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(part))
        return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Each tensor becomes its sum over all processes. Contiguous, float32, on one device."""
        if self.is_single:
            return
        import torch.distributed as dist

        for one in tensors:
            dist.all_reduce(one)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process. All of them wait here for the last; no device is waited for."""
        if self.is_single:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    @contextmanager
    def synchronized(self) -> Iterator[None]:
        """All have done their share when the `with` ends; a Cancelled of one is raised in all."""
        try:
            yield
        except Cancelled:
            self.any(True)
            raise
        if self.any(False):
            raise Cancelled

    def assert_equal(self, what: str, value: int) -> None:
        """Raise UserError where the processes do not all have the same `value`."""
        if len(set(self.all_gather([value]))) > 1:
            raise UserError(f"the processes see different {what}: the workspace must lie on a disk that they share")

    def device(self, name: str) -> torch.device:
        """This process's own of the devices called `name`. Raises UserError as pick_device, or if there is none."""
        import torch

        from .device import cards, pick_device

        device = pick_device(name)
        if self.is_single or device.type == "cpu":
            return device
        if device.index is not None or device.type == "mps":
            raise UserError(f"{self.size} processes cannot share {device}: use --device auto, and one process a card")
        there = sum(name.startswith(f"{device.type}:") for name in cards())
        if self.local_rank >= there:
            raise UserError(
                f"process {self.local_rank} of this machine has no card: start only {there} processes on it"
            )
        getattr(torch, device.type).set_device(self.local_rank)
        return torch.device(device.type, self.local_rank)

    @contextmanager
    def on_peer_error(self, hear: Callable[[str], None]) -> Iterator[None]:
        """For the length of a `with`, `hear` is called before an error of another process ends this one."""
        self._told.append(hear)
        try:
            yield
        finally:
            self._told.remove(hear)


SINGLE = World()


def from_env() -> World:
    """Who this process is, from the environment. Raises UserError where that is not whole."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return SINGLE
    try:
        return World(int(os.environ["RANK"]), int(size), int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    except (KeyError, ValueError) as error:
        raise UserError(f"WORLD_SIZE is {size}, but {error} does not say which process this is: use torchrun") from None


@contextmanager
def init_distributed() -> Iterator[World]:
    """All processes that were launched together, for the length of a `with`.

    What is raised in one ends all: the first process says it, the others leave with exit code 2 and no word.
    """
    world = from_env()
    if world.is_single:
        yield world
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _get_default_store

    dist.init_process_group(_backend(), rank=world.rank, world_size=world.size, timeout=_PATIENCE)
    store, left = _get_default_store(), threading.Event()
    threading.Thread(target=_listen, args=(store, world, left), name="world", daemon=True).start()
    try:
        yield world
        dist.barrier()
    except Exception as error:
        left.set()
        if isinstance(error, Cancelled):  # which all of them raise at the same place
            raise
        _leave_word(store, world, error)
        raise
    finally:
        left.set()
    dist.destroy_process_group()


def is_peer_lost(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    said = str(error)
    return any(words in said for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))


def _backend() -> str:
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available() and dist.is_nccl_available():
        return "cpu:gloo,cuda:nccl"
    if hasattr(torch, "xpu") and torch.xpu.is_available() and getattr(dist, "is_xccl_available", lambda: False)():
        return "cpu:gloo,xpu:xccl"
    return "gloo"


def _leave_word(store: Any, world: World, error: Exception) -> None:
    """Let the others know why, and leave without a word if the first process has it to say."""
    try:
        store.compare_set(_ERROR, "", str(error) or type(error).__name__)
        if world.is_main:
            store.set(_HEARD, "yes")
            time.sleep(2 * _LOOK_SECONDS)  # until all have looked: the store may end with this process
            return
        until = time.monotonic() + _HEARD_SECONDS
        while time.monotonic() < until:
            if store.check([_HEARD]):
                time.sleep(_OWN_WORDS_SECONDS)  # torchrun ends the others when one is gone: the first must have spoken
                os._exit(2)
            time.sleep(_LOOK_SECONDS / 5)
    except RuntimeError:  # the store is gone already
        return


def _listen(store: Any, world: World, left: threading.Event) -> None:
    """End this process when another one cannot go on: its main thread may be waiting for that one for ever."""
    try:
        while not store.check([_ERROR]):
            if left.wait(_LOOK_SECONDS):
                return
        sentence = store.get(_ERROR).decode()
    except RuntimeError:  # the store is gone, and with it whoever started all of them
        return
    if world.is_main:
        if left.wait(_OWN_WORDS_SECONDS):
            return
        for hear in world._told:
            hear(sentence)
        sys.stderr.write(f"mapo: {sentence}\n")
        sys.stderr.flush()
        store.set(_HEARD, "yes")
    elif left.wait(_OWN_WORDS_SECONDS):
        return
    os._exit(2)

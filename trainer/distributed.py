"""Distributed training: the processes of one run, what is shared between them, and one end for all.

torchrun, accelerate launch and schedulers that set the same variables start one process a card; RANK, WORLD_SIZE and
LOCAL_RANK tell each which one it is. Without them a process is single, and nothing here costs it anything.

Tensors on cards cross by NCCL, everything else by gloo. When one process fails, torchrun ends the others and prints
what was recorded, as with `torch.distributed.elastic.multiprocessing.errors.record`. Two things are our own, because
torchrun tells neither the other processes nor the run what went wrong: the sentence of the error is left in the store
that all processes share, where the main one reads it when a collective of its own breaks, to log and to print it once;
and the main one ignores torchrun's SIGTERM while it does so. gloo breaks at once. A process that waits for its card
instead is ended by torchrun, after 30 seconds, without a word: its run counts as crashed and can be resumed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .cancellation import Cancelled
from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""Of a collective: another process may encode, generate or wait for the device. That one is dead breaks it at once."""
_ERROR = "mapo/error"
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


@dataclass(frozen=True)
class World:
    """All processes of a training, as one of them sees it.

    rank: which it is, from 0; local_rank: which on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes: events, states, samples and the LoRA."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        return self.size == 1

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`."""
        return items if self.is_single else items[self.rank :: self.size]

    def all_gather(self, part: Sequence[T]) -> list[T]:
        """The results of all for their shards of something, in its order. A collective: all processes must call it."""
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

        for tensor in tensors:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process. A collective on the CPU: no device is waited for."""
        if self.is_single:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    @contextmanager
    def synchronized(self) -> Iterator[None]:
        """A barrier at the end of a `with`; a Cancelled of one process is raised in all."""
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
    """The processes that were launched together, for the length of a `with`.

    An error in one ends all. The main process raises its own, or a UserError with the sentence of the one that failed;
    from the others a UserError becomes SystemExit(2), so that it is printed once.
    """
    world = from_env()
    if world.is_single:
        yield world
        return
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().initialize()
    if world.is_main:
        # torchrun ends the others as soon as one is gone; this one has to log and to print why. Not SIG_IGN, which a
        # process that is started from here would inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
    dist.init_process_group(_backend(), rank=world.rank, world_size=world.size, timeout=_TIMEOUT)
    try:
        yield world
        dist.barrier()
    except Cancelled:  # which all of them raise at the same place
        raise
    except Exception as error:
        explained = explain_peer_error(error)
        _leave_error(explained)
        get_error_handler().record_exception(explained)
        if isinstance(explained, UserError) and not world.is_main:
            raise SystemExit(2) from error
        if explained is error:
            raise
        raise explained from error
    dist.destroy_process_group()


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    return any(words in str(error) for words in _PEER_LOST)


def explain_peer_error(error: Exception) -> Exception:
    """The error of the process that failed first, where `error` only says that it is gone; `error` itself otherwise."""
    import torch.distributed as dist

    # A single process loses no peer: there it is a download, or a pipe.
    if not is_peer_lost(error) or not (dist.is_available() and dist.is_initialized()):
        return error
    return UserError(
        _left_error()
        or "another process of this training exited unexpectedly: see the launcher's output. You can resume from the "
        "last checkpoint by `mapo resume`"
    )


def _leave_error(error: Exception) -> None:
    try:
        _store().compare_set(_ERROR, "", str(error) or type(error).__name__)
    except RuntimeError:  # the store ended with another process
        return


def _left_error() -> str:
    try:
        return _store().get(_ERROR).decode() if _store().check([_ERROR]) else ""
    except RuntimeError:
        return ""


def _store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _backend() -> str:
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available() and dist.is_nccl_available():
        return "cpu:gloo,cuda:nccl"
    if hasattr(torch, "xpu") and torch.xpu.is_available() and getattr(dist, "is_xccl_available", lambda: False)():
        return "cpu:gloo,xpu:xccl"
    return "gloo"

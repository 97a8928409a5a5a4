"""On what a run computes, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(wanted: str = "auto") -> torch.device:
    """The device called `wanted`; "auto": the first of CUDA (or ROCm), XPU, MPS, CPU that is there."""
    if wanted == "auto":
        for kind in ("cuda", "xpu", "mps"):
            if _available(kind):
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"device {wanted!r} is not known: use auto, cpu, cuda, cuda:1, mps or xpu") from None
    if device.type != "cpu" and not _available(device.type):
        raise UserError(
            f"this machine's torch sees no {device.type} device: `mapo doctor` says why, --device cpu works"
        )
    return device


def pick_precision(wanted: str, device: torch.device) -> str:
    """The arithmetic of the base on `device`, a key of DTYPES; see TrainingConfig.precision.

    Raises UserError for a precision that the device cannot train in.
    """
    if wanted == "float16" and device.type == "cpu":
        raise UserError("float16 cannot be trained in on a CPU: use --precision float32 or bfloat16")
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "float32"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to the device after a model was dropped."""
    import gc

    gc.collect()
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).empty_cache()


@contextmanager
def parked(model: nn.Module, device: torch.device) -> Iterator[None]:
    """`model` out of the device's memory for the length of a `with` block, while another is in it."""
    if device.type == "cpu":
        yield
        return
    model.to("cpu")
    release_memory(device)
    try:
        yield
    finally:
        release_memory(device)
        model.to(device)


def _available(kind: str) -> bool:
    module = getattr(torch, kind, None)
    return module is not None and module.is_available()

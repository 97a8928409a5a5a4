"""Device capabilities: precision, optimizers, attention, storage and memory of what is computed on.

Everything that differs between CUDA, ROCm, Apple MPS, Intel XPU and a CPU is decided here. What a device lacks is said
in `DeviceCapabilities.notes`, one sentence each, where it costs the person something. torch is imported where it is
needed: a page that only asks nvidia-smi for the card's memory starts without it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

_BF16_NVIDIA = (8, 0)
"""From Ampere on; what torch calls support on older cards is an emulation slower than float32."""
_BF16_AMD = ("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""CDNA 2 and RDNA 3 on: those with matrix units for bfloat16."""
_NF4_NVIDIA, _TRITON_NVIDIA = (6, 0), (7, 0)
"""From which compute capability on bitsandbytes has kernels for it (its README), and Triton compiles."""
_COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class DeviceCapabilities:
    """What one device can do, as far as torch can tell without trying. Made by `capabilities`.

    backend: "cuda", "rocm", "mps", "xpu" or "cpu"; name: as a person knows it.
    precision: what "auto" means for the UNet, see `torch_dtype`; text, vae: what the encoders are loaded in.
    attention: what torch's scaled_dot_product_attention, which is used everywhere, runs on: "flash", "efficient", or
    "math", which alone keeps a matrix of all positions times all positions.
    eight_bit: the libraries to try for 8-bit optimizer states, in this order; paged: whether those states may live in
    memory that the host shares and the driver pages.
    pinned: page-locked host memory, from where copies go on beside computing.
    compiles: torch.compile has a compiler for it (whether it pays is for speed.py to say).
    storage: what a frozen layer's weights can be stored as, of "int8" (torch alone does it), "nf4" (bitsandbytes) and
    "fp8".
    notes: sentences about what had to be done without.
    """

    device: torch.device
    backend: str
    name: str
    precision: str
    text: torch.dtype
    vae: torch.dtype
    attention: str
    eight_bit: tuple[str, ...] = ()
    paged: bool = False
    pinned: bool = False
    compiles: bool = False
    storage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def torch_dtype(precision: str) -> torch.dtype:
    """Of "float32", "bfloat16" or "float16"."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


@dataclass(frozen=True)
class Memory:
    """A device's memory in bytes: total, and free at this moment for this process."""

    total: int
    free: int


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto": the first of CUDA (or ROCm), XPU, MPS, CPU that is there."""
    import torch

    if name == "auto":
        for kind in ("cuda", "xpu", "mps"):
            if _available(kind):
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not known: use auto, cpu, cuda, cuda:1, mps or xpu") from None
    if device.type != "cpu" and not _available(device.type):
        raise UserError(
            f"this machine's torch sees no {device.type} device: `mapo doctor` says why, --device cpu works"
        )
    return device


def pick_precision(setting: str, device: torch.device) -> str:
    """The arithmetic of the base on `device`, see `torch_dtype`; see TrainingConfig.precision.

    Raises UserError for a precision that the device cannot train in.
    """
    if setting == "float16" and device.type in ("cpu", "mps"):
        raise UserError(f"float16 cannot be trained in on {device.type}: use --precision float32 or bfloat16")
    return capabilities(device).precision if setting == "auto" else setting


def capabilities(device: torch.device) -> DeviceCapabilities:
    """What `device` can do. Looks only: takes no memory there and tries no kernel."""
    import torch

    if device.type == "cuda":
        return _of_amd(device) if torch.version.hip else _of_nvidia(device)
    if device.type == "xpu":
        return _of_intel(device)
    if device.type == "mps":
        return _of_apple(device)
    return _of_cpu(device)


def memory_of(device: torch.device) -> Memory | None:
    """The memory of a card; None for a CPU, whose memory belongs to everybody. Wakes the device."""
    import torch

    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        free, total = module.mem_get_info(_index(device))
        return Memory(total, free)
    if device.type == "mps":  # what Metal lets one process have of the memory that it shares with the rest
        total = torch.mps.recommended_max_memory()
        return Memory(total, max(0, total - torch.mps.driver_allocated_memory()))
    return None


def cards() -> dict[str, int]:
    """Every card of this machine: torch's name of it -> bytes of its memory. Takes none of it."""
    import torch

    sizes = {}
    for kind in ("cuda", "xpu"):
        for number in range(getattr(torch, kind).device_count() if _available(kind) else 0):
            sizes[f"{kind}:{number}"] = int(getattr(torch, kind).get_device_properties(number).total_memory)
    return sizes


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory that the card has; None for a CPU. Takes none of it."""
    import torch

    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return cards().get(f"{device.type}:{_index(device)}") if device.type in ("cuda", "xpu") else None


@lru_cache(maxsize=1)
def nvidia_smi_memory() -> int | None:
    """Bytes that the NVIDIA card has, of several the smallest; None where there is none, or its driver is silent.

    For pages, which do without torch: importing it takes seconds. Called once: nvidia-smi can take seconds too.
    """
    executable = shutil.which("nvidia-smi")
    if not executable:
        return None
    command = [executable, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) for line in map(str.strip, answer.stdout.splitlines()) if line.isdecimal()]
    return min(sizes) * 2**20 if answer.returncode == 0 and sizes else None


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to the device after a model was dropped."""
    import gc

    import torch

    gc.collect()
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).empty_cache()


@contextmanager
def offloaded(model: nn.Module, device: torch.device) -> Iterator[None]:
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


def _of_nvidia(device: torch.device) -> DeviceCapabilities:
    import torch

    card, able = torch.cuda.get_device_properties(_index(device)), torch.cuda.get_device_capability(_index(device))
    bf16, notes = able >= _BF16_NVIDIA, ()
    if not bf16:
        notes = (_in_float16(card.name),)
    return _of_card(
        device,
        "cuda",
        card.name,
        bf16,
        # Flash kernels are for Ampere on; before, torch has memory-efficient ones that keep no matrix either.
        attention="flash" if bf16 else "efficient",
        compiles=able >= _TRITON_NVIDIA and _installed("triton"),
        nf4=able >= _NF4_NVIDIA,
        notes=notes,
    )


def _of_amd(device: torch.device) -> DeviceCapabilities:
    import torch

    card = torch.cuda.get_device_properties(_index(device))
    kind = str(getattr(card, "gcnArchName", "")).partition(":")[0]
    bf16 = kind.startswith(_BF16_AMD)
    notes = []
    if not bf16:
        notes.append(_in_float16(f"{card.name} ({kind})"))
    flash = torch.backends.cuda.is_flash_attention_available() and bf16
    if not flash:
        notes.append(f"torch has no flash attention for {card.name}: memory grows with a picture's side to the fourth")
    return _of_card(
        device,
        "rocm",
        card.name,
        bf16,
        attention="flash" if flash else "math",
        compiles=_installed("triton"),
        nf4=True,
        notes=tuple(notes),
    )


def _of_intel(device: torch.device) -> DeviceCapabilities:
    import torch

    name = torch.xpu.get_device_properties(_index(device)).name
    bf16 = torch.xpu.is_bf16_supported() if hasattr(torch.xpu, "is_bf16_supported") else True
    notes = () if bf16 else (_in_float16(name),)
    made = _of_card(
        device,
        "xpu",
        name,
        bf16,
        attention="efficient",
        compiles=_installed("triton"),
        nf4=True,
        notes=notes,
    )
    return replace(made, text=torch.float32)


def _of_card(
    device: torch.device,
    backend: str,
    name: str,
    bf16: bool,
    *,
    attention: str,
    compiles: bool,
    nf4: bool,
    notes: tuple[str, ...],
) -> DeviceCapabilities:
    """What cards with a memory of their own have in common."""
    import torch

    bitsandbytes = _installed("bitsandbytes")
    return DeviceCapabilities(
        device,
        backend,
        name,
        precision="bfloat16" if bf16 else "float16",
        text=torch.float16,
        # Never float16: activations inside SDXL's VAE exceed its largest number, 65504, and come out as NaN: a black
        # picture, or a latent that poisons a training. bfloat16 has float32's range at half its memory.
        vae=torch.bfloat16 if bf16 else torch.float32,
        attention=attention,
        eight_bit=("bitsandbytes", "torchao"),
        paged=True,
        pinned=True,
        compiles=compiles,
        storage=("int8", *(("nf4",) if bitsandbytes and nf4 else ()), "fp8"),
        notes=notes,
    )


def _of_apple(device: torch.device) -> DeviceCapabilities:
    # Metal has had bfloat16 since macOS 14. Loss scaling, which float16 needs, is not proven there.
    import torch

    bf16 = torch.backends.mps.is_macos_or_newer(14, 0)
    notes = () if bf16 else ("bfloat16 needs macOS 14: computing in float32, which takes twice the memory",)
    return DeviceCapabilities(
        device,
        "mps",
        "the GPU of this Mac",
        precision="bfloat16" if bf16 else "float32",
        text=torch.float32,
        vae=torch.float32,
        attention="math",
        # bitsandbytes has no optimizer for it. Memory is shared with the processor: nothing to pin, nothing to page.
        eight_bit=("torchao",),
        storage=("int8",),  # torch has no float8 there
        notes=notes,
    )


def _of_cpu(device: torch.device) -> DeviceCapabilities:
    import torch

    bitsandbytes = _installed("bitsandbytes")
    return DeviceCapabilities(
        device,
        "cpu",
        "the CPU",
        precision="float32",
        text=torch.float32,
        vae=torch.float32,
        attention="flash",
        eight_bit=("bitsandbytes", "torchao"),
        compiles=any(map(shutil.which, _COMPILERS)),
        storage=("int8", *(("nf4",) if bitsandbytes else ()), "fp8"),
    )


def _in_float16(name: str) -> str:
    return f"{name} has no bfloat16 arithmetic: computing in float16 with loss scaling, the VAE in float32"


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except (ImportError, ValueError):  # a module put in its place says it has no spec
        return False


def _index(device: torch.device) -> int:
    """Of a card; of "cuda" without a number the one that torch computes on now."""
    import torch

    return getattr(torch, device.type).current_device() if device.index is None else device.index


def _available(kind: str) -> bool:
    import torch

    module = getattr(torch, kind, None)
    return module is not None and module.is_available()

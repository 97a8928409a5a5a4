"""What would torch report on machines that are not at hand? `pretend` makes it report that."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from mapo_studio.trainer import device as device_module

GIB = 2**30
NVIDIA = {
    "GTX 1080": ((6, 1), 8),
    "T4": ((7, 5), 15),
    "RTX 3060": ((8, 6), 12),
    "RTX 4090": ((8, 9), 24),
    "H100": ((9, 0), 80),
}
"""Name -> compute capability, GiB."""
AMD = {"RX 6800": ("gfx1030", 16), "RX 7900 XTX": ("gfx1100", 24), "MI300X": ("gfx942:sramecc+:xnack-", 192)}


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str, lacking: tuple[str, ...] = ()) -> torch.device:
    """Have torch report these cards (all of one make), "Mac", "old Mac", "Arc" or nothing; returns what auto picks.

    lacking: libraries that are not installed.
    """
    have = {"triton": SimpleNamespace(), "bitsandbytes": SimpleNamespace()}
    monkeypatch.setattr(
        device_module, "find_spec", lambda name: None if name in lacking else have.get(name) or find_spec(name)
    )
    for kind in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: False)
    first = names[0] if names else ""
    if first in NVIDIA or first in AMD:
        _cards(monkeypatch, "cuda", [(name, NVIDIA[name][1] if name in NVIDIA else AMD[name][1]) for name in names])
        monkeypatch.setattr(torch.version, "hip", "6.4" if first in AMD else None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: NVIDIA[names[number]][0])
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    elif first == "Arc":
        _cards(monkeypatch, "xpu", [(name, 16) for name in names])
        monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda: True)
    elif first:
        monkeypatch.setattr(torch.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: first == "Mac")
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 24 * GIB)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 4 * GIB)
    return device_module.pick_device()


def _cards(monkeypatch: pytest.MonkeyPatch, kind: str, known: list[tuple[str, int]]) -> None:
    module = getattr(torch, kind)

    def properties(number: int) -> SimpleNamespace:
        name, gib = known[number]
        return SimpleNamespace(name=name, total_memory=gib * GIB, gcnArchName=AMD.get(name, ("",))[0])

    monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(module, "device_count", lambda: len(known))
    monkeypatch.setattr(module, "current_device", lambda: 0)
    monkeypatch.setattr(module, "get_device_properties", properties)
    monkeypatch.setattr(module, "mem_get_info", lambda number: (known[number][1] * GIB // 2, known[number][1] * GIB))

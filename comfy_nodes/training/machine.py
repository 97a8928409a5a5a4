"""What is there to train on, and which of it do the settings name?"""

from __future__ import annotations

from aiohttp import web

from ..comfy_api import host
from . import gpu_sharing


def machine() -> gpu_sharing.Machine:
    """What ComfyUI computes on, and every card."""
    from ...trainer.device import cards

    return gpu_sharing.Machine(host.own_device(), cards())


def place(request: web.Request | None = None) -> gpu_sharing.Place:
    """Where is trained for who asks; without a request, for the default user. Raises UserError as `place_of`."""
    said = str(host.settings(request).get("MaPO.TrainingDevice") or "").strip()
    return gpu_sharing.place_of(machine(), "" if said == "automatic" else said)

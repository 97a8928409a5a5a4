"""How much memory has the card, as its driver says? For faces, which do without torch: importing it takes seconds."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache


@lru_cache(maxsize=1)
def card_memory() -> int | None:
    """Bytes that the NVIDIA card has, of several the smallest; None where there is none, or its driver is silent.

    Asked once: nvidia-smi can take seconds.
    """
    found = shutil.which("nvidia-smi")
    if not found:
        return None
    ask = [found, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) for line in map(str.strip, answer.stdout.splitlines()) if line.isdecimal()]
    return min(sizes) * 2**20 if answer.returncode == 0 and sizes else None

"""The state that a stopped or killed run goes on from: written whole, the last two kept.

    state/step-00000150/
        adapter.safetensors   the LoRA's weights, float32
        optimizer.pt          optimizer (and loss-scaler) state, tensors and numbers only
        progress.json         steps done, batches taken by then, and what the run was made from
    state/kept-00000100.safetensors     the LoRA's weights at the best moment so far, while the run is not finished

Randomness needs no saving: every draw of a run is a function of (seed, step), see batches.py.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic_files import atomic_write, explain_disk_full
from ..errors import UserError

_KEPT = 2


@dataclass(frozen=True)
class Origin:
    """What a run is made from; a state is of no use with anything else. Content hashes."""

    base: str
    pairs: str


@dataclass(frozen=True)
class State:
    """Everything that a run needs to go on after `step` steps.

    batches: how many were taken by then, which depends on how many processes took the steps; None where it was not
    written down, as before there could be several.
    quantize: how the base was stored meanwhile. A LoRA may go on over a base that is stored otherwise.
    """

    step: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Any]
    origin: Origin
    batches: int | None = None
    quantize: str = "none"


def save_state(folder: Path, state: State) -> Path:
    """Write `state` below `folder` and drop states older than the last two. Returns its folder.

    It is made under another name and renamed when all of it is on the disk, so that whatever is found can be trusted.
    Raises UserError where the disk is full; the states before it stay.
    """
    final = folder / f"step-{state.step:08d}"
    part = folder / f".{final.name}.part"
    with explain_disk_full(final):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_file(
                {name: tensor.contiguous() for name, tensor in state.adapter.items()}, part / "adapter.safetensors"
            )
            # Through memory: torch's own file writer hides that the disk is full behind an error of its own.
            optimizer = io.BytesIO()
            torch.save(state.optimizer, optimizer)
            (part / "optimizer.pt").write_bytes(optimizer.getbuffer())
            progress = {
                "step": state.step,
                "batches": state.batches,
                "quantize": state.quantize,
                "origin": asdict(state.origin),
            }
            (part / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
            for file in part.iterdir():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    for old in _found(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_step(folder: Path) -> int | None:
    """Steps done in the newest state below `folder`, or None."""
    found = _found(folder)
    return int(found[-1].name.removeprefix("step-")) if found else None


def load_state(folder: Path, origin: Origin) -> State | None:
    """The newest state below `folder`, on the CPU; None where there is none.

    Raises UserError where the state was made from another base or other pairs than `origin`.
    """
    found = _found(folder)
    if not found:
        return None
    newest = found[-1]
    progress = json.loads((newest / "progress.json").read_text(encoding="utf-8"))
    for part, ours in asdict(origin).items():
        if progress["origin"][part] != ours:
            raise UserError(
                f"{newest.parent.parent.name} was started with other {part} ({progress['origin'][part]}, now {ours}): "
                f"put the old {part} back, or start a new run under another name"
            )
    return State(
        step=progress["step"],
        adapter=load_file(newest / "adapter.safetensors"),
        optimizer=torch.load(newest / "optimizer.pt", map_location="cpu", weights_only=True),
        origin=origin,
        batches=progress.get("batches"),
        quantize=progress.get("quantize", "none"),
    )


def save_best(folder: Path, step: int, weights: dict[str, Tensor]) -> None:
    """Write the LoRA as it is after `step` steps beside the states. Raises UserError where the disk is full."""
    with atomic_write(_kept_file(folder, step)) as part:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, part)


def load_best(folder: Path, step: int) -> dict[str, Tensor] | None:
    """What `save_best` wrote for that step, None where it is not there."""
    file = _kept_file(folder, step)
    return load_file(file) if file.is_file() else None


def prune_best(folder: Path, but: int | None = None) -> None:
    """Remove what `save_best` wrote, but that of one step.

    Only when a state was saved: a run that is killed before goes on from an older one, and then wants the weights that
    were the best by then.
    """
    for file in folder.glob("kept-*.safetensors"):
        if but is None or file != _kept_file(folder, but):
            file.unlink(missing_ok=True)


def _kept_file(folder: Path, step: int) -> Path:
    return folder / f"kept-{step:08d}.safetensors"


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []

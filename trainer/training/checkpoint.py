"""Checkpoints: the training state that a stopped or killed run resumes from; written atomically, the last two kept.

    state/step-00000150/
        adapter.safetensors   the LoRA's weights, float32
        optimizer.pt          optimizer (and loss-scaler) state, tensors and numbers only
        progress.json         the TrainState, and what the run was made from
    state/kept-00000100.safetensors     the LoRA's weights at the best point so far, while the run is not finished

Randomness needs no saving: every draw of a run is a function of (seed, step), see batches.py.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic_files import atomic_write, explain_disk_full
from ..errors import UserError
from ..runs.run_folder import Event
from .early_stopping import EvalHistory, EvalPoint, history_of

_CHECKPOINTS = 2


@dataclass(frozen=True)
class RunFingerprint:
    """What a run is made from; a checkpoint is of no use with anything else. Content hashes."""

    base: str
    pairs: str


@dataclass
class TrainState:
    """Where a training stands after `step` steps: what changes as it goes on and is not a tensor.

    batches: how many were taken by all processes together: the position in the data, which depends on how many
    processes took the steps. history: of the measurements on held-out pairs. quantize: how the base was stored
    meanwhile; a LoRA may be trained further over a base that is stored otherwise.
    """

    step: int = 0
    batches: int = 0
    history: EvalHistory = field(default_factory=EvalHistory)
    quantize: str = "none"


@dataclass(frozen=True)
class LearnerState:
    """The tensors of a checkpoint. adapter: the LoRA's weights, float32; optimizer: as its `state_dict` gives them."""

    adapter: dict[str, Tensor]
    optimizer: dict[str, Any]


def save_checkpoint(folder: Path, state: TrainState, tensors: LearnerState, fingerprint: RunFingerprint) -> Path:
    """Write a checkpoint below `folder` and drop those older than the last two. Returns its folder.

    It is made under another name and renamed when all of it is on the disk, so that whatever is there can be trusted.
    Raises UserError where the disk is full; the checkpoints before it stay.
    """
    final = folder / f"step-{state.step:08d}"
    part = folder / f".{final.name}.part"
    with explain_disk_full(final):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.adapter.items()}, part / "adapter.safetensors"
            )
            # Through memory: torch's own file writer hides that the disk is full behind an error of its own.
            optimizer = io.BytesIO()
            torch.save(tensors.optimizer, optimizer)
            (part / "optimizer.pt").write_bytes(optimizer.getbuffer())
            progress = {
                "step": state.step,
                "batches": state.batches,
                "quantize": state.quantize,
                "history": [astuple(point) for point in state.history.points],
                "origin": asdict(fingerprint),
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
    for old in _checkpoints(folder)[:-_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_step(folder: Path) -> int | None:
    """Steps done in the newest checkpoint below `folder`, or None."""
    checkpoints = _checkpoints(folder)
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else None


def load_checkpoint(
    folder: Path, fingerprint: RunFingerprint, *, accumulation: int = 1, events: Iterable[Event] = ()
) -> tuple[TrainState, LearnerState] | None:
    """The newest checkpoint below `folder`, on the CPU; None where there is none.

    accumulation, events: the run's, for what earlier versions did not write down: before there could be several
    processes each step took `accumulation` batches, and the history was read from the run's events.

    Raises UserError where the checkpoint was made from another base or other pairs than `fingerprint`.
    """
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    progress = json.loads((newest / "progress.json").read_text(encoding="utf-8"))
    for part, ours in asdict(fingerprint).items():
        if progress["origin"][part] != ours:
            raise UserError(
                f"{newest.parent.parent.name} was started with other {part} ({progress['origin'][part]}, now {ours}): "
                f"put the old {part} back, or start a new run under another name"
            )
    step, batches, points = progress["step"], progress.get("batches"), progress.get("history")
    if points is None:
        history = history_of(event for event in events if event.get("step", 0) <= step)
    else:
        history = EvalHistory.of(EvalPoint(*point) for point in points)
    state = TrainState(
        step=step,
        batches=step * accumulation if batches is None else batches,
        history=history,
        quantize=progress.get("quantize", "none"),
    )
    tensors = LearnerState(
        adapter=load_file(newest / "adapter.safetensors"),
        optimizer=torch.load(newest / "optimizer.pt", map_location="cpu", weights_only=True),
    )
    return state, tensors


def save_best(folder: Path, step: int, weights: dict[str, Tensor]) -> None:
    """Write the LoRA as it is after `step` steps beside the checkpoints. Raises UserError where the disk is full."""
    with atomic_write(_best_file(folder, step)) as part:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, part)


def load_best(folder: Path, step: int) -> dict[str, Tensor] | None:
    """What `save_best` wrote for that step, None where it is not there."""
    file = _best_file(folder, step)
    return load_file(file) if file.is_file() else None


def prune_best(folder: Path, but: int | None = None) -> None:
    """Remove what `save_best` wrote, but that of one step.

    Only when a checkpoint was saved: a run that is killed before resumes from an older one, and then wants the weights
    that were the best by then.
    """
    for file in folder.glob("kept-*.safetensors"):
        if but is None or file != _best_file(folder, but):
            file.unlink(missing_ok=True)


def _best_file(folder: Path, step: int) -> Path:
    return folder / f"kept-{step:08d}.safetensors"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []

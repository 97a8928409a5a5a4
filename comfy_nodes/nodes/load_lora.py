"""MaPO Load LoRA: applies a LoRA with one strength, or one that grows from the base's image to the LoRA's."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..comfy_api import graph, host, lora_files
from ..comfy_api.strength_schedule import strength_schedule

if TYPE_CHECKING:
    from ..comfy_api.lora_hooks import Weights

_OF_A_PART = re.compile(r"[._](lora|hada|lokr|oft|dora_scale|alpha|diff|set_weight|[wb]_norm)([._].*)?$")
"""What follows the name of a module in the keys of the formats that ComfyUI reads."""


class LoadLoRA(io.ComfyNode):
    """Loads a LoRA from ComfyUI's list, or from the path that the train node gives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=graph.LOADER,
            display_name="MaPO Load LoRA",
            category="MaPO",
            description="Puts a LoRA on a model: the same at every step, or growing over the steps of the sampling.",
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The base that the LoRA was trained on, or one of its kind."),
                io.Combo.Input(
                    "lora_name",
                    options=[graph.NONE, *host.files_of("loras")],
                    tooltip="From ComfyUI's list. New files appear here by themselves. none: the model as it is.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="1 is as trained; 0 is the model."
                ),
                io.Combo.Input(
                    "schedule",
                    options=["constant", "annealed"],
                    tooltip="constant: as strong at every step. annealed: the base paints the first steps (variety), "
                    "the LoRA the last ones (taste).",
                ),
                io.Float.Input(
                    "power",
                    default=1.0,
                    min=0.1,
                    max=8.0,
                    step=0.1,
                    tooltip="Of annealed: strength x t^power, t going from 0 at the first step to 1 at the last. "
                    "Higher leaves more to the base.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Only for LoRAs that change the text encoder too."),
                io.String.Input(
                    "lora_path",
                    optional=True,
                    force_input=True,
                    tooltip="The path from MaPO Train LoRA. Where it is connected, the list does not count.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output("clip_out", display_name="clip", tooltip="The text encoder with the LoRA."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None) -> bool | str:
        # Named here, ComfyUI leaves the check of the list to us: a path that is linked makes the list not count.
        return isinstance(lora_name, str) or "choose a LoRA"

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, lora_path: str | None = None, **_: Any) -> str:
        """Another one when the file was written anew under its name."""
        file = Path(lora_path) if lora_path else host.file_of("loras", lora_name or "")
        try:
            facts = file.stat() if file else None
        except OSError:
            facts = None
        return f"{facts.st_mtime_ns} {facts.st_size}" if facts else ""

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        strength: float,
        schedule: str,
        power: float,
        clip: Any = None,
        lora_path: str | None = None,
    ) -> io.NodeOutput:
        file = _file(lora_name, lora_path)
        if lora_path is not None:
            name = _listed(file) if file else graph.NONE
            graph.record_loaded_lora(cls.hidden.prompt or {}, cls.hidden.unique_id, name)
        if file is None or strength == 0:
            return io.NodeOutput(model, clip)
        return io.NodeOutput(*_with_lora(model, clip, file, strength, power if schedule == "annealed" else None))


def _file(name: str, path: str | None) -> Path | None:
    """The file to load; None for the model as it is. Raises UserError where it is gone, or not ours to read."""
    from ...trainer.errors import UserError

    if path is None:
        return None if name == graph.NONE else lora_files.file_named(name)
    if not path.strip():
        raise UserError(
            "the path of the LoRA is empty: connect the lora_path of MaPO Train LoRA, or take the link away"
        )
    return lora_files.file_at(path)


def _listed(file: Path) -> str:
    """As ComfyUI's list names it; the whole path where it is not in there."""
    for folder in host.folders_of("loras"):
        if file.is_relative_to(folder.resolve()):
            return str(file.relative_to(folder.resolve()))
    return str(file)


def _with_lora(model: Any, clip: Any, file: Path, strength: float, power: float | None) -> tuple[Any, Any]:
    """(model, text encoder) with the LoRA. power: of the schedule over the steps; None for as strong at each.

    A text encoder has no steps: what the LoRA has of one is applied in full.
    """
    from ..comfy_api import lora_hooks

    weights = _weights(file)
    _check_compatible(model, clip, file, weights)
    if power is None:
        return lora_hooks.apply_lora(model, clip, weights, strength)
    _, patched_clip = lora_hooks.apply_lora(None, clip, weights, strength)
    return lora_hooks.apply_scheduled_lora(
        model, weights, partial(strength_schedule, strength=strength, power=power)
    ), patched_clip


def _weights(file: Path) -> Weights:
    from ...trainer.errors import UserError
    from ...trainer.models.safetensors_file import read_header
    from ..comfy_api import lora_hooks

    if file.suffix == ".safetensors":
        read_header(file)  # says what is wrong with one that is cut off
    try:
        return lora_hooks.read_weights(file)
    except Exception as error:  # over foreign bytes, readers raise anything
        raise UserError(f"{file.name} cannot be read as a LoRA ({error}): download or train it again") from error


def _check_compatible(model: Any, clip: Any, file: Path, weights: Weights) -> None:
    """Raises UserError where the LoRA is for another kind of base: by what it says of itself, else by what fits."""
    from ...trainer.errors import UserError
    from ...trainer.lora.file import family_in_metadata
    from ...trainer.models.registry import family_title
    from ...trainer.models.safetensors_file import read_header
    from ..comfy_api import lora_hooks

    family, kind = lora_hooks.family_of(model)
    named = family_in_metadata(read_header(file).metadata) if file.suffix == ".safetensors" else None
    if named is not None and named != family:
        raise UserError(
            f"{file.name} is a LoRA for {family_title(named)}, the model is {family_title(family) or kind}: "
            "choose a LoRA that was trained on its kind"
        )
    parts = {_OF_A_PART.sub("", key) for key in weights}
    fits = lora_hooks.count_matching(model, clip, weights)
    if 2 * fits < len(parts) or not fits:
        raise UserError(
            f"{file.name} does not fit this model, {family_title(family) or kind}: {fits} of its {len(parts)} parts "
            "do; "
            + ("choose a LoRA for this kind of base" if clip is not None else "choose another, or connect clip as well")
        )


NODE = LoadLoRA

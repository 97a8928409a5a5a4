"""Comparisons: two batches of images become pairs to judge blind, and the win rate of the answers so far."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comfy_api import host, images, settings
from .comfy_api.graph import LOADER, Graph, with_loaded_loras

if TYPE_CHECKING:
    import torch

    from ..trainer.evaluation.comparison import ComparisonInfo, ComparisonResult

_SOURCE = "ComfyUI"
_STRENGTH = 1.0  # ComfyUI's loaders say theirs; one without applies the file as it is


@dataclass(frozen=True)
class Compared:
    """name: of the comparison. pairs: of these batches; alike: of them those whose pictures are the same, left out."""

    name: str
    pairs: int
    alike: int
    standing: ComparisonResult
    other: str

    @property
    def sentence(self) -> str:
        return self.standing.rate.sentence(self.other)


def compare(base: torch.Tensor, lora: torch.Tensor, of_base: Graph, of_lora: Graph, name: str, prompt: str) -> Compared:
    """Keep the pairs base[i], lora[i] in a comparison; what it has already is not kept twice.

    base, lora: (images, height, width, 3). of_base, of_lora: the graphs that generated them. name: of the comparison,
    empty for one named by its LoRA. prompt: what they show; empty: as `of_base` says.
    """
    from ..trainer.errors import UserError
    from ..trainer.evaluation.comparison import (
        add_comparison_image,
        add_comparison_pair,
        comparison_info,
        comparison_result,
        continue_comparison,
    )
    from ..trainer.preferences.images import image_records, store_image

    if len(base) != len(lora):
        raise UserError(
            f"base has {len(base)} pictures and lora {len(lora)}: paint as many of each, with the same seeds"
        )
    text, base_known = images.image_metadata(of_base, _SOURCE)
    _, lora_known = images.image_metadata(of_lora, _SOURCE)
    if not (prompt.strip() or text):
        raise UserError("no prompt is found in the graph of base: write into the node what the pictures show")
    info = _comparison_info(of_base, of_lora, base_known.model or "", name)
    different = [number for number in range(len(base)) if not _same(base[number], lora[number])]
    if not different:
        raise UserError("every picture of base is the same as that of lora: is the LoRA loaded, with a strength?")
    store = settings.store()
    files = [
        [store_image(store, images.to_png(batch[number], graph), "a picture of the graph") for number in different]
        for batch, graph in ((base, of_base), (lora, of_lora))
    ]
    with store.writing() as session:
        comparison = continue_comparison(session, name, info)
        rows = image_records(
            session, [*((one, base_known) for one in files[0]), *((one, lora_known) for one in files[1])]
        )
        shown = prompt.strip() or text
        for other, better in zip(*files, strict=True):
            add_comparison_image(session, comparison, shown, rows[other.sha256], "base")
            add_comparison_image(session, comparison, shown, rows[better.sha256], "lora")
            add_comparison_pair(session, comparison, shown, rows[other.sha256], rows[better.sha256])
        now = comparison_result(session, comparison)
        alike = len(base) - len(different)
        return Compared(comparison.name, len(different), alike, now, comparison_info(comparison).other)


def report(name: str) -> dict[str, Any]:
    """A comparison as the page shows it. Unblinded pictures are in it: the page shows them once it was asked to."""
    from ..trainer.evaluation.comparison import comparison_info, comparison_pairs, comparison_result
    from ..trainer.evaluation.win_rate import FEW
    from ..trainer.preferences.datasets import find_dataset

    with settings.store().reading() as session:
        comparison = find_dataset(session, name)
        info, now = comparison_info(comparison), comparison_result(session, comparison)
        rate = now.rate
        few = rate.answers < FEW
        return {
            "name": comparison.name,
            "lora": Path(info.lora).stem,
            "other": info.other,
            "pairs": now.pairs,
            "judged": now.judged,
            "answers": rate.answers,
            "few": few,
            **({} if few else {"share": rate.share, "low": rate.low, "high": rate.high, "verdict": rate.verdict}),
            "sentence": rate.sentence(info.other),
            "duels": [
                {"prompt": duel.prompt, "base": duel.other.sha256, "lora": duel.lora.sha256}
                for duel in comparison_pairs(session, comparison)
            ],
        }


def newest_answer() -> int:
    """Another number whenever a comparison was answered."""
    from ..trainer.evaluation import comparison

    if not settings.workspace().is_dir():  # nothing was kept yet: reading must not make a workspace
        return 0
    with settings.store().reading() as session:
        return comparison.newest_answer(session)


def _comparison_info(of_base: Graph, of_lora: Graph, model: str, name: str) -> ComparisonInfo:
    """What is compared: the LoRAs that only one of the graphs has."""
    from ..trainer.errors import UserError
    from ..trainer.evaluation.comparison import ComparisonInfo

    base_loras, lora_loras = _loras(of_base), _loras(of_lora)
    mine = {file: strength for file, strength in lora_loras.items() if base_loras.get(file) != strength}
    theirs = [file for file, strength in base_loras.items() if lora_loras.get(file) != strength and file not in mine]
    if not mine and not name.strip():
        raise UserError("no LoRA is found in the graph of lora that base has not: write a name for the comparison")
    lora = next(reversed(mine), name.strip())
    run, dataset = _training(lora)
    return ComparisonInfo(
        run=run,
        base=model.removesuffix(".safetensors"),
        lora=Path(lora).name,
        lora_sha256=_sha256(lora) if mine else "",
        against=Path(theirs[-1]).name if theirs else "",
        against_sha256=_sha256(theirs[-1]) if theirs else "",
        strength=mine.get(lora, _STRENGTH),
        schedule=_schedule(of_lora, lora),
        dataset=dataset,
        task="",
    )


def _loras(graph: Graph) -> dict[str, float]:
    from ..trainer.preferences.io.comfy_workflow import loras

    named = loras(json.dumps(with_loaded_loras(graph)))
    strengths = {file: _STRENGTH if strength is None else strength for file, strength in named}
    return {file: strength for file, strength in strengths.items() if strength}


def _schedule(graph: Graph, lora: str) -> str:
    """The schedule of our own loader for that LoRA, in words; empty where it has none."""
    for node in with_loaded_loras(graph).values():
        inputs = node.get("inputs", {})
        if node.get("class_type") == LOADER and inputs.get("lora_name") == lora:
            return f"annealed with power {inputs['power']}" if inputs.get("schedule") == "annealed" else ""
    return ""


def _training(lora: str) -> tuple[str, str]:
    """(run, dataset) that the LoRA came from, where it is of this workspace and they are still there."""
    from ..trainer.config.dataset_uri import dataset_named
    from ..trainer.errors import UserError
    from ..trainer.runs.run_folder import Run

    run = Run(settings.workspace() / "runs" / Path(lora).stem)
    try:
        return (run.name, dataset_named(run.config().data.pairs) or "") if run.settings_file.is_file() else ("", "")
    except UserError:  # settings of another version
        return ("", "")


def _sha256(lora: str) -> str:
    """Of the file, if it is still there."""
    from ..trainer.models.content_hash import sha256_of

    file = Path(lora) if Path(lora).is_absolute() else host.file_of("loras", lora)
    return sha256_of(file) if file is not None and file.is_file() else ""


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two images are the same as files."""
    return one.shape == other.shape and images.to_pillow(one).tobytes() == images.to_pillow(other).tobytes()

"""Training proposal: every setting of what one button starts, and a preflight check: what it takes, what stops it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ..config.dataset_uri import dataset_named
from ..config.presets import apply, tiny_settings
from ..config.run_config import RunConfig, parse_config
from ..errors import UserError
from ..models.card_presets import preset_for
from ..models.hub import looks_like_hub_id
from ..models.open import TINY, family_at
from ..models.registry import FAMILIES
from ..models.tokenizer import CLIP_FILES, CLIP_REPO
from ..preferences.dataset_pairs import DatasetPairs
from ..preferences.datasets import find_dataset
from ..preferences.pairs import PairSet, split_by_prompt, split_hash
from ..preferences.store import Store
from ..reports.summary import Summary, summarize_run
from ..runs.run_folder import Run, all_runs
from ..text import format_duration, format_size

FEWEST_PAIRS = 20
"""Fewer say more about themselves than about a taste: with two held out, agreement is 0, 50 or 100 %."""
SHOWINGS = 10
"""How often each pair is shown; up to 15 times did no harm in the small world (docs/recipe.md)."""
_LEAST_STEPS, _MOST_STEPS = 200, 1500
"""Few pairs need as many steps as more do, and many do not need more: docs/recipe.md has the map."""
_WIDEST_SHARE = 0.5
_SPARE = 2**30
"""Bytes that stay free: a system with a full disk fails in ways that nobody understands."""


@dataclass(frozen=True)
class Preflight:
    """Before a training. estimates: what it takes, in sentences. problems: why it cannot begin, each with its mend;
    none: it can."""

    estimates: tuple[str, ...]
    problems: tuple[str, ...]


def propose_config(
    store: Store, dataset: str, base: str, tokenizers: Path | None = None, memory: int | None = None
) -> RunConfig:
    """A training of `dataset` on `base` with every setting chosen.

    tokenizers: a folder with CLIP's, for a single file where the hub's cache has none. memory: bytes of the card, whose
    preset is taken; None where it is not known. A base that is missing or unknown, or a dataset with too little in it,
    is no error here: see `preflight`.
    """
    with store.reading() as session:
        share = find_dataset(session, dataset).held_out
    pairs = _pairs(store, dataset)
    share = _share(pairs, share) if pairs else share
    values = tiny_settings() if base == TINY else {}
    config = parse_config(
        {
            **values,
            "name": unused_run_name(store.workspace, dataset),
            "base": base,
            "data": {"pairs": f"dataset:{dataset}", "held_out": share},
            "training": {**values.get("training", {}), "auto": True},  # whoever presses one button wants no settings
            **({"tokenizers": str(tokenizers)} if tokenizers and _is_single_file(base) and not _has_cached() else {}),
        },
        "the proposal",
    )
    preset = preset_for(memory)
    if preset and base != TINY:  # the embedded base has settings of its own
        config = apply(config, preset)
    if base == TINY or not pairs:
        return config
    a_step = config.training.batch_size * config.training.accumulation
    steps = round(SHOWINGS * len(split_by_prompt(pairs.pairs, share).train) / a_step)
    steps = min(max(steps, _LEAST_STEPS), _MOST_STEPS)
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})


def preflight(store: Store, config: RunConfig) -> Preflight:
    """What `config` takes here, and what stands in its way. Reads the pairs and the base's header; loads no model."""
    problems = list(_about_base(config))
    family = None if problems else _family(config.base)
    pairs, trouble = _judged(store, config)
    problems += trouble
    room = _cache_bytes(pairs, family, config) if pairs else 0
    earlier = _earlier(store.workspace, config.base)
    if earlier and earlier.ending != "open":
        room += _size(Run(store.workspace / "runs" / earlier.name).folder)
    free = shutil.disk_usage(store.workspace).free
    if free < room + _SPARE:
        problems.append(
            f"The disk of {store.workspace} has {format_size(free)} left, and this takes about {format_size(room)}: "
            "make room."
        )
    problems += _about_name(store.workspace, config.name)
    return Preflight(tuple(_estimates(config, pairs, room, earlier)), tuple(problems))


def unused_run_name(workspace: Path, dataset: str, loras: Path | None = None) -> str:
    """NAME-1, or the next number that no run has, nor a LoRA in the folder `loras` that it will be copied to."""
    stem = re.sub(r"[^\w.+-]+", "-", dataset).strip("-.") or "taste"
    taken = {folder.name.lower() for folder in (workspace / "runs").glob("*")}
    taken |= {file.stem.lower() for file in loras.glob("*.safetensors")} if loras else set()
    return next(name for number in count(1) if (name := f"{stem[:100]}-{number}").lower() not in taken)


def _pairs(store: Store, dataset: str) -> PairSet | None:
    try:
        return DatasetPairs(store, dataset).load()
    except UserError:
        return None


def _share(pairs: PairSet, share: float) -> float:
    """`share`, or the smallest that keeps a prompt aside: among few prompts a small share may hit none."""
    if share == 0 or split_by_prompt(pairs.pairs, share).held_out:
        return share
    positions = sorted({split_hash(pair.prompt) for pair in pairs.pairs})
    wider = int(positions[0] * 100 + 1) / 100
    return wider if len(positions) > 1 and wider <= min(_WIDEST_SHARE, positions[-1]) else share


def _about_base(config: RunConfig) -> Iterator[str]:
    if not config.base:
        yield "No base is chosen: choose the model that the LoRA is for."
        return
    if _is_on_hub(config.base):
        return
    try:
        family_at(config.base)
    except (UserError, OSError) as error:
        yield f"{error}"
        return
    if config.tokenizers:
        missing = [name for name in CLIP_FILES[:2] if not Path(config.tokenizers, name).is_file()]
        if missing:
            yield f"tokenizers: {config.tokenizers} holds no {' and '.join(missing)}."
    elif _is_single_file(config.base) and not _has_cached() and os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield (
            f"A single file brings no tokenizer, {CLIP_REPO} is not in the Hugging Face cache, and HF_HUB_OFFLINE is "
            "set: name a folder with vocab.json and merges.txt as tokenizers, such as ComfyUI's comfy/sd1_tokenizer."
        )


def _judged(store: Store, config: RunConfig) -> tuple[PairSet | None, list[str]]:
    dataset = dataset_named(config.data.pairs)
    if dataset is None:  # a folder or file: what is in it is told when it is read
        return None, [] if config.data.pairs else ["No dataset is chosen: choose or make one at the top."]
    try:
        pairs = DatasetPairs(store, dataset).load()
    except UserError as error:
        return None, [f"{str(error)[:1].upper()}{str(error)[1:]}."]
    split = split_by_prompt(pairs.pairs, config.data.held_out)
    problems = []
    if not split.train:
        problems.append("All pairs have held-out prompts: judge pairs of more prompts, or lower held_out.")
    elif len(split.train) < FEWEST_PAIRS:
        problems.append(
            f"Only {len(split.train)} judged pairs to train on; {FEWEST_PAIRS} are the least that can show a taste: "
            "judge some more."
        )
    if config.data.held_out and not split.held_out:
        prompts = len({pair.prompt for pair in pairs.pairs})
        what = "All pairs are of one prompt" if prompts == 1 else f"None of the {prompts} prompts falls into that share"
        problems.append(
            f"{what}, so none can be kept aside to measure agreement on: judge pairs of another prompt, or set "
            "held_out to 0 to train without knowing."
        )
    return pairs, problems


def _about_name(workspace: Path, name: str) -> Iterator[str]:
    try:
        RunConfig(name=name, base="-", data={"pairs": "-"}).checked()  # type: ignore[arg-type]
    except UserError as error:
        yield f"name: {error}."
        return
    if (workspace / "runs" / name).exists():
        yield f"There is a run named {name} already: choose another name."


def _estimates(config: RunConfig, pairs: PairSet | None, room: int, earlier: Summary | None) -> Iterator[str]:
    training = config.training
    if pairs:
        split = split_by_prompt(pairs.pairs, config.data.held_out)
        a_step = training.batch_size * training.accumulation
        shown = training.steps * a_step / max(1, len(split.train))
        yield (
            f"{len(split.train)} pairs to train on, {len(split.held_out)} kept aside. {training.steps} steps of "
            f"{a_step} pairs show each about {shown:.0f} times."
        )
    seconds = earlier and earlier.seconds_a_step
    if earlier and seconds:
        same = earlier.config.training
        seconds *= training.batch_size * training.accumulation / (same.batch_size * same.accumulation)
        yield f"Time: about {format_duration(seconds * training.steps)}, at the pace of {earlier.name}."
    else:
        yield "Time: not known until it has begun; no run on this base was made here yet."
    if room:
        yield f"Disk: about {format_size(room)}{'' if earlier else ', and room for the LoRA and its state'}."
    if config.base != TINY:
        at_once = "one pair" if training.batch_size == 1 else f"{training.batch_size} pairs"
        activations = {"on": "recomputed", "off": "kept", "auto": "recomputed on a GPU", "offload": "recomputed"}
        stored = "" if training.quantize == "none" else f", the base's weights stored as {training.quantize}"
        yield (
            "Memory: `mapo plan` counts it. The settings: "
            f"{at_once} at a time, activations {activations[training.gradient_checkpointing]}{stored}."
        )
    if _is_single_file(config.base) and not config.tokenizers and not _has_cached():
        yield f"The tokenizer {CLIP_REPO} is fetched once from the Hugging Face hub."
    if _is_on_hub(config.base):
        yield f"{config.base} is fetched from the Hugging Face hub where it is not in the cache yet."


def _cache_bytes(pairs: PairSet, family: str | None, config: RunConfig) -> int:
    """Of what is encoded, in float16: mean and deviation of each latent, and the text states of each prompt."""
    if family is None or config.base == TINY:
        return 0
    pictures = {picture.sha256 for pair in pairs.pairs for picture in (pair.chosen, pair.rejected)}
    row = FAMILIES[family]
    latent = row.latent_channels * ((config.data.resolution or row.resolution) // row.latent_factor) ** 2
    prompts = len({pair.prompt for pair in pairs.pairs})
    return len(pictures) * (1 + config.data.flip) * 2 * latent * 2 + prompts * row.text_tokens * row.text_width * 2


def _earlier(workspace: Path, base: str) -> Summary | None:
    """The newest run on the same base that took enough steps to know its pace."""
    for run in all_runs(workspace):
        with suppress(UserError):  # a damaged run is told of in the library
            if run.config().base == base and len((summary := summarize_run(run)).step_events) > 1:
                return summary
    return None


def _family(base: str) -> str | None:
    return None if _is_on_hub(base) else family_at(base)


def _is_on_hub(base: str) -> bool:
    return base != TINY and not Path(base).expanduser().exists() and looks_like_hub_id(base)


def _is_single_file(base: str) -> bool:
    return base != TINY and Path(base).expanduser().is_file()


def _has_cached() -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(CLIP_REPO, name), str) for name in CLIP_FILES[:2])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

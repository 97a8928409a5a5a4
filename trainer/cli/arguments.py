"""Command-line arguments: the flags of a verb, and the settings of a run in a file and in flags, over a preset."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from ..models.registry import FAMILIES
from ..sampling.defaults import DEFAULT_CFG, DEFAULT_STEPS

if TYPE_CHECKING:
    from ..config.presets import Preset
    from ..config.run_config import RunConfig

Workspace = Annotated[Path, tyro.conf.arg(help="Folder of runs and caches (or set MAPO_WORKSPACE).")]
Json = Annotated[bool, tyro.conf.arg(help="End with one JSON object on a line of its own.")]
Steps = Annotated[
    int | None,
    tyro.conf.arg(help=f"Denoising steps of a picture; by default the base's own: {DEFAULT_STEPS}, or fewer."),
]
Guidance = Annotated[
    float | None,
    tyro.conf.arg(help=f"Classifier-free guidance; by default the base's own: {DEFAULT_CFG:g}, 1 if distilled."),
]
_PresetName = Annotated[
    str,
    tyro.conf.arg(help="Settings for a card: automatic, none, or such as '8 GB'. What is given otherwise goes over."),
]
_Family = Annotated[
    Literal[tuple(FAMILIES)] | None,  # type: ignore[valid-type]
    tyro.conf.arg(help="Count for the published model, where no --base is given."),
]
_Gigabytes = Annotated[
    float | None, tyro.conf.arg(help="Count for a card of that many GB, whatever is in this machine.")
]
_OWN: dict[str, list[tuple[str, Any, Any]]] = {
    "train": [("preset", _PresetName, "automatic")],
    "plan": [("preset", _PresetName, "automatic"), ("family", _Family, None), ("memory", _Gigabytes, None)],
}
"""verb -> (name, type, default) of the flags that it has beside those of every verb."""


class Arguments(NamedTuple):
    """A parsed command line. flags: the verb's own, `preset` among them; resolve: the settings of a preset (None: the
    defaults), overridden by those of the file and then by those of the flags."""

    flags: Any
    resolve: Callable[[Preset | None], RunConfig]


def default_workspace() -> Path:
    return Path(os.environ.get("MAPO_WORKSPACE", "workspace"))


def parse(kind: Any, words: list[str], verb: str, default: Any = None) -> Any:
    """Parse `words` into a `kind`. tyro itself prints what is wrong with a flag and exits with 2."""
    defaults = {} if default is None else {"default": default}
    return tyro.cli(kind, args=words, prog=f"mapo {verb}", **defaults)


def settings_of(words: list[str], verb: str, description: str) -> tuple[RunConfig, Any]:
    """Parse the RunConfig and the verb's own flags: an optional TOML file, then flags that override it."""
    arguments = parse_arguments(words, verb, description)
    return arguments.resolve(None), arguments.flags


def parse_arguments(words: list[str], verb: str, description: str) -> Arguments:
    """Parse the same for a verb that also takes a preset. Raises UserError naming the wrong value in file or flags."""
    from ..config.presets import deep_update
    from ..config.renamed_keys import current_flags, current_keys, key_notices
    from ..config.run_config import parse_config, read_toml

    file = words.pop(0) if words and not words[0].startswith("-") else ""
    values = read_toml(Path(file)) if file else {}
    words, notices = current_flags(words)
    for notice in [*(f"{file}: {notice}" for notice in key_notices(values)), *notices]:
        sys.stderr.write(f"{notice}\n")
    values = current_keys(values)

    def resolve(preset: Preset | None) -> RunConfig:
        config = parse_config(values, file)  # without the preset first: a mistake in the file is the file's
        if preset:
            config = parse_config(deep_update(preset.settings, values), file)
        return _with_flags(config, words, verb, description)[0]

    return Arguments(_with_flags(parse_config(values, file), words, verb, description)[1], resolve)


def preset_here(arguments: Arguments) -> Preset | None:
    """The preset that is named, or that suits this machine's card; None for the embedded base, which has none."""
    from ..config.presets import AUTOMATIC, NONE, preset_named
    from ..models.card_presets import preset_for
    from ..models.open import TINY

    if arguments.flags.preset not in (AUTOMATIC, NONE):
        return preset_named(arguments.flags.preset)
    config = arguments.resolve(None)
    if arguments.flags.preset == NONE or config.base == TINY:
        return None
    from ..device import memory_of, pick_device

    memory = memory_of(pick_device(config.training.device))
    return preset_for(memory.total if memory else None)


def _with_flags(config: RunConfig, words: list[str], verb: str, description: str) -> tuple[RunConfig, Any]:
    """(`config` with the settings in `words`, the verb's own flags)."""
    from ..config.cli_flags import from_dataclass, to_dataclass

    defaults = to_dataclass(config, everyday=not {"--help", "-h"}.isdisjoint(words))
    run_flags = tyro.conf.OmitArgPrefixes[type(defaults)]
    own = [("workspace", Workspace, default_workspace()), ("json", Json, False), *_OWN.get(verb, [])]
    flags = make_dataclass("Flags", [("run", run_flags), *own])
    flags.__doc__ = description + " A TOML file of settings may come first; flags go over it."
    parsed = parse(flags, list(words), f"{verb} [FILE.toml]", flags(defaults))
    return from_dataclass(parsed.run, "settings"), parsed

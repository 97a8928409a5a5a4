"""LoRA files: written so that every host loads them, and read so that training can go on from them.

The keys are kohya's over diffusers' module paths: of the styles in use the one that ComfyUI, Forge, A1111 and
diffusers all load completely. A module path P becomes `lora_unet_` + P with "." as "_", and the file holds its
`.lora_down.weight` (A), `.lora_up.weight` (B) and `.alpha` (0-d), and nothing else, because diffusers refuses files
with keys left over. Hosts multiply B A with alpha / rank. Only what reads or writes the weights imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_files import atomic_write
from ..errors import UserError
from ..models.registry import FAMILIES, Family, titles
from ..models.safetensors_file import SafetensorsFile, parse_header, read_header
from .settings import LoraSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_PREFIX = "lora_unet_"
_PARTS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
# What a file is instead, by the first key that gives it away.
_FOREIGN = {
    r"lora_te": "also changes the text encoders",
    r".*\.hada_": "is a LoHa",
    r".*\.lokr_": "is a LoKr",
    r".*\.(?:dora_scale|lora_magnitude_vector)": "is a DoRA",
    r".*\.lora_mid\.": "trains whole convolutions (LoCon)",
    r"lora_unet_(?:input|middle|output)_block": "names its modules as the original Stability code does",
    r".*\.lora_[AB]\.": "is in the format of PEFT or diffusers",
    r"(?:model\.diffusion_model|(?:down|mid|up)_blocks?)\.": "is a whole model",
}


@dataclass(frozen=True)
class LoraHeader:
    """A LoRA file by its header and its alphas: what is known before any weight is read.

    settings: what `attach` needs to go on; dropout and rslora are known of our own files only.
    weights: `<module path>.lora_A.weight` and `.lora_B.weight` -> the tensor's name in the file.
    """

    file: SafetensorsFile
    family: str
    settings: LoraSettings
    weights: dict[str, str]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as read.

    settings: what `attach` needs to go on; dropout and rslora are known of our own files only. dtype: as stored.
    state: float32, ready for `load_lora_state_dict`. metadata: all of it, as strings.
    """

    family: str
    settings: LoraSettings
    state: dict[str, Tensor]
    dtype: torch.dtype
    metadata: dict[str, str]


def write_lora(
    path: Path,
    source: nn.Module | Mapping[str, Tensor],
    settings: LoraSettings,
    family: str,
    metadata: Mapping[str, object] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the LoRA of a model, or a snapshot made by `state`, as a file that appears whole or not at all.

    metadata: more facts to keep. Names without a dot or `ss_` get `mapo.` in front: `steps` becomes `mapo.steps`,
    `modelspec.title` stays.

    dtype: None is float32, which lets training continue from the file exactly. Where size matters take bfloat16 rather
    than float16: Adam moves an entry of B by about the learning rate a step, so a preference LoRA's entries are small,
    and below 6e-5 float16 loses digits.

    Raises UserError if the disk is full or the folder closed to us, or if a weight is not finite. Nothing is left
    behind then, and a file that was there before is still there.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors: hosts do not list other files")
    import torch
    from safetensors.torch import save

    blob = save(_host_tensors(source, settings, dtype or torch.float32))
    header = parse_header(blob)
    body = memoryview(blob)[header.body :]
    # The hash goes into the header, so the header can be made only now; the body is not copied for it.
    facts = _metadata(path.stem, settings, family, metadata or {}, hashlib.sha256(body).hexdigest())
    # Hosts list the folder while we write: what they see is the old file or the whole new one.
    with atomic_write(path) as part, part.open("wb") as file:
        file.writelines([header.encoded(facts), body])
    return path


def read_lora(path: Path) -> LoraFile:
    """Read a LoRA to continue its training: one of ours, or any with the same keys and one rank and alpha.

    Raises UserError, saying what the file is instead, for everything else.
    """
    header = read_lora_header(path)
    stored = {key: header.file.tensor(name) for key, name in header.weights.items()}
    return LoraFile(
        family=header.family,
        settings=header.settings,
        state={key: weight.float() for key, weight in stored.items()},
        dtype=max((weight.dtype for weight in stored.values()), key=lambda dtype: dtype.itemsize),
        metadata=dict(header.file.metadata),
    )


def read_lora_header(path: Path) -> LoraHeader:
    """What `read_lora` would read, without the weights and without torch. Raises UserError as it does."""
    path = Path(path)
    try:
        file = read_header(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    weights: dict[str, str] = {}
    ranks, alphas, modules = set(), set(), set()
    for name, shape in file.shapes.items():
        module, part = _module_and_part(path, name)
        modules.add(module)
        if part == "alpha":
            alphas.add(file.array(name).item())
        else:
            weights[f"{module}.{_PARTS[part]}"] = name
            ranks.add(shape[0 if part == "lora_down.weight" else 1])
    for module in sorted(modules) or ["any module"]:
        if any(f"{module}.{part}" not in weights for part in _PARTS.values()):
            raise UserError(f"{path} is incomplete: it lacks weights for {module}; write or download it again")
    if len(ranks) > 1 or len(alphas) > 1:
        raise UserError(
            f"{path} has ranks {sorted(ranks)} and alphas {sorted(alphas)}: "
            "training can only continue from a LoRA with one of each"
        )
    rank = ranks.pop()
    family = _family(path, {key: file.shapes[name] for key, name in weights.items()}, file.metadata)
    settings = _settings(rank, alphas.pop() if alphas else float(rank), modules, file.metadata, family)
    return LoraHeader(file, family.name, settings, weights)


def family_in_metadata(metadata: Mapping[str, str]) -> str | None:
    """The family that a LoRA file says it is for, in our words or in those that hosts read; None where in neither."""
    for family in FAMILIES.values():
        known = {"mapo.family": family.name, **family.lora_metadata}
        if any(metadata.get(name) == known[name] for name in known if name != "modelspec.resolution"):
            return family.name
    return None


def host_name(module: str) -> str:
    """The name that hosts know a UNet module path by, without the part after the first dot."""
    return _PREFIX + module.replace(".", "_")


def _host_tensors(
    source: nn.Module | Mapping[str, Tensor], settings: LoraSettings, dtype: torch.dtype
) -> dict[str, Tensor]:
    import torch

    from .adapter import lora_state_dict

    weights = source if isinstance(source, Mapping) else lora_state_dict(source)
    tensors = {}
    for key, weight in weights.items():
        module, part = next((key.removesuffix(f".{ours}"), part) for part, ours in _PARTS.items() if key.endswith(ours))
        stored = weight.detach().to("cpu", dtype).contiguous()
        if not stored.isfinite().all():
            raise UserError(
                f"the LoRA has become useless, {key} is not finite: "
                "lower the learning rate and go on from an earlier state of the run"
            )
        tensors[f"{host_name(module)}.{part}"] = stored
        tensors[f"{host_name(module)}.alpha"] = torch.tensor(settings.host_alpha, dtype=torch.float32)
    return tensors


def _metadata(
    title: str, settings: LoraSettings, family: str, more: Mapping[str, object], digest: str
) -> dict[str, str]:
    facts: dict[str, object] = {
        **FAMILIES[family].lora_metadata,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name if "." in name or name.startswith("ss_") else f"mapo.{name}": fact for name, fact in more.items()},
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,  # A1111 writes it into pictures; without it, it hashes the file itself
        "ss_output_name": f"{title}-{digest[:8]}",  # A1111 and Forge offer it as <lora:...>: no two files may share it
        "ss_network_module": "networks.lora",
        "ss_network_dim": settings.rank,
        "ss_network_alpha": settings.host_alpha,
        "mapo.family": family,
        "mapo.rank": settings.rank,
        "mapo.alpha": settings.true_alpha,
        "mapo.dropout": settings.dropout,
        "mapo.targets": settings.targets,
        "mapo.rslora": settings.rslora,
    }
    return {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}


def _module_and_part(path: Path, key: str) -> tuple[str, str]:
    for pattern, what in _FOREIGN.items():
        if re.match(pattern, key):
            raise UserError(
                f"{path} {what} (it holds {key}); only LoRAs of the UNet written by MaPO Studio or with the same keys "
                "can be read"
            )
    name, _, part = key.partition(".")
    module = _dotted(name.removeprefix(_PREFIX))
    known = any(family.lora_module_pattern.fullmatch(module) for family in FAMILIES.values())
    if not name.startswith(_PREFIX) or not known or (part != "alpha" and part not in _PARTS):
        raise UserError(f"{path} is not a LoRA for the UNet of {titles('or')}: it holds {key}")
    return module, part


def _dotted(name: str) -> str:
    # "_" stands for "." beside every number, and in two more places.
    path = re.sub(r"(?<=\d)_", ".", re.sub(r"_(\d+)(?=_|$)", r".\1", name))
    return path.replace("mid_block_", "mid_block.").replace("ff_net", "ff.net")


def _settings(
    rank: int, host_alpha: float, modules: set[str], metadata: Mapping[str, str], family: Family
) -> LoraSettings:
    attention_only = all(module.endswith(family.lora_targets["attention"]) for module in modules)
    applied = LoraSettings(rank, host_alpha, targets="attention" if attention_only else "all")
    try:
        ours = replace(
            applied,
            alpha=float(metadata["mapo.alpha"]),
            dropout=float(metadata["mapo.dropout"]),
            rslora=metadata["mapo.rslora"] == "true",
        )
    except (KeyError, ValueError, UserError):
        return applied
    # Tools that merge or resize LoRAs often keep metadata that no longer holds. The tensors are what hosts apply.
    return ours if math.isclose(ours.scale, applied.scale, rel_tol=1e-6) else applied


def _family(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> Family:
    if (name := family_in_metadata(metadata)) is not None:
        return FAMILIES[name]
    widths = {shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.lora_A.weight")}
    fitting = [family for family in FAMILIES.values() if family.text_width in widths]
    if len(fitting) == 1:
        return fitting[0]
    raise UserError(f"{path} does not say whether it is for {titles('or')}, and its shapes do not tell")

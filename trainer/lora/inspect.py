"""LoRA inspection (`mapo lora show`): what is in a LoRA file, in words and numbers. Works without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..models.registry import FAMILIES
from .file import read_lora_header

if TYPE_CHECKING:
    import numpy as np

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Of safetensors, as torch calls them; the more exact ones first."""


@dataclass(frozen=True)
class ModuleNorms:
    """How far a LoRA moves the weights of one kind of module: Frobenius norms of scale * B A."""

    modules: int
    smallest: float
    mean: float
    largest: float


@dataclass(frozen=True)
class LoraDescription:
    """A LoRA file in words and numbers.

    scale: what B A is multiplied with. targets: as in LoraSettings. dtype: of the stored weights. parameters: numbers
    in all A and B. norms: by kind of module ("to_q", ...); if every norm is 0 the file changes nothing.
    """

    path: str
    size_bytes: int
    family: str
    rank: int
    alpha: float
    rslora: bool
    scale: float
    targets: str
    dtype: str
    parameters: int
    norms: dict[str, ModuleNorms]
    metadata: dict[str, str]

    @property
    def modules(self) -> int:
        return sum(norms.modules for norms in self.norms.values())

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, texts and numbers."""
        return {"modules": self.modules, **asdict(self)}

    def text(self) -> str:
        """For a person, a few lines."""
        spread = "\n".join(
            f"  {kind:14} {norms.modules:4} modules   norm {norms.smallest:.3g} to {norms.largest:.3g}"
            for kind, norms in self.norms.items()
        )
        facts = "\n".join(f"  {name:32} {value}" for name, value in sorted(self.metadata.items()))
        trained = any(norms.largest for norms in self.norms.values())
        untrained = "" if trained else "\nEvery norm is 0: this file changes nothing."
        return (
            f"{self.path}\n{self.family} LoRA, rank {self.rank}, alpha {self.alpha:g}{' (rsLoRA)' * self.rslora}, "
            f"scale {self.scale:g}, {self.modules} modules, {self.parameters:,} numbers in {self.dtype}, "
            f"{self.size_bytes / 2**20:.1f} MB\n{spread}{untrained}\n{facts}"
        )


def describe(path: Path) -> LoraDescription:
    """Read a LoRA file and sum it up. Raises UserError for what `read_lora_header` does not read."""
    lora = read_lora_header(path)
    file = lora.file
    norms: dict[str, list[float]] = {kind: [] for kind in FAMILIES[lora.family].lora_targets["all"]}
    for key, name in lora.weights.items():
        module = key.removesuffix(".lora_A.weight")
        if module != key:
            kind = next(kind for kind in norms if module.endswith(kind))
            up, down = file.array(lora.weights[f"{module}.lora_B.weight"]), file.array(name)
            norms[kind].append(lora.settings.scale * _product_norm(up, down))
    dtypes = {file.dtypes[name] for name in lora.weights.values()}
    return LoraDescription(
        path=str(path),
        size_bytes=Path(path).stat().st_size,
        family=lora.family,
        rank=lora.settings.rank,
        alpha=lora.settings.true_alpha,
        rslora=lora.settings.rslora,
        scale=lora.settings.scale,
        targets=lora.settings.targets,
        dtype=next((_DTYPES[name] for name in _DTYPES if name in dtypes), min(dtypes)),
        parameters=sum(math.prod(file.shapes[name]) for name in lora.weights.values()),
        norms={k: ModuleNorms(len(all_), min(all_), fmean(all_), max(all_)) for k, all_ in norms.items() if all_},
        metadata=dict(file.metadata),
    )


def _product_norm(up: np.ndarray, down: np.ndarray) -> float:
    # |B A|^2 = sum of (B^T B) * (A A^T): two rank x rank matrices instead of one of the base's size.
    up, down = (part.reshape(len(part), -1).astype("f8") for part in (up, down))
    return math.sqrt(max(0.0, ((up.T @ up) * (down @ down.T)).sum().item()))

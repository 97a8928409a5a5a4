"""How much memory does a training step take on a card? Counted without a card, for the real SDXL and SD 1.5.

    python benchmarks/count_memory.py [--json]

Takes about two minutes. The engine's own step (trainer/learner.py) is done to tensors without numbers, and every
storage is counted from its making to its end: the frozen weights in bfloat16, the LoRA with its gradients, the
activations that wait for the backward pass. What autocast does on a CUDA card and not on a CPU is done here too: norms
compute in float32. Added by arithmetic: 8-bit AdamW's states, two bytes a weight and two float32 for each 256 weights.

Not counted, so a card needs room for it besides: the CUDA context, what kernels ask for within themselves, and memory
that the allocator cannot use because it is in pieces.
"""

from __future__ import annotations

import argparse
import json
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from mapo_studio.trainer.batches import PairBatch
from mapo_studio.trainer.config import parse_config
from mapo_studio.trainer.encode import EncodedPair
from mapo_studio.trainer.families.base import Base, Framing
from mapo_studio.trainer.families.schedule import settled
from mapo_studio.trainer.families.sd15 import SD15
from mapo_studio.trainer.families.sdxl import SDXL
from mapo_studio.trainer.families.sources import CONFIGS, read_json
from mapo_studio.trainer.learner import Learner
from mapo_studio.trainer.quantize import Quantize, shell
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU = torch.device("cpu")
GIB = 2**30
FAMILIES = {"sdxl": SDXL, "sd15": SD15}
TEXT = {"sdxl": {"hidden": (77, 2048), "pooled": (1280,)}, "sd15": {"hidden": (77, 768)}}
ON, OFF = "on", "off"
LEARNERS = {
    # family, rank, recompute activations -> (side in px, pairs at a time), ...
    ("sdxl", 16, ON): ((1024, 1), (1024, 2), (1024, 4)),
    ("sdxl", 8, ON): ((1024, 1),),
    ("sdxl", 16, OFF): ((1024, 1),),
    ("sd15", 16, ON): ((512, 1), (512, 2), (512, 4)),
    ("sd15", 8, ON): ((512, 1),),
    ("sd15", 16, OFF): ((512, 1),),
}


class Counted(TorchDispatchMode):
    """Bytes of the storages that live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def as_on_cuda() -> Any:
    """What CUDA's autocast and attention do, for a `with` block: tensors without numbers are on no such device."""

    def casting(function: Any, dtype: torch.dtype) -> Any:
        def cast(*args: Any, **kwargs: Any) -> Any:
            return function(*tree_map_only(torch.Tensor, lambda one: one.to(dtype), args), **kwargs)

        return cast

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    half = {name: casting(getattr(F, name), torch.bfloat16) for name in ("linear", "conv2d")}
    whole = {name: casting(getattr(F, name), torch.float32) for name in ("group_norm", "layer_norm")}
    return patch.multiple(F, **half, **whole, scaled_dot_product_attention=casting(attention, torch.bfloat16))


class Shapes:
    """A source (see families/sources.py) of the published model's shapes, without weights on disk."""

    path = Path("shapes")

    def __init__(self, family: str) -> None:
        self._family = family

    def config(self, component: str) -> dict[str, Any]:
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(CONFIGS / self._family / component / name)

    def unet(self, device: torch.device, dtype: torch.dtype, how: Quantize) -> torch.nn.Module:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.config("unet"))
        return shell(unet, how, dtype, torch.device("meta"))


def learner_of(family: str, rank: int, recompute: str) -> Learner:
    config = parse_config(
        {
            "name": "count",
            "adapter": {"rank": rank},
            "training": {"precision": "bfloat16", "gradient_checkpointing": recompute},
            "optimization": {"optimizer": "adamw"},
        },
        "count",
    )
    shapes = Shapes(family)
    return Learner(config, FAMILIES[family](shapes, settled(shapes.config("scheduler"), "auto")), CPU)


def count(learner: Learner, side: int, pairs: int) -> dict[str, float]:
    """GiB of a step: the `weights` of base and LoRA, and the `peak` in it with the optimizer's states."""
    counted, taken = Counted(), batch(learner.base, side, pairs).to(torch.device("meta"))
    for tensor in (*learner.unet.parameters(), *learner.unet.buffers()):
        counted.count(tensor)
    weights = counted.now
    with counted, as_on_cuda():
        learner.learn(0, [taken])
    lora = [p.numel() for p in learner.unet.parameters() if p.requires_grad]
    states = sum(2 * numbers + 8 * -(-numbers // 256) for numbers in lora)
    return {"weights": weights / GIB, "peak": (counted.most + states) / GIB}


def batch(base: Base, side: int, pairs: int) -> PairBatch:
    framing = Framing(side, side, 0, 0, side, side)
    nowhere, cells = Path(), side // base.latent_factor
    latents = torch.zeros(3, pairs, 4, cells, cells)
    return PairBatch(
        pairs=(EncodedPair(None, (side, side), framing, nowhere, nowhere, nowhere),) * pairs,  # type: ignore[arg-type]
        chosen=latents[0],
        rejected=latents[1],
        noise=latents[2],
        timestep=torch.zeros(pairs, dtype=torch.long),
        text={name: torch.zeros(pairs, *shape) for name, shape in TEXT[base.family].items()},
        framing=torch.zeros(pairs, 6),
        preference=torch.ones(pairs),
        weight=torch.ones(pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line of its own")
    asked = parser.parse_args()
    rows = []
    print("| base | px | pairs at a time | rank | activations | weights, GiB | peak, GiB |")
    print("|---|---|---|---|---|---|---|")
    for (family, rank, recompute), shapes in LEARNERS.items():
        learner, kept = learner_of(family, rank, recompute), "recomputed" if recompute == ON else "kept"
        for side, pairs in shapes:
            found = count(learner, side, pairs)
            sizes = f"{found['weights']:.2f} | {found['peak']:.2f}"
            print(f"| {family} | {side} | {pairs} | {rank} | {kept} | {sizes} |", flush=True)
            rows.append({"family": family, "side": side, "pairs": pairs, "rank": rank, "activations": kept, **found})
    if asked.json:
        print(json.dumps({"torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

"""How far are the model's answers from the truth on a batch of pairs?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..lora import adapter
from ..models.base_model import BaseModel
from .batches import PairBatch
from .objectives import PairErrors
from .ranked import first_seen


def pair_errors(
    base: BaseModel, unet: nn.Module, batch: PairBatch, *, reference: bool, split: bool = False
) -> PairErrors:
    """Mean squared error per sample, (pairs,) float32, of both pictures in one forward pass of 2 * pairs.

    Noise, timestep, text and framing are those of the pair for both of its pictures (the text, where the rejected one
    has no caption of its own). reference: also the errors with the adapter switched off, without gradients. split: two
    forward passes of `pairs` instead, chosen first, in less memory. A picture that several pairs share goes through
    once. `unet` may be wrapped (by Accelerate, by torch.compile).
    """
    references = reference_errors(base, unet, batch, split=split) if reference else (None, None)
    chosen, rejected = _errors(base, unet, batch, split)
    return PairErrors(chosen, rejected, *references, preference=batch.preference, weight=batch.weight)


@torch.no_grad()
def reference_errors(base: BaseModel, unet: nn.Module, batch: PairBatch, *, split: bool) -> tuple[Tensor, Tensor]:
    """The errors on the chosen and the rejected pictures with the adapter switched off; see `pair_errors`."""
    with adapter.disabled(unet):
        return _errors(base, unet, batch, split)


def picture_errors(base: BaseModel, unet: nn.Module, batch: PairBatch, clean: Tensor) -> Tensor:
    """Mean squared error, (pairs,) float32, on one picture of each pair; clean: its latents, (pairs, c, h, w)."""
    return mean_square(residuals(base, unet, batch, clean))


def residuals(base: BaseModel, unet: nn.Module, batch: PairBatch, clean: Tensor) -> Tensor:
    """Prediction minus target, (pairs, c, h, w) float32, on one picture of each pair; clean: its latents."""
    noisy = base.schedule.add_noise(clean, batch.noise, batch.timestep)
    answer = base.predict(unet, noisy, batch.timestep, batch.text, batch.framing)
    # float32 whatever the model computes in: a square of a small difference is lost in half precision.
    return answer.float() - base.schedule.target(clean, batch.noise, batch.timestep)


def residuals_together(base: BaseModel, unet: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """`residuals` of the chosen and of the rejected pictures, in one forward pass of 2 * pairs."""
    shared = {name: _twice(getattr(batch, name)) for name in ("noise", "timestep", "framing")}
    own = batch.rejected_text or batch.text
    both = replace(batch, **shared, text={name: torch.cat([one, own[name]]) for name, one in batch.text.items()})
    chosen, rejected = residuals(base, unet, both, torch.cat([batch.chosen, batch.rejected])).chunk(2)
    return chosen, rejected


def for_rejected(batch: PairBatch) -> PairBatch:
    """`batch` as its rejected pictures are shown: where they have captions of their own, under those."""
    return batch if batch.rejected_text is None else replace(batch, text=batch.rejected_text)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a batch whose pairs share them, each once.

    parts: what goes through the base one after the other: latents, and a batch whose rows say what each is shown with.
    places: (2, pairs), where the chosen and the rejected picture of each pair are among all of them.
    """

    parts: tuple[tuple[PairBatch, Tensor], ...]
    places: Tensor


def each_once(batch: PairBatch, most: int | None = None) -> Pictures:
    """The pictures of `batch`, which has places, at most `most` in a part; by default all in one."""
    assert batch.places is not None
    rows = first_seen(batch.places)
    clean = torch.cat([batch.chosen, batch.rejected])
    shown = {name: _twice(getattr(batch, name)) for name in ("noise", "timestep", "framing")}
    text = {name: _twice(tensor) for name, tensor in batch.text.items()}
    count = -(-len(rows) // (most or len(rows)))
    bounds = [len(rows) * part // count for part in range(count + 1)]
    parts = []
    for begin, end in itertools.pairwise(bounds):
        some = torch.tensor(rows[begin:end]).to(clean.device, non_blocking=True)
        of_part = {name: tensor[some] for name, tensor in shown.items()}
        asked = replace(batch, **of_part, text={name: tensor[some] for name, tensor in text.items()})
        parts.append((asked, clean[some]))
    return Pictures(tuple(parts), torch.tensor(batch.places).T.to(clean.device, non_blocking=True))


def mean_square(residuals: Tensor) -> Tensor:
    """The error of each picture, (pairs,)."""
    return residuals.square().mean(dim=(1, 2, 3))


def _errors(base: BaseModel, unet: nn.Module, batch: PairBatch, split: bool) -> tuple[Tensor, Tensor]:
    if batch.places is not None:
        pictures = each_once(batch, len(first_seen(batch.places)) // 2 if split else None)
        return shared_errors(base, unet, pictures)
    if split:
        chosen = picture_errors(base, unet, batch, batch.chosen)
        return chosen, picture_errors(base, unet, for_rejected(batch), batch.rejected)
    chosen, rejected = residuals_together(base, unet, batch)
    return mean_square(chosen), mean_square(rejected)


def shared_errors(base: BaseModel, unet: nn.Module, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """The errors on the chosen and the rejected picture of each pair, (pairs,), from one forward for each picture."""
    chosen, rejected = torch.cat([picture_errors(base, unet, *part) for part in pictures.parts])[pictures.places]
    return chosen, rejected


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])

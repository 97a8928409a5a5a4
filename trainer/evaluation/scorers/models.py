"""Scorers, models that rate images: PickScore, HPS v2.1 and an aesthetic predictor; and how CLIP sees an image.

None of them comes with the program: each is a path or a hub id that somebody names, `KIND=WEIGHTS`:

    pickscore=PATH       CLIPModel as transformers saves it (yuvalkirstain/PickScore_v1); arXiv 2305.01569
    hps=PATH             the same layout, of HPS v2.1's weights; arXiv 2306.09341. The released .pt is in open_clip's.
    aesthetic=HEAD,CLIP  LAION's head on CLIP ViT-L/14's image features; HEAD is its .pth or .safetensors file,
                         CLIP the model, by default openai/clip-vit-large-patch14
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ...device import pick_device, release_memory
from ...errors import UserError

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer


KINDS = {"pickscore": "PickScore", "hps": "HPS v2.1", "aesthetic": "Aesthetic"}
_AESTHETIC_CLIP = "openai/clip-vit-large-patch14"
_TOKENIZERS = {"pickscore": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "hps": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
"""Whose tokenizer is taken where the weights bring none; CLIP has one for all its sizes."""
_BATCH_SIZE = 16


class Scorer(Protocol):
    """Gives a number to each image; higher is better. Its weights are on the device until `close`."""

    name: str

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """One for each image, which was generated for the prompt at its place."""

    def close(self) -> None:
        """Give the device's memory back."""


@dataclass
class PromptScorer:
    """How well an image answers its prompt, to a CLIP that was tuned on what people prefer: the cosine of the two,
    times the model's scale (about 100)."""

    name: str
    model: CLIPModel
    tokenizer: CLIPTokenizer
    preprocessor: ImagePreprocessor
    device: torch.device

    @torch.no_grad()
    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(images), _BATCH_SIZE):
            some = slice(start, start + _BATCH_SIZE)
            cosines = (self._texts(prompts[some]) * _features(self, images[some])).sum(dim=-1)
            scores += (self.model.logit_scale.exp() * cosines).tolist()
        return scores

    def close(self) -> None:
        self.model.to("cpu")
        release_memory(self.device)

    def _texts(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
        return functional.normalize(self.model.text_projection(pooled), dim=-1)


@dataclass
class AestheticScorer:
    """What people who rated images from 1 to 10 would say, whatever the prompt."""

    name: str
    model: CLIPModel
    head: nn.Module
    preprocessor: ImagePreprocessor
    device: torch.device

    @torch.no_grad()
    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(images), _BATCH_SIZE):
            scores += self.head(_features(self, images[start : start + _BATCH_SIZE])).squeeze(-1).tolist()
        return scores

    def close(self) -> None:
        self.model.to("cpu")
        release_memory(self.device)


def open_scorer(name: str, device: torch.device | None = None) -> Scorer:
    """The scorer that `name` means, as this module's first lines say.

    Raises UserError where there is no such kind, or its weights are not there, not in that layout or not complete.
    """
    kind, _, where = name.partition("=")
    if kind not in KINDS or not where:
        raise UserError(f"{name!r} names no scorer: say {', '.join(f'{one}=WEIGHTS' for one in KINDS)}")
    device = device or pick_device()
    if kind == "aesthetic":
        head, _, clip = where.partition(",")
        weights = _head(Path(head).expanduser())
        model = _clip(clip or _AESTHETIC_CLIP, KINDS[kind])
        wide = model.config.projection_dim
        if weights[0].in_features != wide:
            raise UserError(
                f"{head} is made for picture features of {weights[0].in_features} numbers, and "
                f"{clip or _AESTHETIC_CLIP} gives {wide}: name the CLIP that it was trained on"
            )
        preprocessor = read_preprocessor(_folder(clip or _AESTHETIC_CLIP), model.config.vision_config.image_size)
        return AestheticScorer(KINDS[kind], model.to(device), weights.to(device), preprocessor, device)
    model = _clip(where, KINDS[kind])
    preprocessor = read_preprocessor(_folder(where), model.config.vision_config.image_size)
    return PromptScorer(KINDS[kind], model.to(device), _tokenizer(where, kind), preprocessor, device)


def why_absent(name: str) -> str | None:
    """Why `name` cannot score; None where it can. Its weights are read for that, on the CPU."""
    try:
        open_scorer(name, torch.device("cpu"))
    except UserError as error:
        return str(error)
    return None


def _features(scorer: PromptScorer | AestheticScorer, images: Sequence[Image.Image]) -> Tensor:
    """(images, projection): of length 1."""
    pixels = torch.from_numpy(scorer.preprocessor.batch(images)).to(scorer.device)
    pooled = scorer.model.vision_model(pixel_values=pixels).pooler_output
    return functional.normalize(scorer.model.visual_projection(pooled), dim=-1)


def _clip(where: str, name: str) -> CLIPModel:
    from transformers import CLIPModel

    path = Path(where).expanduser()
    if not path.exists() and (path.is_absolute() or where.startswith(".") or len(path.parts) > 2):
        raise UserError(f"there is no folder {where} with the weights of {name}")  # no hub id looks like this
    if path.is_file():
        raise UserError(
            f"{where} is a single file: {name} is read from a folder in the layout of transformers (config.json and "
            "model.safetensors); a checkpoint of open_clip has to be converted first"
        )
    try:
        model, loading = CLIPModel.from_pretrained(
            str(path) if path.exists() else where, output_loading_info=True, use_safetensors=True
        )
    except Exception as error:  # absent, offline, gated, another architecture: transformers has an exception for each
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the weights of {name} cannot be loaded from {where} ({reason})") from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{where} is no whole CLIP model: {missing[0]} and {len(missing) - 1} others are not in it")
    return model.eval().requires_grad_(False)


def _tokenizer(where: str, kind: str) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    tried = []
    for place in (where, _TOKENIZERS[kind]):
        path = Path(place).expanduser()
        try:
            return CLIPTokenizer.from_pretrained(str(path) if path.exists() else place)
        except Exception as error:  # as above
            tried.append(f"{place}: {' '.join(str(error).split())[:80]}")
    raise UserError(
        f"{KINDS[kind]} has no tokenizer beside its weights, and no other could be loaded ({'; '.join(tried)})"
    )


def _folder(where: str) -> Path | None:
    """Where the model's files are, once it was opened; None where only transformers knows."""
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, local_files_only=True))
    except Exception:  # "not cached" has changed its exception between versions
        return None


def _head(file: Path) -> nn.Sequential:
    """Linear layers one after the other, without anything between them: as LAION's predictors are."""
    if not file.is_file():
        raise UserError(f"there is no file {file} with the head of the aesthetic predictor")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that holds more than tensors, a damaged file
        raise UserError(f"{file} cannot be read as weights alone ({type(error).__name__})") from error
    weights = {name.removesuffix("weight"): state[name] for name in state if name.endswith("weight")}
    if not weights or any(f"{name}bias" not in state or tensor.ndim != 2 for name, tensor in weights.items()):
        raise UserError(
            f"{file} holds no linear layers with weights and biases: it is no head of an aesthetic predictor"
        )
    layers = []
    for name in sorted(weights, key=lambda name: [int(number) for number in re.findall(r"\d+", name)]):
        out, into = weights[name].shape
        layer = nn.Linear(into, out)
        layer.load_state_dict({"weight": weights[name].float(), "bias": state[f"{name}bias"].float()})
        layers.append(layer)
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    if sizes[-1][1] != 1 or any(one[1] != other[0] for one, other in pairwise(sizes)):
        raise UserError(f"{file} holds layers of {sizes}, which do not follow each other to one number")
    return nn.Sequential(*layers).requires_grad_(False)


_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImagePreprocessor:
    """shortest: what the shorter side becomes; side: of the square that is cut from the middle; both in pixels."""

    shortest: int
    side: int
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION
    resample: int = int(Image.Resampling.BICUBIC)

    def batch(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(images, 3, side, side) float32."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        short, long = sorted(image.size)
        longer = int(self.shortest * long / short)
        size = (self.shortest, longer) if image.width <= image.height else (longer, self.shortest)
        pixels = np.asarray(image.resize(size, Image.Resampling(self.resample)), dtype=np.float32)
        top, left = (size[1] - self.side) // 2, (size[0] - self.side) // 2
        pixels = pixels[top : top + self.side, left : left + self.side] / np.float32(255)
        scaled = (pixels - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return scaled.transpose(2, 0, 1)


def read_preprocessor(folder: Path | None, side: int) -> ImagePreprocessor:
    """As the preprocessor_config.json in `folder` says; as every published CLIP of `side` pixels has it otherwise."""
    file = folder / "preprocessor_config.json" if folder else None
    if file is None or not file.is_file():
        return ImagePreprocessor(side, side)
    values = json.loads(file.read_text(encoding="utf-8"))
    size, cut = values.get("size", side), values.get("crop_size", side)
    return ImagePreprocessor(
        size if isinstance(size, int) else size["shortest_edge"],
        cut if isinstance(cut, int) else cut["height"],
        tuple(values.get("image_mean", _MEAN)),
        tuple(values.get("image_std", _DEVIATION)),
        values.get("resample", int(Image.Resampling.BICUBIC)),
    )

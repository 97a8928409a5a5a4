"""Opening a base model: from a folder, a single file, a hub name or "tiny"."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .base_model import BaseModel
from .detect import SD2_WIDTH, detect_family, schedule_hints
from .few_step import FewStep, distilled_by
from .hub import fetch, looks_like_hub_id
from .noise_schedule import resolve_prediction_type
from .registry import FAMILIES, Family, latent_channels, titles
from .safetensors_file import read_header
from .sources import Folder, SingleFile, Source, component_folders, read_json

Prediction = Literal["auto", "epsilon", "v_prediction"]

TINY = "tiny"
"""The name of the small base that comes with the package, for trying things out without a download."""
TINY_PATH = Path(__file__).parents[1] / "demo" / "tiny_base" / "weights"

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def open_base(
    where: str | Path,
    *,
    tokenizers: Path | None = None,
    prediction: Prediction = "auto",
    memo: Path | None = None,
) -> BaseModel:
    """Open a base; no weights are read yet.

    where: a folder in diffusers format, a `.safetensors` checkpoint, a name on the Hugging Face hub (from the cache
    where it is there, downloaded otherwise), or "tiny". tokenizers: a folder with CLIP's vocab.json and merges.txt, for
    single files (see `clip_tokenizer`). prediction: goes over what the model says of itself; a single file without any
    mark is taken for an epsilon model. memo: where content hashes are remembered (see `identity_of`).

    Raises UserError, saying what the thing is and what is needed, for whatever is of no family of the registry.
    """
    family, source = _recognised(where, tokenizers)
    schedule = resolve_prediction_type(source.config("scheduler"), prediction, family.predictions)
    return family.load_class()(source, schedule, memo=memo)


def family_at(where: str | Path) -> str:
    """The name of a base's family, by configurations and headers: no weight is read, and torch is not needed.

    A name on the hub is downloaded where it is not in the cache. Raises UserError as `open_base` does.
    """
    return _recognised(where, None)[0].name


def few_step_at(where: str | Path) -> FewStep | None:
    """Whether a base was distilled to few steps, told as `family_at` tells the family."""
    source = _recognised(where, None)[1]
    return distilled_by(source.names, resolve_prediction_type(source.config("scheduler")), source.config("unet"))


def _recognised(where: str | Path, tokenizers: Path | None) -> tuple[Family, Source]:
    place = TINY_PATH if str(where) == TINY else Path(where).expanduser()
    if place.is_dir():
        return _folder(place)
    if place.is_file():
        return _single_file(place, tokenizers)
    if str(where) == TINY:
        raise UserError(f"The tiny base is missing from this installation ({TINY_PATH}). Install the package again.")
    if looks_like_hub_id(str(where)):
        return _folder(fetch(str(where)))
    raise UserError(
        f"There is no base model at {where}. Give a .safetensors checkpoint, a folder in diffusers format, "
        'a name on the Hugging Face hub such as stabilityai/stable-diffusion-xl-base-1.0, or "tiny".'
    )


def _single_file(path: Path, tokenizers: Path | None) -> tuple[Family, Source]:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UserError(
            f"{path} is a pickle checkpoint, which can run any code when it is opened. Get the model as .safetensors, "
            "or convert it (ComfyUI: load it and save it with the CheckpointSave node)."
        )
    if suffix == ".gguf":
        raise UserError(
            f"{path} is a quantised GGUF file, which cannot be trained on. Give the .safetensors checkpoint."
        )
    if suffix != ".safetensors":
        raise UserError(f"{path} is no model file that is known here. Give a .safetensors checkpoint.")
    file = read_header(path)
    family = detect_family(file)
    return family, SingleFile(file, family, tokenizers=tokenizers, scheduler=schedule_hints(file))


def _folder(path: Path) -> tuple[Family, Source]:
    index = path / "model_index.json"
    if not index.is_file():
        files = sorted(path.glob("*.safetensors"))
        advice = (
            f"Give one file in it, such as {files[0].name}."
            if files
            else "A folder in diffusers format has a model_index.json."
        )
        raise UserError(f"{path} is a folder, but no diffusers model. {advice}")
    source = Folder(path)
    return _family_of_folder(path, read_json(index), source), source


def _family_of_folder(path: Path, index: dict[str, Any], source: Folder) -> Family:
    pipeline = index.get("_class_name", "unknown pipeline")
    if not (path / "unet").is_dir():
        raise UserError(f"{path} is a {pipeline}. This version trains {titles()} models, which have a unet folder.")
    unet = source.config("unet")
    encoders = tuple(folder.name for folder in component_folders(path, "text"))
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    family = next((family for family in FAMILIES.values() if family.is_folder_of(unet, encoders)), None)
    is_sd2 = width == SD2_WIDTH and (family is None or family.unet_signs.get("addition_embed_type") is None)
    if family and not is_sd2:
        return family
    if all(channels != family.latent_channels for family in FAMILIES.values()):
        what = "an inpainting model" if channels == 9 else "a model made for another task than text to image"
        raise UserError(
            f"{path} is {what} ({channels} input channels; {latent_channels()} are needed). Give a text-to-image base."
        )
    if encoders == ("text_encoder_2",):
        raise UserError(f"{path} is the SDXL refiner, which only finishes pictures. Give an SDXL base.")
    if is_sd2:
        raise UserError(f"{path} is a Stable Diffusion 2.x model. This version trains {titles()}: give one of those.")
    raise UserError(f"{path} ({pipeline}) is no {titles('or')} model, or lacks its text encoders.")

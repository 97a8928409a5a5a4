"""What model is this? Opens a base from a folder, a single file, a hub name or "tiny"."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .base_model import Base
from .detect import family_of, schedule_marks
from .hub import fetch, looks_like_hub_id
from .noise_schedule import settled
from .safetensors_file import read_header
from .sources import Folder, SingleFile, Source, read_json

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
) -> Base:
    """Open a base; no weights are read yet.

    where: a folder in diffusers format, a `.safetensors` checkpoint, a name on the Hugging Face hub (from the cache
    where it is there, downloaded otherwise), or "tiny". tokenizers: a folder with CLIP's vocab.json and merges.txt, for
    single files (see `clip_tokenizer`). prediction: goes over what the model says of itself; a single file without any
    mark is taken for an epsilon model. memo: where content hashes are remembered (see `identity_of`).

    Raises UserError, saying what the thing is and what is needed, for whatever is no SDXL or SD 1.5 base.
    """
    family, source = _recognised(where, tokenizers)
    schedule = settled(source.config("scheduler"), prediction)
    if family == "sdxl":
        from .sdxl import SDXL

        return SDXL(source, schedule, memo=memo)
    from .sd15 import SD15

    return SD15(source, schedule, memo=memo)


def family_at(where: str | Path) -> str:
    """ "sdxl" or "sd15", told by configurations and headers: no weight is read, and torch is not needed.

    A name on the hub is downloaded where it is not in the cache. Raises UserError as `open_base` does.
    """
    return _recognised(where, None)[0]


def _recognised(where: str | Path, tokenizers: Path | None) -> tuple[str, Source]:
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


def _single_file(path: Path, tokenizers: Path | None) -> tuple[str, Source]:
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
    family = family_of(file)
    return family, SingleFile(file, family, tokenizers=tokenizers, scheduler=schedule_marks(file))


def _folder(path: Path) -> tuple[str, Source]:
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


def _family_of_folder(path: Path, index: dict[str, Any], source: Folder) -> str:
    pipeline = index.get("_class_name", "unknown pipeline")
    if not (path / "unet").is_dir():
        raise UserError(
            f"{path} is a {pipeline}. This version trains SDXL and SD 1.5 models, which have a unet folder."
        )
    unet = source.config("unet")
    encoders = tuple(name for name in ("text_encoder", "text_encoder_2") if (path / name).is_dir())
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    if channels != 4:
        what = "an inpainting model" if channels == 9 else "a model made for another task than text to image"
        raise UserError(f"{path} is {what} ({channels} input channels; 4 are needed). Give a text-to-image base.")
    if encoders == ("text_encoder_2",):
        raise UserError(f"{path} is the SDXL refiner, which only finishes pictures. Give an SDXL base.")
    if unet.get("addition_embed_type") == "text_time" and len(encoders) == 2:
        return "sdxl"
    if width == 1024:
        raise UserError(
            f"{path} is a Stable Diffusion 2.x model. This version trains SDXL and SD 1.5: give one of those."
        )
    if unet.get("addition_embed_type") is None and encoders == ("text_encoder",):
        return "sd15"
    raise UserError(f"{path} ({pipeline}) is neither an SDXL nor an SD 1.5 model, or lacks its text encoders.")

"""Infotext: what do the text fields of an image file tell of how it was generated?

A1111 and its kin write `parameters`: the prompt, "Negative prompt: ...", and a line of "Steps: 20, Key: value, ..." (in
JPEG and WebP as the EXIF user comment). ComfyUI writes its graph of nodes as JSON, `prompt`; see `comfy_workflow`.

The text is never trusted: whatever it holds, the result is text that can be stored, of bounded length, in time that is
linear in its length; where it makes no sense, nothing is known.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import ExifTags, Image

from ..pairs import normalize_prompt, storable_text
from .comfy_workflow import workflow_settings

_MAX_TEXT = 4_000_000
"""Characters of one text field that are parsed: graphs with images inside them are that long, prompts never."""
_MAX_SETTINGS = 100_000
_MAX_PROMPT = 20_000
_MAX_VALUE = 500
_FORMATS = ("PNG", "JPEG", "WEBP")
_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"\s*([A-Za-z][\w /\-]{0,60}):\s*")
_EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^:<>]{1,200})(:[^<>]{0,60})?>", re.IGNORECASE)
_UNICODE_COMMENT = b"UNICODE\0"


@dataclass(frozen=True)
class GenerationInfo:
    """The known settings of a generated image; None: not known. lora: names and strengths, as ``foo:0.8, bar:1``."""

    prompt: str | None = None
    seed: str | None = None
    sampler: str | None = None
    model: str | None = None
    lora: str | None = None


def read_infotext(image_file: bytes | Path) -> GenerationInfo:
    """From the header of a PNG, JPEG or WebP file alone. Never raises: an image without sensible text, and what is no
    image, gives an empty GenerationInfo."""
    try:
        file = image_file if isinstance(image_file, Path) else io.BytesIO(image_file)
        with Image.open(file, formats=_FORMATS) as image:
            parameters, graph = _fields(image)
    except Exception:  # Pillow raises anything on foreign bytes, and for text that unpacks to too much
        return GenerationInfo()
    if parameters:
        info = from_parameters(parameters)
        if info.prompt:
            return info
    return from_graph(graph) if graph else GenerationInfo()


def from_parameters(text: str) -> GenerationInfo:
    """A1111's infotext: the prompt may have many lines, and the last line's values may be quoted."""
    above, settings, line = ("\n" + text[:_MAX_TEXT].strip()).rpartition("\nSteps:")
    values = _values("Steps:" + line.partition("\n")[0][:_MAX_SETTINGS]) if settings else {}
    prompt = (above if settings else line).split("\n" + _NEGATIVE, 1)[0]
    loras = [f"{match[2]}{match[3] or ''}" for match in _EXTRA_NETWORK.finditer(prompt)]
    loras = loras or _hashed_loras(values.get("Lora hashes", ""))
    scheduler = values.get("Schedule type")
    sampler = values.get("Sampler")
    return _bounded(
        GenerationInfo(
            # The tags that load a LoRA never reach the text encoder.
            prompt=_EXTRA_NETWORK.sub(" ", prompt),
            seed=values.get("Seed"),
            sampler=f"{sampler} {scheduler}" if sampler and scheduler else sampler,
            model=values.get("Model") or values.get("Model hash"),
            lora=", ".join(dict.fromkeys(loras)),
        )
    )


def from_graph(text: str) -> GenerationInfo:
    """ComfyUI's graph as JSON."""
    settings = workflow_settings(text) if len(text) <= _MAX_TEXT else {}
    return _bounded(GenerationInfo(**settings))


def _fields(image: Image.Image) -> tuple[str, str]:
    """The texts that may be A1111's and ComfyUI's."""
    info = image.info
    parameters, graph = (info.get(name) if isinstance(info.get(name), str) else "" for name in ("parameters", "prompt"))
    if image.format != "PNG":
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        parameters = parameters or _comment(comment)
        for tag in (ExifTags.Base.Model, ExifTags.Base.Make, ExifTags.Base.ImageDescription):
            value = exif.get(tag)
            if isinstance(value, str) and value[:7].lower() == "prompt:":
                graph = graph or value[7:]
    return parameters or "", graph or ""


def _comment(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    if value.startswith(_UNICODE_COMMENT):
        rest = value[len(_UNICODE_COMMENT) :]
        # The standard names no byte order; A1111 writes big-endian. The ASCII of a prompt tells.
        little = rest[1:2] == b"\0"
        return rest.decode("utf-16-le" if little else "utf-16-be", "replace")
    return value.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace")


def _values(line: str) -> dict[str, str]:
    """Of ``Steps: 20, Size: 512x512, Lora hashes: "a: 1f, b: 2c"``."""
    values: dict[str, str] = {}
    at = 0
    while key := _KEY.match(line, at):
        start = key.end()
        if line[start : start + 1] == '"':
            end = _closing_quote(line, start + 1)
            value = line[start + 1 : end].replace('\\"', '"').replace("\\\\", "\\")
            comma = line.find(",", end)
        else:
            comma = line.find(",", start)
            value = line[start : comma if comma >= 0 else len(line)]
        values.setdefault(key[1].strip(), value.strip())
        if comma < 0:
            break
        at = comma + 1
    return values


def _closing_quote(line: str, at: int) -> int:
    while at < len(line) and line[at] != '"':
        at += 2 if line[at] == "\\" else 1
    return min(at, len(line))


def _hashed_loras(text: str) -> list[str]:
    return [part.split(":")[0].strip() for part in text[:10_000].split(",") if part.strip()]


def _bounded(info: GenerationInfo) -> GenerationInfo:
    prompt = normalize_prompt((info.prompt or "")[:_MAX_PROMPT]) or None
    # The schema's columns: a seed has 40 characters at most, a sampler 200.
    short = {name: _short(getattr(info, name), most) for name, most in _LENGTHS.items()}
    return replace(info, prompt=prompt, **short)


_LENGTHS = {"seed": 40, "sampler": 200, "model": _MAX_VALUE, "lora": _MAX_VALUE}


def _short(value: str | None, most: int) -> str | None:
    return storable_text((value or "")[:most]).strip() or None

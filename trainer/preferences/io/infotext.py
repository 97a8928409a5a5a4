"""What do the text fields of a picture file say of how it was painted?

A1111 and its kin write `parameters`: the prompt, "Negative prompt: ...", and a line of "Steps: 20, Key: value, ..." (in
JPEG and WebP as the EXIF user comment). ComfyUI writes its graph of nodes as JSON, `prompt`; see `comfy_graph`.

The text is from anywhere and is never trusted: whatever it holds, the answer is text that can be stored, of bounded
length, in time that is linear in its length; where it makes no sense, nothing is known.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import ExifTags, Image

from ..pairs import normalize_prompt, storable_text
from .comfy_workflow import painted_by

_MOST_TEXT = 4_000_000
"""Characters of one text field that are looked at: graphs with pictures inside them are that long, prompts never."""
_MOST_SETTINGS = 100_000
_MOST_PROMPT = 20_000
_MOST_VALUE = 500
_FORMATS = ("PNG", "JPEG", "WEBP")
_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"\s*([A-Za-z][\w /\-]{0,60}):\s*")
_EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^:<>]{1,200})(:[^<>]{0,60})?>", re.IGNORECASE)
_UNICODE_COMMENT = b"UNICODE\0"


@dataclass(frozen=True)
class GenerationInfo:
    """What is known of a painted picture; None: nothing. lora: names and strengths, as ``foo:0.8, bar:1``."""

    prompt: str | None = None
    seed: str | None = None
    sampler: str | None = None
    model: str | None = None
    lora: str | None = None


def read_text(picture: bytes | Path) -> GenerationInfo:
    """What the fields of a PNG, JPEG or WebP file say, from its header alone. Never raises: a picture without sensible
    text, and what is no picture, says nothing."""
    try:
        file = picture if isinstance(picture, Path) else io.BytesIO(picture)
        with Image.open(file, formats=_FORMATS) as image:
            parameters, graph = _fields(image)
    except Exception:  # Pillow raises anything on foreign bytes, and for text that unpacks to too much
        return GenerationInfo()
    if parameters:
        found = from_parameters(parameters)
        if found.prompt:
            return found
    return from_graph(graph) if graph else GenerationInfo()


def from_parameters(text: str) -> GenerationInfo:
    """A1111's text: the prompt may have many lines, and the last line's values may be quoted."""
    above, settings, line = ("\n" + text[:_MOST_TEXT].strip()).rpartition("\nSteps:")
    values = _values("Steps:" + line.partition("\n")[0][:_MOST_SETTINGS]) if settings else {}
    prompt = (above if settings else line).split("\n" + _NEGATIVE, 1)[0]
    loras = [f"{found[2]}{found[3] or ''}" for found in _EXTRA_NETWORK.finditer(prompt)]
    loras = loras or _hashed_loras(values.get("Lora hashes", ""))
    scheduler = values.get("Schedule type")
    sampler = values.get("Sampler")
    return _tidy(
        GenerationInfo(
            # What loads a LoRA never reaches the text encoder.
            prompt=_EXTRA_NETWORK.sub(" ", prompt),
            seed=values.get("Seed"),
            sampler=f"{sampler} {scheduler}" if sampler and scheduler else sampler,
            model=values.get("Model") or values.get("Model hash"),
            lora=", ".join(dict.fromkeys(loras)),
        )
    )


def from_graph(text: str) -> GenerationInfo:
    """ComfyUI's graph as JSON."""
    found = painted_by(text) if len(text) <= _MOST_TEXT else {}
    return _tidy(GenerationInfo(**found))


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
    while found := _KEY.match(line, at):
        start = found.end()
        if line[start : start + 1] == '"':
            end = _closing_quote(line, start + 1)
            value = line[start + 1 : end].replace('\\"', '"').replace("\\\\", "\\")
            comma = line.find(",", end)
        else:
            comma = line.find(",", start)
            value = line[start : comma if comma >= 0 else len(line)]
        values.setdefault(found[1].strip(), value.strip())
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


def _tidy(text: GenerationInfo) -> GenerationInfo:
    prompt = normalize_prompt((text.prompt or "")[:_MOST_PROMPT]) or None
    # The schema's columns: a seed has 40 characters at most, a sampler 200.
    short = {name: _short(getattr(text, name), most) for name, most in _LENGTHS.items()}
    return replace(text, prompt=prompt, **short)


_LENGTHS = {"seed": 40, "sampler": 200, "model": _MOST_VALUE, "lora": _MOST_VALUE}


def _short(value: str | None, most: int) -> str | None:
    return storable_text((value or "")[:most]).strip() or None

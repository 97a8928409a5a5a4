"""ComfyUI workflows: which prompt, seed, sampler, model and LoRA does a graph of nodes generate with?

The graph, as ComfyUI writes it into its images: {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "positive":
["6", 0], ...}}, ...}; an input is a value or a link [node, output]. Packs bring thousands of kinds of nodes, so the
way through is by the names of inputs: from a sampler along `positive` (or through its guider, along `conditioning`) to
a node with a text; from there along text inputs to where the text was typed.

Names in the graph are from anywhere. Every walk is a loop over nodes not yet seen, so cycles and depth do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "string", "prompt", "positive_prompt", "value")
_TYPED = ("text", "string", "prompt", "value", "populated_text", "positive_prompt", "t5xxl")
"""Prefixes of the names of inputs that hold a piece of a text; a delimiter or a file's name is none."""
_THROUGH_TEXT = (*_TYPED, "any", "input", "source")
_CONDITIONING = ("positive", "conditioning", "conditioning_1", "conditioning_to", "conditioning_from", "conditioning_2")
_NO_CONDITIONING = (
    "negative",
    "neg",
    "clip",
    "vae",
    "model",
    "image",
    "pixels",
    "latent",
    "mask",
    "control_net",
    "unet",
)
_GUIDERS = ("guider", *_CONDITIONING, "cond1", "cond")
_TO_THE_MODEL = ("model", "unet", "guider", "basic_pipe", "lora_stack")
_MODEL_NAMES = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
_SEEDS = ("seed", "noise_seed", "noise", "value", "int", "number")
_NO_LORA = ("", "None", "none")
_SAMPLER_NAMES = ("sampler_name", "scheduler")
_MAX_DIGITS = 40

Node = dict[str, Any]


def workflow_settings(text: str) -> dict[str, str]:
    """Those of prompt, seed, sampler, model and lora that the graph tells; empty for other text. Never raises."""
    nodes = _nodes(text)
    sampler = _sampler(nodes)
    if sampler is None:
        return {}
    prompt = _prompt(nodes, sampler)
    loras_used = [name if strength is None else f"{name}:{strength:g}" for name, strength in _loras(nodes, sampler)]
    settings = {
        "prompt": prompt,
        "seed": _seed(nodes, sampler),
        "sampler": _sampling(nodes, sampler),
        "model": _model(nodes, sampler),
        "lora": ", ".join(loras_used),
    }
    return {name: value for name, value in settings.items() if value}


def loras(text: str) -> list[tuple[str, float | None]]:
    """(file, strength where the node has one) of the LoRAs that the graph generates with. Never raises."""
    nodes = _nodes(text)
    sampler = _sampler(nodes)
    return [] if sampler is None else _loras(nodes, sampler)


def _nodes(text: str) -> dict[str, Node]:
    try:
        # Python before 3.11 takes minutes over a number of a million digits.
        graph = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < _MAX_DIGITS else None)
    except (ValueError, RecursionError, MemoryError):
        return {}
    if not isinstance(graph, dict):
        return {}
    return {key: node for key, node in graph.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}


def _sampler(nodes: dict[str, Node]) -> str | None:
    """The node that samples first: of several (a second pass that adds detail) the one that no other sampler's image
    flows into. The first in the graph where that leaves several."""
    samplers = [key for key in nodes if _is_sampler(nodes[key])]
    if len(samplers) < 2:
        return samplers[0] if samplers else None
    for key in samplers[:50]:
        upstream = _walk(nodes, [key], ("latent", "samples", "image", "pixels"))
        if not any(_is_sampler(nodes[other]) for other in upstream if other != key):
            return key
    return samplers[0]


def _is_sampler(node: Node) -> bool:
    inputs = node["inputs"]
    if "guider" in inputs and ("sampler" in inputs or "noise" in inputs):
        return True
    seeded = "seed" in inputs or "noise_seed" in inputs or "noise" in inputs
    return seeded and isinstance(inputs.get("positive"), list) and ("steps" in inputs or "sigmas" in inputs)


def _prompt(nodes: dict[str, Node], sampler: str) -> str:
    """The text of the nearest node along the positive conditioning that has one; those of a combination, in order."""
    inputs = nodes[sampler]["inputs"]
    starts = [key for name in ("positive", "guider") if (key := _linked(nodes, inputs.get(name)))]
    texts: list[str] = []
    seen: set[str] = set()
    waiting = starts[:1]
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        text = _text(nodes, key)
        if text:
            texts.append(text)
            continue
        inputs = nodes[key]["inputs"]
        names = [name for name in _GUIDERS if name in inputs]
        names = names or [name for name in inputs if not name.lower().startswith(_NO_CONDITIONING)]
        links = [_linked(nodes, inputs[name]) for name in names]
        waiting.extend(reversed([link for link in links if link]))
    return ", ".join(dict.fromkeys(texts))


def _text(nodes: dict[str, Node], key: str) -> str:
    """The text in a text encoder, or in the nodes that its text comes from."""
    for name in _TEXTS:
        value = nodes[key]["inputs"].get(name)
        if isinstance(value, str) and value.strip():
            return value
        link = _linked(nodes, value)
        if link is None:
            continue
        parts = [text for node in _walk(nodes, [link], _THROUGH_TEXT) for text in _typed(nodes[node])]
        if parts:
            return " ".join(parts)
    return ""


def _typed(node: Node) -> list[str]:
    """The texts of a node that makes texts. Of a wildcard and what was drawn for it, only the latter."""
    texts = {name.lower(): value for name, value in node["inputs"].items() if isinstance(value, str) and value.strip()}
    if "populated_text" in texts:
        return [texts["populated_text"]]
    return [value for name, value in texts.items() if name.startswith(_TYPED)]


def _seed(nodes: dict[str, Node], sampler: str) -> str:
    for key in _walk(nodes, [sampler], _SEEDS):
        for name in _SEEDS:
            value = nodes[key]["inputs"].get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
    return ""


def _sampling(nodes: dict[str, Node], sampler: str) -> str:
    """Sampler and scheduler, as ``euler karras``."""
    inputs = nodes[sampler]["inputs"]
    near = [sampler, *(key for name in ("sampler", "sigmas") if (key := _linked(nodes, inputs.get(name))))]
    names = (nodes[key]["inputs"].get(name) for name in _SAMPLER_NAMES for key in near)
    return " ".join(dict.fromkeys(name for name in names if isinstance(name, str)))


def _model(nodes: dict[str, Node], sampler: str) -> str:
    for key in _walk(nodes, [sampler], _TO_THE_MODEL):
        for name in _MODEL_NAMES:
            if isinstance(value := nodes[key]["inputs"].get(name), str) and value:
                return value
    return ""


def _loras(nodes: dict[str, Node], sampler: str) -> list[tuple[str, float | None]]:
    """Those on the way to the model, the one nearest to it first."""
    loras: list[tuple[str, float | None]] = []
    for key in _walk(nodes, [sampler], _TO_THE_MODEL):
        inputs = nodes[key]["inputs"]
        for name, value in inputs.items():
            lora, strength = value, inputs.get("strength_model", inputs.get("strength"))
            if isinstance(value, dict) and value.get("on") is True:  # the rows of rgthree's loader
                lora, strength = value.get("lora"), value.get("strength")
            if not isinstance(lora, str) or not name.lower().startswith("lora_") or lora in _NO_LORA:
                continue
            if name == "lora_name" and inputs.get("lora_path"):  # of our own loader: the path is what it loads
                continue
            is_number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
            loras.append((lora, strength if is_number else None))
    return list(dict.fromkeys(reversed(loras)))


def _walk(nodes: dict[str, Node], starts: Sequence[str], along: tuple[str, ...]) -> list[str]:
    """The nodes reached from `starts` through inputs whose names begin with one of `along`; nearest first."""
    seen = dict.fromkeys(starts)
    waiting = list(starts)
    for key in waiting:
        for name, value in nodes[key]["inputs"].items():
            link = _linked(nodes, value) if name.lower().startswith(along) else None
            if link is not None and link not in seen:
                seen[link] = None
                waiting.append(link)
    return list(seen)


def _linked(nodes: dict[str, Node], value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)):
        return key if (key := str(value[0])) in nodes else None
    return None

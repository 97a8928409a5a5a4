"""Which prompt does a saved workflow make? What ComfyUI's page does before it queues one, for the files in
example_workflows/."""

from __future__ import annotations

import json
from typing import Any

from mapo_studio.tests.hosts.prompts import CHECKPOINT
from mapo_studio.tests.hosts.running_comfyui import REPOSITORY, Prompt

EXAMPLES = sorted((REPOSITORY / "example_workflows").glob("*.json"))
_TYPED = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_ONLY_ON_THE_PAGE = ("MarkdownNote", "Note")

Known = dict[str, Any]
"""ComfyUI's /object_info."""


def example(beginning: str) -> dict[str, Any]:
    """The one workflow whose name begins so: example("1-")."""
    [file] = [path for path in EXAMPLES if path.name.startswith(beginning)]
    return json.loads(file.read_text(encoding="utf-8"))


def as_prompt(workflow: dict[str, Any], known: Known) -> Prompt:
    """{node id: {"class_type", "inputs"}}. Raises ValueError where a node's values are not as many as its widgets."""
    sources = {link: [str(node), slot] for link, node, slot, *_ in workflow["links"]}
    return {
        str(node["id"]): {"class_type": node["type"], "inputs": {**_values(node, known), **_links(node, sources)}}
        for node in workflow["nodes"]
        if node["type"] not in _ONLY_ON_THE_PAGE
    }


def tiny(prompt: Prompt, text: str, *, seed: int = 0, **others: dict[str, Any]) -> Prompt:
    """The same for the tiny base, at its size and in fewer steps, painting `text`. others: inputs by kind of node."""
    changed = {
        "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
        "EmptyLatentImage": {"width": 128, "height": 128},
        # In fewer steps than these, outlines are rare.
        "KSampler": {"steps": 12, "cfg": 3.0, "seed": seed},
        "PrimitiveInt": {"value": seed},
        "MaPOTrainLoRA": {"checkpoint": "tiny"},
    }
    for kind, inputs in others.items():
        changed[kind] = changed.get(kind, {}) | inputs
    answer = {
        key: {**node, "inputs": {**node["inputs"], **_not_linked(node, changed.get(node["class_type"], {}))}}
        for key, node in prompt.items()
    }
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            # To keep away from words that its world has not would take it anywhere.
            for side, words in (("positive", text), ("negative", "")):
                answer[node["inputs"][side][0]]["inputs"]["text"] = words
    return answer


def the(prompt: Prompt, kind: str) -> str:
    """The id of the one node of that kind."""
    [found] = [key for key, node in prompt.items() if node["class_type"] == kind]
    return found


def _values(node: dict[str, Any], known: Known) -> dict[str, Any]:
    about, saved, values = known[node["type"]], list(node["widgets_values"]), {}
    for part in ("required", "optional"):
        for name in about["input_order"].get(part, []):
            kind, options = (*about["input"][part][name], {})[:2]
            if not (isinstance(kind, list) or kind in _TYPED) or options.get("forceInput"):
                continue
            if not saved:
                raise ValueError(f"{node['type']}: no value is saved for {name}")
            values[name] = saved.pop(0)
            # Beside a seed the page has a widget of its own that says what follows it.
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                saved.pop(0)
    if saved:
        raise ValueError(f"{node['type']}: {saved} belong to no widget")
    return values


def _links(node: dict[str, Any], sources: dict[int, list]) -> dict[str, list]:
    return {one["name"]: sources[one["link"]] for one in node.get("inputs", []) if one["link"] is not None}


def _not_linked(node: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if not isinstance(node["inputs"].get(name), list)}

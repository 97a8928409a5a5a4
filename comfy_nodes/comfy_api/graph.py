"""Workflow graphs: the part that leads to an input, and which LoRA a load node loaded that got its file by a link.

A graph says what is typed into its nodes, not what flows between them: of a LoRA that was trained in the same graph it
names no file. So a load node records here what it loaded, under the part of the graph that its file came from. The
record is wanted as long as the images of that graph are in ComfyUI's memory, so memory is where it is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

Graph = dict[str, Any]
"""What ComfyUI executes: {node id: {"class_type": ..., "inputs": {...}}}."""

LOADER = "MaPOLoadLoRA"
NONE = "none"
"""In the list of LoRAs: the model as it is."""
_MOST = 1000
_files: OrderedDict[str, str] = OrderedDict()


def upstream_graph(graph: Graph, node: str, name: str) -> Graph:
    """The part of `graph` that leads to the input `name` of `node`: what generated those images, and nothing else."""
    waiting, upstream = [_linked(graph, (graph.get(node) or {}).get("inputs", {}).get(name))], set()
    while waiting:
        key = waiting.pop()
        if key is None or key in upstream:
            continue
        upstream.add(key)
        waiting += [_linked(graph, value) for value in graph[key].get("inputs", {}).values()]
    # ComfyUI writes its own notes into the nodes while it executes them.
    return {
        key: {name: graph[key][name] for name in graph[key] if name != "is_changed"} for key in graph if key in upstream
    }


def record_loaded_lora(graph: Graph, node: str, file: str) -> None:
    """Record that the load node of this graph loaded that file."""
    key = _key(graph, node)
    _files[key] = file
    _files.move_to_end(key)
    while len(_files) > _MOST:
        _files.popitem(last=False)


def with_loaded_loras(graph: Graph) -> Graph:
    """The graph with the file typed into every load node that got it through a link; none where it is not known."""
    return {key: _with_file(graph, key) if _is_linked(node) else node for key, node in graph.items()}


def _with_file(graph: Graph, node: str) -> dict[str, Any]:
    loader = graph[node]
    typed = {name: value for name, value in loader["inputs"].items() if name != "lora_path"}
    return {**loader, "inputs": {**typed, "lora_name": _files.get(_key(graph, node), NONE)}}


def _is_linked(node: dict[str, Any]) -> bool:
    return node.get("class_type") == LOADER and isinstance(node.get("inputs", {}).get("lora_path"), list)


def _key(graph: Graph, node: str) -> str:
    return hashlib.sha256(json.dumps(upstream_graph(graph, node, "lora_path"), sort_keys=True).encode()).hexdigest()


def _linked(graph: Graph, value: Any) -> str | None:
    return str(value[0]) if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph else None

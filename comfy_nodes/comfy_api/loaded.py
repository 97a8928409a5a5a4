"""Which LoRA did a load node load whose file came to it through a link?

A graph says what is typed into its nodes, not what flows between them: of a LoRA that was trained in the same graph it
names no file. So a load node writes down here what it loaded, under the part of the graph that its file came from. The
note is wanted as long as the pictures of that graph are in ComfyUI's memory, so memory is where it is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

from .images import Graph, before

LOADER = "MaPOLoadLoRA"
NONE = "none"
"""In the list of LoRAs: the model as it is."""
_MOST = 1000
_files: OrderedDict[str, str] = OrderedDict()


def note(graph: Graph, node: str, file: str) -> None:
    """Keep that the load node of this graph loaded that file."""
    key = _key(graph, node)
    _files[key] = file
    _files.move_to_end(key)
    while len(_files) > _MOST:
        _files.popitem(last=False)


def told(graph: Graph) -> Graph:
    """The graph with the file typed into every load node that got it through a link; none where it is not known."""
    return {key: _told(graph, key) if _is_linked(one) else one for key, one in graph.items()}


def _told(graph: Graph, node: str) -> dict[str, Any]:
    one = graph[node]
    typed = {name: value for name, value in one["inputs"].items() if name != "lora_path"}
    return {**one, "inputs": {**typed, "lora_name": _files.get(_key(graph, node), NONE)}}


def _is_linked(node: dict[str, Any]) -> bool:
    return node.get("class_type") == LOADER and isinstance(node.get("inputs", {}).get("lora_path"), list)


def _key(graph: Graph, node: str) -> str:
    return hashlib.sha256(json.dumps(before(graph, node, "lora_path"), sort_keys=True).encode()).hexdigest()

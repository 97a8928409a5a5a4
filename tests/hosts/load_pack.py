"""What does it cost ComfyUI to load a pack? Run by ComfyUI's Python: a JSON request on stdin, a JSON answer on stdout.

{"pack": folder} -> {"seconds": [of each of three loadings], "imported": [top-level module that was not there before],
                     "nodes": [id], "said": [what was logged above INFO]}
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

import utils.extra_config  # noqa: F401 -- before anything puts another `utils` on the path, as main.py does
from comfy.cli_args import args

args.cpu = True  # before model_management is imported, which looks for a GPU

import nodes  # noqa: E402
import server  # noqa: E402


async def load(pack: str) -> dict:
    server.PromptServer(asyncio.get_running_loop())
    # ComfyUI's own nodes come first, as at its start: what they import costs a pack nothing.
    await nodes.init_builtin_extra_nodes()
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    before, known = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS)
    seconds = []
    for _ in range(3):
        for name in set(sys.modules) - before:
            if name.startswith(pack.replace(".", "_x_")):
                del sys.modules[name]
        began = time.perf_counter()
        await nodes.load_custom_node(pack)
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "imported": sorted({name.partition(".")[0] for name in set(sys.modules) - before if not name.startswith("/")}),
        "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - known),
        "said": said,
    }


print(json.dumps(asyncio.run(load(json.load(sys.stdin)["pack"]))))

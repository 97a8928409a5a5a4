"""MaPO Studio: judge pairs of pictures, get a LoRA that paints more like your taste.

This file imports nothing: hosts execute it at their start, under a module name of their own choosing.
"""

WEB_DIRECTORY = "comfy_nodes/page"


async def comfy_entrypoint():
    """ComfyUI asks for its extension here, once, at its start."""
    from .comfy_nodes.extension import begin

    return begin()

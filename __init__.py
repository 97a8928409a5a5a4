"""MaPO Studio: judge pairs of pictures, get a LoRA that paints more like your taste.

This file imports nothing: hosts execute it at their start, under a module name of their own choosing.
"""

WEB_DIRECTORY = "comfy_nodes/page"


async def comfy_entrypoint():
    """The extension, which ComfyUI asks for once, at its start."""
    from .comfy_nodes.extension import create_extension

    return create_extension()

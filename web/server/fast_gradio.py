"""Fast start: import Gradio without the stub files that it would write for editors.

Gradio reads the source of each of its components, and writes a .pyi file beside it, whenever it is imported: half of
its import is that. Where a component has no file it leaves that out, so for that moment none has one.
"""

from __future__ import annotations

import gc
import inspect
import sys


def import_gradio() -> None:
    """Import it as it is, but for the stub files; does nothing where it is imported already."""
    if "gradio" in sys.modules:
        return
    real, collects = inspect.getfile, gc.isenabled()

    def getfile(thing: object) -> str:
        if type(thing).__module__ == "gradio.component_meta":  # the class of component classes
            raise OSError("no stub file is wanted")
        return real(thing)  # type: ignore[arg-type]

    inspect.getfile = getfile
    gc.disable()  # what is imported is no garbage, and looking through it takes a fifth of the time
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = real
        gc.freeze()
        if collects:
            gc.enable()

"""Fast start: import PyTorch, diffusers, transformers and PEFT without the packages that they only look for.

diffusers and PEFT import bitsandbytes wherever it is installed, and it brings torch's compiler; transformers and
diffusers import scipy for losses and schedulers that nothing here uses. That is a quarter of the time until a training
begins. benchmarks/startup.py measures it.
"""

from __future__ import annotations

import gc
import sys

_NOT_USED = ("bitsandbytes", "scipy")


def load_model_libraries() -> None:
    """Import what a training, an encoding or a generation needs; does nothing where diffusers is imported already.

    For a process of our own only: what these libraries do not see while they are imported, they take for
    not installed as long as the process lives. A later `import bitsandbytes` of ours works as ever.
    """
    if "diffusers" in sys.modules:
        return
    hidden = [name for name in _NOT_USED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: Python's own mark for "cannot be imported"
    # Collecting garbage among a million new objects, none of which is garbage, takes another sixth of the time.
    gc.disable()
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        gc.enable()

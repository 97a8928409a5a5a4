"""What the commands import, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOADED = "import json, sys; print(json.dumps(sorted(name for name, module in sys.modules.items() if module)))"


def loaded_after(code: str) -> set[str]:
    """The names of the modules that a new process has imported after `code`."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["plan", "--help"]])
def test_help_loads_no_torch(words):
    code = f"from mapo_studio.trainer.cli.main import main\ntry: main({words})\nexcept SystemExit: pass"
    loaded = loaded_after(code)
    assert not {"torch", "diffusers", "transformers", "peft", "gradio", "sqlalchemy"} & loaded
    assert "mapo_studio.trainer.cli.main" in loaded


@pytest.mark.slow
def test_showing_a_lora_loads_no_torch(tiny_lora):
    loaded = loaded_after(f"from mapo_studio.trainer.cli.main import main\nmain(['lora', 'show', {str(tiny_lora)!r}])")
    assert {"mapo_studio.trainer.lora.inspect", "numpy"} <= loaded
    assert not {"torch", "diffusers", "transformers", "peft", "safetensors"} & loaded


@pytest.mark.slow
def test_the_model_libraries_come_without_what_is_not_used_and_bitsandbytes_still_comes_where_it_is_wanted():
    code = "from mapo_studio.trainer.models.fast_start import load_model_libraries; load_model_libraries()"
    loaded = loaded_after(f"{code}\nimport mapo_studio.trainer.training.loop")
    assert {
        "torch",
        "diffusers.models.unets.unet_2d_condition",
        "peft.tuners.lora",
        "transformers.models.clip",
    } <= loaded
    assert not {"bitsandbytes", "scipy", "torch._inductor.compile_fx"} & loaded
    step = """
import torch
from mapo_studio.trainer.lora.adapter import LoraSettings, attach
from mapo_studio.trainer.models.open import open_base
attach(open_base("tiny").load_unet(torch.device("cpu"), torch.float32), LoraSettings(rank=4), seed=0)
from bitsandbytes.optim import AdamW8bit
weight = torch.nn.Parameter(torch.zeros(4096)); weight.grad = torch.ones_like(weight)
AdamW8bit([weight]).step()
assert weight.abs().min() > 0
import scipy.optimize
"""
    assert {"bitsandbytes", "scipy.optimize"} <= loaded_after(code + step)

"""What several tests need: UNets, small ones that compute and real ones that only have shapes; a browser."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from mapo_studio.tests.system_packages import needed
from playwright.sync_api import Browser, expect, sync_playwright
from torch import Tensor, nn

pytest_plugins = ["mapo_studio.tests.preference_fixtures", "mapo_studio.tests.training_fixtures"]

# The models here are too small to share out: a second thread mostly waits, for minutes where another process is busy.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for every process that a test starts

# A busy machine is slow, not wrong. What must be quick measures the time itself.
expect.set_options(timeout=60_000)

# What a shell runs in the background ignores Ctrl+C, and hands that on to what it starts: a server that a test ends by
# Ctrl+C would be waited for in vain. With a handler of our own those that are started do not ignore it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: None)

# Longest first, by a run with --durations=0: begun last, one of these would go on alone after all the others.
LONGEST_FIRST = (
    "hosts/",
    "web/test_whole_loop.py",
    "training/test_several_processes.py",
    "training/test_loop.py",
    "memory_estimate/test_memory_figures.py",
    "demo/test_show.py",
    "training/test_compile.py",
    "installer/test_bootstrap_starts.py",
    "study/test_worlds.py",
    "training/test_ways.py",
    "jobs/test_job.py",
    "web/test_judge_element.py",
    "web/test_judge_queue.py",
    "web/test_start.py",
    "web/test_generate_panels.py",
    "models/test_card_presets.py",
)

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "trainer" / "models" / "configs"
FEW_BLOCKS = {
    "sd15": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
    "sdxl": {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    },
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. What happens in a browser waits by the clock, and a stall can fail it: once more."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        return next((at for at, start in enumerate(LONGEST_FIRST) if name.startswith(start)), len(LONGEST_FIRST))

    items.sort(key=rank)
    for item in items:
        if "page" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("flaky"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side, a file is one piece of work, and so is all of tests/hosts: one ComfyUI runs, not one a worker."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneHost(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/hosts" if "hosts/" in file else file

    return OneHost(config, log)


def pytest_collection_finish() -> None:
    """What was imported is never garbage. Looking through it again took most of the time of many small tests: the
    trainer collects garbage whenever it is done with a model."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The one chromium of a process: Playwright can be started once in it."""
    chromium = needed("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def small_unet() -> Callable[..., UNet2DConditionModel]:
    """small_unet(family, seed=0): a few blocks of a family's kind, with random weights."""

    def make(family: str, seed: int = 0) -> UNet2DConditionModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet2DConditionModel(
                **FEW_BLOCKS[family], layers_per_block=1, cross_attention_dim=24, norm_num_groups=8, sample_size=8
            ).eval()

    return make


@pytest.fixture(scope="session")
def real_unet() -> Callable[[str], UNet2DConditionModel]:
    """real_unet(family): the published model's modules and shapes on the meta device, without weights."""

    def make(family: str) -> UNet2DConditionModel:
        config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)

    return make


@pytest.fixture(scope="session")
def answer() -> Callable[[nn.Module], Tensor]:
    """answer(unet): what a UNet of any family says to one fixed question, (2, 4, 8, 8)."""

    def ask(unet: nn.Module) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        dtype, config = unet.dtype, unet.config
        noisy = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
        text = torch.randn(2, 5, config.cross_attention_dim, generator=generator).to(dtype)
        added = None
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            added = {
                "text_embeds": torch.randn(2, pooled, generator=generator).to(dtype),
                "time_ids": torch.tensor([[64.0, 48, 0, 8, 64, 64]] * 2, dtype=dtype),
            }
        return unet(noisy, torch.tensor([300, 700]), text, added_cond_kwargs=added).sample

    return ask


@pytest.fixture(scope="session")
def random_lora() -> Callable[..., dict[str, Tensor]]:
    """random_lora(unet, seed=0): a state in which B is not zero, for a UNet that carries a LoRA (meta: too)."""

    def make(unet: nn.Module, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name.replace(".mapo.", "."): torch.randn(weight.shape, generator=generator) * 0.1
            for name, weight in unet.named_parameters()
            if ".lora_" in name
        }

    return make


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory, random_lora) -> Path:
    """A LoRA file for the embedded base that changes its pictures visibly."""
    from mapo_studio.trainer.lora.adapter import LoraSettings, attach
    from mapo_studio.trainer.lora.file import write_lora
    from mapo_studio.trainer.models.open import open_base

    unet, settings = open_base("tiny").load_unet(torch.device("cpu"), torch.float32), LoraSettings(rank=4)
    attach(unet, settings, seed=0)
    return write_lora(tmp_path_factory.mktemp("lora") / "taste.safetensors", random_lora(unet), settings, "sdxl")

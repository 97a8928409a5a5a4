"""LoRA adapter: putting a LoRA onto a UNet, and its weights off it again.

PEFT makes the layers (fused_linear.py says how they compute). What is decided here: which modules are trained, that
adapter weights are float32 whatever the base is, and that the first weights depend on the seed alone, so that a run can
be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..errors import UserError
from ..models.registry import UNET_LORA_TARGETS, titles
from .fused_linear import fuse
from .settings import LoraSettings

_ADAPTER = "mapo"
_PARTS = ("lora_A", "lora_B")


def attach(
    unet: nn.Module,
    settings: LoraSettings,
    seed: int,
    targets: Mapping[str, Sequence[str]] = UNET_LORA_TARGETS,
) -> list[nn.Parameter]:
    """Freeze `unet`, put a LoRA onto it and return the parameters to train: float32, on the base's devices.

    A is gaussian with standard deviation 1/rank, B zero, so the model's output is unchanged until the first step.
    Both are a pure function of seed, rank and the modules' names and order; the global random state is neither read
    nor changed. Dropout acts in training mode only, so call `unet.train()` to have it. Works on the meta device too.

    targets: the base's `lora_targets`.

    Raises UserError if `unet` holds none of the target modules, ValueError if it already holds a LoRA.
    """
    if any(True for _ in _layers(unet)):
        raise ValueError("this model already carries a LoRA")
    suffixes = targets[settings.targets]
    if not any(name.endswith(tuple(f".{suffix}" for suffix in suffixes)) for name, _ in unet.named_modules()):
        raise UserError(
            f"the base model has none of the modules that a LoRA is trained on ({', '.join(suffixes)}): "
            f"use a base of {titles()}"
        )
    unet.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.true_alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=list(suffixes),
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]):  # making layers draws from the global generator; the values are not kept
        unet.add_adapter(config, adapter_name=_ADAPTER)
    generator = torch.Generator("cpu").manual_seed(seed)  # one device for the draw: the same LoRA on CPU and GPU
    parameters = []
    for _, layer in _layers(unet):
        fuse(layer)
        for part in _PARTS:
            linear = getattr(layer, part)[_ADAPTER].float()  # PEFT made it in the base's dtype
            initial = torch.zeros(linear.weight.shape)
            if part == "lora_A":
                initial.normal_(std=1 / settings.rank, generator=generator)
            with torch.no_grad():
                linear.weight.copy_(initial)
            parameters.append(linear.weight.requires_grad_(True))
    unet.train(unet.training)  # new layers start in training mode, which would leave dropout on in an evaluating model
    return parameters


def disable_input_cast(unet: nn.Module) -> None:
    """For a LoRA that only computes under autocast: its inputs are cast there, in one step and shared.

    PEFT casts them to float32 first, and autocast that back to half precision: the same numbers, and a copy more for
    each layer, kept until the backward pass.
    """
    for _, layer in _layers(unet):
        layer.cast_input_dtype_enabled = False


def detach(unet: nn.Module) -> None:
    """Take a LoRA off again, so that another may be attached; does nothing to a model that carries none."""
    if any(True for _ in _layers(unet)):
        unet.unload_lora()


@contextmanager
def disabled(unet: nn.Module) -> Iterator[None]:
    """The base model as it was, for the length of a `with` block: DPO's reference, and samples to compare with.

    Nests; the LoRA is back and trainable afterwards even if the block raises. A training step may use it between its
    forward and its backward, checkpointed blocks included: they are computed again after the block has ended.
    """
    active = [layer for _, layer in _layers(unet) if not layer.disable_adapters]
    for layer in active:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in active:
            layer.enable_adapters(True)


def lora_state_dict(unet: nn.Module) -> dict[str, Tensor]:
    """A snapshot of the LoRA: `<module path>.lora_A.weight` and `.lora_B.weight`, float32 copies on the CPU.

    Module paths are those of diffusers, whatever torch.compile wrapped around. Linear: A (rank, in), B (out, rank);
    1x1 convolution: A (rank, in, 1, 1), B (out, rank, 1, 1).

    Raises ValueError if the model carries no LoRA.
    """
    state_dict = {key: weight.detach().to("cpu", torch.float32, copy=True) for key, weight in _weights(unet)}
    if not state_dict:
        raise ValueError("this model carries no LoRA")
    return state_dict


def load_lora_state_dict(unet: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Put a snapshot of `lora_state_dict` back onto a model with a LoRA of the same settings, exactly.

    Nothing is changed unless all of it fits. Raises UserError naming the first module that does not.
    """
    weights = dict(_weights(unet))
    missing, surplus = sorted(weights.keys() - state_dict.keys()), sorted(state_dict.keys() - weights.keys())
    if missing or surplus:
        problem = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which this model does not train"
        raise UserError(
            f"the LoRA to continue from does not fit: it {problem} ({len(missing)} missing, {len(surplus)} surplus); "
            "use the base model family and the targets it was trained with"
        )
    for key, weight in weights.items():
        if weight.shape != state_dict[key].shape:
            raise UserError(
                f"the LoRA to continue from does not fit: {key} is {tuple(state_dict[key].shape)}, this run needs "
                f"{tuple(weight.shape)}; use the rank and the base model family it was trained with"
            )
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(state_dict[key])


def _layers(unet: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for path, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            yield path.replace("_orig_mod.", ""), module


def _weights(unet: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for path, layer in _layers(unet):
        for part in _PARTS:
            yield f"{path}.{part}.weight", getattr(layer, part)[_ADAPTER].weight

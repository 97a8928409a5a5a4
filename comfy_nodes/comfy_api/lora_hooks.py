"""LoRA hooks: ComfyUI applies a LoRA to a model with one strength, or with a strength that changes from step to step.

Beside host.py, this is the only file that knows ComfyUI's inside. A strength that changes is the work of its hooks and
their keyframes. Those ride on conditioning, of which a loader has none: so the model carries a wrapper that attaches
the hook to every conditioning as a sampling begins. Conditionings of a sampling are copies, and ComfyUI takes off hooks
when it ends, so nothing is left of it on the model or on anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.supported_models
import comfy.utils
from comfy.patcher_extension import WrappersMP

from ...trainer.models.registry import FAMILIES

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP
    from torch import Tensor

Weights = dict[str, "Tensor"]
StrengthSchedule = Callable[[Sequence[float], bool], Sequence[float]]
"""(share of the noise schedule behind each step, whether no noise is left in the end) -> strength at each step."""

_KEY = "mapo"
_HALVINGS = 30
_BEFORE = 0.01
"""Of a step: so much before its noise its strength begins, as samplers that count otherwise do not meet it exactly."""


def read_weights(file: Path) -> Weights:
    """The tensors of a LoRA file. Raises what safetensors and torch raise for what is none."""
    return comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(str(file), safe_load=True))


def family_of(model: ModelPatcher) -> tuple[str, str]:
    """(the engine's name of the model's family, empty where it knows none; ComfyUI's)."""
    config = model.model.model_config
    kinds = {
        name: getattr(comfy.supported_models, row.comfy_class) for name, row in FAMILIES.items() if row.comfy_class
    }
    return next((name for name, kind in kinds.items() if isinstance(config, kind)), ""), type(config).__name__


def count_matching(model: ModelPatcher, clip: CLIP | None, weights: Weights) -> int:
    """How many of the weights that a LoRA changes are in the model or the text encoder, with the shape that it has."""
    count = 0
    sides = [(model.model, comfy.lora.model_lora_keys_unet)]
    if clip is not None:
        sides.append((clip.cond_stage_model, comfy.lora.model_lora_keys_clip))
    for module, names in sides:
        there = module.state_dict()
        for key, patch in comfy.lora.load_lora(weights, names(module, {}), log_missing=False).items():
            name = key if isinstance(key, str) else key[0]
            count += name in there and _fits(patch, there[name], whole=isinstance(key, str))
    return count


def apply_lora(
    model: ModelPatcher | None, clip: CLIP | None, weights: Weights, strength: float
) -> tuple[ModelPatcher | None, CLIP | None]:
    """Copies with the LoRA, as ComfyUI's own loader makes them."""
    return comfy.sd.load_lora_for_models(model, clip, weights, strength, strength)


def apply_scheduled_lora(model: ModelPatcher, weights: Weights, schedule: StrengthSchedule) -> ModelPatcher:
    """A copy of the model with the LoRA in every sampling, at each step as strong as `schedule` says."""
    patched = model.clone()
    [hook] = comfy.hooks.create_hook_lora(weights, 1.0, 0.0).hooks
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    hook.add_hook_patches(patched, {}, target, comfy.hooks.HookGroup())

    def sample(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *more: Any, **named: Any):
        guider = executor.class_obj
        own_hook = hook.clone()
        # New ones for each sampling: two must not count steps in the same.
        own_hook.hook_keyframe = _keyframes(guider.model_patcher.get_model_object("model_sampling"), sigmas, schedule)
        _attach_hook(guider.conds, own_hook)
        return executor(noise, latent, sampler, sigmas, *more, **named)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, sample)
    return patched


def _keyframes(sampling: Any, sigmas: Tensor, schedule: StrengthSchedule) -> comfy.hooks.HookKeyframeGroup:
    """One for each step, so that the weights are patched anew once a step.

    They guarantee no steps: the noise alone selects each, whether the sampler asks the model once a step or more.
    """
    noise = [float(sigma) for sigma in sigmas]
    elapsed = [_elapsed(sampling, sigma) for sigma in noise[:-1]]
    keyframes = comfy.hooks.HookKeyframeGroup()
    for step, strength in enumerate(schedule(elapsed, noise[-1] == 0)):
        begins = _elapsed(sampling, noise[step] + _BEFORE * (noise[step - 1] - noise[step])) if step else 0.0
        keyframes.add(comfy.hooks.HookKeyframe(strength, begins, guarantee_steps=0))
    return keyframes


def _elapsed(sampling: Any, sigma: float) -> float:
    """The share of the noise schedule that lies behind this noise: ComfyUI's percent_to_sigma, inverted."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) >= sigma else (low, middle)
    return low


def _attach_hook(conds: dict[str, list[dict[str, Any]]], hook: comfy.hooks.Hook) -> None:
    """Add the hook to every conditioning. Those that share a group go on sharing one: they are computed together."""
    groups: dict[comfy.hooks.HookGroup | None, comfy.hooks.HookGroup] = {}
    for cond in (cond for several in conds.values() for cond in several):
        before = cond.get("hooks")
        if before not in groups:
            groups[before] = comfy.hooks.HookGroup() if before is None else before.clone()
            groups[before].add(hook)
        cond["hooks"] = groups[before]


def _fits(patch: Any, weight: Tensor, whole: bool) -> bool:
    """Whether a patch has the shape of the weight that it is for; one that is no plain LoRA counts as fitting."""
    if not whole or getattr(patch, "name", "") != "lora":
        return True
    up, down, _, middle = patch.weights[:4]
    return middle is not None or (
        up.shape[0] == weight.shape[0] and down.flatten(1).shape[1] == weight.flatten(1).shape[1]
    )

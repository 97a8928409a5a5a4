"""Run configuration: all settings of a run. The command line's flags and run.toml come from here.

A misspelt key is an error. Every field says its unit and the reason to change it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from ..errors import UserError
from . import optimizers
from .dataset_uri import whole_path
from .renamed_keys import current_keys
from .validation import validation_sentence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_EXPERT: dict[str, JsonValue] = {"expert": True}
"""Of a setting without a reason to choose it every day: read from a file and a flag, but not shown."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(_Part):
    """The judged pairs, and how their pictures are shown to the model."""

    pairs: str = ""
    """Folder or file of judged pairs (see docs/data.md), or dataset:NAME for one of the workspace."""
    bad_pairs: Literal["stop", "skip"] = "stop"
    """A pair that cannot be trained on (missing picture, empty caption ...): stop, or skip and list it."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of prompts kept aside to measure agreement on."""
    max_pairs: int | None = Field(None, ge=1)
    """Train on so many pairs at most, drawn so that fewer are part of more: to see what more pairs bring."""
    resolution: int | None = Field(None, ge=16)
    """Side in px of the square whose area the pictures get; by default what the base was trained for."""
    flip: bool = False
    """Also show both pictures of a pair mirrored. Not for taste about left and right, or text."""
    caption_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of pairs shown without their caption; moves the taste into the unprompted model too."""
    rejected_captions: Literal["same", "own"] = "same"
    """In folders (kohya, OneTrainer), what it means that the rejected picture's caption says something else than the
    chosen one's: a mistake, or its own caption, under which it is rejected (DCPO)."""
    ranking_weights: Literal["gain", "equal"] = "gain"
    """How the pairs of a ranking weigh, together always as much: as RankDPO weighs them, most where the order matters
    most (the first against the last), or all alike."""
    workers: int = Field(2, ge=1)
    """Threads that read and decode pictures while others are encoded."""


class AdapterConfig(_Part):
    """The LoRA that is trained."""

    rank: int = Field(16, ge=1)
    """Rank of the LoRA. More holds more, weighs more and overfits sooner."""
    alpha: float | None = Field(None, gt=0)
    """Scale numerator: the LoRA acts with alpha / rank. By default the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of LoRA inputs zeroed in training, against overfitting."""
    targets: Literal["attention", "all"] = "all"
    """Layers that get a LoRA: attention only, or also projections and feed-forward, which hold more of a style."""
    rslora: bool = False
    """Scale with alpha / sqrt(rank), so that high ranks learn as fast as low ones."""
    continue_from: str | None = None
    """A LoRA file whose weights, rank and alpha this training starts from."""


ASSUMED_MARGIN_SCALE = 1 / 64
"""Of the base's margins, where none was or could be measured; a steepness of 1 then means a temperature of 64."""


class ObjectiveConfig(_Part):
    """What is optimized, and how hard the rejected picture is pushed away."""

    kind: Annotated[Literal["mapo", "mapo-released", "dpo", "sft", "dpo+sft"], tyro.conf.arg(name="objective")] = "mapo"
    """mapo; the others are there to compare with. mapo-released: with the numbers of the authors' code."""
    margin_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """mapo: weight of the margin term beside the likelihood term. Higher pushes the rejected picture harder. auto: so
    that its push is the same at every temperature, see push."""
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """mapo: multiplies the margin inside the sigmoid. Higher: only near ties still push. auto: from how far apart the
    base's errors on your own pairs are."""
    steepness: float = Field(1.0, gt=0, json_schema_extra=_EXPERT)
    """mapo with temperature auto: the temperature times the spread of the untouched base's margins. Higher: only near
    ties still push. From 1 to 4 it made no difference that could be told (docs/recipe.md)."""
    push: float = Field(8.0, ge=0)
    """mapo with margin_weight auto: temperature * margin_weight. At 1 a pair that is tied pushes its
    rejected picture a quarter as hard as the likelihood term pulls its chosen one. More teaches a taste in fewer steps
    and raises the error on chosen pictures (docs/recipe.md); the released code comes to 50."""
    error_scale: float = Field(1.0, gt=0, json_schema_extra=_EXPERT)
    """mapo: multiplies the errors before they are compared."""
    safeguard: float | None = Field(None, ge=0, lt=1)
    """Let a rejected picture push only as far as the chosen one is not pushed away too; this share of the chosen one's
    pull is left at least. Try 0.6 for SDXL, 0.9 for SD 1.5; by default off."""
    beta: float = Field(2000.0, gt=0)
    """dpo, dpo+sft: strength of the pull towards the reference."""
    likelihood_weight: float = Field(1.0, ge=0)
    """dpo+sft: weight of the likelihood term beside DPO's."""

    @property
    def calibrated(self) -> bool:
        """Whether knobs that are used follow from the base's margins."""
        return self.kind == "mapo" and self.temperature == "auto"

    def resolved(self, margin_scale: float = ASSUMED_MARGIN_SCALE) -> ObjectiveConfig:
        """Itself with a number for every knob that is auto. margin_scale: see training/temperature.py."""
        temperature = self.steepness / margin_scale if self.temperature == "auto" else self.temperature
        weight = self.push / (temperature * self.error_scale) if self.margin_weight == "auto" else self.margin_weight
        return self.model_copy(update={"temperature": temperature, "margin_weight": weight})


class OptimizerConfig(_Part):
    """How the LoRA's weights are moved."""

    optimizer: Literal[optimizers.CHOICES] = optimizers.AUTO  # type: ignore[valid-type]
    """8-bit states need a quarter of AdamW's memory; paged ones leave a card that is full. auto: 8-bit on a GPU; on a
    CPU AdamW, which is faster there."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate. Small LoRA sets want far more than the paper's 1e-7."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = Field(10, ge=0)
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled decay of the LoRA's weights towards zero."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the running mean of squared gradients; short runs want less than 0.999."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""


class TrainingConfig(_Part):
    """How long, how much at a time, in which precision."""

    steps: int = Field(400, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(1, ge=1)
    """Pairs in one forward pass (two pictures each). Memory grows with it. Pictures that were ranked together go
    through once each, so a ranking of k pictures counts as k / 2 pairs."""
    pairs_at_once: int | None = Field(None, ge=1)
    """Pairs in one forward pass at most, by default a whole batch. Less memory; the same pairs teach the same."""
    accumulation: int = Field(4, ge=1)
    """Forward passes per optimizer step; acts like a larger batch without its memory."""
    rankings: Literal["together", "pairs"] = "together"
    """Pictures that were ranked together share noise and noise level and go through the base once each: the gradient of
    their pairs for less work. pairs: each pair for itself."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the base: bfloat16 where the device has it, float16 on older cards, float32 on a CPU."""
    quantize: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Storage of the base's weights: int8 and fp8 take half of bfloat16's memory, nf4 less than a third. int8 is the
    more exact of the two and nearly as good as none; nf4 costs some accuracy. The LoRA stays float32."""
    timesteps: Literal["auto", "all", "1", "2", "4", "8"] = "auto"
    """Noise levels that are trained and measured at: all, or those of a base that paints in so many steps. auto: all,
    but of a base that is recognised as distilled (Turbo, Lightning, Hyper, LCM, DMD) its own."""
    split_pair: bool = False
    """The two pictures of a pair go through the base one after the other: half the activations, a third more forward
    passes (none more with offload). The gradient is the same."""
    gradient_checkpointing: Literal["auto", "on", "off", "offload"] = "auto"
    """Recompute activations instead of keeping them: far less memory, a third more time. auto: on for a GPU. offload:
    what is still kept waits in the computer's memory instead of the card's."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the base's repeated blocks at the first step: minutes of waiting, then shorter steps.
    auto: on a CPU where a long training wins the wait back; on a card off, until it is measured to pay."""
    tf32: Literal["auto", "on", "off"] = "auto"
    """Allow TF32 (19-bit) matrix products; only --precision float32 has any. auto: on for an NVIDIA card."""
    auto: bool = False
    """Where the device's memory is full, go on from the last step with settings that need less and learn the same."""
    seed: int = Field(0, ge=0, lt=2**31)
    """All of a run's randomness follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu."""


class EvaluationConfig(_Part):
    """What is measured, shown and kept while training. Intervals are in steps; 0 switches a thing off."""

    evaluate_every: int = Field(50, ge=0)
    """Steps between measurements on held-out pairs (and once at each end)."""
    evaluate_pairs: int = Field(64, ge=1)
    """Held-out pairs that are measured, at most."""
    evaluate_timesteps: int = Field(4, ge=1)
    """Fixed noise levels that each held-out pair is measured at."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the LoRA file: those of the last step, or of the measurement with the best agreement; of
    several that are as good the last whose error on the chosen pictures is not clearly higher."""
    patience: int = Field(0, ge=0)
    """Measurements in a row that bring neither more agreement nor less error on the chosen pictures, after which the
    training ends before its last step. 0: never."""
    sample_every: int = Field(200, ge=0)
    """Steps between sample pictures (and once at each end)."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample pictures; by default four held-out ones."""
    sample_steps: int | None = Field(None, ge=1)
    """Denoising steps of a sample picture; by default 28, or as many as a distilled base paints in."""
    guidance: float | None = Field(None, ge=1)
    """Classifier-free guidance of sample pictures; by default 5, or 1 (none) for a distilled base."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between states that a killed run can go on from."""
    log_every: int = Field(5, ge=1)
    """Steps between lines of numbers; the only moments at which the device is waited for."""


class RunConfig(_Part):
    """One training run."""

    name: str = "my-taste"
    """Name of the run, of its folder and of the LoRA file."""
    base: str = ""
    """A diffusers folder, a hub id, a .safetensors checkpoint, or 'tiny' for the embedded one."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the base predicts; only for checkpoints that do not say so themselves."""
    tokenizers: str | None = None
    """Folder with a CLIP tokenizer, for single files; by default the hub cache."""
    data: DataConfig = DataConfig()
    adapter: AdapterConfig = AdapterConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimization: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    watch: EvaluationConfig = EvaluationConfig()

    def checked(self) -> RunConfig:
        """Itself, where everything that has no default was given. Raises UserError naming what is missing."""
        if not self.base:
            raise UserError("no base model: give --base with a .safetensors checkpoint, a diffusers folder or a hub id")
        if not self.data.pairs:
            raise UserError("no judged pairs: give --pairs with a folder or file of them, or dataset:NAME")
        if not re.fullmatch(r"[\w][\w .+-]*", self.name) or self.name.endswith((".", " ")):
            raise UserError(f"{self.name!r} cannot be a file name everywhere: use letters, digits, '-', '_' and '.'")
        return self

    def with_whole_paths(self) -> RunConfig:
        """Itself with every path made absolute, so that the run can be resumed from any folder."""
        tokenizers, lora = self.tokenizers, self.adapter.continue_from
        return self.model_copy(
            update={
                "base": whole_path(self.base),
                "tokenizers": tokenizers and whole_path(tokenizers),
                "data": self.data.model_copy(update={"pairs": whole_path(self.data.pairs)}),
                "adapter": self.adapter.model_copy(update={"continue_from": lora and whole_path(lora)}),
            }
        )


def read_config(path: Path) -> RunConfig:
    """The RunConfig in a TOML file. Raises UserError naming the file and the wrong key or value."""
    return parse_config(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a settings file. Raises UserError where it is not there or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no settings file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None


def is_expert(field: FieldInfo) -> bool:
    """Whether a setting is left out of help and of the page."""
    return field.json_schema_extra == _EXPERT


def parse_config(values: dict[str, Any], source: str) -> RunConfig:
    """A RunConfig from nested plain values; former keys are taken too. `source`: for the UserError of a wrong one."""
    try:
        return RunConfig.model_validate(current_keys(values))
    except ValidationError as error:
        raise UserError(f"{source}: {validation_sentence(error, RunConfig)}") from None


def write_config(config: RunConfig) -> str:
    """The config as TOML text that `read_config` gives back exactly."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))

"""Export: which weights become the LoRA file of a run that ends, and what its metadata say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor, nn

from ..config.run_config import RunConfig
from ..errors import UserError
from ..lora import adapter
from ..lora.file import read_lora, write_lora
from ..runs.run_folder import Run
from .checkpoint import load_best
from .early_stopping import EvalHistory
from .heldout_eval import EvalResult
from .learner import Learner
from .prepare_data import TrainingData


@dataclass(frozen=True)
class Result:
    """What a run leaves behind. step: the one whose weights these are; weights: None for those that the model has.

    agreement: as measured there, or newest before; None where nothing was. message: for a person, where it is not the
    last step's.
    """

    step: int
    weights: dict[str, Tensor] | None
    agreement: EvalResult | None
    message: str = ""

    @contextmanager
    def with_weights(self, unet: nn.Module) -> Iterator[None]:
        """`unet` has these weights for the length of a `with`, then its own again."""
        if self.weights is None:
            yield
            return
        own = adapter.lora_state_dict(unet)
        adapter.load_lora_state_dict(unet, self.weights)
        try:
            yield
        finally:
            adapter.load_lora_state_dict(unet, own)


def final_result(run: Run, config: RunConfig, history: EvalHistory, step: int) -> Result:
    """What a run that ends after `step` leaves behind: the best point's weights with `watch.keep` "best"."""
    best = history.best_step(step) if config.watch.keep == "best" else step
    weights = _weights_at(run, best) if best != step else None
    if best != step and weights is None:
        run.log("warning", text=f"the weights of step {best} are gone, so those of step {step} were kept")
        best = step
    message = f"The LoRA is that of step {best} of {step}: {history.reason()}." if best != step else ""
    return Result(best, weights, _agreement_at(run, best), message)


def export_lora(run: Run, config: RunConfig, data: TrainingData, learner: Learner, result: Result) -> None:
    """Write `run.lora_file`. Raises UserError where the disk is full or a weight is not finite."""
    source = learner.unet if result.weights is None else result.weights
    facts = _facts(run, config, data, learner, result)
    write_lora(run.lora_file, source, learner.settings, data.base.family, facts)


def _weights_at(run: Run, step: int) -> dict[str, Tensor] | None:
    """The weights after that step, from beside the checkpoints or, of a run that had ended before, its LoRA file."""
    if (weights := load_best(run.state_folder, step)) is not None:
        return weights
    try:
        file = read_lora(run.lora_file)
    except UserError:
        return None
    return file.state if file.metadata.get("mapo.steps") == str(step) else None


def _agreement_at(run: Run, step: int) -> EvalResult | None:
    """The newest measurement up to that step, which may have been taken before the run was resumed."""
    evaluations = [event for event in run.events() if event["event"] == "evaluation" and event["step"] <= step]
    if not evaluations:
        return None
    # An older version wrote less of a measurement.
    names = [field.name for field in fields(EvalResult) if field.name in evaluations[-1]]
    return EvalResult(**{name: evaluations[-1][name] for name in names})


def _facts(run: Run, config: RunConfig, data: TrainingData, learner: Learner, result: Result) -> dict[str, object]:
    resolution = config.data.resolution or data.base.resolution
    facts: dict[str, object] = {
        "modelspec.title": run.name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "base": Path(config.base).name,
        "base_hash": data.base.identity(),
        "pairs": len(data.train),
        "pairs_hash": data.pair_set.fingerprint,
        "steps": result.step,
        "seed": config.training.seed,
        "learning_rate": config.optimization.learning_rate,
        "objective": config.objective.kind,
        "objective_knobs": str(learner.objective),
    }
    if config.objective.safeguard is not None:
        facts["safeguard"] = config.objective.safeguard
    if config.training.quantize != "none":
        facts["quantize"] = config.training.quantize
    if result.agreement:
        facts["agreement"] = round(result.agreement.agreement, 4)
        facts["agreement_pairs"] = result.agreement.pairs
    return facts

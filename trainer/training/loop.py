"""The training loop of one run, from judged pairs to a LoRA file: read `_train` from top to bottom, like a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..cancellation import Cancelled, StopRequest
from ..config.run_config import RunConfig
from ..device import release_memory
from ..distributed import SINGLE, World, explain_peer_error
from ..errors import DeviceOutOfMemory, UserError
from ..latents.encode import load_text
from ..preferences.statistics import data_facts
from ..runs.run_folder import Run
from .batches import BatchSettings, PairBatches, batches_by_step
from .checkpoint import TrainState, latest_step, load_checkpoint, prune_best
from .export import Result, export_lora, final_result
from .heldout_eval import EvalResult, HeldOut
from .hooks import Checkpoint, HeldoutEval, run_due
from .learner import Learner
from .metrics import StepMetrics
from .objectives import build_objective
from .oom_recovery import is_oom, oom_message, with_less_memory
from .prepare_data import TrainingData, prepare, split_pairs
from .temperature import calibrate
from .validation_images import ValidationImages


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after `step` of `steps` steps, with what was learned in the LoRA file `lora`.

    agreement: the last measurement on held-out pairs of what is in the file, None where there are none. best_step: the
    step whose weights these are. stopped_early: it is complete before the last step. message: for a person, about both.
    """

    step: int
    steps: int
    lora: Path
    agreement: EvalResult | None
    best_step: int
    stopped_early: bool = False
    message: str = ""

    @property
    def finished(self) -> bool:
        return self.stopped_early or self.step == self.steps


def train(run: Run, stop: StopRequest) -> Outcome:
    """Train `run` from its newest checkpoint, or from the start where it has none. For a report, listen for the end.

    Raises UserError for what a person can mend, Cancelled where it was asked to stop before the first step.
    """
    with run.locked(), stop.listening():
        return train_locked(run, stop)


def train_locked(run: Run, stop: StopRequest, world: World = SINGLE) -> Outcome:
    """`train`, for a process that holds the run's lock already and listens for `stop`.

    world: the processes that train it together; in all but the main one `run` writes nothing. After an out-of-memory
    error a run with `training.auto` is resumed with settings that need less.
    """
    while True:
        config = run.config().checked()
        try:
            return _train(run, config, stop, world)
        except Cancelled:
            run.log("stopped", step=0)
            raise
        except Exception as error:
            retry = _retry_config(config, error, world)
            if retry is None:
                explained = _explain(error, run, config, world)
                _log_failure(run, str(explained) or type(explained).__name__)
                if explained is error:
                    raise
                raise explained from error
        # Outside the handler: while the error lives, so does everything that filled the memory.
        release_memory(world.device(config.training.device))
        config, change = retry
        run.save_config(config)
        run.log("warning", text=f"the memory of the device was full; the run is resumed with less: {change}")


def _train(run: Run, config: RunConfig, stop: StopRequest, world: World) -> Outcome:
    steps, accumulation = config.training.steps, config.training.accumulation
    device = world.device(config.training.device)

    # Everything is encoded before the UNet is loaded, so that one model is on the device at a time.
    data = prepare(config, run.workspace, device, run.log, stop, world)
    learner = Learner(config, data.base, device, world)
    state = _resume(run, config, data, learner, world)
    if config.objective.calibrated:
        at = (data.train, data.timesteps)
        margin_scale = calibrate(run, config, learner, *at, device, begun=state.step > 0, world=world)
        learner.objective = build_objective(config.objective, margin_scale)

    batches, held_out = _batches(config, data), _held_out(config, data)
    scaled = learner.precision == "float16"
    metrics = StepMetrics(run, steps, every=config.watch.log_every, loss_scaling=scaled, world=world)
    evaluation = HeldoutEval(run, config, held_out, learner, device, world)
    images = ValidationImages(run, config, data, learner.unet, device, world)
    checkpoint = Checkpoint(run, config, learner, data.fingerprint, world, metrics.flush)
    _log_start(run, config, data, learner, batches, device)

    if state.step == 0:
        evaluation(state)
        images(state)
    # A run that had ended early takes no step more; it is only measured and exported again.
    last = state.step if evaluation.out_of_patience(state) else steps
    upcoming = batches_by_step(
        batches, accumulation, state.step, last, device, first=state.batches, rank=world.rank, size=world.size
    )
    with checkpoint.save_on_oom(state):
        metrics.restart()
        for micro_batches in upcoming:
            values = learner.train_step(state.step, micro_batches)  # forward, loss, backward, optimizer step
            learning_rate = learner.learning_rate(state.step)
            state.step += 1
            state.batches += accumulation * world.size
            metrics.add(state.step, values, learning_rate, micro_batches)
            if world.any(bool(stop)) or state.step == steps:
                break
            with metrics.paused():
                run_due((evaluation, images, checkpoint), state)
            if evaluation.out_of_patience(state):
                break

        metrics.flush()
        stopped_early = state.step < steps and evaluation.out_of_patience(state)
        finished = stopped_early or state.step == steps
        if finished and evaluation.every and not stopped_early:
            evaluation(state)
        checkpoint(state)
        if not world.is_main:
            return Outcome(state.step, steps, run.lora_file, None, state.step, stopped_early)
        result = final_result(run, config, state.history, state.step)
        if finished:
            with result.with_weights(learner.unet):
                images.generate(result.step)

    export_lora(run, config, data, learner, result)
    if finished:
        prune_best(run.state_folder)  # the LoRA file holds the best weights now
    return _log_end(run, config, state, result, stopped_early)


def _log_end(run: Run, config: RunConfig, state: TrainState, result: Result, stopped_early: bool) -> Outcome:
    early = _stopped_early_message(state.step, config) if stopped_early else ""
    message = " ".join(filter(None, [early, result.message]))
    outcome = Outcome(
        state.step,
        config.training.steps,
        run.lora_file,
        result.agreement,
        best_step=result.step,
        stopped_early=stopped_early,
        message=message,
    )
    run.log(
        "finished" if outcome.finished else "stopped",
        step=state.step,
        kept=outcome.best_step,
        early=outcome.stopped_early,
        said=outcome.message,
        lora=run.lora_file,
        report=run.report_file,
        agreement=result.agreement and result.agreement.agreement,
    )
    return outcome


def _resume(run: Run, config: RunConfig, data: TrainingData, learner: Learner, world: World) -> TrainState:
    """The state of the newest checkpoint, its tensors loaded into `learner`; a new one where there is none."""
    state, accumulation = TrainState(quantize=config.training.quantize), config.training.accumulation
    if checkpoint := load_checkpoint(
        run.state_folder, data.fingerprint, accumulation=accumulation, events=run.events()
    ):
        state, tensors = checkpoint
        learner.load_state_dict(tensors)
    world.assert_equal("states of the run", state.step)
    if run.has_begun():
        run.log("resumed", step=state.step)
    if state.quantize != config.training.quantize:
        run.log("warning", text=_stored_otherwise(state.quantize, config.training.quantize, state.step))
        state.quantize = config.training.quantize
    return state


def _retry_config(config: RunConfig, error: Exception, world: World) -> tuple[RunConfig, str] | None:
    """What a run with `training.auto` resumes with after `error`, and the change in words; None where it ends.

    Several processes end together.
    """
    may = config.training.auto and world.is_single and is_oom(error) and not isinstance(error, DeviceOutOfMemory)
    return with_less_memory(config) if may else None


def _log_failure(run: Run, error: str) -> None:
    with suppress(UserError):  # a full disk takes no event; what filled it is what must be heard of
        run.log("failed", error=error)


def _explain(error: Exception, run: Run, config: RunConfig, world: World) -> Exception:
    """What a person can mend in a sentence; anything else as it is."""
    if is_oom(error) and not isinstance(error, DeviceOutOfMemory):
        device = world.device(config.training.device)
        return oom_message(config, device, run.name, latest_step(run.state_folder))
    return explain_peer_error(error)


def _batches(config: RunConfig, data: TrainingData) -> PairBatches:
    return PairBatches(
        data.train,
        load_text(data.encoded.text("")),
        BatchSettings(
            batch_size=config.training.batch_size,
            timesteps=data.timesteps,
            seed=config.training.seed,
            flip=config.data.flip,
            caption_dropout=config.data.caption_dropout,
            rankings=config.training.rankings == "together",
        ),
    )


def _held_out(config: RunConfig, data: TrainingData) -> HeldOut:
    return HeldOut(
        data.held_out,
        timesteps=data.timesteps,
        levels=config.watch.evaluate_timesteps,
        batch_size=min(config.training.batch_size, config.training.pairs_at_once or config.training.batch_size),
        split=config.training.split_pair,
    )


def _stopped_early_message(step: int, config: RunConfig) -> str:
    return (
        f"The training ended early, after step {step} of {config.training.steps}: the last {config.watch.patience} "
        "measurements brought neither more agreement nor less error (`--patience`)."
    )


def _log_start(
    run: Run, config: RunConfig, data: TrainingData, learner: Learner, batches: PairBatches, device: torch.device
) -> None:
    for text in _warnings(config, data, learner):
        run.log("warning", text=text)
    run.log(
        "started",
        base=config.base,
        family=data.base.family,
        device=str(device),
        precision=learner.precision,
        pairs=len(data.train),
        held_out=len(data.held_out),
        assumed=sum(encoded.pair.assumed for encoded in data.train),
        rankings=len({encoded.pair.ranking for encoded in data.train} - {None}),
        left_out=[asdict(row) for row in data.pair_set.left_out],
        data=data_facts(config.data.pairs, run.workspace, split_pairs(data.pair_set, config)),
        steps=config.training.steps,
        batches_per_epoch=batches.per_epoch,
        objective=str(learner.objective),
        reused=data.encoded.reused,
        encoded=data.encoded.made,
        upscaled=data.encoded.upscaled,
    )


def _warnings(config: RunConfig, data: TrainingData, learner: Learner) -> Iterator[str]:
    yield from learner.fallbacks
    if data.base.distilled and config.training.timesteps == "auto":
        yield data.base.distilled.warning
    if not data.held_out:
        yield "no held-out pairs: agreement cannot be measured; collect pairs of more prompts, or raise --held-out"
    if upscaled := data.encoded.upscaled:
        named = ", ".join(upscaled[:5]) + (" ..." if len(upscaled) > 5 else "")
        yield f"{len(upscaled)} pictures are smaller than what they are trained at and were enlarged: {named}"


def _stored_otherwise(before: str, now: str, step: int) -> str:
    # Allowed: the LoRA and the optimizer's states fit whatever the base is stored as.
    return (
        f"the first {step} steps were taken with --quantize {before} and the rest with {now}: numbers and sample "
        "pictures from before and after differ a little by that alone"
    )

"""The training of one run, from judged pairs to a LoRA file: read `_train` top to bottom, like a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..cancellation import Cancelled, StopRequest
from ..config.run_config import RunConfig
from ..device import release_memory
from ..distributed import SINGLE, World, is_peer_lost
from ..errors import DeviceOutOfMemory, UserError
from ..latents.encode import load_text
from ..lora import adapter
from ..preferences.statistics import data_facts
from ..runs.run_folder import Run
from .batches import BatchSettings, PairBatches, batches_by_step
from .checkpoint import latest_step, load_state, prune_best, save_best, save_state
from .early_stopping import chosen_error_warning, moment_of, standing_of
from .export import result_of, tidy, write_result
from .heldout_eval import Agreement, HeldOut
from .learner import Learner
from .metrics import Meter
from .oom_recovery import is_oom, oom_message, with_less_memory
from .prepare_data import Material, divided, prepare
from .temperature import calibrate
from .validation_images import Samples


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after `step` of `steps` steps, with what was learned in the LoRA file `lora`.

    agreement: the last measurement on held-out pairs of what is in the file, None where there are none. kept: the step
    whose weights these are. early: it is complete before the last step. said: for a person, of those two.
    """

    step: int
    steps: int
    lora: Path
    agreement: Agreement | None
    kept: int
    early: bool = False
    said: str = ""

    @property
    def finished(self) -> bool:
        return self.early or self.step == self.steps


def train(run: Run, stop: StopRequest) -> Outcome:
    """Train `run` from its newest state, or from the start where it has none. Who wants a report listens for the end.

    Raises UserError for what a person can mend, Cancelled where it was asked to stop before the first step.
    """
    with run.alone(), stop.listening():
        return train_locked(run, stop)


def train_locked(run: Run, stop: StopRequest, world: World = SINGLE) -> Outcome:
    """`train`, for a process that holds the run's lock already and listens for `stop`.

    world: the processes that train it together; all but the first have a quiet `run` and leave the lock to that one.
    """
    while True:
        config = run.config().checked()
        try:
            with world.on_peer_error(lambda sentence: _last_words(run, sentence)):
                return _train(run, config, stop, world)
        except Cancelled:
            run.log("stopped", step=0)
            raise
        except Exception as error:
            less = _with_less(config, error, world)
            if less is None:
                explained = _explained(error, run, config, world)
                _last_words(run, str(explained) or type(explained).__name__)
                if explained is error:
                    raise
                raise explained from error
        # Outside the handler: while the error lives, so does everything that filled the memory.
        release_memory(world.device(config.training.device))
        run.save_config(less[0])
        run.log("warning", text=f"the memory of the device was full; it goes on with less: {less[1]}")


def _with_less(config: RunConfig, error: Exception, world: World) -> tuple[RunConfig, str] | None:
    """What a run that was told to goes on with after `error`; None where it ends. Several processes end together."""
    may = config.training.auto and world.is_single and is_oom(error) and not isinstance(error, DeviceOutOfMemory)
    return with_less_memory(config) if may else None


def _last_words(run: Run, error: str) -> None:
    with suppress(UserError):  # a full disk takes none; what filled it is what must be heard of
        run.log("failed", error=error)


def _explained(error: Exception, run: Run, config: RunConfig, world: World) -> Exception:
    """What a person can mend in a sentence; anything else as it is."""
    if is_oom(error) and not isinstance(error, DeviceOutOfMemory):
        device = world.device(config.training.device)
        return oom_message(config, device, run.name, latest_step(run.state_folder))
    if is_peer_lost(error):
        return UserError(
            "another process of this training ended without a word: what its launcher printed may say why; "
            "go on from the last state by `mapo resume`"
        )
    return error


def _train(run: Run, config: RunConfig, stop: StopRequest, world: World) -> Outcome:
    steps, watch = config.training.steps, config.watch
    device = world.device(config.training.device)

    # Everything is encoded before the UNet is loaded, so that one model is on the device at a time.
    material = prepare(config, run.workspace, device, run.log, stop, world)
    learner = Learner(config, material.base, device, world)
    start = taken = 0
    if state := load_state(run.state_folder, material.origin):
        learner.restore(state)
        start = state.step
        taken = start * config.training.accumulation if state.batches is None else state.batches
    world.assert_equal("states of the run", start)
    if run.has_begun():
        run.log("resumed", step=start)
    if state and state.quantize != config.training.quantize:
        run.log("warning", text=_stored_otherwise(state.quantize, config.training.quantize, start))
    if config.objective.calibrated:
        at = (material.train, material.timesteps)
        spread = calibrate(run, config, learner, *at, device, begun=start > 0, world=world)
        learner.objective = config.objective.build(spread)

    batches = _batches(config, material)
    held_out = _held_out(config, material)
    samples = Samples(run, config, material, device)
    meter = Meter(run, steps, loss_scaling=learner.precision == "float16", world=world)
    _log_start(run, config, material, learner, batches, device)

    (standing, *_) = world.all_gather([standing_of(run.events())])

    def measure(step: int) -> None:
        nonlocal standing
        if not len(held_out):
            return
        agreement = held_out.measure(learner.base, learner.unet, learner.objective, device, world)
        run.log("evaluation", step=step, **asdict(agreement))
        before, moment = standing, moment_of({"event": "evaluation", "step": step, **asdict(agreement)})
        if moment is None:
            return
        standing = before.after(moment)
        if world.is_main and watch.keep == "best" and standing.kept is moment:
            save_best(run.state_folder, step, adapter.state(learner.unet))
        if (rise := before.harm(moment)) and not _alarmed(run):
            text = chosen_error_warning(config.objective, *rise, moment.agreement)
            run.log("warning", kind="harm", step=step, text=text)

    def save(step: int) -> None:
        meter.read()  # raises on numbers that are not finite: such a state is never saved
        if world.is_main:
            save_state(run.state_folder, learner.state(step, material.origin, taken))
            prune_best(run.state_folder, but=standing.kept.step if standing.kept else None)
        run.log("checkpoint", step=step)

    def paint(step: int) -> None:
        if world.is_main:
            samples.paint(learner.unet, step)

    if start == 0:
        measure(0)
        paint(0)

    def exhausted() -> bool:
        return watch.evaluate_every > 0 and standing.exhausted(watch.patience)

    def save_so_far() -> None:
        if learner.between_steps and step > start and world.is_single:
            save(step)

    step = start
    meter.restart()
    stop_at = start if exhausted() else steps  # it ended early before, and is only looked at again
    ours = batches_by_step(
        batches, config.training.accumulation, start, stop_at, device, first=taken, rank=world.rank, size=world.size
    )
    with _saved_where_memory_ends(save_so_far):
        for micro_batches in ours:
            numbers = learner.learn(step, micro_batches)
            rate = learner.learning_rate(step)
            step, taken = step + 1, taken + config.training.accumulation * world.size
            meter.add(step, numbers, rate, micro_batches)
            if step % watch.log_every == 0 or step == start + 1:  # the first at once: a person waits for a sign of life
                meter.read()
            if world.any(bool(stop)) or step == steps:
                break
            with meter.paused():
                # The state comes last: a run killed in here measures and paints again when it goes on.
                if _due(step, watch.evaluate_every):
                    measure(step)
                if _due(step, watch.sample_every):
                    paint(step)
                if _due(step, watch.checkpoint_every):
                    save(step)
            if exhausted():
                break

        meter.read()
        early = step < steps and exhausted()
        finished = early or step == steps
        if finished and watch.evaluate_every and not early:
            measure(step)
        save(step)
        if not world.is_main:
            return Outcome(step, steps, run.lora_file, None, step, early)
        result = result_of(run, config, standing, step)
        if finished and watch.sample_every:
            with result.worn(learner.unet):
                paint(result.step)
    write_result(run, config, material, learner, result)
    if finished:
        tidy(run)
    said = " ".join(filter(None, [_ended_early(step, config) if early else "", result.said]))
    run.log(
        "finished" if finished else "stopped",
        step=step,
        kept=result.step,
        early=early,
        said=said,
        lora=run.lora_file,
        report=run.report_file,
        agreement=result.agreement and result.agreement.agreement,
    )
    return Outcome(step, steps, run.lora_file, result.agreement, result.step, early, said)


@contextmanager
def _saved_where_memory_ends(save: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_oom(error):
            save()
        raise


def _batches(config: RunConfig, material: Material) -> PairBatches:
    return PairBatches(
        material.train,
        load_text(material.encoded.text("")),
        BatchSettings(
            batch_size=config.training.batch_size,
            timesteps=material.timesteps,
            seed=config.training.seed,
            flip=config.data.flip,
            caption_dropout=config.data.caption_dropout,
            rankings=config.training.rankings == "together",
        ),
    )


def _held_out(config: RunConfig, material: Material) -> HeldOut:
    return HeldOut(
        material.held_out,
        timesteps=material.timesteps,
        levels=config.watch.evaluate_timesteps,
        batch_size=min(config.training.batch_size, config.training.pairs_at_once or config.training.batch_size),
        split=config.training.split_pair,
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _alarmed(run: Run) -> bool:
    return any(event["event"] == "warning" and event.get("kind") == "harm" for event in run.events())


def _ended_early(step: int, config: RunConfig) -> str:
    return (
        f"The training ended early, after step {step} of {config.training.steps}: the last {config.watch.patience} "
        "measurements brought neither more agreement nor less error (`--patience`)."
    )


def _log_start(
    run: Run, config: RunConfig, material: Material, learner: Learner, batches: PairBatches, device: torch.device
) -> None:
    for text in _warnings(config, material, learner):
        run.log("warning", text=text)
    run.log(
        "started",
        base=config.base,
        family=material.base.family,
        device=str(device),
        precision=learner.precision,
        pairs=len(material.train),
        held_out=len(material.held_out),
        assumed=sum(one.pair.assumed for one in material.train),
        rankings=len({one.pair.ranking for one in material.train} - {None}),
        left_out=[asdict(one) for one in material.pair_set.left_out],
        data=data_facts(config.data.pairs, run.workspace, divided(material.pair_set, config)),
        steps=config.training.steps,
        batches_per_epoch=batches.per_epoch,
        objective=str(learner.objective),
        reused=material.encoded.reused,
        encoded=material.encoded.made,
        upscaled=material.encoded.upscaled,
    )


def _warnings(config: RunConfig, material: Material, learner: Learner) -> Iterator[str]:
    yield from learner.notes
    if material.base.distilled and config.training.timesteps == "auto":
        yield material.base.distilled.warning
    if not material.held_out:
        yield "no held-out pairs: agreement cannot be measured; collect pairs of more prompts, or raise --held-out"
    if upscaled := material.encoded.upscaled:
        named = ", ".join(upscaled[:5]) + (" ..." if len(upscaled) > 5 else "")
        yield f"{len(upscaled)} pictures are smaller than what they are trained at and were enlarged: {named}"


def _stored_otherwise(before: str, now: str, step: int) -> str:
    # Allowed: the LoRA and the optimizer's states fit whatever the base is stored as.
    return (
        f"the first {step} steps were taken with --quantize {before} and the rest with {now}: numbers and sample "
        "pictures from before and after differ a little by that alone"
    )

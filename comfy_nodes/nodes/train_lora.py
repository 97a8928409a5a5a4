"""MaPO Train LoRA: a LoRA from a dataset of judged pairs, trained while the graph waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui
from PIL import Image

from ..comfy_api import base_models, dataset_names, host, lora_files, settings
from ..comfy_api.images import to_batch
from ..training import gpu_sharing, run_watcher, wait
from ..training.output import training_output
from ..training.run_list import page_phase

if TYPE_CHECKING:
    from ...trainer.jobs.find_run import RunHandle

_AUTOMATIC = "automatic"
_PRESETS = (_AUTOMATIC, "4 GB", "6 GB", "8 GB", "12 GB", "16 GB", "24 GB", "32 GB")
"""Written here too, as ComfyUI asks for them at its start; a test compares them with trainer/config/presets.py."""
_OBJECTIVES = ("mapo", "dpo", "sft", "dpo+sft")

_handed_on: set[Path] = set()
"""LoRA files that were handed on since ComfyUI's start."""


class TrainLoRA(io.ComfyNode):
    """Trains in a process of its own, and waits for it. What was trained already is not trained again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaPOTrainLoRA",
            display_name="MaPO Train LoRA",
            category="MaPO",
            description="Trains a LoRA on the pairs that you judged, so that a checkpoint paints more to your taste.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[*_inputs(), *map(_advanced, _advanced_inputs())],
            outputs=[
                io.String.Output("lora_path", display_name="lora_path", tooltip="The LoRA's file: for MaPO Load LoRA."),
                io.Image.Output("chart", display_name="chart", tooltip="Agreement with you, and loss, step by step."),
                io.Image.Output("samples", display_name="samples", tooltip="Base beside LoRA: same prompts and noise."),
                io.String.Output("report", display_name="report", tooltip="What it came to, in sentences."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, dataset: str | None = None, checkpoint: str | None = None, preset: str | None = None
    ) -> bool | str:
        # That they are named here turns off ComfyUI's look into its lists: a dataset may be made in the same prompt.
        return "choose a dataset" if dataset is not None and not dataset.strip() else True

    @classmethod
    def fingerprint_inputs(
        cls, dataset: str | None = None, checkpoint: str | None = None, continue_from: str | None = None, **_: Any
    ) -> str:
        """Another text when the judgements, the checkpoint or the LoRA to go on from are others, or a LoRA is gone."""
        gone = sorted(str(file) for file in _handed_on if not file.is_file())
        files = [
            _file_stamp(lambda: base_models.path_of(checkpoint or "")),
            _file_stamp(lambda: lora_files.resolve(continue_from or "") or ""),
        ]
        return str([_dataset_stamp(dataset), files, gone])

    @classmethod
    def execute(
        cls,
        dataset: str,
        checkpoint: str,
        preset: str,
        steps: int,
        rank: int,
        learning_rate: float,
        continue_from: str = "",
        **advanced: Any,
    ) -> io.NodeOutput:
        from ...trainer.jobs.find_run import find_or_start
        from ..training.request import TrainingRequest, config_of, paths_of

        request = TrainingRequest.of_node(
            dataset=dataset,
            checkpoint=checkpoint,
            preset=preset,
            steps=steps,
            rank=rank,
            learning_rate=learning_rate,
            continue_from=continue_from,
            **advanced,
        )
        store, device = settings.store(), gpu_sharing.training_device()
        config = config_of(store, request, paths_of(request), device)

        def prepare(state: str) -> None:
            from ...trainer.errors import UserError
            from ...trainer.services.training_proposal import preflight

            problems = preflight(store, config).problems if state == "new" else ()
            if problems:
                raise UserError(problems[0])
            if device.shared:
                host.free_memory()

        node = _NodeDisplay(cls.hidden.unique_id)
        handle = find_or_start(settings.workspace(), config, prepare)
        if handle.state != "finished":
            run_watcher.attend(handle.run)
            _wait(handle, node)
        return _answer(cls, handle, node)


class _NodeDisplay:
    """What is shown on the node, each thing once."""

    def __init__(self, node: str) -> None:
        self._node, self._bar = node, host.NodeProgress()
        self._line, self._samples, self._at = "", None, (-1, -1)

    def show(self, view: wait.RunView) -> None:
        new = view.samples if view.samples != self._samples else None
        if new or self._at != (view.done, view.total):
            self._bar.show(view.done, view.total, Image.open(new).convert("RGB") if new else None)
        self._samples, self._at = view.samples, (view.done, view.total)
        self.say(view.line)

    def say(self, line: str) -> None:
        if line != self._line:
            host.say(line, self._node)
        self._line = line

    def interrupted(self) -> bool:
        return host.take_interruption()


def _wait(handle: RunHandle, node: _NodeDisplay) -> None:
    """Until the run has finished. Raises ComfyUI's interruption where it was stopped, else UserError."""
    from ...trainer.errors import UserError

    ending = wait.watch(handle, node)
    if ending.status.phase == "finished" and not ending.given_up:
        return
    if ending.status.phase == "running":
        run_watcher.unattend(handle.run)
    sentence = wait.ended(handle.run, ending)
    host.tell_pages(
        "mapo.ended", {"name": handle.run.name, "phase": page_phase(ending.status.phase), "sentence": sentence}
    )
    node.say(sentence)
    if ending.given_up:
        raise host.interruption()
    raise UserError("\n\n".join(filter(None, (sentence, wait.log_tail(handle.run)))))


def _answer(node_class: type[io.ComfyNode], handle: RunHandle, node: _NodeDisplay) -> io.NodeOutput:
    lora = lora_files.install_folder() / Path(lora_files.install(handle.run)).name
    result = training_output(handle.run, lora)
    _handed_on.add(lora)
    line = result.report.splitlines()[0]
    if handle.state != "finished":
        host.tell_pages("mapo.ended", {"name": handle.run.name, "phase": "finished", "sentence": line})
    node.say(line)
    chart, samples = to_batch([result.chart]), to_batch([result.samples])
    shown = ui.PreviewImage(samples, cls=node_class).as_dict()
    return io.NodeOutput(str(lora), chart, samples, result.report, ui={**shown, "text": (line,)})


def _dataset_stamp(dataset: str | None) -> str:
    from ...trainer.errors import UserError
    from ...trainer.preferences.dataset_pairs import DatasetPairs

    if not dataset or not settings.workspace().is_dir():
        return ""
    try:
        return f"{settings.workspace()} {DatasetPairs(settings.store(), dataset).stamp()}"
    except UserError:  # reported when the node is executed
        return ""


def _file_stamp(locate: Callable[[], str]) -> str:
    """A file as it is now, by which another one of its name is noticed; a folder by its name."""
    from ...trainer.errors import UserError

    try:
        path = Path(locate())
        facts = path.stat() if path.is_file() else None
    except (UserError, OSError):  # reported when the node is executed
        return ""
    return f"{path} {facts.st_size} {facts.st_mtime_ns}" if facts else str(path)


def _inputs() -> list[io.Input]:
    return [
        io.Combo.Input("dataset", options=dataset_names.datasets(), tooltip="The pairs that you judged."),
        io.Combo.Input(
            "checkpoint",
            options=base_models.names(),
            tooltip="The SDXL or SD 1.5 model that the LoRA is for. It is read from its file: leave it unloaded.",
        ),
        io.Combo.Input(
            "preset",
            options=list(_PRESETS),
            default=_AUTOMATIC,
            tooltip="How much memory to use, by the card's. Automatic: by the card that is there.",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=100_000,
            tooltip="How long to train. 0: by the number of pairs, each is shown about ten times.",
        ),
        io.Int.Input(
            "rank",
            default=0,
            min=0,
            max=512,
            tooltip="How much the LoRA can hold. More learns by heart sooner. 0: 16.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=1e-5,
            round=False,
            tooltip="How far each step goes. 0: as proposed, 0.0001. Half of it if pictures get worse.",
        ),
        io.String.Input(
            "continue_from",
            default="",
            optional=True,
            tooltip="A LoRA to go on from: its name in ComfyUI's list, or its path. Empty: a new one.",
        ),
    ]


def _advanced_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "objective",
            options=list(_OBJECTIVES),
            default="mapo",
            optional=True,
            tooltip="What is optimized. mapo is what this is made for; the others are there to compare with.",
        ),
        _number(
            "push",
            8.0,
            1000.0,
            "mapo: how hard rejected pictures are pushed away. Lower it if pictures get worse while agreement rises.",
        ),
        _number(
            "margin_weight",
            0.0,
            100.0,
            "mapo: weight of the margin, in place of push. 0: so that the push is the same at every temperature.",
        ),
        _number(
            "temperature",
            0.0,
            100_000.0,
            "mapo: multiplies the margin. Higher: only near ties still push. 0: from your pairs.",
        ),
        _number("error_scale", 1.0, 100_000.0, "mapo: multiplies the errors before they are compared."),
        _number("beta", 2000.0, 1_000_000.0, "dpo, dpo+sft: strength of the pull towards the base."),
        _number("likelihood_weight", 1.0, 1000.0, "dpo+sft: weight of the likelihood beside DPO's term."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=False,
            optional=True,
            tooltip="All that is random follows from it. Another seed is another training.",
        ),
    ]


def _number(name: str, default: float, most: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=most, step=0.0005, round=False, optional=True, tooltip=tooltip
    )


def _advanced(one: io.Input) -> io.Input:
    """Shown where the person asks for more. Not every input takes this when it is made."""
    one.extra_dict = {**one.extra_dict, "advanced": True}
    return one


NODE = TrainLoRA

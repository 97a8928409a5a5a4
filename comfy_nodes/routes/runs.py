"""Routes of runs: list, plan, start, stop and resume trainings, and put their LoRAs into ComfyUI's list."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..comfy_api import base_models, host, lora_files, settings
from ..training import gpu_sharing, run_watcher
from ..training.gpu_sharing import TrainingDevice
from ..training.run_list import RunList
from . import http, judging

if TYPE_CHECKING:
    from ...trainer.config.run_config import RunConfig
    from ...trainer.runs.run_folder import Run

RUNS = RunList(lora_files.installed_name)


def run_routes() -> dict[tuple[str, str], http.Handler]:
    """(method, path) -> handler."""
    return {
        ("GET", "/mapo/state"): state,
        ("GET", "/mapo/runs"): runs,
        ("POST", "/mapo/runs/plan"): _with_config(_plan),
        ("POST", "/mapo/runs"): _with_config(_begin),
        ("POST", "/mapo/runs/{name}/stop"): _to_run(_stop),
        ("POST", "/mapo/runs/{name}/resume"): _to_run(_resume),
        ("POST", "/mapo/runs/{name}/install"): _to_run(lambda run: {"lora": lora_files.install(run)}),
    }


async def state(request: web.Request) -> web.StreamResponse:
    """What there is to judge and to train with."""
    person = judging.person(request)

    def look() -> dict[str, Any]:
        from ...trainer.config.presets import presets
        from ...trainer.errors import UserError
        from ...trainer.models.card_presets import preset_for

        try:
            device = gpu_sharing.training_device(request)
        except UserError:  # a missing device is reported where one is needed
            device = gpu_sharing.choose_device(gpu_sharing.this_host())
        preset = preset_for(device.memory)
        return {
            "workspace": str(settings.workspace()),
            "annotator": person(),
            "datasets": _datasets(person()),
            "checkpoints": base_models.names(),
            "presets": [{"name": each.name, "title": each.title, "about": each.about} for each in presets()],
            "preset": preset.name if preset else "",
            "shares_card": device.shared,
            "queue": len(host.prompts()),
        }

    return await http.reply(look)


async def runs(_: web.Request) -> web.StreamResponse:
    """All of the workspace's, the newest first."""
    return await http.reply(lambda: {"runs": [asdict(row) for row in RUNS.rows(settings.workspace())]})


def warn_of_sharing(graph: dict[str, Any]) -> None:
    """Tell the pages where what is queued will share the card with a training. Returns at once."""
    kinds = {node.get("class_type", "") for node in graph.values() if isinstance(node, dict)}
    if not gpu_sharing.pending_prompts({"": kinds}):
        return

    def look() -> None:
        from ...trainer.errors import UserError

        try:
            name = gpu_sharing.concurrent_training(settings.workspace(), gpu_sharing.this_host())
        except UserError:  # a damaged workspace or run is reported where somebody looks at it
            return
        if name:
            sentence = (
                f"{name} is being trained on the card that ComfyUI paints with. Both need its memory: until it has "
                "ended, painting may take long or fail."
            )
            host.tell_pages("mapo.shares", {"run": name, "sentence": sentence})

    threading.Thread(target=look, name="mapo-sharing", daemon=True).start()


def _with_config(answer: Callable[[RunConfig, str, TrainingDevice], Any]) -> http.Handler:
    """answer: (every setting of the training that is asked for, the preset's name, where it would be)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await http.body(request)

        def ask() -> Any:
            from ..training.request import TrainingRequest, config_of, paths_of

            wanted, device = TrainingRequest.model_validate_json(body), gpu_sharing.training_device(request)
            config = config_of(settings.store(), wanted, paths_of(wanted), device)
            return answer(config, wanted.preset, device)

        return await http.reply(ask)

    return handle


def _plan(config: RunConfig, preset: str, device: TrainingDevice) -> dict[str, Any]:
    from ...trainer.services.training_proposal import preflight

    checked = preflight(settings.store(), config)
    warning = None if checked.problems else _memory_warning(config.base, preset, device)
    return {
        "name": config.name,
        "steps": config.training.steps,
        "takes": [*checked.estimates, *([warning] if warning else [])],
        "problems": list(checked.problems),
    }


def _memory_warning(base: str, preset: str, device: TrainingDevice) -> str | None:
    from ...trainer.config.presets import AUTOMATIC, preset_named
    from ...trainer.models.card_presets import memory_warning, preset_for
    from ...trainer.models.open import family_at

    taken = preset_for(device.memory) if preset == AUTOMATIC else preset_named(preset)
    return memory_warning(taken, family_at(base), device.memory) if taken and base != base_models.TINY else None


def _begin(config: RunConfig, _: str, device: TrainingDevice) -> dict[str, Any]:
    from ...trainer.errors import UserError
    from ...trainer.jobs.job import start_training
    from ...trainer.services.training_proposal import preflight

    if problems := preflight(settings.store(), config).problems:
        raise UserError(problems[0])
    waits = _make_room() if device.shared else _wait_reason(frozenset())
    return {"name": start_training(settings.workspace(), config).name, "waits": waits}


def _stop(run: Run) -> dict[str, Any]:
    from ...trainer.errors import UserError
    from ...trainer.jobs.job import Job

    job = Job(run.folder)
    if not job.status().is_open:
        raise UserError(f"{run.name} is not at work")
    job.stop()
    return {"name": run.name}


def _resume(run: Run) -> dict[str, Any]:
    from ...trainer.errors import UserError
    from ...trainer.jobs.job import Job

    job = Job(run.folder)
    if not job.status().can_resume:
        raise UserError(f"{run.name} is at work already, or finished")
    shared = gpu_sharing.is_shared(gpu_sharing.this_host(), run.config().training.device)
    waits = _make_room() if shared else _wait_reason(frozenset())
    run_watcher.unattend(run)
    job.resume()
    return {"name": run.name, "waits": waits}


def _to_run(act: Callable[[Run], Any]) -> http.Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if await http.body(request) not in (b"", b"{}"):
            return http.refusal(422, "this request takes no body")
        name = request.match_info["name"]

        def find_and_act() -> Any:
            from ...trainer.errors import UserError
            from ...trainer.runs.run_folder import all_runs

            run = next((run for run in all_runs(settings.workspace()) if run.name == name), None)
            if run is None:
                raise UserError(f"there is no run named {name}")
            return act(run)

        return await http.reply(find_and_act)

    return handle


def _make_room() -> str:
    """Let what is started next wait until ComfyUI has generated and freed its memory. Says what it waits for."""
    prompts = gpu_sharing.pending_prompts(host.prompts())
    waits = _wait_reason(prompts)
    gpu_sharing.hold_gpu(
        settings.workspace(),
        lambda: not prompts.isdisjoint(host.prompts()),
        lambda: gpu_sharing.free_memory(host.ask_to_free_memory, host.is_asked_to_free_memory),
    )
    return waits


def _wait_reason(prompts: frozenset[str]) -> str:
    from ...trainer.jobs.gpu_queue import job_title, queued

    return gpu_sharing.wait_reason(prompts, tuple(job_title(one) for one in queued(settings.workspace())))


def _datasets(person: str) -> list[dict[str, Any]]:
    from ...trainer.preferences.datasets import list_datasets
    from ...trainer.preferences.statistics import statistics_of

    if not settings.workspace().is_dir():  # looking must not make a workspace
        return []
    with settings.store().reading() as session:
        known = [(one.name, statistics_of(session, one, person)) for one in list_datasets(session)]
    return [{"name": name, "judged": now.judged, "pairs": now.pairs, "waiting": now.waiting} for name, now in known]

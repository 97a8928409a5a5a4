"""How does the page see, plan, begin and stop trainings, and put their LoRAs into ComfyUI's list?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import bases, host, installing, judging, machine, replies, sharing, watching, workspace
from .run_list import RunList

if TYPE_CHECKING:
    from ..trainer.config import RunConfig
    from ..trainer.runs import Run

RUNS = RunList(installing.listed)


def run_routes() -> dict[tuple[str, str], replies.Handler]:
    """(method, path) -> handler."""
    return {
        ("GET", "/mapo/state"): state,
        ("GET", "/mapo/runs"): runs,
        ("POST", "/mapo/runs/plan"): _asked_for(_plan),
        ("POST", "/mapo/runs"): _asked_for(_begin),
        ("POST", "/mapo/runs/{name}/stop"): _to_run(_stop),
        ("POST", "/mapo/runs/{name}/resume"): _to_run(_resume),
        ("POST", "/mapo/runs/{name}/install"): _to_run(lambda run: {"lora": installing.install(run)}),
    }


async def state(request: web.Request) -> web.StreamResponse:
    """What there is to judge and to train with."""
    person = judging.person(request)

    def look() -> dict[str, Any]:
        from ..trainer.errors import UserError
        from ..trainer.presets import preset_for, presets

        try:
            place = machine.place(request)
        except UserError:  # a device that is not there is told of where one is needed
            place = sharing.place_of(machine.machine())
        preset = preset_for(place.memory)
        return {
            "workspace": str(workspace.workspace()),
            "annotator": person(),
            "datasets": _datasets(person()),
            "checkpoints": bases.names(),
            "presets": [{"name": one.name, "title": one.title, "about": one.about} for one in presets()],
            "preset": preset.name if preset else "",
            "shares_card": place.shared,
            "queue": len(host.prompts()),
        }

    return await replies.reply(look)


async def runs(_: web.Request) -> web.StreamResponse:
    """All of the workspace's, the newest first."""
    return await replies.reply(lambda: {"runs": [asdict(row) for row in RUNS.rows(workspace.workspace())]})


def tell_of_sharing(graph: dict[str, Any]) -> None:
    """Tell the pages where what is queued will share the card with a training. Returns at once."""
    kinds = {node.get("class_type", "") for node in graph.values() if isinstance(node, dict)}
    if not sharing.ahead({"": kinds}):
        return

    def look() -> None:
        from ..trainer.errors import UserError

        try:
            name = sharing.training_beside(workspace.workspace(), machine.machine())
        except UserError:  # a workspace or a run that cannot be read is told of where somebody looks at it
            return
        if name:
            said = (
                f"{name} is being trained on the card that ComfyUI paints with. Both need its memory: until it has "
                "ended, painting may take long or fail."
            )
            host.tell_pages("mapo.shares", {"run": name, "sentence": said})

    threading.Thread(target=look, name="mapo-sharing", daemon=True).start()


def _asked_for(answer: Callable[[RunConfig, str, sharing.Place], Any]) -> replies.Handler:
    """answer: (every setting of the training that is asked for, the preset's name, where it would be)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        said = await replies.body(request)

        def ask() -> Any:
            from .run_requests import TrainingAsked
            from .training_inputs import Asked, config_of

            asked, place = TrainingAsked.model_validate_json(said), machine.place(request)
            base = bases.path_of(asked.checkpoint)
            config = config_of(
                workspace.store(),
                Asked(
                    **asked.model_dump(exclude={"checkpoint"}),
                    base=base,
                    tokenizers=bases.tokenizers_of(base),
                    memory=place.memory,
                    loras=installing.folder(),
                ),
            )
            training = config.training.model_copy(update={"device": place.device})
            return answer(config.model_copy(update={"training": training}), asked.preset, place)

        return await replies.reply(ask)

    return handle


def _plan(config: RunConfig, preset: str, place: sharing.Place) -> dict[str, Any]:
    from ..trainer.proposal import needs

    found = needs(workspace.store(), config)
    doubt = None if found.problems else _doubt(config.base, preset, place)
    return {
        "name": config.name,
        "steps": config.training.steps,
        "takes": [*found.takes, *([doubt] if doubt else [])],
        "problems": list(found.problems),
    }


def _doubt(base: str, preset: str, place: sharing.Place) -> str | None:
    from ..trainer.families.opening import family_at
    from ..trainer.presets import AUTOMATIC, doubt, preset_for, preset_named

    taken = preset_for(place.memory) if preset == AUTOMATIC else preset_named(preset)
    return doubt(taken, family_at(base), place.memory) if taken and base != bases.TINY else None


def _begin(config: RunConfig, _: str, place: sharing.Place) -> dict[str, Any]:
    from ..trainer import jobs
    from ..trainer.errors import UserError
    from ..trainer.proposal import needs

    if problems := needs(workspace.store(), config).problems:
        raise UserError(problems[0])
    waits = _make_room() if place.shared else _what_waits(frozenset())
    return {"name": jobs.start(workspace.workspace(), config).name, "waits": waits}


def _stop(run: Run) -> dict[str, Any]:
    from ..trainer import jobs
    from ..trainer.errors import UserError

    if jobs.status(run).phase not in ("waiting", "running"):
        raise UserError(f"{run.name} is not at work")
    jobs.stop(run)
    return {"name": run.name}


def _resume(run: Run) -> dict[str, Any]:
    from ..trainer import jobs
    from ..trainer.errors import UserError

    if jobs.status(run).phase not in ("stopped", "failed", "died"):
        raise UserError(f"{run.name} is at work already, or finished")
    shared = sharing.uses(machine.machine(), run.config().training.device)
    waits = _make_room() if shared else _what_waits(frozenset())
    watching.unattend(run)
    jobs.resume(run)
    return {"name": run.name, "waits": waits}


def _to_run(act: Callable[[Run], Any]) -> replies.Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if await replies.body(request) not in (b"", b"{}"):
            return replies.refusal(422, "nothing is to be said with this request")
        name = request.match_info["name"]

        def find_and_act() -> Any:
            from ..trainer.errors import UserError
            from ..trainer.runs import all_runs

            run = next((run for run in all_runs(workspace.workspace()) if run.name == name), None)
            if run is None:
                raise UserError(f"there is no run named {name}")
            return act(run)

        return await replies.reply(find_and_act)

    return handle


def _make_room() -> str:
    """Let what is started next wait until ComfyUI has painted and freed its memory. Says what it waits for."""
    prompts = sharing.ahead(host.prompts())
    waits = _what_waits(prompts)
    sharing.hold_line(
        workspace.workspace(),
        lambda: not prompts.isdisjoint(host.prompts()),
        lambda: sharing.free(host.ask_to_free_memory, host.is_asked_to_free_memory),
    )
    return waits


def _what_waits(prompts: frozenset[str]) -> str:
    from ..trainer.turns import in_words, line_of

    return sharing.what_waits(prompts, tuple(in_words(one) for one in line_of(workspace.workspace())))


def _datasets(person: str) -> list[dict[str, Any]]:
    from ..trainer.preferences.collecting import list_datasets
    from ..trainer.preferences.statistics import statistics_of

    if not workspace.workspace().is_dir():  # looking must not make a workspace
        return []
    with workspace.store().reading() as session:
        said = [(one.name, statistics_of(session, one, person)) for one in list_datasets(session)]
    return [{"name": name, "judged": now.judged, "pairs": now.pairs, "waiting": now.waiting} for name, now in said]

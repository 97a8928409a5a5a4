"""Host: all that is used of ComfyUI's inside, so that another version of it can break this file only."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from aiohttp import web
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer

_PREVIEW_SIDE = 768

SETTINGS = ("MaPO.Workspace", "MaPO.Annotator", "MaPO.TrainingDevice")


def user_folder() -> Path:
    """Where ComfyUI keeps what belongs to its user; not what it serves to the page."""
    return Path(folder_paths.get_user_directory())


def settings(request: web.Request | None = None) -> dict[str, Any]:
    """The settings of who asks, as ComfyUI's settings dialog keeps them; without a request, of the default user."""
    if request is not None:
        return PromptServer.instance.user_manager.settings.get_settings(request)
    try:
        kept = json.loads((user_folder() / "default" / "comfy.settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none was changed yet
        return {}
    return kept if isinstance(kept, dict) else {}


def executing() -> tuple[str, str]:
    """(id of the prompt, id of the node) that is executed just now."""
    context = get_executing_context()
    return (context.prompt_id, context.node_id) if context else ("", "")


def executing_item() -> tuple[str, str, int]:
    """As `executing`, and which item of a list it is executed for."""
    context = get_executing_context()
    return (*executing(), (context.list_index or 0) if context else 0)


def queued_by() -> str | None:
    """The page that queued what is executed just now; None where a program did without naming itself."""
    return PromptServer.instance.client_id


def pages() -> set[str]:
    """The pages that are connected."""
    return set(PromptServer.instance.sockets)


def tell_pages(event: str, data: dict[str, Any], page: str | None = None) -> None:
    """Send `event` to one page, or to all. May be called from any thread."""
    PromptServer.instance.send_sync(event, data, page)


def say(text: str, node: str) -> None:
    """Show a line of text on a node."""
    PromptServer.instance.send_progress_text(text, node)


def add_route(method: str, path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Serve `path`, of aiohttp's kind, below ComfyUI's own address."""
    PromptServer.instance.routes.route(method, path)(handler)


def when_serving(act: Callable[[], None]) -> None:
    """Call `act` when ComfyUI has started and begins to answer."""

    async def serving(_: web.Application) -> None:
        act()

    PromptServer.instance.app.on_startup.append(serving)


def is_interrupted() -> bool:
    """Whether the person asked to stop what is executed."""
    return comfy.model_management.processing_interrupted()


def stop_if_interrupted() -> None:
    """Raises what ComfyUI takes for an interruption, if there was one."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def interruption() -> Exception:
    """To be raised where a person gave up what is executed: ComfyUI ends the prompt without calling it an error."""
    return comfy.model_management.InterruptProcessingException()


def take_interruption() -> bool:
    """Whether the person asked to stop since this was last asked: it is this caller who stops."""
    interrupted = is_interrupted()
    if interrupted:
        comfy.model_management.interrupt_current_processing(False)
    return interrupted


class NodeProgress:
    """The bar of the node that is executed just now, with a picture below it."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)

    def show(self, done: int, total: int, picture: Image.Image | None = None) -> None:
        """picture: stays until the next one; it is shown as JPEG, and smaller where it is large."""
        preview = ("JPEG", picture, _PREVIEW_SIDE) if picture else None
        try:
            self._bar.update_absolute(done, max(total, 1), preview)
        except comfy.model_management.InterruptProcessingException:
            # It noticed an interruption, and so forgot it: that is for whoever asks for one.
            comfy.model_management.interrupt_current_processing(True)


def blocked() -> Any:
    """An output that lets nothing after it be executed, without an error."""
    return ExecutionBlocker(None)


def free_memory() -> None:
    """Take every model off the device."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def files_of(kind: str) -> list[str]:
    """Names of the models of a kind ("checkpoints", "loras"), as ComfyUI's loaders list them."""
    return folder_paths.get_filename_list(kind)


def file_of(kind: str, name: str) -> Path | None:
    """Where the model of that name is; None where there is none, or where it would be outside of the folders."""
    path = folder_paths.get_full_path(kind, name)
    return Path(path) if path else None


def folders_of(kind: str) -> list[Path]:
    """The folders that models of a kind are in, the first being the one to write to."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def diffusers_folders() -> dict[str, Path]:
    """The models in diffusers' layout: name, as ComfyUI's loader of them has it -> folder."""
    models: dict[str, Path] = {}
    for parent in folders_of("diffusers"):
        for folder, _, files in os.walk(parent, followlinks=True):
            if "model_index.json" in files:
                models.setdefault(os.path.relpath(folder, parent), Path(folder))
    return dict(sorted(models.items()))


def clip_tokenizer() -> Path:
    """The folder with CLIP's vocabulary that ComfyUI brings."""
    return Path(comfy.utils.__file__).with_name("sd1_tokenizer")


def own_device() -> str:
    """What ComfyUI computes on, as torch names it: "cuda:0", "mps", "cpu"."""
    return str(comfy.model_management.get_torch_device())


def prompts() -> dict[str, set[str]]:
    """What executes or waits in the queue: id of the prompt -> ids of the kinds of its nodes."""
    executing, waiting = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return {
        item[1]: {node.get("class_type", "") for node in item[2].values() if isinstance(node, dict)}
        for item in (*executing, *waiting)
    }


def ask_to_free_memory() -> None:
    """Have the models taken off the device by the thread that generates, after what it executes now. May be called from
    any thread."""
    PromptServer.instance.prompt_queue.set_flag("unload_models", True)


def is_asked_to_free_memory() -> bool:
    """Whether that has not been begun yet."""
    return "unload_models" in PromptServer.instance.prompt_queue.get_flags(reset=False)


def when_prompted(act: Callable[[dict[str, Any]], None]) -> None:
    """Call `act` with each graph that is queued. On the event loop: it must not wait."""

    def on_prompt(request: dict[str, Any]) -> dict[str, Any]:
        graph = request.get("prompt")
        if isinstance(graph, dict):
            act(graph)
        return request

    PromptServer.instance.add_on_prompt_handler(on_prompt)

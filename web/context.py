"""Page context: the workspace and the parts of the page that every tab of the studio is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from ..trainer.preferences.datasets import list_datasets
from .components.model_choices import Choice, base_choices, lora_choices
from .server.preferences_file import SettingsFile

if TYPE_CHECKING:
    from ..trainer.preferences.store import Store

TABS = ("collect", "judge", "train", "compare", "library")
"""The ids of the tabs, in order: an event that returns `gr.Tabs(selected="judge")` to `context.tabs` goes there."""


@dataclass(frozen=True)
class PageContext:
    """One workspace, and the parts of the page that all tabs share. Nothing in it belongs to one browser or person.

    workspace: absolute. settings: `settings.read()` gives them as they are now. allowed_roots: the folders of this
    machine, absolute and resolved, that the page may read pictures from. page: `page.load` fires when a browser opens
    it. dataset: the picker in the header; its value is the name of the dataset that all tabs work on, or None, and
    `dataset.change` fires for another. tabs: see TABS. continued: None, or what the next training goes on from, as
    {"base": ..., "lora": ...}: the library sets it, Train takes it.
    """

    workspace: Path
    store: Store
    settings: SettingsFile
    allowed_roots: tuple[Path, ...]
    page: gr.Blocks
    dataset: gr.Dropdown
    tabs: gr.Tabs
    continued: gr.State

    def annotator_of(self, request: gr.Request | None) -> str:
        """Whose judgements and images these are: the person who logged in, else the name in the settings."""
        return getattr(request, "username", None) or self.settings.read().annotator

    def bases(self) -> list[Choice]:
        """Choices of a dropdown (with allow_custom_value) of base models: (shown, what a config's `base` takes)."""
        return base_choices(self.settings.read())

    def loras(self) -> list[Choice]:
        """Choices of a dropdown (with allow_custom_value) of LoRA files: (shown, path)."""
        return lora_choices(self.workspace, self.settings.read())

    def picker(self, chosen: str | None = None) -> gr.Dropdown:
        """The update of `dataset` after datasets were added: all that are there now, with `chosen` selected."""
        with self.store.reading() as session:
            names = [dataset.name for dataset in list_datasets(session)]
        if chosen is None:
            return gr.Dropdown(choices=names)
        return gr.Dropdown(choices=names, value=chosen if chosen in names else None)

"""Comparison viewer: an unblinded pair under a slider, the LoRA's image to the right of its handle."""

from __future__ import annotations

import html
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from ...trainer.errors import UserError
from ...trainer.evaluation.comparison import ComparisonPair, comparison_info, comparison_pairs
from ...trainer.preferences.datasets import find_dataset
from ...trainer.preferences.images import image_path
from ..context import PageContext
from ..server.errors import show_errors

_SMALLEST_SIDE = 512
"""Smaller pictures are enlarged by a whole factor, pixels square: the slider would blur them."""
_QUIET = {"show_progress": "hidden"}


@dataclass(frozen=True)
class ComparisonViewer:
    """A panel to unblind; `of` holds the name of the comparison that it shows, empty for none."""

    panel: gr.Column
    of: gr.State


def comparison_viewer(context: PageContext) -> ComparisonViewer:
    """One pair at a time, the other picture to the left of a handle and the LoRA's to its right."""
    of = gr.State("")
    with gr.Column(visible=False) as panel:
        with gr.Row(elem_id="look-row"):
            number = gr.Slider(1, 2, value=1, step=1, label="Pair", scale=3)
            back = gr.Button("Back", size="sm", scale=0, min_width=80)
            on = gr.Button("Next", size="sm", scale=0, min_width=80)
        caption = gr.HTML("", elem_classes="look-caption")
        slider = gr.ImageSlider(
            show_label=False, interactive=False, height="calc(100dvh - 260px)", max_height=2000, elem_id="look"
        )
    view = [number, caption, slider]

    @show_errors
    def show(name: str, number: float):
        if not name:
            return gr.Slider(value=1), "", None
        with context.store.reading() as session:
            comparison = find_dataset(session, name)
            other, pairs = comparison_info(comparison).other, comparison_pairs(session, comparison)
        if not pairs:
            raise UserError(f"no pair of {name} is generated yet")
        index = min(max(int(number), 1), len(pairs))
        duel = pairs[index - 1]
        pictures = tuple(_shown(context, picture) for picture in (duel.other, duel.lora))
        return gr.Slider(maximum=max(2, len(pairs)), value=index), _caption(duel, other), pictures

    of.change(lambda name: show(name, 1), of, view, **_QUIET)
    number.release(show, [of, number], view, **_QUIET)
    back.click(lambda name, at: show(name, at - 1), [of, number], view, **_QUIET)
    on.click(lambda name, at: show(name, at + 1), [of, number], view, **_QUIET)
    return ComparisonViewer(panel, of)


def _caption(duel: ComparisonPair, other: str) -> str:
    if duel.votes is None:
        chosen = "not decided"
    elif duel.votes == 0.5:
        chosen = "a tie"
    else:
        chosen = "chosen: the LoRA" if duel.votes > 0.5 else f"chosen: {other}"
    parts = (f"left: {other}", "right: the LoRA", chosen)
    return f"<p>{html.escape(duel.prompt)}</p><p>{html.escape(' · '.join(parts))}</p>"


def _shown(context: PageContext, picture) -> Image.Image:
    with Image.open(image_path(context.store, picture)) as opened:
        image = opened.convert("RGB")
    factor = _SMALLEST_SIDE // max(image.size)
    if factor < 2:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)

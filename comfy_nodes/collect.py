"""Collecting: images that a graph generated become candidates of a dataset, paired to be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .comfy_api import settings
from .comfy_api.graph import Graph
from .comfy_api.images import image_metadata, to_png

if TYPE_CHECKING:
    import torch

    from ..trainer.preferences.queue import ImageInfo


@dataclass(frozen=True)
class Collected:
    """prompt: its number; text: as it is kept. pictures: one for each image, in their order.

    pair: the number of their pair where they are two; None otherwise. new: pairs made besides that one.
    waiting: pairs of the dataset that the person can judge.
    """

    prompt: int
    text: str
    pictures: tuple[ImageInfo, ...]
    pair: int | None
    new: int
    waiting: int


def collect(images: torch.Tensor, graph: Graph, dataset: str, prompt: str, paired: bool = False) -> Collected:
    """Store images of one prompt, (images, height, width, 3), and pair them as far as their judging is worth it.

    prompt: what they show; empty: as `graph`, which generated them, says. paired: where they are two, these two become
    a pair whatever else the prompt has. Raises UserError where there is no prompt to be found, or the disk is full.
    """
    from ..trainer.errors import UserError
    from ..trainer.preferences import datasets
    from ..trainer.preferences.images import image_records, store_image
    from ..trainer.preferences.queue import ImageInfo, waiting_pairs

    graph_prompt, metadata = image_metadata(graph, "ComfyUI")
    text = prompt.strip() or graph_prompt
    if not text:
        raise UserError("no prompt is found in the graph: write into the node what the pictures show")
    store = settings.store()
    files = [store_image(store, to_png(image, graph), "a picture of the graph") for image in images]
    with store.writing() as session:
        into = datasets.find_or_create(session, dataset)
        prompt_row = datasets.add_prompt(session, into, text)
        rows = image_records(session, [(file, metadata) for file in files])
        datasets.add_candidates(session, prompt_row, rows.values())
        pair = (
            datasets.pairs_between(session, prompt_row, [tuple(rows.values())])[0]
            if paired and len(rows) == 2
            else None
        )
        new = datasets.spread_pairs(session, prompt_row)
        infos = [ImageInfo(file.sha256, file.width, file.height, file.ending) for file in files]
        waiting = waiting_pairs(session, into, settings.annotator())
        return Collected(prompt_row.id, prompt_row.text, tuple(infos), pair.id if pair else None, new, waiting)

"""MaPO Collect: generated images become candidates to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..collect import collect
from ..comfy_api import dataset_names, host
from ..comfy_api.graph import upstream_graph

if TYPE_CHECKING:
    import torch


class Collect(io.ComfyNode):
    """Files pictures in a dataset and passes them on. What it did not know yet is paired and waits to be judged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaPOCollect",
            display_name="MaPO Collect",
            category="MaPO",
            description="Keeps pictures in a dataset, to be judged in pairs of the same prompt. Passes them on.",
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of one prompt: any two become a pair."),
                io.String.Input(
                    "dataset", default="my taste", tooltip="Where they are kept. A new name makes a new dataset."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What they show. Empty: the text of the positive prompt that they were painted with.",
                ),
            ],
            outputs=[
                io.Image.Output("images_out", display_name="images", tooltip="The same pictures."),
                io.Int.Output("waiting", display_name="waiting", tooltip="Pairs that you can judge now."),
            ],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, dataset: str, prompt: str) -> io.NodeOutput:
        graph = upstream_graph(cls.hidden.prompt or {}, cls.hidden.unique_id, "images")
        kept = collect(images, graph, dataset, prompt)
        dataset_names.refresh()
        new, waiting = kept.new, kept.waiting
        different = len(set(kept.pictures))
        line = f"{different} kept, {new} new {'pair' if new == 1 else 'pairs'}, {waiting} to judge"
        host.say(line, cls.hidden.unique_id)
        host.tell_pages("mapo.collected", {"dataset": dataset, "new": new, "waiting": waiting})
        return io.NodeOutput(images, waiting, ui={"text": (line,)})


NODE = Collect

"""MaPO Collect: pictures that are painted become candidates to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import choices, host, pictures, workspace

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
        graph = pictures.before(cls.hidden.prompt or {}, cls.hidden.unique_id, "images")
        kept, new, waiting = collect(images, graph, dataset, prompt)
        choices.look_again()
        line = f"{kept} kept, {new} new {'pair' if new == 1 else 'pairs'}, {waiting} to judge"
        host.say(line, cls.hidden.unique_id)
        host.tell_pages("mapo.collected", {"dataset": dataset, "new": new, "waiting": waiting})
        return io.NodeOutput(images, waiting, ui={"text": (line,)})


def collect(images: torch.Tensor, graph: pictures.Graph, dataset: str, prompt: str) -> tuple[int, int, int]:
    """(pictures kept, pairs that are new, pairs that wait). images: (pictures, height, width, 3) of one prompt.

    Raises UserError where there is no prompt to be found, or the disk is full.
    """
    from ...trainer.errors import UserError
    from ...trainer.preferences import collecting
    from ...trainer.preferences.picture_store import keep_file, pictures_of
    from ...trainer.preferences.queue import waiting_pairs

    found, known = pictures.about(graph, "ComfyUI")
    text = prompt.strip() or found
    if not text:
        raise UserError("no prompt is found in the graph: write into the node what the pictures show")
    store = workspace.store()
    files = [keep_file(store, pictures.as_png(one, graph), "a picture of the graph") for one in images]
    with store.writing() as session:
        into = collecting.find_or_create(session, dataset)
        wanted = collecting.add_prompt(session, into, text)
        rows = pictures_of(session, [(file, known) for file in files])
        collecting.add_candidates(session, wanted, rows.values())
        new = collecting.spread_pairs(session, wanted)
        return len(rows), new, waiting_pairs(session, into, workspace.annotator())


NODE = Collect

"""MaPO Compare: two batches, of the base and of a LoRA, are judged blind on the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..comfy_api.graph import upstream_graph
from ..comparisons import compare, newest_answer

if TYPE_CHECKING:
    import torch


class Compare(io.ComfyNode):
    """Keeps the pairs and waits for nobody: what is put out is what the answers say when the graph is queued."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaPOCompare",
            display_name="MaPO Compare",
            category="MaPO",
            description="Is the LoRA better? Judge its pictures blind against the base's, then look at both.",
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Image.Input("base", tooltip="Pictures without the LoRA."),
                io.Image.Input("lora", tooltip="The same prompt and seeds with the LoRA: as many, in the same order."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Of the comparison. Empty: by the LoRA. Whatever is compared under one name adds up, "
                    "so it takes one LoRA at one strength.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What they show. Empty: the text of the positive prompt that base was painted with.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "win_rate",
                    display_name="win_rate",
                    tooltip="Share of your answers that are for the LoRA, ties counting half.",
                ),
                io.Float.Output("low", display_name="low", tooltip="The share is not below this (95 % sure)."),
                io.Float.Output("high", display_name="high", tooltip="The share is not above this (95 % sure)."),
                io.String.Output("result", display_name="result", tooltip="What that means, in words."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        """Queued again after more answers, this node alone is executed anew."""
        return newest_answer()

    @classmethod
    def execute(cls, base: torch.Tensor, lora: torch.Tensor, name: str, prompt: str) -> io.NodeOutput:
        graphs = (upstream_graph(cls.hidden.prompt or {}, cls.hidden.unique_id, side) for side in ("base", "lora"))
        done = compare(base, lora, *graphs, name, prompt)
        rate, left_out = done.standing.rate, f", {done.alike} left out as both are the same" if done.alike else ""
        line = f"{done.name}: {done.sentence}{left_out}"
        shown = {"text": (line,), "mapo_comparison": (done.name,), "mapo_alike": (done.alike,)}
        return io.NodeOutput(rate.share, rate.low, rate.high, done.sentence, ui=shown)


NODE = Compare

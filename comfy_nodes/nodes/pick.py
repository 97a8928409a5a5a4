"""MaPO Pick: the graph waits until a person chooses the better image, and goes on with it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..collect import Collected, collect
from ..comfy_api import dataset_names, host
from ..comfy_api.graph import upstream_graph
from ..picks import PICKS, HostState, Outcome, Question

if TYPE_CHECKING:
    import torch

PATIENCE_SECONDS = 30.0
"""Seconds without any page after which a prompt that no person queued is not waited for."""
_MOST = 9  # keys 1 to 9
_random = random.SystemRandom()


class Pick(io.ComfyNode):
    """Asks the person who queued the prompt; files the pictures and the judgement in a dataset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaPOPick",
            display_name="MaPO Pick",
            category="MaPO",
            description="Shows you pictures and waits; the graph goes on with the one you choose. Keeps the judgement.",
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "images", tooltip="A batch of two pictures to choose from, or of up to nine to find the best of."
                ),
                io.String.Input(
                    "dataset",
                    default="my taste",
                    tooltip="Where pictures and judgement are kept. A new name makes a new dataset.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What they show. Empty: the text of the positive prompt that they were painted with.",
                ),
                io.Int.Input(
                    "wait", default=0, min=0, max=86_400, tooltip="Seconds to wait for you. 0: as long as it takes."
                ),
                io.Combo.Input(
                    "without_answer",
                    options=["skip", "first", "stop"],
                    default="skip",
                    tooltip="When the time is over. skip: nothing goes on. first: the first picture. stop: an error.",
                ),
            ],
            outputs=[
                io.Image.Output("chosen", display_name="chosen", tooltip="The better picture; of several, the best."),
                io.Image.Output("rejected", display_name="rejected", tooltip="The other one; of several, a worst."),
                io.String.Output(
                    "answer",
                    display_name="answer",
                    tooltip="left or right (as shown), ranking, tie, both_bad, skip; first where nobody answered.",
                ),
            ],
        )

    @classmethod
    async def execute(
        cls, images: torch.Tensor, dataset: str, prompt: str, wait: int, without_answer: str
    ) -> io.NodeOutput:
        _check(len(images))
        graph = upstream_graph(cls.hidden.prompt or {}, cls.hidden.unique_id, "images")
        kept = await asyncio.to_thread(collect, images, graph, dataset, prompt, paired=True)
        dataset_names.refresh()
        host.tell_pages("mapo.collected", {"dataset": dataset, "new": kept.new, "waiting": kept.waiting})
        question = _question(kept, dataset, wait, without_answer)
        host.say("waits for your pick", question.node)
        host_state = HostState(host.is_interrupted, host.pages, host.tell_pages, PATIENCE_SECONDS)
        outcome = _resolve(await PICKS.ask(question, host_state), question)
        host.say(_line(outcome), question.node)
        at = {image.sha256: index for index, image in reversed(list(enumerate(kept.pictures)))}
        chosen, rejected = (
            host.blocked() if name is None else images[at[name] : at[name] + 1]
            for name in (outcome.chosen, outcome.rejected)
        )
        return io.NodeOutput(chosen, rejected, outcome.answer, ui={"text": (_line(outcome),)})


def _check(count: int) -> None:
    from ...trainer.errors import UserError

    if not 2 <= count <= _MOST:
        have = "1 picture" if count == 1 else f"{count} pictures"
        raise UserError(
            f"MaPO Pick got {have}, and takes 2 to {_MOST} in one batch: change the batch size, or batch them"
        )


def _question(kept: Collected, dataset: str, wait: int, on_timeout: str) -> Question:
    from ...trainer.errors import UserError

    different = tuple(dict.fromkeys(kept.pictures))
    if len(different) < 2:
        raise UserError("MaPO Pick got the same picture twice: there is nothing to choose, paint with different seeds")
    prompt_id, node, index = host.executing_item()
    # Nobody shall learn that the left one is the one with the LoRA.
    shown = tuple(_random.sample(different, len(different)))
    return Question(
        prompt_id=prompt_id,
        node=node,
        index=index,
        page=host.queued_by(),
        dataset=dataset,
        prompt=kept.prompt,
        text=kept.text,
        pictures=different,
        shown=shown,
        pair=kept.pair,
        wait=wait,
        on_timeout=on_timeout,
    )


def _resolve(outcome: Outcome, question: Question) -> Outcome:
    """What the graph goes on with. Raises what ends the prompt."""
    from ...trainer.errors import UserError

    if outcome.how in ("cancelled", "withdrawn"):
        if host.is_interrupted():
            host.stop_if_interrupted()  # consumed here: the next prompt must not see it again
        raise host.interruption()
    if outcome.how != "late":
        return outcome
    if question.on_timeout == "stop":
        limit = f"in {question.wait:g} seconds" if question.wait else "and no page of ComfyUI is open"
        raise UserError(f"nobody picked {limit}: queue it again, or let without_answer say what to go on with")
    if question.on_timeout == "first":
        return Outcome("late", "first", question.pictures[0].sha256, question.pictures[-1].sha256)
    return Outcome("late", "skip")


def _line(outcome: Outcome) -> str:
    """For the node."""
    if outcome.how == "late":
        return "nobody picked: the first goes on" if outcome.chosen else "nobody picked: nothing goes on"
    lines = {
        "tie": "a tie: the first goes on",
        "both_bad": "both bad: nothing goes on",
        "skip": "skipped: nothing goes on",
    }
    return lines.get(outcome.answer, "picked")


NODE = Pick

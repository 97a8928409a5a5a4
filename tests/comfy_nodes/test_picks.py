"""Is a pick asked of the right page, and does it end once, whatever happens meanwhile?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from mapo_studio.comfy_nodes import picks
from mapo_studio.comfy_nodes.picks import HostState, Outcome, Picks, Question, answered, ranked
from mapo_studio.tests import own_loop
from mapo_studio.trainer.preferences.queue import ImageInfo

FIRST, SECOND, THIRD = (ImageInfo(letter * 64, 8, 8, ".png") for letter in "abc")
QUESTION = Question(
    prompt_id="a prompt",
    node="7",
    index=0,
    page="page",
    dataset="cats",
    prompt=1,
    text="a cat",
    pictures=(FIRST, SECOND),
    shown=(SECOND, FIRST),
    pair=5,
    wait=0,
    on_timeout="skip",
)


@dataclass
class Host:
    """What a pick sees of ComfyUI."""

    connected: set[str] = field(default_factory=lambda: {"page"})
    interrupted: bool = False
    sent: list[tuple[str, dict, str | None]] = field(default_factory=list)

    def host_state(self, patience: float = 60) -> HostState:
        return HostState(
            lambda: self.interrupted,
            lambda: self.connected,
            lambda event, data, page: self.sent.append((event, data, page)),
            patience,
        )

    def asked(self) -> list[str | None]:
        return [page for event, _, page in self.sent if event == "mapo.pick"]

    def ends(self) -> list[str]:
        return [data["how"] for event, data, _ in self.sent if event == "mapo.picked"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(picks, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(picks, "RELOAD_SECONDS", 0.03)


def run(test: Callable[[], Awaitable[None]]) -> None:
    own_loop.run(asyncio.wait_for(test(), 20))


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.002)


def test_only_the_page_that_queued_is_asked_and_all_hear_of_the_end():
    waiting, host = Picks(), Host({"page", "another"})

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(waiting.waiting)
        [pick] = waiting.waiting()
        assert waiting.find(QUESTION.key) is pick
        assert host.asked() == ["page"]
        event = host.sent[0][1]
        assert (event["view"], event["seconds_left"]) == ("pairs", None)
        assert [one["id"] for one in event["pictures"]] == [SECOND.sha256, FIRST.sha256]
        # From another thread, as a request is.
        end = answered(QUESTION, "left", SECOND.sha256, ("a tab", 2))
        assert await asyncio.to_thread(pick.end, end)
        assert await asking == end == Outcome("answered", "left", SECOND.sha256, FIRST.sha256, ("a tab", 2))
        assert host.sent[-1] == ("mapo.picked", {"key": QUESTION.key, "how": "answered"}, None)
        assert waiting.waiting() == []
        assert waiting.find(QUESTION.key) is pick

    run(test)


def test_the_first_end_stands():
    waiting, host = Picks(), Host()

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(waiting.waiting)
        [pick] = waiting.waiting()
        assert pick.end(Outcome("skipped", "skip"))
        assert not pick.end(Outcome("cancelled"))
        assert (await asking).how == "skipped"
        assert host.ends() == ["skipped"]

    run(test)


def test_an_answer_that_is_being_stored_is_not_overtaken_by_the_clock():
    waiting, host = Picks(), Host()

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(replace(QUESTION, wait=0.05), host.host_state()))
        await until(waiting.waiting)
        [pick] = waiting.waiting()
        stored = asyncio.Event()

        def store() -> None:
            with pick.deciding:
                loop.call_soon_threadsafe(stored.set)
                threading.Event().wait((pick.seconds_left or 0) + 0.05)
                pick.end(Outcome("answered", "tie"))

        loop = asyncio.get_running_loop()
        storing = asyncio.create_task(asyncio.to_thread(store))
        await stored.wait()
        assert (await asking).how == "answered"
        await storing

    run(test)


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_all_picks_of_a_prompt_end_with_it_and_no_other(how: str):
    # ComfyUI waits for every item of a list before it hears of the first.
    waiting, host = Picks(), Host()
    items = [QUESTION, replace(QUESTION, index=1), replace(QUESTION, node="8")]
    other = replace(QUESTION, prompt_id="another prompt")

    async def test() -> None:
        calm = Host()
        asking = [asyncio.create_task(waiting.ask(one, host.host_state())) for one in items]
        beside = asyncio.create_task(waiting.ask(other, calm.host_state()))
        await until(lambda: len(waiting.waiting()) == 4)
        if how == "cancelled":
            waiting.find(items[1].key).end(Outcome("cancelled"))
        else:
            host.interrupted = True
        ends = [end.how for end in await asyncio.gather(*asking)]
        assert sorted(ends) == (["cancelled"] if how == "cancelled" else ["withdrawn"]) + ["withdrawn"] * 2
        assert [pick.question for pick in waiting.waiting()] == [other]
        assert not beside.done()
        waiting.withdraw(other.prompt_id)
        await beside

    run(test)


def test_what_is_asked_of_a_prompt_that_ends_is_withdrawn():
    waiting, host = Picks(), Host()

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(waiting.waiting)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert waiting.waiting() == []
        assert host.ends() == ["withdrawn"]

    run(test)


def test_the_time_that_is_left_is_told_and_ends():
    waiting, host = Picks(), Host()
    end = own_loop.run(waiting.ask(replace(QUESTION, wait=0.05), host.host_state()))
    assert end == Outcome("late")
    assert 0 <= host.sent[0][1]["seconds_left"] <= 0.1


def test_nobody_is_waited_for_where_no_page_is_there():
    waiting, host = Picks(), Host(set())
    assert own_loop.run(waiting.ask(replace(QUESTION, page=None), host.host_state(patience=0.03))) == Outcome("late")


def test_a_page_that_comes_is_waited_for():
    waiting, host = Picks(), Host(set())

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(replace(QUESTION, page=None), host.host_state(patience=0.1)))
        await until(waiting.waiting)
        host.connected.add("somebody")
        await asyncio.sleep(0.25)
        assert not asking.done()
        host.connected.clear()
        assert (await asking).how == "late"

    run(test)


def test_a_person_who_closed_the_page_is_waited_for():
    waiting, host = Picks(), Host(set())
    waiting.mark_as_person("page")

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state(patience=0.02)))
        await asyncio.sleep(0.15)
        assert not asking.done()
        waiting.find(QUESTION.key).end(Outcome("skipped", "skip"))
        await asking

    run(test)


def test_others_are_offered_what_a_page_was_asked_that_is_gone():
    waiting, host = Picks(), Host({"page", "another"})

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(host.asked)
        host.connected.discard("page")
        await until(lambda: len(host.asked()) == 2)
        await asyncio.sleep(0.1)
        assert host.asked() == ["page", None]  # once, not at every look
        host.connected.add("page")
        await asyncio.sleep(0.02)
        host.connected.discard("page")
        await until(lambda: len(host.asked()) == 3)
        waiting.withdraw(QUESTION.prompt_id)
        await asking

    run(test)


def test_a_page_that_is_loaded_again_does_not_make_others_ring(monkeypatch):
    monkeypatch.setattr(picks, "RELOAD_SECONDS", 5.0)
    waiting, host = Picks(), Host({"page", "another"})

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(host.asked)
        host.connected.discard("page")
        await asyncio.sleep(0.05)
        host.connected.add("page")
        await asyncio.sleep(0.05)
        assert host.asked() == ["page"]
        waiting.withdraw(QUESTION.prompt_id)
        await asking

    run(test)


def test_what_nobody_queued_from_a_page_is_offered_to_all_at_once():
    waiting, host = Picks(), Host({"another"})

    async def test() -> None:
        asking = asyncio.create_task(waiting.ask(replace(QUESTION, page=None), host.host_state()))
        await until(host.asked)
        assert host.asked() == [None]
        waiting.withdraw(QUESTION.prompt_id)
        await asking

    run(test)


def test_prompts_of_one_name_do_not_answer_for_each_other():
    waiting, host = Picks(), Host()

    async def test() -> None:
        before = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        await until(waiting.waiting)
        after = asyncio.create_task(waiting.ask(QUESTION, host.host_state()))
        assert (await before).how == "withdrawn"
        waiting.find(QUESTION.key).end(Outcome("skipped", "skip"))
        assert (await after).how == "skipped"

    run(test)


def test_the_oldest_ends_are_forgotten_and_nothing_that_waits(monkeypatch):
    monkeypatch.setattr(picks, "_REMEMBERED", 3)
    waiting, host = Picks(), Host()
    questions = [replace(QUESTION, index=index) for index in range(8)]

    async def test() -> None:
        asleep = asyncio.create_task(waiting.ask(questions[0], host.host_state()))
        await until(waiting.waiting)
        for one in questions[1:]:
            asking = asyncio.create_task(waiting.ask(one, host.host_state()))
            await until(lambda one=one: waiting.find(one.key) is not None)
            waiting.find(one.key).end(Outcome("skipped", "skip"))
            await asking
        there = [index for index, one in enumerate(questions) if waiting.find(one.key)]
        assert there == [0, 4, 5, 6, 7]
        waiting.withdraw(QUESTION.prompt_id)
        await asleep

    run(test)


def test_keys_differ_by_prompt_node_and_item():
    others = [replace(QUESTION, **{name: value}) for name, value in (("prompt_id", "x"), ("node", "x"), ("index", 1))]
    keys = {one.key for one in (QUESTION, *others)}
    assert len(keys) == 4
    assert all(key.isalnum() for key in keys)
    assert replace(QUESTION, dataset="dogs").key == QUESTION.key


@pytest.mark.parametrize(
    ("answer", "chosen", "rejected"),
    [
        ("left", SECOND, FIRST),
        ("right", FIRST, SECOND),
        ("tie", FIRST, SECOND),  # as the graph brought them, whatever side they were on
        ("both_bad", None, None),
        ("skip", None, None),
    ],
)
def test_what_goes_on_after_an_answer(answer: str, chosen: ImageInfo | None, rejected: ImageInfo | None):
    end = answered(QUESTION, answer, SECOND.sha256, ("tab", 2))
    assert (end.chosen, end.rejected) == (chosen and chosen.sha256, rejected and rejected.sha256)
    assert (end.answer, end.how, end.by) == (answer, "answered", ("tab", 2))


def test_the_best_goes_on_after_a_ranking():
    a, b, c = FIRST.sha256, SECOND.sha256, THIRD.sha256
    assert ranked([[b], [a, c]], ("tab", 2)) == Outcome("answered", "ranking", b, a, ("tab", 2))
    assert ranked([[], [c], [a], [b], []], ("tab", 2)).rejected == b


def test_a_ranking_is_shown_where_there_are_more_than_two():
    waiting, host = Picks(), Host()
    question = replace(QUESTION, pictures=(FIRST, SECOND, THIRD), shown=(THIRD, FIRST, SECOND), pair=None, wait=0.01)
    own_loop.run(waiting.ask(question, host.host_state()))
    assert host.sent[0][1]["view"] == "rank"

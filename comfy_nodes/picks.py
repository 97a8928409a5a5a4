"""Picks: questions to a person that a graph waits for, who is asked, and the one outcome that each of them has.

The graph waits in one thread, pages answer in others. A pick ends once; whoever comes later hears how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..trainer.preferences.queue import ImageInfo

POLL_SECONDS = 0.2
"""Seconds between looks at the clock, at the pages and at whether the prompt was interrupted."""
RELOAD_SECONDS = 4.0
"""Seconds that a page may be away before others are offered what it was asked: it may only be loaded again."""
_REMEMBERED = 200  # that ended: a page that was away may still send its answer
_PAGES = 1000  # that showed picks since the start, the newest


@dataclass(frozen=True)
class Question:
    """What a person is asked, and where.

    prompt_id, node, index: what is executed; index: which item of a list. page: that queued it, None for a program.
    prompt, text: the dataset's prompt, its number and its text. pictures: as the graph brought them, each once; shown:
    the same, in the order in which they are shown. pair: their pair where they are two.
    wait: seconds, 0 for as long as it takes. on_timeout: what happens where nobody answers: skip, first or stop.
    """

    prompt_id: str
    node: str
    index: int
    page: str | None
    dataset: str
    prompt: int
    text: str
    pictures: tuple[ImageInfo, ...]
    shown: tuple[ImageInfo, ...]
    pair: int | None
    wait: float
    on_timeout: str

    @property
    def key(self) -> str:
        """The same whenever the same is asked, and fit for an address."""
        named = "\0".join((self.prompt_id, self.node, str(self.index)))
        return hashlib.sha256(named.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Outcome:
    """how: "answered", "skipped", "cancelled", "withdrawn" (the prompt was stopped) or "late" (nobody answered).

    answer: in the person's word; chosen, rejected: pictures by sha256, None where nothing goes on. by: the page and its
    running number, by which an answer that is sent again is known.
    """

    how: str
    answer: str = ""
    chosen: str | None = None
    rejected: str | None = None
    by: tuple[str, int] | None = None


@dataclass(frozen=True)
class HostState:
    """What a waiting pick reads of ComfyUI, and how it reaches pages.

    interrupted: whether the person stopped the prompt. pages: which are connected. tell: (event, data, page or None for
    all). patience: seconds without any page after which nobody is waited for.
    """

    interrupted: Callable[[], bool]
    pages: Callable[[], Collection[str]]
    tell: Callable[[str, dict[str, Any], str | None], None]
    patience: float


class Pick:
    """One question and its outcome. Any thread may use it."""

    def __init__(self, question: Question, when_ended: Callable[[Pick], None]):
        self.question = question
        self.deciding = threading.RLock()
        """To be held while an answer is stored, so that no other end comes between."""
        self._when_ended = when_ended
        self._outcome: Outcome | None = None
        self._due = time.monotonic() + question.wait if question.wait > 0 else None

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    @property
    def seconds_left(self) -> float | None:
        """None where there is no limit."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def end(self, outcome: Outcome) -> bool:
        """False where it has ended already, which then stands."""
        with self.deciding:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        self._when_ended(self)
        return True

    def as_dict(self) -> dict[str, Any]:
        """What a page is sent of it."""
        question, left = self.question, self.seconds_left
        return {
            "key": question.key,
            "node": question.node,
            "prompt_id": question.prompt_id,
            "page": question.page,
            "dataset": question.dataset,
            "prompt": question.text,
            "view": "rank" if question.pair is None else "pairs",
            "pictures": [
                {"id": image.sha256, "width": image.width, "height": image.height} for image in question.shown
            ],
            "seconds_left": None if left is None else round(left, 1),
            "otherwise": question.on_timeout,
        }


class Picks:
    """Those that wait, and the last that ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picks: dict[str, Pick] = {}
        self._people: dict[str, None] = {}

    def find(self, key: str) -> Pick | None:
        with self._lock:
            return self._picks.get(key)

    def waiting(self) -> list[Pick]:
        """In the order in which they were asked."""
        with self._lock:
            return [pick for pick in self._picks.values() if pick.outcome is None]

    def mark_as_person(self, page: str) -> None:
        """This page shows picks to a person: what it asks for is waited for, also when it was closed."""
        with self._lock:
            self._people[page] = self._people.pop(page, None)
            if len(self._people) > _PAGES:
                del self._people[next(iter(self._people))]

    def withdraw(self, prompt_id: str) -> None:
        """The prompt is not executed any more: nobody needs to answer for it."""
        for pick in self.waiting():
            if pick.question.prompt_id == prompt_id:
                pick.end(Outcome("withdrawn"))

    async def ask(self, question: Question, host_state: HostState) -> Outcome:
        """Ask, and wait for the end. Raises asyncio.CancelledError, the pick withdrawn, where the prompt was ended."""
        loop, has_ended = asyncio.get_running_loop(), asyncio.Event()

        def ended(pick: Pick) -> None:
            host_state.tell(
                "mapo.picked", {"key": pick.question.key, "how": pick.outcome.how if pick.outcome else ""}, None
            )
            with contextlib.suppress(RuntimeError):  # the prompt has ended meanwhile, and its loop with it
                loop.call_soon_threadsafe(has_ended.set)

        pick = Pick(question, ended)
        self._keep(pick)
        try:
            page_watch = _PageWatch(self, pick, host_state)
            while pick.outcome is None:
                if host_state.interrupted():
                    # All of the prompt: ComfyUI waits for every item of a list before it hears of the first.
                    self.withdraw(question.prompt_id)
                elif pick.seconds_left == 0 or page_watch.nobody_will_come():
                    pick.end(Outcome("late"))
                else:
                    await _wait_for(has_ended)
        except asyncio.CancelledError:
            pick.end(Outcome("withdrawn"))
            raise
        if pick.outcome.how == "cancelled":
            self.withdraw(question.prompt_id)
        return pick.outcome

    def is_person(self, page: str | None) -> bool:
        with self._lock:
            return page in self._people

    def _keep(self, pick: Pick) -> None:
        with self._lock:
            before = self._picks.pop(pick.question.key, None)
            self._picks[pick.question.key] = pick
            ended = [key for key, pick in self._picks.items() if pick.outcome is not None]
            for key in ended[: max(0, len(ended) - _REMEMBERED)]:
                del self._picks[key]
        if before is not None:  # a program gave two prompts the same name
            before.end(Outcome("withdrawn"))


class _PageWatch:
    """Tells the page that is to answer, other pages once that one is gone, and when there is nobody to wait for."""

    def __init__(self, picks: Picks, pick: Pick, host_state: HostState):
        self._picks, self._pick, self._host_state = picks, pick, host_state
        self._page = pick.question.page
        self._gone = _Stopwatch()
        self._nobody = _Stopwatch()
        self._offered = self._page not in host_state.pages()
        host_state.tell("mapo.pick", pick.as_dict(), None if self._offered else self._page)

    def nobody_will_come(self) -> bool:
        """Whether no page is left that could answer. Offers the pick to other pages where its own is gone."""
        pages = self._host_state.pages()
        gone = self._gone.running(self._page not in pages)
        if not gone:
            self._offered = False
        elif gone > RELOAD_SECONDS and not self._offered:
            self._offered = True
            self._host_state.tell("mapo.pick", self._pick.as_dict(), None)
        # A person who closed the page comes back, a program does not.
        waited_for = self._pick.question.wait > 0 or self._picks.is_person(self._page)
        return self._nobody.running(not pages and not waited_for) > self._host_state.patience


class _Stopwatch:
    """For how many seconds something has been so."""

    def __init__(self) -> None:
        self._since: float | None = None

    def running(self, is_so: bool) -> float:
        now = time.monotonic()
        self._since = (self._since or now) if is_so else None
        return 0.0 if self._since is None else now - self._since


def answered(question: Question, answer: str, left: str, by: tuple[str, int]) -> Outcome:
    """The outcome of an answer to a pair. left: the picture that was on the left."""
    first, second = (one.sha256 for one in question.pictures)
    right = second if left == first else first
    sides = {"left": (left, right), "right": (right, left), "tie": (first, second)}
    return Outcome("answered", answer, *sides.get(answer, (None, None)), by=by)


def ranked(tiers: Sequence[Sequence[str]], by: tuple[str, int]) -> Outcome:
    """The outcome of a ranking, best tier first: the best goes on as chosen, one of the worst as rejected."""
    filled = [tier for tier in tiers if tier]
    return Outcome("answered", "ranking", filled[0][0], filled[-1][0], by)


async def _wait_for(has_ended: asyncio.Event) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(has_ended.wait(), POLL_SECONDS)


PICKS = Picks()
"""Those of this ComfyUI."""

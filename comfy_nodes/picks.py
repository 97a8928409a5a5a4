"""Which picks wait for a person, who is asked, and how does each of them end?

The graph waits in one thread, the pages speak in others. A pick ends once; whoever comes later is told how it ended.
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

LOOK_EVERY = 0.2
"""Seconds between looks at the clock, at the pages and at whether the prompt was interrupted."""
RELOADING = 4.0
"""Seconds that a page may be away before others are offered what it was asked: it may only be loaded again."""
_REMEMBERED = 200  # that ended: a page that was away may still send its answer
_PAGES = 1000  # that showed picks since the start, the newest


@dataclass(frozen=True)
class Question:
    """What a person is asked, and where.

    prompt_id, node, index: what is executed; index: which item of a list. page: that queued it, None for a program.
    prompt, text: the dataset's prompt, its number and its text. pictures: as the graph brought them, each once; shown:
    the same, in the order in which they are shown. pair: their pair where they are two.
    wait: seconds, 0 for as long as it takes. otherwise: what happens where nobody answers.
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
    otherwise: str

    @property
    def key(self) -> str:
        """The same whenever the same is asked, and fit for an address."""
        named = "\0".join((self.prompt_id, self.node, str(self.index)))
        return hashlib.sha256(named.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class End:
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
class World:
    """What a pick that waits looks at. interrupted: whether the person stopped the prompt; pages: which are connected;
    tell: (event, data, page or None for all); patience: seconds without any page after which nobody is waited for."""

    interrupted: Callable[[], bool]
    pages: Callable[[], Collection[str]]
    tell: Callable[[str, dict[str, Any], str | None], None]
    patience: float


class Pick:
    """One question and its end. Any thread may use it."""

    def __init__(self, question: Question, when_ended: Callable[[Pick], None]):
        self.question = question
        self.deciding = threading.RLock()
        """To be held while an answer is stored, so that no other end comes between."""
        self._when_ended = when_ended
        self._end: End | None = None
        self._due = time.monotonic() + question.wait if question.wait > 0 else None

    @property
    def ended(self) -> End | None:
        return self._end

    @property
    def seconds_left(self) -> float | None:
        """None where there is no limit."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def end(self, end: End) -> bool:
        """False where it has ended already, which then stands."""
        with self.deciding:
            if self._end is not None:
                return False
            self._end = end
        self._when_ended(self)
        return True

    def told(self) -> dict[str, Any]:
        """What a page is told of it."""
        asked, left = self.question, self.seconds_left
        return {
            "key": asked.key,
            "node": asked.node,
            "prompt_id": asked.prompt_id,
            "page": asked.page,
            "dataset": asked.dataset,
            "prompt": asked.text,
            "view": "rank" if asked.pair is None else "pairs",
            "pictures": [{"id": one.sha256, "width": one.width, "height": one.height} for one in asked.shown],
            "seconds_left": None if left is None else round(left, 1),
            "otherwise": asked.otherwise,
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
            return [pick for pick in self._picks.values() if pick.ended is None]

    def showing(self, page: str) -> None:
        """This page shows picks to a person: what it asks for is waited for, also when it was closed."""
        with self._lock:
            self._people[page] = self._people.pop(page, None)
            if len(self._people) > _PAGES:
                del self._people[next(iter(self._people))]

    def withdraw(self, prompt_id: str) -> None:
        """The prompt is not executed any more: nobody needs to answer for it."""
        for pick in self.waiting():
            if pick.question.prompt_id == prompt_id:
                pick.end(End("withdrawn"))

    async def ask(self, question: Question, world: World) -> End:
        """Ask, and wait for the end. Raises asyncio.CancelledError, the pick withdrawn, where the prompt was ended."""
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def ended(pick: Pick) -> None:
            world.tell("mapo.picked", {"key": pick.question.key, "how": pick.ended.how if pick.ended else ""}, None)
            with contextlib.suppress(RuntimeError):  # the prompt has ended meanwhile, and its loop with it
                loop.call_soon_threadsafe(heard.set)

        pick = Pick(question, ended)
        self._keep(pick)
        try:
            absence = _Absence(self, pick, world)
            while pick.ended is None:
                if world.interrupted():
                    # All of the prompt: ComfyUI waits for every item of a list before it hears of the first.
                    self.withdraw(question.prompt_id)
                elif pick.seconds_left == 0 or absence.look():
                    pick.end(End("late"))
                else:
                    await _for_a_while(heard)
        except asyncio.CancelledError:
            pick.end(End("withdrawn"))
            raise
        if pick.ended.how == "cancelled":
            self.withdraw(question.prompt_id)
        return pick.ended

    def is_a_persons(self, page: str | None) -> bool:
        with self._lock:
            return page in self._people

    def _keep(self, pick: Pick) -> None:
        with self._lock:
            before = self._picks.pop(pick.question.key, None)
            self._picks[pick.question.key] = pick
            over = [key for key, one in self._picks.items() if one.ended is not None]
            for key in over[: max(0, len(over) - _REMEMBERED)]:
                del self._picks[key]
        if before is not None:  # a program gave two prompts one name
            before.end(End("withdrawn"))


class _Absence:
    """Tells the page that is to answer, other pages once that one is gone, and when there is nobody to wait for."""

    def __init__(self, picks: Picks, pick: Pick, world: World):
        self._picks, self._pick, self._world = picks, pick, world
        self._page = pick.question.page
        self._gone = _Clock()
        self._nobody = _Clock()
        self._offered = self._page not in world.pages()
        world.tell("mapo.pick", pick.told(), None if self._offered else self._page)

    def look(self) -> bool:
        """Whether nobody will come."""
        pages = self._world.pages()
        gone = self._gone.running(self._page not in pages)
        if not gone:
            self._offered = False
        elif gone > RELOADING and not self._offered:
            self._offered = True
            self._world.tell("mapo.pick", self._pick.told(), None)
        # A person who closed the page comes back, a program does not.
        waited_for = self._pick.question.wait > 0 or self._picks.is_a_persons(self._page)
        return self._nobody.running(not pages and not waited_for) > self._world.patience


class _Clock:
    """For how many seconds something has been so."""

    def __init__(self) -> None:
        self._since: float | None = None

    def running(self, is_so: bool) -> float:
        now = time.monotonic()
        self._since = (self._since or now) if is_so else None
        return 0.0 if self._since is None else now - self._since


def answered(question: Question, answer: str, left: str, by: tuple[str, int]) -> End:
    """The end that an answer to a pair is. left: the picture that was on the left."""
    first, second = (one.sha256 for one in question.pictures)
    right = second if left == first else first
    sides = {"left": (left, right), "right": (right, left), "tie": (first, second)}
    return End("answered", answer, *sides.get(answer, (None, None)), by=by)


def ranked(tiers: Sequence[Sequence[str]], by: tuple[str, int]) -> End:
    """The end that a ranking is, best tier first: the best goes on as chosen, one of the worst as rejected."""
    told = [tier for tier in tiers if tier]
    return End("answered", "ranking", told[0][0], told[-1][0], by)


async def _for_a_while(heard: asyncio.Event) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(heard.wait(), LOOK_EVERY)


PICKS = Picks()
"""Those of this ComfyUI."""

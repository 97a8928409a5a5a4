"""Routes of picks: the judging contract, narrowed to the single question of a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..comfy_api import host, settings
from ..picks import PICKS, Outcome, Pick, answered, ranked
from . import http, judging

if TYPE_CHECKING:
    from ...trainer.preferences.api import (
        AnswerIn,
        AnswersReply,
        GroupsReply,
        GroupsRequest,
        NextReply,
        NextRequest,
        RankingIn,
    )

_OVER = {
    "answered": "this was answered already, here or in another tab",
    "skipped": "this was skipped already, here or in another tab",
    "cancelled": "this was cancelled, and nothing was stored",
    "withdrawn": "the prompt was stopped meanwhile, and nothing was stored",
    "late": "the time was over, and nothing was stored",
}


def pick_routes() -> dict[tuple[str, str], http.Handler]:
    """(method, path) -> handler."""
    one = "/mapo/pick/{key}"
    return {
        ("GET", "/mapo/picks"): waiting,
        ("GET", f"{one}/next"): _reading("next", _next),
        ("GET", f"{one}/groups"): _reading("groups", _groups),
        ("GET", f"{one}/statistics"): _reading("statistics", _statistics),
        ("GET", f"{one}/picture/{{sha256}}"): judging.picture,
        ("POST", f"{one}/answers"): _writing("answers", _keep_answer),
        ("POST", f"{one}/rankings"): _writing("rankings", _keep_ranking),
        ("POST", f"{one}/undo"): _ending(None),
        ("POST", f"{one}/skip"): _ending(Outcome("skipped", "skip")),
        ("POST", f"{one}/cancel"): _ending(Outcome("cancelled")),
    }


async def waiting(request: web.Request) -> web.StreamResponse:
    """Every pick that waits; gone: the page that was asked is not there. ?page= is the page that asks, to be known."""
    page, there = request.query.get("page", ""), host.pages()
    if 0 < len(page) <= 100:
        PICKS.mark_as_person(page)
    picks = [{**pick.as_dict(), "gone": pick.question.page not in there} for pick in PICKS.waiting()]
    return await http.reply(lambda: {"picks": picks})


def _reading(name: str, ask: Callable[[Pick, Any, str], Any]) -> http.Handler:
    """ask: (pick, the contract's request, annotator) -> reply."""

    async def read(request: web.Request) -> web.StreamResponse:
        query, person = dict(request.query), judging.person(request)
        pick = PICKS.find(request.match_info["key"])
        if pick is None:
            return _unknown()

        def answer() -> Any:
            contract = judging.contract()
            return ask(pick, contract.from_query(contract.READ[name][0], query), person())

        return await http.reply(answer)

    return read


def _writing(name: str, keep: Callable[[Pick, Any, str], str | None]) -> http.Handler:
    """keep: (pick, submission, annotator) -> why it is refused, None where it is stored."""

    async def write(request: web.Request) -> web.StreamResponse:
        body, person = await http.body(request), judging.person(request)
        pick = PICKS.find(request.match_info["key"])
        if pick is None:
            return _unknown()

        def decide() -> AnswersReply:
            contract = judging.contract()
            submissions = getattr(contract.WRITE[name][0].model_validate_json(body), name)
            reply, annotator = contract.AnswersReply(stored=[], refused=[]), person()
            for submission in submissions:
                with pick.deciding:
                    why = _too_late(pick, submission) if pick.outcome else keep(pick, submission, annotator)
                if why is None:
                    reply.stored.append(submission.sequence)
                else:
                    reply.refused.append(contract.Refused(sequence=submission.sequence, why=why))
            return reply

        return await http.reply(decide)

    return write


def _ending(outcome: Outcome | None) -> http.Handler:
    """Ends the pick with nothing stored; `how` says how it has ended. None: there is nothing to take back any more."""

    async def write(request: web.Request) -> web.StreamResponse:
        await http.body(request)
        pick = PICKS.find(request.match_info["key"])
        if pick is None:
            return _unknown()
        if outcome is None:
            return await http.reply(lambda: judging.contract().UndoReply(undone=False))

        def decide() -> dict[str, str]:
            pick.end(outcome)
            return {"how": pick.outcome.how if pick.outcome else ""}

        return await http.reply(decide)

    return write


def _next(pick: Pick, request: NextRequest, annotator: str) -> NextReply:
    contract, question = judging.contract(), pick.question
    is_open = pick.outcome is None and question.pair is not None
    pairs = []
    if is_open and question.pair not in request.exclude:
        left, right = _shown(pick)
        pairs = [contract.PairOut(pair=question.pair, prompt=question.text, purpose="judge", left=left, right=right)]
    return contract.NextReply(pairs=pairs, waiting=int(is_open))


def _groups(pick: Pick, request: GroupsRequest, annotator: str) -> GroupsReply:
    contract, question = judging.contract(), pick.question
    is_open = pick.outcome is None and question.pair is None
    groups = []
    if is_open and question.prompt not in request.exclude:
        groups = [contract.GroupOut(prompt=question.prompt, text=question.text, pictures=_shown(pick))]
    return contract.GroupsReply(groups=groups, waiting=int(is_open))


def _statistics(pick: Pick, _: Any, annotator: str) -> Any:
    contract = judging.contract()
    return contract.statistics(settings.store(), contract.StatisticsRequest(dataset=pick.question.dataset), annotator)


def _keep_answer(pick: Pick, answer: AnswerIn, annotator: str) -> str | None:
    if answer.pair != pick.question.pair:
        return f"pair {answer.pair} is not the one that is asked about"
    contract = judging.contract()
    reply = contract.answers(settings.store(), contract.AnswersRequest(answers=[answer]), annotator)
    if reply.refused:
        return reply.refused[0].why
    pick.end(answered(pick.question, answer.answer, answer.left, (answer.client, answer.sequence)))
    return None


def _keep_ranking(pick: Pick, ranking: RankingIn, annotator: str) -> str | None:
    known = {image.sha256 for image in pick.question.pictures}
    if ranking.prompt != pick.question.prompt or {name for tier in ranking.tiers for name in tier} != known:
        return "these are not the pictures that are asked about"
    contract = judging.contract()
    reply = contract.rankings(settings.store(), contract.RankingsRequest(rankings=[ranking]), annotator)
    if reply.refused:
        return reply.refused[0].why
    pick.end(ranked(ranking.tiers, (ranking.client, ranking.sequence)))
    return None


def _too_late(pick: Pick, submission: AnswerIn | RankingIn) -> str | None:
    """Why, or None where it is the very answer that ended the pick, sent again."""
    if pick.outcome.by == (submission.client, submission.sequence):
        return None
    return _OVER[pick.outcome.how]


def _shown(pick: Pick) -> list[Any]:
    shape = judging.contract().ImageOut
    return [shape(id=image.sha256, width=image.width, height=image.height) for image in pick.question.shown]


def _unknown() -> web.Response:
    return http.refusal(404, "this pick is not known any more: ComfyUI was started again, or it is long over")

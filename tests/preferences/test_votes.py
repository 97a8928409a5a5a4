"""Are the votes of a pair always what its judgements add up to, whatever was said, taken back and sent again?"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from mapo_studio.trainer.preferences.bulk_insert import PairRow, add_rows
from mapo_studio.trainer.preferences.datasets import add_candidates, add_prompt, create_dataset, make_pairs
from mapo_studio.trainer.preferences.judgements import Answer, SequenceTaken, answer, rank, undo
from mapo_studio.trainer.preferences.preference import preference
from mapo_studio.trainer.preferences.schema import ImageRecord, Judgement, Pair
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import event, select

pytestmark = pytest.mark.slow

ANNOTATORS = st.sampled_from(["ann", "bob"])
PAIRS = st.integers(0, 2)
_names = itertools.count()


class Judging(RuleBasedStateMachine):
    """Two people with two pages each about the three pairs of three pictures, beside a list of what should stand."""

    store = None
    done: Counter
    """What was tried, over all examples."""
    submissions = Bundle("submissions")

    @initialize()
    def begin(self):
        self.run = next(_names)
        self.numbers = itertools.count()
        self.standing = {}  # (page, number) -> its votes as (pair, answer, share of first, votes, weight)
        self.by = {}  # (page, number) -> annotator
        with self.store.writing() as session:
            dataset = create_dataset(session, f"run {self.run}")
            self.prompt = add_prompt(session, dataset, "a cat")
            self.pictures = [_picture(session, number) for number in range(3)]
            add_candidates(session, self.prompt, self.pictures)
            make_pairs(session, self.prompt)
            self.dataset = dataset
            found = session.scalars(select(Pair).where(Pair.prompt_id == self.prompt.id)).all()
        self.pairs = sorted((pair.first_id, pair.second_id, pair.id) for pair in found)
        self.names = {picture.id: picture.sha256 for picture in self.pictures}

    def number(self, annotator, page):
        return f"{self.run}-{annotator}-{page}", next(self.numbers)

    @rule(
        target=submissions,
        annotator=ANNOTATORS,
        page=st.integers(0, 1),
        pair=PAIRS,
        said=st.sampled_from(["left", "right", "tie", "both_bad", "skip"]),
        swapped=st.booleans(),
        strength=st.sampled_from(["clearly", "slightly"]),
    )
    def judge(self, annotator, page, pair, said, swapped, strength):
        first, second, pair = self.pairs[pair]
        client, sequence = self.number(annotator, page)
        given = Answer(pair, self.names[second if swapped else first], said, strength, 1.0, client, sequence)
        with self.store.writing() as session:
            assert answer(session, annotator, given)
        share = {"left": 1, "right": 0, "tie": Fraction(1, 2)}.get(said)
        if share is not None and swapped:
            share = 1 - share
        self.stands(annotator, client, sequence, [(pair, said, share, 1, {"clearly": 1, "slightly": 0.5}[strength])])
        return annotator, given

    @rule(submission=submissions, other=st.sampled_from(["left", "skip"]))
    def send_again(self, submission, other):
        annotator, given = submission
        with self.store.writing() as session:
            if isinstance(given, Answer):
                self.done["answered again"] += 1
                assert not answer(session, annotator, given)
                if other != given.answer:
                    with pytest.raises(SequenceTaken):
                        answer(session, annotator, Answer(**{**vars(given), "answer": other}))
            else:
                self.done["ranked again"] += 1
                assert rank(session, annotator, *given) == 0

    @rule(target=submissions, annotator=ANNOTATORS, order=st.permutations(range(3)), cut=st.integers(1, 2))
    def rank_them(self, annotator, order, cut):
        client, sequence = self.number(annotator, 0)
        tiers = [[self.pictures[number] for number in tier] for tier in (order[:cut], order[cut:])]
        given = (self.prompt.id, [[one.sha256 for one in tier] for tier in tiers], client, sequence, None)
        with self.store.writing() as session:
            assert rank(session, annotator, *given) == 2
        votes = []
        for better, worse in itertools.product(*tiers):
            [(first, pair)] = [(one, id) for one, two, id in self.pairs if {one, two} == {better.id, worse.id}]
            votes.append((pair, "left", int(first == better.id), 1, 2 / 3))
        self.stands(annotator, client, sequence, votes)
        return annotator, given

    @rule(submission=submissions, annotator=ANNOTATORS, again=st.booleans())
    def take_back(self, submission, annotator, again):
        owner, given = submission
        client, undoes = (given.client, given.sequence) if isinstance(given, Answer) else given[2:4]
        sequence = next(self.numbers)
        for _ in range(2 if again else 1):
            with self.store.writing() as session:
                assert undo(session, annotator, client, sequence, undoes) == (annotator == owner)
        if annotator == owner:
            self.done["taken back"] += bool(self.standing[client, undoes])
            self.standing[client, undoes] = []
            with self.store.writing() as session:
                assert not undo(session, annotator, client, next(self.numbers), sequence)

    @rule(annotator=ANNOTATORS)
    def take_back_what_never_was(self, annotator):
        client, sequence = self.number(annotator, 0)
        with self.store.writing() as session:
            assert not undo(session, annotator, client, sequence, next(self.numbers))

    @rule(pair=PAIRS, share=st.sampled_from([0, 0.25, 0.5, 1]), votes=st.integers(1, 9), swapped=st.booleans())
    def import_votes(self, pair, share, votes, swapped):
        first, second, pair = self.pairs[pair]
        by_id = {picture.id: picture for picture in self.pictures}
        client, sequence = f"import:{self.run}", next(self.numbers)
        zero, one = (second, first) if swapped else (first, second)
        self.done["imported"] += 1
        row = PairRow(
            "a cat", by_id[zero], by_id[one], sequence, share, votes=float(votes), weight=3.0, annotator="them"
        )
        for new in (1, 0):
            with self.store.writing() as session:
                assert add_rows(session, self.dataset, [row], client).judgements == new
        self.stands("them", client, sequence, [(pair, "", 1 - share if swapped else share, votes, 3.0)])

    def stands(self, annotator, client, sequence, votes):
        self.by[client, sequence] = annotator
        self.standing[client, sequence] = votes

    @invariant()
    def votes_are_what_stands(self):
        if not hasattr(self, "pairs"):
            return
        said = defaultdict(list)
        for pair, *vote in itertools.chain(*self.standing.values()):
            said[pair].append(vote)
        with self.store.reading() as session:
            for *_, number in self.pairs:
                pair = session.get(Pair, number)
                voted = [(share, votes, weight) for _, share, votes, weight in said[number] if share is not None]
                votes, votes_first = (
                    sum(votes for _, votes, _ in voted),
                    sum(share * votes for share, votes, _ in voted),
                )
                assert pair.skips == sum(one[0] == "skip" for one in said[number])
                assert pair.answers == len(said[number]) - pair.skips
                assert pair.both_bad == sum(one[0] == "both_bad" for one in said[number])
                assert (pair.votes, pair.votes_first) == (votes, votes_first)
                assert pair.weight == max((weight for *_, weight in voted), default=0)
                wanted = preference(pair.votes_first, pair.votes, pair.weight, pair.both_bad)
                decided = votes > pair.both_bad and 2 * votes_first != votes
                assert (wanted is not None) == decided
                if wanted:
                    assert wanted.for_first == (2 * votes_first > votes)

    def teardown(self):
        """No row was changed or lost: there are as many as were said and taken back."""
        if not hasattr(self, "pairs"):
            return
        with self.store.reading() as session:
            kept = session.scalars(select(Judgement).where(Judgement.pair_id.in_([id for *_, id in self.pairs]))).all()
        undone = {row.undoes for row in kept if row.answer == "undo"}
        assert len([row for row in kept if row.answer != "undo" and row.id not in undone]) == sum(
            map(len, self.standing.values())
        )
        assert {(row.client, row.sequence) for row in kept if row.answer != "undo"} == set(self.standing)


def _picture(session, number):
    name = f"{number:064x}"
    found = session.scalar(select(ImageRecord).where(ImageRecord.sha256 == name))
    if found is None:
        found = ImageRecord(sha256=name, ending=".png", width=1, height=1, created=0.0)
        session.add(found)
        session.flush()
    return found


@pytest.fixture
def quick_store(tmp_path, url):
    """As `store`, but it does not wait for the disk: hundreds of transactions follow."""
    store = open_store(tmp_path, url)
    if url is None:
        event.listen(store.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
        store.close()
    yield store
    store.close()


@pytest.mark.parametrize("examples", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_votes_are_what_the_judgements_add_up_to(quick_store, examples):
    machine = type("Machine", (Judging,), {"store": quick_store, "done": Counter()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 60,
        ),
    )
    # A rule that never runs tests nothing.
    assert min(machine.done[name] for name in ("answered again", "ranked again", "taken back", "imported")) >= 3

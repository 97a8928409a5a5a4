"""A blind comparison: both arms on the same seeds, answers added up by arm, and fed back once."""

import io
import json

import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.comparison import (
    comparison_info,
    comparison_pairs,
    comparison_result,
    export_to_dataset,
)
from mapo_studio.trainer.evaluation.generate_comparison import known_prompts
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.jobs.kind import JobContext
from mapo_studio.trainer.lora.file import read_lora, write_lora
from mapo_studio.trainer.preferences.datasets import add_pair, add_prompt, create_dataset, find_dataset, list_datasets
from mapo_studio.trainer.preferences.images import image_path
from mapo_studio.trainer.preferences.judgements import Answer, answer, undo
from mapo_studio.trainer.preferences.pairs import split_hash
from mapo_studio.trainer.preferences.schema import Candidate, ImageRecord, Judgement, Pair, Prompt
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.services import job_kinds
from PIL import Image, ImageChops
from sqlalchemy import func, select

pytestmark = pytest.mark.slow

PROMPTS = ["a red circle", "a blue square", "a green ring"]


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "cats")
    return store


@pytest.fixture
def begin(store, tiny_lora, monkeypatch):
    """begin(**changes): a comparison task that is not done yet."""
    monkeypatch.setattr(job, "launch", lambda *_: None)
    given = {"name": "duel", "base": "tiny", "lora": str(tiny_lora), "prompts": PROMPTS, "steps": 2, "run": "taste"}
    return lambda **changes: job_kinds.start(store.workspace, "compare", {**given, "dataset": "cats", **changes})


@pytest.fixture
def painted(store, begin):
    """A comparison of three prompts with two seeds each."""
    task = begin(seeds=2)
    assert job_kinds.run_job(task.folder) == 0
    return task


def judge(store, verdicts, name="duel", annotator="ann", client="page"):
    """Answer the pairs of a comparison in order: "lora", "base", "tie", "both_bad", "skip" or None."""
    with store.writing() as session:
        pairs = session.scalars(select(Pair).where(Pair.dataset_id == find_dataset(session, name).id).order_by(Pair.id))
        for number, (pair, verdict) in enumerate(zip(pairs.all(), verdicts, strict=False)):
            if verdict is None:
                continue
            arms = {
                arm: session.get_one(ImageRecord, picture).sha256
                for arm, picture in session.execute(
                    select(Candidate.arm, Candidate.picture_id).where(
                        Candidate.prompt_id == pair.prompt_id,
                        Candidate.picture_id.in_((pair.first_id, pair.second_id)),
                    )
                )
            }
            left = arms["lora" if number % 2 else "base"]  # both sides occur
            said = verdict if verdict not in arms else "left" if arms[verdict] == left else "right"
            answer(session, annotator, Answer(pair.id, left, said, "clearly", 1.0, client, number, "compare"))


def rate_of(store, name="duel"):
    with store.reading() as session:
        return comparison_result(session, find_dataset(session, name))


def test_both_arms_are_painted_on_the_same_seeds_and_paired(store, painted, tiny_lora):
    assert painted.status().message == "duel is painted: 6 pairs to judge"
    with store.reading() as session:
        comparison = find_dataset(session, "duel")
        assert comparison.kind == "comparison"
        assert [one.name for one in list_datasets(session)] == ["cats"]
        told = comparison_info(comparison)
        found = comparison_pairs(session, comparison)
        rows = session.execute(
            select(Prompt.text, ImageRecord.seed, Candidate.arm, ImageRecord.lora)
            .join_from(Candidate, Prompt)
            .join(ImageRecord)
        ).all()
    assert (told.run, told.lora, told.against, told.other) == ("taste", tiny_lora.name, "", "the base")
    assert len(told.lora_sha256) == 64
    assert (told.strength, told.dataset, told.task) == (1.0, "cats", painted.name)
    assert len(found) == 6
    assert len(rows) == 12
    assert {(arm, lora) for _, _, arm, lora in rows} == {("base", None), ("lora", "taste (1)")}
    for duel in found:
        assert duel.other.seed == duel.lora.seed
        assert (duel.other.lora, duel.lora.lora, duel.votes) == (None, "taste (1)", None)
    assert len({duel.lora.seed for duel in found}) == 6


def test_two_loras_can_meet_and_the_arms_differ(store, begin, tiny_lora, tmp_path):
    lora = read_lora(tiny_lora)
    turned = {key: -weight if key.endswith("lora_B.weight") else weight for key, weight in lora.state.items()}
    other = write_lora(tmp_path / "other.safetensors", turned, lora.settings, "sdxl")
    job_kinds.run_job(begin(against=str(other), strength=0.5, prompts=PROMPTS[:1]).folder)
    with store.reading() as session:
        [duel] = comparison_pairs(session, find_dataset(session, "duel"))
        assert comparison_info(find_dataset(session, "duel")).other == "other"
    assert (duel.other.lora, duel.lora.lora) == ("other (0.5)", "taste (0.5)")
    one, two = (Image.open(image_path(store, picture)) for picture in (duel.other, duel.lora))
    assert max(high for _, high in ImageChops.difference(one, two).getextrema()) > 10


def test_one_that_was_stopped_goes_on_without_painting_twice(store, begin, monkeypatch):
    monkeypatch.setattr("mapo_studio.trainer.sampling.batch_sampler.images_per_batch", lambda size: 1)
    tell = JobContext.report_progress

    def stopping(self, done, total, message=""):
        tell(self, done, total, message)
        if done == 3:
            self.job.stop()

    monkeypatch.setattr(JobContext, "report_progress", stopping)
    task = begin()
    job_kinds.run_job(task.folder)
    assert (task.status().phase, task.status().done) == ("stopped", 3)
    assert rate_of(store).pairs == 1  # of the second, one arm is there
    monkeypatch.setattr(JobContext, "report_progress", tell)
    task.resume()
    job_kinds.run_job(task.folder)
    assert task.status().phase == "finished"
    assert rate_of(store).pairs == 3
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Candidate)) == 6


def test_answers_are_added_up_by_arm_whatever_the_sides(store, painted):
    assert rate_of(store).rate.sentence() == "nothing is judged yet"
    judge(store, ["lora", "lora", "base", "tie", "both_bad", "skip"])
    now = rate_of(store)
    assert (now.pairs, now.judged) == (6, 5)
    assert (now.rate.wins, now.rate.losses, now.rate.ties, now.rate.neither) == (2, 1, 1, 1)
    with store.reading() as session:
        assert [duel.votes for duel in comparison_pairs(session, find_dataset(session, "duel"))] == [
            1,
            1,
            0,
            0.5,
            None,
            None,
        ]


def test_what_was_taken_back_does_not_count(store, painted):
    judge(store, ["lora"] * 6)
    with store.writing() as session:
        assert undo(session, "ann", "page", 100, undoes=0)
    assert (rate_of(store).judged, rate_of(store).rate.wins) == (5, 5)


def test_several_people_count_each(store, painted):
    judge(store, ["lora"] * 6)
    judge(store, ["base"] * 6, annotator="bob", client="another")
    assert (rate_of(store).judged, rate_of(store).rate.share, rate_of(store).rate.answers) == (6, 0.5, 12)


def fed(store, dataset="cats"):
    with store.writing() as session:
        return export_to_dataset(session, find_dataset(session, "duel"), find_dataset(session, dataset))


def votes_in(store, dataset="cats"):
    with store.reading() as session:
        pairs = select(Pair).where(Pair.dataset_id == find_dataset(session, dataset).id).order_by(Pair.id)
        return [(pair.votes, pair.votes_first, pair.source) for pair in session.scalars(pairs)]


def test_judgements_are_fed_back_once_and_marked_with_where_they_are_from(store, painted):
    assert fed(store) == 0
    assert votes_in(store) == []
    judge(store, ["lora", "base", "tie"])
    assert fed(store) == 3
    first = votes_in(store)
    assert [(votes, source) for votes, _, source in first] == [(1, "comparison: duel")] * 3
    with store.reading() as session:
        of_duel = select(Pair.votes_first).where(Pair.dataset_id == find_dataset(session, "duel").id).order_by(Pair.id)
        assert [share for _, share, _ in first] == session.scalars(of_duel).all()[:3]
        assert comparison_info(find_dataset(session, "duel")).fed_back == "cats"
        total = session.scalar(select(func.count()).select_from(Judgement))

    assert fed(store) == 0
    assert votes_in(store) == first
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Judgement)) == total

    with store.writing() as session:
        undo(session, "ann", "page", 100, undoes=0)
    judge(store, [None, None, None, "lora"])
    assert fed(store) == 1
    assert [votes for votes, *_ in votes_in(store)] == [0, 1, 1, 1]


def test_prompts_of_a_comparison_stay_held_out(store, painted):
    judge(store, ["lora"] * 6)
    fed(store)
    with store.reading() as session:
        cats = find_dataset(session, "cats")
        rows = session.scalars(select(Prompt).where(Prompt.dataset_id == cats.id)).all()
    assert {row.text for row in rows} == set(PROMPTS)
    assert all(row.split_hash == split_hash(row.text) for row in rows)


def test_only_comparisons_are_fed_back_and_only_into_datasets(store, painted):
    with store.writing() as session:
        cats, duel = find_dataset(session, "cats"), find_dataset(session, "duel")
        with pytest.raises(UserError, match="is a comparison itself"):
            export_to_dataset(session, duel, duel)
        with pytest.raises(UserError, match="cats is no comparison"):
            export_to_dataset(session, cats, cats)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"name": ""}, "name is missing"),
        ({"name": " cats "}, "named cats: choose another name"),
        ({"lora": "/nowhere.safetensors"}, "there is no LoRA file"),
        ({"seeds": 0}, "seeds: .*greater than or equal to 1"),
    ],
)
def test_mistakes_are_named_before_a_task_begins(begin, changes, said):
    with pytest.raises(UserError, match=said):
        begin(**changes)


def test_a_lora_does_not_meet_itself_even_under_another_name(begin, tiny_lora, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(tiny_lora.read_bytes())
    with pytest.raises(UserError, match="cannot be compared with itself"):
        begin(against=str(copy))
    with pytest.raises(UserError, match="cannot be compared with itself"):
        begin(against=str(tiny_lora))


def test_two_tasks_of_one_name_do_not_mix(store, begin):
    first, second = begin(), begin(seeds=3)
    job_kinds.run_job(first.folder)
    assert job_kinds.run_job(second.folder) == 2
    assert "start again under another name" in second.status().message
    assert rate_of(store).pairs == 3


def test_a_run_knows_its_prompts(store):
    prompts = [f"prompt {number}" for number in range(40)]
    with store.writing() as session:
        cats = find_dataset(session, "cats")
        for number, text in enumerate(prompts):
            pictures = [add_image(store, session, _png((number, side, 0)), "x") for side in (0, 1)]
            pair = add_pair(session, cats, add_prompt(session, cats, text), *pictures)
            if number % 2 == 0:
                given = Answer(pair.id, pictures[0].sha256, "left", "clearly", 1.0, "page", number)
                answer(session, "ann", given)
    config = parse_config({"name": "r", "base": "tiny", "data": {"pairs": "dataset:cats", "held_out": 0.25}}, "test")
    known = known_prompts(Run.create(store.workspace, config))
    aside = [prompt for prompt in prompts if split_hash(prompt) < 0.25]
    assert 0 < len(aside) < 40
    assert list(known.held_out) == aside
    assert known.trained == {prompt for prompt in prompts[::2] if prompt not in aside}


def _png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def test_what_a_comparison_is_of_is_kept_as_json(store, painted):
    with store.reading() as session:
        assert json.loads(find_dataset(session, "duel").about)["base"] == "tiny"

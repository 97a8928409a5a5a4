"""Prompts become pictures and pairs of a dataset, once each, however often the task is started."""

import time

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.candidates import CandidateSettings
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.jobs.kind import JobContext
from mapo_studio.trainer.preferences.datasets import create_dataset, find_dataset
from mapo_studio.trainer.preferences.images import image_path
from mapo_studio.trainer.preferences.io.infotext import read_infotext
from mapo_studio.trainer.preferences.schema import Candidate, ImageRecord, Pair, Prompt
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.trainer.sampling.image_metadata import seed_of
from mapo_studio.trainer.services import job_kinds
from sqlalchemy import func, select

pytestmark = pytest.mark.slow

PROMPTS = ["a red circle", "a blue square"]
QUICK = {"dataset": "cats", "base": "tiny", "steps": 2, "prompts": PROMPTS, "candidates": 3}


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    with store.writing() as session:
        create_dataset(session, "cats")
    return store


@pytest.fixture
def generate(store, monkeypatch):
    """generate(**changes): a task of these settings, done here and now."""

    def run(**changes):
        with monkeypatch.context() as patch:
            patch.setattr(job, "launch", lambda *_: None)
            task = job_kinds.start(store.workspace, "generate", QUICK | changes)
        job_kinds.run_job(task.folder)
        return task

    return run


def pictures(store):
    """(prompt, seed, lora, sha256) of every candidate, in order."""
    with store.reading() as session:
        found = (
            select(Prompt.text, ImageRecord.seed, ImageRecord.lora, ImageRecord.sha256)
            .join(Candidate, Candidate.prompt_id == Prompt.id)
            .join(ImageRecord, ImageRecord.id == Candidate.picture_id)
            .order_by(Candidate.id)
        )
        return [tuple(row) for row in session.execute(found)]


def count(store, table=Pair):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_each_prompt_gets_its_candidates_and_their_pairs(store, generate):
    task = generate()
    assert task.status().phase == "finished"
    assert task.status().message == "6 pictures generated for cats, 6 new pairs"
    there = pictures(store)
    assert [prompt for prompt, *_ in there] == ["a red circle"] * 3 + ["a blue square"] * 3
    seeds = [seed for _, seed, *_ in there]
    assert len(set(seeds)) == 6
    assert seeds[:3] == [str(seed_of("a red circle", number)) for number in range(3)]
    with store.reading() as session:
        pairs = session.execute(select(Prompt.text, func.count()).join(Pair).group_by(Prompt.text)).all()
    assert dict(map(tuple, pairs)) == {"a red circle": 3, "a blue square": 3}


def test_nothing_is_painted_twice_and_more_can_be_asked_for(store, generate, tiny_lora):
    generate()
    before = pictures(store)
    assert generate().status().message == "0 pictures generated for cats, 0 new pairs"
    assert pictures(store) == before
    generate(candidates=4, prompts=[*reversed(PROMPTS), "a  red circle "])
    assert sorted(pictures(store)[:6]) == sorted(before)
    assert len(pictures(store)) == 8
    generate(first_seed=1000)
    assert len(pictures(store)) == 14
    generate(lora=str(tiny_lora))
    assert len(pictures(store)) == 20


def test_the_same_settings_paint_the_same_anywhere(store, generate, tmp_path_factory):
    generate()
    other = open_store(tmp_path_factory.mktemp("other"))
    with other.writing() as session:
        create_dataset(session, "cats")
    task = job.Job(other.workspace / "tasks" / "generate-1")
    task.folder.mkdir(parents=True)
    task.settings_file.write_text(CandidateSettings.given(QUICK).model_dump_json().join(['{"settings":', "}"]))
    assert job_kinds.run_job(task.folder) == 0
    assert sorted(pictures(other)) == sorted(pictures(store))


def test_every_second_candidate_can_be_the_bases_own(store, generate, tiny_lora):
    generate(candidates=4, prompts=PROMPTS[:1], lora=str(tiny_lora), strength=0.5, mixed=True)
    assert [lora for _, _, lora, _ in pictures(store)] == [None, "taste (0.5)"] * 2
    assert count(store) == 6


def test_a_picture_says_how_it_was_painted(store, generate, tiny_lora):
    generate(prompts=PROMPTS[:1], candidates=1, lora=str(tiny_lora), strength=0.75, negative="blurry")
    with store.reading() as session:
        picture = session.scalar(select(ImageRecord))
    assert (picture.model, picture.sampler, picture.lora) == ("tiny", "Euler", "taste (0.75)")
    said = read_infotext(image_path(store, picture))
    assert (said.prompt, said.seed, said.sampler, said.model) == ("a red circle", picture.seed, "Euler", "tiny")
    assert "taste" in said.lora


def test_many_candidates_do_not_make_every_pair(store, generate):
    generate(prompts=PROMPTS[:1], candidates=8, at_most=10, steps=1)
    assert count(store) == 10


def test_without_prompts_it_paints_for_those_of_the_dataset(store, generate):
    with pytest.raises(UserError, match="cats has no prompts yet"):
        generate(prompts=[])
    generate(candidates=1)
    assert generate(prompts=[], candidates=2).status().done == 4
    assert len(pictures(store)) == 4


def test_a_task_that_was_stopped_keeps_what_is_done_and_goes_on(store, generate, monkeypatch):
    tell = JobContext.report_progress

    def stopping(self, done, total, message=""):
        tell(self, done, total, message)
        if done:
            self.job.stop()

    monkeypatch.setattr(JobContext, "report_progress", stopping)
    monkeypatch.setattr("mapo_studio.trainer.sampling.batch_sampler.images_per_batch", lambda size: 2)
    task = generate()
    assert task.status().phase == "stopped"
    assert (task.status().done, len(pictures(store)), count(store)) == (2, 2, 1)
    monkeypatch.setattr(JobContext, "report_progress", tell)
    monkeypatch.setattr(job, "launch", lambda *_: None)
    task.resume()
    job_kinds.run_job(task.folder)
    assert task.status().phase == "finished"
    assert (len(pictures(store)), count(store)) == (6, 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "dogs"}, "no dataset dogs"),
        ({"base": ""}, "base is missing"),
        ({"mixed": True}, "choose the LoRA"),
        ({"lora": "nowhere.safetensors"}, "there is no LoRA file"),
        ({"candidates": 0}, "candidates: .*greater than or equal to 1"),
    ],
)
def test_mistakes_are_named_before_a_task_begins(generate, changes, said):
    with pytest.raises(UserError, match=said):
        generate(**changes)


def test_a_base_that_is_not_there_fails_with_its_sentence(generate):
    status = generate(base="nowhere/at/all.safetensors").status()
    assert status.phase == "failed"
    assert "There is no base model at nowhere/at/all.safetensors" in status.message


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_of_its_own_is_paused_killed_and_let_go_on(store):
    """As the studio does it: the face only ever touches files."""
    import os
    import signal

    task = job_kinds.start(store.workspace, "generate", QUICK | {"candidates": 24, "steps": 10, "at_most": None})
    assert task.status().phase == "waiting"
    until(lambda: task.status().done >= 1)
    assert task.status().phase == "running"
    task.pause()
    until(lambda: not task.is_alive())
    assert task.status().phase == "paused"
    paused_at = len(pictures(store))
    assert 1 <= paused_at < 48

    task.resume()
    until(lambda: task.status().phase == "running" and task.status().done > paused_at)
    [process] = [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and str(task.folder) in _command(entry) and int(entry) != os.getpid()
    ]
    os.kill(process, signal.SIGKILL)
    until(lambda: task.status().phase == "crashed")
    there = pictures(store)
    assert len({sha256 for *_, sha256 in there}) == len(there)

    task.resume()
    until(lambda: task.status().phase == "finished", 300)
    after = pictures(store)
    assert after[: len(there)] == there
    assert len(after) == len({(prompt, seed) for prompt, seed, *_ in after}) == 48
    assert count(store) == 2 * 24 * 23 // 2


def _command(process):
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_a_dataset_that_went_away_meanwhile_is_a_sentence(store, generate, monkeypatch):
    monkeypatch.setattr(job, "launch", lambda *_: None)
    task = job_kinds.start(store.workspace, "generate", QUICK)
    with store.writing() as session:
        session.delete(find_dataset(session, "cats"))
    assert job_kinds.run_job(task.folder) == 2
    assert "there is no dataset cats" in task.status().message

"""A run's LoRA says of unjudged pairs which picture it would generate sooner; the least sure ones come first."""

from __future__ import annotations

import shutil

import pytest
import torch
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.config.run_config import parse_config
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation import pair_margins
from mapo_studio.trainer.evaluation.pair_margins import rate
from mapo_studio.trainer.jobs import job
from mapo_studio.trainer.latents.encode import encode
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.datasets import create_dataset
from mapo_studio.trainer.preferences.images import image_path
from mapo_studio.trainer.preferences.queue import next_pairs
from mapo_studio.trainer.preferences.schema import Pair
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.services import job_kinds
from mapo_studio.trainer.training.heldout_eval import HeldOut
from mapo_studio.trainer.training.objectives import build_objective
from sqlalchemy import select

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def url():
    """On a SQLite file only: what is tested is not the database."""
    return


@pytest.fixture
def trained(store, tiny_lora):
    """trained(name): a run whose LoRA is the tiny one, with one measured noise level."""

    def make(name="taste"):
        values = {"name": name, "base": "tiny", "data": {"pairs": "dataset:cats"}, "training": {"device": "cpu"}}
        run = Run.create(store.workspace, parse_config({**values, "watch": {"evaluate_timesteps": 2}}, "test"))
        shutil.copy(tiny_lora, run.lora_file)
        return run

    return make


def pairs(store):
    with store.reading() as session:
        return session.scalars(select(Pair).order_by(Pair.id)).all()


def test_unjudged_pairs_get_their_margins_and_are_asked_in_that_order(filled, trained):
    there = filled(4)
    there.judge()
    told = []
    assert rate(there.store, "cats", trained(), report=lambda *one: told.append(one)) == 5
    judged, *rated = pairs(there.store)
    assert (judged.margin, judged.abs_margin) == (None, None)
    assert {pair.margin_run for pair in rated} == {"taste"}
    assert len({pair.margin for pair in rated}) == 5
    assert [pair.abs_margin for pair in rated] == [abs(pair.margin) for pair in rated]
    assert told[-1][:2] == (5, 5)
    with there.store.reading() as session:
        useful = [one.pair for one in next_pairs(session, there.dataset, "bob", 5, order="useful")]
    assert useful == [pair.id for pair in sorted(rated, key=lambda pair: pair.abs_margin)]


def test_a_margin_has_the_sign_that_agreement_counts(filled, trained):
    """Judged as the LoRA would, the pair that it is surest of agrees with it."""
    there, run = filled(3), trained()
    rate(there.store, "cats", run)
    for number, pair in enumerate(pairs(there.store)):
        there.judge(pair=number, sequence=number, answer="left" if pair.margin > 0 else "right")
    base, lora = open_base("tiny"), read_lora(run.lora_file)
    found = DatasetPairs(there.store, "cats").load().pairs
    encoded = encode(base, found, (), there.store.workspace / "cache", CPU, resolution=base.resolution).pairs
    unet = base.load_unet(CPU, torch.float32)
    adapter.attach(unet, lora.settings, seed=0)
    adapter.load_lora_state_dict(unet, lora.state)
    # Many levels: the noise is another where chosen and rejected change places, and so the margin is a little too.
    held_out = HeldOut(encoded, timesteps=base.schedule.timesteps, levels=24, batch_size=24)
    measured = list(held_out.margins(base, unet.eval(), build_objective(run.config().objective), CPU))
    sure = [pair.abs_margin for pair in pairs(there.store)]
    largest = max(range(3), key=sure.__getitem__)
    assert measured[largest] > 0


def test_what_is_rated_stays_and_only_new_pairs_are_measured(filled, trained):
    there, run = filled(3), trained()
    assert rate(there.store, "cats", run) == 3
    before = [pair.margin for pair in pairs(there.store)]
    assert rate(there.store, "cats", run) == 0
    filled(3, "a dog")
    assert rate(there.store, "cats", run) == 3
    assert [pair.margin for pair in pairs(there.store)][:3] == before


def test_another_lora_makes_the_first_ones_margins_be_forgotten(filled, trained):
    there = filled(3)
    rate(there.store, "cats", trained("first"))
    assert rate(there.store, "cats", trained("second"), limit=2) == 2
    assert [pair.margin_run for pair in pairs(there.store)] == [None, "second", "second"]
    assert pairs(there.store)[0].abs_margin is None


def test_a_rating_that_was_stopped_goes_on_where_it_was(filled, trained, monkeypatch):
    monkeypatch.setattr(pair_margins, "_PAIRS_A_WRITE", 2)
    there, run = filled(4), trained()

    def stop(done, *_):
        if done >= 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        rate(there.store, "cats", run, report=stop)
    assert sum(pair.margin is not None for pair in pairs(there.store)) == 4
    assert rate(there.store, "cats", run) == 2


def test_a_pair_that_lost_a_picture_is_left_out(filled, trained):
    there = filled(3)
    image_path(there.store, there.pictures[0]).unlink()
    assert rate(there.store, "cats", trained()) == 1


def test_as_a_task_it_says_what_it_did_or_what_is_wrong(filled, trained, monkeypatch):
    there, run = filled(3), trained()
    monkeypatch.setattr(job, "launch", lambda *_: None)
    task = job_kinds.start(there.store.workspace, "rate", {"run": "taste", "dataset": "cats"})
    assert job_kinds.run_job(task.folder) == 0
    assert task.status().message == "3 pairs of cats rated by taste"
    with there.store.writing() as session:
        create_dataset(session, "blind", kind="comparison")
    for settings, said in (
        ({"run": "nothing"}, "no run named nothing"),
        ({"dataset": "dogs"}, "no dataset dogs"),
        ({"dataset": "blind"}, "blind is a comparison"),
        ({"limit": 0}, "limit: "),
    ):
        with pytest.raises(UserError, match=said):
            job_kinds.start(there.store.workspace, "rate", {"run": "taste", "dataset": "cats"} | settings)
    run.lora_file.unlink()
    with pytest.raises(UserError, match="taste has no LoRA yet"):
        job_kinds.start(there.store.workspace, "rate", {"run": "taste", "dataset": "cats"})

"""The temperature that follows from the untouched base's margins: what it is, and that a run keeps to it."""

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mapo_studio.trainer.cancellation import StopRequest
from mapo_studio.trainer.config.run_config import ObjectiveConfig
from mapo_studio.trainer.lora import adapter
from mapo_studio.trainer.lora.file import read_lora
from mapo_studio.trainer.reports.report import write_report
from mapo_studio.trainer.runs.run_folder import Run
from mapo_studio.trainer.training.batches import seeded
from mapo_studio.trainer.training.learner import Learner
from mapo_studio.trainer.training.loop import train
from mapo_studio.trainer.training.objectives import MaPO
from mapo_studio.trainer.training.temperature import margin_scale_of, measure_margins

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FEW = 8
AUTO = {"temperature": "auto", "margin_weight": "auto"}
some_margins = st.lists(st.integers(-1000, 1000), min_size=2, max_size=64).map(
    lambda one: torch.tensor(one).double() / 1000
)


@given(some_margins, st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_margins_twice_as_wide_want_half_the_temperature(margins, factor, steepness):
    assume(margin_scale_of(margins))

    def temperature(margins, steepness):
        return ObjectiveConfig(steepness=steepness).resolved(margin_scale_of(margins)).temperature

    once = temperature(margins, steepness)
    assert temperature(factor * margins, steepness) == pytest.approx(once / factor, rel=1e-6)
    assert temperature(margins, 2 * steepness) == pytest.approx(2 * once)


@given(some_margins, st.floats(-1, 1), st.randoms())
def test_where_the_margins_lie_and_in_which_order_does_not_matter(margins, moved, random):
    assume(margin_scale_of(margins))
    shuffled = margins.tolist()
    random.shuffle(shuffled)
    again = margin_scale_of(torch.tensor(shuffled, dtype=torch.float64) + moved)
    assert again == pytest.approx(margin_scale_of(margins), rel=1e-6)


def test_the_spread_of_a_bell_curve_is_its_standard_deviation_and_a_few_far_margins_do_not_move_it():
    margins = 0.02 * torch.randn(20_001, generator=seeded("bell"), dtype=torch.float64)
    assert margin_scale_of(margins) == pytest.approx(0.02, rel=0.03)
    margins[:200] = 5.0
    assert margin_scale_of(margins) == pytest.approx(0.02, rel=0.05)
    assert margins.std() > 0.2


@pytest.mark.parametrize("margins", [[], [0.3], [0.2] * 9, [float("nan")] * 5, [0.1, float("nan")], [0.0, 1e-12, 0.0]])
def test_margins_that_say_nothing_have_no_scale(margins):
    assert margin_scale_of(torch.tensor(margins)) is None
    assert ObjectiveConfig(steepness=2.0).resolved().temperature == 128.0, "an assumed one is used in its place"


def test_margins_of_which_most_are_the_same_still_have_a_spread():
    margins = torch.tensor([0.1] * 6 + [0.2, 0.3])
    assert margin_scale_of(margins) == pytest.approx(margins.std().item())


@pytest.fixture(autouse=True, scope="module")
def fewer_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mapo_studio.trainer.training.temperature.DRAWS", FEW)
        yield


@pytest.fixture(scope="module")
def unet(base):
    """With a LoRA that is not zero: it must not be asked."""
    unet = base.load_unet(CPU, torch.float32)
    with torch.no_grad():
        for parameter in adapter.attach(unet, adapter.LoraSettings(rank=4, dropout=0.5), seed=0):
            parameter.normal_()
    return unet.train()


def test_the_untouched_base_is_asked_and_the_model_left_as_it_was(base, encoded, unet):
    before = adapter.lora_state_dict(unet)
    margins = measure_margins(base, unet, encoded.pairs, 1.0, CPU, batch_size=4)
    assert (margins.shape, margins.dtype) == ((FEW,), torch.float64)
    assert margins.std() > 0
    bare = measure_margins(base, base.load_unet(CPU, torch.float32), encoded.pairs, 1.0, CPU, batch_size=4)
    assert torch.equal(margins, bare)
    assert unet.training
    assert all(torch.equal(before[name], now) for name, now in adapter.lora_state_dict(unet).items())


def test_batches_and_split_pairs_measure_the_same(base, encoded, unet):
    at_once = measure_margins(base, unet, encoded.pairs, 1.0, CPU, batch_size=8)
    one_by_one = measure_margins(base, unet, encoded.pairs, 1.0, CPU, split=True)
    assert torch.allclose(one_by_one, at_once, rtol=1e-3, atol=1e-6)
    scaled = measure_margins(base, unet, encoded.pairs, 0.5, CPU, batch_size=8)
    assert margin_scale_of(scaled) < margin_scale_of(at_once)


def test_each_draw_has_a_noise_level_of_its_own_and_each_pair_its_share(base, encoded, unet, monkeypatch):
    seen = []
    predict = type(base).predict
    monkeypatch.setattr(
        type(base), "predict", lambda self, *args: seen.extend(args[2].tolist()) or predict(self, *args)
    )
    measure_margins(base, unet, encoded.pairs[:1], 1.0, CPU, split=True)
    levels = sorted(set(seen))
    assert len(levels) == FEW
    gaps = [after - before for before, after in itertools.pairwise(levels)]
    assert max(gaps) - min(gaps) <= 1
    assert (levels[0] < 1000 // FEW, levels[-1] >= 1000 - 1000 // FEW) == (True, True)


def test_no_pairs_have_no_margins(base, unet):
    assert measure_margins(base, unet, [], 1.0, CPU).shape == (0,)


def go(workspace, config) -> Run:
    run = Run.create(workspace, config)
    train(run, StopRequest(run.stop_file))
    return run


def events(run: Run, kind: str) -> list[dict]:
    return [event for event in run.events() if event["event"] == kind]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def whole(workspace, settings, kept):
    """A run with automatic knobs, trained to its end, once for all tests here."""
    if not kept:
        kept["run"] = go(workspace, settings(name="whole", objective=AUTO))
    return kept["run"]


def test_a_run_trains_with_what_it_found_and_says_so(whole):
    (found,) = events(whole, "calibrated")
    assert found["temperature"] == pytest.approx(1 / found["spread"])
    assert found["temperature"] * found["margin_weight"] == pytest.approx(whole.config().objective.push)
    assert found["draws"] == FEW
    used = str(MaPO(found["margin_weight"], found["temperature"], 1.0))
    assert events(whole, "started")[0]["objective"] == used
    assert read_lora(whole.lora_file).metadata["mapo.objective_knobs"] == used
    assert f"auto: {found['temperature']:g}" in write_report(whole).read_text()


def test_neither_seed_nor_a_lora_to_continue_from_changes_it(workspace, settings, whole):
    other = go(
        workspace,
        settings(name="other", objective=AUTO, training={"seed": 5}, adapter={"continue_from": str(whole.lora_file)}),
    )
    assert events(other, "calibrated")[0]["spread"] == events(whole, "calibrated")[0]["spread"]


def test_a_resumed_run_goes_on_with_what_it_found_before_its_first_step(workspace, settings, whole, monkeypatch):
    run = Run.create(workspace, settings(name="resumed", objective=AUTO))
    train_step = Learner.train_step

    def cut(self, step, batches):
        if step == 5:
            raise RuntimeError("power")
        return train_step(self, step, batches)

    monkeypatch.setattr(Learner, "train_step", cut)
    with pytest.raises(RuntimeError):
        train(run, StopRequest(run.stop_file))
    monkeypatch.undo()
    # What is measured anew would be taken from a base that rounds otherwise: it must not be asked again.
    monkeypatch.setattr("mapo_studio.trainer.training.temperature.measure_margins", None)
    train(run, StopRequest(run.stop_file))
    assert len({event["spread"] for event in events(run, "calibrated")}) == 1
    one, other = read_lora(run.lora_file).state, read_lora(whole.lora_file).state
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_base_that_sees_no_difference_is_warned_about_and_trained_with_the_usual_temperature(
    workspace, settings, monkeypatch
):
    monkeypatch.setattr("mapo_studio.trainer.training.temperature.measure_margins", lambda *_, **__: torch.zeros(FEW))
    run = go(workspace, settings(name="same", objective=AUTO, training={"steps": 1}, watch={"evaluate_every": 0}))
    (found,) = events(run, "calibrated")
    assert (found["temperature"], found["draws"]) == (64.0, 0)
    assert any("no temperature can be set" in event["text"] for event in events(run, "warning"))

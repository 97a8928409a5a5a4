"""Which optimizer is built, what is said where another one had to be taken, and that it goes on where it was."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch
from mapo_studio.tests.simulated_devices import pretend
from mapo_studio.trainer.config.optimizers import OPTIMIZERS, Implementation, Optimizer
from mapo_studio.trainer.config.run_config import OptimizerConfig
from mapo_studio.trainer.training import optimizer as optimizers
from mapo_studio.trainer.training.optimizer import build_optimizer
from torch import nn

KINDS = ["adamw", "adamw8bit", "paged_adamw8bit"]


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((64, 128), (3, 5), (8, 16, 1, 1))]


def built(kind: str, parameters=None, **changes):
    settings = {"optimizer": kind, "weight_decay": 0.1} | changes
    return build_optimizer(OptimizerConfig(**settings), weights() if parameters is None else parameters)


def take(optimizer, parameters, steps: range) -> list[torch.Tensor]:
    for step in steps:
        optimizer.zero_grad()
        for number, one in enumerate(parameters):
            one.grad += torch.randn(one.shape, generator=torch.Generator().manual_seed(100 * step + number))
        optimizer.step(lr=0.01 * (step + 1), max_norm=1.0)
    return [one.detach().clone() for one in parameters]


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def without(monkeypatch, *libraries: str) -> None:
    for library in libraries:
        for name in (library, f"{library}.optim", f"{library}.prototype", f"{library}.prototype.low_bit_optim"):
            monkeypatch.setitem(sys.modules, name, None)


def test_eight_bit_states_are_really_kept_in_eight_bits():
    optimizer, notes = built("adamw8bit")
    values = optimizer.state_dict()["values"]
    assert notes == ()
    assert values["state1"].dtype == values["state2"].dtype == torch.uint8
    assert len(values["state1"]) == 64 * 128 + 3 * 5 + 8 * 16


def test_as_one_vector_the_weights_move_as_torchs_adamw_moves_them():
    ours, theirs = weights(), weights()
    plain = torch.optim.AdamW(theirs, betas=(0.9, 0.99), weight_decay=0.1)
    optimizer, _ = built("adamw", ours)
    take(optimizer, ours, range(4))
    for step in range(4):
        for number, one in enumerate(theirs):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(100 * step + number))
        nn.utils.clip_grad_norm_(theirs, 1.0)
        plain.param_groups[0]["lr"] = 0.01 * (step + 1)
        plain.step()
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


def test_eight_bit_steps_are_those_of_bitsandbytes():
    from bitsandbytes.optim import AdamW8bit

    ours, theirs = [nn.Parameter(torch.ones(64, 128))], nn.Parameter(torch.ones(64, 128))
    plain = AdamW8bit([theirs], betas=(0.9, 0.99), weight_decay=0.1)
    optimizer, _ = built("adamw8bit", ours)
    take(optimizer, ours, range(4))
    for step in range(4):
        theirs.grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(100 * step))
        nn.utils.clip_grad_norm_([theirs], 1.0)
        plain.param_groups[0]["lr"] = 0.01 * (step + 1)
        plain.step()
    assert torch.allclose(ours[0], theirs, atol=1e-7)


def test_what_a_step_returns_is_the_norm_before_clipping_and_gradients_are_spent():
    parameters = weights()
    optimizer, _ = built("adamw", parameters)
    optimizer.zero_grad()
    for one in parameters:
        one.grad.fill_(3.0)
    count = sum(one.numel() for one in parameters)
    norm = optimizer.step(lr=0.0, max_norm=1.0)
    assert norm.item() == pytest.approx(3 * count**0.5)
    assert all(one.grad is None for one in parameters)
    assert all(torch.equal(a, b) for a, b in zip(parameters, weights(), strict=True)), "at a rate of 0"


def test_what_backward_adds_to_a_layer_is_in_the_vectors_gradient():
    parameters = weights()
    optimizer, _ = built("adamw", parameters)
    optimizer.zero_grad()
    for _ in range(2):
        optimizer.scale((3 * parameters[0]).sum()).backward()
    assert optimizer.grad.count_nonzero() == 64 * 128
    assert set(optimizer.grad[: 64 * 128].tolist()) == {6.0}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_were_moved_to_another_device_and_back_are_still_trained(kind):
    """As the UNet is while an image is decoded: every layer's weight becomes a tensor of its own then."""
    moved, stayed = nn.ParameterList(weights()), nn.ParameterList(weights())
    optimizers_of = {}
    for layers in (moved, stayed):
        optimizers_of[layers], _ = built(kind, list(layers))
        optimizers_of[layers].flat.follow(layers)
        take(optimizers_of[layers], list(layers), range(2))
    moved._apply(torch.clone)
    moved.double().float()
    for layers in (moved, stayed):
        take(optimizers_of[layers], list(layers), range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(moved, stayed, strict=True))
    assert not torch.equal(moved[0], weights()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_kept_as_every_version_kept_them(kind):
    """So that a run which was stopped goes on: the moments of all weights as one vector, by the library's names."""
    parameters = weights()
    optimizer, _ = built(kind, parameters)
    take(optimizer, parameters, range(2))
    state = optimizer.state_dict()
    assert state.keys() == {"kind", "weights", "values", "scaler"}
    names = {"step", "exp_avg", "exp_avg_sq"} if kind == "adamw" else {"state1", "state2", "absmax1", "absmax2"}
    assert names <= state["values"].keys()
    assert all(len(state["values"][name]) == state["weights"] for name in ("exp_avg", "state1") if name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_optimizer_takes_the_very_same_steps(kind):
    parameters = weights()
    optimizer, _ = built(kind, parameters)
    halfway, state = take(optimizer, parameters, range(3)), through_a_file(optimizer.state_dict())
    whole = take(optimizer, parameters, range(3, 6))
    again = [nn.Parameter(one) for one in halfway]
    resumed, _ = built(kind, again)
    assert resumed.load_state_dict(state) is None
    assert all(torch.equal(a, b) for a, b in zip(take(resumed, again, range(3, 6)), whole, strict=True))


def test_states_of_another_kind_are_left_with_a_word(monkeypatch):
    parameters = weights()
    optimizer, _ = built("adamw8bit", parameters)
    take(optimizer, parameters, range(2))
    other, _ = built("adamw")
    note = other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert "bitsandbytes' 8-bit AdamW" in note
    assert "begin anew" in note
    assert other.state_dict()["values"] == {}, "none were taken"


def test_states_of_an_earlier_version_are_left_with_a_word():
    optimizer, _ = built("adamw")
    old = torch.optim.AdamW(weights())
    assert "earlier version" in optimizer.load_state_dict({"optimizer": old.state_dict()})


def test_paged_and_plain_eight_bit_states_can_be_exchanged():
    paged, notes = built("paged_adamw8bit")
    assert "cannot be paged" in notes[0], "a CPU's memory has nowhere to go"
    plain, _ = built("adamw8bit")
    assert plain.load_state_dict(paged.state_dict()) is None


def test_without_bitsandbytes_and_torchao_torchs_adamw_is_taken_and_said(monkeypatch):
    without(monkeypatch, "bitsandbytes", "torchao")
    optimizer, (note,) = built("adamw8bit")
    assert optimizer.kind == "torch's AdamW"
    assert note.startswith("bitsandbytes' 8-bit AdamW: ModuleNotFoundError")
    assert note.endswith("Using torch's AdamW instead, whose states need 4 times the memory")
    assert "torchao's" in note
    assert "\n" not in note


class Compiled(torch.optim.AdamW):
    """What of torchao's AdamW8bit is unlike torch's: the rate is a tensor, and must stay one."""

    def __init__(self, params, **settings):
        super().__init__(params, **settings)
        self.param_groups[0]["lr"] = torch.tensor(settings["lr"])

    def step(self, closure=None):
        assert isinstance(self.param_groups[0]["lr"], torch.Tensor)
        super().step(closure)


@pytest.mark.parametrize("place", ["torchao.optim", "torchao.prototype.low_bit_optim"])
def test_without_bitsandbytes_torchao_stands_in_from_wherever_it_has_it(monkeypatch, place):
    without(monkeypatch, "bitsandbytes", "torchao")
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchao.prototype", SimpleNamespace())
    monkeypatch.setitem(sys.modules, place, SimpleNamespace(AdamW8bit=Compiled))
    parameters = weights()
    optimizer, (note,) = built("adamw8bit", parameters)
    assert note.endswith("Using torchao's 8-bit AdamW instead")
    before = [one.detach().clone() for one in parameters]
    assert not any(torch.equal(a, b) for a, b in zip(take(optimizer, parameters, range(1)), before, strict=True))


def test_a_library_that_breaks_in_its_first_step_is_passed_over(monkeypatch):
    class Broken(torch.optim.AdamW):
        def step(self, closure=None):
            raise RuntimeError("no kernel image is available\nfor execution on the device")

    without(monkeypatch, "torchao")
    monkeypatch.setattr("bitsandbytes.optim.AdamW8bit", Broken)
    monkeypatch.setattr(optimizers, "_without_wait", lambda optimizer: optimizer)
    optimizer, (note,) = built("adamw8bit")
    assert optimizer.kind == "torch's AdamW"
    assert "RuntimeError: no kernel image is available;" in note


def test_where_paging_fails_the_states_stay_on_the_card(monkeypatch):
    class Unpaged:
        def __init__(self, *_, **__):
            raise AttributeError("cget_managed_ptr")

    monkeypatch.setattr(
        optimizers,
        "capabilities",
        lambda device: SimpleNamespace(backend="cpu", paged=True, eight_bit=("bitsandbytes",)),
    )
    monkeypatch.setattr("bitsandbytes.optim.PagedAdamW8bit", Unpaged)
    optimizer, (note,) = built("paged_adamw8bit")
    assert optimizer.kind == "bitsandbytes' 8-bit AdamW"
    assert "AdamW, paged: AttributeError: cget_managed_ptr" in note


@pytest.mark.parametrize(("name", "eight"), [(None, False), ("RTX 3060", True), ("Mac", True)])
def test_auto_is_eight_bit_on_a_card_and_the_faster_one_on_a_cpu(monkeypatch, name, eight):
    able = optimizers.capabilities(pretend(monkeypatch, *filter(None, [name])))
    monkeypatch.setattr(optimizers, "capabilities", lambda device: able)
    tried = []
    candidates = optimizers._candidates
    monkeypatch.setattr(
        optimizers, "_candidates", lambda row, _: tried.append(row.name) or candidates(OPTIMIZERS["adamw"], ["torch"])
    )
    _, notes = built("auto")
    assert tried == ["adamw8bit" if eight else "adamw"]
    assert notes == ()


def test_settings_reach_the_optimizer(monkeypatch):
    seen = {}
    adamw = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda vector, **settings: seen.update(settings) or adamw(vector, **settings)
    )
    built("adamw", learning_rate=0.5, beta1=0.1, beta2=0.2, weight_decay=0.3)
    assert (seen["lr"], seen["betas"], seen["weight_decay"]) == (0.5, (0.1, 0.2), 0.3)


def test_with_loss_scaling_a_step_is_the_same_and_an_overflow_is_left_out():
    parameters, plain = weights(), weights()
    scaled, _ = build_optimizer(OptimizerConfig(optimizer="adamw"), parameters, loss_scaling=True)
    bare, _ = build_optimizer(OptimizerConfig(optimizer="adamw"), plain)
    for optimizer, weight in ((scaled, parameters), (bare, plain)):
        optimizer.zero_grad()
        optimizer.scale(sum((one * one).sum() for one in weight)).backward()
        optimizer.step(lr=0.01, max_norm=1.0)
    assert all(torch.allclose(a, b) for a, b in zip(parameters, plain, strict=True))
    before, scale = [one.detach().clone() for one in parameters], scaled.state_dict()["scaler"]["scale"]
    scaled.zero_grad()
    scaled.grad.fill_(float("inf"))
    scaled.step(lr=0.01, max_norm=1.0)
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert scaled.state_dict()["scaler"]["scale"] < scale


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for one in self.param_groups[0]["params"]:
            one -= self.param_groups[0]["lr"] * one.grad.sign()


def test_an_optimizer_that_is_added_is_built_from_its_row(monkeypatch):
    """What its memory is counted as, and what saves memory for it, is tested where that is done."""
    lion = Implementation("torch", "Lion", ("lion.Lion",))
    monkeypatch.setitem(OPTIMIZERS, "lion", Optimizer("lion", 4, "in one float32 a weight", implementations=(lion,)))
    monkeypatch.setitem(sys.modules, "lion", SimpleNamespace(Lion=Lion))
    parameters = weights()
    optimizer, notes = build_optimizer(OptimizerConfig().model_copy(update={"optimizer": "lion"}), parameters)
    take(optimizer, parameters, range(1))
    assert (optimizer.kind, notes) == ("Lion", ())
    assert torch.allclose((parameters[0] - weights()[0]).abs(), torch.tensor(0.01), atol=1e-6)

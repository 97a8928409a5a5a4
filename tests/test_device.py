"""What is decided for each kind of device, from what torch reports of it."""

import pytest
import torch
from mapo_studio.tests.simulated_devices import GIB, pretend
from mapo_studio.trainer.device import Memory, capabilities, cards, memory_of, pick_device, pick_precision, total_memory
from mapo_studio.trainer.errors import UserError


@pytest.mark.parametrize(
    ("names", "kind"), [((), "cpu"), (("T4",), "cuda"), (("MI300X",), "cuda"), (("Arc",), "xpu"), (("Mac",), "mps")]
)
def test_auto_is_the_card_that_is_there(monkeypatch, names, kind):
    assert pretend(monkeypatch, *names).type == kind


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(UserError, match="sees no cuda device"):
        pick_device("cuda")
    with pytest.raises(UserError, match="not known"):
        pick_device("abacus")


@pytest.mark.parametrize(
    ("name", "precision", "vae", "attention"),
    [
        ("GTX 1080", "float16", torch.float32, "efficient"),
        ("T4", "float16", torch.float32, "efficient"),
        ("RTX 3060", "bfloat16", torch.bfloat16, "flash"),
        ("H100", "bfloat16", torch.bfloat16, "flash"),
        ("RX 6800", "float16", torch.float32, "math"),
        ("RX 7900 XTX", "bfloat16", torch.bfloat16, "flash"),
        ("MI300X", "bfloat16", torch.bfloat16, "flash"),
        ("Arc", "bfloat16", torch.bfloat16, "efficient"),
        ("Mac", "bfloat16", torch.float32, "math"),
        ("old Mac", "float32", torch.float32, "math"),
    ],
)
def test_precision_and_attention_are_what_the_card_has(monkeypatch, name, precision, vae, attention):
    device = pretend(monkeypatch, name)
    able = capabilities(device)
    assert (able.precision, able.vae, able.attention) == (precision, vae, attention)
    assert pick_precision("auto", device) == precision
    assert pick_precision("float32", device) == "float32"


def test_the_vae_is_never_in_float16(monkeypatch):
    for name in ("GTX 1080", "RX 6800", "old Mac", "Arc"):
        assert capabilities(pretend(monkeypatch, name)).vae != torch.float16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GTX 1080", ["GTX 1080 has no bfloat16"]),
        ("RTX 3060", []),
        ("RX 6800", ["gfx1030) has no bfloat16", "no flash attention for RX 6800"]),
        ("old Mac", ["needs macOS 14"]),
        ("Mac", []),
        ("Arc", []),
    ],
)
def test_what_is_done_without_is_said_in_a_line_each(monkeypatch, name, said):
    notes = capabilities(pretend(monkeypatch, name)).notes
    assert len(notes) == len(said)
    assert all(words in note and "\n" not in note for words, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("GTX 1080", ("int8", "nf4", "fp8")),
        ("T4", ("int8", "nf4", "fp8")),
        ("RX 7900 XTX", ("int8", "nf4", "fp8")),
        ("Arc", ("int8", "nf4", "fp8")),
        ("Mac", ("int8",)),
        (None, ("int8", "nf4", "fp8")),
    ],
)
def test_weights_can_be_stored_as_their_kernels_allow(monkeypatch, name, storage):
    assert capabilities(pretend(monkeypatch, *filter(None, [name]))).storage == storage


@pytest.mark.parametrize("names", [("RTX 3060",), ("Arc",), ()])
def test_without_bitsandbytes_what_needs_none_of_it_is_offered_as_storage(monkeypatch, names):
    able = capabilities(pretend(monkeypatch, *names, lacking=("bitsandbytes",)))
    assert able.storage == ("int8", "fp8")


def test_compiling_needs_triton_and_a_card_it_compiles_for(monkeypatch):
    assert capabilities(pretend(monkeypatch, "RTX 3060")).compiles
    assert not capabilities(pretend(monkeypatch, "GTX 1080")).compiles
    assert not capabilities(pretend(monkeypatch, "RTX 3060", lacking=("triton",))).compiles
    assert not capabilities(pretend(monkeypatch, "Mac")).compiles


def test_only_cards_with_memory_of_their_own_pin_and_page(monkeypatch):
    for name, own in (("RTX 3060", True), ("MI300X", True), ("Arc", True), ("Mac", False)):
        able = capabilities(pretend(monkeypatch, name))
        assert (able.pinned, able.paged) == (own, own)


def test_of_several_cards_each_is_judged_by_itself(monkeypatch):
    pretend(monkeypatch, "RTX 4090", "GTX 1080")
    assert cards() == {"cuda:0": 24 * GIB, "cuda:1": 8 * GIB}
    assert capabilities(torch.device("cuda")).name == "RTX 4090"
    assert capabilities(torch.device("cuda:1")).precision == "float16"
    assert total_memory(torch.device("cuda:1")) == 8 * GIB


def test_memory_is_the_cards(monkeypatch):
    assert memory_of(pretend(monkeypatch, "RTX 3060")) == Memory(12 * GIB, 6 * GIB)
    assert memory_of(pretend(monkeypatch, "Arc")) == Memory(16 * GIB, 8 * GIB)
    mac = pretend(monkeypatch, "Mac")
    assert memory_of(mac) == Memory(24 * GIB, 20 * GIB)
    assert (total_memory(mac), cards()) == (24 * GIB, {})


def test_this_cpu_really_does_what_is_said_of_it():
    cpu = torch.device("cpu")
    able = capabilities(cpu)
    assert (able.precision, able.vae, able.notes) == ("float32", torch.float32, ())
    assert memory_of(cpu) is None
    assert total_memory(cpu) is None
    stored = torch.ones(4).to(torch.float8_e4m3fn)
    assert "fp8" in able.storage
    assert stored.to(torch.bfloat16).sum() == 4
    assert (able.name, able.attention) == ("the CPU", "flash")


@pytest.mark.parametrize("names", [(), ("Mac",)])
def test_float16_is_refused_where_loss_scaling_is_not_proven(monkeypatch, names):
    with pytest.raises(UserError, match="float32 or bfloat16"):
        pick_precision("float16", pretend(monkeypatch, *names))

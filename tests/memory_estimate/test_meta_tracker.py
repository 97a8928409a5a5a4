"""Counting storage: what lives is counted once, what ended no more, and meta tensors count as real ones do."""

import gc

import pytest
import torch
from mapo_studio.trainer.memory_estimate.meta_tracker import META, MetaMemoryTracker, emulate_cuda_autocast, size_of
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.slow

KIB = 1024


def test_a_storage_counts_from_its_making_to_its_end():
    with MetaMemoryTracker() as live:
        kept = torch.empty(KIB, device=META)
        gone = torch.empty(2 * KIB, device=META)
        assert live.now == 12 * KIB
        del gone
        gc.collect()
        assert (live.now, live.peak) == (4 * KIB, 12 * KIB)
        del kept
    assert live.now == 0


def test_views_and_what_is_changed_in_place_count_once():
    with MetaMemoryTracker() as live:
        whole = torch.empty(8, 128, device=META)
        parts = (whole[2:], whole.t(), whole.view(-1), whole.unsqueeze(0), *whole.chunk(2), whole.add_(1).mul_(whole))
        assert live.now == live.peak == size_of([whole, *parts]) == 4 * KIB


def test_what_is_moved_off_the_card_counts_apart():
    with MetaMemoryTracker() as live:
        card = torch.empty(KIB, device=META)
        host = card.to("cpu")
        pinned = torch.empty(KIB, pin_memory=True)
        pinned.copy_(card, non_blocking=True)
        assert (live.now, live.host_now) == (4 * KIB, 8 * KIB)
        back = host.to(META)
        del card
        gc.collect()
        assert (live.now, live.peak, live.host_peak) == (4 * KIB, 8 * KIB, 8 * KIB)
    assert back.device.type == META.type


def test_operations_on_the_same_shapes_again_count_the_same():
    def step(x, weight):
        y = F.silu(F.linear(x, weight)) + 1
        (y * y).sum().backward()

    peaks = []
    for _ in range(2):
        x, weight = torch.empty(16, 64, device=META), nn.Parameter(torch.empty(32, 64, device=META))
        for _ in range(2):
            weight.grad = None
            with MetaMemoryTracker() as live:
                step(x, weight)
                peaks.append(live.peak - live.now)
    assert len(set(peaks)) == 1


def test_an_integer_and_a_fraction_make_different_things():
    with MetaMemoryTracker():
        counts = torch.zeros(4, dtype=torch.long, device=META)
        assert [(counts * factor).dtype for factor in (1, 1.0, True, 1)] == [
            torch.long,
            torch.float32,
            torch.long,
            torch.long,
        ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_on_a_card(dtype):
    weight = nn.Parameter(torch.empty(8, 8, device=META))
    x = torch.empty(2, 8, device=META)
    with emulate_cuda_autocast(), torch.autocast(META.type, dtype):
        y = F.linear(x, weight)
        assert (y.dtype, (x @ weight).dtype, torch.bmm(x[None], weight[None]).dtype) == (dtype,) * 3
        assert F.layer_norm(y, (8,)).dtype == torch.float32
        with torch.autocast(META.type, enabled=False):
            assert F.linear(x, weight).dtype == torch.float32
    assert F.linear(x, weight).dtype == torch.float32
    with emulate_cuda_autocast():
        assert F.linear(x, weight).dtype == torch.float32


def test_trained_weights_are_cast_once_for_all_of_a_forward_pass():
    weight = nn.Parameter(torch.empty(64, 64, device=META))
    x = torch.empty(2, 64, device=META)
    with (
        MetaMemoryTracker() as live,
        torch.no_grad(),
        emulate_cuda_autocast(),
        torch.autocast(META.type, torch.bfloat16),
    ):
        for _ in range(3):
            F.linear(x, weight)
        assert live.now == 64 * 64 * 2
    gc.collect()
    assert live.now == 0


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, 4), (torch.float32, 4)])
def test_attention_keeps_one_number_a_query_and_no_square(dtype, kept):
    q = torch.empty(1, 2, 4096, 64, dtype=dtype, device=META, requires_grad=True)
    with MetaMemoryTracker() as live, emulate_cuda_autocast():
        out = F.scaled_dot_product_attention(q, q, q)
        assert live.now - out.untyped_storage().nbytes() == pytest.approx(2 * 4096 * kept, abs=64)
        out.sum().backward()
    assert q.grad.dtype == dtype


def test_real_tensors_are_counted_the_same_way():
    def peak(device):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).to(device)
        x = torch.zeros(64, 256, device=device)
        with MetaMemoryTracker(torch.device(device)) as live:
            model(x).square().mean().backward()
        return live.peak

    assert peak("cpu") == pytest.approx(peak("meta"), rel=0.01)

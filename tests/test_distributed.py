"""Who a process is, what its share is, and that a process that is alone pays nothing for it."""

import subprocess
import sys

import pytest
import torch
from mapo_studio.tests.simulated_devices import pretend
from mapo_studio.trainer.cancellation import Cancelled
from mapo_studio.trainer.distributed import (
    SINGLE,
    World,
    explain_peer_error,
    from_env,
    init_distributed,
    is_peer_lost,
)
from mapo_studio.trainer.errors import UserError


def environment(monkeypatch, **variables: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_who_a_process_is_stands_in_the_environment(monkeypatch):
    environment(monkeypatch)
    assert from_env() is SINGLE
    environment(monkeypatch, WORLD_SIZE="1", RANK="0")
    assert from_env() is SINGLE
    environment(monkeypatch, WORLD_SIZE="8", RANK="5", LOCAL_RANK="1")
    assert from_env() == World(rank=5, size=8, local_rank=1)
    assert not from_env().is_main


@pytest.mark.parametrize("rank", [None, "two"])
def test_half_an_environment_is_refused(monkeypatch, rank):
    environment(monkeypatch, WORLD_SIZE="2", **({"RANK": rank} if rank else {}))
    with pytest.raises(UserError, match="use torchrun"):
        from_env()


def test_shares_are_disjoint_and_together_everything():
    items = list(range(11))
    shares = [World(rank, 4).shard(items) for rank in range(4)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_is_ones_own(monkeypatch):
    environment(monkeypatch)
    tensor = torch.ones(3)
    with init_distributed() as world:
        assert world is SINGLE
        world.all_reduce_(tensor)
        assert (world.any(True), world.any(False)) == (True, False)
        assert world.all_gather([1, 2]) == [1, 2]
        world.assert_equal("anything", 1)
        assert world.device("cpu") == torch.device("cpu")
    assert tensor.tolist() == [1, 1, 1]
    with pytest.raises(Cancelled), SINGLE.synchronized():
        raise Cancelled


def test_alone_no_torch_is_imported_to_find_that_out():
    script = (
        "import sys; from mapo_studio.trainer.distributed import init_distributed\n"
        "with init_distributed() as world: print(world.is_single, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_each_process_of_a_machine_takes_a_card_of_its_own(monkeypatch):
    pretend(monkeypatch, "RTX 4090", "RTX 4090")
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert [str(World(rank, 4, rank % 2).device("auto")) for rank in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert taken == [0, 1, 0, 1]
    with pytest.raises(UserError, match="start only 2 processes"):
        World(2, 3, 2).device("auto")
    with pytest.raises(UserError, match="cannot share cuda:1"):
        World(0, 2, 0).device("cuda:1")


def test_several_processes_share_a_cpu_but_not_a_mac(monkeypatch):
    assert World(1, 2, 1).device("cpu").type == "cpu"
    pretend(monkeypatch, "Mac")
    with pytest.raises(UserError, match="cannot share mps"):
        World(1, 2, 1).device("auto")


def test_that_another_process_is_gone_is_told_from_other_errors():
    assert is_peer_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234"))
    assert not is_peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_single_process_whose_connection_breaks_is_not_told_of_another_process():
    error = ConnectionResetError("[Errno 104] Connection reset by peer")
    assert explain_peer_error(error) is error

"""Each of doctor's checks, on a machine that is well and on one that is not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from mapo_studio.tests.simulated_devices import pretend
from mapo_studio.trainer import device as device_module
from mapo_studio.trainer.cli import doctor
from mapo_studio.trainer.cli.doctor import Finding
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.installer.torch_wheel import Card, Graphics
from mapo_studio.trainer.models.tokenizer import CLIP_REPO


def only(findings) -> Finding:
    (finding,) = findings
    return finding


def test_this_environment_lacks_nothing(tmp_path: Path):
    findings = list(doctor.examine(tmp_path / "not" / "there yet"))
    names = [
        "Python",
        "PyTorch",
        "device",
        "8-bit optimizer",
        "libraries",
        "torchvision",
        "tokenizer",
        "memory",
        "disk",
    ]
    assert sorted({finding.name for finding in findings}) == sorted(names)
    assert [finding for finding in findings if finding.status == "missing"] == []
    assert not (tmp_path / "not").exists()


def test_a_check_that_trips_does_not_hide_the_others(monkeypatch):
    def trips():
        raise RuntimeError("broken\ninstallation")

    monkeypatch.setattr(doctor, "memory", trips)
    findings = {finding.name: finding for finding in doctor.examine(None)}
    assert findings["memory"].status == "missing"
    assert findings["memory"].detail == "the check failed: RuntimeError: broken"
    assert findings["disk"].status == "ok"


@pytest.mark.parametrize(
    ("version", "status"), [((3, 9), "missing"), ((3, 10), "ok"), ((3, 13), "ok"), ((3, 14), "missing")]
)
def test_python_must_be_one_that_is_supported(monkeypatch, version: tuple[int, int], status: str):
    monkeypatch.setattr(sys, "version_info", version)
    assert only(doctor.python()).status == status


def test_torch_that_does_not_start_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert only(doctor.pytorch()).status == "missing"


def test_torch_names_what_it_was_built_for(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert only(doctor.pytorch()).detail == f"{torch.__version__}, built for CUDA 13.0"


@pytest.mark.parametrize(
    ("graphics", "cuda", "said"),
    [
        (Graphics(None), None, "enough to judge"),
        (Graphics(None, "Driver/library version mismatch"), "13.0", "Driver/library version mismatch"),
        (Graphics(Card("RTX 3060", 535, 8.6)), "13.0", "does not see the RTX 3060 (driver 535)"),
        (Graphics(Card("RTX 3060", 580, 8.6)), None, "CPU build, though there is a RTX 3060"),
    ],
)
def test_without_a_device_the_reason_is_told(monkeypatch, graphics: Graphics, cuda: str | None, said: str):
    monkeypatch.setattr(device_module, "pick_device", lambda wanted: torch.device("cpu"))
    monkeypatch.setattr(doctor, "find_card", lambda: graphics)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    finding = only(doctor.device())
    assert finding.status == "warning"
    assert said in finding.detail


def test_every_cuda_card_is_named_with_its_memory(monkeypatch):
    pretend(monkeypatch, "RTX 3060", "T4")
    first, second = (finding.detail for finding in doctor.device())
    assert first == "cuda:0 is RTX 3060, 12.0 GiB: bfloat16, flash attention"
    assert second.startswith("cuda:1 is T4, 15.0 GiB: float16, efficient attention; T4 has no bfloat16")


def test_the_card_of_a_mac_is_named_with_what_of_the_memory_it_may_have(monkeypatch):
    pretend(monkeypatch, "Mac")
    assert only(doctor.device()).detail == "mps is the GPU of this Mac, 24.0 GiB: bfloat16, math attention"


def test_bitsandbytes_is_believed_only_after_a_step(monkeypatch):
    assert only(doctor.optimizer()).status == "ok"
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    broken = only(doctor.optimizer())
    assert broken.status == "warning"
    assert "bitsandbytes" in broken.detail


def test_libraries_are_held_against_their_ranges(tmp_path: Path):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("# why\nnumpy>=1\npillow>=999\nno-such-library>=1\ntomli>=2; python_version < '3'\n")
    found = {finding.name: finding for finding in doctor.libraries(wanted)}
    assert {name: finding.status for name, finding in found.items()} == {
        "pillow": "warning",
        "no-such-library": "missing",
        "libraries": "ok",
    }
    assert found["libraries"].detail.startswith("numpy ")
    assert found["no-such-library"].mend == 'python -m pip install "no-such-library>=1"'


@pytest.mark.parametrize(
    ("code", "status"),
    [("", "ok"), ("raise RuntimeError('operator torchvision::nms does not exist')", "missing")],
)
def test_torchvision_may_be_absent_or_whole_but_not_broken(tmp_path: Path, monkeypatch, code: str, status: str):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert only(doctor.torchvision()).status == status
    sys.modules.pop("torchvision", None)


def test_tokenizer_is_looked_up_in_the_cache_alone(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert only(doctor.tokenizer()).status == "warning"
    repo = tmp_path / f"models--{CLIP_REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    (snapshot / "vocab.json").touch()
    assert only(doctor.tokenizer()).status == "warning"
    (snapshot / "merges.txt").touch()
    assert only(doctor.tokenizer()).status == "ok"


@pytest.mark.parametrize(("main", "swap", "status"), [(8, 0, "ok"), (4, 0, "warning"), (4, 4, "ok")])
def test_memory_and_page_file_must_hold_a_checkpoint_together(monkeypatch, main: int, swap: int, status: str):
    gib = 2**30
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=main * gib, total=16 * gib))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=swap * gib, total=swap * gib))
    assert only(doctor.memory()).status == status


@pytest.mark.parametrize(("free", "status"), [(100e9, "ok"), (1e9, "warning")])
def test_disk_is_that_of_the_workspace(tmp_path: Path, monkeypatch, free: float, status: str):
    asked = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=free))
    assert only(doctor.disk(tmp_path / "new" / "workspace")).status == status
    assert asked == [tmp_path]


FINDINGS = [
    Finding("good", "ok", "all [of] it"),
    Finding("bad", "missing", "no [red]card[/]", f"put{os.sep}one [in]"),
]


def test_printed_findings_hold_every_word_even_brackets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for finding in FINDINGS:
        doctor.print_finding(finding)
        printed = capsys.readouterr().out
        assert all(word in printed for word in (finding.name, finding.status, finding.detail, finding.mend))


@pytest.fixture
def two_findings(monkeypatch, capsys) -> list[str]:
    """Lets the command find FINDINGS alone; what had been printed when the second was looked for."""
    printed = []

    def examine(workspace: Path) -> Iterator[Finding]:
        yield FINDINGS[0]
        printed.append(capsys.readouterr().out)
        yield FINDINGS[1]

    monkeypatch.setattr(doctor, "examine", examine)
    return printed


def test_a_finding_is_printed_before_the_next_check_begins(two_findings, capsys):
    assert main(["doctor"]) == 1
    assert "all [of] it" in two_findings[0]
    assert "card" in capsys.readouterr().out


def test_json_holds_the_findings_and_nothing_else_is_printed(two_findings, capsys):
    assert main(["doctor", "--json"]) == 1
    assert two_findings == [""]
    assert [Finding(**found) for found in json.loads(capsys.readouterr().out)] == FINDINGS

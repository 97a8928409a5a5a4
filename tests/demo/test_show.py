"""The demo from end to end, as a person starts it."""

import json
from pathlib import Path

import pytest
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.demo import show
from mapo_studio.trainer.lora.file import read_lora
from PIL import Image


@pytest.mark.slow
def test_the_demo_learns_the_taste_and_forgets_no_caption(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(show, "PICTURES", 40)  # half of what it paints before and after
    assert main(["demo", "--json", "--workspace", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert said["preferred_before"] <= 0.6
    assert said["preferred_after"] >= 0.85
    assert said["caption_after"] >= said["caption_before"] - 0.05
    assert said["agreement"] >= 0.8
    assert f"{said['preferred_before']:4.0%}  ->  {said['preferred_after']:4.0%}" in out
    assert read_lora(Path(said["lora"])).family == "sdxl"
    assert Image.open(said["grid"]).width > 500
    report = Path(said["report"]).read_text()
    assert "What changed" in report
    assert "data:image/" in report

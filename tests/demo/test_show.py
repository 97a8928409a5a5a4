"""The demo from end to end, as a person starts it."""

from pathlib import Path

import pytest
from mapo_studio.trainer.lora.file import read_lora
from PIL import Image


@pytest.mark.slow
def test_the_demo_learns_the_taste_and_forgets_no_caption(shown_demo):
    assert shown_demo["preferred_before"] <= 0.6
    assert shown_demo["preferred_after"] >= 0.85
    assert shown_demo["caption_after"] >= shown_demo["caption_before"] - 0.05
    assert shown_demo["agreement"] >= 0.8
    assert f"{shown_demo['preferred_before']:4.0%}  ->  {shown_demo['preferred_after']:4.0%}" in shown_demo["printed"]
    assert read_lora(Path(shown_demo["lora"])).family == "sdxl"
    assert Image.open(shown_demo["grid"]).width > 500
    report = Path(shown_demo["report"]).read_text()
    assert "What changed" in report
    assert "data:image/" in report

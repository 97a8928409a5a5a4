"""Does the pack live in a real ComfyUI: is it loaded, does it stay out of the way, does it refuse what it must?"""

from __future__ import annotations

import pytest
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.trainer.demo.measure import measure

pytestmark = pytest.mark.slow


def test_the_tiny_base_paints_in_comfyui_what_it_is_asked_for(server):
    captions = ["a red circle at the top left", "a blue square at the bottom right"]
    for seed, caption in enumerate(captions):
        prompt = painting(caption, seed=seed, pictures=4)
        prompt["save"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
        pictures = server.pictures(server.run(prompt), "save")
        assert [picture.size for picture in pictures] == [(64, 64)] * 4
        assert measure(pictures, [caption] * 4).right >= 0.75

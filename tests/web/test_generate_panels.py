"""The two panels that paint, on the real page: candidates for prompts, and what is rejected for wanted pictures."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from mapo_studio.trainer.demo.shapes_world import captions, draw, dress, read
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.datasets import list_datasets
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.web.app import studio_app
from mapo_studio.web.server.security import AllowedHosts
from PIL import Image
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


@pytest.fixture
def wanted(tmp_path):
    """A folder with two pictures that are wanted, and their captions."""
    folder = tmp_path / "outputs" / "wanted"
    folder.mkdir(parents=True)
    for number, caption in enumerate(captions()[:2]):
        draw(dress(caption, np.random.default_rng(number), outline=True)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture
def address(tmp_path, wanted, serve):
    return serve(lambda port: studio_app(tmp_path / "workspace", AllowedHosts.of([], port), (tmp_path / "outputs",)))


@pytest.fixture
def collect(page, address):
    page.goto(address)
    page.get_by_role("tab", name="Collect").click()
    return page


def test_wanted_pictures_get_rejected_ones_beside_them(collect, wanted, tmp_path):
    collect.get_by_text("Only pictures that you want more of?").click()
    button = collect.locator("#targets-paint")
    button.click()
    expect(collect.get_by_text("say in which folder the pictures are")).to_be_visible()
    collect.locator("#targets-folder textarea, #targets-folder input").fill(str(wanted))
    steps = collect.get_by_label("Steps", exact=True).first
    expect(steps).to_have_value("")
    expect(steps).to_have_attribute("placeholder", "28")
    steps.fill("2")
    button.click()
    expect(collect.locator(".task.finished")).to_contain_text("2 of 2", timeout=120_000)
    expect(button).to_be_visible()
    store = open_store(tmp_path / "workspace")
    with store.reading() as session:
        (dataset,) = [one.name for one in list_datasets(session)]
    pairs = DatasetPairs(store, dataset).load().pairs
    assert sorted(pair.prompt for pair in pairs) == sorted(captions()[:2])
    assert all(read(Image.open(BytesIO(pair.chosen.read()))).outline for pair in pairs)


def test_candidates_are_painted_and_the_painting_is_stopped_and_gone_on_with(collect):
    collect.get_by_label("Prompts, one a line (empty").fill("\n".join(captions()[:3]))
    collect.get_by_role("button", name="More ▼").click()
    expect(collect.get_by_label("Width (px)", exact=True)).to_have_value("")
    collect.get_by_role("button", name="Paint", exact=True).click()
    collect.get_by_role("button", name="Pause", exact=True).click()
    expect(collect.locator(".task.paused")).to_be_visible(timeout=120_000)
    collect.get_by_role("button", name="Go on", exact=True).click()
    expect(collect.locator(".task.finished")).to_contain_text("12", timeout=120_000)
    expect(collect.get_by_role("button", name="Paint", exact=True)).to_be_visible()

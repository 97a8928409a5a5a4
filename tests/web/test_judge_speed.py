"""Is the next pair there at once, and is no press lost at ten a second, with pictures of a megabyte?"""

from __future__ import annotations

import time

import pytest
from mapo_studio.tests.web.judging_server import JudgingServer, picture
from mapo_studio.tests.web.test_judge_element import arrived, opened, visible
from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timed]

# The browser itself says when the frame after a key press was on the screen; what was in sight is read before.
WATCH = """
window.presses = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.name === 'keydown') window.presses.push(entry.duration);
}).observe({ type: 'event', durationThreshold: 16 });
window.seen = [];
window.whole = [];
// Before the element's own listener: afterwards the next pair is in sight.
addEventListener('keydown', () => {
  const judge = document.querySelector('mapo-judge')?.shadowRoot;
  if (!judge) return;
  const images = [...judge.querySelectorAll('img')];
  const prompt = judge.querySelector('.prompt p').textContent;
  window.seen.push(images.length === 2 ? Number(prompt.split(' ').pop()) : null);
  window.whole.push(images.every((image) => image.complete && image.naturalWidth === 1024));
}, { capture: true });
"""

BARE = """async () => {
  document.body.innerHTML = '<div style="display: flex; gap: 8px"></div>';
  const pair = () => Promise.all(['0001a', '0002a'].map(async (id) => {
    const image = Object.assign(new Image(), { src: `/api/picture/${id}`, decoding: 'sync', width: 620, height: 620 });
    await image.decode();
    return image;
  }));
  const pairs = [await pair(), await pair()];
  let turn = 0;
  addEventListener('keydown', () => {
    document.querySelector('div').replaceChildren(...pairs[(turn += 1) % 2]);
    setTimeout(pair, 50);
  });
  window.presses = [];
}"""


@pytest.fixture
def megabytes(page: Page, server: JudgingServer) -> JudgingServer:
    server.size = (1024, 1024)
    server.latency = 0.02
    sizes = [len(picture(1024, 1024, seed)) for seed in range(8)]
    assert min(sizes) > 900_000
    page.add_init_script(WATCH)
    opened(page, server)
    page.wait_for_timeout(2000)
    return server


@pytest.mark.slow
def test_the_next_pair_is_painted_within_a_tenth_of_a_second(page: Page, megabytes: JudgingServer):
    for _ in range(80):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(400)
    page.wait_for_timeout(500)
    told, seen = page.evaluate("[presses, seen]")
    late = percentiles(told, 80)
    print(f"median {late[0]:.0f} ms, p95 {late[1]:.0f} ms")
    assert seen == list(range(1, 81))
    assert late[1] < 100 or late[1] < 2 * bare_swap(page)


def percentiles(told: list[float], presses: int) -> tuple[float, float]:
    """Median and 95th percentile in ms; presses of less than 16 ms are not told."""
    durations = sorted([0.0] * (presses - len(told)) + told)
    return durations[presses // 2], durations[int(presses * 0.95)]


def bare_swap(page: Page) -> float:
    """The 95th percentile, in ms, where a press only swaps pictures and fetches others: how busy the machine is."""
    page.evaluate(BARE)
    for _ in range(40):
        page.keyboard.press("s")
        page.wait_for_timeout(400)
    page.wait_for_timeout(500)
    late = percentiles(page.evaluate("presses"), 40)[1]
    print(f"a bare swap on this machine now: p95 {late:.0f} ms")
    return late


@pytest.mark.slow
def test_ten_presses_a_second_answer_what_was_in_sight(page: Page, megabytes: JudgingServer):
    begin = time.monotonic()
    for press in range(50):
        page.keyboard.press("ArrowLeft" if press % 3 else "ArrowRight")
        time.sleep(max(0, begin + (press + 1) * 0.1 - time.monotonic()))
    seen, whole = page.evaluate("[seen, whole]")
    assert len(seen) == 50
    # Each pair is answered once, by the press after which it was gone; one before it was painted says
    # nothing.
    keys = ["left" if press % 3 else "right" for press in range(50)]
    left_over = visible(page)
    meant = {pair: key for pair, key in zip(seen, keys, strict=True) if pair not in (None, left_over)}
    said = arrived(page, megabytes, len(meant))
    assert [(one["pair"], one["answer"]) for one in said] == sorted(meant.items())
    assert [one["pair"] for one in said] == list(range(1, len(said) + 1))
    assert all(whole)
    print(f"{len(said)} of 50 presses found a pair in sight")
    # How many depends on how busy the machine is: all but a few on a quiet one.
    assert len(said) >= 15
    assert left_over == len(said) + 1

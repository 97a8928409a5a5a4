"""Charts as pixels: what is seen is what was measured, and nothing breaks them."""

import numpy as np
import pytest
from mapo_studio.trainer.reports.chart_image import draw_image
from mapo_studio.trainer.reports.charts import Chart, Line

BLUE, ORANGE = (90, 178, 255), (255, 143, 107)
GUIDE = (139, 139, 147)


def near(image, colour, left=0.0, right=1.0):
    """The (x, y) of pixels of about that colour, as shares of the picture, between two shares of its width."""
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 12)
    x, y = columns / image.width, rows / image.height
    inside = (x >= left) & (x < right)
    return x[inside], y[inside]


def chart(points, **values):
    return Chart("Agreement with you", "it rises", [Line("agreement", points)], **values)


def test_a_rising_course_rises_from_left_to_right():
    image = draw_image([chart([(0, 0.2), (50, 0.5), (100, 0.9)], share=True)], 100)
    assert image.size == (1024, 512)
    x, y = near(image, BLUE)
    assert y[x < 0.2].mean() > y[(x > 0.4) & (x < 0.6)].mean() > y[(x > 0.7) & (x < 0.85)].mean()


def test_charts_lie_side_by_side_and_do_not_reach_into_each_other():
    rising = chart([(0, 0.2), (100, 0.9)], share=True)
    falling = Chart("Loss", "it falls", [Line("loss", [(0, 0.9), (100, 0.2)], "two")])
    image = draw_image([rising, falling], 100)
    assert near(image, BLUE, 0, 0.5)[0].size
    assert near(image, ORANGE, 0.5, 1)[0].size
    assert not near(image, BLUE, 0.5, 1)[0].size
    assert not near(image, ORANGE, 0, 0.5)[0].size


def test_the_band_is_paler_than_its_line_and_lies_around_it():
    plain = np.asarray(draw_image([chart([(0, 0.5), (100, 0.5)], share=True)], 100)).astype(int)
    band = [(0, 0.3, 0.7), (100, 0.3, 0.7)]
    changed = np.abs(np.asarray(draw_image([chart([(0, 0.5), (100, 0.5)], band=band, share=True)], 100)) - plain).max(2)
    rows, _ = np.nonzero(changed > 8)
    line_rows = near(draw_image([chart([(0, 0.5), (100, 0.5)], share=True)], 100), BLUE, 0.3, 0.5)[1] * 512
    assert rows.min() < line_rows.min() < line_rows.max() < rows.max()


def test_a_guide_lies_at_its_height():
    image = draw_image([chart([(0, 0.9), (100, 0.9)], guide=(0.5, "tossing a coin"), share=True)], 100)
    _, course = near(image, BLUE, 0.3, 0.5)
    _, guide = near(image, GUIDE, 0.3, 0.5)
    assert guide.mean() > course.mean()


@pytest.mark.parametrize(
    "points",
    [[(0, 0.5)], [(3, 0.1), (3, 0.1)], [(0, 1e5), (9, -1e5)], [(n, (-1) ** n) for n in range(5000)]],
)
@pytest.mark.parametrize("rough", [False, True])
def test_strange_courses_are_drawn_within_the_picture(points, rough):
    strange = Chart("Loss", "", [Line("loss", points, rough=rough)], guide=(0.0, "nothing"))
    image = draw_image([strange], 1)
    assert near(image, BLUE)[0].size
    edge = np.asarray(image)[:, [0, -1]]
    assert (edge == (24, 24, 27)).all()


def test_two_ends_at_one_height_are_both_readable():
    lines = [Line("a", [(0, 0.5), (9, 0.5)], "one"), Line("b", [(0, 0.5), (9, 0.5)], "two")]
    image = draw_image([Chart("Errors", "", lines)], 9)
    labels = [near(image, colour, 0.94, 1)[1] for colour in (BLUE, ORANGE)]
    assert labels[0].max() < labels[1].min()


def test_what_was_not_measured_is_said_and_draws_no_axis():
    empty, drawn = (draw_image([chart(points, share=True)], 100) for points in ([], [(0, 0.5)]))
    assert not near(empty, BLUE)[0].size
    assert near(empty, (190, 190, 196))[0].size
    grid = [near(image, (52, 52, 58))[0].size for image in (empty, drawn)]
    assert grid[0] < grid[1] / 5  # some pixels at the edges of letters have the grid's shade

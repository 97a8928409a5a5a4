"""A dataset at a glance."""

import io
from pathlib import Path

import pytest
from mapo_studio.tests.stored_images import add_image
from mapo_studio.trainer.evaluation.dataset_overview import contact_sheet, in_words, newest
from mapo_studio.trainer.preferences.datasets import add_pair, add_prompt, create_dataset
from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.statistics import statistics_of
from mapo_studio.trainer.preferences.store import open_store
from PIL import Image

CHOSEN, REJECTED = (0, 200, 0), (200, 0, 0)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


@pytest.fixture
def filled(store):
    """filled(judged, waiting=0): a dataset whose chosen pictures are green and whose rejected ones are red."""

    def fill(judged, waiting=0):
        with store.writing() as session:
            dataset = create_dataset(session, "cats")
            for number in range(judged + waiting):
                prompt = add_prompt(session, dataset, f"cat {number}")
                two = []
                for colour in (CHOSEN, REJECTED):
                    file, image = io.BytesIO(), Image.new("RGB", (64, 64), colour)
                    image.putpixel((0, 0), (number, number, number))
                    image.save(file, "PNG")
                    two.append(add_image(store, session, file.getvalue(), "a cat"))
                pair = add_pair(session, dataset, prompt, *two)
                if number < judged:
                    said = "left" if number % 2 else "right"  # which one is on the left says nothing
                    shown = two[0] if number % 2 else two[1]
                    answer(session, "ann", Answer(pair.id, shown.sha256, said, "clearly", 1.0, "page", number, "judge"))

    return fill


def look(store):
    from mapo_studio.trainer.preferences.datasets import find_dataset

    with store.reading() as session:
        dataset = find_dataset(session, "cats")
        return newest(session, store, dataset), statistics_of(session, dataset, "ann")


def colours(sheet):
    return {colour for count, colour in sheet.getcolors(2**20) if count > 10_000}


def test_the_newest_pairs_are_shown_chosen_beside_rejected(store, filled):
    filled(judged=11, waiting=3)
    pairs, now = look(store)
    assert [prompt for prompt, _, _ in pairs] == [f"cat {number}" for number in range(10, 2, -1)]
    for _, chosen, rejected in pairs:
        assert Image.open(chosen).getpixel((5, 5)) == CHOSEN
        assert Image.open(rejected).getpixel((5, 5)) == REJECTED
    sheet = contact_sheet("cats", pairs)
    assert {CHOSEN, REJECTED} <= colours(sheet)
    assert sheet.getpixel((sheet.width // 8, sheet.height // 8)) == CHOSEN, "the left column is chosen"
    assert (now.judged, now.waiting) == (11, 3)


def test_the_words_count_what_is_trained_on_and_what_is_kept_aside(store, filled):
    filled(judged=40, waiting=2)
    _, now = look(store)
    said = in_words("cats", now)
    assert "42 pairs of 42 prompts; 40 judged by you, 2 waiting" in said
    assert f"40 with a preference: {40 - now.held_out_pairs} to train on, {now.held_out_pairs} kept aside" in said
    assert 0 < now.held_out_pairs < 15
    assert "agreement" not in said, "nothing was shown again"


@pytest.mark.parametrize("waiting", [0, 2])
def test_without_a_preference_the_sheet_says_so(store, filled, waiting):
    filled(judged=0, waiting=waiting)
    pairs, now = look(store)
    assert pairs == []
    empty = contact_sheet("cats", pairs)
    assert empty.width > empty.height > 100
    assert len(empty.getcolors(2**16)) > 2, "it says something"
    assert "0 with a preference" in in_words("cats", now)


def test_a_picture_that_is_gone_leaves_its_field_empty(store, filled):
    filled(judged=1)
    pairs, _ = look(store)
    Path(pairs[0][1]).unlink()
    sheet = contact_sheet("cats", pairs)
    assert REJECTED in colours(sheet)
    assert CHOSEN not in colours(sheet)

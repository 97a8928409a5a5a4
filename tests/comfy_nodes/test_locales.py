"""The page says everything in each language, and nothing is translated that is never said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACK = Path(__file__).parents[2]
LANGUAGES = sorted(path.name for path in (PACK / "locales").iterdir())
PAGE = {path.name: path.read_text(encoding="utf-8") for path in sorted((PACK / "comfy_nodes" / "page").glob("*.js"))}
ASKED = re.compile(r"\bword\(([^,)]*)")  # up to the values that go into it
COMPARED = re.compile(r"""===\s*["'][^"']*["']""")
COMMAND = re.compile(r"""\bcommand\("([\w.]+)\"""")


def read(language: str, file: str) -> dict[str, Any]:
    """Refuses a key that is there twice, as JSON does not."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [key for key, _ in pairs]
        return dict(pairs)

    text = (PACK / "locales" / language / f"{file}.json").read_text(encoding="utf-8")
    return json.loads(text, object_pairs_hook=once)


def words(language: str) -> dict[str, str]:
    return read(language, "main")["mapo"]


def test_english_and_chinese_are_there():
    assert LANGUAGES == ["en", "zh"]


def asked(text: str) -> Iterator[str]:
    """The keys that a file asks for, as regular expressions: `pick_title_${view}` asks for all that begin so."""
    for argument in ASKED.findall(text):
        keys = re.findall(r"""["'`]([^"'`]+)["'`]""", COMPARED.sub("", argument))
        assert keys or argument == "key", argument  # no test could find it; "key" is the function itself
        yield from (re.sub(r"\\\$\\\{.*?\\\}", r"\\w+", re.escape(key)) for key in keys)


def test_every_word_of_the_page_is_known():
    for name, text in PAGE.items():
        for key in asked(text):
            assert any(re.fullmatch(key, known) for known in words("en")), f"{name}: {key}"


def test_no_word_is_left_over():
    keys = {key for text in PAGE.values() for key in asked(text)}
    assert {known for known in words("en") if not any(re.fullmatch(key, known) for key in keys)} == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_the_same_things_as_english(language: str):
    assert set(words(language)) == set(words("en"))
    assert read(language, "main").keys() == {"mapo"}
    for key, text in words(language).items():
        assert text.strip() == text != "", key
        assert sorted(re.findall(r"\{\w*\}", text)) == sorted(re.findall(r"\{\w*\}", words("en")[key])), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_has_a_label(language: str):
    commands = {name.replace(".", "_") for name in COMMAND.findall(PAGE["mapo.js"])}
    labels = read(language, "commands")
    assert labels.keys() == commands
    assert len({label["label"] for label in labels.values()}) == len(commands)


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_kept_in_order_so_that_they_are_found(language: str):
    assert list(words(language)) == sorted(words(language))


def test_chinese_is_chinese():
    same = {key for key, text in words("zh").items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert same == set()


def test_settings_are_in_no_file_that_would_show_them_in_english_to_all():
    assert not list(PACK.glob("locales/*/settings.json"))

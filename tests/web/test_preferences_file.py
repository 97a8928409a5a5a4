"""What the studio remembers of its person."""

from __future__ import annotations

import json

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.web.server.preferences_file import Settings, SettingsFile


@pytest.fixture
def file(tmp_path) -> SettingsFile:
    return SettingsFile(tmp_path / "settings.json")


def test_without_a_file_there_are_defaults_and_a_name(file):
    assert file.read().look == "dark"
    assert file.read().comfyui == ""
    assert file.read().annotator
    assert not file.path.exists()


def test_what_was_changed_is_there_at_the_next_start_and_the_rest_stays(file, tmp_path):
    file.change(look="light", annotator="  Anna ")
    file.change(comfyui=f' "{tmp_path}" ')
    assert SettingsFile(file.path).read() == Settings(look="light", annotator="Anna", comfyui=str(tmp_path))


def test_an_empty_field_forgets_a_folder(file, tmp_path):
    file.change(loras=str(tmp_path))
    assert file.change(loras=" ").loras == ""


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("comfyui", "/no/such/folder", "comfyui: there is no folder /no/such/folder"),
        ("webui", "models", "whole path"),
        ("look", "pink", "look"),
        ("annotator", "  ", "annotator"),
        ("annotator", "a" * 201, "annotator"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_kept(file, field, value, said):
    file.change(look="light")
    before = file.path.read_text()
    with pytest.raises(UserError, match=said):
        file.change(**{"look": "dark", field: value})
    assert file.path.read_text() == before


def test_a_drive_that_is_not_plugged_in_today_forgets_nothing(file, tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    file.change(comfyui=str(drive))
    drive.rmdir()
    assert file.read().comfyui == str(drive)
    assert file.change(look="light").comfyui == str(drive)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"look": "pink"}', '{"annotator": ""}', "\udcff"])
def test_a_damaged_file_is_named(file, text):
    file.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"settings\.json"):
        file.read()


def test_settings_of_a_later_version_do_not_hinder(file):
    file.path.write_text(json.dumps({"look": "light", "something new": 1}))
    assert file.read().look == "light"

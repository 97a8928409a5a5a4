"""Files that are either whole or absent."""

import errno
import os

import pytest
from mapo_studio.trainer.atomic_files import atomic_write, write_text
from mapo_studio.trainer.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError), atomic_write(file) as part:
        part.write_text("half \N{SNOWMAN}", encoding="ascii")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(f"SafetensorError: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_one_sentence(tmp_path, error):
    with (
        pytest.raises(UserError, match=r"no room to write .*a\.txt: free some disk space"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise error


def test_the_folder_is_made(tmp_path):
    write_text(tmp_path / "b" / "c" / "a.txt", "x")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "x"

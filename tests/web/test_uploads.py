"""What of a zip, and of folders on this machine, gets into the studio."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.web.server.uploads import Limits, discard, folder_below, is_zip, unpacked
from PIL import Image


@pytest.fixture(autouse=True)
def passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of uploads; nothing may be left in it after a test but what the test put there."""
    folder = tmp_path / "passing"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    yield folder
    assert not list(folder.glob("zip-*"))


def png(colour: str = "red") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(made, "PNG")
    return made.getvalue()


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=how)
    return path


def contents(archive: Path, **kwargs) -> dict[str, bytes]:
    with unpacked(archive, "my.zip", **kwargs) as folder:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, **kwargs) -> str:
    with pytest.raises(UserError) as caught, unpacked(archive, "my.zip", **kwargs):
        raise AssertionError("it was let in")
    return str(caught.value)


def test_pictures_and_captions_come_out_and_the_rest_is_left_out(tmp_path):
    members = {
        "set/w/1.png": png(),
        "set/w/1.txt": b"a cat",
        "metadata.jsonl": b"{}",
        "virus.exe": b"MZ",
        "page.html": b"<script>",
        "__MACOSX/set/w/._1.png": b"junk",
        ".DS_Store": b"junk",
        "empty/": b"",
    }
    found = contents(zipped(tmp_path / "a.zip", members))
    assert found == {"set/w/1.png": png(), "set/w/1.txt": b"a cat", "metadata.jsonl": b"{}"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "a/../../evil.png",
        "/etc/evil.png",
        "C:/evil.png",
        "..\\evil.png",
        "a\\..\\evil.png",
        "a/.. /evil.png",
        "evil\n.png",
        "evil\u202egnp.png",
        "con.png",
        "a" * 300 + ".png",
        "deep/" * 100 + "x.png",
    ],
)
def test_a_name_that_is_not_safe_refuses_the_whole_zip(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", {"good.png": png(), name: png()})
    assert "not safe" in refused(archive)
    assert not list(tmp_path.rglob("evil*"))


def test_name_that_hides_its_end_behind_a_nul_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"evil.png_.exe": png()})
    archive.write_bytes(archive.read_bytes().replace(b"evil.png_.exe", b"evil.png\0.exe"))
    assert "my.zip" in refused(archive)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = zipfile.ZipInfo("passwd.txt")
    member.create_system = 3
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    assert "link" in refused(tmp_path / "a.zip")


def test_an_archive_within_is_refused_by_name_and_by_content(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"a.png": png()}).read_bytes()
    assert "another archive (in.zip)" in refused(zipped(tmp_path / "a.zip", {"in.zip": inner}))
    assert "another archive (in.png)" in refused(zipped(tmp_path / "b.zip", {"in.png": inner}))


def test_bomb_is_stopped_by_its_density_long_before_it_is_unpacked(tmp_path, passing):
    archive = zipped(tmp_path / "a.zip", {"zeros.txt": bytes(200 * 1024**2)})
    assert archive.stat().st_size < 1024**2
    assert "far more than pictures do" in refused(archive)


def test_many_members_that_share_one_bomb_are_stopped_as_a_whole(tmp_path):
    archive = zipped(tmp_path / "a.zip", {f"{i}.txt": bytes(12 * 1024**2) for i in range(8)})
    assert "far more than pictures do" in refused(archive)


def test_what_comes_out_is_counted_whatever_the_zip_says_of_itself(tmp_path):
    noise = os.urandom(3 * 1024**2)
    archive = zipped(tmp_path / "a.zip", {"a.png": noise, "b.png": noise}, zipfile.ZIP_STORED)
    assert "more than 0.00488 GiB" in refused(archive, limits=Limits(bytes=5 * 1024**2))
    # A directory that claims one byte for each: the reader then stops at that byte and finds the checksum wrong.
    data = archive.read_bytes()
    size = struct.pack("<L", len(noise))
    archive.write_bytes(data.replace(size + size, size + struct.pack("<L", 1)))
    assert "damaged" in refused(archive)


def test_too_many_members_are_refused_before_any_is_unpacked(tmp_path):
    archive = zipped(tmp_path / "a.zip", {f"{i}.txt": b"" for i in range(11)})
    assert "11 files; the most is 10" in refused(archive, limits=Limits(members=10))


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    assert "twice" in refused(zipped(tmp_path / "a.zip", {"a.png": png(), "A.png": png("blue")}))


def test_a_file_where_another_has_its_folder_is_refused(tmp_path):
    assert "my.zip" in refused(zipped(tmp_path / "a.zip", {"a.png": png(), "a.png/b.png": png()}))


def test_damaged_and_cut_zips_are_refused(tmp_path):
    whole = zipped(tmp_path / "a.zip", {"a.txt": os.urandom(5000)}).read_bytes()
    for number, data in enumerate((whole[:3000], whole[:100] + bytes(50) + whole[150:], b"PK\x03\x04", b"")):
        archive = tmp_path / f"{number}.zip"
        archive.write_bytes(data)
        assert "damaged" in refused(archive)


def test_encrypted_zip_is_named_so(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": png()})
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))
    assert "encrypted" in refused(archive)


def test_folder_is_gone_after_use_even_when_its_user_fails(tmp_path, passing):
    archive = zipped(tmp_path / "a.zip", {"a.png": png()})
    seen = []

    def fail():
        with unpacked(archive, "my.zip") as folder:
            seen.append((folder, folder.is_relative_to(passing), folder.exists()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    [(folder, was_below, was_there)] = seen
    assert was_below
    assert was_there
    assert not folder.exists()


def test_a_zip_is_known_by_its_content(tmp_path):
    archive = zipped(tmp_path / "looks-like.png", {"a.png": png()})
    (tmp_path / "a.zip").write_bytes(png())
    assert is_zip(archive)
    assert not is_zip(tmp_path / "a.zip")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("pictures/cats", "private"):
        (tmp_path / "home" / name).mkdir(parents=True)
        (tmp_path / "home" / name / "a.png").write_bytes(png())
    return tmp_path / "home"


def test_only_folders_below_a_root_are_read(home):
    root = (home / "pictures").resolve()
    assert folder_below([root], str(home / "pictures/cats")) == root / "cats"
    assert folder_below([root], f'"{home}/pictures"') == root
    for typed in (home / "private", home, home / "pictures/../private", home / "pictures2", "/", "relative", "/etc\0"):
        with pytest.raises(UserError):
            folder_below([root], str(typed))
    with pytest.raises(UserError, match="--root"):
        folder_below([], str(home / "pictures"))


def test_whether_a_forbidden_folder_exists_is_not_told(home):
    root = (home / "pictures").resolve()
    said = []
    for name in ("private", "nothing"):
        with pytest.raises(UserError) as caught:
            folder_below([root], str(home / name))
        said.append(str(caught.value).replace(name, "X"))
    assert said[0] == said[1]


@pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege there")
def test_links_do_not_lead_out_of_a_root(home):
    root = (home / "pictures").resolve()
    (root / "out").symlink_to(home / "private")
    with pytest.raises(UserError):
        folder_below([root], str(root / "out"))


def test_discarding_uploads_touches_nothing_else(tmp_path, passing):
    mine, other = passing / "a.png", tmp_path / "mine.png"
    for path in (mine, other):
        path.write_bytes(png())
    discard([mine, other, passing / "not-there.png"])
    assert not mine.exists()
    assert other.exists()

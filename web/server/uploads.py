"""Uploads and folders that a person names: what of them is let into the studio, and staged as files to import?

A zip is unpacked into a folder that is gone afterwards, and only as far as it stays within every limit here: they are
checked by what comes out of it, not by what it says of itself. Pictures are judged by their content when they are kept.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...trainer.atomic_files import explain_disk_full
from ...trainer.errors import UserError
from ...trainer.preferences.io.infotext import read_infotext

MAX_FILES = 1000
"""Files that are dropped at once."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
_ZIPPED_BESIDE = (".txt", ".caption", ".json", ".jsonl", ".csv", ".parquet")
_DROPPED_BESIDE = (".txt", ".caption", ".json", ".jsonl", ".parquet")
_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_LEFTOVERS = re.compile(r"(__MACOSX/|(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini|\._[^/]*)$)", re.IGNORECASE)
_PIECE = 1024 * 1024
# What Python's reader raises for bytes that only look like a zip, and for a file where another member has its folder.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError)
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """Of one zip. members: files and folders; bytes: unpacked, all together; ratio: unpacked to packed bytes."""

    members: int = 50_000
    bytes: int = 16 * 1024**3
    ratio: int = 200


@dataclass(frozen=True)
class StagedUpload:
    """Something to import: a file or folder, and how to name it to the person."""

    path: Path
    name: str


def is_zip(path: Path) -> bool:
    """By its first bytes: its name may say anything."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")


@contextmanager
def unpacked(archive: Path, label: str, limits: Limits = Limits()) -> Iterator[Path]:
    """The pictures and captions of a zip in a temporary folder. label: how to name it in an error.

    Files of other kinds are left out. Raises UserError, and leaves nothing behind, where a member would land outside
    the folder, is a link or an archive, is encrypted or damaged, or where the zip is beyond a limit.
    """
    folder = Path(tempfile.mkdtemp(prefix="zip-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    try:
        with explain_disk_full(folder):
            _unpack(archive, label, folder, limits)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stage_uploads(files: Sequence[Path], prompt: str = "") -> Iterator[tuple[list[StagedUpload], list[str]]]:
    """What dropped files hold, ready to be imported, and the names of those of no use here.

    Each zip is unpacked; all other files are staged beside each other, as they lay where they came from, so that
    captions find their pictures. A picture that says nothing of its prompt gets `prompt`, if there is one.
    Raises UserError for a zip that is not safe. All of it is gone afterwards.
    """
    with ExitStack() as kept:
        staged: list[StagedUpload] = []
        single: list[Path] = []
        useless: list[str] = []
        for file in files:
            if is_zip(file):
                staged.append(StagedUpload(kept.enter_context(unpacked(file, file.name)), file.name))
            elif file.suffix.lower() in (*IMAGE_SUFFIXES, *_DROPPED_BESIDE):
                single.append(file)
            else:
                useless.append(file.name)
        if single:
            folder = kept.enter_context(_staged_together(single, prompt))
            staged.append(StagedUpload(folder, "what you dropped"))
        yield staged, useless


def folder_below(roots: Sequence[Path], typed: str) -> Path:
    """The folder that a person typed, links followed. Raises UserError where it is below none of `roots`."""
    typed = typed.strip().strip("\"'")
    if not typed:
        raise UserError("say which folder")
    if not roots:
        raise UserError(
            "no folder of this machine may be read from this page: start the studio with --root FOLDER to allow one"
        )
    try:
        folder = Path(typed).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"{typed!r} is no folder") from None
    # Asked before whether it is there: who is not allowed to look may not find that out either.
    if not any(folder.is_relative_to(root) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise UserError(f"{folder} may not be read from this page: only {allowed} (see --root at the studio's start)")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    return folder


def discard(uploads: Sequence[Path]) -> None:
    """Remove what was uploaded, once it is kept elsewhere. Touches nothing outside the folder of uploads."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    for path in uploads:
        if folder and path.resolve().is_relative_to(Path(folder).resolve()):
            with suppress(OSError):
                path.unlink()


@contextmanager
def _staged_together(files: Sequence[Path], prompt: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dropped-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    try:
        with explain_disk_full(folder):
            for file in files:
                _link(file, _free_path(folder / file.name))
            for picture in sorted(folder.iterdir()) if prompt.strip() else ():
                caption = picture.with_suffix(".txt")
                if (
                    picture.suffix.lower() in IMAGE_SUFFIXES
                    and not caption.exists()
                    and not read_infotext(picture).prompt
                ):
                    caption.write_text(prompt, encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_path(path: Path) -> Path:
    """Of files with the same name, dropped from several folders, each keeps its own."""
    number, candidate = 2, path
    while candidate.exists():
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
    return candidate


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _unpack(archive: Path, label: str, folder: Path, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > limits.members:
                raise UserError(f"{label} holds {len(members)} files; the most is {limits.members}: bring it in parts")
            budget = _Budget(label, limits, archive.stat().st_size)
            names: set[str] = set()
            for member in members:
                path = _path_in(member, label)
                if path is None:
                    continue
                if str(path).lower() in names:  # on some disks a and A are the same file
                    raise UserError(f"{label} holds {path} twice; pack it anew")
                names.add(str(path).lower())
                _write(opened, member, folder / path, budget)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise  # the disk's, not the zip's
        raise UserError(f"{label} is damaged or packed in a way that cannot be read ({error}); pack it anew") from error


def _path_in(member: zipfile.ZipInfo, label: str) -> PurePosixPath | None:
    """Where a member goes below the folder; None: it is left out. Raises UserError for what no honest zip holds."""
    name = member.filename
    if member.is_dir() or _LEFTOVERS.match(name):
        return None
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UserError(f"{label} holds a link ({_shown(name)}); pack the files themselves")
    if member.flag_bits & 1:
        raise UserError(f"{label} is encrypted; pack it without a password")
    path = PurePosixPath(name)
    hidden = set("\\\0") & set(member.orig_filename)
    if hidden or path.is_absolute() or not all(map(_is_plain, path.parts)) or len(name) > 400:
        raise UserError(f"{label} holds a file with a name that is not safe ({_shown(name)}); it was not opened")
    if path.suffix.lower() in _ARCHIVES:
        raise UserError(f"{label} holds another archive ({_shown(name)}); unpack that first")
    return path if path.suffix.lower() in IMAGE_SUFFIXES + _ZIPPED_BESIDE else None


def _is_plain(part: str) -> bool:
    if not part.strip(". ") or not part.isprintable() or set(part) & set('<>:"|?*'):
        return False
    return len(part.encode("utf-8", "replace")) <= 255 and not _WINDOWS_DEVICE.fullmatch(part)


@dataclass
class _Budget:
    """How much of a zip may still be unpacked."""

    label: str
    limits: Limits
    packed: int
    unpacked: int = 0

    def take(self, size: int, of_member: int, member: zipfile.ZipInfo) -> None:
        self.unpacked += size
        too_dense = of_member > 16 * _PIECE and of_member > self.limits.ratio * max(member.compress_size, 1)
        # Members may share the same packed bytes, so the whole is looked at as well.
        if too_dense or (self.unpacked > 64 * _PIECE and self.unpacked > self.limits.ratio * self.packed):
            raise UserError(f"{self.label} unpacks to far more than pictures do; it was not opened")
        if self.unpacked > self.limits.bytes:
            most = self.limits.bytes / 1024**3
            raise UserError(f"{self.label} unpacks to more than {most:.3g} GiB: bring it in parts")


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(member) as source, path.open("xb") as target:
        while piece := source.read(_PIECE):
            if not size and piece[:4] == b"PK\x03\x04":
                raise UserError(f"{budget.label} holds another archive ({_shown(member.filename)}); unpack that first")
            size += len(piece)
            budget.take(len(piece), size, member)
            target.write(piece)


def _shown(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable if len(printable) <= 80 else printable[:77] + "..."

"""Zips of trained models taken apart: only what a model is made of, nowhere else, and no more than was said."""

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.errors import DataError, OrchestratorError, is_of_a_disk
from orchestrator.storage.interface import is_plain

MOST_MEMBERS = 10_000
MOST_JSON_BYTES = 64 * 2**20
MOST_WEIGHTS_BYTES = 16 * 2**30
_PART = re.compile(r"[A-Za-z0-9][\w. ()+-]{0,120}")
"""Of a path to a file that is read; browsers and file managers name copies `model (1)`."""
_MOST_FOLDERS = 3
"""In which a model lies: that of all results, that of its data set, and its own."""
_OF_A_MODEL = re.compile(r"(plans|dataset|model)\.json|model_card\.md|fold_(\d{1,3}|all)/checkpoint_\w{1,20}\.pth")
_MOST_NAME_BYTES = 255
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_UNIX = 3


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Context with a temporary folder that holds the models of a zip; raises DataError as `unpack` does."""
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        unpack(archive, Path(folder))
        yield Path(folder)


def unpack(archive: Path, folder: Path) -> list[str]:
    """Write plans, description and weights of each model of a zip into a folder, and nothing else that is in it.

    Parameters
    ----------
    archive
        As nnU-Net's `export_model_to_zip` or this project's `export` makes it.
    folder
        Is there already.

    Returns
    -------
    list of str
        Names of what was left out.

    Raises
    ------
    DataError
        For what is no zip, a name that leads elsewhere, a link, two files of one name, a password, or more bytes than a
        model has; nothing outside of the folder was written then.
    """
    with opened_zip(archive, what="a trained model", most_bytes=_most_bytes) as (opened, members):
        needed = [member for member in members if _is_needed(member.filename)]
        if not any(PurePosixPath(member.filename).name == "plans.json" for member in needed):
            raise DataError(f"{archive}: no plans.json in it; expected a zip of a trained model of nnU-Net")
        for member in needed:
            _write(opened, member, folder / member.filename)
    return sorted({member.filename for member in members} - {member.filename for member in needed})


def named(archive: Path, folder: Path, error: OrchestratorError) -> str:
    """Return what is wrong with a model that was unpacked, of the zip instead of a temporary folder."""
    words = str(error).replace(f"{folder}/", "").replace(str(folder), "the model")
    return f"{archive}: {words}"


@contextmanager
def opened_zip(
    archive: Path, *, what: str, most_bytes: Callable[[str], int | None]
) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Context with a zip of strangers and the files in it, whose names lead nowhere else and which are no links.

    Parameters
    ----------
    archive
        The zip.
    what
        What it should be, for errors.
    most_bytes
        Returns how large a file of that name may be; None for one that is not read.

    Raises
    ------
    DataError
        For what is no zip, a name that leads elsewhere, a link, two files of one name, a password, or more bytes than
        there may be; also where reading fails within the context.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _files_of(opened)
            _check(archive, members, what=what, most_bytes=most_bytes)
            yield opened, members
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if is_of_a_disk(error):
            raise
        raise DataError(f"{archive}: cannot be unpacked ({error}); expected a whole zip of {what}") from error


def _files_of(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of a zip; Windows has a program that divides all paths by backslashes, against the format."""
    entries = opened.infolist()
    if not any("/" in entry.filename for entry in entries):
        for entry in entries:
            entry.filename = entry.filename.replace("\\", "/")
    return [entry for entry in entries if not entry.is_dir()]


def _check(
    archive: Path, members: list[zipfile.ZipInfo], *, what: str, most_bytes: Callable[[str], int | None]
) -> None:
    if len(members) > MOST_MEMBERS:
        raise DataError(f"{archive}: {len(members)} files; expected at most {MOST_MEMBERS}")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
        if not _is_plain(name, is_read=most_bytes(name) is not None):
            found = "a name that leads elsewhere, or no plain one"
        elif kind not in {0, stat.S_IFREG}:
            found = "a link or device"
        elif name.lower() in seen:
            found = "a second file of that name"
        elif member.flag_bits & 0x1:
            found = "encrypted"
        elif member.compress_type not in _METHODS:
            found = f"compressed with method {member.compress_type}"
        elif (most := most_bytes(name)) is not None and member.file_size > most:
            found = f"{member.file_size} bytes"
        else:
            seen.add(name.lower())
            continue
        raise DataError(f"{archive}: {name[:120]!r} is {found}; expected plain files of {what}. Nothing is taken")


def _is_plain(name: str, *, is_read: bool) -> bool:
    """Whether a name leads nowhere else; others than those of files that are read may be hidden or long."""
    parts = name.split("/")
    if is_read:
        return all(_PART.fullmatch(part) for part in parts)
    return is_plain(name) and max(len(part.encode(errors="surrogateescape")) for part in parts) <= _MOST_NAME_BYTES


def _is_needed(name: str) -> bool:
    """Whether a file is one of a model, in so many folders."""
    parts = PurePosixPath(name).parts
    below = range(min(len(parts), _MOST_FOLDERS + 1))
    return any(_OF_A_MODEL.fullmatch("/".join(parts[depth:])) is not None for depth in below)


def _most_bytes(name: str) -> int | None:
    if not _is_needed(name):
        return None
    return MOST_WEIGHTS_BYTES if name.endswith(".pth") else MOST_JSON_BYTES


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write a file; zipfile gives no more bytes than the directory of the zip says, and compares the checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)

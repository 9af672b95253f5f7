"""Files of a download, loose in a folder or inside a zip or tar archive, read without unpacking the whole."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from orchestrator.configuration import listing
from orchestrator.errors import is_of_a_disk
from orchestrator.images.problem import SourceError, reading
from orchestrator.images.source_file import SourceFile

ARCHIVE_SUFFIXES = (".zip", ".tar")
_EXPANDABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_UNKNOWN_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_IS_ENCRYPTED = 0x1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTree:
    """All files of one folder or archive."""

    root: Path
    """The folder or archive."""
    files: Mapping[str, SourceFile]
    """Relative name with `/` to file, sorted by name; files that macOS adds (`._*`, `__MACOSX/`) are left out."""

    def below(self, *folder: str) -> dict[str, list[SourceFile]]:
        """File name to files of that name, of those directly in any folder whose path ends with these parts."""
        found: dict[str, list[SourceFile]] = {}
        for name, file in self.files.items():
            if not folder or PurePosixPath(name).parent.parts[-len(folder) :] == folder:
                found.setdefault(file.name, []).append(file)
        return found


def the_only(files: Sequence[SourceFile]) -> SourceFile:
    """Return the file; raises SourceError if there are several: which of them is meant cannot be known."""
    if len(files) > 1:
        raise SourceError.of(
            files[0],
            found=f"{len(files)} files for it, another one being {files[1]}",
            expected="one",
            advice="Move the others out of the folder of the download.",
        )
    return files[0]


def open_tree(folder: Path, *, stem: str, origin: str) -> FileTree:
    """Index the unpacked folder `folder/stem` or else the archive `folder/stem.zip` or `.tar`.

    Parameters
    ----------
    folder
        Folder of the download.
    stem
        Name of the archive without its suffix.
    origin
        Where the download comes from, for the advice.

    Raises
    ------
    SourceError
        If there is neither, or the archive is damaged.
    """
    if (folder / stem).is_dir():
        return folder_tree(folder / stem)
    for suffix in ARCHIVE_SUFFIXES:
        archive = folder / f"{stem}{suffix}"
        if archive.is_file():
            return _archive_tree(archive, origin=origin)
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    raise SourceError.of(
        folder / stem,
        found=f"neither a folder nor an archive of that name among {listing(there)}",
        expected=f"{stem}.zip, {stem}.tar or the unpacked folder {stem}",
        advice=f"Get it from {origin}.",
    )


def folder_tree(root: Path) -> FileTree:
    """Index every file below a folder."""
    names = sorted(path.relative_to(root).as_posix() for path in files_below(root))
    files = {name: SourceFile(path=root / name) for name in names if not _is_of_macos(name)}
    return FileTree(root=root, files=MappingProxyType(files))


def files_below(root: Path, *, enter: Callable[[str], bool] = lambda _: True) -> Iterator[Path]:
    """Yield every file below a folder; links are followed, a folder that is met a second time is not entered again.

    Parameters
    ----------
    root
        The folder.
    enter
        Whether a folder of this name is looked into.

    Raises
    ------
    SourceError
        For a folder that cannot be listed.
    """
    seen = set()
    for parent, folder_names, file_names in os.walk(root, followlinks=True, onerror=_not_listed):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            folder_names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folder_names[:] = sorted(filter(enter, folder_names))
        yield from (Path(parent) / name for name in sorted(file_names))


def _not_listed(error: OSError) -> None:
    if is_of_a_disk(error):
        raise error
    raise SourceError.of(
        error.filename,
        found=f"a folder that cannot be listed ({error.strerror})",
        expected="a readable folder",
        advice="Check its permissions.",
    ) from error


def _archive_tree(archive: Path, *, origin: str) -> FileTree:
    status = archive.stat()
    with reading(archive):
        try:
            names = _member_names(archive, status.st_mtime_ns, status.st_size)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            if is_of_a_disk(error):
                raise
            raise SourceError.of(
                archive,
                found=f"a damaged archive of {status.st_size} bytes ({error})",
                expected=f"a whole {archive.suffix[1:]} archive",
                advice=f"Download it again from {origin}.",
            ) from error
    doubled = next((name for name, following in pairwise(names) if name == following), None)
    if doubled is not None:
        raise SourceError.of(
            archive,
            found=f"an archive with two files {doubled}",
            expected="each name once",
            advice=f"Unpack the right one into a folder {archive.stem} beside it.",
        )
    files = {name: SourceFile(path=archive, member=name) for name in names if not _is_of_macos(name)}
    return FileTree(root=archive, files=MappingProxyType(files))


@lru_cache(maxsize=16)
def _member_names(archive: Path, _mtime_ns: int, num_bytes: int) -> tuple[str, ...]:
    # An archive is indexed once for all of its cases; time and size in the key notice a replaced file.
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if not info.is_dir() and not _is_of_macos(info.filename)]
        _check_can_expand(archive, members)
        return tuple(sorted(info.filename for info in members))
    with tarfile.open(archive, mode="r:") as tar:
        # What is stored once and named twice, tar writes as a link.
        stored = (each for each in tar.getmembers() if each.isfile() or each.islnk() or each.issym())
        names = tuple(sorted(each.name for each in stored))
        # tarfile takes an archive that was cut between two members for a whole one: the closing block of zeros tells.
        if tar.offset + tarfile.BLOCKSIZE > num_bytes:
            raise tarfile.ReadError("no mark at its end")
        return names


def _check_can_expand(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise SourceError if a member is encrypted or compressed in a way that Python's zipfile does not know."""
    for info in members:
        if info.flag_bits & _IS_ENCRYPTED:
            found = f"an archive whose {info.filename} is encrypted with a password"
        elif info.compress_type not in _EXPANDABLE:
            method = _UNKNOWN_METHODS.get(info.compress_type, f"method {info.compress_type}")
            found = f"an archive whose {info.filename} is compressed with {method}"
        else:
            continue
        raise SourceError.of(
            archive,
            found=found,
            expected="an archive that can be read without unpacking it (stored, deflate, bzip2 or lzma, no password)",
            advice=f"Unpack it into a folder {archive.stem} beside it with a tool that knows this, such as 7-Zip.",
        )


def _is_of_macos(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith("._") or "__MACOSX" in path.parts

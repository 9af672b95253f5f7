"""What the files looked like that a case came from, so that one which was replaced since is noticed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.images.problem import SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStamp:
    """One file as the file system shows it, which costs no reading."""

    name: str
    """Below the data folder, with `/`; an archive counts as one file."""
    num_bytes: int
    """Its size."""
    mtime_ns: int
    """When it was changed, as the file system has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStamp:
    """Files that an image or a label map came from."""

    files: tuple[FileStamp, ...]
    """As they were before they were read, by name; of a DICOM series all files that it was chosen from."""
    sha256: str
    """Digest of the content that was used: of the compressed file, or of the digests of a series' slices."""


def stamp_files(paths: Iterable[Path], *, downloads: Path) -> tuple[FileStamp, ...]:
    """Return how files below the data folder look now, by name; raises SourceError for one that cannot be looked at."""
    stamps = []
    for path in set(paths):
        try:
            status = path.stat()
        except (FileNotFoundError, PermissionError) as error:
            raise SourceError.of(
                path,
                found=f"a file that cannot be opened ({error.strerror})",
                expected="a readable file",
                advice="Check its permissions or download it again.",
            ) from error
        name = path.relative_to(downloads).as_posix()
        stamps.append(FileStamp(name=name, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns))
    return tuple(sorted(stamps, key=lambda stamp: stamp.name))


def changed_files(before: Sequence[FileStamp], now: Sequence[FileStamp]) -> tuple[str, ...]:
    """Return the names of files that look different now, that are gone, and that have come."""
    was, is_now = ({stamp.name: stamp for stamp in stamps} for stamps in (before, now))
    return tuple(sorted(name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name)))

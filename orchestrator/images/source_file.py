"""A file of somebody else, loose in a folder or inside a zip or tar archive, read without unpacking the whole."""

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.images.problem import SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a download."""

    path: Path
    """The file, or the archive that holds it."""
    member: str | None = None
    """Name inside the archive; None for a loose file."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def name(self) -> str:
        """Last part of its name."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open for reading in binary; raises SourceError if it cannot be opened."""
        try:
            if self.member is None:
                with self.path.open("rb") as stream:
                    yield stream
            elif self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                    yield stream
            else:
                with tarfile.open(self.path, mode="r:") as tar, _extracted(tar, self.member) as stream:
                    yield stream
        except (zipfile.BadZipFile, tarfile.TarError, PermissionError, FileNotFoundError) as error:
            raise SourceError.of(
                self,
                found=f"a file that cannot be opened ({error})",
                expected="a readable file",
                advice="Check its permissions or download it again.",
            ) from error


def _extracted(tar: tarfile.TarFile, member: str) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.TarError(f"{member} is not a regular file")
    return stream

"""A file of somebody else, loose in a folder or inside a zip or tar archive, read without unpacking the whole."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.errors import is_of_a_disk
from orchestrator.images.problem import SourceError


def what_is_instead(path: Path) -> str:
    """Say what is there where no file is: nothing, a link that leads nowhere, or a folder, a pipe and the like."""
    if not os.path.lexists(path):
        return "no such file"
    if leads_nowhere(path):
        return f"a link to {path.readlink()}, which is not there"
    return "neither a file nor a link to one"


def leads_nowhere(path: Path) -> bool:
    """Whether it is a link to what is not there, as git-annex and DVC leave of files that were not fetched."""
    try:
        path.stat()
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:  # of links in a circle, among others
        return False
    return False


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
        with ExitStack() as opened:
            try:
                stream = self._open(opened)
            except (OSError, zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
                if is_of_a_disk(error):
                    raise
                raise self._problem(str(error), advice="Check its permissions or download it again.") from error
            except (NotImplementedError, RuntimeError) as error:  # a method of compression, or a password
                raise self._problem(
                    str(error), advice="Unpack the archive with another program, into a folder of its name."
                ) from error
            yield stream

    def _open(self, opened: ExitStack) -> IO[bytes]:
        # A pipe or a device would be waited for, or never end.
        if os.path.lexists(self.path) and not self.path.is_file():
            raise OSError(what_is_instead(self.path))
        if self.member is None:
            return opened.enter_context(self.path.open("rb"))
        if self.path.suffix == ".zip":
            return opened.enter_context(opened.enter_context(zipfile.ZipFile(self.path)).open(self.member))
        tar = opened.enter_context(tarfile.TarFile(self.path))
        stream = tar.extractfile(self.member)
        if stream is None:
            raise tarfile.TarError(f"{self.member} is not a regular file")
        return opened.enter_context(stream)

    def _problem(self, reason: str, *, advice: str) -> SourceError:
        return SourceError.of(
            self, found=f"a file that cannot be opened ({reason})", expected="a readable file", advice=advice
        )

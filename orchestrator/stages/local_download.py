"""A download in a local folder, wherever it lies; and how its files look there."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import DataError
from orchestrator.sources.stamps import FileStamp, SourceStamp
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.filesystem import open_storage


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalDownload:
    """A data folder of this machine with what a case needs."""

    folder: Path
    remote: Mapping[str, tuple[int, int]] | None = None
    """By name below the data folder, bytes and time of each file where it was fetched from; None if it was not."""

    def has(self, name: str) -> bool:
        """Whether a file is below the data folder, also if it was not fetched."""
        return (self.folder / name).is_file() if self.remote is None else name in self.remote

    def files_at_home(self, files: Sequence[FileStamp]) -> tuple[FileStamp, ...]:
        """Return how files look where the download lies: a copy has a time of its own."""
        if self.remote is None:
            return tuple(files)
        return tuple(stamped(file.name, self.remote[file.name]) for file in files)

    def at_home(self, source: SourceStamp) -> SourceStamp:
        """Return the stamp of what was read, with its files as they look where the download lies."""
        return replace(source, files=self.files_at_home(source.files))


def stamped(name: str, size_and_time: tuple[int, int]) -> FileStamp:
    """Return the stamp of a file of these bytes and this time."""
    num_bytes, mtime_ns = size_and_time
    return FileStamp(name=name, num_bytes=num_bytes, mtime_ns=mtime_ns)


@contextmanager
def local_download(location: str, download: str, *, case_name: str) -> Iterator[LocalDownload]:
    """Context with a local folder that holds a download; of one in a bucket, what the case needs.

    The copies of its files lie in the cache of this machine and are linked to, and stay there as long: they are fetched
    once for all of its processes, again where they have changed, and nothing but links is left behind by a process that
    is killed.
    """
    if "://" not in location:
        yield LocalDownload(folder=Path(location))
        return
    from orchestrator.sources.registry import concerned_files

    storage = open_storage(location)
    files = storage.sizes_and_times(download)
    if not files:
        raise DataError(f"{location}/{download}: no files found; expected the download as its owner ships it")
    concerned = set(concerned_files(list(files), storage=storage, download=download, case_name=case_name))
    with keeping_copies(), tempfile.TemporaryDirectory(prefix="download-") as folder:
        for key in files:
            target = Path(folder) / key
            # Also for files that stay away: what is said of a missing file follows from the folders that are there.
            target.parent.mkdir(parents=True, exist_ok=True)
            if key in concerned:
                target.symlink_to(storage.fetch(key))
        yield LocalDownload(folder=Path(folder), remote=files)

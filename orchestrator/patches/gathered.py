"""Patch files of a training at hand, wherever they lie."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.patches.record import PatchRecord
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage


@contextmanager
def gathered_patches(storage: Storage, records: Mapping[str, PatchRecord]) -> Iterator[Path]:
    """Context with a folder that holds files under their own names, for reading only; records are by their keys.

    All files are linked to. Of those in a local or shared folder the sizes are compared; of a bucket, the digests of
    copies on this machine, which stay as long.

    Raises
    ------
    IntegrityError
        If a file is not what its record says.
    StorageError
        If one cannot be fetched.
    """
    with keeping_copies(), tempfile.TemporaryDirectory(prefix="patches-") as folder:
        for key, record in records.items():
            path = storage.fetch(key, sha256=record.sha256).resolve()
            record.check_size(path, name=f"{storage.location}/{key}")
            (Path(folder) / path.name).symlink_to(path)
        yield Path(folder)

"""Objects below a prefix of a bucket: what is the same whoever keeps them."""

import tempfile
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from orchestrator.errors import StorageError
from orchestrator.storage import copies
from orchestrator.storage.interface import TEMPORARY_PREFIX, Storage
from orchestrator.storage.local import is_full, storage_error
from orchestrator.storage.private_folder import where_space_is_short

NUM_CONFLICTS = 5
"""Exclusive puts that may collide with a put under way before the storage gives up."""
WRITER = "writer"
"""Metadata of an object that was created exclusively: who has done it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectHead:
    """What is known of an object without its content."""

    num_bytes: int
    version: str
    """Another one for another content."""


class BucketStorage(Storage):
    """Objects below a prefix; what a library raises is turned into a StorageError in one place.

    Implementations get whole names of objects, prefix included, and raise what their library raises.
    """

    is_remote: ClassVar[bool] = True

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._bucket, _, prefix = self.location.partition("://")[2].partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @abstractmethod
    def _head(self, name: str) -> ObjectHead | None:
        """Look at an object; None if it is not there."""

    @abstractmethod
    def _writer(self, name: str) -> str | None:
        """Return the mark of who has created an object, empty without one; None if there is no object."""

    @abstractmethod
    def _list(self, folder: str) -> Iterable[tuple[str, int, float]]:
        """Yield names below a folder (empty, or with a `/` at its end), bytes, and seconds of the epoch."""

    @abstractmethod
    def _get(self, name: str) -> bytes:
        """Return the content of an object."""

    @abstractmethod
    def _download(self, name: str, head: ObjectHead, path: Path) -> None:
        """Write the content of an object to a path."""

    @abstractmethod
    def _put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""

    @abstractmethod
    def _put_new(self, name: str, data: bytes, *, mark: str) -> bool:
        """Write an object with a mark if there is none; False if there is, or if another writer was in the way."""

    @abstractmethod
    def _upload(self, path: Path, name: str) -> None:
        """Write or replace an object by the content of a file."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Remove an object if it is there."""

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """Return what the library raises."""

    @abstractmethod
    def _reason(self, error: Exception) -> str:
        """Say in one line why the library has failed."""

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        with self._errors(key, "look for"):
            return self._head(self._object(key)) is not None

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects below `prefix`, sorted; those that only stand for a folder are none."""
        return list(self.sizes_and_times(prefix))

    def sizes_and_times(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Bytes of each object below `prefix`, and when it was written: to a second, as S3 tells."""
        folder = f"{self._object(prefix.rstrip('/'))}/" if prefix else self._prefix
        with self._errors(prefix, "list"):
            found = {
                name.removeprefix(self._prefix): (num_bytes, round(time_s) * 10**9)
                for name, num_bytes, time_s in self._list(folder)
            }
        names = {key: key.rpartition("/")[2] for key in found}
        own = (key for key, name in names.items() if name and not name.startswith(TEMPORARY_PREFIX))
        return {self.plain(key): found[key] for key in sorted(own)}

    def sweep(self) -> None:
        """Nothing: an object that was not written whole does not exist."""

    def read_bytes(self, key: str) -> bytes:
        """Content of an object; raises StorageError if it is not there."""
        with self._errors(key, "read"):
            return self._get(self._object(key))

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._errors(key, "write"):
            self._put(self._object(key), data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write an object that must not exist yet, by a conditional put."""
        # A put whose answer was lost is repeated, and then the object in the way is ours: the mark tells.
        mark = uuid.uuid4().hex
        name = self._object(key)
        with self._errors(key, "create"):
            for _ in range(NUM_CONFLICTS):
                if self._put_new(name, data, mark=mark):
                    return True
                writer = self._writer(name)
                if writer is not None:
                    return writer == mark
        raise StorageError(f"{self.location}/{key}: cannot create it: {NUM_CONFLICTS} conflicts with other writers")

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        with self._errors(key, "delete"):
            self._remove(self._object(key))

    def fetch(self, key: str, *, sha256: str | None = None) -> Path:
        """Return the path of a copy in this machine's cache; the copy of another version is not used.

        Raises IntegrityError if the object has another digest than is given, though it was fetched twice.
        """
        name = self._object(key)
        with self._errors(key, "fetch"):
            head = self._head(name)
            if head is None:
                raise StorageError(f"{self.location}/{key}: no such object")
            return copies.fetched(
                f"{self.location}/{key}",
                version=head.version,
                num_bytes=head.num_bytes,
                sha256=sha256,
                download=lambda path: self._download(name, head, path),
            )

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Context with a temporary local path; uploaded at the end."""
        name = self._object(key)
        with tempfile.TemporaryDirectory(prefix="upload-") as folder:
            path = Path(folder) / Path(key).name
            try:
                yield path
            except OSError as error:
                if is_full(error):
                    raise storage_error(path, "write", error, advice=where_space_is_short()) from error
                raise
            with self._errors(key, "write"):
                self._upload(path, name)

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no limit."""
        return None

    def _object(self, key: str) -> str:
        return self._prefix + self.checked(key)

    @contextmanager
    def _errors(self, key: str, action: str) -> Iterator[None]:
        """Turn what the library and the system raise into a StorageError that names the object."""
        try:
            yield
        except self._failures() as error:
            raise StorageError(f"{self.location}/{key}: cannot {action} it: {self._reason(error)}") from error
        except OSError as error:
            raise storage_error(f"{self.location}/{key}", action, error, advice=where_space_is_short()) from error

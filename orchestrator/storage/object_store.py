"""Files below a prefix on Google Cloud Storage or Azure Blob Storage; credentials and endpoint are obstore's."""

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import DataError
from orchestrator.storage.bucket import WRITER, BucketStorage, ObjectHead

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, RetryConfig

PIECE_BYTES = 32 * 1024**2
"""What is sent or fetched by one request: obstore gives each half a minute."""
RETRIES: "RetryConfig" = {"max_retries": 7}
"""As many as boto3 has here; by waits that are doubled, up to a quarter of a minute."""

_STORE_LOCK = threading.Lock()
_REASONS = {
    "NoSuchBucket": "the bucket does not exist (NoSuchBucket). Create it or correct the location",
    "ContainerNotFound": "the container does not exist (ContainerNotFound). Create it or correct the location",
    "NoSuchKey": "no such object",
    "BlobNotFound": "no such object",
    "AccessDenied": "these credentials are not allowed to (AccessDenied). Check them and the bucket's policy",
    "AuthenticationFailed": "wrong or expired key (AuthenticationFailed). Check the credentials",
    "AuthorizationFailure": "this account does not let us (AuthorizationFailure). Check its firewall and our roles",
    "AuthorizationPermissionMismatch": "these credentials are not allowed to (AuthorizationPermissionMismatch). Check "
    "their roles",
}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MEANINGS = {
    "Error performing token request": "no credentials were found, and the machine has none of its own",
    "Account must be specified": "no account is named; expected it in AZURE_STORAGE_ACCOUNT_NAME",
}
"""What obstore says before it comes to a service."""


class ObjectStorage(BucketStorage):
    """Objects below a prefix of one bucket (`gs://`) or container (`az://`)."""

    def _head(self, name: str) -> ObjectHead | None:
        try:
            meta = self._store().head(name)
        except FileNotFoundError:
            return None
        return ObjectHead(num_bytes=meta["size"], version=str(meta["e_tag"]))

    def _writer(self, name: str) -> str | None:
        try:
            return str(self._store().get(name).attributes.get(WRITER, ""))
        except FileNotFoundError:
            return None

    def _list(self, folder: str) -> Iterator[tuple[str, int, float]]:
        from obstore.exceptions import InvalidPathError

        try:
            for page in self._store().list(folder or None):
                for meta in page:
                    name, num_bytes = meta["path"], meta["size"]
                    # An object that stands for a folder is listed without its slash.
                    if name.startswith(folder) and (num_bytes or self._head(name) is not None):
                        yield name, num_bytes, meta["last_modified"].timestamp()
        except InvalidPathError as error:
            raise DataError(
                f"{self.location}: the name of an object there is no plain relative path ({_first_line(error)}). "
                "Rename or remove it"
            ) from error

    def _get(self, name: str) -> bytes:
        return self._store().get(name).bytes().to_bytes()

    def _download(self, name: str, head: ObjectHead, path: Path) -> None:
        with path.open("wb") as file:
            for begin in range(0, head.num_bytes, PIECE_BYTES):
                end = min(begin + PIECE_BYTES, head.num_bytes)
                piece = self._store().get(name, options={"range": (begin, end), "if_match": head.version})
                file.write(piece.bytes())

    def _put(self, name: str, data: bytes) -> None:
        self._store().put(name, data, chunk_size=PIECE_BYTES)

    def _put_new(self, name: str, data: bytes, *, mark: str) -> bool:
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        try:
            self._store().put(name, data, attributes={WRITER: mark}, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except GenericError:
            # A connection that breaks after the request is not tried again, and the object may be there.
            if self._writer(name) != mark:
                raise
        return True

    def _upload(self, path: Path, name: str) -> None:
        self._store().put(name, path, chunk_size=PIECE_BYTES)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._store().delete(name)

    def _failures(self) -> tuple[type[Exception], ...]:
        from obstore.exceptions import BaseError

        return BaseError, FileNotFoundError

    def _reason(self, error: Exception) -> str:
        text = _first_line(error)
        for words, meaning in _MEANINGS.items():
            if words in text:
                return f"{meaning} ({text})"
        return _REASONS.get(_code(error), text)

    def _store(self) -> "GCSStore | AzureStore":
        with _STORE_LOCK:
            return _new_store(self.location.partition("://")[0], self._bucket)


@cache
def _new_store(scheme: str, bucket: str) -> "GCSStore | AzureStore":
    from obstore.store import AzureStore, GCSStore

    return GCSStore(bucket, retry_config=RETRIES) if scheme == "gs" else AzureStore(bucket, retry_config=RETRIES)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _code(error: Exception) -> str:
    """Return what the service calls an error; empty where it has not answered or says nothing."""
    found = _CODE.search(str(error))
    return found[1] if found else ""

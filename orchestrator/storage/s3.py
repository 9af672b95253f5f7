"""Files below an S3 prefix; the endpoint, region and credentials are boto3's."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import StorageError
from orchestrator.storage.cache_room import excess_bytes
from orchestrator.storage.interface import TEMPORARY_PREFIX, Storage
from orchestrator.storage.json_values import JsonObject
from orchestrator.storage.local import STALE_AFTER_S, is_full, storage_error
from orchestrator.storage.private_folder import cache_folder, where_space_is_short

CACHE_LIMIT_BYTES = 64 * 1024**3
"""Size of the local cache above which the files that were used longest ago are removed."""

NUM_CONFLICTS = 5
"""Exclusive puts that may collide with a put under way before the storage gives up."""

_CLIENT_LOCK = threading.Lock()
_REASONS = {
    "NoSuchBucket": "the bucket does not exist (NoSuchBucket). Create it or correct the location",
    "NoSuchKey": "no such object",
    "AccessDenied": "these credentials are not allowed to (AccessDenied). Check them and the bucket's policy",
    "403": "these credentials are not allowed to (403). Check them and the bucket's policy",
    "InvalidAccessKeyId": "unknown access key (InvalidAccessKeyId). Check the credentials",
    "SignatureDoesNotMatch": "wrong secret key (SignatureDoesNotMatch). Check the credentials",
}


class S3Storage(Storage):
    """Objects below a prefix of one bucket."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        with self._errors(key, "look for"):
            return self._head(key) is not None

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects below `prefix`, sorted; those that only stand for a folder are none."""
        return list(self.sizes_and_times(prefix))

    def sizes_and_times(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Bytes of each object below `prefix`, and when it was written: to a second, as S3 tells."""
        folder = f"{self._object(prefix.rstrip('/'))}/" if prefix else self._prefix
        found: dict[str, tuple[int, int]] = {}
        with self._errors(prefix, "list"):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    found[key] = (item["Size"], round(item["LastModified"].timestamp()) * 10**9)
        names = {key: key.rpartition("/")[2] for key in found}
        own = (key for key, name in names.items() if name and not name.startswith(TEMPORARY_PREFIX))
        return {self.checked(key): found[key] for key in sorted(own)}

    def sweep(self) -> None:
        """Nothing: an object that was not written whole does not exist."""

    def read_bytes(self, key: str) -> bytes:
        """Content of an object; raises StorageError if it is not there."""
        with self._errors(key, "read"):
            content: bytes = _client().get_object(Bucket=self._bucket, Key=self._object(key))["Body"].read()
            return content

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._errors(key, "write"):
            _client().put_object(Bucket=self._bucket, Key=self._object(key), Body=data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write an object that must not exist yet, by a conditional put."""
        # boto3 repeats a put whose answer was lost, and then the object in the way is ours: the mark tells.
        mark = uuid.uuid4().hex
        with self._errors(key, "create"):
            for _ in range(NUM_CONFLICTS):
                status = self._put_if_absent(key, data, mark=mark)
                if status == 200:
                    return True
                if status == 412:
                    head = self._head(key)
                    return head is not None and head["Metadata"].get("writer") == mark
        raise StorageError(f"{self.location}/{key}: cannot create it: {NUM_CONFLICTS} conflicts with other writers")

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        with self._errors(key, "delete"):
            _client().delete_object(Bucket=self._bucket, Key=self._object(key))

    def fetch(self, key: str) -> Path:
        """Return the path of a copy in this machine's cache; the copy of another version is not used.

        Of several processes that want the same one, the first fetches it and the others wait.
        """
        with self._errors(key, "fetch"):
            head = self._head(key)
            if head is None:
                raise StorageError(f"{self.location}/{key}: no such object")
            name = hashlib.sha256(f"{self.location}/{key} {head['ETag']}".encode()).hexdigest()
            target = _cache_folder() / name / Path(key).name
            target.parent.mkdir(exist_ok=True)
            with _locked(target.parent):
                if _is_whole(target):
                    os.utime(target)
                else:
                    _make_room(head["ContentLength"])
                    self._download(key, target)
            return target

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Context with a temporary local path; uploaded at the end."""
        target = self._object(key)
        with tempfile.TemporaryDirectory(prefix="upload-") as folder:
            path = Path(folder) / Path(key).name
            try:
                yield path
            except OSError as error:
                if is_full(error):
                    raise storage_error(path, "write", error, advice=where_space_is_short()) from error
                raise
            with self._errors(key, "write"):
                _client().upload_file(str(path), self._bucket, target)

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no limit."""
        return None

    def _object(self, key: str) -> str:
        return self._prefix + self.checked(key)

    def _download(self, key: str, target: Path) -> None:
        """Copy an object into the cache; the copy appears when it is whole."""
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=_cache_folder()))
        try:
            _client().download_file(self._bucket, self._object(key), str(folder / target.name))
            target.parent.mkdir(exist_ok=True)
            _digest_of(target).write_text(_sha256(folder / target.name), encoding="ascii")
            (folder / target.name).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put_if_absent(self, key: str, data: bytes, *, mark: str) -> int:
        """Return 200 if the object was written, 412 if one was there, 409 if another writer was in the way."""
        from botocore.exceptions import ClientError

        try:
            _client().put_object(
                Bucket=self._bucket, Key=self._object(key), Body=data, IfNoneMatch="*", Metadata={"writer": mark}
            )
        except ClientError as error:
            status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in {409, 412}:
                return status
            raise
        return 200

    def _head(self, key: str) -> JsonObject | None:
        from botocore.exceptions import ClientError

        try:
            head: JsonObject = _client().head_object(Bucket=self._bucket, Key=self._object(key))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return head

    @contextmanager
    def _errors(self, key: str, action: str) -> Iterator[None]:
        """Turn what boto3 raises into a StorageError that names the object."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            details = error.response.get("Error", {})
            reason = _REASONS.get(str(details.get("Code")), str(error))
            raise StorageError(f"{self.location}/{key}: cannot {action} it: {reason}") from error
        except (Boto3Error, BotoCoreError) as error:
            raise StorageError(f"{self.location}/{key}: cannot {action} it: {error}") from error
        except OSError as error:
            raise storage_error(f"{self.location}/{key}", action, error, advice=where_space_is_short()) from error


def _client() -> Any:
    """Return the process' own client: clients cannot be pickled and are slow to make."""
    with _CLIENT_LOCK:  # making one is not safe in threads; using one is
        return _new_client()


@cache
def _new_client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 8}))


def _cache_folder() -> Path:
    return cache_folder("s3")


def _digest_of(target: Path) -> Path:
    """Return the file with the digest of a copy, written before the copy appears."""
    return target.with_name(f"{target.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(target: Path) -> bool:
    """Whether a copy is there and still what was fetched."""
    try:
        return _sha256(target) == _digest_of(target).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which one process or thread at a time can have and which ends with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(num_bytes: int) -> None:
    """Remove the files that were used longest ago as long as the cache is too large, or its disk too full, for more."""
    copies = []
    for folder in _cache_folder().iterdir():
        with suppress(FileNotFoundError):  # another process trims too
            if files := [path.stat() for path in folder.iterdir()]:
                used = max(status.st_mtime for status in files)
                copies.append((used, sum(status.st_size for status in files), folder))
    cached_bytes = sum(size for _, size, _ in copies)
    excess = excess_bytes(
        _cache_folder(), num_bytes=num_bytes, cached_bytes=cached_bytes, limit_bytes=CACHE_LIMIT_BYTES
    )
    newest = max((used for used, _, _ in copies), default=0.0)
    for used, size, folder in sorted(copies):
        if excess <= 0:
            return
        is_download = folder.name.startswith(TEMPORARY_PREFIX) and newest - used < STALE_AFTER_S
        if not is_download:
            shutil.rmtree(folder, ignore_errors=True)
            excess -= size

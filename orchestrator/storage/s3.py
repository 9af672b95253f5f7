"""Files below an S3 prefix; the endpoint, region and credentials are boto3's."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import StorageError
from orchestrator.storage.filesystem import TEMPORARY_PREFIX, Storage

CACHE_LIMIT_BYTES = 64 * 1024**3
"""Size of the local cache above which the files that were used longest ago are removed."""


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
        """Keys of all objects below `prefix`, sorted."""
        folder = f"{self._prefix}{prefix.rstrip('/')}/" if prefix else self._prefix
        keys: list[str] = []
        with self._errors(prefix, "list"):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder):
                keys += [item["Key"].removeprefix(self._prefix) for item in page.get("Contents", ())]
        return sorted(key for key in keys if not key.rpartition("/")[2].startswith(TEMPORARY_PREFIX))

    def read_bytes(self, key: str) -> bytes:
        """Content of an object; raises StorageError if it is not there."""
        with self._errors(key, "read"):
            content: bytes = _client().get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
            return content

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._errors(key, "write"):
            _client().put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write an object that must not exist yet, by a conditional put."""
        from botocore.exceptions import ClientError

        with self._errors(key, "create"):
            try:
                _client().put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                # 409 is the answer to a racer while another one's put is under way; S3 lets exactly one win.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in {409, 412}:
                    return False
                raise
            return True

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        with self._errors(key, "delete"):
            _client().delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def fetch(self, key: str) -> Path:
        """Return the path of a copy in this machine's cache; the copy of another version is not used."""
        with self._errors(key, "fetch"):
            head = self._head(key)
            if head is None:
                raise StorageError(f"{self.location}/{key}: no such object")
            name = hashlib.sha256(f"{self.location}/{key} {head['ETag']}".encode()).hexdigest()
            target = _cache_folder() / name / Path(key).name
            if target.exists():
                os.utime(target)
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=_cache_folder())) / target.name
            try:
                _client().download_file(self._bucket, self._prefix + key, str(temporary))
                temporary.replace(target)
            finally:
                shutil.rmtree(temporary.parent)
            _trim_cache(keep=target)
            return target

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Context with a temporary local path; uploaded at the end."""
        with tempfile.TemporaryDirectory(prefix="upload-") as folder:
            path = Path(folder) / Path(key).name
            yield path
            with self._errors(key, "write"):
                _client().upload_file(str(path), self._bucket, self._prefix + key)

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no limit."""
        return None

    def _head(self, key: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            head: dict[str, Any] = _client().head_object(Bucket=self._bucket, Key=self._prefix + key)
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
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise StorageError(f"{self.location}/{key}: cannot {action} it: {error}") from error


@cache
def _client() -> Any:
    """Return the process' own client: clients cannot be pickled and are slow to make."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))


def _cache_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / "orchestrator-s3-cache"
    folder.mkdir(exist_ok=True)
    return folder


def _trim_cache(*, keep: Path) -> None:
    """Remove the files that were used longest ago while the cache is larger than its limit."""
    files = [(path.stat(), path) for path in _cache_folder().glob("*/*") if path != keep]
    excess = sum(stat.st_size for stat, _ in files) + keep.stat().st_size - CACHE_LIMIT_BYTES
    for stat, path in sorted(files, key=lambda item: item[0].st_mtime):
        if excess <= 0:
            return
        shutil.rmtree(path.parent, ignore_errors=True)
        excess -= stat.st_size

"""Files below an S3 prefix; the endpoint, region and credentials are boto3's."""

import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.storage.bucket import WRITER, BucketStorage, ObjectHead
from orchestrator.storage.json_values import JsonObject

_CLIENT_LOCK = threading.Lock()
_REASONS = {
    "NoSuchBucket": "the bucket does not exist (NoSuchBucket). Create it or correct the location",
    "NoSuchKey": "no such object",
    "AccessDenied": "these credentials are not allowed to (AccessDenied). Check them and the bucket's policy",
    "403": "these credentials are not allowed to (403). Check them and the bucket's policy",
    "InvalidAccessKeyId": "unknown access key (InvalidAccessKeyId). Check the credentials",
    "SignatureDoesNotMatch": "wrong secret key (SignatureDoesNotMatch). Check the credentials",
}


class S3Storage(BucketStorage):
    """Objects below a prefix of one bucket."""

    def _head(self, name: str) -> ObjectHead | None:
        head = self._raw_head(name)
        return None if head is None else ObjectHead(num_bytes=head["ContentLength"], version=head["ETag"])

    def _writer(self, name: str) -> str | None:
        head = self._raw_head(name)
        return None if head is None else head["Metadata"].get(WRITER, "")

    def _raw_head(self, name: str) -> JsonObject | None:
        from botocore.exceptions import ClientError

        try:
            head: JsonObject = _client().head_object(Bucket=self._bucket, Key=name)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return head

    def _list(self, folder: str) -> Iterator[tuple[str, int, float]]:
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder):
            for item in page.get("Contents", ()):
                yield item["Key"], item["Size"], item["LastModified"].timestamp()

    def _get(self, name: str) -> bytes:
        content: bytes = _client().get_object(Bucket=self._bucket, Key=name)["Body"].read()
        return content

    def _download(self, name: str, head: ObjectHead, path: Path) -> None:  # noqa: ARG002 - boto3 looks itself
        _client().download_file(self._bucket, name, str(path))

    def _put(self, name: str, data: bytes) -> None:
        _client().put_object(Bucket=self._bucket, Key=name, Body=data)

    def _put_new(self, name: str, data: bytes, *, mark: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            _client().put_object(Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*", Metadata={WRITER: mark})
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in {409, 412}:
                return False
            raise
        return True

    def _upload(self, path: Path, name: str) -> None:
        _client().upload_file(str(path), self._bucket, name)

    def _remove(self, name: str) -> None:
        _client().delete_object(Bucket=self._bucket, Key=name)

    def _failures(self) -> tuple[type[Exception], ...]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        return ClientError, Boto3Error, BotoCoreError

    def _reason(self, error: Exception) -> str:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        return _REASONS.get(str(code), str(error))


def _client() -> Any:
    """Return the process' own client: clients cannot be pickled and are slow to make."""
    with _CLIENT_LOCK:  # making one is not safe in threads; using one is
        return _new_client()


@cache
def _new_client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 8}))

"""The one door to files: a local or shared folder, or an S3 prefix, under the same few operations."""

from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.storage.interface import Storage


def open_storage(location: str | Path) -> Storage:
    """Return the storage at a folder or `s3://bucket/prefix`; raises ConfigError for anything else."""
    location = str(location)
    scheme, separator, rest = location.partition("://")
    if not separator:
        from orchestrator.storage.local import LocalStorage

        return LocalStorage(location)
    if scheme == "s3" and rest.strip("/"):
        from orchestrator.storage.s3 import S3Storage

        return S3Storage(location)
    raise ConfigError(f"{location}: not a storage location; expected a folder or s3://bucket/prefix")

"""The one door to files: a local or shared folder, or a prefix of a bucket, under the same few operations."""

from importlib.util import find_spec
from pathlib import Path

from orchestrator.configuration import from_home
from orchestrator.errors import ConfigError
from orchestrator.storage.interface import Storage


def open_storage(location: str | Path) -> Storage:
    """Return the storage at a folder or in a bucket, such as `s3://bucket/prefix`.

    Raises
    ------
    ConfigError
        For anything else, or if a package is missing that it takes.
    """
    location = str(location)
    scheme, separator, rest = location.partition("://")
    if not separator:
        from orchestrator.storage.local import LocalStorage

        return LocalStorage(from_home(location))
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if "?" in rest or (at and (":" in user or scheme in {"s3", "gs", "az"})):
        # Locations stand in scripts, in comments of jobs and in lists of processes, which others may read.
        raise ConfigError(
            f"{scheme}://...: holds @ or ?, as locations with keys or signatures do, and is therefore not shown; "
            "expected bucket/prefix alone, and keys where boto3 or obstore finds them, such as the environment"
        )
    is_plain = {"", ".", ".."}.isdisjoint(rest.rstrip("/").split("/"))
    if scheme == "s3" and is_plain:
        from orchestrator.storage.s3 import S3Storage

        return S3Storage(location)
    if scheme in {"gs", "az"} and is_plain:
        if find_spec("obstore") is None:
            raise ConfigError(
                f"{location}: takes the package obstore, which is not installed; "
                "expected `pip install 'nnunet-orchestrator[buckets]'` on every machine of the run"
            )
        from orchestrator.storage.object_store import ObjectStorage

        return ObjectStorage(location)
    raise ConfigError(
        f"{location}: not a storage location; expected a folder, or s3://, gs:// or az:// with bucket/prefix"
    )


def check_is_text(location: str, *, option: str) -> None:
    """Raise ConfigError for a path that is no text, since Ray and the writers of images take nothing else.

    Python has such a path where a name was written in another encoding, or where the locale knows ASCII alone.
    """
    try:
        location.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{option} {location!a}: not text in UTF-8, as which the path is written and handed on; expected one that "
            "is. Rename the folder, or set LC_ALL=C.UTF-8 where its name is right"
        ) from error

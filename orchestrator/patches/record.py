"""Size and digest of a patch file, and the check that it is what was written."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import IntegrityError
from orchestrator.patches.layout import VERSION
from orchestrator.patches.reader import PatchFile
from orchestrator.storage import run_paths
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.local import file_sha256

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchRecord:
    """What a patch file must be."""

    num_bytes: int
    sha256: str
    version: int
    """Of the format."""

    def __post_init__(self) -> None:
        """Raise ValueError for what is no size or digest."""
        if type(self.num_bytes) is not int or not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"{self.num_bytes!r} bytes with digest {self.sha256!r}")

    @classmethod
    def of_file(cls, path: Path) -> "PatchRecord":
        """Measure a file that was just written."""
        return cls(num_bytes=path.stat().st_size, sha256=file_sha256(path), version=VERSION)

    def to_bytes(self) -> bytes:
        """Return JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "PatchRecord":
        """Parse JSON; raises IntegrityError if it is none."""
        try:
            return cls(**json.loads(content))
        except (RecursionError, TypeError, ValueError) as error:
            raise IntegrityError(f"not a record of patches ({error})") from error

    @classmethod
    def of_key(cls, storage: Storage, key: str) -> "PatchRecord":
        """Read what was recorded of a file of a storage; raises IntegrityError, which names it, if nothing can be."""
        record_key = run_paths.record_of_patches(key)
        if not storage.exists(record_key):
            raise IntegrityError(f"{storage.location}/{key}: without its record; write the patches again")
        try:
            return cls.from_bytes(storage.read_bytes(record_key))
        except IntegrityError as error:
            raise IntegrityError(f"{storage.location}/{record_key}: {error}; write the patches again") from error

    def check(self, path: Path, *, name: str) -> None:
        """Compare a local file with the record; raises IntegrityError that names the file and, if it can, the chunk."""
        self.check_size(path, name=name)
        if file_sha256(path) == self.sha256:
            return
        PatchFile.open(path).verify()
        raise IntegrityError(f"{name}: another file than was written, though whole in itself; write the patches again")

    def check_size(self, path: Path, *, name: str) -> None:
        """Compare the version, then the size: at once, for a file of any size."""
        if self.version != VERSION:
            raise IntegrityError(f"{name}: version {self.version}; expected {VERSION}. Write the patches again")
        found = path.stat().st_size
        if found != self.num_bytes:
            raise IntegrityError(f"{name}: {found} bytes; expected {self.num_bytes}. Write the patches again")

    @keeping_copies()
    def verify(self, storage: Storage, key: str) -> None:
        """Read a file of a storage and compare it; raises IntegrityError that names it and, if it can, the chunk."""
        if not storage.exists(key):
            raise IntegrityError(f"{storage.location}/{key}: missing; write the patches again")
        self.check(storage.fetch(key, sha256=self.sha256), name=f"{storage.location}/{key}")

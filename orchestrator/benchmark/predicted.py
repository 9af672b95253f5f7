"""What a study says of predictions beyond its own cases: codes of its structures, and values derived of them."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from orchestrator.benchmark.study_file import TablesFile
from orchestrator.configuration import load_yaml, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import or_shipped

Code = tuple[str, str, str]
"""Scheme, value and meaning, as `("SCT", "10200004", "Liver")`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentCodes:
    """How a structure is called in DICOM."""

    category: Code
    type: Code
    region: Code | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedValue:
    """A share of one structure in others, in percent."""

    name: str
    title: str
    part: tuple[str, ...]
    """Structures whose share it is."""
    whole: tuple[str, ...]
    """In these and the part together."""
    rather_than: tuple[str, ...] = ()
    """Voxels of the part count only where they lie nearer to the whole than to these."""

    @property
    def structures(self) -> tuple[str, ...]:
        """All that it is made of."""
        return (*self.part, *self.whole, *self.rather_than)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedTables:
    """What is said of predictions."""

    codes: dict[str, SegmentCodes] = field(default_factory=dict)
    """By structure."""
    derived: tuple[DerivedValue, ...] = ()


def load_predicted(study: Path) -> PredictedTables:
    """Return what `tables.yaml` beside a study file says of predictions; raises ConfigError if it is not there.

    A file that is the same as before is not understood again: it is asked for with each case.
    """
    path = or_shipped(study).with_name("tables.yaml")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected the tables of the study, with codes or derived values")
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected the tables of the study") from error
    return _understood(path, sha256)


@lru_cache(maxsize=4)
def _understood(path: Path, _sha256: str) -> PredictedTables:
    content = understood(load_yaml(path), TablesFile, where=str(path))
    return PredictedTables(
        codes={
            name: SegmentCodes(
                category=_code(entry.category),
                type=_code(entry.type),
                region=_code(entry.region) if entry.region else None,
            )
            for name, entry in content.segments.items()
        },
        derived=tuple(
            DerivedValue(
                name=name,
                title=entry.title,
                part=tuple(entry.part),
                whole=tuple(entry.whole),
                rather_than=tuple(entry.rather_than),
            )
            for name, entry in content.derived.items()
        ),
    )


def _code(entry: list[str]) -> Code:
    scheme, value, meaning = entry
    return scheme, value, meaning

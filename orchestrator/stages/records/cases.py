"""What a run remembers of each image and label map that it has made of a download: digest, origin, what was odd."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case
from orchestrator.errors import IntegrityError
from orchestrator.sources.stamps import FileStamp, SourceStamp
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    # ITK takes a while to import, and a finished run does not need it.
    from orchestrator.images.geometry import Geometry

NUM_THREADS = 16
"""That read records at a time: on S3 each takes its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRecord:
    """The record of one image or one label map."""

    sha256: str
    """Digest of our file, of an image that of its first channel."""
    source: SourceStamp
    """What it was made from."""
    notes: tuple[str, ...] = ()
    """What was changed or tolerated on the way, one sentence each."""
    warnings: tuple[str, ...] = ()
    """What was taken as it is but hardly right, with numbers, one sentence each."""
    spacing_mm: tuple[float, ...] = ()
    """(z, y, x), of an image."""
    size: tuple[int, ...] = ()
    """Voxels along (z, y, x), of an image."""
    original_grid: "Geometry | None" = None
    """Of an image: the grid of the file or series that it was made from; records of before have none."""
    further_sha256: tuple[str, ...] = ()
    """Of an image with several channels: digests of the others."""
    is_phantom: bool = False
    """Of an image: whether its download says that it was generated; records of before do not tell."""


def write_case_record(storage: Storage, key: str, record: CaseRecord) -> None:
    """Write a record: what it is of is there."""
    # That which says that the part is done comes last.
    for place in (run_paths.kept_record(key), key):
        write_json(storage, place, asdict(record))


def read_case_record(storage: Storage, key: str) -> CaseRecord:
    """Return a record; raises IntegrityError if it is damaged."""
    found = read_json(storage, key)
    try:
        return _parsed(found)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{storage.location}/{key}: not the record of an image or label map ({error!r}). Remove it: the same "
            "command makes it again"
        ) from error


def _parsed(found: JsonMapping) -> CaseRecord:
    source = found["source"]
    return CaseRecord(
        sha256=_text(found["sha256"]),
        source=SourceStamp(
            files=tuple(
                FileStamp(name=_text(file["name"]), num_bytes=int(file["num_bytes"]), mtime_ns=int(file["mtime_ns"]))
                for file in source["files"]
            ),
            sha256=_text(source["sha256"]),
        ),
        notes=_texts(found["notes"]),
        warnings=_texts(found["warnings"]),
        spacing_mm=tuple(map(float, found["spacing_mm"])),
        size=tuple(map(int, found["size"])),
        original_grid=_grid(found.get("original_grid")),
        further_sha256=_texts(found.get("further_sha256", ())),
        is_phantom=bool(found.get("is_phantom", False)),
    )


def _grid(found: JsonMapping | None) -> "Geometry | None":
    from orchestrator.images.geometry import Geometry

    if found is None:
        return None
    size, *rest = (tuple(map(float, found[name])) for name in ("size", "spacing_mm", "origin_mm", "direction"))
    spacing_mm, origin_mm, direction = rest
    return Geometry(size=tuple(map(int, size)), spacing_mm=spacing_mm, origin_mm=origin_mm, direction=direction)


def original_grid(storage: Storage, case: Case) -> "Geometry | None":
    """Return the grid of the file or series that the image of a case was made from; None if no record tells."""
    key = run_paths.image_record(case)
    return read_case_record(storage, key).original_grid if storage.exists(key) else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(_text, values))


def write_overview(storage: Storage, case: Case) -> None:
    """Put together for people what the records of a case tell, by part: `image`, and each label set."""
    folder = PurePosixPath(run_paths.case_overview(case)).parent.as_posix()
    written: list[str] | None = None
    # Two parts of a case may be made at once: who writes last has seen the records of both.
    while (keys := run_paths.own_keys(storage, run_paths.CASES, below=folder)) != written:
        written = keys
        records = {PurePosixPath(key).stem: read_case_record(storage, key) for key in keys}
        overview = {
            "case": case.id,
            "sha256": {part: digest for name, record in records.items() for part, digest in _digests(name, record)},
            "source_sha256": {name: record.source.sha256 for name, record in records.items()},
            "notes": [note for record in records.values() for note in record.notes],
            "warnings": [warning for record in records.values() for warning in record.warnings],
        }
        write_json(storage, run_paths.case_overview(case), overview)


def digests_of(storage: Storage, labels: Iterable[tuple[Case, str]]) -> dict[str, str]:
    """Return the digests of label maps and of their images, by name of case and part, as the records have them.

    They depend on nothing but these cases and label sets: not on what else a run has made, nor on the order.
    """
    keys: dict[str, str] = {}
    for case, label_set in labels:
        keys[f"{case.id} image"] = run_paths.image_record(case)
        keys[f"{case.id} {label_set}"] = run_paths.labels_record(case, label_set=label_set)
    return {
        part: digest
        for name, key in sorted(keys.items())
        for part, digest in _digests(name, read_case_record(storage, key))
    }


def _digests(name: str, record: CaseRecord) -> Iterator[tuple[str, str]]:
    """Yield the digests of a record, those of further channels with their numbers behind the name."""
    yield name, record.sha256
    yield from ((f"{name}-{number}", digest) for number, digest in enumerate(record.further_sha256, start=1))


def warnings_about(storage: Storage, labels: Iterable[tuple[Case, str]]) -> tuple[str, ...]:
    """Return what was hardly right about label maps and their images, of those that are there, each sentence once."""
    keys = [
        key
        for case, label_set in labels
        for key in (run_paths.image_record(case), run_paths.labels_record(case, label_set=label_set))
    ]
    return tuple(dict.fromkeys(warning for record in _records(storage, keys) for warning in record.warnings))


def has_phantoms(storage: Storage, cases: Iterable[Case]) -> bool:
    """Whether any of these cases was generated, as their downloads say, of those whose records are there."""
    return any(record.is_phantom for record in _records(storage, map(run_paths.image_record, cases)))


def _records(storage: Storage, keys: Iterable[str]) -> list[CaseRecord]:
    """Return the records that are there, each once."""
    there = set(run_paths.own_keys(storage, run_paths.CASES))
    with ThreadPoolExecutor(NUM_THREADS) as executor:
        return [*executor.map(partial(read_case_record, storage), [key for key in dict.fromkeys(keys) if key in there])]

"""What a run remembers of images that show the same: the small images of its cases, and which of them are alike."""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.leaks import AlikeCases
from orchestrator.errors import IntegrityError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    # ITK and scipy take a while to import, and a finished run needs neither.
    import SimpleITK as sitk

logger = logging.getLogger(__name__)

NUM_THREADS = 16
"""That read small images at a time: on S3 each takes its time."""
_FORMAT = 1
"""Raised whenever the same small images give other pairs."""


def keep_thumbnail(storage: Storage, case: Case, image: "sitk.Image") -> None:
    """Keep what the image of a case is recognised by among others; nothing of one that is the same everywhere."""
    from orchestrator.images.alike.thumbnail import thumbnail_of

    found = thumbnail_of(image)
    if found is None:
        storage.delete(run_paths.case_thumbnail(case))
    else:
        storage.write_bytes(run_paths.case_thumbnail(case), found.to_bytes())


def compare_images(storage: Storage, cases: Iterable[Case]) -> None:
    """Compare the images of cases with each other, as far as they are there, and write down which show the same.

    Nothing is done if the same images have been compared before. What cannot be read is left out.
    """
    there = set(storage.list_keys(run_paths.CASES))
    known = [
        case for case in sorted(set(cases)) if {run_paths.case_thumbnail(case), run_paths.image_record(case)} <= there
    ]
    with ThreadPoolExecutor(NUM_THREADS) as executor:
        contents = list(executor.map(partial(_content, storage), known))
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for case, content in zip(known, contents, strict=True):
        digest.update(f"{case.id} {hashlib.sha256(content).hexdigest()}\n".encode())
    if _compared(storage) == digest.hexdigest():
        return
    found = [record_of(pair) for pair in _pairs(dict(zip(known, contents, strict=True)))]
    with best_effort(run_paths.ALIKE):
        write_json(storage, run_paths.ALIKE, {"compared": digest.hexdigest(), "pairs": found})


def read_alike(storage: Storage) -> tuple[AlikeCases, ...]:
    """Return the pairs that were found, if images were compared; raises IntegrityError for a damaged record."""
    if not storage.exists(run_paths.ALIKE):
        return ()
    record = read_json(storage, run_paths.ALIKE, {"pairs": list})
    try:
        return tuple(map(alike_of, record["pairs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{storage.location}/{run_paths.ALIKE}: not the record of images that show the same ({error!r:.80}). "
            "Remove it: the next report compares them again"
        ) from error


def record_of(pair: AlikeCases) -> dict[str, object]:
    """Return the record of a pair."""
    return {"first": pair.first.id, "second": pair.second.id, "likeness": pair.likeness}


def alike_of(record: JsonMapping) -> AlikeCases:
    """Return the pair that a record tells of; raises KeyError, TypeError or ValueError if it tells of none."""
    first, second = (_case(record[name]) for name in ("first", "second"))
    return AlikeCases(first=first, second=second, likeness=float(record["likeness"]))


def _case(id_: object) -> Case:
    dataset, name = str(id_).split("/", 1)
    return Case(dataset=dataset, name=name)


def _compared(storage: Storage) -> str | None:
    """Return the digest of what was compared last."""
    if not storage.exists(run_paths.ALIKE):
        return None
    try:
        return str(read_json(storage, run_paths.ALIKE, {"compared": str, "pairs": list})["compared"])
    except IntegrityError:
        return None


def _content(storage: Storage, case: Case) -> bytes:
    """Return the small image of a case as it is kept; nothing if it cannot be read."""
    try:
        return storage.read_bytes(run_paths.case_thumbnail(case))
    except StorageError as error:
        logger.warning("%s is compared with no other image: %s", case.id, error)
        return b""


def _pairs(contents: Mapping[Case, bytes]) -> tuple[AlikeCases, ...]:
    from orchestrator.images.alike.cases import alike_cases
    from orchestrator.images.alike.thumbnail import Thumbnail

    thumbnails = {}
    for case, content in contents.items():
        try:
            thumbnails[case] = Thumbnail.from_bytes(content, name=run_paths.case_thumbnail(case))
        except IntegrityError as error:
            logger.warning("%s", error)
    return alike_cases(thumbnails)

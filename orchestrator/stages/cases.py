"""What the stages of a case do: download (of phantoms), ingest, fingerprint."""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import NNUNET_RAW, Case
from orchestrator.errors import DataError, IntegrityError
from orchestrator.stages.context import RunContext
from orchestrator.stages.local_download import local_download
from orchestrator.stages.records.alike import keep_thumbnail
from orchestrator.stages.records.cases import CaseRecord, read_case_record, write_case_record, write_overview
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import write_json

if TYPE_CHECKING:
    import SimpleITK as sitk


def generate_download(context: RunContext, download: str) -> None:
    """Write one download of phantoms, in its owner's layout, into the output location, then the list of its files."""
    from orchestrator.phantoms.downloads import plan_phantom_download, write_phantom_download
    from orchestrator.phantoms.raw_datasets import write_raw_phantoms

    spacing_mm, seed = context.preset.phantom_spacing_mm, context.seed
    requests = [(context.datasets[case.dataset], case.name) for case in context.phantom_cases[download]]
    with tempfile.TemporaryDirectory(prefix="phantoms-") as folder:
        if requests[0][0].source == NNUNET_RAW:
            target, label_sets = Path(folder) / download, context.label_sets
            write_raw_phantoms(target, requests=requests, label_sets=label_sets, spacing_mm=spacing_mm, seed=seed)
        else:
            request = plan_phantom_download(download, requests, spacing_mm=spacing_mm, seed=seed)
            write_phantom_download(request, Path(folder))
        files = [path for path in sorted((Path(folder) / download).rglob("*")) if path.is_file()]
        keys = {path: f"{run_paths.PHANTOM_DOWNLOADS}/{path.relative_to(folder).as_posix()}" for path in files}
        for path, key in keys.items():
            with context.storage.writing(key) as target:
                shutil.copyfile(path, target)
    write_json(context.storage, run_paths.phantom_listing(download), {"files": sorted(keys.values())})


def ingest(context: RunContext, case: Case) -> int:
    """Convert the image of one case of a download, all of its channels; returns its voxels."""
    from orchestrator.phantoms.downloads import MARKER
    from orchestrator.sources.convert import convert_image

    dataset = context.datasets[case.dataset]
    with local_download(context.downloads, dataset.folder, case_name=case.name) as local:
        # Where a case ships several images, the label sets that it has choose, and not those that a call asks for.
        found = convert_image(case, dataset=dataset, label_sets=dataset.label_sets, downloads=local.folder)
    record = CaseRecord(
        sha256="",
        source=local.at_home(found.source),
        notes=found.notes,
        warnings=found.warnings,
        spacing_mm=tuple(found.image.GetSpacing()[::-1]),
        size=tuple(found.image.GetSize()[::-1]),
        original_grid=found.original_grid,
        is_phantom=local.has(f"{dataset.folder}/{MARKER}"),
    )
    keep_thumbnail(context.storage, case, found.image)
    channels = (found.image, *found.further)
    keys = run_paths.case_images(case, num_channels=len(channels))
    volumes = dict(zip(keys, channels, strict=True))
    _keep(context.storage, volumes, record=record, at=run_paths.image_record(case))
    write_overview(context.storage, case)
    return math.prod(record.size) * len(channels)


def fetch_images(context: RunContext, case: Case) -> list[Path]:
    """Return a local path of every channel of the image of a case."""
    keys = run_paths.case_images(case, num_channels=len(context.datasets[case.dataset].channels))
    return list(map(context.storage.fetch, keys))


def ingest_labels(context: RunContext, case: Case, *, label_set: str) -> None:
    """Convert one mask of a case of a download to a label map in the geometry of its image."""
    from orchestrator.sources.convert import convert_labels

    dataset, storage = context.datasets[case.dataset], context.storage
    with local_download(context.downloads, dataset.folder, case_name=case.name) as local:
        image = _read_image(storage, case)
        found = convert_labels(case, dataset=dataset, label_set=label_set, image=image, downloads=local.folder)
    record = CaseRecord(sha256="", source=local.at_home(found.source), notes=found.notes, warnings=found.warnings)
    key = run_paths.case_labels(case, label_set=label_set)
    _keep(storage, {key: found.labels}, record=record, at=run_paths.labels_record(case, label_set=label_set))
    write_overview(storage, case)


def _read_image(storage: Storage, case: Case) -> "sitk.Image":
    """Return the first channel of the image of a case; raises IntegrityError if it is not what its record tells."""
    from orchestrator.images.source_file import SourceFile
    from orchestrator.images.volume import read_nifti

    key, record_key = run_paths.case_image(case), run_paths.image_record(case)
    expected = read_case_record(storage, record_key).sha256
    try:
        loaded = read_nifti(SourceFile(path=storage.fetch(key)), is_volume=False)
    except DataError as error:
        raise IntegrityError(f"{error} Remove {storage.location}/{key}: the same command makes it again") from error
    if loaded.sha256 != expected:
        raise IntegrityError(
            f"{storage.location}/{key}: SHA-256 {loaded.sha256}; expected {expected}, as {record_key} tells. Remove "
            "it: the same command makes it again"
        )
    return loaded.image


def _keep(storage: Storage, volumes: Mapping[str, "sitk.Image"], *, record: CaseRecord, at: str) -> None:
    """Write volumes and then their record; raises DataError if they are others than the record of before tells.

    What was lost is made again: it must be what trainings have seen.
    """
    from orchestrator.sources.case_files import write_volume

    digests = {}
    with ExitStack() as unfinished:
        for key, volume in volumes.items():
            target = unfinished.enter_context(storage.writing(key))
            write_volume(volume, target)
            digests[key] = hashlib.sha256(target.read_bytes()).hexdigest()
        first, *further = digests.values()
        record = replace(record, sha256=first, further_sha256=tuple(further))
        before = read_case_record(storage, at) if storage.exists(at) else record
        for (key, digest), expected in zip(digests.items(), (before.sha256, *before.further_sha256), strict=False):
            if digest != expected:
                made_from = ", ".join(file.name for file in record.source.files)
                raise DataError(
                    f"{storage.location}/{key}: made again from {made_from}, it is another one (SHA-256 {digest}; "
                    f"expected {expected}), since the download or a version has changed. Restore what it was made "
                    "from, or choose another --output"
                )
    write_case_record(storage, at, record)


def fingerprint(context: RunContext, case: Case, *, label_set: str) -> None:
    """Measure one case as nnU-Net's planner wants it."""
    from orchestrator.training.nnunet.planning import fingerprint_case

    storage = context.storage
    measured = fingerprint_case(
        fetch_images(context, case), storage.fetch(run_paths.case_labels(case, label_set=label_set))
    )
    storage.write_bytes(run_paths.fingerprint(case, label_set=label_set), measured.to_bytes())

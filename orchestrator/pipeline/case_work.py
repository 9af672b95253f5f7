"""What the stages of a case do: download (of phantoms), ingest, fingerprint."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.benchmark.definition import Case
from orchestrator.errors import DataError
from orchestrator.pipeline.workplace import Workplace
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json


def generate_download(place: Workplace, download: str) -> None:
    """Write one download of phantoms, in its owner's layout, into the output location."""
    from orchestrator.sources.phantom_downloads import write_phantom_download

    requests = [(place.datasets[case.dataset], case.name) for case in place.phantom_cases[download]]
    with tempfile.TemporaryDirectory(prefix="phantoms-") as folder:
        write_phantom_download(
            download, Path(folder), requests=requests, spacing_mm=place.preset.phantom_spacing_mm, seed=place.seed
        )
        files = [path for path in sorted((Path(folder) / download).rglob("*")) if path.is_file()]
        marker = run_paths.phantom_marker(download)
        keys = {path: f"{run_paths.PHANTOM_DOWNLOADS}/{path.relative_to(folder).as_posix()}" for path in files}
        for path, key in sorted(keys.items(), key=lambda item: item[1] == marker):
            with place.storage.writing(key) as target:
                shutil.copyfile(path, target)


def ingest(place: Workplace, case: Case, *, label_sets: tuple[str, ...]) -> None:
    """Convert one case of a download to an image and label maps in one orientation."""
    from orchestrator.sources.downloads import convert_case, write_case

    dataset = place.datasets[case.dataset]
    with _local_download(place, dataset.download, case=case) as downloads:
        converted = convert_case(case, dataset=dataset, label_sets=label_sets, downloads=downloads)
    storage = place.storage
    keys = {"image": run_paths.case_image(case)} | {
        name: run_paths.case_labels(case, label_set=name) for name in label_sets
    }
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        paths = {name: Path(folder) / f"{name}.nii.gz" for name in keys}
        write_case(converted, image_path=paths["image"], label_paths={name: paths[name] for name in label_sets})
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
        for name, key in keys.items():
            with storage.writing(key) as target:
                shutil.copyfile(paths[name], target)
    record = {
        "case": case.id,
        "sha256": digests,
        "source_sha256": dict(converted.source_sha256),
        "spacing_mm": list(converted.image.GetSpacing()[::-1]),
        "notes": list(converted.notes),
    }
    write_json(storage, run_paths.case_record(case), record)


def fingerprint(place: Workplace, case: Case, *, label_set: str) -> None:
    """Measure one case as nnU-Net's planner wants it."""
    from orchestrator.training.planning import fingerprint_case

    storage = place.storage
    measured = fingerprint_case(
        storage.fetch(run_paths.case_image(case)), storage.fetch(run_paths.case_labels(case, label_set=label_set))
    )
    storage.write_bytes(run_paths.fingerprint(case, label_set=label_set), measured.to_bytes())


@contextmanager
def _local_download(place: Workplace, download: str, *, case: Case) -> Iterator[Path]:
    """Context with a local folder that holds a download; of one on S3, what the case needs.

    The copies of S3's files lie in the cache of this machine and are linked to: they are fetched once for all of its
    processes, again where they have changed, and nothing but links is left behind by a process that is killed.
    """
    location = place.data if place.data is not None else f"{place.output.rstrip('/')}/{run_paths.PHANTOM_DOWNLOADS}"
    if not location.startswith("s3://"):
        yield Path(location)
        return
    from orchestrator.sources.downloads import may_concern

    storage = open_storage(location)
    keys = storage.list_keys(download)
    if not keys:
        raise DataError(f"{location}/{download}: no files found; expected the download as its owner ships it")
    with tempfile.TemporaryDirectory(prefix="download-") as folder:
        for key in keys:
            target = Path(folder) / key
            # Also for files that stay away: what is said of a missing file follows from the folders that are there.
            target.parent.mkdir(parents=True, exist_ok=True)
            if may_concern(key, download=download, case_name=case.name):
                target.symlink_to(storage.fetch(key))
        yield Path(folder)

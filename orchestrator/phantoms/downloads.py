"""Whole downloads of phantoms: the same folders, archives and names that the owners of the public data sets ship."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.benchmark.definition import NNUNET_RAW, Dataset
from orchestrator.errors import ConfigError, DataError
from orchestrator.phantoms.layouts import COVID_ARCHIVES, MSD_FOLDER, Scan, write_scan
from orchestrator.processes import SpawnedPool
from orchestrator.storage.json_values import JsonMapping, JsonObject

DOWNLOADS = ("covid-19-ct-seg", "structseg", "nsclc", "msd", "mosmed")
MARKER = "PHANTOM.json"
"""Says that a folder holds a finished phantom download, and which."""
FORMAT = 1
"""Raised whenever the same request gives other voxels or files."""

PhantomCase = tuple[Dataset, str]
"""A data set and the name of one of its cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomRequest:
    """What decides the content of one phantom download; written as its marker."""

    download: str
    """One of DOWNLOADS."""
    seed: int
    """Of everything that is random."""
    spacing_mm: float | None
    """In-plane spacing; None is full resolution."""
    scans: tuple[Scan, ...]
    """Sorted by name."""

    @property
    def marker(self) -> JsonObject:
        """Content of the marker file."""
        return {
            "format": FORMAT,
            "download": self.download,
            "seed": self.seed,
            "spacing_mm": self.spacing_mm,
            "cases": sorted(f"{dataset}/{scan.name}" for scan in self.scans for dataset in scan.datasets),
            "effusions": sorted(scan.name for scan in self.scans if scan.has_effusion),
        }


def check_downloads(datasets: Iterable[Dataset]) -> None:
    """Raise ConfigError for a data set of which no phantoms are generated."""
    for dataset in datasets:
        if dataset.source != NNUNET_RAW and dataset.source not in DOWNLOADS:
            raise ConfigError(
                f"data set {dataset.name}: no phantoms are generated of the download {dataset.source}, only of "
                f"{', '.join(DOWNLOADS)} and data sets in nnU-Net's layout; expected --data with the real one"
            )


def plan_phantom_download(
    download: str, requests: Sequence[PhantomCase], *, spacing_mm: float | None, seed: int
) -> PhantomRequest:
    """Return the scans of one download that the requested cases need; cases of other downloads are left out.

    StructSeg lung and gross target share their scans, and so do NSCLC lung and pleural effusion: patients with an
    effusion are those of the `nsclc-pe` data set, wherever it is among the requests.
    """
    if download not in DOWNLOADS:
        raise ConfigError(f"phantom download {download!r}: unknown; expected one of {', '.join(DOWNLOADS)}")
    check_spacing(spacing_mm)
    with_effusion = {name for dataset, _ in requests if dataset.name == "nsclc-pe" for name in dataset.case_names}
    datasets: dict[str, set[str]] = {}
    for dataset, name in requests:
        if name not in dataset.case_names:
            raise ConfigError(f"phantom of {dataset.name}/{name}: the data set has no such case")
        if dataset.source == download:
            datasets.setdefault(name, set()).add(dataset.name)
    scans = tuple(
        Scan(download=download, name=name, datasets=tuple(sorted(users)), has_effusion=name in with_effusion)
        for name, users in sorted(datasets.items())
    )
    return PhantomRequest(download=download, seed=seed, spacing_mm=spacing_mm, scans=scans)


def check_spacing(spacing_mm: float | None) -> None:
    """Raise ConfigError for a spacing that no phantom has."""
    if spacing_mm is not None and not 0.3 <= spacing_mm <= 20:
        raise ConfigError(f"phantom spacing {spacing_mm} mm: expected 0.3 to 20, or none for full resolution")


def write_phantom_download(
    request: PhantomRequest, folder: Path, *, num_workers: int = 1, on_scan: Callable[[str], None] | None = None
) -> None:
    """Write phantoms as one public download, to `folder/<download>`; nothing is done if they are already there.

    All is written beside the target and renamed at the end; scans that an interrupted call finished are kept.

    Parameters
    ----------
    request : what `plan_phantom_download` has returned.
    num_workers : processes; 1 stays in this one.
    on_scan : called with the name of each finished scan.

    Raises
    ------
    DataError
        If `folder/<download>` holds files that are not phantoms: nothing of them is touched.
    """
    target = folder / request.download
    if is_there(target, wanted=request.marker):
        for scan in request.scans:
            _report(on_scan, scan.name)
        return
    staging = folder / f".{request.download}.partial"
    _prepare(staging, request=request)
    for name in _write_scans(staging, request=request, num_workers=num_workers):
        _report(on_scan, name)
    _pack(staging, request=request)
    (staging / MARKER).write_text(json.dumps(request.marker, indent=1) + "\n")
    replace_folder(target, staging)


def replace_folder(target: Path, new: Path) -> None:
    """Put a folder in the place of another, if there is one."""
    if target.exists():
        shutil.rmtree(target)
    new.rename(target)


def _report(on_scan: Callable[[str], None] | None, name: str) -> None:
    if on_scan is not None:
        on_scan(name)


def is_there(target: Path, *, wanted: JsonMapping) -> bool:
    """Whether phantoms with this marker, or with more cases, are there; raises DataError for files of someone else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        found = json.loads((target / MARKER).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{target}: holds files but no readable {MARKER}, so they are not our phantoms; expected an empty or new "
            "folder. Give another output folder, or move these files away."
        ) from error
    same = all(found.get(key) == wanted[key] for key in ("format", "download", "seed", "spacing_mm"))
    return same and all(set(wanted[key]) <= set(found.get(key, ())) for key in ("cases", "effusions"))


def _prepare(staging: Path, *, request: PhantomRequest) -> None:
    """Make the folder for a download under way; scans of another request are removed."""
    marker = staging / "request.json"
    wanted = json.dumps(request.marker)
    if staging.exists() and (not marker.exists() or marker.read_text() != wanted):
        shutil.rmtree(staging)
    (staging / "done").mkdir(parents=True, exist_ok=True)
    marker.write_text(wanted)


def _write_scans(staging: Path, *, request: PhantomRequest, num_workers: int) -> Iterator[str]:
    """Write all scans that are not there yet and yield the names as they finish."""
    missing = [scan for scan in request.scans if not (staging / "done" / scan.name).exists()]
    yield from (scan.name for scan in request.scans if scan not in missing)
    if num_workers == 1:
        for scan in missing:
            yield _write_one(scan, staging, request.spacing_mm, request.seed)
        return
    with SpawnedPool(num_workers) as pool:
        futures = [pool.submit(_write_one, scan, staging, request.spacing_mm, request.seed) for scan in missing]
        for future in as_completed(futures):
            yield future.result()


def _write_one(scan: Scan, staging: Path, spacing_mm: float | None, seed: int) -> str:
    """Write one scan and, last, the note that it is done."""
    write_scan(scan, staging, spacing_mm=spacing_mm, seed=seed)
    (staging / "done" / scan.name).touch()
    return scan.name


def _pack(staging: Path, *, request: PhantomRequest) -> None:
    """Bring the scans into the shipped form: archives where the owners ship archives."""
    if request.download == "covid-19-ct-seg":
        for archive in COVID_ARCHIVES:
            _pack_zip(staging / f"{archive}.zip", source=staging / archive)
    if request.download == "msd":
        _pack_msd(staging, request=request)
    shutil.rmtree(staging / "done")
    (staging / "request.json").unlink()


def _pack_zip(archive: Path, *, source: Path) -> None:
    partial = archive.with_name(f"{archive.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as zipped:
        for path in sorted(source.glob("*.nii.gz")):
            zipped.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    partial.replace(archive)
    shutil.rmtree(source)


def _pack_msd(staging: Path, *, request: PhantomRequest) -> None:
    source = staging / MSD_FOLDER
    source.mkdir(exist_ok=True)
    description = {
        "name": "Lung",
        "description": "Generated thorax phantoms in the layout of the public archive",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": len(request.scans),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{scan.name}.nii.gz", "label": f"./labelsTr/{scan.name}.nii.gz"}
            for scan in request.scans
        ],
        "test": [],
    }
    (source / "dataset.json").write_text(json.dumps(description, indent=1))
    partial = staging / f"{MSD_FOLDER}.tar.partial"
    with closing(tarfile.open(partial, "w")) as packed:
        packed.add(source, arcname=MSD_FOLDER, filter=_anonymous)
    partial.replace(staging / f"{MSD_FOLDER}.tar")
    shutil.rmtree(source)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take owner and time out of a member, so that the same phantoms give the same archive."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member

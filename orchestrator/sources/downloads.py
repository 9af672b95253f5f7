"""From a data folder to cases: find the file of a case in its download, check it, convert it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import SimpleITK as sitk

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.errors import ConfigError
from orchestrator.images.geometry import Geometry, check_same_geometry, geometry_of, orient_to_lps
from orchestrator.images.nifti import read_nifti, read_nifti_geometry
from orchestrator.images.problem import Problem, SourceError, collecting
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import Volume
from orchestrator.sources.case import CaseRequest, ConvertedCase
from orchestrator.sources.case_files import write_case
from orchestrator.sources.covid_ct_seg import CovidCtSeg
from orchestrator.sources.intensity import check_intensities, to_stored_type
from orchestrator.sources.labels import map_labels
from orchestrator.sources.layout import Layout
from orchestrator.sources.mosmed import Mosmed
from orchestrator.sources.msd import Msd
from orchestrator.sources.nsclc import Nsclc
from orchestrator.sources.structseg import StructSeg

__all__ = ["CaseRequest", "ConvertedCase", "convert_case", "inspect_downloads", "may_concern", "write_case"]

LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in (CovidCtSeg, StructSeg, Nsclc, Msd, Mosmed)}


def convert_case(case: Case, *, dataset: Dataset, label_sets: Sequence[str], downloads: Path) -> ConvertedCase:
    """Turn one case of a public download into the form that the benchmark uses.

    Image and masks are brought to LPS orientation by permuting and flipping axes only, compared in size, spacing,
    origin and direction, labels are mapped and the sides of the lungs verified.

    Parameters
    ----------
    case
        The case; belongs to `dataset`.
    dataset
        Says which download holds it.
    label_sets
        Names of the label sets that are wanted.
    downloads
        Data folder with one folder for each download.

    Raises
    ------
    DataError
        At the first thing that is missing or wrong; the message names the file, what was found and what was expected.
    """
    request = CaseRequest(dataset=dataset, case_name=case.name, label_sets=tuple(label_sets))
    problems: list[Problem] = []
    converted = _convert(request, downloads=downloads, problems=problems)
    if converted is None or problems:
        raise SourceError(problems[0].line)
    return converted


def may_concern(key: str, *, download: str, case_name: str) -> bool:
    """Whether a file of a download, by its name below the data folder, can be needed to convert a case."""
    return download not in LAYOUTS or LAYOUTS[download].may_concern(PurePosixPath(key), case_name=case_name)


def inspect_downloads(
    requests: Sequence[CaseRequest], *, downloads: Path, thorough: bool, num_threads: int = 1
) -> tuple[Problem, ...]:
    """List everything that is wrong with the requested cases, each problem once.

    Parameters
    ----------
    requests
        Cases to look at.
    downloads
        Data folder with one folder for each download.
    thorough
        Read every voxel and check all that `convert_case` checks. Otherwise read headers and the ends of files: enough
        to find what is missing, most cut files and masks of another geometry, in milliseconds a case.
    num_threads
        Cases inspected at a time; each holds one volume and its masks in memory if `thorough`.
    """

    def inspect(request: CaseRequest) -> list[Problem]:
        problems: list[Problem] = []
        if thorough:
            _convert(request, downloads=downloads, problems=problems)
        else:
            _compare_headers(request, downloads=downloads, problems=problems)
        return problems

    with ThreadPoolExecutor(max_workers=num_threads) as executor:
        found = [problem for problems in executor.map(inspect, requests) for problem in problems]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The files of one case, as far as they are there."""

    layout: Layout
    volume: Volume | None
    masks: dict[str, SourceFile]


def _find(request: CaseRequest, *, downloads: Path, problems: list[Problem]) -> _Found | None:
    download = request.dataset.download
    if download not in LAYOUTS:
        raise ConfigError(
            f"data set {request.dataset.name}: unknown download {download!r}; expected one of {', '.join(LAYOUTS)}"
        )
    with collecting(problems):
        layout = LAYOUTS[download](downloads)
        for label_set in request.label_sets:
            layout.rule(label_set)
        volume, masks = None, {}
        with collecting(problems):
            volume = layout.find_image(request.case_name, label_set=request.label_sets[0])
        for label_set in request.label_sets:
            with collecting(problems):
                masks[label_set] = layout.find_labels(request.case_name, label_set=label_set)
        return _Found(layout=layout, volume=volume, masks=masks)
    return None


def _compare_headers(request: CaseRequest, *, downloads: Path, problems: list[Problem]) -> None:
    found = _find(request, downloads=downloads, problems=problems)
    if found is None:
        return
    image: Geometry | None = None
    if found.volume is not None:
        with collecting(problems):
            image = found.volume.read_geometry().to_lps()
    for mask in found.masks.values():
        with collecting(problems):
            geometry = read_nifti_geometry(mask).to_lps()
            if image is not None and found.volume is not None:
                check_same_geometry(image, geometry, image_name=found.volume.name, mask_name=str(mask))


def _convert(request: CaseRequest, *, downloads: Path, problems: list[Problem]) -> ConvertedCase | None:
    found = _find(request, downloads=downloads, problems=problems)
    if found is None:
        return None
    notes: list[str] = []
    sha256: dict[str, str] = {}
    image: sitk.Image | None = None
    if found.volume is not None:
        with collecting(problems):
            image, sha256["image"] = _convert_image(found.volume, layout=found.layout, notes=notes)
    labels: dict[str, sitk.Image] = {}
    for label_set, mask in found.masks.items():
        with collecting(problems):
            image_name = found.volume.name if found.volume else ""
            labels[label_set], sha256[label_set] = _convert_mask(
                mask, image=image, image_name=image_name, layout=found.layout, label_set=label_set, notes=notes
            )
    if problems or image is None:
        return None
    return ConvertedCase(case=request.case, image=image, labels=labels, source_sha256=sha256, notes=tuple(notes))


def _convert_image(volume: Volume, *, layout: Layout, notes: list[str]) -> tuple[sitk.Image, str]:
    loaded = volume.read()
    oriented = orient_to_lps(loaded.image)
    voxels = sitk.GetArrayViewFromImage(oriented)
    check_intensities(voxels, name=volume.name)
    voxels, note = layout.harmonise(voxels, name=volume.name)
    image = sitk.GetImageFromArray(to_stored_type(voxels))
    image.CopyInformation(oriented)
    notes += [*loaded.notes, *([note] if note else [])]
    return image, loaded.sha256


def _convert_mask(
    mask: SourceFile, *, image: sitk.Image | None, image_name: str, layout: Layout, label_set: str, notes: list[str]
) -> tuple[sitk.Image, str]:
    loaded, sha256 = read_nifti(mask)
    oriented = orient_to_lps(loaded)
    if image is not None:
        note = check_same_geometry(
            geometry_of(image), geometry_of(oriented), image_name=image_name, mask_name=str(mask)
        )
        notes += [note] if note else []
    values = sitk.GetArrayViewFromImage(oriented)
    labels, label_notes = map_labels(values, rule=layout.rule(label_set), name=str(mask))
    notes += label_notes
    label_map = sitk.GetImageFromArray(labels)
    label_map.CopyInformation(oriented if image is None else image)
    return label_map, sha256

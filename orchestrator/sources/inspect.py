"""A data folder looked through: everything that is wrong with it, by headers alone or voxel by voxel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from orchestrator.images.geometry import Geometry, check_same_geometry
from orchestrator.images.nifti import read_nifti_geometry
from orchestrator.images.problem import Problem, collecting
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import Volume
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.convert import image_from, labels_from
from orchestrator.sources.layout import Layout
from orchestrator.sources.registry import open_layout


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
        found = _find(request, downloads=downloads, problems=problems)
        if found is not None and thorough:
            _convert(request, found, downloads=downloads, problems=problems)
        elif found is not None:
            _compare_headers(found, problems=problems)
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
    with collecting(problems):
        layout = open_layout(request.dataset, downloads=downloads)
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


def _compare_headers(found: _Found, *, problems: list[Problem]) -> None:
    image: Geometry | None = None
    if found.volume is not None:
        with collecting(problems):
            image = found.volume.read_geometry().to_lps()
    for mask in found.masks.values():
        with collecting(problems):
            geometry = read_nifti_geometry(mask).to_lps()
            if image is not None and found.volume is not None:
                check_same_geometry(image, geometry, image_name=found.volume.name, mask_name=str(mask))


def _convert(request: CaseRequest, found: _Found, *, downloads: Path, problems: list[Problem]) -> None:
    image: sitk.Image | None = None
    if found.volume is not None:
        with collecting(problems):
            image = image_from(found.volume, case=request.case, layout=found.layout, downloads=downloads).image
    for label_set, mask in found.masks.items():
        with collecting(problems):
            labels_from(
                mask,
                case=request.case,
                label_set=label_set,
                image=image,
                image_name=found.volume.name if found.volume else "",
                layout=found.layout,
                downloads=downloads,
            )

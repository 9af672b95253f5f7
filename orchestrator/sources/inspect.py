"""A data folder looked through: everything that is wrong with it, by headers alone or voxel by voxel."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.images.alike.thumbnail import Thumbnail, thumbnail_of
from orchestrator.images.geometry import Geometry, check_same_geometry
from orchestrator.images.problem import Problem, collecting
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import Volume
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.convert import Beside, image_from, labels_from, warnings_between
from orchestrator.sources.layout import Layout
from orchestrator.sources.registry import open_layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was seen of some cases; nothing is told twice."""

    problems: tuple[Problem, ...]
    """Everything with which a case is refused."""
    warnings: tuple[str, ...]
    """What is taken as it is but hardly right; only voxels show it."""
    notes: tuple[str, ...]
    """What a conversion changes or tolerates; only voxels show all of it."""
    labels_seen: Mapping[tuple[Case, str], frozenset[int]]
    """Labels in the label map of a case and label set, background aside, of those that were converted."""
    thumbnails: Mapping[Case, Thumbnail]
    """Images made small, of those that were read."""
    num_slices: Mapping[Case, int]
    """Of the images whose header could be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What was seen of one case so far."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: dict[tuple[Case, str], frozenset[int]] = field(default_factory=dict)
    thumbnails: dict[Case, Thumbnail] = field(default_factory=dict)
    num_slices: dict[Case, int] = field(default_factory=dict)


def inspect_downloads(
    requests: Sequence[CaseRequest], *, downloads: Path, thorough: bool, num_threads: int = 1
) -> Inspection:
    """List everything that is wrong with the requested cases, and never raise for what is wrong with a file.

    Parameters
    ----------
    requests
        Cases to look at.
    downloads
        Data folder with one folder for each download.
    thorough
        Read every voxel and check all that a conversion checks. Otherwise read headers and the ends of files: enough
        to find what is missing, most cut files and masks of another geometry, in milliseconds a case.
    num_threads
        Cases inspected at a time; each holds one volume and its masks in memory if `thorough`.
    """

    def inspect(request: CaseRequest) -> _Seen:
        seen = _Seen()
        found = _find(request, downloads=downloads, seen=seen)
        if found is not None and thorough:
            _convert(request, found, downloads=downloads, seen=seen)
        elif found is not None:
            _compare_headers(request, found, seen=seen)
        return seen

    with ThreadPoolExecutor(max_workers=num_threads) as executor:
        cases = list(executor.map(inspect, requests))
    return Inspection(
        problems=tuple(dict.fromkeys(problem for seen in cases for problem in seen.problems)),
        warnings=tuple(dict.fromkeys(warning for seen in cases for warning in seen.warnings)),
        notes=tuple(dict.fromkeys(note for seen in cases for note in seen.notes)),
        labels_seen={key: labels for seen in cases for key, labels in seen.labels.items()},
        thumbnails={case: small for seen in cases for case, small in seen.thumbnails.items()},
        num_slices={case: number for seen in cases for case, number in seen.num_slices.items()},
    )


def voxels_by_header(case: Case, *, dataset: Dataset, downloads: Path) -> int:
    """Return the voxels of the image of a case, of all channels, as headers tell; 0 if they tell nothing."""
    with collecting([], downloads):
        layout = open_layout(dataset, downloads=downloads)
        volume = layout.find_image(case.name, label_set=dataset.label_sets[0])
        return math.prod(volume.read_geometry().size) * len(dataset.channels)
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The files of one case, as far as they are there."""

    layout: Layout
    volume: Volume | None
    masks: dict[str, SourceFile]


def _find(request: CaseRequest, *, downloads: Path, seen: _Seen) -> _Found | None:
    folder = downloads / request.dataset.folder
    with collecting(seen.problems, folder):
        layout = open_layout(request.dataset, downloads=downloads)
        for label_set in request.label_sets:
            layout.rule(label_set)
        volume, masks = None, {}
        with collecting(seen.problems, folder):
            volume = layout.find_image(request.case_name, label_set=request.label_sets[0])
        for label_set in request.label_sets:
            with collecting(seen.problems, folder):
                masks[label_set] = layout.find_labels(request.case_name, label_set=label_set)
        return _Found(layout=layout, volume=volume, masks=masks)
    return None


def _compare_headers(request: CaseRequest, found: _Found, *, seen: _Seen) -> None:
    image: Geometry | None = None
    if found.volume is not None:
        with collecting(seen.problems, found.volume.name):
            geometry = found.layout.oriented_grid(found.volume.read_geometry())
            found.layout.check_grid(geometry, name=found.volume.name)
            image = geometry
            seen.num_slices[request.case] = geometry.size[2]
    for mask in found.masks.values():
        with collecting(seen.problems, mask):
            geometry = found.layout.oriented_grid(found.layout.read_labels_grid(mask))
            if image is not None and found.volume is not None:
                note = check_same_geometry(image, geometry, image_name=found.volume.name, mask_name=str(mask))
                seen.notes.extend([note] if note else [])


def _convert(request: CaseRequest, found: _Found, *, downloads: Path, seen: _Seen) -> None:
    beside: Beside | None = None
    if found.volume is not None:
        with collecting(seen.problems, found.volume.name):
            converted = image_from(found.volume, case=request.case, layout=found.layout, downloads=downloads)
            beside = Beside(image=converted.image, name=found.volume.name)
            seen.num_slices[request.case] = converted.image.GetSize()[2]
            small = thumbnail_of(converted.image)
            seen.thumbnails.update({} if small is None else {request.case: small})
            seen.notes.extend(converted.notes)
            seen.warnings.extend(converted.warnings)
    parts = []
    for label_set, mask in found.masks.items():
        with collecting(seen.problems, mask):
            labels = labels_from(
                mask,
                case=request.case,
                label_set=label_set,
                beside=beside,
                layout=found.layout,
                downloads=downloads,
            )
            seen.notes.extend(labels.notes)
            seen.warnings.extend(labels.warnings)
            seen.labels[request.case, label_set] = labels.labels_present
            parts.append(labels)
    if beside is not None:
        seen.warnings.extend(warnings_between(parts, layout=found.layout))

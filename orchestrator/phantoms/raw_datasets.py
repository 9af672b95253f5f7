"""Phantoms in nnU-Net's raw layout, of whatever a study says: a body with an ellipsoid for each label, in all channels.

They show that a study runs, not what its structures look like. Regions lie within each other, other structures apart.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.benchmark.checks.names import check_case_names
from orchestrator.benchmark.definition import Dataset, LabelSet
from orchestrator.phantoms.downloads import FORMAT, MARKER, PhantomCase, check_spacing, is_there, replace_folder
from orchestrator.phantoms.shapes import stable_seed

VIEW_MM = (180.0, 240.0, 240.0)
"""Seen along (z, y, x)."""
_BODY_MM = (80.0, 100.0, 90.0)
"""Radii of the body."""
_LARGEST_MM = 46.0
"""Radius of the outermost region, and of a structure that is alone."""
_AIR_HU, _BODY_HU = -1000.0, 40.0
_BODY_SIGNAL = 300.0
_NOISE = 0.05
"""Of the signal of the body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one value of a mask is."""

    value: int
    depth: int
    """How many regions it lies in: those of more lie within those of fewer."""


def write_raw_phantoms(
    folder: Path,
    *,
    requests: Sequence[PhantomCase],
    label_sets: Mapping[str, LabelSet],
    spacing_mm: float | None,
    seed: int,
    on_case: Callable[[str], None] = lambda _: None,
) -> None:
    """Write one data set of phantoms; nothing is done if it is already there.

    Parameters
    ----------
    folder
        `DatasetNNN_Name`, made by this.
    requests
        Its cases, perhaps of several data sets of a study that share the folder.
    label_sets
        Of the study, by name: the first of each data set says what is drawn.
    spacing_mm
        Of the voxels; None for 1 mm in slices as many as the study says.
    seed
        Of everything that is random.
    on_case
        Called with the name of each case that is there.

    Raises
    ------
    ConfigError
        For a spacing that no phantom has, or a case that no file can be named after.
    DataError
        If the folder holds files that are not phantoms: nothing of them is touched.
    """
    check_spacing(spacing_mm)
    marker = _marker(folder.name, requests, spacing_mm=spacing_mm, seed=seed)
    if is_there(folder, wanted=marker):
        for _, name in requests:
            on_case(name)
        return
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    for dataset, name in {name: (dataset, name) for dataset, name in requests}.values():
        label_set = label_sets[dataset.label_sets[0]]
        _write_case(staging, dataset, name, label_set=label_set, spacing_mm=spacing_mm, seed=seed)
        on_case(name)
    first = requests[0][0]
    described = _described(first, label_sets[first.label_sets[0]], num_cases=len({name for _, name in requests}))
    (staging / "dataset.json").write_text(json.dumps(described, indent=1) + "\n")
    (staging / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
    replace_folder(folder, staging)


def _marker(
    download: str, requests: Sequence[PhantomCase], *, spacing_mm: float | None, seed: int
) -> Mapping[str, object]:
    """Return what says which phantoms a folder holds."""
    return {
        "format": FORMAT,
        "download": download,
        "seed": seed,
        "spacing_mm": spacing_mm,
        "cases": sorted(f"{dataset.name}/{name}" for dataset, name in requests),
        "effusions": [],
    }


def _described(dataset: Dataset, label_set: LabelSet, *, num_cases: int) -> dict[str, object]:
    """Return a `dataset.json` of nnU-Net's."""
    labels: dict[str, object] = {"background": 0}
    value_of = {label: value for value, label in dataset.label_values[label_set.name].items() if label}
    for structure in label_set.structures:
        values = [value_of.get(label, label) for label in structure.labels]
        labels[structure.name] = values if structure.region else values[0]
    unused = sorted(value for value, label in dataset.label_values[label_set.name].items() if not label)
    labels |= {f"unused {value}": value for value in unused}
    if label_set.ignored_label is not None:
        labels["ignore"] = value_of.get(label_set.ignored_label, label_set.ignored_label)
    order = {"regions_class_order": [structure.label for structure in label_set.structures]}
    return {
        "channel_names": {str(number): channel for number, channel in enumerate(dataset.channels)},
        "labels": labels,
        **(order if label_set.has_regions else {}),
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
        "description": "Generated phantoms",
    }


def _parts(dataset: Dataset, label_set: LabelSet) -> list[_Part]:
    """Return what is drawn, the outermost first."""
    values = dataset.label_values[label_set.name]
    parts = [
        _Part(value=value, depth=sum(label in structure.region for structure in label_set.structures))
        for value, label in sorted(values.items())
    ]
    return sorted(parts, key=lambda part: part.depth)


def _write_case(
    folder: Path, dataset: Dataset, name: str, *, label_set: LabelSet, spacing_mm: float | None, seed: int
) -> None:
    check_case_names([name], where=dataset.folder)
    random = np.random.default_rng(stable_seed(seed, dataset.folder, name))
    spacing = _spacing(dataset, spacing_mm)
    places = _grid(spacing, dataset=dataset)
    parts = _parts(dataset, label_set)
    mask = np.zeros(tuple(axis.size for axis in places), np.uint8)
    body = _inside(places, middle=random.uniform(-5, 5, 3), radii=np.multiply(_BODY_MM, random.uniform(0.93, 1.05, 3)))
    for value, middle, radius in _places_of(parts, random=random, least_mm=1.5 * min(spacing)):
        shape = _inside(places, middle=middle, radii=radius * random.uniform(0.85, 1.1, 3))
        mask[shape & body] = value
    levels = [part.value for part in parts]
    for channel, channel_name in enumerate(dataset.channels):
        image = _painted(mask, body, levels, channel=channel, is_ct=channel_name.casefold() == "ct", random=random)
        _save(folder / "imagesTr" / f"{name}_{channel:04}.nii.gz", image, spacing=spacing)
    _save(folder / "labelsTr" / f"{name}.nii.gz", mask, spacing=spacing)


def _spacing(dataset: Dataset, spacing_mm: float | None) -> tuple[float, float, float]:
    """Return the edges of a voxel (z, y, x)."""
    if dataset.num_slices == 1:
        return VIEW_MM[0], spacing_mm or 1.0, spacing_mm or 1.0
    if spacing_mm is not None:
        return spacing_mm, spacing_mm, spacing_mm
    return VIEW_MM[0] / dataset.num_slices, 1.0, 1.0


def _grid(spacing: tuple[float, float, float], *, dataset: Dataset) -> list[NDArray[np.float64]]:
    numbers = [max(1, round(view / step)) for view, step in zip(VIEW_MM, spacing, strict=True)]
    numbers[0] = 1 if dataset.num_slices == 1 else numbers[0]
    axes = [(np.arange(num) - (num - 1) / 2) * step for num, step in zip(numbers, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _inside(
    places: Sequence[NDArray[np.float64]], *, middle: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    squares = [((axis - at) / radius) ** 2 for axis, at, radius in zip(places, middle, radii, strict=True)]
    inside: NDArray[np.bool_] = squares[0] + squares[1] + squares[2] <= 1
    return inside


def _places_of(
    parts: Sequence[_Part], *, random: np.random.Generator, least_mm: float
) -> Iterator[tuple[int, NDArray[np.float64], float]]:
    """Yield value, middle (z, y, x) and radius of each shape."""
    depths = sorted({part.depth for part in parts})
    side = random.choice([-1.0, 1.0])
    for depth in depths:
        beside = [part.value for part in parts if part.depth == depth]
        share = 1.0 / (1 + 0.55 * depths.index(depth)) if depth else 1.0 / math.sqrt(len(beside))
        for number, value in enumerate(beside):
            # What is in no region, and what lies beside another, is spread around the middle.
            angle = 2 * math.pi * (number + 0.1 * random.uniform(-1, 1)) / len(beside)
            away = 48.0 * (len(beside) > 1) * (1.0 if depth == 0 else 0.35)
            middle = np.array([random.uniform(-6, 6), away * math.sin(angle), away * math.cos(angle)])
            middle += (0.0, 8.0, 25.0 * side) if depth else random.uniform(-4, 4, 3)
            yield value, middle, max(least_mm, _LARGEST_MM * share)


def _painted(
    mask: NDArray[np.uint8],
    body: NDArray[np.bool_],
    values: Sequence[int],
    *,
    channel: int,
    is_ct: bool,
    random: np.random.Generator,
) -> NDArray[np.int16]:
    """Return one channel: each value has a contrast of its own, in each channel another one."""
    body_level, air, step = (_BODY_HU, _AIR_HU, 60.0) if is_ct else (_BODY_SIGNAL, 0.0, 0.35 * _BODY_SIGNAL)
    image = np.where(body, body_level, air)
    for number, value in enumerate(values):
        contrast = 1 + (number + channel) % max(1, len(values))
        image[mask == value] = body_level + step * contrast * (1.0 if channel % 2 == 0 or is_ct else 0.8)
    noise = _NOISE * (_BODY_SIGNAL if not is_ct else 6 * _BODY_HU) * random.standard_normal(image.shape)
    # An MRI is 0 outside of the body once it is masked, which nnU-Net crops; a CT is not.
    return np.rint(image + (noise if is_ct else np.where(body, noise, 0.0))).astype(np.int16)


def _save(path: Path, array: NDArray[np.generic], *, spacing: tuple[float, float, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)

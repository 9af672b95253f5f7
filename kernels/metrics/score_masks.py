"""Overlap and distances of every label of two label maps."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kernels.masks.bitmask import MaskPair, crop_pair
from kernels.masks.label_rows import find_labels
from kernels.masks.label_runs import is_label
from kernels.masks.validation import check_pair, check_spacing, check_tolerances
from kernels.metrics.metric import Metric, further_metrics
from kernels.metrics.overlap import dice_of_counts
from kernels.metrics.surface_dice import overlap_of_distances, overlap_of_surfaces
from kernels.metrics.surface_distances import distances_of_surfaces
from kernels.metrics.surfaces import find_surfaces
from kernels.metrics.voxel_distances import voxel_distances_of_pair

OWN_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "dsc": "dsc",
        "nsd": "nsd",
        "hd95": "hd95_mm",
        "assd": "assd_mm",
        "hd95-voxel": "hd95_voxel_mm",
        "hd95-voxel-pooled": "hd95_voxel_pooled_mm",
        "assd-voxel": "assd_voxel_mm",
        "masd-voxel": "masd_voxel_mm",
    }
)
"""The field of `LabelScore` for each metric that it has one of its own for."""
FURTHER: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in further_metrics()})
"""Those of files of their own, by name."""
FIELDS = MappingProxyType({**OWN_FIELDS, **{name: metric.field for name, metric in FURTHER.items()}})
"""Where each metric is found: a field of `LabelScore`, or a name in its `further`."""
METRICS = tuple(FIELDS)
"""What can be calculated."""
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "dsc": "DSC",
        "nsd": "NSD",
        "hd95": "HD95 (mm)",
        "assd": "ASSD (mm)",
        "hd95-voxel": "HD95, voxels (mm)",
        "hd95-voxel-pooled": "HD95, voxels pooled (mm)",
        "assd-voxel": "ASSD, voxels (mm)",
        "masd-voxel": "MASD, voxels (mm)",
        **{name: metric.title for name, metric in FURTHER.items()},
    }
)
"""Of each metric, with its unit, for tables."""
LARGER_IS_BETTER = frozenset({"dsc", "nsd", *(name for name, metric in FURTHER.items() if metric.larger_is_better)})
"""Metrics of which 1 is the best; of all others 0 is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Scores of one label; NaN for a metric that was not asked for, and for each one if both maps lack the label."""

    label: int
    """Its value in the reference."""
    dsc: float
    """Dice similarity coefficient, 0 to 1; 0 if one map lacks the label."""
    nsd: float
    """Normalised surface Dice at `tolerance_mm`, 0 to 1; 0 if one map lacks the label."""
    hd95_mm: float
    """95th percentile of the surface distances by area, the larger of both directions; this and all other distances are
    infinite if one map lacks the label."""
    assd_mm: float
    """Average symmetric surface distance by area."""
    hd95_voxel_mm: float
    """95th percentile over the voxels at a surface, the larger of both directions."""
    hd95_voxel_pooled_mm: float
    """95th percentile over the voxels at both surfaces together."""
    assd_voxel_mm: float
    """Mean distance of the voxels at both surfaces together."""
    masd_voxel_mm: float
    """Mean of both directions' mean distances of the voxels at a surface."""
    tolerance_mm: float
    """Tolerance of the NSD."""
    num_reference_voxels: int
    """Voxels of the label in the reference."""
    num_predicted_voxels: int
    """Voxels of the label in the prediction."""
    further: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Of the other metrics that were asked for, by field."""


def score_masks(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_mm: Sequence[float],
    tolerances_mm: Mapping[int, float],
    metrics: Collection[str] = ("dsc", "nsd"),
    prediction_labels: Mapping[int, int] = MappingProxyType({}),
) -> tuple[LabelScore, ...]:
    """Score labels of two label maps.

    Parameters
    ----------
    reference, prediction : bool or integer arrays, shape (Z, Y, X), or (Y, X) for contours in the plane
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)
    tolerances_mm : tolerance of the NSD of each label to be scored; labels it does not name are background
    metrics : what to calculate, of METRICS
    prediction_labels : value in the prediction of those labels whose value is another one there

    Returns
    -------
    One LabelScore a label, in the order of `tolerances_mm`

    Raises
    ------
    ValueError : for shapes that differ, axes other than two or three, floats, a spacing that is not as many positive
        finite numbers as there are axes, a tolerance that is not a finite number of at least 0, no label, labels that
        are not integers other than 0 or that share a value in the prediction, and unknown metrics

    Notes
    -----
    Each map is read once, whatever the number of labels, its integer type and its layout in memory.
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm, num_axes=reference.ndim)
    tolerances = check_tolerances(tolerances_mm)
    predicted = [prediction_labels.get(label, label) for label in tolerances]
    if not all(map(is_label, predicted)) or len(set(predicted)) < len(predicted):
        raise ValueError(f"the labels in the prediction are {predicted}; expected different integers other than 0")
    if isinstance(metrics, str):
        raise ValueError(f"metrics is {metrics!r}; expected a collection of names, such as ('dsc', 'nsd')")  # noqa: TRY004
    if not set(metrics) <= set(METRICS):
        raise ValueError(f"metrics are {list(metrics)}; expected some of {list(METRICS)}")
    is_flat = reference.ndim == 2
    volumes = (reference[None], prediction[None]) if is_flat else (reference, prediction)
    labels = [int(label) for label in tolerances]
    found = find_labels(volumes[0], labels), find_labels(volumes[1], [int(label) for label in predicted])
    return tuple(
        _score(
            crop_pair(*found, number, is_flat=is_flat),
            label,
            spacing_mm=spacing,
            tolerance_mm=tolerance,
            metrics=metrics,
        )
        for number, (label, tolerance) in enumerate(zip(labels, tolerances.values(), strict=True))
    )


def _score(
    pair: MaskPair | None,
    label: int,
    *,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    metrics: Collection[str],
) -> LabelScore:
    num_reference, num_predicted, num_both = pair.count_voxels() if pair else (0, 0, 0)
    values = dict.fromkeys(OWN_FIELDS, math.nan)
    if pair is not None:
        values["dsc"] = dice_of_counts(num_reference=num_reference, num_predicted=num_predicted, num_both=num_both)
        if not {"nsd", "hd95", "assd"}.isdisjoint(metrics):
            values |= _by_area(pair, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm, metrics=metrics)
        if any("voxel" in metric for metric in metrics):
            values |= _by_voxel(pair, spacing_mm=spacing_mm)
    wanted = {OWN_FIELDS[metric]: value if metric in metrics else math.nan for metric, value in values.items()}
    return LabelScore(
        label=label,
        tolerance_mm=tolerance_mm,
        num_reference_voxels=num_reference,
        num_predicted_voxels=num_predicted,
        further=_further(pair, spacing_mm=spacing_mm, metrics=metrics),
        **wanted,
    )


def _further(pair: MaskPair | None, *, spacing_mm: tuple[float, ...], metrics: Collection[str]) -> dict[str, float]:
    asked = [metric for name, metric in FURTHER.items() if name in metrics]
    return {one.field: one.calculate(pair, spacing_mm) if pair is not None else math.nan for one in asked}


def _by_area(
    pair: MaskPair, *, spacing_mm: tuple[float, ...], tolerance_mm: float, metrics: Collection[str]
) -> dict[str, float]:
    surfaces = find_surfaces(pair, spacing_mm=spacing_mm)
    if "hd95" not in metrics and "assd" not in metrics:
        return {"nsd": overlap_of_surfaces(surfaces, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm).surface_dice}
    found = distances_of_surfaces(surfaces)
    # Where all distances are known the tolerance needs no search.
    both = found.reference, found.prediction
    return {
        "nsd": overlap_of_distances(both, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm).surface_dice,
        "hd95": found.hausdorff_distance(percentile=95) if "hd95" in metrics else math.nan,
        "assd": found.average_surface_distance().symmetric_mm,
    }


def _by_voxel(pair: MaskPair, *, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    found = voxel_distances_of_pair(pair, spacing_mm=spacing_mm)
    return {
        "hd95-voxel": found.hausdorff_distance(percentile=95),
        "hd95-voxel-pooled": found.pooled_hausdorff_distance(percentile=95),
        "assd-voxel": found.average_distance(),
        "masd-voxel": found.mean_average_distance(),
    }

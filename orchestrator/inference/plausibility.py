"""Whether an image looks like those that a model was trained on, by what its plans tell: warnings with numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    from orchestrator.training.nnunet.ensembles.averaged_prediction import PredictedImage
    from orchestrator.training.nnunet.planning import Plan

_MOST_SPACING = 3.0
"""How many times coarser or finer than the median of the training cases voxels may be along an axis."""
_MOST_EXTENT = 3.0
"""How many times longer or shorter an image may be along an axis."""
_STATISTICS = ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality")
_FEW = 50
"""Voxels of a sample that tell nothing."""
_LARGEST_ANGLE = 20.0
_AXES = ("first", "second", "third")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """What the plans of a model tell of the cases that it was trained on."""

    spacing_mm: tuple[float, ...]
    """Median, (z, y, x) of a file."""
    extent_mm: tuple[float, ...]
    """Median, of the same axes."""
    intensities: tuple[JsonMapping, ...]
    """nnU-Net's statistics of the labelled voxels of each channel."""
    is_calibrated: tuple[bool, ...]
    """Of each channel: whether its numbers mean the same in all images, as in CT."""

    @classmethod
    def of(cls, plan: "Plan") -> "TrainedOn":
        """Return what plans tell; parts are empty where they do not."""
        plans, backward = plan.plans, plan.plans["transpose_backward"]
        spacing = [float(value) for value in plans.get("original_median_spacing_after_transp") or ()]
        shape = [float(value) for value in plans.get("original_median_shape_after_transp") or ()]
        whole = len(spacing) == len(shape) == len(backward)
        # Older plans have the older name; a configuration may inherit from another one.
        statistics: JsonMapping = next(filter(None, map(plans.get, _STATISTICS)), {})
        schemes = plan.configuration_manager.configuration.get("normalization_schemes") or []
        return cls(
            spacing_mm=tuple(spacing[axis] for axis in backward) if whole else (),
            extent_mm=tuple(spacing[axis] * shape[axis] for axis in backward) if whole else (),
            intensities=tuple(statistics[key] for key in sorted(statistics, key=int)),
            is_calibrated=tuple(scheme == "CTNormalization" for scheme in schemes),
        )


def doubts(found: "PredictedImage", trained: TrainedOn) -> list[str]:
    """Return what is unlike the training cases, one sentence each, with both numbers."""
    return [
        *_compared(found.spacing_mm, trained.spacing_mm, what="spacing", most=_MOST_SPACING),
        *_compared(
            [size * step for size, step in zip(found.shape, found.spacing_mm, strict=True)],
            trained.extent_mm,
            what="field of view",
            most=_MOST_EXTENT,
        ),
        *_no_numbers(found),
        *_intensities(found, trained),
    ]


def doubts_of_direction(direction: Sequence[float]) -> list[str]:
    """Return whether axes stand aslant in the patient: by how many degrees at most."""
    cosines = np.abs(np.reshape(direction, (3, 3))).max(axis=0)
    angle = math.degrees(math.acos(min(1.0, float(cosines.min()))))
    if angle <= _LARGEST_ANGLE:
        return []
    return [f"axes stand up to {angle:.0f} degrees aslant in the patient; models usually saw less than 20"]


def _compared(found: Sequence[float], median: Sequence[float], *, what: str, most: float) -> list[str]:
    if len(found) != len(median):
        return []
    sentences = []
    for axis, (here, there) in enumerate(zip(found, median, strict=True)):
        if here > 0 and there > 0 and not 1 / most <= here / there <= most:
            sentences.append(
                f"{what} of {here:.4g} mm along the {_AXES[axis]} axis; the training cases had {there:.4g} mm (median)"
            )
    return sentences


def _no_numbers(found: "PredictedImage") -> list[str]:
    if not found.share_not_finite:
        return []
    return [f"{100 * found.share_not_finite:.2g} % of the intensities are no numbers (NaN or infinite); expected none"]


def _intensities(found: "PredictedImage", trained: TrainedOn) -> list[str]:
    sentences = []
    channels = zip(found.intensities, found.foreground, trained.intensities, trained.is_calibrated, strict=False)
    for number, (*sampled, known, is_calibrated) in enumerate(channels):
        every, labelled = (values[np.isfinite(values)] for values in sampled)
        low, high = (float(known.get(key, math.nan)) for key in ("percentile_00_5", "percentile_99_5"))
        if not is_calibrated or not low < high or not every.size:
            continue
        name = f"channel {number}: " if len(found.intensities) > 1 else ""
        if _is_outside(labelled, low, high):
            sentences.append(
                f"{name}intensities of what was found have a median of {np.median(labelled):.5g}; 99 % of those of the "
                f"training cases lay between {low:.5g} and {high:.5g}"
            )
        elif not ((every >= low) & (every <= high)).any():
            least, most = float(every.min()), float(every.max())
            sentences.append(
                f"{name}intensities from {least:.5g} to {most:.5g}; 99 % of what was labelled in the training cases "
                f"lay between {low:.5g} and {high:.5g}"
            )
        elif every.min() >= 0 and low < -_FEW:
            sentences.append(
                f"{name}no intensity below 0 (from {every.min():.5g} to {every.max():.5g}); those of the training "
                f"cases began at {low:.5g}: these may be no Hounsfield units"
            )
    return sentences


def _is_outside(values: NDArray[np.float32], low: float, high: float) -> bool:
    return values.size >= _FEW and not low <= float(np.median(values)) <= high

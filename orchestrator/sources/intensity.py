"""Intensities of images: whether those of a CT are in HU, and the type that they are kept in.

Data sets are trained and tested together, and what CT shares are Hounsfield units (HU): air -1000, water 0.
"""

from dataclasses import dataclass

import numpy as np

from orchestrator.images.problem import SourceError

AIR_HU = -200.0
"""Below this, nothing but the air of a volume in HU can lie: what was scaled to the window has rounding below 0."""

# What a CT in HU looks like, as shares of its voxels. Those of the smallest value are left out: they are air
# that was cut off at -1024, or padding around a round field of view (-2000, -3024), which any scale can have.
AIR_RANGE_HU = (-1100.0, -300.0)
MIN_AIR = 0.01
"""A third or more in whole chests; some remains where a volume was cropped to the body, or to a part of it."""
SOFT_TISSUE_HU = (-200.0, 300.0)
MIN_SOFT_TISSUE = 0.03
"""A third or more; a child in the field of view of an adult has a tenth. Without the intercept it is near 1064, with
the intercept twice near -984."""
MAX_DENSE = 0.3
"""Above soft tissue: bone and metal are 1 or 2 in a hundred; without the intercept the whole body is there."""
MIN_CUT_OFF = 0.01
"""From this share of voxels at the largest value on, a window has cut them off; metal does so to far fewer."""
_METAL_HU = 1500.0
"""Scanners themselves cut off at 3071 or somewhat less."""
_MAX_SAMPLES = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Intensities:
    """Intensities of a volume as trainings take them; of a CT in HU."""

    array: np.ndarray
    """Shape (Z, Y, X)."""
    notes: tuple[str, ...] = ()
    """What was changed."""
    warnings: tuple[str, ...] = ()
    """What is hardly right."""


def taken_as_hounsfield(voxels: np.ndarray, *, name: str, shows: str = "a body") -> Intensities:
    """Take a volume (Z, Y, X) as it is if it can be a CT of what it shows in HU; raises SourceError if not."""
    check_hounsfield(voxels, shows=shows, name=name)
    highest = float(voxels.max())
    at_the_end = float(np.mean(voxels == highest))
    if at_the_end < MIN_CUT_OFF or highest >= _METAL_HU:
        return Intensities(array=voxels)
    warning = f"{name}: {at_the_end:.1%} of its voxels are {highest:g} HU, the largest value: a window has cut them off"
    return Intensities(array=voxels, warnings=(warning,))


def check_hounsfield(voxels: np.ndarray, *, name: str, shows: str = "a body") -> None:
    """Raise SourceError if a volume (Z, Y, X) has one value everywhere or cannot be a CT of what it shows in HU."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest == highest:
        raise SourceError.of(
            name,
            found=f"an empty image: every voxel is {lowest:g}",
            expected="a CT volume with different intensities",
            advice="Get it again from its owner.",
        )
    sample = _sample(voxels)
    sample = sample[sample > lowest]
    air, tissue = (_share(sample, *window) for window in (AIR_RANGE_HU, SOFT_TISSUE_HU))
    dense = _share(sample, SOFT_TISSUE_HU[1], np.inf)
    if air < MIN_AIR or tissue < MIN_SOFT_TISSUE or dense > MAX_DENSE:
        raise SourceError.of(
            name,
            found=f"intensities from {lowest:g} to {highest:g} with {air:.1%} in the range of air"
            f" ({_range(AIR_RANGE_HU)}), {tissue:.1%} in that of soft tissue ({_range(SOFT_TISSUE_HU)})"
            f" and {dense:.1%} above",
            expected=f"Hounsfield units of {shows}: at least {MIN_AIR:.0%}, at least {MIN_SOFT_TISSUE:.0%}"
            f" and at most {MAX_DENSE:.0%}",
            advice=_likely_cause(sample, lowest=lowest, highest=highest),
        )


def _sample(voxels: np.ndarray) -> np.ndarray:
    """Return evenly spaced voxels: shares need no more."""
    step = max(1, int(np.ceil((voxels.size / _MAX_SAMPLES) ** 0.5)))
    return voxels[:, ::step, ::step]


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((values >= low) & (values <= high))) if values.size else 0.0


def _range(window: tuple[float, float]) -> str:
    return f"{window[0]:g} to {window[1]:g}"


def _likely_cause(sample: np.ndarray, *, lowest: float, highest: float) -> str:
    if highest >= 2**15:
        return "Values below 0 have become large ones: export it again with signed numbers."
    if highest - lowest <= 20:
        return "It was normalised: get the copy in HU that this was made from."
    if lowest >= -128 and highest - lowest <= 256:
        return "It is a windowed copy of 8 bits: get the CT in HU that it was made from."
    if lowest > AIR_HU and _share(sample, 800, 1300) >= MIN_SOFT_TISSUE:
        return "The rescale intercept of its DICOM files (about -1024) was left out: export it again in HU."
    return "Export it again with the rescale slope and intercept of its DICOM files, each applied once."


def to_stored_type(voxels: np.ndarray) -> np.ndarray:
    """Return int16 where that loses nothing, float32 otherwise."""
    if voxels.dtype == np.int16:
        return voxels
    limits = np.iinfo(np.int16)
    fits = voxels.min() >= limits.min and voxels.max() <= limits.max
    if fits and (voxels.dtype.kind in "iub" or bool((voxels == np.rint(voxels)).all())):
        return voxels.astype(np.int16)
    return voxels.astype(np.float32)

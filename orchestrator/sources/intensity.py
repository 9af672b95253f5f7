"""Intensities of CT volumes: checks, the common window of COVID-19-CT-Seg, and the type they are stored in."""

import numpy as np

from orchestrator.images.problem import SourceError

WINDOW_HU = (-1250.0, 250.0)
"""Window in which the radiopaedia cases of COVID-19-CT-Seg were published."""
WINDOW_MAX = 255.0
"""Value that the upper end of the window was scaled to; the lower end became 0."""
AIR_HU = -200.0
"""Below this, nothing but the air of a volume in HU can lie: what was scaled to the window has rounding below 0."""


def check_intensities(voxels: np.ndarray, *, name: str) -> None:
    """Raise SourceError if a volume (any shape) has the same value everywhere."""
    if voxels.min() == voxels.max():
        raise SourceError.of(
            name,
            found=f"an empty image: every voxel is {voxels.min():g}",
            expected="a CT volume with different intensities",
            advice="Download it again.",
        )


def harmonise_window(voxels: np.ndarray, *, name: str) -> tuple[np.ndarray, str]:
    """Bring a COVID-19-CT-Seg volume to Hounsfield units within the window of the radiopaedia cases.

    Half of the cases (coronacases) are published in HU, the others (radiopaedia) were windowed to [-1250, 250] HU and
    scaled to [0, 255]; the owners recommend doing the same to the former. The same window is applied here, but kept in
    HU, since the networks of tasks 2 and 3 see other data sets in HU as well; nnU-Net's normalisation makes both
    scales the same for task 1. HU are recognised by the air.

    Parameters
    ----------
    voxels : array, shape (Z, Y, X)
        Finite intensities.
    name
        File name for the messages.

    Returns
    -------
    tuple
        The volume in [-1250, 250] HU, rounded, and a note of what was done.

    Raises
    ------
    SourceError
        If the volume is neither in HU nor in the window.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    low, high = WINDOW_HU
    if lowest < AIR_HU:
        note = f"{name}: HU windowed to [{low:g}, {high:g}] like the radiopaedia cases"
        return np.rint(np.clip(voxels, low, high)).astype(np.int16), note
    if highest > WINDOW_MAX or lowest < -0.5:
        raise SourceError.of(
            name,
            found=f"intensities from {lowest:g} to {highest:g}",
            expected=f"Hounsfield units (air below {AIR_HU:g}) or the window 0 to 255",
            advice="Download it again; it was rescaled by another tool.",
        )
    scaled = voxels.astype(np.float32) * ((high - low) / WINDOW_MAX) + low
    note = f"{name}: [0, {WINDOW_MAX:g}] scaled back to the window of [{low:g}, {high:g}] HU that it was made from"
    return np.rint(scaled).astype(np.int16), note


def to_stored_type(voxels: np.ndarray) -> np.ndarray:
    """Return int16 where that loses nothing, float32 otherwise."""
    if voxels.dtype == np.int16:
        return voxels
    limits = np.iinfo(np.int16)
    fits = voxels.min() >= limits.min and voxels.max() <= limits.max
    if fits and (voxels.dtype.kind in "iub" or bool((voxels == np.rint(voxels)).all())):
        return voxels.astype(np.int16)
    return voxels.astype(np.float32)

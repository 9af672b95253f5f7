"""An image made small: cubes of some millimetres, in shades of grey that no window and no unit changes.

It is made while the image is in memory, and is all that is kept for the comparison with others: about 50 kB of a CT.
"""

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.errors import IntegrityError

_STEPS = 40
"""Along the longest edge of an image at least: a power of two in mm that gives between these and twice as many."""
_MOST_VOXELS = 2**22
_FEWEST_VALUES = 64
"""Of the small image that differ from its smallest value; with fewer there is nothing to be recognised."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thumbnail:
    """An image, small."""

    voxels: NDArray[np.uint8]
    """Shape (Z, Y, X): from the first to the 99th percentile of what is not the smallest value, as of padding."""
    step_mm: float
    """Edge of its voxels, a power of two: those of two images can be brought to the larger one by whole numbers."""

    def to_bytes(self) -> bytes:
        """Return the content of a file."""
        head = json.dumps({"shape": self.voxels.shape, "step_mm": self.step_mm})
        return head.encode() + b"\n" + zlib.compress(self.voxels.tobytes())

    @staticmethod
    def from_bytes(content: bytes, *, name: str) -> "Thumbnail":
        """Return what a file holds; raises IntegrityError with its name if that is nothing of the kind."""
        head, _, packed = content.partition(b"\n")
        try:
            fields = json.loads(head)
            shape, step_mm = tuple(map(int, fields["shape"])), float(fields["step_mm"])
            num_voxels = _checked_size(shape, step_mm=step_mm)
            # Never more than the header says, whatever is packed.
            values = zlib.decompressobj().decompress(packed, num_voxels + 1)
            voxels = np.frombuffer(values, np.uint8).reshape(shape)
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError, zlib.error) as error:
            raise IntegrityError(
                f"{name}: not a small image as a run writes it ({error!r:.80}). Remove it: the image is compared with "
                "no other then"
            ) from error
        return Thumbnail(voxels=voxels, step_mm=step_mm)

    def at(self, step_mm: float) -> NDArray[np.float32]:
        """Return the voxels at a step that is a power of two times its own, as means."""
        small = self.voxels.astype(np.float32)
        factor = step_mm / self.step_mm
        for axis in range(3):
            if small.shape[axis] > 1 and factor > 1:
                small = _averaged(small, axis=axis, num_a_step=factor)
        return small


def _checked_size(shape: tuple[int, ...], *, step_mm: float) -> int:
    """Return the number of voxels; raises ValueError for what is no small image."""
    num_voxels = math.prod(shape)
    if len(shape) != 3 or min(shape) < 1 or num_voxels > _MOST_VOXELS or not 0 < step_mm < math.inf:
        raise ValueError(f"{shape} voxels of {step_mm} mm")
    return num_voxels


def thumbnail_of(image: sitk.Image) -> Thumbnail | None:
    """Return an image made small; None of one that is the same everywhere, or nearly so."""
    return make_thumbnail(sitk.GetArrayViewFromImage(image), image.GetSpacing()[::-1])


def make_thumbnail(voxels: NDArray[np.generic], spacing_mm: tuple[float, ...]) -> Thumbnail | None:
    """Return an image made small; None of one that is the same everywhere, or nearly so.

    Parameters
    ----------
    voxels : array, shape (Z, Y, X)
    spacing_mm : distance between voxels along (z, y, x)
    """
    edges = [(num * edge_mm, edge_mm) for num, edge_mm in zip(voxels.shape, spacing_mm, strict=True) if num > 1]
    if not edges:
        return None
    by_extent = math.floor(math.log2(max(edges)[0] / _STEPS))
    by_voxels = round(math.log2(sorted(edge_mm for _, edge_mm in edges)[len(edges) // 2]))
    step_mm = 2.0 ** max(by_extent, by_voxels)
    small = voxels
    for axis, edge_mm in enumerate(spacing_mm):
        small = _averaged(small, axis=axis, num_a_step=step_mm / edge_mm)
    grey = _as_grey(np.nan_to_num(small.astype(np.float32)))
    return None if grey is None else Thumbnail(voxels=grey, step_mm=step_mm)


def _as_grey(small: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Return values as shades of grey; None if there are hardly any that differ."""
    least, span = float(small.min()), float(np.ptp(small))
    # Padding around a field of view is below everything else by an amount that says nothing.
    values = small[small > least + 1e-3 * span]
    if values.size < _FEWEST_VALUES:
        return None
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        return None
    return np.asarray(np.rint(np.clip((small - low) / (high - low), 0, 1) * 255), np.uint8)


def _averaged(voxels: NDArray[np.generic], *, axis: int, num_a_step: float) -> NDArray[np.float32]:
    """Return means over steps of so many voxels along an axis; between voxels where a step is less than one."""
    weights = _weights(voxels.shape[axis], num_a_step=num_a_step)
    moved = np.moveaxis(voxels, axis, 0)
    means = np.empty((len(weights), *moved.shape[1:]), np.float32)
    for place, row in enumerate(weights):
        used = np.flatnonzero(row)
        part = slice(used[0], used[-1] + 1)
        means[place] = np.tensordot(row[part], moved[part].astype(np.float32), axes=(0, 0))
    return np.moveaxis(means, 0, axis)


def _weights(num: int, *, num_a_step: float) -> NDArray[np.float32]:
    """Return what each voxel adds to each step, shape (steps, voxels); rows add up to 1."""
    if num == 1:
        return np.ones((1, 1), np.float32)
    num_steps = max(1, round(num / num_a_step))
    # Around the middle, so that a flipped image has the same steps, flipped.
    starts = (np.arange(num_steps) - num_steps / 2) * num_a_step + num / 2
    voxels = np.arange(num)
    if num_a_step < 1:
        places = np.clip(starts + num_a_step / 2 - 0.5, 0, num - 1)
        weights = np.clip(1 - np.abs(places[:, None] - voxels), 0, None)
    else:
        ends = np.minimum(starts[:, None] + num_a_step, voxels + 1)
        weights = np.clip(ends - np.maximum(starts[:, None], voxels), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)

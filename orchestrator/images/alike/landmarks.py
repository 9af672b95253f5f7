"""What a small image is recognised by: its details, and landmarks that look the same from every side.

Landmarks are where the details are strongest. What describes one is the same for every flip and exchange of axes, and
for every linear change of the intensities, as means over shells around it are, and sorted means over octants.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

NUM_LANDMARKS = 128
"""Of an image at most: the strongest."""
_FINE, _COARSE, _AROUND = 0.7, 1.4, 3.0
"""Widths, in steps: details are what is between the first two; their strength is that of what is around them."""
_FLOOR = 0.15
"""Of the strength of all details, below which they are noise."""
_RADIUS = 5
"""Of what describes a landmark, in steps."""
_NUM_OCTANTS, _NUM_SIDES = 8, 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Details:
    """A small image as it is compared with others."""

    contrast: NDArray[np.float32]
    """Shape (Z, Y, X): details, everywhere of about the same strength."""
    places: NDArray[np.float32]
    """Shape (N, 3): landmarks, in steps."""
    descriptions: NDArray[np.float32]
    """Shape (N, D): what each looks like."""


def details_of(small: NDArray[np.float32]) -> Details:
    """Return the details and landmarks of a small image, shape (Z, Y, X)."""
    fine = gaussian_filter(small, _FINE, mode="nearest")
    band = fine - gaussian_filter(small, _COARSE, mode="nearest")
    strength = np.sqrt(gaussian_filter(band**2, _AROUND, mode="nearest"))
    floor = _FLOOR * float(np.sqrt(np.mean(band**2))) + 1e-6
    contrast = np.asarray(band / (strength + floor), np.float32)
    places = _strongest(np.abs(contrast))
    return Details(contrast=contrast, places=places.astype(np.float32), descriptions=_descriptions(fine, places))


def _strongest(strength: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the places of the strongest peaks, shape (N, 3); none at the border, where the image was perhaps cut."""
    is_peak = strength == maximum_filter(strength, 3, mode="nearest")
    for axis, num in enumerate(strength.shape):
        if num > 2:
            np.moveaxis(is_peak, axis, 0)[[0, -1]] = False
    places = np.argwhere(is_peak)
    order = np.argsort(-strength[tuple(places.T)], kind="stable")
    return places[order[:NUM_LANDMARKS]]


def _descriptions(fine: NDArray[np.float32], places: NDArray[np.intp]) -> NDArray[np.float32]:
    offsets, parts = _parts()
    around = np.clip(places[:, None] + offsets, 0, np.array(fine.shape) - 1)
    values = fine[tuple(np.moveaxis(around, -1, 0))]
    values = values - values.mean(axis=1, keepdims=True)
    values /= values.std(axis=1, keepdims=True) + 1e-3
    means = values @ parts
    num_shells = means.shape[1] - _NUM_OCTANTS - _NUM_SIDES
    shells, octants, sides = np.split(means, [num_shells, num_shells + _NUM_OCTANTS], axis=1)
    spreads = np.sqrt(np.maximum(values**2 @ parts[:, :num_shells] - shells**2, 0))
    found = [shells, spreads, np.sort(octants, axis=1), np.sort(sides, axis=1)]
    return np.ascontiguousarray(np.concatenate(found, axis=1), np.float32)


@cache
def _parts() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the offsets around a landmark, and the share that each has in the mean of each shell, octant and side."""
    numbers = range(-_RADIUS, _RADIUS + 1)
    offsets = np.array([one for one in product(numbers, repeat=3) if np.linalg.norm(one) < _RADIUS + 0.01])
    radius = np.linalg.norm(offsets, axis=1)
    shells = [(radius >= low - 0.5) & (radius < low + 0.5) for low in range(_RADIUS + 1)]
    octants = [np.all(offsets * np.array(signs) > 0, axis=1) for signs in product((-1, 1), repeat=3)]
    sides = [
        (sign * offsets[:, axis] >= np.abs(offsets).max(axis=1)) & (radius > 0) for axis in range(3) for sign in (-1, 1)
    ]
    shares = np.array([*shells, *octants, *sides], np.float32).T
    return offsets, shares / shares.sum(axis=0)

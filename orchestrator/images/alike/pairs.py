"""Which of many images show the same: a few landmarks that lie alike, and then details that agree voxel by voxel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, spline_filter

from orchestrator.images.alike.landmarks import NUM_LANDMARKS, Details, details_of
from orchestrator.images.alike.thumbnail import Thumbnail

LEAST_LIKENESS = 0.94
"""Correlation of the details of two images from which they show the same: `python -m bench.alike` tells how far
copies are above it, and other images below."""
MOST_IMAGES = 2000
"""That are compared with each other; of more only those that are equal are found."""
_FARTHEST = 0.6
"""Between the descriptions of two landmarks that may be one."""
_FEWEST_MATCHES, _FEWEST_ALIKE, _MOST_MATCHES = 8, 8, 32
"""Landmarks that look alike, and those of them that lie alike, from which two images are looked at closely;
and the most that are looked at, those that look most alike."""
_NEAR = 1.5
"""Steps by which landmarks that lie alike may differ."""
_LEAST_OVERLAP, _FEWEST_VOXELS = 0.25, 150
"""Share of the smaller image that both must show, and its steps."""
_MARGIN = 2
"""Steps at the border of what both show in which a cut has changed the details."""
_LEAST_BEFORE = 0.75
"""Correlation from which the shift is searched for in parts of a step."""
_MOST_COARSER = 4.0
"""How many times larger the steps of one image may be than those of another that it is compared with."""
_MIDDLE = 24
"""Steps along each axis that are looked at until two images are likely to show the same."""
_TURNS = np.array(
    [
        np.eye(3)[list(axes)] * np.array(signs)[:, None]
        for axes in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
)
"""Every flip and exchange of axes, shape (48, 3, 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlikeImages:
    """Two images that show the same."""

    first: int
    """Its number."""
    second: int
    likeness: float
    """Correlation of their details where they overlap; 1 for equal ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """How one image would have to be turned and shifted to lie upon another."""

    turn: NDArray[np.float64]
    shift: NDArray[np.float64]
    num_alike: int


def alike_images(thumbnails: Sequence[Thumbnail]) -> list[AlikeImages]:
    """Return all pairs of images that show the same, by their places in the sequence.

    Copies are found that were cut (to a quarter at the least), resampled, flipped, turned by right angles, windowed or
    scaled. Two scans of one patient are not claimed to be.
    """
    found = {(one.first, one.second): one for one in _equal(thumbnails)}
    if len(thumbnails) <= MOST_IMAGES:
        for step_mm in sorted({thumbnail.step_mm for thumbnail in thumbnails}):
            for one in _at_step(thumbnails, step_mm=step_mm):
                if one.likeness >= LEAST_LIKENESS:
                    found.setdefault((one.first, one.second), one)
    return [found[pair] for pair in sorted(found)]


def likeness_of(one: Thumbnail, other: Thumbnail) -> float:
    """Return how alike two images are, whether that is enough or not; 0 if no landmarks suggest it."""
    found = [*_equal([one, other]), *_at_step([one, other], step_mm=max(one.step_mm, other.step_mm))]
    return max((pair.likeness for pair in found), default=0.0)


def _equal(thumbnails: Sequence[Thumbnail]) -> Iterator[AlikeImages]:
    before: dict[bytes, list[int]] = {}
    for number, thumbnail in enumerate(thumbnails):
        same = before.setdefault(thumbnail.to_bytes(), [])
        yield from (AlikeImages(first=other, second=number, likeness=1.0) for other in same)
        same.append(number)


def _at_step(thumbnails: Sequence[Thumbnail], *, step_mm: float) -> Iterator[AlikeImages]:
    """Yield the pairs of which the coarser one has this step, and which landmarks suggest to be alike."""
    numbers = [i for i, one in enumerate(thumbnails) if step_mm / _MOST_COARSER <= one.step_mm <= step_mm]
    is_coarsest = np.array([thumbnails[i].step_mm == step_mm for i in numbers])
    details = [details_of(thumbnails[i].at(step_mm)) for i in numbers]
    described = _stacked(details)
    for place, one in enumerate(details):
        others = np.arange(place + 1, len(details))
        others = others[is_coarsest[others] | is_coarsest[place]]
        for other, matches in _matches(one, described, others=others):
            likeness = _likeness(one, details[other], matches=matches)
            yield AlikeImages(first=numbers[place], second=numbers[other], likeness=round(likeness, 3))


def _stacked(details: Sequence[Details]) -> NDArray[np.float32]:
    """Return the descriptions of all images, shape (images, NUM_LANDMARKS, D); what is missing is like nothing."""
    num = max((one.descriptions.shape[1] for one in details), default=1)
    stacked = np.full((len(details), NUM_LANDMARKS, num), 1e6, np.float32)
    for place, one in enumerate(details):
        stacked[place, : len(one.descriptions)] = one.descriptions
    return stacked


def _matches(
    one: Details, described: NDArray[np.float32], *, others: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each other image with enough landmarks that are each other's nearest, and their numbers, shape (N, 2)."""
    if not len(others) or not len(one.places):
        return
    there = described[others].reshape(-1, described.shape[2])
    # |a - b|^2 without the array of all differences.
    distances = (there**2).sum(axis=1) - 2 * (one.descriptions @ there.T)
    distances += (one.descriptions**2).sum(axis=1)[:, None]
    distances = distances.reshape(len(one.places), len(others), NUM_LANDMARKS)
    nearest, back = distances.argmin(axis=2), distances.argmin(axis=0)
    own = np.arange(len(one.places))[:, None]
    columns = np.arange(len(others))[None, :]
    apart = distances[own, columns, nearest]
    is_match = (back[columns, nearest] == own) & (apart < _FARTHEST**2)
    for column in np.flatnonzero(is_match.sum(axis=0) >= _FEWEST_MATCHES):
        mine = np.flatnonzero(is_match[:, column])
        mine = mine[np.argsort(apart[mine, column], kind="stable")[:_MOST_MATCHES]]
        yield int(others[column]), np.stack([mine, nearest[mine, column]], axis=1)


def _likeness(one: Details, other: Details, *, matches: NDArray[np.intp]) -> float:
    """Return how well the details of two images agree, placed as their landmarks say; 0 if these say nothing."""
    placed = _placed(one.places[matches[:, 0]], other.places[matches[:, 1]])
    if placed.num_alike < _FEWEST_ALIKE:
        return 0.0
    compared = _Compared(one=one.contrast, other=other.contrast, turn=placed.turn)
    if compared.at(placed.shift, most=_MIDDLE) < _LEAST_BEFORE:
        return 0.0
    # Landmarks tell whole steps; parts of a step are found by trying.
    exact = replace(compared, one=spline_filter(one.contrast, order=3, mode="nearest"), order=3)
    shift, best = placed.shift, exact.at(placed.shift, most=_MIDDLE)
    for part in (0.4, 0.2, 0.1):
        for axis, sign in product(range(3), (-1, 1)):
            tried = shift + sign * part * np.eye(3)[axis]
            found = exact.at(tried, most=_MIDDLE)
            if found > best:
                shift, best = tried, found
    return exact.at(shift)


def _placed(places: NDArray[np.float32], others: NDArray[np.float32]) -> _Placed:
    """Return the turn and shift with which most landmarks of one image lie upon those of another."""
    shifts = others[None] - np.einsum("tij,nj->tni", _TURNS, places)
    is_near = np.abs(shifts[:, :, None] - shifts[:, None]).max(axis=3) <= _NEAR
    num_near = is_near.sum(axis=2)
    turn, match = np.unravel_index(int(num_near.argmax()), num_near.shape)
    return _Placed(
        turn=_TURNS[turn],
        shift=np.asarray(shifts[turn][is_near[turn, match]].mean(axis=0), np.float64),
        num_alike=int(num_near[turn, match]),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Compared:
    """Two arrays of details, the first of which is turned and shifted."""

    one: NDArray[np.float32]
    """Of an order above 1, its spline coefficients."""
    other: NDArray[np.float32]
    turn: NDArray[np.float64]
    order: int = 1
    """Of the splines between its places."""

    def at(self, shift: NDArray[np.float64], *, most: int | None = None) -> float:
        """Return the correlation where both are, within so many steps of the middle; 0 if that is hardly anywhere.

        A place p of the first lies at `turn @ p + shift` of the second.
        """
        corners = np.stack([shift, self.turn @ (np.array(self.one.shape) - 1) + shift])
        low = np.maximum(np.ceil(corners.min(axis=0) - 1e-6), 0).astype(int)
        high = np.minimum(np.floor(corners.max(axis=0) + 1e-6) + 1, self.other.shape).astype(int)
        size = np.maximum(high - low, 0)
        if size.prod() < max(_FEWEST_VOXELS, _LEAST_OVERLAP * min(self.one.size, self.other.size)):
            return 0.0
        margin = np.where(size > 5 * _MARGIN, _MARGIN, 0)
        if most is not None:
            margin = np.maximum(margin, (size - most) // 2)
        low, high = low + margin, high - margin
        moved = affine_transform(self.one, self.turn.T, offset=self.turn.T @ (low - shift),
                                 output_shape=tuple(high - low), order=self.order, mode="nearest",
                                 prefilter=False)  # fmt: skip
        there = self.other[tuple(map(slice, low, high))]
        if not (moved.std() > 0 and there.std() > 0):
            return 0.0
        return float(np.corrcoef(moved.ravel(), there.ravel())[0, 1])

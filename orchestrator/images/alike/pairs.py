"""Which of many images show the same: a few landmarks that lie alike, and then details that agree voxel by voxel."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter

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


def alike_images(thumbnails: Sequence[Thumbnail], *, least_likeness: float = LEAST_LIKENESS) -> list[AlikeImages]:
    """Return all pairs of images that show the same, by their places in the sequence.

    Copies are found that were cut (to a quarter at the least), resampled, flipped, turned by right angles, windowed or
    scaled. Two scans of one patient are not claimed to be. `least_likeness` is that of which copies are.
    """
    found = {(one.first, one.second): one for one in _equal(thumbnails)}
    if len(thumbnails) <= MOST_IMAGES:
        for step_mm in sorted({thumbnail.step_mm for thumbnail in thumbnails}):
            for one in _at_step(thumbnails, step_mm=step_mm):
                if one.likeness >= least_likeness:
                    found.setdefault((one.first, one.second), one)
    return [found[pair] for pair in sorted(found)]


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
        spline = cache(partial(spline_filter, one.contrast, order=3, mode="nearest"))
        others = np.arange(place + 1, len(details))
        others = others[is_coarsest[others] | is_coarsest[place]]
        for other, matches in _matches(one, described, others=others):
            likeness = _likeness(one, details[other], matches=matches, spline=spline)
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


def _likeness(
    one: Details, other: Details, *, matches: NDArray[np.intp], spline: Callable[[], NDArray[np.float32]]
) -> float:
    """Return how well the details of two images agree, placed as their landmarks say; 0 if these say nothing."""
    places, others = one.places[matches[:, 0]], other.places[matches[:, 1]]
    if not _may_lie_alike(places, others):
        return 0.0
    placed = _placed(places, others)
    if placed.num_alike < _FEWEST_ALIKE:
        return 0.0
    compared = _Compared(one=_turned(one.contrast, placed.turn), other=other.contrast)
    # Where the corner of the turned image lies that has the smallest numbers.
    corner = placed.shift + np.minimum(placed.turn @ (np.array(one.contrast.shape) - 1), 0)
    if compared.at(corner, most=_MIDDLE) < _LEAST_BEFORE:
        return 0.0
    # Landmarks tell whole steps; parts of a step are found by trying.
    exact = replace(compared, one=_turned(spline(), placed.turn), order=3)
    best = exact.at(corner, most=_MIDDLE)
    for part in (0.4, 0.2, 0.1):
        for step in part * np.eye(3):
            for tried in (corner - step, corner + step):
                found = exact.at(tried, most=_MIDDLE)
                if found > best:
                    corner, best = tried, found
                    # The other way lies what was there before.
                    break
    return exact.at(corner)


def _may_lie_alike(places: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    """Whether any turn and shift may bring enough landmarks together: what lies between two of them hardly changes."""
    # Sorted distances along the axes are the same for every turn, and differ by no more than those that are not.
    between, there = (np.sort(np.abs(one[:, None] - one[None]), axis=2) for one in (places, others))
    is_near = (np.abs(between - there) <= _NEAR + 1e-3).all(axis=2)
    return bool(is_near.sum(axis=1).max() >= _FEWEST_ALIKE)


def _placed(places: NDArray[np.float32], others: NDArray[np.float32]) -> _Placed:
    """Return the turn and shift with which most landmarks of one image lie upon those of another."""
    shifts = np.asarray(others.T[None] - np.einsum("tij,nj->tin", _TURNS, places), np.float32)
    # An axis at a time: the arrays are small then, and are this search's time.
    is_near = np.ones((len(_TURNS), len(places), len(places)), bool)
    for along in shifts.swapaxes(0, 1):
        is_near &= np.abs(along[:, :, None] - along[:, None]) <= _NEAR
    num_near = np.count_nonzero(is_near, axis=2)
    turn, match = np.unravel_index(int(num_near.argmax()), num_near.shape)
    return _Placed(
        turn=_TURNS[turn],
        shift=np.asarray(shifts[turn][:, is_near[turn, match]].mean(axis=1), np.float64),
        num_alike=int(num_near[turn, match]),
    )


def _turned(values: NDArray[np.float32], turn: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return an array with its axes exchanged and flipped; of a turn by right angles nothing is calculated."""
    exchanged = values.transpose([int(axis) for axis in np.abs(turn).argmax(axis=1)])
    return exchanged[tuple(slice(None, None, int(sign)) for sign in turn.sum(axis=1))]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Compared:
    """Two arrays of details, the first of which is shifted."""

    one: NDArray[np.float32]
    """Of an order above 1, its spline coefficients."""
    other: NDArray[np.float32]
    order: int = 1
    """Of the splines between its places, odd."""

    def at(self, corner: NDArray[np.float64], *, most: int | None = None) -> float:
        """Return the correlation where both are, within so many steps of the middle; 0 if that is hardly anywhere.

        A place p of the first lies at `p + corner` of the second.
        """
        low = np.maximum(np.ceil(corner - 1e-6), 0).astype(int)
        ends = np.floor(corner + np.array(self.one.shape) - 1 + 1e-6) + 1
        high = np.minimum(ends, self.other.shape).astype(int)
        size = np.maximum(high - low, 0)
        if size.prod() < max(_FEWEST_VOXELS, _LEAST_OVERLAP * min(self.one.size, self.other.size)):
            return 0.0
        margin = np.where(size > 5 * _MARGIN, _MARGIN, 0)
        if most is not None:
            margin = np.maximum(margin, (size - most) // 2)
        low, high = low + margin, high - margin
        here = _between(self.one, start=low - corner, size=high - low, order=self.order)
        return _correlation(here, self.other[tuple(map(slice, low, high))])


def _between(
    values: NDArray[np.float32], *, start: NDArray[np.float64], size: NDArray[np.intp], order: int
) -> NDArray[np.float32]:
    """Return what splines give from a place on, a step apart: the same as of scipy, and axis by axis far faster."""
    whole = np.floor(start).astype(int)
    first = whole - order // 2
    ends, shape = first + size + order, np.array(values.shape)
    found = values[tuple(map(slice, np.maximum(first, 0), np.minimum(ends, shape)))]
    beyond = np.maximum([-first, ends - shape], 0).T
    if beyond.any():
        found = np.pad(found, beyond, mode="edge")
    for axis, (num, part) in enumerate(zip(size, start - whole, strict=True)):
        weights = _spline(float(part), order=order)
        before = (slice(None),) * axis
        weighted = (weight * found[(*before, slice(i, i + num))] for i, weight in enumerate(weights))
        found = reduce(np.add, weighted)
    return found


def _spline(part: float, *, order: int) -> NDArray[np.float32]:
    """Return what the `order + 1` places around one count there that is so far behind the one in the middle."""
    rest = 1 - part
    if order == 1:
        return np.array([rest, part], np.float32)
    middle = [(4 - 6 * at**2 + 3 * at**3) / 6 for at in (part, rest)]
    return np.array([rest**3 / 6, *middle, part**3 / 6], np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two arrays; 0 if one of them is the same everywhere."""
    here, there = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    # No dot products: the threads of BLAS cost far more than such short ones.
    spread = float(np.sqrt(np.square(here).sum() * np.square(there).sum()))
    return float((here * there).sum()) / spread if spread > 0 else 0.0

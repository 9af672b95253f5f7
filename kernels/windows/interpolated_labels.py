"""Labels between lines of values of all classes: interpolated, rounded to halves, and the largest taken.

Nothing is calculated where `line_survey.py` leaves one class. Elsewhere the classes that are left are, in runs along x.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.half_precision import half_order
from kernels.resampling.zoom_taps import Taps
from kernels.windows.line_interpolation import Corners, interpolate_class
from kernels.windows.line_survey import LONGEST_RUN, NO_CLASS, Scratch, is_inside, survey_classes, survey_regions


@compiled_in_place
def _can_win(most: NDArray[np.int16], lower: NDArray[np.int64], best: NDArray[np.int16]) -> bool:
    """Whether a class may be larger, at any voxel of a run, than what was calculated so far, or an earlier equal."""
    for k in range(lower.size):  # noqa: SIM110 - compiled
        if most[np.uint64(lower[k])] >= best[k]:
            return True
    return False


@compiled_in_place
def _keep_larger(number: int, values: NDArray[np.uint16], best: NDArray[np.int16], labels: NDArray[np.int64]) -> None:
    """Keep a class where it is the largest so far, or an earlier equal."""
    for k in range(values.size):
        value = half_order(values[k])
        is_kept = (value > best[k]) | ((value == best[k]) & (number < labels[k]))
        best[k] = value if is_kept else best[k]
        labels[k] = number if is_kept else labels[k]


@compiled_in_place
def _decide_class(
    sums: NDArray[np.uint16],
    best: NDArray[np.int16],
    corners: Corners,
    taps: Taps,
    run: tuple[int, int],
    num_found: int,
    scratch: Scratch,
) -> None:
    """Find the class of the largest value of each voxel of a run, and of several the first.

    Those that are the best at a neighbour are calculated first: they leave few others.
    """
    num = run[1] - run[0]
    is_done, largest, labels, values = scratch.is_done, scratch.best[:num], scratch.labels[:num], scratch.values[:num]
    lower, memory = taps.lower[run[0] : run[1]], (scratch.products, scratch.totals)
    is_done[:] = False
    for k in range(num):
        largest[k], labels[k] = scratch.floor[lower[k]], NO_CLASS
    for k in range(4):
        found = best[corners.lines[k]]
        for x in range(lower[0], taps.upper[run[1] - 1] + 1):
            number = int(found[x])
            if not is_done[number]:
                is_done[number] = True
                interpolate_class(sums, number, corners, taps, run, memory, values)
                _keep_larger(number, values, largest, labels)
    for number in scratch.found[:num_found]:
        if not is_done[number] and _can_win(scratch.most[number], lower, largest):
            interpolate_class(sums, number, corners, taps, run, memory, values)
            _keep_larger(number, values, largest, labels)


@compiled_in_place
def _decide_regions(
    sums: NDArray[np.uint16],
    corners: Corners,
    taps: Taps,
    run: tuple[int, int],
    region_labels: NDArray[np.int64],
    scratch: Scratch,
) -> None:
    """Find the label of each voxel of a run: that of the last region that it is in."""
    first, end = run
    unsure = np.int64(0)
    for k in range(end - first):
        x = taps.lower[first + k]
        unsure |= scratch.everywhere[x] ^ scratch.anywhere[x]
        scratch.labels[k] = 0
    for region in range(region_labels.size):
        if unsure >> region & 1:
            interpolate_class(sums, region, corners, taps, run, (scratch.products, scratch.totals), scratch.values)
        for k in range(end - first):
            if unsure >> region & 1:
                is_in = is_inside(half_order(scratch.values[k]))
            else:
                is_in = scratch.everywhere[taps.lower[first + k]] >> region & 1 > 0
            if is_in:
                scratch.labels[k] = region_labels[region]


@compiled_in_place
def _sure_label(x: int, region_labels: NDArray[np.int64], scratch: Scratch) -> Any:
    """Return the only class that can win or, where there are regions, the label of the last one of all voxels."""
    if region_labels.size == 0:
        return np.int64(scratch.only[x])
    label = np.int64(0)
    for region in range(region_labels.size):
        if scratch.everywhere[x] >> region & 1:
            label = region_labels[region]
    return label


@compiled_in_place
def _label_line(
    sums: NDArray[np.uint16],
    best: NDArray[np.int16],
    corners: Corners,
    taps: Taps,
    region_labels: NDArray[np.int64],
    num_found: int,
    scratch: Scratch,
    output: NDArray[np.uint16],
) -> None:
    start = 0
    while start < output.size:
        x = taps.lower[start]
        if scratch.num[x] == 1:
            output[start] = _sure_label(x, region_labels, scratch)
            start += 1
            continue
        end = start + 1
        while end < min(output.size, start + LONGEST_RUN) and scratch.num[taps.lower[end]] > 1:
            end += 1
        if region_labels.size:
            _decide_regions(sums, corners, taps, (start, end), region_labels, scratch)
        else:
            _decide_class(sums, best, corners, taps, (start, end), num_found, scratch)
        for k in range(end - start):
            output[start + k] = scratch.labels[k]
        start = end


@compiled_in_place
def interpolate_labels(
    sums: NDArray[np.uint16],
    best: NDArray[np.int16],
    places: NDArray[np.int64],
    taps: tuple[Taps, Taps, Taps],
    region_labels: NDArray[np.int64],
    scratch: Scratch,
    output: NDArray[np.uint16],
) -> None:
    """Fill in labels.

    Parameters
    ----------
    sums : uint16 array, shape (lines, classes + 1, X)
        Finished: halves, as bits.
    best : int16 array, shape (lines, X)
        Of `find_best`; not looked at where there are regions.
    places : int64 array, shape (Z, Y)
        Which of the lines is that of a slice and row.
    taps : tuple of Taps
        Of the slices, rows and columns of the output.
    region_labels : int64 array, shape (regions,)
        The label of each region, later ones over earlier ones; empty where classes exclude each other.
    scratch : Scratch
        Of `new_scratch`.
    output : uint16 array, shape (z, y, x)
        Filled in.
    """
    z_taps, y_taps, x_taps = taps
    reach = 0
    for x in range(x_taps.lower.size):
        reach |= int(x_taps.upper[x] != x_taps.lower[x])
    first = 0
    while first < output.shape[1]:
        below, above = y_taps.lower[first], y_taps.upper[first]
        end = first + 1
        while end < output.shape[1] and y_taps.lower[end] == below and y_taps.upper[end] == above:
            end += 1
        # Slice after slice, so that two of the four lines have just been read.
        for z in range(output.shape[0]):
            lower, upper = places[z_taps.lower[z]], places[z_taps.upper[z]]
            lines = (lower[below], lower[above], upper[below], upper[above])
            z_weights, num_found = (z_taps.lower_weight[z], z_taps.upper_weight[z]), 0
            if region_labels.size:
                survey_regions(sums, lines, reach, scratch)
            else:
                num_found = survey_classes(sums, best, lines, reach, scratch)
            for y in range(first, end):
                corners = Corners(lines, z_weights, (y_taps.lower_weight[y], y_taps.upper_weight[y]))
                _label_line(sums, best, corners, x_taps, region_labels, num_found, scratch, output[z, y])
        first = end

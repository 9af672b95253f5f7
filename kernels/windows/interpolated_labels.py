"""Labels of a slice between slices of values of all classes: interpolated, rounded to halves, and the largest taken.

Near most voxels all neighbours have the same label by far, which is then the label of whatever is interpolated between
them. The others are calculated, in runs along x, and only for the classes that can win there.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.windows.half_precision import double_to_half, half_order, half_to_float
from kernels.windows.window_sums import BLOCK, LEAST, UNSURE, is_inside

LONGEST_RUN = 64
"""Voxels that are calculated together."""


class SurveyedSlice(NamedTuple):
    """A finished slice, and what is known of it."""

    sums: NDArray[np.uint16]
    """Shape (Y, classes + 1, X): halves, as bits."""
    best: NDArray[np.int64]
    """Shape (Y, X); of `survey_labels` or `survey_regions`."""
    largest: NDArray[np.int16]
    """Shape (Y, blocks, classes); of `survey_labels`."""


class LineTaps(NamedTuple):
    """Indices and weights of the two voxels from which each one along an axis is interpolated."""

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    lower_weight: NDArray[np.float64]
    upper_weight: NDArray[np.float64]


class Scratch(NamedTuple):
    """Memory for one slice."""

    joint: NDArray[np.int64]
    """What four lines have in common at each x."""
    products: NDArray[np.float64]
    """Values of four lines, times their weights of z and y."""
    values: NDArray[np.int16]
    """Of one class in a run."""
    best: NDArray[np.int16]
    """The largest of all classes so far."""
    labels: NDArray[np.int64]
    """Whose that is."""
    seen: NDArray[np.int64]
    """Number of the run in which a class was calculated last."""
    most: NDArray[np.int16]
    """What a class has at most in a run."""


def new_scratch(*, size_x: int, num_classes: int) -> Scratch:
    """Return memory for slices of so many voxels along x."""
    return Scratch(
        np.empty(size_x, np.int64),
        np.empty((4, size_x), np.float64),
        np.empty(LONGEST_RUN, np.int16),
        np.empty(LONGEST_RUN, np.int16),
        np.empty(LONGEST_RUN, np.int64),
        np.zeros(num_classes + 1, np.int64),
        np.empty(num_classes, np.int16),
    )


@compiled_in_place
def _join_neighbours(lower: SurveyedSlice, upper: SurveyedSlice, below: int, above: int, scratch: Scratch) -> None:
    first, second, third, fourth = lower.best[below], lower.best[above], upper.best[below], upper.best[above]
    joint = scratch.joint
    for x in range(joint.size):
        is_same = (first[x] == second[x]) & (first[x] == third[x]) & (first[x] == fourth[x])
        joint[x] = first[x] if is_same else UNSURE


@compiled_in_place
def multiply_line(
    line: NDArray[np.uint16], z_weight: float, y_weight: float, start: int, products: NDArray[np.float64], num: int
) -> None:
    """Fill in values of a line times weights, in this order, in double precision."""
    for x in range(num):
        products[x] = np.float64(half_to_float(line[start + x])) * z_weight * y_weight


@compiled_in_place
def add_taps(
    products: NDArray[np.float64], left: int, right: int, left_weight: float, right_weight: float, total: float
) -> Any:
    """Add two products of a line times their weights to a total, one after the other."""
    return (total + products[left] * left_weight) + products[right] * right_weight


@compiled_in_place
def _calculate(
    lower: SurveyedSlice,
    upper: SurveyedSlice,
    number: int,
    rows: tuple[int, int],
    weights: tuple[float, float, float, float],
    taps: LineTaps,
    run: tuple[int, int],
    scratch: Scratch,
) -> None:
    """Interpolate a run of voxels of one class, in scipy's order of products and sums: z, then y, then x."""
    (below, above), (first, end), products = rows, run, scratch.products
    start = taps.lower[first]
    num = taps.upper[end - 1] + 1 - start
    multiply_line(lower.sums[below, number], weights[0], weights[2], start, products[0], num)
    multiply_line(lower.sums[above, number], weights[0], weights[3], start, products[1], num)
    multiply_line(upper.sums[below, number], weights[1], weights[2], start, products[2], num)
    multiply_line(upper.sums[above, number], weights[1], weights[3], start, products[3], num)
    for x in range(first, end):
        left, right = taps.lower[x] - start, taps.upper[x] - start
        left_weight, right_weight = taps.lower_weight[x], taps.upper_weight[x]
        total = add_taps(products[0], left, right, left_weight, right_weight, 0.0)
        total = add_taps(products[1], left, right, left_weight, right_weight, total)
        total = add_taps(products[2], left, right, left_weight, right_weight, total)
        total = add_taps(products[3], left, right, left_weight, right_weight, total)
        scratch.values[x - first] = half_order(double_to_half(total))


@compiled_in_place
def _keep_better(number: int, num: int, scratch: Scratch) -> None:
    values, best, labels = scratch.values, scratch.best, scratch.labels
    for k in range(num):
        if values[k] > best[k] or (values[k] == best[k] and number < labels[k]):
            best[k], labels[k] = values[k], number


@compiled_in_place
def _bound(
    lower: SurveyedSlice, upper: SurveyedSlice, rows: tuple[int, int], voxels: tuple[int, int], scratch: Scratch
) -> None:
    """Find what each class has at most at these voxels of four lines."""
    most = scratch.most
    most[:] = LEAST
    for block in range(voxels[0] // BLOCK, voxels[1] // BLOCK + 1):
        for k in range(2):
            first, second = lower.largest[rows[k], block], upper.largest[rows[k], block]
            for number in range(most.size):
                most[number] = max(most[number], first[number], second[number])


@compiled_in_place
def _decide_label(
    lower: SurveyedSlice,
    upper: SurveyedSlice,
    rows: tuple[int, int],
    weights: tuple[float, float, float, float],
    taps: LineTaps,
    run: tuple[int, int],
    run_number: int,
    scratch: Scratch,
) -> None:
    """Find the class of the largest value of each voxel of a run, and of several the first.

    The classes that are best at a neighbour are calculated first: others whose values at all neighbours are below the
    largest that was found are not.
    """
    (first, end), seen = run, scratch.seen
    num_classes = seen.size - 1
    scratch.best[: end - first] = LEAST
    scratch.labels[: end - first] = num_classes
    voxels = (taps.lower[first], taps.upper[end - 1])
    for k in range(4):
        best = (lower if k < 2 else upper).best[rows[k % 2]]
        for voxel in range(voxels[0], voxels[1] + 1):
            number = best[voxel] if best[voxel] >= 0 else -1 - best[voxel]
            if seen[number] != run_number:
                seen[number] = run_number
                _calculate(lower, upper, number, rows, weights, taps, run, scratch)
                _keep_better(number, end - first, scratch)
    _bound(lower, upper, rows, voxels, scratch)
    least = np.int16(0x7FFF)
    for k in range(end - first):
        least = min(least, scratch.best[k])
    for number in range(num_classes):
        if scratch.most[number] >= least and seen[number] != run_number:
            _calculate(lower, upper, number, rows, weights, taps, run, scratch)
            _keep_better(number, end - first, scratch)


@compiled_in_place
def _decide_regions(
    lower: SurveyedSlice,
    upper: SurveyedSlice,
    rows: tuple[int, int],
    weights: tuple[float, float, float, float],
    taps: LineTaps,
    run: tuple[int, int],
    region_labels: NDArray[np.int64],
    scratch: Scratch,
) -> None:
    """Find the label of each voxel of a run: that of the last region that it is in."""
    first, end = run
    scratch.labels[: end - first] = 0
    for region in range(region_labels.size):
        _calculate(lower, upper, region, rows, weights, taps, run, scratch)
        for k in range(end - first):
            if is_inside(scratch.values[k]):
                scratch.labels[k] = region_labels[region]


@compiled_in_place
def _end_of_run(joint: NDArray[np.int64], taps: LineTaps, start: int, size_x: int) -> int:
    end = start
    while end < min(size_x, start + LONGEST_RUN):
        label = joint[taps.lower[end]]
        if label >= 0 and label == joint[taps.upper[end]]:
            break
        end += 1
    return end


@compiled_in_place
def interpolate_labels(
    lower: SurveyedSlice,
    upper: SurveyedSlice,
    z_weights: tuple[float, float],
    y_taps: LineTaps,
    x_taps: LineTaps,
    region_labels: NDArray[np.int64],
    scratch: Scratch,
    output: NDArray[np.uint16],
) -> None:
    """Fill in the labels of one slice.

    Parameters
    ----------
    lower, upper : SurveyedSlice
        Between which it lies.
    z_weights : tuple of float
        Of the two.
    y_taps, x_taps : LineTaps
        Of its lines and columns.
    region_labels : int64 array, shape (regions,)
        The label of each region, later ones over earlier ones; empty where classes exclude each other.
    scratch : Scratch
        Of `new_scratch`.
    output : uint16 array, shape (y, x)
        Filled in.
    """
    size_x, run_number = output.shape[1], 0
    scratch.seen[:] = 0
    for y in range(output.shape[0]):
        rows = (y_taps.lower[y], y_taps.upper[y])
        weights = (z_weights[0], z_weights[1], y_taps.lower_weight[y], y_taps.upper_weight[y])
        _join_neighbours(lower, upper, rows[0], rows[1], scratch)
        start = 0
        while start < size_x:
            end = _end_of_run(scratch.joint, x_taps, start, size_x)
            if end == start:
                output[y, start] = _label_of(scratch.joint[x_taps.lower[start]], region_labels)
                start += 1
                continue
            run = (start, end)
            if region_labels.size:
                _decide_regions(lower, upper, rows, weights, x_taps, run, region_labels, scratch)
            else:
                run_number += 1
                _decide_label(lower, upper, rows, weights, x_taps, run, run_number, scratch)
            for x in range(start, end):
                output[y, x] = scratch.labels[x - start]
            start = end


@compiled_in_place
def label_slice(best: NDArray[np.int64], region_labels: NDArray[np.int64], output: NDArray[np.uint16]) -> None:
    """Fill in the labels of a slice on the same grid, shape (y, x), from the `best` of a survey without leads."""
    for y in range(output.shape[0]):
        for x in range(output.shape[1]):
            output[y, x] = _label_of(best[y, x], region_labels)


@compiled_in_place
def _label_of(best: Any, region_labels: NDArray[np.int64]) -> Any:
    """Return the label of a class or, where there are regions, of the last one whose bit is set."""
    if region_labels.size == 0:
        return best
    label = np.int64(0)
    for region in range(region_labels.size):
        if best >> region & 1:
            label = region_labels[region]
    return label

"""Labels of a slice between slices of values of all classes: interpolated, rounded to halves, and the largest taken.

Near most voxels all neighbours have the same label by far, which is then the label of whatever is interpolated between
them. The others are calculated, in runs along x, and only for the classes that can win there.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.half_precision import double_to_half, half_order, half_to_float
from kernels.window_sums import BLOCK, UNSURE

LONGEST_RUN = 64
"""Voxels that are calculated together."""


@compiled
def _join_neighbours(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    third: NDArray[np.int64],
    fourth: NDArray[np.int64],
    joint: NDArray[np.int64],
) -> None:
    """Keep what four lines have in common."""
    for x in range(joint.size):
        is_same = (first[x] == second[x]) & (first[x] == third[x]) & (first[x] == fourth[x])
        joint[x] = first[x] if is_same else UNSURE


@compiled
def _calculate(
    lines: tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]],
    weights: tuple[float, float, float, float],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
    lower_weight: NDArray[np.float64],
    upper_weight: NDArray[np.float64],
    products: NDArray[np.float64],
    values: NDArray[np.int16],
) -> None:
    """Interpolate a run of voxels of one class, in scipy's order of products and sums: z, then y, then x.

    `lines` are those at (lower z, lower y), (lower z, upper y), (upper z, lower y), (upper z, upper y), `weights` those
    of z (lower, upper), then y. `values` are filled in, in the order of `half_order`.
    """
    start, end = lower[0], upper[-1] + 1
    for x in range(start, end):
        products[0, x - start] = np.float64(half_to_float(lines[0][x])) * weights[0] * weights[2]
        products[1, x - start] = np.float64(half_to_float(lines[1][x])) * weights[0] * weights[3]
        products[2, x - start] = np.float64(half_to_float(lines[2][x])) * weights[1] * weights[2]
        products[3, x - start] = np.float64(half_to_float(lines[3][x])) * weights[1] * weights[3]
    for k in range(lower.size):
        left, right = lower[k] - start, upper[k] - start
        total = products[0, left] * lower_weight[k]
        total += products[0, right] * upper_weight[k]
        total += products[1, left] * lower_weight[k]
        total += products[1, right] * upper_weight[k]
        total += products[2, left] * lower_weight[k]
        total += products[2, right] * upper_weight[k]
        total += products[3, left] * lower_weight[k]
        total += products[3, right] * upper_weight[k]
        values[k] = half_order(double_to_half(total))


@compiled
def _keep_better(number: int, values: NDArray[np.int16], best: NDArray[np.int16], labels: NDArray[np.int64]) -> None:
    for k in range(values.size):
        if values[k] > best[k] or (values[k] == best[k] and number < labels[k]):
            best[k], labels[k] = values[k], number


@compiled
def interpolate_labels(
    lower_sums: NDArray[np.uint16],
    upper_sums: NDArray[np.uint16],
    lower_best: NDArray[np.int64],
    upper_best: NDArray[np.int64],
    lower_largest: NDArray[np.int16],
    upper_largest: NDArray[np.int16],
    z_weights: tuple[float, float],
    y_taps: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
    x_taps: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
    region_labels: NDArray[np.int64],
    output: NDArray[np.uint16],
) -> None:
    """Fill in the labels of one slice.

    Parameters
    ----------
    lower_sums, upper_sums : uint16 array, shape (Y, classes + 1, X)
        Finished slices between which it lies.
    lower_best, upper_best : int64 array, shape (Y, X)
        Of `survey_labels` or `survey_regions`.
    lower_largest, upper_largest : int16 array, shape (Y, blocks, classes)
        Of `survey_labels`.
    z_weights : tuple of float
        Of the two.
    y_taps, x_taps : tuples of arrays
        Indices and weights of the lower and upper voxel of each.
    region_labels : int64 array, shape (regions,)
        The label of each region, later ones over earlier ones; empty where classes exclude each other.
    output : uint16 array, shape (y, x)
        Filled in.
    """
    num_classes = lower_sums.shape[1] - 1
    y_lower, y_upper, y_lower_weight, y_upper_weight = y_taps
    x_lower, x_upper, x_lower_weight, x_upper_weight = x_taps
    size_x = output.shape[1]
    joint = np.empty(lower_best.shape[1], np.int64)
    products = np.empty((4, lower_best.shape[1]), np.float64)
    values, best = np.empty(LONGEST_RUN, np.int16), np.empty(LONGEST_RUN, np.int16)
    labels = np.empty(LONGEST_RUN, np.int64)
    seen = np.zeros(num_classes, np.int64)
    run = 0
    for y in range(output.shape[0]):
        below, above = y_lower[y], y_upper[y]
        weights = (z_weights[0], z_weights[1], y_lower_weight[y], y_upper_weight[y])
        best_lines = (lower_best[below], lower_best[above], upper_best[below], upper_best[above])
        _join_neighbours(best_lines[0], best_lines[1], best_lines[2], best_lines[3], joint)
        x = 0
        while x < size_x:
            label = joint[x_lower[x]]
            if label >= 0 and label == joint[x_upper[x]]:
                output[y, x] = label if region_labels.size == 0 else label_of_regions(label, region_labels)
                x += 1
                continue
            end = x + 1
            while end < min(size_x, x + LONGEST_RUN) and (
                joint[x_lower[end]] < 0 or joint[x_lower[end]] != joint[x_upper[end]]
            ):
                end += 1
            taps = (x_lower[x:end], x_upper[x:end], x_lower_weight[x:end], x_upper_weight[x:end])
            found = values[: end - x]
            if region_labels.size:
                labels[: end - x] = 0
                for c in range(num_classes):
                    lines = (
                        lower_sums[below, c], lower_sums[above, c], upper_sums[below, c], upper_sums[above, c]
                    )
                    _calculate(lines, weights, taps[0], taps[1], taps[2], taps[3], products, found)
                    for k in range(end - x):
                        if 2 <= found[k] <= 0x7C00:
                            labels[k] = region_labels[c]
            else:
                run += 1
                best[: end - x] = -0x8000
                labels[: end - x] = num_classes
                first_voxel, last_voxel = taps[0][0], taps[1][-1]
                first_block, last_block = first_voxel // BLOCK, last_voxel // BLOCK
                for k in range(4):
                    for voxel in range(first_voxel, last_voxel + 1):
                        c = best_lines[k][voxel]
                        c = c if c >= 0 else -1 - c
                        if seen[c] != run:
                            seen[c] = run
                            lines = (
                                lower_sums[below, c], lower_sums[above, c], upper_sums[below, c], upper_sums[above, c]
                            )
                            _calculate(lines, weights, taps[0], taps[1], taps[2], taps[3], products, found)
                            _keep_better(c, found, best, labels)
                least = np.int16(0x7FFF)
                for k in range(end - x):
                    least = min(least, best[k])
                for c in range(num_classes):
                    most = np.int16(-0x8000)
                    for block in range(first_block, last_block + 1):
                        most = max(most, lower_largest[below, block, c], lower_largest[above, block, c])
                        most = max(most, upper_largest[below, block, c], upper_largest[above, block, c])
                    if most >= least and seen[c] != run:
                        lines = (
                            lower_sums[below, c], lower_sums[above, c], upper_sums[below, c], upper_sums[above, c]
                        )
                        _calculate(lines, weights, taps[0], taps[1], taps[2], taps[3], products, found)
                        _keep_better(c, found, best, labels)
            for k in range(end - x):
                output[y, x + k] = labels[k]
            x = end


@compiled
def label_of_regions(inside: int, region_labels: NDArray[np.int64]) -> int:
    """Return the label of a voxel that is in the regions whose bits are set: the last one's."""
    label = np.int64(0)
    for region in range(region_labels.size):
        if inside >> region & 1:
            label = region_labels[region]
    return label


@compiled
def label_of_slice(best: NDArray[np.int64], region_labels: NDArray[np.int64], output: NDArray[np.uint16]) -> None:
    """Fill in the labels of a slice on the same grid from what `survey_labels` or `survey_regions` found."""
    for y in range(output.shape[0]):
        for x in range(output.shape[1]):
            output[y, x] = best[y, x] if region_labels.size == 0 else label_of_regions(best[y, x], region_labels)

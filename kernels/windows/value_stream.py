"""From predictions of overlapping windows to the values of all classes on another grid, one slice at a time.

What labels need no longer than they are decided, probabilities are made of: each slice is handed out when no window
touches it any more, and forgotten then.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.windows.half_precision import double_to_half
from kernels.windows.interpolated_labels import LineTaps, add_taps, multiply_line
from kernels.windows.label_stream import WindowStream, line_taps


class ValueStream(WindowStream):
    """Gives the values of all classes of one image, slice by slice, rounded to halves as nnU-Net keeps them."""

    def begin(self, z: int) -> Iterator[NDArray[np.float16]]:
        """Yield the finished slices below `z`, shape (classes, Y, X): the next windows begin there or above."""
        yield from self._finished(z)
        self._open(z)

    def end(self) -> Iterator[NDArray[np.float16]]:
        """Yield all slices that are left: there are no more windows."""
        yield from self._finished(self._grid.shape[0])

    def _finished(self, end: int) -> Iterator[NDArray[np.float16]]:
        self._average(end)
        for z in self._ready(end):
            yield self._values(z)

    def _values(self, z: int) -> NDArray[np.float16]:
        taps, (_, size_y, size_x) = self._grid.taps, self._grid.output_shape
        if taps is None:
            first_z, first_y, first_x = self._grid.offset
            sums = self._slice(z + first_z)[first_y : first_y + size_y, :-1, first_x : first_x + size_x]
            return np.ascontiguousarray(sums.transpose(1, 0, 2)).view(np.float16)
        along_z, along_y, along_x = taps
        lower, upper = (self._slice(int(index[z])) for index in (along_z.lower, along_z.upper))
        values = np.empty((lower.shape[1] - 1, size_y, size_x), np.uint16)
        products = np.empty((4, lower.shape[2]))
        weights = (float(along_z.lower_weight[z]), float(along_z.upper_weight[z]))
        interpolate_values(lower, upper, weights, line_taps(along_y), line_taps(along_x), products, values)
        return values.view(np.float16)

    def _slice(self, z: int) -> NDArray[np.uint16]:
        sums: NDArray[np.uint16] = self._sums[0, z % self._num_slots]
        return sums


@compiled_in_place
def interpolate_values(
    lower: NDArray[np.uint16],
    upper: NDArray[np.uint16],
    z_weights: tuple[float, float],
    y_taps: LineTaps,
    x_taps: LineTaps,
    products: NDArray[np.float64],
    output: NDArray[np.uint16],
) -> None:
    """Fill in the values of all classes of one slice, in scipy's order of products and sums: z, then y, then x.

    Parameters
    ----------
    lower, upper : uint16 array, shape (Y, classes + 1, X)
        Finished slices, between which it lies: halves, as bits.
    z_weights : tuple of float
        Of the two.
    y_taps, x_taps : LineTaps
        Of its lines and columns.
    products : float64 array, shape (4, X)
        Memory for one line.
    output : uint16 array, shape (classes, y, x)
        Filled in: halves, as bits.
    """
    num = products.shape[1]
    for y in range(output.shape[1]):
        below, above = y_taps.lower[y], y_taps.upper[y]
        for number in range(output.shape[0]):
            multiply_line(lower[below, number], z_weights[0], y_taps.lower_weight[y], 0, products[0], num)
            multiply_line(lower[above, number], z_weights[0], y_taps.upper_weight[y], 0, products[1], num)
            multiply_line(upper[below, number], z_weights[1], y_taps.lower_weight[y], 0, products[2], num)
            multiply_line(upper[above, number], z_weights[1], y_taps.upper_weight[y], 0, products[3], num)
            for x in range(output.shape[2]):
                left, right = x_taps.lower[x], x_taps.upper[x]
                left_weight, right_weight = x_taps.lower_weight[x], x_taps.upper_weight[x]
                total = add_taps(products[0], left, right, left_weight, right_weight, 0.0)
                total = add_taps(products[1], left, right, left_weight, right_weight, total)
                total = add_taps(products[2], left, right, left_weight, right_weight, total)
                total = add_taps(products[3], left, right, left_weight, right_weight, total)
                output[number, y, x] = double_to_half(total)

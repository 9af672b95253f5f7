"""From predictions of overlapping windows to the values of all classes on another grid, one slice at a time.

What labels need no longer than they are decided, probabilities are made of: each slice is handed out when no window
touches it any more, and forgotten then.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.resampling.zoom_taps import Taps
from kernels.windows.label_stream import StreamGrid, WindowStream
from kernels.windows.line_interpolation import Corners, interpolate_class


class ValueStream(WindowStream):
    """Gives the values of all classes of one image, slice by slice, rounded to halves as nnU-Net keeps them."""

    def __init__(self, grid: StreamGrid, *, num_classes: int, num_models: int, weights: NDArray[np.float32]) -> None:
        """Prepare; parameters are those of a WindowStream."""
        super().__init__(grid.whole_slices, num_classes=num_classes, num_models=num_models, weights=weights)

    def begin(self) -> Iterator[NDArray[np.float16]]:
        """Yield what is finished, shape (classes, Y, X) each: the next windows begin at the next slice."""
        yield from self.end()
        self._open()

    def end(self) -> Iterator[NDArray[np.float16]]:
        """Yield all slices that are left: there are no more windows."""
        if not self._lines.is_open:
            return
        self._average()
        slices, _ = self._lines.ready()
        for z in range(slices.start, slices.stop):
            yield self._values(z)
        self._lines.close_step()

    def _values(self, z: int) -> NDArray[np.float16]:
        along_z, along_y, along_x = self._grid.taps
        sums = self._sums[0]
        values = np.empty((sums.shape[1] - 1, along_y.lower.size, along_x.lower.size), np.uint16)
        interpolate_values(
            sums,
            (self._lines.places[along_z.lower[z]], self._lines.places[along_z.upper[z]]),
            (float(along_z.lower_weight[z]), float(along_z.upper_weight[z])),
            along_y,
            along_x,
            (np.empty((4, sums.shape[2])), np.empty(along_x.lower.size)),
            values,
        )
        return values.view(np.float16)


@compiled_in_place
def interpolate_values(
    sums: NDArray[np.uint16],
    slices: tuple[NDArray[np.int64], NDArray[np.int64]],
    z_weights: tuple[float, float],
    y_taps: Taps,
    x_taps: Taps,
    memory: tuple[NDArray[np.float64], NDArray[np.float64]],
    output: NDArray[np.uint16],
) -> None:
    """Fill in the values of all classes of one slice.

    Parameters
    ----------
    sums : uint16 array, shape (lines, classes + 1, X)
        Finished: halves, as bits.
    slices : tuple of int64 array, shape (Y,)
        Places of the lines of the two slices between which it lies.
    z_weights : tuple of float
        Of the two.
    y_taps, x_taps : Taps
        Of its lines and columns.
    memory : tuple of float64 array, shapes (4, X) and (x,)
        For one line.
    output : uint16 array, shape (classes, y, x)
        Filled in: halves, as bits.
    """
    lower, upper = slices
    for y in range(output.shape[1]):
        below, above = y_taps.lower[y], y_taps.upper[y]
        y_weights = (y_taps.lower_weight[y], y_taps.upper_weight[y])
        corners = Corners((lower[below], lower[above], upper[below], upper[above]), z_weights, y_weights)
        for number in range(output.shape[0]):
            interpolate_class(sums, number, corners, x_taps, (0, output.shape[2]), memory, output[number, y])

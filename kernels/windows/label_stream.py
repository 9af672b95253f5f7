"""From predictions of overlapping windows to a label map on another grid, line by line.

Never all classes of all voxels are held: windows come in the order of their first axes, and a line that no window
touches any more is averaged, interpolated, decided and forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels.resampling.zoom_taps import Taps
from kernels.windows.interpolated_labels import interpolate_labels
from kernels.windows.line_pool import LinePool, Steps
from kernels.windows.line_survey import find_best, new_scratch
from kernels.windows.window_sums import add_window, average_lines, finish_lines

MOST_REGIONS = 62
"""Each is a bit of an int64."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StreamGrid:
    """What windows cover, and the grid of the labels."""

    steps: Steps
    """Where windows begin along the first two axes."""
    size_x: int
    """Voxels that the windows cover along the third axis, with what was padded."""
    taps: tuple[Taps, Taps, Taps]
    """From which of these voxels each label is interpolated, by axis."""

    @property
    def whole_slices(self) -> "StreamGrid":
        """The same where slices are finished and forgotten as a whole."""
        return replace(self, steps=self.steps.whole_slices)

    def num_sum_bytes(self, *, num_classes: int, num_models: int) -> int:
        """Return the bytes of what is held of the predictions."""
        num_lines = LinePool(self.steps, self.taps).most_lines
        return num_lines * (num_models * (num_classes + 1) + 1) * self.size_x * 2


class WindowStream:
    """Takes the windows of one image, of one or more models, and averages lines that no window touches any more."""

    def __init__(self, grid: StreamGrid, *, num_classes: int, num_models: int, weights: NDArray[np.float32]) -> None:
        """Prepare.

        Parameters
        ----------
        grid
            Of windows and labels.
        num_classes
            Channels of a prediction.
        num_models
            Whose predictions are averaged.
        weights : float32 array, shape (z, y, x)
            Of the voxels of a window.
        """
        self._grid = grid
        self._weights = np.ascontiguousarray(weights, np.float32)
        self._lines = LinePool(grid.steps, grid.taps)
        self._sums = np.zeros((num_models, self._lines.most_lines, num_classes + 1, grid.size_x), np.uint16)
        self.is_finite = True
        """Whether no sum has been infinite so far."""

    def add(self, prediction: NDArray[np.float32], *, model: int, start: tuple[int, int, int], is_half: bool) -> None:
        """Add the prediction of a window, shape (classes, z, y, x), that was made in half precision or not."""
        add_window(self._sums[model], self._lines.places, prediction, self._weights, start, is_half)

    def _open(self) -> None:
        """Make room for the windows of the next step."""
        fresh = self._lines.open_step()
        self._sums[:, fresh] = 0

    def _average(self) -> None:
        """Average the lines that no window touches any more after those of the last step."""
        lines, num_models = self._lines.finished(), len(self._sums)
        for model, sums in enumerate(self._sums):
            self.is_finite &= not finish_lines(sums, lines)
            if model:
                average_lines(self._sums[0], sums, lines, num_models if model == num_models - 1 else 0)


class LabelStream(WindowStream):
    """Fills in the labels of one image."""

    def __init__(
        self,
        grid: StreamGrid,
        *,
        num_classes: int,
        num_models: int,
        weights: NDArray[np.float32],
        region_labels: Sequence[int],
        output: NDArray[np.uint16],
    ) -> None:
        """Prepare.

        Parameters
        ----------
        grid, num_classes, num_models, weights
            As of a WindowStream.
        region_labels
            The label of each channel where these are regions, which may overlap: later ones win. Else empty.
        output : unsigned integer array, shape (z, y, x) of the grid's taps
            Where the labels go, in any memory order.
        """
        super().__init__(grid, num_classes=num_classes, num_models=num_models, weights=weights)
        self._region_labels = np.array(region_labels, np.int64)
        self._output = output
        self._scratch = new_scratch(size_x=grid.size_x, num_classes=num_classes)
        self._best = np.empty((self._lines.most_lines, grid.size_x), np.int16)

    def begin(self) -> None:
        """Finish what no window touches any more: the next ones begin at the next place along z and y."""
        self._finish()
        self._open()

    def end(self) -> None:
        """Finish everything: there are no more windows."""
        self._finish()

    def _finish(self) -> None:
        if not self._lines.is_open:
            return
        self._average()
        if not self._region_labels.size:
            find_best(self._sums[0], self._lines.finished(), self._scratch.floor, self._best)
        slices, rows = self._lines.ready()
        along_z, along_y, along_x = self._grid.taps
        labels = np.empty((slices.stop - slices.start, rows.stop - rows.start, along_x.lower.size), np.uint16)
        interpolate_labels(
            self._sums[0],
            self._best,
            self._lines.places,
            (along_z.part(slices), along_y.part(rows), along_x),
            self._region_labels,
            self._scratch,
            labels,
        )
        self._output[slices, rows] = labels
        self._lines.close_step()

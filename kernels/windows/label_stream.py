"""From predictions of overlapping windows to a label map on another grid, slice by slice.

Never all classes of all voxels are held: windows come in the order of their first axis, and a slice that no window
touches any more is averaged, interpolated, decided and forgotten.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.windows.interpolated_labels import LineTaps, SurveyedSlice, interpolate_labels, label_slice, new_scratch
from kernels.windows.window_sums import (
    BLOCK,
    SurveyScratch,
    add_window,
    average_slice,
    finish_slice,
    survey_labels,
    survey_regions,
)
from kernels.windows.zoom_taps import Taps

MOST_REGIONS = 62
"""Each is a bit of an int64."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StreamGrid:
    """What windows cover, and the grid of the labels."""

    shape: tuple[int, int, int]
    """Voxels (z, y, x) that the windows cover, with what was padded."""
    patch_shape: tuple[int, int, int]
    """Of a window."""
    taps: tuple[Taps, Taps, Taps] | None
    """From which of these voxels each label is interpolated, by axis; None if the labels are on the same grid."""
    offset: tuple[int, int, int]
    """Where the grid of the labels begins, if it is the same grid without what was padded."""
    output_shape: tuple[int, int, int]
    """Of the labels."""

    def num_sum_bytes(self, *, num_classes: int, num_models: int) -> int:
        """Return the bytes of what is held of the predictions."""
        (size_z, size_y, size_x), num_slots = self.shape, self.patch_shape[0] + 1
        num_surveyed = 2 * size_y * (8 * size_x + 2 * num_classes * -(-size_x // BLOCK))
        return num_models * min(num_slots, size_z + 1) * size_y * (num_classes + 1) * size_x * 2 + num_surveyed


class WindowStream:
    """Takes the windows of one image, of one or more models, and averages slices that no window touches any more."""

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
        weights : float32 array, shape `grid.patch_shape`
            Of the voxels of a window.
        """
        self._grid = grid
        self._weights = np.ascontiguousarray(weights, np.float32)
        self._num_slots = grid.patch_shape[0] + 1
        self._sums = np.zeros((num_models, self._num_slots, grid.shape[1], num_classes + 1, grid.shape[2]), np.uint16)
        self._num_begun = 0
        self._num_finished = 0
        self._num_written = 0
        self.is_finite = True
        """Whether no sum has been infinite so far."""

    def add(self, prediction: NDArray[np.float32], *, model: int, start: tuple[int, int, int], is_half: bool) -> None:
        """Add the prediction of a window, shape (classes, z, y, x), that was made in half precision or not."""
        add_window(self._sums[model], prediction, self._weights, start, is_half)

    def _open(self, z: int) -> None:
        """Make room for windows that begin at `z`: all slices below are finished and written."""
        end = min(z + self._grid.patch_shape[0], self._grid.shape[0])
        for fresh in range(max(self._num_begun, z), end):
            self._sums[:, fresh % self._num_slots] = 0
        self._num_begun = end

    def _average(self, end: int) -> None:
        """Average the slices below `end`, which no window touches any more."""
        num_models = len(self._sums)
        for z in range(self._num_finished, end):
            slices = self._sums[:, z % self._num_slots]
            for model in range(num_models):
                self.is_finite &= not finish_slice(slices[model])
                if model:
                    average_slice(slices[0], slices[model], num_models if model == num_models - 1 else 0)
        self._num_finished = max(self._num_finished, end)

    def _ready(self, end: int) -> Iterator[int]:
        """Yield the slices of the output that need no slice from `end` on, each once."""
        while self._num_written < self._grid.output_shape[0] and self._uppermost(self._num_written) < end:
            yield self._num_written
            self._num_written += 1

    def _uppermost(self, z: int) -> int:
        """Return the last slice that a slice of the output is made of."""
        taps = self._grid.taps
        return z + self._grid.offset[0] if taps is None else int(taps[0].upper[z])


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
        output : unsigned integer array, shape `grid.output_shape`
            Where the labels go, in any memory order.
        """
        super().__init__(grid, num_classes=num_classes, num_models=num_models, weights=weights)
        size_x = grid.shape[2]
        self._region_labels = np.array(region_labels, np.int64)
        self._output = output
        self._surveys: dict[int, SurveyedSlice] = {}
        self._scratch = new_scratch(size_x=size_x, num_classes=num_classes)
        self._survey_scratch = SurveyScratch(*(np.empty(size_x, np.int16) for _ in range(3)))

    def begin(self, z: int) -> None:
        """Finish all slices below `z`: the next windows begin there or above."""
        self._finish(z)
        self._open(z)

    def end(self) -> None:
        """Finish everything: there are no more windows."""
        self._finish(self._grid.shape[0])

    def _finish(self, end: int) -> None:
        self._average(end)
        for z in self._ready(end):
            self._write(z)

    def _write(self, z: int) -> None:
        taps = self._grid.taps
        size_y, size_x = self._grid.output_shape[1:]
        labels = np.empty((size_y, size_x), np.uint16)
        if taps is None:
            _, first_y, first_x = self._grid.offset
            best = self._survey(z + self._grid.offset[0]).best
            label_slice(best[first_y : first_y + size_y, first_x : first_x + size_x], self._region_labels, labels)
        else:
            along_z, along_y, along_x = taps
            interpolate_labels(
                self._survey(int(along_z.lower[z])),
                self._survey(int(along_z.upper[z])),
                (float(along_z.lower_weight[z]), float(along_z.upper_weight[z])),
                line_taps(along_y),
                line_taps(along_x),
                self._region_labels,
                self._scratch,
                labels,
            )
        self._output[z] = labels

    def _survey(self, z: int) -> SurveyedSlice:
        """Return what is known of a finished slice; that of the last two is kept."""
        if z not in self._surveys:
            for old in [one for one in self._surveys if one < z - 1]:
                del self._surveys[old]
            sums = self._sums[0, z % self._num_slots]
            size_y, num_rows, size_x = sums.shape
            is_interpolated, has_regions = self._grid.taps is not None, self._region_labels.size > 0
            num_blocks = -(-size_x // BLOCK) if is_interpolated and not has_regions else 0
            survey = SurveyedSlice(
                sums, np.empty((size_y, size_x), np.int64), np.empty((size_y, num_blocks, num_rows - 1), np.int16)
            )
            if has_regions:
                survey_regions(sums, survey.best)
            else:
                survey_labels(sums, survey.best, survey.largest, self._survey_scratch, is_interpolated)
            self._surveys[z] = survey
        return self._surveys[z]


def line_taps(taps: Taps) -> LineTaps:
    """Return taps as kernels take them."""
    return LineTaps(taps.lower, taps.upper, taps.lower_weight, taps.upper_weight)

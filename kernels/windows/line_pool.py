"""Which lines of an image are held while windows go over it, and where."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kernels.resampling.zoom_taps import Taps

NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Where windows begin along the first two axes: each step is a place in z and, faster, one in y."""

    shape: tuple[int, int]
    """Voxels (z, y) that the windows cover."""
    patch_shape: tuple[int, int]
    """Voxels (z, y) of a window."""
    starts: tuple[tuple[int, ...], tuple[int, ...]]
    """Where they begin, in order."""

    @property
    def whole_slices(self) -> "Steps":
        """The same with all places in y taken together."""
        size_y = self.shape[1]
        return replace(self, patch_shape=(self.patch_shape[0], size_y), starts=(self.starts[0], (0,)))

    def end(self, axis: int, index: int) -> int:
        """Return up to where, along an axis, nothing is touched after the windows at one of its places."""
        starts = self.starts[axis]
        return starts[index + 1] if index + 1 < len(starts) else self.shape[axis]


class LinePool:
    """Gives each line that is touched a place in memory, until no label needs it any more."""

    def __init__(self, steps: Steps, taps: tuple[Taps, Taps, Taps]) -> None:
        """Begin before the first step.

        Parameters
        ----------
        steps
            Of the windows.
        taps
            From which voxels each label is interpolated.
        """
        self._steps = steps
        self._taps = taps
        self._step: tuple[int, int] | None = None
        self._free: list[int] = []
        self._num_places = 0
        self._num_slices = self._num_rows = self._lowest = 0
        self.places: NDArray[np.int64] = np.full(steps.shape, NOWHERE)
        """Shape (Z, Y): where the line of a slice and row is; -1 for nowhere."""

    @cached_property
    def most_lines(self) -> int:
        """How many places there are: as many as lines are held at a time."""
        played = LinePool(self._steps, self._taps)
        for _ in range(len(self._steps.starts[0]) * len(self._steps.starts[1])):
            played.open_step()
            played.close_step()
        return played._num_places

    @property
    def is_open(self) -> bool:
        """Whether a step has been opened, and is to be closed."""
        return self._step is not None

    def open_step(self) -> NDArray[np.int64]:
        """Give the lines that the windows of the next step touch a place; returns those places that are new."""
        z_index, y_index = self._step or (0, NOWHERE)
        is_next_slice = y_index + 1 == len(self._steps.starts[1])
        self._step = (z_index + 1, 0) if is_next_slice else (z_index, y_index + 1)
        z, y = (starts[index] for starts, index in zip(self._steps.starts, self._step, strict=True))
        touched = self.places[z : z + self._steps.patch_shape[0], y : y + self._steps.patch_shape[1]]
        is_new = touched == NOWHERE
        num_new = int(is_new.sum())
        num_more = max(0, num_new - len(self._free))
        self._free.extend(range(self._num_places, self._num_places + num_more))
        self._num_places += num_more
        new = np.array(self._free[len(self._free) - num_new :], np.int64)
        del self._free[len(self._free) - num_new :]
        touched[is_new] = new
        return new

    def finished(self) -> NDArray[np.int64]:
        """Return the places of the lines that no window touches after those of this step, and one of it did."""
        (z, y), (end_z, end_y) = self._starts, self._ends
        return self.places[z:end_z, y:end_y].reshape(-1)

    def ready(self) -> tuple[slice, slice]:
        """Return the slices, and of each the rows, of labels that can be made after this step and not before it."""
        last_z, last_y = (
            int(np.searchsorted(taps.upper, end)) for taps, end in zip(self._taps[:2], self._ends, strict=True)
        )
        return slice(self._num_slices, last_z), slice(self._num_rows, last_y)

    def close_step(self) -> None:
        """Take back the places of lines that no label needs any more."""
        slices, rows = self.ready()
        kept = [
            min([end, *taps.lower[num : num + 1].tolist()])
            for num, taps, end in zip((slices.stop, rows.stop), self._taps[:2], self._ends, strict=True)
        ]
        is_last = self._ends[1] == self._steps.shape[1]
        left = self.places[self._lowest : kept[0], : None if is_last else kept[1]]
        self._free.extend(left[left != NOWHERE].tolist())
        left[...] = NOWHERE
        self._num_rows = 0 if is_last else rows.stop
        if is_last:
            self._num_slices, self._lowest = slices.stop, kept[0]

    @property
    def _starts(self) -> tuple[int, int]:
        z_index, y_index = self._step or (0, 0)
        return self._steps.starts[0][z_index], self._steps.starts[1][y_index]

    @property
    def _ends(self) -> tuple[int, int]:
        z_index, y_index = self._step or (0, 0)
        return self._steps.end(0, z_index), self._steps.end(1, y_index)

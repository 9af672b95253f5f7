"""The outlines of a mask as closed polygons along the edges of its pixels, holes joined to them by channels."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""Corners one after the other, shape (corners, 2) as (row, column); the centres of pixels are whole numbers."""


def outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Return a polygon for each part of a mask whose pixels touch by their edges, with right angles alone.

    The centre of a pixel lies in a polygon if and only if the pixel belongs to that part, by any rule of filling: a
    hole is joined to what surrounds it by a channel of no width (DICOM's keyhole), which runs between rows of pixels.

    Parameters
    ----------
    mask : bool array, shape (Y, X)
        A slice.
    """
    traced = _Traced(np.pad(np.asarray(mask, bool), 1))
    # A corner of the padded mask lies before the pixel of its number, which is that of the mask's one and one more.
    return [np.asarray(polygon, np.float64) - 1.5 for polygon in traced.polygons()]


class _Traced:
    """Closed rings of the corners at which outlines turn, each followed by the next.

    A corner (r, c) of the lattice touches the pixels (r - 1, c - 1) to (r, c). Where two pixels of the mask touch by it
    alone, it is there twice: one outline turns around each.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        """Find the corners and follow the edges; nothing of the mask may lie on its border."""
        self._mask = mask
        rows, columns, in_row, in_column = _turns(mask)
        self._points = list(zip(rows.tolist(), columns.tolist(), strict=True))
        # Edges lie between each two corners of a row, and of a column.
        along_rows = np.lexsort((in_row, columns, rows)).reshape(-1, 2)
        self._along_columns = np.lexsort((in_column, rows, columns)).reshape(-1, 2)
        self._columns_of_edges = columns[self._along_columns[:, 0]]
        self._rows_of_edges = rows[self._along_columns]
        beside, above_or_below = np.empty((2, len(rows)), np.intp)
        for partner, pairs in ((beside, along_rows), (above_or_below, self._along_columns)):
            partner[pairs] = pairs[:, ::-1]
        self._beside, self._above_or_below = beside.tolist(), above_or_below.tolist()
        self._after = [-1] * len(rows)

    def polygons(self) -> list[list[tuple[int, int]]]:
        """Return the corners of each part of the mask, holes included."""
        outer: list[int] = []
        holes: list[tuple[int, int]] = []
        edge_from: dict[frozenset[int], int] = {}
        # The first corner of a ring is the topmost of its leftmost ones.
        for start in self._along_columns.ravel().tolist():
            if self._after[start] >= 0:
                continue
            if self._mask[self._points[start]]:
                outer.append(start)
                self._follow(start, edge_from, goes_down=False)
            else:
                holes.append((start, self._follow(start, edge_from, goes_down=True)))
        self._join(holes, edge_from)
        return [self._ring(start) for start in outer]

    def _follow(self, start: int, edge_from: dict[frozenset[int], int], *, goes_down: bool) -> int:
        """Set what comes after each corner of a ring, down or to the right at first, and return the last.

        Around holes it goes the other way. Where each vertical edge begins is noted.
        """
        at, is_vertical = start, goes_down
        while True:
            after = (self._above_or_below if is_vertical else self._beside)[at]
            self._after[at] = after
            if is_vertical:
                edge_from[frozenset((at, after))] = at
            if after == start:
                return at
            at, is_vertical = after, not is_vertical

    def _join(self, holes: list[tuple[int, int]], edge_from: dict[frozenset[int], int]) -> None:
        """Let the first edge to the left of each hole go around it on its way.

        It is an edge of what surrounds the hole, or of another hole of the same part that begins further to the left.
        """
        on_edge: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for start, _ in holes:
            edge, column = self._edge_on_the_left(start)
            on_edge[edge_from[edge]].append((self._points[start][0], column, start))
        lasts = dict(holes)
        for begin, found in on_edge.items():
            end = self._after[begin]
            goes_down = self._points[end][0] > self._points[begin][0]
            at = begin
            for row, column, start in sorted(found, reverse=not goes_down):
                there, back, again = (len(self._points) + number for number in range(3))
                self._points += [(row, column), self._points[start], (row, column)]
                self._after[at], self._after[lasts[start]] = there, back
                self._after += [start, again, -1]
                at = again
            self._after[at] = end

    def _edge_on_the_left(self, start: int) -> tuple[frozenset[int], int]:
        """Return the two corners of the first vertical edge to the left of a hole, and its column."""
        row, column = self._points[start]
        around = self._mask[row - 1 : row + 1, :column]
        column = int(np.flatnonzero((around[:, 1:] != around[:, :-1]).any(axis=0))[-1]) + 1
        first, last = np.searchsorted(self._columns_of_edges, (column, column + 1))
        rows = self._rows_of_edges[first:last]
        (found,) = np.flatnonzero((rows[:, 0] <= row) & (row <= rows[:, 1]))
        return frozenset(self._along_columns[first + found].tolist()), column

    def _ring(self, start: int) -> list[tuple[int, int]]:
        points, at = [self._points[start]], self._after[start]
        while at != start:
            if self._points[at] != points[-1]:
                points.append(self._points[at])
            at = self._after[at]
        return points


def _turns(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
    """Return row and column of each corner, and its rank among those of one place in their row and column."""
    before, right, below, pixel = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    once = np.argwhere(before ^ right ^ below ^ pixel)
    # Pixels that touch by a corner alone: one outline comes from the left edge, the other one goes along the right.
    falling, rising = np.argwhere(before & pixel & ~right & ~below), np.argwhere(~before & ~pixel & right & below)
    places = [once, falling, falling, rising, rising]
    in_row, in_column = (
        np.repeat(np.array(ranks, np.intp), list(map(len, places))) for ranks in ((0, 0, 1, 0, 1), (0, 0, 1, 1, 0))
    )
    found = np.concatenate(places) + 1
    return found[:, 0], found[:, 1], in_row, in_column

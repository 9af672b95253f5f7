"""Slices of one CT series stacked to a volume: in the order of their own positions, each where the grid has it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.dicom.elements import read_whole
from orchestrator.images.dicom.slice import Slice
from orchestrator.images.geometry import Geometry
from orchestrator.images.problem import SourceError

TOLERANCE_MM = 0.25
"""How far a corner of a slice may lie from its place in the grid: a third of a pixel; scanners round to 0.1 mm."""
TOLERANCE_SHARE = 0.1
"""The same along the stack, as a share of the slice distance."""
_SAME_POSITION_MM = 0.01
_LARGEST_VOLUME = 1 << 31
_AGAIN = "Download the series of this patient again."
_RESAMPLE = "Resample image and masks to such a grid, for example with dcm2niix, or take another reconstruction."


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Slices that form a volume."""

    slices: tuple[Slice, ...]
    """From the first to the last, along their normal."""
    geometry: Geometry
    """Grid on which they lie."""
    notes: tuple[str, ...]
    """What was left out, a sentence each."""

    @property
    def value_bytes(self) -> int:
        """Of a voxel that is read."""
        return np.result_type(*{each.value_dtype for each in self.slices}).itemsize


def stack_of(slices: Sequence[Slice], *, name: str) -> Stack:
    """Order the slices of a series by their heights and check that they lie on one grid.

    The grid is that of ITK: the first position, the directions of the first slice, the mean distance from the first to
    the last. Every corner of every slice must lie within TOLERANCE_MM of its place, and within TOLERANCE_SHARE of the
    slice distance along the stack; distances that drift add up to more than that, and so does a tilted gantry.

    Raises
    ------
    SourceError
        If they do not, or are of several patients, coordinate systems or sizes, or two of them lie at one position.
    """
    for what, value in _SAME_IN_ALL.items():
        _check_same(slices, what=what, value=value, name=name)
    if np.prod(slices[0].size) * len(slices) > _LARGEST_VOLUME:
        raise _problem(
            name, f"{len(slices)} slices of {slices[0].size[0]} x {slices[0].size[1]}", "2^31 voxels or less"
        )
    # The median knows nothing of a single slice that is turned.
    row, column = np.median([(each.row, each.column) for each in slices], axis=0)
    normal = np.cross(row, column)
    ordered = sorted(slices, key=lambda each: (float(normal @ each.origin_mm), each.file))
    kept = _without_copies(ordered, normal=normal, name=name)
    left = len(ordered) - len(kept)
    if len(kept) < 2:
        raise _problem(name, f"a series of {len(kept)} slice", "at least 2 slices")
    _check_acquisitions(kept, name=name)
    geometry = _grid(kept, normal=normal, name=name)
    _check_on_grid(kept, geometry, normal=normal, name=name)
    notes = (f"{name}: {left} slices are there twice, with equal pixels; each was taken once",) if left else ()
    return Stack(slices=tuple(kept), geometry=geometry, notes=notes)


_SAME_IN_ALL: dict[str, Callable[[Slice], object]] = {
    "patient": lambda each: each.patient,
    "coordinate system": lambda each: each.frame_of_reference,
    "size": lambda each: each.size,
}


def _check_same(slices: Sequence[Slice], *, what: str, value: Callable[[Slice], object], name: str) -> None:
    numbers = Counter(value(each) for each in slices)
    if len(numbers) == 1:
        return
    # The first and the last of this order are two, even where all are equally many.
    by_number = sorted(numbers, key=lambda each: numbers[each])
    rare, usual = by_number[0], by_number[-1]
    odd = next(each for each in slices if value(each) == rare)
    raise _problem(
        name,
        f"slices of different {what}s in one series"
        f" ({odd.file.name}: {_shown(rare)}; {numbers[usual]} others: {_shown(usual)})",
        f"slices of one {what}",
    )


def _shown(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value) or "none"


def _without_copies(ordered: Sequence[Slice], *, normal: NDArray[np.float64], name: str) -> list[Slice]:
    kept: list[Slice] = []
    for each in ordered:
        if kept and abs(float(normal @ (np.subtract(each.origin_mm, kept[-1].origin_mm)))) <= _SAME_POSITION_MM:
            other = kept[-1]
            beside_mm = float(np.linalg.norm(np.subtract(each.origin_mm, other.origin_mm)))
            is_copy = _content(each) == _content(other)
            if beside_mm > _SAME_POSITION_MM or not is_copy:
                numbers = " and ".join(slice_.acquisition or "none" for slice_ in (other, each))
                raise _problem(
                    name,
                    f"two slices at {float(normal @ each.origin_mm):.2f} mm, {other.file.name} and {each.file.name},"
                    f" {beside_mm:.2f} mm apart and with {'the same' if is_copy else 'other'} voxels"
                    f" (acquisitions {numbers})",
                    "one slice a position",
                    advice="Keep the files of one acquisition.",
                )
        else:
            kept.append(each)
    return kept


def _check_acquisitions(slices: Sequence[Slice], *, name: str) -> None:
    """Refuse slices of several passes that lie between each other; those of a pass may follow those of another one."""
    numbers = [each.acquisition for each in slices]
    begun = [number for number, before in zip(numbers, ["", *numbers], strict=False) if number and number != before]
    # A single slice that was taken again in its place is of one volume all the same.
    mixed = sorted(number for number, times in Counter(begun).items() if times > 1)
    if len(mixed) > 1:
        raise _problem(
            name,
            f"slices of acquisitions {' and '.join(mixed[:9])} that lie between each other",
            "slices of one acquisition, or of one after the other along the body",
            advice="Keep the files of one acquisition.",
        )


def _content(slice_: Slice) -> tuple[object, ...]:
    content = read_whole(slice_.file, num_bytes=slice_.pixels.end)
    pixels = hashlib.sha256(content[slice_.pixels.offset : slice_.pixels.end]).digest()
    return pixels, slice_.rescale, slice_.spacing_mm, slice_.row, slice_.column


def _grid(slices: Sequence[Slice], *, normal: NDArray[np.float64], name: str) -> Geometry:
    first, last = slices[0], slices[-1]
    distance_mm = float(np.linalg.norm(np.subtract(last.origin_mm, first.origin_mm))) / (len(slices) - 1)
    if abs(float(normal @ np.subtract(last.origin_mm, first.origin_mm))) <= _SAME_POSITION_MM:
        raise _problem(name, f"{len(slices)} slices that all lie at one height", "slices one above the other")
    across = np.cross(first.row, first.column)
    return Geometry(
        size=(*first.size, len(slices)),
        spacing_mm=(*first.spacing_mm, distance_mm),
        origin_mm=first.origin_mm,
        direction=tuple(float(value) for value in np.column_stack([first.row, first.column, across]).ravel()),
    )


def _check_on_grid(slices: Sequence[Slice], geometry: Geometry, *, normal: NDArray[np.float64], name: str) -> None:
    step_mm = np.reshape(geometry.direction, (3, 3))[:, 2] * geometry.spacing_mm[2]
    corners_mm = np.array([each.corners_mm for each in slices])
    wanted_mm = corners_mm[0] + np.arange(len(slices))[:, None, None] * step_mm
    away_mm = corners_mm - wanted_mm
    along = np.abs(away_mm @ normal).max(axis=1)
    apart = np.linalg.norm(away_mm, axis=2).max(axis=1)
    # Written so that NaN fails as well.
    if (apart <= TOLERANCE_MM).all() and (along <= TOLERANCE_SHARE * geometry.spacing_mm[2]).all():
        return
    _raise_turned(slices, name=name)
    heights = np.array([float(normal @ each.origin_mm) for each in slices])
    _raise_uneven(slices, heights, name=name)
    _raise_tilted(slices, heights, normal=normal, name=name)
    worst = int(apart.argmax())
    raise _problem(
        name,
        f"slice distances that drift: {slices[worst].file.name} at {heights[worst]:.2f} mm lies {apart[worst]:.2f} mm"
        f" from its place among {len(slices)} slices",
        f"one slice every {geometry.spacing_mm[2]:.4g} mm, each within {TOLERANCE_MM} mm and a tenth of the distance",
        advice=_RESAMPLE,
    )


def _raise_turned(slices: Sequence[Slice], *, name: str) -> None:
    edges_mm = np.array([each.corners_mm - np.asarray(each.origin_mm) for each in slices])
    apart = np.linalg.norm(edges_mm - np.median(edges_mm, axis=0), axis=2).max(axis=1)
    if apart.max() > TOLERANCE_MM:
        raise _problem(
            name,
            f"slices that are turned to each other or have other voxels ({slices[int(apart.argmax())].file.name}:"
            f" a corner lies {apart.max():.2f} mm from where the others have it)",
            "parallel slices with voxels of one size",
        )


def _raise_uneven(slices: Sequence[Slice], heights: NDArray[np.float64], *, name: str) -> None:
    gaps = np.diff(heights)
    distance_mm = float(np.median(gaps))
    bad = np.flatnonzero(np.abs(gaps - distance_mm) > TOLERANCE_SHARE * distance_mm)
    if bad.size:
        at = int(bad[0])
        num_steps = gaps[at] / distance_mm
        is_lost = num_steps > 1 and abs(num_steps - round(num_steps)) <= TOLERANCE_SHARE
        raise _problem(
            name,
            f"slices {heights[at]:.2f} mm and {heights[at + 1]:.2f} mm, {gaps[at]:.2f} mm apart,"
            f" next to each other among {len(slices)} slices ({slices[at].file.name}, {slices[at + 1].file.name})",
            f"one slice every {distance_mm:.2f} mm",
            advice=_AGAIN if is_lost else _RESAMPLE,
        )


def _raise_tilted(
    slices: Sequence[Slice], heights: NDArray[np.float64], *, normal: NDArray[np.float64], name: str
) -> None:
    origins = np.array([each.origin_mm for each in slices]) - np.asarray(slices[0].origin_mm)
    sideways = origins - np.outer(origins @ normal, normal)
    a_mm = (heights - heights[0]) / (heights[-1] - heights[0])
    line = np.outer(a_mm, sideways[-1])
    beside = np.linalg.norm(sideways - line, axis=1)
    shift_mm = float(np.linalg.norm(sideways[-1]))
    if beside.max() <= TOLERANCE_MM < shift_mm:
        angle = float(np.degrees(np.arctan2(shift_mm, heights[-1] - heights[0])))
        raise _problem(
            name,
            f"a tilted gantry: the planes stand {angle:.1f} degrees aslant on the table's way, the last of"
            f" {len(slices)} slices ({slices[-1].file.name}) lies {shift_mm:.1f} mm beside the first",
            "slices stacked at a right angle, as an image with one direction a axis can say",
            advice=_RESAMPLE,
        )
    steps = np.diff(sideways, axis=0)
    apart = np.linalg.norm(steps - np.median(steps, axis=0), axis=1)
    if apart.max() > TOLERANCE_MM:
        at = int(apart.argmax()) + 1
        raise _problem(
            name,
            f"a slice at {heights[at]:.2f} mm that lies {apart.max():.2f} mm beside the one before"
            f" ({slices[at].file.name})",
            "slices on one line",
        )


def _problem(name: str, found: str, expected: str, *, advice: str = _AGAIN) -> SourceError:
    return SourceError.of(Path(name), found=found, expected=expected, advice=advice)

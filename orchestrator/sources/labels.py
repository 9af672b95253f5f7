"""Values of the owners' masks turned into the study's labels; left and right of a pair told by position."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.images.problem import SourceError

MIN_SIDE_SEPARATION = 0.1
"""Least distance of a pair's centroids, as a share of the width of both; of what fills a chest it is about a half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedStructure:
    """A structure on either side of the patient, such as the kidneys, with a label for each side."""

    name: str
    """Of one of them, for messages: `kidney`."""
    plural: str
    """Of both: `kidneys`."""
    left: int
    """Label of the one on the patient's left."""
    right: int
    """Label of the one on the patient's right."""
    is_air: bool = False
    """Whether a CT shows air in both, and in whatever else the same label map has: that tells how it lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRule:
    """How the values of one kind of mask become labels."""

    values: Mapping[int, int]
    """Value in the file to label; 0 drops the structure. Background 0 needs no entry."""
    pair: PairedStructure | None = None
    """Labels whose sides are verified, and exchanged where they were."""
    near: str | None = None
    """Label set of the same case whose pair these structures lie in or beside."""
    what: str = "lesions"
    """What labels of no pair are, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MappedLabels:
    """A mask in the study's labels."""

    labels: np.ndarray
    """uint8, shape (Z, Y, X)."""
    present: frozenset[int]
    """Labels that it holds, background aside."""
    notes: tuple[str, ...]
    """What is told of it. A mask without any foreground gives a note, not an error, unless it is of a pair."""


def map_labels(values: np.ndarray, *, rule: LabelRule, name: str) -> MappedLabels:
    """Turn a mask in LPS orientation into a label map.

    Parameters
    ----------
    values : array, shape (Z, Y, X)
        Mask as read; floating point only with whole numbers. x grows to the patient's left.
    rule
        Meaning of its values.
    name
        File name for the messages.

    Raises
    ------
    SourceError
        For fractions, unknown values, or a pair whose sides cannot be told.
    """
    whole = _as_whole_numbers(values, rule=rule, name=name)
    # Slice by slice, since bincount takes eight bytes a voxel.
    there = np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=256) for plane in whole)).tolist()
    _check_known(there, rule=rule, name=name)
    table = np.zeros(256, dtype=np.uint8)
    for value, label in rule.values.items():
        table[value] = label
    labels, present = table[whole], frozenset(table[there].tolist()) - {0}
    if rule.pair is not None:
        labels, notes = _verify_sides(labels, pair=rule.pair, name=name)
    else:
        notes = () if present else (f"{name}: the mask has no foreground",)
    return MappedLabels(labels=labels, present=present, notes=notes)


def _as_whole_numbers(values: np.ndarray, *, rule: LabelRule, name: str) -> np.ndarray:
    if values.dtype.kind == "f":
        fractions = values[~(values == np.rint(values))]
        if fractions.size:
            raise SourceError.of(
                name,
                found=f"a mask with {fractions.size} fractional values such as {fractions.flat[0]:g}",
                expected=f"whole numbers: {_known(rule)}",
                advice="Download it again; it was interpolated by another tool.",
            )
    if values.min() < 0 or values.max() > 255:
        _check_known([int(values.min()), int(values.max())], rule=rule, name=name)
    whole: np.ndarray = values.astype(np.uint8)
    return whole


def _check_known(present: list[int], *, rule: LabelRule, name: str) -> None:
    unknown = [value for value in present if value != 0 and value not in rule.values]
    if unknown:
        raise SourceError.of(
            name,
            found=f"unknown label values {', '.join(map(str, unknown[:5]))}",
            expected=f"only {_known(rule)}",
            advice="Check that it is the mask of this data set.",
        )


def _known(rule: LabelRule) -> str:
    return f"0 and {', '.join(str(value) for value in sorted(rule.values))}"


def _verify_sides(labels: np.ndarray, *, pair: PairedStructure, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    profiles = {label: (labels == label).sum(axis=(0, 1)) for label in (pair.left, pair.right)}
    for label, side in ((pair.left, "left"), (pair.right, "right")):
        if not profiles[label].any():
            raise SourceError.of(
                name,
                found=f"no voxel of label {label} ({side} {pair.name})",
                expected=f"both {pair.plural}, left and right with a label each",
                advice=f"Check that it is the {pair.name} mask with separate sides.",
            )
    left, right = (float(np.average(np.arange(p.size), weights=p)) for p in profiles.values())
    columns = np.flatnonzero(profiles[pair.left] + profiles[pair.right])
    width = int(columns[-1] - columns[0]) + 1
    if abs(left - right) < MIN_SIDE_SEPARATION * width:
        raise SourceError.of(
            name,
            found=f"{pair.plural} whose centroids lie {abs(left - right):.1f} of {width} voxels apart from left to"
            " right",
            expected=f"left and right {pair.name} at least {MIN_SIDE_SEPARATION * width:.1f} voxels apart",
            advice="Their sides cannot be told; check the labels of this mask.",
        )
    if left > right:
        return labels, ()
    swap = np.arange(256, dtype=np.uint8)
    swap[[pair.left, pair.right]] = pair.right, pair.left
    return swap[labels], (f"{name}: left and right {pair.name} were exchanged, told by their centroids; swapped",)

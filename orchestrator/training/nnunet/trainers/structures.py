"""What of a data set is scored while a training runs, and the scores of patches and of whole cases."""

import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import SurfaceOverlap, score_masks, surface_overlaps
from orchestrator.benchmark.definition import Structure

Scores = tuple[tuple[float, float], ...]
"""Dice and NSD of each structure; NaN where neither map has it."""
_Labels = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, slots=True)
class Structures:
    """Labels or regions of a data set, on the grid of a configuration."""

    labels: tuple[tuple[int, ...], ...]
    """Of each structure: several of a region."""
    are_regions: bool
    """Whether a network says of each of them by itself where it is."""
    ignored: int | None
    """Label of voxels that nobody has annotated: nothing is predicted there."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x) of a volume; of a 2d configuration, z is the median of the data set."""
    tolerances_mm: tuple[float, ...]
    """Of the NSD of each."""

    @classmethod
    def of(cls, trainer: Any, *, tolerance_mm: float | None = None, known: Sequence[Structure] = ()) -> "Structures":
        """Return those of nnU-Net's trainer.

        The tolerance is that of a known structure with the same labels, `tolerance_mm` of all others, and one voxel,
        along the middle axis, unless it is given.
        """
        labels = trainer.label_manager
        found = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        own = tuple(map(float, trainer.configuration_manager.spacing))
        usual_mm = statistics.median(own) if tolerance_mm is None else tolerance_mm
        of_known_mm = {frozenset(one.labels): one.tolerance_mm for one in known}
        z_mm = float(trainer.plans_manager.original_median_spacing_after_transp[0])
        each = tuple(tuple(map(int, one)) if isinstance(one, list | tuple) else (int(one),) for one in found)
        return cls(
            labels=each,
            are_regions=bool(labels.has_regions),
            ignored=labels.ignore_label,
            spacing_mm=(own[0] if len(own) == 3 else z_mm, own[-2], own[-1]),
            tolerances_mm=tuple(of_known_mm.get(frozenset(one), usual_mm) for one in each),
        )

    def tolerances_of(self, pair: "LabelMapPair") -> dict[int, float]:
        """Return the tolerance of each value in the maps of a pair."""
        return {value: self.tolerances_mm[number] for value, number in pair.values.items()}

    def pairs(self, reference: _Labels, predicted: _Labels, ignored: _Labels | None) -> "Iterator[LabelMapPair]":
        """Yield maps of a patch or case, shape (maps, (z), y, x): one with all labels, or one for each region."""
        for number, (one, other) in enumerate(zip(reference, predicted, strict=True)):
            if ignored is not None:
                one, other = np.where(ignored, 0, one), np.where(ignored, 0, other)  # noqa: PLW2901
            is_flat = one.ndim == 3 and len(one) == 1
            yield LabelMapPair(
                reference=one[0] if is_flat else one,
                prediction=other[0] if is_flat else other,
                values={1: number} if self.are_regions else {label[0]: i for i, label in enumerate(self.labels)},
                spacing_mm=self.spacing_mm[1:] if is_flat or one.ndim == 2 else self.spacing_mm,
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelMapPair:
    """Two label maps of which each value is one structure; those of one slice are flat."""

    reference: _Labels
    prediction: _Labels
    values: dict[int, int]
    """Value in the maps to the number of the structure."""
    spacing_mm: tuple[float, ...]


def predicted_maps(output: torch.Tensor, structures: Structures) -> _Labels:
    """Return what a network says, shape (batch, classes or regions, ...), as maps of shape (batch, maps, ...)."""
    if structures.are_regions:
        found = (torch.sigmoid(output) > 0.5).to(torch.uint8)
    else:
        found = output.argmax(1, keepdim=True).to(torch.int16)
    maps: _Labels = found.cpu().numpy()
    return maps


def score_case(reference: _Labels, output: torch.Tensor, structures: Structures) -> Scores:
    """Return the scores of a case.

    Parameters
    ----------
    reference : integer array, shape (z, y, x)
        Labels; what is below 0 is background.
    output : tensor, shape (classes or regions, z, y, x)
        Of the network.
    structures
        What to score.
    """
    maps = [np.isin(reference, one).astype(np.uint8) for one in structures.labels] if structures.are_regions else None
    ignored = None if structures.ignored is None else reference == structures.ignored
    scores = [(math.nan, math.nan)] * len(structures.labels)
    for pair in structures.pairs(
        reference[None] if maps is None else np.stack(maps),
        predicted_maps(output[None].float(), structures)[0],
        ignored,
    ):
        tolerances_mm = structures.tolerances_of(pair)
        for score in score_masks(
            pair.reference, pair.prediction, spacing_mm=pair.spacing_mm, tolerances_mm=tolerances_mm
        ):
            scores[pair.values[score.label]] = (score.dsc, score.nsd)
    return tuple(scores)


class PatchSurfaces:
    """The surfaces in patches of one validation after the other, compared in a thread while the network goes on.

    As nnU-Net pools the voxels of all patches in one Dice, elements of all surfaces are pooled in one NSD. Where a
    patch cuts a structure, both surfaces end alike.
    """

    def __init__(self, structures: Structures) -> None:
        self._structures = structures
        self._executor: ThreadPoolExecutor | None = None
        self._found: list[Future[dict[int, SurfaceOverlap]]] = []

    def add(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Compare the patches of a batch; both may be changed afterwards."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="surfaces")
        predicted = predicted_maps(output, self._structures)
        reference = np.array(target.cpu().numpy())  # a copy: nnU-Net overwrites labels that it ignores
        self._found += [
            self._executor.submit(self._compare, one, other) for one, other in zip(reference, predicted, strict=True)
        ]

    def take_scores(self) -> list[float]:
        """Return the NSD of each structure over all patches since this was last called; NaN where none has it."""
        total: dict[int, SurfaceOverlap] = {}
        for future in self._found:
            for number, overlap in future.result().items():
                total[number] = total[number] + overlap if number in total else overlap
        self._found = []
        return [
            total[number].surface_dice if number in total else math.nan
            for number in range(len(self._structures.labels))
        ]

    def close(self) -> None:
        """End the thread."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def _compare(self, reference: _Labels, predicted: _Labels) -> dict[int, SurfaceOverlap]:
        structures = self._structures
        ignored = None
        if structures.ignored is not None:
            # Of regions the last channel says what is ignored.
            ignored = reference[-1] != 0 if structures.are_regions else reference[0] == structures.ignored
        found: dict[int, SurfaceOverlap] = {}
        for pair in structures.pairs(reference[: len(predicted)], predicted, ignored):
            tolerances_mm = structures.tolerances_of(pair)
            overlaps = surface_overlaps(
                pair.reference, pair.prediction, spacing_mm=pair.spacing_mm, tolerances_mm=tolerances_mm
            )
            found |= {pair.values[label]: overlap for label, overlap in overlaps.items()}
        return found

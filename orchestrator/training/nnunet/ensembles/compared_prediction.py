"""Combinations of models compared on a case: each model predicts it once, and nothing but counts is held of a slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from kernels import score_masks
from orchestrator.benchmark.definition import Structure
from orchestrator.errors import DataError, IntegrityError
from orchestrator.training.nnunet.ensembles.averaged_prediction import Member, mean_of, together
from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.prediction import Predictor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComparedCase:
    """What models have made of a case."""

    scores: NDArray[np.float64]
    """Shape (combinations, structures); NaN where neither mask holds the structure, 0 where a model is of no use."""
    failures: Mapping[int, DataError]
    """Why models, by their numbers, cannot predict the case."""


class ComparedModels:
    """Models whose averages are compared with references."""

    def __init__(
        self,
        predictors: Sequence[Predictor],
        *,
        combinations: Sequence[Sequence[int]],
        structures: Sequence[Structure],
        ignored_label: int | None,
    ) -> None:
        """Take over models.

        Parameters
        ----------
        predictors
            Whose labels mean the same.
        combinations
            Numbers of those that are averaged, in the order in which they are added up.
        structures
            What is scored.
        ignored_label
            Label of reference voxels that do not count.
        """
        self._predictors = tuple(predictors)
        self._combinations = [list(one) for one in combinations]
        self._structures = tuple(structures)
        self._ignored = ignored_label

    def compare(self, images: Sequence[Path], reference: Path, *, by: str) -> ComparedCase:
        """Return the score of each combination and structure; raises DataError if no model can predict the case.

        Parameters
        ----------
        images
            A file for each channel of the case.
        reference
            Its label map, on the same voxels.
        by
            `dsc`, of which counts are held, or `nsd`, for which a label map of each combination is.
        """
        members, failures = self._prepared(images)
        able = {number: one for number, one in enumerate(self._combinations) if failures.keys().isdisjoint(one)}
        scores = np.zeros((len(self._combinations), len(self._structures)))
        if able:
            scores[list(able)] = self._scores(members, list(able.values()), reference, by=by)
        return ComparedCase(scores=scores, failures=failures)

    def _prepared(self, images: Sequence[Path]) -> tuple[dict[int, Member], dict[int, DataError]]:
        """Return the models that can predict an image, by number, and why others cannot."""
        members: dict[int, Member] = {}
        failures: dict[int, DataError] = {}
        for number, one in enumerate(self._predictors):
            try:
                members[number] = Member(predictor=one, image=one.prepared(images))
            except DataError as error:
                failures[number] = error
        if not members:
            raise failures[0]
        return members, failures

    def _scores(
        self, members: Mapping[int, Member], combinations: Sequence[Sequence[int]], reference: Path, *, by: str
    ) -> NDArray[np.float64]:
        """Return the score of each of these combinations and structure."""
        place = {number: at for at, number in enumerate(members)}
        first = next(iter(members.values()))
        image = sitk.ReadImage(str(reference))
        truth = sitk.GetArrayFromImage(image).astype(np.int64).transpose(first.axes)
        if truth.shape != first.shape:
            raise IntegrityError(f"{reference}: voxels {truth.shape}; expected {first.shape}, as of its image")
        labels = first.predictor.plan.label_manager
        size = 1 + max(int(truth.max()), *map(int, labels.all_labels))
        counts = np.zeros((len(combinations), size * size), np.int64)
        maps = np.zeros((len(counts), *(truth.shape if by == "nsd" else (0, 0, 0))), np.uint16)
        with prints_to_log(), together(list(members.values())) as slices:
            for z, (of_slice, expected) in enumerate(zip(slices, truth, strict=True)):
                for number, combination in enumerate(combinations):
                    mean = mean_of([of_slice[place[model]] for model in combination])
                    found = np.asarray(labels.convert_probabilities_to_segmentation(mean), np.int64)
                    if by == "nsd":
                        maps[number, z] = found
                    else:
                        counts[number] += np.bincount((expected * size + found).reshape(-1), minlength=size * size)
        if by == "nsd":
            spacing_mm = np.array(image.GetSpacing()[::-1])[list(first.axes)]
            return np.array([self._nsd_of(truth, found, spacing_mm=spacing_mm) for found in maps])
        return np.array([self._dice_of(count.reshape(size, size)) for count in counts])

    def _nsd_of(
        self, truth: NDArray[np.int64], found: NDArray[np.uint16], *, spacing_mm: NDArray[np.float64]
    ) -> list[float]:
        """Return the NSD of each structure."""
        known = np.ones(truth.shape, bool) if self._ignored is None else truth != self._ignored
        scores = []
        for structure in self._structures:
            masks = [np.isin(one, structure.labels) & known for one in (truth, found)]
            (score,) = score_masks(
                *masks, spacing_mm=spacing_mm.tolist(), tolerances_mm={1: structure.tolerance_mm}, metrics=("nsd",)
            )
            scores.append(float("nan") if not any(mask.any() for mask in masks) else float(score.nsd))
        return scores

    def _dice_of(self, counts: NDArray[np.int64]) -> list[float]:
        """Return the DSC of each structure by counts of voxels, of a label (row) where another one was predicted."""
        if self._ignored is not None and self._ignored < len(counts):
            counts[self._ignored] = 0
        found = []
        for labels in ([*one.labels] for one in self._structures):
            both = counts[np.ix_(labels, labels)].sum()
            sizes = counts[labels].sum() + counts[:, labels].sum()
            found.append(float(2 * both / sizes) if sizes else float("nan"))
        return found

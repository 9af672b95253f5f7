"""Combinations of models compared on a case: each model predicts it once, and nothing but counts is held of a slice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.errors import IntegrityError
from orchestrator.training.nnunet.ensembles.averaged_prediction import Member, mean_of, together
from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.prediction import Predictor


class ComparedModels:
    """Models whose averages are compared with references."""

    def __init__(
        self,
        predictors: Sequence[Predictor],
        *,
        combinations: Sequence[Sequence[int]],
        structures: Sequence[Sequence[int]],
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
            Labels of each; several of a region.
        ignored_label
            Label of reference voxels that do not count.
        """
        self._predictors = tuple(predictors)
        self._combinations = [list(one) for one in combinations]
        self._structures = [list(one) for one in structures]
        self._ignored = ignored_label

    def dice(self, images: Sequence[Path], reference: Path) -> NDArray[np.float64]:
        """Return the DSC of each combination and structure.

        Parameters
        ----------
        images
            A file for each channel of the case.
        reference
            Its label map, on the same voxels.

        Returns
        -------
        float64 array, shape (combinations, structures)
            NaN where neither mask holds the structure.
        """
        members = [Member(predictor=one, image=one.prepared(images)) for one in self._predictors]
        first = members[0]
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(reference))).astype(np.int64)
        truth = truth.transpose(first.axes)
        if truth.shape != first.shape:
            raise IntegrityError(f"{reference}: voxels {truth.shape}; expected {first.shape}, as of its image")
        labels = first.predictor.plan.label_manager
        size = 1 + max(int(truth.max()), *map(int, labels.all_labels))
        counts = np.zeros((len(self._combinations), size * size), np.int64)
        with prints_to_log(), together(members) as slices:
            for of_slice, expected in zip(slices, truth, strict=True):
                for number, combination in enumerate(self._combinations):
                    mean = mean_of([of_slice[model] for model in combination])
                    found = np.asarray(labels.convert_probabilities_to_segmentation(mean), np.int64)
                    counts[number] += np.bincount((expected * size + found).reshape(-1), minlength=size * size)
        return np.array([self._dice_of(count.reshape(size, size)) for count in counts])

    def _dice_of(self, counts: NDArray[np.int64]) -> list[float]:
        """Return the DSC of each structure by counts of voxels, of a label (row) where another one was predicted."""
        if self._ignored is not None and self._ignored < len(counts):
            counts[self._ignored] = 0
        found = []
        for labels in self._structures:
            both = counts[np.ix_(labels, labels)].sum()
            sizes = counts[labels].sum() + counts[:, labels].sum()
            found.append(float(2 * both / sizes) if sizes else float("nan"))
        return found

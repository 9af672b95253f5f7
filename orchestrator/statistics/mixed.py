"""How large a difference of two methods is, over other patients and other trainings: a linear mixed model.

A difference of one patient in one pair of trainings is the mean difference, and what this patient, this fold, this pair
of trainings and nothing else add to it; all of these are drawn at random, patients crossed with trainings, trainings
within folds. Restricted likelihood is profiled over the sizes of these parts in units of the rest, as lme4 does it
(Bates et al., Journal of Statistical Software 2015), since statsmodels' MixedLM takes seconds for crossed parts and
has no degrees of freedom, without which the interval of three trainings is by far too short. Those are Satterthwaite's.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.intervals import CONFIDENCE, FEWEST_CLUSTERS, numbered
from orchestrator.statistics.planning import variance_components

FEWEST_TRAININGS = 3
"""Pairs of trainings from which there is a model: of two, an interval would be fifty times as wide as their SD."""
_IS_NONE = 1e-3
"""Of the SD of the rest: a part that is smaller is none."""
_LEAST_START, _LARGEST = 0.1, 500.0

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedModel:
    """The mean difference over all patients and trainings, and what differences vary by, in the unit of the score."""

    num_patients: int
    num_folds: int
    num_trainings: int
    """Pairs of trainings, one of each method."""
    num_differences: int
    problem: str
    """Why there is no number; empty if there is one."""
    difference: float = math.nan
    """Second minus first; NaN, as are the others, where there is a problem."""
    low: float = math.nan
    """Lower end of the 95 % interval."""
    high: float = math.nan
    freedom: float = math.nan
    """Satterthwaite's degrees of freedom."""
    patient_sd: float = math.nan
    fold_sd: float = math.nan
    """Of what trainings of one fold have in common; NaN where it cannot be told from the trainings."""
    training_sd: float = math.nan
    """Of a pair of trainings, or of its seed where there is `fold_sd`."""
    residual_sd: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossed:
    """Differences of patients in pairs of trainings, a line each."""

    differences: Sequence[float]
    patients: Sequence[Hashable]
    folds: Sequence[Hashable]
    trainings: Sequence[Hashable]
    """Each of one fold."""

    @property
    def can_be_modelled(self) -> bool:
        """Whether there are enough of both, and patients with several trainings: else nothing tells them apart."""
        pairs, patients = set(zip(self.patients, self.trainings, strict=True)), set(self.patients)
        enough = len(patients) >= FEWEST_CLUSTERS and len(set(self.trainings)) >= FEWEST_TRAININGS
        return enough and len(pairs) > len(patients)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Design:
    """Sums that the likelihood depends on; differences are less their mean."""

    counts: Array
    """Shape (patients, trainings)."""
    square: float
    """Sum of squares."""
    total: float
    """Sum."""
    levels: Array
    """Shape (trainings, trainings and folds): which of these random parts each training has."""
    part: NDArray[np.int64]
    """Of each column of `levels`: 1 for a training, 2 for a fold."""

    num: float
    """Differences."""
    of_patients: Array
    """Shape (patients, 2): sum of the differences of each, and how many these are."""
    of_trainings: Array
    """The same of each training."""


def mixed_model(found: Crossed) -> MixedModel:
    """Return the mean difference with its interval over patients, folds and trainings.

    A part whose best size is none is left out; without any between patients, or any between trainings, the model is
    singular: what it would say of the difference is then not to be trusted, and it says that instead.

    Parameters
    ----------
    found
        For which `can_be_modelled`.
    """
    mean = float(np.mean(found.differences))
    design = _design(found, mean=mean)
    sizes = np.zeros(3)
    among = [0, 1, *([2] if 2 in design.part else [])]
    problem, start = "", _start(found)
    if design.square < 1e-20 * max(1.0, design.num):
        problem = "all differences are equal"
    while not problem:
        best = _best(design, among, start=start)
        if best is None:
            problem = "it did not converge"
            break
        sizes[:] = 0
        sizes[among] = best
        left = [part for part in among if sizes[part] > _IS_NONE]
        if 0 not in left or not {1, 2} & set(left):
            nothing = "patients" if 0 not in left else "trainings"
            problem = f"singular: no variance between {nothing}"
        elif sizes.max() > 0.99 * _LARGEST:
            problem = "singular: patients and trainings explain everything, and nothing is left"
        elif left == among:
            break
        among = left
    return _told(found, design, sizes, mean=mean, problem=problem)


def _told(found: Crossed, design: _Design, sizes: Array, *, mean: float, problem: str) -> MixedModel:
    from scipy import stats

    num_patients, num_trainings = design.counts.shape
    without = MixedModel(
        num_patients=num_patients,
        num_folds=len(set(found.folds)),
        num_trainings=num_trainings,
        num_differences=len(found.differences),
        problem=problem,
    )
    if problem:
        return without
    quadratic, _ = _profiled(design, sizes)
    difference = float(mean + quadratic[0, 1] / quadratic[1, 1])
    rest = float(quadratic[0, 0] - quadratic[0, 1] ** 2 / quadratic[1, 1]) / (design.num - 1)
    error, freedom = _error_and_freedom(design, sizes, rest=rest)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    patient_sd, training_sd, fold_sd = map(float, math.sqrt(rest) * sizes)
    return replace(
        without,
        difference=difference,
        low=difference - half,
        high=difference + half,
        freedom=freedom,
        patient_sd=patient_sd,
        fold_sd=fold_sd if 2 in design.part else math.nan,
        training_sd=training_sd,
        residual_sd=math.sqrt(rest),
    )


def _design(found: Crossed, *, mean: float) -> _Design:
    of_patient, num_patients = numbered(found.patients)
    of_training, num_trainings = numbered(found.trainings)
    of_fold, num_folds = numbered(found.folds)
    values = np.asarray(found.differences, float) - mean
    counts, sums = np.zeros((2, num_patients, num_trainings))
    np.add.at(counts, (of_patient, of_training), 1)
    np.add.at(sums, (of_patient, of_training), values)
    levels, part = np.eye(num_trainings), np.ones(num_trainings, np.int64)
    if 1 < num_folds < num_trainings:
        folds = np.zeros((num_trainings, num_folds))
        folds[of_training, of_fold] = 1
        levels, part = np.hstack([levels, folds]), np.append(part, np.full(num_folds, 2))
    return _Design(
        counts=counts,
        square=float(values @ values),
        total=float(values.sum()),
        levels=levels,
        part=part,
        num=float(len(values)),
        of_patients=np.stack([sums.sum(1), counts.sum(1)], axis=1),
        of_trainings=np.stack([sums.sum(0), counts.sum(0)], axis=1),
    )


def _best(design: _Design, among: Sequence[int], *, start: Array) -> Array | None:
    """Return the likeliest sizes of some parts in units of the rest; None where the search finds no end."""
    from scipy.optimize import minimize

    def criterion(squares: Array) -> float:
        every = np.zeros(3)
        every[among] = np.sqrt(squares)
        quadratic, determinant = _profiled(design, every)
        left = quadratic[0, 0] - quadratic[0, 1] ** 2 / quadratic[1, 1]
        return float(determinant + math.log(quadratic[1, 1]) + (design.num - 1) * math.log(max(left, 1e-300)))

    # Over squares: with the sizes themselves the slope is 0 where one is none, and a step too far ends there.
    bounds = [(0.0, _LARGEST**2)] * len(among)
    for first in (start[among], np.ones(len(among))):
        end = minimize(criterion, first**2, bounds=bounds, method="L-BFGS-B", jac="2-point")
        if end.success and math.isfinite(end.fun):
            best: Array = np.sqrt(end.x)
            return best
    return None


def _profiled(design: _Design, sizes: Array) -> tuple[Array, float]:
    """Return what is left of squares and products of (differences, ones), and the logarithm of the determinant.

    Patients, of which each has its own column, are eliminated first: what is solved is as large as the trainings.
    """
    columns = design.levels * sizes[design.part]
    crossed = sizes[0] * design.counts @ columns
    diagonal = 1 + sizes[0] ** 2 * design.of_patients[:, 1]
    scaled = crossed / diagonal[:, None]
    both = sizes[0] * design.of_patients
    inner = (columns.T * design.of_trainings[:, 1]) @ columns - crossed.T @ scaled
    inner[np.diag_indices_from(inner)] += 1
    triangle = np.linalg.cholesky(inner)
    solved = np.linalg.solve(triangle, columns.T @ design.of_trainings - scaled.T @ both)
    whole = np.array([[design.square, design.total], [design.total, design.num]])
    determinant = float(np.log(diagonal).sum() + 2 * np.log(np.diag(triangle)).sum())
    return whole - both.T @ (both / diagonal[:, None]) - solved.T @ solved, determinant


def _error_and_freedom(design: _Design, sizes: Array, *, rest: float) -> tuple[float, float]:
    """Return the standard error of the mean difference and Satterthwaite's degrees of freedom.

    The variances' own covariance is the inverse of their expected information; everything is written in products of
    columns, so that nothing is as large as differences are many.
    """
    of_patient, of_training = design.of_patients[:, 1], design.of_trainings[:, 1]
    crossed = design.counts @ design.levels
    inner = (design.levels.T * of_training) @ design.levels
    products = np.block([[np.diag(of_patient), crossed], [crossed.T, inner]])
    ones = np.concatenate([of_patient, design.levels.T @ of_training])
    part = np.concatenate([np.zeros(len(of_patient), np.int64), design.part])
    scale = sizes[part]
    scaled = scale[:, None] * np.column_stack([products, ones])
    solved = np.linalg.solve(scaled[:, :-1] * scale + np.eye(len(part)), scaled)
    solved, of_ones = solved[:, :-1], solved[:, -1]
    # Of the inverse of the covariance: columns with ones, ones with ones, columns with columns.
    weights = (ones - scaled[:, :-1].T @ of_ones) / rest
    total = (design.num - scaled[:, -1] @ of_ones) / rest
    projected = (products - scaled[:, :-1].T @ solved) / rest - np.outer(weights, weights) / total
    there = [one for one in range(3) if sizes[one] > 0]
    variances = np.array([rest * sizes[one] ** 2 for one in there])
    own = [part == one for one in there]
    pairs = np.array([[np.sum(projected[np.ix_(a, b)] ** 2) for b in own] for a in own])
    traces = np.array([np.trace(projected[np.ix_(a, a)]) for a in own])
    with_rest = (traces - pairs @ variances) / rest
    of_rest = ((design.num - 1 - variances @ traces) / rest - variances @ with_rest) / rest
    information = np.block([[pairs, with_rest[:, None]], [with_rest[None], np.array([[of_rest]])]]) / 2
    slopes = np.array([np.sum(weights[a] ** 2) for a in own])
    slopes = np.append(slopes, (total - variances @ slopes) / rest) / total**2
    return 1 / math.sqrt(total), 2 / total**2 / float(slopes @ np.linalg.solve(information, slopes))


def _start(found: Crossed) -> Array:
    """Return sizes that are near the likeliest ones: of balanced data they are these.

    From ones the search ends too early where a part is a hundred times the rest: intervals were off by up to a tenth.
    """
    parts = variance_components(found.differences, found.patients, found.trainings)
    sds = np.array([parts.patient_sd, parts.training_sd, parts.training_sd])
    rest = parts.residual_sd or parts.patient_sd or 1.0
    return np.clip(sds / rest, _LEAST_START, _LARGEST / 2)

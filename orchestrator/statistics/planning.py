"""How many patients and trainings a comparison of two methods needs, from what their differences vary by.

A difference of a patient's score varies by patient, by the trainings that were compared (fold and seed: the same method
trained again gives another model), and by both together. The mean over patients and trainings is as sure as all three
allow; more patients alone cannot make up for few trainings.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.comparison import FEWEST_DIFFERENCES
from orchestrator.statistics.intervals import numbered

MOST_PATIENTS = 100_000
"""Beyond which a number of patients counts as out of reach."""
_TESTED_TWICE = 1 + 1e-9
"""Tests of a patient from which there are several: five times a fifth may not be 1."""
_LEAST_VARYING = 1e-9
"""Scores within which a component varies, from which it does: what is less is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceComponents:
    """What the differences of two methods vary by; all in the unit of the score."""

    difference: float
    """Mean over all scores."""
    patient_sd: float
    """Between patients, the same in all trainings; NaN, as the others are, if there is but one."""
    training_sd: float
    """Between trainings, the same in all patients; NaN if there is but one, of which it cannot be told."""
    residual_sd: float
    """What is left; 0 where every patient is scored once, so that it is part of `patient_sd`."""
    num_patients: int
    num_trainings: int
    """Pairs of trainings, one of each method."""
    share_tested: float
    """Of all trainings, in how many a patient is tested: 1 on a common test set, 1 / folds in cross-validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """A comparison that could be made."""

    num_patients: int
    num_trainings: int
    """Pairs of trainings."""


def variance_components(
    differences: Sequence[float], patients: Sequence[Hashable], trainings: Sequence[Hashable]
) -> VarianceComponents:
    """Estimate what differences vary by.

    Henderson's methods (Searle, Casella and McCulloch, Variance Components, 5.3 and 5.5) take any number of scores of
    each patient and training, have no bias, and an answer where patients and trainings leave nothing, as where two
    trainings give equal models: there restricted likelihood has no largest value. Elsewhere both are nearly the same,
    and on balanced data without a component of 0 the very same. Method 3 is used where patients are tested in several
    trainings and more is left than they explain, method 1 elsewhere. An estimate below 0 is given as 0.

    Parameters
    ----------
    differences : second method minus first, of a patient in a pair of trainings
    patients : of whom each difference is
    trainings : of which pair of trainings it is

    Raises
    ------
    ValueError
        Without any difference.
    """
    values = np.asarray(differences, np.float64)
    of_patient, num_patients = numbered(patients)
    of_training, num_trainings = numbered(trainings)
    if not num_patients:
        raise ValueError("no differences; expected those of at least one patient")
    counts = np.zeros((num_patients, num_trainings))
    np.add.at(counts, (of_patient, of_training), 1)
    variances = [math.nan] * 3
    if num_patients > 1:
        parts = values - values.mean(), of_patient, of_training, counts
        variances = _adjusted(*parts) or _solve(*parts)
    sds = [math.sqrt(max(0.0, one)) if not math.isnan(one) else one for one in variances]
    return VarianceComponents(
        difference=float(values.mean()),
        patient_sd=sds[0],
        training_sd=sds[1],
        residual_sd=sds[2],
        num_patients=num_patients,
        num_trainings=num_trainings,
        share_tested=float((counts > 0).sum(1).mean() / num_trainings),
    )


def power_of(design: Design, components: VarianceComponents, *, difference: float, alpha: float = 0.05) -> float:
    """Return the chance that a two-sided test of the mean difference shows a difference of this size.

    The test takes all that the mean varies by into account; its degrees of freedom are Satterthwaite's. It is NaN where
    trainings differ and there is but one, and 0 for fewer patients than `fewest_tested`.
    """
    from scipy import stats

    parts = _variances_of_mean(design, components)
    total = sum(variance for variance, _ in parts)
    if any(variance > 0 and freedom < 1 for variance, freedom in parts) or math.isnan(total):
        return math.nan
    if design.num_patients < fewest_tested(alpha):
        return 0.0
    if total == 0:
        return 1.0
    freedom = total**2 / sum(variance**2 / own for variance, own in parts if variance > 0)
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    shift = difference / math.sqrt(total)
    # Far from the limit scipy's noncentral t has no value: the chance of the other side is none there.
    above, below = stats.nct.sf(limit, freedom, shift), stats.nct.cdf(-limit, freedom, shift)
    return float(np.nan_to_num(above, nan=1.0) + np.nan_to_num(below, nan=0.0))


def fewest_tested(alpha: float) -> int:
    """Return the least number of patients of whom a report can show anything.

    Its signed rank test has no p below 2 / 2^n, that of patients who all differ in the same direction, and there is
    none of fewer than FEWEST_DIFFERENCES.
    """
    return max(FEWEST_DIFFERENCES, math.floor(math.log2(2 / alpha)) + 1)


def fewest_patients(
    components: VarianceComponents, *, num_trainings: int, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Return the least number of patients that gives such a power; None if no number does."""

    def is_enough(num: int) -> bool:
        design = Design(num_patients=num, num_trainings=num_trainings)
        return power_of(design, components, difference=difference, alpha=alpha) >= power

    # Power may fall again with more patients: then few trainings are most of what is left to vary, and the degrees of
    # freedom are theirs.
    low = high = fewest_tested(alpha)
    while not is_enough(high):
        if high == MOST_PATIENTS:
            return None
        low, high = high, min(high + max(1, high // 4), MOST_PATIENTS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def smallest_difference(
    design: Design, components: VarianceComponents, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest difference that a design shows with such a power.

    It is NaN where the power is, and infinite for fewer patients than `fewest_tested`.
    """
    from scipy import optimize

    def lacking(difference: float) -> float:
        return power_of(design, components, difference=difference, alpha=alpha) - power

    if math.isnan(lacking(0.0)):
        return math.nan
    if design.num_patients < fewest_tested(alpha):
        return math.inf
    if lacking(0.0) >= 0:
        return 0.0
    largest = math.sqrt(sum(variance for variance, _ in _variances_of_mean(design, components)))
    while lacking(largest) < 0:
        largest *= 2
    return float(optimize.brentq(lacking, 0.0, largest))


def false_positives(design: Design, components: VarianceComponents, *, alpha: float = 0.05) -> float:
    """Return how often a test over patients alone takes two equal methods for different.

    Such a test, as of these very trainings, cannot see that other trainings of the same methods would differ otherwise.
    """
    from scipy import stats

    (patient, _), (training, _), (residual, _) = _variances_of_mean(design, components)
    seen, total = patient + residual, patient + training + residual
    if math.isnan(total) or not total:
        return math.nan
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) * math.sqrt(seen / total)))


def _variances_of_mean(design: Design, components: VarianceComponents) -> list[tuple[float, float]]:
    """Return what each component adds to the variance of the mean difference, with its degrees of freedom."""
    patients, trainings = design.num_patients, design.num_trainings
    of_training = components.training_sd**2 / trainings, trainings - 1
    if trainings * components.share_tested < _TESTED_TWICE:
        # One score of each patient: the rest varies with the patient, and its SD has the patients' degrees of freedom.
        together = components.patient_sd**2 + components.residual_sd**2
        return [(together / patients, patients - 1), of_training, (0.0, 1)]
    scores = patients * trainings * components.share_tested
    # What is left is at least as well known as patients are, whose means have it in them.
    left = max(patients - 1.0, scores - patients - trainings + 1)
    return [
        (components.patient_sd**2 / patients, patients - 1),
        of_training,
        (components.residual_sd**2 / scores, left),
    ]


def _adjusted(
    values: NDArray[np.float64],
    of_patient: NDArray[np.int64],
    of_training: NDArray[np.int64],
    counts: NDArray[np.float64],
) -> list[float] | None:
    """Return the variances by patient, training and the rest of method 3; None where that cannot tell them.

    The rest is of what patients and trainings leave together; each of these of what the other leaves, less the rest.
    Where patients are tested in different trainings, method 1 takes much of one for the other.
    """
    total, by_patient, by_training = counts.sum(), counts.sum(1), counts.sum(0)
    within_patients = values - (np.bincount(of_patient, values) / by_patient)[of_patient]
    within_trainings = values - (np.bincount(of_training, values) / by_training)[of_training]
    of_trainings = np.bincount(of_training, within_patients)
    normal = np.diag(by_training) - counts.T @ (counts / by_patient[:, None])
    freedom = total - len(by_patient) - np.linalg.matrix_rank(normal, hermitian=True)
    varying_patient = total - (counts**2 / by_training).sum()
    varying_training = total - (counts**2 / by_patient[:, None]).sum()
    if freedom < 1 or min(varying_patient, varying_training) < _LEAST_VARYING:
        return None
    squares = (within_patients**2).sum(), (within_trainings**2).sum()
    rest = (squares[0] - of_trainings @ np.linalg.pinv(normal, hermitian=True) @ of_trainings) / freedom
    return [
        float(squares[1] - rest * (total - len(by_training))) / varying_patient,
        float(squares[0] - rest * (total - len(by_patient))) / varying_training,
        float(rest),
    ]


def _solve(
    values: NDArray[np.float64],
    of_patient: NDArray[np.int64],
    of_training: NDArray[np.int64],
    counts: NDArray[np.float64],
) -> list[float]:
    """Return the variances by patient, training and the rest of method 1: sums of squares are what they expect."""
    total, by_patient, by_training = counts.sum(), counts.sum(1), counts.sum(0)
    sums = np.bincount(of_patient, values), np.bincount(of_training, values)
    squares = np.array([(values**2).sum(), (sums[0] ** 2 / by_patient).sum(), (sums[1] ** 2 / by_training).sum()])
    # Of each variance in each sum of squares, less that in the square of the mean.
    of_mean = np.array([(by_patient**2).sum() / total, (by_training**2).sum() / total, 1.0])
    expected = np.array(
        [
            [total, total, total],
            [total, (counts**2 / by_patient[:, None]).sum(), len(by_patient)],
            [(counts**2 / by_training).sum(), total, len(by_training)],
        ]
    )
    expected -= of_mean
    known = [0] + ([1] if len(by_training) > 1 else []) + ([2] if (by_patient > 1).any() else [])
    # Where a patient is scored once the rest cannot be told from the patient, and one training has no variance.
    rows = [0, *([2] if 1 in known else []), *([1] if 2 in known else [])]
    solved = np.linalg.lstsq(expected[np.ix_(rows, known)], squares[rows], rcond=None)[0]
    found = dict(zip(known, map(float, solved), strict=True))
    return [found[0], found.get(1, math.nan), found.get(2, 0.0)]

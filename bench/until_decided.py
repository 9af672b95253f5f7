"""How often looks at a study that goes on call equal methods different, and how many trainings they save.

    python -m bench.until_decided [--studies N]

Simulated studies compare two methods with scores that are skewed towards 1, in one test or in four. They are decided
look by look, as `run --until-decided` does, and with all trainings at once, as the report of a whole run does
(Wilcoxon, Holm, and an interval without 0). `ratio` is the number of pairs of trainings until all tests are closed,
over how many folds a fixed design needs for the same power. Trainings are supposed to take equally long.
"""

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from orchestrator.report.looks.planned import FIRST_FOLDS
from orchestrator.statistics import sequential
from orchestrator.statistics.intervals import ALPHA, mean_with_interval
from orchestrator.statistics.sequential import Family, Flips, InterimDifferences, look_by_look, num_flips_for

AT_ONCE = 250
"""Studies that one process draws together."""
NUM_WITH_EFFECT = 1000
"""Studies that power is measured on, and what differences of trainings do."""
Differences = NDArray[np.float64]
"""Shape (studies, tests, folds, patients), second method minus first; NaN where a fold does not score a patient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """A study of two methods."""

    tests: int
    """1 (DSC in one structure) or 4 (with NSD, and a second structure)."""
    folds: int
    patients: int
    """In all."""
    is_cross_validation: bool
    """Whether each fold scores patients of its own, or each all of them."""
    effect: float = 0.0
    """By how much the second method is better, on the scale of log-odds."""
    training_sd: float = 0.0
    """By how much trainings of one method differ, on the same scale."""

    @property
    def kind(self) -> str:
        """What it looks like."""
        folds = "cross-validation" if self.is_cross_validation else "a test set"
        return f"{folds}, {self.folds} folds, {self.patients} patients"

    def drawn(self, random: np.random.Generator, studies: int) -> Differences:
        """Return the differences of many studies."""
        folds, patients = self.folds, self.patients
        # By method, study, structure, metric, fold and patient. A patient is nearly as hard for both methods.
        latent = random.normal(2.6, 1.0, (1, studies, 2, 1, 1, patients))
        latent = latent + random.normal(0, 0.3, (2, studies, 2, 1, 1, patients))
        latent = latent + random.normal(0, 0.4, (2, studies, 2, 1, folds, patients))
        latent = latent + random.normal(0, 0.2, (2, studies, 2, 2, folds, patients))
        latent = latent + random.normal(0, self.training_sd, (2, studies, 1, 1, folds, 1))
        latent[1] += self.effect
        first, second = expit(latent)
        found: Differences = (second - first).reshape(studies, 4, folds, patients)[:, : self.tests]
        if self.is_cross_validation:
            is_other = np.arange(patients) * folds // patients != np.arange(folds)[:, None]
            found[..., is_other] = np.nan
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counts:
    """What came of some studies."""

    any_by_looks: int
    """Studies in which looks show any difference."""
    by_looks: int
    """Tests that looks have shown."""
    pairs: int
    """Of trainings until all was decided."""
    any_fixed: int
    """Studies in which the fixed design of all folds shows any difference."""
    fixed: NDArray[np.int64]
    """Tests that a fixed design shows, by its number of folds, from 1."""


def counted(design: Design, seed: int, studies: int) -> Counts:
    """Draw studies and decide them in both ways."""
    differences = design.drawn(np.random.default_rng([seed, design.folds, design.patients]), studies)
    shown = np.array([_shown_fixed(_patient_means(differences, folds)) for folds in range(1, design.folds + 1)])
    looks = range(FIRST_FOLDS, design.folds + 1)
    shares = tuple(folds / design.folds for folds in looks)
    least = min(now - before for before, now in pairwise((0.0, *shares)))
    flips = Flips(num_flips_for(design.tests, num_patients=design.patients, least_step=least))
    names = [f"{seed}-{number}" for number in range(design.patients)]
    ends = []
    for study in range(studies):
        means = [_patient_means(differences[study : study + 1], folds)[0] for folds in looks]
        interims = [
            InterimDifferences(shares=shares, differences=tuple(_of_patients(names, values[test]) for values in means))
            for test in range(design.tests)
        ]
        ends.append(_end(Family(interims=interims, num_tests=design.tests, flips=flips), num_looks=len(shares)))
    return Counts(
        any_by_looks=sum(num > 0 for num, _ in ends),
        by_looks=sum(num for num, _ in ends),
        pairs=sum(looks[number] for _, number in ends),
        any_fixed=int(shown[-1].any(axis=1).sum()),
        fixed=shown.sum(axis=(1, 2)),
    )


def _end(family: Family, *, num_looks: int) -> tuple[int, int]:
    """Return how many tests have shown a difference once all are closed, and at which look that was, from 0."""
    looks = enumerate(look_by_look(family, num_looks=num_looks))
    number, standings = next(look for look in looks if all(one.is_closed for one in look[1]))
    return sum(one.crossing is not None for one in standings), number


def _patient_means(differences: Differences, folds: int) -> NDArray[np.float64]:
    """Return the mean of each patient over the first folds, NaN for none; shape (studies, tests, patients)."""
    part = differences[:, :, :folds]
    counts = np.isfinite(part).sum(axis=2)
    return np.where(counts > 0, np.nansum(part, axis=2) / np.maximum(counts, 1), np.nan)


def _of_patients(names: list[str], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: value for name, value in zip(names, values.tolist(), strict=True) if math.isfinite(value)}


def _shown_fixed(means: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which tests of each study are shown as a report of all scores does: Wilcoxon, Holm, and the interval."""
    scored = means[..., np.isfinite(means[0, 0])]
    p = stats.wilcoxon(scored, axis=-1, method="asymptotic").pvalue
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, axis=1) * np.arange(p.shape[1], 0, -1)
    shown = np.zeros(p.shape, bool)
    np.put_along_axis(shown, order, np.maximum.accumulate(steps, axis=1) <= ALPHA, axis=1)
    for study, test in np.argwhere(shown):
        values = scored[study, test].tolist()
        interval = mean_with_interval(values, range(len(values)))
        shown[study, test] = not interval.low <= 0 <= interval.high
    return shown


def total(design: Design, studies: int, pool: ProcessPoolExecutor) -> Counts:
    """Return what came of many studies."""
    sizes = [min(AT_ONCE, studies - first) for first in range(0, studies, AT_ONCE)]
    parts = list(pool.map(counted, [design] * len(sizes), range(len(sizes)), sizes))
    return Counts(
        any_by_looks=sum(one.any_by_looks for one in parts),
        by_looks=sum(one.by_looks for one in parts),
        pairs=sum(one.pairs for one in parts),
        any_fixed=sum(one.any_fixed for one in parts),
        fixed=np.sum([one.fixed for one in parts], axis=0),
    )


def designs() -> Iterator[Design]:
    """Yield the studies that are measured."""
    for tests, folds, patients, is_cross_validation in ((1, 5, 100, True), (4, 5, 100, True), (4, 5, 40, False)):
        for effect in (0.0, 0.25, 0.35):
            yield Design(
                tests=tests, folds=folds, patients=patients, is_cross_validation=is_cross_validation, effect=effect
            )
    yield Design(tests=1, folds=10, patients=100, is_cross_validation=True, effect=0.35)
    for training_sd in (0.05, 0.15):
        yield Design(tests=1, folds=5, patients=100, is_cross_validation=True, training_sd=training_sd)


def folds_for(power: float, fixed: NDArray[np.float64]) -> float:
    """Return with how many folds a fixed design has a power; between two numbers by a straight line."""
    return float(np.interp(power, [0.0, *fixed], range(len(fixed) + 1)))


def _row(design: Design, counts: Counts, studies: int) -> str:
    tests, pairs = studies * design.tests, counts.pairs / studies
    power, fixed = counts.by_looks / tests, counts.fixed / tests
    what = f"better by {design.effect:g}" if design.effect else "equal"
    what += f", trainings differ by {design.training_sd:g}" if design.training_sd else ""
    equal = folds_for(power, fixed) if design.effect else float(design.folds)
    return (
        f"| {design.kind} | {design.tests} | {what} | {counts.any_fixed / studies:.2%} | "
        f"{counts.any_by_looks / studies:.2%} | {fixed[-1]:.1%} | {power:.1%} | "
        f"{pairs:.2f} | {equal:.2f} | {pairs / equal:.2f} |"
    )


def main() -> int:
    """Run the simulation."""
    parser = command_line("until_decided", description=__doc__)
    parser.add_argument("--studies", type=positive_integer, default=10_000, help="simulated studies of equal methods")
    options = parser.parse_args()
    print(conditions("numpy", "scipy"))
    print(
        f"error {ALPHA:g}, spent in proportion to the trainings, first look at {FIRST_FOLDS} "
        f"folds, not waited for below a chance of {sequential.LEAST_CHANCE:g}"
    )
    print(
        "| design | tests | methods | any shown: all folds | by looks | tests shown: all folds | by looks | "
        "pairs of trainings by looks | of a fixed design of equal power | ratio |"
    )
    print("|---" * 10 + "|")
    with ProcessPoolExecutor() as pool:
        for design in designs():
            is_equal = not (design.effect or design.training_sd)
            studies = options.studies if is_equal else min(options.studies, NUM_WITH_EFFECT)
            print(_row(design, total(design, studies, pool), studies), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

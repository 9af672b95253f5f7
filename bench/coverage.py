"""In how many of many simulated studies the 95 % interval of a report holds the true mean.

    python -m bench.coverage [--studies N] [--trainings]

With --trainings, two methods differ by patients (skewed), folds, seeds and the rest, and what is to be held is their
mean difference over all patients and all trainings: by the mixed model, and by the bootstrap over patients alone.

Otherwise scores are skewed towards 1, as Dice often is; their true mean is known from their distribution. The same
studies get the t interval, the percentile bootstrap and BCa (scipy) for comparison.
"""

import math
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from orchestrator.statistics.intervals import mean_with_interval
from orchestrator.statistics.mixed import Crossed, mixed_model

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SIZES = (10, 20, 50)
NUM_OTHERS = 1000
"""Studies that the others are measured on: they are slower."""


def _beta(random: np.random.Generator, size: int, *, a: float, b: float) -> NDArray[np.float64]:
    return random.beta(a, b, size)


DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "beta(20, 1), mean 0.95": (partial(_beta, a=20.0, b=1.0), 20 / 21),
    "beta(8, 0.8), mean 0.91": (partial(_beta, a=8.0, b=0.8), 8 / 8.8),
    "beta(5, 2), mean 0.71": (partial(_beta, a=5.0, b=2.0), 5 / 7),
}


def ours(values: NDArray[np.float64], number: int) -> tuple[float, float]:
    """Return the interval of the report."""
    found = mean_with_interval(values.tolist(), range(len(values)), seed=number, limits=(0.0, 1.0))
    return found.low, found.high


def t_interval(values: NDArray[np.float64], number: int) -> tuple[float, float]:
    """Return Student's interval."""
    del number
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def of_scipy(values: NDArray[np.float64], number: int, *, method: str) -> tuple[float, float]:
    """Return a bootstrap interval of scipy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stats.bootstrap((values,), np.mean, method=method, n_resamples=999, rng=number).confidence_interval
    return float(found.low), float(found.high)


METHODS = {
    "ours": ours,
    "t": t_interval,
    "percentile": partial(of_scipy, method="percentile"),
    "BCa": partial(of_scipy, method="BCa"),
}


def coverage(name: str, size: int, method: str, num_studies: int) -> float:
    """Return the share of simulated studies whose interval holds the true mean."""
    draw, mean = DISTRIBUTIONS[name]
    random = np.random.default_rng(size)
    held = 0
    for number in range(num_studies):
        low, high = METHODS[method](draw(random, size), number)
        held += low <= mean <= high
    return held / num_studies


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A comparison of two methods that are trained several times."""

    num_patients: int
    num_folds: int
    num_seeds: int
    is_cross_validation: bool
    """Whether each patient is tested in one fold."""
    sds: tuple[float, float, float, float]
    """Of patients, folds, seeds and the rest, in points."""

    @property
    def text(self) -> str:
        """What it is, as the first cells of a line."""
        tested = "one fold" if self.is_cross_validation else "every fold"
        sds = " / ".join(f"{sd:g}" for sd in self.sds)
        return f"| {self.num_patients}, {tested} | {self.num_folds} x {self.num_seeds} | {sds} |"

    def drawn(self, random: np.random.Generator) -> Crossed:
        """Return a study whose true difference is 0."""
        # Few patients make most of the difference, as where a method fails on some.
        patients = self.sds[0] * (random.gamma(1.0, 1.0, self.num_patients) - 1.0)
        folds = random.normal(0, self.sds[1], self.num_folds)
        seeds = random.normal(0, self.sds[2], (self.num_folds, self.num_seeds))
        places = [
            (patient, fold, seed)
            for patient in range(self.num_patients)
            for fold in range(self.num_folds)
            for seed in range(self.num_seeds)
            if not self.is_cross_validation or patient % self.num_folds == fold
        ]
        patient, fold, seed = np.transpose(places)
        values = patients[patient] + folds[fold] + seeds[fold, seed] + random.normal(0, self.sds[3], len(places))
        return Crossed(
            differences=values.tolist(),
            patients=patient.tolist(),
            folds=fold.tolist(),
            trainings=list(zip(fold.tolist(), seed.tolist(), strict=True)),
        )


TRAINED = (
    Trained(num_patients=20, num_folds=5, num_seeds=1, is_cross_validation=False, sds=(3, 0, 1, 2)),
    Trained(num_patients=20, num_folds=5, num_seeds=1, is_cross_validation=False, sds=(3, 0, 0.2, 2)),
    Trained(num_patients=50, num_folds=1, num_seeds=3, is_cross_validation=False, sds=(3, 0, 1, 2)),
    Trained(num_patients=50, num_folds=1, num_seeds=3, is_cross_validation=False, sds=(3, 0, 0.2, 2)),
    Trained(num_patients=100, num_folds=5, num_seeds=3, is_cross_validation=True, sds=(3, 0, 1, 2)),
    Trained(num_patients=100, num_folds=5, num_seeds=3, is_cross_validation=True, sds=(3, 1, 1, 2)),
    Trained(num_patients=100, num_folds=5, num_seeds=3, is_cross_validation=True, sds=(3, 0, 0, 2)),
)


def coverage_of_model(design: Trained, num_studies: int) -> str:
    """Return, as the last cells of a line, how often either interval holds 0, and how often the model has none."""
    random = np.random.default_rng(design.num_patients)
    by_model, by_patients, num_without = 0, 0, 0
    for number in range(num_studies):
        study = design.drawn(random)
        interval = mean_with_interval(study.differences, study.patients, seed=number)
        by_patients += interval.low <= 0 <= interval.high
        found = mixed_model(study)
        num_without += bool(found.problem)
        by_model += found.low <= 0 <= found.high
    with_model = num_studies - num_without
    shares = by_patients / num_studies, by_model / with_model if with_model else math.nan, num_without / num_studies
    return " | ".join(f"{100 * share:.1f} %" for share in shares) + " |"


def show_models(num_studies: int) -> None:
    """Print the coverage of the mixed model."""
    print("| patients, each tested in | folds x seeds | SD of patients / folds / seeds / rest (points) "
          "| bootstrap over patients holds it | mixed model holds it | has no number |")  # fmt: skip
    print("|---" * 6 + "|")
    with ProcessPoolExecutor() as pool:
        found = {design: pool.submit(coverage_of_model, design, num_studies) for design in TRAINED}
        for design, cells in found.items():
            print(f"{design.text} {cells.result()}", flush=True)


def main() -> int:
    """Run the simulation."""
    parser = command_line("coverage", description=__doc__)
    parser.add_argument("--studies", type=positive_integer, default=10_000, help="simulated studies of ours")
    parser.add_argument("--trainings", action="store_true", help="of differences over patients and trainings")
    options = parser.parse_args()
    print(conditions())
    if options.trainings:
        show_models(options.studies)
        return 0
    print("| scores | n | " + " | ".join(METHODS) + " |")
    print("|---" * (2 + len(METHODS)) + "|")
    with ProcessPoolExecutor() as pool:
        cells = {
            (name, size, method): pool.submit(
                coverage, name, size, method, options.studies if method == "ours" else min(NUM_OTHERS, options.studies)
            )
            for name in DISTRIBUTIONS
            for size in SIZES
            for method in METHODS
        }
        for name in DISTRIBUTIONS:
            for size in SIZES:
                shares = (f"{100 * cells[name, size, method].result():.1f} %" for method in METHODS)
                print(f"| {name} | {size} | {' | '.join(shares)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

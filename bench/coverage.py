"""In how many of many simulated studies the 95 % interval of a report holds the true mean.

    python -m bench.coverage [--studies N] [--trainings]

With --trainings, two methods differ by patients (skewed), folds, seeds and the rest, and what is to be held is their
mean difference over all patients and all trainings: by the mixed model, and by the bootstrap over patients alone.

Otherwise scores are skewed towards 1, as Dice often is, or most are equal and a few failed, or a patient has several
scans; their true mean is known from their distribution. Where all scores of a study are equal there is no interval: how
often that is has a column of its own, and the share is of the others. The same studies, but those of several scans, get
the t interval, the percentile bootstrap and BCa (scipy) for comparison.
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
SIZES = (6, 10, 20, 50)
"""Patients."""
NUM_OTHERS = 1000
"""Studies that the others are measured on: they are slower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What patients are drawn from."""

    text: str
    draw: Draw
    """Of one score for each of so many patients."""
    mean: float
    """The true one, that intervals are to hold."""
    scans: tuple[int, ...] = (1,)
    """Of a patient, each as likely: with several, a patient's score is what those of its scans vary about."""
    limits: tuple[float, float] = (0.0, 1.0)
    """Between which a mean may be."""

    @property
    def is_one_scan(self) -> bool:
        """Whether no patient has several."""
        return self.scans == (1,)

    def drawn(self, random: np.random.Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the scores of a study, and of which patient each is."""
        values, patients = self.draw(random, size), np.arange(size)
        if self.is_one_scan:
            return values, patients
        patients = np.repeat(patients, random.choice(self.scans, size))
        own = np.clip(values[patients], 0.001, 0.999)
        return random.beta(_ALIKE * own, _ALIKE * (1 - own)), patients


_ALIKE = 40.0
"""How near the scans of a patient are to its own mean: at one of 0.9 their SD is 0.05."""


def _beta(random: np.random.Generator, size: int, *, a: float, b: float) -> NDArray[np.float64]:
    return random.beta(a, b, size)


def _failed(random: np.random.Generator, size: int, *, share: float) -> NDArray[np.float64]:
    return np.where(random.random(size) < share, 0.0, random.beta(40.0, 2.0, size))


def _mostly_equal(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    return np.where(random.random(size) < 0.9, 0.0, random.normal(0.1, 0.1, size))


_SKEWED = partial(_beta, a=8.0, b=0.8)
SCORES = (
    Scores(text="beta(20, 1), mean 0.95", draw=partial(_beta, a=20.0, b=1.0), mean=20 / 21),
    Scores(text="beta(8, 0.8), mean 0.91", draw=_SKEWED, mean=8 / 8.8),
    Scores(text="beta(5, 2), mean 0.71", draw=partial(_beta, a=5.0, b=2.0), mean=5 / 7),
    Scores(text="beta(8, 0.8), 1 or 2 scans a patient", draw=_SKEWED, mean=8 / 8.8, scans=(1, 2)),
    Scores(text="beta(8, 0.8), 1 to 8 scans a patient", draw=_SKEWED, mean=8 / 8.8, scans=(1, 1, 1, 2, 3, 8)),
    Scores(text="0 in 15 %, else beta(40, 2)", draw=partial(_failed, share=0.15), mean=0.85 * 40 / 42),
    Scores(text="0 in 5 %, else beta(40, 2)", draw=partial(_failed, share=0.05), mean=0.95 * 40 / 42),
    Scores(
        text="differences: 0 in 90 %, else normal(0.1, 0.1)",
        draw=_mostly_equal,
        mean=0.01,
        limits=(-math.inf, math.inf),
    ),
)


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


OTHERS = {
    "t": t_interval,
    "percentile": partial(of_scipy, method="percentile"),
    "BCa": partial(of_scipy, method="BCa"),
}


def coverage(scores: Scores, size: int, num_studies: int) -> tuple[float, float]:
    """Return the share of simulated studies that have an interval of the report, and of these whose holds the mean."""
    random = np.random.default_rng(size)
    held = there = 0
    for number in range(num_studies):
        values, patients = scores.drawn(random, size)
        found = mean_with_interval(values.tolist(), patients.tolist(), seed=number, limits=scores.limits)
        there += found.has_interval
        held += found.low <= scores.mean <= found.high
    return there / num_studies, held / there if there else math.nan


def coverage_of_other(scores: Scores, size: int, method: str, num_studies: int) -> float:
    """Return the share of the same studies, less those of equal scores, whose interval of another kind does."""
    random = np.random.default_rng(size)
    held = there = 0
    for number in range(num_studies):
        values, _ = scores.drawn(random, size)
        if np.ptp(values):
            low, high = OTHERS[method](values, number)
            there += 1
            held += low <= scores.mean <= high
    return held / there if there else math.nan


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


def show_scores(num_studies: int) -> None:
    """Print the coverage of the intervals of means."""
    print("| scores | patients | ours | has none | " + " | ".join(OTHERS) + " |")
    print("|---" * (4 + len(OTHERS)) + "|")
    few = min(NUM_OTHERS, num_studies)
    with ProcessPoolExecutor() as pool:
        places = [(scores, size) for scores in SCORES for size in SIZES]
        rows = [
            (
                pool.submit(coverage, scores, size, num_studies),
                [pool.submit(coverage_of_other, scores, size, method, few) for method in OTHERS if scores.is_one_scan],
            )
            for scores, size in places
        ]
        for (scores, size), (own, others) in zip(places, rows, strict=True):
            there, held = own.result()
            cells = [f"{100 * held:.1f} %", f"{100 * (1 - there):.1f} %"]
            cells += [f"{100 * one.result():.1f} %" for one in others] or ["-"] * len(OTHERS)
            print(f"| {scores.text} | {size} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Run the simulation."""
    parser = command_line("coverage", description=__doc__)
    parser.add_argument("--studies", type=positive_integer, default=10_000, help="simulated studies of ours")
    parser.add_argument("--trainings", action="store_true", help="of differences over patients and trainings")
    options = parser.parse_args()
    print(conditions())
    (show_models if options.trainings else show_scores)(options.studies)
    return 0


if __name__ == "__main__":
    sys.exit(main())

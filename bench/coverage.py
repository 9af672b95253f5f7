"""In how many of many simulated studies the 95 % interval of a report holds the true mean.

    python -m bench.coverage [--studies N]

Scores are skewed towards 1, as Dice often is; their true mean is known from their distribution. The same studies get
the t interval, the percentile bootstrap and BCa (scipy) for comparison.
"""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.command_line import command_line, positive_integer
from bench.machine import conditions
from orchestrator.statistics.intervals import mean_with_interval

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


def main() -> int:
    """Run the simulation."""
    parser = command_line("coverage", description=__doc__)
    parser.add_argument("--studies", type=positive_integer, default=10_000, help="simulated studies of ours")
    options = parser.parse_args()
    print(conditions())
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

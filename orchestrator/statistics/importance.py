"""How much each setting of a search has to do with how well trials did: one at a time, with what chance would show.

The ranks of the scores are explained by one setting alone: by its categories, or, of a number, by a parabola over its
ranks, so that an optimum in the middle counts. What is told is the share of their variation, less what as many numbers
without any meaning would explain on average (adjusted R²), and how often such numbers explain as much (a permutation
test). What only two settings together do is not seen; twice as many trials as settings are not enough for that anyway.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

FEWEST_TRIALS = 6
"""Of which anything is said."""
NUM_PERMUTATIONS = 1999


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """What one setting explains."""

    setting: str
    share: float
    """Of the variation of the ranks of scores, 0 to 1; NaN where there are too few trials for its values."""
    p: float
    """How often a setting without any influence would explain as much; NaN likewise."""


def importances(settings: Mapping[str, Sequence[object]], scores: Sequence[float]) -> tuple[Importance, ...]:
    """Return what each setting explains by itself, the most first.

    Parameters
    ----------
    settings
        Name to its value in each trial. Those that have one value only are left out.
    scores
        Of each trial, finite.
    """
    if len(scores) < FEWEST_TRIALS:
        return ()
    ranks = rankdata(scores)
    varied = {name: values for name, values in settings.items() if len({str(value) for value in values}) > 1}
    found = [_importance(name, _columns(values), ranks) for name, values in varied.items()]
    return tuple(sorted(found, key=lambda one: (math.isnan(one.share), -one.share, one.p)))


def _importance(name: str, columns: NDArray[np.float64], ranks: NDArray[np.float64]) -> Importance:
    centred = ranks - ranks.mean()
    total = float(centred @ centred)
    basis, sizes, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes.max()]
    num_free = len(ranks) - 1 - basis.shape[1]
    if num_free < 2 or not total:
        return Importance(setting=name, share=math.nan, p=math.nan)
    explained = float(np.sum((basis.T @ centred) ** 2)) / total
    random = np.random.default_rng(0)
    drawn = random.permuted(np.tile(centred, (NUM_PERMUTATIONS, 1)), axis=1)
    by_chance = np.sum((drawn @ basis) ** 2, axis=1) / total
    return Importance(
        setting=name,
        share=max(0.0, 1 - (1 - explained) * (len(ranks) - 1) / num_free),
        p=(1 + int(np.sum(by_chance >= explained - 1e-12))) / (1 + NUM_PERMUTATIONS),
    )


def _columns(values: Sequence[object]) -> NDArray[np.float64]:
    """Return what stands for a setting: ranks and their squares of numbers, or a column for each category."""
    if is_numeric(values) and len(set(values)) > 2:
        ranks = rankdata(np.array(values, float))
        ranks -= ranks.mean()
        return np.stack([ranks, ranks**2], axis=1)
    names = [str(value) for value in values]
    return np.array([[name == category for category in dict.fromkeys(names)] for name in names], float)


def is_numeric(values: Sequence[object]) -> bool:
    """Whether a setting is a number in every trial."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

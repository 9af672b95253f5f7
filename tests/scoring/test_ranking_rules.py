"""Ranks on the example data of challengeR, and beside a plain implementation of its published rules.

The data are those that Wiesenfarth et al. (Scientific Reports 2021, doi 10.1038/s41598-021-82017-6) describe: an ideal
task, in which five methods never overlap, one of random scores, and a worst case, in which every order of the methods
occurs once. They are drawn here as R draws them, from the generator of its `set.seed`.
"""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.scoring.leaderboard import leaderboard
from orchestrator.statistics.ranking import ScoresToRank, _holm, rank_intervals, rank_methods

NUM_CASES = 50


class GeneratorOfR:
    """`set.seed(seed)`, `runif` and `rnorm` of R: Mersenne Twister and inversion."""

    def __init__(self, seed: int) -> None:
        state = seed
        for _ in range(50):
            state = (69069 * state + 1) % 2**32
        numbers = []
        for _ in range(625):
            state = (69069 * state + 1) % 2**32
            numbers.append(state)
        self._bits = np.random.MT19937()
        self._bits.state = {
            "bit_generator": "MT19937",
            "state": {"key": np.array(numbers[1:], np.uint32), "pos": 624},
        }

    def _unit(self) -> float:
        return int(self._bits.random_raw()) * 2.3283064365386963e-10

    def uniform(self, num: int, low: float, high: float) -> np.ndarray:
        return np.array([low + (high - low) * self._unit() for _ in range(num)])

    def normal(self, num: int, mean: float, sd: float) -> np.ndarray:
        units = [(int(134217728 * self._unit()) + self._unit()) / 134217728 for _ in range(num)]
        return mean + sd * stats.norm.ppf(units)


def ideal() -> np.ndarray:
    random = GeneratorOfR(4)
    random.uniform(NUM_CASES, 0.9, 1.0)
    limits = ((0.9, 1.0), (0.8, 0.89), (0.7, 0.79), (0.6, 0.69), (0.5, 0.59))
    return np.stack([random.uniform(NUM_CASES, *both) for both in limits], axis=1)


def at_random() -> np.ndarray:
    drawn = GeneratorOfR(1).normal(5 * NUM_CASES, 1.5, 1.0)
    return (1 / (1 + np.exp(-drawn))).reshape(5, NUM_CASES).T


def worst_case() -> np.ndarray:
    values = np.linspace(0.8, 1.0, 5)
    return np.array([values[list(order)] for order in permutations(range(5))])


def test_the_generator_is_that_of_r():
    # set.seed(42); runif(3), and set.seed(123); rnorm(3), as every R prints them.
    assert GeneratorOfR(42).uniform(3, 0, 1) == pytest.approx([0.9148060, 0.9370754, 0.2861395], abs=1e-7)
    assert GeneratorOfR(123).normal(3, 0, 1) == pytest.approx([-0.56047565, -0.23017749, 1.55870831], abs=1e-8)


def test_methods_that_never_overlap_are_in_their_order_by_every_rule():
    found = rank_methods(ideal())
    assert found.mean_then_rank == found.rank_then_mean == found.test_based == (1, 2, 3, 4, 5)
    assert found.share_first == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert rank_intervals([ScoresToRank(values=ideal())]) == tuple((place, place) for place in range(1, 6))


def test_methods_of_which_each_is_as_often_at_each_place_share_the_first():
    found = rank_methods(worst_case())
    assert found.mean_then_rank == found.rank_then_mean == found.test_based == (1, 1, 1, 1, 1)
    assert sum(found.share_first) == pytest.approx(1.0)
    assert all(0.1 < share < 0.3 for share in found.share_first)
    assert rank_intervals([ScoresToRank(values=worst_case())]) == ((1, 5),) * 5


def plainly_ranked(scores: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Return the ranks by the published rules, in as many steps as these have."""
    num = scores.shape[1]

    def places(values) -> list[int]:
        return [1 + sum(other > value + 1e-12 for other in values) for value in values]

    of_cases = [places(list(case)) for case in scores]
    mean_ranks = [float(np.mean([case[method] for case in of_cases])) for method in range(num)]
    p_values = {}
    for one in range(num):
        for other in range(num):
            if one != other:
                # 0.9 - 0.8 and 0.8 - 0.7 are a tie.
                differences = np.round(scores[:, one] - scores[:, other], 12)
                p_values[one, other] = signed_rank_p(differences[differences != 0])
    ordered = sorted(p_values, key=p_values.get)
    beaten, is_rejected = [0] * num, True
    for place, pair in enumerate(ordered):
        is_rejected = is_rejected and p_values[pair] * (len(ordered) - place) <= 0.05
        beaten[pair[0]] += is_rejected
    return places(scores.mean(axis=0)), places([-rank for rank in mean_ranks]), places(beaten)


def signed_rank_p(differences: np.ndarray) -> float:
    """Return p that differences are above 0, as challengeR takes it: normal, corrected for continuity."""
    num = len(differences)
    if num == 0:
        return 1.0
    ranks = stats.rankdata(np.abs(differences))
    above = ranks[differences > 0].sum()
    _, ties = np.unique(ranks, return_counts=True)
    variance = num * (num + 1) * (2 * num + 1) / 24 - (ties**3 - ties).sum() / 48
    return float(stats.norm.sf((above - num * (num + 1) / 4 - 0.5) / np.sqrt(variance)))


@pytest.mark.parametrize("seed", range(6))
def test_ranks_are_those_of_the_published_rules(seed: int):
    random = np.random.default_rng(seed)
    num_cases = (50, 20, 60, 12, 30, 49)[seed]
    scores = random.beta(8, 2, (num_cases, 6)) + np.linspace(0, 0.25, 6)[random.permutation(6)]
    if seed % 2:
        # Ties within and between cases.
        scores = np.round(scores, 1)
    found = rank_methods(scores)
    expected = plainly_ranked(scores)
    assert tuple(map(list, (found.mean_then_rank, found.rank_then_mean, found.test_based))) == expected


def test_the_example_of_random_scores_is_ranked_by_the_published_rules():
    found = rank_methods(at_random())
    expected = plainly_ranked(at_random())
    assert tuple(map(list, (found.mean_then_rank, found.rank_then_mean, found.test_based))) == expected
    # Nothing tells these methods apart by tests; the other ranks are those that challengeR 1.0.5 gives.
    assert found.test_based == (1, 1, 1, 1, 1)
    assert found.mean_then_rank == (1, 2, 5, 3, 4)
    assert found.rank_then_mean == (1, 3, 5, 2, 4)


def test_seven_cases_of_three_methods_are_too_few_for_the_approximation_that_challenger_takes():
    # The first is above both others in all seven cases: exactly p = 1 / 128, of the normal approximation 0.0113; by
    # Holm times 6, 0.047 and 0.067. In eight cases that is 0.0071 and 0.043.
    scores = np.array([[0.9 + 0.001 * case**2, 0.5, 0.5 + 0.0001 * (-1) ** case] for case in range(8)])
    assert rank_methods(scores[:7]).test_based == (1, 1, 1)
    assert rank_methods(scores).test_based == (1, 2, 2)


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    values = np.random.default_rng(0).beta(0.3, 1, 40)
    assert _holm(values) == pytest.approx(multipletests(values, method="holm")[1])


def places(rows):
    """Return what is said of method and metric; a row is a method, patient, status, DSC and HD95."""
    frame = pd.DataFrame(rows, columns=["method", "case", "status", "dsc", "hd95_mm"]).assign(structure="organ")
    found = leaderboard(frame, metrics=("dsc", "hd95"))
    return {(one.method, one.metric): one for one in found.places}, found.standings


def test_one_missing_prediction_of_several_of_a_patient_counts_as_that_one():
    nan = np.nan
    scored = [("better", "a", "scored", 0.9, 2.0), ("better", "a", "scored", 0.96, 1.0)]
    empty = [("better", "b", "both_empty", nan, nan), ("better", "b", "prediction_empty", 0.0, np.inf)]
    other = [("worse", case, "scored", 0.5, 8.0) for case in "aabbcc"]
    lacking = [("better", case, "missing", nan, nan) for case in "acc"]
    found, standings = places([*scored, *lacking, *empty, *other])
    # (0.9 + 0.96 + 0) / 3, two empty masks and an empty one, and nothing at all.
    assert found["better", "dsc"].ranked_mean == pytest.approx((0.62 + 0.5 + 0.0) / 3)
    # (2 + 1 + 8) / 3 with the worst of anybody, (0 + 8) / 2, and the worst mean of a patient.
    assert found["better", "hd95"].ranked_mean == pytest.approx((11 / 3 + 4 + 8) / 3)
    assert [found["better", metric].num_missing for metric in ("dsc", "hd95")] == [2, 3]
    assert [found["worse", metric].num_missing for metric in ("dsc", "hd95")] == [0, 0]
    # By DSC each is first in a case, equal in b; by HD95 the other is first in c alone, where nothing is.
    ranks = {one.method: (one.num_missing, one.mean_rank_by_case) for one in standings}
    assert ranks == {"better": (2, 1.0), "worse": (0, 1.5)}


def test_a_method_with_few_predictions_missing_in_one_fold_each_stays_first():
    rows = []
    for fold in range(5):
        for case in range(10):
            is_there = (fold, case) not in {(0, 0), (1, 3), (2, 7)}
            rows.append(("good", case, "scored", 0.95, 1.0) if is_there else ("good", case, "missing", np.nan, np.nan))
            rows.append(("bad", case, "scored", 0.7, 3.0))
    found, standings = places(rows)
    assert found["good", "dsc"].ranked_mean == pytest.approx(0.95 * 47 / 50)
    assert [(one.method, one.mean_rank_by_case, one.num_missing) for one in standings] == [
        ("good", 1, 3),
        ("bad", 2, 0),
    ]

"""Intervals cover, patients count once, tests are scipy's, families are corrected, ranks follow the three rules."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from bench.coverage import SCORES
from orchestrator.statistics.comparison import compare_paired, corrected_by_holm
from orchestrator.statistics.intervals import difference_of_means, mean_with_interval
from orchestrator.statistics.ranking import ScoresToRank, rank_intervals, rank_methods


def test_the_interval_of_skewed_scores_near_1_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for number in range(400):
        found = mean_with_interval(random.beta(20, 1, 20), range(20), seed=number, limits=(0.0, 1.0))
        covered += found.low <= 20 / 21 <= found.high
    # Of 400 intervals that cover in 95 of 100, so many do in all but one of a thousand series.
    assert 365 <= covered <= 394


def test_several_cases_of_a_patient_are_no_more_patients():
    values = np.random.default_rng(0).beta(8, 2, 12)
    alone = mean_with_interval(values, range(12))
    doubled = mean_with_interval(np.repeat(values, 2), np.repeat(range(12), 2))
    assert (doubled.low, doubled.high) == pytest.approx((alone.low, alone.high))
    assert (doubled.num_cases, doubled.num_clusters) == (24, 12)


def test_of_few_patients_there_is_a_mean_and_no_interval():
    found = mean_with_interval([0.5, 0.7, 0.9], ["a", "b", "b"])
    assert found.mean == pytest.approx(0.7)
    assert not found.has_interval
    assert math.isnan(mean_with_interval([], []).mean)


@pytest.mark.parametrize("value", [0.25, 0.9])
def test_patients_who_are_all_equal_tell_of_no_interval(value):
    # Eleven times 0.9 is not 9.9 to the last digit: what rounding leaves is no spread.
    found = mean_with_interval([value] * 11, range(11), limits=(0.0, 1.0))
    assert (found.mean, found.has_interval) == (pytest.approx(value), False)
    assert not difference_of_means(([0.7] * 8, range(8)), ([value] * 11, range(11))).has_interval


def test_limits_cut_an_interval():
    assert mean_with_interval([1.0] * 9 + [0.2], range(10), limits=(0.0, 1.0)).high == 1.0


_FEW_UNLIKE_THE_REST = (([1.0] * 11, 0.0), ([0.0] * 19, 0.5), ([0.05] * 18, -0.85), ([0.0] * 99, 1.0))


@pytest.mark.parametrize("scale", [1.0, 0.9, 1 / 3])
@pytest.mark.parametrize(("equal", "other"), _FEW_UNLIKE_THE_REST)
def test_an_interval_of_equal_scores_but_one_is_on_both_sides_of_the_mean(equal, other, scale):
    values = np.array([*equal, other])
    found = mean_with_interval(scale * values, range(len(values)))
    error = float(np.std(scale * values, ddof=1) / math.sqrt(len(values)))
    # A third of the resamples holds nothing but equal scores: their side ends where the farthest may, five errors away.
    far = 5 * math.copysign(error, equal[0] - other)
    low, high = sorted((found.mean - far, found.mean + far))
    assert (found.low == pytest.approx(low)) if far > 0 else (found.high == pytest.approx(high))
    assert found.low < found.mean - error < found.mean + error < found.high
    # And no rounding decides: scores of another scale have the same interval in it.
    alone = mean_with_interval(values, range(len(values)))
    assert (found.low, found.high) == pytest.approx((scale * alone.low, scale * alone.high))


def test_one_failure_among_twenty_good_scores_has_an_end_to_its_interval():
    scores = [*np.random.default_rng(0).beta(40, 2, 19), 0.0]
    found = mean_with_interval(scores, range(20), limits=(0.0, 1.0))
    # Without the failure resamples vary by a tenth of the standard error, 0.048, and are eight of their own away.
    assert 0.65 < found.low < 0.71
    other = difference_of_means(([0.5, 0.6] * 6, range(12)), (scores, range(20)))
    assert other.low > other.mean - 5.01 * math.hypot(0.048, 0.0151)


def test_each_kind_of_drawn_scores_has_the_mean_that_intervals_are_held_against():
    for scores in SCORES:
        values, patients = scores.drawn(np.random.default_rng(1), 20_000)
        means = np.bincount(patients, values) / np.bincount(patients)
        assert len(means) == 20_000
        assert values.mean() == pytest.approx(scores.mean, abs=5 * means.std() / math.sqrt(20_000))


def test_equal_values_always_have_the_same_interval():
    values = np.random.default_rng(1).random(30)
    assert mean_with_interval(values, range(30)) == mean_with_interval(values, range(30))


def test_a_comparison_is_wilcoxons_test_over_patients():
    differences = [0.03, -0.01, 0.02, 0.05, 0.04, -0.02, 0.01, 0.06]
    found = compare_paired(differences, list("abcdefgh"))
    assert found.p == pytest.approx(wilcoxon(differences, zero_method="pratt").pvalue)
    assert (found.num_better, found.num_equal, found.num_worse) == (6, 0, 2)
    # Ranks of sizes: 0.01 twice (1.5), 0.02 twice (3.5), 5, 6, 7, 8; those below 0 are 1.5 and 3.5 of 36.
    assert found.effect == pytest.approx((31 - 5) / 36)
    two_scans = compare_paired([*differences, 0.03], [*"abcdefgh", "a"])
    assert two_scans.p == found.p
    assert two_scans.difference.num_cases == 9


def test_methods_that_are_equal_everywhere_have_no_test():
    found = compare_paired([0.0] * 8, range(8))
    assert math.isnan(found.p)
    assert math.isnan(found.effect)
    assert found.num_equal == 8
    assert math.isnan(compare_paired([], []).difference.mean)


def test_a_family_is_corrected_by_holm():
    differences = [[0.01 * (i + 1) for i in range(n)] for n in (6, 7, 8)]
    found = [compare_paired(one, range(len(one))) for one in differences]
    found.append(compare_paired([0.1], ["a"]))
    corrected = corrected_by_holm(found)
    p = [one.p for one in found[:3]]
    assert p == pytest.approx([2 / 64, 2 / 128, 2 / 256])
    # Smallest times 3, then times 2, then times 1; none below the one before it.
    assert [one.p_corrected for one in corrected[:3]] == pytest.approx([2 / 64, 4 / 128, 6 / 256])
    assert math.isnan(corrected[3].p_corrected)


def test_ranks_follow_the_mean_the_ranks_and_the_tests():
    random = np.random.default_rng(0)
    base = random.uniform(0.5, 0.6, 30)
    scores = np.stack([base, base + 0.2, base + 0.1], axis=1)
    found = rank_methods(scores)
    assert found.mean_then_rank == found.rank_then_mean == found.test_based == (3, 1, 2)
    assert found.share_first == (0.0, 1.0, 0.0)
    assert rank_methods(scores, larger_is_better=False).mean_then_rank == (1, 3, 2)


def test_one_bad_case_moves_the_mean_and_hardly_the_ranks():
    scores = np.array([[0.9, 0.8]] * 9 + [[0.0, 0.95]])
    found = rank_methods(scores)
    assert found.mean_then_rank == (2, 1)
    assert found.rank_then_mean == (1, 2)


def test_a_missing_prediction_is_worse_than_any_score():
    scores = np.array([[0.5, np.nan], [0.5, 0.6], [0.5, 0.6]])
    found = rank_methods(scores)
    assert found.rank_then_mean == (2, 1)
    # 0.5 and 1.2 / 3.
    assert found.mean_then_rank == (1, 2)
    assert rank_methods(np.array([[np.nan, np.nan]])).mean_then_rank == (1, 1)


def test_leaving_out_cases_does_not_win():
    # The first has 7 of 10 cases at 0.974, a mean of 0.6818 with zeros; the second all at 0.947.
    scores = np.array([[np.nan, 0.947]] * 3 + [[0.974, 0.947]] * 7)
    found = rank_methods(scores)
    assert found.mean_then_rank == (2, 1)
    # The first is first in resamples with none of its missing cases: 0.974 b > 0.947 for b = 10 of 10 only, 0.7^10.
    assert found.share_first == pytest.approx((0.7**10, 1 - 0.7**10), abs=0.02)
    assert rank_intervals([ScoresToRank(values=scores)]) == ((2, 2), (1, 1))


def test_a_missing_distance_is_the_worst_of_anybody_in_a_mean():
    distances = np.array([[1.0, 3.0], [np.nan, 3.0], [4.0, 5.0]])
    # (1 + 5 + 4) / 3 and 11 / 3; it is the lower that is better.
    assert ScoresToRank(values=distances, larger_is_better=False).filled.tolist() == [[-1, -3], [-5, -3], [-4, -5]]
    assert rank_methods(distances, larger_is_better=False).mean_then_rank == (1, 2)

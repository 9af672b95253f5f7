"""Looks at a study that goes on: what chance does over all of them is bounded, counted over every sign there is."""

from itertools import product

import numpy as np
import pytest

from bench.until_decided import Design, counted
from orchestrator.statistics.sequential import (
    Family,
    Flips,
    InterimDifferences,
    look_by_look,
    num_flips_for,
    signed_ranks,
)


class EverySign:
    """In place of random flips: every sign that some patients can have, once."""

    def __init__(self, num_patients):
        self.signs = np.array(list(product([1, -1], repeat=num_patients)), np.float32)
        self.number = len(self.signs) - 1

    def of(self, patients):
        assert len(patients) == self.signs.shape[1]
        return self.signs


def interim(*looks, shares=None):
    """Return differences whose looks hold the differences of the first patients."""
    shares = shares or tuple((number + 1) / len(looks) for number in range(len(looks)))
    return InterimDifferences(
        shares=shares, differences=tuple({f"p{i:02d}": d for i, d in enumerate(look)} for look in looks)
    )


def judged(*interims, num_tests=None, flips=None):
    flips = flips or EverySign(max(len(one.differences[-1]) for one in interims))
    family = Family(interims=interims, num_tests=num_tests or len(interims), flips=flips)
    *_, last = look_by_look(family, num_looks=max(len(one.shares) for one in interims))
    return last


def test_ranks_have_the_sign_of_their_difference_and_zeros_have_none():
    # Sizes 0, 0.1, 0.2, 0.2: ranks 1, 2, 3.5, 3.5, and the zero keeps its place.
    assert signed_ranks([0.2, -0.1, 0.0, -0.2]).tolist() == [7.0, -4.0, 0.0, -7.0]


def test_eight_patients_who_all_agree_are_two_of_256_signs_and_five_can_show_nothing():
    (found,) = judged(interim([0.01 * (i + 1) for i in range(8)]))
    assert (found.crossing.direction, found.crossing.num_as_extreme, found.crossing.num_flips) == (1, 2, 256)
    assert found.crossing.num_allowed == 12  # 5 % of 256, rounded down
    (other,) = judged(interim([-0.01 * (i + 1) for i in range(8)]))
    assert other.crossing.direction == -1
    (few,) = judged(interim([0.01 * (i + 1) for i in range(5)]))
    assert few.crossing is None  # 2 of 32 are more than 5 %
    assert few.is_closed


def test_over_all_looks_no_more_signs_show_something_than_the_error_allows():
    """Ten patients with given sizes of differences, six of them known at the first look: all 1,024 signs in turn."""
    sizes = 0.01 * np.random.default_rng(0).permutation(np.arange(1, 11))
    shown = 0
    for signs in product([1, -1], repeat=10):
        values = (sizes * signs).tolist()
        found = judged(interim(values[:6], values[:8], values, shares=(0.7, 0.85, 1.0)), flips=EverySign(10))
        shown += found[0].crossing is not None
    assert 0.02 * 1024 < shown <= 0.05 * 1024


def test_a_larger_error_crosses_no_later():
    random = np.random.default_rng(1)
    for _ in range(30):
        values = random.normal(0.02, 0.03, 24).tolist()
        one = interim(values[:12], values[:18], values, shares=(0.5, 0.75, 1.0))
        looks = []
        for num_tests in (8, 4, 2, 1):
            family = Family(interims=[one], num_tests=num_tests, flips=Flips(4000))
            (found,) = family.judged([3])
            looks.append(found.crossing.look if found.crossing else 9)
        assert looks == sorted(looks, reverse=True)


def test_what_is_shown_leaves_its_error_to_the_others():
    clear, weak = interim([0.01 * (i + 1) for i in range(8)]), interim([0.01 * (i + 1) for i in range(6)])
    alone, both = judged(weak, num_tests=2, flips=EverySign(6)), judged(clear, weak, flips=EverySign(8))
    # 2 of 64 signs: more than 2.5 %, less than 5 %.
    assert alone[0].crossing is None
    assert [one.crossing is not None for one in both] == [True, True]
    assert [one.level for one in both] == [0.025, 0.05]


def test_a_difference_whose_interval_holds_0_is_not_shown():
    """All but one patient are a little better, and that one is far worse: ranks say better, the mean does not."""
    values = [0.001 * (i + 1) for i in range(15)] + [-0.9]
    (found,) = judged(interim(values), flips=Flips(10_000))
    assert found.crossing is None


def test_a_test_without_hope_is_closed_and_one_with_some_is_not():
    random = np.random.default_rng(2)
    noise = random.normal(0, 0.03, 40)
    noise -= noise.mean()
    family = Family(interims=[interim(noise[:30], noise, shares=(0.75, 1.0))], num_tests=1, flips=Flips(1000))
    (first,), _ = look_by_look(family, num_looks=2)
    assert first.is_closed == (first.chance < 0.2)
    promising = (noise + 0.008).tolist()
    family = Family(interims=[interim(promising[:16], promising, shares=(0.4, 1.0))], num_tests=1, flips=Flips(1000))
    (first,), _ = look_by_look(family, num_looks=2)
    assert not first.is_closed or first.crossing


def test_a_closed_test_takes_no_part_in_later_looks():
    zero = [0.0] * 12
    late = [0.0] * 12 + [0.05 + 0.01 * i for i in range(30)]
    family = Family(interims=[interim(zero, late, shares=(0.6, 1.0))], num_tests=1, flips=Flips(2000))
    (first,), (second,) = look_by_look(family, num_looks=2)
    assert (first.is_closed, second.num_looks, second.crossing) == (True, 1, None)


def test_the_signs_of_a_patient_depend_on_nobody_else_and_on_no_look():
    flips = Flips(200)
    together, alone = flips.of(("a", "b", "c")).copy(), flips.of(("b",))
    assert (together[:, 1] == alone[:, 0]).all()
    assert (together[0] == 1).all()
    assert not (together[:, 0] == together[:, 1]).all()


def test_flips_are_enough_for_each_step_and_can_be_held():
    assert num_flips_for(2, num_patients=100, least_step=0.2) == 10_000
    assert num_flips_for(60, num_patients=100, least_step=0.2) == 150_000
    assert num_flips_for(60, num_patients=1000, least_step=0.2) == 50_000


@pytest.mark.parametrize("is_cross_validation", [True, False])
def test_equal_methods_are_hardly_ever_called_different(is_cross_validation):
    design = Design(tests=4, folds=4, patients=40, is_cross_validation=is_cross_validation)
    found = counted(design, 0, 200)
    # 5 % of 200, and three standard deviations.
    assert found.any_by_looks <= 19
    assert found.pairs < 200 * 4


def test_a_better_method_is_shown_with_fewer_trainings():
    found = counted(Design(tests=4, folds=5, patients=100, is_cross_validation=True, effect=0.5), 0, 20)
    assert found.by_looks > 70
    assert found.pairs < 20 * 4

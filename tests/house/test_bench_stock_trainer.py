"""Claims about what the comparison of Dice with nnU-Net's trainer says."""

import pytest

from bench.stock_trainer.dice import difference_text

STOCK = [0.5, 0.6, 0.7, 0.8, 0.9]


def test_the_interval_is_that_of_students_t_over_the_differences_of_pairs():
    # Differences 0.01 to 0.05: mean 0.03, standard error 0.015811 / sqrt(5) = 0.0070711. Tables have t = 2.7764 for 4
    # degrees of freedom: 0.03 -+ 0.0196. The statistic is 4.243, whose p is 0.0132.
    ours = [one + 0.01 * number for number, one in enumerate(STOCK, 1)]
    assert difference_text(STOCK, ours) == (
        "ours - nnU-Net's +0.0300, 95 % interval +0.0104 to +0.0496 (paired t), p = 0.01"
    )


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_the_sign_says_whose_is_higher(shift):
    ours = [one + shift + 0.001 * number for number, one in enumerate(STOCK, -2)]
    assert difference_text(STOCK, ours).startswith(f"ours - nnU-Net's {shift:+.4f}, ")


def test_of_one_pair_no_interval_is_said():
    assert difference_text([0.5], [0.6]) == "ours - nnU-Net's +0.1000; one pair says nothing of chance"

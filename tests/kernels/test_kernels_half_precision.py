"""Claims about halves in compiled functions: they are numpy's, with and without the processor's own conversion."""

import numba
import numpy as np
import pytest

from kernels.llvm.half_precision import (
    double_to_half,
    float_to_half,
    half_order,
    half_to_float,
    narrowed_by_integers,
    widened_by_integers,
)

ALL = np.arange(2**16, dtype=np.uint16)
HALVES = ALL.view(np.float16)
IS_NUMBER = ~np.isnan(HALVES)


def in_the_middle(dtype):
    """Between each half and the next one."""
    numbers = np.sort(HALVES[np.isfinite(HALVES)].astype(dtype))
    return (numbers[:-1] + numbers[1:]) / 2


def mapped(function, dtype):
    @numba.njit
    def run(values, results):
        for k in range(values.size):
            results[k] = function(values[k])

    def over(values):
        results = np.zeros(values.size, dtype)
        run(values, results)
        return results

    return over


@pytest.mark.parametrize("function", [half_to_float, widened_by_integers])
def test_every_half_becomes_its_float(function):
    found = mapped(function, np.float32)(ALL)
    np.testing.assert_array_equal(
        found[IS_NUMBER].view(np.uint32), HALVES[IS_NUMBER].astype(np.float32).view(np.uint32)
    )
    assert np.isnan(found[~IS_NUMBER]).all()


@pytest.mark.parametrize("function", [float_to_half, narrowed_by_integers])
def test_floats_are_rounded_to_the_nearest_half_and_ties_to_the_even_one(function):
    random = np.random.default_rng(0)
    finite, between = HALVES[np.isfinite(HALVES)].astype(np.float32), in_the_middle(np.float32)
    any_bits = random.integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
    values = np.concatenate([finite, between, np.nextafter(between, np.float32(0)), any_bits[~np.isnan(any_bits)]])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(mapped(function, np.uint16)(values), expected.view(np.uint16))
    assert np.isnan(mapped(function, np.uint16)(np.array([np.nan, -np.nan], np.float32)).view(np.float16)).all()


def test_doubles_are_rounded_once():
    """By way of a float32, a value just beside the middle between two halves would be rounded to the middle first."""
    middle = in_the_middle(np.float64)
    tiny = np.array([0.0, -0.0, 5e-324, -5e-324, 1e-300, 1e300, -1e300, 2.0**-25, 2.0**-25 * (1 + 2.0**-40)])
    values = np.concatenate([middle, middle * (1 + 2.0**-45), middle * (1 - 2.0**-45), tiny])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(mapped(double_to_half, np.uint16)(values), expected.view(np.uint16))


def test_the_order_of_halves_is_that_of_numbers_with_one_zero_and_no_numbers_last():
    order = mapped(half_order, np.int16)(ALL).astype(int)
    numbers = HALVES[IS_NUMBER].astype(np.float64)
    by_value = np.argsort(numbers, kind="stable")
    steps = np.diff(order[IS_NUMBER][by_value])
    np.testing.assert_array_equal(steps > 0, np.diff(numbers[by_value]) > 0)
    assert (steps >= 0).all()
    assert set(order[~IS_NUMBER]) == {0x7FFF}

"""Error-free arithmetic, checked in exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from numba import njit

from fastvi.kernels import compiler
from fastvi.kernels.numerics import error_free

compiled_fma = njit(lambda x, y, z: error_free.fma(x, y, z))

pytestmark = pytest.mark.usefixtures("quiet")


def numbers(seed, count, low=-300, high=300):
    rng = np.random.default_rng(seed)
    values = rng.uniform(1.0, 2.0, count) * 2.0 ** rng.integers(low, high, count) * rng.choice([-1, 1], count)
    return [float(x) for x in values]


@compiler.adder
def product_in_an_adder(x, y):
    return error_free.two_product(x, y)


def test_two_product_is_exact():
    """By a fused operation where the CPU has one, by Dekker's steps, and where sums may be reordered."""
    for x, y in zip(numbers(10, 500), numbers(11, 500), strict=True):
        for product in (error_free.two_product, product_in_an_adder):
            high, low = product(x, y)
            assert high == x * y
            assert Fraction(high) + Fraction(low) == Fraction(x) * Fraction(y)


def test_fma_rounds_once():
    for x, y, z in zip(
        numbers(14, 300, -200, 200), numbers(15, 300, -200, 200), numbers(16, 300), strict=True
    ):
        for near in (z, -x * y, -x * y * (1.0 + 2.0**-52)):
            wanted = float(Fraction(x) * Fraction(y) + Fraction(near))
            for fma in (error_free.fma, compiled_fma):
                assert fma(x, y, near) == wanted
    assert error_free.fma(1e200, 1e200, -1.0) == compiled_fma(1e200, 1e200, -1.0) == math.inf
    assert math.isnan(error_free.fma(math.inf, 0.0, 1.0))


def test_cross_difference_is_zero_for_equal_products():
    for x, u in zip(numbers(17, 300, -100, 100), numbers(18, 300, -100, 100), strict=True):
        assert error_free.cross_difference(4.0 * x, u, x, 4.0 * u) == 0.0
        assert error_free.cross_difference(x, u, x, u) == 0.0


def test_cross_difference_where_the_products_nearly_agree():
    rng = np.random.default_rng(12)
    zeros = 0
    for x, u, scale in rng.uniform(0.5, 1.0, size=(500, 3)).tolist():
        y, v = x * scale, u / scale
        wanted = Fraction(x) * Fraction(u) - Fraction(y) * Fraction(v)
        got = Fraction(error_free.cross_difference(x, u, y, v))
        assert abs(got - wanted) <= Fraction(1, 2**52) * abs(wanted)
        zeros += wanted == 0
    assert zeros < 100


def test_cross_difference_far_apart():
    for x, u, y, v in zip(*(numbers(13 + i, 200, -100, 100) for i in range(4)), strict=True):
        wanted = Fraction(x) * Fraction(u) - Fraction(y) * Fraction(v)
        got = Fraction(error_free.cross_difference(x, u, y, v))
        assert abs(got - wanted) <= Fraction(1, 2**51) * abs(wanted)


def test_add_compensated_loses_nothing():
    for seed in range(20):
        values = numbers(20 + seed, 40, -30, 30)
        total, lost = 0.0, 0.0
        for x in values:
            before = Fraction(total)
            step, extra = error_free.add_compensated(total, 0.0, x)
            assert Fraction(step) + Fraction(extra) == before + Fraction(x)
            total, lost = error_free.add_compensated(total, lost, x)
        assert abs(total + lost - math.fsum(values)) <= 1e-15 * abs(math.fsum(values))


def test_add_compensated_beats_a_plain_sum():
    total, lost = 1.0, 0.0
    for _ in range(1000):
        total, lost = error_free.add_compensated(total, lost, 1e-17)
    assert total + lost == pytest.approx(1.0 + 1e-14, rel=1e-16, abs=0.0)
    assert total + lost > 1.0


def test_add_compensated_at_infinity():
    assert error_free.add_compensated(1.0, 0.5, math.inf) == (math.inf, 0.0)
    assert math.isnan(error_free.add_compensated(1.0, 0.0, math.nan)[0])
    total, lost = error_free.add_compensated(math.inf, 0.0, 3.0)
    assert total + lost == math.inf


def test_difference_is_not_reordered():
    """In a loop that may reorder its sums (x + e) - x must not become e."""
    assert error_free.difference(1.0 + 1e-17, 1.0) == 0.0
    assert error_free.difference(0.3, 0.1) == 0.3 - 0.1

"""Elementary functions, over their whole range, against mpmath."""

import itertools
import math
import sys
from fractions import Fraction

import numba
import numpy as np
import pytest
from mpmath import mp, mpf
from numba import njit

from fastvi.kernels.numerics import elementary
from helpers.forms import JIT, plain

pytestmark = pytest.mark.usefixtures("quiet")


ULP = 2.0**-52


# The range of arguments in the kernels: entries times 2**54, from the smallest subnormal to the largest mass.
SMALLEST, LARGEST = 2.0**-1020, 2.0**1014


def positive_numbers():
    rng = np.random.default_rng(40)
    spread = 2.0 ** rng.uniform(-1020, 1014, 600)
    around_one = 1.0 + rng.uniform(-0.4, 0.6, 300) * 10.0 ** rng.uniform(-15, 0, 300)
    edges = [SMALLEST, LARGEST, 1.0, 1 + ULP, 1 - ULP / 2, 2.0, 0.5, 1.5, 4 / 3, 2 / 3, math.sqrt(2)]
    return [float(x) for x in itertools.chain(spread, around_one, edges)]


def test_log():
    for x in positive_numbers():
        with mp.workdps(50):
            expected = mp.log(mpf(x))
            assert abs(elementary.log(x) - expected) <= 2 * ULP * abs(expected), x


@pytest.mark.parametrize("scale", [1.0, 1e300, 1e-300])
def test_log_ratio_near_equality(scale):
    rng = np.random.default_rng(41)
    for exponent in np.linspace(-16, -0.1, 300):
        q = scale * float(rng.uniform(1.0, 7.0))
        p = q * (1.0 + float(rng.choice([-1, 1])) * 10.0 ** float(exponent))
        with mp.workdps(50):
            expected = mp.log(mpf(p) / mpf(q))
            assert abs(elementary.log_ratio(p, q, p - q) - expected) <= 3 * ULP * abs(expected)


def test_log_quotient_has_two_floats():
    rng = np.random.default_rng(43)
    for exponent in np.linspace(-16, 30, 300):
        q = float(rng.uniform(1.0, 7.0))
        p = q * (1.0 + 10.0 ** float(exponent))
        p_low, q_low = p * 1e-17 * float(rng.normal()), q * 1e-17 * float(rng.normal())
        high, low = elementary.log_quotient(p, p_low, q, q_low)
        with mp.workdps(50):
            expected = mp.log((mpf(p) + mpf(p_low)) / (mpf(q) + mpf(q_low)))
            assert abs(mpf(high) + mpf(low) - expected) <= min(1.5e-19, 2e-16 * abs(expected)), (p, q)


def test_log_ratio_far_apart():
    values = positive_numbers()
    for p, q in zip(values, values[::-1], strict=True):
        with mp.workdps(50):
            expected = mp.log(mpf(p) / mpf(q))
            assert abs(elementary.log_ratio(p, q, p - q) - expected) <= 3 * ULP * abs(expected), (p, q)


def test_exp():
    rng = np.random.default_rng(42)
    for x in itertools.chain(
        rng.uniform(-708, 709, 600), rng.normal(0, 1e-3, 100), [0.0, 1.0, 709.0, -708.0]
    ):
        with mp.workdps(50):
            expected = mp.exp(mpf(float(x)))
            assert abs(elementary.exp(float(x)) - expected) <= 2 * ULP * expected, x


def test_exp_of_small_and_special_arguments():
    for x in np.random.default_rng(43).uniform(-745, -708, 200):
        with mp.workdps(50):
            off = abs(elementary.exp(float(x)) - mp.exp(mpf(float(x))))
            assert off <= mpf(5e-324) + 2 * ULP * mp.exp(mpf(float(x)))
    for x in (-746.0, -760.0, -1e4, -1e300, -math.inf):
        assert elementary.exp(x) == 0.0
    assert elementary.exp(0.0) == 1.0
    assert math.isnan(elementary.exp(math.nan))
    for x in (709.7, 709.78):
        with mp.workdps(50):
            assert abs(elementary.exp(x) / mp.exp(mpf(x)) - 1) <= 2 * ULP
    for x in (709.79, 710.0, 711.0, 800.0, 1e300, math.inf):
        assert elementary.exp(x) == math.inf


def test_logarithm_of_anything():
    subnormal = [5e-324, 1e-310, 2.0**-1022, 2.0**-1000, 2.0**-999]
    for x in itertools.chain(positive_numbers(), subnormal):
        with mp.workdps(50):
            expected = mp.log(mpf(x))
            assert abs(elementary.logarithm(x) - expected) <= 2 * ULP * abs(expected), x
    assert elementary.logarithm(0.0) == elementary.logarithm(-0.0) == -math.inf
    assert elementary.logarithm(math.inf) == math.inf
    for x in (-5e-324, -1.0, -math.inf, math.nan):
        assert math.isnan(elementary.logarithm(x))


def test_expm1_small():
    rng = np.random.default_rng(44)
    for x in itertools.chain(
        rng.uniform(-0.35, 0.35, 300), 10.0 ** rng.uniform(-300, -1, 100), [-0.35, 0.35]
    ):
        with mp.workdps(350):
            expected = mp.expm1(mpf(float(x)))
            assert abs(elementary.expm1_small(float(x)) - expected) <= 2 * ULP * abs(expected)
    assert elementary.expm1_small(0.0) == 0.0


def test_times_expm1():
    rng = np.random.default_rng(6)
    for p in (1.0, 1e-300, 3e200):
        for x in [*rng.uniform(-800.0, 1400.0, 300), 1e-12, -1e-12, 709.0, 1400.0, 0.0]:
            with mp.workdps(50):
                expected = mpf(p) * mp.expm1(mpf(float(x)))
            value = elementary.times_expm1(p, float(x))
            if abs(expected) < mpf(8e307):  # in between, one of the two parts may overflow
                assert abs(value - expected) <= 4 * ULP * abs(expected) + mpf(5e-324), (p, x)
            elif expected > sys.float_info.max:
                assert value == np.inf, (p, x)


def test_expm1_parts():
    for x in (1e-12, -0.3, 0.346, -0.346, 0.347, -0.347, 5.0):
        small, tail, grown = elementary.expm1_parts(3.0, *elementary._exp_reduced(x))
        assert small == (abs(x) <= math.log(2.0) / 2.0)
        assert grown == elementary.times_expm1(3.0, x)
        with mp.workdps(50):
            expected = (mp.expm1(mpf(x)) - mpf(x)) / mpf(x) ** 2
        assert not small or abs(tail - expected) <= 2 * ULP * expected


def test_powers_have_exponents_that_are_not_rounded():
    rng = np.random.default_rng(7)
    for _ in range(300):
        k, low = float(rng.integers(-1000, 1000)), float(rng.uniform(-0.4, 0.4))
        beta = float(rng.random())
        with mp.workdps(50):
            expected = 3 * mp.expm1(mpf(beta) * (mpf(k) * mp.log(2) + mpf(low)))
        value = elementary.expm1_parts(3.0, *elementary.power_reduced(beta, k * 2.0**52, low))[2]
        assert abs(value - expected) <= 4 * ULP * abs(expected)
    for beta in (10.0, 1e6, 1.7e308):  # far below, and where products overflow
        for low in (-0.3, 0.0, 0.3):
            n, r = elementary.power_reduced(beta, -1000.0 * 2.0**52, low)
            assert (n, r) == (-1097.0, -0.5)
            assert elementary.expm1_parts(3.0, n, r)[2] == -3.0


@pytest.mark.parametrize(("real", "least", "most"), [(float, -1022, 1023), (np.float32, -126, 127)])
def test_power_of_two(real, least, most):
    @njit
    def compiled(x):
        return elementary.power_of_two(x)

    for k in (least, -1, 0, 3, most):
        assert compiled(real(k)) == 2.0**k
        value = elementary.power_of_two(real(k))
        assert type(value) is real
        assert value == 2.0**k


def test_cos_sin():
    rng = np.random.default_rng(5)
    near = [(k / 2 + d) * math.pi for k in range(-9, 10) for d in (-1e-9, 0.0, 1e-9)]
    with mp.workdps(40):
        for x in [*near, *rng.uniform(-30.0, 30.0, 300), *rng.uniform(-1e6, 1e6, 300)]:
            cos, sin = elementary.cos_sin(float(x))
            assert abs(cos - mp.cos(mpf(float(x)))) <= 2 * ULP
            assert abs(sin - mp.sin(mpf(float(x)))) <= 2 * ULP
    assert elementary.cos_sin(0.0) == (1.0, 0.0)


def test_atanh_tail():
    for s in np.linspace(1e-4, 0.2, 200):
        with mp.workdps(50):
            # The exact value of the float, so that only the polynomial is tested.
            w = mpf(float(s * s))
            root = mp.sqrt(w)
            expected = (mp.atanh(root) - root) / root**3
            assert abs(elementary.atanh_tail(float(s * s)) / expected - 1) <= 5e-15


if JIT:

    @numba.njit
    def step(p, q):
        return elementary.exponent_step(p, q)

else:
    step = elementary.exponent_step


RANGE = {np.float64: (-1022, 1024, 2.0**52), np.float32: (-126, 128, 2.0**23)}


@pytest.mark.parametrize("dtype", RANGE)
def test_exponent_step(dtype):
    low, high, unit = RANGE[dtype]
    rng = np.random.default_rng(45)
    seen = set()
    for _ in range(500):
        p, q = (dtype(rng.uniform(1, 2) * 2.0 ** int(e)) for e in rng.integers(low + 1, high - 1, 2))
        scaled, k = step(*((float(p), float(q)) if dtype is np.float64 else (p, q)))
        shift = int(float(k) / unit)
        assert shift == float(k) / unit
        assert Fraction(float(scaled)) == Fraction(float(q)) * Fraction(2) ** shift
        # The bound within which the series converge to full precision.
        assert Fraction(2, 3) <= Fraction(float(p)) / Fraction(float(scaled)) <= Fraction(3, 2)
        seen.add(shift)
    assert len(seen) > 50


@pytest.mark.parametrize("dtype", RANGE)
def test_exponent_step_never_traps(dtype):
    """Zeros, subnormals and infinities give the same meaningless pair compiled and plain; NaN gives any."""
    convert = float if dtype is np.float64 else dtype
    special = [0.0, 5e-324 if dtype is np.float64 else 1e-45, math.inf, 1.0]
    for p, q in itertools.product(map(convert, special), repeat=2):
        got, wanted = step(p, q), elementary.exponent_step(p, q)
        np.testing.assert_array_equal(np.array(got, dtype), np.array(wanted, dtype))
    assert len(step(convert(math.nan), convert(-1.0))) == 2


def test_exponent_step_leaves_neighbours_alone():
    for ratio in (1.0, 1.3, 0.75, 1 + 1e-9):
        assert step(ratio, 1.0) == (1.0, 0.0)
        assert step(1e-200 * ratio, 1e-200) == (1e-200, 0.0)


def test_decay():
    """Within two units of the last digit; below -708 it stays where it is."""

    @njit
    def many(x, out):
        for i in range(x.size):
            out[i] = elementary.decay(x[i])

    rng = np.random.default_rng(0)
    x = -np.concatenate(
        [rng.uniform(0, 708, 20_000), 10.0 ** rng.uniform(-20, 2, 20_000), [0.0, 708.0, 1e-300]]
    )
    out = np.empty_like(x)
    many(x, out)
    exact = np.array([math.exp(v) for v in x])
    assert np.max(np.abs(out / exact - 1.0)) < 1e-15
    few = x[::400]
    uncompiled = np.array([plain(elementary.decay)(v) for v in few.tolist()])
    assert np.max(np.abs(uncompiled / np.array([math.exp(v) for v in few]) - 1.0)) < 1e-15
    many(x[:4] * 0.0 - [708.0, 709.0, 1e300, math.inf], out[:4])
    np.testing.assert_allclose(out[:4], math.exp(-708.0), rtol=1e-14)


def test_exponential_over():
    """The shift is exact, so that logarithms far from 0 lose nothing."""

    @njit
    def many(x, shift, out):
        for i in range(x.size):
            out[i] = elementary.exponential_over(x[i], shift, -1010.0)[0]

    rng = np.random.default_rng(5)
    for top in (0.0, -0.3, 710.0, -745.0, 12345.6, 6.9e5, -6.9e5):
        shift = float(round(top / math.log(2.0)))
        x = top - np.concatenate([rng.uniform(0.0, 699.0, 200), 10.0 ** rng.uniform(-9, 2, 200), [0.0]])
        out = np.empty_like(x)
        many(x, shift, out)
        with mp.workdps(40):
            exact = [mp.exp(mpf(v)) / mpf(2) ** shift for v in x.tolist()]
            assert max(abs(mpf(v) / e - 1) for v, e in zip(out.tolist(), exact, strict=True)) < 7e-16
        assert plain(elementary.exponential_over)(float(x[-1]), shift, -1010.0)[0] == out[-1]
    x = np.array([-701.0, -1e9, -math.inf, -1e300, math.nan])
    many(x, 0.0, out[: x.size])
    np.testing.assert_array_equal(out[: x.size], [0.0, 0.0, 0.0, 0.0, math.nan])

"""The order of a divergence: one range, and one answer from every interface."""

import math
import sys

import mpmath as mp
import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.cfuncs import Mass, Status
from fastvi.kernels.discrete.registry import ROWS
from helpers.divergence_rows import OF_ORDER, PAIRED
from reference import discrete as reference

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")

MAX = sys.float_info.max
ORDERS = [
    *(0, -0.0, 5e-324, 1e-310, 1, 1.0, np.nextafter(1.0, 2.0), np.nextafter(1.0, 0.0), 2, 2**62),
    *(
        1e15,
        1e154,
        1e200,
        1e300,
        1e307,
        1.797e308,
        MAX,
        math.inf,
        math.nan,
        np.float32(0.7),
        np.float32(3e38),
    ),
    *(-1e-300, -1, -1e154, -1e308, -1.797e308, -MAX, -math.inf),
]
PAIRS = {
    "apart": ([0.36, 0.48, 0.16], [0.3, 0.5, 0.2]),
    "zero": ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]),
    "infinite": ([0.5, 0.25, 0.25], [0.5, 0.5, 0.0]),
    "near": ([0.5, 0.5], [0.5 + 1e-9, 0.5 - 1e-9]),
    "subnormal": ([5e-324, 1.0], [1e-310, 1.0]),
}
of_order = pytest.mark.parametrize("name", [name for name in OF_ORDER if name in PAIRED])


def in_python(name, p, q, alpha):
    try:
        return getattr(fv, name)(p, q, alpha)
    except ValueError:
        return math.nan


def in_pairwise(name, p, q, alpha):
    try:
        return float(fv.pairwise(p[None], q[None], name, alpha=alpha)[0, 0])
    except ValueError:
        return math.nan


def in_c(name, p, q, alpha):
    from fastvi import cfuncs

    out, c = np.zeros(1), np.ctypeslib.as_ctypes
    status = getattr(cfuncs, name).ctypes(c(p), c(q), p.size, float(alpha), Mass.UNIT, c(out))
    assert status == (Status.BAD_ARGUMENT if math.isnan(out[0]) else Status.FINE)
    return float(out[0])


@of_order
def test_one_answer_through_every_door(name):
    function, (low, high) = getattr(fv, name), ROWS[name].orders
    compiled = numba.njit(lambda p, q, alpha: function(p, q, alpha))
    for p, q in PAIRS.values():
        p, q = np.array(p), np.array(q)
        for alpha in ORDERS:
            value = in_python(name, p, q, alpha)
            assert math.isnan(value) != (low <= float(alpha) <= high), alpha
            for other in (compiled(p, q, alpha), in_c(name, p, q, alpha)):
                assert other == value or (math.isnan(other) and math.isnan(value)), alpha
            # Order 1 is a matrix product there.
            assert in_pairwise(name, p, q, alpha) == pytest.approx(value, rel=1e-13, abs=1e-323, nan_ok=True)


@of_order
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("log", [False, True])
def test_large_orders(name, kind, log):
    low, high = ROWS[name].orders
    with np.errstate(divide="ignore"):
        p, q = (np.log(x) if log else np.array(x) for x in PAIRS[kind])
    for size in (1e15, 1e28, 1e30, 1e154, 1e300, 1e307, MAX):
        for alpha in (size, -size):
            if low <= alpha <= high:
                value = getattr(fv, name)(p, q, alpha, log=log)
                expected = reference.exact(name, p, q, alpha=alpha, log=log)
                assert value == pytest.approx(float(expected), rel=1e-13, abs=1e-300), alpha


@of_order
def test_an_integer_beyond_the_floats_is_refused(name):
    with pytest.raises(ValueError, match="alpha is an integer beyond the floats"):
        getattr(fv, name)([0.5, 0.5], [0.25, 0.75], 10**400)


@of_order
@pytest.mark.parametrize("alpha", [True, np.True_])
def test_a_bool_is_refused(name, alpha):
    with pytest.raises(TypeError, match="alpha must be a real number"):
        getattr(fv, name)([0.5, 0.5], [0.25, 0.75], alpha)


@pytest.mark.parametrize("alpha", [0.3, 1e-3, 1e-10, 1e-16, 1e-20, 1e-300, 1e-310])
@pytest.mark.parametrize("log", [False, True])
def test_small_orders_of_an_alpha_divergence(alpha, log):
    """Where p is 0 it is q / alpha, which 1 - (1 - alpha) would not give."""
    p, q = np.array([0.0, 0.5, 0.5]), np.array([1e-3, 0.499, 0.5])
    expected = reference.exact("alpha_divergence", p, q, alpha=alpha)
    with np.errstate(divide="ignore"):
        arguments = (np.log(p), np.log(q)) if log else (p, q)
    value = fv.alpha_divergence(*arguments, alpha, log=log)
    assert value == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(("name", "alpha"), [("chi2", None), ("renyi", 2.0), ("renyi", 0.01), ("renyi", 1.5)])
def test_entries_that_underflow_may_be_most_of_a_sum(name, alpha):
    p = np.array([0.0, -12.9, -183.2, -341.6, -400.0, -500.0, -600.0, -700.0, -908.47])
    q = np.array([0.0, -3.7, -7.3, -89.5, -200.0, -300.0, -400.0, -500.0, -2890.3])
    with mp.workdps(60):
        x, y = ([mp.exp(mp.mpf(float(u))) for u in logs] for logs in (p, q))
        x, y = ([u / mp.fsum(s) for u in s] for s in (x, y))
        a = mp.mpf(2.0 if alpha is None else alpha)
        power = mp.fsum(u**a * v ** (1 - a) for u, v in zip(x, y, strict=True))
        wanted = float(power - 1 if name == "chi2" else mp.log(power) / (a - 1))
    keywords = {} if alpha is None else {"alpha": alpha}
    found = getattr(fv, name)(p, q, log=True, mass="normalize", **keywords)
    assert found == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 1e-23, 1e30])
@pytest.mark.parametrize("alpha", [-5.0, 12.2, -40.0, 85.0, 3e3])
def test_an_order_does_not_multiply_what_sums_of_equal_entries_lose(alpha, ratio, log):
    spread = min(1.0, 20.0 / abs(alpha))
    p = np.exp(spread * np.array([0.1, 0.7, -0.6, 0.2]))
    q = np.exp(spread * np.array([-0.4, 0.9, 0.3, -0.2])) * ratio
    repeats = np.array([700, 1, 900, 650])
    p, q = (np.log(p), np.log(q)) if log else (p, q)
    value = fv.alpha_divergence(
        np.repeat(p, repeats), np.repeat(q, repeats), alpha, mass="normalize", log=log
    )
    expected = reference.exact(
        "alpha_divergence", p, q, mass="normalize", log=log, repeats=repeats, alpha=alpha
    )
    assert reference.relative_error(value, expected) <= 5e-14

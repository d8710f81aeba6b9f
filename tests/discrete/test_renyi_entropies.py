"""Rényi entropies: identities, bounds, and the kinds of input where formulas lose digits."""

import itertools
import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.cfuncs import Mass, Status
from helpers.forms import JIT
from helpers.messages import says
from reference.discrete import exact, relative_error

ORDERS = [
    *(
        0,
        1e-300,
        1e-12,
        1e-3,
        0.1,
        0.5,
        0.9,
        1 - 1e-9,
        1 - 1e-12,
        1,
        1 + 1e-12,
        1 + 1e-9,
        1.01,
        1.5,
        2,
        3,
        50,
    ),
    *(1e4, 1e6, 1e200, 1e301, math.inf),
]


def kinds(rng, n):
    """Arrays of any mass."""
    dominant, tiny = np.ones(n), np.ones(n)
    dominant[1:] = 10.0 ** rng.uniform(-20, -8, n - 1)
    tiny[1:] = 10.0 ** rng.uniform(-310, -290, n - 1)
    yield "even", rng.dirichlet(np.ones(n))
    yield "spiky", rng.dirichlet(np.full(n, 0.05)) + np.eye(1, n)[0]
    yield "counts", rng.poisson(2.0, n) + np.eye(1, n)[0]
    yield "dominant", dominant
    yield "tiny", tiny
    yield "wide", np.exp(rng.normal(0.0, 50.0, n))
    yield "uniform", np.full(n, 0.1)
    yield "subnormal", rng.integers(1, 9, n) * 5e-324


@pytest.mark.parametrize("n", [1, 2, 7, 60] if JIT else [1, 2, 7])
@pytest.mark.parametrize("log", [False, True])
def test_against_the_reference(n, log):
    for kind, p in kinds(np.random.default_rng(n), n):
        if log:
            with np.errstate(divide="ignore"):
                p = np.log(p)
        for alpha in ORDERS:
            value = fv.renyi_entropy(p, alpha, mass="normalize", log=log)
            error = relative_error(value, exact("renyi_entropy", p, alpha=alpha, log=log))
            assert error <= 1e-13, (kind, alpha)


def test_special_orders():
    p = np.random.default_rng(1).dirichlet(np.ones(9), 5)
    p[:, 3] = 0.0
    keywords = {"mass": "normalize"}
    assert np.array_equal(fv.renyi_entropy(p, 0, **keywords), np.full(5, math.log(8)))
    assert np.array_equal(fv.renyi_entropy(p, 1, **keywords), fv.entropy(p, **keywords))
    top = (p / p.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(fv.renyi_entropy(p, math.inf, **keywords), -np.log(top), rtol=1e-13)
    assert fv.renyi_entropy([0.25] * 4, 0.3, base=2) == pytest.approx(2.0, rel=1e-15)
    assert fv.renyi_entropy([0.0, 1.0], 0.3) == fv.renyi_entropy([0.0, 1.0], 3) == 0.0


def test_it_is_what_the_divergence_from_uniform_leaves():
    """H_a(p) = log n - D_a(p || uniform)."""
    p = np.random.default_rng(2).dirichlet(np.ones(9))
    for alpha in (0, 0.3, 1, 2, 10, math.inf):
        rest = math.log(9) - fv.renyi(p, np.full(9, 1 / 9), alpha)
        assert fv.renyi_entropy(p, alpha) == pytest.approx(rest, rel=1e-12)


def test_it_falls_with_the_order_and_adds_up_for_products():
    rng = np.random.default_rng(3)
    for p, q in (rng.dirichlet(np.full(6, 0.3), 2) for _ in range(20)):
        values = [fv.renyi_entropy(p, alpha) for alpha in ORDERS]
        assert all(x >= y * (1 - 1e-13) for x, y in itertools.pairwise(values))
        for alpha in (0, 0.5, 1, 2, math.inf):
            both = fv.renyi_entropy(np.outer(p, q), alpha, axis=None)
            assert both == pytest.approx(fv.renyi_entropy(p, alpha) + fv.renyi_entropy(q, alpha), rel=1e-12)


@pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set")
def test_one_answer_through_every_door():
    import numba

    from fastvi import cfuncs

    compiled = numba.njit(lambda p, alpha: fv.renyi_entropy(p, alpha))
    c, out = np.ctypeslib.as_ctypes, np.zeros(1)
    p = np.array([0.5, 0.125, 0.375])
    for alpha in (*ORDERS, -1.0, math.nan):
        valid = alpha >= 0.0
        status = cfuncs.renyi_entropy.ctypes(c(p), 3, alpha, Mass.UNIT, c(out))
        assert status == (Status.FINE if valid else Status.BAD_ARGUMENT)
        if valid:
            assert out[0] == compiled(p, float(alpha)) == fv.renyi_entropy(p, alpha)
        else:
            assert math.isnan(out[0])
            assert math.isnan(compiled(p, alpha))


def test_errors():
    with says(ValueError, "alpha must be >= 0", "-0.5"):
        fv.renyi_entropy([0.5, 0.5], -0.5)
    with says(ValueError, "alpha is an integer beyond the floats"):
        fv.renyi_entropy([0.5, 0.5], 10**400)
    with says(TypeError, "alpha must be a real number", "True"):
        fv.renyi_entropy([0.5, 0.5], True)
    with says(ValueError, "renyi_entropy", "not 'any'"):
        fv.renyi_entropy([0.5, 0.5], 2, mass="any")

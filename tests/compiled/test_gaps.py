"""Gaps of zero density, and log joints that outgrow q: all doors say the same of a fit and of an ELBO."""

import math
from functools import cache

import numba
import numpy as np
import pytest
from numba import njit, prange

import fastvi as fv
from fastvi import cfuncs
from fastvi.cfuncs import FitResult, Support
from fastvi.kernels.statuses import CONVERGED, FINE, UNCONFIRMED, UNRESOLVED, ZERO

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


@njit
def beside_slab(z, angle, low, width, tilt):
    """A log-concave density on the real line or in the plane; zero in a slab."""
    along = z[0] if z.size == 1 else math.cos(angle) * z[0] + math.sin(angle) * z[1]
    if low < along < low + width:
        return -math.inf
    return -0.5 * (z * z).sum() - tilt * math.log(math.cosh(z[0] - 1.0))


@njit
def beside_slab_of_logarithms(z, angle, low, width, tilt):
    """The same, where z is positive."""
    along = math.log(z[0])
    if z.size > 1:
        along = math.cos(angle) * along + math.sin(angle) * math.log(z[1])
    return -math.inf if low < along < low + width else (1.0 + tilt) * np.log(z).sum() - z.sum()


@njit
def beside_disc(z, x, y, radius, tilt):
    """A Gaussian; zero in a disc."""
    return -math.inf if math.hypot(z[0] - x, z[1] - y) < radius else -(0.5 + 0.1 * tilt) * (z * z).sum()


@njit
def doubly_exponential(z, rate, *rest):
    """It outgrows each Gaussian, unless the rate is 0."""
    total = 0.0
    for x in z:
        total -= np.exp(np.exp(rate * x)) + 0.5 * x**2
    return total


@njit
def bump(z, height, *rest):
    """It does not fall off."""
    return height * math.exp(-0.5 * (z * z).sum())


def slabs(count, seed):
    """Rows of data for slabs; every fourth is where q has no mass."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2.0, 2.0, count)
    low[::4] = 1e9
    width = np.exp(rng.uniform(math.log(0.01), math.log(0.1), count))
    return np.stack([rng.uniform(0.0, math.pi, count), low, width, rng.uniform(0.0, 1.0, count)], axis=1)


def discs(count, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1.2, 1.2, size=(2, count))
    x[::4] = 1e9
    return np.stack([x, y, rng.uniform(0.1, 0.2, count), rng.uniform(0.0, 1.0, count)], axis=1)


#: Log joint, dimension, support, rows, and how many fits at least have a gap that none of their nodes see.
CASES = {
    "line": (beside_slab, 1, "real", slabs(40, 1), 10),
    "plane": (beside_slab, 2, "real", slabs(40, 2), 0),
    "discs": (beside_disc, 2, "real", discs(40, 3), 0),
    "positive line": (beside_slab_of_logarithms, 1, "positive", slabs(40, 4), 10),
    "positive plane": (beside_slab_of_logarithms, 2, "positive", slabs(40, 5), 0),
}


def of_start(dim, support):
    start = fv.Gaussian(np.full(dim, 0.1), 0.9 * np.eye(dim))
    return start if support == "real" else fv.TransformedGaussian(start, support, dim)


@njit
def of_gaussian(q):
    return q.mean, q.cholesky


@njit
def of_transformed(q):
    return q.gaussian.mean, q.gaussian.cholesky


@cache
def run_of(log_joint, dim, support, family, parallel):
    """A user's loop: what fits without and from a start say of each row, and the ELBO of the start."""
    parts = of_gaussian if support == "real" else of_transformed

    @njit(parallel=parallel)
    def run(rows, q, found, means, factors, bounds):
        for n in prange(len(rows)):
            x = rows[n]
            model = fv.Model(log_joint, dim, (x[0], x[1], x[2], x[3]), support)
            for k in range(2):
                fit = fv.fit(model, family) if k == 0 else fv.fit(model, family, start=q)
                found[n, k, 0], found[n, k, 1], found[n, k, 2] = fit.status, fit.elbo.value, fit.elbo.error
                found[n, k, 3], found[n, k, 4] = fit.converged, fit.elbo.evaluations
                means[n, k], factors[n, k] = parts(fit.q)
            bound, gradient = fv.elbo(model, q), fv.elbo_grad(model, q)
            bounds[n, 0], bounds[n, 1], bounds[n, 2] = bound.value, bound.error, bound.evaluations
            bounds[n, 3], bounds[n, 4] = gradient.value, gradient.mean[0] + gradient.cholesky[0, 0]

    return run


def results(log_joint, dim, support, rows, family="full", parallel=False):
    count, q = len(rows), of_start(dim, support)
    arrays = np.empty((count, 2, 5)), np.empty((count, 2, dim)), np.empty((count, 2, dim, dim))
    bounds = np.empty((count, 5))
    run_of(log_joint, dim, support, family, parallel)(rows, q, *arrays, bounds)
    return *arrays, bounds


def check_fit(model, family, start, found, mean, factor):
    """A fit in compiled code is that of Python, unless another q may be better: then Python looks for it."""
    status, value, error, converged, _ = found
    assert converged == (status == CONVERGED)
    try:
        own = fv.fit(model, family, start)
    except ValueError:  # the first q has a node at fault
        assert not converged
        return
    q = own.q if isinstance(own.q, fv.Gaussian) else own.q.gaussian
    if np.array_equal(q.mean, mean) and np.array_equal(q.cholesky, factor):
        assert (status == own._code) or (status == UNCONFIRMED and own.elbo.error < math.inf)
        assert (value, error) == (own.elbo.value, own.elbo.error)
    else:
        assert not converged


@pytest.mark.parametrize(
    ("case", "family"),
    [
        *((case, "full") for case in CASES),
        *((c, f) for c in ("line", "plane") for f in ("diag", "isotropic")),
    ],
)
def test_fits_beside_gaps(case, family):
    """Of slabs of 0.02 deviations three in four were called converged, with an error of 5e-14."""
    log_joint, dim, support, rows, most = CASES[case]
    found, means, factors, _ = results(log_joint, dim, support, rows, family)
    start, blank = of_start(dim, support), fv.Model(log_joint, dim, (0.0,) * 4, support=support)
    for n, row in enumerate(rows.tolist()):
        for k in range(2):
            check_fit(
                blank.with_data(tuple(row)),
                family,
                None if k == 0 else start,
                found[n, k],
                means[n, k],
                factors[n, k],
            )
    assert found[::4, :, 3].all()
    assert not found[np.arange(len(rows)) % 4 > 0, :, 3].any()
    seen_between = (found[..., 0] == ZERO) & np.isfinite(found[..., 1]) & (found[..., 2] == math.inf)
    assert seen_between.sum() >= most


@pytest.mark.parametrize("case", CASES)
def test_elbos_beside_gaps(case):
    """Their errors were 1e-14."""
    log_joint, dim, support, rows, _ = CASES[case]
    *_, bounds = results(log_joint, dim, support, rows)
    q, blank = of_start(dim, support), fv.Model(log_joint, dim, (0.0,) * 4, support=support)
    for row, (value, error, evaluations, again, slope) in zip(rows.tolist(), bounds.tolist(), strict=True):
        model = blank.with_data(tuple(row))
        own = fv.elbo(model, q)
        assert (value, error, evaluations) == (own.value, own.error, own.evaluations)
        assert again == value
        if value == -math.inf:
            assert math.isnan(slope)
            with pytest.raises(ValueError, match="log_joint is -inf at z = "):
                fv.elbo_grad(model, q)
        else:
            gradient = fv.elbo_grad(model, q)
            assert slope == gradient.mean[0] + gradient.cholesky[0, 0]
    assert (bounds[:, 0] > -math.inf).sum() == len(rows) // 4


def test_parallel_loops_have_the_same_bits():
    log_joint, dim, support, rows, _ = CASES["line"]
    serial = results(log_joint, dim, support, rows)
    for one, other in zip(serial, results(log_joint, dim, support, rows, "full", True), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dim", [1, 2])
def test_what_outgrows_q(dim):
    """E[-exp(exp(z / 3))] is -inf under any Gaussian: a fit was "converged", with an error of 7e-14."""
    rates = np.linspace(-1.0, 1.0, 9)
    rows = np.stack([rates, *np.zeros((3, 9))], axis=1)
    found, means, factors, bounds = results(doubly_exponential, dim, "real", rows)
    blank, q = fv.Model(doubly_exponential, dim, (0.0,) * 4), of_start(dim, "real")
    for n, row in enumerate(rows.tolist()):
        model = blank.with_data(tuple(row))
        for k in range(2):
            check_fit(model, "full", None if k == 0 else q, found[n, k], means[n, k], factors[n, k])
        assert bounds[n, :2].tolist() == [fv.elbo(model, q).value, fv.elbo(model, q).error]
    assert found[rates == 0.0, :, 3].all()
    assert not found[rates != 0.0, :, 3].any()
    assert (found[rates != 0.0, :, 2] == math.inf).all()
    assert (found[abs(rates) == 0.25, :, 0] == UNRESOLVED).all()
    assert ((bounds[:, 1] == math.inf) | (bounds[:, 0] == -math.inf) | (rates == 0.0)).all()
    assert bounds[abs(rates) == 0.25, 0].min() > -math.inf


@pytest.mark.parametrize("dim", [1, 2])
def test_a_fit_from_a_start_beside_tails_that_do_not_end(dim):
    """It was called converged."""
    rows = np.stack([np.linspace(5.0, 30.0, 6), *np.zeros((3, 6))], axis=1)
    found, *_ = results(bump, dim, "real", rows)
    assert (found[..., 0] == UNCONFIRMED).all()
    assert not found[..., 3].any()
    for row in rows.tolist():
        model = fv.Model(bump, dim, tuple(row))
        assert not fv.fit(model, start=of_start(dim, "real")).converged


@njit
def of_rows(z, x, low):
    return -math.inf if low < z[0] < low + 0.02 else -0.5 * z[0] ** 2 + 0.0 * x[0]


@njit
def fit_of_rows(x, low):
    fit = fv.fit(fv.Model(of_rows, 1, (x, low)))
    return fit.status, fit.elbo.evaluations


@njit
def fit_of_model(model):
    fit = fv.fit(model)
    return fit.status, fit.elbo.evaluations


def test_models_with_much_data_have_few_points():
    """As in Python, where an evaluation may take long."""
    model = fv.Model(of_rows, 1, (np.zeros(1), 0.0))
    used = []
    for size in (9_999, 10_000, 1):
        x = np.zeros(size)
        own = fv.fit(model.with_data((x, 50.0)))
        assert fit_of_rows(x, 50.0) == fit_of_model(model.with_data((x, 50.0))) == (FINE, own.evaluations)
        used.append(own.evaluations)
    assert used[0] - used[1] == 801 - 161
    assert fit_of_rows(np.zeros(20_000), 0.095)[0] == ZERO


# C functions.


def in_c(log_joint):
    """The log joint as a C function."""

    @numba.cfunc("float64(CPointer(float64), voidptr)")
    def function(z, data):
        x = numba.carray(data, 4, np.float64)
        return log_joint(numba.carray(z, 1), x[0], x[1], x[2], x[3])

    return function


SUPPORTS = {"real": Support.REAL, "positive": Support.LOWER}


@pytest.mark.parametrize(
    ("log_joint", "support", "rows"),
    [
        (beside_slab, "real", slabs(60, 6)),
        (beside_slab_of_logarithms, "positive", slabs(60, 7)),
        (doubly_exponential, "real", np.stack([np.linspace(-0.5, 0.5, 11), *np.zeros((3, 11))], axis=1)),
    ],
)
def test_fits_from_c(log_joint, support, rows):
    function = in_c(log_joint)
    found, means, factors, _ = results(log_joint, 1, support, rows)
    out, faults = np.zeros(len(FitResult)), 0
    to_c = np.ctypeslib.as_ctypes
    for n, row in enumerate(rows):
        data = np.ascontiguousarray(row)
        pointers = function.address, data.ctypes.data
        status = cfuncs.fit_1d.ctypes(*pointers, SUPPORTS[support], 0.0, 0.0, 0.0, 1.0, 1e-8, to_c(out))
        assert status == found[n, 0, 0]
        if not math.isfinite(found[n, 0, 1]):
            continue
        numbers = out[[FitResult.ELBO, FitResult.ERROR, FitResult.EVALUATIONS]].tolist()
        assert numbers == found[n, 0, [1, 2, 4]].tolist()
        assert out[[FitResult.MEAN, FitResult.DEVIATION]].tolist() == [means[n, 0, 0], factors[n, 0, 0, 0]]
        if status == ZERO:
            faults += 1
            at = out[FitResult.FAULT_AT]
            at = at if support == "real" else math.log(at)
            assert row[1] < at < row[1] + row[2]
        else:
            assert math.isnan(out[FitResult.FAULT_AT])
            faults += out[FitResult.ERROR] == math.inf
    assert faults >= 8

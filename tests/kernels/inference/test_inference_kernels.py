"""Kernels of inference: inside of a user's compiled code, against plain Python and against differences."""

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from scipy import stats

import fastvi as fv
from fastvi.kernels.inference import (
    draws_fits,
    expectations,
    gaps,
    quadrature_fits,
    saturation,
    steps,
    truncated_fits,
)
from fastvi.kernels.inference.reports import Report
from fastvi.kernels.models import kinds
from fastvi.kernels.models.evaluation import Problem
from fastvi.kernels.optimizers import newton
from fastvi.kernels.quadrature import moments as moments_
from fastvi.kernels.statuses import CONVERGED, SATURATED, STUCK, ZERO
from helpers.forms import all_plain, plain


@numba.njit
def log_joint(z, x):
    """A normal prior and a normal likelihood in each coordinate."""
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * z[i] ** 2 + 0.5 * (x - z[i]) ** 2
    return s


#: By names of this module, which `all_plain` follows.
workspace, fit_quadrature, doubt = quadrature_fits.workspace, quadrature_fits.fit_quadrature, gaps.doubt
FULL = newton.FULL

REAL_KINDS, NO_BOUNDS = np.zeros(2, np.int64), np.zeros((2, 2))


@numba.njit(nogil=True)
def fit_each(data, kinds, bounds, means, reports):
    """What a user's own program does: many fits, one after the other in each thread.

    Threads of Python, as a `prange` takes three times as long to compile; examples/agents.py has one.
    """
    for n in range(data.size):
        dim = kinds.size
        space = quadrature_fits.workspace(dim, dim)
        chol, trace = np.eye(dim), np.empty(16)
        quadrature_fits.start_and_fit_quadrature(
            log_joint,
            ((data[n],), kinds, bounds),
            newton.FULL,
            True,
            (means[n], np.ones(dim), chol),
            1e-8,
            50,
            space,
            trace,
            reports[n],
        )


def test_fits_in_a_users_threads():
    data = np.linspace(-5.0, 9.0, 23)
    means, reports = np.zeros((23, 2)), np.zeros((23, 8))
    with ThreadPoolExecutor(2) as pool:
        halves = [(a[:11], a[11:]) for a in (data, means, reports)]
        list(pool.map(lambda x, m, r: fit_each(x, REAL_KINDS, NO_BOUNDS, m, r), *halves))
    found = Report(*reports.T)
    assert (found.status == CONVERGED).all()
    np.testing.assert_allclose(means, np.column_stack([data, data]) / 2, atol=1e-9)
    # log of the integral of exp(-z**2/2 - (x - z)**2/2), twice.
    np.testing.assert_allclose(found.elbo, math.log(math.pi) - data**2 / 2, atol=1e-9)


@numba.njit
def counted(z, x, calls):
    calls[0] += 1
    return log_joint(z, x)


@numba.njit
def fit_on_draws(data, calls, kinds, bounds, noise, tolerance, mean, factor, report):
    dim = mean.size
    space = draws_fits.workspace(newton.FULL, dim, dim)
    space.point[:] = 0.0
    return draws_fits.fit_draws(
        counted,
        None,
        ((data, calls), kinds, bounds),
        newton.FULL,
        noise,
        (np.zeros(dim), np.eye(dim), np.ones(dim)),
        (tolerance, 200),
        (mean, factor, np.empty(64), report),
        space,
    )


@pytest.mark.parametrize(("tolerance", "sides"), [(1e-7, 2), (1e-3, 1)])
def test_fit_on_draws_in_a_users_function(tolerance, sides):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((8, 3))
    half = np.linalg.solve(np.linalg.cholesky(half.T @ half / 8), half.T).T
    noise = np.concatenate([half, -half])
    mean, factor, report, calls = np.empty(3), np.empty((3, 3)), np.zeros(8), np.zeros(1)
    kinds, bounds = np.zeros(3, np.int64), np.zeros((3, 2))
    status = fit_on_draws(4.0, calls, kinds, bounds, noise, tolerance, mean, factor, report)
    found = Report(*report)
    assert status == found.status == CONVERGED
    # The gradient is per standard deviation of q; the ELBO is short of half its square.
    np.testing.assert_allclose(mean, 2.0, atol=10 * tolerance)
    np.testing.assert_allclose(factor @ factor.T, np.eye(3) / 2, atol=10 * tolerance)
    assert abs(found.elbo - 3 * (0.5 * math.log(math.pi) - 4.0)) <= max(1e-9, tolerance**2)
    assert found.sides == sides
    assert calls[0] == found.evaluations


@numba.njit
def natural(data, kinds, bounds, rho, mean, chol, moments):
    space = steps.natural_workspace(mean.size, mean.size)
    problem = Problem((data,), kinds, bounds)
    for known, least, row in ((-1, 1, 0), (-1, -1, 1), (0, 1, 1)):
        expectations.expect(log_joint, problem, mean, chol, known, least, 1e-10, space.lattice, moments[row])
    return steps.natural_gradient_step(log_joint, problem, rho, mean, chol, 1e-10, space)


def test_a_natural_gradient_step_solves_a_quadratic():
    start = np.array([1.0, -2.0]), np.array([[1.5, 0.0], [0.4, 0.7]])
    mean, chol, moments = start[0].copy(), start[1].copy(), np.zeros((2, moments_.MOMENTS))
    status, value = natural(3.0, REAL_KINDS, NO_BOUNDS, 1.0, mean, chol, moments)
    assert status == 0
    np.testing.assert_allclose(mean, 1.5, atol=1e-9)
    np.testing.assert_allclose(chol @ chol.T, np.eye(2) / 2, atol=1e-9)
    # The ELBO before: minus KL to the posterior, plus the evidence.
    q, posterior = fv.Gaussian(start[0], start[1] @ start[1].T), fv.Gaussian([1.5, 1.5], np.eye(2) / 2)
    expected = math.log(math.pi) - 4.5 - fv.kl(q, posterior)
    assert abs(value - expected) <= 1e-9
    # It is minus the first moment, also where the values on the coarsest lattice are known already.
    assert abs(moments[0, 0] + expected) <= 1e-9
    np.testing.assert_array_equal(moments[0], moments[1])
    # Half a step: the precision is the mean of both.
    mean, chol = start[0].copy(), start[1].copy()
    natural(3.0, REAL_KINDS, NO_BOUNDS, 0.5, mean, chol, moments)
    precision = 0.5 * np.linalg.inv(start[1] @ start[1].T) + np.eye(2)
    np.testing.assert_allclose(np.linalg.inv(chol @ chol.T), precision, atol=1e-8)
    np.testing.assert_allclose(
        mean - start[0], 0.5 * np.linalg.solve(precision, 2 * (1.5 - start[0])), atol=1e-8
    )


def test_moments_of_a_quadratic_in_one_dimension():
    mean, chol, moments = np.array([1.0]), np.array([[1.5]]), np.zeros((2, moments_.MOMENTS))
    natural(3.0, REAL_KINDS[:1], NO_BOUNDS[:1], 1.0, mean, chol, moments)
    # log q - log p = a + b xi + c xi**2.
    b, c = 1.5 * (2.0 * 1.0 - 3.0), 1.5**2 - 0.5
    a = 0.5 * (1.0 + 4.0) - math.log(1.5) - 0.5 * math.log(2.0 * math.pi)
    for row in moments:
        np.testing.assert_allclose(row[:5], [a + c, b, a + 3 * c, 3 * b, 3 * a + 15 * c], rtol=1e-9)
    assert abs(mean[0] - 1.5) <= 1e-9
    assert abs(chol[0, 0] - math.sqrt(0.5)) <= 1e-9


def test_adam_is_that_of_the_paper():
    rng = np.random.default_rng(1)
    point, first, second = np.zeros(4), np.zeros(4), np.zeros(4)
    own, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    for t in range(1, 30):
        gradient = rng.standard_normal(4)
        steps.adam_step(point, gradient, first, second, t, 0.1)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        own -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(point, own, rtol=1e-13)
    plain, first, second = np.zeros(4), np.zeros(4), np.zeros(4)
    compiled, other, third = np.zeros(4), np.zeros(4), np.zeros(4)
    steps.adam_step.py_func(plain, gradient, first, second, 1, 0.1)
    steps.adam_step(compiled, gradient, other, third, 1, 0.1)
    np.testing.assert_allclose(plain, compiled, rtol=1e-15)


@numba.njit
def fit_cut(data, low, high, start, report):
    return truncated_fits.fit_truncated(
        log_joint, (data,), low, high, start, 1e-9, 100, truncated_fits.workspace(), np.empty(64), report
    )


@pytest.mark.parametrize("x", [-6.0, 0.0, 3.0])
def test_truncated_fit_in_a_users_function(x):
    start, report = np.array([1.0, 0.5]), np.zeros(8)
    assert fit_cut(x, 0.0, math.inf, start, report) == CONVERGED
    np.testing.assert_allclose(start, [x / 2, math.sqrt(0.5)], atol=1e-6)
    expected = 0.5 * math.log(math.pi) - x * x / 4 + stats.norm.logcdf(x / 2 * math.sqrt(2))
    assert abs(Report(*report).elbo - expected) <= 1e-9 * (1 + abs(expected))


@numba.njit
def beside_slab(z, low, width):
    return -math.inf if low < z[0] < low + width else -0.5 * (z * z).sum()


@numba.njit
def fit_and_doubt(dim, low, width, purpose, report):
    """(the status of a fit, and that after the look for gaps; the place of one) at the lowest layer."""
    mean, chol, trace = np.zeros(dim), np.eye(dim), np.empty(0)
    problem = (low, width), REAL_KINDS[:dim], NO_BOUNDS[:dim]
    space = workspace(dim, dim)
    fitted = fit_quadrature(beside_slab, problem, FULL, mean, chol, 1e-8, 50, space, trace, report)
    found = doubt(beside_slab, problem, mean, chol, purpose, space, report)
    return fitted, found, space.lattice.panel.where[0]


@numba.njit
def fit_and_doubt_truncated(low, width, purpose, report):
    start, space = np.array([0.0, 1.0]), truncated_fits.workspace()
    fitted = truncated_fits.fit_truncated(
        beside_slab, (low, width), -1.0, 3.0, start, 1e-8, 50, space, np.empty(0), report
    )
    found = gaps.doubt_truncated(beside_slab, (low, width), -1.0, 3.0, start, purpose, space, report)
    return fitted, found, space.where[0]


@numba.njit
def counted_beta(z, b, count):
    count[0] += 1.0
    return math.log(z[0]) + (b - 1.0) * math.log1p(-z[0])


@numba.njit
def doubt_near_bound(b, kind, mean, deviation, count, report):
    """The status of a fit that converged with an ELBO of 0, when what is lost near a bound is added."""
    bounds = np.zeros((1, 2))
    bounds[0, 1] = 1.0
    problem = (b, count), np.full(1, kind), bounds
    report[:] = 0.0
    space = quadrature_fits.workspace(1, 1)
    return saturation.doubt(
        counted_beta, problem, np.full(1, mean), np.full((1, 1), deviation), 1e-8, space, report
    )


@pytest.mark.parametrize("function", [doubt_near_bound, plain(doubt_near_bound)])
def test_what_is_lost_near_a_bound_costs_evaluations_only_there(function):
    """Floats lose 1 - z at a logit of 31.9: nine deviations from there are the limit."""
    report, count = np.zeros(8), np.zeros(1)
    end = -math.log(64.0 * 2.0**-52)
    for kind, mean, evaluations in (
        (kinds.INTERVAL, end - 9.001, 0),
        (kinds.INTERVAL, end - 8.999, 2),
        (kinds.INTERVAL, -700.0, 0),
        (kinds.INTERVAL, -740.0, 2),
        (kinds.REAL, end, 0),
    ):
        count[0] = 0.0
        assert function(0.1, kind, mean, 1.0, count, report) == (SATURATED if mean == -740.0 else CONVERGED)
        assert count[0] == evaluations
        assert (Report(*report).error > 0.0) == (evaluations > 0)
    # Half of q's mass is beyond: E[max(x, 0)] = 1 / sqrt(2 pi), the slope is off by 0.9, and 2 is for safety.
    assert function(0.1, kinds.INTERVAL, end, 1.0, count, report) == SATURATED
    np.testing.assert_allclose(Report(*report).error, 2.0 * 0.9 / math.sqrt(2.0 * math.pi), rtol=0.02)


def test_what_is_lost_near_a_bound_leaves_other_fits_alone():
    """A fault, and a fit without an ELBO; a status that is no convergence keeps its number."""
    count = np.zeros(1)
    for elbo, status, more in ((math.nan, ZERO, 0.0), (0.0, ZERO, 0.0), (0.0, STUCK, 0.5)):
        report = np.array([elbo, 0.25, 0.0, 0.0, float(status), 0.0, 0.0, 0.0])
        problem = (0.1, count), np.full(1, kinds.INTERVAL), np.array([[0.0, 1.0]])
        space = quadrature_fits.workspace(1, 1)
        mean, chol = np.full(1, 32.0), np.eye(1)
        found = saturation.doubt(counted_beta, problem, mean, chol, 1e-8, space, report)
        assert found == report[4] == status
        assert report[1] >= 0.25 + more
        assert more or report[1] == 0.25


@pytest.mark.parametrize("function", [fit_and_doubt, all_plain(fit_and_doubt)])
@np.errstate(invalid="ignore")  # plain, 0 * inf warns
def test_a_users_fit_is_doubted_by_a_call_of_its_own(function):
    report = np.zeros(8)
    for dim, low, width in ((1, 0.275, 0.05), (2, 0.34, 0.01)):
        for purpose, count in enumerate(gaps.COUNTS[dim - 1].tolist()):
            fitted, found, where = function(dim, low, width, purpose, report)
            assert fitted == CONVERGED
            assert found == ZERO
            assert low < where < low + width
            assert Report(*report).error == math.inf
            evaluations = Report(*report).evaluations
            assert function(dim, 50.0, width, purpose, report)[:2] == (CONVERGED, CONVERGED)
            assert Report(*report).error < 1e-10
            # A look that ends at a gap counts all of its points, but none far out.
            assert Report(*report).evaluations == evaluations + (28, 112)[dim - 1]
            assert evaluations > count


@pytest.mark.parametrize("function", [fit_and_doubt_truncated, plain(fit_and_doubt_truncated)])
@np.errstate(invalid="ignore")  # plain, 0 * inf warns
def test_a_users_truncated_fit_is_doubted_by_a_call_of_its_own(function):
    report, between = np.zeros(8), 0
    for low in np.linspace(-0.9, 2.5, 8).tolist():
        fitted, found, where = function(low, 0.02, gaps.OF_FIT, report)
        between += fitted == CONVERGED
        assert found == ZERO
        assert low < where < low + 0.02
        assert fitted == ZERO or Report(*report).error == math.inf
    assert between >= 2
    assert function(50.0, 0.02, gaps.OF_FIT, report)[:2] == (CONVERGED, CONVERGED)


def test_the_lattice_has_the_moments_of_a_standard_normal():
    """Otherwise a constant in the log joint enters the gradient: 45 times 1e-9 with a radius of 7."""
    for dim in (1, 2):
        space = expectations.workspace(dim, dim)
        assert expectations.lay(1, dim, space)
        n = space.starts[0, 2]
        nodes = space.lattices[0]
        step = (expectations.STEP_1, expectations.STEP_2)[dim - 1] / 2
        weights = nodes[2, :n] * (math.exp(-0.5 * dim * math.log(2 * math.pi)) * step**dim)
        x, y = nodes[0, :n], nodes[1, :n]
        for values, exact in ((1.0, 1.0), (x, 0.0), (x**2, 1.0), (x**4, 3.0), (x * y, 0.0)):
            assert abs(float((weights * values).sum()) - exact) <= 1e-9
        if dim == 1:
            # The first lattice of a fit has the same nodes, as constants.
            assert n == 2 * expectations.QUICK
            np.testing.assert_allclose(expectations._NODES.ravel(), x, rtol=0, atol=1e-14)
            np.testing.assert_allclose(expectations._WEIGHTS.ravel(), nodes[2, :n], rtol=1e-14, atol=0)
        else:
            assert abs(float((weights * x**2 * y**2).sum()) - 1.0) <= 1e-9


def test_a_fit_in_one_dimension_takes_few_evaluations():
    """Newton steps on the coarsest lattice; a finer and a shifted one confirm them, and more points."""
    # For improper posteriors, gaps of zero density, and log joints that outgrow q.
    beside = 4 + 801 + 28
    model = fv.Model(log_joint, 1, data=(3.0,))
    found = fv.fit(model, start=fv.Gaussian(1.0, 1.0))
    assert found.converged
    assert found.evaluations <= 7 * expectations.QUICK + beside
    again = fv.fit(model, start=found.q)
    assert again.evaluations == 4 * expectations.QUICK + beside
    assert abs(again.elbo.value - found.elbo.value) <= 1e-12

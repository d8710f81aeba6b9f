"""Kernels of inference and EM in loops of compiled code: no allocation, the same bits on every thread."""

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba import njit

from fastvi import kernels
from helpers.memory import assert_no_allocation, used

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


@njit
def log_joint(z, x):
    """p(z) = exp(-z), p(x | z) = N(x | z, 1)."""
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)


# Each function does `n` rounds of the same.

REAL, NO_BOUNDS = np.zeros(1, np.int64), np.zeros((1, 2))
FULL = kernels.newton.FULL


@njit(nogil=True)
def fit_often(n, x, kinds, bounds, mean, chol, space, trace, report):
    status = 0
    for _ in range(n):
        mean[0], chol[0, 0] = 0.0, 1.0
        status += kernels.fits.fit_quadrature(
            log_joint, ((x,), kinds, bounds), FULL, mean, chol, 1e-8, 50, space, trace, report
        )
        status += kernels.gaps.doubt(
            log_joint, ((x,), kinds, bounds), mean, chol, kernels.gaps.OF_FIT, space, report
        )
    return status, mean[0], chol[0, 0], report[0]


@njit(nogil=True)
def bound_often(n, x, kinds, bounds, mean, chol, space, grad_mean, grad_chol):
    total = 0.0
    for _ in range(n):
        total = kernels.fits.elbo_quadrature(
            log_joint, ((x,), kinds, bounds), mean, chol, 1e-8, space, grad_mean, grad_chol
        )[1]
    return total, grad_mean[0], grad_chol[0, 0]


@njit(nogil=True)
def step_often(n, x, kinds, bounds, mean, chol, space, point, gradient, first, second):
    value = 0.0
    for t in range(n):
        _, value = kernels.steps.natural_gradient_step(
            log_joint, ((x,), kinds, bounds), 0.5, mean, chol, 1e-8, space
        )
        kernels.steps.adam_step(point, gradient, first, second, t + 1, 1e-6)
    return value, mean[0], chol[0, 0]


@njit(nogil=True)
def cut_often(n, x, start, space, trace, report):
    status = 0
    for _ in range(n):
        start[0], start[1] = 1.0, 1.5
        status += kernels.truncated.fit_truncated(
            log_joint, (x,), 0.0, math.inf, start, 1e-3, 100, space, trace, report
        )
        status += kernels.gaps.doubt_truncated(
            log_joint, (x,), 0.0, math.inf, start, kernels.gaps.OF_FIT, space, report
        )
    return status, start[0], start[1]


@njit(nogil=True)
def draw_often(n, x, kinds, bounds, draws, coordinates, result, space):
    status = 0
    for _ in range(n):
        space.point[:] = 0.0
        status += kernels.draws.fit_draws(
            log_joint,
            None,
            ((x,), kinds, bounds),
            FULL,
            draws,
            coordinates,
            (1e-3, 50),
            result,
            space,
        )
    return status, result[0][0], result[1][0, 0]


@njit(nogil=True)
def learn_often(n, columns, weights, means, factors, trace, floored, space):
    steps = 0
    for _ in range(n):
        means[0, 0], means[1, 0] = -2.0, 2.0
        steps = kernels.em.fit(columns, weights, means, factors, 1e-6, 0.0, 3, trace, floored, space)[1]
    return steps, means[0, 0], means[1, 0]


@njit
def allocate_often(n):
    total = 0.0
    for i in range(n):
        total += np.ones(3)[i % 3]
    return total


def of_model(*others):
    """Arguments that all fits begin with."""
    return 5.0, REAL, NO_BOUNDS, *others


#: By name: what makes a function and its arguments. Workspaces compile, which takes 3 s of collecting tests.
CASES = {
    "fit": lambda: (
        fit_often,
        of_model(np.zeros(1), np.eye(1), kernels.fits.workspace(1, 1), np.empty(4), np.empty(8)),
    ),
    "elbo": lambda: (
        bound_often,
        of_model(np.zeros(1), np.eye(1), kernels.fits.workspace(1, 1), np.empty(1), np.empty((1, 1))),
    ),
    "steps": lambda: (
        step_often,
        of_model(np.zeros(1), np.eye(1), kernels.steps.natural_workspace(1, 1), *np.zeros((4, 3))),
    ),
    "truncated": lambda: (
        cut_often,
        (5.0, np.empty(2), kernels.truncated.workspace(), np.empty(4), np.empty(8)),
    ),
    "draws": lambda: (
        draw_often,
        of_model(
            np.array([[1.0], [-1.0]]),
            (np.array([3.0]), np.eye(1), np.ones(1)),
            (np.empty(1), np.empty((1, 1)), np.empty(4), np.empty(8)),
            kernels.draws.workspace(FULL, 1, 1),
        ),
    ),
    "em": lambda: (
        learn_often,
        (
            np.array([[-1.2, -0.9, -0.9, 0.9, 0.9, 1.2]]),
            np.full(2, 0.5),
            np.empty((2, 1)),
            np.ones((2, 1, 1)),
            np.empty(4),
            np.empty((2, 2), np.int64),
            kernels.em.workspace(2, 1),
        ),
    ),
}


ROUNDS = 100_000


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_thousand_rounds_allocate_nothing(counted, name):
    assert_no_allocation(*CASES[name](), ROUNDS)


def test_allocations_would_be_seen(counted):
    used(allocate_often, 1)
    assert used(allocate_often, ROUNDS).allocations >= ROUNDS


def test_kernels_give_the_same_bits_in_threads_of_the_users_own():
    for name in ("fit", "elbo", "truncated", "em"):

        def run(_, name=name):
            function, arguments = CASES[name]()
            return function(3, *arguments)

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(run, range(8)))) == 1


def test_the_kernels_are_right():
    status, mean, sd, elbo = (lambda f, a: f(1, *a))(*CASES["fit"]())
    assert status == 0
    np.testing.assert_allclose([mean, sd, elbo], [4.0, 1.0, -4.5], atol=1e-9)
    value, of_mean, of_factor = (lambda f, a: f(1, *a))(*CASES["elbo"]())
    # At N(0, 1): -E[z] - E[(5 - z)**2] / 2 - log(2 pi) / 2 + entropy.
    np.testing.assert_allclose([value, of_mean, of_factor], [-12.5, 4.0, 0.0], atol=1e-9)
    status, mu, sigma = (lambda f, a: f(1, *a))(*CASES["truncated"]())
    assert status == 0
    np.testing.assert_allclose([mu, sigma], [4.0, 1.0], atol=1e-6)
    # In Python a kernel is that of the container, or from the disk.
    (function, given), (_, same) = CASES["em"](), CASES["em"]()
    assert function(1, *given) == function.py_func(1, *same)
    status, mean, sd = (lambda f, a: f(1, *a))(*CASES["draws"]())
    assert status == 0
    np.testing.assert_allclose([mean, sd], [4.0, 1.0], atol=1e-3)
    _, mean, sd = (lambda f, a: f(60, *a))(*CASES["steps"]())
    np.testing.assert_allclose([mean, sd], [4.0, 1.0], atol=1e-9)

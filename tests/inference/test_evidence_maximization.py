"""Maximum likelihood: theta is the maximiser of the evidence, and the ELBO rises from step to step."""

import math

import numba
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

import fastvi as fv


@numba.njit
def variance(z, theta, x):
    """z ~ N(0, exp(theta)), x = z + noise of variance 1."""
    return -0.5 * (z[0] ** 2 / math.exp(theta[0]) + theta[0] + (x - z[0]) ** 2) - 1.8378770664093453


@numba.njit
def shared(z, theta, y):
    """z ~ N(theta0, 1), y_i = z + noise of log deviation theta1."""
    total = -0.5 * (z[0] - theta[0]) ** 2 - 0.9189385332046727
    for i in range(y.size):
        total -= 0.5 * ((y[i] - z[0]) / math.exp(theta[1])) ** 2 + theta[1] + 0.9189385332046727
    return total


@numba.njit
def counts(z, theta, y):
    """Counts with a log-rate z ~ N(0, exp(theta)): a posterior that is not Gaussian."""
    total = -0.5 * z[0] ** 2 / math.exp(theta[0]) - 0.5 * theta[0] - 0.9189385332046727
    for i in range(y.size):
        total += y[i] * z[0] - math.exp(z[0]) - math.lgamma(y[i] + 1.0)
    return total


@numba.njit
def four(z, theta):
    """In four dimensions: N(theta, ...) observed at 1, so theta is 1."""
    total = 0.0
    for i in range(z.size):
        total -= 0.5 * (z[i] - theta[0]) ** 2 + 0.5 * (1.0 - z[i]) ** 2
    return total


def rises(trace):
    slack = 1e-8 * (1.0 + np.abs(trace).max())
    return (np.diff(trace) >= -slack).all()


@pytest.mark.parametrize("x", [1.5, 3.0, -10.0])
def test_one_variance(x):
    found = fv.maximize_evidence(fv.Model(variance, 1, data=(x,), theta=[0.0]))
    assert found.converged
    assert abs(math.exp(found.theta[0]) - (x * x - 1.0)) < 1e-6 * x * x
    # The family holds the posterior, so the ELBO is the log evidence: x ~ N(0, x**2) at the optimum.
    assert abs(found.elbo.value - (-0.5 * math.log(2.0 * math.pi * x * x) - 0.5)) < 1e-9
    assert rises(found.trace)
    assert found.trace[0] < found.trace[-1]


def test_the_maximiser_of_the_log_evidence():
    y = 2.0 * np.random.default_rng(3).standard_normal(20) + 1.0
    model = fv.Model(shared, 1, data=(y,), theta=[0.0, 0.0])
    found = fv.maximize_evidence(model)
    assert found.converged
    best = minimize(
        lambda t: -fv.log_evidence(model.with_theta(t)).value, [1.0, 0.5], method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 2000},
    )  # fmt: skip
    np.testing.assert_allclose(found.theta, best.x, atol=1e-6)
    assert abs(found.elbo.value + best.fun) < 1e-9
    assert rises(found.trace)


def test_a_bound_where_the_family_does_not_hold_the_posterior():
    y = np.array([2.0, 5.0, 3.0])
    model = fv.Model(counts, 1, data=(y,), theta=[-1.0])
    found = fv.maximize_evidence(model)
    assert found.converged
    assert rises(found.trace)
    evidence = fv.log_evidence(model.with_theta(found.theta))
    assert found.elbo.value < evidence.value - 1e-5
    # Theta is the best of the bound: moving it lowers the ELBO of the best q.
    for step in (1e-3, -1e-3):
        moved = fv.fit(model.with_theta(found.theta + step))
        assert moved.elbo.value < found.elbo.value


def test_draws_in_more_dimensions():
    found = fv.maximize_evidence(fv.Model(four, 4, theta=[-3.0]))
    assert found.converged
    assert abs(found.theta[0] - 1.0) < 1e-6
    assert found.q.dim == 4


def test_one_dimensional_search_agrees():
    model = fv.Model(variance, 1, data=(2.0,), theta=[3.0])
    best = minimize_scalar(
        lambda t: -fv.log_evidence(model.with_theta([t])).value, bounds=(-2, 4), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    found = fv.maximize_evidence(model, "mean", fv.Gaussian(0.0, 0.75))
    assert found.trace[-1] <= -best.fun + 1e-9
    free = fv.maximize_evidence(model)
    assert abs(free.theta[0] - best.x) < 1e-5


def test_what_it_says():
    found = fv.maximize_evidence(fv.Model(variance, 1, data=(3.0,), theta=[0.0]), max_rounds=1)
    assert not found.converged
    assert "rounds were used up" in found.status
    assert "ThetaFit(theta=" in repr(found)
    with pytest.raises(ValueError, match="read-only"):
        found.theta[0] = 1.0


def test_progress(capsys):
    fv.maximize_evidence(fv.Model(variance, 1, data=(3.0,), theta=[0.0]), progress=True)
    assert "rounds" in capsys.readouterr().err


def test_bad_input():
    with pytest.raises(ValueError, match="model has no theta"):
        fv.maximize_evidence(fv.Model(lambda z: -(z[0] ** 2), 1))
    model = fv.Model(variance, 1, data=(3.0,), theta=[0.0])
    with pytest.raises(ValueError, match="family must be one of"):
        fv.maximize_evidence(model, "truncated")
    with pytest.raises(ValueError, match="max_rounds must be at least 1"):
        fv.maximize_evidence(model, max_rounds=0)
    with pytest.raises(ValueError, match=r"theta\[0\] is nan"):
        fv.Model(variance, 1, data=(3.0,), theta=[math.nan])
    with pytest.raises(ValueError, match=r"theta must have shape \(1,\), not \(2,\)"):
        model.with_theta([1.0, 2.0])

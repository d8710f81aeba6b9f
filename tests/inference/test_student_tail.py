"""`fit(..., tail="student")`: targets that are t distributions, Gaussian targets, gradients, errors."""

import math

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions.student import log_constant
from fastvi.inference import student_fits
from fastvi.inference.expectations import student_expectation


@numba.njit
def student(z, m, precision, df):
    s = 0.0
    for i in range(z.size):
        for j in range(z.size):
            s += (z[i] - m[i]) * precision[i, j] * (z[j] - m[j])
    return -0.5 * (df + z.size) * math.log1p(s / df)


@numba.njit
def quadratic(z):
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * (z[i] - 0.3) ** 2
    return s


@numba.njit
def steps(z):
    """Slopes of 3 and 1, and a kink between coordinates."""
    s = -0.2 * abs(z[0] * z[2])
    for i in range(z.size):
        s -= 3.0 * z[i] if z[i] > 0.0 else -z[i]
    return s


def target(dim, df):
    rng = np.random.default_rng(dim)
    a = rng.normal(size=(dim, dim))
    scale, location = a @ a.T + 0.5 * np.eye(dim), rng.normal(size=dim)
    model = fv.Model(student, dim, (location, np.linalg.inv(scale), df))
    return model, fv.StudentT(location, scale, df)


def log_mass(q):
    """Log evidence of `student`."""
    return -log_constant(q.df, q.dim) + 0.5 * np.linalg.slogdet(q.scale)[1]


@pytest.mark.parametrize("df", [1.5, 3.0, 5.0])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_t_is_found(dim, df):
    model, truth = target(dim, df)
    found = fv.fit(model, tail="student")
    assert found.converged
    assert found.elbo.error < 2e-3
    assert abs(found.elbo.value - log_mass(truth)) < 4.0 * found.elbo.error + 1e-7
    assert math.isclose(found.q.df, df, rel_tol=0.02)
    np.testing.assert_allclose(found.q.location, truth.location, atol=2e-2)
    np.testing.assert_allclose(found.q.scale, truth.scale, atol=2e-2 * np.abs(truth.scale).max())
    diagnosis = found.diagnose()
    assert diagnosis.close
    assert diagnosis.psis_k < 0.5
    assert found.elbo.value > fv.fit(model).elbo.value + 0.01


def test_a_diagonal_scale():
    dim, df = 3, 4.0
    scale = np.diag([0.5, 1.0, 3.0])
    model = fv.Model(student, dim, (np.ones(dim), np.linalg.inv(scale), df))
    found = fv.fit(model, "diag", tail="student")
    truth = fv.StudentT(np.ones(dim), scale, df)
    assert abs(found.elbo.value - log_mass(truth)) < 4.0 * found.elbo.error + 1e-7
    np.testing.assert_array_equal(found.q.scale, np.diag(np.diag(found.q.scale)))
    np.testing.assert_allclose(np.diag(found.q.scale), np.diag(scale), rtol=0.02)
    assert math.isclose(found.q.df, df, rel_tol=0.02)
    assert "StudentT" in repr(found)
    assert "verdict" in found.summary()
    assert found.sample(3, rng=0).shape == (3, 3)
    with pytest.raises(ValueError, match="linear_response needs a Gaussian q, not a StudentT"):
        found.linear_response()
    with pytest.raises(TypeError, match="start must be a point or a Gaussian, not a StudentT"):
        fv.fit(model, start=found.q)


@pytest.mark.parametrize("dim", [1, 3])
def test_of_a_gaussian_posterior_the_gaussian_is_left(dim):
    model = fv.Model(quadratic, dim)
    found, gaussian = fv.fit(model, tail="student"), fv.fit(model)
    assert isinstance(found.q, fv.Gaussian)
    assert found.elbo.value == gaussian.elbo.value
    assert found.evaluations > gaussian.evaluations
    shape = student_fits.Shape(np.zeros(dim), np.eye(dim), 10.0)
    t = student_fits._Ascents(model, "full", 500, None).fit(shape, 1e-8)
    assert t.shape.df > 100.0
    assert abs(t.value - gaussian.elbo.value) < 3.0 * t.error + 1e-3


@pytest.mark.parametrize("family", ["full", "diag"])
def test_the_gradient_is_that_of_the_values(family):
    model, truth = target(3, 3.0)
    factor = np.linalg.cholesky(truth.scale)
    origin = student_fits.Shape(truth.location + 0.3, np.diag(factor) if family == "diag" else factor, 4.0)
    objective = student_fits.Objective(model, student_fits._directions(3, 3), origin)
    x = np.random.default_rng(0).normal(size=objective.size) * 0.2
    value, gradient = objective(x)
    steps = 1e-5 * np.eye(x.size)
    differences = [(objective(x + e)[0] - objective(x - e)[0]) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient, differences, atol=1e-7)
    # The value is the ELBO up to the directions.
    fresh = student_expectation(model, objective.shape(x).student())
    assert abs(value - fresh.value) < 0.05


@pytest.mark.parametrize("df", [2.5, 3.5, 8.0])
def test_errors_of_fresh_draws_are_honest(df):
    """E[|z - a|²] is known; draws of t vectors themselves have no variance there, and errors too small."""
    dim = 3
    q, model = fv.StudentT(np.zeros(dim), 1.3 * np.eye(dim), df), fv.Model(quadratic, dim)
    exact = -0.5 * (dim * 1.3 * df / (df - 2.0) + dim * 0.09) + q.entropy()
    found = [student_expectation(model, q, seed, most=2) for seed in range(40)]
    off = np.array([(one.value - exact) / one.error for one in found])
    assert 0.05 < np.sqrt((off**2).mean()) < 1.5
    model = fv.Model(steps, dim)
    found = [student_expectation(model, q, seed, most=2) for seed in range(40)]
    spread = np.std([one.value for one in found], ddof=1)
    assert 0.3 < spread / np.sqrt(np.mean([one.error**2 for one in found])) < 1.3


def test_the_elbo_of_a_t():
    model, truth = target(2, 3.0)
    found = fv.elbo(model, truth)
    assert abs(found.value - log_mass(truth)) <= found.error + 1e-12
    with pytest.raises(ValueError, match="q has dimension 2, the model has 3"):
        fv.elbo(fv.Model(quadratic, 3), truth)
    outside = fv.elbo(fv.Model(quadratic, 2, support="positive"), truth)
    assert outside.value == -math.inf
    assert "StudentT" in outside.note


def test_what_has_no_t():
    model = fv.Model(quadratic, 3)
    with pytest.raises(ValueError, match="tail"):
        fv.fit(model, tail="cauchy")
    for family in ("isotropic", "lowrank", ("mixture", 2)):
        with pytest.raises(ValueError, match='tail="student" has the families "full" and "diag"'):
            fv.fit(model, family, tail="student")
    with pytest.raises(ValueError, match="method='sgd' does not fit"):
        fv.fit(model, method="sgd", tail="student")
    with pytest.raises(ValueError, match="needs a model on the real line"):
        fv.fit(fv.Model(quadratic, 3, support="positive"), tail="student")
    with pytest.raises(ValueError, match="up to 50 dimensions"):
        fv.fit(fv.Model(quadratic, 51), tail="student")

"""Stochastic gradient fits: near the deterministic optimum, and the same under a seed."""

import math

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import kernels


@numba.njit
def skewed(z, y):
    return -math.exp(z[0]) + 2.0 * z[0] - 0.5 * (z[1] - 0.5 * z[0] - y) ** 2 / 0.09


@numba.njit
def skewed_grad(z, grad, y):
    r = (z[1] - 0.5 * z[0] - y) / 0.09
    grad[0] = -math.exp(z[0]) + 2.0 + 0.5 * r
    grad[1] = -r
    return skewed(z, y)


MODEL = fv.Model(skewed, 2, data=(1.0,), log_joint_grad=skewed_grad)


@pytest.mark.parametrize("family", ["full", "diag", "isotropic"])
def test_near_the_optimum(family):
    exact = fv.fit(MODEL, family)
    found = fv.fit(MODEL, family, method="sgd", rng=1, steps=4000)
    assert exact.elbo.value - 2e-3 < found.elbo.value <= exact.elbo.value + 1e-9
    sd = np.sqrt(np.diag(exact.q.cov))
    np.testing.assert_allclose((found.q.mean - exact.q.mean) / sd, 0.0, atol=0.05)
    np.testing.assert_allclose(np.sqrt(np.diag(found.q.cov)) / sd, 1.0, atol=0.05)
    assert len(found.trace) == 100
    assert found.trace[-10:].mean() > found.trace[:2].mean() - 0.05


def test_a_seed_is_a_fit():
    one = fv.fit(MODEL, "diag", method="sgd", rng=3, steps=200)
    two = fv.fit(MODEL, "diag", method="sgd", rng=3, steps=200)
    other = fv.fit(MODEL, "diag", method="sgd", rng=4, steps=200)
    np.testing.assert_array_equal(one.q.mean, two.q.mean)
    np.testing.assert_array_equal(one.trace, two.trace)
    assert (one.q.mean != other.q.mean).any()


def test_sticking_the_landing():
    """At the posterior the gradient has no noise, so that steps stay there."""

    @numba.njit
    def normal(z):
        return -0.5 * (z[0] - 1.0) ** 2 - 0.5 * ((z[1] - z[0]) / 0.1) ** 2

    model = fv.Model(normal, 2)
    exact = fv.fit(model)
    found = fv.fit(model, start=exact.q, method="sgd", rng=0, steps=300)
    np.testing.assert_allclose(found.q.mean, exact.q.mean, atol=1e-4)
    np.testing.assert_allclose(found.q.cov, exact.q.cov, atol=1e-4)


def test_gradient_by_differences_too():
    plain = fv.Model(skewed, 2, data=(1.0,), log_joint_grad="differences")
    one = fv.fit(MODEL, "full", method="sgd", rng=3, steps=50)
    two = fv.fit(plain, "full", method="sgd", rng=3, steps=50)
    # Adam makes steps of one length out of gradients of any size: the paths differ more than the gradients.
    np.testing.assert_allclose(two.q.mean, one.q.mean, atol=1e-2)
    assert two.evaluations > one.evaluations


def test_the_held_covariance_is_held():
    start = fv.Gaussian([0.0, 1.0], [[0.2, 0.05], [0.05, 0.1]])
    found = fv.fit(MODEL, "mean", start, "sgd", rng=0, steps=100)
    np.testing.assert_allclose(found.q.cov, start.cov, rtol=1e-12)


def test_adam_is_adam():
    rng = np.random.default_rng(0)
    point, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    expected, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
    for t in range(1, 6):
        g = rng.standard_normal(3)
        kernels.steps.adam_step(point, g, m, v, t, 0.1)
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        expected -= 0.1 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(point, expected, rtol=1e-14)


def test_progress(capsys):
    fv.fit(MODEL, "diag", method="sgd", rng=0, steps=100, progress=True)
    assert "steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"rate": -1.0}, "rate must be positive and finite, not -1.0"),
        ({"draws": 0}, "draws must be at least 1, not 0"),
        ({"family": "truncated"}, 'method="sgd" fits Gaussians'),
    ],
)
def test_bad_arguments(words, message):
    with pytest.raises(ValueError, match=message):
        fv.fit(MODEL, method="sgd", **words)
    with pytest.raises(ValueError, match="method must be one of 'auto', 'sgd', not 'adam'"):
        fv.fit(MODEL, method="adam")


def test_a_log_joint_that_fails_on_the_way():
    @numba.njit
    def fails(z):
        return -0.5 * z[0] ** 2 if z[0] < 2.5 else math.nan

    found = fv.fit(fv.Model(fails, 1), method="sgd", rng=0, steps=1000)
    assert "log_joint is nan at z = [" in found.status
    assert len(found.trace) < 100
    assert np.isfinite(found.q.mean).all()

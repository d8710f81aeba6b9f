"""Fits in one and two latent dimensions: the best of several maxima, starts where the log joint fails."""

import math

import numpy as np
import pytest
from numba import njit

import fastvi as fv
from fastvi.inference import optima


@njit
def mixture(z, weights, means, sds):
    total = -np.inf
    for k in range(weights.size):
        square, volume = 0.0, 0.0
        for i in range(z.size):
            square += ((z[i] - means[k, i]) / sds[k]) ** 2
            volume += math.log(sds[k]) + 0.9189385332046727
        total = np.logaddexp(total, math.log(weights[k]) - 0.5 * square - volume)
    return total


@pytest.mark.parametrize("dim", [1, 2])
def test_one_of_far_modes_is_chosen_by_the_elbo(dim):
    """The best q is the mode with the most mass: Laplace's approximation from 0 may be at another."""
    rng = np.random.default_rng((17, dim))
    for _ in range(12):
        count = rng.integers(2, 4)
        weights = rng.dirichlet(np.ones(count))
        shifts = 12.0 * np.arange(count) - 9.0 + rng.normal(size=count)
        means = np.stack([rng.permutation(shifts) for _ in range(dim)], axis=1)
        sds = np.exp(0.3 * rng.normal(size=count))
        model = fv.Model(mixture, dim, (weights, means, sds))
        found = fv.fit(model)
        assert found.elbo.value == pytest.approx(math.log(weights.max()), abs=1e-4)
        assert found.converged


def test_a_saddle_between_mirrored_modes_is_left():
    """q at the mean of two far modes has a lower ELBO than q at one of them."""
    for shift, wanted in ((4.0, -math.log(2.0)), (8.0, -math.log(2.0))):
        means = np.array([[-shift], [shift]])
        found = fv.fit(fv.Model(mixture, 1, (np.full(2, 0.5), means, np.ones(2))))
        assert found.elbo.value == pytest.approx(wanted, abs=1e-3)


@njit
def gamma_or_error(z, shape, rate):
    if z[0] <= 0.0:
        raise ValueError("z must be positive")
    return (shape - 1.0) * math.log(z[0]) - rate * z[0]


@njit
def gamma_or_other(z, shape, rate, other):
    if z[0] <= 0.0:
        return other
    return (shape - 1.0) * math.log(z[0]) - rate * z[0]


@pytest.mark.parametrize("other", [math.nan, -math.inf, None])
def test_a_fault_at_the_origin_is_not_the_end(other):
    """A Gamma of shape 400 has its mass 20 deviations from 0, where the log joint fails."""
    for mean in (0.02, 1.0, 300.0):
        data = (400.0, 400.0 / mean)
        model = (
            fv.Model(gamma_or_error, 1, data)
            if other is None
            else fv.Model(gamma_or_other, 1, (*data, other))
        )
        found = fv.fit(model)
        assert found.converged
        assert found.q.mean[0] == pytest.approx(mean, rel=0.01)
        assert found.q.cov[0, 0] == pytest.approx(mean**2 / 400.0, rel=0.02)


@pytest.mark.parametrize("dim", [1, 2])
def test_mass_at_a_fault_is_no_fit(dim):
    """No Gaussian has a finite ELBO: one that is narrow enough not to see the edge is no optimum."""

    @njit
    def cut(z, edge):
        return math.nan if z[0] > edge else -0.5 * (z @ z)

    for edge in (-1.0, 0.5):
        with pytest.raises(ValueError, match=r"the fit cannot start: log_joint is nan at z = \["):
            fv.fit(fv.Model(cut, dim, (edge,)))


@njit
def normal_or_error(z, x):
    if z[1] <= 0.0:
        raise ValueError("the deviation must be positive")
    total = 0.0
    for i in range(x.size):
        total -= 0.5 * ((x[i] - z[0]) / z[1]) ** 2 + math.log(z[1])
    return total


@pytest.mark.parametrize("family", ["full", "diag"])
def test_a_deviation_on_the_whole_line(family):
    """Half of the plane raises, and the mass is far narrower than its distance from 0."""
    rng = np.random.default_rng(3)
    for centre, scale in ((4.0, 0.1), (-1.0, 6.0)):
        x = centre + scale * rng.normal(size=300)
        found = fv.fit(fv.Model(normal_or_error, 2, (x,)), family)
        assert found.converged
        assert found.q.mean == pytest.approx([x.mean(), x.std()], abs=0.01 * scale)


@njit
def product(z, y, sd, width):
    return -0.5 * (z[0] ** 2 + z[1] ** 2) / width**2 - 0.5 * ((y - z[0] * z[1]) / sd) ** 2


@pytest.mark.parametrize("family", ["full", "diag"])
def test_two_ridges_of_a_product(family):
    """By symmetry 0 is a saddle of the density, and N(0, Σ) of the ELBO; a fit at a ridge is far better."""
    model = fv.Model(product, 2, (6.0, 0.3, 2.0))
    beside = fv.fit(model, family, fv.Gaussian([2.4, 2.4], 0.01 * np.eye(2)))
    found = fv.fit(model, family)
    assert found.elbo.value == pytest.approx(beside.elbo.value, abs=1e-6)
    assert found.converged


def test_a_log_concave_posterior_is_not_searched(monkeypatch):
    """Its ELBO has one maximum, and the search for others takes 29 evaluations on a line."""

    @njit
    def logistic(z, x, y):
        total = -0.5 * (z @ z)
        for i in range(y.size):
            t = x[i] * z[0] + z[z.size - 1]
            total += y[i] * t - np.logaddexp(0.0, t)
        return total

    def search(*_):
        raise AssertionError

    monkeypatch.setattr(optima, "_Search", search)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=20), (rng.random(20) < 0.5) * 1.0
    for dim in (1, 2):
        assert fv.fit(fv.Model(logistic, dim, (x, y))).converged

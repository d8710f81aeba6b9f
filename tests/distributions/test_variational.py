"""Truncated Gaussians, against SciPy; moments of Gaussians after transforms."""

import math

import numpy as np
import pytest
from scipy import stats

import fastvi as fv
from reference.inference import posterior_nodes


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (-math.inf, -1.0), (2.0, 2.5), (30.0, math.inf)])
def test_truncated_gaussians(low, high):
    q = fv.TruncatedGaussian(0.3, 1.2, low, high)
    exact = stats.truncnorm((low - 0.3) / 1.2, (high - 0.3) / 1.2, 0.3, 1.2)
    assert abs(q.mean[0] / exact.mean() - 1) <= 1e-12
    x = q.sample(50, 0)
    np.testing.assert_allclose(q.logpdf(x), exact.logpdf(x[:, 0]), rtol=1e-10, atol=1e-10)
    assert ((x >= low) & (x <= high)).all()
    if low < 30.0:  # where SciPy's moments hold
        assert abs(q.cov[0, 0] / exact.var() - 1) <= 1e-9
        nodes, weight = posterior_nodes("box", [max(low, -15.0)], [min(high, 15.0)], 400)
        log_density = exact.logpdf(nodes[:, 0])
        assert abs(q.entropy() + (np.exp(log_density + weight) * log_density).sum()) <= 1e-9
    assert stats.kstest(q.sample(4000, 2)[:, 0], exact.cdf).pvalue > 1e-3


SUPPORTS = [
    ["positive", ("upper", 3.0)],
    ["real", ("lower", -1.0)],
    [("ordered", 2)],
    [("positive_ordered", 2)],
    ["real", ("interval", 0.0, 2.0)],
]


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_moments_after_transforms(support):
    """Against a finer lattice than that of the class."""
    gaussian = fv.Gaussian([0.3, -0.5], [[0.7, 0.3], [0.3, 0.5]])
    q = fv.TransformedGaussian(gaussian, support, 2)
    axis = np.arange(-10.0, 10.01, 0.1)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.exp(-0.5 * (nodes**2).sum(axis=1))
    weights /= weights.sum()
    z, log_jacobian = q._support.to_model(gaussian.mean + nodes @ gaussian.cholesky.T)
    mean = weights @ z
    np.testing.assert_allclose(q.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(q.cov, (z - mean).T @ ((z - mean) * weights[:, None]), rtol=1e-9)
    assert abs(q.entropy() - gaussian.entropy() - weights @ log_jacobian) <= 1e-10


def test_moments_beside_simplexes():
    """In more dimensions those of real and log-normal coordinates are exact, also beside others."""
    support = ["positive", ("simplex", 3), "real", ("ordered", 2), ("interval", 0.0, 1.0)]
    rng = np.random.default_rng(0)
    root = 0.4 * np.tril(rng.standard_normal((7, 7))) + 0.3 * np.eye(7)
    gaussian = fv.Gaussian(rng.standard_normal(7), root @ root.T)
    q = fv.TransformedGaussian(gaussian, support, 8)
    m, v = gaussian.mean, np.diag(gaussian.cov)
    exponential = np.exp(m + 0.5 * v)
    np.testing.assert_allclose(q.mean[[0, 4, 5]], [exponential[0], m[3], m[4]], rtol=1e-13)
    np.testing.assert_allclose(q.mean[6], m[4] + exponential[5], rtol=1e-13)
    variance = exponential[5] ** 2 * math.expm1(v[5]) + v[4] + 2 * gaussian.cov[4, 5] * exponential[5]
    expected = [exponential[0] ** 2 * math.expm1(v[0]), v[3], v[4], variance]
    np.testing.assert_allclose(np.diag(q.cov)[[0, 4, 5, 6]], expected, rtol=1e-13)
    z = q.sample(200_000, 1)
    np.testing.assert_allclose(q.mean, z.mean(axis=0), atol=0.01 * z.std(axis=0).max())
    np.testing.assert_allclose(q.cov, np.cov(z.T), atol=0.03 * np.diag(q.cov).max())
    assert np.linalg.eigvalsh(q.cov)[1] > 0.0  # the simplex has one direction of zero

"""Posteriors with mass where z rounds to a bound of its support: the errors cover what is lost there."""

import math

import numpy as np
import pytest
from scipy import special, stats

import fastvi as fv
from fastvi.distributions.gaussian import LowRank
from fastvi.inference.saturation import elbo_error, evidence_error
from helpers.posteriors import limits_of


def log_beta(z, a, b):
    return (a - 1.0) * math.log(z[0]) + (b - 1.0) * math.log1p(-z[0])


def log_gamma(z, a, b):
    return (a - 1.0) * math.log(z[0]) - b * z[0]


def test_beta_near_one():
    # A third of Beta(0.1, 0.02) lies within 1e-16 of 1.
    a, b = 0.1057, 0.0393
    model = fv.Model(log_beta, 1, (a, b), support=("interval", 0.0, 1.0))
    q = fv.TransformedGaussian(fv.Gaussian(20.0, 100.0), model.support, 1)
    t = np.linspace(-12.0, 12.0, 20_001)
    x = 20.0 + 10.0 * t
    logs = -a * np.logaddexp(0.0, -x) - b * np.logaddexp(0.0, x)
    truth = np.exp(-0.5 * t * t) @ logs / np.exp(-0.5 * t * t).sum() + q.gaussian.entropy()
    found = fv.elbo(model, q, rtol=1e-6)
    assert abs(found.value - truth) <= found.error <= 2.0


def log_gammas(z, a, b):
    total = 0.0
    for i in range(z.size):
        total += (a + 0.1 * i - 1.0) * math.log(z[i] - 1.0) - b * (z[i] - 1.0)
    return total


def test_a_factor_of_low_rank_says_what_its_cholesky_factor_says():
    model = fv.Model(log_gammas, 6, (0.1, 1.0), support=("lower", 1.0))
    rng = np.random.default_rng(7)
    for rank in range(4):
        mean, factor = rng.normal(-20.0, 5.0, 6), rng.normal(0.0, 1.0, (1 + rank, 6))
        factor[0] = rng.uniform(2.0, 4.0, 6)
        expected = elbo_error(model, mean, LowRank(factor).cholesky())
        assert expected > 0.01
        np.testing.assert_allclose(elbo_error(model, mean, factor), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("support", "dim", "distance", "bounds"),
    [
        ("positive", 1, lambda z: z[0], (0.0,)),
        (("lower", 1e6), 1, lambda z: z[0] - 1e6, (1e6,)),
        (("upper", -3.0), 1, lambda z: -3.0 - z[0], (3.0,)),
        (("interval", 0.0, 1.0), 1, lambda z: min(z[0], 1.0 - z[0]), (0.0, 1.0)),
        (("interval", -5.0, 2.0), 1, lambda z: min(z[0] + 5.0, 2.0 - z[0]), (5.0, 2.0)),
        ("simplex", 4, lambda z: min(z[0], sum(z[1:])), (0.0, 0.0)),
        ("ordered", 2, lambda z: z[1] - z[0], (1.0,)),  # beside numbers of that size
    ],
)
def test_limits_are_where_digits_are_lost(support, dim, distance, bounds):
    """There the distance from the bound is 64 times that of floats."""
    found = fv.Model(log_gammas, dim, (0.1, 1.0), support=support)._support
    real, i = limits_of(found)[0], 1 if support == "ordered" else 0
    assert i == 0 or real == (-math.inf, math.inf)
    limits = [
        (end, inside)
        for end, inside in zip(limits_of(found)[i], (1.0, -1.0), strict=True)
        if math.isfinite(end)
    ]
    for (end, inside), bound in zip(limits, bounds, strict=True):
        for further in (-0.1, 0.1):
            x = np.ones((1, found.latent_dim))
            x[0, i] = end + inside * further
            (z,), _ = found.to_model(x)
            expected = 64.0 * np.spacing(bound) * math.exp(further)
            assert abs(distance(z.tolist()) - expected) <= 2.0 * np.spacing(bound)


def tilted(z, a):
    return a * math.log1p(-z[0]) * math.log1p(-z[1])


def test_the_other_coordinates_are_as_expected_there():
    """The log joint is a x y for the latent coordinates: along x, the slope is off by a y."""
    model = fv.Model(tilted, 2, (0.1,), support=("upper", 1.0))
    ((least, _), _), mean = limits_of(model._support), np.array([-25.0, -20.0])
    cov = np.array([[16.0, -7.0], [-7.0, 25.0]])
    total = 0.0
    for i in range(2):
        deviation = math.sqrt(cov[i, i])
        depth = (mean[i] - least) / deviation
        other = mean[1 - i] + cov[0, 1] / cov[i, i] * (least - mean[i])
        beyond = stats.norm.pdf(depth) - depth * stats.norm.sf(depth)
        total += abs(0.1 * other) * deviation * beyond
    found = elbo_error(model, mean, np.linalg.cholesky(cov))
    assert abs(found - 2.0 * total) <= 0.02 * found


def test_mass_below_the_least_float():
    # exp(-744 a) of Gamma(a) lies below it.
    model = fv.Model(log_gamma, 1, (0.0126, 6.0), support="positive")
    value = special.gammaln(0.0126) - 0.0126 * math.log(6.0)
    assert 8e-5 <= evidence_error(model, np.array([-6.0]), value) <= 1e-3
    assert evidence_error(model.with_data((1.5, 6.0)), np.array([-1.0]), 0.0) < 1e-12


def test_nothing_is_known_where_no_float_is_large_enough():
    """A fit that had moved to log z = 2e14 had the ELBO 2.3e14, with an error of 7e7."""
    model = fv.Model(log_gammas, 3, (2.0, 1.0), support=("lower", 1.0))
    assert elbo_error(model, np.full(3, 599.0), 1e-3 * np.eye(3)) < math.inf
    assert elbo_error(model, np.full(3, -700.0), 1e-3 * np.eye(3)) < math.inf
    assert elbo_error(model, np.array([0.0, 2e14, 0.0]), np.eye(3)) == math.inf

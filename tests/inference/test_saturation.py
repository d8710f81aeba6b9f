"""Posteriors with mass where z rounds to a bound of its support: the errors cover what is lost there."""

import math

import numpy as np
from scipy import special

import fastvi as fv
from fastvi.inference.saturation import evidence_error


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


def test_mass_below_the_least_float():
    # exp(-744 a) of Gamma(a) lies below it.
    model = fv.Model(log_gamma, 1, (0.0126, 6.0), support="positive")
    value = special.gammaln(0.0126) - 0.0126 * math.log(6.0)
    assert 8e-5 <= evidence_error(model, np.array([-6.0]), value) <= 1e-3
    assert evidence_error(model.with_data((1.5, 6.0)), np.array([-1.0]), 0.0) < 1e-12

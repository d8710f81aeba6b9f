"""Eight schools (Rubin, 1981), non-centred, as a jitted function: what models of other systems must equal."""

import math

import numba
import numpy as np
import pytest

import fastvi as fv

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@numba.njit
def log_joint(z, y, sigma):
    """Eight schools: mu, the effects in units of tau, log tau."""
    mu, log_tau = z[0], z[9]
    tau = math.exp(log_tau)
    total = -0.5 * (mu / 5.0) ** 2 - math.log(5.0) - HALF_LOG_2PI
    total += math.log(2.0 / (math.pi * 5.0)) - math.log1p((tau / 5.0) ** 2) + log_tau
    for i in range(8):
        residual = (y[i] - mu - tau * z[1 + i]) / sigma[i]
        total -= 0.5 * z[1 + i] ** 2 + 0.5 * residual**2 + math.log(sigma[i]) + 2.0 * HALF_LOG_2PI
    return total


def gradient(z, grad, y, sigma):
    mu, tau = z[0], math.exp(z[9])
    grad[0] = -mu / 25.0
    grad[9] = 1.0 - 2.0 * (tau / 5.0) ** 2 / (1.0 + (tau / 5.0) ** 2)
    for i in range(8):
        slope = (y[i] - mu - tau * z[1 + i]) / sigma[i] ** 2
        grad[1 + i] = slope * tau - z[1 + i]
        grad[0] += slope
        grad[9] += slope * tau * z[1 + i]
    return log_joint(z, y, sigma)


def native():
    return fv.Model(log_joint, 10, (Y, SIGMA), log_joint_grad=gradient)


def check_same(model, tolerance=1e-9):
    """The fit of a model; its values are those of the native one, and its ELBO, up to the tolerance."""
    same = native()
    points = np.random.default_rng(0).standard_normal((33, 10))
    assert np.allclose(model.log_density(points), same.log_density(points), rtol=0, atol=tolerance)
    fit, other = fv.fit(model, "diag"), fv.fit(same, "diag")
    assert fit.converged
    assert fit.elbo.value == pytest.approx(other.elbo.value, abs=tolerance)
    assert fv.elbo(model, other.q).value == pytest.approx(fv.elbo(same, other.q).value, abs=tolerance)
    return fit

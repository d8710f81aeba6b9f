"""A filter whose posterior has two modes: a target beside a wall that mirrors it.

The target moves in the plane. Each measurement is its position, or with probability `ECHO` that of its mirror
image behind the wall x = 0, plus noise. So the posterior of a Gaussian belief is a mixture of two Gaussians.
The filter replaces it by one Gaussian: the M-projection covers both modes, the I-projection takes one.
"""

import numpy as np
from numba import njit

import fastvi as fv

ECHO, NOISE, WALK, KEEP = 0.3, 0.6, 0.4, 0.95
HOME = np.array([1.0, 0.0])
MIRROR = np.array([[-1.0, 0.0], [0.0, 1.0]])


@njit
def update(belief, y):
    """The posterior of a belief as a mixture: one Kalman update for each origin of the measurement."""
    logs, means, covs = np.empty(2), np.empty((2, 2)), np.empty((2, 2, 2))
    for k in range(2):
        seen = y if k == 0 else MIRROR @ y  # an echo at y is a measurement of the position mirrored back
        prior = belief.cov
        gain = prior @ np.linalg.inv(prior + NOISE**2 * np.eye(2))
        means[k] = belief.mean + gain @ (seen - belief.mean)
        covs[k] = prior - gain @ prior
        covs[k] = 0.5 * (covs[k] + covs[k].T)
        evidence = fv.Gaussian(belief.mean, prior + NOISE**2 * np.eye(2)).logpdf(seen)
        logs[k] = np.log(1.0 - ECHO if k == 0 else ECHO) + evidence
    weights = np.exp(logs - logs.max())
    return fv.GaussianMixture(weights / weights.sum(), means, covs)


@njit(nogil=True, cache=True)
def track(measured, by_m, means, covs):
    """Filter many tracks (N, T, 2); writes the mean and covariance of the belief after each step."""
    for n in range(measured.shape[0]):
        belief = fv.Gaussian(HOME, 1.6 * np.eye(2))
        for t in range(measured.shape[1]):
            belief = fv.Gaussian(
                HOME + KEEP * (belief.mean - HOME), KEEP**2 * belief.cov + WALK**2 * np.eye(2)
            )
            posterior = update(belief, measured[n, t])
            belief = fv.m_projection(posterior).q if by_m else fv.i_projection(posterior).q
            means[n, t], covs[n, t] = belief.mean, belief.cov


def world(rng, tracks=200, steps=60):
    """True positions and measurements, each (tracks, steps, 2)."""
    rng = np.random.default_rng(rng)
    true, z = np.empty((tracks, steps, 2)), HOME + 1.6**0.5 * rng.standard_normal((tracks, 2))
    for t in range(steps):
        z = HOME + KEEP * (z - HOME) + WALK * rng.standard_normal((tracks, 2))
        true[:, t] = z
    echo = rng.random((tracks, steps, 1)) < ECHO
    measured = np.where(echo, true @ MIRROR, true) + NOISE * rng.standard_normal((tracks, steps, 2))
    return true, measured


def simulate(rng=0, tracks=200, steps=60, progress=range):
    """(true positions, {"M" or "I": (means, covariances)}); `progress` may show a bar."""
    true, measured = world(rng, tracks, steps)
    found = {}
    for name in ("M", "I"):
        means, covs = np.empty((tracks, steps, 2)), np.empty((tracks, steps, 2, 2))
        for n in progress(0, tracks, 20):
            some = slice(n, n + 20)
            track(measured[some], name == "M", means[some], covs[some])
        found[name] = means, covs
    return true, found

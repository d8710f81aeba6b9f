"""fastvi inside a user's compiled loops, beside what the user would write without fastvi."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
from numba import njit

import fastvi as fv
from fastvi.examples import agents, tracking

from .contenders import Comparison, Peer
from .inputs import pair

ROWS = 1000


# A divergence of sixteen entries, a thousand times.


@functools.cache
def fastvi_small():
    @njit
    def total(p, q):
        s = 0.0
        for i in range(len(p)):
            s += fv.kl(p[i], q[i])
        return s

    return total


@functools.cache
def users_small():
    @njit
    def total(p, q):
        s = 0.0
        for i in range(len(p)):
            for j in range(p.shape[1]):
                s += p[i, j] * math.log(p[i, j] / q[i, j])
        return s

    return total


def exact_small(p, q):
    return (p.astype(np.longdouble) * np.log(p.astype(np.longdouble) / q)).sum()


# One step of the foragers, after twenty.


@functools.cache
def foragers():
    log_rates, uniforms = agents.world(0, steps=21)
    patch = np.arange(agents.AGENTS) % log_rates.shape[1]
    mean, variance = np.zeros(agents.AGENTS), np.ones(agents.AGENTS)
    counters = np.zeros(agents.AGENTS), np.zeros(agents.AGENTS, np.int64)
    agents.live(0, 20, log_rates, uniforms, patch, mean, variance, *counters)
    return log_rates, uniforms, patch, mean, variance


def observed():
    """(count, prior mean, prior variance) of each forager in that step."""
    log_rates, uniforms, patch, mean, variance = foragers()
    rates = np.exp(log_rates[20, patch])
    counts = np.array([agents.poisson(r, u) for r, u in zip(rates, uniforms[20], strict=True)], float)
    return counts, agents.KEEP * mean, agents.KEEP**2 * variance + agents.DRIFT**2


def fastvi_foragers():
    log_rates, uniforms, *state = foragers()

    def step(counts, prior_mean, prior_variance):
        patch, mean, variance = (array.copy() for array in state)
        counters = np.zeros(agents.AGENTS), np.zeros(agents.AGENTS, np.int64)
        agents.live(20, 21, log_rates, uniforms, patch, mean, variance, *counters)
        return mean

    return step


def after(mean, sd):
    """The posterior means, or the prior mean 0 of the next patch for foragers that leave."""
    return np.where(np.exp(mean + 0.5 * sd**2) < agents.LEAVE, 0.0, mean)


def gauss_hermite(count):
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


#: The rate that takes the fewest steps to 1e-6 on these data, found by trial; larger ones diverge.
RATE, STEPS = 0.13, 90


def numpy_gradient():
    nodes, weights = gauss_hermite(32)

    def step(counts, mean, variance):
        mu, log_sd = mean.copy(), 0.5 * np.log(variance)
        for _ in range(STEPS):
            sd = np.exp(log_sd)
            z = mu[:, None] + sd[:, None] * nodes
            gradient = counts[:, None] - np.exp(z) - (z - mean[:, None]) / variance[:, None]
            mu += RATE * variance * (gradient @ weights)
            log_sd += 0.5 * RATE * (sd * (gradient @ (nodes * weights)) + 1.0)
        return after(mu, np.exp(log_sd))

    return step


def numpy_newton(count=32, steps=12):
    nodes, weights = gauss_hermite(count)

    def step(counts, mean, variance):
        mu, precision = mean.copy(), 1.0 / variance
        for _ in range(steps):
            rate = np.exp(mu[:, None] + nodes / np.sqrt(precision)[:, None]) @ weights
            precision = 1.0 / variance + rate
            mu += (counts - rate - (mu - mean) / variance) / precision
        return after(mu, 1.0 / np.sqrt(precision))

    return step


def exact_foragers(counts, mean, variance):
    return numpy_newton(64, 60)(counts, mean, variance)


def difference(value, exact):
    return float(np.max(np.abs(value - exact)))


# A track of the filter beside the wall.

TRACK = 10


def track():
    _, measured = tracking.world(1, tracks=1, steps=TRACK)
    return (measured,)


def fastvi_track():
    def run(measured):
        means, covs = np.empty((1, TRACK, 2)), np.empty((1, TRACK, 2, 2))
        tracking.track(measured, False, means, covs)
        return means[0]

    return run


def python_track(collapse):
    """The filter in Python, with `collapse` from a mixture to (mean, covariance)."""

    def run(measured):
        belief = fv.Gaussian(tracking.HOME, 1.6 * np.eye(2))
        means = np.empty((TRACK, 2))
        for t in range(TRACK):
            home, keep = tracking.HOME, tracking.KEEP
            belief = fv.Gaussian(
                home + keep * (belief.mean - home), keep**2 * belief.cov + tracking.WALK**2 * np.eye(2)
            )
            belief = fv.Gaussian(*collapse(tracking.update(belief, measured[0, t])))
            means[t] = belief.mean
        return means

    return run


def exact_track(measured):
    def collapse(p):
        q = fv.i_projection(p, rtol=1e-11).q
        return q.mean, q.cov

    return python_track(collapse)(measured)


def scipy_track(points, weights, moving):
    """BFGS over mean and factor, from each component; the points are fixed in the plane, or move with q."""
    from scipy.optimize import minimize

    def log_density(p, x, y):
        terms = []
        for w, m, c in zip(p.weights, p.means, p.covs, strict=True):
            precision, (u, v) = np.linalg.inv(c), (x - m[0], y - m[1])
            square = precision[0, 0] * u * u + 2.0 * precision[0, 1] * u * v + precision[1, 1] * v * v
            terms.append(
                math.log(max(w, 1e-300) / (2.0 * math.pi * math.sqrt(np.linalg.det(c)))) - 0.5 * square
            )
        return np.logaddexp(*terms)

    def collapse(p):
        fixed = None if moving else log_density(p, *points)

        def divergence(theta):
            a, b, c = math.exp(theta[2]), theta[3], math.exp(theta[4])
            entropy = theta[2] + theta[4] + math.log(2.0 * math.pi) + 1.0
            if moving:
                u, v = points
                value = log_density(p, theta[0] + a * u, theta[1] + b * u + c * v)
                return -entropy - float((weights * value).sum())
            u = (points[0] - theta[0]) / a
            v = (points[1] - theta[1] - b * u) / c
            q = np.exp(-0.5 * (u * u + v * v)) / (2.0 * math.pi * a * c)
            return -entropy - float((weights * q * fixed).sum())

        found = []
        for m, c in zip(p.means, p.covs, strict=True):
            factor = np.linalg.cholesky(c)
            start = [*m, math.log(factor[0, 0]), factor[1, 0], math.log(factor[1, 1])]
            found.append(minimize(divergence, start, method="BFGS"))
        theta = min(found, key=lambda result: result.fun).x
        factor = np.array([[math.exp(theta[2]), 0.0], [theta[3], math.exp(theta[4])]])
        return theta[:2], factor @ factor.T

    return python_track(collapse)


def scipy_grid_track():
    x = np.linspace(-7.0, 7.0, 201)
    return scipy_track((x[:, None], x[None, :]), (x[1] - x[0]) ** 2, moving=False)


def scipy_gauss_hermite_track():
    nodes, weights = gauss_hermite(20)
    points = np.repeat(nodes, 20), np.tile(nodes, 20)
    return scipy_track(points, np.outer(weights, weights).ravel(), moving=True)


COMPILED = (
    Comparison(
        work="1,000 kl of n = 16 inside @njit",
        inputs=lambda: pair((ROWS, 16)),
        exact=exact_small,
        fastvi=fastvi_small,
        peers=(Peer("the user's sum with math.log", users_small, (1.5,)),),
    ),
    Comparison(
        work="10,000 foragers, one step",
        inputs=observed,
        exact=exact_foragers,
        fastvi=fastvi_foragers,
        peers=(
            Peer("NumPy, 32 nodes, gradient steps to 1e-6", numpy_gradient, (None, 50)),
            Peer("NumPy, 32 nodes, Newton's steps", numpy_newton),
            Peer("the same loop, 1 thread", fastvi_foragers, (0.9, 1.8)),
        ),
        threads=(1, 2) if numba.config.NUMBA_NUM_THREADS > 1 else (1,),
        error=difference,
    ),
    Comparison(
        work=f"{TRACK} steps of the filter, I-projections",
        inputs=track,
        exact=exact_track,
        fastvi=fastvi_track,
        peers=(
            Peer("scipy BFGS, 201 x 201 grid", scipy_grid_track, (200,)),
            Peer("scipy BFGS, 20 x 20 Gauss-Hermite", scipy_gauss_hermite_track),
        ),
        error=difference,
    ),
)

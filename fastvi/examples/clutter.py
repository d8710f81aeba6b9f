"""A Gaussian-sum filter: a target among false detections.

The target walks in the plane, and now and then leaps. At each step there are `SEEN` detections: one is the
target with probability `DETECTED`, the others lie anywhere in the square. So a component of the belief
becomes several: one for each motion and each detection that may be the target. `fv.reduce_mixture` makes a
few of them again; the filter beside it keeps those of the largest weights.
"""

import numpy as np
from numba import njit

import fastvi as fv

KEPT, SEEN, DETECTED, HALF, NOISE = 6, 4, 0.7, 8.0, 0.5
WALKS, CHANCES = np.array([0.25, 1.5]), np.array([0.85, 0.15])


@njit
def update(belief, detections):
    """The posterior of a belief as a mixture: for each component, each motion, and each detection or none."""
    count, eye = belief.weights.size, np.eye(2)
    size = count * 2 * (SEEN + 1)
    logs, means, covs = np.empty(size), np.empty((size, 2)), np.empty((size, 2, 2))
    at = 0
    for k in range(count):
        for motion in range(2):
            prior = belief.covs[k] + WALKS[motion] ** 2 * eye
            spread = prior + NOISE**2 * eye
            gain = prior @ np.linalg.inv(spread)
            chance = np.log(belief.weights[k] * CHANCES[motion])
            for j in range(SEEN + 1):
                logs[at], means[at], covs[at] = chance + np.log(1.0 - DETECTED), belief.means[k], prior
                if j < SEEN:
                    seen = fv.Gaussian(belief.means[k], spread).logpdf(detections[j])
                    logs[at] = chance + np.log(DETECTED / SEEN * (2.0 * HALF) ** 2) + seen
                    means[at] = belief.means[k] + gain @ (detections[j] - belief.means[k])
                    covs[at] = prior - gain @ prior
                    covs[at] = 0.5 * (covs[at] + covs[at].T)
                at += 1
    weights = np.exp(logs - logs.max())
    return fv.GaussianMixture(weights / weights.sum(), means, covs)


@njit
def pruned(p):
    """The components of the largest weights."""
    best = np.argsort(p.weights)[-KEPT:]
    return fv.GaussianMixture(p.weights[best] / p.weights[best].sum(), p.means[best], p.covs[best])


@njit(nogil=True, cache=True)
def track(detections, reduced, true, means, surprise):
    """Filter many tracks (N, T, SEEN, 2): the mean after each step, and -log of the density of the truth."""
    for n in range(detections.shape[0]):
        belief = fv.GaussianMixture(np.ones(1), np.zeros((1, 2)), np.eye(2).reshape((1, 2, 2)))
        for t in range(detections.shape[1]):
            posterior = update(belief, detections[n, t])
            belief = fv.reduce_mixture(posterior, KEPT, tol=0.01).mixture if reduced else pruned(posterior)
            means[n, t], surprise[n, t] = belief.mean, -belief.logpdf(true[n, t])


def world(rng, tracks=12, steps=30):
    """True positions (tracks, steps, 2) and detections (tracks, steps, SEEN, 2)."""
    rng = np.random.default_rng(rng)
    sizes = WALKS[(rng.random((tracks, steps, 1)) < CHANCES[1]).astype(int)]
    true = (sizes * rng.standard_normal((tracks, steps, 2))).cumsum(axis=1)
    true += rng.standard_normal((tracks, 1, 2))
    detections = rng.uniform(-HALF, HALF, (tracks, steps, SEEN, 2))
    found = rng.random((tracks, steps)) < DETECTED
    detections[found, 0] = true[found] + NOISE * rng.standard_normal((found.sum(), 2))
    return true, detections


def simulate(rng=0, tracks=12, steps=30, progress=range):
    """(true positions, {"reduced" or "pruned": (means, surprises)}); `progress` may show a bar."""
    true, detections = world(rng, tracks, steps)
    found = {}
    for name in ("reduced", "pruned"):
        means, surprise = np.empty((tracks, steps, 2)), np.empty((tracks, steps))
        for n in progress(0, tracks, 1):
            one = slice(n, n + 1)
            track(detections[one], name == "reduced", true[one], means[one], surprise[one])
        found[name] = means, surprise
    return true, found

"""Ten thousand foragers, each with a belief about the food in its patch.

The log rate x of food in a patch is an autoregressive process. A forager's belief about it is N(mean,
variance). In each step it counts the food that it finds, a Poisson number with rate e^x. Its new belief is
the Gaussian closest to the posterior: one ELBO fit. Where it expects less than `LEAVE`, it moves on to the
next patch, with a belief N(0, 1).
"""

import math

import numpy as np
from numba import njit, prange

from fastvi import kernels

STEPS, AGENTS, PATCHES, BLOCKS = 100, 10_000, 500, 16
DRIFT, KEEP, LEAVE = 0.2, 0.98, 0.5

exp = kernels.elementary.exp  # vectorised, unlike math.exp
fit, workspace, FULL = kernels.fits.fit_quadrature, kernels.fits.workspace, kernels.newton.FULL


@njit
def log_joint(z, count, mean, precision):
    return count * z[0] - exp(z[0]) - 0.5 * precision * (z[0] - mean) ** 2


@njit
def poisson(rate, uniform):
    count, term, total = 0, math.exp(-rate), math.exp(-rate)
    while total < uniform and count < 1000:
        count += 1
        term *= rate / count
        total += term
    return count


@njit(parallel=True, nogil=True, cache=True)
def live(first, last, log_rates, uniforms, patch, mean, variance, eaten, failed):
    """Steps first to last of all agents, in independent blocks: the bits do not depend on the threads."""
    for block in prange(BLOCKS):
        space, trace, report = workspace(1, 1), np.empty(0), np.empty(8)
        kinds, bounds = np.zeros(1, np.int64), np.zeros((1, 2))  # one coordinate, on the real line
        new_mean, new_sd = np.empty(1), np.empty((1, 1))
        for i in range(block * mean.size // BLOCKS, (block + 1) * mean.size // BLOCKS):
            for t in range(first, last):
                m, v = KEEP * mean[i], KEEP**2 * variance[i] + DRIFT**2  # a step of the process
                count = poisson(math.exp(log_rates[t, patch[i]]), uniforms[t, i])
                eaten[i] += count
                new_mean[0], new_sd[0, 0] = m, math.sqrt(v)
                problem = (float(count), m, 1.0 / v), kinds, bounds
                status = fit(log_joint, problem, FULL, new_mean, new_sd, 1e-8, 50, space, trace, report)
                failed[i] += status != 0
                mean[i], variance[i] = new_mean[0], new_sd[0, 0] ** 2
                if math.exp(mean[i] + 0.5 * variance[i]) < LEAVE:
                    patch[i] = (patch[i] + 1) % log_rates.shape[1]
                    mean[i], variance[i] = 0.0, 1.0


def world(rng, steps=STEPS, agents=AGENTS, patches=PATCHES):
    """The log rates (steps, patches), and a uniform number for each step of each agent."""
    rng = np.random.default_rng(rng)
    log_rates = np.empty((steps, patches))
    x = rng.standard_normal(patches)
    for t in range(steps):
        x = KEEP * x + DRIFT * rng.standard_normal(patches)
        log_rates[t] = x
    return log_rates, rng.random((steps, agents))


def simulate(rng=0, steps=STEPS, agents=AGENTS, patches=PATCHES, progress=range):
    """(patch, mean, variance, eaten, failed fits) of each agent at the end; `progress` may show a bar."""
    log_rates, uniforms = world(rng, steps, agents, patches)
    patch = np.arange(agents) % patches
    mean, variance = np.zeros(agents), np.ones(agents)
    eaten, failed = np.zeros(agents), np.zeros(agents, np.int64)
    for t in progress(0, steps, 5):
        live(t, min(t + 5, steps), log_rates, uniforms, patch, mean, variance, eaten, failed)
    return patch, mean, variance, eaten, failed

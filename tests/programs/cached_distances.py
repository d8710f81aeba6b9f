"""A user's function that is cached on disk: its values, and whether it was loaded or compiled."""

import numpy as np
from numba import njit

import fastvi as fv


@njit(cache=True)
def distances(p, q, mean, cov):
    return fv.js(p, q), fv.kl(fv.Gaussian(mean, cov), fv.Gaussian(mean + 1.0, cov))


p = np.array([0.25, 0.75])
print(distances(p, p[::-1].copy(), np.zeros(2), np.eye(2)))
print(sum(distances.stats.cache_hits.values()), sum(distances.stats.cache_misses.values()))

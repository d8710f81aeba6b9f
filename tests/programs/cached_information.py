"""A user's function of arrays that is cached on disk: how often it was loaded."""

import numpy as np
from numba import njit

import fastvi


@njit(cache=True)
def information(joint):
    return fastvi.kl(joint.ravel(), np.outer(joint.sum(axis=1), joint.sum(axis=0)).ravel())


value = information(np.array([[0.5, 0.0], [0.0, 0.5]]))
assert abs(value / np.log(2.0) - 1.0) < 1e-15, value
print("hits", sum(information.stats.cache_hits.values()))

"""Divergences in a parallel loop: an invalid item gives NaN, and disturbs no other."""

import math

import numpy as np
from numba import njit, prange

import fastvi


@njit(parallel=True)
def all_rows(p, q):
    out = np.empty((len(p), 2))
    for i in prange(len(p)):
        out[i, 0] = fastvi.kl(p[i], q[i])
        out[i, 1] = fastvi.js(p[i], q[i], base=2, mass="normalize")
    return out


p, q = np.random.default_rng(8).dirichlet(np.ones(40), size=(2, 100))
p[17, 3] = math.nan
q[60, 0] = -1.0
got = all_rows(p, q)
for i in range(100):
    if i in (17, 60):
        assert np.isnan(got[i]).all(), i
    else:
        assert got[i, 0] == fastvi.kl(p[i], q[i]), i
        assert got[i, 1] == fastvi.js(p[i], q[i], base=2, mass="normalize"), i
print("all rows agree")

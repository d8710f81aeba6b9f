"""Calls that use threads, after which another number for numba's pool is no error."""

import os

import numba
import numpy as np

import fastvi as fv
from long_pair import p, q


def log_joint(z):
    return -0.5 * (z[0] ** 2 + z[1] ** 2 + z[2] ** 2)


fv.kl(p, q)
fv.pairwise(np.random.default_rng(0).dirichlet(np.ones(40), size=400))
fv.fit_mixture(np.random.default_rng(0).normal(size=(3000, 2)), 3, restarts=4, rng=0)
fv.fit(fv.Model(log_joint, 3))
os.environ["NUMBA_NUM_THREADS"] = str(numba.config.NUMBA_NUM_THREADS + 1)
numba.njit(lambda x: x + 1)(1)
print("not started")

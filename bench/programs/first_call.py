"""CPU seconds of the first call of a process: the name of a row as argument.

Each function makes what its row needs, and returns the call.
"""

from __future__ import annotations

import sys
import time

import numba
import numpy as np

import fastvi as fv


def pair():
    return np.array([0.5, 0.5]), np.array([0.25, 0.75])


def mixture():
    return fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [np.eye(2)] * 2)


def log_joint(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2


def new_model():
    return fv.Model(log_joint, 1, data=(2.0,), support="positive")


@numba.njit
def jitted_kl(p, q):
    return fv.kl(p, q)


@numba.njit
def jitted_projection(p):
    return fv.i_projection(p).kl


@numba.njit
def jitted_fit(m):
    return fv.fit(m).elbo.value


def kl():
    p, q = pair()
    return lambda: fv.kl(p, q)


def fit():
    return lambda: fv.fit(new_model())


def i_projection():
    p = mixture()
    return lambda: fv.i_projection(p)


def njit_kl():
    p, q = pair()
    return lambda: jitted_kl(p, q)


def njit_i_projection():
    p = mixture()
    return lambda: jitted_projection(p)


def njit_fit():
    return lambda: jitted_fit(new_model())


call = globals()[sys.argv[1].replace(" ", "_")]()
numba.njit(lambda x: x)(1.0)  # starts the compiler itself: 0.5 s
start = time.process_time()
call()
print(time.process_time() - start)

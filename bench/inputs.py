"""Seeded inputs, cached so that asv's repeated `setup` does not draw them again."""

from __future__ import annotations

import functools

import numba
import numpy as np

# asv forks each benchmark from a process that has imported this file. The first compiled function of a
# process takes 0.3 s to load numba's parts: with three hundred forks, a minute and a half.
numba.njit(lambda: None)()


def _normalised(weights):
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


@functools.lru_cache(maxsize=1)
def pair(shape_p, shape_q=None, dtype="float64"):
    """Two arrays of distributions along the last axis, without zeros."""
    rng = np.random.default_rng(20240229)
    p = _normalised(rng.random(shape_p))
    q = _normalised(rng.random(shape_p if shape_q is None else shape_q))
    return p.astype(dtype, copy=False), q.astype(dtype, copy=False)

"""Threaded calls in forked children, before, between and after threaded calls of the parent."""

import multiprocessing

import numba
import numpy as np

import fastvi as fv
from fastvi.common import threads
from long_pair import p, q

P = np.random.default_rng(6).dirichlet(np.ones(40), size=400)


def work(k):
    """Of a long array or a table."""
    return fv.kl(p, q) if k % 2 else float(fv.pairwise(P).sum())


numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
wanted = [work(0), work(1)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6), chunksize=1) == wanted * 3
    assert [work(0), work(1)] == wanted
    assert pool.map(work, range(6), chunksize=1) == wanted * 3
assert [work(0), work(1)] == wanted
print("pool", threads._pool is not None)

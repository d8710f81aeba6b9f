"""Projections in a parallel loop: the same bits on any number of threads and workspaces."""

import numba
import numpy as np
from numba import njit, prange

import fastvi as fv
from fastvi.compiled.external import external
from fastvi.kernels import gaussians, projections

COMPONENTS, DIM = 3, 2

#: As Python calls it: compiled anew for the loop, it takes a minute.
i_projection = external("kernels.projections.mixture_projections.i_projection")


@njit
def copy(source, target):
    """In a loop, as an assignment takes 2.6 s to compile: numba has text for shapes that differ."""
    for i in range(source.size):
        target.flat[i] = source.flat[i]


@njit(parallel=True)
def in_chunks(log_weights, means, chols, found, reports, chunks):
    n = len(means)
    for c in prange(chunks):
        space = projections.workspace(COMPONENTS, DIM)
        mean, chol = np.empty(DIM), np.empty((DIM, DIM))
        for i in range(c * n // chunks, (c + 1) * n // chunks):
            copy(means[i, 0], mean)
            copy(chols[i, 0], chol)
            i_projection((log_weights[i], means[i], chols[i], 0, mean, chol, 1e-8, space, reports[i]))
            copy(mean, found[i, :DIM])
            copy(chol, found[i, DIM:])


@njit(parallel=True)
def distances(means, chols, out):
    for i in prange(len(means)):
        out[i] = gaussians.gaussian_kl(means[i, 0], chols[i, 0], means[i, 1], chols[i, 1], np.empty(2 * DIM))


rng = np.random.default_rng(3)
n = 60
weights = rng.dirichlet(np.ones(COMPONENTS), n)
means = 3.0 * rng.standard_normal((n, COMPONENTS, DIM))
a = rng.standard_normal((n, COMPONENTS, DIM, DIM))
covs = a @ a.swapaxes(-1, -2) + 0.3 * np.eye(DIM)
chols = np.linalg.cholesky(covs)
given = np.log(weights), means, chols
for g in given:
    g.flags.writeable = False
results = []
for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
    numba.set_num_threads(threads)
    for chunks in (n, 7, 1):  # a workspace for each mixture, for some, for all
        found, reports = np.full((n, DIM + DIM * DIM), np.nan), np.full((n, 5), np.nan)
        in_chunks(*given, found, reports, chunks)
        results.append((found.tobytes(), reports.tobytes()))
assert len(results) >= 6
assert len(set(results)) == 1, "the result depends on the threads"
for i in range(n):
    p = fv.GaussianMixture(weights[i], means[i], covs[i])
    expected = fv.i_projection(p, starts=[p.components[0]])
    assert abs(reports[i, 0] - expected.kl) <= 2 * expected.error + 1e-13, i
    assert np.allclose(found[i, :DIM], expected.q.mean, rtol=0, atol=1e-7), i
out = np.empty(n)
distances(means, chols, out)
for i in range(n):
    p = fv.GaussianMixture(weights[i], means[i], covs[i])
    assert abs(out[i] / fv.kl(*p.components[:2]) - 1.0) < 1e-9
print("the same bits")

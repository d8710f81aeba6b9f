"""Divergences, projections and fits in a user's functions: what they give, and what numba compiled for them.

One function is cached on disk; another one is not, and has its kernels from the disk only.
"""

import math

import numba
import numpy as np
from numba import njit, prange
from numba.core import event

import fastvi as fv


@njit
def log_joint(z, x, y):
    return -0.5 * (z[0] ** 2 + ((y - x * z[0]) ** 2).sum()) - 0.1 * z[0] ** 4


def operations(p, r, x, y):
    q = fv.fit(fv.Model(log_joint, 1, (x, y)))
    model = fv.Model(log_joint, 1, (x, y), "positive")
    optimum = fv.i_projection(p)
    return (
        fv.js(r[0], r[1]),
        fv.renyi(r[0], r[1], 2.0),
        fv.kl(p, fv.m_projection(p).q),
        optimum.kl,
        q.elbo.value,
        fv.fit(model, start=q.q).elbo.value,
        fv.elbo_grad(model, fv.fit(model).q).value,
        fv.log_evidence(model).value,
    )


def each(p, r, x, ys):
    out = np.empty(len(ys))
    for i in prange(len(ys)):
        out[i] = fv.fit(fv.Model(log_joint, 1, (x, ys[i]))).elbo.value + fv.kl(r[0], r[1])
    return out


def main():
    p = fv.GaussianMixture([0.3, 0.7], [[-3, 0.5], [3, 0]], [np.eye(2), [[1, 0.3], [0.3, 0.5]]])
    r, x, ys = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1.0, 2.0]), np.array([[0.5, 1.5], [2.0, 3.0]])
    cached = njit(cache=True)(operations), njit(cache=True, parallel=True)(each)
    with event.install_recorder("numba:compile") as recorder:
        values, many = cached[0](p, r, x, ys[0]), cached[1](p, r, x, ys)
        print("loaded", [sum(function.stats.cache_hits.values()) for function in cached])
        print("compiled for these", len(recorder.buffer))
        recorder.buffer.clear()
        if cached[0].stats.cache_hits:  # in the second process
            assert njit(operations)(p, r, x, ys[0]) == values
    functions = {record.data["dispatcher"].py_func for _, record in recorder.buffer}
    print("compiled", *sorted(f"{function.__module__}.{function.__qualname__}" for function in functions))
    assert all(map(math.isfinite, values))
    assert operations(p, r, x, ys[0]) == values, "other bits than in Python"
    assert each(p, r, x, ys).tolist() == many.tolist(), "other bits than in Python"
    for name, kernel in vars(fv.compiled.operations).items():
        if isinstance(kernel, numba.core.dispatcher.Dispatcher):
            assert len(kernel.full.signatures) <= 1, name
    for kernel in (
        fv.kernels.quadrature.mixture_kl.mixture_kl,
        fv.kernels.projections.mixture_projections.m_projection,
        fv.kernels.projections.mixture_projections.i_projections,
        fv.kernels.inference.entry_points.fit_quadrature,
        fv.kernels.inference.entry_points.elbo_quadrature,
        fv.kernels.inference.entry_points.laplace,
        fv.kernels.inference.entry_points.log_evidence,
    ):
        assert len(kernel.signatures) == 1, kernel


if __name__ == "__main__":
    main()

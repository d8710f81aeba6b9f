"""Projections of mixtures, beside what one would write with SciPy, JAX and NumPy.

The peers minimise KL(q ‖ p) on the 201 x 201 grid over [-7, 7]**2 that such scripts use, with log p
tabulated beforehand, from each component. Their parameters are the mean and the factor of q with the
logarithms of its diagonal. Errors are those of the divergences at the optima.
"""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
from numba import njit, prange

import fastvi as fv
from fastvi import kernels

from .contenders import Comparison, Peer

#: Mixtures in the batch: a hundredth of a second for each hundred.
BATCH = 5_000


@functools.cache
def mixture():
    return fv.GaussianMixture(
        [0.35, 0.65], [[-2.0, -1.0], [1.5, 1.0]], [[[1.0, 0.6], [0.6, 1.0]], [[1.2, -0.5], [-0.5, 0.8]]]
    )


def ring(components):
    """A mixture of round components on a ring, at distances of three."""
    angles = 2.0 * np.pi * np.arange(components) / components
    radius = 1.5 / np.sin(np.pi / components) if components > 1 else 0.0
    means = radius * np.column_stack([np.cos(angles), np.sin(angles)])
    weights = 1.0 + np.arange(components)
    return fv.GaussianMixture(weights / weights.sum(), means, [np.eye(2)] * components)


@functools.cache
def grid(points=201):
    return fv.Grid2D.from_distribution(mixture(), [(-7, 7), (-7, 7)], (points, points))


def exact_optima(p):
    """KL at the optima by an independent trapezoid sum; errors of the optima hardly change it."""
    step = 0.02
    x, y = (step * (np.arange(1601) - 800) for _ in range(2))
    z = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    values = []
    for optimum in fv.i_projection(p, rtol=1e-12).optima:
        log_q = optimum.q.logpdf(z)
        values.append(step**2 * math.fsum(np.exp(log_q) * (log_q - p.logpdf(z))))
    return np.array(values)


def fastvi_optima():
    return lambda p: [optimum.kl for optimum in fv.i_projection(p).optima]


def component_starts(p):
    return [
        np.array([*g.mean, math.log(g.cholesky[0, 0]), g.cholesky[1, 0], math.log(g.cholesky[1, 1])])
        for g in p.components
    ]


def grid_divergence(np_, x, y, log_p, cell):
    """KL(q ‖ p) on the grid, as a function of the five parameters, with NumPy or JAX."""

    def divergence(theta):
        u = (x - theta[0]) * np_.exp(-theta[2])
        v = (y - theta[1] - theta[3] * u) * np_.exp(-theta[4])
        log_q = -0.5 * (u * u + v * v) - theta[2] - theta[4] - math.log(2.0 * math.pi)
        return cell * (np_.exp(log_q) * (log_q - log_p)).sum()

    return divergence


def scipy_optima():
    from scipy.optimize import minimize

    g = grid()
    cell = (g.x[1] - g.x[0]) * (g.y[1] - g.y[0])
    divergence = grid_divergence(np, g.x[:, None], g.y[None, :], g.logp, cell)
    starts = component_starts(mixture())
    return lambda p: sorted(minimize(divergence, start, method="BFGS").fun for start in starts)


def jax_divergence(g):
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    cell = float((g.x[1] - g.x[0]) * (g.y[1] - g.y[0]))
    x, y, log_p = jnp.asarray(g.x)[:, None], jnp.asarray(g.y)[None, :], jnp.asarray(g.logp)
    return jax, grid_divergence(jnp, x, y, log_p, cell)


def jax_optima():
    jax, divergence = jax_divergence(grid())
    from jax.scipy.optimize import minimize

    solve = jax.jit(lambda start: minimize(divergence, start, method="BFGS").fun)
    starts = [jax.numpy.asarray(start) for start in component_starts(mixture())]
    return lambda p: sorted(float(solve(start)) for start in starts)


# One value and gradient on a given grid.


def start():
    """The heavier component, where a descent would start."""
    heavy = mixture().components[1]
    return np.array(heavy.mean), np.array(heavy.cholesky)


def exact_value(mean, chol):
    g = grid()
    divergence = grid_divergence(np, g.x[:, None], g.y[None, :], g.logp, (g.x[1] - g.x[0]) ** 2)
    return divergence([*mean, math.log(chol[0, 0]), chol[1, 0], math.log(chol[1, 1])])


def fastvi_value_and_gradient(points=201):
    g = grid(points)
    arrays = g._arrays
    grad_mean, grad_chol, space = np.empty(2), np.empty((2, 2)), kernels.grids.workspace()
    run = kernels.grids.grid_reverse_kl

    def value(mean, chol):
        return run(*arrays, mean, chol, grad_mean, grad_chol, space)[0]

    return value


def jax_value_and_gradient(points=201):
    jax, divergence = jax_divergence(grid(points))
    run = jax.jit(jax.value_and_grad(divergence))
    mean, chol = start()
    theta = jax.numpy.asarray([*mean, math.log(chol[0, 0]), chol[1, 0], math.log(chol[1, 1])])

    def value(mean, chol):
        result, gradient = run(theta)
        gradient.block_until_ready()
        return float(result)

    return value


# The M-projection, which is two formulas.


def exact_covariance(p):
    return numpy_matching()(p)


def fastvi_matching():
    return lambda p: fv.m_projection(p).q.cov


def numpy_matching():
    def match(p):
        mean = p.weights @ p.means
        centred = p.means - mean
        return np.einsum("k,kij->ij", p.weights, p.covs) + np.einsum(
            "k,ki,kj->ij", p.weights, centred, centred
        )

    return match


# Many mixtures, in a loop that a user has compiled.


@functools.cache
def batch():
    rng = np.random.default_rng(20240229)
    weights = rng.dirichlet([2.0, 2.0], BATCH)
    means = 2.0 * rng.standard_normal((BATCH, 2, 2))
    roots = 0.6 * rng.standard_normal((BATCH, 2, 2, 2))
    factors = np.linalg.cholesky(roots @ roots.swapaxes(-1, -2) + 0.3 * np.eye(2))
    return np.log(weights), means, factors


@functools.cache
def user_loop():
    solve, make_space = kernels.projections.i_projection, kernels.projections.workspace
    full = kernels.newton.FULL

    @njit(parallel=True)
    def project(log_weights, means, factors, out):
        pieces = 64
        n = len(out)
        for piece in prange(pieces):
            space, report = make_space(2, 2), np.empty(5)
            mean, factor = np.empty(2), np.empty((2, 2))
            for i in range(piece * n // pieces, (piece + 1) * n // pieces):
                k = np.argmax(log_weights[i])
                mean[:] = means[i, k]
                factor[:] = factors[i, k]
                solve(log_weights[i], means[i], factors[i], full, mean, factor, 1e-8, space, report)
                out[i] = report[0]

    return project


def project_batch():
    project = user_loop()
    out = np.empty(BATCH)

    def run(log_weights, means, factors):
        project(log_weights, means, factors, out)
        return out

    return run


def exact_batch(log_weights, means, factors):
    numba.set_num_threads(1)
    return project_batch()(log_weights, means, factors).copy()


PROJECTIONS = (
    Comparison(
        work="all I-projections of a mixture of two, 2-D",
        inputs=lambda: (mixture(),),
        exact=exact_optima,
        fastvi=fastvi_optima,
        peers=(
            Peer("scipy BFGS, 201 x 201 grid", scipy_optima, (400,)),
            Peer("jax.jit BFGS, 201 x 201 grid", jax_optima, (100,)),
        ),
    ),
    Comparison(
        work="KL(q ‖ p) and gradient, 201 x 201 grid",
        inputs=start,
        exact=exact_value,
        fastvi=fastvi_value_and_gradient,
        peers=(Peer("jax.jit(value_and_grad)", jax_value_and_gradient, (8,)),),
    ),
    Comparison(
        work="M-projection, 2-D, K = 2, from Python",
        inputs=lambda: (mixture(),),
        exact=exact_covariance,
        fastvi=fastvi_matching,
        peers=(Peer("NumPy's formula", numpy_matching, (1,)),),
    ),
    Comparison(
        work=f"{BATCH:,} mixtures in a user's prange",
        inputs=batch,
        exact=exact_batch,
        fastvi=project_batch,
        peers=(Peer("the same loop, 1 thread", project_batch, (0.9, 1.7)),),
        threads=(1, 2),
    ),
)

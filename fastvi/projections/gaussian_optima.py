"""Projections of Gaussians, mixtures and grids onto Gaussians: moment matches and local optima."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common import scratch
from ..common.values import Array
from ..distributions.bounds import kl_bounds
from ..distributions.gaussian import Gaussian
from ..distributions.grid import Grid2D
from ..distributions.integrals import EPSILON, QUADRATURE_DIM, Estimate, rounding_of_factors, within_bounds
from ..distributions.kl_and_entropy import entropy_estimate, kl_estimate
from ..distributions.mixture import GaussianMixture
from ..kernels.families.table import PROJECTION_CODES
from ..kernels.statuses import COARSE_GRID, CONVERGED
from .result import Projection

#: Peaks of a grid that are taken as starts: the highest.
_PEAKS = 16

#: Entries of a `Report` of the kernels.
_REPORT = 5

#: Divergences of a moment match below this (in nats) are integrated: as the difference of two entropies they
#: have too few digits.
_FEW_DIGITS = 1e-3

#: Tolerance of the descents on a grid, whose optima are then evaluated by `kl_estimate`.
_GRID_RTOL = 1e-6

#: Error below which the divergence from a grid is accurate enough whatever its relative tolerance.
_GRID_ERROR = 1e-12

#: The Hessian at a peak of a grid is positive definite where xx yy exceeds xy² by this factor; its inverse is
#: used where its standard deviations are below this share of the grid's extent.
_DEFINITE, _EXTENT = 1.001, 0.5


def matched_factor(cov: Array, family: str) -> Array:
    """The factor of the M-projection of a distribution with this covariance."""
    if family == "full":
        return np.linalg.cholesky(cov)  # type: ignore[return-value]
    factor = np.array(cov)
    kernels.families.operations.match(PROJECTION_CODES[family], factor)
    return factor


def kl_of_moment_match(p: Any, q: Gaussian) -> Estimate:
    """KL(p ‖ q) where q has the moments of p: log |2 pi e Sigma| / 2 - h(p), Sigma the covariance of q."""
    if isinstance(p, Gaussian):
        return kl_estimate(p, q)
    if isinstance(p, GaussianMixture) and p.dim > QUADRATURE_DIM:
        return kl_estimate(p, q)
    h = entropy_estimate(p)
    value = q.entropy() - h.value
    if isinstance(p, GaussianMixture) and value < _FEW_DIGITS:
        return kl_estimate(p, q)
    return Estimate(max(value, 0.0), h.error + 2 * EPSILON * abs(h.value), h.evaluations, h.method)


def listed_starts(starts: Any, kind: Any, many: str, dim: int) -> list[Any]:
    """Distributions of one kind, some of them and of this dimension, to start from."""
    try:
        listed = list(starts)
    except TypeError:
        raise TypeError(f"starts must be a sequence of {many}, not {type(starts).__name__}") from None
    for k, start in enumerate(listed):
        if not isinstance(start, kind):
            raise TypeError(f"starts[{k}] must be a {kind.__name__}, not {type(start).__name__}")
        if start.dim != dim:
            raise ValueError(f"starts[{k}] has dimension {start.dim}, p has {dim}")
    if not listed:
        raise ValueError("starts is empty")
    return listed


def checked_starts(starts: Any, dim: int) -> tuple[Array, Array]:
    """(means, Cholesky factors) of Gaussians to start from."""
    gaussians = listed_starts(starts, Gaussian, "Gaussians", dim)
    return np.stack([s.mean for s in gaussians]), np.stack([s.cholesky for s in gaussians])


def _buffers(components: int, dim: int) -> tuple[Any, ...]:
    """Scratch space for I-projections of mixtures of this size, with arrays for the default starts."""
    most = components * (components + 3) // 2 + 1
    return (
        kernels.projections.optimum.workspace(components, dim),
        *_start_buffers(np.empty((most, dim)), np.empty((most, dim, dim))),
    )


def _start_buffers(means: Array, factors: Array) -> tuple[Any, ...]:
    """Starts, with arrays for the optima and for the reports of as many descents."""
    return means, factors, (np.empty_like(means), np.empty_like(factors)), np.empty((len(means), _REPORT))


def mixture_optima(p: GaussianMixture, family: int, starts: Any, rtol: float) -> Projection:
    """The I-projection of a mixture in up to three dimensions, with all local optima that are found."""
    dim = p._means.shape[1]
    buffers = scratch.space(_buffers, p._weights.size, dim)
    space, means, factors, found, reports = buffers
    given = 0
    if starts is not None:
        means, factors, found, reports = _start_buffers(*checked_starts(starts, dim))
        given = len(means)
    count = kernels.projections.mixture_projections.i_projections(
        p._triple(), family, given, means, factors, rtol, space, found, reports
    )
    if count == 0:
        raise ValueError("no Gaussian has a finite divergence from p: its numbers are out of range")
    optima = []
    rounding = rounding_of_factors(1.0, p)
    means, factors = means[:count].copy(), factors[:count].copy()
    for k, (value, error, gradient_norm, nodes, status) in enumerate(reports[:count].tolist()):
        q = Gaussian._from_factor(means[k], factors[k])
        if not error < math.inf:
            value, error = within_bounds(kl_bounds(q, p), value)
        error += rounding * (value + dim)
        optima.append((q, (value, error, int(nodes)), gradient_norm, int(status), int(nodes)))
    best, *others = optima
    return Projection(*best, [Projection(*other) for other in others])


def _grid_starts(p: Grid2D) -> tuple[Array, Array]:
    """(means, Cholesky factors): the moment match, and Laplace's approximation at each peak."""
    means, factors = [p.mean], [np.linalg.cholesky(p.cov)]
    peaks = np.empty((_PEAKS, 3))
    count = kernels.densities.grids.peaks(p._arrays[0], p._arrays[1], p._arrays[4], peaks, _PEAKS)
    for k in range(count):
        u, v, _ = peaks[k]
        cov = _peak_covariance(p, u, v)
        means.append(np.array([u, v]))
        factors.append(np.linalg.cholesky(cov))
    return np.stack(means), np.stack(factors)


def _peak_covariance(p: Grid2D, u: float, v: float) -> Array:
    """The inverse of the Hessian of -log p at a peak, by second differences.

    That of the whole grid, where the Hessian is not positive definite or too flat.
    """
    i = min(max(int(np.searchsorted(p.x, u)), 1), p.x.size - 2)
    j = min(max(int(np.searchsorted(p.y, v)), 1), p.y.size - 2)
    patch = p.logp[i - 1 : i + 2, j - 1 : j + 2]
    dx, dy = 0.5 * (p.x[i + 1] - p.x[i - 1]), 0.5 * (p.y[j + 1] - p.y[j - 1])
    with np.errstate(invalid="ignore"):
        xx = -(patch[2, 1] - 2 * patch[1, 1] + patch[0, 1]) / dx**2
        yy = -(patch[1, 2] - 2 * patch[1, 1] + patch[1, 0]) / dy**2
        xy = -(patch[2, 2] - patch[2, 0] - patch[0, 2] + patch[0, 0]) / (4 * dx * dy)
    if xx > 0.0 and yy > 0.0 and xx * yy > _DEFINITE * xy * xy:
        cov: Array = np.linalg.inv(np.array([[xx, xy], [xy, yy]]))
        if (np.sqrt(np.diag(cov)) < _EXTENT * np.array([np.ptp(p.x), np.ptp(p.y)])).all():
            return cov
    return np.array(p.cov)


def grid_optima(p: Grid2D, family: int, starts: Any, rtol: float) -> Projection:
    """The I-projection of a grid, with all local optima that are found."""
    zero = p.logp == -math.inf
    if zero.any():
        i, j = (int(k) for k in np.argwhere(zero)[0])
        raise ValueError(
            f"p is zero at x[{i}] = {p.x[i]!s}, y[{j}] = {p.y[j]!s}: "
            "KL(q ‖ p) is infinite for every Gaussian q"
        )
    grid = p.normalized()._arrays
    if starts is None:
        means, factors = _grid_starts(p)
    else:
        means, factors = checked_starts(starts, 2)
    reports = np.empty((len(means), _REPORT))
    count = kernels.projections.grid_projections.grid_projections(
        grid, family, means, factors, _GRID_RTOL, kernels.projections.grid_projections.workspace(), reports
    )
    if count == 0:
        raise ValueError(
            "the grid is too coarse or too small for a Gaussian: every descent of KL(q ‖ p) left it"
        )
    optima = []
    for mean, factor, row in zip(means, factors, reports[:count].tolist(), strict=False):
        _, _, gradient_norm, evaluations, _ = row
        q = Gaussian._from_factor(mean.copy(), factor.copy())
        estimate = kl_estimate(q, p)
        good = estimate.error <= max(rtol * estimate.value, _GRID_ERROR)
        status = CONVERGED if good else COARSE_GRID
        optima.append(Projection(q, estimate, gradient_norm, status, int(evaluations)))
    return optima[0]._with(optima[1:])


def gaussian_projection(p: Gaussian, family: str) -> Projection:
    """The I-projection of a Gaussian: variances 1 / Lambda_ii, or D / tr Lambda, of the precision Lambda."""
    if family == "full":
        return Projection(p, Estimate(0.0, 0.0, 0, "closed form"))
    factor = np.array(p.cholesky)
    kernels.families.operations.restrict(PROJECTION_CODES[family], factor, np.empty(2 * p.dim))
    q = Gaussian._from_factor(np.array(p.mean), factor)
    return Projection(q, lambda: kl_estimate(q, p))

"""Starts of fits of q = N(m, S (I + V V')² S), see `kernels.families.low_rank`.

With some columns of V for `family="lowrank"`; without any for diagonal covariances in so many dimensions that
nothing may be of size D x D.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common.values import Array
from .expectations import fixed_draws
from .faults import error_of
from .kernel_calls import conditional_deviations, densities_or_zero, log_densities, slopes_at
from .model import Model
from .racing import Start
from .starts import start_of

#: Nats that a direction must add to the ELBO of Laplace's approximation, and the most directions. (One that
#: adds 0.016 by its formula, with conditional deviations beside it, adds 0.07 to a regression of 90.)
_WORTH, _MOST = 0.01, 16

#: Steps of L-BFGS on the divergence from a Gaussian start, at most, and the gradient that ends them.
_STEPS, _TOLERANCE = 300, 1e-4

#: Size of a column where the start has no correlations: at zero the gradient is zero.
_LEAST_COLUMN = 0.03

#: Pairs of draws that choose among N(x, s² I), their deviations, and the directions of differences of
#: gradients that second derivatives come from, with the length of their steps.
_PAIRS, _WIDTHS, _DIRECTIONS, _STEP = 8, (1.0, 0.3, 0.1, 0.03, 0.01, 0.001), 32, 1e-3

#: Second derivatives in units of the best of these, at least and at most, from which another s is made.
_CURVATURES = 0.1, 1e6


def low_rank_start(start: Start, rank: int | None) -> Array:
    """The factor (1 + R, D) of the q that is closest to a Gaussian start.

    With conditional deviations for s, each direction in which the start is wider, c times in the variance,
    adds (1 / c - 1 + log c) / 2 nats to the ELBO if q follows: where no rank is given, R is the number of
    those that add much.
    """
    dim = start.mean.size
    whitened = start.root / start.scale[:, None]
    variances, axes = np.linalg.eigh(whitened @ whitened.T)
    variances, axes = np.maximum(variances[::-1], 1.0), axes[:, ::-1].T
    if rank is None:
        gains = 0.5 * (1.0 / variances - 1.0 + np.log(variances))
        rank = min(max(int((gains > _WORTH).sum()), 1), _MOST, dim - 2)
    factor = _closest(whitened, np.sqrt(variances[:rank] - 1.0)[:, None] * axes[:rank])
    factor[0] *= start.scale
    return factor


def _closest(root: Array, columns: Array) -> Array:
    """The factor for which KL(N(0, S² + U U') ‖ N(0, root root')) is least, by L-BFGS from columns of U.

    In the parameters of the fit, see `kernels.families.low_rank`, in units of their metric.
    """
    from scipy.optimize import minimize

    rank, dim = columns.shape
    inverse, unit = np.linalg.inv(root), np.eye(rank)
    diagonal = (inverse * inverse).sum(axis=0)

    def parts(x: Array) -> tuple[Array, Array, Array]:
        s = np.hypot(np.exp(math.sqrt(0.5) * x[:dim]), kernels.families.low_rank.LEAST)
        b = x[dim:].reshape(rank, dim)
        return s, b, b @ root.T / s

    def divergence(x: Array) -> tuple[float, Array]:
        s, b, t = parts(x)
        inner = unit + t @ t.T
        answer = np.linalg.solve(inner, t)
        value = 0.5 * ((s * s) @ diagonal + (b * b).sum() - np.linalg.slogdet(inner)[1]) - np.log(s).sum()
        share = 1.0 - (kernels.families.low_rank.LEAST / s) ** 2
        in_logs = math.sqrt(0.5) * share * (s * s * diagonal - 1.0 + (t * answer).sum(axis=0))
        return value, np.append(in_logs, b - (answer / s) @ root)

    begin = np.append(np.zeros(dim), columns @ inverse.T)
    found = minimize(
        divergence, begin, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "gtol": _TOLERANCE}
    )
    s, _, t = parts(found.x if np.isfinite(found.x).all() else begin)
    _, sizes, axes = np.linalg.svd(t, full_matrices=False)
    sizes = np.sqrt(np.sqrt(1.0 + sizes * sizes) - 1.0)
    return np.vstack([s, np.maximum(sizes, _LEAST_COLUMN)[:, None] * axes])


def packed(factor: Array, root: Array, scale: Array) -> Array:
    """The parameters of this factor, in these coordinates, of a q with its mean at their origin.

    See `kernels.families.low_rank`; the columns are orthogonal.
    """
    from scipy.linalg import solve_triangular

    s, v = factor[0], factor[1:]
    least = kernels.families.low_rank.LEAST if len(v) else 0.0
    squares = np.maximum((s / scale) ** 2 - least**2, (0.1 * least) ** 2)
    spread = s * v * np.sqrt(2.0 + (v * v).sum(axis=1))[:, None]
    columns = spread / root if len(root) == 1 else solve_triangular(root, spread.T, lower=True).T
    return np.concatenate([np.zeros(s.size), 0.5 * np.log(squares), columns.ravel()])


def wide_start(model: Model, start: Any) -> Start:
    """The start of a diagonal fit in many dimensions: the best of some N(x, s² I), or that with deviations.

    The latter are from the diagonal of the second derivatives at x, by differences of gradients along random
    signs (Bekas, Kokiopoulou & Saad, Applied Numerical Mathematics 57, 2007).
    """
    mean, factor = start_of(model, start)
    if factor is not None:
        scale = conditional_deviations(factor)
        return Start(mean, scale[None], scale, 0)
    dim = mean.size
    status, _, where = log_densities(model, mean[None])
    if where is not None:
        raise error_of(model, status, where, "the fit cannot start: ")
    noise, used = fixed_draws(3, _PAIRS, dim), 1
    best, value = np.ones(dim), -math.inf

    def try_out(scale: Array) -> None:
        nonlocal best, value, used
        used += len(noise)
        found = densities_or_zero(model, mean + scale * noise).mean() + np.log(scale).sum()
        if found > value:
            best, value = scale, found

    for width in _WIDTHS:
        try_out(np.full(dim, width))
    signs = np.where(np.random.default_rng(dim).random((_DIRECTIONS, dim)) < 0.5, -1.0, 1.0)
    with np.errstate(all="ignore"):
        status, _, slopes = slopes_at(model, np.concatenate([mean[None], mean + _STEP * best * signs]))
        used += 1 + _DIRECTIONS
        curvatures = ((slopes[0] - slopes[1:]) * signs * best).mean(axis=0) / _STEP
        usable = not status and np.isfinite(curvatures).all()
    if usable:
        try_out(best / np.sqrt(np.clip(curvatures, *_CURVATURES)))
    return Start(mean, best[None], best, used)

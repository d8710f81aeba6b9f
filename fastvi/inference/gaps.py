"""What nodes do not see under a q of one or two latent coordinates: gaps of zero density, and tails.

The points are those of `kernels.inference.gaps`, which looks for compiled code and C as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common.statuses import is_fault
from ..common.values import Array
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT, radii
from ..distributions.variational import TruncatedGaussian, Variational, latent_of
from ..kernels.statuses import FINE, UNRESOLVED
from .kernel_calls import (
    densities_or_zero,
    lattice_space,
    log_densities_at_draws,
    panel_space,
    workspace,
)
from .model import Model, target_of
from .packing import Table
from .sharing import are_small, is_small

#: The row of a fit by itself.
_FIRST = np.zeros(1, np.int64)


def points_of_fit(model: Model) -> int:
    """Which points are checked under the q of a fit."""
    points = kernels.inference.gaps
    found: int = points.OF_FIT if is_small(model) else points.OF_LONG_FIT
    return found


class Look(NamedTuple):
    """What points under a q show."""

    status: int  #: a fault of the log joint, UNRESOLVED, or FINE
    where: Array | None  #: the place of a fault
    evaluations: int
    error: float  #: that of the ELBO, beyond the one that it has; infinite with a fault


def look_under(model: Model, q: Variational, elbo: float, error: float, purpose: int) -> Look:
    """What the points for a purpose show under q, whose ELBO is known.

    The status is UNRESOLVED where the log joint outgrows a Gaussian q far out: no mean is known then. And
    where on a line the nodes missed a bump: a finer lattice has another ELBO, beyond its error.

    Of slabs in the plane, in any direction and within 2.5 deviations of q's mean, the points of a fit and its
    lattice miss one in 200 with a width of 0.01 deviations (the lattice alone: 10 %), and none with 0.02
    (2 %); of discs with a radius of 0.1 around draws of q 1 % (64 %), with 0.05 40 % (90 %).

    Of -exp(exp(0.3 z)) under N(0, 1) the nodes give a mean of -3.0, but its terms rise from 16 deviations on.
    That is seen where terms are floats, from -exp(exp(0.2 z)) on. Zeros do not count so far out.
    """
    interval, latent = None, latent_of(q)
    if isinstance(q, TruncatedGaussian):
        interval, mean, factor = (q.low, q.high), np.array([q.mu]), np.array([[q.sigma]])
    else:
        if isinstance(latent, GaussianMixture):
            (latent,) = latent.components
        mean, factor = latent._mean, latent._factor
        if isinstance(latent, StudentT):
            steps = _steps_of_student(latent, 2 * _count(latent.dim, purpose))
            status, _, _, where = log_densities_at_draws(model, mean, factor, steps)
            model._raise_pending()
            return Look(status, where, len(steps), math.inf if status else 0.0)
        if model._calls_are_expensive:
            return _look_in_two_calls(model, mean, factor, elbo, error, purpose)
    before = kernels.inference.reports.elbo_alone(elbo, error, 0.0)
    results = np.empty((1, 0)), np.array([before]), np.empty((1, model.dim))
    _doubt(model, target_of(model), _FIRST, purpose, interval, (mean[None], factor[None]), results)
    model._raise_pending()
    found = kernels.inference.reports.Report._make(results[1][0].tolist())
    status = int(found.status)
    where = results[2][0] if is_fault(status) else None
    more = found.error - error if error < math.inf else 0.0
    return Look(status, where, int(found.evaluations), more)


def _doubt(
    model: Model,
    target: Any,
    rows: NDArray[np.int64],
    purpose: int,
    interval: tuple[float, float] | None,
    q: tuple[Array, Array],
    results: tuple[Array, Array, Array],
) -> None:
    """Look under the q of each of some fits: one with a status has an infinite error, and is not converged.

    Means (N, R) and factors (N, R, R) are those of Gaussians, or with an interval mu and sigma of some that
    are truncated to it.
    """
    run = kernels.inference.entry_points
    if interval is None:
        run.doubt(target, rows, purpose, *q, lattice_space(model), results)
    else:
        run.doubt_truncated(target, rows, purpose, interval, *q, workspace("truncated"), results)


def doubt_batch(
    model: Model,
    tables: Table,
    truncated: bool,
    q: tuple[Array, Array],
    results: tuple[Array, Array, Array],
) -> Callable[[int, int], None]:
    """A function of (low, high) that does so for the fits of data sets low to high - 1."""
    interval = model._support.interval if truncated else None
    target, small = target_of(model, tables), are_small(model, tables)
    points = kernels.inference.gaps
    groups = (points.OF_FIT, small), (points.OF_LONG_FIT, ~small)

    def run(low: int, high: int) -> None:
        for purpose, chosen in groups:
            rows = low + np.flatnonzero(chosen[low:high])
            if rows.size:
                _doubt(model, target, rows, purpose, interval, q, results)

    return run


def _look_in_two_calls(
    model: Model, mean: Array, factor: Array, elbo: float, error: float, purpose: int
) -> Look:
    """`look_under` a Gaussian by more points than the kernels have in a block."""
    points = kernels.inference.gaps
    line = mean.size == 1
    beyond, limits = (
        (points.BEYOND_LINE[:1], points.LIMITS_LINE) if line else (points.BEYOND_PLANE, points.LIMITS_PLANE)
    )
    steps = gap_steps(mean.size, _count(mean.size, purpose))
    status, terms, where = _terms(model, mean, factor, steps)
    used = len(steps)
    if status:
        return Look(status, where, used, math.inf)
    used += limits.size
    if points.outgrows(densities_or_zero(model, mean + beyond.T @ factor.T), limits).any():
        return Look(UNRESOLVED, None, used, math.inf)
    if not line:
        return Look(FINE, None, used, 0.0)
    terms *= points.WEIGHTS[purpose]
    sizes, far = np.abs(terms), np.abs(steps[:, 0])
    two = float(sizes[far > points.REACH - 1.0].sum())
    one = float(sizes[far > points.REACH - 2.0].sum()) - two
    known = points.slack(float(sizes.sum()), one, two, error, abs(mean[0]) / factor[0, 0])
    if not abs(float(terms.sum()) + elbo) > known:
        return Look(FINE, None, used, 0.0)
    steps, weights = _finest_line()
    status, terms, where = _terms(model, mean, factor, steps)
    used += len(steps)
    if status:
        return Look(status, where, used, math.inf)
    off = abs(float(weights @ terms) + elbo)
    if not off > known:
        return Look(FINE, None, used, 0.0)
    return Look(UNRESOLVED, None, used, kernels.inference.expectations.OF_SHIFT * off)


def _terms(model: Model, mean: Array, factor: Array, steps: Array) -> tuple[int, Array, Array | None]:
    """(A fault, or FINE; log q - log p at mean + factor e; the place of a fault)."""
    status, values, _, where = log_densities_at_draws(model, mean, factor, steps)
    model._raise_pending()
    own = -0.5 * (steps * steps).sum(axis=1) - float(np.log(np.diag(factor)).sum())
    return status, own - 0.5 * mean.size * math.log(2.0 * math.pi) - values, where


@lru_cache(maxsize=1)
def _finest_line() -> tuple[Array, Array]:
    """The points of the finest lattice on a line, and their weights, made once."""
    lattice = kernels.inference.expectations
    step = lattice.STEP_1 * 0.5**kernels.inference.gaps.FINEST
    most = math.floor(lattice.RADIUS / step)
    x = step * (np.arange(-most, most) + kernels.inference.gaps.ELSEWHERE)
    return x[:, None], step * lattice.BELL * np.exp(-0.5 * x * x)


def _count(dim: int, purpose: int) -> int:
    return int(kernels.inference.gaps.COUNTS[dim - 1, purpose])


@lru_cache(maxsize=8)
def gap_steps(dim: int, count: int) -> Array:
    """`kernels.inference.survey.steps_between`, made once."""
    found: Array = kernels.inference.survey.steps_between(dim, count)
    return found


def mass_of_gaps(model: Model, mean: Array, factor: Array, heights: Array, log_total: float) -> float:
    """The share of mass that gaps of zero density around a mode may take, by the densities beside them.

    `heights` are the log densities at the points around the mode, as `modes_of` hands them back.
    """
    run, panel = kernels.inference.entry_points, panel_space(model)
    found: float = run.mass_of_gaps(target_of(model), mean, factor, heights, log_total, panel)
    model._raise_pending()
    return found


def _steps_of_student(q: StudentT, count: int) -> Array:
    """The points under a standard t: with as much in the tail beyond them as beyond those of a Gaussian.

    On a line, as beyond half of their distance.
    """
    steps, beyond = gap_steps(q.dim, count), _beyond(q.dim, count)
    lengths = np.linalg.norm(steps, axis=1)
    far = radii(q.df, 0.5 * q.dim, 0.5 * q.df, 1.0 - beyond, beyond)
    found: Array = steps * np.where(far > lengths, far / np.where(lengths > 0.0, lengths, 1.0), 1.0)[:, None]
    return found


@lru_cache(maxsize=8)
def _beyond(dim: int, count: int) -> Array:
    """The share of a standard Gaussian beyond the distance of each point; on a line beyond half of it."""
    squares = (gap_steps(dim, count) ** 2).sum(axis=1)
    if dim == 1:
        return np.array([math.erfc(math.sqrt(0.125 * x)) for x in squares.tolist()])
    found: Array = np.exp(-0.5 * squares)
    return found

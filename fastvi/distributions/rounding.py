"""What rounded Cholesky factors do to divergences and entropies, measured by residuals.

A bound of the backward error of Cholesky's method holds for the worst matrix: with 1000 dimensions it is 1e7
times too wide. Here the residual of each factor is computed, in more than double precision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..common.values import Array
from ..kernels.densities.gaussians import LOG_2PI
from .integrals import EPSILON

#: Bits of a float after the first.
_BITS = 52

#: Parts of a matrix whose products are exact; three have 63 bits in 1000 dimensions.
_PARTS = 3

#: Eigenvalues of I + E below which nothing is known of the divergence: the covariance may be singular.
_LEAST = 0.1

#: Factor for what is left out of an error: the rounding of the residuals, and that of other orders of sums.
_SAFETY = 2.0

#: Draws for what rounding does to mixtures, and their seed.
_DRAWS, _SEED = 256, 20240307


def residual(target: Array, left: Array, right: Array) -> Array:
    """``target - left @ right``, as if it were computed in 63 bits.

    Rows and columns are cut into parts with so few bits that the products of the parts are exact: K. Ozaki et
    al., Error-Free Transformations of Matrix Multiplication, Numerical Algorithms 59 (2012).
    """
    bits = (_BITS - math.ceil(math.log2(left.shape[1] + 1))) // 2
    rows = np.frexp(np.abs(left).max(axis=1))[1]
    columns = np.frexp(np.abs(right).max(axis=0))[1]
    first = _parts(np.ldexp(left, -rows[:, None]), bits)
    second = _parts(np.ldexp(right, -columns), bits)
    scale = rows[:, None] + columns
    rest = np.ldexp(target, -scale)
    for order in range(_PARTS):
        for i in range(order + 1):
            rest = rest - first[i] @ second[order - i]
    whole: Array = np.ldexp(rest, scale)
    return whole


def _parts(matrix: Array, bits: int) -> list[Array]:
    """Matrices whose sum is nearly the one given, with entries below 1, each with so many bits."""
    found = []
    for k in range(1, _PARTS + 1):
        part = np.ldexp(np.rint(np.ldexp(matrix, k * bits)), -k * bits)
        found.append(part)
        matrix = matrix - part
    return found


def _solved(factor: Array, right: Array) -> Array:
    from scipy.linalg import solve_triangular

    return solve_triangular(factor, right, lower=True)  # type: ignore[no-any-return]


class Factor(NamedTuple):
    """A Cholesky factor L of a covariance S, and the E of S = L (I + E) L'."""

    factor: Array
    error: Array


def factor_of(cov: Array, factor: Array) -> Factor:
    """A factor with its whitened error, which is zero where the factor is exact."""
    half = _solved(factor, residual(cov, factor, factor.T))
    return Factor(factor, _solved(factor, half.T))


def entropy_error(p: Any, value: float) -> float:
    """A bound of the error of the entropy of a Gaussian by its factor; inf if unknown."""
    found = np.linalg.eigvalsh(factor_of(p.cov, p._factor).error)
    if not found[0] > _LEAST - 1.0:
        return math.inf
    change = abs(float(np.log1p(found).sum()))
    return _SAFETY * 0.5 * change + 2 * EPSILON * float(p.dim) * max(1.0, abs(value))


def closed_form_error(p: Any, q: Any, value: float) -> float:
    """A bound of the error of `value`, the KL divergence by the factors; inf where nothing is known."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = _error_of(p, q, value)
    return error if error == error else math.inf


def _error_of(p: Any, q: Any, value: float) -> float:
    one, two = factor_of(p.cov, p._factor), factor_of(q.cov, q._factor)
    of_one, of_two = (np.linalg.eigvalsh(f.error) for f in (one, two))
    if not min(of_one[0], of_two[0]) > _LEAST - 1.0:
        return math.inf
    unit, shift = np.eye(p.dim), (p.mean - q.mean)[:, None]
    # The columns of A - I and d of `gaussian_kl`, and how far rounding is from them.
    target = np.hstack([one.factor - two.factor, shift])
    stretch = _solved(two.factor, target)
    missing = _solved(two.factor, residual(target, two.factor, stretch))
    slopes = stretch.copy()
    diagonal = np.diag_indices(p.dim)
    ratios = one.factor[diagonal] / two.factor[diagonal]
    slopes[diagonal] = ratios - 1.0 / ratios
    solving = float(np.abs(slopes * missing).sum())
    # KL is half of tr (I + F)**-1 (A (I + E) A' + d d') - D + log |I + F| - log |I + E| + ..., where E and F
    # are the errors of p and q.
    axes, away = stretch[:, :-1] + unit, stretch[:, -1:]
    moments = axes @ axes.T + away @ away.T - unit
    factors = np.linalg.solve(unit + two.error, np.hstack([two.error @ moments, axes]))
    change = ((axes.T @ factors[:, p.dim :] - unit) * one.error).sum() - np.trace(factors[:, : p.dim])
    change += (of_one - np.log1p(of_one)).sum() + (np.log1p(of_two) - of_two / (1.0 + of_two)).sum()
    return _SAFETY * (0.5 * abs(float(change)) + solving) + 2 * EPSILON * float(p.dim) * value


def mixture_error(p: Any, q: Any | None) -> float:
    """What rounding does to an average that is the KL divergence of mixtures, or the entropy of p.

    Of the factors, to first order, and of the points: an average over draws of p and twice its standard
    error. Infinite where it is not known.
    """
    rng = np.random.default_rng(_SEED)
    weights, means, factors = p._triple()
    which = rng.choice(weights.size, _DRAWS, p=np.exp(weights) / np.exp(weights).sum())
    away = rng.standard_normal((_DRAWS, p.dim))
    for k in np.unique(which):
        away[which == k] = away[which == k] @ factors[k].T
    with np.errstate(over="ignore", invalid="ignore"):
        ratios, changes = _densities(p, means[which], away)
        others, other_changes = (0.0, 0.0) if q is None else _densities(q, means[which], away)
        ratios -= others
        changes = changes * (ratios - ratios.mean() + 1.0) - other_changes
        # Points far from 0 are rounded to few digits of their distance from a mean.
        points = means[which] + away
        changes += ratios - p.logpdf(points) + (0.0 if q is None else q.logpdf(points))
        error = abs(float(changes.mean())) + 2.0 * float(changes.std()) / math.sqrt(_DRAWS)
    return error if error == error else math.inf


def _densities(p: Any, centres: Array, away: Array) -> tuple[Array, Array]:
    """The log density of a mixture at centres + away (N, D), and how far rounded factors move it."""
    logs, moved = np.empty((2, len(away), len(p._triple()[0])))
    for k, (log_weight, mean, factor) in enumerate(zip(*p._triple(), strict=True)):
        found = factor_of(p._parts[1][k], factor)
        sizes = np.linalg.eigvalsh(found.error)
        if not sizes[0] > _LEAST - 1.0:
            moved[:] = math.inf
            break
        white = _solved(factor, ((centres - mean) + away).T)
        logs[:, k] = log_weight - np.log(np.diag(factor)).sum() - 0.5 * (white**2).sum(axis=0)
        # log |I + E|, and y' (I + E)**-1 y beside y' y for whitened points y.
        bent = np.linalg.solve(np.eye(p.dim) + found.error, found.error @ white)
        moved[:, k] = 0.5 * ((white * bent).sum(axis=0) - np.log1p(sizes).sum())
    logs -= 0.5 * p.dim * LOG_2PI
    tops = logs.max(axis=1)
    shares = np.exp(logs - tops[:, None])
    total = shares.sum(axis=1)
    return tops + np.log(total), (shares * moved).sum(axis=1) / total

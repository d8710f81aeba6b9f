"""Points with gaps (missing coordinates, NaN): their patterns, densities of what was observed, imputation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.validation import finite_array, float_array
from ..common.values import Array
from ..distributions.gaussian import lower_factor
from ..distributions.mixture import GaussianMixture
from ..kernels.densities.gaussians import LOG_2PI


def data(x: Any) -> Array:
    """The data as points (n, d), with NaN for gaps."""
    array = float_array("x", x)
    points = np.array(array[:, None] if array.ndim == 1 else array, dtype=np.float64, order="C")
    if points.ndim == 2 and points.size > 0 and np.isfinite(points).all():
        return points
    gaps = np.isnan(points)
    if points.ndim != 2 or points.size == 0 or not gaps.any():
        wanted = (1, "(n,)") if array.ndim == 1 else (2, "(n, d) or (n,)")
        finite_array("x", array, *wanted)
        return points
    if np.isinf(points).any():
        finite_array("x", np.where(np.isnan(array), 0.0, array), array.ndim, "(n, d)")
    if gaps.all(axis=1).any():
        i = int(np.argmax(gaps.all(axis=1)))
        where = " in all columns" if points.shape[1] > 1 else ""
        raise ValueError(f"x[{i}] is nan{where}: it has no observed coordinate. Leave that point out")
    if gaps.all(axis=0).any():
        j = int(np.argmax(gaps.all(axis=0)))
        raise ValueError(f"x[:, {j}] is nan in all rows: no point has that coordinate. Leave the column out")
    return points


class Patterns(NamedTuple):
    """Points grouped by their gaps, as `kernels.em.gaps` takes them."""

    #: (N,): the points, those with the same gaps one after another.
    order: NDArray[np.int64]
    #: (P, D + 1): the coordinates that were observed, those that are missing, and how many were observed.
    table: NDArray[np.int64]
    #: (P,): where in `order` each pattern ends.
    ends: NDArray[np.int64]

    def groups(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """For each pattern: its points, the coordinates that were observed, and the others."""
        for row, rows in zip(self.table, np.split(self.order, self.ends[:-1]), strict=True):
            yield rows, row[: row[-1]], row[row[-1] : -1]


def patterns(x: Array) -> Patterns:
    """The patterns of the gaps of `x`, shape (N, D)."""
    observed = np.isfinite(x)
    kinds, which = np.unique(observed, axis=0, return_inverse=True)
    which = which.ravel()
    columns = np.argsort(~kinds, axis=1, kind="stable")
    table = np.concatenate([columns, kinds.sum(axis=1)[:, None]], axis=1)
    ends = np.bincount(which).cumsum()
    return Patterns(np.argsort(which, kind="stable"), table.astype(np.int64), ends.astype(np.int64))


def _reordered(p: GaussianMixture, seen: NDArray[np.int64], gone: NDArray[np.int64]) -> Iterator[Array]:
    """For each component: the factor of its covariance with the observed coordinates first.

    From the factor itself: a covariance has lost variances below 1e-16 of the largest, as beside an outlier.
    """
    order = np.concatenate([seen, gone])
    for factor in p._factors:
        yield lower_factor(factor[order])


def log_joint(x: Array, p: GaussianMixture) -> Array:
    """log of weight k times the density of component k at what was observed of point n, shape (N, K)."""
    out = np.empty((len(x), p.weights.size))
    for rows, seen, gone in patterns(x).groups():
        for k, whole in enumerate(_reordered(p, seen, gone)):
            factor = whole[: seen.size, : seen.size]
            white = np.linalg.solve(factor, (x[np.ix_(rows, seen)] - p.means[k, seen]).T)
            constant = np.log(np.diag(factor)).sum() + 0.5 * seen.size * LOG_2PI
            out[rows, k] = p._log_weights[k] - 0.5 * (white**2).sum(axis=0) - constant
    return out


def impute(x: Array, p: GaussianMixture, responsibilities: Array) -> tuple[Array, Array]:
    """(conditional means (N, D), conditional covariances (N, D, D)) of the points given what was observed."""
    dim = p.dim
    filled, covs = x.copy(), np.zeros((len(x), dim, dim))
    for rows, seen, gone in patterns(x).groups():
        if not gone.size:
            continue
        means, weights = [], responsibilities[rows]
        inner = np.zeros((rows.size, gone.size, gone.size))
        for k, whole in enumerate(_reordered(p, seen, gone)):
            factor, cross, own = (
                whole[: seen.size, : seen.size],
                whole[seen.size :, : seen.size],
                whole[seen.size :, seen.size :],
            )
            white = np.linalg.solve(factor, (x[np.ix_(rows, seen)] - p.means[k, seen]).T)
            means.append(p.means[k, gone] + (cross @ white).T)
            inner += weights[:, k, None, None] * (own @ own.T)
        mean = sum(weights[:, k, None] * m for k, m in enumerate(means))
        for k, m in enumerate(means):
            inner += weights[:, k, None, None] * (m - mean)[:, :, None] * (m - mean)[:, None, :]
        filled[np.ix_(rows, gone)] = mean
        covs[np.ix_(rows, gone, gone)] = inner
    return filled, covs

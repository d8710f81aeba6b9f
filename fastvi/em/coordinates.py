"""Coordinates in which EM runs: data with mean 0 and covariance I, or unit variances, but for outliers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common.values import Array

#: Rows that are so many times farther from the centre than a median row are outliers, if they are few.
_FAR, _FEW = 10.0, 0.1

#: Squared lengths of a Gaussian's rows have the mean D and the deviation sqrt(2 D). They are usual up to this
#: many deviations above the mean, and a constant for few dimensions: all but 3e-9 of them.
_USUAL_DEVIATIONS, _USUAL_MORE = 10.0, 20.0

#: Most steps towards the robust scatter. A step divides the variance that one outlier makes by n / (d + 1).
_STEPS = 60

#: Change of the median distance, as a part of it, that ends these steps: `_FAR` needs no more digits.
_MEDIAN_RTOL = 0.01


class Frame(NamedTuple):
    """Data as x[n] = mean + factor columns[:, n], with their scales; columns are (D, N), 0 where a gap is."""

    columns: Array
    mean: Array
    factor: Array
    far: NDArray[np.bool_] | None = None  #: (N,): which rows are outliers; None: there are none

    @property
    def scales(self) -> Array:
        """The standard deviation of each column of the data."""
        return np.asarray(np.sqrt((self.factor**2).sum(axis=1)))


def _usual(dim: int) -> float:
    """Squared distances up to this are usual for a Gaussian's rows."""
    return dim + _USUAL_DEVIATIONS * math.sqrt(2.0 * dim) + _USUAL_MORE


def _outliers(rows: Array, frequencies: Array | None) -> NDArray[np.bool_] | None:
    """Which of the standardized rows are outliers; None if none is.

    One outlier can make a covariance of any size. The distances are those of the scatter that is the maximum
    of the likelihood of Cauchy's distribution (t with one degree of freedom), where each row's influence is
    bounded and which moves with affine maps: J. T. Kent, D. E. Tyler, Redescending M-estimates of
    multivariate location and scatter, Ann. Statist. 19 (1991).
    """
    dim = rows.shape[1]
    squares: Array = np.einsum("ni,ni->n", rows, rows)
    if squares.max() <= _usual(dim):
        return None
    counts = np.ones(len(rows)) if frequencies is None else frequencies
    mass, middle = counts.sum(), _median(squares, counts)
    for _ in range(_STEPS):
        influence = counts * ((1.0 + dim) / (1.0 + squares))
        deviations = rows - influence @ rows / influence.sum()
        try:
            factor = np.linalg.cholesky((deviations * influence[:, None]).T @ deviations / mass)
        except np.linalg.LinAlgError:
            return None
        white = np.linalg.solve(factor, deviations.T)
        squares = np.einsum("in,in->n", white, white)
        before, middle = middle, _median(squares, counts)
        if not 0.0 < middle < math.inf:
            return None
        if abs(middle - before) <= _MEDIAN_RTOL * middle:
            break
    far = squares > _FAR**2 * middle
    return far if 0.0 < counts[far].sum() <= _FEW * mass else None


def _median(values: Array, counts: Array) -> float:
    order = np.argsort(values)
    sums = counts[order].cumsum()
    return float(values[order[np.searchsorted(sums, 0.5 * sums[-1])]])


def whitened(x: Array, frequencies: Array | None) -> Frame:
    """The frame in which the data without outliers have mean 0 and covariance I."""
    frame, bad = _whitened(x, frequencies)
    if bad < x.shape[1]:
        _refuse(x, bad, frame.factor)
    far = _outliers(frame.columns.T, frequencies)
    if far is None:
        return frame
    inner, bad = _whitened(x[~far], None if frequencies is None else frequencies[~far])
    if bad < x.shape[1]:
        return frame
    columns = np.linalg.solve(inner.factor, (x - inner.mean).T)
    return Frame(np.ascontiguousarray(columns), inner.mean, inner.factor, far)


def _whitened(x: Array, frequencies: Array | None) -> tuple[Frame, int]:
    """The frame, and the first column that depends on those before it, or the number of columns."""
    size, dim = x.shape
    columns, mean, factor = np.empty((dim, size)), np.empty(dim), np.empty((dim, dim))
    standardize = kernels.em.standardization.standardize
    if frequencies is None:
        return Frame(columns, mean, factor), int(standardize(x, columns, mean, factor))
    first = x[0]
    mean = first + frequencies @ (x - first) / frequencies.sum()
    # Rows that are multiplied by the roots of their weights have the weighted covariance, about 0.
    roots = np.sqrt(frequencies / frequencies.mean())[:, None] * (x - mean)
    doubled = np.ascontiguousarray(np.concatenate([roots, -roots]))
    bad = int(standardize(doubled, np.empty((dim, 2 * size)), np.empty(dim), factor))
    if bad == dim:
        columns = np.linalg.solve(factor, (x - mean).T)
    return Frame(np.ascontiguousarray(columns), mean, factor), bad


def scaled(x: Array, frequencies: Array | None, common: bool) -> Frame:
    """The frame in which each column without outliers has mean 0 and variance 1.

    `common`: the mean variance of the columns is 1. Gaps, which are NaN, are left out of all sums.
    """
    dim = x.shape[1]
    columns, gaps = np.empty((dim, len(x))), np.isnan(x).any()
    kernels.em.standardization.transpose(x, columns)
    weights = np.empty(0) if frequencies is None else frequencies
    mean, variance, far = np.empty(dim), np.empty(dim), np.zeros(len(x), bool)
    for i, column in enumerate(columns):
        there: Any = np.flatnonzero(np.isfinite(column)) if gaps else slice(None)
        counts = weights[there] if weights.size else weights
        (mean[i], variance[i]), outer = _mean_and_variance(_name(x, i), column[there], counts, common)
        if outer is not None:
            far[there] |= outer
    if common:
        variance[:] = variance.mean()
        if not 0.0 < variance[0] < math.inf:
            raise ValueError("x is constant or out of range: its variance is not a positive normal number")
    scales = np.sqrt(variance)
    for i, column in enumerate(columns):
        kernels.em.standardization.shift_and_scale(column, mean[i], scales[i])
    if gaps:
        columns[np.isnan(columns)] = 0.0
    return Frame(columns, mean, np.diag(scales), far if far.any() else None)


def _mean_and_variance(
    name: str, values: Array, counts: Array, common: bool
) -> tuple[tuple[float, float], NDArray[np.bool_] | None]:
    """Mean and variance of a column without its outliers, and which these are.

    `counts` are the weights, or (0,).
    """
    moments = kernels.em.standardization.moments_of
    mean, variance = moments(values, counts)
    if variance == 0.0 and (values == values[0]).all():
        if common:
            return (mean, 0.0), None
        raise ValueError(f"{name} is constant ({values[0]!s}): its variance is 0, and there is no likelihood")
    if not 0.0 < variance < math.inf:
        raise ValueError(f"{name} is out of range: its variance is not a normal number; rescale it")
    # NumPy's extremes are vectorised, those of a kernel are not: 18 µs for 100,000 values, not 100.
    reach = max(float(values.max()) - mean, mean - float(values.min()))
    if reach * reach <= _usual(1) * variance:
        return (mean, variance), None
    far = _outliers(((values - mean) / math.sqrt(variance))[:, None], counts if counts.size else None)
    if far is None:
        return (mean, variance), None
    inner = moments(values[~far], counts[~far] if counts.size else counts)
    return (inner, far) if inner[1] > 0.0 else ((mean, variance), None)


def _name(x: Array, column: int) -> str:
    return "x" if x.shape[1] == 1 else f"x[:, {column}]"


def _refuse(x: Array, bad: int, factor: Array) -> None:
    """Raise the error for the first column that has no variance given those before it."""
    name, row = _name(x, bad), factor[bad, : bad + 1]
    if (x[:, bad] == x[0, bad]).all():
        raise ValueError(f"{name} is constant ({x[0, bad]!s}): its variance is 0, and there is no likelihood")
    if not np.isfinite(row).all() or not row.any():
        raise ValueError(f"{name} is out of range: its variance is not a normal number; rescale it")
    raise ValueError(
        f"{name} is a linear combination of the columns before it (collinear): the covariance of x is "
        'singular; leave it out, or use covariance="diag" or "spherical"'
    )

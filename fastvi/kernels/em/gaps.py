"""Sweeps of EM over points with gaps: coordinates that were not observed.

Points with the same gaps lie one after another, a *pattern*. For each pattern and component the regression of
the missing coordinates on the observed ones is computed once; the labels are given by the marginal densities
of the observed coordinates, and the moments hold the conditional means and covariances of the others
(Z. Ghahramani, M. I. Jordan, Supervised Learning from Incomplete Data via an EM Approach, NIPS 6 (1994)).
"""

from __future__ import annotations

import math

from ..compiler import kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import decay, log
from ..numerics.matrices import clear_matrix
from .e_step import BLOCK, STOP


@kernel
def _covariances(factors, covs):
    for k in range(factors.shape[0]):
        for i in range(factors.shape[1]):
            for j in range(factors.shape[1]):
                s = 0.0
                for a in range(min(i, j) + 1):
                    s += factors[k, i, a] * factors[k, j, a]
                covs[k, i, j] = s


@kernel
def _regress(cov, order, count, out):
    """Write the regression of the missing coordinates on the `count` observed ones; the log determinant / 2.

    `order` lists the observed coordinates, then the missing ones. With S the covariance in that order, `out`
    holds the factor L of S_oo (lower left above), L'**-1 L**-1 S_om (upper right) and the covariance of the
    missing coordinates given the others (lower right).
    """
    dim = cov.shape[0]
    half_log_det = 0.0
    for i in range(count):
        for j in range(i + 1):
            s = cov[order[i], order[j]]
            for a in range(j):
                s -= out[i, a] * out[j, a]
            out[i, j] = math.sqrt(s) if i == j else s / out[j, j]
        half_log_det += math.log(out[i, i])
    for j in range(count, dim):
        for i in range(count):
            s = cov[order[i], order[j]]
            for a in range(i):
                s -= out[i, a] * out[a, j]
            out[i, j] = s / out[i, i]
    for i in range(count, dim):
        for j in range(count, dim):
            s = cov[order[i], order[j]]
            for a in range(count):
                s -= out[a, i] * out[a, j]
            out[i, j] = s
    for j in range(count, dim):
        for i in range(count - 1, -1, -1):
            s = out[i, j]
            for a in range(i + 1, count):
                s -= out[a, i] * out[a, j]
            out[i, j] = s / out[i, i]
    return half_log_det


@kernel
def _log_density(columns, n, mean, order, count, regression, white):
    """Log density of the observed coordinates of a point, but for the constant."""
    s = 0.0
    for i in range(count):
        u = columns[order[i], n] - mean[order[i]]
        for a in range(i):
            u -= regression[i, a] * white[a]
        white[i] = u / regression[i, i]
        s += white[i] * white[i]
    return -0.5 * s


@kernel
def _add_point(columns, n, r, mean, order, count, regression, d, out):
    """Add a point's r, r d and r d d' to the moments, d its conditional mean less the component's mean."""
    dim = mean.size
    for i in range(count):
        d[order[i]] = columns[order[i], n] - mean[order[i]]
    for j in range(count, dim):
        s = 0.0
        for i in range(count):
            s += regression[i, j] * d[order[i]]
        d[order[j]] = s
    out[0] += r
    place = 1 + dim
    for i in range(dim):
        out[1 + i] += r * d[i]
        for j in range(i + 1):
            out[place] += r * d[i] * d[j]
            place += 1


@kernel
def _add_conditional(r, order, count, regression, out):
    """Add r times the covariance of the missing coordinates given the others to the moments."""
    dim = order.size
    for a in range(count, dim):
        for b in range(count, a + 1):
            i, j = max(order[a], order[b]), min(order[a], order[b])
            out[1 + dim + i * (i + 1) // 2 + j] += r * regression[a, b]


@kernel
def sweep_with_gaps(points, weights, means, factors, space):
    """As `iterations.sweep`, for points = (columns, patterns, ends).

    Row p of `patterns` lists the observed coordinates, then the missing ones, then how many are observed. Its
    points end before `ends[p]`. Each has an observed coordinate. Missing entries of `columns` are not read.
    """
    columns, patterns, ends = points
    components, dim = means.shape
    shares, moments, frequencies = space.shares, space.moments, space.frequencies
    covs, regressions, constants = space.inverses, space.factors, space.constants
    _covariances(factors, covs)
    clear_matrix(moments)
    log_likelihood = 0.0
    start = 0
    for p in range(ends.size):
        order, count = patterns[p, :dim], patterns[p, dim]
        for k in range(components):
            constants[k] = math.log(weights[k]) if weights[k] > 0.0 else -math.inf
            constants[k] -= _regress(covs[k], order, count, regressions[k]) + 0.5 * count * LOG_2PI
            space.weights[k] = 0.0
        for first in range(start, ends[p], BLOCK):
            if space.control[STOP]:
                return math.nan
            for n in range(first, min(first + BLOCK, ends[p])):
                top, total = -math.inf, 0.0
                for k in range(components):
                    value = constants[k]
                    value += _log_density(columns, n, means[k], order, count, regressions[k], space.solution)
                    shares[k, 0] = value
                    top = max(top, value)
                for k in range(components):
                    shares[k, 0] = decay(shares[k, 0] - top)
                    total += shares[k, 0]
                frequency = frequencies[n] if frequencies.size > 0 else 1.0
                log_likelihood += frequency * (top + log(total))
                for k in range(components):
                    r = frequency * shares[k, 0] / total
                    space.weights[k] += r
                    _add_point(columns, n, r, means[k], order, count, regressions[k], space.mean, moments[k])
        for k in range(components):
            _add_conditional(space.weights[k], order, count, regressions[k], moments[k])
        start = ends[p]
    return log_likelihood

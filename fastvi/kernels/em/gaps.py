"""Sweeps of EM over points with gaps: coordinates that were not observed.

Points with the same gaps lie one after another, a *pattern*. For each pattern and component the factor of the
covariance with the observed coordinates first is computed once; the labels are given by the marginal
densities of the observed coordinates, and the moments hold the conditional means and covariances of the
others (Z. Ghahramani, M. I. Jordan, Supervised Learning from Incomplete Data via an EM Approach, NIPS 6
(1994)).
"""

from __future__ import annotations

import math

from ..compiler import adder, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import log
from ..numerics.matrices import clear_matrix, clear_vector, half_log_det
from .e_step import BLOCK, HALF_ROOT, STOP, in_units, share_block
from .m_step import is_steep
from .moments import scale


@kernel
def _reorder(factor, order, triangle, axes):
    """Write triangle axes = the rows of a factor in this order, by Gram-Schmidt; the axes are orthonormal.

    A product of factors would lose variances below 1e-16 of the largest, as beside an outlier. Each row is
    made orthogonal twice: once leaves 1e-16 times the condition of the rows.
    """
    dim = order.size
    for i in range(dim):
        for a in range(dim):
            axes[i, a] = factor[order[i], a]
        for j in range(i):
            triangle[i, j] = 0.0
        for _ in range(2):
            for j in range(i):
                s = 0.0
                for a in range(dim):
                    s += axes[i, a] * axes[j, a]
                triangle[i, j] += s
                for a in range(dim):
                    axes[i, a] -= s * axes[j, a]
        s = 0.0
        for a in range(dim):
            s += axes[i, a] * axes[i, a]
        triangle[i, i] = math.sqrt(s)
        for a in range(dim):
            axes[i, a] /= triangle[i, i]


@inlined
def _whiten(columns, n, mean, order, count, triangle, white):
    """Write what was observed of a point in units of the triangle; half of its square."""
    s = 0.0
    for i in range(count):
        u = columns[order[i], n] - mean[order[i]]
        for a in range(i):
            u -= triangle[i, a] * white[a]
        white[i] = u / triangle[i, i]
        s += white[i] * white[i]
    return 0.5 * s


# Of blocks of points: what counts references to the arrays takes 70 ns a call.


@kernel
def _log_densities(columns, first, mean, order, count, triangle, constant, white, out):
    """Write a constant and log densities of what was observed of some points."""
    for n in range(out.size):
        out[n] = constant - _whiten(columns, first + n, mean, order, count, triangle, white)


@kernel
def _add_points(columns, first, shares, mean, order, count, triangle, axes, space, out):
    """Add r d and r d d' of some points to the moments, d their conditional means less the component's.

    Or, `in_units`, those in units of the factor.
    """
    dim, steep = order.size, in_units(out)
    white, d = space.solution, space.mean
    for n in range(shares.size):
        r = shares[n]
        _whiten(columns, first + n, mean, order, count, triangle, white)
        if steep:
            clear_vector(d)
            for i in range(count):
                for a in range(dim):
                    d[a] += HALF_ROOT * white[i] * axes[i, a]
        else:
            for i in range(count):
                d[order[i]] = columns[order[i], first + n] - mean[order[i]]
            for j in range(count, dim):
                s = 0.0
                for a in range(count):
                    s += triangle[j, a] * white[a]
                d[order[j]] = s
        place = 1 + dim
        for i in range(dim):
            out[1 + i] += r * d[i]
            for j in range(i + 1):
                out[place] += r * d[i] * d[j]
                place += 1


@adder
def _log_likelihood(first, top, total, frequencies):
    """The log likelihood of some points; total = frequencies / total."""
    s = 0.0
    for n in range(top.size):
        frequency = frequencies[first + n] if frequencies.size > 0 else 1.0
        s += frequency * (top[n] + log(total[n]))
        total[n] = frequency / total[n]
    return s


@kernel
def _add_conditional(r, order, count, triangle, axes, out):
    """Add r times the covariance of the missing coordinates given the others to the moments."""
    dim = order.size
    if in_units(out):
        for c in range(count, dim):
            place = 1 + dim
            for a in range(dim):
                for b in range(a + 1):
                    out[place] += 0.5 * r * axes[c, a] * axes[c, b]
                    place += 1
        return
    for a in range(count, dim):
        for b in range(count, a + 1):
            i, j = max(order[a], order[b]), min(order[a], order[b])
            s = 0.0
            for c in range(count, b + 1):
                s += triangle[a, c] * triangle[b, c]
            out[1 + dim + i * (i + 1) // 2 + j] += r * s


@kernel
def sweep_with_gaps(points, weights, means, factors, space):
    """As `iterations.sweep`, for points = (columns, patterns, ends).

    Row p of `patterns` lists the observed coordinates, then the missing ones, then how many are observed. Its
    points end before `ends[p]`. Each has an observed coordinate. Missing entries of `columns` are not read.
    """
    columns, patterns, ends = points
    components, dim = means.shape
    shares, moments, frequencies = space.shares, space.moments, space.frequencies
    axes, triangles, white, constants = space.inverses, space.factors, space.solution, space.constants
    clear_matrix(moments)
    for k in range(components):
        moments[k, moments.shape[1] - 1] = 1.0 if is_steep(factors[k], space) else 0.0
    log_likelihood = 0.0
    start = 0
    for p in range(ends.size):
        order, count = patterns[p, :dim], patterns[p, dim]
        for k in range(components):
            constants[k] = math.log(weights[k]) if weights[k] > 0.0 else -math.inf
            _reorder(factors[k], order, triangles[k], axes[k])
            constants[k] -= half_log_det(triangles[k, :count, :count]) + 0.5 * count * LOG_2PI
            space.weights[k] = 0.0
        for first in range(start, ends[p], BLOCK):
            if space.control[STOP]:
                return math.nan
            size = min(BLOCK, ends[p] - first)
            for k in range(components):
                out = shares[k, :size]
                _log_densities(columns, first, means[k], order, count, triangles[k], constants[k], white, out)
            share_block(components, size, space)
            total = space.sums[:size]
            log_likelihood += _log_likelihood(first, space.top[:size], total, frequencies)
            for k in range(components):
                out, rates = moments[k], shares[k, :size]
                space.weights[k] += scale(rates, total)
                _add_points(columns, first, rates, means[k], order, count, triangles[k], axes[k], space, out)
        for k in range(components):
            moments[k, 0] += space.weights[k]
            _add_conditional(space.weights[k], order, count, triangles[k], axes[k], moments[k])
        start = ends[p]
    return log_likelihood

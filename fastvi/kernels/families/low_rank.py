"""Gaussians N(m, S (I + V V')² S): deviations S = diag(s), and R columns of V for correlations.

These are all covariances diag(s²) + U U' with R columns of U. A draw is m + s (e + V V' e), so it takes D
normal numbers and O(D R) operations, and nothing here is of size D x D: for fits on draws in many dimensions,
with R = 0 for diagonal covariances. A factor is an array (1 + R, D): s, and below it the columns of V.

The parameters are D for the mean, log(s / scale), and the columns of V. A code of a family above those of
`table` stands for a rank: FIRST + R.
"""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import (
    add_scaled,
    cholesky,
    clear_vector,
    dot,
    fill_vector,
    half_log_det,
    solve_lower,
    solve_upper,
)

#: The code of rank 0; below it are those of `table`.
FIRST = 100

#: The least metric of V.
LEAST_METRIC = 0.1


@kernel
def rank(factor):
    """The number of columns of V."""
    return factor.shape[0] - 1


@kernel
def parameters(family, dim):
    """How many parameters a family with this code has."""
    return dim * (2 + family - FIRST)


@kernel
def metric(point, dim, out):
    """Fisher's information at a point: 2 for the logarithm of a deviation, and for V across its columns.

    Across a column v, w = v' v, it is w + 2 w / (1 + w) + w / (1 + w)², beside columns orthogonal to it.
    """
    for i in range(dim):
        out[dim + i] = 2.0
    for low in range(2 * dim, point.size, dim):
        v = point[low : low + dim]
        w = dot(v, v)
        fill_vector(
            max(w + 2.0 * w / (1.0 + w) + w / ((1.0 + w) * (1.0 + w)), LEAST_METRIC), out[low : low + dim]
        )


@kernel
def unpack(point, scale, factor):
    """Write the factor that has these parameters."""
    dim = scale.size
    for i in range(dim):
        factor[0, i] = scale[i] * math.exp(point[dim + i])
    for k in range(1, factor.shape[0]):
        for i in range(dim):
            factor[k, i] = point[(1 + k) * dim + i]


@kernel
def place(mean, factor, e, out):
    """Write m + s (e + V V' e)."""
    dim = mean.size
    for i in range(dim):
        out[i] = e[i]
    for k in range(1, factor.shape[0]):
        v = factor[k]
        along = dot(v, e)
        for i in range(dim):
            out[i] += along * v[i]
    for i in range(dim):
        out[i] = mean[i] + factor[0, i] * out[i]


@kernel
def towards(factor, i, share, e):
    """Write the e that `place` moves by so much of column i of the covariance."""
    fill_vector(0.0, e)
    for k in range(1, factor.shape[0]):
        add_scaled(share * factor[0, i] * factor[k, i], factor[k], e)
    e[i] += share * factor[0, i]


@kernel
def deviations(factor, out):
    """Write the standard deviation of each coordinate: s_i times the length of row i of I + V V'."""
    fill_vector(1.0, out)
    for k in range(1, factor.shape[0]):
        for j in range(1, factor.shape[0]):
            twice = dot(factor[k], factor[j]) + (2.0 if j == k else 0.0)
            for i in range(out.size):
                out[i] += twice * factor[k, i] * factor[j, i]
    for i in range(out.size):
        out[i] = factor[0, i] * math.sqrt(out[i])


@kernel
def add_gradient(factor, e, slope, moved, along, gradient):
    """Subtract the gradient in the factor at one draw, whose log joint has this slope."""
    dim = e.size
    for i in range(dim):
        along[i] = e[i]
        moved[i] = factor[0, i] * slope[i]
    for k in range(1, factor.shape[0]):
        v, g = factor[k], gradient[k]
        a, b = dot(v, e), dot(v, moved)
        for i in range(dim):
            along[i] += a * v[i]
            g[i] -= a * moved[i] + b * e[i]
    for i in range(dim):
        gradient[0, i] -= slope[i] * along[i]


@kernel
def _gram(factor, gram):
    """Write the Cholesky factor of I + V' V."""
    for k in range(rank(factor)):
        for j in range(k + 1):
            gram[k, j] = dot(factor[1 + k], factor[1 + j]) + (1.0 if j == k else 0.0)
    cholesky(gram, gram)


@kernel
def half_log_det_of(factor, gram):
    """log |Sigma| / 2 = Σ log s_i + log |I + V' V|; writes the Cholesky factor of the latter."""
    total = 0.0
    for i in range(factor.shape[1]):
        total += math.log(factor[0, i])
    if rank(factor) > 0:
        _gram(factor, gram)
        total += 2.0 * half_log_det(gram)
    return total


@kernel
def pack_gradient(factor, factor_gradient, gram, column, gradient):
    """Write the gradient in the parameters, with minus the entropy's added: -1, and -2 V (I + V' V)⁻¹."""
    dim, many = factor.shape[1], rank(factor)
    for i in range(dim):
        gradient[dim + i] = factor_gradient[0, i] * factor[0, i] - 1.0
    for k in range(many):
        clear_vector(column[:many])
        column[k] = 1.0
        solve_lower(gram, column[:many])
        solve_upper(gram, column[:many])
        low = (2 + k) * dim
        for i in range(dim):
            gradient[low + i] = factor_gradient[1 + k, i]
        for j in range(many):
            for i in range(dim):
                gradient[low + i] -= 2.0 * column[j] * factor[1 + j, i]

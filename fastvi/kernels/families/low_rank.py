"""Gaussians N(m, S (I + V V')² S): deviations S = diag(s), and R columns of V for correlations.

These are all covariances diag(s²) + U U' with R columns of U. A draw is m + s (e + V V' e), so it takes D
normal numbers and O(D R) operations, and nothing here is of size D x D: for fits on draws in many dimensions,
with R = 0 for diagonal covariances. A factor is an array (1 + R, D): s, and below it the columns of V.

The parameters are D for the mean, D logarithms for s, and R columns b for U = root b, where I + T T' =
(I + V V')² with T = U / s. So a deviation that goes to zero, as many do where a column of U takes its place,
leaves the other parameters as they are, and a column is in the coordinates in which the mean is, where its
second derivatives are between 0 and 2. (With V for parameters five regressors took 200 steps, and the best
of forty was 3 nats away after 300.) The columns of V are orthogonal. A code of a family above those of
`table` stands for a rank: FIRST + R.
"""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import (
    add_scaled,
    cholesky,
    dot,
    fill_vector,
    half_log_det,
    orthogonalise,
)

#: The code of rank 0; below it are those of `table`.
FIRST = 100

#: The least s beside columns, in its unit: zero would be an infinite V. It costs half its square in nats.
LEAST = 1e-4


@kernel
def rank(factor):
    """The number of columns of V."""
    return factor.shape[0] - 1


@kernel
def parameters(family, dim):
    """How many parameters a family with this code has."""
    return dim * (2 + family - FIRST)


@kernel
def metric(dim, out):
    """2 for the logarithm of a deviation; 1, as for the mean, for b."""
    fill_vector(2.0, out[dim : 2 * dim])


@kernel
def _least(factor, scale, i):
    """The least s_i."""
    return LEAST * scale[i] if rank(factor) > 0 else 0.0


@kernel
def unpack(point, root, scale, axes, factor):
    """Write the factor that has these parameters, and the rotation (R, R) that makes the columns orthogonal.

    The root is (D, D), lower triangular, or (1, D), a diagonal.
    """
    dim, many = scale.size, rank(factor)
    for i in range(dim):
        s, least = scale[i] * math.exp(point[dim + i]), _least(factor, scale, i)
        factor[0, i] = math.sqrt(s * s + least * least)
    for k in range(many):
        b, t = point[(2 + k) * dim : (3 + k) * dim], factor[1 + k]
        for i in range(dim):
            along = root[0, i] * b[i] if root.shape[0] != dim else dot(root[i, : i + 1], b[: i + 1])
            t[i] = along / factor[0, i]
        for j in range(many):
            axes[k, j] = 1.0 if j == k else 0.0
    orthogonalise(factor[1:], axes)
    for k in range(many):
        t = factor[1 + k]
        shorter = 1.0 / math.sqrt(1.0 + math.sqrt(1.0 + dot(t, t)))
        for i in range(dim):
            t[i] *= shorter


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
def pack_gradient(factor, factor_gradient, root, scale, axes, gram, row, gradient):
    """Write the gradient in the parameters, with minus the entropy's added. The rotation `axes` is that of
    `unpack`, `gram` (R, R) and `row` (R,) are scratch.

    For V = h T, on the axes, a change of T changes h by that of T T' times divided differences of
    h(τ²) = (1 + r)^(-1/2), r² = 1 + τ²: these are -h_j² h_k² / ((h_j + h_k) (r_j + r_k)).
    """
    dim, many = factor.shape[1], rank(factor)
    for k in range(many):
        row[k] = 1.0 + dot(factor[1 + k], factor[1 + k])  # r
    for k in range(many):
        for j in range(many):
            gram[k, j] = dot(factor_gradient[1 + k], factor[1 + j]) * math.sqrt(1.0 + row[j])
    for k in range(many):
        for j in range(k + 1):
            one, other = 1.0 / math.sqrt(1.0 + row[k]), 1.0 / math.sqrt(1.0 + row[j])
            change = -(gram[k, j] + gram[j, k]) * one * one * other * other
            change /= (one + other) * (row[k] + row[j])
            gram[k, j], gram[j, k] = change / other, change / one
        gram[k, k] -= math.sqrt(1.0 + row[k]) / (row[k] * row[k])
    for i in range(dim):
        along = factor_gradient[0, i] * factor[0, i] - 1.0
        for k in range(many):
            low = (2 + k) * dim + i
            gradient[low] = factor_gradient[1 + k, i] / math.sqrt(1.0 + row[k])
            for j in range(many):
                gradient[low] += gram[k, j] * factor[1 + j, i]
            along -= gradient[low] * factor[1 + k, i] * math.sqrt(1.0 + row[k])
        share = _least(factor, scale, i) / factor[0, i]
        gradient[dim + i] = along * (1.0 - share * share)
    for i in range(dim):
        for k in range(many):
            row[k] = 0.0
            for j in range(many):
                row[k] += axes[j, k] * gradient[(2 + j) * dim + i]
        for k in range(many):
            gradient[(2 + k) * dim + i] = row[k] / factor[0, i]
    for k in range(many):
        g = gradient[(2 + k) * dim : (3 + k) * dim]
        for i in range(dim):  # root' g, in its place
            if root.shape[0] != dim:
                g[i] *= root[0, i]
            else:
                share, g[i] = g[i], 0.0
                add_scaled(share, root[i, : i + 1], g[: i + 1])

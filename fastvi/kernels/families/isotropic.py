"""Gaussians with one deviation for all coordinates, which is the parameter of the factor."""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import clear_matrix, fill_vector, precisions, set_diagonal
from . import diagonal


@kernel
def parameters(dim):
    """See `operations`, as for all functions here."""
    return dim + 1


@kernel
def has_diagonal_factor():
    """Its factor is diagonal."""
    return True


@kernel
def metric(dim, out):
    """2 for the logarithm of each deviation."""
    out[dim] = 2.0 * dim


@kernel
def lay_out(dim, layout):
    """T_aa, which `fold` sums up."""
    return diagonal.lay_out(dim, layout)


@kernel
def fold(dim, count, gradient, hessian):
    """T = t I: the derivatives by t are the sums of those by T_aa."""
    for j in range(dim):
        hessian[dim, j] = _column_sum(hessian, dim, j)
    corner, total = 0.0, 0.0
    for a in range(dim):
        total += gradient[dim + a]
        for b in range(dim):
            corner += hessian[dim + max(a, b), dim + min(a, b)]
    hessian[dim, dim], gradient[dim] = corner, total
    return dim + 1


@kernel
def _column_sum(hessian, dim, j):
    total = 0.0
    for a in range(dim):
        total += hessian[dim + a, j]
    return total


@kernel
def unfold(dim, count, step):
    """T_aa = t."""
    for a in range(1, dim):
        step[dim + a] = step[dim]
    return 2 * dim


@kernel
def unpack(point, root, scale, factor):
    """One factor of `scale`, as a logarithm."""
    clear_matrix(factor)
    for i in range(scale.size):
        factor[i, i] = scale[i] * math.exp(point[scale.size])


@kernel
def pack_gradient(point, root, factor, factor_gradient, gradient):
    """The sum of d / dlog factor_ii."""
    dim = root.shape[0]
    gradient[dim] = 0.0
    for i in range(dim):
        gradient[dim] += factor_gradient[i, i] * factor[i, i] - 1.0


@kernel
def leave_out_entropy(dim, gradient):
    """The entropy is D times the logarithm of the deviation."""
    gradient[dim] += dim


@kernel
def _common_scale(precision):
    """sqrt(D / tr Lambda), the deviation that minimises KL(q ‖ p), in place of each Lambda_ii."""
    trace = 0.0
    for i in range(precision.size):
        trace += precision[i]
    fill_vector(math.sqrt(precision.size / trace), precision)


@kernel
def start(scale):
    """One deviation from the conditional ones: Lambda_ii = 1 / scale_i**2."""
    for i in range(scale.size):
        scale[i] = 1.0 / (scale[i] * scale[i])
    _common_scale(scale)


@kernel
def restrict(chol, space):
    """The variance D / tr Lambda minimises KL(q ‖ p)."""
    dim = chol.shape[0]
    scale = space[dim : 2 * dim]
    precisions(chol, scale, space[:dim])
    _common_scale(scale)
    set_diagonal(scale, chol)


@kernel
def match(cov):
    """The mean of the variances of p minimises KL(p ‖ q)."""
    dim = cov.shape[0]
    trace = 0.0
    for i in range(dim):
        trace += cov[i, i]
    clear_matrix(cov)
    for i in range(dim):
        cov[i, i] = math.sqrt(trace / dim)
    return trace > 0.0

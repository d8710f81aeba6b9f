"""Gaussians without correlations. Parameters of the factor: its diagonal."""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import clear_matrix, precisions, set_diagonal


@kernel
def parameters(dim):
    """See `operations`, as for all functions here."""
    return 2 * dim


@kernel
def has_diagonal_factor():
    """Its factor is diagonal."""
    return True


@kernel
def metric(dim, out):
    """2 for the logarithm of a deviation."""
    for i in range(dim):
        out[dim + i] = 2.0


@kernel
def lay_out(dim, layout):
    """T_aa."""
    for a in range(dim):
        layout[dim + a, 0], layout[dim + a, 1] = a, a
    return 2 * dim


@kernel
def fold(dim, count, gradient, hessian):
    """Every T_aa is a parameter."""
    return count


@kernel
def unfold(dim, count, step):
    """Every T_aa is a parameter."""
    return count


@kernel
def unpack(point, root, scale, factor):
    """Deviations, as logarithms in units of `scale`."""
    clear_matrix(factor)
    for i in range(scale.size):
        factor[i, i] = scale[i] * math.exp(point[scale.size + i])


@kernel
def pack_gradient(point, root, factor, factor_gradient, gradient):
    """d / dlog factor_ii."""
    dim = root.shape[0]
    for i in range(dim):
        gradient[dim + i] = factor_gradient[i, i] * factor[i, i] - 1.0


@kernel
def leave_out_entropy(dim, gradient):
    """The entropy is the sum of the logarithms of the deviations."""
    for i in range(dim):
        gradient[dim + i] += 1.0


@kernel
def start(scale):
    """The conditional deviations minimise KL(q ‖ p)."""


@kernel
def restrict(chol, space):
    """Variances 1 / Lambda_ii minimise KL(q ‖ p)."""
    dim = chol.shape[0]
    scale = space[dim : 2 * dim]
    precisions(chol, scale, space[:dim])
    for i in range(dim):
        scale[i] = 1.0 / math.sqrt(scale[i])
    set_diagonal(scale, chol)


@kernel
def match(cov):
    """The variances of p minimise KL(p ‖ q)."""
    trace = 0.0
    for i in range(cov.shape[0]):
        trace += cov[i, i]
    for i in range(cov.shape[0]):
        variance = cov[i, i]
        for j in range(cov.shape[0]):
            cov[i, j] = 0.0
        cov[i, i] = math.sqrt(variance)
    return trace > 0.0

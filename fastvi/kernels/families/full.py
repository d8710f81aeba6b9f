"""All Gaussians. Parameters of the factor: its lower triangle, row by row."""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import cholesky, clear_matrix


@kernel
def parameters(dim):
    """See `operations`, as for all functions here."""
    return dim + dim * (dim + 1) // 2


@kernel
def has_diagonal_factor():
    """Its factor is a lower triangle."""
    return False


@kernel
def metric(dim, out):
    """1 beside the diagonal, 2 on it."""
    k = dim
    for a in range(dim):
        for b in range(a + 1):
            out[k] = 2.0 if a == b else 1.0
            k += 1


@kernel
def lay_out(dim, layout):
    """T_ab for b <= a."""
    k = dim
    for a in range(dim):
        for b in range(a + 1):
            layout[k, 0], layout[k, 1] = a, b
            k += 1
    return k


@kernel
def fold(dim, count, gradient, hessian):
    """Every T_ab is a parameter."""
    return count


@kernel
def unfold(dim, count, step):
    """Every T_ab is a parameter."""
    return count


@kernel
def unpack(point, root, scale, factor):
    """factor = root M, the diagonal of M as logarithms."""
    dim = scale.size
    clear_matrix(factor)
    k = dim
    for a in range(dim):
        for b in range(a + 1):
            m = math.exp(point[k]) if a == b else point[k]
            k += 1
            for i in range(a, dim):
                factor[i, b] += root[i, a] * m


@kernel
def pack_gradient(point, root, factor, factor_gradient, gradient):
    """d / dM_ab = (root' d / dfactor)_ab, times M_aa for its logarithm."""
    dim = root.shape[0]
    k = dim
    for a in range(dim):
        for b in range(a + 1):
            s = 0.0
            for i in range(a, dim):
                s += root[i, a] * factor_gradient[i, b]
            gradient[k] = s * math.exp(point[k]) - 1.0 if a == b else s
            k += 1


@kernel
def leave_out_entropy(dim, gradient):
    """The entropy is the sum of the logarithms on the diagonal."""
    i = dim
    for a in range(dim):
        i += a
        gradient[i] += 1.0
        i += 1


@kernel
def start(scale):
    """Laplace's approximation itself is a member."""


@kernel
def restrict(chol, space):
    """Every Gaussian is a member."""


@kernel
def match(cov):
    """Every covariance is one of the family."""
    return cholesky(cov, cov)

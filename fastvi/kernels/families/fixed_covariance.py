"""Gaussians whose covariance is that of the start: only the mean is fitted."""

from __future__ import annotations

from ..compiler import kernel
from ..numerics.matrices import copy_matrix


@kernel
def parameters(dim):
    """See `operations`, as for all functions here."""
    return dim


@kernel
def has_diagonal_factor():
    """Its factor is that of the start, a lower triangle."""
    return False


@kernel
def metric(dim, out):
    """There is nothing but the mean."""


@kernel
def lay_out(dim, layout):
    """No T."""
    return dim


@kernel
def fold(dim, count, gradient, hessian):
    """There is nothing but the mean."""
    return count


@kernel
def unfold(dim, count, step):
    """There is nothing but the mean."""
    return count


@kernel
def unpack(point, root, scale, factor):
    """The factor is the root."""
    copy_matrix(root, factor)


@kernel
def pack_gradient(point, root, factor, factor_gradient, gradient):
    """There is nothing but the mean."""


@kernel
def leave_out_entropy(dim, gradient):
    """The entropy is constant."""


@kernel
def start(scale):
    """The covariance is held as it is."""


@kernel
def restrict(chol, space):
    """The covariance is held as it is."""

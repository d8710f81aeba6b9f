"""Gaussians whose covariance is that of the start: only the mean is fitted."""

from __future__ import annotations

from ..compiler import merged
from ..numerics.matrices import copy_matrix


@merged
def parameters(dim):
    """See `operations`, as for all functions here."""
    return dim


@merged
def has_diagonal_factor():
    """Its factor is that of the start, a lower triangle."""
    return False


@merged
def metric(dim, out):
    """There is nothing but the mean."""


@merged
def lay_out(dim, layout):
    """No T."""
    return dim


@merged
def fold(dim, count, gradient, hessian):
    """There is nothing but the mean."""
    return count


@merged
def unfold(dim, count, step):
    """There is nothing but the mean."""
    return count


@merged
def unpack(point, root, scale, factor):
    """The factor is the root."""
    copy_matrix(root, factor)


@merged
def pack_gradient(point, root, factor, factor_gradient, gradient):
    """There is nothing but the mean."""


@merged
def leave_out_entropy(dim, gradient):
    """The entropy is constant."""


@merged
def start(scale):
    """The covariance is held as it is."""


@merged
def restrict(chol, space):
    """The covariance is held as it is."""

"""KL divergences and entropies of Gaussian mixtures by quadrature, in up to three dimensions.

For `kl_estimate` and `entropy_estimate` of mixtures. By contour integrals where these can be used (in the
plane, two relevant components), else on a lattice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named, packed
from ..compiler import exported, kernel
from ..densities.gaussians import LOG_2PI
from ..densities.mixtures import Mixture, write_coefficients
from ..numerics.matrices import clear_matrix, clear_vector, copy_matrix, half_log_det
from ..optimizers import newton
from ..optimizers.newton import FULL, differentiate, lay_out
from . import contours
from . import moments as moments_
from .lattice_rows import left_out
from .moments import MOMENTS, MOST_NODES, STEP, integrate_moments, integrate_value
from .refinement import (
    GRADIENT_ROUNDING,
    TAIL_SHARE,
    VALUE_ROUNDING,
    ball,
    drop_negligible,
    refine_moments,
    refine_value,
    rounding,
    set_steps,
    tail,
)
from .rotation import rotate

#: Radius and most nodes of the lattice for a rough value, from which the tolerance of each part is derived.
ROUGH_RADIUS, ROUGH_NODES = 7.0, 1e5

#: Share of the tolerance for each contour integral: the difference of two of them loses digits.
CONTOUR_SHARE = 1e-3

#: Tolerance up to which contour integrals begin with the finest step.
FINEST_FROM = 1e-8

#: Absolute error that is accepted of contour integrals, for divergences near zero.
LEAST_ERROR = 1e-14

#: Shares of the tolerance in `reverse_kl`: for the contour integral, and for what is outside of the ball.
REVERSE_CONTOUR_SHARE, REVERSE_TAIL_SHARE = 0.1, 1e-3


class Workspace(NamedTuple):
    """Scratch space for `mixture_kl` and `reverse_kl` in D dimensions."""

    quadrature: moments_.Workspace
    newton: newton.Workspace
    factor: Matrix  #: (D, D) of the frame, rotated to the sharpest directions
    moments: Vector  #: (MOMENTS,)


@exported
def workspace(components_p, components_q, dim):
    """Scratch space for `mixture_kl` and `reverse_kl`: one for each thread.

    Parameters
    ----------
    components_p, components_q : int
        As many as p and q have, or more.
    dim : int
        At most 3.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.estimates.workspace(2, 1, 2)
    """
    return packed(
        Workspace(
            quadrature=moments_.workspace(max(components_p, components_q)),
            newton=newton.workspace(dim),
            factor=np.empty((dim, dim)),
            moments=np.empty(MOMENTS),
        )
    )


@kernel
def _in_frame(p, q, k, factor, space):
    """Coefficients of p and q in the frame (mean of component k of p, factor)."""
    both = space.coefficients
    first, second = both.first[: p.log_weights.size], both.second[: q.log_weights.size]
    write_coefficients(p, p.means[k], factor, first, space.vectors)
    write_coefficients(q, p.means[k], factor, second, space.vectors)
    return first, second


@kernel
def _in_rotated_frame(p, q, k, factor, space):
    """`_in_frame` of component k, rotated to the sharpest directions; and the bound of `drop_negligible`."""
    copy_matrix(p.chols[k], factor)
    first, second = _in_frame(p, q, k, factor, space)
    dim = factor.shape[0]
    dropped = drop_negligible(first, dim, space) + drop_negligible(second, dim, space)
    rotate(first, second, dim, factor, space)
    return first, second, dropped


@kernel
def _by_contours(p, q, rtol, space):
    """`mixture_kl` by contour integrals: (value, error, nodes); error inf where they cannot be used."""
    quadrature, moments = space.quadrature, space.moments
    components, dim = p.means.shape
    table = quadrature.by_rows.polynomials
    level = contours.USUAL if rtol > FINEST_FROM else contours.FINEST
    total, error, floor, nodes = 0.0, 0.0, 0.0, 0
    for k in range(components):
        weight = math.exp(p.log_weights[k])
        if weight == 0.0:
            continue
        first, second = _in_frame(p, q, k, p.chols[k], quadrature)
        floor = max(floor, rounding(first, second))
        # E[-|xi|**2 / 2] - E[log p], and the same for q.
        one, n = contours.expect(first, 0.0, dim, CONTOUR_SHARE * rtol, level, table, moments)
        value, left = -moments[0], one
        nodes += n
        if second.shape[0] > 0:
            two, n = contours.expect(second, 0.0, dim, CONTOUR_SHARE * rtol, level, table, moments)
            value, left = value + moments[0], left + two
            nodes += n
        else:
            value -= 0.5 * dim
        if not left < math.inf:
            return 0.0, math.inf, nodes
        total += weight * value
        error += weight * (left + VALUE_ROUNDING * abs(value))
    return total, error + floor, nodes


@exported
def mixture_kl(p, q, rtol, space):
    """KL(p ‖ q) of two mixtures in up to three dimensions, by quadrature.

    The sum over the components of p of w_k E_k[log p - log q], each in the component's own frame. For q
    without components the result is minus the entropy of p.

    Parameters
    ----------
    p, q : tuples (log_weights, means, chols)
    rtol : float
        Error wanted, relative.
    space : tuple
        A `workspace`.

    Returns
    -------
    value, error, nodes, resolved
        `resolved` is False where the lattice would need too many nodes: then the error is no bound. NaN in
        an argument gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.7]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([np.eye(2), np.eye(2)])
    >>> q = np.zeros(1), np.array([[1.2, 0.0]]), np.array([np.diag([8.56**0.5, 1.0])])
    >>> space = kernels.estimates.workspace(2, 1, 2)
    >>> value, error, nodes, resolved = kernels.estimates.mixture_kl(p, q, 1e-10, space)
    >>> round(value, 9), error < 1e-9, resolved
    (0.466188952, True, True)
    """
    log_weights, means, chols = borrow(p)
    p = Mixture(log_weights, means, chols)
    log_weights, means, chols = borrow(q)
    q = Mixture(log_weights, means, chols)
    space = named(Workspace, borrow(space))
    total, error, nodes = _by_contours(p, q, rtol, space)
    if error <= rtol * abs(total) + LEAST_ERROR:
        return total, error, nodes, True
    factor, space = space.factor, space.quadrature
    components, dim = p.means.shape
    steps, shift = space.lattice.steps, space.lattice.shift
    clear_vector(shift)
    # A rough value of the sum gives the absolute tolerance of its parts.
    coarse, floor = 0.0, 0.0
    for k in range(components):
        first, second, _ = _in_rotated_frame(p, q, k, factor, space)
        floor = max(floor, rounding(first, second))
        set_steps(first, second, dim, STEP, ROUGH_RADIUS, ROUGH_NODES, steps)
        value, _ = integrate_value(first, second, dim, steps, shift, ROUGH_RADIUS, space)
        coarse += math.exp(p.log_weights[k]) * value
    wanted = max(rtol * abs(coarse), floor)
    total, error, nodes, resolved = 0.0, floor, 0, True
    for k in range(components):
        weight = math.exp(p.log_weights[k])
        if weight == 0.0:
            continue
        first, second, dropped = _in_rotated_frame(p, q, k, factor, space)
        atol = wanted / (weight * components)
        radius = ball(first, second, dim, TAIL_SHARE * atol)
        fits = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
        value, n = integrate_value(first, second, dim, steps, shift, radius, space)
        nodes += n
        value, left, n = refine_value(first, second, dim, radius, atol, space, value)
        nodes += n
        total += weight * value
        error += weight * (left + dropped + tail(first, second, dim, radius) + VALUE_ROUNDING * abs(value))
        resolved = resolved and fits
    return total, error, nodes, resolved


@exported
def reverse_kl(log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space):
    """KL(q ‖ p) for q = N(mean, chol chol') and a mixture p in up to three dimensions, with its gradient.

    Parameters
    ----------
    log_weights, means, chols : (K,), (K, D), (K, D, D)
    mean, chol : (D,), (D, D)
    rtol : float
        Error wanted, relative.
    grad_mean, grad_chol : (D,), (D, D)
        The gradient in the mean and in the lower triangle of the factor is written to them.
    space : tuple
        A `workspace` for K components.

    Returns
    -------
    value, error
        The error is infinite where the lattice would need too many nodes. NaN in an argument gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.7]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([np.eye(2), np.eye(2)])
    >>> grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
    >>> mean, chol, space = np.array([3.0, 0.0]), np.eye(2), kernels.estimates.workspace(2, 2, 2)
    >>> value, error = kernels.estimates.reverse_kl(*p, mean, chol, 1e-8, grad_mean, grad_chol, space)
    >>> round(value, 6), grad_mean.round(6) + 0.0
    (0.354256, array([0.008087, 0.      ]))
    """
    space = named(Workspace, borrow(space))
    quadrature, factor, moments = space.quadrature, space.factor, space.moments
    dim = mean.size
    steps, shift = quadrature.lattice.steps, quadrature.lattice.shift
    clear_vector(shift)
    both = quadrature.coefficients
    first, second = both.first[:0], both.second[: log_weights.size]
    copy_matrix(chol, factor)
    write_coefficients(Mixture(log_weights, means, chols), mean, factor, second, quadrature.vectors)
    log_peak = -half_log_det(chol) - 0.5 * dim * LOG_2PI
    floor = rounding(first, second)
    table = quadrature.by_rows.polynomials
    error, _ = contours.expect(
        second, log_peak, dim, max(REVERSE_CONTOUR_SHARE * rtol, floor), contours.USUAL, table, moments
    )
    if error <= rtol * min(abs(moments[0]), 1.0) + floor:
        gradient_in_parameters(moments, chol, space.newton, grad_mean, grad_chol)
        return moments[0], error + floor
    dropped = drop_negligible(second, dim, quadrature)
    radius = ball(first, second, dim, max(REVERSE_TAIL_SHARE * rtol, TAIL_SHARE * floor))
    fits = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
    integrate_moments(second, log_peak, dim, steps, shift, radius, quadrature, moments)
    error, _, _, _, holds = refine_moments(
        second, log_peak, dim, radius, rtol, floor, max(rtol, GRADIENT_ROUNDING * floor), quadrature, moments
    )
    error += floor + dropped + tail(first, second, dim, radius) + left_out(second.shape[0], dim, radius)
    gradient_in_parameters(moments, chol, space.newton, grad_mean, grad_chol)
    return moments[0], error if fits and holds else math.inf


@kernel
def gradient_in_parameters(moments, chol, parts, grad_mean, grad_chol):
    """Write the gradient in mean and factor, from the moments in the frame (mean, factor)."""
    dim = grad_mean.size
    count = lay_out(FULL, dim, parts)
    differentiate(moments, FULL, dim, count, parts)
    layout, gradient = parts.layout, parts.gradient
    clear_matrix(grad_chol)
    for i in range(count):
        a, b = layout[i]
        if b < 0:
            grad_mean[a] = gradient[i]
        else:
            grad_chol[a, b] = gradient[i]
    # d factor = factor dT: solve factor' G = gradient column by column, and keep the lower triangle.
    for i in range(dim - 1, -1, -1):
        for k in range(i + 1, dim):
            grad_mean[i] -= chol[k, i] * grad_mean[k]
            for b in range(dim):
                grad_chol[i, b] -= chol[k, i] * grad_chol[k, b]
        grad_mean[i] /= chol[i, i]
        for b in range(dim):
            grad_chol[i, b] /= chol[i, i]
    for i in range(dim):
        for b in range(i + 1, dim):
            grad_chol[i, b] = 0.0

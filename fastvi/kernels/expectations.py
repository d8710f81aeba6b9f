"""Expectations under a Gaussian of the difference of two log densities, with their derivatives.

In the frame (mean, factor) of the Gaussian this is E[x(xi)], xi standard normal, x = log f - log g. Because
of Stein's identity its derivatives in mean and factor need no derivative of x: they are expectations of x
times Hermite polynomials. So all that is taken from the nodes are the moments E[x xi**alpha], |alpha| <= 4:
the value, the gradient and the Hessian are linear in them.
"""

from __future__ import annotations

import numpy as np

from . import rows
from .elementary import log_ratio
from .exact import add_compensated
from .jit import adder, formula, inlined, kernel
from .lattices import BLOCK, MOST_ACROSS, PADDING, cell, next_block, padded, rewind
from .mixtures import log_sum, log_terms
from .rows import add_moments, fits, integrate_rows

#: E[x xi_0**a xi_1**b xi_2**c] is moment a + 5 b + 25 c.
MOMENTS = 125

#: The largest ball: in the plane it holds all but 2e-22 of a standard normal vector.
RADIUS = 10.0

#: The coarsest lattice: the rule's own error for a polynomial is then 1e-16.
STEP = 0.7

#: Nodes beyond which a lattice is not refined: 30 ms each.
MOST_NODES = 4e6


@kernel
def workspace(components, dim):
    """Scratch space for mixtures of up to so many components in `dim` <= 3 dimensions."""
    return (
        np.empty((4, BLOCK + PADDING)),
        np.empty((4, BLOCK)),
        np.zeros(6, np.int64),
        np.empty((components, 13)),
        np.empty((components, 13)),
        np.zeros((3, 3)),
        np.zeros((4, MOMENTS)),
        np.empty((4, 3, 3)),
        np.empty(MOST_ACROSS + PADDING),
        np.empty(6),
        rows.workspace(components),
    )


@formula
def _difference(weight, first, first_total, second, second_total):
    """weight (log f - log g) of f = exp(first) first_total and g alike."""
    return weight * ((first - second) + log_ratio(first_total, second_total, first_total - second_total))


@formula
def _own_difference(x, y, z, own, top, total):
    return (own - 0.5 * (x * x + y * y + z * z)) - log_sum(top, total)


@inlined
def _weigh(weights, f, ft, g, gt):
    for i in range(weights.size):
        g[i] = _difference(weights[i], f[i], ft[i], g[i], gt[i])


@inlined
def _weigh_own(weights, x, y, z, own, g, gt):
    for i in range(weights.size):
        g[i] = weights[i] * _own_difference(x[i], y[i], z, own, g[i], gt[i])


@adder
def _sum(values):
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@adder
def _moments(values, x, y):
    """Sums of values x**a y**b for a + b <= 4, ordered by b and then a."""
    s00, s10, s20, s30, s40 = 0.0, 0.0, 0.0, 0.0, 0.0
    s01, s11, s21, s31 = 0.0, 0.0, 0.0, 0.0
    s02, s12, s22 = 0.0, 0.0, 0.0
    s03, s13, s04 = 0.0, 0.0, 0.0
    for i in range(values.size):
        u, v, w = values[i], x[i], y[i]
        square = v * v
        uv = u * v
        s00 += u
        s10 += uv
        s20 += u * square
        s30 += uv * square
        s40 += u * (square * square)
        u *= w
        uv *= w
        s01 += u
        s11 += uv
        s21 += u * square
        s31 += uv * square
        u *= w
        uv *= w
        s02 += u
        s12 += uv
        s22 += u * square
        u *= w
        s03 += u
        s13 += uv * w
        s04 += u * w
    return ((s00, s10, s20, s30, s40), (s01, s11, s21, s31), (s02, s12, s22), (s03, s13), s04)


@kernel
def integrate(first, second, own, dim, steps, shift, radius, degree, work, moments):
    """Write the moments of x = log first - log second; the number of nodes.

    Both are rows of coefficients; where `first` has none, it is the Gaussian itself, with log density
    ``own - |xi|**2 / 2``. No rows of `second` are a density of 1. `degree` is 4, or 0 for the value alone.
    """
    nodes, scratch, cursor, bell = work[0], work[1], work[2], work[8]
    for i in range(MOMENTS):
        moments[i] = 0.0
    rewind(cursor, steps, shift, radius, dim, bell)
    count = 0
    while True:
        n = next_block(cursor, steps, shift, radius, dim, bell, nodes)
        if n == 0:
            break
        count += n
        m = padded(n)
        x, y, z, weights = nodes[0, :m], nodes[1, :m], nodes[2, 0], nodes[3, :m]
        f, ft, g, gt = scratch[0, :m], scratch[1, :m], scratch[2, :m], scratch[3, :m]
        log_terms(second, dim, x, y, z, g, gt)
        if first.shape[0] == 0:
            _weigh_own(weights, x, y, z, own, g, gt)
        else:
            log_terms(first, dim, x, y, z, f, ft)
            _weigh(weights, f, ft, g, gt)
        if degree == 0:
            moments[0], moments[1] = add_compensated(moments[0], moments[1], _sum(g))
        else:
            add_moments(_moments(g, x, y), z, moments)
    if degree == 0:
        moments[0] += moments[1]
        moments[1] = 0.0
    volume = cell(steps, dim)
    for i in range(MOMENTS):
        moments[i] *= volume
    return count


@kernel
def integrate_few(second, own, dim, steps, shift, radius, work, moments):
    """`integrate` without `first`, to degree 4: for coarse lattices."""
    for i in range(MOMENTS):
        moments[i] = 0.0
    nodes, scratch, cursor, bell = work[0], work[1], work[2], work[8]
    rewind(cursor, steps, shift, radius, dim, bell)
    count = 0
    while True:
        n = next_block(cursor, steps, shift, radius, dim, bell, nodes)
        if n == 0:
            break
        count += n
        m = padded(n)
        x, y, z, weights = nodes[0, :m], nodes[1, :m], nodes[2, 0], nodes[3, :m]
        g, gt = scratch[2, :m], scratch[3, :m]
        log_terms(second, dim, x, y, z, g, gt)
        _weigh_own(weights, x, y, z, own, g, gt)
        add_moments(_moments(g, x, y), z, moments)
    volume = cell(steps, dim)
    for i in range(MOMENTS):
        moments[i] *= volume
    return count


@kernel
def integrate_own(second, own, dim, steps, shift, radius, work, moments):
    """`integrate` without `first`, to degree 4: by rows where that is faster."""
    used = fits(second, steps, radius, work[10][0])
    if used == 0:
        return integrate_few(second, own, dim, steps, shift, radius, work, moments)
    for i in range(MOMENTS):
        moments[i] = 0.0
    return integrate_rows(used, own, dim, steps, shift, radius, work[10], moments)

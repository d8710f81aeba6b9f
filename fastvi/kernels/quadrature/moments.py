"""Expectations under a Gaussian of the difference of two log densities, with their derivatives.

In the frame (mean, factor) of the Gaussian this is E[x(xi)], xi standard normal, x = log f - log g. Because
of Stein's identity its derivatives in mean and factor need no derivative of x: they are expectations of x
times Hermite polynomials. So all that is taken from the nodes are the moments E[x xi**alpha], |alpha| <= 4:
the value, the gradient and the Hessian are linear in them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel
from ..densities.mixtures import log_sum, log_terms
from ..numerics.elementary import log_ratio
from ..numerics.error_free import add_compensated
from ..numerics.matrices import clear_vector
from . import lattice_rows
from .lattice import BLOCK, MOST_ACROSS, PADDING, cell, next_block, padded, rewind
from .lattice_rows import add_moments, fits, integrate_rows

#: E[x xi_0**a xi_1**b xi_2**c] is moment a + 5 b + 25 c.
MOMENTS = 125

#: The largest ball: in the plane it holds all but 2e-22 of a standard normal vector.
RADIUS = 10.0

#: The coarsest lattice: the rule's own error for a polynomial is then 1e-16.
STEP = 0.7

#: Nodes beyond which a lattice is not refined: 30 ms each.
MOST_NODES = 4e6


class Coefficients(NamedTuple):
    """The coefficients of two mixtures in the frame, see `mixtures.see`."""

    first: Any  #: (K, 13)
    second: Any  #: (K, 13)


class Lattice(NamedTuple):
    """The lattice of an expectation."""

    steps: Any  #: (3,)
    shift: Any  #: (3,) in steps
    coarse_steps: Any  #: (3,) before the last halving


class Halving(NamedTuple):
    """The moments on two lattices."""

    coarse: Any  #: (MOMENTS,) before the last halving
    fine: Any  #: (MOMENTS,) after it


class Matrices(NamedTuple):
    """What the rotation of a lattice takes, and the influence of a component."""

    sharpness: Any  #: (3, 3) how sharp the mixtures are, by direction
    axes: Any  #: (3, 3) its eigenvectors
    product: Any  #: (3, 3) of two matrices
    precision: Any  #: (3, 3) of the Gaussian that bounds the influence of a component


class Workspace(NamedTuple):
    """Scratch space for mixtures of up to K components in up to three dimensions."""

    nodes: Any  #: (4, BLOCK + PADDING) x, y, z and weights of a block of nodes, see `lattices.next_block`
    densities: Any  #: (4, BLOCK) of the first mixture at the nodes: top and total; of the second
    cursor: Any  #: (6,) where on the lattice the block is
    bell: Any  #: (MOST_ACROSS + PADDING,) the weights along the first axis
    coefficients: Coefficients
    lattice: Lattice
    halving: Halving
    matrices: Matrices
    vectors: Any  #: (6,) two vectors
    by_rows: lattice_rows.Workspace


@kernel
def workspace(components, dim):
    """Scratch space for mixtures of up to so many components in `dim` <= 3 dimensions."""
    return Workspace(
        nodes=np.empty((4, BLOCK + PADDING)),
        densities=np.empty((4, BLOCK)),
        cursor=np.zeros(6, np.int64),
        bell=np.empty(MOST_ACROSS + PADDING),
        coefficients=np.empty((2, components, 13)),
        lattice=np.zeros((3, 3)),
        halving=np.zeros((2, MOMENTS)),
        matrices=np.empty((4, 3, 3)),
        vectors=np.empty(6),
        by_rows=lattice_rows.workspace(components),
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
def integrate_difference(first, second, dim, steps, shift, radius, space):
    """(E[log first - log second], number of nodes); both are rows of coefficients.

    No rows of `second` are a density of 1.
    """
    nodes, densities = space.nodes, space.densities
    rewind(space.cursor, steps, shift, radius, dim, space.bell)
    value, compensation, count = 0.0, 0.0, 0
    while True:
        n = next_block(space.cursor, steps, shift, radius, dim, space.bell, nodes)
        if n == 0:
            break
        count += n
        m = padded(n)
        x, y, z, weights = nodes[0, :m], nodes[1, :m], nodes[2, 0], nodes[3, :m]
        f, ft, g, gt = densities[0, :m], densities[1, :m], densities[2, :m], densities[3, :m]
        log_terms(second, dim, x, y, z, g, gt)
        log_terms(first, dim, x, y, z, f, ft)
        _weigh(weights, f, ft, g, gt)
        value, compensation = add_compensated(value, compensation, _sum(g))
    return (value + compensation) * cell(steps, dim), count


@kernel
def integrate_nodes(second, own, dim, steps, shift, radius, space, moments):
    """Write the moments of x = log q - log second, log q = ``own - |xi|**2 / 2``; the number of nodes.

    `second` is rows of coefficients. Node by node, also where `integrate_own` goes by rows.
    """
    nodes, densities = space.nodes, space.densities
    clear_vector(moments)
    rewind(space.cursor, steps, shift, radius, dim, space.bell)
    count = 0
    while True:
        n = next_block(space.cursor, steps, shift, radius, dim, space.bell, nodes)
        if n == 0:
            break
        count += n
        m = padded(n)
        x, y, z, weights = nodes[0, :m], nodes[1, :m], nodes[2, 0], nodes[3, :m]
        g, gt = densities[2, :m], densities[3, :m]
        log_terms(second, dim, x, y, z, g, gt)
        _weigh_own(weights, x, y, z, own, g, gt)
        add_moments(_moments(g, x, y), z, moments)
    volume = cell(steps, dim)
    for i in range(MOMENTS):
        moments[i] *= volume
    return count


@kernel
def integrate_own(second, own, dim, steps, shift, radius, space, moments):
    """`integrate_nodes`, by rows where that is faster."""
    used = fits(second, steps, radius, space.by_rows.polynomials)
    if used == 0:
        return integrate_nodes(second, own, dim, steps, shift, radius, space, moments)
    clear_vector(moments)
    return integrate_rows(used, own, dim, steps, shift, radius, space.by_rows, moments)

"""Expectations of the difference of two log densities under a Gaussian, on one lattice.

`refinement` chooses the lattice; the KL divergences of mixtures and their projections are such expectations.
In the frame z = mean + factor xi of the Gaussian it is E[x(xi)], xi standard normal, x = log f - log g. By
Stein's identity its derivatives in mean and factor are expectations of x times Hermite polynomials, without
a derivative of x. So the nodes are used for the moments E[x xi**alpha], |alpha| <= 4, alone: the value, the
gradient and the Hessian are linear in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..borrowing import Integers, Matrix, Vector
from ..compiler import adder, formula, inlined, kernel
from ..densities.mixtures import log_sum, log_terms
from ..numerics.elementary import log_ratio
from ..numerics.error_free import add_compensated
from ..numerics.matrices import add_up, clear_vector
from . import lattice_rows
from .lattice import BLOCK, MOST_ACROSS, PADDING, cell, next_block, padded, rewind
from .lattice_rows import add_moments, integrate_rows, usable_ratios

#: E[x xi_0**a xi_1**b xi_2**c] is moment a + 5 b + 25 c.
MOMENTS = 125

#: Radius of the largest ball: a component that is negligible in all of it is left out. In the plane it holds
#: all but 2e-22 of a standard normal vector.
RADIUS = 10.0

#: Step of the coarsest lattice: the error of the rule for a polynomial is 1e-16.
STEP = 0.7

#: Most nodes of a lattice: they take 30 ms.
MOST_NODES = 4e6


class Block(NamedTuple):
    """A block of nodes."""

    nodes: Matrix  #: (4, BLOCK + PADDING) x, y, z and weights, see `lattice.next_block`
    densities: Matrix  #: (4, BLOCK + PADDING) top and total (see `log_terms`) of two mixtures


class Coefficients(NamedTuple):
    """Coefficients of two mixtures in the frame, see `mixtures.write_coefficients`."""

    first: Matrix  #: (K, 13)
    second: Matrix  #: (K, 13)


class Lattice(NamedTuple):
    """The lattice, and the one before the last halving of a step."""

    steps: Vector  #: (3,)
    shift: Vector  #: (3,) in steps
    coarse_steps: Vector  #: (3,)


class Halving(NamedTuple):
    """Moments before and after the last halving of a step."""

    coarse: Vector  #: (MOMENTS,)
    fine: Vector  #: (MOMENTS,)


class Matrices(NamedTuple):
    """Matrices for the rotation of a lattice, and for the influence of a component."""

    sharpness: Matrix  #: (3, 3) sharpness of the mixtures by direction, a quadratic form
    axes: Matrix  #: (3, 3) its eigenvectors
    product: Matrix  #: (3, 3) product of two matrices
    precision: Matrix  #: (3, 3) of the Gaussian that bounds the influence of a component


class Workspace(NamedTuple):
    """Scratch space for mixtures of up to K components in up to three dimensions."""

    block: Block
    cursor: Integers  #: (6,) position on the lattice
    bell: Vector  #: (MOST_ACROSS + PADDING,) weights along the first axis
    coefficients: Coefficients
    lattice: Lattice
    halving: Halving
    matrices: Matrices
    vectors: Vector  #: (6,) two vectors
    by_rows: lattice_rows.Workspace


@kernel
def workspace(components):
    """Scratch space for mixtures of up to so many components."""
    return Workspace(
        block=Block(np.empty((4, BLOCK + PADDING)), np.empty((4, BLOCK + PADDING))),
        cursor=np.zeros(6, np.int64),
        bell=np.empty(MOST_ACROSS + PADDING),
        coefficients=Coefficients(np.empty((components, 13)), np.empty((components, 13))),
        lattice=Lattice(np.empty(3), np.empty(3), np.empty(3)),
        halving=Halving(np.empty(MOMENTS), np.empty(MOMENTS)),
        matrices=Matrices(np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))),
        vectors=np.empty(6),
        by_rows=lattice_rows.workspace(components),
    )


@formula
def _difference(weight, first, first_total, second, second_total):
    """weight (log f - log g) of f = exp(first) first_total and g alike."""
    return weight * ((first - second) + log_ratio(first_total, second_total, first_total - second_total))


@formula
def _difference_from_gaussian(x, y, z, log_peak, top, total):
    """log q - log p of log q = log_peak - |xi|**2 / 2 and p = exp(top) total."""
    return (log_peak - 0.5 * (x * x + y * y + z * z)) - log_sum(top, total)


@inlined
def _weigh(weights, f, ft, g, gt):
    for i in range(weights.size):
        g[i] = _difference(weights[i], f[i], ft[i], g[i], gt[i])


@inlined
def _weigh_from_gaussian(weights, x, y, z, log_peak, g, gt):
    for i in range(weights.size):
        g[i] = weights[i] * _difference_from_gaussian(x[i], y[i], z, log_peak, g[i], gt[i])


@adder
def weighted_powers(values, x, y):
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
def integrate_value(first, second, dim, steps, shift, radius, space):
    """(E[log first - log second], number of nodes) of two mixtures, given by their coefficients.

    A mixture of no components has the density 1.
    """
    nodes, densities = space.block
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
        value, compensation = add_compensated(value, compensation, add_up(g))
    return (value + compensation) * cell(steps, dim), count


@kernel
def integrate_nodes(coefficients, log_peak, dim, steps, shift, radius, space, moments):
    """Write the moments of log q - log p, log q = log_peak - |xi|**2 / 2, node by node; the number of nodes.

    p is a mixture, given by its coefficients.
    """
    nodes, densities = space.block
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
        log_terms(coefficients, dim, x, y, z, g, gt)
        _weigh_from_gaussian(weights, x, y, z, log_peak, g, gt)
        add_moments(weighted_powers(g, x, y), z, moments)
    volume = cell(steps, dim)
    for i in range(MOMENTS):
        moments[i] *= volume
    return count


@kernel
def integrate_moments(coefficients, log_peak, dim, steps, shift, radius, space, moments):
    """`integrate_nodes`, or its fast path `integrate_rows` where that can be used."""
    used = usable_ratios(coefficients, steps, radius, space.by_rows.polynomials)
    if used == 0:
        return integrate_nodes(coefficients, log_peak, dim, steps, shift, radius, space, moments)
    clear_vector(moments)
    return integrate_rows(used, log_peak, dim, steps, shift, radius, space.by_rows, moments)

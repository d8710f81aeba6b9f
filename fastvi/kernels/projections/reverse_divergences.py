"""KL(q ‖ p) of two mixtures and its gradient, on fixed nodes under each component of q.

For I-projections onto mixtures. The loops run along the nodes of a block, which are vectorised.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..em.e_step import maximum, share
from ..numerics.elementary import log
from ..numerics.matrices import (
    add_scaled,
    add_up,
    clear_matrix,
    clear_vector,
    dot,
    fill_vector,
    half_log_det,
)

#: Nodes in a block: what a block needs stays in the first cache for ten components in three dimensions.
BLOCK = 128

#: Logarithm of the responsibility below which a component is left out of a block: it is less than rounding.
#: Of 60 components in the plane, most are.
LEAST_LOG_SHARE = -40.0

#: Bounds that leave out a component, of all points of a block, are lower by this much more: rounding.
ROUNDING = 1.0


class Density(NamedTuple):
    """A mixture as the loops take it."""

    constants: Vector  #: (K,): logarithms of the components' densities at their means, with the weights
    inverses: Cube  #: (K, D, D): inverse factors


class Workspace(NamedTuple):
    """Scratch space for `divergence`; K is the larger number of components."""

    p: Density
    q: Density
    points: Matrix  #: (D, BLOCK)
    whitened: Cube  #: (K, D, BLOCK): inverse factors times differences from the means
    shares: Matrix  #: (K, BLOCK): log densities, then responsibilities
    far: Integers  #: (K,): 1 where a component is left out
    bounds: Vector  #: (K,): upper bounds of the log densities in a block
    middle: Vector  #: (D,): of the box around the points
    reach: Vector  #: (D,): half of its sides
    top: Vector  #: (BLOCK,): the largest log density
    total: Vector  #: (BLOCK,): sums of shares, then their inverses
    difference: Vector  #: (BLOCK,): log p - log q
    slopes: Matrix  #: (D, BLOCK): its gradient
    weights: Vector  #: (BLOCK,): of the nodes
    held: Vector  #: (BLOCK,)
    row: Vector  #: (BLOCK,)


@kernel
def workspace(components, count, dim):
    """Scratch space for a p of so many `components`, and a q of `count`."""
    return packed(unpacked(components, count, dim))


@kernel
def unpacked(components, count, dim):
    """A `workspace` as a NamedTuple."""
    most = max(components, count)
    return Workspace(
        p=Density(np.empty(components), np.empty((components, dim, dim))),
        q=Density(np.empty(count), np.empty((count, dim, dim))),
        points=np.empty((dim, BLOCK)),
        whitened=np.empty((most, dim, BLOCK)),
        shares=np.empty((most, BLOCK)),
        far=np.empty(most, np.int64),
        bounds=np.empty(most),
        middle=np.empty(dim),
        reach=np.empty(dim),
        top=np.empty(BLOCK),
        total=np.empty(BLOCK),
        difference=np.empty(BLOCK),
        slopes=np.empty((dim, BLOCK)),
        weights=np.empty(BLOCK),
        held=np.empty(BLOCK),
        row=np.empty(BLOCK),
    )


@kernel
def _prepare(mixture, density):
    """Write the constants and the inverse factors of a mixture."""
    log_weights, means, chols = mixture
    dim = means.shape[1]
    for k in range(log_weights.size):
        factor, inverse = chols[k], density.inverses[k]
        density.constants[k] = log_weights[k] - half_log_det(factor) - 0.5 * dim * LOG_2PI
        clear_matrix(inverse)
        for j in range(dim):
            for i in range(j, dim):
                s = 1.0 if i == j else 0.0
                for a in range(j, i):
                    s -= factor[i, a] * inverse[a, j]
                inverse[i, j] = s / factor[i, i]


@formula
def _shifted(x, a, m, out):
    for n in range(out.size):
        out[n] = a * (x[n] - m)


@formula
def _add_shifted(x, a, m, out):
    for n in range(out.size):
        out[n] += a * (x[n] - m)


@formula
def _subtract_half_square(x, out):
    for n in range(out.size):
        out[n] -= 0.5 * x[n] * x[n]


@formula
def _add_log(top, total, sign, out):
    """out += sign log(exp(top) total), and invert the total."""
    for n in range(out.size):
        out[n] += sign * (top[n] + log(total[n]))
        total[n] = 1.0 / total[n]


@formula
def _multiply(x, y, out):
    for n in range(out.size):
        out[n] = x[n] * y[n]


@formula
def _add_product(x, y, a, out):
    for n in range(out.size):
        out[n] += a * x[n] * y[n]


@kernel
def _slope(inverse, whitened, i, row):
    """row = coordinate i of inverse' whitened, the slope of half of the square."""
    fill_vector(0.0, row)
    for a in range(i, inverse.shape[0]):
        add_scaled(inverse[a, i], whitened[a, : row.size], row)


@kernel
def _is_far(values, top):
    """1 where no share counts; without an early end, which would not be vectorised."""
    near = 0
    for n in range(top.size):
        near += values[n] - top[n] > LEAST_LOG_SHARE
    return 1 if near == 0 else 0


@kernel
def _enclose(count, space):
    """Write the box around the points of a block."""
    for i in range(space.middle.size):
        least, most = math.inf, -math.inf
        for n in range(count):
            least, most = min(least, space.points[i, n]), max(most, space.points[i, n])
        space.middle[i], space.reach[i] = 0.5 * (least + most), 0.5 * (most - least)


@kernel
def _leave_out(means, density, space):
    """Mark the components that are far at all points of the box, by bounds of their log densities.

    Of a mixture of 60 in the plane, whose density took half of the time, four of five.
    """
    components, dim = means.shape
    highest = -math.inf
    for k in range(components):
        inverse, nearest, farthest = density.inverses[k], 0.0, 0.0
        for i in range(dim):
            at, around = 0.0, 0.0
            for j in range(i + 1):
                at += inverse[i, j] * (space.middle[j] - means[k, j])
                around += abs(inverse[i, j]) * space.reach[j]
            at = abs(at)
            nearest += max(at - around, 0.0) ** 2
            farthest += (at + around) ** 2
        space.bounds[k] = density.constants[k] - 0.5 * nearest
        highest = max(highest, density.constants[k] - 0.5 * farthest)
    for k in range(components):
        space.far[k] = 1 if space.bounds[k] - highest < LEAST_LOG_SHARE - ROUNDING else 0


@inlined
def _add_density(means, density, sign, count, space):
    """Add sign times log density and its gradient at the points; responsibilities are left in `shares`."""
    components, dim = means.shape
    top, total, row = space.top[:count], space.total[:count], space.row[:count]
    fill_vector(-math.inf, top)
    clear_vector(total)
    _leave_out(means, density, space)
    for k in range(components):
        if space.far[k] > 0:
            continue
        values, inverse = space.shares[k, :count], density.inverses[k]
        fill_vector(density.constants[k], values)
        for i in range(dim):
            out = space.whitened[k, i, :count]
            _shifted(space.points[0, :count], inverse[i, 0], means[k, 0], out)
            for j in range(1, i + 1):
                _add_shifted(space.points[j, :count], inverse[i, j], means[k, j], out)
            _subtract_half_square(out, values)
        maximum(values, top)
    for k in range(components):
        if space.far[k] > 0:
            continue
        space.far[k] = _is_far(space.shares[k, :count], top)
        if space.far[k] == 0:
            share(space.shares[k, :count], top, total)
    _add_log(top, total, sign, space.difference[:count])
    for k in range(components):
        if space.far[k] > 0:
            continue
        shares = space.shares[k, :count]
        _multiply(shares, total, shares)
        for i in range(dim):
            _slope(density.inverses[k], space.whitened[k], i, row)
            _add_product(shares, row, -sign, space.slopes[i, :count])


@kernel
def divergence(p, q, nodes, shares, space, by_logs, by_means, by_factors):
    """-KL(q ‖ p) = Σ_j w_j Σ_s v_s [log p(z_js) - log q(z_js)], z_js = m_j + L_j e_s, and its gradient.

    Parameters
    ----------
    p, q : tuples
        Log weights, means and factors of the mixtures.
    nodes : (D, S)
        The e_s.
    shares : (S,)
        The v_s.
    space : Workspace
    by_logs, by_means, by_factors : (k,), (k, D), (k, D, D)
        Are written: the derivatives in log weights, taken as free, in means and in factors.

    Returns
    -------
    float
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    return minus_divergence(p, q, nodes, shares, space, by_logs, by_means, by_factors)


@kernel
def minus_divergence(p, q, nodes, shares, space, by_logs, by_means, by_factors):
    """`divergence`, inside of kernels."""
    log_weights, means, chols = q
    components, dim = means.shape
    _prepare(p, space.p)
    _prepare(q, space.q)
    clear_vector(by_logs)
    clear_matrix(by_means)
    for j in range(components):
        clear_matrix(by_factors[j])
    value = 0.0
    for j in range(components):
        weight = math.exp(log_weights[j])
        for first in range(0, shares.size, BLOCK):
            last = min(first + BLOCK, shares.size)
            count = last - first
            difference, row, held = space.difference[:count], space.row[:count], space.held[:count]
            weights = space.weights[:count]
            clear_vector(weights)
            add_scaled(weight, shares[first:last], weights)
            clear_vector(difference)
            for i in range(dim):
                point = space.points[i, :count]
                fill_vector(means[j, i], point)
                for a in range(i + 1):
                    add_scaled(chols[j, i, a], nodes[a, first:last], point)
                clear_vector(space.slopes[i, :count])
            _enclose(count, space)
            _add_density(p[1], space.p, 1.0, count, space)
            _add_density(means, space.q, -1.0, count, space)
            part = dot(weights, difference)
            value += part
            by_logs[j] += part
            # By the points, which move with the parameters.
            for i in range(dim):
                _multiply(weights, space.slopes[i, :count], row)
                by_means[j, i] += add_up(row)
                for a in range(i + 1):
                    by_factors[j, i, a] += dot(row, nodes[a, first:last])
            # And by log q at points that stay.
            for k in range(components):
                if space.far[k] > 0:
                    continue
                _multiply(weights, space.shares[k, :count], held)
                mass, whitened = add_up(held), space.whitened[k]
                by_logs[k] -= mass
                for i in range(dim):
                    _slope(space.q.inverses[k], whitened, i, row)
                    _multiply(held, row, row)
                    by_means[k, i] -= add_up(row)
                    for a in range(i + 1):
                        by_factors[k, i, a] -= dot(row, whitened[a, :count])
                    by_factors[k, i, i] += mass * space.q.inverses[k, i, i]
    return value

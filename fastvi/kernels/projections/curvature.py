"""Second derivatives of -E_p[log q] for a mixture q, by expectations on nodes, for Newton's steps.

The coordinates are those of `refinements`: of each component the logarithm of its weight, its mean, and the
factor of its covariance with the logarithm of its diagonal, relative to those of a reference. All derivatives
are those at the reference.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector
from ..compiler import adder, formula, kernel
from ..em.e_step import block_shares, prepare
from ..numerics.matrices import clear_matrix, clear_vector, dot

#: Nodes in a block: the scores of 30 coordinates at these take 60 KB: 128 take 10 % longer.
NODES = 256

#: Rows and columns of inner products that are summed at once: nine sums fill the registers of AVX2. With
#: AVX-512 18 take 8 % less. On the line and in the plane a component has 3 and 6 coordinates.
TILE = 3

#: The mass that a component, or two in common, has in a block of nodes is left out below this: second
#: derivatives only steer the steps.
NEGLIGIBLE = 1e-20

#: Shares of a node below this are 0, so that products of two are not subnormal: those took half of the time
#: where q has five components that lie apart.
LEAST_SHARE = 1e-100


class Workspace(NamedTuple):
    """Scratch space for k components in C coordinates each."""

    matrix: Matrix  #: (k C, k C): the second derivatives; the lower half is written
    scores: Matrix  #: (k C, NODES): derivatives of log q, times the roots of the weights of the nodes
    own: Matrix  #: (C, NODES): derivatives of the log density of one component, times what others have
    roots: Vector  #: (NODES,): of the weights of the nodes
    scales: Vector  #: (NODES,): those over the sums of the shares


@kernel
def workspace(components, coordinates):
    """Scratch space for `write_curvature`."""
    size = components * coordinates
    return Workspace(
        np.empty((size, size)),
        np.empty((size, NODES)),
        np.empty((coordinates, NODES)),
        np.empty(NODES),
        np.empty(NODES),
    )


@formula
def _write_roots(frequencies, sums, roots, scales):
    for n in range(roots.size):
        root = math.sqrt(frequencies[n])
        roots[n], scales[n] = root, root / sums[n]


@formula
def _write_shares(roots, scales, shares, share, rest):
    """Responsibilities and what they leave, times the roots of the weights."""
    for n in range(share.size):
        s = scales[n] * shares[n]
        s = s if s > LEAST_SHARE else 0.0
        share[n], rest[n] = s, roots[n] - s


@formula
def _write_difference(scale, x, mean, out):
    """out = scale (x - mean)."""
    for n in range(out.size):
        out[n] = scale * (x[n] - mean)


@formula
def _add_difference(scale, x, mean, out):
    """out += scale (x - mean)."""
    for n in range(out.size):
        out[n] += scale * (x[n] - mean)


@formula
def _write_products(x, y, less, share, rest, score, own):
    """The derivative by an entry of the factor, x y - less."""
    for n in range(score.size):
        u = x[n] * y[n] - less
        score[n], own[n] = share[n] * u, rest[n] * u


@formula
def _weigh(x, share, rest, score):
    """The derivative by an entry of the mean."""
    for n in range(score.size):
        u = x[n]
        score[n], x[n] = share[n] * u, rest[n] * u


@adder
def _nine_dots(a, b, c, x, y, z):
    ax, ay, az, bx, by, bz, cx, cy, cz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(a.size):
        ax += a[n] * x[n]
        ay += a[n] * y[n]
        az += a[n] * z[n]
        bx += b[n] * x[n]
        by += b[n] * y[n]
        bz += b[n] * z[n]
        cx += c[n] * x[n]
        cy += c[n] * y[n]
        cz += c[n] * z[n]
    return (ax, ay, az), (bx, by, bz), (cx, cy, cz)


@kernel
def _add_products(sign, rows, columns, count, is_square, out):
    """out += sign times the inner products of the first `count` entries of rows and columns.

    Of a square, which is symmetric, no tiles above the diagonal are written.
    """
    for i in range(0, rows.shape[0], TILE):
        a, b, c = rows[i, :count], rows[i + 1, :count], rows[i + 2, :count]
        for j in range(0, i + TILE if is_square else columns.shape[0], TILE):
            x, y, z = columns[j, :count], columns[j + 1, :count], columns[j + 2, :count]
            found = _nine_dots(a, b, c, x, y, z)
            for k in range(TILE):
                for m in range(TILE):
                    out[i + k, j + m] += sign * found[k][m]


@kernel
def _write_scores(columns, first, count, mean, inverse, scores, own):
    """The derivatives of log q by the coordinates of a component at some nodes, and of its log density.

    With u, x - mean in units of the component, those of the log density are 1, u and u u' - I. The first,
    which are the weights of the others, are there.
    """
    dim = mean.size
    share, rest = scores[0, :count], own[0, :count]
    for i in range(dim):
        row = own[1 + i, :count]
        for j in range(i + 1):
            x, scale = columns[j, first : first + count], math.sqrt(2.0) * inverse[i, j]
            if j == 0:
                _write_difference(scale, x, mean[j], row)
            else:
                _add_difference(scale, x, mean[j], row)
    place = 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            x, y, less = own[1 + i, :count], own[1 + j, :count], 1.0 if i == j else 0.0
            _write_products(x, y, less, share, rest, scores[place, :count], own[place, :count])
            place += 1
    for i in range(dim):
        _weigh(own[1 + i, :count], share, rest, scores[1 + i, :count])


@kernel
def write_curvature(columns, weights, means, factors, gradient, sweeps, square, space):
    """Write the second derivatives of -E_p[log q] on the nodes, where `gradient` has the first.

    For the scores s = r f, with the responsibilities r and f of a component's log density, they are the means
    of s s' for two components, and of -r (1 - r) f f' less the second derivatives of the log density for one.
    """
    matrix, scores, own, components = space.matrix, space.scores, space.own, weights.size
    size = own.shape[0]
    prepare(weights, means, factors, sweeps)
    clear_matrix(matrix)
    for first in range(0, columns.shape[1], NODES):
        count = min(NODES, columns.shape[1] - first)
        block_shares(columns, first, count, means, sweeps)
        roots, scales = space.roots[:count], space.scales[:count]
        _write_roots(sweeps.frequencies[first : first + count], sweeps.sums[:count], roots, scales)
        for k in range(components):
            rows, out = scores[k * size : (k + 1) * size], matrix[k * size : (k + 1) * size]
            share, rest = rows[0, :count], own[0, :count]
            _write_shares(roots, scales, sweeps.shares[k, :count], share, rest)
            if dot(share, roots) <= NEGLIGIBLE:  # its other rows are not written, and not read either
                clear_vector(share)
                continue
            _write_scores(columns, first, count, means[k], sweeps.inverses[k], rows, own)
            for m in range(k):
                others = scores[m * size : (m + 1) * size]
                if dot(share, others[0, :count]) > NEGLIGIBLE:
                    _add_products(1.0, rows, others, count, False, out[:, m * size : (m + 1) * size])
            if dot(share, rest) > NEGLIGIBLE:
                _add_products(-1.0, rows, own, count, True, out[:, k * size : (k + 1) * size])
    for k in range(components):
        _add_normal_curvature(k * size, weights[k], gradient, square, matrix)
        matrix[k * size, k * size] += weights[k]
        for m in range(k + 1):
            matrix[k * size, m * size] -= weights[k] * weights[m]


@kernel
def _add_normal_curvature(at, weight, gradient, square, matrix):
    """Add the second derivatives of minus the log density of a component, by its mean and factor.

    They are linear in its mean and its second moments, which the gradient has.
    """
    dim = square.shape[0]
    mass, place = weight - gradient[at], at + 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            square[i, j] = (mass if i == j else 0.0) - gradient[place]
            square[j, i] = square[i, j]
            place += 1
    for i in range(dim):
        matrix[at + 1 + i, at + 1 + i] += mass
    row = 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            matrix[at + row, at + 1 + i] -= gradient[at + 1 + j]
            matrix[at + row, at + 1 + j] -= gradient[at + 1 + i]
            column = 1 + dim
            for a in range(dim):
                for b in range(a + 1):
                    if column <= row:
                        if i == a:
                            matrix[at + row, at + column] += square[j, b]
                        if j == a:
                            matrix[at + row, at + column] += square[i, b]
                        if b == i:
                            matrix[at + row, at + column] += square[j, a]
                        if column == row and i == j:
                            matrix[at + row, at + column] -= square[i, i]
                    column += 1
            row += 1

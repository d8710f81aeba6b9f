"""Second derivatives of -E_p[log q] for a mixture q, by expectations on nodes, for Newton's steps.

The coordinates are those of `refinements`: of each component the logarithm of its weight, its mean, and the
factor of its covariance with the logarithm of its diagonal, relative to those of a reference. All derivatives
are those at the reference.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Matrix, Vector
from ..compiler import adder, formula, inlined, kernel
from ..em.e_step import block_shares, prepare
from ..numerics.matrices import clear_matrix, clear_vector, dot

#: Nodes in a block.
NODES = 256

#: The mass that a component, or two in common, has in a block of nodes is left out below this: second
#: derivatives only steer the steps.
NEGLIGIBLE = 1e-20

#: Shares of a node below this are 0, so that products of two are not subnormal: those took half of the time
#: where q has five components that lie apart.
LEAST_SHARE = 1e-100


class Workspace(NamedTuple):
    """Scratch space for k components in D dimensions, with C coordinates each, and M monomials."""

    matrix: Matrix  #: (k C, k C): the second derivatives; the lower half is written
    shares: Matrix  #: (k, NODES): responsibilities, times the roots of the weights of the nodes
    rest: Vector  #: (NODES,): what others have
    units: Matrix  #: (D, NODES): u, which is x - mean in units of a component
    sums: Cube  #: (k, k, M): of the products of two shares times the monomials of u of degree 4 at most
    linear: Matrix  #: (D, 1 + D): one component's coordinates of a point, by another's
    coefficients: Matrix  #: (C, C): of the derivatives of one component, by the monomials of another
    places: IntegerMatrix  #: (C, C): where the products of monomials of degree 2 at most are
    roots: Vector  #: (NODES,): of the weights of the nodes
    scales: Vector  #: (NODES,): those over the sums of the shares


@kernel
def workspace(components, dim):
    """Scratch space for `write_curvature`, in one or two dimensions; or for no components."""
    size, monomials = (3, 5) if dim == 1 else (6, 15)
    return Workspace(
        np.empty((components * size, components * size)),
        np.empty((components, NODES)),
        np.empty(NODES),
        np.empty((dim, NODES)),
        np.empty((components, components, monomials)),
        np.empty((dim, 1 + dim)),
        np.empty((size, size)),
        np.empty((size, size), np.int64),
        np.empty(NODES),
        np.empty(NODES),
    )


@kernel
def _write_places(places):
    """Where the product of two monomials is: of 1, u, u² on the line, 1, u, v, u², u v, v² in the plane."""
    size = places.shape[0]
    for a in range(size):
        for b in range(size):
            degree, exponent = _degree(a) + _degree(b), _exponent(a) + _exponent(b)
            places[a, b] = degree * (degree + 1) // 2 + exponent if size > 3 else a + b


@inlined
def _degree(place):
    """Of a monomial in the plane."""
    return (place > 0) + (place > 2)


@inlined
def _exponent(place):
    """That of v in a monomial in the plane."""
    degree = _degree(place)
    return place - degree * (degree + 1) // 2


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
def _write_first(x, mean, a, u):
    for n in range(u.size):
        u[n] = a * (x[n] - mean)


@formula
def _write_second(x, y, mean0, mean1, b, c, v):
    for n in range(v.size):
        v[n] = b * (x[n] - mean0) + c * (y[n] - mean1)


@adder
def _sums_1(share, other, u):
    """The sums of the products times 1, u, u², u³ and u⁴."""
    s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(u.size):
        w, x = share[n] * other[n], u[n]
        xx = x * x
        s0 += w
        s1 += w * x
        s2 += w * xx
        s3 += w * (x * xx)
        s4 += w * (xx * xx)
    return s0, s1, s2, s3, s4


@adder
def _sums_2(share, other, u, v):
    """The sums of the products times 1, u, v, u², u v, v², u³ and so on: 15 of them stay in registers."""
    s00, s10, s01, s20, s11, s02, s30, s21 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s12, s03, s40, s31, s22, s13, s04 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(u.size):
        w, x, y = share[n] * other[n], u[n], v[n]
        xx, xy, yy = x * x, x * y, y * y
        s00 += w
        s10 += w * x
        s01 += w * y
        s20 += w * xx
        s11 += w * xy
        s02 += w * yy
        s30 += w * (x * xx)
        s21 += w * (y * xx)
        s12 += w * (x * yy)
        s03 += w * (y * yy)
        s40 += w * (xx * xx)
        s31 += w * (xx * xy)
        s22 += w * (xx * yy)
        s13 += w * (xy * yy)
        s04 += w * (yy * yy)
    return s00, s10, s01, s20, s11, s02, s30, s21, s12, s03, s40, s31, s22, s13, s04


@kernel
def _add_sums(share, other, units, sums):
    count = share.size
    if units.shape[0] == 1:
        on_line = _sums_1(share, other, units[0, :count])
        for i in range(5):
            sums[i] += on_line[i]
    else:
        in_plane = _sums_2(share, other, units[0, :count], units[1, :count])
        for i in range(15):
            sums[i] += in_plane[i]


@kernel
def _write_units(columns, first, count, mean, inverse, units):
    """Write x - mean in units of a component."""
    x, root = columns[0, first : first + count], math.sqrt(2.0)
    _write_first(x, mean[0], root * inverse[0, 0], units[0, :count])
    if mean.size == 2:
        y, b, c = columns[1, first : first + count], root * inverse[1, 0], root * inverse[1, 1]
        _write_second(x, y, mean[0], mean[1], b, c, units[1, :count])


@kernel
def _write_coefficients(mean, factor, other, inverse, space):
    """Write the derivatives of another component's log density as polynomials in this one's u.

    With its own u, x - mean in its units, they are 1, u and u u' - I.
    """
    linear, coefficients, places = space.linear, space.coefficients, space.places
    dim, root = mean.size, math.sqrt(2.0)
    for i in range(dim):
        s = 0.0
        for j in range(i + 1):
            s += root * inverse[i, j] * (mean[j] - other[j])
        linear[i, 0] = s
        for j in range(dim):
            s = 0.0
            for a in range(j, i + 1):
                s += root * inverse[i, a] * factor[a, j]
            linear[i, 1 + j] = s
    clear_matrix(coefficients)
    coefficients[0, 0] = 1.0
    at = 1 + dim
    for i in range(dim):
        for a in range(1 + dim):
            coefficients[1 + i, a] = linear[i, a]
        for j in range(i + 1):
            for a in range(1 + dim):
                for b in range(1 + dim):
                    coefficients[at, places[a, b]] += linear[i, a] * linear[j, b]
            coefficients[at, 0] -= 1.0 if i == j else 0.0
            at += 1


@kernel
def _add_block(sign, sums, dim, space, out):
    """out += sign times the means of the derivatives of one component times those of another."""
    coefficients, places = space.coefficients, space.places
    size, at, i = coefficients.shape[0], 1 + dim, 0
    for row in range(size):
        less = 0.0  # of u u' - I the diagonal
        if row == at:
            less, i, at = 1.0, i + 1, at + i + 2
        for c in range(size):
            mean = sign * (sums[places[row, c]] - less * sums[c])
            for j in range(size):
                out[row, j] += mean * coefficients[j, c]


@kernel
def write_curvature(columns, weights, means, factors, gradient, sweeps, square, space):
    """Write the second derivatives of -E_p[log q] on the nodes, where `gradient` has the first.

    For the scores s = r f, with the responsibilities r and f of a component's log density, they are the means
    of s s' for two components, and of -r (1 - r) f f' less the second derivatives of the log density for one.
    f is a polynomial of degree 2: of two components in the plane 15 means of r r' times monomials have all 36
    means of s s'.
    """
    matrix, shares, sums, components = space.matrix, space.shares, space.sums, weights.size
    dim, size = means.shape[1], space.coefficients.shape[0]
    prepare(weights, means, factors, sweeps)
    clear_matrix(matrix)
    _write_places(space.places)
    for k in range(components):
        clear_matrix(sums[k])
    for first in range(0, columns.shape[1], NODES):
        count = min(NODES, columns.shape[1] - first)
        block_shares(columns, first, count, means, sweeps)
        roots, scales = space.roots[:count], space.scales[:count]
        rest = space.rest[:count]
        _write_roots(sweeps.frequencies[first : first + count], sweeps.sums[:count], roots, scales)
        for k in range(components):
            share = shares[k, :count]
            _write_shares(roots, scales, sweeps.shares[k, :count], share, rest)
            if dot(share, roots) <= NEGLIGIBLE:
                clear_vector(share)
                continue
            _write_units(columns, first, count, means[k], sweeps.inverses[k], space.units)
            for m in range(k + 1):
                other = rest if m == k else shares[m, :count]
                if dot(share, other) > NEGLIGIBLE:
                    _add_sums(share, other, space.units, sums[k, m])
    for k in range(components):
        for m in range(k + 1):
            _write_coefficients(means[k], factors[k], means[m], sweeps.inverses[m], space)
            out = matrix[k * size : (k + 1) * size, m * size : (m + 1) * size]
            _add_block(-1.0 if m == k else 1.0, sums[k, m], dim, space, out)
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

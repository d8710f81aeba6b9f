"""E-step of EM: densities of the components at the data, responsibilities, log likelihood.

Used by each pass over the data in `iterations`, and by the results of `fastvi.fit_mixture`. The loops run
along the points of a block, which are vectorised.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector
from ..compiler import adder, exported, formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import decay, log
from ..numerics.matrices import add_up, clear_vector, copy_matrix, copy_vector, fill_vector, half_log_det

#: Points in a block.
BLOCK = 512

#: The last block is padded to a multiple of this: the vectorised loops take this many points at once, the
#: rest one by one. Without padding, each of 64 points costs three times as much as each of 256.
LANES = 32

#: The least logarithm of a share, relative to the largest.
LEAST_LOG_SHARE = -600.0

#: Shares of a block are relative to one number where all their sums are at least this: products of FOLDED
#: such sums are in range, and shares that are too small to matter are raised to exp(LEAST_LOG_SHARE).
LEAST_SUM, FOLDED = 1e-70, 4

#: Most dimensions for that. In more, exponentials are a small part.
QUICK_DIM = 64

HALF_ROOT = math.sqrt(0.5)

#: Entries of `Workspace.control`: whether to stop as soon as possible, and the kind of covariances.
STOP, KIND = 0, 1

#: Kinds of covariances: any, diagonal, one for all components, a multiple of the identity.
FULL, DIAGONAL, TIED, SPHERICAL = 0, 1, 2, 3


class Workspace(NamedTuple):
    """Scratch space for `fit` and what it calls."""

    shares: Matrix  #: (K, BLOCK): log densities, then responsibilities times their sum
    sums: Vector  #: (BLOCK,): sums of the shares over the components, then the inverse sums
    top: Vector  #: (BLOCK,): what the shares are relative to: the largest log densities, or one number
    block: Matrix  #: (D, BLOCK): differences d from a mean
    row: Vector  #: (BLOCK,): one coordinate of d, weighted
    tail: Matrix  #: (D, BLOCK): the last block of the data, padded
    products: Vector  #: (BLOCK // FOLDED,): products of the sums
    constants: Vector  #: (K,): constants of the log densities
    scales: Matrix  #: (K, D): diagonals of the inverse factors; for TIED 1, since the block is multiplied
    places: Matrix  #: (K, D): inverse factors times means
    inverses: Cube  #: (K, D, D): inverse factors, divided by sqrt(2)
    moments: Matrix  #: (K, 2 + D + D (D + 1) / 2): sums of r, r d, r d d', r the responsibility; `in_units`
    weights: Vector  #: (K,): weights, means and factors of the next mixture
    means: Matrix
    factors: Cube
    covariance: Matrix  #: (D, D): of one component
    scatter: Matrix  #: (D, D): TIED: sum of x x' over the data
    rounding: Vector  #: (1,): what the last M-step's gain may be by rounding alone
    pooled: Vector  #: (1,): TIED: whether the moments r d d' are summed over the components, from `scatter`
    matrices: Cube  #: (2, D, D): space of `floored_factor`
    mean: Vector  #: (D,): change of a component's mean
    solution: Vector  #: (2 D,): space of `gaussian_kl`
    frequencies: Vector  #: (N,): weights of the points, or (0,): each counts once. Not scratch: it is read
    terms: Vector  #: (N,): of points that have weights, their parts of the log likelihood, or (0,): not kept
    control: Integers  #: (2,): STOP and KIND, which are read too; zeros at first
    prior: Vector  #: (3 + K + D + D D,): see `m_step.EXPONENT`; or (0,): none. It is read


@exported
def workspace(components, dim):
    """Scratch space for the EM of a mixture: one for each thread.

    Parameters
    ----------
    components, dim : int

    Returns
    -------
    Workspace

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.em.workspace(2, 1)
    """
    return workspace_for(components, dim, 0)


@kernel
def workspace_for(components, dim, size):
    """A `workspace` for points of which so many have weights."""
    return Workspace(
        np.empty((components, BLOCK)),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty((dim, BLOCK)),
        np.empty(BLOCK),
        np.empty((dim, BLOCK)),
        np.empty(BLOCK // FOLDED),
        np.empty(components),
        np.empty((components, dim)),
        np.empty((components, dim)),
        np.empty((components, dim, dim)),
        np.empty((components, 2 + dim + dim * (dim + 1) // 2)),
        np.empty(components),
        np.empty((components, dim)),
        np.empty((components, dim, dim)),
        np.empty((dim, dim)),
        np.empty((dim, dim)),
        np.zeros(1),
        np.zeros(1),
        np.empty((2, dim, dim)),
        np.empty(dim),
        np.empty(2 * dim),
        np.empty(size),
        np.empty(size),
        np.zeros(2, np.int64),
        np.empty(0),
    )


@inlined
def is_diagonal(space):
    """Whether the covariances are diagonal."""
    kind = space.control[KIND]
    return kind in (DIAGONAL, SPHERICAL)


@inlined
def in_units(moments):
    """Whether the d of a component's moments is inverse (x - mean), with the inverse of `prepare`."""
    return moments[moments.size - 1] > 0.0


# Log densities, without square roots and divisions: constant - |inverse (x - mean)|**2, inverse from
# `prepare`.


@formula
def _value_1(x, constant, mean, inverse):
    u = inverse * (x - mean)
    return constant - u * u


@formula
def _value_2(x, y, constant, mean, inverse):
    (m0, m1), (a, b, c) = mean, inverse
    d0, d1 = x - m0, y - m1
    u, v = a * d0, b * d0 + c * d1
    return constant - u * u - v * v


@formula
def _value_3(x, y, z, constant, mean, inverse):
    (m0, m1, m2), (a, b, c, d, e, f) = mean, inverse
    d0, d1, d2 = x - m0, y - m1, z - m2
    u, v, w = a * d0, b * d0 + c * d1, d * d0 + e * d1 + f * d2
    return constant - u * u - v * v - w * w


@inlined
def _numbers_2(mean, inverse):
    return (mean[0], mean[1]), (inverse[0, 0], inverse[1, 0], inverse[1, 1])


@inlined
def _numbers_3(mean, inverse):
    one, two = (inverse[0, 0], inverse[1, 0], inverse[1, 1]), (inverse[2, 0], inverse[2, 1], inverse[2, 2])
    return (mean[0], mean[1], mean[2]), one + two


@formula
def _values_1(x, constant, mean, inverse, out):
    for n in range(out.size):
        out[n] = _value_1(x[n], constant, mean, inverse)


@formula
def _values_2(x, y, constant, mean, inverse, out):
    for n in range(out.size):
        out[n] = _value_2(x[n], y[n], constant, mean, inverse)


@formula
def _values_3(x, y, z, constant, mean, inverse, out):
    for n in range(out.size):
        out[n] = _value_3(x[n], y[n], z[n], constant, mean, inverse)


# In more dimensions, some coordinates of a block at a time.


@formula
def subtract(x, m, out):
    """out = x - m for a number m."""
    for n in range(out.size):
        out[n] = x[n] - m


@formula
def _multiple(x, a, out):
    for n in range(out.size):
        out[n] = a * x[n]


@formula
def _add(x, a, out):
    for n in range(out.size):
        out[n] += a * x[n]


@formula
def _add_two(x, a, y, b, out):
    for n in range(out.size):
        out[n] += a * x[n] + b * y[n]


@formula
def _add_difference(x, m, a, out):
    """out += a (x - m)."""
    for n in range(out.size):
        out[n] += a * (x[n] - m)


@formula
def _subtract_square(x, out):
    for n in range(out.size):
        out[n] -= x[n] * x[n]


@inlined
def multiply_row(inverse, i, block, row):
    """row = coordinate i of inverse d, for the d of a block."""
    count = row.size
    _multiple(block[i, :count], inverse[i, i], row)
    for j in range(0, i - 1, 2):
        _add_two(block[j, :count], inverse[i, j], block[j + 1, :count], inverse[i, j + 1], row)
    if i % 2:
        _add(block[i - 1, :count], inverse[i, i - 1], row)


@inlined
def four(x, i):
    """Four numbers of a vector from i on."""
    return (x[i], x[i + 1], x[i + 2], x[i + 3])


@inlined
def four_rows(x, i, first, last):
    """Parts of four rows of a matrix from row i on."""
    return (x[i, first:last], x[i + 1, first:last], x[i + 2, first:last], x[i + 3, first:last])


@inlined
def eight(x, i):
    """Eight numbers of a vector from i on."""
    return four(x, i) + four(x, i + 4)


@inlined
def eight_rows(x, i, first, last):
    """Parts of eight rows of a matrix from row i on."""
    return four_rows(x, i, first, last) + four_rows(x, i + 4, first, last)


@formula
def differences(x, n, mean):
    """x - mean of four coordinates of a point."""
    (a, b, c, d), (m0, m1, m2, m3) = x, mean
    return a[n] - m0, b[n] - m1, c[n] - m2, d[n] - m3


@formula
def _square_of_triangle(x, n, mean, inverse, rest):
    """The square of four coordinates of inverse (x - mean); the rest is what others add to these."""
    a, b, c, d, e, f, g, h, i, j = inverse
    d0, d1, d2, d3 = differences(x, n, mean)
    r0, r1, r2, r3 = rest
    s, t = r0 + a * d0, r1 + b * d0 + c * d1
    u, v = r2 + d * d0 + e * d1 + f * d2, r3 + g * d0 + h * d1 + i * d2 + j * d3
    return (s * s + t * t) + (u * u + v * v)


@formula
def _squares_of_triangle(x, mean, inverse, out):
    """Subtract the square of the first four coordinates."""
    for n in range(out.size):
        out[n] -= _square_of_triangle(x, n, mean, inverse, (0.0, 0.0, 0.0, 0.0))


@formula
def _squares_of_more(x, mean, inverse, rest, out):
    """Subtract the square of four coordinates, after others."""
    for n in range(out.size):
        r = rest[n], rest[BLOCK + n], rest[2 * BLOCK + n], rest[3 * BLOCK + n]
        out[n] -= _square_of_triangle(x, n, mean, inverse, r)


@formula
def _product_of_four(x, n, mean, row):
    (a, b, c, d), (d0, d1, d2, d3) = row, differences(x, n, mean)
    return (a * d0 + b * d1) + (c * d2 + d * d3)


@formula
def _add_product_of_four(x, mean, row, out):
    for n in range(out.size):
        out[n] += _product_of_four(x, n, mean, row)


@formula
def _add_products_of_four(x, mean, rows, out):
    """Add what four coordinates add to four others, of which a BLOCK each follows the one before.

    Of four arrays LLVM does not see that they are apart, and does not vectorise.
    """
    a, b, c, d = rows
    for n in range(x[0].size):
        out[n] += _product_of_four(x, n, mean, a)
        out[BLOCK + n] += _product_of_four(x, n, mean, b)
        out[2 * BLOCK + n] += _product_of_four(x, n, mean, c)
        out[3 * BLOCK + n] += _product_of_four(x, n, mean, d)


@inlined
def _triangle(inverse, i):
    """The ten numbers of a lower triangle on the diagonal."""
    a, b, c, d = inverse[i], inverse[i + 1], inverse[i + 2], inverse[i + 3]
    first = (a[i], b[i], b[i + 1], c[i], c[i + 1], c[i + 2])
    return first + four(d, i)


@kernel
def _subtract_squares(columns, first, mean, inverse, block, row, out):
    """out -= |inverse (x - mean)|**2, by blocks of four coordinates; `block` and `row` are scratch.

    A number that is loaded is used four times: one coordinate at a time takes twice as long.
    """
    dim, count = mean.size, out.size
    last, whole = first + count, dim - dim % 4
    for i in range(0, whole, 4):
        x, m, triangle = four_rows(columns, i, first, last), four(mean, i), _triangle(inverse, i)
        if i == 0:
            _squares_of_triangle(x, m, triangle, out)
        else:
            rest = block[:4].reshape(4 * BLOCK)
            for a in range(4):
                clear_vector(rest[a * BLOCK : a * BLOCK + count])
            for j in range(0, i, 4):
                rows = (
                    four(inverse[i], j),
                    four(inverse[i + 1], j),
                    four(inverse[i + 2], j),
                    four(inverse[i + 3], j),
                )
                _add_products_of_four(four_rows(columns, j, first, last), four(mean, j), rows, rest)
            _squares_of_more(x, m, triangle, rest, out)
    for i in range(whole, dim):
        clear_vector(row[:count])
        for j in range(0, whole, 4):
            x, m = four_rows(columns, j, first, last), four(mean, j)
            _add_product_of_four(x, m, four(inverse[i], j), row[:count])
        for j in range(whole, i + 1):
            _add_difference(columns[j, first:last], mean[j], inverse[i, j], row[:count])
        _subtract_square(row[:count], out)


# Covariances that are diagonal, or tied: then the points are multiplied by the inverse factor first. Eight
# coordinates at a time, then four, so that the time goes into arithmetic: by fours alone, 30 components in
# eight dimensions take a tenth longer, one by one twice as long.


@formula
def _scaled_square(x, a, b, out):
    for n in range(out.size):
        u = a * x[n] - b
        out[n] -= u * u


@formula
def _square_of_four(x, n, scale, place):
    (x0, x1, x2, x3), (a, b, c, d), (e, f, g, h) = x, scale, place
    s, t, u, v = a * x0[n] - e, b * x1[n] - f, c * x2[n] - g, d * x3[n] - h
    return (s * s + t * t) + (u * u + v * v)


@formula
def _four_scaled_squares(x, scale, place, out):
    """Subtract those of four coordinates."""
    for n in range(out.size):
        out[n] -= _square_of_four(x, n, scale, place)


@formula
def _eight_scaled_squares(x, scale, place, out):
    """Subtract those of eight coordinates."""
    for n in range(out.size):
        first = _square_of_four(x[:4], n, scale[:4], place[:4])
        out[n] -= first + _square_of_four(x[4:], n, scale[4:], place[4:])


@kernel
def _subtract_scaled_squares(columns, first, scale, place, out):
    """out -= |scale x - place|**2, the product by coordinates."""
    dim, last, i = place.size, first + out.size, 0
    while i + 8 <= dim:
        _eight_scaled_squares(eight_rows(columns, i, first, last), eight(scale, i), eight(place, i), out)
        i += 8
    if i + 4 <= dim:
        _four_scaled_squares(four_rows(columns, i, first, last), four(scale, i), four(place, i), out)
        i += 4
    while i < dim:
        _scaled_square(columns[i, first:last], scale[i], place[i], out)
        i += 1


@formula
def _add_four(w, x, y, z, a, b, c, d, out):
    for n in range(out.size):
        out[n] += (a * w[n] + b * x[n]) + (c * y[n] + d * z[n])


@kernel
def _multiply(inverse, columns, first, out):
    """out = inverse x, for a lower triangular matrix. Above its diagonal are zeros."""
    dim, count = out.shape
    last = first + count
    whole = dim - dim % 4
    for i in range(dim):
        row = inverse[i]
        _multiple(columns[i, first:last], row[i] if i >= whole else 0.0, out[i])
        for j in range(0, min(i + 1, whole), 4):
            _add_four(
                columns[j, first:last],
                columns[j + 1, first:last],
                columns[j + 2, first:last],
                columns[j + 3, first:last],
                row[j],
                row[j + 1],
                row[j + 2],
                row[j + 3],
                out[i],
            )
        for j in range(whole, i):
            _add(columns[j, first:last], row[j], out[i])


@inlined
def _values(columns, first, k, means, space, out):
    """out = log of the weight times the density of component k, at a block of points."""
    mean, inverse, constant = means[k], space.inverses[k], space.constants[k]
    dim, last = mean.size, first + out.size
    if dim == 1:
        _values_1(columns[0, first:last], constant, mean[0], inverse[0, 0], out)
    elif dim == 2:
        m, a = _numbers_2(mean, inverse)
        _values_2(columns[0, first:last], columns[1, first:last], constant, m, a, out)
    elif dim == 3:
        x, y, z = columns[0, first:last], columns[1, first:last], columns[2, first:last]
        m, a = _numbers_3(mean, inverse)
        _values_3(x, y, z, constant, m, a, out)
    else:
        for n in range(out.size):
            out[n] = constant
        if space.control[KIND] == TIED:
            _subtract_scaled_squares(space.block, 0, space.scales[k], space.places[k], out)
        elif is_diagonal(space):
            _subtract_scaled_squares(columns, first, space.scales[k], space.places[k], out)
        else:
            _subtract_squares(columns, first, mean, inverse, space.block, space.row, out)


@inlined
def _multiply_if_tied(columns, first, count, space):
    """Write what `_values` reads of a block for tied covariances."""
    if space.control[KIND] == TIED and columns.shape[0] > 3:
        _multiply(space.inverses[0], columns, first, space.block[:, :count])


@inlined
def _block_values(columns, first, count, means, space):
    """Write the logs of weights times densities at a block of points to the `shares`."""
    _multiply_if_tied(columns, first, count, space)
    for k in range(means.shape[0]):
        _values(columns, first, k, means, space, space.shares[k, :count])


@formula
def maximum(values, top):
    """top = the larger of both.

    Without the sum LLVM stores only where a value is larger: AMD's masked stores take four times as long.
    """
    for n in range(top.size):
        top[n] = (values[n] if values[n] > top[n] else top[n]) + 0.0


@formula
def _share(below):
    """exp(below), not so small that its products with weights are subnormal: these take ten times as long."""
    return decay(below if below > LEAST_LOG_SHARE else LEAST_LOG_SHARE)


@formula
def share(values, top, total):
    """values = exp(values - top), which is added to the total."""
    for n in range(top.size):
        e = _share(values[n] - top[n])
        values[n] = e
        total[n] += e


# The same relative to one number, of which the constants are less: one pass for each component instead of
# three, 6 ns for a point in the plane and five components instead of 10.


@formula
def _shares(values, top, total):
    for n in range(total.size):
        e = _share(values[n] - top)
        values[n] = e
        total[n] += e


@formula
def _shares_1(x, constant, mean, inverse, out, total):
    for n in range(total.size):
        e = _share(_value_1(x[n], constant, mean, inverse))
        out[n] = e
        total[n] += e


@formula
def _shares_2(x, y, constant, mean, inverse, out, total):
    for n in range(total.size):
        e = _share(_value_2(x[n], y[n], constant, mean, inverse))
        out[n] = e
        total[n] += e


@formula
def _shares_3(x, y, z, constant, mean, inverse, out, total):
    for n in range(total.size):
        e = _share(_value_3(x[n], y[n], z[n], constant, mean, inverse))
        out[n] = e
        total[n] += e


@adder
def _are_in_range(total):
    """Whether all sums are large enough."""
    good = 0
    for n in range(total.size):
        good += total[n] >= LEAST_SUM
    return good == total.size


@formula
def _share_two(first, second, top, total):
    """`maximum` and `share` for two components, with one exponential instead of two."""
    for n in range(top.size):
        d = second[n] - first[n]
        e = decay(-abs(d) if abs(d) < -LEAST_LOG_SHARE else LEAST_LOG_SHARE)
        up = d > 0.0
        top[n] = second[n] if up else first[n]
        first[n], second[n] = (e if up else 1.0), (1.0 if up else e)
        total[n] = 1.0 + e


@formula
def _fold(x, y, out):
    for n in range(out.size):
        out[n] = x[n] * y[n]


@formula
def _invert(total):
    for n in range(total.size):
        total[n] = 1.0 / total[n]


@adder
def _sum_of_logs(x):
    s = 0.0
    for n in range(x.size):
        s += log(x[n])
    return s


@kernel
def block_log_likelihood(top, total, products):
    """The sum of top + log(total) over a multiple of 32 points; `total` is inverted.

    The logarithms are those of products of FOLDED totals at most, each of which is at least LEAST_SUM.
    """
    width = min(products.size, total.size)
    folded = products[:width]
    copy_vector(total[:width], folded)
    for first in range(width, total.size, width):
        count = min(width, total.size - first)
        _fold(folded[:count], total[first : first + count], folded[:count])
    _invert(total)
    return add_up(top) + _sum_of_logs(folded)


@adder
def weighted_log_likelihood(top, total, frequencies):
    """The sum of top + log(total), each times its frequency."""
    s = 0.0
    for n in range(frequencies.size):
        s += frequencies[n] * (top[n] + log(total[n]))
    return s


@formula
def write_terms(top, total, frequencies, terms):
    """Write what `weighted_log_likelihood` sums."""
    for n in range(terms.size):
        terms[n] = frequencies[n] * (top[n] + log(total[n]))


@kernel
def _invert_factor(factor, inverse):
    """inverse = factor**-1 / sqrt(2).

    It solves inverse factor = I / sqrt(2), so that inverse (factor z) is z / sqrt(2) to rounding. To solve
    factor inverse = I / sqrt(2) would lose 1e-4 beside outliers of 1e8.
    """
    dim = factor.shape[0]
    for i in range(dim):
        for j in range(i + 1, dim):
            inverse[i, j] = 0.0
        for j in range(i, -1, -1):
            s = HALF_ROOT if i == j else 0.0
            for a in range(j + 1, i + 1):
                s -= inverse[i, a] * factor[a, j]
            inverse[i, j] = s / factor[j, j]


@inlined
def prepare(weights, means, factors, space):
    """Write the constants and inverse factors of the components to the space. A weight may be 0."""
    constants, inverses = space.constants, space.inverses
    tied, dim = space.control[KIND] == TIED, means.shape[1]
    for k in range(weights.size):
        factor, inverse = factors[k], inverses[k]
        constants[k] = math.log(weights[k]) if weights[k] > 0.0 else -math.inf
        constants[k] -= half_log_det(factor) + 0.5 * dim * LOG_2PI
        if tied and k > 0:
            copy_matrix(inverses[0], inverse)
        else:
            _invert_factor(factor, inverse)
        for i in range(dim):
            space.scales[k, i] = 1.0 if tied else inverse[i, i]
            space.places[k, i] = 0.0
            for j in range(i + 1):
                space.places[k, i] += inverse[i, j] * means[k, j]


@inlined
def _quick_shares(columns, first, count, means, space):
    """`block_shares` relative to about what most points have; whether they hold."""
    (components, dim), last, total = means.shape, first + count, space.sums[:count]
    top = -math.inf
    for k in range(components):
        if not space.constants[k] < math.inf:
            return False
        top = max(top, space.constants[k] - 0.5 * dim)
    fill_vector(top, space.top[:count])
    clear_vector(total)
    shares, inverses, x = space.shares, space.inverses, columns[0, first:last]
    if dim == 1:
        for k in range(components):
            constant = space.constants[k] - top
            _shares_1(x, constant, means[k, 0], inverses[k, 0, 0], shares[k, :count], total)
    elif dim == 2:
        y = columns[1, first:last]
        for k in range(components):
            m, a = _numbers_2(means[k], inverses[k])
            _shares_2(x, y, space.constants[k] - top, m, a, shares[k, :count], total)
    elif dim == 3:
        y, z = columns[1, first:last], columns[2, first:last]
        for k in range(components):
            m, a = _numbers_3(means[k], inverses[k])
            _shares_3(x, y, z, space.constants[k] - top, m, a, shares[k, :count], total)
    else:
        _multiply_if_tied(columns, first, count, space)
        for k in range(components):
            _values(columns, first, k, means, space, shares[k, :count])
            _shares(shares[k, :count], top, total)
    return _are_in_range(total)


@kernel  # inlined, a refinement would have it four times
def block_shares(columns, first, count, means, space):
    """Write `top`, at a block of points, the shares exp(log density - top), and their sums."""
    components, dim = means.shape
    quick = components > 2 and dim <= QUICK_DIM
    if not (quick and _quick_shares(columns, first, count, means, space)):
        _block_values(columns, first, count, means, space)
        share_block(components, count, space)


@inlined
def share_block(components, count, space):
    """The same of log densities that are in the `shares`, relative to the largest."""
    values, top, total = space.shares, space.top[:count], space.sums[:count]
    if components == 2:
        _share_two(values[0, :count], values[1, :count], top, total)
        return
    copy_vector(values[0, :count], top)
    for k in range(1, components):
        maximum(values[k, :count], top)
    clear_vector(total)
    for k in range(components):
        share(values[k, :count], top, total)


@exported
def log_joint(columns, weights, means, factors, space, out):
    """out[n, k] = log of weight k times density k at point n; -inf for a weight of zero."""
    shares, size = space.shares, columns.shape[1]
    prepare(weights, means, factors, space)
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        _block_values(columns, first, count, means, space)
        for k in range(weights.size):
            for n in range(count):
                out[first + n, k] = shares[k, n]


@exported
def responsibilities(columns, weights, means, factors, space, out):
    """out[n, k] = posterior probability of component k for point n."""
    size = columns.shape[1]
    prepare(weights, means, factors, space)
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        block_shares(columns, first, count, means, space)
        for k in range(weights.size):
            for n in range(count):
                out[first + n, k] = space.shares[k, n] / space.sums[n] if weights[k] > 0.0 else 0.0

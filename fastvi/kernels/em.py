"""EM for Gaussian mixtures: coordinate ascent of the ELBO with exact posteriors of the labels.

A mixture is given by weights (K), means (K, D) and lower Cholesky factors (K, D, D); data by its columns
(D, N), because the loops run along the points. One sweep over the data takes them in blocks that stay in
the first-level cache: the responsibilities of a block are summed before the next one is read, so that no
array of N x K is needed. Moments are taken about the means that the sweep starts from, where nothing cancels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .elementary import decay, log
from .gaussians import LOG_2PI, gaussian_kl
from .jit import adder, exported, formula, inlined, kernel
from .matrices import (
    cholesky,
    clear_matrix,
    clear_vector,
    copy_matrix,
    copy_vector,
    dot,
    eigenvectors,
    half_log_det,
    solve_lower,
)
from .statuses import CONVERGED, OUT_OF_RANGE, SINGULAR, STEPS_EXHAUSTED
from .terms import kl_term

#: Rows of `floored`: whether a component is at the covariance floor, and in how many steps it has been.
AT_FLOOR, FLOOR_STEPS = 0, 1

#: Points in a block.
BLOCK = 512

#: The last block is padded to a multiple of this, because the vectorised loops take so many points at once
#: and the rest one by one: unpadded, each of 64 points costs three times as much as each of 256.
LANES = 32

#: An M-step that gains less than this (in nats for each point) changes the mixture by rounding only.
ROUNDING = 1e-29

#: A component with less than this share of the data is empty: its moments would be rounding.
EMPTY = 1e-200

#: Covariances of a start have eigenvalues of at least this, for standardized points.
LEAST_START = 1e-6

#: A column of which less than this is left, relative to its deviation, is a linear combination of the columns
#: before it: rounding leaves 1e-16.
DEPENDENT = 1e-12

_HALF_ROOT = math.sqrt(0.5)


class Space(NamedTuple):
    """Scratch space for `fit` and what it calls."""

    shares: Any  #: (K, BLOCK): log densities, then responsibilities times their sum
    sums: Any  #: (BLOCK,): their sums, then the inverse sums
    top: Any  #: (BLOCK,): largest log densities
    block: Any  #: (D, BLOCK): differences from a mean
    row: Any  #: (BLOCK,): one of them, weighted
    tail: Any  #: (D, BLOCK): the last block of the data, padded
    products: Any  #: (LANES,)
    constants: Any  #: (K,): constants of the log densities
    inverses: Any  #: (K, D, D): inverse factors, divided by sqrt(2)
    moments: Any  #: (K, 1 + D + D (D + 1) / 2): sums of r, r d and r d d'
    weights: Any  #: (K,): the next mixture
    means: Any
    factors: Any
    covariance: Any  #: (D, D): of one component
    matrices: Any  #: (2, D, D): scratch of `floored_factor`
    mean: Any  #: (D,): of a component's points, less its mean before
    solution: Any  #: (2 D,): scratch of `gaussian_kl`


@exported
def workspace(components, dim):
    """Scratch space for the EM of a mixture: one for each thread.

    Parameters
    ----------
    components, dim : int

    Returns
    -------
    Space

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.em.workspace(2, 1)
    """
    return Space(
        np.empty((components, BLOCK)),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty((dim, BLOCK)),
        np.empty(BLOCK),
        np.empty((dim, BLOCK)),
        np.empty(LANES),
        np.empty(components),
        np.empty((components, dim, dim)),
        np.empty((components, 1 + dim + dim * (dim + 1) // 2)),
        np.empty(components),
        np.empty((components, dim)),
        np.empty((components, dim, dim)),
        np.empty((dim, dim)),
        np.empty((2, dim, dim)),
        np.empty(dim),
        np.empty(2 * dim),
    )


@formula
def _values_1(x, mean, inverse, constant, out):
    m0, a = mean[0], inverse[0, 0]
    for n in range(out.size):
        u = a * (x[n] - m0)
        out[n] = constant - u * u


@formula
def _values_2(x, y, mean, inverse, constant, out):
    m0, m1 = mean[0], mean[1]
    a, b, c = inverse[0, 0], inverse[1, 0], inverse[1, 1]
    for n in range(out.size):
        d0, d1 = x[n] - m0, y[n] - m1
        u, v = a * d0, b * d0 + c * d1
        out[n] = constant - u * u - v * v


@formula
def _values_3(x, y, z, mean, inverse, constant, out):
    m0, m1, m2 = mean[0], mean[1], mean[2]
    a, b, c = inverse[0, 0], inverse[1, 0], inverse[1, 1]
    d, e, f = inverse[2, 0], inverse[2, 1], inverse[2, 2]
    for n in range(out.size):
        d0, d1, d2 = x[n] - m0, y[n] - m1, z[n] - m2
        u, v, w = a * d0, b * d0 + c * d1, d * d0 + e * d1 + f * d2
        out[n] = constant - u * u - v * v - w * w


# In more dimensions one row of a block at a time.


@formula
def _minus(x, m, out):
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
def _subtract_square(x, out):
    for n in range(out.size):
        out[n] -= x[n] * x[n]


@kernel
def _subtract_squares(columns, first, mean, inverse, block, row, out):
    """Take |inverse (x - mean)|**2 from `out`, and leave the differences in the block."""
    count = out.size
    for i in range(mean.size):
        _minus(columns[i, first : first + count], mean[i], block[i, :count])
        _multiple(block[i, :count], inverse[i, i], row[:count])
        for j in range(0, i - 1, 2):
            _add_two(block[j, :count], inverse[i, j], block[j + 1, :count], inverse[i, j + 1], row[:count])
        if i % 2:
            _add(block[i - 1, :count], inverse[i, i - 1], row[:count])
        _subtract_square(row[:count], out)


@inlined
def _values(columns, first, mean, inverse, constant, block, row, out):
    """The log density of one component, times its weight, at a block of points."""
    dim, last = mean.size, first + out.size
    if dim == 1:
        _values_1(columns[0, first:last], mean, inverse, constant, out)
    elif dim == 2:
        _values_2(columns[0, first:last], columns[1, first:last], mean, inverse, constant, out)
    elif dim == 3:
        x, y, z = columns[0, first:last], columns[1, first:last], columns[2, first:last]
        _values_3(x, y, z, mean, inverse, constant, out)
    else:
        for n in range(out.size):
            out[n] = constant
        _subtract_squares(columns, first, mean, inverse, block, row, out)


@formula
def _raise_to(values, top):
    for n in range(top.size):
        top[n] = values[n] if values[n] > top[n] else top[n]


@formula
def _share(values, top, total):
    for n in range(top.size):
        e = decay(values[n] - top[n])
        values[n] = e
        total[n] += e


@formula
def _share_two(first, second, top, total):
    """`_raise_to` and `_share` for two components, with one exponential."""
    for n in range(top.size):
        d = second[n] - first[n]
        e = decay(-abs(d))
        up = d > 0.0
        top[n] = second[n] if up else first[n]
        first[n], second[n] = (e if up else 1.0), (1.0 if up else e)
        total[n] = 1.0 + e


@adder
def _sum(x):
    s = 0.0
    for n in range(x.size):
        s += x[n]
    return s


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
def _evidence(top, total, products):
    """Sum of the points' log densities, top + log(total), for a multiple of 32 points; `total` is inverted.

    One logarithm for 32 points each: the totals lie between 1 and K, and so the products are in range.
    """
    folded = products[:LANES]
    for n in range(LANES):
        folded[n] = total[n]
    for first in range(LANES, total.size, LANES):
        _fold(folded, total[first : first + LANES], folded)
    _invert(total)
    return _sum(top) + _sum_of_logs(folded)


@formula
def _terms_1(x, m0, e, inverse_total):
    r, d = e * inverse_total, x - m0
    rd = r * d
    return r, rd, rd * d


@adder
def _moments_1(x, m0, e, inverse_total):
    s, s0, s00 = 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t00 = _terms_1(x[n], m0, e[n], inverse_total[n])
        s += t
        s0 += t0
        s00 += t00
    return s, s0, s00


@formula
def _terms_2(x, y, m0, m1, e, inverse_total):
    r, d0, d1 = e * inverse_total, x - m0, y - m1
    r0, r1 = r * d0, r * d1
    return r, r0, r1, r0 * d0, r1 * d0, r1 * d1


@adder
def _moments_2(x, y, m0, m1, e, inverse_total):
    s, s0, s1, s00, s10, s11 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t1, t00, t10, t11 = _terms_2(x[n], y[n], m0, m1, e[n], inverse_total[n])
        s += t
        s0 += t0
        s1 += t1
        s00 += t00
        s10 += t10
        s11 += t11
    return s, s0, s1, s00, s10, s11


@formula
def _terms_3(x, y, z, m0, m1, m2, e, inverse_total):
    r, d0, d1, d2 = e * inverse_total, x - m0, y - m1, z - m2
    r0, r1, r2 = r * d0, r * d1, r * d2
    return r, r0, r1, r2, r0 * d0, r1 * d0, r1 * d1, r2 * d0, r2 * d1, r2 * d2


@adder
def _moments_3(x, y, z, m0, m1, m2, e, inverse_total):
    s, s0, s1, s2 = 0.0, 0.0, 0.0, 0.0
    s00, s10, s11, s20, s21, s22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t1, t2, t00, t10, t11, t20, t21, t22 = _terms_3(
            x[n], y[n], z[n], m0, m1, m2, e[n], inverse_total[n]
        )
        s += t
        s0 += t0
        s1 += t1
        s2 += t2
        s00 += t00
        s10 += t10
        s11 += t11
        s20 += t20
        s21 += t21
        s22 += t22
    return s, s0, s1, s2, s00, s10, s11, s20, s21, s22


@adder
def _scale(values, inverse_total):
    """values times inverse_total, in place; their sum."""
    s = 0.0
    for n in range(values.size):
        values[n] *= inverse_total[n]
        s += values[n]
    return s


@adder
def _weigh(x, weights, out):
    """out = x times weights; its sum."""
    s = 0.0
    for n in range(out.size):
        out[n] = x[n] * weights[n]
        s += out[n]
    return s


@adder
def _two_products(x, y, z):
    s, t = 0.0, 0.0
    for n in range(x.size):
        s += x[n] * y[n]
        t += x[n] * z[n]
    return s, t


@kernel
def _add_moments_of_block(columns, first, mean, block, row, shares, inverse_total, out):
    dim, count = mean.size, shares.size
    out[0] += _scale(shares, inverse_total)
    place = 1 + dim
    for i in range(dim):
        _minus(columns[i, first : first + count], mean[i], block[i, :count])
        out[1 + i] += _weigh(block[i, :count], shares, row[:count])
        for j in range(0, i, 2):
            s, t = _two_products(row[:count], block[j, :count], block[j + 1, :count])
            out[place + j] += s
            out[place + j + 1] += t
        if i % 2 == 0:
            out[place + i] += dot(row[:count], block[i, :count])
        place += i + 1


@inlined
def _add_moments(columns, first, mean, block, row, shares, inverse_total, out):
    """Add a block's sums of r, r d and r d d' (d = x - mean, r its responsibilities) to `out`."""
    dim, last = mean.size, first + shares.size
    if dim == 1:
        s, s0, s00 = _moments_1(columns[0, first:last], mean[0], shares, inverse_total)
        out[0] += s
        out[1] += s0
        out[2] += s00
    elif dim == 2:
        x, y = columns[0, first:last], columns[1, first:last]
        s, s0, s1, s00, s10, s11 = _moments_2(x, y, mean[0], mean[1], shares, inverse_total)
        out[0] += s
        out[1] += s0
        out[2] += s1
        out[3] += s00
        out[4] += s10
        out[5] += s11
    elif dim == 3:
        x, y, z = columns[0, first:last], columns[1, first:last], columns[2, first:last]
        s, s0, s1, s2, s00, s10, s11, s20, s21, s22 = _moments_3(
            x, y, z, mean[0], mean[1], mean[2], shares, inverse_total
        )
        out[0] += s
        out[1] += s0
        out[2] += s1
        out[3] += s2
        out[4] += s00
        out[5] += s10
        out[6] += s11
        out[7] += s20
        out[8] += s21
        out[9] += s22
    else:
        _add_moments_of_block(columns, first, mean, block, row, shares, inverse_total, out)


@inlined
def _prepare(weights, means, factors, space):
    """Constants and inverse factors of the components; log 0 = -inf is welcome."""
    constants, inverses = space.constants, space.inverses
    dim = means.shape[1]
    for k in range(weights.size):
        factor, inverse = factors[k], inverses[k]
        constants[k] = math.log(weights[k]) if weights[k] > 0.0 else -math.inf
        constants[k] -= half_log_det(factor) + 0.5 * dim * LOG_2PI
        for j in range(dim):
            for i in range(dim):
                s = _HALF_ROOT if i == j else 0.0
                for a in range(j, i):
                    s -= factor[i, a] * inverse[a, j]
                inverse[i, j] = s / factor[i, i] if i >= j else 0.0


@inlined
def _block_shares(columns, first, count, means, space):
    """Write a block's largest log densities, shares relative to them, and their sums."""
    values, constants, inverses = space.shares, space.constants, space.inverses
    components = means.shape[0]
    top, total = space.top[:count], space.sums[:count]
    for k in range(components):
        out = values[k, :count]
        _values(columns, first, means[k], inverses[k], constants[k], space.block, space.row, out)
    if components == 2:
        _share_two(values[0, :count], values[1, :count], top, total)
        return
    copy_vector(values[0, :count], top)
    for k in range(1, components):
        _raise_to(values[k, :count], top)
    clear_vector(total)
    for k in range(components):
        _share(values[k, :count], top, total)


@inlined
def _pad(columns, first, count, padded, out):
    """The last points of the data, and the last one again and again."""
    for i in range(columns.shape[0]):
        for n in range(count):
            out[i, n] = columns[i, first + n]
        for n in range(count, padded):
            out[i, n] = out[i, count - 1]


@kernel
def sweep(columns, weights, means, factors, space):
    """The log likelihood; the moments for the M-step are left in the workspace.

    The log likelihood is the ELBO for the posterior of the labels, which is not kept.
    """
    shares, moments = space.shares, space.moments
    size = columns.shape[1]
    _prepare(weights, means, factors, space)
    clear_matrix(moments)
    evidence = 0.0
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        padded = (count + LANES - 1) // LANES * LANES
        points, start = columns, first
        if padded > count:
            _pad(columns, first, count, padded, space.tail)
            points, start = space.tail, 0
        _block_shares(points, start, padded, means, space)
        top, total = space.top[:padded], space.sums[:padded]
        for n in range(count, padded):
            top[n], total[n] = 0.0, 1.0
        evidence += _evidence(top, total, space.products)
        for n in range(count, padded):
            total[n] = 0.0
        for k in range(weights.size):
            _add_moments(
                points, start, means[k], space.block, space.row, shares[k, :padded], total, moments[k]
            )
    return evidence


@kernel
def _raise_eigenvalues(matrix, floor, vectors, out):
    """Write to `out` the symmetric `matrix`, which is destroyed, with eigenvalues below `floor` raised."""
    dim = matrix.shape[0]
    eigenvectors(matrix, vectors)
    for i in range(dim):
        for j in range(i + 1):
            s = 0.0
            for a in range(dim):
                s += max(matrix[a, a], floor) * vectors[i, a] * vectors[j, a]
            out[i, j] = s
            out[j, i] = s


@inlined
def floored_factor(cov, floor, factor, scratch):
    """Write the factor of `cov` with its eigenvalues raised to `floor`: (whether one was, success).

    Among the covariances above the floor this one has the greatest likelihood, so that EM with a floor
    still goes uphill. `scratch` has two matrices.
    """
    dim = cov.shape[0]
    copy_matrix(cov, scratch[0])
    for i in range(dim):
        scratch[0, i, i] -= floor
    if cholesky(scratch[0], scratch[1]):
        return False, cholesky(cov, factor)
    copy_matrix(cov, scratch[0])
    _raise_eigenvalues(scratch[0], floor, scratch[1], factor)
    return True, cholesky(factor, factor)


@kernel
def maximise(size, weights, means, factors, floor, floored, space):
    """Take the M-step from the moments of a sweep: (KL from the complete-data model before, success).

    By Pythagoras' theorem that KL is what the step gains for each point. `floored` says on which components
    the floor acted, and counts how often it has. Nothing is changed where a covariance is singular.
    """
    moments, scratch = space.moments, space.matrices
    new_weights, new_means, new_factors = space.weights, space.means, space.factors
    components, dim = means.shape
    mean, cov = space.mean, space.covariance
    gain = 0.0
    for k in range(components):
        row = moments[k]
        weight = row[0] / size
        floored[AT_FLOOR, k] = 0
        if not weight > EMPTY:
            new_weights[k] = 0.0
            copy_vector(means[k], new_means[k])
            copy_matrix(factors[k], new_factors[k])
            gain += weights[k]
            continue
        for i in range(dim):
            mean[i] = row[1 + i] / row[0]
        place = 1 + dim
        for i in range(dim):
            for j in range(i + 1):
                cov[i, j] = row[place] / row[0] - mean[i] * mean[j]
                cov[j, i] = cov[i, j]
                place += 1
        acted, positive = floored_factor(cov, floor, new_factors[k], scratch)
        if not positive:
            return math.inf, False
        if acted:
            floored[AT_FLOOR, k] = 1
            floored[FLOOR_STEPS, k] += 1
        new_weights[k] = weight
        for i in range(dim):
            new_means[k, i] = means[k, i] + mean[i]
        gain += kl_term(weight, weights[k], weight - weights[k], (0.0, 0.0))
        gain += weight * gaussian_kl(new_means[k], new_factors[k], means[k], factors[k], space.solution)
    copy_vector(new_weights, weights)
    copy_matrix(new_means, means)
    for k in range(components):
        copy_matrix(new_factors[k], factors[k])
    return gain, True


@kernel
def _raise_start(factors, floor, floored, space):
    """Covariances of a start that are below the floor are raised to it; False where one is singular."""
    dim = factors.shape[1]
    cov, raised = space.covariance, space.factors[0]
    good = True
    for k in range(factors.shape[0]):
        floored[AT_FLOOR, k], floored[FLOOR_STEPS, k] = 0, 0
        for i in range(dim):
            for j in range(dim):
                cov[i, j] = 0.0
                for a in range(min(i, j) + 1):
                    cov[i, j] += factors[k, i, a] * factors[k, j, a]
        acted, positive = floored_factor(cov, floor, raised, space.matrices)
        if acted:
            copy_matrix(raised, factors[k])
            floored[AT_FLOOR, k], floored[FLOOR_STEPS, k] = 1, 1
        good &= positive
    return good


@kernel
def _to_gain(gain, last, before):
    """What is left to gain for each point after M-steps that gained `before`, `last` and now `gain`.

    Near the maximum the error of the parameters shrinks by a factor r in each step, and the gains by r**2.
    The log likelihood is then gain r**2 / (1 - r) below its maximum. The larger of the last two ratios is
    taken for r**2: one may be small by accident.
    """
    if before == 0.0 or not gain < last < before:
        return math.inf
    square = max(gain / last, last / before)
    return gain * square / (1.0 - math.sqrt(square))


@exported
def fit(columns, weights, means, factors, floor, tol, most, trace, floored, space):
    """EM from a Gaussian mixture, which is overwritten.

    It ends when not more than `tol` is left to gain.

    Parameters
    ----------
    columns : (D, N)
        The points, a row for each coordinate.
    weights, means, factors : (K,), (K, D), (K, D, D)
        The mixture to start from: weights, means, lower Cholesky factors.
    floor : float
        The least eigenvalue of a covariance.
    tol : float
        In nats for each point.
    most : int
        M-steps at most.
    trace : (most + 1,)
        trace[i] is the log likelihood, over N, after i M-steps.
    floored : (2, K)
        Is written: which components are at the floor at the end, and in how many steps each has been.
    space : Space
        A `workspace`.

    Returns
    -------
    status, steps, left
        Status 0 converged; 1 `most` was used up; 20 a covariance is singular; 21 a number is out of range.
        `left` is what may still be gained for each point.

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 9.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> columns = np.array([[-1.2, -0.9, -0.9, 0.9, 0.9, 1.2]])
    >>> weights, means, factors = np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> trace, floored, space = np.empty(501), np.empty((2, 2), np.int64), kernels.em.workspace(2, 1)
    >>> status, steps, left = kernels.em.fit(columns, weights, means, factors, 1e-6, 1e-12, 500, trace,
    ...                                      floored, space)
    >>> status, means.round(6).ravel()
    (0, array([-1.,  1.]))
    """
    size = columns.shape[1]
    if not _raise_start(factors, floor, floored, space):
        trace[0] = math.nan
        return SINGULAR, 0, math.inf
    last, before, left = 0.0, 0.0, math.inf
    for step in range(most + 1):
        trace[step] = sweep(columns, weights, means, factors, space)
        if not abs(trace[step]) < math.inf:
            return OUT_OF_RANGE, step, left
        if left <= tol:
            return CONVERGED, step, left
        if step == most:
            break
        gain, positive = maximise(size, weights, means, factors, floor, floored, space)
        if not positive:
            return SINGULAR, step, left
        left = 0.0 if gain <= ROUNDING else _to_gain(gain, last, before)
        last, before = gain, last
    return STEPS_EXHAUSTED, most, left


@exported
def log_joint(columns, weights, means, factors, space, out):
    """out[n, k] = log of weight k times density k at point n; -inf for a weight of zero."""
    shares = space.shares
    size = columns.shape[1]
    _prepare(weights, means, factors, space)
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        for k in range(weights.size):
            inverse, constant, values = space.inverses[k], space.constants[k], shares[k, :count]
            _values(columns, first, means[k], inverse, constant, space.block, space.row, values)
            for n in range(count):
                out[first + n, k] = shares[k, n]


@exported
def responsibilities(columns, weights, means, factors, space, out):
    """out[n, k] = posterior probability of component k at point n."""
    size = columns.shape[1]
    _prepare(weights, means, factors, space)
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        _block_shares(columns, first, count, means, space)
        for k in range(weights.size):
            for n in range(count):
                out[first + n, k] = space.shares[k, n] / space.sums[n] if weights[k] > 0.0 else 0.0


@kernel
def _shift(x, i, out):
    """out = column i of x minus its mean, which is returned."""
    first = x[0, i]
    s = 0.0
    for n in range(out.size):
        out[n] = x[n, i] - first
        s += out[n]
    mean = s / out.size
    for n in range(out.size):
        out[n] -= mean
    return first + mean


@formula
def _subtract(x, a, out):
    for n in range(out.size):
        out[n] -= a * x[n]


@formula
def _multiply(x, a):
    for n in range(x.size):
        x[n] *= a


@exported
def standardize(x, columns, mean, factor):
    """Write the columns of x (N, D) with mean 0 and covariance I: x[n] = mean + factor columns[:, n].

    Returned is the first column that is a linear combination of those before it (or constant, or out of
    range), or D for none. Column by column this is Cholesky's method (modified Gram and Schmidt), and the
    factor is exact for these columns.
    """
    size, dim = x.shape
    clear_matrix(factor)
    for i in range(dim):
        out = columns[i]
        mean[i] = _shift(x, i, out)
        spread = math.sqrt(dot(out, out) / size)
        for j in range(i):
            factor[i, j] = dot(out, columns[j]) / size
            _subtract(columns[j], factor[i, j], out)
        factor[i, i] = math.sqrt(dot(out, out) / size)
        if not factor[i, i] > DEPENDENT * spread or not factor[i, i] < math.inf:
            return i
        _multiply(out, 1.0 / factor[i, i])
    return dim


@exported
def unstandardize_mixture(mean, factor, means, factors):
    """Carry a mixture of standardized points to the coordinates of the data, in place."""
    dim = mean.size
    for k in range(means.shape[0]):
        for i in range(dim - 1, -1, -1):
            s = mean[i]
            for j in range(i + 1):
                s += factor[i, j] * means[k, j]
            means[k, i] = s
            for j in range(i + 1):
                s = 0.0
                for a in range(j, i + 1):
                    s += factor[i, a] * factors[k, a, j]
                factors[k, i, j] = s


@exported
def standardize_mixture(mean, factor, means, factors):
    """The inverse of `unstandardize_mixture`."""
    dim = mean.size
    for k in range(means.shape[0]):
        for i in range(dim):
            means[k, i] -= mean[i]
        solve_lower(factor, means[k])
        for j in range(dim):
            solve_lower(factor, factors[k, :, j])


@kernel
def _nearer(columns, centre, label, distances, labels):
    """Give this centre's label to the points that are nearer to it than to those before it."""
    dim, size = columns.shape
    for n in range(size):
        s = 0.0
        for i in range(dim):
            s += (columns[i, n] - centre[i]) ** 2
        if s < distances[n]:
            distances[n] = s
            labels[n] = label


@exported
def seed(columns, uniforms, weights, means, factors, floor, distances, labels, space):
    """Write a start, from one uniform number for each component; `distances` and `labels` have N entries.

    Centres are points of the data, each drawn with probability proportional to the squared distance from
    the centres before it (Arthur and Vassilvitskii 2007). Components are then the clusters around them, all
    with the pooled covariance within clusters: one of a few points may have none of its own.
    """
    dim, size = columns.shape
    components = weights.size
    for n in range(size):
        distances[n] = math.inf
        labels[n] = 0
    for k in range(components):
        total = 0.0
        if k > 0:
            for n in range(size):
                total += distances[n]
        if total > 0.0:
            left, chosen = uniforms[k] * total, size - 1
            for n in range(size):
                left -= distances[n]
                if left < 0.0:
                    chosen = n
                    break
        else:
            chosen = min(int(uniforms[k] * size), size - 1)
        for i in range(dim):
            means[k, i] = columns[i, chosen]
        _nearer(columns, means[k], k, distances, labels)
    _clusters(columns, labels, weights, means)
    within, factor = space.covariance, factors[0]
    clear_matrix(within)
    for n in range(size):
        for i in range(dim):
            for j in range(i + 1):
                d = (columns[i, n] - means[labels[n], i]) * (columns[j, n] - means[labels[n], j])
                within[i, j] += d / size
    for i in range(dim):
        for j in range(i + 1, dim):
            within[i, j] = within[j, i]
    floored_factor(within, max(floor, LEAST_START), factor, space.matrices)
    for k in range(1, components):
        copy_matrix(factor, factors[k])


@kernel
def _clusters(columns, labels, weights, means):
    """Write the clusters' shares and means; a centre without points (a duplicate) keeps its place."""
    dim, size = columns.shape
    clear_vector(weights)
    for n in range(size):
        weights[labels[n]] += 1.0
    for k in range(weights.size):
        if weights[k] > 0.0:
            for i in range(dim):
                means[k, i] = 0.0
    for n in range(size):
        for i in range(dim):
            means[labels[n], i] += columns[i, n] / weights[labels[n]]
    total = 0.0
    for k in range(weights.size):
        weights[k] = max(weights[k], 1.0)
        total += weights[k]
    for k in range(weights.size):
        weights[k] /= total

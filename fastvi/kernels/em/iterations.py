"""EM for Gaussian mixtures: coordinate ascent of the ELBO with exact posteriors of the labels.

Used by `fastvi.fit_mixture`, and by compiled code of the user's as `fastvi.kernels.em.fit`. A mixture is
given by weights (K), means (K, D) and lower Cholesky factors (K, D, D), data by its columns (D, N): the loops
run along the points. One sweep over the data takes them in blocks that stay in the first-level cache. The
responsibilities of a block are summed before the next block is read, so that no array of N x K is needed.
Moments are taken about the means at the beginning of the sweep, which avoids cancellation.
"""

from __future__ import annotations

import math

from ..borrowing import borrow
from ..compiler import exported, formula, inlined, kernel, specialise
from ..numerics.matrices import add_up, clear_matrix, copy_matrix, dot
from ..statuses import CONVERGED, OUT_OF_RANGE, SINGULAR, STEPS_EXHAUSTED
from .e_step import (
    BLOCK,
    KIND,
    LANES,
    STOP,
    TIED,
    block_log_likelihood,
    block_shares,
    in_units,
    is_diagonal,
    prepare,
    weighted_log_likelihood,
    write_terms,
)
from .gaps import sweep_with_gaps
from .m_step import AT_FLOOR, FLOOR_STEPS, floored_start, has_prior, is_steep, log_prior, maximise
from .moments import ALL, DIAGONAL_ONLY, NONE, add_moments, add_moments_in_units

#: Tied covariances may be smaller than the data's by this factor, in the mean over the directions, for their
#: moments to be had as a difference.
SPREAD = 100.0

#: An M-step whose gain (in nats per point) is below this changes the mixture by rounding only.
ROUNDING = 1e-29

#: Where a gain may be rounding, at most HIDDEN times that gain remains: this holds for rates up to 0.9999. At
#: least SURE times what rounding may make of a gain is always taken to remain.
HIDDEN, SURE = 1e4, 1e-4


@inlined
def _pad(columns, first, count, padded, out):
    """out = the last `count` points of the data, padded with copies of the last one."""
    for i in range(columns.shape[0]):
        for n in range(count):
            out[i, n] = columns[i, first + n]
        for n in range(count, padded):
            out[i, n] = out[i, count - 1]


@inlined
def _mass(columns, space):
    """The sum of the points' weights."""
    return add_up(space.frequencies) if space.frequencies.size > 0 else float(columns.shape[1])


@inlined
def _mass_with_gaps(points, space):
    return _mass(points[0], space)


@formula
def _weigh(frequencies, total):
    """total = frequencies / total."""
    for n in range(frequencies.size):
        total[n] = frequencies[n] / total[n]


@kernel
def sweep_part(columns, begin, end, weights, means, space):
    """The log likelihood of the points from `begin` to `end`, whose moments are added; NaN if it was stopped.

    After `prepare` and a `clear_matrix` of the moments.
    """
    shares, moments, frequencies = space.shares, space.moments, space.frequencies
    which = NONE if space.pooled[0] > 0.0 else (DIAGONAL_ONLY if is_diagonal(space) else ALL)
    log_likelihood = 0.0
    for first in range(begin, end, BLOCK):
        if space.control[STOP]:
            return math.nan
        count = min(BLOCK, end - first)
        padded = (count + LANES - 1) // LANES * LANES
        points, start = columns, first
        if padded > count:
            _pad(columns, first, count, padded, space.tail)
            points, start = space.tail, 0
        block_shares(points, start, padded, means, space)
        top, total = space.top[:padded], space.sums[:padded]
        for n in range(count, padded):
            top[n], total[n] = 0.0, 1.0
        if frequencies.size > 0:
            given = frequencies[first : first + count]
            if space.terms.size > 0:
                terms = space.terms[first : first + count]
                write_terms(top, total, given, terms)
                log_likelihood += add_up(terms)
            else:
                log_likelihood += weighted_log_likelihood(top, total, given)
            _weigh(given, total)
        else:
            log_likelihood += block_log_likelihood(top, total, space.products)
        for n in range(count, padded):
            total[n] = 0.0
        for k in range(weights.size):
            block, row, one = space.block, space.row, shares[k, :padded]
            if in_units(moments[k]):
                inverse = space.inverses[k]
                add_moments_in_units(points, start, means[k], inverse, block, row, one, total, moments[k])
            else:
                add_moments(points, start, means[k], which, row, one, total, moments[k])
    return log_likelihood


@kernel
def _measure(columns, space):
    """Write the sum of x x' over the data for tied covariances."""
    dim, size = columns.shape
    if space.control[KIND] != TIED or dim <= 3:
        return
    scatter, frequencies, row = space.scatter, space.frequencies, space.row
    clear_matrix(scatter)
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        for i in range(dim):
            for n in range(first, last):
                row[n - first] = columns[i, n] * frequencies[n] if frequencies.size > 0 else columns[i, n]
            for j in range(i + 1):
                scatter[i, j] += dot(row[: last - first], columns[j, first:last])
    for i in range(dim):
        for j in range(i):
            scatter[j, i] = scatter[i, j]


@inlined
def _measure_with_gaps(points, space):
    """Nothing: tied covariances of points with gaps are summed by components."""


@kernel
def _is_pooled(columns, space):
    """Whether the sum of r d d' over all components may be had from the sum of x x' over the data.

    It is smaller than that by the spread of the means, in some direction by a factor of at most SPREAD D: so
    many roundings are lost. After `prepare`.
    """
    dim, inverse, row = columns.shape[0], space.inverses[0], space.mean
    if space.control[KIND] != TIED or dim <= 3 or in_units(space.moments[0]):
        return False
    ratio = 0.0
    for i in range(dim):
        for j in range(i + 1):
            row[j] = 0.0
            for a in range(i + 1):
                row[j] += inverse[i, a] * space.scatter[a, j]
        for j in range(i + 1):
            ratio += 2.0 * row[j] * inverse[i, j]
    return ratio <= SPREAD * dim * _mass(columns, space)


@kernel
def _pool(means, space):
    """Write the sum of r d d' over all components to the moments of the first.

    With d = x - m it is the sum of x x' less those of s m' + m s' + r m m' over the components, s of r d.
    """
    components, dim = means.shape
    moments, place = space.moments, 1 + dim
    for i in range(dim):
        for j in range(i + 1):
            s = space.scatter[i, j]
            for k in range(components):
                row, mean = moments[k], means[k]
                s -= row[1 + i] * mean[j] + mean[i] * row[1 + j] + row[0] * mean[i] * mean[j]
            moments[0, place] = s
            place += 1


@kernel
def sweep(columns, weights, means, factors, space):
    """The log likelihood, and in the space the moments for the M-step.

    It is the ELBO with the posterior of the labels as q, which is not stored. NaN if the sweep was stopped.
    """
    prepare(weights, means, factors, space)
    clear_matrix(space.moments)
    return _swept(columns, weights, means, space)


@kernel
def _sweep_in_units(columns, weights, means, factors, space):
    """`sweep`, with moments in units of the factor where that `is_steep`."""
    prepare(weights, means, factors, space)
    clear_matrix(space.moments)
    for k in range(weights.size):
        space.moments[k, space.moments.shape[1] - 1] = 1.0 if is_steep(factors[k], space) else 0.0
    return _swept(columns, weights, means, space)


@kernel
def _swept(columns, weights, means, space):
    """The sum over all points, after `prepare`."""
    space.pooled[0] = 1.0 if _is_pooled(columns, space) else 0.0
    log_likelihood = sweep_part(columns, 0, columns.shape[1], weights, means, space)
    if space.pooled[0] > 0.0:
        _pool(means, space)
        space.pooled[0] = 0.0
    return log_likelihood


@kernel
def _raise_start(factors, floor, floored, space):
    """Raise the eigenvalues of the start's covariances to the floor; False where a covariance is singular."""
    raised, good = space.factors[0], True
    for k in range(factors.shape[0]):
        floored[AT_FLOOR, k], floored[FLOOR_STEPS, k] = 0, 0
        acted, positive = floored_start(factors[k], floor, raised, space)
        if acted:
            copy_matrix(raised, factors[k])
            floored[AT_FLOOR, k], floored[FLOOR_STEPS, k] = 1, 1
        good &= positive
    return good


@exported
def remaining_gain(gain, last, before, rounding):
    """The gain per point that remains after M-steps with gains `before`, `last`, `gain`; inf if unknown.

    EM converges linearly: near the maximum the error of the parameters shrinks by a factor r in each step,
    and the gains by r**2. The log likelihood is then gain r**2 / (1 - r) below its maximum. r**2 is estimated
    by the larger of the last two ratios, as one may be small by accident. `rounding` is what rounding may
    make of a gain: from there on gains need not shrink.
    """
    sure = SURE * rounding if SURE * rounding > ROUNDING else 0.0
    if gain <= ROUNDING:
        return sure
    remaining = HIDDEN * gain if gain <= rounding else math.inf
    if before > 0.0 and gain < last < before:
        square = max(gain / last, last / before)
        remaining = min(remaining, gain * square / (1.0 - math.sqrt(square)))
    return max(remaining, sure)


def _fit(columns, weights, means, factors, floor, tol, most, trace, floored, space):
    """EM from a Gaussian mixture, which is overwritten, until the remaining gain is at most `tol`.

    Parameters
    ----------
    columns : (D, N)
        The points; a row for each coordinate.
    weights, means, factors : (K,), (K, D), (K, D, D)
        The start: weights, means, lower Cholesky factors.
    floor : float
        The least eigenvalue of a covariance.
    tol : float
        In nats per point.
    most : int
        Largest number of M-steps. 0: the mixture stays as it is, also below the floor; `floored` too.
    trace : (most + 1,)
        Written: trace[i] is the log likelihood after i M-steps, with a prior plus its log density.
    floored : (2, K)
        Written: which components are at the floor at the end, and the number of steps in which each was.
    space : Workspace
        A `workspace`. Its `frequencies` are the points' weights, `control[KIND]` is the kind of covariances
        (any other than FULL: of the start as well), `prior` that of `m_step`, and `control[STOP]`, which
        another thread may set, ends the fit with status 21.

    Returns
    -------
    status, steps, remaining
        Status 0: converged; 1: `most` steps were taken; 20: a covariance is singular; 21: a log likelihood is
        not finite. `remaining` is the estimated gain per point that remains.

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
    >>> status, steps, remaining = kernels.em.fit(columns, weights, means, factors, 1e-6, 1e-12, 500, trace,
    ...                                      floored, space)
    >>> status, means.round(6).ravel()
    (0, array([-1.,  1.]))
    """
    columns, weights, means = borrow(columns), borrow(weights), borrow(means)
    factors, space = borrow(factors), borrow(space)
    mass = _mass(columns, space)
    _measure(columns, space)
    if most > 0 and not _raise_start(factors, floor, floored, space):
        trace[0] = math.nan
        return SINGULAR, 0, math.inf
    last, before, remaining = 0.0, 0.0, math.inf
    for step in range(most + 1):
        trace[step] = _sweep_in_units(columns, weights, means, factors, space)
        if has_prior(space):
            trace[step] += log_prior(weights, means, factors, space)
        if not abs(trace[step]) < math.inf:
            return OUT_OF_RANGE, step, remaining
        if remaining <= tol:
            return CONVERGED, step, remaining
        if step == most:
            break
        gain, positive = maximise(mass, weights, means, factors, floor, floored, space)
        if not positive:
            return SINGULAR, step, remaining
        remaining = remaining_gain(gain, last, before, space.rounding[0])
        last, before = gain, last
    return STEPS_EXHAUSTED, most, remaining


fit = specialise(_fit, "fit", exported)

#: `fit` for points with gaps, in place of `columns`: see `gaps.sweep_with_gaps`.
_FOR_GAPS = {"_sweep_in_units": sweep_with_gaps, "_mass": _mass_with_gaps, "_measure": _measure_with_gaps}
fit_with_gaps = specialise(_fit, "fit_with_gaps", exported, **_FOR_GAPS)

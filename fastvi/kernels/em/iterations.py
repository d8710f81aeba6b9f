"""EM for Gaussian mixtures: coordinate ascent of the ELBO with exact posteriors of the labels.

A mixture is given by weights (K), means (K, D) and lower Cholesky factors (K, D, D); data by its columns
(D, N), because the loops run along the points. One sweep over the data takes them in blocks that stay in
the first-level cache: the responsibilities of a block are summed before the next one is read, so that no
array of N x K is needed. Moments are taken about the means that the sweep starts from, where nothing cancels.
"""

from __future__ import annotations

import math

from ..compiler import exported, inlined, kernel
from ..numerics.matrices import clear_matrix, copy_matrix
from ..statuses import CONVERGED, OUT_OF_RANGE, SINGULAR, STEPS_EXHAUSTED
from .e_step import BLOCK, LANES, _block_shares, _evidence, _prepare
from .m_step import AT_FLOOR, FLOOR_STEPS, floored_factor, maximise
from .moments import _add_moments

#: An M-step that gains less than this (in nats for each point) changes the mixture by rounding only.
ROUNDING = 1e-29


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

"""Projections of a Gaussian mixture; in up to three dimensions, all local minima of KL(q ‖ p) over Gaussians.

From each start, damped Newton steps on a coarse lattice, then on one that is refined until the optimum holds.
A `report` of an optimum is (KL, its error, gradient norm, nodes used, status).
"""

from __future__ import annotations

import math

import numpy as np

from . import contours, expectations, newton
from .borrowing import borrow
from .expectations import MOMENTS, MOST_NODES, STEP, integrate_own
from .gaussians import LOG_2PI, gaussian_kl
from .jit import exported, kernel, merged, specialise
from .matrices import cholesky, clear_vector, copy_matrix, copy_vector, half_log_det, solve_lower
from .mixtures import climb, mixture_moments, pair_moments, see
from .newton import (
    FULL,
    ISOTROPIC,
    LEAST_CURVATURE,
    TRUST,
    differentiate,
    dual_length,
    factorise,
    find_step,
    lay_out,
    length,
    move,
    solve,
)
from .rows import left_out
from .whitening import ball, leave_out, refine_own, rounding, set_steps, tail, turn

# The status of an optimum.
CONVERGED = 0
STEPS_EXHAUSTED = 1  #: Newton's steps did not become small
UNRESOLVED = 2  #: the quadrature would need too many nodes
NOT_A_MINIMUM = 3  #: the Hessian is not positive definite
INVALID = 4  #: no finite value

#: The lattice for the way to an optimum, its ball, and the most nodes: 69 in the plane are usual.
ROUGH_STEP = 1.0
ROUGH_RADIUS = 4.5
ROUGH_NODES = 300.0

#: What sums along a contour may be off by on that way.
ROUGH_ERROR = 1e-2

#: The length of a step that ends the way there, and of one that starts the refinement.
NEAR = 5e-2
APPROACH = 1e-4

#: The length of a step beyond which a lattice is not to be taken for granted.
FAR = 1e-2

#: The length of the last step.
LAST = 1e-6

#: Newton's steps on the fine lattice: two are usual.
MOST_ROUNDS = 20

#: Optima with a smaller KL divergence between them are the same.
SAME = 1e-6
NEARLY_SAME = 1e-4  #: on the way there


@exported
def workspace(components, dim):
    """Scratch space for I-projections: one for each thread.

    Parameters
    ----------
    components : int
        As many as the mixtures have, or more.
    dim : int
        At most 3.

    Returns
    -------
    tuple

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.workspace(2, 2)
    """
    return (
        expectations.workspace(components, dim),
        newton.workspace(dim),
        np.empty((2, dim)),
        np.empty((4, dim, dim)),
        np.empty(2 * dim),
    )


@merged
def _look(log_weights, means, chols, mean, chol, factor, work):
    """Write the coefficients of p in the frame (mean, factor) of q, where chol chol' = factor factor'."""
    first, second = work[3][:0], work[4][: log_weights.size]
    see(log_weights, means, chols, mean, factor, second, work[9])
    return first, second, -half_log_det(chol) - 0.5 * mean.size * LOG_2PI


@merged
def _roughly(problem, mean, chol, space, moments_):
    """The divergence along a contour or on a coarse lattice, and its moments."""
    log_weights, means, chols = problem
    work = space[0]
    dim = mean.size
    steps, shift = work[5][0], work[5][1]
    clear_vector(shift)
    first, second, own = _look(log_weights, means, chols, mean, chol, chol, work)
    table = work[10][0]
    error, nodes = contours.expect(second, own, dim, ROUGH_ERROR, contours.ROUGH, table, moments_)
    if error <= ROUGH_ERROR:
        return moments_[0], nodes
    set_steps(first, second, dim, ROUGH_STEP, ROUGH_RADIUS, ROUGH_NODES, steps)
    nodes = integrate_own(second, own, dim, steps, shift, ROUGH_RADIUS, work, moments_)
    return moments_[0], nodes


_descend = specialise(newton.descend, "_descend", merged, evaluate=_roughly)


@merged
def _settle(log_weights, means, chols, family, mean, chol, guess, rtol, space, report):
    """`_polish` by contours; False where they do not serve, and the last mean and factor are kept."""
    work, parts = space[0], space[1]
    new_mean, new_chol = space[2][1], space[3][1]
    dim = mean.size
    count = lay_out(family, dim, parts.layout)
    kept, table = work[6][0], work[10][0]
    for _ in range(MOST_ROUNDS):
        first, second, own = _look(log_weights, means, chols, mean, chol, chol, work)
        floor = rounding(first, second)
        tolerance = max(0.5 * rtol * min(abs(guess), 1.0), 2.0 * floor)
        error, nodes = contours.expect(second, own, dim, tolerance, contours.USUAL, table, kept)
        report[3] += nodes
        guess = kept[0]
        size_, gain, used, minimum = _newton(kept, family, dim, count, parts)
        if not (error <= tolerance and size_ < math.inf):
            return False
        move(mean, chol, family, dim, used, parts, new_mean, new_chol)
        copy_vector(new_mean, mean)
        copy_matrix(new_chol, chol)
        if size_ <= LAST:
            slope = dual_length(parts.gradient, parts.layout, family, dim, used)
            status = CONVERGED if minimum else NOT_A_MINIMUM
            _write(guess - gain, error + floor, slope, error + floor, status, report)
            return True
    return False


@merged
def _write(value, error, slope, slope_error, status, report):
    """Report an optimum; the last step to one that converged squares the gradient."""
    # The divergence is not negative: what is below zero is the error of a value near zero.
    report[0] = max(value, 0.0)
    report[1] = error + 4.4e-16 * abs(value)
    report[2] = (10.0 * slope * slope if status == CONVERGED else slope) + slope_error
    report[4] = status


@kernel
def _rebuild(factor, matrix, chol, dim):
    """chol = the Cholesky factor of factor factor'; False where rounding leaves none."""
    for i in range(dim):
        for j in range(i + 1):
            s = 0.0
            for k in range(dim):
                s += factor[i, k] * factor[j, k]
            matrix[i, j] = s
    return cholesky(matrix, chol)


@merged
def _polish(log_weights, means, chols, family, mean, chol, guess, rtol, space, report):
    """Newton steps by contours, or on a lattice that is refined until the optimum holds; the status.

    `guess` is about the divergence that it will have. The refinement moves the optimum a little. From there
    the lattice before the last halving serves, with what that halving changed added to its moments, if the
    step is so short that this is the same at its end; the value is then that of the quadratic model. The last
    step is below 1e-6 and is not followed by another look: Newton's method squares the gradient.
    """
    if _settle(log_weights, means, chols, family, mean, chol, guess, rtol, space, report):
        return int(report[4])
    work, parts = space[0], space[1]
    dim = mean.size
    factor, new_factor, matrix = space[3][1], space[3][2], space[3][3]
    new_mean = space[2][1]
    count = lay_out(family, dim, parts.layout)
    kept, correction = work[6][0], work[6][2]
    steps, shift = work[5][0], work[5][1]
    clear_vector(shift)
    radius = 0.0
    framed, refined, corrected, resolved, settled, minimum = False, False, False, True, True, False
    value, error, slope_error, slope_change, dropped, floor, used, nodes = (
        guess,
        math.inf,
        0.0,
        0.0,
        0.0,
        0.0,
        0,
        0,
    )
    status = STEPS_EXHAUSTED
    for _ in range(MOST_ROUNDS):
        if not framed:
            copy_matrix(chol, factor)
        first, second, own = _look(log_weights, means, chols, mean, chol, factor, work)
        dropped = leave_out(second, dim, work[7][3], work[9])
        if not framed:
            if family == FULL:
                turn(first, second, dim, factor, work[7], work[9])
            floor = rounding(first, second)
            radius = ball(first, second, dim, 0.1 * max(rtol * abs(guess), floor))
            resolved = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
        nodes += integrate_own(second, own, dim, steps, shift, radius, work, kept)
        if corrected:
            for i in range(MOMENTS):
                kept[i] += correction[i]
        elif refined:
            value = kept[0]
        size_, gain, used, minimum = _newton(kept, family, dim, count, parts)
        if not refined and size_ <= APPROACH:
            error, slope_error, slope_change, n, settled = refine_own(
                second, own, dim, steps, radius, rtol, floor, max(rtol, 100.0 * floor), work, kept
            )
            nodes += n
            value = kept[0]
            refined = True
            size_, gain, used, minimum = _newton(kept, family, dim, count, parts)
            drift, cube = 10.0 * size_ * slope_change, 10.0 * size_**3
            corrected = drift <= 0.3 * rtol and cube <= 0.1 * rtol * abs(value)
            if corrected:
                slope_error += drift
                error += cube
                for i in range(MOMENTS):
                    correction[i] = kept[i] - correction[i]
                copy_vector(work[5][2], steps)
        if not size_ < math.inf:
            status = INVALID
            break
        if refined:
            value -= gain
            if size_ <= LAST:
                status = CONVERGED if minimum else NOT_A_MINIMUM
            elif size_ > FAR:
                refined, corrected = False, False
        framed = size_ <= FAR
        move(mean, factor, family, dim, used, parts, new_mean, new_factor)
        if not _rebuild(new_factor, matrix, chol, dim):
            status = INVALID
            break
        copy_vector(new_mean, mean)
        copy_matrix(new_factor, factor)
        if status != STEPS_EXHAUSTED:
            break
    if status == CONVERGED and not (resolved and settled):
        status = UNRESOLVED
    error += floor + dropped + tail(first, second, dim, radius) + left_out(second.shape[0], dim, radius)
    slope = dual_length(parts.gradient, parts.layout, family, dim, used)
    _write(value, error if resolved else math.inf, slope, slope_error + floor, status, report)
    report[3] += nodes
    return status


@kernel
def _newton(moments_, family, dim, count, parts):
    """(length of the step, its gain, number of parameters, whether the Hessian is positive definite)."""
    used = differentiate(moments_, family, dim, count, parts)
    if not abs(moments_[0]) < math.inf:
        return math.inf, 0.0, used, False
    minimum = factorise(parts.hessian, 0.0, LEAST_CURVATURE, family, dim, used, parts)
    gain, size_ = 0.0, math.inf
    if minimum:
        gain = solve(used, parts)
        size_ = length(parts.step, parts.layout, family, dim, used)
    if size_ > TRUST:
        _, gain, size_ = find_step(0.0, family, dim, used, parts)
    return size_, gain, used, minimum


@kernel
def restrict(family, chol, work):
    """Replace a covariance by its I-projection onto a family: 1 / Lambda_ii, or D / tr Lambda."""
    if family == FULL:
        return
    dim = chol.shape[0]
    trace = 0.0
    for i in range(dim):
        for j in range(dim):
            work[j] = 1.0 if i == j else 0.0
        solve_lower(chol, work[:dim])
        precision = 0.0
        for j in range(dim):
            precision += work[j] * work[j]
        trace += precision
        work[dim + i] = 1.0 / math.sqrt(precision)
    for i in range(dim):
        for j in range(dim):
            chol[i, j] = 0.0
        chol[i, i] = math.sqrt(dim / trace) if family == ISOTROPIC else work[dim + i]


@exported
def i_projection(log_weights, means, chols, family, mean, chol, rtol, space, report):
    """One local minimum of KL(q ‖ p) from the start (mean, chol), which it overwrites; p is a mixture.

    Parameters
    ----------
    log_weights, means, chols : (K,), (K, D), (K, D, D)
        D is at most 3.
    family : int
        newton.FULL, newton.DIAGONAL or newton.ISOTROPIC.
    mean, chol : (D,), (D, D)
        Where to start, and the result.
    rtol : float
        How well the divergence and the parameters, in units of q's spread, are to be known.
    space : tuple
        A `workspace`.
    report : (5,)
        Is written: the divergence, its error, the gradient norm, nodes used, the status.

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 2 the quadrature would need too many nodes; 3 not a minimum; 4
        no finite value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.7]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([np.eye(2), np.eye(2)])
    >>> mean, chol, report = p[1][1].copy(), np.eye(2), np.empty(5)
    >>> kernels.projections.i_projection(*p, kernels.newton.FULL, mean, chol, 1e-8,
    ...                                  kernels.projections.workspace(2, 2), report)
    0
    >>> mean.round(6) + 0.0, round(float(report[0]), 8)
    (array([2.99054, 0.     ]), 0.35403395)
    """
    log_weights, means, chols, mean, chol = borrow((log_weights, means, chols, mean, chol))
    space, report = borrow((space, report))
    restrict(family, chol, space[4])
    nodes, guess, _ = _descend((log_weights, means, chols), family, mean, chol, NEAR, space)
    report[3] = nodes
    return _polish(log_weights, means, chols, family, mean, chol, guess, rtol, space, report)


@kernel
def _known(mean, chol, all_means, all_chols, count, same, work):
    """Whether (mean, chol) is among the first `count`."""
    for i in range(count):
        if gaussian_kl(mean, chol, all_means[i], all_chols[i], work) < same:
            return True
    return False


@exported
def starts(log_weights, means, chols, start_means, start_chols, space):
    """Write starts: the components, the moment match, the merged pairs, the modes; their number.

    There must be room for K (K + 3) / 2 + 1 of them. `space` is a `workspace`.
    """
    log_weights, means, chols, space = borrow((log_weights, means, chols, space))
    start_means, start_chols = borrow((start_means, start_chols))
    components, dim = means.shape
    scratch, (one, two, three) = space[4], (space[3][1], space[3][2], space[3][3])
    gradient = space[2][0]
    count = 0
    for k in range(components):
        if log_weights[k] > -math.inf:
            copy_vector(means[k], start_means[count])
            copy_matrix(chols[k], start_chols[count])
            count += 1
    if components == 1:
        return count
    mixture_moments(log_weights, means, chols, start_means[count], one)
    if cholesky(one, start_chols[count]):
        count += 1
    for k in range(components if components > 2 else 0):
        for m in range(k):
            if max(log_weights[k], log_weights[m]) == -math.inf:
                continue
            pair_moments(log_weights, means, chols, k, m, start_means[count], one)
            if cholesky(one, start_chols[count]):
                count += 1
    for k in range(components):
        z = start_means[count]
        copy_vector(means[k], z)
        if not climb(log_weights, means, chols, z, gradient, two, three, scratch) or not cholesky(two, two):
            continue
        # The covariance is the inverse of what was in `two`: one column at a time.
        for j in range(dim):
            column = three[j]
            for i in range(dim):
                column[i] = 1.0 if i == j else 0.0
            solve_lower(two, column)
        for i in range(dim):
            for j in range(i + 1):
                s = 0.0
                for a in range(dim):
                    s += three[i, a] * three[j, a]
                one[i, j] = s
        if cholesky(one, start_chols[count]) and not _known(
            z, start_chols[count], start_means, start_chols, count, 1e-2, scratch
        ):
            count += 1
    return count


@exported
def i_projections(
    log_weights, means, chols, family, given, start_means, start_chols, rtol, space, found, reports
):
    """All local minima from the `given` starts, or else (0) from those of `starts`, best first: their number.

    The starts are overwritten: the first rows are the optima. `found` is scratch for two arrays of their
    shapes, `reports` is (S, 5). Where no start ends in a minimum, the best of what was found is kept.
    """
    log_weights, means, chols = borrow((log_weights, means, chols))
    start_means, start_chols, space, found, reports = borrow(
        (start_means, start_chols, space, found, reports)
    )
    count, seen = 0, 0
    total = 0.0
    kept_minimum = False
    if given == 0:
        given = starts(log_weights, means, chols, start_means, start_chols, space)
    for s in range(given):
        mean, chol = start_means[s], start_chols[s]
        restrict(family, chol, space[4])
        nodes, guess, _ = _descend((log_weights, means, chols), family, mean, chol, NEAR, space)
        total += nodes
        if _known(mean, chol, found[0], found[1], seen, NEARLY_SAME, space[4]):
            continue
        copy_vector(mean, found[0][seen])
        copy_matrix(chol, found[1][seen])
        seen += 1
        report = reports[count]
        report[3] = 0.0
        status = _polish(log_weights, means, chols, family, mean, chol, guess, rtol, space, report)
        total += report[3]
        if status == INVALID:
            continue
        minimum = status != NOT_A_MINIMUM
        if minimum and not kept_minimum and count > 0:
            copy_vector(report, reports[0])
            count, kept_minimum = 0, True
        elif not minimum and (kept_minimum or count > 0):
            continue
        kept_minimum = kept_minimum or minimum
        if _known(mean, chol, start_means, start_chols, count, SAME, space[4]):
            continue
        insert(start_means, start_chols, reports, s, count, space)
        count += 1
    for i in range(count):
        reports[i, 3] = total
    return count


@kernel
def insert(all_means, all_chols, reports, s, count, space):
    """Move optimum `s`, whose report is number `count`, to its place among the better ones."""
    mean, chol = space[2][0], space[3][0]
    copy_vector(all_means[s], mean)
    copy_matrix(all_chols[s], chol)
    report = (reports[count, 0], reports[count, 1], reports[count, 2], reports[count, 4])
    i = count
    while i > 0 and reports[i - 1, 0] > report[0]:
        copy_vector(all_means[i - 1], all_means[i])
        copy_matrix(all_chols[i - 1], all_chols[i])
        copy_vector(reports[i - 1], reports[i])
        i -= 1
    copy_vector(mean, all_means[i])
    copy_matrix(chol, all_chols[i])
    reports[i, 0], reports[i, 1], reports[i, 2], reports[i, 4] = report


@exported
def m_projection(log_weights, means, chols, family, mean, chol):
    """Write the mean and the factor of the M-projection of a mixture, in any dimension.

    Parameters
    ----------
    log_weights, means, chols : (K,), (K, D), (K, D, D)
    family : int
        newton.FULL, newton.DIAGONAL or newton.ISOTROPIC.
    mean, chol : (D,), (D, D)
        Are written.

    Returns
    -------
    bool
        False where the covariance has no factor: then `chol` is not one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> log_weights, means, chols = np.log([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> mean, chol = np.empty(1), np.empty((1, 1))
    >>> kernels.projections.m_projection(log_weights, means, chols, kernels.newton.FULL, mean, chol)
    True
    >>> mean, chol.round(9)
    (array([0.]), array([[1.41421356]]))
    """
    mixture_moments(log_weights, means, chols, mean, chol)
    dim = mean.size
    if family == FULL:
        return cholesky(chol, chol)
    trace = 0.0
    for i in range(dim):
        trace += chol[i, i]
    for i in range(dim):
        variance = trace / dim if family == ISOTROPIC else chol[i, i]
        for j in range(dim):
            chol[i, j] = 0.0
        chol[i, i] = math.sqrt(variance)
    return trace > 0.0

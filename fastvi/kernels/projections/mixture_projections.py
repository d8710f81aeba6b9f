"""Projections of a Gaussian mixture; in up to three dimensions, all local minima of KL(q ‖ p) over Gaussians.

From each start, damped Newton steps on a coarse lattice, then on one that is refined until the optimum holds.
"""

from __future__ import annotations

import math

from ..borrowing import borrow, named
from ..compiler import exported, kernel, merged, specialise
from ..densities.gaussians import LOG_2PI
from ..densities.mixtures import Mixture, mixture_moments, see
from ..families.operations import has_diagonal_factor, match, restrict
from ..numerics.matrices import cholesky, clear_vector, copy_matrix, copy_vector, half_log_det
from ..optimizers import newton
from ..optimizers.newton import (
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
from ..quadrature import contours
from ..quadrature.lattice_rows import left_out
from ..quadrature.moments import MOMENTS, MOST_NODES, STEP, integrate_own
from ..quadrature.refinement import ball, leave_out, refine_own, rounding, set_steps, tail
from ..quadrature.rotation import rotate
from .descent_starts import _known, insert, starts
from .optimum import (
    CONVERGED,
    INVALID,
    NEARLY_SAME,
    NOT_A_MINIMUM,
    SAME,
    STEPS_EXHAUSTED,
    UNRESOLVED,
    Report,
    Workspace,
    write,
)

#: The lattice for the way to an optimum, its ball, and the most nodes: 69 in the plane are usual.
ROUGH_STEP = 1.0
ROUGH_RADIUS = 4.5
ROUGH_NODES = 300.0

#: What sums along a contour may be off by on that way.
ROUGH_ERROR = 1e-2

#: The length of a step that ends the way there, and of one that starts the refinement.
NEAR = 5e-2
APPROACH = 1e-4

#: The length of a step beyond which a lattice does not serve the next frame as well.
FAR = 1e-2

#: Beyond the quadratic model a step of length s changes the divergence by this times s**3 at most, and the
#: correction to a coarse lattice by this times s times what the last halving changed in the gradient.
CUBIC = 10.0

#: The length of the last step.
LAST = 1e-6

#: Newton's steps on the fine lattice: two are usual.
MOST_ROUNDS = 20

#: Rounding of a divergence, relative to it.
ROUNDING = 4.4e-16


@merged
def _in_frame(mixture, mean, chol, factor, space):
    """The coefficients of no mixture and of p in the frame (mean, factor) of q; log q at its mean.

    chol chol' = factor factor'.
    """
    first, second = space.first[:0], space.second[: mixture.log_weights.size]
    see(mixture, mean, factor, second, space.vectors)
    return first, second, -half_log_det(chol) - 0.5 * mean.size * LOG_2PI


@merged
def _evaluate_roughly(mixture, mean, chol, space, moments):
    """The divergence along a contour or on a coarse lattice, and its moments: (value, nodes)."""
    quadrature = space.quadrature
    dim = mean.size
    steps, shift = quadrature.steps, quadrature.shift
    clear_vector(shift)
    first, second, own = _in_frame(mixture, mean, chol, chol, quadrature)
    table = quadrature.by_rows.polynomials
    error, nodes = contours.expect(second, own, dim, ROUGH_ERROR, contours.ROUGH, table, moments)
    if error <= ROUGH_ERROR:
        return moments[0], nodes
    set_steps(first, second, dim, ROUGH_STEP, ROUGH_RADIUS, ROUGH_NODES, steps)
    nodes = integrate_own(second, own, dim, steps, shift, ROUGH_RADIUS, quadrature, moments)
    return moments[0], nodes


_descend = specialise(newton.descend, "_descend", merged, evaluate=_evaluate_roughly)


@merged
def _report(value, error, gradient, gradient_error, nodes, status):
    """The last step to an optimum that converged squares the gradient."""
    return Report(
        # The divergence is not negative: what is below zero is the error of a value near zero.
        kl=max(value, 0.0),
        error=error + ROUNDING * abs(value),
        gradient_norm=(10.0 * gradient * gradient if status == CONVERGED else gradient) + gradient_error,
        evaluations=nodes,
        status=status,
    )


@merged
def _polish_by_contours(mixture, family, mean, chol, guess, rtol, space):
    """`_polish` by contours: its report. STEPS_EXHAUSTED where they do not serve: the last q is kept."""
    quadrature, parts = space.quadrature, space.newton
    new_mean, new_chol, moments = space.mean, space.factor, space.moments
    dim = mean.size
    count = lay_out(family, dim, parts)
    nodes = 0
    for _ in range(MOST_ROUNDS):
        first, second, own = _in_frame(mixture, mean, chol, chol, quadrature)
        floor = rounding(first, second)
        tolerance = max(0.5 * rtol * min(abs(guess), 1.0), 2.0 * floor)
        table = quadrature.by_rows.polynomials
        error, n = contours.expect(second, own, dim, tolerance, contours.USUAL, table, moments)
        nodes += n
        guess = moments[0]
        size_, gain, used, minimum = _find_newton_step(moments, family, dim, count, parts)
        if not (error <= tolerance and size_ < math.inf):
            break
        move(mean, chol, family, dim, used, parts, new_mean, new_chol)
        copy_vector(new_mean, mean)
        copy_matrix(new_chol, chol)
        if size_ <= LAST:
            gradient = dual_length(used, parts)
            status = CONVERGED if minimum else NOT_A_MINIMUM
            return _report(guess - gain, error + floor, gradient, error + floor, nodes, status)
    return _report(guess, math.inf, math.inf, 0.0, nodes, STEPS_EXHAUSTED)


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
def _polish(mixture, family, mean, chol, guess, rtol, space):
    """Newton steps by contours, or on a lattice that is refined until the optimum holds; the report.

    `guess` is about the divergence that it will have. The refinement moves the optimum a little. From there
    the lattice before the last halving serves, with what that halving changed added to its moments, if the
    step is so short that this is the same at its end; the value is then that of the quadratic model. The last
    step is below 1e-6 and nothing is evaluated after it: Newton's method squares the gradient.
    """
    report = _polish_by_contours(mixture, family, mean, chol, guess, rtol, space)
    if report.status != STEPS_EXHAUSTED:
        return report
    quadrature, parts = space.quadrature, space.newton
    dim = mean.size
    new_mean, factor, new_factor, moments = space.mean, space.factor, space.new_factor, space.moments
    count = lay_out(family, dim, parts)
    # What the last halving changes in the moments.
    correction = quadrature.coarse_moments
    steps, shift = quadrature.steps, quadrature.shift
    clear_vector(shift)
    framed, refined, corrected, resolved, holds, minimum = False, False, False, True, True, False
    value, error, gradient_error, gradient_change = guess, math.inf, 0.0, 0.0
    radius, dropped, floor, used, nodes = 0.0, 0.0, 0.0, 0, report.evaluations
    status = STEPS_EXHAUSTED
    for _ in range(MOST_ROUNDS):
        if not framed:
            copy_matrix(chol, factor)
        first, second, own = _in_frame(mixture, mean, chol, factor, quadrature)
        dropped = leave_out(second, dim, quadrature)
        if not framed:
            if not has_diagonal_factor(family):
                rotate(first, second, dim, factor, quadrature)
            floor = rounding(first, second)
            radius = ball(first, second, dim, 0.1 * max(rtol * abs(guess), floor))
            resolved = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
        nodes += integrate_own(second, own, dim, steps, shift, radius, quadrature, moments)
        if corrected:
            for i in range(MOMENTS):
                moments[i] += correction[i]
        elif refined:
            value = moments[0]
        size_, gain, used, minimum = _find_newton_step(moments, family, dim, count, parts)
        if not refined and size_ <= APPROACH:
            error, gradient_error, gradient_change, n, holds = refine_own(
                second, own, dim, radius, rtol, floor, max(rtol, 100.0 * floor), quadrature, moments
            )
            nodes += n
            value = moments[0]
            refined = True
            size_, gain, used, minimum = _find_newton_step(moments, family, dim, count, parts)
            drift, cube = CUBIC * size_ * gradient_change, CUBIC * size_**3
            corrected = drift <= 0.3 * rtol and cube <= 0.1 * rtol * abs(value)
            if corrected:
                gradient_error += drift
                error += cube
                for i in range(MOMENTS):
                    correction[i] = moments[i] - correction[i]
                copy_vector(quadrature.coarse_steps, steps)
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
        if not _rebuild(new_factor, space.matrix, chol, dim):
            status = INVALID
            break
        copy_vector(new_mean, mean)
        copy_matrix(new_factor, factor)
        if status != STEPS_EXHAUSTED:
            break
    if status == CONVERGED and not (resolved and holds):
        status = UNRESOLVED
    error += floor + dropped + tail(first, second, dim, radius) + left_out(second.shape[0], dim, radius)
    gradient = dual_length(used, parts)
    return _report(value, error if resolved else math.inf, gradient, gradient_error + floor, nodes, status)


@kernel
def _find_newton_step(moments, family, dim, count, parts):
    """(length of the step, its gain, number of parameters, whether the Hessian is positive definite)."""
    used = differentiate(moments, family, dim, count, parts)
    if not abs(moments[0]) < math.inf:
        return math.inf, 0.0, used, False
    minimum = factorise(0.0, LEAST_CURVATURE, used, parts)
    gain, size_ = 0.0, math.inf
    if minimum:
        gain = solve(used, parts)
        size_ = length(used, parts)
    if size_ > TRUST:
        _, gain, size_ = find_step(0.0, dim, used, parts)
    return size_, gain, used, minimum


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
        Is written, the fields of a `Report`: the divergence, its error, the gradient norm, nodes used, the
        status.

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 2 the quadrature would need too many nodes; 3 not a minimum; 7
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
    mixture = Mixture(borrow(log_weights), borrow(means), borrow(chols))
    mean, chol, space = borrow(mean), borrow(chol), named(Workspace, borrow(space))
    restrict(family, chol, space.vectors)
    nodes, guess, _ = _descend(mixture, family, mean, chol, NEAR, space)
    found = _polish(mixture, family, mean, chol, guess, rtol, space)
    write(found, borrow(report))
    report[3] += nodes
    return found.status


@exported
def i_projections(mixture, family, given, start_means, start_chols, rtol, space, found, reports):
    """All local minima from the `given` starts, or else (0) from those of `starts`, best first: their number.

    The mixture is (log_weights, means, chols). The starts are overwritten: the first rows are the optima.
    `found` is scratch, two arrays of their shapes; a `Report` of each optimum is written to
    `reports`, (S, 5). Where no start ends in a minimum, the best of what was found is kept.
    """
    log_weights, means, chols = borrow(mixture)
    mixture = Mixture(log_weights, means, chols)
    start_means, start_chols, reports = borrow(start_means), borrow(start_chols), borrow(reports)
    found_means, found_chols = borrow(found)
    space = named(Workspace, borrow(space))
    count, seen, total = 0, 0, 0
    kept_minimum = False
    if given == 0:
        given = starts(mixture, start_means, start_chols, space)
    for s in range(given):
        mean, chol = start_means[s], start_chols[s]
        restrict(family, chol, space.vectors)
        nodes, guess, _ = _descend(mixture, family, mean, chol, NEAR, space)
        total += nodes
        if _known(mean, chol, found_means, found_chols, seen, NEARLY_SAME, space.vectors):
            continue
        copy_vector(mean, found_means[seen])
        copy_matrix(chol, found_chols[seen])
        seen += 1
        report = _polish(mixture, family, mean, chol, guess, rtol, space)
        total += report.evaluations
        if report.status == INVALID:
            continue
        minimum = report.status != NOT_A_MINIMUM
        if minimum and not kept_minimum and count > 0:
            count, kept_minimum = 0, True
        elif not minimum and (kept_minimum or count > 0):
            continue
        kept_minimum = kept_minimum or minimum
        if _known(mean, chol, start_means, start_chols, count, SAME, space.vectors):
            continue
        insert(start_means, start_chols, reports, s, count, report, space)
        count += 1
    for i in range(count):
        reports[i, 3] = total
    return count


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
    return match(family, chol)

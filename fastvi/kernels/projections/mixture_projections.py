"""Projections of a Gaussian mixture onto Gaussians, for `m_projection` and `i_projection`.

The M-projection matches moments, in any dimension. The I-projections, in up to three dimensions, are the
local minima of KL(q ‖ p): from each start damped Newton steps with a rough divergence (`_descend`), then
Newton steps with one that is refined to the accuracy wanted (`_polish`).
"""

from __future__ import annotations

import math

from ..borrowing import borrow, named
from ..compiler import exported, kernel, specialise
from ..densities.gaussians import LOG_2PI
from ..densities.mixtures import Mixture, mixture_moments, write_coefficients
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
from ..quadrature.moments import MOMENTS, MOST_NODES, STEP, integrate_moments
from ..quadrature.refinement import (
    GRADIENT_ROUNDING,
    TAIL_SHARE,
    VALUE_ROUNDING,
    ball,
    drop_negligible,
    refine_moments,
    rounding,
    set_steps,
    tail,
)
from ..quadrature.rotation import rotate
from ..statuses import CONVERGED, NOT_A_MINIMUM, NOT_FINITE, STEPS_EXHAUSTED, UNRESOLVED
from .descent_starts import insert, is_known, starts
from .optimum import NEARLY_SAME, SAME, Report, Workspace, write

#: What the changes of single axes leave out in three dimensions and more: of 3,864 projections there six were
#: off by 1.02 to 2.52 times their sum.
INTERACTION = 3.0

#: Lattice of the descent: step, radius of the ball and most nodes. In the plane 69 are usual.
ROUGH_STEP = 1.0
ROUGH_RADIUS = 4.5
ROUGH_NODES = 300.0

#: Largest error of contour integrals in the descent.
ROUGH_ERROR = 1e-2

#: Length of a step that ends the descent, and of one after which the lattice is refined.
NEAR = 5e-2
APPROACH = 1e-4

#: Length of a step after which the frame has changed too much to keep the lattice.
LATTICE_KEPT = 1e-2

#: Bounds for a step of length s: the error of the quadratic model of the divergence is below CUBIC s**3, and
#: the correction of a coarse lattice changes by less than CUBIC s times the change of the gradient by the
#: last halving.
CUBIC = 10.0

#: Shares of the tolerance that these two may take.
MODEL_SHARE, CORRECTION_SHARE = 0.1, 0.3

#: Length of the last step, and the bound of the gradient after it over the square of the gradient before it.
LAST, GRADIENT_AFTER = 1e-6, 10.0

#: Most Newton steps after the descent: two are usual.
MOST_ROUNDS = 20


@kernel
def _in_frame(mixture, mean, chol, factor, space):
    """Coefficients of no mixture and of p in the frame (mean, factor) of q, and log q at its mean.

    chol is the Cholesky factor of factor factor'.
    """
    both = space.coefficients
    first, second = both.first[:0], both.second[: mixture.log_weights.size]
    write_coefficients(mixture, mean, factor, second, space.vectors)
    return first, second, -half_log_det(chol) - 0.5 * mean.size * LOG_2PI


@kernel
def _evaluate_roughly(mixture, mean, chol, space, moments):
    """Rough divergence and its moments, by contour integrals or on a coarse lattice: (value, nodes)."""
    quadrature = space.quadrature
    dim = mean.size
    steps, shift = quadrature.lattice.steps, quadrature.lattice.shift
    clear_vector(shift)
    first, second, log_peak = _in_frame(mixture, mean, chol, chol, quadrature)
    table = quadrature.by_rows.polynomials
    error, nodes = contours.expect(second, log_peak, dim, ROUGH_ERROR, contours.ROUGH, table, moments)
    if error <= ROUGH_ERROR:
        return moments[0], nodes
    set_steps(first, second, dim, ROUGH_STEP, ROUGH_RADIUS, ROUGH_NODES, steps)
    nodes = integrate_moments(second, log_peak, dim, steps, shift, ROUGH_RADIUS, quadrature, moments)
    return moments[0], nodes


_descend = specialise(newton.descend, "_descend", kernel, evaluate=_evaluate_roughly)


@kernel
def _report(value, error, gradient, gradient_error, nodes, status):
    """The `Report` of an optimum, its divergence not below zero."""
    norm = GRADIENT_AFTER * gradient * gradient if status == CONVERGED else gradient
    return Report(
        kl=max(value, 0.0),
        error=error + VALUE_ROUNDING * abs(value),
        gradient_norm=norm + gradient_error,
        evaluations=nodes,
        status=status,
    )


@kernel
def _polish_by_contours(mixture, family, mean, chol, guess, rtol, space):
    """`_polish` by contour integrals; the status is STEPS_EXHAUSTED where these cannot be used."""
    quadrature, parts = space.quadrature, space.newton
    new_mean, new_chol, moments = space.mean, space.matrices.factor, space.moments
    dim = mean.size
    count = lay_out(family, dim, parts)
    nodes = 0
    for _ in range(MOST_ROUNDS):
        first, second, log_peak = _in_frame(mixture, mean, chol, chol, quadrature)
        floor = rounding(first, second)
        tolerance = max(0.5 * rtol * min(abs(guess), 1.0), 2.0 * floor)
        table = quadrature.by_rows.polynomials
        error, n = contours.expect(second, log_peak, dim, tolerance, contours.USUAL, table, moments)
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
    """chol = the Cholesky factor of factor factor'; False where rounding errors leave it indefinite."""
    for i in range(dim):
        for j in range(i + 1):
            s = 0.0
            for k in range(dim):
                s += factor[i, k] * factor[j, k]
            matrix[i, j] = s
    return cholesky(matrix, chol)


@kernel
def _polish(mixture, family, mean, chol, guess, rtol, space):
    """Newton steps to an optimum, by contour integrals or on a refined lattice; its `Report`.

    `guess` is an approximation of its divergence. On a lattice: Newton steps on the initial lattice to a step
    below APPROACH, then refinement of the lattice, which moves the optimum a little. The steps after that use
    the lattice before the last halving, with the change of the moments by that halving added as a correction,
    if the step is so short that the correction is the same at its end (CUBIC); the divergence is then that of
    the quadratic model. The last step is below LAST and nothing is evaluated after it, since Newton's method
    squares the gradient.
    """
    report = _polish_by_contours(mixture, family, mean, chol, guess, rtol, space)
    if report.status != STEPS_EXHAUSTED:
        return report
    quadrature, parts = space.quadrature, space.newton
    dim = mean.size
    new_mean, moments = space.mean, space.moments
    factor, new_factor, product = space.matrices
    count = lay_out(family, dim, parts)
    # The change of the moments by the last halving.
    correction = quadrature.halving.coarse
    steps, shift = quadrature.lattice.steps, quadrature.lattice.shift
    clear_vector(shift)
    framed, refined, corrected, resolved, holds, minimum = False, False, False, True, True, False
    value, error, gradient_error, gradient_change = guess, math.inf, 0.0, 0.0
    radius, dropped, floor, used, nodes = 0.0, 0.0, 0.0, 0, report.evaluations
    status = STEPS_EXHAUSTED
    for _ in range(MOST_ROUNDS):
        if not framed:
            copy_matrix(chol, factor)
        first, second, log_peak = _in_frame(mixture, mean, chol, factor, quadrature)
        dropped = drop_negligible(second, dim, quadrature)
        if not framed:
            if not has_diagonal_factor(family):
                rotate(first, second, dim, factor, quadrature)
            floor = rounding(first, second)
            radius = ball(first, second, dim, TAIL_SHARE * max(rtol * abs(guess), floor))
            resolved = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
        nodes += integrate_moments(second, log_peak, dim, steps, shift, radius, quadrature, moments)
        if corrected:
            for i in range(MOMENTS):
                moments[i] += correction[i]
        elif refined:
            value = moments[0]
        size_, gain, used, minimum = _find_newton_step(moments, family, dim, count, parts)
        if not refined and size_ <= APPROACH:
            error, gradient_error, gradient_change, n, holds = refine_moments(
                second,
                log_peak,
                dim,
                radius,
                rtol,
                floor,
                max(rtol, GRADIENT_ROUNDING * floor),
                quadrature,
                moments,
            )
            nodes += n
            value = moments[0]
            refined = True
            size_, gain, used, minimum = _find_newton_step(moments, family, dim, count, parts)
            drift, cube = CUBIC * size_ * gradient_change, CUBIC * size_**3
            corrected = drift <= CORRECTION_SHARE * rtol and cube <= MODEL_SHARE * rtol * abs(value)
            if corrected:
                gradient_error += drift
                error += cube
                for i in range(MOMENTS):
                    correction[i] = moments[i] - correction[i]
                copy_vector(quadrature.lattice.coarse_steps, steps)
        if not size_ < math.inf:
            status = NOT_FINITE
            break
        if refined:
            value -= gain
            if size_ <= LAST:
                status = CONVERGED if minimum else NOT_A_MINIMUM
            elif size_ > LATTICE_KEPT:
                refined, corrected = False, False
        framed = size_ <= LATTICE_KEPT
        move(mean, factor, family, dim, used, parts, new_mean, new_factor)
        if not _rebuild(new_factor, product, chol, dim):
            status = NOT_FINITE
            break
        copy_vector(new_mean, mean)
        copy_matrix(new_factor, factor)
        if status != STEPS_EXHAUSTED:
            break
    if status == CONVERGED and not (resolved and holds):
        status = UNRESOLVED
    if dim > 2:
        error *= INTERACTION
    error += floor + dropped + tail(first, second, dim, radius) + left_out(second.shape[0], dim, radius)
    gradient = dual_length(used, parts)
    return _report(value, error if resolved else math.inf, gradient, gradient_error + floor, nodes, status)


@kernel
def _find_newton_step(moments, family, dim, count, parts):
    """(length of the Newton step, its gain, number of parameters, whether the Hessian is positive definite).

    Where the Hessian is not, or the step is longer than TRUST, the step is damped. The length is inf where
    the divergence is not finite.
    """
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
        Of `statuses`: 0 converged; 1 the steps were used up; 2 the quadrature would need too many nodes; 3
        not a minimum; 7 no finite value.

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
    """All local minima of KL(q ‖ p), sorted by divergence: their number.

    The mixture p is (log_weights, means, chols). From the `given` first starts, or those of `starts` where
    that is 0. The optima overwrite the starts; a `Report` of each is written to `reports`, (S, 5). `found` is
    scratch space, two arrays of the shapes of the starts. Where no start ends in a minimum, the first
    stationary point is kept.
    """
    log_weights, means, chols = borrow(mixture)
    mixture = Mixture(log_weights, means, chols)
    start_means, start_chols, reports = borrow(start_means), borrow(start_chols), borrow(reports)
    found_means, found_chols = borrow(found)
    space = named(Workspace, borrow(space))
    count, seen, total = 0, 0, 0
    kept_minimum = False
    if given == 0:
        given = starts(mixture, start_means, start_chols, space.matrices, space.mean, space.vectors)
    for s in range(given):
        mean, chol = start_means[s], start_chols[s]
        restrict(family, chol, space.vectors)
        nodes, guess, _ = _descend(mixture, family, mean, chol, NEAR, space)
        total += nodes
        if is_known(mean, chol, found_means, found_chols, seen, NEARLY_SAME, space.vectors):
            continue
        copy_vector(mean, found_means[seen])
        copy_matrix(chol, found_chols[seen])
        seen += 1
        report = _polish(mixture, family, mean, chol, guess, rtol, space)
        total += report.evaluations
        if report.status == NOT_FINITE:
            continue
        minimum = report.status != NOT_A_MINIMUM
        if minimum and not kept_minimum and count > 0:
            count, kept_minimum = 0, True
        elif not minimum and (kept_minimum or count > 0):
            continue
        kept_minimum = kept_minimum or minimum
        if is_known(mean, chol, start_means, start_chols, count, SAME, space.vectors):
            continue
        insert(start_means, start_chols, reports, s, count, report, space.trial_mean, space.trial_chol)
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

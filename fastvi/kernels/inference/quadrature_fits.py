"""Fits of a Gaussian to a log joint in one or two dimensions: Newton's method on E_q[log q - log p] = -ELBO.

The expectations are taken on a coarse lattice until the steps are short (`NEAR`), then on one that is refined
until they hold. The API calls this by `entry_points`; compiled code of users as `fastvi.kernels.fits`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named
from ..compiler import inlined, kernel
from ..families import operations
from ..families.table import MEAN as MEAN
from ..models.evaluation import BLOCK, Problem
from ..numerics.matrices import copy_matrix, copy_vector, set_diagonal
from ..optimizers import newton
from ..optimizers.newton import (
    LEAST_CURVATURE,
    differentiate,
    dual_length,
    factorise,
    find_step,
    lay_out,
    move,
    relaxed,
    stiffened,
)
from ..quadrature.mixture_kl import gradient_in_parameters
from ..quadrature.moments import MOMENTS
from ..statuses import (
    CONVERGED,
    FINE,
    NOT_A_MAXIMUM,
    RAISED,
    STEPS_EXHAUSTED,
    STUCK,
    UNBOUNDED,
    UNCONFIRMED,
    UNRESOLVED,
    ZERO,
)
from . import confirmation, expectations, laplace
from .expectations import expect
from .reports import Report, amended, no_fit, write_report

#: Lengths of steps in units of q's spread: one no longer than NEAR is the last on the coarse lattice, one no
#: longer than LAST the last of all, after which the error is its square.
NEAR = 1e-2
LAST = 1e-4

#: After an undamped step of length s the error is at most this times s**2: Newton's method is quadratic.
QUADRATIC = 10.0

#: Damped steps shorter than this times the last step no longer lead anywhere.
LEAST_STEP = 1e-4

#: Steps rejected one after another before the lattice is suspected, and then the fit ends.
MOST_REJECTED = 12


class Workspace(NamedTuple):
    """Scratch space for a fit by quadrature in R latent dimensions."""

    lattice: expectations.Workspace
    newton: newton.Workspace
    laplace: laplace.Workspace
    mean: Vector  #: (R,) where the next evaluation is
    chol: Matrix  #: (R, R)
    kept: Vector  #: (MOMENTS,) of the last step that was taken
    trial: Vector  #: (MOMENTS,) of the last evaluation


class Start(NamedTuple):
    """Where a fit starts."""

    mean: Any  #: (D,) a point, or q's mean
    scale: Any  #: (D,) guesses of q's standard deviations, for Laplace's approximation
    chol: Any  #: (D, D) q's factor, without that


@kernel
def workspace(latent, dim, rows=BLOCK):
    """Scratch space for `fit_quadrature`, `start_and_fit_quadrature` and `elbo_quadrature`.

    Parameters
    ----------
    latent : int
        The number of real coordinates that q is Gaussian in, 1 or 2.
    dim : int
        The number of entries of the log joint's z; the same, or one more with a simplex.
    rows : int, optional
        Points that the log joint is called with together, at least 64.

    Returns
    -------
    Workspace
        One for each thread; what is in it does not matter.

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.fits.workspace(1, 1)
    """
    return Workspace(
        expectations.workspace(latent, dim, rows),
        newton.workspace(latent),
        laplace.workspace(latent),
        np.empty(latent),
        np.empty((latent, latent)),
        np.empty(MOMENTS),
        np.empty(MOMENTS),
    )


#: Size of a mean or a deviation that is taken for infinite: the ELBO has no maximum.
ENDLESS = 1e100

#: Displacement off a saddle point, in q's deviations, and how often a fit is restarted so. At a symmetric
#: saddle the gradient is zero and Newton's method stays.
NUDGE = 0.3
NUDGES = 2

#: Of `from_laplace`: it is known.
KNOWN = 2

#: What a point is evaluated for: as a start, as the end of a step, again on the fine lattice, and the same
#: when no steps remain.
_FIRST, _STEP, _FINE, _LAST = 0, 1, 2, 3


@kernel
def _within(mean, chol):
    """Whether a mean and a factor are finite."""
    for i in range(mean.size):
        if not (abs(mean[i]) < ENDLESS and chol[i, i] < ENDLESS):
            return False
    return True


@inlined
def fit_quadrature(log_joint, problem, family, mean, chol, rtol, most_steps, space, trace, report):
    """Newton's method on nested lattices from (mean, chol), which it overwrites.

    It sees no gap of zero density between its nodes, and not what the log joint does far out: `gaps.doubt`
    looks for that, after the fit; nor that z rounds to a bound of its support, see `saturation.doubt`.

    Parameters
    ----------
    log_joint : jitted function
        ``log_joint(z, *data) -> float``.
    problem : tuple
        `panels.Problem`, or (data, kinds, bounds), see `fastvi.kernels`; the latent dimension D is 1 or 2.
    family : int
        newton.FULL, newton.DIAGONAL, newton.ISOTROPIC or fits.MEAN (the covariance is held).
    mean, chol : (D,), (D, D)
        Where to start, and the result.
    rtol : float
        Error wanted, of the ELBO relative to 1 + abs(ELBO), and of mean and factor in units of q's spread.
    most_steps : int
    space : Workspace
    trace : (T,)
        The ELBO after each accepted step is written to it, as far as it goes.
    report : (8,)
        The fields of a `reports.Report` are written to it: the ELBO, its error, the gradient norm,
        evaluations of the log joint, the status, accepted steps, the error of mean and factor in units of q's
        spread, and 0.

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 2 the quadrature does not resolve the log joint; 3 not a strict
        maximum; 4 no step raises the ELBO; 6 q moves off without end. 12, 13, 14: the log joint was NaN,
        +inf, -inf where q has mass; the point is in space.lattice.panel.where.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> @njit
    ... def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2
    >>> @njit
    ... def posterior_mean(x):
    ...     mean, chol, trace, report = np.zeros(1), np.eye(1), np.empty(0), np.empty(8)
    ...     problem = (x,), np.zeros(1, np.int64), np.zeros((1, 2))          # one coordinate, on the line
    ...     space = kernels.fits.workspace(1, 1)
    ...     status = kernels.fits.fit_quadrature(log_joint, problem, kernels.newton.FULL, mean, chol, 1e-8,
    ...                                          50, space, trace, report)
    ...     return mean[0], status
    >>> mean, status = posterior_mean(5.0)
    >>> round(mean, 9), status
    (4.0, 0)
    """
    # In a user's code these arrays are reference-counted, which takes 1.9 of a fit's 3.2 µs.
    problem, space = named(Problem, borrow(problem)), named(Workspace, borrow(space))
    mean, chol, trace, report = borrow((mean, chol, trace, report))
    return write_report(_fit(log_joint, problem, family, mean, chol, rtol, most_steps, space, trace), report)


@inlined
def _accepts(value, best, gain, damping, size):
    """Whether a step is taken: a short Newton step always, as the value may be off by its error."""
    short = damping == 0.0 and size <= newton.NEAR
    return value <= best - newton.LEAST_GAIN * gain or short


@inlined
def _nudge(mean, chol, new_mean):
    """Write a mean that is displaced by NUDGE deviations, less along each further axis."""
    for i in range(mean.size):
        new_mean[i] = mean[i]
        for j in range(i + 1):
            new_mean[i] += NUDGE / (1.0 + j) * chol[i, j]


@inlined
def _gradient_norm(status, used, space):
    """The length of the gradient in `used` parameters: after the last step, if that was not evaluated."""
    if used == 0:
        return math.inf
    norm = dual_length(used, space)
    return QUADRATIC * norm * norm if status in (CONVERGED, UNRESOLVED) else norm


@inlined
def _fit(log_joint, problem, family, mean, chol, rtol, most_steps, space, trace):
    """`fit_quadrature`; the report."""
    parts, new_mean, new_chol = space.newton, space.mean, space.chol
    kept, trial = space.kept, space.trial
    dim = mean.size
    count = lay_out(family, dim, parts)
    fine, good, purpose, status = False, False, _FIRST, STEPS_EXHAUSTED
    error, gradient_error, level, known = math.inf, math.inf, 1, -1
    best, size_, gain, damping = math.inf, math.inf, 0.0, 0.0
    evaluations, steps, rejected, nudges, used = 0, 0, 0, 0, 0
    last = min(LAST, math.sqrt(rtol))
    # Start from the smallest ball, so that a fit does not depend on the one before it.
    space.lattice.ball[0] = 0
    copy_vector(mean, new_mean)
    copy_matrix(chol, new_chol)
    for k in range(most_steps + 1):
        fault, new_error, new_gradient_error, n, new_level, new_good = expect(
            log_joint, problem, new_mean, new_chol, known, level if fine else -1, rtol, space.lattice, trial
        )
        known = -1
        evaluations += n
        if fault != FINE and purpose != _STEP:
            status = fault
            break
        if purpose != _STEP or (fault == FINE and _accepts(trial[0], best, gain, damping, size_)):
            copy_vector(new_mean, mean)
            copy_matrix(new_chol, chol)
            kept, trial = trial, kept
            best = kept[0]
            error, gradient_error, level, good = new_error, new_gradient_error, max(new_level, 1), new_good
            used = differentiate(kept, family, dim, count, parts)
            damping = relaxed(damping)
            rejected = 0
            if purpose == _LAST:
                break
            if purpose == _STEP:
                if steps < trace.size:
                    trace[steps] = -best
                steps += 1
        else:
            damping = stiffened(damping)
            rejected += 1
        damping, gain, size_ = find_step(damping, dim, used, parts)
        move(mean, chol, family, dim, used, parts, new_mean, new_chol)
        purpose = _STEP
        if not _within(new_mean, new_chol):
            status = UNBOUNDED
            break
        if rejected > MOST_REJECTED and not fine:
            # The coarse lattice may have been wrong.
            copy_vector(mean, new_mean)
            copy_matrix(chol, new_chol)
            purpose, fine, damping, rejected = _FINE, True, 0.0, 0
            continue
        if rejected > MOST_REJECTED or (
            fine and (size_ <= last or (damping > 0.0 and size_ <= LEAST_STEP * last))
        ):
            if factorise(0.0, LEAST_CURVATURE, used, parts):
                if rejected > MOST_REJECTED:
                    status = fault if fault != FINE else STUCK
                    break
                status = CONVERGED if good else UNRESOLVED
                copy_vector(new_mean, mean)
                copy_matrix(new_chol, chol)
                best -= gain
                break
            if nudges == NUDGES:
                status = NOT_A_MAXIMUM
                break
            nudges += 1
            copy_matrix(chol, new_chol)
            _nudge(mean, chol, new_mean)
            purpose, fine, damping, rejected = _FIRST, False, 0.0, 0
            continue
        if fine:
            continue
        if damping == 0.0 and last < size_ <= NEAR:
            # The error after this step is about its square, so the next one is the last.
            fine = True
        elif (damping == 0.0 and size_ <= last) or k >= most_steps - 1:
            copy_vector(mean, new_mean)
            copy_matrix(chol, new_chol)
            purpose = _FINE if k < most_steps - 1 else _LAST
            fine = True
            if rejected == 0:
                # The coarse lattice has just been evaluated at this q, and is part of the finer one.
                kept, trial = trial, kept
                known = 0
    value = -best
    if status >= RAISED and purpose == _FIRST and nudges == 0:
        value = -math.inf if status == ZERO else math.nan
    if steps < trace.size:
        trace[steps] = value
    return Report(
        elbo=value,
        error=error,
        gradient_norm=_gradient_norm(status, used, parts) + gradient_error,
        evaluations=evaluations,
        status=status,
        steps=steps + 1,
        parameter_error=gradient_error + QUADRATIC * size_ * size_,
        sides=0,
    )


@inlined
def start_and_fit_quadrature(
    log_joint, problem, family, from_laplace, start, rtol, most_steps, space, trace, report
):
    """`fit_quadrature`, from Laplace's approximation near a point if `from_laplace`.

    Such a fit is confirmed where the log density on lines through q is that of one peak, and concave or near
    q, and falls off far out: there is no better q then. What its nodes do not see is left to `gaps.doubt`
    and `saturation.doubt`.

    Parameters
    ----------
    from_laplace : bool or int
        Whether to find the mode near the start's mean first, and the curvature there. `KNOWN`: the start is
        Laplace's approximation already, whose `scale` are the conditional deviations.
    start : tuple
        `Start`, or (mean (D,), scale (D,), chol (D, D)), which are overwritten, mean and chol with the
        result. `scale` holds guesses of q's standard deviations, for Laplace's approximation; without that
        (mean, chol) is the start.
    log_joint, problem, family, rtol, most_steps, space, trace, report
        As in `fit_quadrature`.

    Returns
    -------
    int
        As `fit_quadrature`; or 15: converged, but another start may lead to a better q, or to none.

    Examples
    --------
    The README has one: "Inside your own @njit code".
    """
    problem, space = named(Problem, borrow(problem)), named(Workspace, borrow(space))
    start, trace, report = named(Start, borrow(start)), borrow(trace), borrow(report)
    mean, chol, n = start.mean, start.chol, 0
    if from_laplace:
        if from_laplace != KNOWN:
            fault, n = laplace.laplace(
                log_joint, problem, mean, start.scale, chol, space.lattice.panel, space.laplace
            )
            if fault != FINE:
                return write_report(no_fit(-math.inf if fault == ZERO else math.nan, n, fault), report)
        operations.start(family, start.scale)
        if operations.has_diagonal_factor(family):
            set_diagonal(start.scale, chol)
    found = _fit(log_joint, problem, family, mean, chol, rtol, most_steps, space, trace)
    status = found.status
    if from_laplace and status == CONVERGED:
        panel = space.lattice.panel
        confirmed, used = confirmation.confirms(log_joint, problem, mean, chol, found.elbo, panel)
        n += used
        if not confirmed:
            status = UNCONFIRMED
    return write_report(amended(found, n, status), report)


@inlined
def elbo_quadrature(log_joint, problem, mean, factor, rtol, space, grad_mean, grad_chol):
    """The ELBO of N(mean, factor factor') and its gradient, in one or two latent dimensions.

    Parameters
    ----------
    log_joint, problem : jitted function, tuple
        As in `fit_quadrature`.
    mean, factor : (D,), (D, D)
        q, in latent coordinates.
    rtol : float
        Error wanted, relative to 1 + abs(ELBO).
    space : Workspace
    grad_mean, grad_chol : (D,), (D, D)
        The gradient in the mean and in the lower triangle of the factor is written to them.

    Returns
    -------
    status, value, error, evaluations, good
        Status 0, or 12, 13, 14: the log joint was NaN, +inf, -inf where q has mass, and nothing else counts.
        `good`: whether the error is as small as was asked.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> @njit
    ... def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2
    >>> @njit
    ... def gradient(mu, x):
    ...     grad_mean, grad_chol = np.empty(1), np.empty((1, 1))
    ...     problem = (x,), np.zeros(1, np.int64), np.zeros((1, 2))
    ...     kernels.fits.elbo_quadrature(log_joint, problem, np.array([mu]), np.eye(1), 1e-10,
    ...                                  kernels.fits.workspace(1, 1), grad_mean, grad_chol)
    ...     return grad_mean[0]
    >>> round(gradient(3.0, 5.0), 9)                                         # x - 1 - mu
    1.0
    """
    problem, space = named(Problem, borrow(problem)), named(Workspace, borrow(space))
    mean, factor, moments = borrow(mean), borrow(factor), space.kept
    space.lattice.ball[0] = 0
    status, error, _, nodes, _, good = expect(
        log_joint, problem, mean, factor, -1, 1, rtol, space.lattice, moments
    )
    if status == FINE:
        gradient_in_parameters(moments, factor, space.newton, grad_mean, grad_chol)
        for i in range(mean.size):
            grad_mean[i] = -grad_mean[i]
            for j in range(mean.size):
                grad_chol[i, j] = -grad_chol[i, j]
    return status, -moments[0], error, nodes, good

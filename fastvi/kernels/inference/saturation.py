"""What an ELBO or a log evidence is off by where latent coordinates lead to floats not told from a bound.

Of Beta(0.1, 0.02) a third lies within 1e-16 of 1, where 1 - z has no digits. There a log joint is that of the
nearest number inside of the support, and here it is compared to the line that continues it.

A q whose mean is far enough inside costs a comparison for each end of a coordinate, others two evaluations.
Every door calls this: the API, compiled code of users, and C functions; users of `fits` themselves call
`doubt`.
"""

from __future__ import annotations

import math

import numpy as np

from ..borrowing import borrow, named
from ..compiler import inlined, kernel
from ..families import low_rank
from ..models.evaluation import Problem, evaluate_or_zero
from ..models.kinds import INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER
from ..models.supports import CLOSE, is_real
from ..statuses import CONVERGED, SATURATED
from . import quadrature_fits, reports

#: A q with its mean so many deviations inside has no mass beyond.
NONE = 9.0

#: The slope of the log density is taken over so long a step, in the logarithm of the distance from a bound.
STEP = 4.0

#: Factor for the curvature that the line leaves out.
SAFETY = 2.0

#: Length of the line from a bound along which the density is integrated, and its points.
LINE, LINE_POINTS = 2e3, 4001

#: A density at an end is nothing where it is so many nats below that at the mode.
BELOW = 60.0

#: Rows of a panel: the two points of a slope, all deviations of q, and scratch space; or a point on a line.
_AT_END, _INSIDE, _DEVIATIONS, _SCRATCH, _MIDDLE = 0, 1, 2, 3, 2


@kernel
def _nearest(bound, width):
    """The logarithm of the distance from a bound, in units of a width, in which z has no digits left."""
    return math.log(CLOSE) + math.log(np.nextafter(abs(bound), math.inf) - abs(bound)) - math.log(width)


@kernel
def limits(kind, low, high):
    """The least and largest value of a latent coordinate from which z keeps digits; infinite for none."""
    if kind == LOWER:
        return _nearest(low, 1.0), math.inf
    if kind == UPPER:
        return _nearest(high, 1.0), math.inf
    if kind == INTERVAL:
        return _nearest(low, high - low), -_nearest(high, high - low)
    if kind == SIMPLEX:
        return math.log(low) + _nearest(0.0, 1.0), math.log(low) - _nearest(0.0, 1.0)
    if kind == ORDERED:
        return _nearest(1.0, 1.0), math.inf
    return -math.inf, math.inf  # REAL, CORRELATION


@kernel
def _rise(at_end, further_in):
    """The slope of a log density, by its values at an end and a step further in; inf where it is zero there.

    Where z keeps no digits it is 1, that of the log-Jacobian.
    """
    return (further_in - at_end) / STEP if at_end > -math.inf else math.inf


@kernel
def _beyond(depth):
    """E[max(x - depth, 0)] of a standard normal x."""
    density = math.exp(-0.5 * depth * depth) / math.sqrt(2.0 * math.pi)
    return density - depth * 0.5 * math.erfc(depth / math.sqrt(2.0))


@kernel
def _write_deviations(factor, out):
    """Write the standard deviation of each coordinate, of a Cholesky factor or one of `low_rank`."""
    if factor.shape[0] != factor.shape[1]:
        low_rank.deviations(factor, out)
        return
    for i in range(out.size):
        out[i] = math.sqrt(_covariance(factor, i, i))


@kernel
def _covariance(factor, i, j):
    """An entry of the covariance with this Cholesky factor."""
    total = 0.0  # added up in order, it has the same bits in every door
    for k in range(min(i, j) + 1):
        total += factor[i, k] * factor[j, k]
    return total


@kernel
def _place(mean, factor, i, share, scratch, out):
    """Write the mean and so much of column i of the covariance."""
    if factor.shape[0] != factor.shape[1]:
        low_rank.towards(factor, i, share, scratch)
        low_rank.place(mean, factor, scratch, out)
        return
    for j in range(mean.size):
        out[j] = mean[j] + share * _covariance(factor, i, j)


@kernel
def _slope_in(panel):
    """The rise from the first row of a panel to the second, for each unit."""
    at_end, further_in = panel.log_joint[_AT_END], panel.log_joint[_INSIDE]
    if abs(at_end) < math.inf and abs(further_in) < math.inf:
        # Of finite values the Jacobian counts however far out it is: this is where z has left it.
        return _rise(at_end + panel.log_jacobian[_AT_END], further_in + panel.log_jacobian[_INSIDE])
    return _rise(panel.values[_AT_END], panel.values[_INSIDE])


@inlined
def _slope(log_joint, problem, i, inside, panel):
    """The rise of log joint + log-Jacobian along coordinate i, for each unit, from the first row inwards."""
    for j in range(panel.latent.shape[1]):
        panel.latent[_INSIDE, j] = panel.latent[_AT_END, j]
    panel.latent[_INSIDE, i] += STEP * inside
    evaluate_or_zero(log_joint, problem, 2, panel)
    return _slope_in(panel)


@inlined
def lost(log_joint, problem, mean, factor, panel):
    """What the ELBO of N(mean, factor factor') may be off by: E_q of the difference to the line.

    The factor is a Cholesky factor, or one of `low_rank`; the panel has 16 rows at least.
    """
    if is_real(problem.kinds):
        return 0.0
    deviations, total = panel.latent[_DEVIATIONS], 0.0
    _write_deviations(factor, deviations)
    for i in range(mean.size):
        if problem.kinds[i] == REAL:
            continue
        least, most = limits(problem.kinds[i], problem.bounds[i, 0], problem.bounds[i, 1])
        for side in range(2):
            end, inside = least, 1.0
            if side == 1:
                end, inside = most, -1.0
            depth = inside * (mean[i] - end) / deviations[i]
            if depth < NONE:
                # The other coordinates as they are expected there.
                share = (end - mean[i]) / (deviations[i] * deviations[i])
                _place(mean, factor, i, share, panel.latent[_SCRATCH], panel.latent[_AT_END])
                difference = abs(_slope(log_joint, problem, i, inside, panel) - 1.0)
                total += difference * deviations[i] * _beyond(depth)
    return SAFETY * total


@inlined
def _line(log_joint, problem, mean, i, end, inside, panel):
    """(The largest log density on the line from an end inwards; the integral of the density over that)."""
    rows, top, total = panel.latent.shape[0], -math.inf, 0.0
    step = inside * LINE / (LINE_POINTS - 1)
    for low in range(0, LINE_POINTS, rows):
        count = min(rows, LINE_POINTS - low)
        for n in range(count):
            for j in range(mean.size):
                panel.latent[n, j] = mean[j]
            panel.latent[n, i] = end + (low + n) * step
        evaluate_or_zero(log_joint, problem, count, panel)
        before = top
        for n in range(count):
            top = max(top, panel.values[n])
        if before > -math.inf:
            total *= math.exp(before - top)
        for n in range(count if top > -math.inf else 0):
            total += math.exp(panel.values[n] - top)
    return top, total * abs(step)


@inlined
def _mass_lost_at(log_joint, problem, mean, i, end, inside, panel):
    """The share of the mass on the line through a point that may be lost at an end of coordinate i."""
    for j in range(mean.size):
        panel.latent[_AT_END, j] = panel.latent[_INSIDE, j] = panel.latent[_MIDDLE, j] = mean[j]
    panel.latent[_AT_END, i] = end
    panel.latent[_INSIDE, i] = end + STEP * inside
    evaluate_or_zero(log_joint, problem, 3, panel)
    slope, at_end = _slope_in(panel), panel.log_joint[_AT_END] + panel.log_jacobian[_AT_END]
    # Without a slope the integral itself finds no end of the density.
    if not (slope > 0.0 and abs(at_end) < math.inf) or at_end < panel.values[_MIDDLE] - BELOW:
        return 0.0
    top, mass = _line(log_joint, problem, mean, i, end, inside, panel)
    if not top > -math.inf:
        return math.inf
    return math.exp(min(at_end - top, 0.0)) * abs(1.0 / slope - 1.0) / mass


@inlined
def lost_by_evidence(log_joint, problem, mean, value, panel):
    """What the log evidence, of this value, may be off by, by the density on lines through a point."""
    if is_real(problem.kinds) or not abs(value) < math.inf:
        return 0.0
    total = 0.0
    for i in range(mean.size):
        least, most = limits(problem.kinds[i], problem.bounds[i, 0], problem.bounds[i, 1])
        for side in range(2):
            end, inside = least, 1.0
            if side == 1:
                end, inside = most, -1.0
            if abs(end) < math.inf:
                total += _mass_lost_at(log_joint, problem, mean, i, end, inside, panel)
    return SAFETY * total


def with_lost(report, unknown, rtol):
    """The same report with so much more error: SATURATED where it converged and that is large.

    Plain, for Python calls it as well.
    """
    status = report.status
    if status == CONVERGED and unknown > max(report.error, rtol * (1.0 + abs(report.elbo))):
        status = SATURATED
    return reports.Report(
        elbo=report.elbo,
        error=report.error + unknown,
        gradient_norm=report.gradient_norm,
        evaluations=report.evaluations,
        status=status,
        steps=report.steps,
        parameter_error=report.parameter_error,
        sides=report.sides,
    )


_with_lost = kernel(with_lost)


@inlined
def doubt(log_joint, problem, mean, chol, rtol, space, report):
    """Add to the error of a fit by quadrature what its q loses where z rounds to a bound of its support.

    Like `gaps.doubt`, which comes after it, it is called by `fastvi.fit`, from Python and in compiled code,
    and by the C function, not by `fits.fit_quadrature`. On the real line it does nothing, and within a
    support it evaluates only where the mean is less than nine deviations from where floats lose z.

    Parameters
    ----------
    log_joint, problem, mean, chol, rtol, space, report
        Those of `fits.fit_quadrature`, after the fit.

    Returns
    -------
    int
        The status of the fit, or 17: it converged, but what is lost is more than its error and rtol.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> fits, saturation = kernels.fits, kernels.saturation
    >>> @njit
    ... def log_joint(z, b):                                               # Beta(2, b)
    ...     return math.log(z[0]) + (b - 1.0) * math.log1p(-z[0])
    >>> @njit
    ... def status(logit):
    ...     mean, chol, report = np.full(1, logit), np.eye(1), np.zeros(8)   # of a fit that has converged
    ...     problem = (0.1,), np.full(1, 3), np.array([[0.0, 1.0]])
    ...     return saturation.doubt(log_joint, problem, mean, chol, 1e-8, fits.workspace(1, 1), report)
    >>> status(0.0), status(32.0)
    (0, 17)
    """
    problem, space = named(Problem, borrow(problem)), named(quadrature_fits.Workspace, borrow(space))
    mean, chol, report = borrow((mean, chol, report))
    found = reports.read_report(report)
    if not abs(found.elbo) < math.inf or reports.is_fault(found) or is_real(problem.kinds):
        return int(found.status)
    unknown = lost(log_joint, problem, mean, chol, space.lattice.panel)
    return int(reports.write_report(_with_lost(found, unknown, rtol), report))

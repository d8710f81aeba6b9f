"""What nodes do not see under a fitted q: gaps of zero density between them, and a tail beyond them.

A gap makes the ELBO of a q with mass there -inf, and so does a log joint like -exp(exp(z)). On a line a bump
or a dip between the nodes shows by another ELBO, that of the points; where they differ, a fine lattice tells.

The lattice of an expectation has 45 nodes on a line, and 400 within three deviations in the plane. More
points tell, and those of a fit are taken once, under the q that is returned. Every door calls this: the API,
compiled code of users, and C functions; users of `fits` themselves call `doubt`.
"""

from __future__ import annotations

import math

import numpy as np

from ..borrowing import borrow, named
from ..compiler import adder, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..models.calling import tabulate
from ..models.evaluation import BLOCK, Problem, evaluate, evaluate_or_zero, fault, status_of
from ..numerics.matrices import half_log_det
from ..statuses import FINE, RAISED, UNRESOLVED
from . import quadrature_fits, reports, truncated_fits
from .expectations import BELL, LEVELS, MOST_RATIO, OF_SHIFT, SHIFT, shifted
from .survey import (
    IN_DISC,
    LINE,
    PLANE,
    REACH,
    REACH_IN_PLANE,
    place_in_plane,
    place_on_line,
    steps_between,
)

#: What points are for, an ELBO or that of a fit, and how many those are, on a line and in the plane. Where an
#: evaluation may take long a fit has few: its lattices have 132 nodes, and 2780.
OF_ELBO, OF_FIT, OF_LONG_FIT = 0, 1, 2
COUNTS = np.array([[1601, 801, 161], [4000, 1600, 400]])

#: How much farther out in the plane, in deviations, there is density beside a gap, for a log evidence.
_BESIDE = 0.5

#: A data set with an array of so many entries has a long fit.
MANY = 10_000

#: The points on a line for each purpose; in the plane the few are the first of the many.
LINES = tuple(steps_between(1, count)[:, 0].copy() for count in COUNTS[0].tolist())

#: Their weights for a mean under a standard normal density.
WEIGHTS = tuple((x[1] - x[0]) * BELL * np.exp(-0.5 * x * x) for x in LINES)

#: Rounding of the sums with these, as a share of 1 and the sum of sizes.
_ROUNDING = 1e-13

#: Where these sums are others than those of the nodes, a finer lattice than any tells which are right: one of
#: this level, shifted to where no other node is. (With the usual shift it says of jumps what others said.)
FINEST, ELSEWHERE = LEVELS - 1, 1.0 - SHIFT

#: The area of the disc for each of the points in it, under a standard Gaussian.
_AREA = math.pi * REACH_IN_PLANE**2 / IN_DISC

#: Beyond the lattice, up to where the density of q is a float: distances in q's deviations, and points on as
#: many rays.
_DISTANCES = np.arange(10.0, 38.0, 2.0)
_RAYS = 2, 8


def _beyond(rays):
    """(2, M): points at all distances on so many rays."""
    angles = 2.0 * math.pi * np.arange(rays) / rays
    return np.stack([np.outer(_DISTANCES, f(angles)).ravel() for f in (np.cos, np.sin)])


BEYOND_LINE, BEYOND_PLANE = map(_beyond, _RAYS)

#: What the log joint must not exceed there, see `outgrows`: about the inverse of the density of q. Then its
#: term of the mean is larger than one nat.
LIMITS_LINE, LIMITS_PLANE = (np.repeat(np.exp(0.5 * _DISTANCES**2), rays) for rays in _RAYS)


@kernel
def _line(purpose):
    if purpose == OF_ELBO:
        return LINES[0]
    return LINES[1] if purpose == OF_FIT else LINES[2]


@kernel
def _weights(purpose):
    if purpose == OF_ELBO:
        return WEIGHTS[0]
    return WEIGHTS[1] if purpose == OF_FIT else WEIGHTS[2]


@adder
def _are_finite(values):
    """Whether all of them are, in a loop without branches."""
    total = 0.0
    for n in range(values.size):
        total += 0.0 * values[n]
    return total == 0.0


def outgrows(value, limit):
    """Whether a log joint is larger than that, in absolute value; infinite ones do not count so far out.

    Plain, for numbers and for arrays.
    """
    return (abs(value) > limit) & (abs(value) < math.inf)


_outgrows = kernel(outgrows)


@adder
def _sums_on_line(x, weights, own, log_joint, log_jacobian):
    """The sum of terms log q - log p, and of their sizes: of all, and in the two outer shells."""
    total, size, one, two = 0.0, 0.0, 0.0, 0.0
    inner, middle = (REACH - 2.0) ** 2, (REACH - 1.0) ** 2
    for n in range(x.size):
        square = x[n] * x[n]
        term = weights[n] * ((own - 0.5 * square) - (log_joint[n] + log_jacobian[n]))
        total += term
        size += abs(term)
        outer = square > middle
        two += abs(term) if outer else 0.0
        one += abs(term) if square > inner and not outer else 0.0
    return total, size, one, two


def slack(size, one, two, error, far):
    """How far an ELBO with this error may be from the sum over the points on a line, by sums of sizes.

    Plain, for Python calls it as well. What is outside of the points goes on as the last two shells do. Where
    0 is `far` away, in q's deviations, z is rounded by so much more.
    """
    beyond = two * two / (one - two) if two < MOST_RATIO * one else math.inf
    return error + beyond + _ROUNDING * (1.0 + size) * (1.0 + far)


_slack = kernel(slack)


@inlined
def _look_between(log_joint, problem, mean, factor, purpose, found, panel):
    """(The status of the first point whose log joint is not finite, or FINE; the slack of the ELBO).

    The slack is infinite where the points agree with the ELBO, and in the plane.
    """
    count, line, weights = COUNTS[mean.size - 1, purpose], _line(purpose), _weights(purpose)
    own = -half_log_det(factor) - 0.5 * LOG_2PI
    total, size, one, two = 0.0, 0.0, 0.0, 0.0
    for low in range(0, count, BLOCK):
        end = min(low + BLOCK, count)
        if mean.size == 1:
            place_on_line(line[low:end], mean[0], factor[0, 0], panel.latent)
        else:
            place_in_plane(PLANE, low, end, mean, factor, panel.latent)
        if evaluate(log_joint, problem, end - low, panel) != FINE:
            return RAISED, math.inf
        if not _are_finite(panel.log_joint[: end - low]):
            return fault(problem, end - low, panel), math.inf
        if mean.size == 1:
            a, b, c, d = _sums_on_line(
                line[low:end],
                weights[low:end],
                own,
                panel.log_joint[: end - low],
                panel.log_jacobian[: end - low],
            )
            total, size, one, two = total + a, size + b, one + c, two + d
    if mean.size > 1:
        return FINE, math.inf
    known = _slack(size, one, two, found.error, abs(mean[0]) / factor[0, 0])
    return FINE, known if abs(total + found.elbo) > known else math.inf


@inlined
def _look_closer(log_joint, problem, mean, factor, found, known, lattice):
    """(A fault of the log joint, UNRESOLVED, or FINE; points; the error beyond the ELBO's own).

    UNRESOLVED where on the finest lattice the ELBO is another, by more than `known`.
    """
    lattice.ball[0] = 0
    own = -half_log_det(factor) - 0.5 * LOG_2PI
    status, value, nodes = shifted(log_joint, problem, FINEST, ELSEWHERE, mean, factor, own, lattice)
    if status != FINE:
        return status, nodes, math.inf
    off = abs(value + found.elbo)
    return (UNRESOLVED, nodes, OF_SHIFT * off) if off > known else (FINE, nodes, 0.0)


@inlined
def _look_beyond(log_joint, problem, mean, factor, panel):
    """(UNRESOLVED where the log joint outgrows q, or FINE; points)."""
    if mean.size == 1:
        limits = LIMITS_LINE
        place_on_line(BEYOND_LINE[0], mean[0], factor[0, 0], panel.latent)
    else:
        limits = LIMITS_PLANE
        place_in_plane(BEYOND_PLANE, 0, limits.size, mean, factor, panel.latent)
    evaluate_or_zero(log_joint, problem, limits.size, panel)
    for n in range(limits.size):
        if _outgrows(panel.values[n], limits[n]):
            return UNRESOLVED, limits.size
    return FINE, limits.size


@inlined
def _look(log_joint, problem, mean, factor, purpose, found, lattice):
    """(A fault at points between nodes, or UNRESOLVED, or FINE; points; the error beyond that of `found`).

    UNRESOLVED where the log joint outgrows q, and where on a line the nodes missed something. The place of a
    fault is in `lattice.panel.where`.
    """
    count, more = COUNTS[mean.size - 1, purpose], 0
    status, known = _look_between(log_joint, problem, mean, factor, purpose, found, lattice.panel)
    if status == FINE:
        status, more = _look_beyond(log_joint, problem, mean, factor, lattice.panel)
    error = 0.0 if status == FINE else math.inf
    if status == FINE and known < math.inf:
        count += more
        status, more, error = _look_closer(log_joint, problem, mean, factor, found, known, lattice)
    return status, count + more, error


@inlined
def doubt(log_joint, problem, mean, chol, purpose, space, report):
    """Look for what the nodes of a fit by quadrature do not see under its q, and amend its report.

    `fits.fit_quadrature` does not look: 829 evaluations on a line take longer than a short fit with its 130.
    `fastvi.fit` does, from Python and in compiled code, and so does the C function.

    Parameters
    ----------
    log_joint, problem, mean, chol, space, report
        Those of `fits.fit_quadrature`, after the fit.
    purpose : int
        Which points: gaps.OF_FIT has 801 on a line and 1600 in the plane, gaps.OF_LONG_FIT 161 and 400,
        gaps.OF_ELBO 1601 and 4000.

    Returns
    -------
    int
        The status of the fit, or 12, 13, 14: the log joint is NaN, +inf, -inf at a point between nodes, which
        is in space.lattice.panel.where; 2: it outgrows q far out, as -exp(exp(z)) does, and no mean is known.
        Then the error in the report is infinite. Or 2: on a line the nodes missed a narrow bump; the error
        has twice the difference more.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> fits, gaps = kernels.fits, kernels.gaps
    >>> @njit
    ... def log_joint(z, low):                                               # zero from low to low + 0.05
    ...     return -math.inf if low < z[0] < low + 0.05 else -0.5 * z[0] ** 2
    >>> @njit
    ... def status(low):
    ...     mean, chol, report = np.zeros(1), np.eye(1), np.zeros(8)         # of a fit that has converged
    ...     report[0] = 0.5 * math.log(2.0 * math.pi)
    ...     problem = (low,), np.zeros(1, np.int64), np.zeros((1, 2))
    ...     return gaps.doubt(log_joint, problem, mean, chol, gaps.OF_FIT, fits.workspace(1, 1), report)
    >>> status(0.3), status(50.0)
    (14, 0)
    """
    problem, space = named(Problem, borrow(problem)), named(quadrature_fits.Workspace, borrow(space))
    mean, chol, report = borrow((mean, chol, report))
    found = reports.read_report(report)
    if not reports.has_elbo(found):
        return int(found.status)
    status, used, error = _look(log_joint, problem, mean, chol, purpose, found, space.lattice)
    return int(reports.write_report(reports.doubted(found, used, status, error), report))


@inlined
def _look_truncated(log_joint, data, mu, sigma, low, high, purpose, space):
    """(A fault at points of N(mu, sigma**2) truncated to [low, high], or FINE; points).

    They are at equal distances inside of the ends, or of where the density is exp(-REACH**2 / 2) of the
    largest. The place of a fault is in `space.where`, and `space` a `truncated_fits.Workspace`.
    """
    count, reach, mode = COUNTS[0, purpose], REACH * sigma, min(max(mu, low), high)
    off = abs(mode - mu)
    far = reach * reach / (math.hypot(off, reach) + off)
    first, last = max(low, mode - far), min(high, mode + far)
    step = (last - first) / (count + 1)
    nodes, values = space.nodes, space.values
    for done in range(0, count, BLOCK):
        n = min(BLOCK, count - done)
        for k in range(n):
            nodes[k, 0] = first + (done + k + 1) * step
        failed = tabulate(log_joint, data, nodes, n, values)
        if failed:
            space.where[0] = nodes[failed - 1, 0]
            return RAISED, count
        if not _are_finite(values[:n]):
            for k in range(n):
                if status_of(values[k]) != FINE:
                    space.where[0] = nodes[k, 0]
                    return status_of(values[k]), count
    return FINE, count


@inlined
def doubt_truncated(log_joint, data, low, high, start, purpose, space, report):
    """`doubt` for a fit of a Gaussian truncated to [low, high].

    Parameters
    ----------
    log_joint, data, low, high, start, space, report
        Those of `truncated.fit_truncated`, after the fit.
    purpose : int
        As in `doubt`.

    Returns
    -------
    int
        As `doubt`, without 2; the place of a fault is in space.where.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> gaps, truncated = kernels.gaps, kernels.truncated
    >>> @njit
    ... def log_joint(z, low):                                               # zero from low to low + 0.02
    ...     return -math.inf if low < z[0] < low + 0.02 else -z[0] ** 2
    >>> @njit
    ... def statuses(low):
    ...     start, report, space = np.array([1.0, 1.0]), np.empty(8), truncated.workspace()
    ...     fitted = truncated.fit_truncated(log_joint, (low,), 0.0, math.inf, start, 1e-8, 50, space,
    ...                                      np.empty(0), report)
    ...     return fitted, gaps.doubt_truncated(log_joint, (low,), 0.0, math.inf, start, gaps.OF_FIT, space,
    ...                                         report)
    >>> statuses(1.531), statuses(50.0)
    ((0, 14), (0, 0))
    """
    data, start, report = borrow((data, start, report))
    space, found = named(truncated_fits.Workspace, borrow(space)), reports.read_report(report)
    if not reports.has_elbo(found):
        return int(found.status)
    status, used = _look_truncated(log_joint, data, start[0], start[1], low, high, purpose, space)
    error = math.inf if status != FINE else 0.0
    return int(reports.write_report(reports.doubted(found, used, status, error), report))


@kernel
def _mass_on_line(heights, factor, log_total):
    """By the densities at both ends of each gap, and its width."""
    total, last = 0.0, -1  # the last point with a density
    for n in range(heights.size):
        if heights[n] == -math.inf:
            continue
        if 0 <= last < n - 1:
            width = factor[0, 0] * (LINE[n] - LINE[last])
            total += math.exp(max(heights[last], heights[n]) - log_total) * width
        last = n
    return total


@inlined
def _mass_in_plane(log_joint, problem, mean, factor, heights, log_total, panel):
    """By points of which each has the same area: those without density and, farther out, with some.

    A region without density that does not end is none of these, for the lattice sees it.
    """
    rows, count, total = panel.latent.shape[0], 0, 0.0
    for low in range(0, IN_DISC, rows):
        end, zeros = min(low + rows, IN_DISC), 0
        for n in range(low, end):
            if heights[n] == -math.inf:
                x, y = PLANE[0, n], PLANE[1, n]
                share = 1.0 + _BESIDE / math.hypot(x, y)
                panel.latent[zeros, 0] = mean[0] + factor[0, 0] * (share * x)
                panel.latent[zeros, 1] = mean[1] + (factor[1, 0] * (share * x) + factor[1, 1] * (share * y))
                zeros += 1
        if zeros == 0:
            continue
        evaluate_or_zero(log_joint, problem, zeros, panel)
        zeros = 0
        for n in range(low, end):
            if heights[n] == -math.inf:
                if panel.values[zeros] > -math.inf:
                    # Towards the mode the density is larger, by as much as Laplace's approximation says.
                    rise = _BESIDE * (math.hypot(PLANE[0, n], PLANE[1, n]) + 0.5 * _BESIDE)
                    total += math.exp(panel.values[zeros] + rise - log_total)
                    count += 1
                zeros += 1
    if count == 0:
        return 0.0
    return total * _AREA * factor[0, 0] * factor[1, 1] * (1.0 + 2.0 / math.sqrt(count))


@inlined
def mass(log_joint, problem, mean, factor, heights, log_total, panel):
    """The share of the mass exp(log_total) that gaps around a mode may take, by the densities beside them.

    Parameters
    ----------
    log_joint, problem
        See `models.calling`, and a `Problem`.
    mean, factor : ndarray (R,), (R, R)
        Laplace's approximation at the mode, in one or two latent dimensions.
    heights : ndarray
        The log densities that `survey.take` wrote there.
    log_total : float
    panel : Panel
    """
    if not abs(log_total) < math.inf or _are_finite(heights):
        return 0.0
    if mean.size == 1:
        return _mass_on_line(heights, factor, log_total)
    return _mass_in_plane(log_joint, problem, mean, factor, heights, log_total, panel)

"""What nodes do not see under a fitted q: gaps of zero density between them, and a tail beyond them.

A gap makes the ELBO of a q with mass there -inf, and so does a log joint like -exp(exp(z)).

The lattice of an expectation has 45 nodes on a line, and 400 within three deviations in the plane. More
points tell, and those of a fit are taken once, under the q that is returned. Every door calls this: the API,
compiled code of users, and C functions; users of `fits` themselves call `doubt`.
"""

from __future__ import annotations

import math

import numpy as np

from ..borrowing import borrow, named
from ..compiler import adder, formula, inlined, kernel
from ..models.calling import tabulate
from ..models.evaluation import BLOCK, Problem, evaluate, evaluate_or_zero, fault, status_of
from ..statuses import FINE, RAISED, UNRESOLVED
from . import quadrature_fits, reports, truncated_fits

#: Points on a line are within so many of q's deviations from its mean: where its density is above exp(-32) of
#: the largest.
REACH = 8.0

#: Points in the plane are within so many deviations: they would be too far apart, and the nodes of the
#: lattice see gaps that reach far.
REACH_IN_PLANE = 3.0

#: What points are for, an ELBO or that of a fit, and how many those are, on a line and in the plane. Where an
#: evaluation may take long a fit has few: its lattices have 132 nodes, and 2780.
OF_ELBO, OF_FIT, OF_LONG_FIT = 0, 1, 2
COUNTS = np.array([[1601, 801, 161], [4000, 1600, 400]])

#: Points at which the density must not be zero for a log evidence, on a line: gaps may lie between nodes. In
#: the plane they are those of an ELBO. How much farther out in the plane, in deviations, there is density
#: beside a gap.
_LINE_POINTS, _BESIDE = 4001, 0.5

#: A data set with an array of so many entries has a long fit.
MANY = 10_000

#: Shares of the square that a point of the plane is ahead of the one before: powers of 1 / 1.3247, the root
#: of x³ = x + 1. (M. Roberts, The Unreasonable Effectiveness of Quasirandom Sequences, 2018.)
_STEPS_IN_SQUARE = 0.7548776662466927, 0.5698402909980532


def steps_between(dim, count):
    """Points (count, dim) under a standard Gaussian; in the plane each has the same area of the disc."""
    if dim == 1:
        return np.linspace(-REACH, REACH, count)[:, None]
    share, turns = np.outer(_STEPS_IN_SQUARE, np.arange(count) + 0.5) % 1.0
    angles, lengths = 2.0 * math.pi * turns, REACH_IN_PLANE * np.sqrt(share)
    return np.ascontiguousarray((lengths * [np.cos(angles), np.sin(angles)]).T)


#: The points: on a line for each purpose; in the plane the few are the first of the many.
_LINES = tuple(steps_between(1, count)[:, 0].copy() for count in COUNTS[0].tolist())
_PLANE = np.ascontiguousarray(steps_between(2, int(COUNTS[1].max())).T)
_LONG_LINE = steps_between(1, _LINE_POINTS)[:, 0].copy()

#: The area of the disc for each of the points in the plane, under a standard Gaussian.
_AREA = math.pi * REACH_IN_PLANE**2 / _PLANE.shape[1]

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


@formula
def _place_1(x, mean, a, points):
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]


@formula
def _place_2(x, y, mean, other, a, b, c, points):
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]
        points[n, 1] = other + (b * x[n] + c * y[n])


# A loop that reads the mean and the factor from memory is not vectorised: they are handed over as numbers.


@inlined
def _place_in_plane(steps, low, end, mean, factor, points):
    """Write mean + factor e for some steps e of the plane."""
    x, y = steps[0, low:end], steps[1, low:end]
    _place_2(x, y, mean[0], mean[1], factor[0, 0], factor[1, 0], factor[1, 1], points)


@kernel
def _line(purpose):
    if purpose == OF_ELBO:
        return _LINES[0]
    return _LINES[1] if purpose == OF_FIT else _LINES[2]


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


@inlined
def _look_between(log_joint, problem, mean, factor, purpose, panel):
    """The status of the first point under N(mean, factor factor') whose log joint is not finite, or FINE."""
    count, line = COUNTS[mean.size - 1, purpose], _line(purpose)
    for low in range(0, count, BLOCK):
        end = min(low + BLOCK, count)
        if mean.size == 1:
            _place_1(line[low:end], mean[0], factor[0, 0], panel.latent)
        else:
            _place_in_plane(_PLANE, low, end, mean, factor, panel.latent)
        if evaluate(log_joint, problem, end - low, panel) != FINE:
            return RAISED
        if not _are_finite(panel.log_joint[: end - low]):
            return fault(problem, end - low, panel)
    return FINE


@inlined
def _look_beyond(log_joint, problem, mean, factor, panel):
    """(UNRESOLVED where the log joint outgrows q, or FINE; points)."""
    if mean.size == 1:
        limits = LIMITS_LINE
        _place_1(BEYOND_LINE[0], mean[0], factor[0, 0], panel.latent)
    else:
        limits = LIMITS_PLANE
        _place_in_plane(BEYOND_PLANE, 0, limits.size, mean, factor, panel.latent)
    evaluate_or_zero(log_joint, problem, limits.size, panel)
    for n in range(limits.size):
        if _outgrows(panel.values[n], limits[n]):
            return UNRESOLVED, limits.size
    return FINE, limits.size


@inlined
def _look(log_joint, problem, mean, factor, purpose, panel):
    """(A fault at points between nodes, UNRESOLVED where the log joint outgrows q, or FINE; points).

    The place of a fault is in `panel.where`.
    """
    more, status = 0, _look_between(log_joint, problem, mean, factor, purpose, panel)
    if status == FINE:
        status, more = _look_beyond(log_joint, problem, mean, factor, panel)
    return status, COUNTS[mean.size - 1, purpose] + more


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
        Then the error in the report is infinite.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> fits, gaps, FULL = kernels.fits, kernels.gaps, kernels.newton.FULL
    >>> @njit
    ... def log_joint(z, low):                                               # zero from low to low + 0.05
    ...     return -math.inf if low < z[0] < low + 0.05 else -0.5 * z[0] ** 2
    >>> @njit
    ... def statuses(low):
    ...     mean, chol, trace, report = np.zeros(1), np.eye(1), np.empty(0), np.empty(8)
    ...     problem = (low,), np.zeros(1, np.int64), np.zeros((1, 2))
    ...     space = fits.workspace(1, 1)
    ...     fitted = fits.fit_quadrature(log_joint, problem, FULL, mean, chol, 1e-8, 50, space, trace, report)
    ...     return fitted, gaps.doubt(log_joint, problem, mean, chol, gaps.OF_FIT, space, report)
    >>> statuses(0.3), statuses(50.0)
    ((0, 14), (0, 0))
    """
    problem, space = named(Problem, borrow(problem)), named(quadrature_fits.Workspace, borrow(space))
    mean, chol, report = borrow((mean, chol, report))
    found = reports.read_report(report)
    if not reports.has_elbo(found):
        return int(found.status)
    status, used = _look(log_joint, problem, mean, chol, purpose, space.lattice.panel)
    return int(reports.write_report(reports.doubted(found, used, status), report))


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
    return int(reports.write_report(reports.doubted(found, used, status), report))


@inlined
def _mass_on_line(log_joint, problem, mean, factor, log_total, panel):
    """By the densities at both ends of each gap, and its width."""
    rows, total = panel.latent.shape[0], 0.0
    place, height, beside = 0.0, -math.inf, False  # of the last point with a density; whether a gap is next
    for low in range(0, _LINE_POINTS, rows):
        count = min(rows, _LINE_POINTS - low)
        _place_1(_LONG_LINE[low : low + count], mean[0], factor[0, 0], panel.latent)
        evaluate_or_zero(log_joint, problem, count, panel)
        first = count - 1 if not beside and _are_finite(panel.values[:count]) else 0
        for n in range(first, count):
            value = panel.values[n]
            if value == -math.inf:
                beside = height > -math.inf
                continue
            if beside:
                total += math.exp(max(height, value) - log_total) * (panel.latent[n, 0] - place)
            place, height, beside = panel.latent[n, 0], value, False
    return total


@inlined
def _mass_in_plane(log_joint, problem, mean, factor, log_total, panel):
    """By points of which each has the same area: those without density and, farther out, with some.

    A region without density that does not end is none of these, for the lattice sees it.
    """
    # The second half of the rows keeps values: whether there was density.
    rows, count, total = panel.latent.shape[0] // 2, 0, 0.0
    for low in range(0, _PLANE.shape[1], rows):
        n = min(rows, _PLANE.shape[1] - low)
        _place_in_plane(_PLANE, low, low + n, mean, factor, panel.latent)
        evaluate_or_zero(log_joint, problem, n, panel)
        if _are_finite(panel.values[:n]):
            continue
        for k in range(n):
            panel.values[rows + k] = panel.values[k]
            x, y = _PLANE[0, low + k], _PLANE[1, low + k]
            share = 1.0 + _BESIDE / math.hypot(x, y)
            panel.latent[k, 0] = mean[0] + factor[0, 0] * (share * x)
            panel.latent[k, 1] = mean[1] + (factor[1, 0] * (share * x) + factor[1, 1] * (share * y))
        evaluate_or_zero(log_joint, problem, n, panel)
        for k in range(n):
            if panel.values[rows + k] == -math.inf and panel.values[k] > -math.inf:
                # Towards the mode the density is larger, by as much as Laplace's approximation says.
                rise = _BESIDE * (math.hypot(_PLANE[0, low + k], _PLANE[1, low + k]) + 0.5 * _BESIDE)
                total += math.exp(panel.values[k] + rise - log_total)
                count += 1
    if count == 0:
        return 0.0
    return total * _AREA * factor[0, 0] * factor[1, 1] * (1.0 + 2.0 / math.sqrt(count))


@inlined
def mass(log_joint, problem, mean, factor, log_total, panel):
    """The share of the mass exp(log_total) that gaps around a mode may take, by the densities beside them.

    Parameters
    ----------
    log_joint, problem
        See `models.calling`, and a `Problem`.
    mean, factor : ndarray (R,), (R, R)
        Laplace's approximation at the mode, in one or two latent dimensions.
    log_total : float
    panel : Panel
    """
    if not abs(log_total) < math.inf:
        return 0.0
    if mean.size == 1:
        return _mass_on_line(log_joint, problem, mean, factor, log_total, panel)
    return _mass_in_plane(log_joint, problem, mean, factor, log_total, panel)

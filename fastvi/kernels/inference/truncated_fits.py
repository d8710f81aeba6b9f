"""ELBO and fit of a Gaussian truncated to an interval, which may be unbounded, for one coordinate.

Integrals by the double-exponential rule: z = low + width / (1 + exp(-pi sinh t)), the trapezoid rule in t.
It converges as fast with a density that jumps to zero, or a logarithm, at an end of the interval.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named
from ..compiler import inlined, kernel
from ..densities.truncated import REACH, STEP, span, tanh_sinh_node
from ..models.calling import tabulate
from ..models.evaluation import BLOCK, status_of
from ..numerics.matrices import copy_vector
from ..statuses import CONVERGED, FINE, RAISED, STEPS_EXHAUSTED, STUCK, UNRESOLVED, ZERO
from .expectations import SHIFT, lattice_error, steps_within
from .reports import Report, write_report

#: Halvings of the quadrature's step, with the first lattice.
LEVELS = 5

#: Weights of nodes below this are left out: the largest is about 1.
LEAST_WEIGHT = 1e-300

#: Halvings of a natural-gradient step before the fit is stuck.
MOST_TRIES = 30

#: The new precision must be above this share of the old one: sigma grows at most sevenfold in a step.
LEAST_PRECISION = 0.02

#: An ELBO is lower where it is so by more than this times the two errors.
DOUBT = 4.0

#: Rounding of an ELBO, relative; a log joint of 0 has the rounding of terms of this size.
ROUNDING, TERMS = 4.4e-16, 8.0

#: An error below this is no reason to call an ELBO unresolved, however small `rtol` is.
LEAST_ERROR = 1e-12


class Workspace(NamedTuple):
    """Scratch space for integrals over an interval."""

    nodes: Matrix  #: (BLOCK, 1)
    weights: Vector  #: (BLOCK,)
    values: Vector  #: (BLOCK,) the log joint
    sums: Vector  #: (9,) see `_add_level`
    trial: Vector  #: (9,)
    shifted: Vector  #: (9,)
    where: Vector  #: (1,) a point where something was wrong


class Window(NamedTuple):
    """A truncated Gaussian, and the part of its interval that counts."""

    mu: Any
    sigma: Any
    first: Any  #: the ends, see `span`
    last: Any
    centre: Any  #: of the part, and half of its width
    scale: Any
    top: Any  #: log of q's maximum in the interval, where it is 0 at mu


@kernel
def workspace():
    """Scratch space for `fit_truncated`: one for each thread.

    Returns
    -------
    Workspace

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.truncated.workspace()
    """
    return Workspace(
        np.empty((BLOCK, 1)),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(9),
        np.empty(9),
        np.empty(9),
        np.empty(1),
    )


@inlined
def _window(mu, sigma, low, high):
    first, last = span(mu, sigma, low, high)
    mode = min(max(mu, low), high)
    return Window(
        mu=mu,
        sigma=sigma,
        first=first,
        last=last,
        centre=0.5 * (first + last),
        scale=0.5 * (last - first),
        top=-0.5 * ((mode - mu) / sigma) ** 2,
    )


@inlined
def _add_level(log_joint, data, level, shift, window, space, sums):
    """Add the nodes of a level to the sums of w, w u .. w u**4, w f, w f u, w f u**2, w |f|; (status, nodes).

    u = (z - centre) / scale, and w is the density of q over its maximum. The sums of the levels before are
    halved with the step. With a `shift` all nodes of the levels up to this one are moved by this share of the
    step, and the sums are theirs alone.
    """
    step = STEP * 0.5**level
    width = steps_within(REACH, step)
    nodes, weights, values = space.nodes, space.weights, space.values
    mu, sigma, first, last, centre, scale, top = window
    for i in range(9):
        sums[i] = 0.5 * sums[i] if level > 0 and shift == 0.0 else 0.0
    count, used = 0, 0
    for k in range(-width, width + 1):
        if level == 0 or k % 2 != 0 or shift != 0.0:
            z, w = tanh_sinh_node((k + shift) * step, first, last)
            w *= step * math.exp(-0.5 * ((z - mu) / sigma) ** 2 - top)
            if w > LEAST_WEIGHT and first < z < last:
                nodes[count, 0], weights[count] = z, w
                count += 1
        if count == BLOCK or (k == width and count > 0):
            failed = tabulate(log_joint, data, nodes, count, values)
            if failed:
                space.where[0] = nodes[failed - 1, 0]
                return RAISED, used
            for n in range(count):
                f, w, u = values[n], weights[n], (nodes[n, 0] - centre) / scale
                if not abs(f) < math.inf:
                    space.where[0] = nodes[n, 0]
                    return status_of(f), used
                sums[0] += w
                sums[1] += w * u
                sums[2] += w * u * u
                sums[3] += w * u * u * u
                sums[4] += w * u * u * u * u
                sums[5] += w * f
                sums[6] += w * f * u
                sums[7] += w * f * u * u
                sums[8] += w * abs(f)
            used += count
            count = 0
    return FINE, used


@kernel
def _elbo_of(sums, window):
    """E[f] - E[log q] from the sums."""
    mu, sigma, centre, scale = window.mu, window.sigma, window.centre, window.scale
    total = sums[0]
    b, a = scale / sigma, (centre - mu) / sigma
    square = (a * a * total + 2.0 * a * b * sums[1] + b * b * sums[2]) / total
    return sums[5] / total + 0.5 * square + math.log(total) + window.top


@inlined
def elbo(log_joint, data, mu, sigma, low, high, rtol, space, sums):
    """(status, ELBO, its error, nodes) of N(mu, sigma**2) truncated to [low, high]; `sums` are written."""
    window = _window(mu, sigma, low, high)
    value, change, last, nodes, level, shift = math.nan, math.inf, math.inf, 0, 0, 0.0
    while True:
        found = sums if shift == 0.0 else space.shifted
        status, n = _add_level(log_joint, data, level, shift, window, space, found)
        nodes += n
        if status != FINE:
            return status, (-math.inf if status == ZERO else math.nan), math.inf, nodes
        new = _elbo_of(found, window)
        if shift != 0.0:
            break
        last, change = change, (abs(new - value) if level > 0 else math.inf)
        value = new
        if level == LEVELS - 1 or (level > 1 and change <= rtol * (1.0 + abs(value))):
            shift = SHIFT
        else:
            level += 1
    rounding = ROUNDING * (TERMS + sums[8] / sums[0])
    return FINE, value, lattice_error(change, last, abs(new - value), rounding) + rounding, nodes


@inlined
def _natural_gradient(sums, mu, sigma, centre, scale):
    """(old1, old2, d1, d2, norm): log q is old1 u + old2 u**2 + const., and the step changes these by d1, d2.

    Least squares of f on 1, u, u**2 under q; the norm is that of the change in Fisher's metric.
    """
    t = sums[0]
    m1, m2, m3, m4 = sums[1] / t, sums[2] / t, sums[3] / t, sums[4] / t
    f0, f1, f2 = sums[5] / t, sums[6] / t, sums[7] / t
    c11, c12, c22 = m2 - m1 * m1, m3 - m1 * m2, m4 - m2 * m2
    g1, g2 = f1 - m1 * f0, f2 - m2 * f0
    det = c11 * c22 - c12 * c12
    b2 = (c11 * g2 - c12 * g1) / det
    b1 = (g1 - c12 * b2) / c11
    old2 = -0.5 * scale * scale / (sigma * sigma)
    old1 = -2.0 * old2 * (mu - centre) / scale
    d1, d2 = b1 - old1, b2 - old2
    norm = math.sqrt(max(c11 * d1 * d1 + 2.0 * c12 * d1 * d2 + c22 * d2 * d2, 0.0))
    return old1, old2, d1, d2, norm


@inlined
def fit_truncated(log_joint, data, low, high, start, rtol, most_steps, space, trace, report):
    """Fit a Gaussian truncated to [low, high] to a log joint of one coordinate.

    Natural-gradient steps: the next q is the exponential of the quadratic that fits the log joint best under
    q, in least squares. One step is exact for a log joint that is quadratic on the interval. No gap of zero
    density between the nodes is seen: `gaps.doubt_truncated` looks for those.

    Parameters
    ----------
    log_joint : jitted function
        ``log_joint(z, *data) -> float``.
    data : tuple
    low, high : float
        May be infinite.
    start : (2,)
        (mu, sigma) to start from, which is overwritten with those of the fit.
    rtol, most_steps, trace, report
        As in `fits.fit_quadrature`.
    space : Workspace

    Returns
    -------
    int
        0 converged; 1 the steps were used up; 2 the quadrature does not resolve the log joint; 4 no step
        raises the ELBO; 12, 13, 14: the log joint was NaN, +inf, -inf where q has mass; the point is in
        space.where.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastvi import kernels
    >>> @njit
    ... def log_joint(z, x):
    ...     return -z[0] - 0.5 * (x - z[0]) ** 2
    >>> start, report = np.array([1.0, 2.0]), np.empty(8)
    >>> kernels.truncated.fit_truncated(log_joint, (2.0,), 0.0, math.inf, start, 1e-10, 100,
    ...                                 kernels.truncated.workspace(), np.empty(0), report)
    0
    >>> start.round(9)
    array([1., 1.])
    """
    data, start, trace, report = borrow((data, start, trace, report))
    space = named(Workspace, borrow(space))
    mu, sigma = start[0], start[1]
    sums, trial = space.sums, space.trial
    status, evaluations, steps = STEPS_EXHAUSTED, 0, 0
    fault_, value, error, n = elbo(log_joint, data, mu, sigma, low, high, rtol, space, sums)
    evaluations += n
    norm = math.inf
    if fault_ != FINE:
        status = fault_
    for _ in range(most_steps):
        if status >= RAISED:
            break
        window = _window(mu, sigma, low, high)
        centre, scale = window.centre, window.scale
        old1, old2, d1, d2, norm = _natural_gradient(sums, mu, sigma, centre, scale)
        if not norm < math.inf:
            status = STUCK
            break
        if norm <= rtol:
            status = CONVERGED if error <= rtol * (1.0 + abs(value)) + LEAST_ERROR else UNRESOLVED
            break
        rho, moved = 1.0, False
        for _ in range(MOST_TRIES):
            new2 = old2 + rho * d2
            new1 = old1 + rho * d1
            if new2 < LEAST_PRECISION * old2:
                new_sigma = scale / math.sqrt(-2.0 * new2)
                new_mu = centre - scale * new1 / (2.0 * new2)
                fault_, new_value, new_error, n = elbo(
                    log_joint, data, new_mu, new_sigma, low, high, rtol, space, trial
                )
                evaluations += n
                if fault_ == FINE and new_value >= value - DOUBT * (error + new_error):
                    moved = True
                    break
            rho *= 0.5
        if not moved:
            status = fault_ if fault_ != FINE else STUCK
            break
        mu, sigma, value, error = new_mu, new_sigma, new_value, new_error
        copy_vector(trial, sums)
        if steps < trace.size:
            trace[steps] = value
        steps += 1
    start[0], start[1] = mu, sigma
    found = Report(
        elbo=value,
        error=error,
        gradient_norm=norm,
        evaluations=evaluations,
        status=status,
        steps=steps,
        parameter_error=norm,
        sides=0,
    )
    return write_report(found, report)

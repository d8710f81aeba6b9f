"""What nodes do not see under a fitted q: gaps of zero density between them, and a tail beyond them.

A gap makes the ELBO of a q with mass there -inf, and so does a log joint like -exp(exp(z)).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..compiler import adder, formula, inlined, kernel
from ..models.calling import tabulate
from ..models.evaluation import BLOCK, evaluate, evaluate_or_zero, fault, status_of
from ..statuses import FINE, RAISED, UNRESOLVED

#: Points on a line are within so many of q's deviations from its mean: where its density is above exp(-32) of
#: the largest.
REACH = 8.0


class Steps(NamedTuple):
    """Points under a standard Gaussian in one or two dimensions."""

    between: Any  #: (R, N) between nodes
    beyond: Any  #: (R, M) farther out than nodes are
    limits: Any  #: (M,) what the log joint must not exceed there, see `outgrows`


@formula
def _place_1(x, mean, a, points):
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]


@formula
def _place_2(x, y, mean, other, a, b, c, points):
    for n in range(x.size):
        points[n, 0] = mean + a * x[n]
        points[n, 1] = other + (b * x[n] + c * y[n])


@inlined
def _place(steps, low, end, mean, factor, points):
    """Write mean + factor e for some steps e: a loop that reads the factor from memory is not vectorised."""
    x = steps[0, low:end]
    if mean.size == 1:
        _place_1(x, mean[0], factor[0, 0], points)
    else:
        y = steps[1, low:end]
        _place_2(x, y, mean[0], mean[1], factor[0, 0], factor[1, 0], factor[1, 1], points)


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
def _look_between(log_joint, problem, mean, factor, steps, panel):
    """The status of the first point under N(mean, factor factor') whose log joint is not finite, or FINE."""
    for low in range(0, steps.shape[1], BLOCK):
        n = min(BLOCK, steps.shape[1] - low)
        _place(steps, low, low + n, mean, factor, panel.latent)
        if evaluate(log_joint, problem, n, panel) != FINE:
            return RAISED
        if not _are_finite(panel.log_joint[:n]):
            return fault(problem, n, panel)
    return FINE


@inlined
def _look_beyond(log_joint, problem, mean, factor, steps, limits, panel):
    """UNRESOLVED where the log joint outgrows q, or FINE."""
    count = steps.shape[1]
    _place(steps, 0, count, mean, factor, panel.latent)
    evaluate_or_zero(log_joint, problem, count, panel)
    for n in range(count):
        if _outgrows(panel.values[n], limits[n]):
            return UNRESOLVED
    return FINE


@inlined
def look(log_joint, problem, mean, factor, steps, panel):
    """(A fault at points between nodes, UNRESOLVED where the log joint outgrows q, or FINE; points).

    The place of a fault is in `panel.where`.
    """
    used = steps.between.shape[1]
    status = _look_between(log_joint, problem, mean, factor, steps.between, panel)
    if status == FINE:
        used += steps.beyond.shape[1]
        status = _look_beyond(log_joint, problem, mean, factor, steps.beyond, steps.limits, panel)
    return status, used


@inlined
def look_truncated(log_joint, data, mu, sigma, low, high, count, space):
    """A fault at so many points of N(mu, sigma**2) truncated to [low, high], or FINE.

    They are at equal distances inside of the ends, or of where the density is exp(-REACH**2 / 2) of the
    largest. The place of a fault is in `space.where`, and `space` a `truncated_fits.Workspace`.
    """
    reach, mode = REACH * sigma, min(max(mu, low), high)
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
            return RAISED
        if not _are_finite(values[:n]):
            for k in range(n):
                if status_of(values[k]) != FINE:
                    space.where[0] = nodes[k, 0]
                    return status_of(values[k])
    return FINE

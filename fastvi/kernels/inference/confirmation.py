"""The log density on lines through the mean of a fitted Gaussian q: may another q be better?

Newton's method from Laplace's approximation finds the maximum of the ELBO of a log-concave posterior, which
has no other. So q is the best of its family where the log density on the lines is that of one peak, and
concave, or q near to it by a rough integral. Far out along each coordinate it must fall off as that of a
posterior with a finite evidence does: a peak may stand on tails that do not end.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import inlined, kernel
from ..models.evaluation import evaluate_or_zero
from ..numerics.matrices import half_log_det

#: Distances on the lines, in q's deviations.
DISTANCES = (0.4, 0.8, 1.3, 2.0, 3.0, 4.5, 6.5, 10.0, 16.0, 28.0, 50.0, 100.0, 250.0, 700.0)
STEPS = np.array([-d for d in reversed(DISTANCES)] + [0.0, *DISTANCES])
COUNT = STEPS.size
_INVERSE = 1.0 / np.diff(STEPS)

#: Lines through q in the plane, at equal angles.
LINES = 8
_ANGLES = np.arange(LINES) * (math.pi / LINES)
DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

#: KL(q || p), from a rough estimate of the evidence, below which q is taken for the best of its family.
CLOSE = 0.5

#: Log densities so much below the largest do not count: they change no ELBO visibly.
_DEEP = 25.0

#: Distances along the coordinates, in q's deviations, between which the tails are compared: farther out than
#: any prior is wide, and squares are floats.
FAR = (1e3, 1e6)

#: A tail is too slow where its log density falls by no more than that of 1 / |z| between these distances,
#: and this many nats: of 1 / |z| there is as much mass in each distance, and what falls off as |z| to the
#: power of -1.1 loses 0.7.
MARGIN = 0.1
UNIT_FALL = math.log(FAR[1] / FAR[0])

#: Slopes that rise by less than this share of their size are rounded.
_ROUNDING = 1e-6

#: Interpolation in the logarithm divides by the change over a step, if it is above this.
_LEAST_CHANGE = 1e-3


@kernel
def _is_concave(line, top):
    """Whether the values are those of a concave function, where they count."""
    before = (line[1] - line[0]) * _INVERSE[0]
    for i in range(1, COUNT - 1):
        after = (line[i + 1] - line[i]) * _INVERSE[i]
        if after - before > _ROUNDING * (abs(after) + abs(before) + 1.0) and line[i] > top - _DEEP:
            return False
        before = after
    return True


@kernel
def _has_one_peak(line):
    """Whether the values rise up to the largest, and fall from there."""
    peak = 0
    for i in range(COUNT):
        peak = i if line[i] > line[peak] else peak
    for first, step in ((0, 1), (COUNT - 1, -1)):
        highest = -math.inf
        for i in range(first, peak, step):
            if line[i] < highest - _ROUNDING * (1.0 + abs(highest)):
                return False
            highest = max(highest, line[i])
    return True


@kernel
def _integral(line, top, dim):
    """The integral of exp(line - top), times the distance in the plane, by logarithmic interpolation."""
    total = 0.0
    for i in range(1, COUNT):
        a, b = line[i - 1] - top, line[i] - top
        mean = math.exp(a)
        if a == -math.inf or b == -math.inf:
            mean = 0.0
        elif abs(b - a) > _LEAST_CHANGE:
            mean = (math.exp(b) - math.exp(a)) / (b - a)
        weight = 1.0 if dim == 1 else 0.5 * (abs(STEPS[i - 1]) + abs(STEPS[i]))
        total += weight * mean * (STEPS[i] - STEPS[i - 1])
    return total


@kernel
def log_mass(values, top, dim):
    """The logarithm of the integral of the density in units of the distances, to some per cent.

    The values are those on each line, one line after another.
    """
    total, lines = 0.0, values.size // COUNT
    for k in range(lines):
        total += _integral(values[k * COUNT : (k + 1) * COUNT], top, dim)
    if dim == 2:
        total *= math.pi / lines
    return top + math.log(total) if total > 0.0 else -math.inf


@kernel
def _place(mean, chol, points):
    """Write the points on the lines through N(mean, chol chol')."""
    for line in range(points.shape[0] // COUNT):
        for i in range(mean.size):
            along = 0.0
            for j in range(i + 1):
                along += DIRECTIONS[line, j] * chol[i, j]
            for n in range(COUNT):
                points[line * COUNT + n, i] = mean[i] + STEPS[n] * along


@kernel
def _shows_the_best(values, chol, elbo):
    """Whether the log densities on the lines show that q, with this ELBO, is the best of its family."""
    top, concave = -math.inf, True
    for n in range(values.size):
        top = max(top, values[n])
    for low in range(0, values.size, COUNT):
        line = values[low : low + COUNT]
        if not _has_one_peak(line):
            return False
        concave = concave and _is_concave(line, top)
    dim = chol.shape[0]
    return concave or log_mass(values, top, dim) + half_log_det(chol) - elbo < CLOSE


@kernel
def _place_far(mean, chol, points):
    """Write the points far out, by coordinate: to the left and to the right, near and then far."""
    n = 0
    for i in range(mean.size):
        square = 0.0
        for j in range(i + 1):
            square += chol[i, j] * chol[i, j]
        deviation = math.sqrt(square)
        for side in (-deviation, deviation):
            for distance in FAR:
                for k in range(mean.size):
                    points[n, k] = mean[k]
                points[n, i] += distance * side
                n += 1


def is_slow(fall, dim):
    """Whether a log density that falls so much between the two distances is too slow in `dim` directions.

    A fall from -inf to -inf is NaN, and too slow for none: nothing is known of it. Plain, for Python calls it
    as well, where compiling it would take longer than all calls.
    """
    return fall <= dim * UNIT_FALL + MARGIN


_is_slow = kernel(is_slow)


@kernel
def _has_light_tails(values, dim):
    """Whether no tail along a coordinate, nor all of them together, has infinite mass."""
    slow = True
    for n in range(0, values.size, 2):
        fall = values[n] - values[n + 1]
        if _is_slow(fall, 1):
            return False
        slow = slow and _is_slow(fall, dim)
    return not slow


@inlined
def has_light_tails(log_joint, problem, mean, chol, panel):
    """(Whether no tail far out of N(mean, chol chol') along a coordinate has infinite mass, points)."""
    end = 4 * mean.size
    _place_far(mean, chol, panel.latent[:end])
    evaluate_or_zero(log_joint, problem, end, panel)
    return _has_light_tails(panel.values[:end], mean.size), end


@inlined
def confirms(log_joint, problem, mean, chol, elbo, panel):
    """(Whether the log density shows no better q than N(mean, chol chol'), points), in one panel."""
    dim = mean.size
    count = COUNT if dim == 1 else LINES * COUNT
    end = count + 4 * dim
    _place(mean, chol, panel.latent[:count])
    _place_far(mean, chol, panel.latent[count:end])
    evaluate_or_zero(log_joint, problem, end, panel)
    best = _shows_the_best(panel.values[:count], chol, elbo)
    return best and _has_light_tails(panel.values[count:end], dim), end

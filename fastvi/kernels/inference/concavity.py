"""The shape of a log density on lines through the mean of a Gaussian q, from its values there."""

from __future__ import annotations

import math

from ..compiler import kernel

#: Log densities so much below the largest do not count: what is there is not seen by q, nor by another.
_DEEP = 25.0

#: Slopes that rise by less than this share of their size are rounded.
_ROUNDING = 1e-6


@kernel
def _is_concave(line, steps, top):
    """Whether the values are those of a concave function, where they count."""
    for i in range(1, steps.size - 1):
        before = (line[i] - line[i - 1]) / (steps[i] - steps[i - 1])
        after = (line[i + 1] - line[i]) / (steps[i + 1] - steps[i])
        if after - before > _ROUNDING * (abs(after) + abs(before) + 1.0) and line[i] > top - _DEEP:
            return False
    return True


@kernel
def _has_one_peak(line):
    """Whether the values rise up to the largest, and fall from there."""
    peak = 0
    for i in range(line.size):
        peak = i if line[i] > line[peak] else peak
    for first, step in ((0, 1), (line.size - 1, -1)):
        highest = -math.inf
        for i in range(first, peak, step):
            if line[i] < highest - _ROUNDING * (1.0 + abs(highest)):
                return False
            highest = max(highest, line[i])
    return True


@kernel
def _integral(line, steps, top, dim):
    """The integral of exp(line - top), times the distance in the plane, by logarithmic interpolation."""
    total = 0.0
    for i in range(1, steps.size):
        a, b = line[i - 1] - top, line[i] - top
        mean = math.exp(a)
        if a == -math.inf or b == -math.inf:
            mean = 0.0
        elif abs(b - a) > 1e-3:
            mean = (math.exp(b) - math.exp(a)) / (b - a)
        weight = 1.0 if dim == 1 else 0.5 * (abs(steps[i - 1]) + abs(steps[i]))
        total += weight * mean * (steps[i] - steps[i - 1])
    return total


@kernel
def shape_on_lines(values, steps, dim):
    """(Whether there is one peak on each line, whether it is concave on each, the logarithm of the integral).

    The values are at distances `steps` on each line, one line after another; lines in the plane at equal
    angles. The integral is that of the density in units of the distances, to some per cent.
    """
    n, top = steps.size, -math.inf
    for i in range(values.size):
        top = max(top, values[i])
    one_peak, concave, total = True, True, 0.0
    for low in range(0, values.size, n):
        line = values[low : low + n]
        one_peak = one_peak and _has_one_peak(line)
        concave = concave and _is_concave(line, steps, top)
        total += _integral(line, steps, top, dim)
    if dim == 2:
        total *= math.pi * n / values.size
    return one_peak, concave, top + math.log(total) if total > 0.0 else -math.inf

"""Newton's steps in a trust region, from first and second derivatives; for `refinements`.

The step minimises the quadratic model among those that are as long as the trust at most, in a diagonal metric
M: (H + damping M) step = -gradient. J. J. Moré, D. C. Sorensen, Computing a Trust Region Step, SIAM J. Sci.
Stat. Comput. 4 (1983).

`space` has gradient, metric, direction (the step), solution, factor, and curvature.matrix, of which the lower
half is read.
"""

from __future__ import annotations

import math

from ..compiler import kernel
from ..numerics.matrices import add_scaled, dot

#: Damping that is always there: along directions with next to no curvature the step would be rounding. With
#: 1e-9 a relative change of 1e-15 in p changed densities of q by 1e-7, with this by 1e-13.
RIDGE = 1e-7

#: The first damping that is tried where the second derivatives are not positive definite, the factor to the
#: next one, and the most that are tried.
FIRST_DAMPING, STIFFER, MOST_TRIALS = 0.05, 5.0, 40

#: Dampings this close, of which one is too small and with the other the step is short, are not told apart.
CLOSE = 0.1

#: The length of a damped step, in units of the trust, is between these.
LEAST_LENGTH, MOST_LENGTH = 0.7, 1.2

#: A step is taken where it gains this share of what it promised.
LEAST_RATIO = 1e-3

#: The trust shrinks below the first of these ratios of gain and promise, and grows above the second.
POOR, FINE = 0.25, 0.85

#: Factors of the trust.
SHRINK, GROW = 0.4, 1.6


@kernel
def _factorise(damping, space):
    """Write the factor of the damped second derivatives, the diagonal inverted; the rows that it has."""
    factor, matrix, metric = space.factor, space.curvature.matrix, space.metric
    for i in range(metric.size):
        for j in range(i):
            factor[i, j] = (matrix[i, j] - dot(factor[i, :j], factor[j, :j])) * factor[j, j]
        s = matrix[i, i] + (damping + RIDGE) * metric[i] - dot(factor[i, :i], factor[i, :i])
        if not 0.0 < s < math.inf:
            return i
        factor[i, i] = 1.0 / math.sqrt(s)
    return metric.size


@kernel
def _solve_lower(factor, vector):
    for i in range(vector.size):
        vector[i] = (vector[i] - dot(factor[i, :i], vector[:i])) * factor[i, i]


@kernel
def _solve_upper(factor, vector):
    for i in range(vector.size - 1, -1, -1):
        vector[i] *= factor[i, i]
        add_scaled(-vector[i], factor[i, :i], vector[:i])


@kernel
def solve(space):
    """Write the step for the last factor; what it promises to second order."""
    step = space.direction
    for i in range(step.size):
        step[i] = -space.gradient[i]
    _solve_lower(space.factor, step)
    promised = 0.5 * dot(step, step)
    _solve_upper(space.factor, step)
    return promised


@kernel
def length_of(space):
    """The length of the step in the metric."""
    s = 0.0
    for i in range(space.metric.size):
        s += space.metric[i] * space.direction[i] * space.direction[i]
    return math.sqrt(s)


@kernel
def _next_damping(damping, length, trust, space):
    """Newton's step for 1 / length = 1 / trust, of which the length is almost linear."""
    solution = space.solution
    for i in range(solution.size):
        solution[i] = space.metric[i] * space.direction[i]
    _solve_lower(space.factor, solution)
    return damping + (length / trust - 1.0) * length * length / dot(solution, solution)


@kernel
def _add_negative_curvature(row, trust, length, space):
    """Lengthen the step to the trust, along a direction that the factor without this row shows to curve down.

    Where the gradient has nothing in that direction, no damping makes the step as long.
    """
    direction, factor, metric = space.solution, space.factor, space.metric
    for i in range(direction.size):
        direction[i] = -factor[row, i] if i < row else 0.0
    _solve_upper(factor[:row], direction[:row])
    direction[row] = 1.0
    square, slope = 0.0, 0.0
    for i in range(row + 1):
        square += metric[i] * direction[i] * direction[i]
        slope += space.gradient[i] * direction[i]
    size = math.sqrt((trust * trust - length * length) / square)
    add_scaled(-size if slope > 0.0 else size, direction, space.direction)


@kernel
def _promise(space):
    """How far the step lowers the quadratic model."""
    step, matrix = space.direction, space.curvature.matrix
    s = 0.0
    for i in range(step.size):
        s -= step[i] * (space.gradient[i] + dot(matrix[i, :i], step[:i]) + 0.5 * matrix[i, i] * step[i])
    return s


@kernel
def find_step(trust, damping, space):
    """Write a step that is about as long as the trust at most; (what it promises, length, damping).

    Tried first are no damping and then the damping that is given, that of the last step.
    """
    low, high, tried, length, size = 0.0, math.inf, 0.0, 0.0, space.metric.size
    for _ in range(MOST_TRIALS):
        rows = _factorise(tried, space)
        new = 0.0
        if rows == size:
            solve(space)
            length = length_of(space)
            if length <= MOST_LENGTH * trust and (tried == 0.0 or length >= LEAST_LENGTH * trust):
                break
            new = _next_damping(tried, length, trust, space)
            if length <= trust:
                high = tried
                if high - low <= CLOSE * high:
                    rows = _factorise(low, space)
                    if rows < size:
                        _add_negative_curvature(rows, trust, length, space)
                        length = trust
                    break
        if not (rows == size and length <= trust):
            low = tried
        if low < new < high:
            tried = new
        elif high < math.inf:
            tried = math.sqrt(low * high) if low > 0.0 else high / STIFFER
        else:
            tried = STIFFER * low if low > 0.0 else max(damping, FIRST_DAMPING)
    return _promise(space), length, tried


@kernel
def next_trust(trust, length, ratio):
    """The trust after a step with this ratio of gain and promise."""
    if not ratio >= POOR:
        return SHRINK * min(trust, length)
    return GROW * trust if ratio > FINE and length > LEAST_LENGTH * trust else trust

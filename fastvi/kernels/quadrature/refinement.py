"""The lattice of an expectation: rotated to the sharpest direction, halved until two values agree.

A mixture has two scales besides that of the Gaussian itself. A component narrower than it would slip through
a coarse lattice unseen, so the first step is never longer than its width; components that cannot matter
are left out, and by how much they could is added to the error. The change from one component to the next
is as sharp as they are far apart, which halving the steps brings out. Both have a direction.
"""

from __future__ import annotations

import math

from ..compiler import inlined, kernel, merged
from ..densities.mixtures import DROPPED
from ..numerics.matrices import cholesky, copy_vector, half_log_det, solve_lower
from .lattice import size
from .moments import MOMENTS, MOST_NODES, RADIUS, integrate_difference, integrate_own

#: What leaving out one component may change.
NEGLIGIBLE = 1e-12

#: Only components sharper than this are left out: others ask for no finer lattice.
SHARP = 2.0

#: Sweeps of Jacobi's rotations, and what may be left beside the diagonal: the axes need not be exact.
SWEEPS, DIAGONAL = 8, 1e-9

#: The smallest ball, and the step to the next one.
LEAST_RADIUS, RADIUS_STEP = 5.5, 0.25

#: A change that no second halving confirms counts so many times.
UNCONFIRMED = 4.0

#: The error after a halving is so many times the change**3 / last**2 that theory leaves.
MARGIN = 100.0

#: Rounding in an expectation, relative to the logarithms in it, and how large these are at least.
ROUNDING, LEAST_LOGARITHM = 8.8e-16, 8.0


@kernel
def _log_influence(row, other, dim, matrix, vector):
    """log E sqrt(f_j / f_i) for two components: E log(1 + f_j / f_i) is at most E sqrt(f_j / f_i)."""
    constant = 0.5 * (row[0] - other[0])
    for a in range(dim):
        constant += 0.25 * (other[1 + a] * other[1 + a] - row[1 + a] * row[1 + a])
        vector[a] = 0.0
        for e in range(dim):
            vector[a] += 0.5 * (other[4 + 3 * e + a] * other[1 + e] - row[4 + 3 * e + a] * row[1 + e])
        for b in range(a + 1):
            s = 1.0 if a == b else 0.0
            for e in range(dim):
                s += 0.5 * row[4 + 3 * e + a] * row[4 + 3 * e + b]
                s -= 0.5 * other[4 + 3 * e + a] * other[4 + 3 * e + b]
            matrix[a, b] = s
    if not cholesky(matrix[:dim, :dim], matrix[:dim, :dim]):
        return math.inf
    solve_lower(matrix[:dim, :dim], vector[:dim])
    for a in range(dim):
        constant += 0.5 * vector[a] * vector[a]
    return constant - half_log_det(matrix[:dim, :dim])


@kernel
def _column(row, a, dim):
    """The sharpness of a component along an axis."""
    s = 0.0
    for e in range(dim):
        s += row[4 + 3 * e + a] * row[4 + 3 * e + a]
    return math.sqrt(s)


@kernel
def leave_out(coefficients, dim, space):
    """Leave out sharp components that cannot matter; a bound of what that changes."""
    bound = 0.0
    components = coefficients.shape[0]
    for j in range(components):
        sharp = 0.0
        for a in range(dim):
            sharp = max(sharp, _column(coefficients[j], a, dim))
        if sharp < SHARP or coefficients[j, 0] == DROPPED:
            continue
        for i in range(components):
            if i != j and coefficients[i, 0] > DROPPED:
                influence = _log_influence(
                    coefficients[j], coefficients[i], dim, space.matrices.precision, space.vectors
                )
                if influence < math.log(NEGLIGIBLE):
                    bound += math.exp(influence)
                    coefficients[j, 0] = DROPPED
                    break
    return bound


@kernel
def set_steps(first, second, dim, step, radius, most, steps):
    """Write steps no longer than the components are wide; False if that takes more than `most` nodes."""
    for a in range(dim):
        sharp = 1.0
        for coefficients in (first, second):
            if coefficients.shape[0] > 1:
                for k in range(coefficients.shape[0]):
                    if coefficients[k, 0] > DROPPED:
                        sharp = max(sharp, _column(coefficients[k], a, dim))
        steps[a] = step / sharp
    count = size(steps, radius, dim)
    if count <= most:
        return True
    for a in range(dim):
        steps[a] = min(step, steps[a] * (count / most) ** (1.0 / dim))
    return False


@kernel
def tail(first, second, dim, radius):
    """A bound of what lies outside the ball.

    Without `first` it holds for log p - log f_m as well, which is what `rows` sums: that is the larger of the
    two where q is wide and f_m is narrow.
    """
    # P(|xi| > r) < r exp(-r**2 / 2) in up to three dimensions, and |xi|**2 is r**2 + 2 on average there.
    mass = max(radius, 1.0) * math.exp(-0.5 * radius * radius)
    square = radius * radius + 2.0
    extent = 0.0
    for coefficients in (first, second):
        least, most, main, top = math.inf, -math.inf, 0.0, -math.inf
        for k in range(coefficients.shape[0]):
            row = coefficients[k]
            if row[0] == DROPPED:
                continue
            sharp, offset = 0.0, 0.0
            for a in range(dim):
                sharp += _column(row, a, dim) ** 2
                offset += row[1 + a] * row[1 + a]
            low = 0.5 * (math.sqrt(sharp * square) + math.sqrt(offset)) ** 2 - row[0]
            least, most = min(least, low), max(most, row[0])
            if row[0] - 0.5 * offset > top:
                main, top = low, row[0] - 0.5 * offset
        if coefficients.shape[0] > 0:
            many = math.log(coefficients.shape[0])
            extent += max(least, abs(most) + many)
            if first.shape[0] == 0:
                extent = max(extent, main + most + many)
    return mass * extent


@inlined
def _gradient_change(one, two, dim):
    """How much the gradient differs between two sets of moments."""
    s = 0.0
    places = (1, 5, 25)
    for a in range(dim):
        s += (one[places[a]] - two[places[a]]) ** 2
        for b in range(a + 1):
            d = one[places[a] + places[b]] - two[places[a] + places[b]]
            s += (d - one[0] + two[0]) ** 2 if a == b else d * d
    return math.sqrt(s)


@kernel
def _halve(first, second, dim, axis, radius, space, value):
    """(the value for half the step along an axis, the nodes that this adds); the step is halved."""
    steps, shift = space.lattice.steps, space.lattice.shift
    shift[axis] = 0.5
    added, nodes = integrate_difference(first, second, dim, steps, shift, radius, space)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    return 0.5 * (added + value), nodes


@kernel
def refine(first, second, dim, radius, atol, space, value):
    """Halve the steps, one axis at a time, until E[log first - log second] holds: (value, error, nodes).

    `value` is that of the lattice at the start. The change that halving a step makes is the error before it.
    A change may be small by accident where a lattice misses what is sharp, so the value must hold for two
    halvings, and their changes are the error.
    """
    steps = space.lattice.steps
    error, nodes, tolerance = 0.0, 0, atol / dim
    for axis in range(dim):
        left = math.inf
        while size(steps, radius, dim) <= MOST_NODES:
            finer, n = _halve(first, second, dim, axis, radius, space, value)
            nodes += n
            left = abs(finer - value)
            if left <= tolerance:
                if size(steps, radius, dim) > MOST_NODES:
                    left *= UNCONFIRMED
                    steps[axis] *= 2.0
                    break
                finest, n = _halve(first, second, dim, axis, radius, space, finer)
                nodes += n
                left_again = abs(finest - finer)
                steps[axis] *= 2.0
                if left_again <= tolerance:
                    # The finer of the two is kept: the axes after this one may need it.
                    left = 2.0 * max(left_again, left)
                    value = finer
                    break
            value = finer
        error += left
    return value, error, nodes


@merged
def _halve_own(second, own, dim, axis, radius, space, moments, finer):
    """Write to `finer` the moments for half the step along an axis, which is halved; the nodes added."""
    steps, shift = space.lattice.steps, space.lattice.shift
    shift[axis] = 0.5
    nodes = integrate_own(second, own, dim, steps, shift, radius, space, finer)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    for i in range(MOMENTS):
        finer[i] = 0.5 * (finer[i] + moments[i])
    return nodes


@merged
def refine_own(second, own, dim, radius, rtol, atol, gradient_tolerance, space, moments):
    """Halve the steps, one axis at a time, until the moments of log q - log p hold.

    Returned: (error, error of the gradient, what the last halving changed in it, nodes, whether they hold).
    The lattice fits q, so one small change will do, or two that get smaller: halving squares the error,
    relative to its size at the start, so with a change before, of size `last`, what remains is about
    change**3 / last**2; a hundred times that, and at most change**2 / last, is counted. The lattice before
    the last halving is left in ``space.lattice.coarse_steps``, and its moments in ``space.halving.coarse``.
    """
    steps, finer = space.lattice.steps, space.halving.fine
    error, gradient_error, gradient_change, nodes, holds = 0.0, 0.0, 0.0, 0, True
    _keep(moments, space)
    for axis in range(dim):
        before, gradient_before = math.inf, math.inf
        while True:
            left, gradient_left = before, gradient_before
            if size(steps, radius, dim) > MOST_NODES:
                holds = False
                break
            nodes += _halve_own(second, own, dim, axis, radius, space, moments, finer)
            change, gradient = abs(finer[0] - moments[0]), _gradient_change(finer, moments, dim)
            tolerance = (rtol * abs(finer[0]) + atol) / dim
            steps[axis] *= 2.0
            left, gradient_left = change, gradient
            if change <= tolerance and gradient <= gradient_tolerance / dim:
                # The coarser lattice would have done.
                break
            _keep(moments, space)
            gradient_change = gradient
            steps[axis] *= 0.5
            copy_vector(finer, moments)
            left, gradient_left = _left(change, before), _left(gradient, gradient_before)
            if left <= tolerance and gradient_left <= gradient_tolerance / dim:
                break
            before, gradient_before = change, gradient
        error += left
        gradient_error += gradient_left
    return error, gradient_error, gradient_change, nodes, holds


@merged
def _keep(moments, space):
    """Keep the last lattice but one, and its moments."""
    copy_vector(moments, space.halving.coarse)
    copy_vector(space.lattice.steps, space.lattice.coarse_steps)


@inlined
def _left(change, last):
    """The error after a halving that changed so much, when the one before changed `last`."""
    if change == 0.0:
        return 0.0
    ratio = min(1.0, change / last) if last < math.inf else 1.0
    return change * ratio * min(1.0, MARGIN * ratio)


@kernel
def ball(first, second, dim, tolerance):
    """The least radius (in steps of RADIUS_STEP) outside of which there is less than `tolerance`."""
    radius = LEAST_RADIUS
    while radius < RADIUS and tail(first, second, dim, radius) > tolerance:
        radius += RADIUS_STEP
    return radius


@kernel
def rounding(first, second):
    """What rounding may have left in an expectation: a few times 2**-53 of the logarithms' size."""
    size_ = LEAST_LOGARITHM
    for coefficients in (first, second):
        for k in range(coefficients.shape[0]):
            if coefficients[k, 0] > DROPPED:
                size_ = max(size_, abs(coefficients[k, 0]))
    return ROUNDING * size_

"""Lattice of an expectation under a Gaussian: first steps, ball, and halving until the value converges.

Used by `mixture_kl` and by projections of mixtures; the expectation on one lattice is in `moments`.

A mixture has two scales besides that of the Gaussian. A component narrower than the Gaussian could fall
between the nodes of a coarse lattice, so the first step is no longer than its width; components with a
negligible influence are dropped, and a bound of the influence is added to the error. Where two components
have the same density, the curvature of the log density grows with their distance; halving the steps resolves
that. Both depend on the direction, see `rotation`.
"""

from __future__ import annotations

import math

from ..compiler import inlined, kernel
from ..densities.mixtures import DROPPED
from ..numerics.matrices import cholesky, clear_vector, copy_vector, half_log_det, solve_lower
from .lattice import size
from .moments import MOMENTS, MOST_NODES, RADIUS, integrate_moments, integrate_value

#: Influence on the expectation below which a component is dropped.
NEGLIGIBLE = 1e-12

#: Only components sharper than this are dropped: others do not need a finer lattice.
SHARP = 2.0

#: Radius of the smallest ball, and its increment.
LEAST_RADIUS, RADIUS_STEP = 5.5, 0.25

#: Factor of the error estimate where no second halving confirms the change of the first.
UNCONFIRMED_FACTOR = 4.0

#: Safety factor of the theoretical error after a halving, change**3 / last**2.
MARGIN = 100.0

#: Share of the tolerance for what is outside of the ball.
TAIL_SHARE = 0.1

#: Rounding error of a gradient over that of the value: the least gradient tolerance.
GRADIENT_ROUNDING = 100.0

#: Relative rounding error of a divergence.
VALUE_ROUNDING = 4.4e-16

#: Rounding error of an expectation relative to the logarithms in it, and their least size.
ROUNDING, LEAST_LOGARITHM = 8.8e-16, 8.0


@kernel
def _log_influence(row, other, dim, matrix, vector):
    """log E sqrt(f_j / f_i) for two components: E log(1 + f_j / f_i) is at most E sqrt(f_j / f_i).

    `row` and `other` are the coefficients of f_j and f_i.
    """
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
def _sharpness(row, a, dim):
    """Sharpness of a component along an axis: the inverse of its width there, given the other coordinates."""
    s = 0.0
    for e in range(dim):
        s += row[4 + 3 * e + a] * row[4 + 3 * e + a]
    return math.sqrt(s)


@kernel
def drop_negligible(coefficients, dim, space):
    """Drop sharp components of negligible influence; a bound of the change of the expectation."""
    bound = 0.0
    components = coefficients.shape[0]
    for j in range(components):
        sharp = 0.0
        for a in range(dim):
            sharp = max(sharp, _sharpness(coefficients[j], a, dim))
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
    """Write steps no longer than the components are wide; False if that takes more than `most` nodes.

    Then the steps are scaled to about `most` nodes. Along an axis beyond `dim` all nodes are at 0.
    """
    clear_vector(steps)
    for a in range(dim):
        sharp = 1.0
        for coefficients in (first, second):
            if coefficients.shape[0] > 1:
                for k in range(coefficients.shape[0]):
                    if coefficients[k, 0] > DROPPED:
                        sharp = max(sharp, _sharpness(coefficients[k], a, dim))
        steps[a] = step / sharp
    count = size(steps, radius, dim)
    if count <= most:
        return True
    for a in range(dim):
        steps[a] = min(step, steps[a] * (count / most) ** (1.0 / dim))
    return False


@kernel
def tail(first, second, dim, radius):
    """Bound of the part of the expectation that is outside of the ball.

    With no `first` it bounds that of log p - log f_m as well, which is what `lattice_rows` sums: it is the
    larger one where q is wide and f_m is narrow.
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
                sharp += _sharpness(row, a, dim) ** 2
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
    """Length of the difference of the gradients from two sets of moments."""
    s = 0.0
    places = (1, 5, 25)
    for a in range(dim):
        s += (one[places[a]] - two[places[a]]) ** 2
        for b in range(a + 1):
            d = one[places[a] + places[b]] - two[places[a] + places[b]]
            s += (d - one[0] + two[0]) ** 2 if a == b else d * d
    return math.sqrt(s)


@kernel
def _halve_value(first, second, dim, axis, radius, space, value):
    """Halve the step along an axis: (the value, the number of nodes that this adds)."""
    steps, shift = space.lattice.steps, space.lattice.shift
    shift[axis] = 0.5
    added, nodes = integrate_value(first, second, dim, steps, shift, radius, space)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    return 0.5 * (added + value), nodes


@kernel
def refine_value(first, second, dim, radius, atol, space, value):
    """Halve the steps, axis by axis, until E[log first - log second] converges: (value, error, nodes).

    `value` is that of the initial lattice. The change made by a halving is the error before it. It may be
    small by accident where the lattice misses a sharp feature, so two successive changes must be within the
    tolerance; the error is twice the larger one.
    """
    steps = space.lattice.steps
    error, nodes, tolerance = 0.0, 0, atol / dim
    for axis in range(dim):
        left = math.inf
        while size(steps, radius, dim) <= MOST_NODES:
            finer, n = _halve_value(first, second, dim, axis, radius, space, value)
            nodes += n
            left = abs(finer - value)
            if left <= tolerance:
                if size(steps, radius, dim) > MOST_NODES:
                    left *= UNCONFIRMED_FACTOR
                    steps[axis] *= 2.0
                    break
                finest, n = _halve_value(first, second, dim, axis, radius, space, finer)
                nodes += n
                left_again = abs(finest - finer)
                steps[axis] *= 2.0
                if left_again <= tolerance:
                    # Keep the first of the two halvings: the axes after this one may need it.
                    left = 2.0 * max(left_again, left)
                    value = finer
                    break
            value = finer
        error += left
    return value, error, nodes


@kernel
def _halve_moments(second, log_peak, dim, axis, radius, space, moments, finer):
    """Halve the step along an axis: write the moments to `finer`; the number of nodes that this adds."""
    steps, shift = space.lattice.steps, space.lattice.shift
    shift[axis] = 0.5
    nodes = integrate_moments(second, log_peak, dim, steps, shift, radius, space, finer)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    for i in range(MOMENTS):
        finer[i] = 0.5 * (finer[i] + moments[i])
    return nodes


@kernel
def refine_moments(second, log_peak, dim, radius, rtol, atol, gradient_tolerance, space, moments):
    """Halve the steps, axis by axis, until the moments of log q - log p converge.

    Returned: (error, error of the gradient, change of the gradient by the last halving, nodes, converged).
    The lattice is in the frame of q, so unlike `refine_value` it needs no second small change. Halving a step
    squares the relative error, so after changes `last` and `change` the error is about change**3 / last**2.
    The estimate is MARGIN times that, and at most change**2 / last. The steps before the last halving are
    written to ``space.lattice.coarse_steps``, their moments to ``space.halving.coarse``.
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
            nodes += _halve_moments(second, log_peak, dim, axis, radius, space, moments, finer)
            change, gradient = abs(finer[0] - moments[0]), _gradient_change(finer, moments, dim)
            tolerance = (rtol * abs(finer[0]) + atol) / dim
            steps[axis] *= 2.0
            left, gradient_left = change, gradient
            if change <= tolerance and gradient <= gradient_tolerance / dim:
                # The coarser lattice was fine enough: it is kept for the axes after this one.
                break
            _keep(moments, space)
            gradient_change = gradient
            steps[axis] *= 0.5
            copy_vector(finer, moments)
            left, gradient_left = _error_left(change, before), _error_left(gradient, gradient_before)
            if left <= tolerance and gradient_left <= gradient_tolerance / dim:
                break
            before, gradient_before = change, gradient
        error += left
        gradient_error += gradient_left
    return error, gradient_error, gradient_change, nodes, holds


@kernel
def _keep(moments, space):
    """Keep the steps and the moments before a halving."""
    copy_vector(moments, space.halving.coarse)
    copy_vector(space.lattice.steps, space.lattice.coarse_steps)


@inlined
def _error_left(change, last):
    """Error after a halving that changed a value by `change`, where the one before changed it by `last`."""
    if change == 0.0:
        return 0.0
    ratio = min(1.0, change / last) if last < math.inf else 1.0
    return change * ratio * min(1.0, MARGIN * ratio)


@kernel
def ball(first, second, dim, tolerance):
    """Least radius, by increments of RADIUS_STEP, with a `tail` of at most `tolerance`."""
    radius = LEAST_RADIUS
    while radius < RADIUS and tail(first, second, dim, radius) > tolerance:
        radius += RADIUS_STEP
    return radius


@kernel
def rounding(first, second):
    """Bound of the rounding error of an expectation: a few times 2**-53 of the size of the logarithms."""
    size_ = LEAST_LOGARITHM
    for coefficients in (first, second):
        for k in range(coefficients.shape[0]):
            if coefficients[k, 0] > DROPPED:
                size_ = max(size_, abs(coefficients[k, 0]))
    return ROUNDING * size_

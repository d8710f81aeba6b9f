"""The lattice of an expectation: turned towards what is sharp, and refined until it holds.

A mixture has two scales besides that of the Gaussian itself. A component narrower than it would slip through
a coarse lattice unseen, so the first step is never longer than its width; components that cannot matter
are left out, and by how much they could is added to the error. The change from one component to the next
is as sharp as they are far apart, which halving the steps brings out. Both have a direction.
"""

from __future__ import annotations

import math

from .expectations import MOMENTS, MOST_NODES, RADIUS, integrate, integrate_own
from .jit import inlined, kernel, merged
from .lattices import size
from .matrices import cholesky, copy_vector, half_log_det, solve_lower
from .mixtures import DROPPED

#: What leaving out one component may change.
NEGLIGIBLE = 1e-12


@kernel
def _log_influence(row, other, dim, matrix, work):
    """log E sqrt(f_j / f_i) for two components: E log(1 + f_j / f_i) is at most E sqrt(f_j / f_i)."""
    constant = 0.5 * (row[0] - other[0])
    for a in range(dim):
        constant += 0.25 * (other[1 + a] * other[1 + a] - row[1 + a] * row[1 + a])
        work[a] = 0.0
        for e in range(dim):
            work[a] += 0.5 * (other[4 + 3 * e + a] * other[1 + e] - row[4 + 3 * e + a] * row[1 + e])
        for b in range(a + 1):
            s = 1.0 if a == b else 0.0
            for e in range(dim):
                s += 0.5 * row[4 + 3 * e + a] * row[4 + 3 * e + b]
                s -= 0.5 * other[4 + 3 * e + a] * other[4 + 3 * e + b]
            matrix[a, b] = s
    if not cholesky(matrix[:dim, :dim], matrix[:dim, :dim]):
        return math.inf
    solve_lower(matrix[:dim, :dim], work[:dim])
    for a in range(dim):
        constant += 0.5 * work[a] * work[a]
    return constant - half_log_det(matrix[:dim, :dim])


@kernel
def _column(row, a, dim):
    """The sharpness of a component along an axis."""
    s = 0.0
    for e in range(dim):
        s += row[4 + 3 * e + a] * row[4 + 3 * e + a]
    return math.sqrt(s)


@kernel
def leave_out(coefficients, dim, matrix, work):
    """Leave out sharp components that cannot matter; a bound of what that changes."""
    bound = 0.0
    components = coefficients.shape[0]
    for j in range(components):
        sharp = 0.0
        for a in range(dim):
            sharp = max(sharp, _column(coefficients[j], a, dim))
        if sharp < 2.0 or coefficients[j, 0] == DROPPED:
            continue
        for i in range(components):
            if i != j and coefficients[i, 0] > DROPPED:
                influence = _log_influence(coefficients[j], coefficients[i], dim, matrix, work)
                if influence < math.log(NEGLIGIBLE):
                    bound += math.exp(influence)
                    coefficients[j, 0] = DROPPED
                    break
    return bound


@kernel
def _add_sharpness(coefficients, dim, matrix, work):
    """Add what is sharp in which direction: slopes against each other, and widths."""
    components, kept = coefficients.shape[0], 0
    if components < 2:
        return
    for a in range(dim):
        work[a] = 0.0
    for k in range(components):
        row = coefficients[k]
        if row[0] == DROPPED:
            continue
        kept += 1
        for a in range(dim):
            for e in range(dim):
                work[a] += row[4 + 3 * e + a] * row[1 + e]
    for k in range(components):
        row = coefficients[k]
        if row[0] == DROPPED:
            continue
        for a in range(dim):
            work[3 + a] = -work[a] / kept
            for e in range(dim):
                work[3 + a] += row[4 + 3 * e + a] * row[1 + e]
        for a in range(dim):
            for b in range(dim):
                matrix[a, b] += work[3 + a] * work[3 + b]
                for c in range(dim):
                    ac, cb = 0.0, 0.0
                    for e in range(dim):
                        ac += row[4 + 3 * e + a] * row[4 + 3 * e + c]
                        cb += row[4 + 3 * e + c] * row[4 + 3 * e + b]
                    matrix[a, b] += ac * cb


@kernel
def _rotate(matrix, vectors, dim):
    """Write the eigenvectors of a symmetric matrix, by Jacobi's rotations."""
    for a in range(dim):
        for b in range(dim):
            vectors[a, b] = 1.0 if a == b else 0.0
    for _ in range(8):
        for a in range(dim):
            for b in range(a + 1, dim):
                if abs(matrix[a, b]) <= 1e-9 * (abs(matrix[a, a]) + abs(matrix[b, b])):
                    continue
                angle = 0.5 * math.atan2(2.0 * matrix[a, b], matrix[a, a] - matrix[b, b])
                c, s = math.cos(angle), math.sin(angle)
                for k in range(dim):
                    x, y = matrix[k, a], matrix[k, b]
                    matrix[k, a], matrix[k, b] = c * x + s * y, c * y - s * x
                    x, y = vectors[k, a], vectors[k, b]
                    vectors[k, a], vectors[k, b] = c * x + s * y, c * y - s * x
                for k in range(dim):
                    x, y = matrix[a, k], matrix[b, k]
                    matrix[a, k], matrix[b, k] = c * x + s * y, c * y - s * x


@kernel
def _sort(matrix, vectors, dim):
    """Largest eigenvalue first."""
    for a in range(dim):
        for b in range(a + 1, dim):
            if matrix[b, b] > matrix[a, a]:
                matrix[a, a], matrix[b, b] = matrix[b, b], matrix[a, a]
                for k in range(dim):
                    vectors[k, a], vectors[k, b] = vectors[k, b], vectors[k, a]


@kernel
def turn(first, second, dim, factor, matrices, work):
    """Turn the frame (its factor, both mixtures' coefficients) to what is sharp; the sharpest axis first."""
    if dim < 2:
        return
    matrix, vectors, copy = matrices[0], matrices[1], matrices[2]
    for a in range(dim):
        for b in range(dim):
            matrix[a, b] = 0.0
    _add_sharpness(first, dim, matrix, work)
    _add_sharpness(second, dim, matrix, work)
    _rotate(matrix, vectors, dim)
    _sort(matrix, vectors, dim)
    _times(factor, vectors, dim, copy)
    for coefficients in (first, second):
        for k in range(coefficients.shape[0]):
            row = coefficients[k]
            for i in range(dim):
                for j in range(dim):
                    copy[i, j] = 0.0
                    for e in range(dim):
                        copy[i, j] += row[4 + 3 * i + e] * vectors[e, j]
            for i in range(dim):
                for j in range(dim):
                    row[4 + 3 * i + j] = copy[i, j]


@kernel
def _times(matrix, right, dim, copy):
    """matrix = matrix right, in place."""
    for i in range(dim):
        for j in range(dim):
            copy[i, j] = 0.0
            for k in range(dim):
                copy[i, j] += matrix[i, k] * right[k, j]
    for i in range(dim):
        for j in range(dim):
            matrix[i, j] = copy[i, j]


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
def _slope_change(one, two, dim):
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
def _halve(first, second, own, dim, axis, steps, shift, radius, work, moments, trial):
    """Write to `trial` the value for half the step along an axis; the nodes that this adds."""
    shift[axis] = 0.5
    nodes = integrate(first, second, own, dim, steps, shift, radius, 0, work, trial)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    trial[0] = 0.5 * (trial[0] + moments[0])
    return nodes


@kernel
def refine(first, second, dim, steps, radius, atol, work, moments):
    """Halve the steps, one axis at a time, until the value holds; it is the first of `moments`.

    Returned: (error, nodes). `moments` are those of the lattice at the start. The change that halving a step
    makes is the error before it. A change may be small by accident where a lattice misses what is sharp, so
    the value must hold for two halvings, and their changes are the error.
    """
    trial, again, shift = work[6][3], work[6][1], work[5][1]
    error, nodes, tolerance = 0.0, 0, atol / dim
    for axis in range(dim):
        left = math.inf
        while size(steps, radius, dim) <= MOST_NODES:
            nodes += _halve(first, second, 0.0, dim, axis, steps, shift, radius, work, moments, trial)
            left = abs(trial[0] - moments[0])
            if left <= tolerance:
                if size(steps, radius, dim) > MOST_NODES:
                    left *= 4.0
                    steps[axis] *= 2.0
                    break
                nodes += _halve(first, second, 0.0, dim, axis, steps, shift, radius, work, trial, again)
                again_left = abs(again[0] - trial[0])
                steps[axis] *= 2.0
                if again_left <= tolerance:
                    # The finer of the two is kept: the axes after this one may need it.
                    left = 2.0 * max(again_left, left)
                    moments[0] = trial[0]
                    break
            moments[0] = trial[0]
        error += left
    return error, nodes


@merged
def _halve_own(second, own, dim, axis, steps, shift, radius, work, moments, trial):
    """Write to `trial` the moments for half the step along an axis; the nodes that this adds."""
    shift[axis] = 0.5
    nodes = integrate_own(second, own, dim, steps, shift, radius, work, trial)
    shift[axis] = 0.0
    steps[axis] *= 0.5
    for i in range(MOMENTS):
        trial[i] = 0.5 * (trial[i] + moments[i])
    return nodes


@merged
def refine_own(second, own, dim, steps, radius, rtol, atol, slope_tolerance, work, moments):
    """Halve the steps, one axis at a time, until the moments of log q - log p hold.

    Returned: (error, error of the slope, what the last halving changed in it, nodes, settled). The lattice
    fits q, so one small change will do, or two that get smaller: halving squares the error, relative to its
    size at the start, so with a change before, of size `last`, what remains is about change**3 / last**2; a
    hundred times that, and at most change**2 / last, is counted. The lattice before the last halving is left
    in work[5][2], and its moments in work[6][2].
    """
    trial, shift = work[6][3], work[5][1]
    error, slope_error, slope_change, nodes, settled = 0.0, 0.0, 0.0, 0, True
    _keep(moments, steps, work)
    for axis in range(dim):
        before, slope_before = math.inf, math.inf
        while True:
            left, slope_left = before, slope_before
            if size(steps, radius, dim) > MOST_NODES:
                settled = False
                break
            nodes += _halve_own(second, own, dim, axis, steps, shift, radius, work, moments, trial)
            change, slope = abs(trial[0] - moments[0]), _slope_change(trial, moments, dim)
            tolerance = (rtol * abs(trial[0]) + atol) / dim
            steps[axis] *= 2.0
            left, slope_left = change, slope
            if change <= tolerance and slope <= slope_tolerance / dim:
                # The coarser lattice would have done.
                break
            _keep(moments, steps, work)
            slope_change = slope
            steps[axis] *= 0.5
            copy_vector(trial, moments)
            left, slope_left = _left(change, before), _left(slope, slope_before)
            if left <= tolerance and slope_left <= slope_tolerance / dim:
                break
            before, slope_before = change, slope
        error += left
        slope_error += slope_left
    return error, slope_error, slope_change, nodes, settled


@merged
def _keep(moments, steps, work):
    """Keep the last lattice but one, and its moments."""
    copy_vector(moments, work[6][2])
    copy_vector(steps, work[5][2])


@inlined
def _left(change, last):
    """The error after a halving that changed so much, when the one before changed `last`."""
    if change == 0.0:
        return 0.0
    ratio = min(1.0, change / last) if last < math.inf else 1.0
    return change * ratio * min(1.0, 100.0 * ratio)


@kernel
def ball(first, second, dim, tolerance):
    """The least radius (in steps of a quarter) outside of which there is less than `tolerance`."""
    radius = 5.5
    while radius < RADIUS and tail(first, second, dim, radius) > tolerance:
        radius += 0.25
    return radius


@kernel
def rounding(first, second):
    """What rounding may have left in an expectation: a few times 2**-53 of the logarithms' size."""
    size_ = 8.0
    for coefficients in (first, second):
        for k in range(coefficients.shape[0]):
            if coefficients[k, 0] > DROPPED:
                size_ = max(size_, abs(coefficients[k, 0]))
    return 8.8e-16 * size_

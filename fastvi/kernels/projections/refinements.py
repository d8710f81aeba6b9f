"""A reduced mixture q refined: KL(p ‖ q) is minimised by expectations under p on nodes, for `reduce_mixture`.

KL(p ‖ q) is a constant less E_p[log q], the mean log likelihood of data that are p. One sweep of EM over the
nodes gives it and its gradient. On the line and in the plane the steps are those of Newton's method in a
trust region, with second derivatives on the nodes: where 50 components overlap it needs 20 to 70 sweeps,
L-BFGS 100 to 400. In more dimensions, or for many components, L-BFGS takes the gradients. The coordinates
are those in which the information of the complete data is diagonal: L-BFGS's first step is that of EM there,
but the next ones do not slow down where components overlap. Last comes a step of EM itself, which restores
the mean and the covariance of p.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Matrix, Vector, borrow, named, packed
from ..compiler import exported, inlined, kernel
from ..em.e_step import BLOCK, STOP, block_shares, prepare, workspace_for, write_terms
from ..em.e_step import Workspace as Sweeps
from ..em.iterations import sweep
from ..em.m_step import maximise
from ..numerics.matrices import add_up, clear_vector, copy_matrix, copy_vector, dot, is_factor, solve_upper
from ..optimizers.lbfgs import DECREASE, dual_length, find_direction, remember, shrink
from ..statuses import CONVERGED, OUT_OF_RANGE, SINGULAR, STEPS_EXHAUSTED, UNRESOLVED
from . import trust_region
from .curvature import Workspace as Curvature
from .curvature import workspace as workspace_for_curvature
from .curvature import write_curvature
from .nodes import (
    LATTICE_DIM,
    NEXT_ERROR,
    Nodes,
    add_shifted,
    choose_levels,
    first_level,
    lay_out,
    mean_log_density,
    next_level,
    nodes_for,
    refine_where,
    room_for,
    total_error,
)
from .resolution import mark_unresolved

#: The first level ends within this share of the divergence of its minimum; the next ones, within the square
#: of what they change.
FIRST_TOL = 1e-2

#: A component of q this much narrower than any of p has shrunk to a node.
COLLAPSED = 0.01

#: Most coordinates in which Newton's steps are taken, on the line and in the plane; in more, and in more
#: dimensions, L-BFGS takes its own, which need more sweeps and no second derivatives.
MOST_NEWTON = (60, 128)

#: The step that Newton's method trusts at first, in the information of the complete data; and one that is too
#: short to matter.
TRUST, LEAST_TRUST = 0.3, 1e-7

#: A step as short as this is taken without looking at its value.
NEAR = 0.1

#: Second derivatives are kept for the next step while that promises less than this share of the last one.
KEPT = 0.25

#: Pairs that L-BFGS remembers: as many as there are coordinates, up to 5 components in the plane.
MEMORY = 30

#: Where the last nodes changed more than this share of the divergence, E_p[log p] is computed on the new
#: ones as well.
ROUGH = 0.1

#: L-BFGS ends where it promises less than this share of `tol` on two steps in succession: with
#: few pairs it underestimates what remains.
PROMISED = 0.1

#: Pairs that L-BFGS needs for its estimate of what remains to hold on the next level as well.
KNOWN = 4

#: Rounding of the mean log likelihood, relative to 1 and its size.
ROUNDING = 1e-15

#: Nodes do for q where the square of what shifted ones change of its gain is at most so many times `tol`.
#: Of 150 random mixtures those that fitted nodes had 400 to 10,000 times as much, others up to 61.
CHECKED = 10.0

#: The error of a gain is so many times what shifted nodes change of it: narrow ridges both can miss.
SURE = 3.0

#: A group of nodes needs more of them where its part is off by more than this share of its share.
AT_FAULT = 0.1

#: Halvings of a step before it is given up.
MOST_SHRINKS = 12


class Workspace(NamedTuple):
    """Scratch space to refine a mixture of k components for one of K, in D dimensions, on up to N nodes.

    A component has 1 + D + D (D + 1) / 2 coordinates: the logarithm of its weight, its mean, and the factor
    of its covariance with the logarithm of its diagonal, relative to those of a reference.
    """

    nodes: Nodes
    sweeps: Sweeps
    floored: IntegerMatrix  #: (2, k): the M-step writes it; it is not read here
    curvature: Curvature  #: none where L-BFGS takes the steps
    factor: Matrix  #: (k coordinates, k coordinates): of the second derivatives, damped
    solution: Vector  #: (k coordinates,)
    weights: Vector  #: (k,): the mixture at the coordinates
    means: Matrix
    factors: Cube
    reference_weights: Vector
    reference_means: Matrix
    reference_factors: Cube
    relative: Matrix  #: (D, D): the factor of one component relative to its reference
    square: Matrix  #: (D, D)
    point: Vector  #: (k coordinates,): the coordinates, those of a trial, gradients there, and the direction
    rough_weights: Vector  #: where a descent on finer nodes starts, if that on the first is in vain
    rough_means: Matrix
    rough_factors: Cube
    trial: Vector
    gradient: Vector
    trial_gradient: Vector
    direction: Vector
    metric: Vector
    steps: Matrix  #: (MEMORY, k coordinates): for `optimizers.lbfgs`
    changes: Matrix
    inverses: Vector
    alphas: Vector


@exported
def workspace(components, count, dim):
    """Scratch space to refine a mixture of `count` components for one of `components`."""
    each = 1 + dim + dim * (dim + 1) // 2
    size = count * each
    lattice_dim = min(dim, LATTICE_DIM)
    is_newton = dim <= LATTICE_DIM and size <= MOST_NEWTON[lattice_dim - 1]
    known, curved = (size, count) if is_newton else (0, 0)
    return packed(
        Workspace(
            nodes=nodes_for(components, dim),
            sweeps=workspace_for(count, dim, room_for(dim, components)),
            floored=np.empty((2, count), np.int64),
            curvature=workspace_for_curvature(curved, lattice_dim),
            factor=np.empty((known, known)),
            solution=np.empty(known),
            weights=np.empty(count),
            means=np.empty((count, dim)),
            factors=np.empty((count, dim, dim)),
            reference_weights=np.empty(count),
            reference_means=np.empty((count, dim)),
            reference_factors=np.empty((count, dim, dim)),
            relative=np.empty((dim, dim)),
            square=np.empty((dim, dim)),
            point=np.empty(size),
            rough_weights=np.empty(count),
            rough_means=np.empty((count, dim)),
            rough_factors=np.empty((count, dim, dim)),
            trial=np.empty(size),
            gradient=np.empty(size),
            trial_gradient=np.empty(size),
            direction=np.empty(size),
            metric=np.empty(size),
            steps=np.empty((MEMORY, size)),
            changes=np.empty((MEMORY, size)),
            inverses=np.empty(MEMORY),
            alphas=np.empty(MEMORY),
        )
    )


@kernel
def _copy_mixture(source, target):
    """target = source, (weights, means, factors) each."""
    copy_vector(source[0], target[0])
    copy_matrix(source[1], target[1])
    for k in range(source[0].size):
        copy_matrix(source[2][k], target[2][k])


@kernel
def _refer_to(q, space):
    """Measure coordinates from q. `metric` is the information of the complete data."""
    weights, means, _ = q
    _copy_mixture(q, (space.reference_weights, space.reference_means, space.reference_factors))
    at, dim = 0, means.shape[1]
    for k in range(weights.size):
        for _ in range(1 + dim):
            space.metric[at] = weights[k]
            at += 1
        for i in range(dim):
            for j in range(i + 1):
                space.metric[at] = 2.0 * weights[k] if i == j else weights[k]
                at += 1
    clear_vector(space.point)


@inlined
def _write_relative(point, first, relative):
    """Write the factor of a component relative to its reference, from its coordinates."""
    at = first
    for i in range(relative.shape[0]):
        for j in range(i + 1):
            relative[i, j] = math.exp(point[at]) if i == j else point[at]
            at += 1
    return at


@kernel
def _mixture_at(point, space):
    """Write the mixture at these coordinates to the space."""
    weights, means, factors, relative = space.weights, space.means, space.factors, space.relative
    dim = means.shape[1]
    at, top, total = 0, -math.inf, 0.0
    size = point.size // weights.size
    for k in range(weights.size):
        top = max(top, point[k * size])
    for k in range(weights.size):
        weights[k] = space.reference_weights[k] * math.exp(point[at] - top)
        total += weights[k]
        reference = space.reference_factors[k]
        for i in range(dim):
            s = space.reference_means[k, i]
            for j in range(i + 1):
                s += reference[i, j] * point[at + 1 + j]
            means[k, i] = s
        at = _write_relative(point, at + 1 + dim, relative)
        for i in range(dim):
            for j in range(dim):
                s = 0.0
                for a in range(j, i + 1):
                    s += reference[i, a] * relative[a, j]
                factors[k, i, j] = s
    for k in range(weights.size):
        weights[k] /= total


@kernel
def _evaluate(columns, point, gradient, space):
    """-E_p[log q] at these coordinates, and its gradient; not finite where it was stopped."""
    _mixture_at(point, space)
    value = -sweep(columns, space.weights, space.means, space.factors, space.sweeps)
    if abs(value) < math.inf:
        _write_gradient(point, gradient, space)
    return value


@kernel
def _write_parts(columns, space):
    """Write the part of each group of nodes in E_p[log q] at `point`, and what that changes of it."""
    _mixture_at(space.point, space)
    _write_terms(columns, (space.weights, space.means, space.factors), space)
    _write_swept_parts(space)


@kernel
def _write_swept_parts(space):
    """`_write_parts` after a sweep at `point`.

    A sweep for each of 50 groups would take four times as long.
    """
    nodes, begin = space.nodes, 0
    for g in range(nodes.groups[0]):
        part = add_up(space.sweeps.terms[begin : nodes.ends[g]])
        nodes.errors[g], nodes.values[g] = abs(part - nodes.values[g]), part
        begin = nodes.ends[g]


@kernel
def _write_terms(columns, mixture, space):
    """Write the terms of a sweep without its moments."""
    sweeps, (weights, means, factors), size = space.sweeps, mixture, columns.shape[1]
    prepare(weights, means, factors, sweeps)
    for first in range(0, size, BLOCK):
        end = min(first + BLOCK, size)
        block_shares(columns, first, end - first, means, sweeps)
        write_terms(sweeps.top, sweeps.sums, sweeps.frequencies[first:end], sweeps.terms[first:end])


@kernel
def _write_gradient(point, gradient, space):
    """Write the gradient of -E_p[log q] from the moments of a sweep."""
    weights, relative, dim = space.weights, space.relative, space.means.shape[1]
    vector, square, root = space.sweeps.mean, space.square, math.sqrt(2.0)
    at = 0
    for k in range(weights.size):
        row, inverse = space.sweeps.moments[k], space.sweeps.inverses[k]
        gradient[at] = weights[k] - row[0]
        _write_relative(point, at + 1 + dim, relative)
        for i in range(dim):
            s = 0.0
            for j in range(i + 1):
                s += root * inverse[i, j] * row[1 + j]
            vector[i] = s
        solve_upper(relative, vector)
        for i in range(dim):
            gradient[at + 1 + i] = -vector[i]
        at += 1 + dim
        # The scatter in units of the component, less what it should be; a column of it at a time.
        place = 1 + dim
        for i in range(dim):
            for j in range(i + 1):
                square[i, j] = row[place]
                square[j, i] = row[place]
                place += 1
        for i in range(dim):
            _scale_by(inverse, square[i])
        for j in range(dim):
            for i in range(dim):
                vector[i] = square[i, j]
            _scale_by(inverse, vector)
            vector[j] -= row[0]
            solve_upper(relative, vector)
            for i in range(j, dim):
                square[i, j] = vector[i]
        for i in range(dim):
            for j in range(i + 1):
                gradient[at] = -square[i, j] * (relative[i, i] if i == j else 1.0)
                at += 1


@inlined
def _scale_by(inverse, vector):
    """vector = sqrt(2) inverse vector, the inverse factor of a sweep, in place."""
    for i in range(vector.size - 1, -1, -1):
        s = 0.0
        for j in range(i + 1):
            s += inverse[i, j] * vector[j]
        vector[i] = math.sqrt(2.0) * s


@kernel
def _descend(p, columns, value, used, newest, tol, floor, most, space):
    """Lower the value from `point`, where it and its gradient are known, until it is below the floor at most.

    Where there is a floor, the first point from which little remains above it is kept as `rough`. Returned
    are (status, sweeps, value, used, newest). `used` and `newest` are of L-BFGS; of Newton's method `used` is
    whether the factor of the second derivatives holds.
    """
    if space.factor.shape[0] > 0:
        return _descend_newton(p, columns, value, used, tol, floor, most, space)
    return _descend_lbfgs(p, columns, value, used, newest, tol, floor, most, space)


@kernel
def _remaining(used, newest, space):
    """What the next step promises by the second derivatives of the steps before; (that, pairs used)."""
    if space.factor.shape[0] > 0:
        return (trust_region.solve(space) if used else math.inf), used
    norm = dual_length(space.gradient, space.metric)
    used, expected, _ = find_direction(space.gradient, norm, used, newest, space, space.direction)
    return (-0.5 * expected if used >= KNOWN else math.inf), used


@kernel
def _keep_rough(space):
    """Keep the mixture at `point`."""
    _mixture_at(space.point, space)
    mixture = space.weights, space.means, space.factors
    _copy_mixture(mixture, (space.rough_weights, space.rough_means, space.rough_factors))


@kernel
def _turn(columns, space):
    """Measure coordinates from `point`, where the last sweep was; write the derivatives there."""
    _mixture_at(space.point, space)
    weights, means, factors = space.weights, space.means, space.factors
    _refer_to((weights, means, factors), space)
    _write_gradient(space.point, space.gradient, space)
    write_curvature(
        columns, weights, means, factors, space.gradient, space.sweeps, space.square, space.curvature
    )


@kernel
def _take_last_step(space):
    """Take Newton's step that promises next to nothing, without a sweep; the gradient is not known after it.

    It squares what is left. Along flat directions it may be long, and then the promise does not hold.
    """
    if trust_region.length_of(space) <= NEAR:
        for i in range(space.point.size):
            space.point[i] += space.direction[i]


@kernel
def _descend_newton(p, columns, value, used, tol, floor, most, space):
    """Newton's method in a trust region, see `_descend`."""
    point, trial, gradient, direction = space.point, space.trial, space.gradient, space.direction
    steps, trust, length, damping, promised = 0, TRUST, 0.0, 0.0, math.nan
    is_kept, is_rough = used > 0, floor > -math.inf
    if is_kept:
        promised = trust_region.solve(space)
    else:
        _turn(columns, space)
    while True:
        if not is_kept:
            promised, length, damping = trust_region.find_step(trust, damping, space)
        if is_rough and promised <= ROUGH * (value - floor):
            _keep_rough(space)
            is_rough = False
        flat = damping == 0.0 or trust >= TRUST
        if (flat and promised <= PROMISED * tol) or value < floor:
            if damping == 0.0 and not value < floor:
                _take_last_step(space)
            return CONVERGED, steps, value, int(damping == 0.0), 0
        if steps >= most or not trust > LEAST_TRUST:
            return STEPS_EXHAUSTED, steps, value, 0, 0
        for i in range(point.size):
            trial[i] = point[i] + direction[i]
        found = _evaluate(columns, trial, space.trial_gradient, space)
        steps += 1
        if space.sweeps.control[STOP]:
            return OUT_OF_RANGE, steps, value, 0, 0
        ratio, was_kept = (value - found) / promised, is_kept
        good = ratio >= trust_region.LEAST_RATIO or abs(value - found) <= ROUNDING * (1.0 + abs(value))
        if good:
            copy_vector(trial, point)
            copy_vector(space.trial_gradient, gradient)
            value = found
            if _has_collapsed(p, space):
                return SINGULAR, steps, value, 0, 0
        if not was_kept:
            trust = trust_region.next_trust(trust, length, ratio)
        is_kept = False
        if good and damping == 0.0:
            before, promised = promised, trust_region.solve(space)
            is_kept = promised <= KEPT * before
        if was_kept and not good:
            _evaluate(columns, point, gradient, space)
        if not is_kept and (was_kept or good):
            _turn(columns, space)


@kernel
def _descend_lbfgs(p, columns, value, used, newest, tol, floor, most, space):
    """L-BFGS, see `_descend`."""
    point, trial, gradient, direction = space.point, space.trial, space.gradient, space.direction
    steps, small, is_rough = 0, 0, floor > -math.inf
    while True:
        norm = dual_length(gradient, space.metric)
        used, expected, t = find_direction(gradient, norm, used, newest, space, direction)
        remaining = -0.5 * expected
        small = small + 1 if remaining <= PROMISED * tol else 0
        if is_rough and remaining <= ROUGH * (value - floor):
            _keep_rough(space)
            is_rough = False
        if small >= 2 or norm <= ROUNDING or value < floor:
            return CONVERGED, steps, value, used, newest
        good, shrinks = False, 0
        while not good and shrinks <= MOST_SHRINKS:
            if steps >= most:
                return STEPS_EXHAUSTED, steps, value, used, newest
            for i in range(point.size):
                trial[i] = point[i] + t * direction[i]
            found = _evaluate(columns, trial, space.trial_gradient, space)
            steps += 1
            if space.sweeps.control[STOP]:
                return OUT_OF_RANGE, steps, value, used, newest
            good = found - value <= DECREASE * t * expected + ROUNDING * (1.0 + abs(value))
            if not good:
                t *= shrink(found - value, t, expected)
                shrinks += 1
        if good:
            promised = -t * expected
            used, newest = remember(
                point, gradient, trial, space.trial_gradient, promised, used, newest, space
            )
            copy_vector(trial, point)
            copy_vector(space.trial_gradient, gradient)
            value = found
            if _has_collapsed(p, space):
                return SINGULAR, steps, value, used, newest
        elif used > 0:
            used = 0
        else:
            return STEPS_EXHAUSTED, steps, value, used, newest


@kernel
def _has_collapsed(p, space):
    """Whether a component of q is much narrower than those of p."""
    dim = space.means.shape[1]
    for i in range(dim):
        least = math.inf
        for k in range(p[0].size):
            least = min(least, p[2][k, i, i])
        for k in range(space.weights.size):
            if not space.factors[k, i, i] > COLLAPSED * least:
                return True
    return False


@kernel
def _gain(columns, merged, space):
    """How far E_p[log q] at `point` is above that of the merges."""
    terms = space.sweeps.terms[: columns.shape[1]]
    _write_terms(columns, merged, space)
    before = add_up(terms)
    _mixture_at(space.point, space)
    _write_terms(columns, (space.weights, space.means, space.factors), space)
    return add_up(terms) - before


@kernel
def _add_parts(sign, nodes, terms):
    """Add the parts of groups on the nodes to the values, and those on the shifted ones to the errors."""
    begin, shifted = 0, nodes.ends[nodes.groups[0] - 1]
    for g in range(nodes.groups[0]):
        nodes.values[g] += sign * 2.0 * add_up(terms[begin : nodes.ends[g]])
        nodes.errors[g] += sign * 2.0 * add_up(terms[shifted : nodes.shifted_ends[g]])
        begin, shifted = nodes.ends[g], nodes.shifted_ends[g]


@kernel
def _compare(columns, merged, space):
    """(The value at `point`, how far it is below that of the merges, what shifted nodes change of that).

    `columns` are those of `add_shifted`. What these change under each group may cancel by chance, so that the
    root of the sum of squares is the least that is taken for the change; the errors are those of the groups.
    """
    nodes, terms = space.nodes, space.sweeps.terms
    changes = nodes.errors[: nodes.groups[0]]
    clear_vector(nodes.values)
    clear_vector(nodes.errors)
    _write_terms(columns, merged, space)
    _add_parts(-1.0, nodes, terms)
    value = _evaluate(columns, space.point, space.gradient, space)
    _add_parts(1.0, nodes, terms)
    gain, other = 0.0, 0.0
    for g in range(changes.size):
        gain, other = gain + nodes.values[g], other + changes[g]
        changes[g] = abs(nodes.values[g] - changes[g])
    return value, 0.5 * (gain + other), max(abs(gain - other), math.sqrt(dot(changes, changes)))


@kernel
def _check(p, merged, columns, status, sweeps, used, newest, within, level, most, space):
    """Descend on the nodes and shifted ones together, and on finer ones where these differ.

    A q can fit the nodes instead of p: the shifted nodes show it. Returned are (status, sweeps, gain, error,
    the last nodes).
    """
    components, nodes, frequencies = p[0].size, space.nodes, space.sweeps.frequencies
    changes, least = nodes.errors[: nodes.groups[0]], within / nodes.groups[0]
    q = space.weights, space.means, space.factors
    rough = space.rough_weights, space.rough_means, space.rough_factors
    while True:
        columns = add_shifted(p, columns.shape[1], frequencies, nodes)
        value, gain, change = _compare(columns, merged, space)
        error, drop, more = SURE * change, 0.0, False
        fits_nodes, was_regular = not gain > error, status != SINGULAR
        if abs(value) < math.inf and not fits_nodes and was_regular:
            status, taken, found, used, newest = _descend(
                p, columns, value, used, newest, within, -math.inf, most - sweeps, space
            )
            sweeps, drop = sweeps + taken, value - found
            gain += drop
        if not abs(value) < math.inf or status == OUT_OF_RANGE:
            return OUT_OF_RANGE, sweeps, 0.0, math.inf, columns
        if status == SINGULAR and was_regular:
            _refer_to(rough, space)
            columns = lay_out(p, frequencies, nodes)
            continue
        _mixture_at(space.point, space)
        excess = mark_unresolved(p, q, least, nodes)
        resolved = max(change * change, excess, drop) <= CHECKED * within
        settled = resolved and excess <= within and (abs(gain) > error or error <= within)
        if not settled and sweeps < most:
            level, more = refine_where(AT_FAULT * change / nodes.groups[0], level, components, nodes)
        if not more:
            status = status if resolved or status != CONVERGED else UNRESOLVED
            return status, sweeps, gain, error, columns
        columns = lay_out(p, frequencies, nodes)
        while more and excess > within:
            clear_vector(changes)
            excess = mark_unresolved(p, q, least, nodes)
            level, more = refine_where(0.0, level, components, nodes)
            if more:
                columns = lay_out(p, frequencies, nodes)
        if fits_nodes:
            _refer_to(merged, space)
            if was_regular:
                value = _evaluate(columns, space.point, space.gradient, space)
                status, taken, _, used, newest = _descend(
                    p, columns, value, 0, 0, within, -math.inf, most - sweeps, space
                )
                sweeps += taken
                if status == SINGULAR:
                    _refer_to(rough, space)


@kernel
def _take_em_step(columns, space):
    """Write what EM makes of `point` as `rough`; whether its covariances are regular.

    A component of 1e-16 is moved anywhere by rounding: it stays where the point has it.
    """
    weights, means, factors = space.weights, space.means, space.factors
    rough = space.rough_weights, space.rough_means, space.rough_factors
    if not abs(_evaluate(columns, space.point, space.gradient, space)) < math.inf:
        return False
    if not maximise(1.0, weights, means, factors, 0.0, space.floored, space.sweeps)[1]:
        return False
    _copy_mixture((weights, means, factors), rough)
    _mixture_at(space.point, space)
    for k in range(weights.size):
        if not is_factor(rough[2][k]):
            copy_vector(means[k], rough[1][k])
            copy_matrix(factors[k], rough[2][k])
            if not is_factor(factors[k]):
                return False
    return True


@exported
def refine(p, q, tol, most, space):
    """Lower KL(p ‖ q) to a local minimum near q, which is overwritten unless that may be higher.

    Parameters
    ----------
    p : tuple
        (log_weights, means, chols) of a mixture whose covariance is about I.
    q : tuple
        (weights, means, chols) of one with fewer components.
    tol : float
        Relative to the divergence.
    most : int
        Most sweeps over the nodes.
    space : ndarray
        A `workspace`.

    Returns
    -------
    status, sweeps, gain, error
        Status 0: within this share of a local minimum; 1: `most` sweeps were made; 20: a component shrinks to
        a node; 21: stopped by another thread, which sets `control[STOP]` of `sweeps`; 2: nodes that are fine
        enough for q have no room. The gain is that of E_p[log q], NaN where q stays as it was. In one and
        two dimensions the error is a multiple of what shifted nodes change of it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-0.7], [-0.4], [0.9]]), np.full((3, 1, 1), 0.3)
    >>> q = np.array([0.6, 0.4]), np.array([[-0.55], [0.9]]), np.full((2, 1, 1), 0.4)
    >>> refinements = kernels.projections.refinements
    >>> status, sweeps, gain, error = refinements.refine(p, q, 1e-8, 100, refinements.workspace(3, 2, 1))
    >>> status, q[0].round(2), q[1].ravel().round(2)
    (0, array([0.6, 0.4]), array([-0.55,  0.9 ]))
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    components, dim = p[1].shape
    _refer_to(q, space)
    space.sweeps.control[STOP] = 0
    nodes, frequencies = space.nodes, space.sweeps.frequencies
    level = first_level(p, nodes)
    rough = space.rough_weights, space.rough_means, space.rough_factors
    _copy_mixture(q, rough)
    status, sweeps, used, newest = STEPS_EXHAUSTED, 0, 0, 0
    value, log_p, change, is_first = math.nan, 0.0, math.inf, True
    while True:
        columns = lay_out(p, frequencies, nodes)
        value = _evaluate(columns, space.point, space.gradient, space)
        _write_swept_parts(space)
        sweeps += 1
        if not is_first:
            change = total_error(level, math.inf, nodes)
        is_new = not change <= ROUGH * (log_p + value)
        if is_new:
            log_p = mean_log_density(p, columns, frequencies, nodes)
        within = max(tol * (log_p + value), ROUNDING)
        if is_first:
            excess, wanted = math.inf, max(FIRST_TOL * (log_p + value), within)
        else:
            excess, used = _remaining(used, newest, space)
            if excess <= PROMISED * within:
                if space.factor.shape[0] > 0:
                    _take_last_step(space)
                status = CONVERGED
                break
            wanted = max(within, change * change)
        more, fewer = choose_levels(excess, within, level, components, nodes)
        if fewer:
            columns = lay_out(p, frequencies, nodes)
            value = _evaluate(columns, space.point, space.gradient, space)
            sweeps += 1
        # Below the entropy of p the divergence on these nodes is negative: q fits the nodes, not p.
        floor = -log_p if is_new and more else -math.inf
        status, taken, value, used, newest = _descend(
            p,
            columns,
            value,
            used,
            newest,
            wanted if more else within,
            floor,
            most - sweeps,
            space,
        )
        sweeps += taken
        if not abs(value) < math.inf or status == OUT_OF_RANGE:
            return OUT_OF_RANGE, sweeps, 0.0, math.inf
        if value < floor:
            _refer_to(rough, space)
            used = 0
        if status == SINGULAR:
            _refer_to(rough, space)
            used, more = 0, choose_levels(math.inf, within, level, components, nodes)[0]
        if not more:
            break
        if sweeps + 2 > most:
            status = STEPS_EXHAUSTED
            break
        _write_parts(columns, space)
        sweeps += 1
        next_level(level, components, nodes)
        level, is_first = level + 1, False
    gain, error = math.nan, NEXT_ERROR * change
    if dim <= LATTICE_DIM:
        status, sweeps, gain, error, columns = _check(
            p, q, columns, status, sweeps, used, newest, within, level, most, space
        )
    elif status != SINGULAR:
        gain = _gain(columns, q, space)
    same = within + 10.0 * ROUNDING * (1.0 + abs(value))
    if not (gain > error or (status == CONVERGED and abs(gain) <= same and error <= same)):
        return status, sweeps, math.nan, error
    if not _take_em_step(columns, space):
        return status, sweeps, math.nan, error
    _copy_mixture(rough, q)
    return status, sweeps, gain, error

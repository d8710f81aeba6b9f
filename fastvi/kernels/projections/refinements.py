"""A reduced mixture q refined: KL(p ‖ q) is minimised by expectations under p on nodes, for `reduce_mixture`.

KL(p ‖ q) is a constant less E_p[log q], the mean log likelihood of data that are p. One sweep of EM over the
nodes gives it and its gradient. L-BFGS takes the gradients, in coordinates in which the information of the
complete data is diagonal: there its first step is that of EM, but the next ones do not slow down where
components overlap. Last comes a step of EM itself, which restores the mean and the covariance of p.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import exported, inlined, kernel
from ..em.e_step import BLOCK, STOP, block_shares, prepare, workspace_for
from ..em.e_step import Workspace as Sweeps
from ..em.iterations import sweep, sweep_part
from ..em.m_step import maximise
from ..em.seeding import GOLDEN
from ..numerics.matrices import (
    cholesky,
    clear_matrix,
    clear_vector,
    copy_matrix,
    copy_vector,
    fill_vector,
    solve_upper,
)
from ..optimizers.lbfgs import DECREASE, dual_length, find_direction, remember, shrink
from ..statuses import CONVERGED, OUT_OF_RANGE, SINGULAR, STEPS_EXHAUSTED

#: Lattices under a component in one and two dimensions: their steps and radii, in standard deviations.
STEPS = (1.2, 0.6, 0.3, 0.15, 0.075)
RADII = (4.0, 4.5, 5.2, 6.0, 6.5)

#: The first level has at least so many nodes under all components.
FIRST_NODES = 1000

#: What remains on the next level of an error, and of the excess of q's divergence, a square of errors.
#: For smooth functions less remains.
NEXT_ERROR, NEXT_EXCESS = 0.1, 0.01

#: The share of `tol` for the error of the components that have fewer nodes than others.
SPARE = 0.25

#: The first level ends within this share of the divergence of its minimum; the next ones, within the square
#: of what they change.
FIRST_TOL = 1e-5

#: Most dimensions of a lattice.
LATTICE_DIM = 2

#: Most nodes under all components: of lattices, and of pairs of opposite points in more dimensions.
MOST_NODES, MOST_PAIRED = 1 << 18, 1 << 16

#: Least and most pairs under a component, and the part of them that the first level takes.
LEAST_PAIRS, MOST_PAIRS, FIRST_PART = 128, 4096, 8

#: The lattice of the pairs. Each coordinate is shifted by a multiple of GOLDEN, modulo 1.
GENERATOR = 17797

#: A component of q this much narrower than any of p has shrunk to a node.
COLLAPSED = 0.01

#: Pairs that L-BFGS remembers: as many as there are coordinates, up to 5 components in the plane.
MEMORY = 30

#: L-BFGS ends where it promises less than this share of `tol` on two steps in succession: with
#: few pairs it underestimates what remains.
PROMISED = 0.1

#: Pairs that L-BFGS needs for its estimate of what remains to hold on the next level as well.
KNOWN = 4

#: Rounding of the mean log likelihood, relative to 1 and its size.
ROUNDING = 1e-15

#: A gain that is so many times what the last nodes changed needs no check on these.
CERTAIN = 10.0

#: Halvings of a step before it is given up.
MOST_SHRINKS = 12


class Workspace(NamedTuple):
    """Scratch space to refine a mixture of k components for one of K, in D dimensions, on up to N nodes.

    A component has 1 + D + D (D + 1) / 2 coordinates: the logarithm of its weight, its mean, and the factor
    of its covariance with the logarithm of its diagonal, relative to those of a reference.
    """

    points: Vector  #: (D N,): the nodes under all components, (D, count)
    nodes: Matrix  #: (D, L): those under the standard normal, level after level
    shares: Vector  #: (L,): their weights
    starts: Integers  #: (levels + 1,): where a level starts
    levels: Integers  #: (K,): the level of each component of p
    ends: Integers  #: (K,): where its nodes end
    values: Vector  #: (K,): its part of E_p[log q]
    errors: Vector  #: (K,): what the last level changed of it
    moves: Integers  #: (K,): 1 where the next level is needed
    sweeps: Sweeps
    floored: IntegerMatrix  #: (2, k): the M-step writes it; it is not read here
    weights: Vector  #: (k,): the mixture at the coordinates
    means: Matrix
    factors: Cube
    reference_weights: Vector
    reference_means: Matrix
    reference_factors: Cube
    relative: Matrix  #: (D, D): the factor of one component relative to its reference
    square: Matrix  #: (D, D)
    point: Vector  #: (k coordinates,): the coordinates, those of a trial, gradients there, and the direction
    trial: Vector
    gradient: Vector
    trial_gradient: Vector
    direction: Vector
    metric: Vector
    steps: Matrix  #: (MEMORY, k coordinates): for `optimizers.lbfgs`
    changes: Matrix
    inverses: Vector
    alphas: Vector


@kernel
def _pairs(level, dim, components):
    """The number of pairs of opposite nodes under a component, a power of two."""
    wanted = min(max(MOST_PAIRED // (2 * components), LEAST_PAIRS), MOST_PAIRS)
    pairs = 1
    while 2 * pairs <= wanted or pairs <= 4 * dim:
        pairs *= 2
    first = pairs // FIRST_PART
    while first <= 4 * dim:
        first *= 2
    return pairs if level > 0 else first


@kernel
def _write_lattice(level, dim, nodes, shares):
    """Write the nodes of the trapezoid rule in a ball and their weights, if there is room; their number."""
    step, radius = STEPS[level], RADII[level]
    most = int(radius / step)
    count = 0
    for i in range(-most, most + 1):
        for j in range(-most if dim == 2 else 0, most + 1 if dim == 2 else 1):
            square = step * step * (i * i + j * j)
            if square <= radius * radius:
                if count < shares.size:
                    nodes[0, count] = step * i
                    if dim == 2:
                        nodes[1, count] = step * j
                    shares[count] = math.exp(-0.5 * square)
                count += 1
    return count


@kernel
def _write_pairs(pairs, nodes, shares):
    """Write pairs of opposite normal points: by Box and Muller from a shifted lattice of 2**m points.

    F. J. Hickernell, H. S. Hong, P. L'Écuyer, C. Lemieux, Extensible Lattice Sequences for Quasi-Monte Carlo
    Quadrature, SIAM J. Sci. Comput. 22 (2000).
    """
    dim = nodes.shape[0]
    factor = 1
    for i in range(0, dim, 2):
        other = factor * GENERATOR % pairs
        first_shift, second_shift = (i + 1) * GOLDEN, (i + 2) * GOLDEN
        for n in range(pairs):
            u, v = n * factor % pairs / pairs + first_shift, n * other % pairs / pairs + second_shift
            radius, angle = math.sqrt(-2.0 * math.log(u - math.floor(u))), 2.0 * math.pi * v
            for j in range(min(2, dim - i)):
                value = radius * (math.cos(angle) if j == 0 else math.sin(angle))
                nodes[i + j, n], nodes[i + j, pairs + n] = value, -value
        factor = other * GENERATOR % pairs
    for n in range(2 * pairs):
        shares[n] = 1.0
    return 2 * pairs


@kernel
def _level_size(level, dim, components):
    """The number of nodes of a level under a component; 0 where there is no such level."""
    if dim > LATTICE_DIM:
        return 2 * _pairs(level, dim, components) if level < 2 else 0
    return _write_lattice(level, dim, np.empty((dim, 0)), np.empty(0)) if level < len(STEPS) else 0


@exported
def most_nodes(dim, components):
    """The most nodes under so many components."""
    if dim > LATTICE_DIM:
        return _level_size(1, dim, components) * components
    return max(MOST_NODES, _level_size(0, dim, components) * components)


@exported
def workspace(components, count, dim):
    """Scratch space to refine a mixture of `count` components for one of `components`."""
    nodes, rules = most_nodes(dim, components), 0
    for level in range(len(STEPS)):
        rules += _level_size(level, dim, components)
    size = count * (1 + dim + dim * (dim + 1) // 2)
    return packed(
        Workspace(
            points=np.empty(dim * nodes),
            nodes=np.empty((dim, rules)),
            shares=np.empty(rules),
            starts=np.empty(len(STEPS) + 1, np.int64),
            levels=np.empty(components, np.int64),
            ends=np.empty(components, np.int64),
            values=np.empty(components),
            errors=np.empty(components),
            moves=np.empty(components, np.int64),
            sweeps=workspace_for(count, dim, nodes),
            floored=np.empty((2, count), np.int64),
            weights=np.empty(count),
            means=np.empty((count, dim)),
            factors=np.empty((count, dim, dim)),
            reference_weights=np.empty(count),
            reference_means=np.empty((count, dim)),
            reference_factors=np.empty((count, dim, dim)),
            relative=np.empty((dim, dim)),
            square=np.empty((dim, dim)),
            point=np.empty(size),
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
def _write_rule(level, components, space):
    """Write the nodes of a level, with mean 0 and covariance I, and weights that sum to one.

    p keeps its mean and covariance on them.
    """
    dim, starts, square = space.nodes.shape[0], space.starts, space.square
    first = starts[level]
    count = _level_size(level, dim, components)
    starts[level + 1] = first + count
    nodes, shares = space.nodes[:, first : first + count], space.shares[first : first + count]
    if dim > LATTICE_DIM:
        _write_pairs(_pairs(level, dim, components), nodes, shares)
    else:
        _write_lattice(level, dim, nodes, shares)
    total = 0.0
    for n in range(count):
        total += shares[n]
    clear_matrix(square)
    for n in range(count):
        shares[n] /= total
        for i in range(dim):
            for j in range(i + 1):
                square[i, j] += shares[n] * nodes[i, n] * nodes[j, n]
    cholesky(square, square)
    for n in range(count):
        for i in range(dim):
            s = nodes[i, n]
            for j in range(i):
                s -= square[i, j] * nodes[j, n]
            nodes[i, n] = s / square[i, i]


@kernel
def _first_level(components, space):
    """Start all components of p on the first level that has enough nodes."""
    dim, level = space.nodes.shape[0], 0
    while (
        _level_size(level, dim, components) * components < FIRST_NODES
        and _level_size(level + 1, dim, components) > 0
    ):
        level += 1
    space.starts[level] = 0
    for k in range(components):
        space.levels[k] = level
    _write_rule(level, components, space)
    return level


@kernel
def _total_below(level, limit, space):
    """The sum of what this level changed of each part, as far as no such change exceeds the limit."""
    total = 0.0
    for k in range(space.levels.size):
        if space.levels[k] == level and space.errors[k] <= limit:
            total += space.errors[k]
    return total


@kernel
def _limit(level, total, excess, space):
    """The largest change of a part such that all below it are this share of the excess, at most.

    The excess of q's divergence is a square of errors: those of a share s of all errors make s**2 of it.
    """
    limit = total
    while limit > 0.0 and _total_below(level, limit, space) > math.sqrt(excess) * total:
        limit *= 0.5
    return limit


@kernel
def _choose_levels(excess, tol, level, space):
    """Choose which components of p need the next level, and which not even this one.

    `excess` is what the nodes of the level before lost of the divergence, inf if that is not known. Returned
    is whether there are any of each.
    """
    dim, components = space.nodes.shape[0], space.levels.size
    size, size_now = _level_size(level + 1, dim, components), space.starts[level + 1] - space.starts[level]
    nodes, room = space.ends[components - 1], space.sweeps.frequencies.size
    more, fewer, total, lower, upper = False, False, 0.0, -1.0, -1.0
    if excess < math.inf:
        total = _total_below(level, math.inf, space)
        upper = _limit(level, total, SPARE * tol / (NEXT_EXCESS * excess), space)
        if dim <= LATTICE_DIM:
            lower = _limit(level, total, SPARE * tol / excess, space)
    for k in range(components):
        space.moves[k] = 0
        if space.levels[k] < level:
            continue
        if space.errors[k] <= lower:
            space.levels[k] -= 1
            nodes -= size_now - (space.starts[level] - space.starts[level - 1])
            fewer = True
        elif not space.errors[k] <= upper and size > 0 and nodes + size - size_now <= room:
            nodes += size - size_now
            space.moves[k] = 1
            more = True
    return more, fewer


@kernel
def _lay_out(p, space):
    """Write the nodes of p, (D, N), and their weights; what sweeps take as the data."""
    log_weights, means, chols = p
    components, dim = means.shape
    starts, levels, ends = space.starts, space.levels, space.ends
    total = 0
    for k in range(components):
        total += starts[levels[k] + 1] - starts[levels[k]]
        ends[k] = total
    columns = space.points[: dim * total].reshape((dim, total))
    begin = 0
    for k in range(components):
        first, count, weight = starts[levels[k]], ends[k] - begin, math.exp(log_weights[k])
        for n in range(count):
            space.sweeps.frequencies[begin + n] = weight * space.shares[first + n]
        for i in range(dim):
            out = columns[i, begin : ends[k]]
            for n in range(count):
                out[n] = means[k, i]
            for j in range(i + 1):
                nodes = space.nodes[j, first : first + count]
                for n in range(count):
                    out[n] += chols[k, i, j] * nodes[n]
        begin = ends[k]
    return columns


@kernel
def _refer_to(q, space):
    """Measure coordinates from q. `metric` is the information of the complete data."""
    weights, means, factors = q
    copy_vector(weights, space.reference_weights)
    copy_matrix(means, space.reference_means)
    at, dim = 0, means.shape[1]
    for k in range(weights.size):
        copy_matrix(factors[k], space.reference_factors[k])
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
def _evaluate_parts(columns, space):
    """The same at `point`, and for each component of p its part, and how that differs from the one before."""
    _mixture_at(space.point, space)
    weights, means, sweeps = space.weights, space.means, space.sweeps
    prepare(weights, means, space.factors, sweeps)
    clear_matrix(sweeps.moments)
    value, begin = 0.0, 0
    for k in range(space.ends.size):
        part = sweep_part(columns, begin, space.ends[k], weights, means, sweeps)
        space.errors[k] = abs(part - space.values[k])
        space.values[k] = part
        value -= part
        begin = space.ends[k]
    if abs(value) < math.inf:
        _write_gradient(space.point, space.gradient, space)
    return value


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
def _descend(p, columns, value, used, newest, tol, most, space):
    """L-BFGS from `point`, where value and gradient are known.

    Returned are (status, sweeps, value, used, newest).
    """
    point, trial, gradient, direction = space.point, space.trial, space.gradient, space.direction
    steps, small = 0, 0
    while True:
        norm = dual_length(gradient, space.metric)
        used, expected, t = find_direction(gradient, norm, used, newest, space, direction)
        remaining = -0.5 * expected
        small = small + 1 if remaining <= PROMISED * tol else 0
        if small >= 2 or norm <= ROUNDING:
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
def _mean_log_density(p, columns, space):
    """E_p[log p] on the nodes."""
    log_weights, means, chols = p
    components, dim = means.shape
    whole, weights = workspace_for(components, dim, 0), np.empty(components)
    for k in range(components):
        weights[k] = math.exp(log_weights[k])
    prepare(weights, means, chols, whole)
    s, size = 0.0, columns.shape[1]
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        block_shares(columns, first, count, means, whole)
        for n in range(count):
            s += space.sweeps.frequencies[first + n] * (whole.top[n] + math.log(whole.sums[n]))
    return s


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


@exported
def refine(p, q, tol, most, space):
    """Lower KL(p ‖ q) to a local minimum near q, which is overwritten.

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
        a node; 21: stopped by another thread, which sets `control[STOP]` of `sweeps`. The gain is that of
        E_p[log q] on the last nodes; `error`, what these err in it, about.

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
    weights, means, factors = q
    components = p[0].size
    _refer_to(q, space)
    space.sweeps.control[STOP] = 0
    level = _first_level(components, space)
    fill_vector(math.nan, space.values)
    status, sweeps, used, newest = STEPS_EXHAUSTED, 0, 0, 0
    first, value, log_p, change, is_first = math.nan, math.nan, 0.0, math.inf, True
    while True:
        columns = _lay_out(p, space)
        value = _evaluate_parts(columns, space)
        sweeps += 1
        if is_first:
            first, log_p, excess = value, _mean_log_density(p, columns, space), math.inf
            within = max(tol * (log_p + value), ROUNDING)
            wanted = max(FIRST_TOL * (log_p + value), within)
        else:
            within = max(tol * (log_p + value), ROUNDING)
            norm = dual_length(space.gradient, space.metric)
            used, expected, _ = find_direction(space.gradient, norm, used, newest, space, space.direction)
            excess, change = -0.5 * expected, _total_below(level, math.inf, space)
            if excess <= PROMISED * within and used >= KNOWN:
                status = CONVERGED
                break
            wanted = max(within, change * change)
        more, fewer = _choose_levels(excess, within, level, space)
        if fewer:
            columns = _lay_out(p, space)
            value = _evaluate(columns, space.point, space.gradient, space)
            sweeps += 1
        status, taken, value, used, newest = _descend(
            p, columns, value, used, newest, wanted if more else within, most - sweeps, space
        )
        sweeps += taken
        if not abs(value) < math.inf or status == OUT_OF_RANGE:
            return OUT_OF_RANGE, sweeps, 0.0, math.inf
        if status == SINGULAR:
            clear_vector(space.point)
            used, more = 0, _choose_levels(math.inf, within, level, space)[0]
        if not more:
            break
        if sweeps + 2 > most:
            status = STEPS_EXHAUSTED
            break
        _evaluate_parts(columns, space)
        sweeps += 1
        level, is_first = level + 1, False
        _write_rule(level, components, space)
        for k in range(components):
            space.levels[k] += space.moves[k]
    gain = first - value
    error = NEXT_ERROR * change
    if status == SINGULAR:
        gain, error = 0.0, math.inf
        _evaluate(columns, space.point, space.gradient, space)
    elif not gain > CERTAIN * change:
        clear_vector(space.trial)
        gain = _evaluate(columns, space.trial, space.trial_gradient, space) - value
        _evaluate(columns, space.point, space.gradient, space)
    elif status != CONVERGED:
        _evaluate(columns, space.point, space.gradient, space)
    maximise(1.0, space.weights, space.means, space.factors, 0.0, space.floored, space.sweeps)
    copy_vector(space.weights, weights)
    copy_matrix(space.means, means)
    for k in range(weights.size):
        copy_matrix(space.factors[k], factors[k])
    return status, sweeps, gain, error

"""Mixtures with fewer components that are closest by the integral squared error: L-BFGS from greedy merges.

For `fastvi.reduce_mixture`. A component has 1 + D + D (D + 1) / 2 coordinates: the logarithm of its weight,
its mean and the factor of its covariance with the logarithm of its diagonal, relative to those of the start.
There the second derivatives of the error are about diagonal and known, for components that overlap little:
with them L-BFGS takes half the steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import exported, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.matrices import clear_vector, copy_matrix, copy_vector, half_log_det
from ..optimizers.lbfgs import DECREASE, dual_length, find_direction, remember, shrink
from ..statuses import CONVERGED, OUT_OF_RANGE, STEPS_EXHAUSTED
from .overlaps import Lanes, make_lanes
from .reductions import error_of, load_reduced

#: Pairs that L-BFGS remembers.
MEMORY = 20

#: What the last step may have gained of `tol` where the next one promises less than that.
ENOUGH = 10.0

#: Halvings of a step before it is given up.
MOST_SHRINKS = 20

#: Least entry of the metric: of components that count for little.
LEAST_METRIC = 1e-12

#: Entries of the metric relative to that of the logarithm of the weight, for independent x, y ~ N(0, 1 / 2):
#: E[x**2] for a coordinate of the mean, E[(x**2 - 1)**2] for the logarithm of a diagonal entry of the factor,
#: E[x**2 y**2] for an entry below the diagonal.
OF_MEAN, OF_DIAGONAL, OF_OFF_DIAGONAL = 0.5, 0.75, 0.25


class Workspace(NamedTuple):
    """Scratch space to refine a mixture of k components for one of K, in D dimensions."""

    lanes: Lanes  #: q, then p
    control: Integers  #: (1,): another thread sets it to stop the descent
    weights: Vector  #: (k,): the mixture at the coordinates
    means: Matrix
    factors: Cube
    relatives: Cube  #: (k, D, D): the factors relative to those of the start
    square: Matrix  #: (D, D)
    derivatives: Matrix  #: (k, 1 + D + D D): as `reductions.squared_error` writes them
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


@exported
def workspace(components, count, dim):
    """Scratch space to refine a mixture of `count` components for one of `components`."""
    size = count * (1 + dim + dim * (dim + 1) // 2)
    return packed(
        Workspace(
            lanes=make_lanes(count + components, dim),
            control=np.zeros(1, np.int64),
            weights=np.empty(count),
            means=np.empty((count, dim)),
            factors=np.empty((count, dim, dim)),
            relatives=np.zeros((count, dim, dim)),
            square=np.empty((dim, dim)),
            derivatives=np.empty((count, 1 + dim + dim * dim)),
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
def _write_metric(q, shift, metric):
    """The second derivatives of the integral of the square of each component, for which the others are 0."""
    weights, means, chols = q
    dim, place = means.shape[1], 0
    for j in range(weights.size):
        own = -half_log_det(chols[j]) - 0.5 * dim * (LOG_2PI + math.log(2.0)) - shift
        own = max(2.0 * weights[j] * weights[j] * math.exp(own), LEAST_METRIC)
        metric[place] = own
        place += 1
        for _ in range(dim):
            metric[place] = OF_MEAN * own
            place += 1
        for a in range(dim):
            for b in range(a + 1):
                metric[place] = (OF_DIAGONAL if a == b else OF_OFF_DIAGONAL) * own
                place += 1


@kernel
def _mixture_at(point, start, space):
    """Write the mixture at these coordinates to the space."""
    weights, means, factors = start
    dim, place, total, top = means.shape[1], 0, 0.0, -math.inf
    each = point.size // weights.size
    for j in range(weights.size):
        top = max(top, point[j * each])
    for j in range(weights.size):
        relative, factor = space.relatives[j], factors[j]
        space.weights[j] = weights[j] * math.exp(point[place] - top)
        total += space.weights[j]
        place += 1
        for a in range(dim):
            s = means[j, a]
            for b in range(a + 1):
                s += factor[a, b] * point[place + b]
            space.means[j, a] = s
        place += dim
        for a in range(dim):
            for b in range(a + 1):
                relative[a, b] = math.exp(point[place]) if a == b else point[place]
                place += 1
        for a in range(dim):
            for b in range(dim):
                s = 0.0
                for c in range(b, a + 1):
                    s += factor[a, c] * relative[c, b]
                space.factors[j, a, b] = s
    for j in range(weights.size):
        space.weights[j] /= total


@kernel
def _evaluate(point, start, shift, gradient, space):
    """The error at these coordinates, and its gradient."""
    _mixture_at(point, start, space)
    mixture = space.weights, space.means, space.factors
    value = error_of(mixture, shift, space.derivatives, space.square, space.lanes)
    dim, place, mean = space.means.shape[1], 0, 0.0
    for j in range(space.weights.size):
        mean += space.weights[j] * space.derivatives[j, 0]
    for j in range(space.weights.size):
        row, factor, own, square = space.derivatives[j], start[2][j], space.factors[j], space.square
        gradient[place] = space.weights[j] * (row[0] - mean)
        place += 1
        for b in range(dim):
            s = 0.0
            for a in range(b, dim):
                s += factor[a, b] * row[1 + a]
            gradient[place] = s
            place += 1
        # The derivative in the factor is 2 G L, G that in the covariance.
        for a in range(dim):
            for b in range(a + 1):
                s = 0.0
                for c in range(b, dim):
                    s += row[1 + dim + a * dim + c] * own[c, b]
                square[a, b] = 2.0 * s
        for c in range(dim):
            for b in range(c + 1):
                s = 0.0
                for a in range(c, dim):
                    s += factor[a, c] * square[a, b]
                gradient[place] = s * space.relatives[j, c, c] if b == c else s
                place += 1
    return value


@exported
def refine(p, q, shift, tol, most, space):
    """Lower the integral squared error to a local minimum near q, which is overwritten.

    Parameters
    ----------
    p : tuple
        (log_weights, means, chols) of a mixture.
    q : tuple
        (weights, means, chols) of one with fewer components.
    shift : float
        `reductions.log_scale` of p.
    tol : float
        It ends where the next step promises to lower the error by less than this share of the integral of
        p**2, about, and the last one lowered it by less than `ENOUGH` times as much.
    most : int
        Most evaluations of the error.
    space : ndarray
        A `workspace`.

    Returns
    -------
    status, evaluations
        Status 0: ended by `tol`; 1: `most` evaluations were made, or none of a step's lengths lowers the
        error; 21: the error is not finite, or another thread has set `control`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-0.7], [-0.4], [0.9]]), np.full((3, 1, 1), 0.3)
    >>> q = np.array([0.6, 0.4]), np.array([[-0.55], [0.9]]), np.full((2, 1, 1), 0.4)
    >>> room = kernels.projections.square_refinements
    >>> shift = kernels.projections.reductions.log_scale(p)
    >>> room.refine(p, q, shift, 1e-9, 100, room.workspace(3, 2, 1))[0], q[1].ravel().round(2)
    (0, array([-0.55,  0.9 ]))
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    point, trial, gradient, direction = space.point, space.trial, space.gradient, space.direction
    used, newest = 0, 0
    space.control[0] = 0
    load_reduced(p, q[0].size, space.square, space.lanes)
    _write_metric(q, shift, space.metric)
    clear_vector(point)
    value = _evaluate(point, q, shift, gradient, space)
    # The value is ISE - ∫ p**2; 1 is the square of the largest component of p.
    within = tol * max(-value, 1.0)
    status, evaluations = STEPS_EXHAUSTED, 1
    going, gained = True, math.inf
    while going:
        norm = dual_length(gradient, space.metric)
        if not norm < math.inf:
            return OUT_OF_RANGE, evaluations
        used, expected, t = find_direction(gradient, norm, used, newest, space, direction)
        if -0.5 * expected <= within and gained <= ENOUGH * within:
            status = CONVERGED
            break
        good, shrinks, found = False, 0, value
        while not good and shrinks <= MOST_SHRINKS and evaluations < most:
            for i in range(point.size):
                trial[i] = point[i] + t * direction[i]
            found = _evaluate(trial, q, shift, space.trial_gradient, space)
            evaluations += 1
            if space.control[0]:
                return OUT_OF_RANGE, evaluations
            good = found - value <= DECREASE * t * expected
            if not good:
                t *= shrink(found - value, t, expected)
                shrinks += 1
        if good:
            gained = value - found
            used, newest = remember(
                point, gradient, trial, space.trial_gradient, -t * expected, used, newest, space
            )
            copy_vector(trial, point)
            copy_vector(space.trial_gradient, gradient)
            value = found
        elif used > 0 and evaluations < most:
            used = 0
        else:
            # What is promised may be less than rounding.
            status, going = CONVERGED if -expected <= within else STEPS_EXHAUSTED, False
    _mixture_at(point, q, space)
    copy_vector(space.weights, q[0])
    copy_matrix(space.means, q[1])
    for j in range(q[0].size):
        copy_matrix(space.factors[j], q[2][j])
    return status, evaluations

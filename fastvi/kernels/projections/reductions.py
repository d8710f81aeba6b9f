"""Mixtures with fewer components: greedy merges by Runnalls' bound, or by the integral squared error.

For `fastvi.reduce_mixture`, in any dimension. A merge replaces two components by one with their weight, mean
and covariance, so that the mixture keeps its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import exported, formula, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.matrices import cholesky, clear_vector, copy_matrix, copy_vector, half_log_det
from .overlaps import (
    Lanes,
    add_derivatives,
    clear_lanes,
    make_lanes,
    multiply_all,
    set_lane,
    weighted_sum,
)

#: Range of a product of inverse standard deviations: outside its logarithm is taken, before it overflows.
LEAST_PRODUCT, MOST_PRODUCT = 1e-100, 1e100

#: Merges with a bound of KL(p ‖ q) that is not above this are p, to rounding: those of components of next to
#: no weight. A refinement of them is rounding.
EXACT = 1e-15


class Workspace(NamedTuple):
    """Scratch space for reductions of K components in D dimensions.

    There are S = K + 2 slots for components: the K first are q, two hold merged ones.
    """

    weights: Vector  #: (S,)
    means: Matrix  #: (S, D)
    covs: Cube  #: (S, D, D): their lower triangles
    logs: Vector  #: (S,): log |covs| / 2
    costs: Matrix  #: (K, K): below the diagonal, of merging two components
    nearest: Integers  #: (K,): where a row of `costs` is least
    changes: Vector  #: (K,): inner products of the last change of the mixture with each component
    products: Matrix  #: (K, K): inner products of the components
    residuals: Vector  #: (K,): inner products of each component with p - q
    factor: Matrix  #: (D, D)
    vector: Vector  #: (D,)
    lanes: Lanes  #: 2 K: those of q with weights below 0, then those of p


@exported
def workspace(components, dim):
    """Scratch space for reductions: one for each thread.

    Parameters
    ----------
    components, dim : int
        Of the mixture that is reduced.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.reductions.workspace(3, 2)
    """
    slots = components + 2
    return packed(
        Workspace(
            weights=np.empty(slots),
            means=np.empty((slots, dim)),
            covs=np.empty((slots, dim, dim)),
            logs=np.empty(slots),
            costs=np.empty((components, components)),
            nearest=np.empty(components, np.int64),
            changes=np.empty(components),
            products=np.empty((components, components)),
            residuals=np.empty(components),
            factor=np.empty((dim, dim)),
            vector=np.empty(dim),
            lanes=make_lanes(2 * components, dim),
        )
    )


@formula
def _write_cov(chol, out):
    """The lower triangle of chol chol'."""
    for i in range(chol.shape[0]):
        for j in range(i + 1):
            s = 0.0
            for a in range(j + 1):
                s += chol[i, a] * chol[j, a]
            out[i, j] = s


@kernel
def _load(mixture, first, space):
    """Copy a mixture to the slots from `first` on."""
    log_weights, means, chols = mixture
    for i in range(log_weights.size):
        slot = first + i
        space.weights[slot] = math.exp(log_weights[i])
        copy_vector(means[i], space.means[slot])
        _write_cov(chols[i], space.covs[slot])
        space.logs[slot] = half_log_det(chols[i])


@kernel
def _store(count, q, space):
    """Copy the first slots to a mixture (weights, means, factors); False where a covariance is indefinite."""
    weights, means, chols = q
    good = True
    for i in range(count):
        weights[i] = space.weights[i]
        copy_vector(space.means[i], means[i])
        good = cholesky(space.covs[i], chols[i]) and good
    return good


@kernel
def _merge(i, j, slot, space):
    """Write what two components are merged to; `slot` may be i. Without weight, both count the same.

    Runnalls (2007), eq. 2 to 4.
    """
    weights, means, covs = space.weights, space.means, space.covs
    weight = weights[i] + weights[j]
    share = weights[j] / weight if weight > 0.0 else 0.5
    dim = means.shape[1]
    difference = space.vector
    for a in range(dim):
        difference[a] = means[j, a] - means[i, a]
    for a in range(dim):
        for b in range(a + 1):
            mean = (1.0 - share) * covs[i, a, b] + share * covs[j, a, b]
            covs[slot, a, b] = mean + share * (1.0 - share) * difference[a] * difference[b]
    for a in range(dim):
        means[slot, a] = means[i, a] + share * difference[a]
    weights[slot] = weight
    good = cholesky(covs[slot], space.factor)
    space.logs[slot] = half_log_det(space.factor) if good else math.inf


@kernel
def _move(source, target, space):
    """Copy a component to another slot."""
    space.weights[target], space.logs[target] = space.weights[source], space.logs[source]
    copy_vector(space.means[source], space.means[target])
    copy_matrix(space.covs[source], space.covs[target])


@kernel
def _bound(i, j, slot, space):
    """Runnalls' bound of the KL divergence that a merge costs, eq. 16; it is not negative."""
    _merge(i, j, slot, space)
    weights, logs = space.weights, space.logs
    cost = weights[i] * (logs[slot] - logs[i]) + weights[j] * (logs[slot] - logs[j])
    return max(cost, 0.0) if weights[slot] > 0.0 else 0.0


@kernel
def _find_nearest(i, space):
    """Find the partner before i that is cheapest to merge with."""
    best = 0
    for j in range(1, i):
        if space.costs[i, j] < space.costs[i, best]:
            best = j
    space.nearest[i] = best


@kernel
def _cheapest(count, space):
    """The pair (i, j), j < i, that is cheapest to merge."""
    best = 1
    for i in range(2, count):
        if space.costs[i, space.nearest[i]] < space.costs[best, space.nearest[best]]:
            best = i
    return best, space.nearest[best]


@kernel
def _close_gap(i, count, space):
    """Move the last component and its costs to slot i, which was merged away."""
    last = count - 1
    if i < last:
        _move(last, i, space)
        for b in range(i):
            space.costs[i, b] = space.costs[last, b]
        for a in range(i + 1, last):
            space.costs[a, i] = space.costs[last, a]


@exported
def runnalls(p, q, space):
    """Greedy merges of the pair with the least bound until q is full: the sum of the bounds.

    The sum is an upper bound of KL(p ‖ q), inf where a covariance of q is singular.

    Parameters
    ----------
    p : tuple
        (log_weights, means, chols) of a mixture.
    q : tuple
        (weights, means, chols), which are written, of at least one component and fewer than p has.
    space : ndarray
        A `workspace`.

    References
    ----------
    A. R. Runnalls, Kullback-Leibler Approach to Gaussian Mixture Reduction, IEEE Trans. Aerosp. Electron.
    Syst. 43 (2007), eq. 16 and section VI.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [1.0], [9.0]]), np.ones((3, 1, 1))
    >>> q = np.empty(2), np.empty((2, 1)), np.empty((2, 1, 1))
    >>> reductions = kernels.projections.reductions
    >>> round(float(reductions.runnalls(p, q, reductions.workspace(3, 1))), 6)
    0.207944
    >>> q[0].round(6), q[1].ravel().round(6), q[2].ravel().round(6)
    (array([0.6, 0.4]), array([0., 9.]), array([1.414214, 1.      ]))
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    count, wanted = p[0].size, q[0].size
    _load(p, 0, space)
    spare = count
    costs, nearest = space.costs, space.nearest
    for i in range(1, count):
        for j in range(i):
            costs[i, j] = _bound(i, j, spare, space)
        _find_nearest(i, space)
    total = 0.0
    while count > wanted:
        i, j = _cheapest(count, space)
        total += costs[i, j]
        _merge(j, i, j, space)
        _close_gap(i, count, space)
        count -= 1
        for b in range(j):
            costs[j, b] = _bound(j, b, spare, space)
        for a in range(j + 1, count):
            costs[a, j] = _bound(a, j, spare, space)
        for a in range(1, count):
            if a in (i, j) or nearest[a] in (i, j):
                _find_nearest(a, space)
                continue
            for b in (j, i):
                if b < a and costs[a, b] < costs[a, nearest[a]]:
                    nearest[a] = b
    return total if _store(wanted, q, space) else math.inf


@kernel
def _log_product(i, j, shift, space):
    """The logarithm of the integral of the product of two components without their weights, less `shift`."""
    means, covs, factor, vector = space.means, space.covs, space.factor, space.vector
    dim = vector.size
    square, product, logs = dim * LOG_2PI, 1.0, 0.0
    for a in range(dim):
        difference = means[i, a] - means[j, a]
        for b in range(a):
            s = covs[i, a, b] + covs[j, a, b]
            for c in range(b):
                s -= factor[a, c] * factor[b, c]
            factor[a, b] = s * factor[b, b]
            difference -= factor[a, b] * vector[b]
        s = covs[i, a, a] + covs[j, a, a]
        for c in range(a):
            s -= factor[a, c] * factor[a, c]
        factor[a, a] = 1.0 / math.sqrt(s)
        vector[a] = difference * factor[a, a]
        square += vector[a] * vector[a]
        # The logarithm of a product, not one for each dimension.
        product *= factor[a, a]
        if not LEAST_PRODUCT < product < MOST_PRODUCT:
            logs += math.log(product)
            product = 1.0
    return logs + math.log(product) - 0.5 * square - shift


@kernel
def _overlap(i, j, shift, space):
    """The integral of the product of two components with their weights, times exp(-shift)."""
    weight = space.weights[i] * space.weights[j]
    return weight * math.exp(_log_product(i, j, shift, space)) if weight > 0.0 else 0.0


@exported
def log_scale(p):
    """The largest logarithm of the integral of a squared component of p, with its weight.

    Overlaps are divided by its exponential, so that they are neither 0 nor inf in many dimensions.
    """
    log_weights, means, chols = borrow(p)
    top = -math.inf
    for i in range(log_weights.size):
        value = 2.0 * log_weights[i] - half_log_det(chols[i])
        top = max(top, value)
    return top - 0.5 * means.shape[1] * (LOG_2PI + math.log(2.0))


@kernel
def _change_by(i, j, slot, other, shift, space):
    """The inner product of a component with the change that the merge of i and j to `slot` makes."""
    merged = _overlap(slot, other, shift, space)
    return merged - _overlap(i, other, shift, space) - _overlap(j, other, shift, space)


@kernel
def _own(slot, shift, space):
    """The integral of the square of a component."""
    log_value = -space.logs[slot] - 0.5 * space.vector.size * (LOG_2PI + math.log(2.0)) - shift
    return space.weights[slot] * space.weights[slot] * math.exp(log_value)


@kernel
def _square(i, j, slot, by_pair, shift, space):
    """The integral of δ**2, δ what the merge of two components to `slot` changes of the density.

    `by_pair` is the inner product of the merged component with both.
    """
    products = space.products
    square = products[i, i] + 2.0 * products[i, j] + products[j, j]
    return square + (_own(slot, shift, space) - 2.0 * by_pair)


@kernel
def _first_rise(i, j, slot, shift, space):
    """`_rise` where q is p still."""
    _merge(i, j, slot, space)
    by_pair = _overlap(slot, i, shift, space) + _overlap(slot, j, shift, space)
    return _square(i, j, slot, by_pair, shift, space)


@kernel
def _rise(i, j, slot, shift, space):
    """Merge two components to `slot`: what that adds to the squared error.

    With δ the change of the density it is the integral of δ**2 - 2 δ (p - q).
    """
    _merge(i, j, slot, space)
    lanes, weight = space.lanes, space.weights[slot]
    multiply_all(space.means[slot], space.covs[slot], shift, lanes)
    by_one = weight * space.weights[i] * lanes.values[i]
    by_other = weight * space.weights[j] * lanes.values[j]
    square = _square(i, j, slot, by_one + by_other, shift, space)
    return square - 2.0 * (weight * weighted_sum(lanes) - space.residuals[i] - space.residuals[j])


@kernel
def _multiply_with_others(slot, count, shift, space):
    """Write the inner products of a component with all of q, and with p - q."""
    lanes, weight = space.lanes, space.weights[slot]
    multiply_all(space.means[slot], space.covs[slot], shift, lanes)
    for a in range(count):
        space.products[slot, a] = weight * space.weights[a] * lanes.values[a]
        space.products[a, slot] = space.products[slot, a]
    space.products[slot, slot] = _own(slot, shift, space)
    space.residuals[slot] = weight * weighted_sum(lanes)


@exported
def williams(p, q, shift, space):
    """Greedy merges of the pair that raises the integral squared error least, until q is full.

    As `runnalls`; `shift` is the `log_scale` of p. Returned is whether all covariances of q are positive
    definite. A merge changes the error by the square of the change δ of the density, less twice the inner
    product of δ with p - q, which the merge changes for all pairs.

    References
    ----------
    J. L. Williams, P. S. Maybeck, Cost-Function-Based Gaussian Mixture Reduction for Target Tracking, Fusion
    (2003), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [1.0], [9.0]]), np.ones((3, 1, 1))
    >>> q = np.empty(2), np.empty((2, 1)), np.empty((2, 1, 1))
    >>> reductions = kernels.projections.reductions
    >>> reductions.williams(p, q, reductions.log_scale(p), reductions.workspace(3, 1))
    True
    >>> q[1].ravel().round(6)
    array([0., 9.])
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    count, wanted = p[0].size, q[0].size
    spare, taken, components = count, count + 1, count
    _load(p, 0, space)
    costs, changes, products, residuals = space.costs, space.changes, space.products, space.residuals
    lanes = space.lanes
    clear_lanes(lanes)
    for i in range(count):
        set_lane(i, -space.weights[i], space.means[i], space.covs[i], lanes)
        set_lane(components + i, space.weights[i], space.means[i], space.covs[i], lanes)
    for i in range(count):
        _multiply_with_others(i, count, shift, space)
    for i in range(1, count):
        for j in range(i):
            costs[i, j] = _first_rise(i, j, spare, shift, space)
    while True:
        for i in range(1, count):
            _find_nearest(i, space)
        i, j = _cheapest(count, space)
        _merge(i, j, taken, space)
        if count - 1 == wanted:
            _move(taken, j, space)
            _close_gap(i, count, space)
            return _store(wanted, q, space)
        multiply_all(space.means[taken], space.covs[taken], shift, lanes)
        for a in range(count):
            product = space.weights[taken] * space.weights[a] * lanes.values[a]
            changes[a] = product - products[i, a] - products[j, a]
            residuals[a] -= changes[a]
        for a in range(1, count):
            for b in range(a):
                if a not in (i, j) and b not in (i, j):
                    _merge(a, b, spare, space)
                    change = _change_by(i, j, taken, spare, shift, space)
                    costs[a, b] += 2.0 * (change - changes[a] - changes[b])
        _move(taken, j, space)
        _close_gap(i, count, space)
        count -= 1
        if i < count:
            residuals[i] = residuals[count]
            for a in range(count):
                products[i, a] = products[count, a]
                products[a, i] = products[a, count]
            products[i, i] = products[count, count]
            set_lane(i, -space.weights[i], space.means[i], space.covs[i], lanes)
        lanes.weights[count] = 0.0
        set_lane(j, -space.weights[j], space.means[j], space.covs[j], lanes)
        _multiply_with_others(j, count, shift, space)
        for b in range(count):
            if b != j:
                costs[max(j, b), min(j, b)] = _rise(j, b, spare, shift, space)


@kernel
def load_reduced(p, count, cov, lanes):
    """Write the mixture that is reduced behind the lanes for so many components of q; `cov` is scratch."""
    log_weights, means, chols = p
    clear_lanes(lanes)
    for i in range(log_weights.size):
        _write_cov(chols[i], cov)
        set_lane(count + i, -2.0 * math.exp(log_weights[i]), means[i], cov, lanes)


@kernel
def error_of(q, shift, gradients, cov, lanes):
    """`squared_error` after `load_reduced`; `cov` is scratch."""
    weights, means, chols = q
    count, dim = means.shape
    total = 0.0
    for j in range(count):
        _write_cov(chols[j], cov)
        set_lane(j, 2.0 * weights[j], means[j], cov, lanes)
    for j in range(count):
        row = gradients[j]
        clear_vector(row)
        _write_cov(chols[j], cov)
        multiply_all(means[j], cov, shift, lanes)
        own = 0.0
        for i in range(count):
            own += 2.0 * weights[i] * lanes.values[i]
        add_derivatives(lanes, row)
        total += weights[j] * (row[0] - 0.5 * own)
        for a in range(dim):
            row[1 + a] *= weights[j]
            for b in range(a + 1):
                row[1 + dim + a * dim + b] *= weights[j]
                row[1 + dim + b * dim + a] = row[1 + dim + a * dim + b]
    return total


@exported
def squared_error(p, q, shift, gradients, space):
    """The integral of q**2 - 2 p q, times exp(-shift), and its derivatives; p and q are as in `runnalls`.

    `gradients`, (k, 1 + D + D D), are written: those in the weight, the mean and the covariance of each
    component of q, each entry of a covariance by itself.
    """
    p, q, space = borrow(p), borrow(q), named(Workspace, borrow(space))
    load_reduced(p, q[0].size, space.factor, space.lanes)
    return error_of(q, shift, gradients, space.factor, space.lanes)

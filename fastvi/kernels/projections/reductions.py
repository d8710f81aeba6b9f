"""Mixtures with fewer components: greedy merges by Runnalls' bound, or by the integral squared error.

For `fastvi.reduce_mixture`, in any dimension. A merge replaces two components by one with their weight, mean
and covariance, so that the mixture keeps its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import exported, formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.matrices import cholesky, clear_vector, copy_matrix, copy_vector, half_log_det


class Workspace(NamedTuple):
    """Scratch space for reductions of K components in D dimensions.

    There are S = 2 K + 2 slots for components: the K first are q, two hold merged ones, the last are p.
    """

    weights: Vector  #: (S,)
    means: Matrix  #: (S, D)
    covs: Cube  #: (S, D, D): their lower triangles
    logs: Vector  #: (S,): log |covs| / 2
    costs: Matrix  #: (K, K): below the diagonal, of merging two components
    nearest: Integers  #: (K,): where a row of `costs` is least
    changes: Vector  #: (K,): inner products of the last change of the mixture with each component
    factor: Matrix  #: (D, D)
    inverse: Matrix  #: (D, D)
    vector: Vector  #: (D,)


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
    slots = 2 * components + 2
    return packed(
        Workspace(
            weights=np.empty(slots),
            means=np.empty((slots, dim)),
            covs=np.empty((slots, dim, dim)),
            logs=np.empty(slots),
            costs=np.empty((components, components)),
            nearest=np.empty(components, np.int64),
            changes=np.empty(components),
            factor=np.empty((dim, dim)),
            inverse=np.empty((dim, dim)),
            vector=np.empty(dim),
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


@inlined
def _log_product(i, j, shift, space):
    """The logarithm of the integral of the product of two components without their weights, less `shift`.

    The factor of the sum of their covariances stays in `space.factor`, its diagonal inverted, and the
    difference of their means, over it, in `space.vector`.
    """
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
        # One logarithm of the product: there are as many otherwise as dimensions.
        product *= factor[a, a]
        if not 1e-100 < product < 1e100:
            logs += math.log(product)
            product = 1.0
    return logs + math.log(product) - 0.5 * square - shift


@inlined
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
def _square(i, j, slot, shift, space):
    """Merge two components to `slot`: the integral of the squared change of the density."""
    _merge(i, j, slot, space)
    own = _change_by(i, j, slot, slot, shift, space)
    return own - _change_by(i, j, slot, i, shift, space) - _change_by(i, j, slot, j, shift, space)


@kernel
def _residual(slot, count, first, components, shift, space):
    """The inner product of a component with p - q."""
    s = 0.0
    for i in range(components):
        s += _overlap(slot, first + i, shift, space)
    for a in range(count):
        s -= _overlap(slot, a, shift, space)
    return s


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
    _load(p, 0, space)
    spare, taken, first, components = count, count + 1, count + 2, count
    _load(p, first, space)
    costs, changes = space.costs, space.changes
    for i in range(1, count):
        for j in range(i):
            costs[i, j] = _square(i, j, spare, shift, space)
    while count > wanted:
        for i in range(1, count):
            _find_nearest(i, space)
        i, j = _cheapest(count, space)
        _merge(i, j, taken, space)
        for a in range(count):
            changes[a] = _change_by(i, j, taken, a, shift, space)
        for a in range(1, count):
            for b in range(a):
                if a not in (i, j) and b not in (i, j):
                    _merge(a, b, spare, space)
                    change = _change_by(i, j, taken, spare, shift, space)
                    costs[a, b] += 2.0 * (change - changes[a] - changes[b])
        _move(taken, j, space)
        _close_gap(i, count, space)
        count -= 1
        own = _residual(j, count, first, components, shift, space)
        for b in range(count):
            if b != j:
                square = _square(j, b, spare, shift, space)
                product = _residual(spare, count, first, components, shift, space) - own
                product -= _residual(b, count, first, components, shift, space)
                costs[max(j, b), min(j, b)] = square - 2.0 * product
    return _store(wanted, q, space)


@inlined
def _differentiate(space):
    """After `_log_product`: write the lower triangle of S**-1, S the sum of the covariances.

    `vector` is replaced by S**-1 times the difference of the means, the factor by its inverse.
    """
    factor, inverse, vector = space.factor, space.inverse, space.vector
    dim = vector.size
    for b in range(dim):
        for a in range(b + 1, dim):
            s = 0.0
            for c in range(b, a):
                s -= factor[a, c] * factor[c, b]
            factor[a, b] = s * factor[a, a]
    for a in range(dim):
        for b in range(a + 1):
            s = 0.0
            for c in range(a, dim):
                s += factor[c, a] * factor[c, b]
            inverse[a, b] = s
        s = 0.0
        for c in range(a, dim):
            s += factor[c, a] * vector[c]
        vector[a] = s


@inlined
def _add_product(value, side, out, space):
    """Add an overlap without the weight of one component to that one's row of the gradient.

    `out` is of its weight, its mean and the lower triangle of its covariance; `side` is -1 for the other one.
    """
    inverse, vector = space.inverse, space.vector
    dim = vector.size
    out[0] += value
    half = 0.5 * value
    for a in range(dim):
        out[1 + a] -= side * value * vector[a]
        for b in range(a + 1):
            out[1 + dim + a * dim + b] += half * (vector[a] * vector[b] - inverse[a, b])


@kernel
def load_reduced(p, space):
    """Copy the mixture that is reduced to the last slots."""
    _load(p, p[0].size + 2, space)


@kernel
def error_of(q, components, shift, gradients, space):
    """`squared_error` after `load_reduced` of p, which has so many components."""
    weights, means, chols = q
    count, dim = means.shape
    first, total = components + 2, 0.0
    for j in range(count):
        space.weights[j] = weights[j]
        copy_vector(means[j], space.means[j])
        _write_cov(chols[j], space.covs[j])
        clear_vector(gradients[j])
    for j in range(count):
        row = gradients[j]
        for i in range(j + 1):
            value = 2.0 * math.exp(_log_product(j, i, shift, space))
            _differentiate(space)
            _add_product(value * weights[i], 1.0, row, space)
            if i < j:
                _add_product(value * weights[j], -1.0, gradients[i], space)
    for j in range(count):
        row = gradients[j]
        own = row[0]
        for i in range(first, first + components):
            value = -2.0 * space.weights[i] * math.exp(_log_product(j, i, shift, space))
            if value != 0.0:
                _differentiate(space)
                _add_product(value, 1.0, row, space)
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
    load_reduced(p, space)
    return error_of(q, p[0].size, shift, gradients, space)

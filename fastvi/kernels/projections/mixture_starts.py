"""Starts of descents of KL(q ‖ p) to mixtures q of k Gaussians.

Candidates for components of q are those of p, what Runnalls' merges make of them, and others that are given.
A beam search grows sets of them. For given Gaussians the divergence is convex in the weights, and

    w_j <- w_j exp(-E_j[log q - log p])

lowers it; where the Gaussians do not overlap, one such step is exact, w_j ∝ exp(-KL(N_j ‖ p)). The merges
themselves and random partitions of p are starts as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Integers, Matrix, Vector, borrow, named, packed
from ..compiler import adder, exported, formula, kernel
from ..densities.gaussians import LOG_2PI
from ..densities.mixtures import mixture_moments
from ..em.e_step import maximum, share
from ..numerics.elementary import log
from ..numerics.matrices import (
    add_scaled,
    cholesky,
    clear_vector,
    copy_matrix,
    copy_vector,
    dot,
    fill_vector,
    half_log_det,
)
from .descent_starts import is_known
from .reductions import runnalls

#: Candidates that are kept, and components of p up to which its I-projections onto one Gaussian are among
#: them.
CANDIDATES, FEW_COMPONENTS = 48, 24

#: Room for candidates: components of p, those of the first merges, one more of each of the others, and
#: I-projections onto one Gaussian, which are at most 325.
ROOM = 3 * CANDIDATES + FEW_COMPONENTS * (FEW_COMPONENTS + 3) // 2 + 1

#: Tolerance of these I-projections, and difference of numbers in equal candidates, in the frame of p.
CANDIDATE_RTOL, EQUAL = 1e-4, 1e-6

#: A candidate is left out whose KL from a better one is below this, in nats.
NEAR = 0.02

#: Sets of one candidate that are grown, sets that are kept while they grow and are starts, and steps for
#: their weights.
SINGLE, BEAM, WEIGHT_STEPS = 8, 10, 4

#: Random partitions of p's components that are starts, and the seed of their random numbers.
PARTITIONS, SEED = 6, 20251128

#: The most starts: the greedy merges come first.
MOST = 1 + BEAM + PARTITIONS

#: Random integers: x <- FACTOR x mod MODULUS. S. K. Park, K. W. Miller, P. K. Stockmeyer, Technical
#: Correspondence, Comm. ACM 36 (1993).
FACTOR, MODULUS = 48271, 2**31 - 1

#: The lattice (step, reach) under each candidate, for each dimension.
ROUGH = np.array([(0.5, 4.0), (0.8, 3.5), (1.1, 3.3)])


class Sets(NamedTuple):
    """Sets of candidates, the best first."""

    values: Vector  #: (BEAM,): divergences
    members: IntegerMatrix  #: (BEAM, k)
    logs: Matrix  #: (BEAM, k): logarithms of the weights


class Workspace(NamedTuple):
    """Scratch space for a p of K components, q's of k, and S nodes; at most C candidates are kept."""

    logs: Vector  #: (K,): of the mixtures that merges make
    means: Matrix  #: (K, D)
    factors: Cube  #: (K, D, D)
    pool_means: Matrix  #: (ROOM, D): of all candidates
    pool_factors: Cube  #: (ROOM, D, D)
    alone: Vector  #: (ROOM,): divergences of candidates from p, in ascending order
    order: Integers  #: (ROOM,): whose they are
    kept_means: Matrix  #: (C, D)
    kept_factors: Cube  #: (C, D, D)
    own: Cube  #: (C, C, S): [i, j, s]: log density of candidate j at the nodes of candidate i
    log_p: Matrix  #: (C, S)
    points: Matrix  #: (D, S)
    whitened: Matrix  #: (D, S)
    values: Matrix  #: (max(K, k), S)
    top: Vector  #: (S,)
    total: Vector  #: (S,)
    excess: Vector  #: (k,): of log q over log p under each member
    sets: Sets
    grown: Sets
    weights: Vector  #: (k,): logarithms of those of a set
    members: Integers  #: (k,): a set
    groups: Integers  #: (K,): of the components, in a partition
    permuted: Integers  #: (K,)
    vectors: Vector  #: (2 D,)
    cov: Matrix  #: (D, D)
    control: Integers  #: (1,): another thread may set it to 1, which ends the search


@kernel
def _new_sets(count):
    return Sets(np.empty(BEAM), np.empty((BEAM, count), np.int64), np.empty((BEAM, count)))


@exported
def workspace(components, count, dim, nodes):
    """Scratch space for a p of so many `components`, a q of `count`, and `nodes`: one for each thread.

    Parameters
    ----------
    components, count, dim, nodes : int

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.mixture_starts.workspace(3, 2, 1, 17)
    """
    return packed(
        Workspace(
            logs=np.empty(components),
            means=np.empty((components, dim)),
            factors=np.empty((components, dim, dim)),
            pool_means=np.empty((ROOM, dim)),
            pool_factors=np.empty((ROOM, dim, dim)),
            alone=np.empty(ROOM),
            order=np.empty(ROOM, np.int64),
            kept_means=np.empty((CANDIDATES, dim)),
            kept_factors=np.empty((CANDIDATES, dim, dim)),
            own=np.empty((CANDIDATES, CANDIDATES, nodes)),
            log_p=np.empty((CANDIDATES, nodes)),
            points=np.empty((dim, nodes)),
            whitened=np.empty((dim, nodes)),
            values=np.empty((max(components, count), nodes)),
            top=np.empty(nodes),
            total=np.empty(nodes),
            excess=np.empty(count),
            sets=_new_sets(count),
            grown=_new_sets(count),
            weights=np.empty(count),
            members=np.empty(count, np.int64),
            groups=np.empty(components, np.int64),
            permuted=np.empty(components, np.int64),
            vectors=np.empty(2 * dim),
            cov=np.empty((dim, dim)),
            control=np.empty(1, np.int64),
        )
    )


@kernel
def _make_place(value, values, count):
    """The place of a value among the first, sorted ones, behind its equals: it is written, others move up.

    `values.size`, where there is none: they are full and better.
    """
    if count == values.size and not value < values[count - 1]:
        return count
    i = min(count, values.size - 1)
    while i > 0 and value < values[i - 1]:
        values[i] = values[i - 1]
        i -= 1
    values[i] = value
    return i


@kernel
def _normalise(logs):
    """Weights in these proportions, by their logarithms."""
    top, total = logs.max(), 0.0
    for j in range(logs.size):
        total += math.exp(logs[j] - top)
    top += math.log(total)
    for j in range(logs.size):
        logs[j] -= top


# Candidates.


@kernel
def _add(mean, factor, count, space):
    """Add a candidate, unless an equal one is there: their number."""
    if count == ROOM:
        return count
    for c in range(count):
        largest = 0.0
        for i in range(mean.size):
            largest = max(largest, abs(mean[i] - space.pool_means[c, i]))
            for j in range(i + 1):
                largest = max(largest, abs(factor[i, j] - space.pool_factors[c, i, j]))
        if largest < EQUAL:
            return count
    copy_vector(mean, space.pool_means[count])
    copy_matrix(factor, space.pool_factors[count])
    return count + 1


@kernel
def _add_heaviest(p, space):
    """Add the components of p with the largest weights: the number of candidates."""
    log_weights, means, factors = p
    best, order, count = space.alone[:CANDIDATES], space.order, 0
    for k in range(log_weights.size):
        place = _make_place(-log_weights[k], best, count)
        if place < best.size:
            count = min(count + 1, best.size)
            for i in range(count - 1, place, -1):
                order[i] = order[i - 1]
            order[place] = k
    added = 0
    for i in range(count):
        added = _add(means[order[i]], factors[order[i]], added, space)
    return added


@kernel
def _add_merges(p, out, count, space, merges):
    """Add what greedy merges make of p; those to as many as q has are the first start.

    The number of candidates, and that of starts: 0 where components are too narrow to be merged.
    """
    components, wanted = p[0].size, out[0].shape[1]
    for k in range(components):
        space.logs[k] = p[0][k]
        copy_vector(p[1][k], space.means[k])
        copy_matrix(p[2][k], space.factors[k])
    before, starts = components, 0
    left = min(components - 1, max(wanted, CANDIDATES - 1))
    while left > 0:
        source = space.logs[:before], space.means[:before], space.factors[:before]
        target = space.logs[:left], space.means[:left], space.factors[:left]
        if not runnalls(source, target, merges) < math.inf:
            break
        for k in range(left):
            space.logs[k] = math.log(space.logs[k])
            if left < CANDIDATES:
                count = _add(space.means[k], space.factors[k], count, space)
        if left == wanted:
            starts = 1
            for k in range(left):
                out[0][0, k] = space.logs[k]
                copy_vector(space.means[k], out[1][0, k])
                copy_matrix(space.factors[k], out[2][0, k])
        before, left = left, min(left - 1, CANDIDATES - 1)
    return count, starts


@formula
def _divided_difference(x, m, scale, out):
    for n in range(out.size):
        out[n] = (x[n] - m) / scale


@formula
def _subtract_half_square(x, out):
    for n in range(out.size):
        out[n] -= 0.5 * x[n] * x[n]


@formula
def _shifted(x, shift, out):
    for n in range(out.size):
        out[n] = x[n] + shift


@adder
def _mean_excess(top, total, log_p, shares):
    """The mean of top + log(total) - log p."""
    s = 0.0
    for n in range(shares.size):
        s += shares[n] * (top[n] + log(total[n]) - log_p[n])
    return s


@formula
def _write_log(top, total, out):
    for n in range(out.size):
        out[n] = top[n] + log(total[n])


@kernel
def _write_points(mean, factor, nodes, space):
    """Write the nodes of a Gaussian."""
    for i in range(mean.size):
        fill_vector(mean[i], space.points[i])
        for j in range(i + 1):
            add_scaled(factor[i, j], nodes[j], space.points[i])


@kernel
def _write_densities(constant, mean, factor, out, space):
    """Write the log density of a Gaussian at the points, and a constant."""
    dim = mean.size
    fill_vector(constant - half_log_det(factor) - 0.5 * dim * LOG_2PI, out)
    for i in range(dim):
        row = space.whitened[i]
        _divided_difference(space.points[i], mean[i], factor[i, i], row)
        for j in range(i):
            add_scaled(-factor[i, j] / factor[i, i], space.whitened[j], row)
        _subtract_half_square(row, out)


@kernel
def _add_exponentials(count, space):
    """Write the largest of the first rows of `values`, and the sum of their exponentials over its own."""
    fill_vector(-math.inf, space.top)
    clear_vector(space.total)
    for k in range(count):
        maximum(space.values[k], space.top)
    for k in range(count):
        share(space.values[k], space.top, space.total)


@kernel
def _write_log_p(p, mean, factor, nodes, out, space):
    """Write log p at the nodes of a Gaussian."""
    _write_points(mean, factor, nodes, space)
    for k in range(p[0].size):
        _write_densities(p[0][k], p[1][k], p[2][k], space.values[k], space)
    _add_exponentials(p[0].size, space)
    _write_log(space.top, space.total, out)


@kernel
def _keep(p, count, nodes, shares, space):
    """Keep the candidates that are not near a better one, with all that the beam search needs of them.

    `alone` has then their divergences from p. The entropy of each is exact on the nodes.
    """
    dim, order, log_p = nodes.shape[0], space.order, space.log_p[0]
    for c in range(count):
        mean, factor = space.pool_means[c], space.pool_factors[c]
        _write_log_p(p, mean, factor, nodes, log_p, space)
        value = -half_log_det(factor) - 0.5 * dim * (LOG_2PI + 1.0) - dot(shares, log_p)
        place = _make_place(value if value < math.inf else math.inf, space.alone, c)
        for i in range(c, place, -1):
            order[i] = order[i - 1]
        order[place] = c
    kept = 0
    means, factors = space.kept_means, space.kept_factors
    for i in range(count):
        mean, factor = space.pool_means[order[i]], space.pool_factors[order[i]]
        if kept == CANDIDATES or is_known(mean, factor, means, factors, kept, NEAR, space.vectors):
            continue
        copy_vector(mean, means[kept])
        copy_matrix(factor, factors[kept])
        space.alone[kept] = space.alone[i]
        kept += 1
    for i in range(kept):
        _write_log_p(p, means[i], factors[i], nodes, space.log_p[i], space)
        for j in range(kept):
            _write_densities(0.0, means[j], factors[j], space.own[i, j], space)
    return kept


# Sets of candidates.


@kernel
def _weigh(members, logs, shares, space):
    """Write the logarithms of the best weights of a set, about: its divergence with them."""
    size, step = members.size, 0
    fill_vector(-math.log(size), logs)
    while True:
        value = 0.0
        for a in range(size):
            i = members[a]
            for b in range(size):
                _shifted(space.own[i, members[b]], logs[b], space.values[b])
            _add_exponentials(size, space)
            space.excess[a] = _mean_excess(space.top, space.total, space.log_p[i], shares)
            value += math.exp(logs[a]) * space.excess[a]
        if step == WEIGHT_STEPS:
            return value
        for a in range(size):
            logs[a] -= space.excess[a]
        _normalise(logs)
        step += 1


@kernel
def _is_member(candidate, members):
    for a in range(members.size):
        if members[a] == candidate:
            return True
    return False


@kernel
def _was_grown(members, first, sets):
    """Whether one of the first sets is a part of this larger one."""
    size = members.size - 1
    for s in range(first):
        inside = 0
        for a in range(size):
            inside += 1 if _is_member(sets.members[s, a], members) else 0
        if inside == size:
            return True
    return False


@kernel
def _insert(value, members, logs, count, sets):
    """Keep a set if it is among the best: their number."""
    place = _make_place(value, sets.values, count)
    if place == sets.values.size:
        return count
    count = min(count + 1, sets.values.size)
    for s in range(count - 1, place, -1):
        copy_vector(sets.members[s - 1], sets.members[s])
        copy_vector(sets.logs[s - 1], sets.logs[s])
    for a in range(members.size):
        sets.members[place, a], sets.logs[place, a] = members[a], logs[a]
    return count


@kernel
def _grow(count, size, kept, shares, space):
    """Add to each of the sets each of the other candidates; the best become the sets: their number."""
    members, logs, grown = space.members[:size], space.weights[:size], 0
    for s in range(count):
        if space.control[0] != 0:
            break
        for j in range(kept):
            if _is_member(j, space.sets.members[s, : size - 1]):
                continue
            for a in range(size - 1):
                members[a] = space.sets.members[s, a]
            members[size - 1] = j
            if not _was_grown(members, s, space.sets):
                value = _weigh(members, logs, shares, space)
                grown = _insert(value, members, logs, grown, space.grown)
    for s in range(grown):
        space.sets.values[s] = space.grown.values[s]
        copy_vector(space.grown.members[s], space.sets.members[s])
        copy_vector(space.grown.logs[s], space.sets.logs[s])
    return grown


@kernel
def _find_sets(kept, shares, space):
    """The best sets of as many candidates as q has components: their number."""
    size = space.members.size
    if kept < size:
        return 0
    count = min(kept, SINGLE)
    for s in range(count):
        space.sets.values[s], space.sets.members[s, 0], space.sets.logs[s, 0] = space.alone[s], s, 0.0
    for larger in range(2, size + 1):
        count = _grow(count, larger, kept, shares, space)
    return count


# Partitions.


@kernel
def _random(state, below):
    """The next state, and an integer from 0 on."""
    state = FACTOR * state % MODULUS
    return state, state * below // MODULUS


@kernel
def _divide(state, count, space):
    """Divide the components of p into groups at random, none empty: the next state."""
    order, groups = space.permuted, space.groups
    for k in range(order.size):
        order[k] = k
    for k in range(order.size - 1, 0, -1):
        state, other = _random(state, k + 1)
        order[k], order[other] = order[other], order[k]
    for k in range(order.size):
        groups[order[k]] = k
        if k >= count:
            state, groups[order[k]] = _random(state, count)
    return state


@kernel
def _write_group(p, group, mean, factor, space):
    """Write mean and factor of a group of p's components: the logarithm of its weight, NaN if it has none."""
    total, logs = 0.0, space.logs
    for k in range(logs.size):
        total += math.exp(p[0][k]) if space.groups[k] == group else 0.0
    for k in range(logs.size):
        logs[k] = p[0][k] - math.log(total) if space.groups[k] == group else -math.inf
    mixture_moments(logs, p[1], p[2], mean, space.cov)
    return math.log(total) if cholesky(space.cov, factor) else math.nan


@exported
def starts(p, alone, nodes, shares, out, space, merges):
    """Write mixtures from which descents to I-projections of p start: their number.

    Parameters
    ----------
    p : tuple
        Log weights, means and factors of a mixture with mean 0 and covariance I; each has a weight.
    alone : tuple
        Means and factors of other candidates for components of q: I-projections of p onto one Gaussian.
    nodes, shares : (D, S), (S,)
        Nodes under each candidate, as in `mixture_descents.descend`.
    out : tuple
        Log weights, means and factors of `MOST` mixtures of k components, fewer than p has: (MOST, k),
        (MOST, k, D), (MOST, k, D, D). Are written.
    space : ndarray
        A `workspace`.
    merges : ndarray
        A `reductions.workspace`.

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.3, 0.4]), np.array([[-1.0], [-0.5], [1.0]]), np.full((3, 1, 1), 0.1)
    >>> nodes, shares = kernels.projections.mixture_optima.lattice(1, 0.5, 4.0)
    >>> room = kernels.projections.mixture_starts
    >>> out = np.empty((room.MOST, 2)), np.empty((room.MOST, 2, 1)), np.empty((room.MOST, 2, 1, 1))
    >>> alone, space = (np.empty((0, 1)), np.empty((0, 1, 1))), room.workspace(3, 2, 1, shares.size)
    >>> merges = kernels.projections.reductions.workspace(3, 1)
    >>> count = room.starts(p, alone, nodes, shares, out, space, merges)
    >>> count, np.exp(out[0][0]).round(2), out[1][0].ravel().round(2)
    (17, array([0.6, 0.4]), array([-0.75,  1.  ]))
    """
    p, out, space = borrow(p), borrow(out), named(Workspace, borrow(space))
    alone_means, alone_factors = borrow(alone)
    logs, means, factors = out
    wanted = logs.shape[1]
    space.control[0] = 0
    count = _add_heaviest(p, space)
    count, found = _add_merges(p, out, count, space, merges)
    for c in range(alone_means.shape[0]):
        count = _add(alone_means[c], alone_factors[c], count, space)
    kept = _keep(p, count, nodes, shares, space)
    sets = space.sets
    for s in range(_find_sets(kept, shares, space)):
        for a in range(wanted):
            logs[found, a] = sets.logs[s, a]
            copy_vector(space.kept_means[sets.members[s, a]], means[found, a])
            copy_matrix(space.kept_factors[sets.members[s, a]], factors[found, a])
        found += 1
    state = SEED
    for _ in range(PARTITIONS):
        state, good = _divide(state, wanted, space), True
        for a in range(wanted):
            logs[found, a] = _write_group(p, a, means[found, a], factors[found, a], space)
            good = good and logs[found, a] < math.inf
        found += 1 if good else 0
    return found

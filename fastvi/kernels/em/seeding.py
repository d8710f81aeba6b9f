"""Starts of EM: clusters by k-means, and the mixture of them. Used by each restart of `fit_mixture`."""

from __future__ import annotations

import math

import numpy as np

from ..compiler import exported, formula, kernel
from ..numerics.matrices import add_up, clear_matrix, clear_vector, copy_matrix, copy_vector, dot
from .e_step import BLOCK, STOP, subtract
from .m_step import constrain, floored_factor

#: Least eigenvalue of the covariances of a start, for standardized points.
LEAST_START = 1e-6

#: Most rounds of k-means after its start: the EM that follows needs no more.
ROUNDS = 20

#: Exchanges that are tried for each centre. Of 100 clusters in 200 dimensions, k-means++ misses about ten,
#: which neither k-means nor EM finds later.
EXCHANGES = 3

#: The golden ratio's fraction: its multiples, modulo 1, are spread evenly over [0, 1).
GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


@formula
def _add_square(x, out):
    for n in range(out.size):
        out[n] += x[n] * x[n]


@formula
def _keep_smaller(x, out):
    for n in range(out.size):
        out[n] = x[n] if x[n] < out[n] else out[n]


@kernel
def _squares(places, centre, first, count, space):
    """Squared distances from a centre, of a block of points."""
    square, difference = space.top[:count], space.row[:count]
    clear_vector(square)
    for i in range(centre.size):
        subtract(places[i, first : first + count], centre[i], difference)
        _add_square(difference, square)
    return square


@kernel
def _potential(places, centre, distances, space):
    """The sum of squared distances to the nearest centre if this one is added."""
    total = 0.0
    for first in range(0, distances.size, BLOCK):
        count = min(BLOCK, distances.size - first)
        square = _squares(places, centre, first, count, space)
        _keep_smaller(distances[first : first + count], square)
        if space.frequencies.size > 0:
            total += dot(square, space.frequencies[first : first + count])
        else:
            total += add_up(square)
    return total


@kernel
def _nearer(places, centre, label, distances, labels, space):
    """Label the points that are nearer to this centre than to those before it."""
    for first in range(0, distances.size, BLOCK):
        if space.control[STOP]:
            return
        count = min(BLOCK, distances.size - first)
        square = _squares(places, centre, first, count, space)
        for n in range(count):
            if square[n] < distances[first + n]:
                distances[first + n] = square[n]
                labels[first + n] = label


@kernel
def _drawn(uniform, total, distances, space):
    """A point drawn with probability proportional to its distance, times its weight; `total` is their sum."""
    size, frequencies = distances.size, space.frequencies
    left = uniform * total
    for n in range(size):
        left -= distances[n] * frequencies[n] if frequencies.size > 0 else distances[n]
        if left < 0.0:
            return n
    return size - 1


@kernel
def _total(distances, space):
    return dot(distances, space.frequencies) if space.frequencies.size > 0 else add_up(distances)


@kernel
def _place(places, n, centre):
    for i in range(centre.size):
        centre[i] = places[i, n]


@kernel
def _draw_centres(places, uniforms, centres, distances, labels, space):
    """Greedy k-means++: of the candidates for each centre, the one that leaves the smallest distances."""
    components, size = centres.shape[0], distances.size
    candidates = uniforms.size // components
    for n in range(size):
        distances[n] = 1.0
        labels[n] = 0
    for k in range(components):
        if space.control[STOP]:
            return
        total = _total(distances, space)
        if total > 0.0:
            best, chosen = math.inf, size - 1
            for c in range(candidates if k > 0 else 1):
                n = _drawn(uniforms[k * candidates + c], total, distances, space)
                _place(places, n, centres[k])
                left = _potential(places, centres[k], distances, space) if candidates > 1 and k > 0 else 0.0
                if left < best:
                    best, chosen = left, n
        else:
            chosen = min(int(uniforms[k * candidates] * size), size - 1)
        _place(places, chosen, centres[k])
        if k == 0:
            for n in range(size):
                distances[n] = math.inf
        _nearer(places, centres[k], k, distances, labels, space)


@kernel
def _nearest_two(places, centres, distances, second, labels, space):
    """Label all points by the nearest centre, with the distances of the nearest and of the second."""
    for first in range(0, distances.size, BLOCK):
        count = min(BLOCK, distances.size - first)
        for n in range(first, first + count):
            distances[n], second[n] = math.inf, math.inf
        for k in range(centres.shape[0]):
            square = _squares(places, centres[k], first, count, space)
            for n in range(count):
                if square[n] < distances[first + n]:
                    second[first + n] = distances[first + n]
                    distances[first + n] = square[n]
                    labels[first + n] = k
                elif square[n] < second[first + n]:
                    second[first + n] = square[n]


@kernel
def _least_potential(places, centre, distances, second, labels, space):
    """(which centre to exchange for this one, the sum of distances after that)."""
    frequencies, added = space.frequencies, space.weights
    clear_vector(added)
    kept = 0.0
    for first in range(0, distances.size, BLOCK):
        count = min(BLOCK, distances.size - first)
        square = _squares(places, centre, first, count, space)
        for n in range(first, first + count):
            weight = frequencies[n] if frequencies.size > 0 else 1.0
            with_it = min(square[n - first], distances[n])
            kept += weight * with_it
            added[labels[n]] += weight * (min(square[n - first], second[n]) - with_it)
    best = 0
    for k in range(1, added.size):
        best = k if added[k] < added[best] else best
    return best, kept + added[best]


@kernel
def _exchange(places, uniform, centres, distances, labels, space):
    """Exchange centres for points while that makes the sum of distances smaller.

    The points are drawn with probability proportional to their distance: S. Lattanzi, C. Sohler, A Better
    k-means++ Algorithm via Local Search, ICML (2019). For each point all exchanges are tried at once, by the
    distances of the second centres.
    """
    second, point = np.empty(distances.size), space.mean
    _nearest_two(places, centres, distances, second, labels, space)
    total = _total(distances, space)
    for _ in range(EXCHANGES * centres.shape[0]):
        if space.control[STOP] or not total > 0.0:
            return
        uniform = (uniform + GOLDEN) % 1.0
        _place(places, _drawn(uniform, total, distances, space), point)
        k, left = _least_potential(places, point, distances, second, labels, space)
        if left < total:
            copy_vector(point, centres[k])
            _nearest_two(places, centres, distances, second, labels, space)
            total = min(left, _total(distances, space))


@kernel
def _clusters(columns, labels, weights, means, space):
    """Write the shares and means of the clusters; one without points keeps its mean, and counts as one."""
    dim, size = columns.shape
    frequencies = space.frequencies
    clear_vector(weights)
    for n in range(size):
        weights[labels[n]] += frequencies[n] if frequencies.size > 0 else 1.0
    for k in range(weights.size):
        if weights[k] > 0.0:
            for i in range(dim):
                means[k, i] = 0.0
    for i in range(dim):
        for n in range(size):
            means[labels[n], i] += columns[i, n] * frequencies[n] if frequencies.size > 0 else columns[i, n]
    total = 0.0
    for k in range(weights.size):
        if weights[k] > 0.0:
            for i in range(dim):
                means[k, i] /= weights[k]
        weights[k] = weights[k] if weights[k] > 0.0 else 1.0
        total += weights[k]
    for k in range(weights.size):
        weights[k] /= total


@exported
def cluster(places, uniforms, centres, distances, labels, space):
    """Label points by k-means; `distances` and `labels` have an entry for each.

    The centres are points at first, each drawn with probability proportional to the squared distance from the
    nearest centre before it (k-means++, Arthur and Vassilvitskii 2007). There is a uniform number for each
    centre, or several: then as many points are drawn for it, and the best is taken. Then centres are
    exchanged for points, EXCHANGES times as many as there are. At most ROUNDS rounds of Lloyd's algorithm
    follow. `places` are the points as (D, N), in the units in which distances are measured.
    """
    components, size = centres.shape[0], distances.size
    _draw_centres(places, uniforms, centres, distances, labels, space)
    if components > 1:
        _exchange(places, uniforms[0], centres, distances, labels, space)
    for _ in range(ROUNDS):
        before = _total(distances, space)
        _clusters(places, labels, space.weights, centres, space)
        for n in range(size):
            distances[n] = math.inf
        for k in range(components):
            _nearer(places, centres[k], k, distances, labels, space)
        if space.control[STOP] or not _total(distances, space) < before:
            break


@exported
def mixture_of_clusters(columns, labels, weights, means, factors, floor, space):
    """Write the mixture of labelled points: with their shares, their means, and one covariance.

    The covariance is the one within the clusters, pooled, since that of a cluster of few points may be
    singular. A label that no point has keeps its mean.
    """
    dim, size = columns.shape
    frequencies, block, row = space.frequencies, space.block, space.row
    _clusters(columns, labels, weights, means, space)
    within, factor = space.covariance, factors[0]
    clear_matrix(within)
    mass = add_up(frequencies) if frequencies.size > 0 else float(size)
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        for i in range(dim):
            for n in range(count):
                block[i, n] = columns[i, first + n] - means[labels[first + n], i]
                row[n] = block[i, n] * frequencies[first + n] if frequencies.size > 0 else block[i, n]
            for j in range(i + 1):
                within[i, j] += dot(row[:count], block[j, :count])
    for i in range(dim):
        for j in range(i + 1):
            within[i, j] /= mass
            within[j, i] = within[i, j]
    constrain(within, space)
    floored_factor(within, max(floor, LEAST_START), factor, space.matrices)
    for k in range(1, weights.size):
        copy_matrix(factor, factors[k])


@exported
def seed(columns, uniforms, weights, means, factors, floor, distances, labels, space):
    """Write a start: the mixture of clusters of standardized points. See `cluster`, `mixture_of_clusters`."""
    cluster(columns, uniforms, means, distances, labels, space)
    mixture_of_clusters(columns, labels, weights, means, factors, floor, space)

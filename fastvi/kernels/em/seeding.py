"""Starts of EM: centres spread over the data, and the clusters around them."""

from __future__ import annotations

import math

from ..compiler import exported, kernel
from ..numerics.matrices import clear_matrix, clear_vector, copy_matrix
from .m_step import floored_factor

#: Covariances of a start have eigenvalues of at least this, for standardized points.
LEAST_START = 1e-6


@kernel
def _nearer(columns, centre, label, distances, labels):
    """Give this centre's label to the points that are nearer to it than to those before it."""
    dim, size = columns.shape
    for n in range(size):
        s = 0.0
        for i in range(dim):
            s += (columns[i, n] - centre[i]) ** 2
        if s < distances[n]:
            distances[n] = s
            labels[n] = label


@exported
def seed(columns, uniforms, weights, means, factors, floor, distances, labels, space):
    """Write a start, from one uniform number for each component; `distances` and `labels` have N entries.

    Centres are points of the data, each drawn with probability proportional to the squared distance from
    the centres before it (Arthur and Vassilvitskii 2007). Components are then the clusters around them, all
    with the pooled covariance within clusters: one of a few points may have none of its own.
    """
    dim, size = columns.shape
    components = weights.size
    for n in range(size):
        distances[n] = math.inf
        labels[n] = 0
    for k in range(components):
        total = 0.0
        if k > 0:
            for n in range(size):
                total += distances[n]
        if total > 0.0:
            left, chosen = uniforms[k] * total, size - 1
            for n in range(size):
                left -= distances[n]
                if left < 0.0:
                    chosen = n
                    break
        else:
            chosen = min(int(uniforms[k] * size), size - 1)
        for i in range(dim):
            means[k, i] = columns[i, chosen]
        _nearer(columns, means[k], k, distances, labels)
    _clusters(columns, labels, weights, means)
    within, factor = space.covariance, factors[0]
    clear_matrix(within)
    for n in range(size):
        for i in range(dim):
            for j in range(i + 1):
                d = (columns[i, n] - means[labels[n], i]) * (columns[j, n] - means[labels[n], j])
                within[i, j] += d / size
    for i in range(dim):
        for j in range(i + 1, dim):
            within[i, j] = within[j, i]
    floored_factor(within, max(floor, LEAST_START), factor, space.matrices)
    for k in range(1, components):
        copy_matrix(factor, factors[k])


@kernel
def _clusters(columns, labels, weights, means):
    """Write the clusters' shares and means; a centre without points (a duplicate) keeps its place."""
    dim, size = columns.shape
    clear_vector(weights)
    for n in range(size):
        weights[labels[n]] += 1.0
    for k in range(weights.size):
        if weights[k] > 0.0:
            for i in range(dim):
                means[k, i] = 0.0
    for n in range(size):
        for i in range(dim):
            means[labels[n], i] += columns[i, n] / weights[labels[n]]
    total = 0.0
    for k in range(weights.size):
        weights[k] = max(weights[k], 1.0)
        total += weights[k]
    for k in range(weights.size):
        weights[k] /= total

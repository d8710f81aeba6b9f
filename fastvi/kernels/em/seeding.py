"""Starts of EM: centres by k-means++, and the clusters around them. Used by each restart of `fit_mixture`."""

from __future__ import annotations

import math

from ..compiler import exported, kernel
from ..numerics.matrices import clear_matrix, clear_vector, copy_matrix
from .m_step import floored_factor

#: Least eigenvalue of the covariances of a start, for standardized points.
LEAST_START = 1e-6


@kernel
def _nearer(columns, centre, label, distances, labels):
    """Label the points that are nearer to this centre than to the centres before it."""
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

    Centres are points of the data, each drawn with probability proportional to the squared distance from the
    nearest centre before it: k-means++ (Arthur and Vassilvitskii 2007). A component has the weight and the
    mean of the points nearest to a centre; all have the pooled covariance within the clusters, since that of
    a cluster of few points may be singular.
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
    """Write the shares and means of the clusters; a centre without points (a duplicate) is its own mean."""
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

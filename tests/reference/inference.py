"""Quadrature over the support of a posterior."""

from functools import lru_cache

import numpy as np

#: Nodes and weights on [-1, 1]: 600 of them take half a second, nearly all of a test of a random model.
_legendre = lru_cache(np.polynomial.legendre.leggauss)


def posterior_nodes(support, low, high, count=300):
    """(z, log weight) of a Gauss-Legendre rule over a support of one or two free coordinates.

    `support` is "box" for the box between `low` and `high`, or "simplex" for two or three shares.
    """
    x, w = _legendre(count)
    axes = []
    for a, b in zip(low, high, strict=True):
        axes.append((0.5 * (a + b) + 0.5 * (b - a) * x, np.log(0.5 * (b - a) * w)))
    if len(axes) == 1:
        z, weight = axes[0][0][:, None], axes[0][1]
    else:
        u, v = np.meshgrid(axes[0][0], axes[1][0], indexing="ij")
        z = np.stack([u.ravel(), v.ravel()], axis=-1)
        weight = (axes[0][1][:, None] + axes[1][1][None, :]).ravel()
    if support == "simplex":
        if z.shape[1] == 2:
            weight = weight + np.log1p(-z[:, 0])
            z = np.stack([z[:, 0], (1 - z[:, 0]) * z[:, 1]], axis=-1)
        z = np.column_stack([z, 1 - z.sum(axis=1)])
    return z, weight

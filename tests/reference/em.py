"""EM a point at a time."""

import math

import numpy as np


def em(x, weights, means, covs, steps):
    """EM a point at a time, Bishop (2006), eq. 9.23 to 9.28: (trace, weights, means, covs, posteriors)."""
    weights, means, covs = (np.array(a, float) for a in (weights, means, covs))
    n, d = x.shape
    trace = []
    while True:
        r, evidence = np.empty((n, len(weights))), 0.0
        for i, point in enumerate(x):
            density = [
                w
                * math.exp(-0.5 * (point - m) @ np.linalg.solve(c, point - m))
                / math.sqrt((2.0 * math.pi) ** d * np.linalg.det(c))
                for w, m, c in zip(weights, means, covs, strict=True)
            ]
            r[i] = np.array(density) / sum(density)
            evidence += math.log(sum(density))
        trace.append(evidence)
        if len(trace) > steps:
            return np.array(trace), weights, means, covs, r
        for k in range(len(weights)):
            mass = r[:, k].sum()
            weights[k] = mass / n
            means[k] = r[:, k] @ x / mass
            covs[k] = sum(r[i, k] * np.outer(x[i] - means[k], x[i] - means[k]) for i in range(n)) / mass

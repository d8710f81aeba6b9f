"""EM for points with gaps, and with weights, a point at a time."""

import math

import numpy as np


def em(x, weights, means, covs, steps, counts=None, kind="full"):
    """(trace, weights, means, covs, posteriors, conditional means); NaN in `x` is a gap."""
    weights, means, covs = (np.array(a, float) for a in (weights, means, covs))
    n, d = x.shape
    counts = np.ones(n) if counts is None else counts
    trace = []
    while True:
        r = np.empty((n, len(weights)))
        filled, left = np.empty((n, len(weights), d)), np.zeros((n, len(weights), d, d))
        evidence = 0.0
        for i, point in enumerate(x):
            seen, gone = np.flatnonzero(~np.isnan(point)), np.flatnonzero(np.isnan(point))
            joint = []
            for k, (w, m, c) in enumerate(zip(weights, means, covs, strict=True)):
                inner, gap = c[np.ix_(seen, seen)], point[seen] - m[seen]
                square = gap @ np.linalg.solve(inner, gap)
                joint.append(w * math.exp(-0.5 * square) / math.sqrt(np.linalg.det(2.0 * math.pi * inner)))
                gain = c[np.ix_(gone, seen)] @ np.linalg.inv(inner)
                filled[i, k, seen], filled[i, k, gone] = point[seen], m[gone] + gain @ gap
                left[i, k][np.ix_(gone, gone)] = c[np.ix_(gone, gone)] - gain @ c[np.ix_(seen, gone)]
            r[i] = np.array(joint) / sum(joint)
            evidence += counts[i] * math.log(sum(joint))
        trace.append(evidence)
        if len(trace) > steps:
            return np.array(trace), weights, means, covs, r, np.einsum("nk,nkd->nd", r, filled)
        new = []
        for k in range(len(weights)):
            share = counts * r[:, k]
            weights[k] = share.sum() / counts.sum()
            means[k] = share @ filled[:, k] / share.sum()
            gaps = filled[:, k] - means[k]
            new.append(
                sum(s * (np.outer(g, g) + e) for s, g, e in zip(share, gaps, left[:, k], strict=True))
                / share.sum()
            )
        new = np.array(new)
        if kind == "tied":
            new[:] = np.einsum("k,kij->ij", weights, new)
        if kind in ("diag", "spherical"):
            new = np.array([np.diag(np.diag(c)) for c in new])
        if kind == "spherical":
            new = np.array([np.trace(c) / d * np.eye(d) for c in new])
        covs = new

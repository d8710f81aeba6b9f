"""Reductions of mixtures by the squared error: ``python -m bench.reductions [mixtures]``.

As in D. F. Crouse, P. Willett, K. Pattipati, L. Svensson, A Look at Gaussian Mixture Reduction Algorithms,
Fusion (2011), random mixtures of 10 components in four dimensions are reduced to 5. Of each method are
printed the mean integral squared error, also over that of the best of many optimisations, the mean KL(p ‖ q),
and the CPU time, also over that of the greedy merges.

Then mixtures of 50 components in the plane are reduced to 5: some whose components lie apart, some in five
clusters, and some that overlap all over.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import fastvi as fv
from fastvi.projections import reduction

DIM, BEFORE, AFTER = 4, 10, 5

#: Mixtures by default, starts of the optimisation that all are compared with, and calls of which the fastest
#: counts.
MIXTURES, STARTS, CALLS = 20, 30, 3


def random_mixture(rng: np.random.Generator) -> fv.GaussianMixture:
    """Means in a cube that is a few deviations wide, so that components overlap."""
    weights = rng.uniform(0.05, 0.5, BEFORE)
    roots = rng.normal(size=(BEFORE, DIM, DIM + 2))
    covs = roots @ roots.swapaxes(1, 2) / (DIM + 2)
    return fv.GaussianMixture(weights / weights.sum(), rng.uniform(0.0, 3.0, (BEFORE, DIM)), covs)


def apart(rng: np.random.Generator) -> fv.GaussianMixture:
    """Components that lie apart, with weights of many sizes."""
    roots = rng.normal(size=(50, 2, 4))
    covs = 0.075 * roots @ roots.swapaxes(1, 2)
    return fv.GaussianMixture(rng.dirichlet(np.ones(50)), 3.0 * rng.normal(size=(50, 2)), covs)


def clustered(rng: np.random.Generator) -> fv.GaussianMixture:
    """Five clusters of ten equal components."""
    means = np.repeat(4.0 * rng.normal(size=(5, 2)), 10, axis=0) + 0.7 * rng.normal(size=(50, 2))
    return fv.GaussianMixture(np.full(50, 0.02), means, np.array([0.4 * np.eye(2)] * 50))


def crowded(rng: np.random.Generator) -> fv.GaussianMixture:
    """Components in a square that is a few deviations wide."""
    weights, roots = rng.uniform(0.05, 0.5, 50), rng.normal(size=(50, 2, 4))
    covs = roots @ roots.swapaxes(1, 2) / 4.0
    return fv.GaussianMixture(weights / weights.sum(), rng.uniform(0.0, 3.0, (50, 2)), covs)


def overlap(p: fv.GaussianMixture, q: fv.GaussianMixture) -> float:
    """The integral of the product."""
    covs = p.covs[:, None] + q.covs[None]
    moved = p.means[:, None] - q.means[None]
    white = np.einsum("ijab,ijb->ija", np.linalg.inv(covs), moved)
    logs = -0.5 * np.einsum("ija,ija->ij", moved, white) - 0.5 * np.linalg.slogdet(2.0 * np.pi * covs)[1]
    return float(p.weights @ np.exp(logs) @ q.weights)


def squared_error(p: fv.GaussianMixture, q: fv.GaussianMixture) -> float:
    """The integral of (p - q)**2."""
    return overlap(p, p) - 2.0 * overlap(p, q) + overlap(q, q)


def random_merge(p: fv.GaussianMixture, rng: np.random.Generator) -> fv.GaussianMixture:
    """p with its components merged by a random partition."""
    labels = rng.permutation(np.concatenate([np.arange(AFTER), rng.integers(0, AFTER, BEFORE - AFTER)]))
    parts = [
        fv.GaussianMixture(p.weights[labels == i] / p.weights[labels == i].sum(), p.means[one], p.covs[one])
        for i in range(AFTER)
        for one in [labels == i]
    ]
    weights = np.bincount(labels, p.weights)
    return fv.GaussianMixture(weights, [q.mean for q in parts], [q.cov for q in parts])


def optimised(p: fv.GaussianMixture, q: fv.GaussianMixture) -> fv.GaussianMixture:
    """The minimum of the squared error near q."""
    frame = reduction.Frame(p)
    weights, means, factors = np.array(q.weights), np.array(q.means), np.linalg.cholesky(q.covs)
    reduction.kernels.em.standardization.standardize_mixture(frame.mean, frame.factor, means, factors)
    return frame.mixture(reduction._refine_squares(frame, (weights, means, factors), 1e-9, 500)[0])


def best_squared_error(p: fv.GaussianMixture, found: list[fv.GaussianMixture], rng: Any) -> float:
    """The least of optimisations from what the methods found, and from random merges."""
    starts = [*found, *(random_merge(p, rng) for _ in range(STARTS))]
    return min(squared_error(p, optimised(p, start)) for start in starts)


def main(count: int) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    errors: dict[str, list[float]] = {name: [] for name in ("best", *reduction.METHODS)}
    divergences: dict[str, list[float]] = {name: [] for name in reduction.METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in reduction.METHODS}
    for _ in range(count):
        p, found = random_mixture(rng), []
        for name in reduction.METHODS:
            times = []
            for _ in range(CALLS):
                start = time.process_time()
                q = fv.reduce_mixture(p, AFTER, name).mixture
                times.append(time.process_time() - start)
            found.append(q)
            seconds[name].append(min(times))
            errors[name].append(squared_error(p, q))
            divergences[name].append(float(fv.kl(p, q)))
        errors["best"].append(best_squared_error(p, found, rng))
    best, merges = np.mean(errors["best"]), np.median(seconds["runnalls"])
    print(f"{count} mixtures of {BEFORE} components in {DIM} dimensions, reduced to {AFTER}")
    print(f"{'method':10}{'mean ISE':>12}{'over best':>12}{'mean KL':>10}{'time':>12}{'over merges':>14}")
    print(f"{'best':10}{best:12.3e}{1.0:12.3f}")
    for name in reduction.METHODS:
        error, took = np.mean(errors[name]), np.median(seconds[name])
        print(
            f"{name:10}{error:12.3e}{error / best:12.3f}{np.mean(divergences[name]):10.4f}"
            f"{1e3 * took:9.2f} ms{took / merges:14.1f}"
        )


def plane(count: int) -> None:
    """Print the times in the plane: the median and the largest of so many mixtures, and of their merges."""
    print(f"\n{count} mixtures of 50 components in the plane each, reduced to 5")
    print(f"{'':12}{'median':>12}{'largest':>12}{'merges':>12}")
    for kind in (apart, clustered, crowded):
        times: dict[str, list[float]] = {"kl": [], "runnalls": []}
        for seed in range(count):
            p = kind(np.random.default_rng(seed))
            for name, found in times.items():
                took = []
                for _ in range(3 * CALLS):
                    start = time.process_time()
                    fv.reduce_mixture(p, 5, name)
                    took.append(time.process_time() - start)
                found.append(1e3 * min(took))
        kl, merges = times.values()
        print(
            f"{kind.__name__:12}{np.median(kl):9.2f} ms{max(kl):9.2f} ms{np.median(merges):9.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    mixtures = int(sys.argv[1]) if len(sys.argv) > 1 else MIXTURES
    main(mixtures)
    plane(mixtures)

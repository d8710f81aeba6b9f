"""I-projections onto mixtures beside random starts: ``python -m bench.onto_mixtures [mixtures]``.

Random mixtures of 3 to 8 components in one to three dimensions, near each other to far apart, are projected
onto mixtures of 2 to 4. For each dimension are printed how many projections converged, how many descents
that began elsewhere ended lower by more than a thousandth of the divergence, and the CPU time. Last come
three mixtures of 60 components in the plane onto 12: their divergences and CPU times.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np

import fastvi as fv
from fastvi.distributions.ascent import Parts, normalised
from fastvi.projections.onto_mixtures import Descents
from fastvi.projections.reduction import Frame

DIMS = (1, 2, 3)

#: Mixtures by default, descents for each of them, and the part of a divergence that counts.
MIXTURES, STARTS, PART = 20, 15, 1e-3

#: Components of the large mixtures, and of what they are projected onto; how far apart their means are.
LARGE, LARGE_COUNT, LARGE_SPREAD, LARGE_MIXTURES = 60, 12, 8.0, 3


def random_mixture(rng: np.random.Generator, dim: int, components: int) -> fv.GaussianMixture:
    """With clusters of any weight, as wide as far apart or much less."""
    weights = np.maximum(rng.dirichlet(np.full(components, rng.choice([0.5, 3.0]))), 1e-3)
    roots = rng.standard_normal((components, dim, dim))
    covs = roots @ roots.swapaxes(1, 2) + 0.3 * np.eye(dim)
    means = rng.choice([1.0, 3.0, 8.0]) * rng.standard_normal((components, dim))
    return fv.GaussianMixture(weights / weights.sum(), means, covs)


def large_mixture(rng: np.random.Generator) -> fv.GaussianMixture:
    """Most components in the plane overlap with a few others."""
    weights = np.maximum(rng.dirichlet(np.full(LARGE, 3.0)), 1e-3)
    roots = rng.standard_normal((LARGE, 2, 2))
    covs = roots @ roots.swapaxes(1, 2) + 0.3 * np.eye(2)
    return fv.GaussianMixture(weights / weights.sum(), LARGE_SPREAD * rng.standard_normal((LARGE, 2)), covs)


def random_start(rng: np.random.Generator, frame: Frame, count: int) -> Parts:
    """Components of p that are moved and scaled, or Gaussians anywhere."""
    dim = frame.means.shape[1]
    logs = np.log(rng.dirichlet(np.full(count, 2.0)))
    if rng.random() < 0.5:
        which = rng.choice(len(frame.means), count, replace=False)
        moves = np.einsum("kij,kj->ki", frame.factors[which], rng.standard_normal((count, dim)))
        return normalised(logs, frame.means[which] + moves, frame.factors[which] * rng.uniform(0.6, 1.5))
    return normalised(
        logs, rng.standard_normal((count, dim)), rng.uniform(0.2, 1.0, (count, 1, 1)) * np.eye(dim)
    )


def lowest(p: fv.GaussianMixture, count: int, rng: np.random.Generator) -> float:
    """The least KL(q ‖ p) of descents from random starts, by `kl_estimate`."""
    descents = Descents(Frame(p), count, 1e-8)
    many = [random_start(rng, descents.frame, count) for _ in range(STARTS)]
    starts = Parts(*map(np.stack, zip(*many, strict=True)))
    ends, values = descents.follow(starts, 1, 60, 1e-3)
    if not len(values):
        return math.inf
    best, _ = descents.follow(Parts(*(part[:1] for part in ends)), 2, 300, 1e-7)
    parts = Parts(*(part[0] for part in best))
    q = descents.frame.mixture((parts.weights, parts.means, parts.factors))
    return fv.kl_estimate(q, p, rtol=1e-8).value


def main(mixtures: int) -> None:
    """Print the table."""
    print(f"{mixtures} mixtures of 3 to 8 components onto 2 to 4, beside {STARTS} descents each")
    print(f"{'dimensions':12}{'converged':>10}{'beaten':>8}{'mean time':>12}{'largest':>10}")
    for dim in DIMS:
        fv.i_projection(random_mixture(np.random.default_rng(0), dim, 3), ("mixture", 2))  # compiles
        converged, beaten, seconds = 0, 0, []
        for seed in range(mixtures):
            rng = np.random.default_rng((dim, seed))
            components = int(rng.integers(3, 9))
            count = int(rng.integers(2, min(components, 5)))
            p = random_mixture(rng, dim, components)
            start = time.process_time()
            found = fv.i_projection(p, ("mixture", count))
            seconds.append(time.process_time() - start)
            converged += found.converged
            beaten += lowest(p, count, rng) < (1.0 - PART) * found.kl - 1e-9
        print(f"{dim:<12}{converged:10}{beaten:8}{np.mean(seconds):10.2f} s{max(seconds):8.2f} s")
    for seed in range(1, LARGE_MIXTURES + 1):
        p = large_mixture(np.random.default_rng(seed))
        start = time.process_time()
        found = fv.i_projection(p, ("mixture", LARGE_COUNT))
        took = time.process_time() - start
        print(f"{LARGE} onto {LARGE_COUNT}: {found.kl:.8f}, {len(found.optima)} optima, {took:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MIXTURES)

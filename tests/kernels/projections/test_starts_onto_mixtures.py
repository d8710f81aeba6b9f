"""Starts of descents to I-projections onto mixtures, against a slow search in NumPy."""

import itertools
import math

import numpy as np
import pytest

import fastvi as fv
from fastvi import kernels
from fastvi.kernels.projections import mixture_optima, mixture_starts, reductions
from fastvi.projections.reduction import Frame, greedy_merges
from helpers.mixtures import log_mixture, log_normal, random_mixture

CASES = [(1, 4), (2, 4), (3, 5)]


def found_starts(p, count, alone=None):
    """The starts, in the frame of p, with the nodes of the search."""
    frame, dim = Frame(p), p.dim
    nodes, shares = mixture_optima.lattice(dim, *mixture_starts.ROUGH[dim - 1])
    most = mixture_starts.MOST
    out = np.empty((most, count)), np.empty((most, count, dim)), np.empty((most, count, dim, dim))
    components = len(frame.means)
    space = mixture_starts.workspace(components, count, dim, shares.size)
    merges = reductions.workspace(components, dim)
    alone = (np.empty((0, dim)), np.empty((0, dim, dim))) if alone is None else alone
    number = mixture_starts.starts(frame.triple, alone, nodes, shares, out, space, merges)
    return frame, nodes, shares, [tuple(part[s] for part in out) for s in range(number)]


def pool(frame):
    """The components of p and what merges make of them."""
    found = list(zip(frame.means, frame.factors, strict=True))
    for count in range(1, len(frame.means)):
        (_, means, factors), _ = greedy_merges(frame, count, "runnalls")
        for new in zip(means, factors, strict=True):
            if not any(np.allclose(new[0], m) and np.allclose(new[1], f) for m, f in found):
                found.append(new)
    return found


def divergence(frame, q, nodes, shares):
    """(KL(q ‖ p) on the nodes, its part under each component)."""
    logs, means, factors = q
    parts = []
    for mean, factor in zip(means, factors, strict=True):
        z = mean + nodes.T @ factor.T
        parts.append(shares @ (log_mixture(z, logs, means, factors) - log_mixture(z, *frame.triple)))
    return np.exp(logs) @ parts, np.array(parts)


def weighted(frame, pair, nodes, shares):
    """The best weights of Gaussians, about, and the divergence."""
    means, factors = (np.stack(part) for part in zip(*pair, strict=True))
    logs = np.full(len(pair), -math.log(len(pair)))
    for _ in range(mixture_starts.WEIGHT_STEPS):
        logs = logs - divergence(frame, (logs, means, factors), nodes, shares)[1]
        logs -= np.logaddexp.reduce(logs)
    return divergence(frame, (logs, means, factors), nodes, shares)[0]


@pytest.mark.parametrize(("dim", "components"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_pair_of_candidates_is_the_second_start(dim, components, seed):
    """So few candidates that the beam search sees all pairs, but for those near each other."""
    frame, nodes, shares, found = found_starts(random_mixture(seed, dim, components, 4.0), 2)
    values = [divergence(frame, q, nodes, shares)[0] for q in found]
    kept = []
    alone = [
        shares @ (log_normal(z, m, f) - log_mixture(z, *frame.triple))
        for m, f in pool(frame)
        for z in [m + nodes.T @ f.T]
    ]
    for i in np.argsort(alone):
        one, space = pool(frame)[i], np.empty(2 * dim)
        if all(
            kernels.densities.gaussians.gaussian_kl(*one, *two, space) >= mixture_starts.NEAR for two in kept
        ):
            kept.append(one)
    assert len(kept) <= mixture_starts.SINGLE + 1
    pairs = sorted(weighted(frame, pair, nodes, shares) for pair in itertools.combinations(kept, 2))
    beam = len(found) - mixture_starts.PARTITIONS - 1
    assert beam == min(len(pairs), mixture_starts.BEAM)
    np.testing.assert_allclose(values[1 : 1 + beam], pairs[:beam], rtol=1e-9)


@pytest.mark.parametrize(("dim", "components"), CASES)
def test_merges_and_partitions_keep_the_moments(dim, components):
    frame, *_, found = found_starts(random_mixture(2, dim, components), 3)
    (weights, means, factors), _ = greedy_merges(frame, 3, "runnalls")
    for one, two in zip(found[0], (np.log(weights), means, factors), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)
    partitions = found[-mixture_starts.PARTITIONS :]
    for logs, means, factors in (found[0], *partitions):
        whole = fv.GaussianMixture(np.exp(logs), means, factors @ factors.swapaxes(1, 2))
        np.testing.assert_allclose(whole.mean, 0.0, atol=1e-12)
        np.testing.assert_allclose(whole.cov, np.eye(dim), atol=1e-12)
    assert len({tuple(np.sort(logs).round(9)) for logs, *_ in partitions}) > 1


def test_what_is_given_is_a_candidate():
    """The I-projection onto one Gaussian of two components near each other."""
    p = fv.GaussianMixture([0.4, 0.4, 0.2], [-1.0, 1.0, 12.0], [1.0, 1.0, 1.0])
    mean, factor = np.array([[0.123]]), np.array([[[0.456]]])
    *_, found = found_starts(p, 2, (mean, factor))
    assert any(0.456 in factors for *_, factors in found)
    *_, found = found_starts(p, 2)
    assert not any(0.456 in factors for *_, factors in found)


def test_what_is_too_narrow_to_be_merged_has_other_starts():
    means = 1e9 * np.array([[1.0, 1.3], [-1.0, -1.3], [2.1, 2.73], [0.0, 0.0]])
    p = fv.GaussianMixture([0.4, 0.3, 0.2, 0.1], means, [1e-2 * np.eye(2)] * 4)
    frame, *_, found = found_starts(p, 2)
    assert 0 < len(found) < 1 + mixture_starts.PARTITIONS + 6
    assert all(np.isfinite(part).all() for q in found for part in q)
    assert {tuple(mean) for mean in found[0][1]} <= {tuple(mean) for mean in frame.means}

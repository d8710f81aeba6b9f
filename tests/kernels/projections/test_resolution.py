"""Whether nodes are fine enough for narrow components of q: the estimate, against sums over shifted nodes."""

import itertools
import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.projections import nodes, resolution
from helpers.forms import all_plain
from helpers.mixtures import arrays, log_normal, random_mixture, with_needles


@pytest.mark.parametrize("root", [0.02, 0.2, 0.26, 0.3, 0.6, 1.5])
def test_sums_over_a_line_vary_as_estimated(root):
    """The square root of the variance, by the relative sums on lattices with all shifts."""
    shifts = (np.arange(400) + 0.5) / 400.0
    x = np.arange(-60, 61) + shifts[:, None]
    sums = np.exp(-0.5 * (x / root) ** 2).sum(axis=1) / (root * math.sqrt(2.0 * math.pi))
    found = resolution._variance(1.0, resolution.ROUGHNESS * np.array([[root * root]]))
    np.testing.assert_allclose(found, np.mean((sums - 1.0) ** 2), rtol=1e-3, atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, math.atan2(1, 2), math.atan2(3, 2), 0.3, 1.1])
@pytest.mark.parametrize("widths", [(1.5, 0.2), (5.0, 0.05), (0.3, 0.1), (0.1, 0.05), (0.8, 0.5)])
def test_sums_over_the_plane_vary_as_estimated(angle, widths):
    """Ridges along the lattice, across it and in between: within a factor of two, and never much too low."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag(np.square(widths)) @ turn.T
    frequencies = np.arange(-40, 41)
    one, two = np.meshgrid(frequencies, frequencies)
    waves = np.stack([one.ravel(), two.ravel()])
    terms = np.exp(-((2.0 * math.pi) ** 2) * ((covariance @ waves) * waves).sum(axis=0))
    true = terms.sum() - 1.0
    found = resolution._variance(1.0, resolution.ROUGHNESS * covariance)
    assert 0.5 * true - 1e-12 <= found <= 2.0 * true + 1e-12


@pytest.mark.parametrize(
    "covariance", [[[0.01]], [[0.04, 0.01], [0.01, 0.09]], [[0.09, -0.05], [-0.05, 0.04]]]
)
def test_sums_over_nodes_and_shifted_ones_vary_as_estimated(covariance):
    """Together they are one lattice, of which the waves have even sums of their frequencies."""
    covariance = np.array(covariance)
    waves = np.array(list(itertools.product(range(-40, 41), repeat=len(covariance))))
    waves = waves[waves.sum(axis=1) % 2 == 0]
    terms = np.exp(-((2.0 * math.pi) ** 2) * ((waves @ covariance) * waves).sum(axis=1))
    together = resolution.ROUGHNESS * covariance
    resolution._with_shifted(together)
    assert resolution._variance(1.0, together) == pytest.approx(terms.sum() - 1.0, rel=1e-2)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_mass_under_a_component_of_q(dim):
    """And the covariance of the product, in the coordinates of the component of p."""
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    relative = np.empty((dim, dim))
    found = resolution._overlap(arrays(p), 1, (q.weights, q.means, np.linalg.cholesky(q.covs)), 0, relative)
    x = fv.Gaussian(p.means[1], p.covs[1]).sample(400_000, rng=0)
    d = np.linalg.solve(np.linalg.cholesky(q.covs[0]), (x - q.means[0]).T)
    shares = np.exp(-0.5 * (d * d).sum(axis=0))
    assert found == pytest.approx(p.weights[1] * shares.mean(), rel=0.01)
    z = np.linalg.solve(np.linalg.cholesky(p.covs[1]), (x - p.means[1]).T)
    moments = np.cov(z, aweights=shares)
    np.testing.assert_allclose(np.tril(relative), np.tril(np.atleast_2d(moments)), atol=0.01)


def test_nodes_that_are_too_coarse_are_marked():
    """Under the wide component, not under the needle and not where q is as wide as p."""
    p = fv.GaussianMixture([0.5, 0.5], [[0.0], [0.3]], [[[1.0]], [[1e-6]]])
    space = nodes.nodes_for(2, 1)
    # Plain, as they take four seconds to compile; `refine` is the compiled kernel of both.
    first_level, mark_unresolved = map(all_plain, (nodes.first_level, resolution.mark_unresolved))
    level = first_level(arrays(p), space)
    space.errors[:] = 0.0
    wide = p.weights, p.means, np.ones((2, 1, 1))
    assert mark_unresolved(arrays(p), wide, 1e-8, space) < 1e-8
    assert not space.errors.any()
    fine = p.weights, p.means, np.linalg.cholesky(p.covs)
    coarse = mark_unresolved(arrays(p), fine, 1e-8, space)
    assert coarse > 1e-6
    np.testing.assert_array_equal(space.errors, [math.inf, 0.0])
    while level + 1 < nodes.LEVELS[0]:
        level += 1
        space.levels[0] += 1
    assert mark_unresolved(arrays(p), fine, 1e-8, space) < 1e-3 * coarse


@pytest.mark.parametrize("seed", [4, 14, 104])
def test_reductions_of_needles_are_minima(seed):
    """EM on fine nodes has nothing left to gain."""
    p, k = with_needles(seed, 1)
    found = fv.reduce_mixture(p, k)
    assert found.converged
    t = np.arange(-6.5, 6.5, 0.001)
    x = (p.means + np.sqrt(p.covs[:, :, 0]) * t).ravel()
    masses = (p.weights[:, None] * np.exp(-0.5 * t * t) * 0.001 / math.sqrt(2.0 * math.pi)).ravel()
    q, before = found.mixture, masses @ found.mixture.logpdf(x[:, None])
    for _ in range(15):
        logs, centres, factors = arrays(q)
        parts = logs[:, None] + [log_normal(x[:, None], m, f) for m, f in zip(centres, factors, strict=True)]
        shares = np.exp(parts - np.logaddexp.reduce(parts, axis=0)) * masses
        sums = shares.sum(axis=1)
        centres = shares @ x / sums
        spreads = [s @ (x - m) ** 2 for s, m in zip(shares, centres, strict=True)] / sums
        q = fv.GaussianMixture(sums / sums.sum(), centres[:, None], spreads[:, None, None])
    assert masses @ q.logpdf(x[:, None]) - before <= 1e-4 * found.kl

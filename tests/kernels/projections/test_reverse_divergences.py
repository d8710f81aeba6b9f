"""KL(q ‖ p) and its gradient on fixed nodes, against the same in NumPy and by differences."""

import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions.ascent import Elbo, Objective, Parts, scores_of
from fastvi.kernels.projections import reverse_divergences
from fastvi.kernels.projections.reverse_divergences import BLOCK
from helpers.mixtures import random_mixture


def parts_of(mixture):
    return Parts(*(np.ascontiguousarray(part) for part in mixture._triple()))


def evaluated(p, q, nodes, shares):
    """(-KL on the nodes, its derivatives)."""
    space = reverse_divergences.workspace(len(p.logs), len(q.logs), q.means.shape[1])
    derivatives = np.empty(q.logs.shape), np.empty(q.means.shape), np.empty(q.factors.shape)
    value = reverse_divergences.divergence(tuple(p), tuple(q), nodes, shares, space, *derivatives)
    return value, *derivatives


@pytest.mark.parametrize(("dim", "components", "count"), [(1, 5, 2), (2, 3, 4), (4, 6, 3)])
@pytest.mark.parametrize("size", [7, BLOCK, BLOCK + 3])
def test_the_kernel_is_the_sum_in_numpy(dim, components, count, size):
    p, q = parts_of(random_mixture(1, dim, components)), parts_of(random_mixture(2, dim, count))
    rng = np.random.default_rng(3)
    noise, shares = rng.standard_normal((size, dim)), rng.dirichlet(np.ones(size))

    def slopes(points, _):
        found = scores_of(p, points)
        return 0, found.log_q, found.gradient

    slow = Elbo(slopes, noise, shares)(q)
    for one, two in zip(evaluated(p, q, np.ascontiguousarray(noise.T), shares), slow, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_gradient_is_that_of_differences(dim):
    p, q = parts_of(random_mixture(4, dim, 4)), parts_of(random_mixture(5, dim, 2))
    rng = np.random.default_rng(6)
    nodes, shares = rng.standard_normal((dim, 30)), rng.dirichlet(np.ones(30))
    objective = Objective(lambda parts: evaluated(p, parts, nodes, shares), q)
    x = 0.2 * rng.standard_normal(objective.size)
    value, gradient = objective(x)
    mixture, moved, total = objective.parts(x).mixture(), objective.parts(x), 0.0
    for weight, mean, factor in zip(moved.weights, moved.means, moved.factors, strict=True):
        points = mean + nodes.T @ factor.T
        total += weight * shares @ (p.mixture().logpdf(points) - mixture.logpdf(points))
    assert value == pytest.approx(total, rel=1e-12)
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = 1e-5
        slope = (objective(x + step)[0] - objective(x - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_components_without_weight_and_far_ones_count_for_nothing():
    q = parts_of(fv.GaussianMixture([0.4, 0.6], [0.0, 1.0], [1.0, 2.0]))
    p = fv.GaussianMixture([0.5, 0.5, 0.0], [0.0, 1e5, 0.3], [1.0, 1.0, 1.0])
    alone = parts_of(fv.GaussianMixture([1.0], [0.0], [1.0]))
    nodes, shares = np.linspace(-3.0, 3.0, 9)[None], np.full(9, 1.0 / 9.0)
    one, two = evaluated(parts_of(p), q, nodes, shares), evaluated(alone, q, nodes, shares)
    assert one[0] == pytest.approx(two[0] + math.log(0.5), rel=1e-14)
    for a, b in zip(one[2:], two[2:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)

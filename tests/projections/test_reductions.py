"""Mixtures with fewer components: merges, bounds, the refinements, and the statuses."""

import itertools
import math

import numpy as np
import pytest

import fastvi as fv
from fastvi import kernels
from fastvi.projections import reduction
from helpers.messages import says
from helpers.mixtures import arrays, random_mixture, with_needles

METHODS = ("kl", "runnalls", "williams")


def merged(p, groups):
    """p with each group of components replaced by its moment match."""
    parts = []
    for group in groups:
        weights = p.weights[group]
        part = fv.GaussianMixture(weights / weights.sum(), p.means[group], p.covs[group])
        parts.append((weights.sum(), part.mean, part.cov))
    return fv.GaussianMixture(*map(list, zip(*parts, strict=True)))


def pair_bound(p, i, j):
    """Runnalls (2007), eq. 16."""
    both = merged(p, [[i, j]] + [[a] for a in range(p.weights.size) if a not in (i, j)])
    w, logs = p.weights, np.linalg.slogdet(p.covs)[1]
    return both, 0.5 * ((w[i] + w[j]) * np.linalg.slogdet(both.covs[0])[1] - w[i] * logs[i] - w[j] * logs[j])


def squared_error(p, q):
    """The integral of (p - q)**2, by the integrals of products of Gaussians."""

    def product(one, two):
        total = 0.0
        for w, m, c in zip(one.weights, one.means, one.covs, strict=True):
            for v, n, d in zip(two.weights, two.means, two.covs, strict=True):
                total += w * v * math.exp(fv.Gaussian(m, c + d).logpdf(n))
        return total

    return product(p, p) - 2.0 * product(p, q) + product(q, q)


def greedy(p, k, cost):
    """Merges one after another, each the cheapest by a slow search."""
    total = 0.0
    while p.weights.size > k:
        pairs = itertools.combinations(range(p.weights.size), 2)
        p, least = min((cost(p, i, j) for i, j in pairs), key=lambda found: found[1])
        total += least
    return p, total


def sorted_parts(p):
    order = np.lexsort(p.means.T)
    return [part[order] for part in (p.weights, p.means, p.covs)]


def close(p, q, rtol=1e-9):
    for one, two in zip(sorted_parts(p), sorted_parts(q), strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("dim", "components", "k"), [(1, 6, 2), (2, 9, 4), (5, 7, 3)])
def test_the_greedy_merges_are_those_of_a_slow_search(dim, components, k):
    for seed in range(3):
        p = random_mixture(seed, dim, components)
        slow, bound = greedy(p, k, pair_bound)
        found = fv.reduce_mixture(p, k, "runnalls")
        close(found.mixture, slow)
        assert found.bound_before == pytest.approx(bound, rel=1e-9)
        assert (found.status, found.converged, found.iterations) == ("merged greedily", False, 0)


@pytest.mark.parametrize(("dim", "components", "k"), [(1, 5, 2), (3, 5, 2)])
def test_the_greedy_merges_by_squared_error_are_those_of_a_slow_search(dim, components, k):
    for seed in range(2):
        p = random_mixture(seed, dim, components)

        def cost(q, i, j, p=p):
            both, _ = pair_bound(q, i, j)
            return both, squared_error(p, both) - squared_error(p, q)

        slow, _ = greedy(p, k, cost)
        close(fv.reduce_mixture(p, k, "williams")._merged, slow)


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_merges_and_em_keep_mean_and_covariance(method, dim):
    p = random_mixture(1, dim, 7).affine(np.eye(dim), np.full(dim, 1e3))
    q = fv.reduce_mixture(p, 3, method).mixture
    np.testing.assert_allclose(q.mean, p.mean, rtol=1e-14)
    np.testing.assert_allclose(q.cov, p.cov, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_divergence_is_below_the_bound_and_the_refinement_lowers_it(dim):
    for seed in range(4):
        p = random_mixture(seed, dim, 6)
        rough, fine = fv.reduce_mixture(p, 2, "runnalls"), fv.reduce_mixture(p, 2)
        assert rough.kl == fine.kl_before == pytest.approx(fv.kl(p, rough.mixture), rel=1e-6)
        assert fine.kl < fine.kl_before <= fine.bound_before
        assert fine.kl <= fine.bound_after
        assert fine.converged


def fixed_point(p, q, half_width, count):
    """What EM makes of q, with expectations on a grid."""
    axis = np.linspace(-half_width, half_width, count)
    z = np.stack(np.meshgrid(*[axis] * p.dim), axis=-1).reshape(-1, p.dim)
    mass = p.pdf(z)
    mass /= mass.sum()
    shares = np.stack([w * g.pdf(z) for w, g in zip(q.weights, q.components, strict=True)])
    shares *= mass / shares.sum(axis=0)
    weights = shares.sum(axis=1)
    means = shares @ z / weights[:, None]
    moved = z - means[:, None]
    return weights, means, np.einsum("kn,kni,knj->kij", shares, moved, moved) / weights[:, None, None]


@pytest.mark.parametrize(("dim", "half_width", "count"), [(1, 15.0, 6001), (2, 14.0, 561)])
def test_the_refinement_ends_where_em_on_p_stands_still(dim, half_width, count):
    p = random_mixture(3, dim, 6)
    q = fv.reduce_mixture(p, 2, tol=1e-14).mixture
    for one, two in zip((q.weights, q.means, q.covs), fixed_point(p, q, half_width, count), strict=True):
        np.testing.assert_allclose(one, two, atol=3e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_refinement_of_many_components_that_overlap(seed):
    """Their lattice is shared; nodes that q would fit, in place of p, are given up for finer ones."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(50, 2, 4))
    p = fv.GaussianMixture(
        np.full(50, 0.02), rng.uniform(0.0, 3.0, (50, 2)), roots @ roots.swapaxes(1, 2) / 4.0
    )
    found = fv.reduce_mixture(p, 3, tol=1e-12)
    q = found.mixture
    assert found.converged
    for one, two in zip((q.weights, q.means, q.covs), fixed_point(p, q, 14.0, 701), strict=True):
        np.testing.assert_allclose(one, two, atol=5e-6)


@pytest.mark.parametrize(("seed", "dim"), [(25, 1), (29, 1), (40, 2), (75, 2)])
def test_a_refinement_does_not_fit_the_nodes(seed, dim):
    """It is closer to p than the merges, and not only on the nodes of the refinement."""
    p, k = with_needles(seed, dim)
    found, rough = fv.reduce_mixture(p, k), fv.reduce_mixture(p, k, "runnalls")
    assert found.converged
    if dim == 1:
        assert found.kl < found.kl_before
        return
    x = p.sample(100_000, rng=0)
    gains = found.mixture.logpdf(x) - rough.mixture.logpdf(x)
    assert gains.mean() > 3.0 * gains.std() / math.sqrt(gains.size)


def test_merges_that_are_a_minimum_are_called_so():
    """Two components of three are equal: the refinement gains rounding."""
    p = fv.GaussianMixture([0.3, 0.3, 0.4], [[-0.9, 0], [-0.9, 0], [1.1, 0]], [0.2 * np.eye(2)] * 3)
    q = fv.reduce_mixture(p, 2, "runnalls").mixture
    parts = np.array(q.weights), np.array(q.means), np.linalg.cholesky(q.covs)
    room = kernels.projections.refinements
    status, _, gain, error = room.refine(arrays(p), parts, 1e-5, 100, room.workspace(3, 2, 2))
    assert status == 0
    assert abs(gain) <= 1e-14
    assert error <= 1e-14


@pytest.mark.parametrize("method", ["kl", "runnalls"])
def test_merges_of_components_of_next_to_no_weight_are_exact(method):
    """And those of equal ones: Runnalls' bound is rounding."""
    means = [[-5, 0], [-5, 0], [5, 0], [0, 30], [2, 1]]
    p = fv.GaussianMixture([0.3, 0.3, 0.4 - 3e-17, 1e-17, 2e-17], means, [np.eye(2)] * 5)
    for k in (2, 3):
        found = fv.reduce_mixture(p, k, method)
        assert (found.converged, found.status, found.iterations) == (True, "exact", 0)
        assert found.bound_before <= 1e-15
        assert found.kl <= 1e-14
    found = fv.reduce_mixture(fv.GaussianMixture([0.3, 0.3, 0.4 - 1e-12, 1e-12, 0], means, p.covs), 2, method)
    assert found.status != "exact"


def test_components_of_next_to_no_weight_have_covariances():
    """Rounding of the gradient moves one of 1e-16 anywhere, and such a refinement is not taken."""
    weights = np.array([1e-8, 8.32e-38, 2.66e-22, 1.56e-16, 0.283])
    weights[0] = 1.0 - weights[1:].sum()
    means, widths = [-2.8e5, 5.6e5, 2.64e6, 4.2e5, 1.47e6], np.array([0.078, 7.6e-5, 2.3e-7, 12.9, 8.5e-6])
    for first in (1e-8, weights[0]):
        weights[0] = first
        p = fv.GaussianMixture(weights / weights.sum(), means, widths**2)
        q = fv.reduce_mixture(p, 3).mixture
        assert np.isfinite(q.covs).all()
        assert np.isfinite(q.logpdf([1.47e6]))


def test_needles_between_the_nodes_need_finer_ones():
    """Where no level of the nodes is fine enough for them, the status says so."""
    rng = np.random.default_rng(0)
    deviations = np.array([1e-3, 1e-3, 1.0, 0.8, 1.2, 0.5])
    p = fv.GaussianMixture(
        rng.dirichlet(np.full(6, 5.0)), rng.normal(size=(6, 1)), deviations[:, None, None] ** 2
    )
    found = fv.reduce_mixture(p, 4, tol=1e-8)
    assert (found.converged, found.status) == (False, reduction._WORDS[kernels.statuses.UNRESOLVED])
    assert found.kl < found.kl_before


def test_the_refinement_in_many_dimensions_beats_the_merges():
    p = random_mixture(2, 5, 8, spread=0.7)
    found = fv.reduce_mixture(p, 3)
    assert found.kl < found.kl_before - 3.0 * found.error
    assert found.status == "converged"


def test_the_squared_error_has_the_derivatives_of_its_value():
    p, q = random_mixture(5, 2, 4), random_mixture(6, 2, 3)
    room = kernels.projections.reductions
    logs, means, factors = arrays(p)
    space, gradients = room.workspace(4, 2), np.empty((3, 7))
    weights = np.array(q.weights)

    def value(weights, means, covs):
        parts = np.array(weights), np.array(means), np.linalg.cholesky(covs)
        return room.squared_error((logs, means_p, factors), parts, 0.0, np.empty((3, 7)), space)

    means_p = means
    found = room.squared_error(
        (logs, means, factors),
        (weights, np.array(q.means), np.linalg.cholesky(q.covs)),
        0.0,
        gradients,
        space,
    )
    own = squared_error(p, fv.GaussianMixture(p.weights, p.means, p.covs))
    assert own == pytest.approx(0.0, abs=1e-15)
    nothing = sum(
        w * v * math.exp(fv.Gaussian(m, c + d).logpdf(n))
        for w, m, c in zip(p.weights, p.means, p.covs, strict=True)
        for v, n, d in zip(p.weights, p.means, p.covs, strict=True)
    )
    assert found + nothing == pytest.approx(squared_error(p, q), rel=1e-12)
    h = 1e-5
    for k in range(3):
        step = np.zeros(3)
        step[k] = h
        difference = value(weights + step, q.means, q.covs) - value(weights - step, q.means, q.covs)
        assert gradients[k, 0] == pytest.approx(difference / (2 * h), rel=1e-6)
        for a in range(2):
            move = np.zeros((3, 2))
            move[k, a] = h
            difference = value(weights, q.means + move, q.covs) - value(weights, q.means - move, q.covs)
            assert gradients[k, 1 + a] == pytest.approx(difference / (2 * h), rel=1e-5, abs=1e-9)
            for b in range(2):
                turn = np.zeros((3, 2, 2))
                turn[k, a, b] += 0.5 * h
                turn[k, b, a] += 0.5 * h
                difference = value(weights, q.means, q.covs + turn) - value(weights, q.means, q.covs - turn)
                table = gradients[k, 3:].reshape(2, 2)
                assert 0.5 * (table[a, b] + table[b, a]) == pytest.approx(difference / (2 * h), rel=1e-5)


def test_the_squared_error_of_more_components_than_lanes():
    p, q = random_mixture(7, 3, 18), random_mixture(8, 3, 3)
    room = kernels.projections.reductions
    space, gradients = room.workspace(18, 3), np.empty((3, 13))
    parts = np.array(q.weights), np.array(q.means), np.linalg.cholesky(q.covs)
    whole = np.array(p.weights), np.array(p.means), np.linalg.cholesky(p.covs)
    many = room.squared_error(arrays(p), parts, 0.5, gradients, space)
    own = room.squared_error(arrays(p), whole, 0.5, np.empty((18, 13)), room.workspace(36, 3))
    assert math.exp(0.5) * (many - own) == pytest.approx(squared_error(p, q), rel=1e-12)


def test_the_refinement_by_squared_error_ends_at_a_minimum():
    """No move of a coordinate lowers the error, and weights stay probabilities."""
    p = random_mixture(9, 2, 5)
    found = fv.reduce_mixture(p, 2, "williams", tol=1e-14)
    q = found.mixture
    least, h = squared_error(p, q), 1e-4
    assert found.converged
    assert q.weights.sum() == pytest.approx(1.0, rel=1e-15)
    for sign in (-h, h):
        for k in range(2):
            shares = q.weights + sign * np.array([1.0, -1.0])
            assert squared_error(p, fv.GaussianMixture(shares, q.means, q.covs)) >= least
            for a in range(2):
                means, covs = np.array(q.means), np.array(q.covs)
                means[k, a] += sign
                assert squared_error(p, fv.GaussianMixture(q.weights, means, q.covs)) >= least
                for b in range(2):
                    covs[k] = q.covs[k]
                    covs[k, a, b] += sign
                    covs[k, b, a] = covs[k, a, b]
                    assert squared_error(p, fv.GaussianMixture(q.weights, q.means, covs)) >= least


def test_williams_lowers_the_squared_error():
    for seed in range(2):
        p = random_mixture(seed, 3, 6)
        found = fv.reduce_mixture(p, 3, "williams")
        after = squared_error(p, found.mixture)
        assert after < squared_error(p, found._merged)
        assert after < squared_error(p, fv.reduce_mixture(p, 3, "runnalls").mixture)
        assert math.isnan(found.bound_before)


@pytest.mark.parametrize("method", METHODS)
def test_equal_components_merge_without_loss(method):
    one = random_mixture(4, 3, 2)
    p = fv.GaussianMixture(
        np.repeat(one.weights, 3) / 3, np.repeat(one.means, 3, axis=0), np.repeat(one.covs, 3, axis=0)
    )
    found = fv.reduce_mixture(p, 2, method)
    assert found.kl == pytest.approx(0.0, abs=1e-12)
    close(found.mixture, one, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_reduced_where_p_is_small_enough(method):
    p = random_mixture(7, 2, 3)
    for given, k in ((p, 3), (p, 5), (fv.Gaussian([0.0, 1.0], np.eye(2)), 1)):
        found = fv.reduce_mixture(given, k, method)
        assert (found.kl, found.error, found.bound_before, found.bound_after) == (0.0, 0.0, 0.0, 0.0)
        assert (found.converged, found.status) == (True, "exact")
    assert fv.reduce_mixture(p, 3, method).mixture == p


def test_one_component_is_the_moment_match():
    p = random_mixture(8, 2, 5)
    found, match = fv.reduce_mixture(p, 1), fv.m_projection(p)
    np.testing.assert_allclose(found.mixture.means[0], match.q.mean, rtol=1e-13)
    np.testing.assert_allclose(found.mixture.covs[0], match.q.cov, rtol=1e-13)
    assert found.kl == pytest.approx(match.kl, rel=1e-6)
    assert (found.converged, found.status) == (True, "exact")


def test_the_m_projection_onto_mixtures_is_the_same():
    p = random_mixture(9, 2, 5)
    assert fv.m_projection(p, ("mixture", 2)).q == fv.reduce_mixture(p, 2).mixture
    with says(ValueError, "family must be (\"mixture\", k), if it is a tuple, not ('mixtures', 2)"):
        fv.m_projection(p, ("mixtures", 2))


def test_components_without_weight_do_not_count():
    p = random_mixture(10, 2, 4)
    with_nothing = fv.GaussianMixture([*p.weights, 0.0], [*p.means, [50.0, 0.0]], [*p.covs, 1e-4 * np.eye(2)])
    assert fv.reduce_mixture(with_nothing, 4).kl == 0.0
    close(fv.reduce_mixture(with_nothing, 2).mixture, fv.reduce_mixture(p, 2).mixture)


def test_units_and_offsets_make_no_difference():
    p, matrix, shift = random_mixture(11, 2, 6), np.array([[1e-6, 0.0], [30.0, 1e4]]), np.array([5.0, -1e5])
    for method in METHODS:
        moved = fv.reduce_mixture(p.affine(matrix, shift), 2, method).mixture
        close(moved, fv.reduce_mixture(p, 2, method).mixture.affine(matrix, shift), rtol=1e-4)


def test_the_iterations_run_out():
    found = fv.reduce_mixture(random_mixture(3, 2, 6), 2, tol=1e-14, max_iterations=5)
    assert (found.status, found.converged) == ("not converged: the iterations ran out", False)
    assert found.iterations == 5
    assert found.kl < found.kl_before


def test_a_refinement_that_finds_nothing_is_not_taken(monkeypatch):
    def spoil(frame, q, tol, most):
        return (q[0], q[1] + 1.0, q[2]), 0, 3, False

    monkeypatch.setitem(reduction._REFINEMENTS, "kl", spoil)
    p = random_mixture(3, 2, 6)
    found = fv.reduce_mixture(p, 2)
    assert found.mixture == fv.reduce_mixture(p, 2, "runnalls").mixture
    assert (found.status, found.converged) == (reduction._NOT_IMPROVED, False)


GRID = fv.Grid2D(range(9), range(9), np.zeros((9, 9)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.eye(2), 1), TypeError, "p must be a Gaussian or a GaussianMixture, not ndarray"),
        ((GRID, 2), TypeError, 'of a grid, mixtures are m_projection(grid, family=("mixture", k))'),
        ((fv.Gaussian(0, 1), 0), ValueError, "k must be"),
        ((fv.Gaussian(0, 1), 1.5), TypeError, "k must be"),
        ((fv.Gaussian(0, 1), 1, "salmond"), ValueError, "method must be"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with says(error, message):
        fv.reduce_mixture(*arguments)


@pytest.mark.parametrize("tol", [0.0, -1.0, math.inf, math.nan])
def test_bad_tolerances_are_named(tol):
    with says(ValueError, "tol ", f"{tol!r}"):
        fv.reduce_mixture(fv.Gaussian(0, 1), 1, tol=tol)

"""I-projections onto mixtures of k Gaussians."""

import math
import pickle

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

import fastvi as fv
from fastvi.distributions.ascent import Parts
from fastvi.projections import onto_mixtures, reduction
from helpers.mixtures import random_mixture

TWO = ("mixture", 2)
UNEQUAL = fv.GaussianMixture([0.5, 0.3, 0.2], [-40.0, 0.0, 40.0], [1.0, 2.0, 3.0])


def log_density(z, weights, means, deviations):
    """Of a mixture on the line, at points (N,)."""
    whitened = (z[:, None] - means) / deviations
    return logsumexp(np.log(weights) - 0.5 * whitened**2 - np.log(deviations), axis=1) - 0.5 * math.log(
        2.0 * math.pi
    )


def on_a_grid(p):
    """(points, their distance, log p) far beyond the components of a mixture on the line."""
    deviations = np.sqrt(p.covs[:, 0, 0])
    reach = 12.0 * deviations.max()
    z = np.linspace(p.means.min() - reach, p.means.max() + reach, 3001)
    return z, z[1] - z[0], log_density(z, p.weights, p.means[:, 0], deviations)


def least_by_bfgs(p, count, restarts, rng):
    """The least KL(q ‖ p) on a grid that scipy's BFGS finds from restarts."""
    z, step, log_p = on_a_grid(p)
    least = math.inf

    def divergence(x):
        logits, means, logs = x.reshape(3, count)
        weights, deviations = np.exp(logits - logsumexp(logits)), np.exp(logs)
        if not (deviations.min() > 2.0 * step and np.abs(means).max() < z[-1] and logits.max() < 500.0):
            return 1e3
        log_q = log_density(z, weights, means, deviations)
        return step * np.exp(log_q) @ (log_q - log_p)

    for _ in range(restarts):
        which = rng.choice(p.weights.size, count, replace=False)
        means = p.means[which, 0] + 0.5 * rng.standard_normal(count)
        start = [rng.standard_normal(count), means, 0.5 * np.log(p.covs[which, 0, 0])]
        least = min(least, minimize(divergence, np.concatenate(start), method="BFGS").fun)
    return least


@pytest.mark.parametrize(("components", "count"), [(3, 2), (5, 2), (4, 3)])
def test_no_descent_of_scipy_ends_lower(components, count):
    p = random_mixture(components, 1, components, spread=3.0)
    found = fv.i_projection(p, ("mixture", count))
    assert found.converged
    assert found.error < 1e-8 * found.kl
    least = least_by_bfgs(p, count, 3, np.random.default_rng(1))
    assert found.kl <= least + 1e-6
    # And its divergence is that of the grid.
    z, step, log_p = on_a_grid(p)
    log_q = found.q.logpdf(z[:, None])
    assert found.kl == pytest.approx(step * np.exp(log_q) @ (log_q - log_p), rel=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_nothing_near_is_closer(dim):
    p = random_mixture(7, dim, 4)
    found = fv.i_projection(p, TWO)
    assert found.converged
    assert found.gradient_norm < 1e-3
    rng, q = np.random.default_rng(2), found.q
    assert found.kl == pytest.approx(fv.kl_estimate(q, p).value, rel=1e-7)
    for size in (1e-2, 1e-1):
        for _ in range(3):
            weights = q.weights * np.exp(size * rng.standard_normal(2))
            means = q.means + size * rng.standard_normal(q.means.shape)
            turn = np.eye(dim) + size * rng.standard_normal((dim, dim))
            other = fv.GaussianMixture(weights / weights.sum(), means, turn @ q.covs @ turn.T)
            assert fv.kl_estimate(other, p, rtol=1e-6).value > found.kl


def test_far_components_are_chosen_by_their_weights():
    """Each pair of them is an optimum, with the divergence -log(w_1 + w_2)."""
    found = fv.i_projection(UNEQUAL, TWO)
    np.testing.assert_allclose([o.kl for o in found.optima], -np.log([0.8, 0.7, 0.5]), rtol=1e-9)
    assert all(o.converged and o.error < 1e-8 for o in found.optima)
    np.testing.assert_allclose(found.q.weights, [0.625, 0.375], rtol=1e-6)
    np.testing.assert_allclose(found.q.means, [[-40.0], [0.0]], atol=1e-4)
    np.testing.assert_allclose(found.q.covs.ravel(), [1.0, 2.0], rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_a_mixture_of_no_more_components_is_its_own_projection(dim):
    p = random_mixture(3, dim, 3)
    for count in (3, 4, 100):
        found = fv.i_projection(p, ("mixture", count))
        assert found.q == p
        assert (found.kl, found.error, found.converged) == (0.0, 0.0, True)
    light = fv.GaussianMixture([0.5, 0.0, 0.5], p.means, p.covs)
    assert fv.i_projection(light, TWO).q == light
    one = fv.i_projection(p.components[0], TWO)
    assert one.kl == 0.0
    assert one.q.components[0] == p.components[0]


def test_one_component_is_the_projection_onto_gaussians():
    p = random_mixture(3, 2, 4, spread=4.0)
    one, full = fv.i_projection(p, ("mixture", 1)), fv.i_projection(p)
    assert len(one.optima) == len(full.optima) > 1
    for a, b in zip(one.optima, full.optima, strict=True):
        assert (a.kl, a.error, a.status) == (b.kl, b.error, b.status)
        assert a.q.components[0] == b.q
    started = fv.i_projection(p, ("mixture", 1), starts=[one.optima[1].q])
    assert started.kl == pytest.approx(one.optima[1].kl, rel=1e-7)


def test_units_make_no_difference():
    p = random_mixture(11, 2, 4)
    there = p.affine([[3e5, 0.0], [1e-3, 2e-6]], [1e6, -4.0])
    one, two = fv.i_projection(p, TWO), fv.i_projection(there, TWO)
    assert two.kl == pytest.approx(one.kl, rel=1e-7)
    assert fv.kl_estimate(one.q.affine([[3e5, 0.0], [1e-3, 2e-6]], [1e6, -4.0]), two.q).value < 1e-7


def test_in_many_dimensions_draws_find_it_and_others_check_it():
    dim = 6
    far = fv.GaussianMixture([0.5, 0.3, 0.2], 30.0 * np.eye(3, dim), [np.eye(dim)] * 3)
    found = fv.i_projection(far, TWO)
    assert found.converged
    assert found.kl == pytest.approx(-math.log(0.8), abs=1e-9 + 4.0 * found.error)
    near = random_mixture(5, dim, 4, spread=0.7)
    found = fv.i_projection(near, TWO)
    assert found.estimate.method == "quasi-Monte Carlo (standard error)"
    for part in near.components:
        assert found.kl < fv.kl_estimate(part, near).value


def test_a_start_leads_to_the_optimum_near_it():
    others = fv.i_projection(UNEQUAL, TWO).optima
    last = fv.i_projection(UNEQUAL, TWO, starts=[others[2].q])
    assert last.kl == pytest.approx(others[2].kl, rel=1e-9)
    assert len(last.optima) == 1


def test_a_saddle_is_left():
    """Two components that are the same stay so under every gradient."""
    p = fv.GaussianMixture([0.5, 0.3, 0.2], [-4.0, 4.0, 0.0], [1.0, 1.0, 1.0])
    equal = fv.GaussianMixture([0.5, 0.5], [0.0, 0.0], [9.0, 9.0])
    found, best = fv.i_projection(p, TWO, starts=[equal]), fv.i_projection(p, TWO)
    assert found.kl == pytest.approx(best.kl, rel=1e-7)


def test_what_is_not_known_is_said(monkeypatch):
    p = random_mixture(7, 2, 4)
    good = fv.i_projection(p, TWO)
    with monkeypatch.context() as patch:
        patch.setattr(onto_mixtures, "_MOST_WORK", 0)
        found = fv.i_projection(p, TWO)
        assert "largest number of nodes" in found.status
        assert not found.converged
        assert found.kl == pytest.approx(good.kl, rel=1e-2)
    with monkeypatch.context() as patch:
        patch.setattr(onto_mixtures, "_MOST_STEPS", 0)
        assert (
            fv.i_projection(p, TWO).status
            == "the steps were used up before their size fell below the tolerance"
        )
    flat = fv.GaussianMixture([0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    found = fv.i_projection(flat, TWO)
    assert 0.0 <= found.kl < 1e-9
    narrow = fv.GaussianMixture([0.5, 0.3, 0.2], [0.0, 0.1, 3.0], [1.0, 1e-10, 1.0])
    found = fv.i_projection(narrow, TWO)
    assert found.status.startswith("the quadrature would need")
    assert found.error > 1e-3


def test_nodes_are_made_finer_until_that_makes_no_difference(monkeypatch):
    """Under a broad component of q lie narrow ones of p."""
    p = fv.GaussianMixture(np.full(7, 1.0 / 7.0), np.arange(7.0), np.full(7, 0.04))
    found = fv.i_projection(p, TWO)
    assert found.converged
    monkeypatch.setitem(onto_mixtures._LEVELS, 1, ((0.005, 8.0), (0.004, 8.0), (0.003, 8.0)))
    for cached in (onto_mixtures._nodes, onto_mixtures._table):
        cached.cache_clear()
    best = fv.i_projection(p, TWO, starts=[found.q])
    for cached in (onto_mixtures._nodes, onto_mixtures._table):
        cached.cache_clear()
    assert best.converged
    assert found.kl == pytest.approx(best.kl, rel=1e-8)


#: Its optima -log(w_i + w_j): the second is a twelfth above the best.
ALIKE = fv.GaussianMixture([0.4, 0.31, 0.29], [-40.0, 0.0, 40.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("p", [UNEQUAL, ALIKE, random_mixture(7, 2, 4)])
def test_of_large_mixtures_optima_far_above_the_best_are_not_refined(p, monkeypatch):
    """The best is the same, as are those near it; of the others is said what they are."""
    small = fv.i_projection(p, TWO)
    monkeypatch.setattr(onto_mixtures, "_LONG", 0)
    large = fv.i_projection(p, TWO)
    assert large.q == small.q
    assert (large.kl, large.error, large.status) == (small.kl, small.error, small.status)
    near = [o for o in small.optima if o.kl < 1.1 * small.kl]
    assert [(o.q, o.status) for o in large.optima[: len(near)]] == [(o.q, o.status) for o in near]
    assert len(large.optima) >= len(small.optima) > len(near)
    for other in large.optima[len(near) :]:
        assert not other.converged
        assert other.status.startswith("not refined")
        assert other.kl > onto_mixtures._FAR * large.kl
        assert abs(fv.kl_estimate(other.q, p).value - other.kl) <= other.error
    assert large.evaluations < small.evaluations


def test_an_optimum_that_coarse_nodes_misjudge_is_refined(monkeypatch):
    """They find it much better than it is."""
    small = fv.i_projection(UNEQUAL, TWO)
    monkeypatch.setattr(onto_mixtures, "_LONG", 0)
    gradient = onto_mixtures.Descents.gradient

    def misled(descents, parts, level):
        value, slope = gradient(descents, parts, level)
        return (0.1 * value if level == onto_mixtures._BASE else value), slope

    monkeypatch.setattr(onto_mixtures.Descents, "gradient", misled)
    assert [o.kl for o in fv.i_projection(UNEQUAL, TWO).optima] == [o.kl for o in small.optima]


def test_it_is_a_projection_like_others():
    found = fv.i_projection(UNEQUAL, TWO)
    assert repr(found) == "Projection(q=mixture of 2, kl=0.223144, converged, 2 more optima)"
    again = pickle.loads(pickle.dumps(found))
    assert again.q == found.q
    assert again.kl == found.kl
    assert len(again.optima) == 3


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ValueError, {"family": ("mixture", 0)}, "k must be at least 1, not 0"),
        (TypeError, {"family": ("mixture", True)}, "k must be an integer, not True"),
        (TypeError, {"family": ("mixture", 1.5)}, "k must be an integer, not 1.5"),
        (ValueError, {"family": ("mixture",)}, 'family must be ("mixture", k)'),
        (ValueError, {"family": ("mixtures", 2)}, 'family must be ("mixture", k)'),
        (TypeError, {"p": [[0.5, 0.5]]}, "p must be a Gaussian or a GaussianMixture for mixtures, not list"),
        (TypeError, {"starts": 3}, "starts must be a sequence of mixtures, not int"),
        (TypeError, {"starts": [fv.Gaussian(0.0, 1.0)]}, "starts[0] must be a GaussianMixture, not Gaussian"),
        (ValueError, {"starts": []}, "starts is empty"),
        (ValueError, {"starts": [UNEQUAL]}, "starts[0] has 3 components with a weight, not 2"),
        (ValueError, {"starts": [random_mixture(0, 2, 2)]}, "starts[0] has dimension 2, p has 1"),
        (ValueError, {"rtol": 2.0}, "rtol must be from"),
    ],
)
def test_bad_input_is_named(kind, arguments, message):
    with pytest.raises(kind) as raised:
        fv.i_projection(**{"p": UNEQUAL, "family": TWO, **arguments})
    assert message in str(raised.value)


def test_components_too_narrow_to_be_merged_are_chosen():
    """Along a slanted line, 1e10 of their deviations apart: a merged covariance is singular to rounding."""
    means = 1e9 * np.array([[1.0, 1.3], [-1.0, -1.3], [2.1, 2.73], [0.0, 0.0]])
    p = fv.GaussianMixture([0.4, 0.3, 0.2, 0.1], means, [1e-2 * np.eye(2)] * 4)
    found = fv.i_projection(p, TWO)
    assert found.kl == pytest.approx(-math.log(0.7), rel=1e-9)
    np.testing.assert_allclose(found.q.weights, [4.0 / 7.0, 3.0 / 7.0], rtol=1e-6)


def test_a_component_that_all_but_vanishes_does_not_run_off():
    """One of the ends on coarse nodes has a weight of 6e-9; from there it left the range of floats."""
    rng = np.random.default_rng((2, 38))
    rng.integers(3, 9), rng.integers(2, 5)
    weights = np.maximum(rng.dirichlet(np.full(5, rng.choice([0.5, 3.0]))), 1e-3)
    roots = rng.standard_normal((5, 2, 2))
    covs = roots @ roots.swapaxes(1, 2) + 0.3 * np.eye(2)
    means = rng.choice([1.0, 3.0, 8.0]) * rng.standard_normal((5, 2))
    found = fv.i_projection(fv.GaussianMixture(weights / weights.sum(), means, covs), ("mixture", 3))
    assert found.converged
    for optimum in found.optima:
        assert optimum.kl < 1.0
        assert optimum.error < 1e-6


@pytest.mark.parametrize("dim", [2, 3])
def test_components_far_from_a_block_are_left_out(dim, monkeypatch):
    """The value and gradient are those of nodes in any order, also with many components far away."""
    rng = np.random.default_rng(dim)
    p = fv.GaussianMixture(np.full(9, 1 / 9), 30.0 * rng.standard_normal((9, dim)), [np.eye(dim)] * 9)
    descents = onto_mixtures.Descents(reduction.Frame(p), 4, 1e-8)
    *_, parts = map(Parts, *descents.starts())
    tiled, slope = descents.gradient(parts, 0)
    nodes, weights = descents.nodes(0)
    order = rng.permutation(weights.size)
    shuffled = np.ascontiguousarray(nodes[:, order]), weights[order]
    monkeypatch.setattr(descents, "nodes", lambda level: shuffled)
    plain, other = descents.gradient(parts, 0)
    assert tiled == pytest.approx(plain, rel=1e-12)
    np.testing.assert_allclose(slope, other, rtol=1e-10, atol=1e-12)


def test_a_component_that_runs_off_on_finer_nodes():
    """Its covariance had the deviations 1e76 and 0: "Singular matrix"."""
    rng = np.random.default_rng((8, 4))
    dim, components = int(rng.integers(1, 4)), int(rng.integers(3, 8))
    a = 0.5 * rng.normal(size=(components, dim, dim))
    weights, means = rng.dirichlet(np.ones(components)), rng.normal(0.0, 2.5, (components, dim))
    p = fv.GaussianMixture(weights, means, a @ a.swapaxes(1, 2) + 0.1 * np.eye(dim))
    found = fv.i_projection(p, ("mixture", 3))
    assert found.converged
    assert found.kl == pytest.approx(0.008564469, abs=1e-9)
    assert all(np.isfinite(one.q.covs).all() and one.kl < math.inf for one in found.optima)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_ends_that_are_lost(all_of_them, monkeypatch):
    """A status of its own, where no other is left; the mixture is that before it ran off."""
    polished, first = onto_mixtures.Descents.polished, []

    def lost(self, parts):
        optimum = polished(self, parts)
        first.append(parts)
        return optimum._replace(value=math.inf) if all_of_them or len(first) > 1 else optimum

    monkeypatch.setattr(onto_mixtures.Descents, "polished", lost)
    found = fv.i_projection(UNEQUAL, TWO)
    assert len(found.optima) == 1
    assert found.converged == (not all_of_them)
    assert ("no finite value" in found.status) == all_of_them
    assert math.isfinite(found.kl)

"""M-projections of densities on a grid onto mixtures of k Gaussians."""

import math
import pickle

import numpy as np
import pytest
from scipy.special import logsumexp

import fastvi as fv
from fastvi.distributions.ascent import Objective, Parts
from fastvi.projections import grid_mixtures
from helpers.mixtures import random_mixture

TWO = fv.GaussianMixture([0.3, 0.7], [[-3.0, 0.0], [3.0, 1.0]], [np.eye(2), [[1.0, 0.5], [0.5, 2.0]]])


def onto(grid, count):
    return fv.m_projection(grid, ("mixture", count))


def banana(shape=(121, 261)):
    return fv.Grid2D.from_function(
        lambda x, y: -0.5 * (x**2 + (y - x**2) ** 2), [(-6.0, 6.0), (-8.0, 44.0)], shape
    )


def uneven(shape=(121, 141)):
    """A mixture of four on a grid whose steps vary, not normalised."""
    p = random_mixture(5, 2, 4)
    x = 12.0 * np.sinh(np.linspace(-2.0, 2.0, shape[0])) / math.sinh(2.0)
    y = 12.0 * np.sinh(np.linspace(-2.0, 2.0, shape[1])) / math.sinh(2.0)
    points = np.stack(np.broadcast_arrays(x[:, None], y[None, :]), axis=-1)
    return fv.Grid2D(x, y, p.logpdf(points) + 300.0)


def trapezoid(grid, q):
    """KL(p ‖ q) of the normalised density, by NumPy's trapezoid rule."""
    points = np.stack(np.broadcast_arrays(grid.x[:, None], grid.y[None, :]), axis=-1)
    terms = -0.5 * np.einsum(
        "knmi,kij,knmj->knm",
        points - q.means[:, None, None],
        np.linalg.inv(q.covs),
        points - q.means[:, None, None],
    )
    constants = np.log(q.weights) - 0.5 * np.linalg.slogdet(2.0 * np.pi * q.covs)[1]
    log_q = logsumexp(terms + constants[:, None, None], axis=0)

    def integral(f):
        return np.trapezoid(np.trapezoid(f, grid.y, axis=1), grid.x)

    p = np.exp(grid.logp - grid.logp.max())
    mass = integral(p)
    log_p = grid.logp - grid.logp.max() - math.log(mass)
    return integral(p * (log_p - log_q)) / mass


@pytest.mark.parametrize("grid", [banana(), uneven()])
def test_one_component_is_the_moment_match(grid):
    one, full = onto(grid, 1), fv.m_projection(grid)
    assert one.q.weights.tolist() == [1.0]
    assert one.q.components[0] == full.q
    assert (one.kl, one.error, one.status) == (full.kl, full.error, full.status)


def test_a_mixture_on_a_grid_is_found_again():
    found = onto(fv.Grid2D.from_distribution(TWO), 2)
    assert found.converged
    assert found.kl < 1e-12
    np.testing.assert_allclose(found.q.weights, [0.7, 0.3], atol=1e-6)
    np.testing.assert_allclose(found.q.means, TWO.means[::-1], atol=1e-6)
    np.testing.assert_allclose(found.q.covs, TWO.covs[::-1], atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("grid", [banana(), uneven()])
def test_moments_are_those_of_p_and_the_divergence_that_of_the_trapezoid_rule(grid, count):
    found = onto(grid, count)
    assert found.converged
    np.testing.assert_allclose(found.q.mean, grid.mean, atol=1e-11)
    np.testing.assert_allclose(found.q.cov, grid.cov, rtol=1e-10, atol=1e-11)
    # Steps that vary make sums of q larger than one, and the divergence of an exact q less than zero.
    value = trapezoid(grid, found.q)
    assert found.kl == pytest.approx(max(value, 0.0), rel=1e-10, abs=1e-14)
    assert abs(found.kl - value) <= found.error
    assert found.gradient_norm < 1e-3
    assert (np.diff(found.q.weights) <= 0.0).all()


def test_the_error_holds_on_a_finer_grid():
    for shape in ((61, 131), (121, 261)):
        found = onto(banana(shape), 3)
        assert abs(trapezoid(banana((481, 1041)), found.q) - found.kl) <= found.error


@pytest.mark.parametrize("count", [2, 3])
def test_no_mixture_near_is_closer(count):
    grid = banana()
    found, rng = onto(grid, count), np.random.default_rng(count)
    q, gains = found.q, []
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(4):
            weights = q.weights * np.exp(size * rng.standard_normal(count))
            means = q.means + size * rng.standard_normal(q.means.shape)
            turn = np.eye(2) + size * rng.standard_normal((2, 2))
            other = fv.GaussianMixture(weights / weights.sum(), means, turn @ q.covs @ turn.T)
            gains.append(found.kl - trapezoid(grid, other))
    assert max(gains) < 0.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_not_above_what_em_finds_from_all_points(seed):
    p = random_mixture(seed, 2, 5)
    grid = fv.Grid2D.from_distribution(p, shape=(81, 81))
    points = np.stack(np.broadcast_arrays(grid.x[:, None], grid.y[None, :]), axis=-1).reshape(-1, 2)
    masses = (np.exp(grid.logp) * np.multiply.outer(np.gradient(grid.x), np.gradient(grid.y))).ravel()
    fit = fv.fit_mixture(points, 2, weights=masses, tol=1e-9)
    found = onto(grid, 2)
    assert found.kl <= fv.kl(grid, fit.mixture) * (1.0 + 1e-5)
    assert found.kl <= fv.reduce_mixture(p, 2).kl * (1.0 + 1e-4)


@pytest.mark.parametrize("steep", [False, True])
def test_derivatives_are_those_of_differences(steep, monkeypatch):
    """Also where the sums are in units of a factor: there coordinates all but depend on each other."""
    monkeypatch.setattr(grid_mixtures, "_MOST", math.inf)
    grid = uneven((61, 71))
    masses = grid_mixtures._masses(grid)
    assert masses.sum() == pytest.approx(1.0, rel=1e-14)
    likelihood = grid_mixtures._Likelihood(grid, masses, np.linalg.cholesky(grid.cov), 2)
    second = [[1.0, 0.0], [1.0, 1e-4]] if steep else [[1.0, 0.0], [0.3, 0.7]]
    factors = np.array([[[0.8, 0.0], [-0.2, 0.6]], second])
    parts = Parts(np.log([0.4, 0.6]), np.array([[0.5, -0.2], [-0.3, 0.1]]), factors)
    assert (likelihood.swept(parts, 0)[2][:, -1] > 0.0).tolist() == [False, steep]
    objective = Objective(likelihood, parts)
    value, slope = objective(np.zeros(objective.size))
    assert likelihood.constant - value == pytest.approx(trapezoid(grid, likelihood.mixture(parts)), rel=1e-9)
    for i, step in enumerate(1e-5 * np.eye(objective.size)):
        difference = (objective(step)[0] - objective(-step)[0]) / 2e-5
        assert slope[i] == pytest.approx(difference, rel=1e-5, abs=1e-7)
    # The norm is the length of that gradient, but for the unit of light components.
    norm = likelihood.gradient_norm(parts, likelihood.swept(parts, 0)[2])
    assert norm == pytest.approx(np.linalg.norm(slope), rel=1e-9)


def test_units_and_normalisation_make_no_difference():
    grid = banana()
    there = fv.Grid2D(1e6 + 1e-3 * grid.x, 1e-7 * grid.y, grid.logp - 700.0)
    one, two = onto(grid, 3), onto(there, 3)
    assert two.kl == pytest.approx(one.kl, rel=1e-6)
    np.testing.assert_allclose(two.q.means, one.q.means * [1e-3, 1e-7] + [1e6, 0.0], rtol=1e-4)


def test_narrow_components_on_a_fine_grid_are_found():
    """Each is in few of the cells of restarts."""
    means = [[-40.0, -40.0], [-39.0, -40.0], [40.0, 40.0], [41.0, 40.0]]
    p = fv.GaussianMixture([0.4, 0.3, 0.2, 0.1], means, [0.02 * np.eye(2)] * 4)
    found = onto(fv.Grid2D.from_distribution(p, [(-45.0, 45.0), (-45.0, 45.0)], (901, 901)), 4)
    assert found.converged
    assert found.kl < 1e-9
    np.testing.assert_allclose(found.q.means, means, atol=1e-4)


def test_zeros_of_the_density_are_left_out():
    grid = fv.Grid2D.from_distribution(TWO, shape=(101, 81))
    table = np.where(grid.x[:, None] > 0.0, grid.logp, -math.inf)
    half = fv.Grid2D(grid.x, grid.y, table)
    found = onto(half, 2)
    assert found.kl == pytest.approx(fv.kl(half, found.q), rel=1e-12)
    np.testing.assert_allclose(found.q.mean, half.mean, atol=1e-12)


def test_what_is_not_known_is_said(monkeypatch):
    coarse = fv.Grid2D.from_distribution(TWO, shape=(15, 11))
    for count in (2, 5, 9):
        found = onto(coarse, count)
        assert not found.converged
        assert found.status.startswith("the grid is too coarse")
        assert np.isfinite(found.q.covs).all()
        assert abs(fv.kl(TWO, found.q) - found.kl) <= found.error
    monkeypatch.setattr(grid_mixtures, "_MOST_STEPS", 1)
    found = onto(banana(), 3)
    assert found.status == "the steps were used up before their size fell below the tolerance"
    assert not found.converged


def test_it_is_a_projection_like_others():
    found = onto(banana(), 2)
    assert repr(found) == "Projection(q=mixture of 2, kl=0.165045, converged)"
    again = pickle.loads(pickle.dumps(found))
    assert (again.q, again.kl, again.status) == (found.q, found.kl, found.status)


def _few():
    table = np.full((5, 5), -math.inf)
    table[1, 1] = table[2, 3] = table[3, 2] = 0.0
    return fv.Grid2D(np.arange(5.0), np.arange(5.0), table)


@pytest.mark.parametrize(
    ("kind", "p", "family", "message"),
    [
        (ValueError, banana(), ("mixture", 0), "k must be at least 1, not 0"),
        (TypeError, banana(), ("mixture", True), "k must be an integer, not True"),
        (TypeError, banana(), ("mixture", 1.5), "k must be an integer, not 1.5"),
        (ValueError, banana(), ("mixtures", 2), 'family must be ("mixture", k)'),
        (ValueError, _few(), ("mixture", 4), "k must be at most 3, the points of the grid where p has mass"),
    ],
)
def test_bad_input_is_named(kind, p, family, message):
    with pytest.raises(kind) as raised:
        fv.m_projection(p, family)
    assert message in str(raised.value)


def test_a_density_on_a_line_is_refused():
    table = np.full((9, 9), -math.inf)
    table[4] = 0.0
    line = fv.Grid2D(np.arange(9.0), np.arange(9.0), table)
    with pytest.raises(ValueError, match="covariance of p is not positive definite"):
        onto(line, 2)

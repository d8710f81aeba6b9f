"""M- and I-projections: exact identities, independent quadrature, every local optimum, hard and bad input."""

import copy
import itertools
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvi as fv
from fastvi.distributions import kl_and_entropy
from fastvi.projections import gaussian_optima
from helpers.messages import says

FAMILIES = ("full", "diag", "isotropic")
families = pytest.mark.parametrize("family", FAMILIES)
EYE = np.eye(2)


def two_bumps():
    return fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [EYE, EYE])


def three_bumps():
    return fv.GaussianMixture(
        [0.2, 0.3, 0.5], [[-8, 0], [8, 0], [0, 9]], [EYE, 2 * EYE, [[1, 0.5], [0.5, 2]]]
    )


def random_cov(rng, dim, condition=10.0):
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    cov = (rotation * condition ** rng.uniform(-0.5, 0.5, dim)) @ rotation.T
    return 0.5 * (cov + cov.T)


def random_mixture(seed, dim, components, spread=2.5, condition=10.0):
    rng = np.random.default_rng([seed, dim, components])
    return fv.GaussianMixture(
        rng.dirichlet(np.full(components, 2.0)),
        spread * rng.standard_normal((components, dim)),
        [random_cov(rng, dim, condition) for _ in range(components)],
    )


def random_gaussian(rng, dim):
    return fv.Gaussian(2.0 * rng.standard_normal(dim), random_cov(rng, dim))


def moved(p, matrix, shift):
    """The distribution of matrix z + shift."""
    covs = matrix @ p.covs @ matrix.T
    return fv.GaussianMixture(p.weights, p.means @ matrix.T + shift, 0.5 * (covs + covs.swapaxes(1, 2)))


def derivatives(p, z):
    """log p, its gradient and its Hessian at points (N, D), by the textbook's formulas."""
    logs, gradients, precisions = [], [], []
    for w, m, c in zip(p.weights, p.means, p.covs, strict=True):
        precision = np.linalg.inv(c)
        own_gradient = (m - z) @ precision
        constant = math.log(w) - 0.5 * np.linalg.slogdet(2.0 * math.pi * c)[1]
        logs.append(constant - 0.5 * np.einsum("ni,ni->n", own_gradient, m - z))
        gradients.append(own_gradient)
        precisions.append(precision)
    logs = np.array(logs)
    value = np.logaddexp.reduce(logs, axis=0)
    shares = np.exp(logs - value)
    gradient = np.einsum("kn,kni->ni", shares, np.array(gradients))
    hessian = np.einsum("kn,kni,knj->nij", shares, np.array(gradients), np.array(gradients))
    hessian -= np.einsum("kn,kij->nij", shares, np.array(precisions))
    hessian -= np.einsum("ni,nj->nij", gradient, gradient)
    return value, gradient, hessian


STEPS = {1: 0.01, 2: 0.035, 3: 0.2}


def under(q, p, step=None):
    """(KL(q ‖ p), E grad log p, E Hessian log p) by a fine trapezoid rule in q's own coordinates."""
    step = STEPS[q.dim] if step is None else step
    axis = np.arange(-math.ceil(9.0 / step), math.ceil(9.0 / step) + 1) * step
    rest = np.array(list(itertools.product(axis, repeat=q.dim - 1))).reshape(
        axis.size ** (q.dim - 1), q.dim - 1
    )
    own = -0.5 * np.linalg.slogdet(2.0 * math.pi * q.cov)[1]
    totals = []
    for first in np.array_split(axis, max(1, axis.size**q.dim // 200_000)):
        xi = np.column_stack([np.repeat(first, len(rest)), np.tile(rest, (first.size, 1))])
        square = np.einsum("ni,ni->n", xi, xi)
        xi, square = xi[square < 81.0], square[square < 81.0]
        weights = np.exp(-0.5 * square) * (step / math.sqrt(2.0 * math.pi)) ** q.dim
        value, gradient, hessian = derivatives(p, q.mean + xi @ q.cholesky.T)
        totals.append(
            (
                weights @ (own - 0.5 * square - value),
                weights @ gradient,
                np.einsum("n,nij->ij", weights, hessian),
            )
        )
    return tuple(sum(parts) for parts in zip(*totals, strict=True))


def divergence(q, p):
    """KL(q ‖ p) in the plane by the same rule, without the derivatives."""
    axis = np.arange(-300, 301) * 0.03
    u, v = axis[:, None], axis[None, :]
    (a, _), (b, c) = q.cholesky
    x, y = q.mean[0] + a * u, q.mean[1] + b * u + c * v
    parts = []
    for w, m, cov in zip(p.weights, p.means, p.covs, strict=True):
        precision = np.linalg.inv(cov)
        s, t = x - m[0], y - m[1]
        square = precision[0, 0] * s * s + 2.0 * precision[0, 1] * s * t + precision[1, 1] * t * t
        parts.append(math.log(w) - 0.5 * (np.linalg.slogdet(2.0 * math.pi * cov)[1] + square))
    own = -0.5 * (np.linalg.slogdet(2.0 * math.pi * q.cov)[1] + u * u + v * v)
    bell = np.exp(-0.5 * axis**2) * 0.03 / math.sqrt(2.0 * math.pi)
    return float(bell @ (own - np.logaddexp.reduce(parts, axis=0)) @ bell)


def apart(q, r):
    """A distance in units of their own spread: about the root of twice the divergence."""
    return math.sqrt(2.0 * fv.kl(q, r))


def gradient_of(q, p, family, step=None):
    """The gradient of KL(q ‖ p) in the coordinates of q, in the metric of Fisher's information."""
    _, gradient, hessian = under(q, p, step)
    location = q.cholesky.T @ gradient
    spread = q.cholesky.T @ hessian @ q.cholesky + np.eye(q.dim)
    if family == "isotropic":
        return np.append(location, np.trace(spread) / math.sqrt(2.0 * q.dim))
    diagonal = np.diag(spread) / math.sqrt(2.0)
    lower = spread[np.tril_indices(q.dim, -1)] if family == "full" else []
    return np.concatenate([location, diagonal, lower])


# M-projection


@families
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("components", [1, 3])
def test_moments_are_matched(family, dim, components):
    p = random_mixture(1, dim, components)
    mean = p.weights @ p.means
    offsets = p.means - mean
    cov = np.einsum("k,kij->ij", p.weights, p.covs + np.einsum("ki,kj->kij", offsets, offsets))
    wanted = {"full": cov, "diag": np.diag(np.diag(cov)), "isotropic": np.trace(cov) / dim * np.eye(dim)}
    m = fv.m_projection(p, family)
    np.testing.assert_allclose(m.q.mean, mean, rtol=0, atol=1e-14 * np.abs(p.means).max())
    np.testing.assert_allclose(m.q.cov, wanted[family], rtol=0, atol=1e-14 * np.trace(cov))
    assert m.converged
    assert m.status == "converged"
    assert m.gradient_norm == 0.0
    assert m.optima == (m,)


@families
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_divergence_of_the_moment_match_is_a_difference_of_entropies(family, dim, seed):
    p = random_mixture(seed, dim, 3)
    m, h = fv.m_projection(p, family), fv.entropy_estimate(p)
    value = 0.5 * np.linalg.slogdet(2.0 * math.pi * math.e * m.q.cov)[1] - h.value
    direct = fv.kl_estimate(p, m.q)
    rounding = 1e-14 * (1.0 + abs(h.value))
    assert abs(m.kl - value) <= h.error + direct.error + rounding
    assert abs(m.kl - direct.value) <= m.error + direct.error + rounding
    assert 0.0 < m.error < 1e-8


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_pythagoras(dim, seed):
    p = random_mixture(seed, dim, 3)
    m = fv.m_projection(p)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        q = random_gaussian(rng, dim)
        whole = fv.kl_estimate(p, q)
        assert abs(whole.value - m.kl - fv.kl(m.q, q)) <= whole.error + m.error + 1e-14 * whole.value
        assert whole.value > m.kl


@families
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("components", [2, 4])
def test_bounds_of_the_moment_match(family, dim, components):
    for seed in range(3):
        p = random_mixture(seed, dim, components)
        m = fv.m_projection(p, family)
        most = sum(w * fv.kl(c, m.q) for w, c in zip(p.weights, p.components, strict=True))
        least = most + p.weights @ np.log(p.weights)
        assert least - m.error <= m.kl <= most + m.error


def test_bounds_beyond_quadrature():
    p = random_mixture(2, 5, 3)
    m = fv.m_projection(p)
    most = sum(w * fv.kl(c, m.q) for w, c in zip(p.weights, p.components, strict=True))
    assert most + p.weights @ np.log(p.weights) - 5 * m.error <= m.kl <= most + 5 * m.error
    assert 0.0 < m.error < 0.01


@families
def test_moment_match_beats_its_neighbours_in_the_family(family):
    p = random_mixture(5, 2, 3)
    m = fv.m_projection(p, family)
    rng = np.random.default_rng(0)
    for _ in range(10):
        factor = np.array(m.q.cholesky)
        if family == "isotropic":
            factor = factor * (1.0 + 0.02 * rng.standard_normal())
        else:
            change = 0.02 * rng.standard_normal((2, 2))
            factor = factor @ (EYE + (np.tril(change) if family == "full" else np.diag(np.diag(change))))
        q = fv.Gaussian(m.q.mean + 0.02 * m.q.cholesky @ rng.standard_normal(2), factor @ factor.T)
        other = fv.kl_estimate(p, q)
        assert other.value > m.kl + other.error + m.error


@families
@pytest.mark.parametrize("shape", [(101, 81), (201, 141)])
def test_moment_match_of_a_grid(family, shape):
    p = random_mixture(3, 2, 3)
    grid = fv.Grid2D.from_distribution(p, shape=shape)
    m, n = fv.m_projection(p, family), fv.m_projection(grid, family)
    assert apart(m.q, n.q) < 1e-7
    assert abs(m.kl - n.kl) <= m.error + n.error + 1e-12
    assert n.error < 1e-2
    shifted = fv.Grid2D(grid.x, grid.y, grid.logp + 700.0)
    assert apart(fv.m_projection(shifted, family).q, n.q) < 1e-7


def test_known_values_of_the_moment_match():
    m = fv.m_projection(two_bumps())
    np.testing.assert_allclose(m.q.mean, [1.2, 0.0], rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(m.q.cov, np.diag([8.56, 1.0]), rtol=1e-15, atol=1e-15)
    assert abs(m.kl - 0.46618895155) < 5.1e-12
    assert m.error < 1e-9


def test_divergence_of_the_moment_match_is_computed_when_asked_for(monkeypatch):
    calls = []
    real = kl_and_entropy.entropy_estimate
    monkeypatch.setattr(gaussian_optima, "entropy_estimate", lambda p: calls.append(p) or real(p))
    p = two_bumps()
    m = fv.m_projection(p)
    assert m.q.dim == 2
    assert m.converged
    assert m.optima[0] is m
    assert calls == []
    value = m.kl
    assert m.error == m.estimate.error
    assert m.kl == value
    assert calls == [p]


# Gaussians


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_projections_of_a_gaussian_onto_all_of_them(dim):
    p = random_gaussian(np.random.default_rng(dim), dim)
    for project in (fv.m_projection, fv.i_projection):
        result = project(p)
        assert result.q == p
        assert (result.kl, result.error, result.converged) == (0.0, 0.0, True)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_projections_of_a_gaussian_onto_restricted_families(dim):
    p = random_gaussian(np.random.default_rng(dim), dim)
    precision = np.linalg.inv(p.cov)
    wanted = {
        (fv.m_projection, "diag"): np.diag(p.cov),
        (fv.i_projection, "diag"): 1.0 / np.diag(precision),
        (fv.m_projection, "isotropic"): np.full(dim, np.trace(p.cov) / dim),
        (fv.i_projection, "isotropic"): np.full(dim, dim / np.trace(precision)),
    }
    for (project, family), variances in wanted.items():
        result = project(p, family)
        np.testing.assert_allclose(result.q.cov, np.diag(variances), rtol=1e-13, atol=0)
        assert np.array_equal(result.q.mean, p.mean)
        exact = fv.kl(p, result.q) if project is fv.m_projection else fv.kl(result.q, p)
        assert result.kl == pytest.approx(exact, rel=1e-14, abs=0)


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.9, 0.999, 1e-6])
def test_both_divergences_of_a_correlated_gaussian(rho):
    p = fv.Gaussian([1.0, -2.0], [[4.0, 2.0 * 3.0 * rho], [2.0 * 3.0 * rho, 9.0]])
    exact = -0.5 * math.log1p(-rho * rho)
    tolerance = 1e-13 / (1.0 - rho * rho)
    assert fv.m_projection(p, "diag").kl == pytest.approx(exact, rel=tolerance, abs=1e-30)
    assert fv.i_projection(p, "diag").kl == pytest.approx(exact, rel=tolerance, abs=1e-30)


@families
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_a_mixture_of_one_component_is_that_component(family, dim):
    g = random_gaussian(np.random.default_rng(dim), dim)
    p = fv.GaussianMixture([1.0], g.mean[None], g.cov[None])
    for project in (fv.m_projection, fv.i_projection):
        result, exact = project(p, family), project(g, family)
        assert apart(result.q, exact.q) < 1e-7
        assert result.converged
        slack = 5 * result.error if dim > 3 else result.error
        assert abs(result.kl - exact.kl) <= slack + 1e-14 * (1.0 + exact.kl)
        assert len(result.optima) == 1


# I-projection


@families
@pytest.mark.parametrize(("dim", "seeds"), [(1, 6), (2, 4), (3, 2)])
def test_optima_are_stationary(family, dim, seeds):
    """For the whole family it says E grad log p = 0 and E Hessian log p = -inverse covariance."""
    for seed in range(seeds):
        p = random_mixture(seed, dim, 2 + seed % 2)
        result = fv.i_projection(p, family)
        for optimum in result.optima:
            assert optimum.converged, optimum
            norm = np.linalg.norm(gradient_of(optimum.q, p, family))
            assert norm < 1e-8
            assert abs(norm - optimum.gradient_norm) < 1e-8
            cov = optimum.q.cov
            if family != "full":
                assert np.array_equal(cov, np.diag(np.diag(cov)))
            if family == "isotropic":
                assert len(set(np.diag(cov))) == 1


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_moments_of_the_derivatives_at_an_optimum(dim):
    # In three dimensions a mild one, which the lattice of this file resolves to 1e-9.
    p = (
        random_mixture(11, dim, 3)
        if dim < 3
        else fv.GaussianMixture(
            [0.4, 0.6], [[0, 0, 0], [1.0, 0.5, -0.5]], [np.diag([1.0, 1.5, 0.8]), np.eye(3)]
        )
    )
    for optimum in fv.i_projection(p).optima:
        _, gradient, hessian = under(optimum.q, p)
        precision = np.linalg.inv(optimum.q.cov)
        np.testing.assert_allclose(gradient, 0.0, rtol=0, atol=1e-8 * np.sqrt(np.diag(precision)).max())
        np.testing.assert_allclose(hessian, -precision, rtol=0, atol=1e-8 * np.abs(precision).max())


@pytest.mark.parametrize("seed", range(40))
def test_random_mixtures(seed):
    p = random_mixture(seed, 2, 1 + seed % 4, spread=3.0, condition=100.0)
    result = fv.i_projection(p)
    divergences = [optimum.kl for optimum in result.optima]
    assert divergences == sorted(divergences)
    assert result.kl <= -math.log(p.weights.max()) + result.error
    for optimum in result.optima:
        assert optimum.converged, optimum
        assert optimum.error <= 1e-8 * optimum.kl + 1e-12
        exact = divergence(optimum.q, p)
        estimate = fv.kl_estimate(optimum.q, p)
        fine = fv.kl_estimate(optimum.q, p, rtol=1e-12)
        rounding = 1e-14 * (1.0 + exact)
        assert abs(optimum.kl - exact) <= optimum.error + rounding
        assert abs(optimum.kl - estimate.value) <= optimum.error + estimate.error
        assert abs(fine.value - exact) <= fine.error + rounding
    for one, two in itertools.combinations(result.optima, 2):
        assert fv.kl(one.q, two.q) > 1e-5


@families
def test_optima_beat_their_neighbours(family):
    rng = np.random.default_rng(3)
    for seed in range(3):
        p = random_mixture(seed, 2, 3, spread=4.0)
        for optimum in fv.i_projection(p, family).optima:
            q = optimum.q
            for _ in range(8):
                if family == "isotropic":
                    change = 0.02 * rng.standard_normal() * EYE
                else:
                    change = np.tril(0.02 * rng.standard_normal((2, 2)))
                    change = change if family == "full" else np.diag(np.diag(change))
                factor = q.cholesky @ (EYE + change)
                other = fv.Gaussian(q.mean + 0.02 * q.cholesky @ rng.standard_normal(2), factor @ factor.T)
                estimate = fv.kl_estimate(other, p)
                assert estimate.value > optimum.kl + estimate.error + optimum.error


@families
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_smaller_families_are_further_away(family, dim):
    p = random_mixture(4, dim, 2)
    for project in (fv.m_projection, fv.i_projection):
        best, result = project(p), project(p, family)
        assert best.kl <= result.kl + best.error + result.error
        if dim == 1:
            assert result.kl == pytest.approx(best.kl, rel=1e-8)


def test_known_values():
    result = fv.i_projection(two_bumps())
    assert len(result.optima) == 2
    wanted = [(2.9905398, 1.0295524, 0.3540339485), (-2.9733725, 1.0773082, 1.1966823316)]
    for optimum, (mean, variance, value) in zip(result.optima, wanted, strict=True):
        np.testing.assert_allclose(optimum.q.mean, [mean, 0.0], rtol=0, atol=5.1e-8)
        np.testing.assert_allclose(optimum.q.cov, np.diag([variance, 1.0]), rtol=0, atol=5.1e-8)
        assert abs(optimum.kl - value) < 5.1e-11
        assert optimum.error <= 1e-8 * optimum.kl


@pytest.mark.parametrize("dim", [1, 3])
def test_known_values_in_other_dimensions(dim):
    """The mixture's other directions are independent and Gaussian."""
    means = np.zeros((2, dim))
    means[:, 0] = -3.0, 3.0
    result = fv.i_projection(fv.GaussianMixture([0.3, 0.7], means, [np.eye(dim)] * 2))
    for optimum, value in zip(result.optima, (0.3540339485, 1.1966823316), strict=True):
        assert abs(optimum.kl - value) < 5.1e-11 + optimum.error
    np.testing.assert_allclose(result.q.cov, np.diag([1.0295524] + [1.0] * (dim - 1)), rtol=0, atol=5.1e-8)


@pytest.mark.parametrize("seed", range(8))
def test_an_affine_map_carries_the_optima_along(seed):
    p = random_mixture(seed, 2, 3)
    rng = np.random.default_rng(seed)
    one, two = (np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2))
    matrix, shift = one @ np.diag([10.0, 0.1]) @ two, 10.0 * rng.standard_normal(2)
    before, after = fv.i_projection(p), fv.i_projection(moved(p, matrix, shift))
    assert len(before.optima) == len(after.optima)
    for one, two in zip(before.optima, after.optima, strict=True):
        cov = matrix @ one.q.cov @ matrix.T
        carried = fv.Gaussian(matrix @ one.q.mean + shift, 0.5 * (cov + cov.T))
        assert apart(two.q, carried) < 1e-7
        assert abs(one.kl - two.kl) <= one.error + two.error


@families
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_components_does_not_matter(family, seed):
    p = random_mixture(seed, 2, 4)
    order = np.random.default_rng(seed).permutation(4)
    q = fv.GaussianMixture(p.weights[order], p.means[order], p.covs[order])
    one, two = fv.i_projection(p, family), fv.i_projection(q, family)
    assert len(one.optima) == len(two.optima)
    for a, b in zip(one.optima, two.optima, strict=True):
        assert apart(a.q, b.q) < 1e-7
        assert abs(a.kl - b.kl) <= a.error + b.error


def test_a_projection_that_becomes_the_best_of_several_is_a_new_one():
    one, two = (fv.m_projection(fv.Gaussian(mean, 1.0)) for mean in (0.0, 1.0))
    best = one._with([two])
    assert best.optima == (best, two)
    assert one.optima == (one,)
    assert best.q is one.q


def test_three_components_apart_give_three_optima():
    p = three_bumps()
    result = fv.i_projection(p)
    assert len(result.optima) == 3
    for optimum, k in zip(result.optima, (2, 1, 0), strict=True):
        assert apart(optimum.q, p.components[k]) < 1e-3
        assert abs(optimum.kl + math.log(p.weights[k])) < 1e-4


def test_a_component_split_in_parts_is_one_optimum():
    p = fv.GaussianMixture([0.2, 0.3, 0.1, 0.4], [[1, 2]] * 4, [[[2, 1], [1, 3]]] * 4)
    result = fv.i_projection(p)
    assert len(result.optima) == 1
    assert result.kl <= result.error < 1e-11
    assert apart(result.q, p.components[0]) < 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_more_digits_on_request(seed):
    p = random_mixture(seed, 2, 2)
    rough, fine = fv.i_projection(p, rtol=1e-4), fv.i_projection(p, rtol=1e-12)
    assert rough.evaluations < fine.evaluations
    assert rough.error <= 1e-4 * rough.kl + 1e-12
    assert fine.error <= 1e-12 * fine.kl + 1e-12
    for result in (rough, fine):
        assert abs(result.kl - under(result.q, p)[0]) <= result.error + 1e-14 * (1.0 + result.kl)
    assert np.linalg.norm(gradient_of(fine.q, p, "full")) < 1e-10


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
def test_stated_errors_at_every_tolerance(rtol):
    p = fv.GaussianMixture([0.3, 0.7], [-3.0, 3.0], [1.0, 1.0])
    for optimum in fv.i_projection(p, rtol=rtol).optima:
        exact = line(optimum.q, p)
        assert abs(optimum.kl - exact) <= optimum.error + 1e-15 * (1.0 + exact)
        assert optimum.error <= max(rtol, 1e-12) * optimum.kl


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    weight=st.floats(0.001, 0.999),
    distance=st.floats(0.0, 12.0),
    ratio=st.floats(0.1, 10.0),
)
def test_two_components_on_the_line(weight, distance, ratio):
    p = fv.GaussianMixture([weight, 1.0 - weight], [0.0, distance], [1.0, ratio**2])
    result = fv.i_projection(p)
    assert result.kl <= -math.log(max(weight, 1.0 - weight)) + result.error
    for optimum in result.optima:
        exact = line(optimum.q, p)
        if optimum.converged:
            assert optimum.error <= 1e-8 * optimum.kl + 1e-12
            assert np.linalg.norm(gradient_of(optimum.q, p, "full", 0.005)) < 1e-7
        assert abs(optimum.kl - exact) <= optimum.error + 1e-14 * (1.0 + exact)


# Starts


def test_one_start_gives_one_optimum():
    p = three_bumps()
    for k, component in enumerate(p.components):
        result = fv.i_projection(p, starts=[component])
        assert len(result.optima) == 1
        assert apart(result.q, component) < 1e-3, k
    result = fv.i_projection(p, starts=(p.components[0], p.components[1], p.components[0]))
    assert len(result.optima) == 2
    assert apart(result.q, p.components[1]) < 1e-3


@families
def test_starts_are_left_alone(family):
    p = two_bumps()
    start = fv.Gaussian([1.0, 1.0], [[2.0, 0.5], [0.5, 1.0]])
    before = copy.deepcopy(start)
    for target in (p, fv.Grid2D.from_distribution(p, shape=(61, 61))):
        result = fv.i_projection(target, family, starts=[start])
        assert start == before
        assert apart(result.q, fv.i_projection(p, family).q) < 1e-4


@pytest.mark.parametrize("name", ["gaussian", "mixture", "grid"])
def test_bad_starts(name):
    p = {
        "gaussian": fv.Gaussian([0, 0], EYE),
        "mixture": two_bumps(),
        "grid": fv.Grid2D.from_distribution(two_bumps(), shape=(21, 21)),
    }[name]
    good = fv.Gaussian([0, 0], EYE)
    with says(TypeError, "starts[1] must be a Gaussian", "list"):
        fv.i_projection(p, starts=[good, [0, 0]])
    with says(ValueError, "starts[0] has dimension 3", "p has 2"):
        fv.i_projection(p, starts=[fv.Gaussian([0, 0, 0], np.eye(3))])
    with says(ValueError, "starts is empty"):
        fv.i_projection(p, starts=[])
    with says(TypeError, "starts"):
        fv.i_projection(p, starts=good)
    with says(TypeError, "starts"):
        fv.i_projection(p, starts=3)


# Grids


@families
def test_projections_of_a_grid(family):
    p = two_bumps()
    grid = fv.Grid2D.from_distribution(p, shape=(201, 141))
    exact, result = fv.i_projection(p, family), fv.i_projection(grid, family)
    assert len(result.optima) == len(exact.optima) == 2
    for one, two in zip(result.optima, exact.optima, strict=True):
        assert one.converged
        assert abs(one.kl - two.kl) < 1e-6
        assert abs(one.kl - two.kl) <= one.error + two.error
        assert apart(one.q, two.q) < 1e-6
        assert one.kl == pytest.approx(fv.kl(one.q, grid), rel=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_projections_of_random_grids(seed):
    p = random_mixture(seed, 2, 3)
    grid = fv.Grid2D.from_distribution(p, shape=(301, 301))
    exact, result = fv.i_projection(p), fv.i_projection(grid)
    assert apart(result.q, exact.q) < 1e-6
    assert abs(result.kl - exact.kl) < 1e-6
    for optimum in result.optima:
        assert np.linalg.norm(gradient_of(optimum.q, p, "full")) < 1e-6


def test_a_grid_need_not_be_normalised():
    grid = fv.Grid2D.from_distribution(two_bumps(), shape=(101, 81))
    shifted = fv.Grid2D(grid.x, grid.y, grid.logp - 500.0)
    one, two = fv.i_projection(grid), fv.i_projection(shifted)
    assert apart(one.q, two.q) < 1e-7
    assert one.kl == pytest.approx(two.kl, abs=1e-12)


def test_a_grid_that_is_too_coarse_says_so():
    p = two_bumps()
    exact = fv.i_projection(p)
    with says(ValueError, "too coarse"):
        fv.i_projection(fv.Grid2D.from_distribution(p, shape=(13, 9)))
    for shape in ((17, 13), (25, 17)):
        result = fv.i_projection(fv.Grid2D.from_distribution(p, shape=shape))
        for optimum in result.optima:
            assert not optimum.converged
            assert optimum.status != "converged"
            nearest = min(exact.optima, key=lambda other, q=optimum.q: fv.kl(q, other.q))
            assert abs(optimum.kl - nearest.kl) <= optimum.error


def test_a_grid_that_cuts_off_the_density_counts_what_is_outside():
    p = fv.Gaussian([0, 0], EYE)
    result = fv.i_projection(fv.Grid2D.from_distribution(p, bounds=[(-3, 3), (-3, 3)], shape=(121, 121)))
    assert not result.converged
    assert result.estimate.outside == pytest.approx(1.0 - math.erf(3.0 / math.sqrt(2.0)) ** 2, rel=1e-2)
    assert result.error > result.kl


def test_a_zero_in_a_grid():
    grid = fv.Grid2D.from_distribution(two_bumps(), shape=(21, 21))
    table = np.array(grid.logp)
    table[3, 5] = -math.inf
    with says(ValueError, "p is zero at x[3] = ", "y[5] = ", "infinite"):
        fv.i_projection(fv.Grid2D(grid.x, grid.y, table))
    assert fv.m_projection(fv.Grid2D(grid.x, grid.y, table)).converged


# Hard input


def line(q, p):
    """KL(q ‖ p) on the line by Gauss-Legendre panels, narrow where a component is."""
    m, s = float(q.mean[0]), float(q.cholesky[0, 0])
    keep = p.weights > 0.0
    logs, mus = np.log(p.weights[keep]), p.means[keep, 0]
    sds = np.sqrt(p.covs[keep, 0, 0])
    edges = [m + s * np.linspace(-10.0, 10.0, 81)]
    edges += [mu + sd * np.linspace(-12.0, 12.0, 97) for mu, sd in zip(mus, sds, strict=True)]
    scales = np.append(0.0, 2.0 ** np.arange(-4.0, 8.0))
    for i, j in itertools.combinations(range(mus.size), 2):
        # Log densities that cross there do so within 1 / (difference of their derivatives).
        curve = 0.5 / sds[j] ** 2 - 0.5 / sds[i] ** 2
        tilt = mus[i] / sds[i] ** 2 - mus[j] / sds[j] ** 2
        level = logs[i] - logs[j] - math.log(sds[i] / sds[j])
        level += 0.5 * (mus[j] / sds[j]) ** 2 - 0.5 * (mus[i] / sds[i]) ** 2
        for root in np.roots([curve, tilt, level]) if curve or tilt else []:
            if abs(root.imag) < 1e-12 * abs(root.real) + 1e-300:
                derivative = abs(2.0 * curve * root.real + tilt)
                if derivative > 0.0:
                    edges.append(root.real + np.concatenate([-scales, scales]) / derivative)
    ends = np.unique(np.clip(np.concatenate(edges), m - 10.0 * s, m + 10.0 * s))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    middle, half = 0.5 * (ends[1:] + ends[:-1]), 0.5 * np.diff(ends)
    z = middle[:, None] + half[:, None] * nodes
    own = -0.5 * ((z - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2.0 * math.pi)
    parts = [
        w - 0.5 * ((z - mu) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2.0 * math.pi)
        for w, mu, sd in zip(logs, mus, sds, strict=True)
    ]
    value = np.exp(own) * (own - np.logaddexp.reduce(parts, axis=0))
    return float(((value * weights).sum(axis=1) * half).sum())


HARD = {
    "the same": ([0.5, 0.5], [1.0, 1.0], [2.0, 2.0]),
    "1e-8 apart": ([0.3, 0.7], [0.0, 1e-8], [1.0, 1.0]),
    "1e6 apart": ([0.3, 0.7], [0.0, 1e6], [1.0, 1.0]),
    "weight 1e-300": ([1.0, 1e-300], [0.0, 3.0], [1.0, 1.0]),
    "weight 1e-300 far away": ([1.0, 1e-300], [0.0, 40.0], [1.0, 1.0]),
    "weight 1e-12": ([1.0 - 1e-12, 1e-12], [0.0, 9.0], [1.0, 0.01]),
    "weight zero": ([1.0, 0.0], [0.0, 3.0], [1.0, 1.0]),
    "variances 1 and 1e-12": ([0.5, 0.5], [0.0, 0.0], [1.0, 1e-12]),
    "a needle": ([1.0 - 1e-6, 1e-6], [0.0, 1.0], [1.0, 1e-8]),
    "far from the origin": ([0.3, 0.7], [1e8 - 3.0, 1e8 + 3.0], [1.0, 1.0]),
    "too far from the origin": ([0.3, 0.7], [1e14 - 3.0, 1e14 + 3.0], [1.0, 1.0]),
    "tiny": ([0.5, 0.5], [0.0, 2e-100], [1e-200, 4e-200]),
    "huge": ([0.5, 0.5], [0.0, 2e100], [1e200, 4e200]),
    "of two sizes": ([0.5, 0.5], [0.0, 1e8], [1.0, 1e16]),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dim", [1, 2])
def test_hard_input_on_the_line(name, dim):
    """The value is right or its error covers it; the plane adds an independent direction."""
    weights, means, variances = map(np.array, HARD[name])
    flat = fv.GaussianMixture(weights, means, variances)
    scale = math.sqrt(variances.min())
    if dim == 1:
        p = flat
    else:
        p = fv.GaussianMixture(
            weights,
            np.stack([means, np.zeros(2)], axis=1),
            [np.diag([v, scale * math.sqrt(variances.max())]) for v in variances],
        )
    result = fv.i_projection(p)
    for optimum in result.optima:
        q = optimum.q
        marginal = fv.Gaussian(q.mean[:1], q.cov[:1, :1])
        # The other direction is taken exactly; a correlation could only add.
        exact = line(marginal, flat)
        if not optimum.converged:
            assert optimum.status != "converged"
        allowed = 1e-14 * (1.0 + abs(exact)) + 4.4e-16 * np.abs(means).max() / scale
        assert abs(optimum.kl - exact) <= optimum.error + allowed, optimum
        if optimum.converged:
            assert optimum.error <= 1e-8 * optimum.kl + 1e-8
            assert math.isfinite(optimum.gradient_norm)
    converged = [o for o in result.optima if o.converged]
    if converged and result.converged:
        assert result.kl <= -math.log(weights.max()) + result.error


def test_an_optimum_that_was_reached_comes_before_numbers_of_no_worth():
    """An optimum whose error is infinite must not come before one that is known."""
    p = fv.GaussianMixture([0.5, 0.5], [0.0, 0.0], [1.0, 1e-12])
    result = fv.i_projection(p)
    assert any(optimum.converged for optimum in result.optima)
    assert math.isfinite(result.error)


@pytest.mark.parametrize("family", ["full", "diag"])
def test_condition_number_1e12(family):
    """The same as the mixture in coordinates in which every covariance is the identity or near it."""
    matrix = np.diag([1.0, 1e-6])
    p = random_mixture(2, 2, 3)
    p = fv.GaussianMixture(p.weights, p.means, [np.diag(np.diag(c)) for c in p.covs])
    before, after = fv.i_projection(p, family), fv.i_projection(moved(p, matrix, 0.0), family)
    assert len(before.optima) == len(after.optima)
    for one, two in zip(before.optima, after.optima, strict=True):
        assert two.converged
        assert abs(one.kl - two.kl) <= one.error + two.error + 1e-14
        assert apart(two.q, fv.Gaussian(matrix @ one.q.mean, matrix @ one.q.cov @ matrix)) < 1e-6


@pytest.mark.parametrize("angle", [0.5, 1.5])
def test_condition_number_1e12_in_general_position(angle):
    """The rounding of the covariance leaves four digits of its least axis, and no more."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = np.array([[c, -s], [s, c]])
    cov = rotation @ np.diag([1.0, 1e-12]) @ rotation.T
    p = fv.GaussianMixture([0.3, 0.7], [[0, 0], rotation @ [4.0, 0]], [0.5 * (cov + cov.T)] * 2)
    flat = fv.i_projection(fv.GaussianMixture([0.3, 0.7], [0.0, 4.0], [1.0, 1.0]))
    for optimum in fv.i_projection(p).optima:
        exact = under(optimum.q, p, 0.05)[0]
        assert abs(optimum.kl - exact) <= optimum.error + 1e-3
        assert not optimum.converged or min(abs(optimum.kl - o.kl) for o in flat.optima) < 1e-3


def near_the_crossing(q, p):
    """KL(q ‖ p) and its gradient for the mixture below, with nodes where both components matter."""
    log_parts = np.log(p.weights) + np.array([g.logpdf(q.mean) for g in p.components])
    main = int(np.argmax(log_parts))
    one, other = p.components[main], p.components[1 - main]
    constant = math.log(p.weights[1 - main] / p.weights[main])
    axis = 1e-6 * np.arange(-16.0, 16.0, 0.04)
    z = np.stack(np.meshgrid(1.0 + axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    ratios = np.logaddexp(0.0, constant + other.logpdf(z) - one.logpdf(z))
    # Without the second component log q - log p is a quadratic: five Gauss-Hermite nodes are exact.
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    few = q.mean + np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2) @ q.cholesky.T
    rest = q.logpdf(few) - math.log(p.weights[main]) - one.logpdf(few)
    terms = np.append(
        np.outer(weights, weights).ravel() / weights.sum() ** 2 * rest,
        -np.exp(q.logpdf(z)) * (axis[1] - axis[0]) ** 2 * ratios,
    )
    u, v = np.linalg.solve(q.cholesky, (np.concatenate([few, z]) - q.mean).T)
    return terms.sum(), np.array([terms @ u, terms @ v]), np.array([terms @ (u * u - 1), terms @ (v * v - 1)])


@families
def test_crossed_components_of_condition_number_1e12(family):
    """No lattice resolves both components, a contour does for one optimum: stated errors must hold."""
    p = fv.GaussianMixture([0.3, 0.7], [[0, 0], [1, 0]], [np.diag([1, 1e-12]), np.diag([1e-12, 1])])
    optima = fv.i_projection(p, family).optima
    assert optima[0].converged
    for optimum in optima:
        bounds = fv.kl_bounds(optimum.q, p)
        assert bounds.lower - optimum.error - 1e-9 <= optimum.kl <= bounds.upper + optimum.error + 1e-9
        value, location, spread = near_the_crossing(optimum.q, p)
        # Coordinates near 1 are rounded to 1e-16, 1e-10 of a width of 1e-6.
        assert abs(optimum.kl - value) <= optimum.error + 1e-10
        if optimum.converged:
            spread = [spread.sum()] if family == "isotropic" else spread
            assert optimum.error < 1e-8
            assert np.linalg.norm([*location, *spread]) < 1e-9
        else:
            assert optimum.error > 1e-9


def test_mixtures_in_more_dimensions():
    p = random_mixture(0, 4, 2)
    with says(ValueError, "3 dimensions", "p has 4"):
        fv.i_projection(p)
    assert fv.m_projection(p).converged


# Arguments and results


@pytest.mark.parametrize("project", [fv.m_projection, fv.i_projection])
def test_families(project):
    p, table = two_bumps(), np.full((2, 2), 0.25)
    for family in ("Full", "banana", None, 3, ["full"]):
        with says(
            ValueError, "family must be one of", "'full'", "'diag'", "'isotropic'", "'product'", repr(family)
        ):
            project(p, family)
        with says(ValueError, "family must be one of", "'product'", repr(family)):
            project(table, family)
    for q in (p, fv.Gaussian(0, 1), fv.Grid2D.from_distribution(p, shape=(9, 9))):
        with says(ValueError, "family='product'", "joint probability table"):
            project(q, "product")
    for family in FAMILIES:
        with says(ValueError, f"family={family!r}", "p", "distribution"):
            project(table, family)


@pytest.mark.parametrize("project", [fv.m_projection, fv.i_projection])
def test_neither_a_distribution_nor_a_table(project):
    with says(TypeError, "p is a str"):
        project("nothing", family="product")
    with says(TypeError, "p has dtype"):
        project([[0.5, 0.5j]], family="product")


@pytest.mark.parametrize("rtol", [0.0, -1e-8, 1.0, 1e-15, math.nan, math.inf])
def test_bad_tolerances(rtol):
    with says(ValueError, "rtol"):
        fv.i_projection(two_bumps(), rtol=rtol)


def test_a_tolerance_that_is_no_number():
    with says(TypeError, "rtol"):
        fv.i_projection(two_bumps(), rtol="fine")


def results():
    p, table = two_bumps(), np.array([[0.45, 0.05], [0.05, 0.45]])
    return {
        "M": fv.m_projection(p),
        "I": fv.i_projection(p),
        "M of a table": fv.m_projection(table, family="product"),
        "I of a table": fv.i_projection(table, family="product"),
    }


every_result = pytest.mark.parametrize("name", ["M", "I", "M of a table", "I of a table"])


@every_result
def test_results_do_not_change(name):
    result = results()[name]
    before = repr(result)
    for attribute in (
        "q",
        "kl",
        "error",
        "converged",
        "status",
        "gradient_norm",
        "evaluations",
        "optima",
        "new",
    ):
        with pytest.raises(AttributeError):
            setattr(result, attribute, 0)
    arrays = result.q if isinstance(result.q, tuple) else (result.q.mean, result.q.cov, result.q.cholesky)
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    assert repr(result) == before


@every_result
def test_attributes_cannot_be_deleted(name):
    result = results()[name]
    for attribute in ("q", "converged", "status"):
        with pytest.raises(AttributeError):
            delattr(result, attribute)
    assert repr(result) == repr(results()[name])


@every_result
def test_what_a_result_holds(name):
    result = results()[name]
    assert isinstance(result, fv.Projection)
    assert isinstance(result.optima, tuple)
    assert result.optima[0] is result
    assert len(result.optima) == (2 if name.startswith("I") else 1)
    for optimum in result.optima:
        assert isinstance(optimum, fv.Projection)
        assert type(optimum.kl) is type(optimum.error) is float
        assert type(optimum.converged) is bool
        assert type(optimum.evaluations) is int
        assert isinstance(optimum.status, str)
        assert isinstance(optimum.estimate, fv.Estimate)
        assert optimum.estimate.value == optimum.kl


@every_result
def test_results_can_be_sent_to_another_process(name):
    result = results()[name]
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert repr(other) == repr(result)
        assert [optimum.kl for optimum in other.optima] == [optimum.kl for optimum in result.optima]


def test_repr():
    found = results()
    assert repr(found["M"]) == (
        "Projection(q=Gaussian(mean=[1.2, 0], cov=[[8.56, 0], [0, 1]]), kl=0.466189, converged)"
    )
    assert re.fullmatch(
        r"Projection\(q=Gaussian\(mean=\[2\.99054, .*\], cov=.*\), kl=0\.354034, converged, 1 more optima\)",
        repr(found["I"]),
    )
    assert repr(found["M of a table"]).startswith("Projection(q=2 marginals, kl=0.368064, converged")
    assert "Projection(" in repr(found["I of a table"].optima[1])

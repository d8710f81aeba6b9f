"""Moments on lattices, by nodes and by rows; the divergences of mixtures that they give; what is left out."""

import itertools
import math

import numpy as np
import pytest
from numba import njit

import fastvi as fv
from fastvi.kernels.borrowing import named
from fastvi.kernels.densities import mixtures
from fastvi.kernels.numerics import matrices
from fastvi.kernels.quadrature import lattice as lattice_
from fastvi.kernels.quadrature import lattice_rows, mixture_kl, refinement
from fastvi.kernels.quadrature import moments as moments_
from fastvi.kernels.quadrature import rotation as rotation_
from helpers.forms import both, machine_code
from helpers.lattices import embed, enumerated, in_frame, powers
from helpers.memory import assert_no_allocation, spoiled
from helpers.mixtures import arrays, frozen, log_mixture, log_normal, random_factor, random_mixture

dims = pytest.mark.parametrize("dim", [1, 2, 3])


reverse_kl = machine_code("kernels.quadrature.mixture_kl.reverse_kl")
divergence = machine_code("kernels.quadrature.mixture_kl.mixture_kl")


@njit
def use_reverse(n, log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space):
    result = math.nan, math.nan
    for _ in range(n):
        result = reverse_kl((log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space))
    return result


@dims
@pytest.mark.parametrize("seed", range(3))
def test_reverse_divergence_and_its_gradient(dim, seed):
    p = random_mixture(seed, dim, 2 + seed)
    rng = np.random.default_rng(seed)
    mean, chol = rng.standard_normal(dim), random_factor(rng, dim)
    grad_mean, grad_chol = np.empty(dim), np.full((dim, dim), math.nan)
    space = spoiled(mixture_kl.Workspace, mixture_kl.workspace(2 + seed, 2 + seed, dim))
    value, error = use_reverse(1, *frozen(*arrays(p), mean, chol), 1e-10, grad_mean, grad_chol, space)

    def at(m, f):
        return fv.kl_estimate(fv.Gaussian(m, f @ f.T), p, rtol=1e-12)

    exact = at(mean, chol)
    assert abs(value - exact.value) <= error + exact.error
    assert error <= 2e-10 * value
    step = 1e-4
    for a in range(dim):
        change = step * np.eye(dim)[a]
        by_differences = (at(mean + change, chol).value - at(mean - change, chol).value) / (2.0 * step)
        assert grad_mean[a] == pytest.approx(by_differences, abs=1e-6)
        for b in range(a + 1):
            change = np.zeros((dim, dim))
            change[a, b] = step
            by_differences = (at(mean, chol + change).value - at(mean, chol - change).value) / (2.0 * step)
            assert grad_chol[a, b] == pytest.approx(by_differences, abs=1e-6)
    assert np.array_equal(grad_chol, np.tril(grad_chol))


@njit
def use_divergence(n, p, q, rtol, space):
    result = math.nan, math.nan, 0, False
    for _ in range(n):
        result = divergence((p, q, rtol, space))
    return result


@dims
def test_divergence_of_mixtures(dim):
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    space = spoiled(mixture_kl.Workspace, mixture_kl.workspace(3, 2, dim))
    value, error, nodes, resolved = use_divergence(
        1, tuple(frozen(*arrays(p))), tuple(frozen(*arrays(q))), 1e-9, space
    )
    expected = fv.kl_estimate(p, q, rtol=1e-12)
    assert resolved
    assert nodes > 0
    assert abs(value - expected.value) <= error + expected.error
    assert error <= 2e-9 * value


@both
@dims
def test_moments(form, dim):
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    steps, shift, radius = np.array([0.6, 0.7, 0.8]), np.zeros(3), 5.0
    shift[dim - 1] = 0.5
    constant = -np.log(np.diag(factor)).sum() - 0.5 * dim * math.log(2.0 * math.pi)
    moments, coefficients = np.empty(moments_.MOMENTS), in_frame(p, mean, factor)
    space = named(moments_.Workspace, moments_.workspace(3))
    count = form(moments_.integrate_nodes)(coefficients, constant, dim, steps, shift, radius, space, moments)
    points, weights = enumerated(steps, shift, radius, dim, lambda f: f)
    assert count == len(points)
    z = embed(points, mean, factor)
    weights = weights * lattice_.cell(steps, dim)
    terms = weights * (log_normal(z, mean, factor) - log_mixture(z, *arrays(p)))
    wanted = np.zeros(moments_.MOMENTS)
    for (a, b, c), power in powers(points).items():
        wanted[a + 5 * b + 25 * c] = terms @ power
    np.testing.assert_allclose(moments, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
    value, count = form(moments_.integrate_value)(
        in_frame(q, mean, factor), coefficients, dim, steps, shift, radius, space
    )
    assert count == len(points)
    difference = log_mixture(z, *arrays(q)) - log_mixture(z, *arrays(p))
    assert value == pytest.approx(weights @ difference, rel=1e-13)
    value, _ = form(moments_.integrate_value)(
        coefficients, coefficients[:0], dim, steps, shift, radius, space
    )
    assert value == pytest.approx(weights @ log_mixture(z, *arrays(p)), rel=1e-13)


def wide_lattice(dim):
    """A shifted lattice on which sums of polynomials are exact."""
    return np.array([0.35, 0.6, 0.7]), 0.5 * np.eye(3)[dim - 1], 9.5


@both
@dims
@pytest.mark.parametrize("components", [1, 2, 4])
def test_moments_by_rows(form, dim, components):
    p = random_mixture(1, dim, components)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    coefficients, (steps, shift, radius) = in_frame(p, mean, factor), wide_lattice(dim)
    space = named(moments_.Workspace, moments_.workspace(components))
    assert (
        form(lattice_rows.usable_ratios)(coefficients, steps, radius, space.by_rows.polynomials) == components
    )
    moments, wanted = np.empty((2, moments_.MOMENTS))
    count = form(moments_.integrate_moments)(coefficients, 0.7, dim, steps, shift, radius, space, moments)
    nodes = moments_.integrate_nodes(coefficients, 0.7, dim, steps, shift, radius, space, wanted)
    # One Gaussian has closed forms and needs no node; rows are padded to sixteen nodes.
    assert count < 2 * nodes if components > 1 else count == 0
    np.testing.assert_allclose(moments, wanted, rtol=1e-13, atol=1e-14 * np.abs(wanted).max())


@dims
@pytest.mark.parametrize("size", [1.0, 4.0, 16.0, 64.0])
def test_moments_by_rows_of_what_is_sharp_or_far(dim, size):
    """By rows and by nodes the moments agree to rounding, and nothing overflows."""
    rng = np.random.default_rng(int(size))
    ways = set()
    space = named(moments_.Workspace, moments_.workspace(3))
    steps, shift, radius = wide_lattice(dim)
    for _ in range(30):
        coefficients = np.zeros((3, 13))
        coefficients[:, 0] = 3.0 * rng.standard_normal(3) - np.array([0.0, 0.0, 14.0])
        coefficients[:, 1 : 1 + dim] = rng.standard_normal((3, dim)) * size ** rng.uniform(0, 1, (3, 1))
        for k in range(3):
            matrix = 0.5 * rng.standard_normal((dim, dim)) * size ** rng.uniform(-1, 1)
            coefficients[k, 4:].reshape(3, 3)[:dim, :dim] = matrix
        ways.add(lattice_rows.usable_ratios(coefficients, steps, radius, space.by_rows.polynomials) > 0)
        moments, wanted = np.empty((2, moments_.MOMENTS))
        moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, space, moments)
        moments_.integrate_nodes(coefficients, 0.7, dim, steps, shift, radius, space, wanted)
        np.testing.assert_allclose(moments, wanted, rtol=1e-11, atol=1e-12 * np.abs(wanted).max())
    assert True in ways
    assert size == 1.0 or False in ways


@dims
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_what_rows_and_ball_leave_out_is_less_than_they_say(dim, spread):
    """The bound is above what is left out, and in a small ball within a factor of 100 of it."""
    space, seen, count, nodes = named(moments_.Workspace, moments_.workspace(3)), 0.0, 0, 0
    _, shift, large = wide_lattice(dim)
    steps = np.array([0.1, 0.6, 0.7])
    few, all_ = np.empty((2, moments_.MOMENTS))
    for seed in range(20):
        p = random_mixture(seed, dim, 3, spread)
        # One component is wide and light, and every other q is wider than its own.
        weights, scale = [0.6, 0.4 - 1e-6, 1e-6], np.array([1.0, 1.0, 1.0 + 99.0 * (seed % 3 == 0)])
        p = fv.GaussianMixture(weights, p.means, scale[:, None, None] * p.covs)
        coefficients = in_frame(p, p.means[0], (1.0 + 0.3 * (seed % 2)) * p.components[0].cholesky)
        if lattice_rows.usable_ratios(coefficients, steps, large, space.by_rows.polynomials) == 0:
            continue
        moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, large, space, all_)
        for radius in (3.0, 4.5):
            count += moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, space, few)
            nodes += lattice_.size(steps, radius, dim)
            outside = refinement.tail(coefficients[:0], coefficients, dim, radius)
            bound = outside + lattice_rows.left_out(3, dim, radius)
            # The terms left out of log p are positive.
            assert -1e-13 <= few[0] - all_[0] <= bound
            seen = max(seen, (few[0] - all_[0]) / bound)
    assert seen > 1e-2
    assert spread < 1.0 or count < 0.9 * nodes


@dims
def test_the_tail_holds_for_what_the_rows_sum(dim):
    """log p of a wide component varies little there; log p - log f_m for a narrow f_m does not."""
    coefficients = np.zeros((2, 13))
    coefficients[:, 0] = -1.0, -2.0
    coefficients[0, 4:].reshape(3, 3)[:dim, :dim] = 1.35 * np.eye(dim)
    coefficients[1, 4:].reshape(3, 3)[:dim, :dim] = 0.1 * np.eye(dim)
    space, (_, shift, large) = named(moments_.Workspace, moments_.workspace(3)), wide_lattice(dim)
    few, all_ = np.empty((2, moments_.MOMENTS))
    steps, radius = np.full(3, 0.3), 4.5
    assert lattice_rows.usable_ratios(coefficients, steps, large, space.by_rows.polynomials) == 2
    moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, large, space, all_)
    moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, space, few)
    assert 0.0 < few[0] - all_[0] <= refinement.tail(coefficients[:0], coefficients, dim, radius)


@both
@dims
@pytest.mark.parametrize("seed", range(4))
def test_eigenvectors(form, dim, seed):
    rng = np.random.default_rng(seed)
    spectrum = 10.0 ** rng.uniform(-6, 6, dim) if seed else np.ones(dim)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    symmetric = (rotation * spectrum) @ rotation.T
    symmetric = 0.5 * (symmetric + symmetric.T)
    matrix, vectors = symmetric.copy(), np.empty((dim, dim))
    form(matrices.diagonalise)(matrix, vectors, dim, rotation_.OFF_DIAGONAL, rotation_.SWEEPS, True)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(dim), rtol=0, atol=1e-14)
    rotated = vectors.T @ symmetric @ vectors
    np.testing.assert_allclose(rotated - np.diag(np.diag(rotated)), 0.0, rtol=0, atol=3e-9 * spectrum.max())
    np.testing.assert_allclose(np.diag(matrix), np.diag(rotated), rtol=0, atol=1e-13 * spectrum.max())
    np.testing.assert_allclose(
        np.sort(np.diag(rotated)), np.sort(spectrum), rtol=0, atol=1e-13 * spectrum.max()
    )


@both
def test_what_is_left_out_is_bounded(form):
    """E log(1 + rest / kept) under a standard normal number is at most the bound."""
    seen = 0
    for log_weight, mean, sd in itertools.product((-20.0, -33.0, -60.0), (0.0, 3.0, 9.0), (1e-3, 0.1, 0.4)):
        means = np.array([[0.0], [mean]])
        given = np.array([0.0, log_weight]), means, np.array([[[1.2]], [[sd]]])
        coefficients = np.zeros((2, 13))
        mixtures.write_coefficients(
            mixtures.Mixture(*given), np.zeros(1), np.eye(1), coefficients, np.empty(3)
        )
        before = coefficients.copy()
        bound = form(refinement.drop_negligible)(
            coefficients, 1, named(moments_.Workspace, moments_.workspace(2))
        )
        dropped = coefficients[:, 0] == mixtures.DROPPED
        assert not dropped[0]
        if not dropped[1]:
            assert bound == 0.0
            assert np.array_equal(coefficients, before)
            continue
        seen += 1
        nodes = np.unique(np.concatenate([np.linspace(-9, 9, 4001), mean + sd * np.linspace(-9, 9, 4001)]))
        ratio = log_weight + log_normal(nodes[:, None], means[1], given[2][1])
        ratio -= log_normal(nodes[:, None], means[0], given[2][0])
        density = np.exp(-0.5 * nodes**2) / math.sqrt(2.0 * math.pi)
        change = np.trapezoid(density * np.logaddexp(0.0, ratio), nodes)
        assert 0.0 < change <= bound <= refinement.NEGLIGIBLE
        assert np.array_equal(coefficients[:, 1:], before[:, 1:])
    assert 3 < seen < 27


@both
@dims
def test_rotating_changes_no_density(form, dim):
    """The frame and the coefficients of both mixtures rotate together."""
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    before = factor.copy()
    first, second = in_frame(p, mean, factor), in_frame(q, mean, factor)
    space = named(moments_.Workspace, moments_.workspace(3))
    form(rotation_.rotate)(first, second, dim, factor, space)
    np.testing.assert_allclose(factor @ factor.T, before @ before.T, rtol=1e-13, atol=1e-14)
    for mixture, coefficients in ((p, first), (q, second)):
        np.testing.assert_allclose(coefficients, in_frame(mixture, mean, factor), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [f"{kind} {dim}" for kind in ("reverse", "divergence") for dim in (1, 2, 3)])
def test_nothing_is_allocated(counted, name):
    kind, dim = name.split()
    dim = int(dim)
    rng = np.random.default_rng(0)
    p, space = frozen(*arrays(random_mixture(1, dim, 3))), mixture_kl.workspace(3, 3, dim)
    # In more dimensions a round takes longer, and the code is the same.
    rounds = 100_000 if dim == 1 else 30
    if kind == "reverse":
        q = frozen(rng.standard_normal(dim), random_factor(rng, dim))
        gradient = np.empty(dim), np.empty((dim, dim))
        assert_no_allocation(use_reverse, (*p, *q, 1e-6, *gradient, space), rounds)
    else:
        assert_no_allocation(use_divergence, (tuple(p), tuple(p), 1e-6, space), rounds)

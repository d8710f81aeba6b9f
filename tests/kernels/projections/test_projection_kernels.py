"""The kernels of projections: in users' compiled code, without allocation, and each against slow versions."""

import json
import math

import numpy as np
import pytest
from numba import njit

import fastvi as fv
from fastvi.kernels.densities import gaussians, grids, mixtures
from fastvi.kernels.projections import grid_projections, mixture_projections, optimum
from helpers.forms import machine_code
from helpers.memory import assert_no_allocation, spoiled, used
from helpers.mixtures import arrays, frozen, log_normal, random_factor, random_mixture
from helpers.programs import run_program

dims = pytest.mark.parametrize("dim", [1, 2, 3])


@njit
def use_grid(n, x, y, a, b, log_p, mean, chol, grad_mean, grad_chol, space):
    result = math.nan, math.nan
    for _ in range(n):
        result = grid_projections.grid_reverse_kl(x, y, a, b, log_p, mean, chol, grad_mean, grad_chol, space)
    return result


def grid_of(p, shape):
    grid = fv.Grid2D.from_distribution(p, shape=shape).normalized()
    weights = [np.convolve(np.diff(axis), [0.5, 0.5]) for axis in (grid.x, grid.y)]
    return grid.x, grid.y, *weights, grid.logp


@pytest.mark.parametrize("shape", [(41, 31), (101, 121)])
@pytest.mark.parametrize("seed", range(3))
def test_reverse_divergence_from_a_grid(shape, seed):
    x, y, a, b, log_p = given = grid_of(random_mixture(seed, 2, 3), shape)
    rng = np.random.default_rng(seed)
    mean, chol = rng.standard_normal(2), random_factor(rng, 2)
    grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
    space = grid_projections.workspace()

    def at(m, f):
        return use_grid(1, *frozen(*given, m, f), np.empty(2), np.empty((2, 2)), space)[0]

    value, mass = use_grid(1, *frozen(*given, mean, chol), grad_mean, grad_chol, space)
    points = np.stack(np.broadcast_arrays(x[:, None], y[None, :]), axis=-1).reshape(-1, 2)
    log_q = log_normal(points, mean, chol).reshape(log_p.shape)
    cells = np.multiply.outer(a, b)
    q = cells * np.exp(log_q)
    assert mass == pytest.approx(q.sum(), rel=1e-13)
    exact = (q * (log_q - log_p)).sum() - q.sum() + (cells * np.exp(log_p)).sum()
    assert value == pytest.approx(exact, rel=1e-12)
    step = 1e-5
    for i in range(2):
        change = step * np.eye(2)[i]
        by_differences = (at(mean + change, chol) - at(mean - change, chol)) / (2.0 * step)
        assert grad_mean[i] == pytest.approx(by_differences, abs=1e-6)
        for j in range(i + 1):
            change = np.zeros((2, 2))
            change[i, j] = step
            by_differences = (at(mean, chol + change) - at(mean, chol - change)) / (2.0 * step)
            assert grad_chol[i, j] == pytest.approx(by_differences, abs=1e-6)
    assert grad_chol[0, 1] == 0.0


@pytest.mark.parametrize("tilt", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("even", [True, False])
def test_divergence_from_a_wide_grid(even, tilt):
    """Rows longer than a block, and uneven steps between rows."""
    rng = np.random.default_rng(4)
    x, y = np.linspace(-7.0, 6.0, 45), np.linspace(-90.0, 95.0, 1300)
    if not even:
        x = np.sort(rng.uniform(-7.0, 6.0, 45))
    a, b = np.empty(45), np.empty(1300)
    grids.trapezoid(x, a)
    grids.trapezoid(y, b)
    log_p = -0.5 * (x[:, None] ** 2 + (y / 10.0) ** 2) + rng.uniform(-1.0, 1.0, (45, 1300))
    cells = np.multiply.outer(a, b)
    log_p -= np.log((cells * np.exp(log_p)).sum())
    mean, chol = np.array([0.3, -2.0]), np.array([[1.1, 0.0], [tilt, 8.0]])
    points = np.stack(np.broadcast_arrays(x[:, None], y[None, :]), axis=-1).reshape(-1, 2)
    log_q = log_normal(points, mean, chol).reshape(log_p.shape)
    q = cells * np.exp(log_q)
    out = np.empty(2), np.empty((2, 2))
    value, mass = use_grid(1, *frozen(x, y, a, b, log_p, mean, chol), *out, grid_projections.workspace())
    assert mass == pytest.approx(q.sum(), rel=1e-13)
    assert value == pytest.approx((q * (log_q - log_p)).sum() - q.sum() + 1.0, rel=1e-12)


@njit
def use_m(log_weights, means, chols, family, mean, chol):
    return mixture_projections.m_projection(log_weights, means, chols, family, mean, chol)


FAMILIES = ("full", "diag", "isotropic")
families = pytest.mark.parametrize("family", range(3), ids=FAMILIES)


@families
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_moment_match(family, dim):
    p = random_mixture(1, dim, 3)
    mean, chol = np.empty(dim), np.full((dim, dim), math.nan)
    assert use_m(*frozen(*arrays(p)), family, mean, chol)
    expected = fv.m_projection(p, FAMILIES[family]).q
    np.testing.assert_allclose(mean, expected.mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(chol, expected.cholesky, rtol=1e-13, atol=1e-14)


i_projection = machine_code("kernels.projections.mixture_projections.i_projection")


@njit
def use_i(n, log_weights, means, chols, family, start_mean, start_chol, mean, chol, rtol, space, report):
    status = -1
    for _ in range(n):
        mean[:] = start_mean
        chol[:] = start_chol
        status = i_projection((log_weights, means, chols, family, mean, chol, rtol, space, report))
    return status


@families
@dims
def test_one_optimum_from_each_start(family, dim):
    """One workspace for all calls, the arrays read-only: the numbers of the API, to the last bit."""
    space = optimum.workspace(3, dim)
    for seed in range(2):
        p = random_mixture(seed, dim, 3)
        triple = frozen(*p._triple())
        for start in p.components:
            mean, chol, report = np.empty(dim), np.empty((dim, dim)), np.empty(5)
            given = frozen(start.mean, start.cholesky)
            status = use_i(1, *triple, family, *given, mean, chol, 1e-8, space, report)
            expected = fv.i_projection(p, FAMILIES[family], starts=[start])
            assert status == report[4] == 0
            assert expected.converged
            assert np.array_equal(mean, expected.q.mean)
            assert np.array_equal(chol, expected.q.cholesky)
            assert (report[0], report[2]) == (expected.kl, expected.gradient_norm)
            # The API adds what the rounding of p's factors may do.
            assert report[1] < expected.error < report[1] + 1e-12
            assert report[3] == expected.evaluations


@dims
def test_a_workspace_keeps_nothing(dim):
    """Full of NaN, bigger than needed, or used for another mixture in between: the same bits."""
    p, other = random_mixture(1, dim, 3), random_mixture(2, dim, 4)

    def run(space, q):
        mean, chol, report = np.empty(dim), np.empty((dim, dim)), np.empty(5)
        given = frozen(q.means[0], np.linalg.cholesky(q.covs[0]))
        use_i(1, *frozen(*arrays(q)), 0, *given, mean, chol, 1e-8, space, report)
        return np.concatenate([mean, chol.ravel(), report])

    fresh, shared = run(spoiled(optimum.Workspace, optimum.workspace(3, dim)), p), optimum.workspace(4, dim)
    run(shared, other)
    assert np.array_equal(run(shared, p), fresh)
    assert np.isfinite(fresh).all()


# The functions above must not allocate in a loop of compiled code. The arrays are read-only like those above:
# for arrays of another type everything would be compiled again.


@njit
def use_small(n, z, mean, chol, log_weights, means, chols, space, out_mean, out_chol):
    total = 0.0
    for _ in range(n):
        total += gaussians.gaussian_kl(mean, chol, z, chol, space)
        total += gaussians.gaussian_logpdf(z, mean, chol, space)
        total += mixtures.mixture_logpdf(z, log_weights, means, chols, space)
        mixture_projections.m_projection(log_weights, means, chols, 0, out_mean, out_chol)
        total += out_chol[0, 0]
    return total


@njit
def repeat_empty(n):
    total = 0.0
    for i in range(n):
        total += np.ones(i + 1)[i]
    return total


def cases():
    rng = np.random.default_rng(0)
    result = {}
    for dim in (1, 2, 3):
        p = frozen(*arrays(random_mixture(1, dim, 3)))
        q = frozen(rng.standard_normal(dim), random_factor(rng, dim))
        out = np.empty(dim), np.empty((dim, dim))
        result[f"small {dim}"] = use_small, (*frozen(np.zeros(dim)), *q, *p, np.empty(2 * dim), *out)
        for family in range(3):
            result[f"projection {dim} {FAMILIES[family]}"] = (
                use_i,
                (*p, family, *q, *out, 1e-8, optimum.workspace(3, dim), np.empty(5)),
            )
    grid = frozen(*grid_of(random_mixture(1, 2, 3), (31, 41)), np.zeros(2), np.eye(2))
    result["grid"] = use_grid, (*grid, np.empty(2), np.empty((2, 2)), grid_projections.workspace())
    return result


CASES = [f"small {dim}" for dim in (1, 2, 3)] + ["grid"]
CASES += [f"projection {dim} {family}" for dim in (1, 2, 3) for family in FAMILIES]
CHEAP = ("small 1", "small 2", "projection 1 full", "grid")


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_allocated(counted, name):
    function, arguments = cases()[name]
    # In more dimensions a round takes longer, and the code is the same.
    assert_no_allocation(function, arguments, 100_000 if name in CHEAP else 30)


def test_allocations_are_counted(counted):
    used(repeat_empty, 1)
    assert used(repeat_empty, 30).allocations - used(repeat_empty, 1).allocations == 29


def test_prange():
    assert "the same bits" in run_program("parallel_projections", NUMBA_NUM_THREADS=2)


def test_without_the_compiler():
    results = [json.loads(run_program("projection_kernels", NUMBA_DISABLE_JIT=k)) for k in (0, 1)]
    compiled, uncompiled = results
    assert compiled.keys() == uncompiled.keys()
    for name, value in compiled.items():
        np.testing.assert_allclose(uncompiled[name], value, rtol=1e-9, atol=1e-9, err_msg=name)

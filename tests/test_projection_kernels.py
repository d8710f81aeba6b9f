"""The kernels of projections: in users' compiled code, without allocation, and each against slow versions."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory import used
from mpmath import mp, mpf
from numba import njit

import fastvi as fv
from fastvi.kernels.borrowing import named
from fastvi.kernels.densities import gaussians, grids, mixtures
from fastvi.kernels.numerics import elementary, matrices
from fastvi.kernels.optimizers import newton
from fastvi.kernels.projections import grid_projections, mixture_projections, optimum
from fastvi.kernels.quadrature import lattice as lattice_
from fastvi.kernels.quadrature import lattice_rows, mixture_kl, refinement
from fastvi.kernels.quadrature import moments as moments_
from fastvi.kernels.quadrature import rotation as rotation_

dims = pytest.mark.parametrize("dim", [1, 2, 3])


def plain(function):
    return getattr(function, "py_func", function)


both = pytest.mark.parametrize("form", [lambda f: f, plain], ids=["compiled", "plain"])


def random_cov(rng, dim, condition=10.0):
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    cov = (rotation * condition ** rng.uniform(-0.5, 0.5, dim)) @ rotation.T
    return 0.5 * (cov + cov.T)


def random_mixture(seed, dim, components, spread=2.0):
    rng = np.random.default_rng([seed, dim, components])
    return fv.GaussianMixture(
        rng.dirichlet(np.full(components, 2.0)),
        spread * rng.standard_normal((components, dim)),
        [random_cov(rng, dim) for _ in range(components)],
    )


def arrays(p):
    """Log weights, means and factors, as a user would make them."""
    with np.errstate(divide="ignore"):
        return np.log(p.weights), np.array(p.means), np.linalg.cholesky(p.covs)


def random_factor(rng, dim):
    return np.linalg.cholesky(random_cov(rng, dim))


def frozen(*given):
    copies = [np.array(a) for a in given]
    for a in copies:
        a.flags.writeable = False
    return copies


def log_normal(z, mean, factor):
    white = np.linalg.solve(factor, (z - mean).T)
    constant = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * math.log(2.0 * math.pi)
    return -0.5 * (white**2).sum(axis=0) - constant


def log_mixture(z, log_weights, means, factors):
    parts = [w + log_normal(z, m, f) for w, m, f in zip(log_weights, means, factors, strict=True)]
    return np.logaddexp.reduce(parts, axis=0)


# Inside the user's own compiled code


@njit
def use_gaussians(z, mean_p, chol_p, mean_q, chol_q, work):
    return gaussians.gaussian_kl(mean_p, chol_p, mean_q, chol_q, work), gaussians.gaussian_logpdf(
        z, mean_p, chol_p, work
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_gaussians(dim):
    rng = np.random.default_rng(dim)
    z, mean_p, mean_q = rng.standard_normal((3, dim))
    chol_p, chol_q = random_factor(rng, dim), random_factor(rng, dim)
    value, density = use_gaussians(*frozen(z, mean_p, chol_p, mean_q, chol_q), np.empty(2 * dim))
    inverse = np.linalg.inv(chol_q @ chol_q.T)
    d = mean_p - mean_q
    exact = 0.5 * (
        np.trace(inverse @ chol_p @ chol_p.T)
        + d @ inverse @ d
        - dim
        + 2.0 * np.log(np.diag(chol_q) / np.diag(chol_p)).sum()
    )
    assert value == pytest.approx(exact, rel=1e-12)
    assert density == pytest.approx(log_normal(z[None], mean_p, chol_p)[0], rel=1e-13)


@njit
def use_mixture(points, log_weights, means, chols, work, out):
    for i in range(len(points)):
        out[i] = mixtures.mixture_logpdf(points[i], log_weights, means, chols, work)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_mixture_density(dim):
    p = random_mixture(1, dim, 3)
    triple = arrays(p)
    points = 3.0 * np.random.default_rng(0).standard_normal((40, dim))
    out = np.empty(40)
    use_mixture(points, *frozen(*triple), np.empty(dim), out)
    np.testing.assert_allclose(out, log_mixture(points, *triple), rtol=1e-13)
    np.testing.assert_allclose(out, p.logpdf(points), rtol=1e-13)


@njit
def use_reverse(n, log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space):
    result = math.nan, math.nan
    for _ in range(n):
        result = mixture_kl.reverse_kl(
            log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space
        )
    return result


@dims
@pytest.mark.parametrize("seed", range(3))
def test_reverse_divergence_and_its_gradient(dim, seed):
    p = random_mixture(seed, dim, 2 + seed)
    rng = np.random.default_rng(seed)
    mean, chol = rng.standard_normal(dim), random_factor(rng, dim)
    grad_mean, grad_chol = np.empty(dim), np.full((dim, dim), math.nan)
    space = mixture_kl.workspace(2 + seed, 2 + seed, dim)
    value, error = use_reverse(1, *frozen(*arrays(p), mean, chol), 1e-10, grad_mean, grad_chol, space)

    def at(m, f):
        return fv.kl_estimate(fv.Gaussian(m, f @ f.T), p, rtol=1e-12)

    exact = at(mean, chol)
    assert abs(value - exact.value) <= error + exact.error
    assert error <= 2e-10 * value
    step = 1e-4
    for a in range(dim):
        change = step * np.eye(dim)[a]
        slope = (at(mean + change, chol).value - at(mean - change, chol).value) / (2.0 * step)
        assert grad_mean[a] == pytest.approx(slope, abs=1e-6)
        for b in range(a + 1):
            change = np.zeros((dim, dim))
            change[a, b] = step
            slope = (at(mean, chol + change).value - at(mean, chol - change).value) / (2.0 * step)
            assert grad_chol[a, b] == pytest.approx(slope, abs=1e-6)
    assert np.array_equal(grad_chol, np.tril(grad_chol))


@njit
def use_divergence(n, p, q, rtol, space):
    result = math.nan, math.nan, 0, False
    for _ in range(n):
        result = mixture_kl.mixture_kl(p, q, rtol, space)
    return result


@dims
def test_divergence_of_mixtures(dim):
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    space = mixture_kl.workspace(3, 2, dim)
    value, error, nodes, resolved = use_divergence(
        1, tuple(frozen(*arrays(p))), tuple(frozen(*arrays(q))), 1e-9, space
    )
    expected = fv.kl_estimate(p, q, rtol=1e-12)
    assert resolved
    assert nodes > 0
    assert abs(value - expected.value) <= error + expected.error
    assert error <= 2e-9 * value


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
        slope = (at(mean + change, chol) - at(mean - change, chol)) / (2.0 * step)
        assert grad_mean[i] == pytest.approx(slope, abs=1e-6)
        for j in range(i + 1):
            change = np.zeros((2, 2))
            change[i, j] = step
            slope = (at(mean, chol + change) - at(mean, chol - change)) / (2.0 * step)
            assert grad_chol[i, j] == pytest.approx(slope, abs=1e-6)
    assert grad_chol[0, 1] == 0.0


@pytest.mark.parametrize("tilt", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("even", [True, False])
def test_divergence_from_a_wide_grid(even, tilt):
    """Rows longer than are done at a time, and rows of which no two are alike."""
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


@njit
def use_i(n, log_weights, means, chols, family, start_mean, start_chol, mean, chol, rtol, space, report):
    status = -1
    for _ in range(n):
        mean[:] = start_mean
        chol[:] = start_chol
        status = mixture_projections.i_projection(
            log_weights, means, chols, family, mean, chol, rtol, space, report
        )
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


def test_a_workspace_keeps_nothing():
    """Bigger than needed, or used for another mixture in between: the same bits."""
    p, other = random_mixture(1, 2, 2), random_mixture(2, 2, 4)

    def run(space, q):
        mean, chol, report = np.empty(2), np.empty((2, 2)), np.empty(5)
        given = frozen(q.means[0], np.linalg.cholesky(q.covs[0]))
        use_i(1, *frozen(*arrays(q)), 0, *given, mean, chol, 1e-8, space, report)
        return np.concatenate([mean, chol.ravel(), report])

    fresh, shared = run(optimum.workspace(2, 2), p), optimum.workspace(4, 2)
    run(shared, other)
    assert np.array_equal(run(shared, p), fresh)
    assert np.isfinite(fresh).all()


# What must not allocate: the functions above, called once or often in a loop of compiled code. The
# arrays are read-only like the ones above, because another type would be compiled again, which takes longest.


@njit
def use_small(n, z, mean, chol, log_weights, means, chols, work, out_mean, out_chol):
    total = 0.0
    for _ in range(n):
        total += gaussians.gaussian_kl(mean, chol, z, chol, work)
        total += gaussians.gaussian_logpdf(z, mean, chol, work)
        total += mixtures.mixture_logpdf(z, log_weights, means, chols, work)
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
        space = mixture_kl.workspace(3, 3, dim)
        result[f"small {dim}"] = use_small, (*frozen(np.zeros(dim)), *q, *p, np.empty(2 * dim), *out)
        result[f"reverse {dim}"] = use_reverse, (*p, *q, 1e-6, *out, space)
        result[f"divergence {dim}"] = use_divergence, (tuple(p), tuple(p), 1e-6, space)
        for family in range(3):
            result[f"projection {dim} {FAMILIES[family]}"] = (
                use_i,
                (*p, family, *q, *out, 1e-8, optimum.workspace(3, dim), np.empty(5)),
            )
    grid = frozen(*grid_of(random_mixture(1, 2, 3), (31, 41)), np.zeros(2), np.eye(2))
    result["grid"] = use_grid, (*grid, np.empty(2), np.empty((2, 2)), grid_projections.workspace())
    return result


CASES = [f"{kind} {dim}" for kind in ("small", "reverse", "divergence") for dim in (1, 2, 3)]
CASES += [f"projection {dim} {family}" for dim in (1, 2, 3) for family in FAMILIES] + ["grid"]


CHEAP = ("small 1", "small 2", "reverse 1", "divergence 1", "projection 1 full", "grid")


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_allocated(counted, name):
    function, arguments = cases()[name]
    used(function, 1, *arguments)
    once = used(function, 1, *arguments)
    # In more dimensions a round takes long, and the code is the same.
    often = 100_000 if name in CHEAP else 30
    many = used(function, often, *arguments)
    assert many[:3] == once[:3]
    assert many.grown < 1_000_000


def test_allocations_are_counted(counted):
    used(repeat_empty, 1)
    assert used(repeat_empty, 30).allocations - used(repeat_empty, 1).allocations == 29


# In other processes: threads that a fork does not survive, and numba switched off

PARALLEL = """
import json, sys
import numba
import numpy as np
from numba import njit, prange
import fastvi as fv
from fastvi.kernels import gaussians, projections

COMPONENTS, DIM = 3, 2

@njit(parallel=True)
def in_chunks(log_weights, means, chols, found, reports, chunks):
    n = len(means)
    for c in prange(chunks):
        space = projections.workspace(COMPONENTS, DIM)
        mean, chol = np.empty(DIM), np.empty((DIM, DIM))
        for i in range(c * n // chunks, (c + 1) * n // chunks):
            mean[:] = means[i, 0]
            chol[:] = chols[i, 0]
            projections.i_projection(
                log_weights[i], means[i], chols[i], 0, mean, chol, 1e-8, space, reports[i]
            )
            found[i, :DIM] = mean
            found[i, DIM:] = chol.copy().reshape(DIM * DIM)

@njit(parallel=True)
def distances(means, chols, out):
    for i in prange(len(means)):
        out[i] = gaussians.gaussian_kl(means[i, 0], chols[i, 0], means[i, 1], chols[i, 1], np.empty(2 * DIM))

rng = np.random.default_rng(3)
n = 60
weights = rng.dirichlet(np.ones(COMPONENTS), n)
means = 3.0 * rng.standard_normal((n, COMPONENTS, DIM))
a = rng.standard_normal((n, COMPONENTS, DIM, DIM))
covs = a @ a.swapaxes(-1, -2) + 0.3 * np.eye(DIM)
chols = np.linalg.cholesky(covs)
given = np.log(weights), means, chols
for g in given:
    g.flags.writeable = False
results = []
for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
    numba.set_num_threads(threads)
    for chunks in (n, 7, 1):  # a workspace for each mixture, for some, for all
        found, reports = np.full((n, DIM + DIM * DIM), np.nan), np.full((n, 5), np.nan)
        in_chunks(*given, found, reports, chunks)
        results.append((found.tobytes(), reports.tobytes()))
assert len(results) >= 6
assert len(set(results)) == 1, "the result depends on the threads"
for i in range(n):
    p = fv.GaussianMixture(weights[i], means[i], covs[i])
    expected = fv.i_projection(p, starts=[p.components[0]])
    assert abs(reports[i, 0] - expected.kl) <= 2 * expected.error + 1e-13, i
    assert np.allclose(found[i, :DIM], expected.q.mean, rtol=0, atol=1e-7), i
out = np.empty(n)
distances(means, chols, out)
for i in range(n):
    p = fv.GaussianMixture(weights[i], means[i], covs[i])
    assert abs(out[i] / fv.kl(*p.components[:2]) - 1.0) < 1e-9
print("the same bits")
"""

UNCOMPILED = """
import json
import numpy as np
import numba
import fastvi as fv
from fastvi.kernels import estimates, gaussians, grids as grids_, mixtures, projections
from fastvi.kernels.densities import grids

assert numba.config.DISABLE_JIT == EXPECTED
values = {}
for dim in (1, 2):
    means = np.zeros((2, dim))
    means[:, 0] = -1.5, 1.0
    factors = np.stack([np.eye(dim), 1.3 * np.eye(dim)])
    if dim == 2:
        factors[1, 1, 0] = 0.4
    p = np.log([0.3, 0.7]), means, factors
    mean, chol = np.full(dim, 0.25), 0.8 * np.eye(dim)
    work = np.empty(2 * dim)
    values[f"gaussian_kl {dim}"] = gaussians.gaussian_kl(mean, chol, means[1], factors[1], work)
    values[f"gaussian_logpdf {dim}"] = gaussians.gaussian_logpdf(means[0], mean, chol, work)
    values[f"mixture_logpdf {dim}"] = mixtures.mixture_logpdf(mean, *p, work)
    grad_mean, grad_chol = np.empty(dim), np.empty((dim, dim))
    space = estimates.workspace(2, 2, dim)
    value, error = estimates.reverse_kl(*p, mean, chol, 1e-6, grad_mean, grad_chol, space)
    values[f"reverse_kl {dim}"] = [value, *grad_mean, *grad_chol.ravel()]
    q = np.zeros(1), mean[None], chol[None]
    values[f"mixture_kl {dim}"] = estimates.mixture_kl(p, q, 1e-6, space)[0]
    for family in range(3):
        m, c = np.empty(dim), np.empty((dim, dim))
        assert projections.m_projection(*p, family, m, c)
        values[f"m_projection {dim} {family}"] = [*m, *c.ravel()]
        m, c, report = mean.copy(), chol.copy(), np.empty(5)
        status = projections.i_projection(*p, family, m, c, 1e-6, projections.workspace(2, dim), report)
        assert status == 0
        values[f"i_projection {dim} {family}"] = [*m, *c.ravel(), report[0]]
x, y = np.linspace(-4.0, 4.0, 17), np.linspace(-3.0, 3.0, 15)
log_p = -0.5 * (x[:, None] ** 2 + y[None, :] ** 2)
a, b = np.empty(17), np.empty(15)
grids.trapezoid(x, a)
grids.trapezoid(y, b)
log_p -= np.log((np.multiply.outer(a, b) * np.exp(log_p)).sum())
grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
value, mass = grids_.grid_reverse_kl(
    x, y, a, b, log_p, np.array([0.3, 0.1]), np.array([[0.9, 0.0], [0.2, 0.7]]), grad_mean, grad_chol,
    grids_.workspace(),
)
values["grid_reverse_kl"] = [value, mass, *grad_mean, *grad_chol.ravel()]
print(json.dumps(values))
"""


def run(script, **more):
    env = {**os.environ, "PYTHONPATH": str(Path(fv.__file__).parents[1]), **more}
    done = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prange(tmp_path):
    script = tmp_path / "threads.py"
    script.write_text(PARALLEL)
    assert "the same bits" in run(script, NUMBA_NUM_THREADS="2")


def test_without_the_compiler(tmp_path):
    results = []
    for disabled in (0, 1):
        script = tmp_path / f"plain{disabled}.py"
        script.write_text(UNCOMPILED.replace("EXPECTED", str(disabled)))
        results.append(json.loads(run(script, NUMBA_DISABLE_JIT=str(disabled))))
    compiled, uncompiled = results
    assert compiled.keys() == uncompiled.keys()
    for name, value in compiled.items():
        np.testing.assert_allclose(uncompiled[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


# The pieces


def enumerated(steps, shift, radius, dim, form):
    """All nodes (N, 3) and weights that come out of the blocks."""
    nodes, cursor = np.empty((4, lattice_.BLOCK + lattice_.PADDING)), np.zeros(6, np.int64)
    bell = np.empty(lattice_.MOST_ACROSS + lattice_.PADDING)
    form(lattice_.rewind)(cursor, steps, shift, radius, dim, bell)
    points, weights = [], []
    while count := form(lattice_.next_block)(cursor, steps, shift, radius, dim, bell, nodes):
        assert count <= lattice_.BLOCK
        block = np.zeros((count, 3))
        block[:, 0] = nodes[0, :count]
        block[:, 1] = nodes[1, :count]
        block[:, 2] = nodes[2, 0]
        points.append(block)
        weights.append(nodes[3, :count].copy())
    assert form(lattice_.next_block)(cursor, steps, shift, radius, dim, bell, nodes) == 0
    return np.concatenate(points), np.concatenate(weights)


def lattice(steps, shift, radius, dim):
    """The points (i + shift) steps within the ball, by looking at all of a box."""
    most = [math.ceil(radius / h) + 1 if a < dim else 0 for a, h in enumerate(steps)]
    index = np.array(list(itertools.product(*[range(-m, m + 1) for m in most])), dtype=float)
    points = (index + shift) * steps
    return points[(points**2).sum(axis=1) <= radius**2]


def rows(points, steps, shift):
    return sorted(map(tuple, np.rint(points / steps - shift).astype(int).tolist()))


@both
@dims
@pytest.mark.parametrize("steps", [(0.7, 0.7, 0.7), (0.31, 0.53, 0.47), (0.013, 0.9, 1.1)])
def test_the_lattice_is_the_ball(form, dim, steps):
    steps, shift, radius = np.array(steps), np.zeros(3), 4.123
    points, weights = enumerated(steps, shift, radius, dim, form)
    assert rows(points, steps, shift) == rows(lattice(steps, shift, radius, dim), steps, shift)
    np.testing.assert_allclose(weights, np.exp(-0.5 * (points**2).sum(axis=1)), rtol=1e-14)


@both
@dims
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_shifted_lattice_is_the_ball_up_to_half_a_step(form, dim, axis):
    steps, shift, radius = np.array([0.31, 0.53, 0.47]), np.zeros(3), 4.123
    axis = axis % dim
    shift[axis] = 0.5
    points, weights = enumerated(steps, shift, radius, dim, form)
    found = rows(points, steps, shift)
    assert len(set(found)) == len(found)
    assert set(rows(lattice(steps, shift, radius - 0.5 * steps[axis], dim), steps, shift)) <= set(found)
    assert set(found) <= set(rows(lattice(steps, shift, radius + 0.5 * steps[axis], dim), steps, shift))
    np.testing.assert_allclose(weights, np.exp(-0.5 * (points**2).sum(axis=1)), rtol=1e-14)


@dims
def test_the_rule_integrates_polynomials(dim):
    """E 1, E x**2 and E x**4 of a standard normal number are 1, 1 and 3."""
    steps, shift = np.full(3, 0.7), np.zeros(3)
    points, weights = enumerated(steps, shift, 8.5, dim, lambda f: f)
    weights = weights * lattice_.cell(steps, dim)
    for a in range(dim):
        for power, exact in ((0, 1.0), (1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
            assert weights @ points[:, a] ** power == pytest.approx(exact, abs=3e-12)


def test_the_size_of_a_lattice():
    steps, shift = np.array([0.11, 0.13, 0.17]), np.zeros(3)
    for dim in (1, 2, 3):
        count = len(enumerated(steps, shift, 5.0, dim, lambda f: f)[0])
        assert lattice_.size(steps, 5.0, dim) == pytest.approx(count, rel=0.03)
    assert lattice_.size(np.array([1e-5, 1.0, 1.0]), 5.0, 2) == math.inf


def powers(points):
    return {
        (a, b, c): points[:, 0] ** a * points[:, 1] ** b * points[:, 2] ** c
        for a, b, c in itertools.product(range(5), repeat=3)
        if a + b + c <= 4
    }


def in_frame(p, mean, factor, form=lambda f: f):
    coefficients = np.zeros((len(p.weights), 13))
    form(mixtures.write_coefficients)(mixtures.Mixture(*arrays(p)), mean, factor, coefficients, np.empty(3))
    return coefficients


def embed(points, mean, factor):
    return mean + points[:, : mean.size] @ factor.T


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
    """A shifted one on which the sums of polynomials are exact."""
    return np.array([0.35, 0.6, 0.7]), 0.5 * np.eye(3)[dim - 1], 9.5


@both
@dims
@pytest.mark.parametrize("components", [1, 2, 4])
def test_moments_by_rows(form, dim, components):
    p = random_mixture(1, dim, components)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    coefficients, (steps, shift, radius) = in_frame(p, mean, factor), wide_lattice(dim)
    work = named(moments_.Workspace, moments_.workspace(components))
    assert (
        form(lattice_rows.usable_ratios)(coefficients, steps, radius, work.by_rows.polynomials) == components
    )
    moments, wanted = np.empty((2, moments_.MOMENTS))
    count = form(moments_.integrate_moments)(coefficients, 0.7, dim, steps, shift, radius, work, moments)
    nodes = moments_.integrate_nodes(coefficients, 0.7, dim, steps, shift, radius, work, wanted)
    # Of one Gaussian everything is known; rows are filled up to sixteen.
    assert count < 2 * nodes if components > 1 else count == 0
    np.testing.assert_allclose(moments, wanted, rtol=1e-13, atol=1e-14 * np.abs(wanted).max())


@dims
@pytest.mark.parametrize("size", [1.0, 4.0, 16.0, 64.0])
def test_moments_by_rows_of_what_is_sharp_or_far(dim, size):
    """Whether by rows or not: it is the same to rounding, and nothing overflows."""
    rng = np.random.default_rng(int(size))
    ways = set()
    work = named(moments_.Workspace, moments_.workspace(3))
    steps, shift, radius = wide_lattice(dim)
    for _ in range(30):
        coefficients = np.zeros((3, 13))
        coefficients[:, 0] = 3.0 * rng.standard_normal(3) - np.array([0.0, 0.0, 14.0])
        coefficients[:, 1 : 1 + dim] = rng.standard_normal((3, dim)) * size ** rng.uniform(0, 1, (3, 1))
        for k in range(3):
            matrix = 0.5 * rng.standard_normal((dim, dim)) * size ** rng.uniform(-1, 1)
            coefficients[k, 4:].reshape(3, 3)[:dim, :dim] = matrix
        ways.add(lattice_rows.usable_ratios(coefficients, steps, radius, work.by_rows.polynomials) > 0)
        moments, wanted = np.empty((2, moments_.MOMENTS))
        moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, work, moments)
        moments_.integrate_nodes(coefficients, 0.7, dim, steps, shift, radius, work, wanted)
        np.testing.assert_allclose(moments, wanted, rtol=1e-11, atol=1e-12 * np.abs(wanted).max())
    assert True in ways
    assert size == 1.0 or False in ways


@dims
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_what_rows_and_ball_leave_out_is_less_than_they_say(dim, spread):
    """And not much less: in a small ball it is seen."""
    work, seen, count, nodes = named(moments_.Workspace, moments_.workspace(3)), 0.0, 0, 0
    _, shift, large = wide_lattice(dim)
    steps = np.array([0.1, 0.6, 0.7])
    few, all_ = np.empty((2, moments_.MOMENTS))
    for seed in range(20):
        p = random_mixture(seed, dim, 3, spread)
        # One component is wide and light, and every other q is wider than its own.
        weights, scale = [0.6, 0.4 - 1e-6, 1e-6], np.array([1.0, 1.0, 1.0 + 99.0 * (seed % 3 == 0)])
        p = fv.GaussianMixture(weights, p.means, scale[:, None, None] * p.covs)
        coefficients = in_frame(p, p.means[0], (1.0 + 0.3 * (seed % 2)) * p.components[0].cholesky)
        if lattice_rows.usable_ratios(coefficients, steps, large, work.by_rows.polynomials) == 0:
            continue
        moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, large, work, all_)
        for radius in (3.0, 4.5):
            count += moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, work, few)
            nodes += lattice_.size(steps, radius, dim)
            outside = refinement.tail(coefficients[:0], coefficients, dim, radius)
            bound = outside + lattice_rows.left_out(3, dim, radius)
            # What is left out of log p is positive.
            assert -1e-13 <= few[0] - all_[0] <= bound
            seen = max(seen, (few[0] - all_[0]) / bound)
    assert seen > 1e-2
    assert spread < 1.0 or count < 0.9 * nodes


@dims
def test_the_tail_holds_for_what_the_rows_sum(dim):
    """log p is flat where a wide component is all there is; log p - log f_m, f_m narrow, is not."""
    coefficients = np.zeros((2, 13))
    coefficients[:, 0] = -1.0, -2.0
    coefficients[0, 4:].reshape(3, 3)[:dim, :dim] = 1.35 * np.eye(dim)
    coefficients[1, 4:].reshape(3, 3)[:dim, :dim] = 0.1 * np.eye(dim)
    work, (_, shift, large) = named(moments_.Workspace, moments_.workspace(3)), wide_lattice(dim)
    few, all_ = np.empty((2, moments_.MOMENTS))
    steps, radius = np.full(3, 0.3), 4.5
    assert lattice_rows.usable_ratios(coefficients, steps, large, work.by_rows.polynomials) == 2
    moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, large, work, all_)
    moments_.integrate_moments(coefficients, 0.7, dim, steps, shift, radius, work, few)
    assert 0.0 < few[0] - all_[0] <= refinement.tail(coefficients[:0], coefficients, dim, radius)


@both
@families
@dims
def test_gradient_and_hessian_in_the_coordinates_of_q(form, family, dim):
    p = random_mixture(3, dim, 3, spread=0.8)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), 0.8 * random_factor(rng, dim)
    steps, shift = np.full(3, {1: 0.05, 2: 0.15, 3: 0.36}[dim]), np.zeros(3)
    points, weights = enumerated(steps, shift, 8.5, dim, lambda f: f)
    weights = weights * lattice_.cell(steps, dim)
    triple = arrays(p)
    xi = points[:, :dim]

    def value(parameters):
        delta, t = parameters[:dim], np.zeros((dim, dim))
        if family == newton.ISOTROPIC:
            t = parameters[dim] * np.eye(dim)
        else:
            places = [(a, b) for a in range(dim) for b in range(a + 1) if a == b or family == newton.FULL]
            for k, place in enumerate(places):
                t[place] = parameters[dim + k]
        change = np.eye(dim) + t
        own = -np.log(np.diag(change)).sum() - np.log(np.diag(factor)).sum()
        z = mean + (delta + xi @ change.T) @ factor.T
        return own - 0.5 * dim * (1.0 + math.log(2.0 * math.pi)) - weights @ log_mixture(z, *triple)

    x = log_normal(embed(points, mean, factor), mean, factor) - log_mixture(
        embed(points, mean, factor), *triple
    )
    moments = np.zeros(moments_.MOMENTS)
    for (a, b, c), power in powers(points).items():
        moments[a + 5 * b + 25 * c] = (weights * x) @ power
    parts = newton.workspace(dim)
    count = form(newton.lay_out)(family, dim, parts)
    used = form(newton.differentiate)(moments, family, dim, count, parts)
    assert used == {0: dim + dim * (dim + 1) // 2, 1: 2 * dim, 2: dim + 1}[family]
    gradient = parts.gradient[:used]
    hessian = np.tril(parts.hessian[:used, :used])
    hessian = hessian + np.tril(hessian, -1).T
    step, unit = 2e-3, np.eye(used)
    zero = value(np.zeros(used))
    for i in range(used):
        one, two = (value(k * step * unit[i]) - value(-k * step * unit[i]) for k in (1, 2))
        assert gradient[i] == pytest.approx((8.0 * one - two) / (12.0 * step), abs=1e-7)
        for j in range(i):
            corners = [value(step * (s * unit[i] + t * unit[j])) * s * t for s in (1, -1) for t in (1, -1)]
            assert hessian[i, j] == pytest.approx(sum(corners) / (4.0 * step**2), abs=1e-4)
        one, two = (value(k * step * unit[i]) + value(-k * step * unit[i]) - 2.0 * zero for k in (1, 2))
        assert hessian[i, i] == pytest.approx((16.0 * one - two) / (12.0 * step**2), abs=1e-6)


@families
@dims
def test_a_move_is_what_the_parameters_mean(family, dim):
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    parts = newton.workspace(dim)
    count = newton.lay_out(family, dim, parts)
    used = dim + 1 if family == newton.ISOTROPIC else count
    parts.step[:used] = step = 0.1 * rng.standard_normal(used)
    new_mean, new_factor = np.empty(dim), np.empty((dim, dim))
    newton.move(mean, factor, family, dim, used, parts, new_mean, new_factor)
    t = np.zeros((dim, dim))
    if family == newton.FULL:
        t[np.tril_indices(dim)] = step[dim:]
    else:
        np.fill_diagonal(t, step[dim:] if family == newton.DIAGONAL else step[dim])
    np.testing.assert_allclose(new_mean, mean + factor @ step[:dim], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(new_factor, factor @ (np.eye(dim) + t), rtol=1e-13, atol=1e-15)


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
    form(matrices.diagonalise)(matrix, vectors, dim, rotation_.DIAGONAL, rotation_.SWEEPS, True)
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
@pytest.mark.parametrize("seed", range(3))
def test_climbing_ends_at_a_mode(form, dim, seed):
    p = random_mixture(seed, dim, 3)
    triple = arrays(p)
    for k in range(3):
        z, gradient = triple[1][k].copy(), np.empty(dim)
        curvature, precision = np.empty((dim, dim)), np.empty((dim, dim))
        before = log_mixture(z[None], *triple)[0]
        assert form(mixtures.find_mode)(*triple, z, gradient, curvature, precision, np.empty(2 * dim))
        assert log_mixture(z[None], *triple)[0] >= before
        step = 1e-4
        unit = np.eye(dim) * step

        def at(*changes, z=z):
            return log_mixture((z + sum(changes))[None], *triple)[0]

        slope = np.array([(at(u) - at(-u)) / (2.0 * step) for u in unit])
        hessian = np.array(
            [[(at(u, v) - at(u, -v) - at(-u, v) + at(-u, -v)) / (4.0 * step**2) for v in unit] for u in unit]
        )
        np.testing.assert_allclose(curvature, -hessian, rtol=0, atol=1e-5 * np.abs(hessian).max())
        assert math.sqrt(slope @ np.linalg.solve(-hessian, slope)) < 1e-3


def test_decay():
    """Within two units of the last digit; below -708 it stays where it is."""

    @njit
    def many(x, out):
        for i in range(x.size):
            out[i] = elementary.decay(x[i])

    rng = np.random.default_rng(0)
    x = -np.concatenate(
        [rng.uniform(0, 708, 20_000), 10.0 ** rng.uniform(-20, 2, 20_000), [0.0, 708.0, 1e-300]]
    )
    out = np.empty_like(x)
    many(x, out)
    exact = np.array([math.exp(v) for v in x])
    assert np.max(np.abs(out / exact - 1.0)) < 1e-15
    few = x[::400]
    uncompiled = np.array([plain(elementary.decay)(v) for v in few.tolist()])
    assert np.max(np.abs(uncompiled / np.array([math.exp(v) for v in few]) - 1.0)) < 1e-15
    many(x[:4] * 0.0 - [708.0, 709.0, 1e300, math.inf], out[:4])
    np.testing.assert_allclose(out[:4], math.exp(-708.0), rtol=1e-14)


def exact_log_density(z, log_weights, means, factors):
    """In mpmath, with each float taken as it is, for triangular factors."""
    with mp.workdps(60):
        total = mpf(0)
        for w, m, f in zip(log_weights, means, factors, strict=True):
            if w == -math.inf:
                continue
            white, log_value = [], mpf(float(w))
            for i in range(len(m)):
                d = mpf(float(z[i])) - mpf(float(m[i]))
                d -= mp.fsum(mpf(float(f[i, j])) * white[j] for j in range(i))
                white.append(d / mpf(float(f[i, i])))
                log_value -= mp.log(mpf(float(f[i, i]))) + white[-1] ** 2 / 2 + mp.log(2 * mp.pi) / 2
            total += mp.exp(log_value)
        return float(mp.log(total))


@both
@dims
@pytest.mark.parametrize(
    ("log_weights", "spread"),
    [
        ([-1.0, -1.2, -0.9], 2.0),
        ([-1.0, -1.2, -0.9], 60.0),
        ([-1.0, -1.2, -0.9], 1e4),
        ([-math.inf, -0.1, -3.0], 2.0),
        ([-0.1, -math.inf, -3.0], 60.0),
        ([-0.1, -690.0, -math.inf], 2.0),
    ],
)
def test_log_density_of_blocks(form, dim, log_weights, spread):
    rng = np.random.default_rng(dim)
    log_weights = np.array(log_weights)
    means = spread * rng.standard_normal((3, dim))
    factors = np.stack([random_factor(rng, dim) for _ in range(3)])
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    coefficients = np.zeros((3, 13))
    form(mixtures.write_coefficients)(log_weights, means, factors, mean, factor, coefficients, np.empty(3))
    (x, y), z = 3.0 * rng.standard_normal((2, 40)), 0.7
    top, total = np.empty(40), np.empty(40)
    form(mixtures.log_terms)(coefficients, dim, x, y, z, top, total)
    assert ((total >= 1.0) & (total <= 3.0)).all()
    out = top + np.log(total)
    for i in range(40):
        xi = np.array([x[i], y[i], z])[:dim]
        exact = exact_log_density(mean + factor @ xi, log_weights, means, factors)
        assert out[i] == pytest.approx(exact, rel=1e-13, abs=1e-13)
        direct = mixtures.mixture_logpdf(mean + factor @ xi, log_weights, means, factors, np.empty(dim))
        assert direct == pytest.approx(exact, rel=1e-13, abs=1e-13)


@both
@dims
def test_rotating_changes_no_density(form, dim):
    """The frame and the coefficients of both mixtures rotate together."""
    p, q = random_mixture(1, dim, 3), random_mixture(2, dim, 2)
    rng = np.random.default_rng(dim)
    mean, factor = rng.standard_normal(dim), random_factor(rng, dim)
    before = factor.copy()
    first, second = in_frame(p, mean, factor), in_frame(q, mean, factor)
    work = named(moments_.Workspace, moments_.workspace(3))
    form(rotation_.rotate)(first, second, dim, factor, work)
    np.testing.assert_allclose(factor @ factor.T, before @ before.T, rtol=1e-13, atol=1e-14)
    for mixture, coefficients in ((p, first), (q, second)):
        np.testing.assert_allclose(coefficients, in_frame(mixture, mean, factor), rtol=1e-12, atol=1e-13)

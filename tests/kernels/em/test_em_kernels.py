"""Kernels of EM: in a loop of the user's, and each against NumPy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit, prange

import fastvi as fv
from fastvi.kernels import em, statuses
from fastvi.kernels.em import e_step, iterations, seeding, standardization
from helpers.forms import all_plain
from helpers.mixtures import clouds, random_cov


def start_two(x, uniforms, means):
    """A start of a mixture of two, by the names that `fit_mixture` documents."""
    size, dim = x.shape
    space = em.workspace(2, dim)
    columns, mean, factor = np.empty((dim, size)), np.empty(dim), np.empty((dim, dim))
    em.standardize(x, columns, mean, factor)
    weights, factors = np.empty(2), np.empty((2, dim, dim))
    distances, labels = np.empty(size), np.empty(size, np.int64)
    em.seed(columns, uniforms, weights, means, factors, 1e-6, distances, labels, space)
    return columns, mean, factor, weights, factors, space


def fit_two(x, uniforms, tol, means):
    """A mixture of two: its means and log likelihood."""
    columns, mean, factor, weights, factors, space = start_two(x, uniforms, means)
    trace, floored = np.empty(2001), np.zeros((2, 2), np.int64)
    _, steps, _ = em.fit(columns, weights, means, factors, 1e-6, tol, 2000, trace, floored, space)
    em.unstandardize_mixture(mean, factor, means, factors)
    return trace[steps] - len(x) * np.log(np.diag(factor)).sum()


@pytest.mark.parametrize(
    "name", ["workspace", "fit", "standardize", "unstandardize_mixture", "seed", "maximise"]
)
def test_documented_names_are_functions(name):
    """Also once the modules are loaded, which have other names."""
    assert callable(getattr(em, name))


def test_in_a_users_threads():
    """It is the start of `fit_mixture` on whitened distances: the last kind of them."""
    kinds = 2
    data = np.stack([clouds([11, i], 120, 2, 2)[0] for i in range(6)])
    data /= data.std(axis=1, keepdims=True)
    uniforms = np.stack([np.random.default_rng(i).random((kinds, 4))[-1] for i in range(6)])
    means = np.empty((6, 2, 2))
    with ThreadPoolExecutor(2) as pool:
        values = list(pool.map(lambda x, u, m: fit_two(x, u, 1e-12, m), data, uniforms, means))
    for i in range(6):
        fit = fv.fit_mixture(data[i], 2, restarts=kinds, rng=i)
        assert fit.restart_log_likelihoods[-1] == values[i]
        if fit.log_likelihood == values[i]:
            order = np.argsort(means[i, :, 0])
            np.testing.assert_allclose(fit.mixture.means, means[i][order], rtol=1e-12)


def test_in_a_users_parallel_loop():
    """Starts alone: with the fits, which are in `test_allocations`, it takes 16 s more to compile."""
    compiled = njit(inline="always")(start_two)

    @njit(parallel=True)
    def starts(data, uniforms, logs, means):
        for i in prange(len(data)):
            _, mean, factor, weights, factors, _ = compiled(data[i], uniforms[i], means[i])
            em.unstandardize_mixture(mean, factor, means[i], factors)
            for k in range(2):
                logs[i, k] = np.log(weights[k] * factors[k, 0, 0])

    data = np.stack([clouds([11, i], 120, 2, 2)[0] for i in range(4)])
    uniforms = np.random.default_rng(3).random((4, 4))
    logs, means = np.empty((4, 2)), np.empty((4, 2, 2))
    starts(data, uniforms, logs, means)
    for i in range(4):
        expected = np.empty((2, 2))
        _, mean, factor, weights, factors, _ = start_two(data[i], uniforms[i], expected)
        em.unstandardize_mixture(mean, factor, expected, factors)
        np.testing.assert_array_equal(means[i], expected)
        np.testing.assert_allclose(logs[i], np.log(weights * factors[:, 0, 0]), rtol=1e-14)


def test_a_sweep_takes_any_number_of_points():
    """Numbers of points around the block size and its padding."""
    rng = np.random.default_rng(13)
    weights, means = np.array([0.2, 0.3, 0.5]), rng.standard_normal((3, 2))
    factors = np.stack([np.array([[1.0, 0.0], [0.3, 0.8]])] * 3)
    p = fv.GaussianMixture(weights, means, factors @ factors.swapaxes(1, 2))
    for n in (1, 2, 31, 32, 33, e_step.BLOCK - 1, e_step.BLOCK, e_step.BLOCK + 1, 2 * e_step.BLOCK + 63):
        x = rng.standard_normal((n, 2))
        trace, floored = np.empty(2), np.zeros((2, 3), np.int64)
        mixture = weights.copy(), means.copy(), factors.copy()
        columns = np.ascontiguousarray(x.T)
        iterations.fit(columns, *mixture, 1e-3, 0.0, 1, trace, floored, e_step.workspace(3, 2))
        assert trace[0] == pytest.approx(p.logpdf(x).sum(), rel=1e-13)
        assert mixture[0].sum() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("kind", [e_step.FULL, e_step.DIAGONAL])
@pytest.mark.parametrize("dim", [4, 7, 8, 13, 21])
def test_steps_take_any_number_of_coordinates(dim, kind):
    """They are taken by eight, by four, and one by one."""
    rng = np.random.default_rng(dim)
    weights, means = np.array([0.2, 0.3, 0.5]), rng.standard_normal((3, dim))
    x = rng.standard_normal((70, dim))
    if kind == e_step.FULL:
        covs = np.array([random_cov(rng, dim) for _ in range(3)])
    else:
        covs = rng.uniform(0.5, 2.0, (3, dim))[:, :, None] * np.eye(dim)
    p = fv.GaussianMixture(weights, means, covs)
    logs = np.array([np.log(w) + one.logpdf(x) for w, one in zip(weights, p.components, strict=True)])
    shares = np.exp(logs - p.logpdf(x))
    sums = shares.sum(axis=1)
    centres = shares @ x / sums[:, None]
    moved = x - centres[:, None]
    spreads = np.einsum("kn,kni,knj->kij", shares, moved, moved) / sums[:, None, None]
    spreads = spreads if kind == e_step.FULL else spreads * np.eye(dim)
    factors, space = np.linalg.cholesky(covs), e_step.workspace(3, dim)
    space.control[e_step.KIND] = kind
    trace, floored = np.empty(2), np.zeros((2, 3), np.int64)
    columns = np.ascontiguousarray(x.T)
    iterations.fit(columns, weights, means, factors, 1e-9, 0.0, 1, trace, floored, space)
    assert trace[0] == pytest.approx(p.logpdf(x).sum(), rel=1e-13)
    np.testing.assert_allclose(weights, sums / 70.0, rtol=1e-12)
    np.testing.assert_allclose(means, centres, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(factors @ factors.swapaxes(1, 2), spreads, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("far", [0.0, 50.0])
def test_shares_are_relative_to_one_number_unless_a_point_is_far(dim, far):
    """Relative to that number, the shares of a point at 50 deviations would all be the least there are."""
    rng, count = np.random.default_rng(dim), 40
    weights, means = np.array([0.2, 0.3, 0.5]), rng.standard_normal((3, dim))
    factors = np.stack(
        [np.tril(0.2 * rng.normal(size=(dim, dim)), -1) + (1.0 + k) * np.eye(dim) for k in range(3)]
    )
    x = rng.standard_normal((count, dim))
    x[7] += 3.0 * far
    space = e_step.workspace(3, dim)
    all_plain(e_step.prepare)(weights, means, factors, space)
    all_plain(e_step.block_shares)(np.ascontiguousarray(x.T), 0, count, means, space)
    top, sums, shares = space.top[:count], space.sums[:count], space.shares[:, :count]
    p = fv.GaussianMixture(weights, means, factors @ factors.swapaxes(1, 2))
    logs = np.array([np.log(w) + one.logpdf(x) for w, one in zip(weights, p.components, strict=True)])
    np.testing.assert_allclose(top + np.log(sums), p.logpdf(x), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(shares / sums, np.exp(logs - p.logpdf(x)), rtol=1e-11, atol=1e-100)
    assert (np.ptp(top) == 0.0) == (far == 0.0)


@pytest.mark.parametrize("size", [32, 96, 160, 480, 512])
def test_the_log_likelihood_of_a_block_is_that_of_the_least_and_the_largest_sums(size):
    for sums in (
        np.full(size, e_step.LEAST_SUM),
        np.full(size, 1.0 / e_step.LEAST_SUM),
        np.arange(1.0, size + 1.0),
    ):
        total, products = sums.copy(), e_step.workspace(3, 1).products
        found = all_plain(e_step.block_log_likelihood)(np.full(size, 2.0), total, products)
        assert found == pytest.approx(2.0 * size + np.log(sums).sum(), rel=1e-13)
        np.testing.assert_allclose(total, 1.0 / sums, rtol=1e-15)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_standardizing(dim):
    x, start = clouds(14, 100, dim, 2)
    x = x * 2.0 ** np.arange(dim) + 100.0
    columns, mean, factor = np.empty((dim, 100)), np.empty(dim), np.empty((dim, dim))
    assert standardization.standardize(x, columns, mean, factor) == dim
    np.testing.assert_allclose(columns @ columns.T / 100, np.eye(dim), atol=1e-12)
    np.testing.assert_allclose(columns.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(mean + columns.T @ factor.T, x, rtol=1e-12)
    means, factors = start.means.copy(), np.linalg.cholesky(start.covs)
    there = means.copy(), factors.copy()
    standardization.standardize_mixture(mean, factor, *there)
    standardization.unstandardize_mixture(mean, factor, *there)
    np.testing.assert_allclose(there[0], means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(there[1], factors, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_numbers(weighted):
    rng = np.random.default_rng(5)
    values, counts = 1e3 + rng.standard_normal(1001), rng.exponential(size=1001) if weighted else np.empty(0)
    mean, variance = standardization.moments_of(values, counts)
    expected = np.average(values, weights=counts if weighted else None)
    squares = (values - expected) ** 2
    assert mean == pytest.approx(expected, rel=1e-14)
    assert variance == pytest.approx(np.average(squares, weights=counts if weighted else None), rel=1e-11)
    assert standardization.moments_of(np.full(5, 0.1), counts[:5]) == (0.1, 0.0)
    scaled = values.copy()
    standardization.shift_and_scale(scaled, mean, 3.0)
    np.testing.assert_array_equal(scaled, (values - mean) / 3.0)


@pytest.mark.parametrize("size", [1, 64, 65, 200])
def test_transposing(size):
    x = np.random.default_rng(size).standard_normal((size, 3))
    out = np.empty((3, size))
    standardization.transpose(x, out)
    np.testing.assert_array_equal(out, x.T)


def squares(x, centres):
    """Squared distances of points from centres, (N, K)."""
    return ((x[:, None] - np.array(centres)) ** 2).sum(axis=2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("candidates", [1, 3])
def test_clusters(seed, candidates):
    """Centres by squared distance, the best of the candidates, then Lloyd's algorithm."""
    rng = np.random.default_rng(seed)
    x, uniforms = rng.standard_normal((700, 2)), rng.random((3, candidates))
    repeats = rng.integers(0, 4, 700)
    x = x[repeats > 0]
    repeats = repeats[repeats > 0]
    rows = np.repeat(x, repeats, axis=0)
    centres = [rows[int(uniforms[0, 0] * len(rows))]]
    for draws in uniforms[1:]:
        near = squares(rows, centres).min(axis=1)
        drawn = [rows[np.searchsorted(near.cumsum(), u * near.sum(), side="right")] for u in draws]
        left = [np.minimum(near, squares(rows, [c])[:, 0]).sum() for c in drawn]
        centres.append(drawn[int(np.argmin(left))])
    uniform = uniforms[0, 0]
    for _ in range(3 * seeding.EXCHANGES):
        near = squares(rows, centres).min(axis=1)
        uniform = (uniform + (np.sqrt(5) - 1) / 2) % 1.0
        point = rows[np.searchsorted(near.cumsum(), uniform * near.sum(), side="right")]
        exchanged = [[*centres[:k], point, *centres[k + 1 :]] for k in range(3)]
        left = [squares(rows, one).min(axis=1).sum() for one in exchanged]
        if min(left) < near.sum():
            centres = exchanged[int(np.argmin(left))]
    labels = squares(rows, centres).argmin(axis=1)
    for _ in range(seeding.ROUNDS):
        centres = [rows[labels == k].mean(axis=0) for k in range(3)]
        labels = squares(rows, centres).argmin(axis=1)
    deviations = rows - np.stack([rows[labels == k].mean(axis=0) for k in range(3)])[labels]
    for points, frequencies in ((rows, np.empty(0)), (x, repeats.astype(float))):
        found = np.empty(3), np.empty((3, 2)), np.empty((3, 2, 2))
        scratch = np.empty(len(points)), np.empty(len(points), np.int64)
        space = e_step.workspace(3, 2)._replace(frequencies=frequencies)
        seeding.seed(np.ascontiguousarray(points.T), uniforms.ravel(), *found, 1e-6, *scratch, space)
        np.testing.assert_allclose(found[0], np.bincount(labels) / len(rows))
        means = [rows[labels == k].mean(axis=0) for k in range(3)]
        np.testing.assert_allclose(found[1], means, rtol=1e-9, atol=1e-12)
        for factor in found[2]:
            np.testing.assert_allclose(factor @ factor.T, deviations.T @ deviations / len(rows), rtol=1e-9)


def test_a_singular_start_has_a_status():
    x, _ = clouds(15, 40, 2, 2)
    mixture = np.array([0.5, 0.5]), x[:2].copy(), np.zeros((2, 2, 2))
    trace, floored = np.empty(4), np.zeros((2, 2), np.int64)
    columns = np.ascontiguousarray(x.T)
    status, steps, _ = iterations.fit(columns, *mixture, 0.0, 1e-6, 3, trace, floored, e_step.workspace(2, 2))
    assert (status, steps) == (statuses.SINGULAR, 0)

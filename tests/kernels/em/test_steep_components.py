"""EM where a component's covariance has a condition far above 1e12, as beside an outlier."""

import mpmath as mp
import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.em import e_step, iterations, m_step
from fastvi.kernels.statuses import CONVERGED

KINDS = {"full": e_step.FULL, "tied": e_step.TIED}


def cloud(seed, n, dim, components):
    """(columns, (weights, means, factors) of a start)."""
    rng = np.random.default_rng([seed, n, dim])
    means = 3.0 * rng.standard_normal((components, dim))
    x = means[rng.integers(components, size=n)] + rng.standard_normal((n, dim))
    return np.ascontiguousarray(x.T), (
        np.full(components, 1 / components),
        means,
        np.stack([np.eye(dim)] * components),
    )


def ascend(columns, start, floor, tol, kind="full", prior=None, most=400):
    mixture = tuple(part.copy() for part in start)
    components, dim = mixture[1].shape
    space = e_step.workspace(components, dim)
    space.control[e_step.KIND] = KINDS[kind]
    space = space._replace(prior=np.empty(0) if prior is None else prior)
    trace, floored = np.full(most + 1, np.nan), np.zeros((2, components), np.int64)
    status, steps, _ = iterations.fit(columns, *mixture, floor, tol, most, trace, floored, space)
    return status, trace[: steps + 1], mixture


def prior_of(components, mean, scale):
    """As `Workspace.prior`: of covariances, means and weights."""
    return np.concatenate([[9.0, 1.0, 0.7], np.full(components, 1.5), mean, scale.ravel()])


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [2, 5])
def test_steps_move_with_linear_maps(dim, kind, with_prior):
    """Mapped data, so that all covariances are steep, have the mapped mixture."""
    rng = np.random.default_rng(dim)
    columns, start = cloud(1, 300, dim, 3)
    scale = np.cov(columns)
    matrix = np.tril(rng.uniform(1.0, 2.0, (dim, dim)) * np.geomspace(1.0, 1e-5, dim))
    matrix[1:, 0] += 3.0
    mapped = start[0], start[1] @ matrix.T, matrix @ start[2]
    assert m_step.steepness(mapped[2][0]) > 1e4 * m_step.STEEP
    priors, within = (None, None), 1e-8
    if with_prior:  # its scale, in the coordinates of the data, is rounded to 1e-16 of the largest variance
        within = 1e-5
        mean, mapped_scale = rng.standard_normal(dim), matrix @ scale @ matrix.T
        # The scale that is the mapped one as rounded: else the two priors differ by 1e-5.
        with mp.workdps(50):
            inverse = mp.matrix(matrix.tolist()) ** -1
            scale = np.array((inverse * mp.matrix(mapped_scale.tolist()) * inverse.T).tolist(), float)
        priors = prior_of(3, mean, scale), prior_of(3, matrix @ mean, mapped_scale)
    for most in (1, 30):
        _, plain, (weights, means, factors) = ascend(columns, start, 0.0, 0.0, kind, priors[0], most)
        _, steep, found = ascend(matrix @ columns, mapped, 0.0, 0.0, kind, priors[1], most)
        np.testing.assert_allclose(found[0], weights, rtol=within)
        np.testing.assert_allclose(np.linalg.solve(matrix, found[1].T).T, means, rtol=within, atol=within)
        np.testing.assert_allclose(np.linalg.solve(matrix, found[2]), factors, rtol=within, atol=within)
        if not with_prior:
            length = min(steep.size, plain.size)
            np.testing.assert_allclose(np.diff(steep[:length]), np.diff(plain[:length]), rtol=1e-6, atol=1e-6)


def exact_log_likelihood(columns, weights, means, factors):
    """With 50 digits."""
    total = mp.mpf(0)
    inverses = [mp.matrix(factor.tolist()) ** -1 for factor in factors]
    logs = [
        mp.log(float(w)) - mp.fsum(mp.log(float(v)) for v in np.diag(f)) - len(f) * mp.log(2 * mp.pi) / 2
        for w, f in zip(weights, factors, strict=True)
    ]
    for x in columns.T:
        terms = []
        for log, mean, inverse in zip(logs, means, inverses, strict=True):
            z = inverse * mp.matrix(
                [mp.mpf(float(a)) - mp.mpf(float(b)) for a, b in zip(x, mean, strict=True)]
            )
            terms.append(mp.exp(log - mp.fsum(v * v for v in z) / 2))
        total += mp.log(mp.fsum(terms))
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e6, 1e8])
def test_a_component_of_points_and_an_outlier(kind, size):
    """EM converges, never falls by more than rounding, and its value is that of its mixture."""
    dim = 5
    for seed, count in ((2, 120), (3, 3)):
        columns, start = cloud(seed, 240, dim, 3)
        # A component of the outlier and `count` points at the end, so that three points end at the floor.
        columns[:, 0] = size * np.random.default_rng(seed).standard_normal(dim)
        rows = np.r_[0, 240 - count : 240]
        middle = columns[:, rows].mean(axis=1)
        roots = np.concatenate([np.eye(dim), (columns[:, rows] - middle[:, None]) / np.sqrt(count)], axis=1)
        triangle = np.linalg.qr(roots.T, "r")
        factor = (triangle * np.sign(np.diag(triangle))[:, None]).T
        start[1][2], start[2][2] = middle, factor
        if kind == "tied":
            start[2][:] = factor
        with np.errstate(all="raise", under="ignore"):
            status, trace, mixture = ascend(columns, start, 1e-6, 1e-12, kind)
        assert status == CONVERGED
        assert np.diff(trace).min() > -1e-6
        assert np.diff(trace)[-1] < 1e-6
        with mp.workdps(50):
            assert float(exact_log_likelihood(columns, *mixture) - mp.mpf(float(trace[-1]))) == pytest.approx(
                0.0, abs=1e-6
            )
        steep = max(m_step.steepness(one) for one in mixture[2])
        assert steep > 1e8


def test_the_floor_of_a_steep_covariance():
    """Against 60 digits, in units of the factor before."""
    dim, floor = 4, 1e-6
    rng = np.random.default_rng(5)
    before = np.tril(rng.uniform(0.5, 2.0, (dim, dim))) * [1e7, 1.0, 1e-4, 1.0]
    before += np.diag([1e7, 1.0, 1e-3, 1.0])
    before[1:, 0] = 1e7
    factor, scratch = np.empty((dim, dim)), np.empty((2, dim, dim))
    for least in (1.0, 1e-9, 0.0):
        axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        cov = axes * [0.5, 0.4, 0.3 * least, 0.2] @ axes.T
        acted, good = m_step._floored_in_units(cov, floor, before, factor, scratch)
        assert good
        with mp.workdps(60):
            left = mp.matrix(before.tolist())
            values, vectors = mp.eigsy(2 * left * mp.matrix(cov.tolist()) * left.T)
            assert acted == (min(values) < floor)
            raised = vectors * mp.diag([max(v, floor) for v in values]) * vectors.T
            expected = np.array(mp.cholesky(raised).tolist(), float)
        if least != 0.0:  # else rounding leaves 1e-17 of the covariance
            np.testing.assert_allclose(np.linalg.solve(expected, factor), np.eye(dim), atol=1e-6)
        assert np.linalg.svd(factor)[1].min() > 0.9e-3


def test_what_remains_after_gains():
    remaining = iterations.remaining_gain
    assert remaining(1e-4, 1e-3, 1e-2, 0.0) == pytest.approx(1e-4 * 0.1 / (1 - np.sqrt(0.1)))
    assert remaining(1e-14, 2e-14, 1e-14, 0.0) == np.inf
    assert remaining(1e-20, 1e-20, 1e-20, 1e-19) == pytest.approx(1e-16)
    assert remaining(1e-20, 2e-20, 4e-20, 1e-19) == pytest.approx(0.5e-20 / (1 - np.sqrt(0.5)))
    assert remaining(1e-30, 1e-9, 1e-3, 1e-6) == pytest.approx(1e-10)
    assert remaining(1e-30, 1e-9, 1e-3, 1e-30) == 0.0


def test_every_restart_beside_an_outlier_ends():
    """An outlier of 1e6 in 20 dimensions: without `STEEP`, starts may take all steps at one value."""
    rng = np.random.default_rng(0)
    x = 3.0 * rng.standard_normal((3, 20))[rng.integers(3, size=600)] + rng.standard_normal((600, 20))
    direction = rng.standard_normal(20)
    x[0] = 1e6 * direction / np.linalg.norm(direction)
    fit = fv.fit_mixture(x, 4, max_iterations=500)
    assert fit.converged
    assert fit.iterations < 500

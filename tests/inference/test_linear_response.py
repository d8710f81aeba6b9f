"""Covariances by linear response, against exact ones, quadrature and importance weights."""

import math

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.inference.linear_response import response_of


@numba.njit
def gaussian(z, mean, precision):
    s = 0.0
    for i in range(z.size):
        for j in range(z.size):
            s -= 0.5 * (z[i] - mean[i]) * precision[i, j] * (z[j] - mean[j])
    return s


@numba.njit
def gaussian_grad(z, grad, mean, precision):
    for i in range(z.size):
        grad[i] = 0.0
        for j in range(z.size):
            grad[i] -= precision[i, j] * (z[j] - mean[j])
    return gaussian(z, mean, precision)


@numba.njit
def logistic(z, x, y):
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * (z[i] / 2.5) ** 2
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += x[n, i] * z[i]
        s += y[n] * eta - max(eta, 0.0) - math.log1p(math.exp(-abs(eta)))
    return s


@numba.njit
def poisson(z, x, y):
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * (z[i] / 10.0) ** 2
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += x[n, i] * z[i]
        s += y[n] * eta - math.exp(eta)
    return s


@numba.njit
def funnel(z):
    s = -(z[0] ** 2) / 18.0
    for i in range(1, z.size):
        s -= 0.5 * z[i] ** 2 * math.exp(-z[0]) + 0.5 * z[0]
    return s


@numba.njit
def log_gamma(z, a):
    s = 0.0
    for i in range(z.size):
        s += a[i] * z[i] - math.exp(z[i])
    return s


@numba.njit
def two_modes(z, apart):
    s = -0.5 * z[2] ** 2
    for i in range(2):
        s -= 0.5 * z[i] ** 2
    return s + math.log(math.exp(apart * z[0]) + math.exp(-apart * z[0]))


def correlated(dim):
    """Deviations from 0.1 to 10, and a common factor."""
    rng = np.random.default_rng(dim)
    loading = rng.standard_normal((dim, dim)) + 3.0
    scale = np.exp(rng.standard_normal(dim))
    cov = (loading @ loading.T / dim + 0.05 * np.eye(dim)) * np.outer(scale, scale)
    precision = np.linalg.inv(cov)
    precision = 0.5 * (precision + precision.T)
    return np.linalg.inv(precision), precision


def in_deviations(cov, truth):
    scale = np.sqrt(np.diag(truth))
    return np.abs((cov - truth) / np.outer(scale, scale)).max()


@pytest.mark.parametrize(
    ("dim", "family", "method"),
    [
        (1, "full", "matrix"),
        (2, "diag", "matrix"),
        (2, "full", "matrix"),
        (3, "diag", "matrix"),
        (3, "isotropic", "matrix"),
        (3, "mean", "matrix"),
        (6, "full", "matrix"),
        (24, "full", "conjugate gradients"),
        (60, "diag", "matrix"),
    ],
)
def test_gaussian_posteriors_are_exact(dim, family, method):
    truth, precision = correlated(dim)
    model = fv.Model(gaussian, dim, (np.arange(dim) / 3.0, precision), log_joint_grad=gaussian_grad)
    held = fv.Gaussian(np.zeros(dim), 0.01 * np.eye(dim)) if family == "mean" else None
    response = fv.fit(model, family, held).linear_response()
    assert in_deviations(response.latent_cov, truth) <= 1e-8
    assert in_deviations(response.cov, truth) <= 1e-8
    np.testing.assert_allclose(response.sd, np.sqrt(np.diag(truth)), rtol=1e-8)
    assert response.method == method
    assert response.trusted, response.verdict


def test_without_a_gradient():
    truth, precision = correlated(10)
    fit = fv.fit(fv.Model(gaussian, 10, (np.arange(10) / 3.0, precision)), "diag")
    response = fit.linear_response()
    assert in_deviations(response.cov, truth) <= 1e-6
    np.testing.assert_allclose(response.ratio, response.sd / np.sqrt(np.diag(fit.q.cov)))
    assert response.gain.value > 4.0


@pytest.mark.parametrize(
    ("shapes", "family", "within"),
    [
        ((2.0,), "diag", 2e-4),
        ((2.0, 5.0), "diag", 2e-4),
        ((2.0, 5.0), "full", 2e-4),
        ((2.0, 5.0, 3.0), "diag", 0.01),
        ((2.0, 5.0, 3.0), "full", 0.01),
        (np.linspace(2.0, 5.0, 22), "full", 0.05),
    ],
)
def test_the_deviations_of_q_answer_as_well(shapes, family, within):
    """KL = exp(m + s²/2) - a m - log s, whose Hessian at s² = 1/a is (a, a s; a s, 2a + 1)."""
    a = np.array(shapes)
    response = fv.fit(fv.Model(log_gamma, a.size, (a,)), family).linear_response()
    expected = (2.0 * a + 1.0) / (2.0 * a**2)  # 0.625 for a = 2: q has 0.5, the truth is 0.645
    np.testing.assert_allclose(np.diag(response.cov), expected, rtol=within)


def test_a_year_against_quadrature():
    """Poisson counts by year: the deviations of q are 0.23 of the truth."""
    year = (np.arange(30) + 20.0) / 10.0
    x = np.column_stack([np.ones(30), year])
    y = np.random.default_rng(3).poisson(np.exp(1.0 + 0.2 * (year - 3.5))).astype(float)
    model = fv.Model(poisson, 2, (x, y))
    wide = fv.fit(model).q
    axis = np.arange(-8.0, 8.01, 0.1)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    z = wide.mean + nodes @ wide.cholesky.T
    logs = model.log_density(z)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ z
    truth = np.sqrt(weights @ (z - mean) ** 2)
    fit = fv.fit(model, "diag")
    assert (np.sqrt(np.diag(fit.q.cov)) <= 0.25 * truth).all()
    response = fit.linear_response()
    np.testing.assert_allclose(response.sd, truth, rtol=0.005)
    assert response.trusted, response.verdict


@pytest.mark.parametrize(("log_joint", "family"), [(logistic, "diag"), (poisson, "isotropic")])
def test_regressions_against_importance_weights(log_joint, family):
    rng = np.random.default_rng(1)
    x = 0.3 * (rng.standard_normal((80, 5)) + 4.0 * rng.standard_normal((80, 1)))
    x[:, 0] = 1.0
    eta = x @ (0.5 * rng.standard_normal(5))
    y = rng.poisson(np.exp(eta)) if log_joint is poisson else rng.random(80) < 1 / (1 + np.exp(-eta))
    model = fv.Model(log_joint, 5, (x, y.astype(float)))
    wide = fv.fit(model).q
    z = wide.sample(100_000, 0)
    logs = model.log_density(z) - wide.logpdf(z)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    assert 1.0 / (weights**2).sum() >= 50_000
    truth = np.sqrt(weights @ (z - weights @ z) ** 2)
    fit = fv.fit(model, family)
    assert np.min(np.sqrt(np.diag(fit.q.cov)) / truth) <= 0.6
    response = fit.linear_response()
    np.testing.assert_allclose(response.sd, truth, rtol=0.04)
    assert response.trusted, response.verdict


def test_positive_coordinates_are_log_normal():
    """log z is Gaussian with deviations 0.8 and 0.6 and a correlation of 0.9."""
    scale, cov = np.array([0.8, 0.6]), np.array([[0.64, 0.432], [0.432, 0.36]])
    precision = np.linalg.inv(cov)

    def log_joint(p, precision):
        a, b = math.log(p.a), math.log(p.b)
        square = precision[0, 0] * a * a + 2.0 * precision[0, 1] * a * b + precision[1, 1] * b * b
        return -0.5 * square - a - b

    model = fv.Model(log_joint, {"a": "positive", "b": "positive"}, (precision,))
    response = fv.fit(model, "diag").linear_response()
    mean = np.exp(0.5 * scale**2)
    np.testing.assert_allclose(response.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(response.cov, np.outer(mean, mean) * np.expm1(cov), rtol=1e-7)
    ratio = response.of(lambda p: np.log(p["a"] / p["b"]), named=True)
    assert abs(ratio.sd[0] / math.sqrt(0.64 + 0.36 - 0.864) - 1.0) <= 0.02
    both = response.of(lambda z: np.column_stack([z[:, 0], z[:, 1]]), rng=1)
    np.testing.assert_allclose(both.cov, response.cov, rtol=0.05)
    assert response.trusted, response.verdict
    for function in (lambda z: 1.0, lambda z: z[:5], lambda z: z * math.nan):
        with pytest.raises(ValueError, match="function "):
            response.of(function)
    with pytest.raises(TypeError, match="no names"):
        fv.fit(fv.Model(funnel, 2)).linear_response().of(len, named=True)


@pytest.mark.parametrize("family", ["diag", "full"])
@pytest.mark.parametrize("dim", [2, 5])
def test_a_funnel_is_not_trusted(dim, family):
    response = fv.fit(fv.Model(funnel, dim), family).linear_response()
    assert not response.trusted, response.verdict


def test_a_mode_that_q_misses_is_named():
    fit = fv.fit(fv.Model(two_modes, 3, (6.0,)), "diag", fv.Gaussian([6.0, 0.0, 0.0], np.eye(3)))
    response = fit.linear_response()
    assert not response.trusted
    assert "misses the mode at z = [-6" in response.verdict
    np.testing.assert_allclose(response.latent_cov, np.eye(3), atol=0.02)


def test_what_a_diagnosis_found_counts():
    """The mode at -30 is on none of the rays of the short search."""
    fit = fv.fit(fv.Model(gaussian, 3, (np.zeros(3), np.eye(3))), "diag")
    found = fit.diagnose()._replace(other_mode=np.array([-30.0, 0.0, 0.0]))
    response = response_of(fit.model, "diag", fit.q, True, lambda: found, True)
    assert "misses the mode at z = [-30, 0, 0]" in response.verdict
    assert response_of(fit.model, "diag", fit.q, True, lambda: found).trusted


@pytest.mark.parametrize(("dim", "most"), [(6, 1700), (60, 4500)])
def test_what_it_costs(dim, most):
    """64 (R + 1) gradients, of many coordinates 16 (R + 1), 128 or 96 values for the gain, 500 or 1,000
    weights, and a search without diagnosis.
    """
    _, precision = correlated(dim)
    fit = fv.fit(fv.Model(gaussian, dim, (np.zeros(dim), precision), log_joint_grad=gaussian_grad), "diag")
    response = fit.linear_response()
    assert fit._diagnosis is None
    assert response.trusted
    assert response.evaluations <= most, response.evaluations


def test_no_covariance_where_there_is_no_minimum():
    model = fv.Model(gaussian, 3, (np.zeros(3), np.diag([1.0, -1.0, 1.0])))
    diagnosis = fv.fit(fv.Model(gaussian, 3, (np.zeros(3), np.eye(3)))).diagnose()
    for family in ("diag", "full", "isotropic"):
        response = response_of(model, family, fv.Gaussian(np.zeros(3), np.eye(3)), True, lambda: diagnosis)
        assert not response.trusted
        assert "not positive definite" in response.verdict
        assert response.q is None
        assert np.isnan(response.cov).all()
        assert np.isnan(response.sd).all()
        with pytest.raises(ValueError, match="not positive definite"):
            response.of(lambda z: z)


def test_a_fault_near_q_is_told():
    def log_joint(z):
        return math.nan if z[0] > 1.0 else -0.5 * (z**2).sum()

    q = fv.Gaussian(np.zeros(3), np.eye(3))
    diagnosis = fv.fit(fv.Model(gaussian, 3, (np.zeros(3), np.eye(3)))).diagnose()
    response = response_of(fv.Model(log_joint, 3), "diag", q, True, lambda: diagnosis)
    assert response.q is None
    assert response.verdict.startswith("no covariance: log_joint is nan at z = [")


def test_a_fit_that_has_not_converged_is_not_trusted():
    truth, precision = correlated(3)
    model = fv.Model(gaussian, 3, (np.full(3, 2.0), precision))
    fit = fv.fit(model, "diag", fv.Gaussian(np.zeros(3), truth), max_steps=1)
    assert not fit.converged
    assert "has not converged" in fit.linear_response().verdict


def test_refusals():
    model = fv.Model(gaussian, 1, (np.ones(1), np.eye(1)), "positive")
    diagnosis = fv.fit(model).diagnose()
    with pytest.raises(ValueError, match="needs a Gaussian q, not a TruncatedGaussian"):
        response_of(model, "truncated", fv.TruncatedGaussian(1.0, 1.0, 0.0), True, lambda: diagnosis)
    q = fv.Gaussian(np.zeros(201), np.eye(201))
    with pytest.raises(ValueError, match="up to 200 latent dimensions, q has 201"):
        response_of(fv.Model(funnel, 201), "full", q, True, lambda: diagnosis)

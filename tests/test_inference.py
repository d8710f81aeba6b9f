"""ELBO, log evidence, their decomposition, and fits: exact posteriors, independent quadrature, bad input."""

import math
import re

import numba
import numpy as np
import pytest
from reference import posterior_nodes
from scipy import stats
from scipy.special import log_ndtr, logsumexp

import fastvi as fv

# Log joints are compiled once for this module: what differs from model to model is in their data.

NORMAL, LOGISTIC, POISSON, STUDENT, MIXTURE, POLYNOMIAL = range(6)


@numba.njit
def row_10(z, x):
    """p(z) = exp(-z), p(x | z) = N(x | z, 1)."""
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)


@numba.njit
def quadratic(z, center, precision):
    s = 0.0
    for i in range(z.size):
        for j in range(z.size):
            s += (z[i] - center[i]) * precision[i, j] * (z[j] - center[j])
    return -0.5 * s


@numba.njit
def glm(z, kind, rows, y, noise, center, spread):
    """A Gaussian prior (cut to the support), and a likelihood of the linear predictors rows @ z."""
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * ((z[i] - center) / spread) ** 2 + math.log(spread) + 0.5 * math.log(2 * math.pi)
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += rows[n, i] * z[i]
        if kind == NORMAL:
            s -= 0.5 * ((y[n] - eta) / noise) ** 2 + math.log(noise) + 0.5 * math.log(2 * math.pi)
        elif kind == LOGISTIC:
            t = eta if y[n] > 0.5 else -eta
            s -= math.log1p(math.exp(-t)) if t > -30.0 else -t
        elif kind == POISSON:
            s += y[n] * eta - math.exp(min(eta, 700.0)) - math.lgamma(y[n] + 1.0)
        elif kind == STUDENT:
            s -= 2.5 * math.log1p(((y[n] - eta) / noise) ** 2 / 4.0)
        elif kind == MIXTURE:
            r = y[n] - eta
            s += math.log(0.7 * math.exp(-4.0 / 9.0 * r * r) + 0.1) - 0.5 * (r / 3.0) ** 2
        else:
            s += 0.3 * y[n] * eta - 0.02 * eta**4
    return s


@numba.njit
def glm_slopes(z, grad, kind, rows, y, noise, center, spread):
    for i in range(z.size):
        grad[i] = -(z[i] - center) / spread**2
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += rows[n, i] * z[i]
        if kind == NORMAL:
            slope = (y[n] - eta) / noise**2
        elif kind == LOGISTIC:
            slope = y[n] - 1.0 / (1.0 + math.exp(-eta))
        else:
            slope = y[n] - math.exp(min(eta, 700.0))
        for i in range(z.size):
            grad[i] += slope * rows[n, i]
    return glm(z, kind, rows, y, noise, center, spread)


NAN, INFINITE, ZERO, RAISES, ZERO_EVERYWHERE, FLAT, NAN_EVERYWHERE = range(7)


@numba.njit
def faulty(z, kind, edge):
    """A standard normal in the sum of the coordinates' squares, with something wrong at z[0] > edge."""
    if kind == FLAT:
        return 0.0 * z[0]
    if kind == ZERO_EVERYWHERE:
        return -math.inf
    if kind == NAN_EVERYWHERE:
        return math.nan
    if z[0] > edge:
        if kind == NAN:
            return math.nan
        if kind == INFINITE:
            return math.inf
        if kind == ZERO:
            return -math.inf
        raise ValueError("no")
    return -0.5 * (z * z).sum()


@numba.njit
def cauchy(z, scale):
    s = 0.0
    for i in range(z.size):
        s -= math.log1p((z[i] / scale) ** 2)
    return s


def says(error, *parts):
    """A context that wants `error` with all `parts` in this order in its message."""
    return pytest.raises(error, match="(?s)" + ".*".join(re.escape(part) for part in parts))


def random_cov(rng, dim, condition=10.0):
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rotation * np.geomspace(1, condition, dim)) @ rotation.T


def regression(rng, kind, rows, prior=10.0, noise=0.5, grad=False):
    rows = np.atleast_2d(np.asarray(rows, float))
    eta = rows @ (rng.standard_normal(rows.shape[1]) / np.abs(rows).max(axis=0))
    if kind == LOGISTIC:
        y = (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)
    elif kind == POISSON:
        y = rng.poisson(np.exp(np.clip(eta, -5, 3))).astype(float)
    else:
        y = eta + noise * rng.standard_normal(len(eta))
    data = (kind, rows, y, float(noise), 0.0, float(prior))
    return fv.Model(glm, rows.shape[1], data=data, log_joint_grad=glm_slopes if grad else None)


def exact_regression(model):
    """Mean, covariance, log marginal likelihood of Bayesian linear regression (Bishop 2006, eq. 3.53, 3.54)."""
    _, rows, y, noise, _, prior = model.data
    cov = np.linalg.inv(rows.T @ rows / noise**2 + np.eye(rows.shape[1]) / prior**2)
    marginal = noise**2 * np.eye(len(y)) + prior**2 * rows @ rows.T
    return cov @ rows.T @ y / noise**2, cov, stats.multivariate_normal(np.zeros(len(y)), marginal).logpdf(y)


def gap(q, mean, cov):
    """How far q is from N(mean, cov), in units of its spread: the larger of mean's and covariance's."""
    factor = np.linalg.cholesky(cov)
    shift = np.linalg.solve(factor, q.mean - mean)
    ratio = np.linalg.solve(factor, np.linalg.solve(factor, q.cov).T) - np.eye(len(mean))
    return max(np.abs(shift).max(), np.abs(ratio).max())


# The worked example: p(z) = exp(-z), p(x | z) = N(x | z, 1), q = N(z | mu, 1).

WHERE = [-5.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0, 12.0, 40.0]


@pytest.mark.parametrize("x", WHERE)
def test_worked_example_on_the_whole_line(x):
    model = fv.Model(row_10, 1, data=(x,))
    for mu in (-3.0, x - 1.0, x + 2.0):
        bound = fv.elbo(model, fv.Gaussian(mu, 1.0))
        expected = 0.5 - x - 0.5 * (mu - x + 1.0) ** 2
        assert abs(bound.value - expected) <= max(bound.error, 1e-12) <= 1e-8
        slope = fv.elbo_grad(model, fv.Gaussian(mu, 1.0))
        assert abs(slope.mean[0] - (x - 1.0 - mu)) <= 1e-8 * (1 + abs(expected))
    for family in ("full", "diag", "isotropic"):
        found = fv.fit(model, family)
        assert found.converged
        assert abs(found.q.mean[0] - (x - 1.0)) <= 1e-10 * (1.0 + abs(x))
        assert abs(found.q.cov[0, 0] - 1.0) <= 1e-9
        assert abs(found.elbo.value - (0.5 - x)) <= 1e-10
    held = fv.fit(model, "mean", fv.Gaussian(0.0, 1.0))
    assert held.converged
    assert abs(held.q.mean[0] - (x - 1.0)) <= 1e-10 * (1.0 + abs(x))
    parts = fv.decompose(model, found.q)
    assert abs(parts.kl.value) <= 1e-10
    assert abs(parts.log_evidence.value - (0.5 - x)) <= parts.log_evidence.error <= 1e-8
    assert abs(parts.residual) <= parts.error


@pytest.mark.parametrize("x", WHERE)
def test_worked_example_on_the_half_line(x):
    model = fv.Model(row_10, 1, data=(x,), support="positive")
    exact = 0.5 - x + log_ndtr(x - 1.0)
    evidence = fv.log_evidence(model)
    assert abs(evidence.value - exact) <= evidence.error + 4e-16 * abs(exact) <= 1e-8
    cut = fv.fit(model, "truncated")
    assert cut.converged, cut
    assert abs(cut.q.mu - (x - 1.0)) <= 1e-6 * (1.0 + abs(x))
    assert abs(cut.q.sigma - 1.0) <= 1e-6
    assert abs(cut.elbo.value - exact) <= 1e-10 * (1.0 + abs(exact))
    parts = fv.decompose(model, cut.q)
    assert abs(parts.kl.value) <= 1e-10
    assert abs(parts.residual) <= parts.error
    # Gaussian in log z: an approximation.
    carried = fv.fit(model)
    assert carried.converged, carried
    parts = fv.decompose(model, carried.q)
    assert parts.kl.value > 1e-6
    assert abs(parts.residual) <= parts.error <= 1e-6
    assert carried.elbo.value < exact


def test_a_gaussian_on_the_whole_line_has_mass_where_the_joint_is_zero():
    model = fv.Model(row_10, 1, data=(2.0,), support="positive")
    bound = fv.elbo(model, fv.Gaussian(1.0, 1.0))
    assert bound.value == -math.inf
    assert "q has mass where the joint is zero" in bound.note
    assert "TransformedGaussian" in bound.note
    parts = fv.decompose(model, fv.Gaussian(1.0, 1.0))
    assert (parts.elbo.value, parts.kl.value, parts.residual) == (-math.inf, math.inf, 0.0)
    assert math.isfinite(parts.log_evidence.value)
    with says(ValueError, "q has mass where the joint is zero"):
        fv.elbo_grad(model, fv.Gaussian(1.0, 1.0))
    # The same without a declared support: the log joint itself says -inf.
    bound = fv.elbo(fv.Model(faulty, 1, data=(ZERO, 0.5)), fv.Gaussian(0.0, 1.0))
    assert bound.value == -math.inf
    assert "log_joint is -inf at z = " in bound.note
    assert 'support="positive"' in bound.note
    assert 'family="truncated"' in bound.note
    wide = fv.TruncatedGaussian(1.0, 1.0, -1.0)
    assert "Truncate q to the support" in fv.elbo(model, wide).note


# Conjugate models.


@pytest.mark.parametrize(
    ("dim", "scale"), [(1, 1.0), (1, 100.0), (2, 0.01), (2, 1.0), (2, 100.0), (3, 1.0), (10, 1.0), (50, 1.0)]
)
def test_linear_regression_is_exact(dim, scale):
    rng = np.random.default_rng(dim)
    # Predictors in different units, from `scale` to 1 / scale.
    rows = rng.standard_normal((60, dim)) * np.geomspace(scale, 1 / scale, dim)
    model = regression(rng, NORMAL, rows, prior=3.0)
    mean, cov, evidence = exact_regression(model)
    found = fv.fit(model)
    assert found.converged, found
    assert gap(found.q, mean, cov) <= (1e-8 if dim <= 2 else 3e-6)
    # At the optimum an error of the parameters enters the ELBO squared.
    assert abs(found.elbo.value - evidence) <= found.elbo.error + 1e-10 * (1 + abs(evidence))
    if dim <= 2:
        assert abs(fv.log_evidence(model).value - evidence) <= 1e-9 * (1 + abs(evidence))
        assert found.elbo.error <= 1e-7


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 20])
def test_families_on_a_quadratic(dim):
    rng = np.random.default_rng(100 + dim)
    precision = random_cov(rng, dim, 30.0)
    center = rng.standard_normal(dim)
    model = fv.Model(quadratic, dim, data=(center, precision))
    log_z = 0.5 * dim * math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    accuracy = 1e-8 if dim <= 2 else 3e-6
    held = random_cov(rng, dim, 3.0)
    covs = {
        "full": np.linalg.inv(precision),
        "diag": np.diag(1 / np.diag(precision)),
        "isotropic": dim / np.trace(precision) * np.eye(dim),
        "mean": held,
    }
    for family, cov in covs.items():
        found = fv.fit(model, family, fv.Gaussian(np.zeros(dim), held) if family == "mean" else None)
        assert found.converged and found.family == family, found
        assert gap(found.q, center, cov) <= accuracy, family
        kl = fv.kl(fv.Gaussian(center, cov), fv.Gaussian(center, np.linalg.inv(precision)))
        assert abs(found.elbo.value - (log_z - kl)) <= found.elbo.error + 1e-9 * (1 + abs(log_z)), family
        assert found.trace[-1] <= log_z + 1e-9 * (1 + abs(log_z))


# 100 random models, whose evidence is known from Gauss-Legendre rules.

PLACES = [
    ("real", 1),
    ("positive", 1),
    (("interval", -0.5, 2.0), 1),
    (("lower", -1.0), 1),
    (("upper", 1.5), 1),
    (["simplex", "simplex"], 2),
    ("real", 2),
    (["real", "positive"], 2),
    ([("interval", 0.0, 1.0), ("upper", 1.0)], 2),
    (["simplex"] * 3, 3),
]


def random_model(seed):
    rng = np.random.default_rng((7, seed))
    support, dim = PLACES[seed % len(PLACES)]
    kinds = [LOGISTIC, STUDENT, MIXTURE, POLYNOMIAL]
    # E[exp(z)] is infinite for a log-normal z.
    if support == "real" or "simplex" in support:
        kinds.append(POISSON)
    kind = int(rng.choice(kinds))
    rows = rng.standard_normal((rng.integers(1, 9), dim))
    eta = rows @ rng.uniform(0, 1, dim)
    if kind == LOGISTIC:
        y = (rng.random(len(eta)) < 0.5).astype(float)
    elif kind == POISSON:
        y = rng.poisson(np.exp(eta)).astype(float)
    else:
        y = eta + rng.standard_normal(len(eta))
    data = (kind, rows, y, 1.0, float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.5, 2.0)))
    return fv.Model(glm, dim, data=data, support=support), rng


def box(model):
    """The kind of nodes, and ends of the axes: 10 deviations of the prior where there is no bound."""
    center, spread = model.data[4:]
    if "simplex" in model.support:
        return "simplex", [0.0] * (model.dim - 1), [1.0] * (model.dim - 1)
    entries = model.support if isinstance(model.support, list) else [model.support] * model.dim
    low, high = [center - 10 * spread] * model.dim, [center + 10 * spread] * model.dim
    for i, entry in enumerate(entries):
        if entry == "positive":
            low[i] = 0.0
        elif entry[0] == "lower":
            low[i] = entry[1]
        elif entry[0] == "upper":
            high[i] = entry[1]
        elif entry[0] == "interval":
            low[i], high[i] = entry[1:]
    return "box", low, high


def integrals(model, q):
    """(log evidence, ELBO of q, KL of q from the posterior), all over the same Gauss-Legendre nodes."""
    z, weight = posterior_nodes(*box(model), count=600 if model.latent_dim == 1 else 200)
    f = model.log_density(z)
    evidence = logsumexp(f + weight)
    g = q.logpdf(z)
    share = np.exp(g + weight)
    inside = share > 1e-300
    kl = float((share[inside] * (g[inside] - f[inside] + evidence)).sum())
    return evidence, kl, float(share.sum())


@pytest.mark.parametrize("seed", range(100))
def test_decomposition_of_random_models(seed):
    model, rng = random_model(seed)
    found = fv.fit(model)
    assert found.converged, found
    gaussian = found.q if isinstance(found.q, fv.Gaussian) else found.q.gaussian
    sd = np.sqrt(np.diag(gaussian.cov))
    other = fv.Gaussian(gaussian.mean + sd * rng.uniform(-1, 1, len(sd)), gaussian.cov * rng.uniform(0.3, 2))
    if model.support != "real":
        other = fv.TransformedGaussian(other, model.support, model.dim)
    for q in (found.q, other):
        parts = fv.decompose(model, q)
        assert abs(parts.residual) <= parts.error, parts
        assert parts.error <= 1e-7 * (1 + abs(parts.log_evidence.value)), parts
        assert parts.elbo.value - parts.elbo.error <= parts.log_evidence.value + parts.log_evidence.error
        evidence, kl, mass = integrals(model, q)
        rounding = 1e-12 * (1 + abs(evidence))
        assert abs(parts.log_evidence.value - evidence) <= parts.log_evidence.error + rounding
        if abs(mass - 1) <= 1e-10:  # else the rule does not resolve q, at the end of the support
            assert abs(parts.kl.value - kl) <= parts.kl.error + 1e-9
    assert found.elbo.value >= fv.elbo(model, other).value - 1e-9
    assert abs(fv.elbo(model, found.q).value - found.elbo.value) <= 2 * found.elbo.error + 1e-9

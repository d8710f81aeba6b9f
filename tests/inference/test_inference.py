"""ELBO, log evidence, their decomposition, and fits: exact posteriors, independent quadrature, bad input."""

import math
import pickle

import numba
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_ndtr, logsumexp

import fastvi as fv
from fastvi import kernels
from fastvi.common import scratch
from fastvi.inference import deterministic, diagnostics, expectations, kernel_calls
from helpers.memory import spoiled
from helpers.messages import says
from reference.inference import posterior_nodes

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
def glm_gradient(z, grad, kind, rows, y, noise, center, spread):
    for i in range(z.size):
        grad[i] = -(z[i] - center) / spread**2
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += rows[n, i] * z[i]
        if kind == NORMAL:
            derivative = (y[n] - eta) / noise**2
        elif kind == LOGISTIC:
            derivative = y[n] - 1.0 / (1.0 + math.exp(-eta))
        else:
            derivative = y[n] - math.exp(min(eta, 700.0))
        for i in range(z.size):
            grad[i] += derivative * rows[n, i]
    return glm(z, kind, rows, y, noise, center, spread)


NAN, INFINITE, ZERO, RAISES, ZERO_EVERYWHERE, FLAT, NAN_EVERYWHERE = range(7)


@numba.njit
def faulty(z, kind, edge):
    """A standard normal in the sum of the coordinates' squares, with something wrong at z[0] > edge."""
    if kind == FLAT:
        return 0.0
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
    return fv.Model(glm, rows.shape[1], data=data, log_joint_grad=glm_gradient if grad else None)


def exact_regression(model):
    """Mean, covariance and log marginal likelihood (Bishop 2006, eq. 3.53, 3.54 and 3.86)."""
    _, rows, y, noise, _, prior = model.data
    cov = np.linalg.inv(rows.T @ rows / noise**2 + np.eye(rows.shape[1]) / prior**2)
    mean = cov @ rows.T @ y / noise**2
    misfit = ((y - rows @ mean) ** 2).sum() / noise**2 + (mean**2).sum() / prior**2
    evidence = 0.5 * (
        np.linalg.slogdet(cov / prior**2)[1] - misfit - len(y) * math.log(2 * math.pi * noise**2)
    )
    return mean, cov, evidence


def gap(q, mean, cov):
    """How far q is from N(mean, cov), in units of its spread."""
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
        gradient = fv.elbo_grad(model, fv.Gaussian(mu, 1.0))
        assert abs(gradient.mean[0] - (x - 1.0 - mu)) <= 1e-8 * (1 + abs(expected))
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
        assert found.converged, found
        assert found.family == family, found
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


def true_kl(model, q, evidence):
    """KL of q from the posterior for one latent coordinate, over 12 deviations of q."""
    gaussian = q if isinstance(q, fv.Gaussian) else q.gaussian
    mean, sd = gaussian.mean[0], math.sqrt(gaussian.cov[0, 0])
    latent, weight = posterior_nodes("box", [mean - 12 * sd], [mean + 12 * sd], 500)
    z, log_jacobian = model._support.to_model(latent)
    g = gaussian.logpdf(latent)
    return float((np.exp(g + weight) * (g - model.log_density(z) - log_jacobian + evidence)).sum())


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
    z, weight = posterior_nodes(*box(model), count=600 if model.latent_dim == 1 else 200)
    evidence = logsumexp(model.log_density(z) + weight)
    for q in (found.q, other):
        parts = fv.decompose(model, q)
        assert abs(parts.residual) <= parts.error, parts
        assert parts.error <= 1e-7 * (1 + abs(parts.log_evidence.value)), parts
        assert parts.elbo.value - parts.elbo.error <= parts.log_evidence.value + parts.log_evidence.error
        rounding = 1e-11 * (1 + abs(evidence))
        assert abs(parts.log_evidence.value - evidence) <= parts.log_evidence.error + rounding
        if model.latent_dim == 1:
            assert abs(parts.kl.value - true_kl(model, q, evidence)) <= parts.kl.error + 1e-10
    assert found.elbo.value >= fv.elbo(model, other).value - 1e-9
    again = fv.elbo(model, found.q)
    assert abs(again.value - found.elbo.value) <= again.error + found.elbo.error + 1e-9


# Gradients.


def difference(model, gaussian, wrap, entry, h):
    """The ELBO's central difference in an entry of the mean, or of the factor's lower triangle."""
    values = []
    for sign in (1, -1):
        mean, factor = gaussian.mean.copy(), gaussian.cholesky.copy()
        (mean if len(entry) == 1 else factor)[entry] += sign * h
        values.append(fv.elbo_grad(model, wrap(fv.Gaussian(mean, factor @ factor.T))).value)
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize(
    ("support", "dim", "grad"),
    [
        ("real", 1, False),
        ("positive", 1, False),
        ("real", 2, False),
        (["simplex"] * 3, 3, False),
        ("real", 3, False),
        ("real", 3, True),
        (["simplex", "simplex", "positive", ("upper", 1.0)], 4, True),
        (["simplex", "simplex", "simplex", "simplex"], 4, True),
        (("simplex", 2), 4, False),
        (["positive", ("ordered", 3)], 4, True),
        (("cholesky_corr", 3), 9, True),
    ],
)
def test_gradients(support, dim, grad):
    rng = np.random.default_rng(dim)
    model = regression(rng, LOGISTIC, rng.standard_normal((12, dim)), grad=grad)
    model = fv.Model(glm, dim, model.data, support, glm_gradient if grad else None)
    r = model.latent_dim
    gaussian = fv.Gaussian(0.5 * rng.standard_normal(r), 0.3 * random_cov(rng, r, 3.0) / r)

    def wrap(g):
        return g if support == "real" else fv.TransformedGaussian(g, support, dim)

    found = fv.elbo_grad(model, wrap(gaussian))
    for i in range(r):
        assert abs(difference(model, gaussian, wrap, (i,), 1e-4) - found.mean[i]) <= 1e-6 * (
            1 + abs(found.mean[i])
        )
        for j in range(i + 1):
            expected = difference(model, gaussian, wrap, (i, j), 1e-4)
            assert abs(expected - found.cholesky[i, j]) <= 1e-6 * (1 + abs(expected))
    assert not np.triu(found.cholesky, 1).any()
    bound = fv.elbo(model, wrap(gaussian))
    assert abs(bound.value - found.value) <= (
        15 * bound.error + 1e-10 if r > 2 else 1e-10 * (1 + abs(bound.value))
    )


def test_given_gradients_and_differences_find_the_same():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 4))
    for kind in (LOGISTIC, POISSON, NORMAL):
        data = regression(np.random.default_rng(4), kind, rows).data
        model = fv.Model(glm, 4, data, log_joint_grad="differences")
        given = fv.Model(glm, 4, data, log_joint_grad=glm_gradient)
        assert fv.check_gradient(given)
        one, two = fv.fit(model), fv.fit(given)
        assert one.converged
        assert two.converged
        # Their starts differ: Laplace's approximation by gradients, and by values.
        assert gap(one.q, two.q.mean, two.q.cov) <= 1e-4
        assert two.evaluations < one.evaluations
    # A wrong gradient of another kind is detected.
    wrong = fv.Model(glm, 4, (STUDENT, *given.data[1:]), log_joint_grad=glm_gradient)
    assert not fv.check_gradient(wrong)
    assert "the gradient is wrong: grad[" in str(fv.check_gradient(wrong))
    with says(ValueError, "model has no gradient to check: it takes differences"):
        fv.check_gradient(model)


def test_fixed_draws_are_spread_evenly():
    pairs, dim = 256, 3
    draws = expectations._pairs(3, pairs, dim)
    np.testing.assert_array_equal(draws[:pairs], -draws[pairs:])
    np.testing.assert_allclose(draws.T @ draws / (2 * pairs), np.eye(dim), atol=1e-12)
    assert not np.array_equal(draws, expectations._pairs(4, pairs, dim))
    # The mean over fixed draws has an error of 0.007; over independent draws it is 0.015.
    gaps = [np.cos(expectations._pairs(k, 64, 5)).mean(axis=0) - math.exp(-0.5) for k in range(20)]
    assert np.sqrt(np.square(gaps).mean()) <= 0.01
    assert ((draws[:pairs] > 0).mean(axis=0) > 0.2).all()
    assert ((draws[:pairs] < 0).mean(axis=0) > 0.2).all()


def skewed(grad=True):
    """A posterior for whose diagonal fit the first draws are too few."""
    rows = np.random.default_rng(2).standard_normal((4, 6))
    return regression(np.random.default_rng(2), POISSON, rows, prior=2.0, grad=grad)


def test_a_fit_does_not_remember_another():
    model = skewed()
    one = fv.fit(model, "diag")
    fv.fit(regression(np.random.default_rng(6), LOGISTIC, np.eye(6), prior=2.0, grad=True), "diag")
    two = fv.fit(model, "diag")
    assert one.elbo == two.elbo
    assert one.evaluations == two.evaluations
    np.testing.assert_array_equal(one.trace, two.trace)
    np.testing.assert_array_equal(one.q.cov, two.q.cov)


def test_scratch_space_may_hold_anything(monkeypatch):
    plane = fv.Model(quadratic, 2, (np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])))

    def answers():
        fits = [
            fv.fit(fv.Model(row_10, 1, data=(2.0,))),
            fv.fit(plane),
            fv.fit(fv.Model(row_10, 1, data=(2.0,), support="positive"), "truncated"),
            fv.fit(skewed(), "diag"),
        ]
        return [*(found.elbo for found in fits), fv.log_evidence(plane)]

    def full_of_nan(make, *key):
        kind = make.__name__.removesuffix("_workspace")
        return spoiled(kernel_calls.workspace_class(kind), make(*key))

    expected = answers()
    monkeypatch.setattr(scratch, "space", full_of_nan)
    assert answers() == expected


def test_more_draws_go_on_where_fewer_have_led(monkeypatch):
    """From the mean, covariance and curvature that a fit on fewer draws has found."""
    model, fixed = skewed(), kernels.inference.entry_points.fit_draws
    counts = []

    def counting(*arguments):
        if len(arguments[2]) > 1:  # one draw that is zero: an ascent of the density, for the start
            counts.append(len(arguments[2]))
        return fixed(*arguments)

    def forgetting(*arguments):
        space = kernels.borrowing.named(kernels.inference.draws_fits.Workspace, arguments[-1])
        space.curvature[kernels.inference.draws_fits.BEGIN] = 0
        return counting(*arguments)

    monkeypatch.setattr(kernels.inference.entry_points, "fit_draws", counting)
    found = fv.fit(model, "diag")
    assert found.converged
    assert counts[:2] == [24, 64]
    monkeypatch.setattr(kernels.inference.entry_points, "fit_draws", forgetting)
    assert found.evaluations < fv.fit(model, "diag").evaluations
    monkeypatch.setattr(kernels.inference.entry_points, "fit_draws", fixed)
    monkeypatch.setattr(deterministic, "_FEW_PAIRS", 32)
    assert found.evaluations < fv.fit(model, "diag").evaluations


def test_a_diagonal_covariance_is_one_among_all():
    model, mean, deviations = skewed(), np.linspace(-0.2, 0.3, 6), np.linspace(0.1, 0.6, 6)
    almost = np.diag(deviations**2)
    almost[3, 1] = almost[1, 3] = 1e-100
    one, two = (fv.elbo(model, fv.Gaussian(mean, cov)) for cov in (np.diag(deviations**2), almost))
    assert abs(one.value - two.value) <= 1e-12 * abs(one.value)
    assert abs(one.error - two.error) <= 1e-9 * one.error


# Badly scaled posteriors, from the default start.


@pytest.mark.parametrize("kind", [NORMAL, LOGISTIC, POISSON])
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_uncentred_predictors(kind, dim):
    rng = np.random.default_rng((kind, dim))
    # An intercept, and a year: a correlation of -0.9999 and scales that differ by thousands.
    rows = np.column_stack(
        [np.ones(80), 200.0 + 2.0 * rng.standard_normal(80), rng.standard_normal((80, dim - 2))]
    )
    center = rows.mean(axis=0) * (np.arange(dim) == 1)
    slopes = np.concatenate([[0.3, 0.5], rng.uniform(-0.5, 0.5, dim - 2)])
    eta = (rows - center) @ slopes
    if kind == NORMAL:
        y = eta + 0.5 * rng.standard_normal(80)
    elif kind == LOGISTIC:
        y = (rng.random(80) < 1 / (1 + np.exp(-eta))).astype(float)
    else:
        y = rng.poisson(np.exp(eta)).astype(float)
    model = fv.Model(glm, dim, (kind, rows, y, 0.5, 0.0, 1000.0))
    found = fv.fit(model)
    assert found.converged, found
    cov = found.q.cov
    assert abs(cov[0, 1]) / math.sqrt(cov[0, 0] * cov[1, 1]) > 0.999
    if kind == NORMAL:
        mean, cov, evidence = exact_regression(model)
        assert gap(found.q, mean, cov) <= (1e-6 if dim == 2 else 1e-4)
        assert abs(found.elbo.value - evidence) <= found.elbo.error + 1e-6
    else:
        # The same posterior in coordinates in which it is uncorrelated: z = shear w.
        shear = np.eye(dim)
        shear[0, 1] = -rows[:, 1].mean()
        eased = fv.fit(fv.Model(glm, dim, (kind, rows @ shear, y, 0.5, 0.0, 1000.0)))
        assert eased.converged, eased
        # The prior of the intercept is not the same in both, but flat.
        assert gap(found.q, shear @ eased.q.mean, shear @ eased.q.cov @ shear.T) <= 0.1


# Bad input, and the messages.


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "words"), [(NAN, "is nan"), (INFINITE, "is +inf"), (RAISES, "raised ValueError (no)")]
)
def test_faults_of_a_log_joint_say_where(dim, kind, words):
    model = fv.Model(faulty, dim, (kind, 0.5))
    q = fv.Gaussian(np.zeros(dim), np.eye(dim))
    calls = [fv.elbo, fv.elbo_grad] + ([fv.decompose] if dim < 3 else [])
    for call in calls:
        with says(ValueError, f"log_joint {words} at z = [") as caught:
            call(model, q)
        assert float(str(caught.value).split("z = [")[1].split(",")[0].split("]")[0]) > 0.5
    edge = fv.Model(faulty, dim, (kind, -1.0))
    with says(ValueError, "the fit cannot start", f"log_joint {words} at z = ["):
        fv.fit(edge)
    with says(ValueError, f"log_joint {words} at z = ["):
        fv.fit(model, start=q)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", [ZERO_EVERYWHERE, NAN_EVERYWHERE])
def test_nothing_to_fit(dim, kind):
    words = "is -inf" if kind == ZERO_EVERYWHERE else "is nan"
    with says(ValueError, "the fit cannot start", f"log_joint {words} at z = "):
        fv.fit(fv.Model(faulty, dim, (kind, 0.0)))


def test_improper_posteriors():
    for dim in (1, 2):
        flat = fv.Model(faulty, dim, (FLAT, 0.0))
        found = fv.log_evidence(flat)
        assert found.value == math.inf
        assert found.error == math.inf
        assert "the posterior is improper" in found.note
        with says(ValueError, "the posterior is improper"):
            fv.fit(flat)


def test_what_is_far_wider_than_q():
    model = fv.Model(quadratic, 1, (np.zeros(1), np.full((1, 1), 1e-4)))
    q = fv.Gaussian(1.0, 0.01)
    parts = fv.decompose(model, q)
    expected = fv.kl(q, fv.Gaussian(0.0, 1e4))
    assert abs(parts.kl.value - expected) <= parts.kl.error <= 1e-7
    assert abs(parts.residual) <= parts.error
    far = fv.decompose(model, fv.Gaussian(4000.0, 100.0))
    assert abs(far.kl.value - fv.kl(fv.Gaussian(4000.0, 100.0), fv.Gaussian(0.0, 1e4))) <= far.kl.error + 1e-9
    for call in (fv.log_evidence, lambda m: fv.decompose(m, fv.Gaussian(np.zeros(3), np.eye(3)))):
        with says(ValueError, "takes quadrature, in up to 2 latent dimensions", "has 3"):
            call(fv.Model(faulty, 3, (NAN, 1.0)))


def test_a_joint_that_underflows_far_out():
    # exp(-9.5**2 / 2) is 1e-20: what the log joint is there changes neither the ELBO nor the divergence.
    parts = fv.decompose(fv.Model(faulty, 1, (ZERO, 9.5)), fv.Gaussian(0.0, 1.0))
    assert abs(parts.kl.value) <= 1e-10
    assert abs(parts.residual) <= parts.error <= 1e-8


def test_bad_arguments():
    model = fv.Model(row_10, 1, data=(1.0,))
    two = fv.Model(faulty, 2, (NAN, 9.0))
    for call, error, parts in (
        (
            lambda: fv.elbo(model, fv.Gaussian([0, 0], np.eye(2))),
            ValueError,
            ("q has dimension 2, the model has 1",),
        ),
        (lambda: fv.elbo(model, 3.0), TypeError, ("q must be a Gaussian", "not float")),
        (lambda: fv.elbo(row_10, fv.Gaussian(0, 1)), TypeError, ("model must be a Model",)),
        (lambda: fv.elbo(two, fv.TruncatedGaussian(0, 1)), ValueError, ("has dimension 1, the model has 2",)),
        (lambda: fv.elbo_grad(model, fv.TruncatedGaussian(0, 1)), TypeError, ("not TruncatedGaussian",)),
        (lambda: fv.fit(model, "half"), ValueError, ("family must be one of", "half")),
        (lambda: fv.fit(model, method="magic"), ValueError, ("method must be one of", "magic")),
        (lambda: fv.fit(two, "truncated"), ValueError, ("needs a model of dimension 1, this one has 2",)),
        (lambda: fv.fit(model, "mean"), ValueError, ("give a Gaussian as start",)),
        (
            lambda: fv.fit(model, start=[1.0, 2.0]),
            ValueError,
            ("start must be a point of shape (1,)", "(2,)"),
        ),
        (lambda: fv.fit(model, start=[math.nan]), ValueError, ("start[0] is nan: it must be finite",)),
        (lambda: fv.fit(model, start=fv.Gaussian([0, 0], np.eye(2))), ValueError, ("start has dimension 2",)),
        (lambda: fv.fit(model, start=0.0, starts=[0.0]), ValueError, ("give start or starts, not both",)),
        (lambda: fv.fit(model, starts=[]), ValueError, ("starts is empty",)),
        (lambda: fv.fit(model, starts=[0.0, math.inf]), ValueError, ("starts[1][0] is inf",)),
        (lambda: fv.fit(model, max_steps=0), ValueError, ("max_steps must be at least 1, not 0",)),
        (lambda: fv.fit(model, rtol=-1.0), ValueError, ("rtol",)),
        (lambda: fv.TransformedGaussian(fv.Gaussian(0, 1), "positive", 2), ValueError, ("has dimension 1",)),
        (lambda: fv.TruncatedGaussian(0.0, 0.0), ValueError, ("sigma must be positive",)),
        (lambda: fv.TruncatedGaussian(0.0, 1.0, 2.0, 1.0), ValueError, ("low must be below high",)),
    ):
        with says(error, *parts):
            call()
    other = fv.TransformedGaussian(fv.Gaussian(0, 1), "positive", 1)
    with says(ValueError, "q has the support 'positive', the model 'real'"):
        fv.elbo(model, other)
    with says(TypeError, "starts must be a number or a sequence of starts, not 'a'"):
        fv.fit(model, starts="a")
    with says(ValueError, "draws must be at most 33554432, to fit into memory, not 1000000000"):
        fv.fit(model, draws=10**9)


# Diagnostics and summaries.


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_shape(k):
    rng = np.random.default_rng(5)
    found = [diagnostics.pareto_shape(stats.genpareto(k).rvs(40_000, random_state=rng)) for _ in range(20)]
    # The tail is 600 of them: an error of (1 + k) / sqrt(600), and the prior's pull towards 1/2.
    assert abs(np.mean(found) - (k * 600 + 5) / 610) <= 4 * (1 + k) / math.sqrt(600 * 20)
    assert np.std(found) <= 2 * (1 + k) / math.sqrt(600)


def test_psis_tells_good_from_bad():
    rng = np.random.default_rng(6)
    good = fv.fit(regression(rng, LOGISTIC, rng.standard_normal((60, 2))))
    assert good.psis_k < 0.5
    assert "q is close to the posterior" in good.summary()
    assert fv.fit(fv.Model(row_10, 1, data=(3.0,))).psis_k < 0.5
    bad = fv.fit(fv.Model(cauchy, 2, (1.0,)), "isotropic")
    assert bad.psis_k > 0.7
    assert "q is close" not in bad.summary()


def test_several_starts():
    model = fv.Model(glm, 1, (POLYNOMIAL, np.ones((1, 1)), np.ones(1), 1.0, 0.0, 3.0))
    found = fv.fit(model, starts=[-1.0, 0.5, fv.Gaussian(0.0, 1.0)])
    assert found.converged
    assert len(found.starts) == 3
    assert found.starts[0] == found.elbo.value == max(found.starts)
    assert "starts " in found.summary()


def test_results_can_be_read_pickled_and_sampled():
    for support, family in (("positive", "full"), ("positive", "truncated"), ("real", "full")):
        found = fv.fit(fv.Model(row_10, 1, data=(2.0,), support=support), family)
        again = pickle.loads(pickle.dumps(found))
        assert repr(again) == repr(found)
        assert again.elbo == found.elbo
        assert again.psis_k == found.psis_k
        q = pickle.loads(pickle.dumps(found.q))
        assert repr(q) == repr(found.q)
        z = found.sample(20_000, 1)
        assert z.shape == (20_000, 1)
        assert (z == q.sample(20_000, 1)).all()
        assert abs(z.mean() - q.mean[0]) <= 5 * math.sqrt(q.cov[0, 0] / 20_000)
        assert support == "real" or (z > 0).all()
        # Entropy and density agree: -E[log q].
        assert abs(-q.logpdf(z).mean() - q.entropy()) <= 0.05
        for word in ("family", "status", "ELBO", "gradient norm", "PSIS k", "z[0]"):
            assert word in found.summary()
    shares = fv.fit(
        fv.Model(glm, 3, (LOGISTIC, np.eye(3), np.array([0.0, 1.0, 1.0]), 1.0, 0.0, 1.0), "simplex")
    )
    z = shares.sample(100, 0)
    assert z.shape == (100, 3)
    np.testing.assert_allclose(z.sum(axis=1), 1.0, rtol=1e-14)

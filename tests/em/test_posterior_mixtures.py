"""Maxima of the posterior of a mixture: closed forms, gradients, traces, and what a prior is for."""

import copy
import pickle

import numpy as np
import pytest
from scipy import stats

import fastvi as fv
from helpers.messages import says
from helpers.mixtures import clouds

KINDS = ("full", "diag", "tied", "spherical")
PRIOR = {
    "concentration": [2.0, 1.5, 4.0],
    "mean_precision": 0.7,
    "mean": [0.3, -0.2],
    "degrees_of_freedom": 4.5,
    "scale": [[1.5, 0.4], [0.4, 0.8]],
}


def log_prior(prior, mixture, tied):
    """From SciPy's densities, less their normalising constants."""
    nu, scale, kappa = prior["degrees_of_freedom"], np.array(prior["scale"]), prior["mean_precision"]
    dim, m = len(scale), np.array(prior["mean"])
    total = ((np.array(prior["concentration"]) - 1.0) * np.log(mixture.weights)).sum()
    for k, (mean, cov) in enumerate(zip(mixture.means, mixture.covs, strict=True)):
        constant = stats.multivariate_normal(np.zeros(dim), np.eye(dim) / kappa).logpdf(np.zeros(dim))
        total += stats.multivariate_normal(m, cov / kappa).logpdf(mean) - constant
        if k == 0 or not tied:
            wishart = stats.invwishart(nu, scale)
            here = wishart.logpdf(cov) if dim > 1 else wishart.logpdf(cov[0, 0])
            there = wishart.logpdf(np.eye(dim)) if dim > 1 else wishart.logpdf(1.0)
            total += here - there - 0.5 * np.trace(scale)
    return float(total)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_one_component_is_in_closed_form(kind):
    """Fraley and Raftery (2007), table 1."""
    x = np.array([[0.0, 1.0], [2.0, 2.5], [1.0, -1.0], [4.0, 0.0]])
    prior = {**PRIOR, "concentration": 1.0}
    fit = fv.fit_mixture(x, 1, prior=prior, covariance=kind, tol=1e-20)
    n, kappa, nu = 4, prior["mean_precision"], prior["degrees_of_freedom"]
    m, scale, middle = np.array(prior["mean"]), np.array(prior["scale"]), x.mean(axis=0)
    away = middle - m
    total = scale + kappa * n / (kappa + n) * np.outer(away, away) + (x - middle).T @ (x - middle)
    np.testing.assert_allclose(fit.mixture.means[0], (n * middle + kappa * m) / (n + kappa), rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.covs[0], total / (nu + n + 2 + 2), rtol=1e-12)
    assert fit.log_prior == pytest.approx(log_prior({**prior, "concentration": [1.0]}, fit.mixture, True))
    assert fit.trace[-1] == pytest.approx(fit.mixture.logpdf(x).sum() + fit.log_prior, rel=1e-12)
    assert fit.log_likelihood == pytest.approx(fit.mixture.logpdf(x).sum(), rel=1e-12)


def moved(mixture, point, kind):
    """The mixture at coordinates around it that keep its kind."""
    weights, means, covs = (np.array(part) for part in (mixture.weights, mixture.means, mixture.covs))
    count, dim = means.shape
    table = point.reshape(count, -1)
    weights *= np.exp(table[:, 0])
    means += table[:, 1 : 1 + dim]
    for k in range(count):
        rows = table[0 if kind == "tied" else k, 1 + dim :]
        if kind == "spherical":
            turn = np.eye(dim) * (1.0 + rows[0])
        elif kind == "diag":
            turn = np.diag(1.0 + rows[:dim])
        else:
            turn = np.eye(dim)
            turn[np.tril_indices(dim)] += rows
        covs[k] = turn @ covs[k] @ turn.T
    return fv.GaussianMixture(weights / weights.sum(), means, covs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gaps", [False, True])
def test_the_gradient_of_the_posterior_is_zero(kind, gaps):
    x, _ = clouds(31, 60, 2, 3, spread=2.0)
    if gaps:
        x[::7, 1] = np.nan
    counts = np.random.default_rng(0).exponential(size=60)
    fit = fv.fit_mixture(x, 3, prior=PRIOR, covariance=kind, weights=counts, restarts=3, tol=1e-22)
    # The order of the components is that of their means: so is that of their prior.
    order = [np.array(PRIOR["concentration"])[list(p)] for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2))]
    order += [np.array(PRIOR["concentration"])[list(p)] for p in ((1, 2, 0), (2, 0, 1), (2, 1, 0))]
    gaps_prior = [
        one
        for one in order
        if log_prior({**PRIOR, "concentration": one}, fit.mixture, kind == "tied")
        == pytest.approx(fit.log_prior, rel=1e-10)
    ]
    assert len(gaps_prior) == 1
    prior = {**PRIOR, "concentration": gaps_prior[0]}

    def value(point):
        q = moved(fit.mixture, point, kind)
        parts = []
        for row in x:
            seen = np.flatnonzero(np.isfinite(row))
            parts.append(float(q.marginal(seen).logpdf(row[seen][None])[0]))
        return counts @ parts + log_prior(prior, q, kind == "tied")

    assert value(np.zeros(18)) == pytest.approx(fit.trace[-1], rel=1e-12)
    step = 1e-4
    for i in range(18):
        move = step * (np.arange(18) == i)
        assert abs(value(move) - value(-move)) / (2.0 * step) < 2e-4, i
        assert value(move) <= value(np.zeros(18)) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 4])
def test_the_posterior_density_does_not_fall(kind, dim):
    x, _ = clouds(32, 150, dim, 3, spread=1.5)
    prior = {"concentration": 3.0, "mean_precision": 0.1, "degrees_of_freedom": dim + 2.0}
    fit = fv.fit_mixture(x, 3, prior=prior, covariance=kind, restarts=2, tol=1e-10)
    assert (np.diff(fit.trace) >= -1e-12 * np.abs(fit.trace[1:])).all()
    assert fit.converged
    for twin in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert (twin.summary(), twin.log_prior, twin.bic) == (fit.summary(), fit.log_prior, fit.bic)


def test_weak_priors_are_maximum_likelihood():
    x, start = clouds(33, 200, 2, 2)
    plain = fv.fit_mixture(x, 2, start=start, tol=1e-18)
    for prior in ({}, {"concentration": 1.0}, {"mean_precision": 0.0}):
        fit = fv.fit_mixture(x, 2, start=start, tol=1e-18, prior=prior)
        np.testing.assert_allclose(fit.mixture.covs, plain.mixture.covs, rtol=1e-7)
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
        assert fit.log_prior == 0.0


def test_units_make_no_difference():
    x, start = clouds(34, 80, 2, 3)
    matrix, shift = np.array([[1e-3, 0.0], [5.0, 200.0]]), np.array([1e4, -3.0])
    one = fv.fit_mixture(x, 3, prior=PRIOR, start=start, tol=1e-20)
    mean, scale = matrix @ PRIOR["mean"] + shift, matrix @ np.array(PRIOR["scale"]) @ matrix.T
    prior = {**PRIOR, "mean": mean, "scale": 0.5 * (scale + scale.T)}
    other = fv.fit_mixture(x @ matrix.T + shift, 3, prior=prior, start=start.affine(matrix, shift), tol=1e-20)
    np.testing.assert_allclose(other.mixture.weights, one.mixture.weights, rtol=1e-7)
    np.testing.assert_allclose(other.mixture.means, one.mixture.means @ matrix.T + shift, rtol=1e-7)


def test_no_covariance_is_singular():
    """Repeated points: without a prior and a floor a covariance becomes singular."""
    x = np.array([[0.0, 0.0]] * 20 + [[1.0, 3.0], [2.0, 1.0], [5.0, 2.0], [4.0, 0.0]] * 3)
    assert fv.fit_mixture(x, 2, min_cov=0.0).is_singular
    fit = fv.fit_mixture(x, 2, min_cov=0.0, prior={"degrees_of_freedom": 4.0})
    assert fit.converged
    scale = np.cov(x.T, bias=True) / 2.0
    np.testing.assert_allclose(fit.mixture.covs[0], scale / (20 + 4 + 3), rtol=1e-4)


def test_a_component_without_data_is_the_prior():
    x = np.concatenate([np.zeros(30), np.ones(30)]) + 1e-3 * np.arange(60)
    start = fv.GaussianMixture([0.5, 0.5], [[0.5], [1e3]], [[[0.3]], [[1e-4]]])
    prior = {"concentration": 2.0, "mean_precision": 0.5, "mean": 1e3, "degrees_of_freedom": 3, "scale": 2.0}
    fit = fv.fit_mixture(x, 2, start=start, prior=prior, tol=1e-18)
    assert fit.mixture.weights[1] == pytest.approx(1.0 / 62.0, rel=1e-9)
    assert fit.mixture.means[1, 0] == pytest.approx(1e3, rel=1e-9)
    assert fit.mixture.covs[1, 0, 0] == pytest.approx(2.0 / (3 + 2 + 1), rel=1e-9)


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ([1.0], TypeError, "prior must be a mapping"),
        ({"alpha": 1.0}, ValueError, "prior has no 'alpha'"),
        ({"concentration": [1.0, 2.0]}, ValueError, "prior['concentration'] must have shape (3,), not (2,)"),
        ({"concentration": [1.0, 0.5, 1.0]}, ValueError, "prior['concentration'][1] is 0.5: it must be >= 1"),
        ({"concentration": "much"}, TypeError, "prior['concentration']"),
        ({"mean": [0.0, 0.0]}, ValueError, "prior['mean'] needs prior['mean_precision']"),
        ({"mean": [0.0], "mean_precision": 1.0}, ValueError, "prior['mean'] must have shape (2,), not (1,)"),
        ({"mean_precision": -1.0}, ValueError, "prior['mean_precision'] must be finite and >= 0, not -1.0"),
        ({"degrees_of_freedom": 1.0}, ValueError, "prior['degrees_of_freedom'] must be finite and > 1"),
        ({"scale": np.eye(3)}, ValueError, "prior['scale'] must have shape (2, 2), not (3, 3)"),
        ({"scale": [[1.0, 2.0], [2.0, 1.0]]}, ValueError, "prior['scale'] is not positive definite"),
        ({"scale": [[1.0, np.nan], [np.nan, 1.0]]}, ValueError, "prior['scale'][0, 1] is nan"),
    ],
)
def test_bad_priors_are_named(prior, error, message):
    with says(error, message):
        fv.fit_mixture(clouds(0, 20, 2, 3)[0], 3, prior=prior)

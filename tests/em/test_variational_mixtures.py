"""Variational Bayes for mixtures: the ELBO against the exact evidence, its rise, priors, updates."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

import fastvi as fv
from helpers.messages import says

PRIOR = {
    "concentration": 0.7,
    "mean_precision": 0.3,
    "mean": [0.2, -0.1],
    "degrees_of_freedom": 3.5,
    "scale": [[2.0, 0.4], [0.4, 1.5]],
}


def log_predictive(x, seen, prior):
    """log p(x | points of the same component): Student's t."""
    d, n = x.size, len(seen)
    m0, beta, nu = np.array(prior["mean"]), prior["mean_precision"], prior["degrees_of_freedom"]
    scale = np.array(prior["scale"])
    if n:
        centre = seen.mean(axis=0)
        away = centre - m0
        scale = scale + (seen - centre).T @ (seen - centre) + beta * n / (beta + n) * np.outer(away, away)
        m0 = (beta * m0 + n * centre) / (beta + n)
        beta, nu = beta + n, nu + n
    freedom = nu - d + 1
    return stats.multivariate_t(m0, scale * (beta + 1) / (beta * freedom), freedom).logpdf(x)


def log_joints(x, k, prior):
    """log p(x, labels) for all assignments of labels; each point given those before it."""
    alphas = np.full(k, prior["concentration"])
    terms = []
    for labels in itertools.product(range(k), repeat=len(x)):
        labels, total = np.array(labels), 0.0
        for i, label in enumerate(labels):
            before = labels[:i] == label
            total += math.log((alphas[label] + before.sum()) / (alphas.sum() + i))
            total += log_predictive(x[i], x[:i][before], prior)
        terms.append(total)
    return np.array(terms)


def log_evidence(x, k, prior):
    return special.logsumexp(log_joints(x, k, prior))


def clusters(seed, n=90, dim=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) + 4.0 * rng.normal(size=(3, dim))[np.arange(n) % 3]


@pytest.mark.parametrize("seed", range(4))
def test_with_one_component_the_elbo_is_the_log_evidence(seed):
    x = np.random.default_rng(seed).normal(size=(5, 2)) * [1.0, 30.0] + [0.0, 1e3]
    found = fv.fit_mixture(x, 1, variational=True, prior=PRIOR)
    assert found.elbo == pytest.approx(log_evidence(x, 1, PRIOR), rel=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_the_elbo_is_below_the_exact_log_evidence(seed):
    x = 2.0 * np.random.default_rng(seed).normal(size=(3, 2))
    for k in (2, 3):
        found = fv.fit_mixture(x, k, variational=True, prior=PRIOR)
        joints = log_joints(x, k, PRIOR)
        # The start is an assignment of labels, for which the ELBO is the logarithm of its joint probability.
        assert np.abs(joints - found.trace[0]).min() < 1e-10
        assert found.trace[0] <= found.elbo < special.logsumexp(joints)


def test_far_clusters_cost_the_elbo_the_symmetry_of_the_labels_only():
    x = np.array([[-1e4, 0.0], [-1e4, 1.0], [1e4, 0.0], [1e4, 1.0]])
    prior = {**PRIOR, "mean_precision": 1e-6}
    found = fv.fit_mixture(x, 2, variational=True, prior=prior)
    assert found.elbo + math.log(2) == pytest.approx(log_evidence(x, 2, prior), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_elbo_never_falls(seed):
    found = fv.fit_mixture(clusters(seed), 6, variational=True, restarts=3)
    assert found.converged
    assert found.iterations > 5
    assert (np.diff(found.trace) > -1e-9).all()
    assert found.elbo == found.trace[-1] == found.restart_elbos.max()


def test_components_without_use_switch_off():
    found = fv.fit_mixture(clusters(0), 8, variational=True, prior={"concentration": 1e-3})
    np.testing.assert_allclose(np.sort(found.counts)[-3:], 30.0, atol=1.0)
    assert (np.sort(found.counts)[:-3] < 0.1).all()


def test_the_posterior_is_that_of_the_update_equations():
    x = clusters(1)
    found = fv.fit_mixture(x, 3, variational=True, prior=PRIOR, tol=1e-20)
    counts = found.responsibilities.sum(axis=0)
    np.testing.assert_allclose(found.counts, counts, rtol=1e-7)
    np.testing.assert_allclose(found.concentration, 0.7 + counts, rtol=1e-7)
    np.testing.assert_allclose(found.mean_precision, 0.3 + counts, rtol=1e-7)
    np.testing.assert_allclose(found.degrees_of_freedom, 3.5 + counts, rtol=1e-7)
    for k, r in enumerate(found.responsibilities.T):
        centre = r @ x / counts[k]
        away = centre - PRIOR["mean"]
        scatter = (r[:, None] * (x - centre)).T @ (x - centre)
        wanted = PRIOR["scale"] + scatter + 0.3 * counts[k] / (0.3 + counts[k]) * np.outer(away, away)
        np.testing.assert_allclose(found.scale[k], wanted, rtol=1e-6)
    np.testing.assert_allclose(found.mixture.covs, found.scale / found.degrees_of_freedom[:, None, None])
    np.testing.assert_allclose(found.mixture.weights, found.concentration / found.concentration.sum())
    # Eq. 10.46, 10.64 to 10.66.
    half = 0.5 * (found.degrees_of_freedom[:, None] - np.arange(2))
    logs = special.digamma(found.concentration) + 0.5 * special.digamma(half).sum(axis=1)
    logs -= 0.5 * np.linalg.slogdet(found.scale)[1] + 1.0 / found.mean_precision
    away = x[:, None] - found.mixture.means
    squares = np.einsum("nki,kij,nkj->nk", away, np.linalg.inv(found.scale), away)
    shares = special.softmax(logs - 0.5 * found.degrees_of_freedom * squares, axis=1)
    np.testing.assert_allclose(found.responsibilities, shares, atol=1e-9)


def test_weights_are_repeated_rows():
    x, rng = clusters(2, 60), np.random.default_rng(0)
    weights = rng.integers(0, 4, 60)
    one = fv.fit_mixture(x, 3, variational=True, weights=weights, prior=PRIOR, tol=1e-16)
    two = fv.fit_mixture(np.repeat(x, weights, axis=0), 3, variational=True, prior=PRIOR, tol=1e-16)
    assert one.elbo == pytest.approx(two.elbo, rel=1e-10)
    np.testing.assert_allclose(one.mixture.means, two.mixture.means, rtol=1e-5)
    assert len(one.responsibilities) == 60


def test_units_and_offsets_shift_the_elbo():
    x, scale = clusters(3), np.array([1e3, 1e-2])
    one = fv.fit_mixture(x, 3, variational=True)
    two = fv.fit_mixture(x * scale + [1e4, 5.0], 3, variational=True)
    assert two.elbo == pytest.approx(one.elbo - len(x) * np.log(scale).sum(), rel=1e-8)


def test_the_iterations_run_out():
    found = fv.fit_mixture(clusters(0), 6, variational=True, max_iterations=2)
    assert (found.converged, found.iterations) == (False, 2)
    assert found.status == "not converged: the iterations ran out"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prior": 3}, TypeError, "prior must be a mapping"),
        ({"prior": {"alpha": 1}}, ValueError, "prior has no 'alpha': its keys are 'concentration'"),
        ({"prior": {"concentration": [1.0, 2.0]}}, ValueError, "must have shape (3,), not (2,)"),
        ({"prior": {"concentration": [1.0, 0.0, 1.0]}}, ValueError, "prior['concentration'][1] is 0.0"),
        ({"prior": {"mean": [1.0]}}, ValueError, "prior['mean'] must have shape (2,), not (1,)"),
        ({"prior": {"mean_precision": 0}}, ValueError, "prior['mean_precision'] must be finite and > 0"),
        ({"prior": {"degrees_of_freedom": 1}}, ValueError, "must be finite and > 1, not 1"),
        ({"prior": {"scale": np.eye(3)}}, ValueError, "prior['scale'] must have shape (2, 2)"),
        ({"prior": {"scale": -np.eye(2)}}, ValueError, "prior['scale'] is not positive definite"),
        ({"covariance": "tied"}, ValueError, "variational=True needs covariance=\"full\", not 'tied'"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with says(error, message):
        fv.fit_mixture(clusters(0), 3, **{"variational": True, **options})


def test_what_variational_bayes_does_not_take_is_named():
    x = clusters(0)
    with says(ValueError, "variational=True takes one k"):
        fv.fit_mixture(x, range(1, 4), variational=True)
    with says(ValueError, "variational=True takes no start"):
        fv.fit_mixture(x, 1, start=fv.GaussianMixture([1], [[0, 0]], [np.eye(2)]), variational=True)
    x[3, 1] = math.nan
    with says(ValueError, "variational=True takes no gaps: x[3, 1] is nan"):
        fv.fit_mixture(x, 3, variational=True)

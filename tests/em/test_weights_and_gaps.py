"""EM with weighted points, with missing coordinates, and for each kind of covariances."""

import copy
import pickle

import mpmath
import numpy as np
import pytest

import fastvi as fv
from fastvi.data import old_faithful
from helpers.mixtures import clouds
from reference import gaps as reference

KINDS = ("full", "diag", "tied", "spherical")
NAN = float("nan")


def geyser():
    return np.column_stack(old_faithful())


def with_gaps(x, seed, share=0.3):
    """Some coordinates are missing, not all of a row."""
    rng = np.random.default_rng(seed)
    gone = rng.random(x.shape) < share
    gone[gone.all(axis=1), rng.integers(x.shape[1])] = False
    return np.where(gone, np.nan, x)


def start_of(kind, start):
    covs = {
        "full": start.covs,
        "tied": start.covs,
        "diag": start.covs * np.eye(start.dim),
        "spherical": np.broadcast_to(np.eye(start.dim) * start.covs[0, 0, 0], start.covs.shape),
    }
    return fv.GaussianMixture(start.weights, start.means, covs[kind])


def near(fit, expected):
    trace, weights, means, covs, r, _ = expected
    np.testing.assert_allclose(fit.trace, trace, rtol=1e-11)
    np.testing.assert_allclose(fit.mixture.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(fit.mixture.means, means, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(fit.mixture.covs, covs, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(fit.responsibilities, r, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_textbook_algorithm(kind, dim, gaps, weighted):
    x, start = clouds(21, 70, dim, 3, spread=1.0)
    x = with_gaps(x, dim) if gaps else x
    counts = np.random.default_rng(dim).exponential(size=70) if weighted else None
    start = start_of(kind, start)
    options = {"tol": 0.0, "max_iterations": 4, "min_cov": 0.0, "weights": counts, "covariance": kind}
    fit = fv.fit_mixture(x, 3, start=start, **options)
    near(fit, reference.em(x, start.weights, start.means, start.covs, 4, counts, kind))
    assert fit.covariance == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spread", "steps"), [(1.0, 4), (1e5, 1)])
def test_coordinates_are_taken_four_at_a_time(kind, spread, steps):
    """Twice four and one. Clusters far from each other: the scatter of all hides that within them."""
    x, start = clouds(20, 150, 9, 3, spread=spread)
    start = start_of(kind, fv.GaussianMixture(start.weights, start.means, [np.eye(9)] * 3))
    fit = fv.fit_mixture(x, 3, start=start, tol=0.0, max_iterations=steps, min_cov=0.0, covariance=kind)
    near(fit, reference.em(x, start.weights, start.means, start.covs, steps, None, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gaps", [False, True])
def test_integer_weights_are_repeated_rows(kind, gaps):
    x, _ = clouds(22, 200, 2, 3, spread=4.0)
    x = with_gaps(x, 0, 0.1) if gaps else x
    counts = np.random.default_rng(0).integers(0, 4, 200)
    rows = np.repeat(x, counts, axis=0)
    options = {"covariance": kind, "restarts": 4, "tol": 1e-16}
    one, many = fv.fit_mixture(x, 3, weights=counts, **options), fv.fit_mixture(rows, 3, **options)
    assert one.log_likelihood == pytest.approx(many.log_likelihood, rel=1e-11)
    np.testing.assert_allclose(one.mixture.means, many.mixture.means, rtol=1e-5, atol=1e-5)
    assert one.bic == pytest.approx(many.bic, rel=1e-11)
    np.testing.assert_allclose(one.responsibilities[counts > 0].sum(axis=1), 1.0)
    q = np.random.default_rng(1).dirichlet(np.ones(3), 200)
    ours, theirs = one.decompose(q), many.decompose(np.repeat(q, counts, axis=0))
    assert ours.elbo == pytest.approx(theirs.elbo, rel=1e-5)
    assert abs(ours.residual) <= 1e-11 * (abs(ours.elbo) + ours.kl)
    assert ours.log_evidence == pytest.approx(one.log_likelihood, rel=1e-12)


def test_weights_of_one_change_nothing():
    x = geyser()
    fit, plain = fv.fit_mixture(x, 2, weights=np.ones(272), tol=1e-18), fv.fit_mixture(x, 2, tol=1e-18)
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-13)
    np.testing.assert_allclose(fit.mixture.covs, plain.mixture.covs, rtol=1e-7)
    scaled = fv.fit_mixture(x, 2, weights=np.full(272, 1e-3), tol=1e-18)
    assert scaled.log_likelihood == pytest.approx(1e-3 * plain.log_likelihood, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("min_cov", [1e-6, 0.2])
def test_the_trace_does_not_fall(kind, gaps, min_cov):
    x, _ = clouds(23, 250, 5, 3, spread=1.5)
    x = with_gaps(x, 3) if gaps else x
    fit = fv.fit_mixture(x, 3, covariance=kind, restarts=2, min_cov=min_cov, tol=1e-8, max_iterations=300)
    assert (np.diff(fit.trace) >= -1e-12 * np.abs(fit.trace[1:])).all()
    assert fit.log_likelihood == pytest.approx(fit.log_likelihood_of(x), rel=1e-11)
    off = fit.mixture.covs * (1.0 - np.eye(5))
    variances = np.diagonal(fit.mixture.covs, axis1=1, axis2=2)
    assert off.any() == (kind in ("full", "tied"))
    assert (np.ptp(fit.mixture.covs, axis=0).max() == 0.0) == (kind == "tied")
    assert (np.ptp(variances, axis=1).max() <= 1e-12) == (kind == "spherical")
    for twin in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert twin.summary() == fit.summary()
        assert twin.bic == fit.bic
        np.testing.assert_array_equal(twin.responsibilities, fit.responsibilities)


def test_gaps_of_one_gaussian_in_closed_form():
    """Monotone gaps: the maximum has a closed form (Little, Rubin 2002, section 7.2)."""
    rng = np.random.default_rng(4)
    x = rng.multivariate_normal([1.0, -2.0], [[2.0, 1.2], [1.2, 1.5]], 80)
    x[50:, 1] = np.nan
    fit = fv.fit_mixture(x, 1, tol=1e-20)
    both = np.cov(x[:50].T, bias=True)
    slope = both[0, 1] / both[0, 0]
    mean, variance = x[:, 0].mean(), x[:, 0].var()
    second = x[:50, 1].mean() + slope * (mean - x[:50, 0].mean())
    rest = both[1, 1] - slope * both[0, 1]
    expected = [[variance, slope * variance], [slope * variance, rest + slope**2 * variance]]
    np.testing.assert_allclose(fit.mixture.means[0], [mean, second], rtol=1e-8)
    np.testing.assert_allclose(fit.mixture.covs[0], expected, rtol=1e-8)
    filled, covs = fit.impute()
    np.testing.assert_allclose(filled[50:, 1], second + slope * (x[50:, 0] - mean), rtol=1e-8)
    np.testing.assert_array_equal(filled[:50], x[:50])
    np.testing.assert_allclose(covs[50:, 1, 1], rest, rtol=1e-8)
    assert not covs[:50].any()
    assert not covs[:, 0].any()


def test_imputation_in_a_mixture():
    x, start = clouds(25, 60, 3, 2, spread=1.0)
    x = with_gaps(x, 5)
    fit = fv.fit_mixture(x, 2, start=start, max_iterations=3, tol=0.0)
    expected = reference.em(x, start.weights, start.means, start.covs, 3)
    filled, covs = fit.impute()
    np.testing.assert_allclose(filled, expected[-1], rtol=1e-9, atol=1e-10)
    row = int(np.argmax(np.isnan(x).sum(axis=1)))
    gone = np.isnan(x[row])
    draws = fit.mixture.sample(400_000, 0)
    far = (draws[:, ~gone] - x[row, ~gone]) ** 2
    w = np.exp(-far.sum(axis=1) / (2 * 0.05**2))
    mean = w @ draws[:, gone] / w.sum()
    there = draws[:, gone] - mean
    np.testing.assert_allclose(filled[row, gone], mean, atol=0.15)
    np.testing.assert_allclose(covs[row][np.ix_(gone, gone)], there.T * w @ there / w.sum(), atol=0.3)


def test_clusters_are_found_despite_gaps():
    rng = np.random.default_rng(7)
    centres = 5.0 * rng.standard_normal((4, 6))
    labels = rng.integers(0, 4, 800)
    x = with_gaps(centres[labels] + rng.standard_normal((800, 6)), 8, 0.2) * 10.0 ** np.arange(6)
    fit = fv.fit_mixture(x, 4)
    table = np.zeros((4, 4))
    np.add.at(table, (labels, fit.responsibilities.argmax(axis=1)), 1)
    assert table.max(axis=1).sum() > 790
    assert "entries missing" in fit.summary()
    assert abs(fit.decompose(np.full((800, 4), 0.25)).residual) < 1e-8


def test_a_column_that_others_determine_has_diagonal_covariances():
    x = geyser()
    x = np.column_stack([x, x[:, 0]])
    for kind in ("diag", "spherical"):
        assert fv.fit_mixture(x, 2, covariance=kind).converged


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_components(kind):
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.normal(c, 1.0, (80, 2)) for c in (0.0, 8.0, 16.0)])
    fit = fv.fit_mixture(x, range(1, 6), covariance=kind, criterion="bic")
    assert fit.mixture.weights.size == 3
    assert list(fit.criteria) == [1, 2, 3, 4, 5]
    alone = fv.fit_mixture(x, 3, covariance=kind)
    assert fit.criteria[3] == fit.bic == pytest.approx(alone.bic, rel=1e-9)
    counts = {"full": 2 + 6 + 9, "diag": 2 + 6 + 6, "tied": 2 + 6 + 3, "spherical": 2 + 6 + 3}
    assert fit.n_parameters == counts[kind]
    assert fit.aic == pytest.approx(2 * counts[kind] - 2 * fit.log_likelihood, rel=1e-12)
    assert fit.bic == pytest.approx(np.log(240) * counts[kind] - 2 * fit.log_likelihood, rel=1e-12)
    held_out = rng.normal(8.0, 1.0, (10, 2))
    assert fit.log_likelihood_of(held_out) == pytest.approx(fit.mixture.logpdf(held_out).sum(), rel=1e-12)
    assert "criterion 1: " in fit.summary()


def test_gaps_beside_an_outlier():
    """A covariance loses variances below 1e-16 of the largest; its factor does not."""
    x, _ = clouds(31, 60, 3, 1)
    x[0] *= 1e8
    fit = fv.fit_mixture(x, 1)
    gone = with_gaps(x[1:], 5)
    mean, factor = mpmath.matrix(fit.mixture.means[0]), mpmath.matrix(fit.mixture._factors[0])
    with mpmath.workdps(60):
        cov, expected = factor * factor.T, mpmath.mpf(0)
        for row in gone:
            seen = np.flatnonzero(np.isfinite(row)).tolist()
            inner = mpmath.matrix([[cov[i, j] for j in seen] for i in seen])
            d = mpmath.matrix([mpmath.mpf(row[i]) - mean[i] for i in seen])
            expected -= (len(seen) * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(inner))) / 2
            expected -= (d.T * mpmath.lu_solve(inner, d))[0] / 2
    assert fit.log_likelihood_of(gone) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_a_fit_with_gaps_beside_outliers(kind):
    x, _ = clouds(32, 120, 5, 2, spread=1.5)
    x[:3] *= 1e6
    fit = fv.fit_mixture(with_gaps(x, 6, 0.2), 2, covariance=kind, restarts=2, max_iterations=200)
    assert (np.diff(fit.trace) >= -1e-10).all()
    assert fit.log_likelihood == pytest.approx(fit.log_likelihood_of(with_gaps(x, 6, 0.2)), abs=1e-7)

"""EM for mixtures: the textbook, exact identities, invariances, the floor, input that cannot be fitted."""

import copy
import pickle

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import threads
from fastvi.data import old_faithful
from fastvi.kernels.em import m_step
from helpers.messages import says
from helpers.mixtures import clouds
from helpers.programs import run_program
from reference import em as reference

dims = pytest.mark.parametrize("dim", [1, 2, 3, 5])


def geyser():
    return np.column_stack(old_faithful())


def random_labels(seed, n, k):
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)


# Against references


@dims
@pytest.mark.parametrize(("n", "k"), [(37, 2), (64, 3), (545, 2), (1100, 4)])
def test_it_is_the_textbook_algorithm(dim, n, k):
    x, start = clouds(1, n, dim, k, spread=1.0)
    trace, weights, means, covs, r = reference.em(x, start.weights, start.means, start.covs, 5)
    fit = fv.fit_mixture(x, k, start=start, tol=0.0, max_iterations=5, min_cov=0.0)
    np.testing.assert_allclose(fit.trace, trace, rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.weights, weights, rtol=1e-10)
    np.testing.assert_allclose(fit.mixture.means, means, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.mixture.covs, covs, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.responsibilities, r, rtol=1e-8, atol=1e-12)
    assert fit.iterations == 5
    assert not fit.converged
    assert fit.status == "not converged: the iterations ran out"


def test_the_maximum_for_old_faithful():
    """Digits from EM in 64-bit mantissas, 200 steps."""
    fit = fv.fit_mixture(geyser(), 2, tol=1e-20)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-1130.26396018474, abs=1e-10)
    p = fit.mixture
    near = {"rtol": 1e-9, "atol": 0.0}
    np.testing.assert_allclose(p.weights, [0.355872857106, 0.644127142894], **near)
    np.testing.assert_allclose(
        p.means, [[2.03638845462, 54.478516376968], [4.289661973096, 79.968115173856]], **near
    )
    first = [[0.069167672559, 0.435167624444], [0.435167624444, 33.697282072302]]
    second = [[0.169968435747, 0.94060931927], [0.94060931927, 36.046211317553]]
    np.testing.assert_allclose(p.covs, [first, second], **near)


@pytest.mark.parametrize("tol", [1e-6, 1e-8, 1e-12, 1e-16])
@pytest.mark.parametrize("spread", [1.0, 2.0, 4.0])
def test_what_is_left_to_gain_is_below_the_tolerance(tol, spread):
    """Where components overlap EM is slow: small changes do not mean that the maximum is near."""
    x, start = clouds(2, 400, 2, 2, spread)
    best = fv.fit_mixture(x, 2, start=start, tol=1e-24, max_iterations=20_000)
    fit = fv.fit_mixture(x, 2, start=start, tol=tol, max_iterations=20_000)
    assert best.converged
    assert fit.converged
    assert fit.to_gain <= tol
    assert (best.log_likelihood - fit.log_likelihood) / len(x) <= 2.0 * tol + 1e-14
    distance = np.abs(fit.mixture.means - best.mixture.means).max()
    assert distance <= 100.0 * np.sqrt(tol)


@dims
@pytest.mark.parametrize("seed", range(3))
def test_the_trace_does_not_fall(dim, seed):
    x, start = clouds([3, seed], 300, dim, 3, spread=1.5)
    for fit in (
        fv.fit_mixture(x, 3, start=start, max_iterations=200),
        fv.fit_mixture(x, 4, restarts=2, min_cov=0.05, max_iterations=200),
    ):
        assert fit.trace.size == fit.iterations + 1
        assert (np.diff(fit.trace) >= -1e-12 * np.abs(fit.trace[1:])).all()
        assert fit.log_likelihood == fit.trace[-1]
        assert fit.log_likelihood == pytest.approx(fit.mixture.logpdf(x).sum(), rel=1e-12)


@dims
def test_one_component_is_the_sample_mean_and_covariance(dim):
    x, _ = clouds(4, 101, dim, 2)
    fit = fv.fit_mixture(x, 1)
    np.testing.assert_allclose(fit.mixture.means[0], x.mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        fit.mixture.covs[0], np.atleast_2d(np.cov(x.T, bias=True)), rtol=1e-12, atol=1e-12
    )
    assert (fit.responsibilities == 1.0).all()
    assert fit.converged
    assert fit.iterations <= 2


# log p(x) = ELBO + KL


@dims
@pytest.mark.parametrize("seed", range(4))
def test_the_evidence_is_elbo_plus_kl(dim, seed):
    x, start = clouds([5, seed], 90, dim, 3)
    fit = fv.fit_mixture(x, 3, start=start, max_iterations=seed + 1)
    parts = fit.decompose(random_labels([seed, dim], 90, 3))
    assert parts.kl > 1.0
    assert parts.elbo < parts.log_evidence
    assert abs(parts.residual) <= 1e-12 * (abs(parts.elbo) + parts.kl)
    assert parts.log_evidence == pytest.approx(fit.log_likelihood, rel=1e-12)


def test_the_evidence_for_the_posterior_and_for_hard_labels():
    x = geyser()
    fit = fv.fit_mixture(x, 2)
    exact = fit.decompose(fit.responsibilities)
    assert 0.0 <= exact.kl < 1e-10
    assert exact.elbo == pytest.approx(fit.log_likelihood, rel=1e-13)
    hard = fit.decompose(np.eye(2)[fit.responsibilities.argmax(axis=1)])
    assert 0.0 < hard.kl < 10.0
    assert abs(hard.residual) < 1e-10
    # The wrong labels are thousands of nats away, beyond what a probability can hold.
    wrong = fit.decompose(np.eye(2)[fit.responsibilities.argmin(axis=1)])
    assert wrong.kl > 5000.0
    assert abs(wrong.residual) < 1e-12 * wrong.kl


def test_the_e_step_raises_the_elbo_to_the_evidence():
    """The labels of one iteration are a bound for the mixture of the next."""
    x = geyser()
    start = fv.GaussianMixture([0.5, 0.5], [[2, 55], [4.5, 80]], [np.cov(x.T)] * 2)
    before = fv.fit_mixture(x, 2, start=start, max_iterations=2, tol=0.0)
    after = fv.fit_mixture(x, 2, start=start, max_iterations=3, tol=0.0)
    parts = after.decompose(before.responsibilities)
    assert before.log_likelihood < parts.elbo < after.log_likelihood
    assert parts.elbo + parts.kl == pytest.approx(after.log_likelihood, rel=1e-13)


@pytest.mark.parametrize(
    ("q", "parts"),
    [
        (np.full((272, 3), 1 / 3), ("responsibilities", "(272, 2)", "(272, 3)")),
        (np.full((272, 2), 0.4), ("sums to 0.8", "row (0,)")),
        (np.full(272, 1.0), ("responsibilities", "(272, 2)", "(272,)")),
        (np.full((272, 2), np.nan), ("responsibilities[0, 0] is nan",)),
    ],
)
def test_labels_that_are_no_distribution(q, parts):
    fit = fv.fit_mixture(geyser(), 2, restarts=1)
    with says(ValueError, *parts):
        fit.decompose(q)


# Invariance


@dims
def test_affine_maps_of_the_data_move_the_fit(dim):
    x, start = clouds(6, 250, dim, 3)
    rng = np.random.default_rng(dim)
    matrix, shift = rng.standard_normal((dim, dim)) * 1e3, 1e4 * rng.standard_normal(dim)
    moved_start = fv.GaussianMixture(
        start.weights, start.means @ matrix.T + shift, matrix @ start.covs @ matrix.T
    )
    fit = fv.fit_mixture(x, 3, start=start, min_cov=0.1, max_iterations=30, tol=0.0)
    moved = fv.fit_mixture(
        x @ matrix.T + shift, 3, start=moved_start, min_cov=0.1, max_iterations=30, tol=0.0
    )
    assert fit.floor_steps == moved.floor_steps
    log_det = np.log(abs(np.linalg.det(matrix)))
    np.testing.assert_allclose(moved.trace, fit.trace - 250 * log_det, rtol=1e-9)
    np.testing.assert_allclose(moved.mixture.weights, fit.mixture.weights, rtol=1e-7)
    np.testing.assert_allclose(moved.mixture.means, fit.mixture.means @ matrix.T + shift, rtol=1e-6)
    np.testing.assert_allclose(moved.responsibilities, fit.responsibilities, atol=1e-6)


def test_the_order_of_points_and_components_does_not_matter():
    x, start = clouds(7, 300, 2, 3)
    order, labels = np.random.default_rng(0).permutation(300), [2, 0, 1]
    fit = fv.fit_mixture(x, 3, start=start, tol=1e-20)
    permuted = fv.GaussianMixture(start.weights[labels], start.means[labels], start.covs[labels])
    other = fv.fit_mixture(x[order], 3, start=permuted, tol=1e-20)
    np.testing.assert_allclose(other.mixture.means, fit.mixture.means[labels], rtol=1e-7)
    np.testing.assert_allclose(other.responsibilities, fit.responsibilities[order][:, labels], atol=1e-7)
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-13)


def same(a, b):
    return (
        a.mixture == b.mixture
        and np.array_equal(a.trace, b.trace)
        and np.array_equal(a.restart_log_likelihoods, b.restart_log_likelihoods)
        and np.array_equal(a.responsibilities, b.responsibilities)
        and a.status == b.status
    )


def test_the_number_of_threads_does_not_matter(monkeypatch):
    x, _ = clouds(8, 2000, 2, 3)
    monkeypatch.setattr(threads, "WORTHWHILE", 1)
    fits = []
    for count in (1, 2):
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        fits.append(fv.fit_mixture(x, 3, restarts=7))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert same(*fits)
    assert same(fits[0], fv.fit_mixture(x, 3, restarts=7, progress=True))


def test_seeds():
    x, _ = clouds(9, 200, 2, 5, spread=1.0)
    first = fv.fit_mixture(x, 3, restarts=3, max_iterations=5)
    assert same(first, fv.fit_mixture(x, 3, restarts=3, max_iterations=5, rng=0))
    others = [fv.fit_mixture(x, 3, restarts=3, max_iterations=5, rng=s) for s in (1, None, None)]
    values = [tuple(fit.restart_log_likelihoods) for fit in (first, *others)]
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.tolist(),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.int64),
    ],
)
def test_any_array_will_do_and_stays_as_it_was(change):
    x = np.round(4.0 * geyser())
    given = change(x)
    kept = copy.deepcopy(given)
    assert same(fv.fit_mixture(given, 2, restarts=2), fv.fit_mixture(x, 2, restarts=2))
    assert np.array_equal(given, kept)


def test_a_vector_is_a_column():
    x = geyser()[:, 0]
    assert same(fv.fit_mixture(x, 2), fv.fit_mixture(x[:, None], 2))


def test_changing_the_data_later_does_not_change_the_fit():
    x = geyser()
    fit = fv.fit_mixture(x, 2, restarts=1)
    x[:] = 0.0
    assert same(fit, fv.fit_mixture(geyser(), 2, restarts=1))


# Restarts and the floor


def test_the_best_restart_is_kept_and_all_are_reported():
    x, _ = clouds(10, 300, 2, 6, spread=4.0)
    fit = fv.fit_mixture(x, 6, restarts=12)
    values = fit.restart_log_likelihoods
    assert values.shape == fit.restart_at_floor.shape == (12,)
    assert np.ptp(values) > 1.0
    assert fit.log_likelihood == values[~fit.restart_at_floor].max()
    assert (np.diff(fit.mixture.means[:, 0]) >= 0.0).all()


def test_the_floor_holds_what_would_collapse():
    """Three equal points: the likelihood of their component is unbounded but for the floor."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((100, 2)), np.full((3, 2), 5.0)])
    start = fv.GaussianMixture([0.9, 0.1], [[0, 0], [5, 5]], [np.eye(2)] * 2)
    fit = fv.fit_mixture(x, 2, start=start, min_cov=1e-4)
    assert fit.floor_active == (1,)
    assert fit.floor_steps[0] == 0
    assert 0 < fit.floor_steps[1] <= fit.iterations + 1
    assert fit.status == "converged, component 1 at the covariance floor"
    assert "at the floor in" in fit.summary()
    np.testing.assert_allclose(fit.mixture.covs[1], 1e-4 * np.cov(x.T, bias=True), rtol=1e-9)
    assert (np.diff(fit.trace) >= -1e-12 * np.abs(fit.trace[1:])).all()
    without = fv.fit_mixture(x, 2, start=start, min_cov=0.0)
    assert without.status.startswith("stopped: a covariance became singular")
    assert not without.converged
    assert np.isfinite(without.log_likelihood)


def test_the_floor_does_nothing_where_it_is_not_reached():
    x = geyser()
    fits = [fv.fit_mixture(x, 2, min_cov=f, restarts=2) for f in (0.0, 1e-6, 1e-3)]
    assert same(fits[0], fits[1])
    assert same(fits[0], fits[2])
    assert fits[0].floor_active == ()
    assert fits[0].floor_steps == (0, 0)


def test_a_maximum_at_the_floor_is_not_preferred():
    """A narrow component on two close points is likelier than the two clouds, and is not a cluster."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0.0, 1.0, 40), rng.normal(6.0, 1.0, 40)])
    x[1] = x[0]
    fit = fv.fit_mixture(x, 5, restarts=40, min_cov=1e-12)
    assert fit.restart_at_floor.any()
    assert not fit.restart_at_floor.all()
    assert fit.floor_active == ()
    assert fit.restart_log_likelihoods[fit.restart_at_floor].max() > fit.log_likelihood
    assert "ended at the covariance floor" in fit.summary()


@dims
def test_the_floor_raises_eigenvalues_only(dim):
    rng = np.random.default_rng(dim)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    values = 10.0 ** -np.arange(0.0, dim)
    cov = rotation * values @ rotation.T
    factor, scratch = np.empty((dim, dim)), np.empty((3, dim, dim))
    for floor in (3e-3, 0.5, 1e-9):
        acted, good = m_step.floored_factor(cov, floor, factor, scratch)
        assert good
        assert acted == (values.min() < floor)
        expected = rotation * np.maximum(values, floor) @ rotation.T
        np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-12, atol=1e-14)


def test_a_start_below_the_floor_is_raised_and_reported():
    x = geyser()
    data = np.cov(x.T, bias=True)
    factor = np.linalg.cholesky(data)
    thin = factor @ [[0.5, 0.4], [0.4, 0.33]] @ factor.T
    start = fv.GaussianMixture([0.5, 0.5], [[2, 55], [4.5, 80]], [thin, data])
    fit = fv.fit_mixture(x, 2, start=start, min_cov=0.1, max_iterations=1)
    assert fit.floor_steps[0] >= 1
    assert fit.floor_steps[1] == 0
    values, vectors = np.linalg.eigh([[0.5, 0.4], [0.4, 0.33]])
    assert values[0] < 0.1 < values[1]
    raised = factor @ (vectors * np.maximum(values, 0.1)) @ vectors.T @ factor.T
    expected = fv.GaussianMixture([0.5, 0.5], start.means, [raised, data]).logpdf(x).sum()
    assert fit.trace[0] == pytest.approx(expected, rel=1e-12)


def test_a_component_without_data():
    x = geyser()
    start = fv.GaussianMixture([0.5, 0.5], [[3, 70], [300, 7000]], [np.cov(x.T)] * 2)
    fit = fv.fit_mixture(x, 2, start=start)
    assert fit.converged
    assert fit.empty == (1,)
    assert fit.status == "converged, component 1 without data"
    assert (fit.responsibilities == [1.0, 0.0]).all()
    np.testing.assert_allclose(fit.mixture.means[0], x.mean(axis=0), rtol=1e-12)
    assert fit.log_likelihood == pytest.approx(fv.fit_mixture(x, 1).log_likelihood, rel=1e-12)


def test_duplicates_and_as_many_components_as_points():
    fit = fv.fit_mixture([0.0, 0.0, 0.0, 1.0], 2, restarts=3)
    assert np.isfinite(fit.log_likelihood)
    assert fit.floor_active
    fit = fv.fit_mixture(np.arange(5.0), 5, restarts=3)
    assert np.isfinite(fit.log_likelihood)
    assert fit.mixture.weights.sum() == pytest.approx(1.0)


def test_numbers_far_from_one_and_from_zero():
    x = geyser()
    plain = fv.fit_mixture(x, 2, restarts=1)
    for scale, shift in ((1e-120, 0.0), (1e120, 0.0), (2.0**-10, 2.0**20)):
        fit = fv.fit_mixture(x * scale + shift, 2, restarts=1)
        np.testing.assert_allclose((fit.mixture.means - shift) / scale, plain.mixture.means, rtol=1e-7)


# Input that cannot be fitted


EMPTY_ROW, EMPTY_COLUMN = geyser(), geyser()
EMPTY_ROW[17], EMPTY_COLUMN[:, 1] = np.nan, np.nan


@pytest.mark.parametrize(
    ("error", "parts", "arguments"),
    [
        (ValueError, ("x[17] is nan in all columns",), (EMPTY_ROW, 2)),
        (ValueError, ("x[:, 1] is nan in all rows",), (EMPTY_COLUMN, 2)),
        (ValueError, ("x[2] is nan",), ([0.0, 1.0, np.nan], 1)),
        (ValueError, ("x[1, 0] is inf",), ([[0.0, 1.0], [np.inf, np.nan], [1.0, 1.0]], 1)),
        (ValueError, ("x has 2 distinct rows, too few for k = 3",), ([0.0, 0.0, -0.0, 1.0], 3)),
        (ValueError, ("k[1] must be at least 1, not 0",), (geyser(), [1, 0])),
        (ValueError, ("k is empty",), (geyser(), [])),
        (ValueError, ("k has equal entries",), (geyser(), [2, 2])),
        (ValueError, ("x[2] is inf",), ([0.0, 1.0, np.inf], 1)),
        (ValueError, ("x must have shape (n, d) or (n,), not (1, 2, 2)",), ([[[0, 1], [2, 3]]], 1)),
        (ValueError, ("x must have shape", "not ()"), (3.0, 1)),
        (ValueError, ("x is empty",), (np.empty((0, 2)), 1)),
        (TypeError, ("x has dtype", "expected real numbers"), (["a", "b"], 1)),
        (ValueError, ("x has 2 points, too few for k = 3",), ([[0, 1], [2, 3]], 3)),
        (ValueError, ("x is constant (1.0)",), (np.ones(9), 1)),
        (ValueError, ("x is constant", "variance is 0"), ([4.0], 1)),
        (ValueError, ("x[:, 1] is a linear combination", "collinear"), ([[0.0, 0.0], [1.0, 1.0]] * 500, 2)),
        (ValueError, ("x[:, 1] is constant (7.0)",), (np.column_stack([np.arange(9.0), np.full(9, 7.0)]), 2)),
        (
            ValueError,
            ("x[:, 1] is a linear combination of the columns before it",),
            (np.column_stack([np.arange(9.0), 0.1 * np.arange(9.0) + 3.0]), 2),
        ),
        (ValueError, ("x is out of range",), ([-1e300, 0.0, 1e300], 1)),
        (TypeError, ("k must be an integer, not 2.5",), (geyser(), 2.5)),
        (TypeError, ("k must be an integer, not True",), (geyser(), True)),
        (ValueError, ("k must be at least 1, not 0",), (geyser(), 0)),
    ],
)
def test_data_that_cannot_be_fitted(error, parts, arguments):
    with says(error, *parts):
        fv.fit_mixture(*arguments)


LONG = fv.GaussianMixture([0.5, 0.5], [[2, 55], [4.5, 80]], [np.diag([1.0, 2.0])] * 2)
ONE_ROUND = fv.GaussianMixture([0.5, 0.5], [[2, 55], [4.5, 80]], [np.diag([1.0, 2.0]), [[1, 0.5], [0.5, 1]]])


@pytest.mark.parametrize(
    ("error", "parts", "options"),
    [
        (
            TypeError,
            ("start must be a GaussianMixture, not Gaussian",),
            {"start": fv.Gaussian([0, 0], np.eye(2))},
        ),
        (
            ValueError,
            ("start has 1 component, but k = 2",),
            {"start": fv.GaussianMixture([1], [[0, 0]], [np.eye(2)])},
        ),
        (
            ValueError,
            ("start has dimension 1, x has 2",),
            {"start": fv.GaussianMixture([0.5, 0.5], [0, 1], [1, 1])},
        ),
        (
            ValueError,
            ("start has no finite likelihood",),
            {"start": fv.GaussianMixture([0.5, 0.5], [[1e200, 0], [1e200, 1]], [np.eye(2)] * 2)},
        ),
        (ValueError, ("restarts must be at least 1, not 0",), {"restarts": 0}),
        (ValueError, ("max_iterations must be at least 1, not -3",), {"max_iterations": -3}),
        (TypeError, ("max_iterations must be an integer, not 1.5",), {"max_iterations": 1.5}),
        (ValueError, ("tol must be a finite number >= 0, not -1",), {"tol": -1}),
        (ValueError, ("tol is nan",), {"tol": float("nan")}),
        (ValueError, ("min_cov must be in [0, 1), not 1.0",), {"min_cov": 1.0}),
        (ValueError, ("min_cov must be in [0, 1), not -1e-06",), {"min_cov": -1e-6}),
        (ValueError, ("weights[3] is -1.0",), {"weights": [1, 1, 1, -1] + [1] * 268}),
        (ValueError, ("weights[0] is nan",), {"weights": [np.nan] * 272}),
        (ValueError, ("weights sum to 0.0",), {"weights": np.zeros(272)}),
        (ValueError, ("weights must have shape (272,)", "(2,)"), {"weights": [1, 1]}),
        (ValueError, ("x has 1 point of positive weight, too few for k = 2",), {"weights": [1] + [0] * 271}),
        (ValueError, ("covariance must be one of", "'round'"), {"covariance": "round"}),
        (ValueError, ("start.covs[1] is not diagonal", "'diag'"), {"start": ONE_ROUND, "covariance": "diag"}),
        (ValueError, ("start.covs[0] is not a multiple",), {"start": LONG, "covariance": "spherical"}),
        (ValueError, ("start.covs[1] is another than covs[0]",), {"start": ONE_ROUND, "covariance": "tied"}),
        (ValueError, ("criterion chooses between several k",), {"criterion": "bic"}),
    ],
)
def test_options_that_make_no_sense(error, parts, options):
    with says(error, *parts):
        fv.fit_mixture(geyser(), 2, **options)


# The result


def test_a_fit_cannot_be_changed_and_can_be_kept():
    fit = fv.fit_mixture(geyser(), 2, restarts=2)
    with says(AttributeError, "a MixtureFit cannot be changed"):
        fit.trace = 0
    for array in (fit.trace, fit.responsibilities, fit.restart_log_likelihoods, fit.restart_at_floor):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    for twin in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert same(twin, fit)
        assert twin.summary() == fit.summary()
        assert repr(twin) == repr(fit)


@pytest.mark.parametrize("dim", [2, 4])
def test_plain_python_gives_the_same(tmp_path, dim):
    x, _ = clouds(12, 40, dim, 2)
    np.save(tmp_path / "x.npy", x)
    run_program("fit_mixture", tmp_path / "x.npy", tmp_path / "plain.npz", NUMBA_DISABLE_JIT=1)
    plain = np.load(tmp_path / "plain.npz")
    start = fv.GaussianMixture([0.5, 0.5], [x[0], x[-1]], [np.cov(x.T)] * 2)
    fit = fv.fit_mixture(x, 2, start=start, max_iterations=3, tol=0.0, min_cov=0.5)
    np.testing.assert_allclose(plain["trace"], fit.trace, rtol=1e-12)
    np.testing.assert_allclose(plain["means"], fit.mixture.means, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(plain["r"], fit.responsibilities, atol=1e-9)
    assert tuple(plain["steps"]) == fit.floor_steps
    assert sum(fit.floor_steps) > 0

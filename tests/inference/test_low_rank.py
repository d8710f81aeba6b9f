"""q of low rank, fits in thousands of dimensions, and what starts and checks cost."""

import math
import pickle
import tracemalloc

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import kernels
from fastvi.distributions.gaussian import Gaussian, LowRank
from fastvi.inference import deterministic, expectations, racing, rivals
from fastvi.inference.kernel_calls import conditional_deviations, fit_on_draws, workspace, workspace_member
from fastvi.inference.low_rank import low_rank_start, packed
from fastvi.inference.starts import laplace_from
from fastvi.kernels.families import low_rank
from fastvi.kernels.families.table import DIAGONAL
from fastvi.kernels.statuses import STEPS_EXHAUSTED


@numba.njit
def gaussian(z, precision):
    r = 0.0
    for i in range(z.size):
        for j in range(z.size):
            r -= 0.5 * z[i] * precision[i, j] * z[j]
    return r


@numba.njit
def gaussian_gradient(z, gradient, precision):
    r = 0.0
    for i in range(z.size):
        s = 0.0
        for j in range(z.size):
            s += precision[i, j] * z[j]
        gradient[i] = -s
        r -= 0.5 * s * z[i]
    return r


@numba.njit
def logistic(z, x, y):
    r = -0.5 * (z * z).sum()
    for i in range(y.size):
        u = (x[i] * z).sum()
        r += y[i] * u - np.logaddexp(0.0, u)
    return r


@numba.njit
def logistic_gradient(z, gradient, x, y):
    r = -0.5 * (z * z).sum()
    gradient[:] = -z
    for i in range(y.size):
        u = (x[i] * z).sum()
        r += y[i] * u - np.logaddexp(0.0, u)
        gradient += (y[i] - 1.0 / (1.0 + math.exp(-u))) * x[i]
    return r


@numba.njit
def apart(z, centre, scale):
    r = 0.0
    for i in range(z.size):
        r -= 0.5 * ((z[i] - centre[i]) / scale[i]) ** 2
    return r


@numba.njit
def apart_gradient(z, gradient, centre, scale):
    gradient[:] = -(z - centre) / scale**2
    return apart(z, centre, scale)


def structured(dim, rank, seed=0):
    """A covariance diag(s²) + U U'."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.standard_normal(dim))
    spread = 2.0 * scale[:, None] * rng.standard_normal((dim, rank))
    return np.diag(scale**2) + spread @ spread.T


def structured_model(cov):
    return fv.Model(gaussian, len(cov), (np.linalg.inv(cov),), log_joint_grad=gaussian_gradient)


def regression(dim, rows, gradient=logistic_gradient):
    rng = np.random.default_rng(0)
    x = 2.0 * rng.standard_normal((rows, dim)) / math.sqrt(dim)
    y = (rng.random(rows) < 1.0 / (1.0 + np.exp(-x @ rng.standard_normal(dim)))).astype(float)
    return fv.Model(logistic, dim, (x, y), log_joint_grad=gradient)


def dense(factor):
    """S (I + V V') from a factor (1 + R, D)."""
    columns = factor[1:]
    return factor[0][:, None] * (np.eye(factor.shape[1]) + columns.T @ columns)


def random_factor(rank, dim, seed=0):
    rng = np.random.default_rng(seed)
    return np.vstack([rng.uniform(0.5, 2.0, dim), 0.7 * rng.standard_normal((rank, dim))])


# Kernels.


@pytest.mark.parametrize("count", range(1, 10))
def test_the_products_of_gradients_and_draws(count):
    """Their sum in the lower triangle for any number of draws; what is above stays."""
    rng = np.random.default_rng(count)
    g, e, out = rng.integers(-9, 9, (count, 5)) + 0.0, rng.integers(-9, 9, (count, 5)) + 0.0, np.ones((5, 5))
    kernels.inference.draws_fits.subtract_products(g, e, out)
    np.testing.assert_array_equal(out, np.ones((5, 5)) - np.tril(g.T @ e))


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_factor_of_low_rank(rank):
    dim = 5
    factor, rng = random_factor(rank, dim), np.random.default_rng(1)
    root, gram = dense(factor), np.zeros((rank, rank))
    half = np.linalg.slogdet(root)[1]
    assert low_rank.half_log_det_of(factor, gram) == pytest.approx(half, rel=1e-13)
    mean, e, out = rng.standard_normal(dim), rng.standard_normal(dim), np.empty(dim)
    low_rank.place(mean, factor, e, out)
    np.testing.assert_allclose(out, mean + root @ e, rtol=1e-13)


def parameters(rank, diagonal, dim=5):
    """(point, root, scale) of some q; of one deviation there is nearly nothing beside the columns."""
    rng = np.random.default_rng(2)
    root = np.tril(rng.standard_normal((dim, dim))) + 2.0 * np.eye(dim)
    point = 0.8 * rng.standard_normal(low_rank.parameters(low_rank.FIRST + rank, dim))
    assert point.size == dim * (2 + rank)
    point[dim] = -9.0 if rank else -1.0
    return point, np.diag(root)[None].copy() if diagonal else root, rng.uniform(0.5, 2.0, dim)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_covariance_of_the_parameters(rank, diagonal):
    """diag(s²) + U U', whose columns are the root times those of b, and the parameters of its factor."""
    point, root, scale = parameters(rank, diagonal)
    dim, axes, factor = scale.size, np.empty((rank, rank)), np.empty((1 + rank, scale.size))
    low_rank.unpack(point, root, scale, axes, factor)
    columns = point[2 * dim :].reshape(rank, dim) @ (np.diag(root[0]) if diagonal else root).T
    cov = np.diag(factor[0] ** 2) + columns.T @ columns
    np.testing.assert_allclose(dense(factor) @ dense(factor).T, cov, rtol=1e-12, atol=1e-12)
    least = low_rank.LEAST if rank else 0.0
    np.testing.assert_allclose(factor[0], scale * np.hypot(np.exp(point[dim : 2 * dim]), least), rtol=1e-14)
    products = factor[1:] @ factor[1:].T
    assert abs(products - np.diag(np.diag(products))).max(initial=0.0) < 1e-10
    conditional = 1.0 / np.sqrt(np.diag(np.linalg.inv(cov)))
    np.testing.assert_allclose(LowRank(factor).conditional_deviations(), conditional, rtol=1e-6)
    again = np.empty_like(factor)
    low_rank.unpack(packed(factor, root, scale), root, scale, axes, again)
    np.testing.assert_allclose(dense(again) @ dense(again).T, cov, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_gradients_by_the_parameters(rank, diagonal):
    """Of -g' (S (I + V V') e) less the entropy, by central differences of the formula."""
    point, root, scale = parameters(rank, diagonal)
    dim, count, rng = scale.size, point.size, np.random.default_rng(3)
    e, g = rng.standard_normal(dim), rng.standard_normal(dim)
    axes, factor = np.empty((rank, rank)), np.empty((1 + rank, dim))

    def value(x):
        low_rank.unpack(x, root, scale, axes, factor)
        spread = dense(factor)
        return -g @ spread @ e - np.linalg.slogdet(spread)[1]

    value(point)
    by_factor, gradient = np.zeros((1 + rank, dim)), np.zeros(count)
    low_rank.add_gradient(factor, e, g, np.empty(dim), np.empty(dim), by_factor)
    low_rank.pack_gradient(
        factor, by_factor, root, scale, axes, np.empty((rank, rank)), np.empty(rank), gradient
    )
    for i in range(dim, count):
        step = np.zeros(count)
        step[i] = 1e-6
        slope = (value(point + step) - value(point - step)) / 2e-6
        assert gradient[i] == pytest.approx(slope, abs=1e-7)


def test_a_fit_that_is_resumed_is_the_same_fit():
    model, dim = regression(5, 60), 5
    rng = np.random.default_rng(3)
    half = rng.standard_normal((20, dim))
    draws, start = np.concatenate([half, -half]), (np.zeros(dim), np.eye(dim), np.ones(dim))

    def run(*steps):
        space = workspace("draws", DIAGONAL, dim, dim)
        workspace_member("draws", space, "point")[:] = 0.0
        curvature, used = workspace_member("draws", space, "curvature"), 0
        curvature[:] = 0
        names = kernels.inference.draws_fits
        q = np.empty(dim), np.empty((dim, dim))
        for k, most in enumerate(steps):
            curvature[names.BEGIN], curvature[names.RESUME] = curvature[names.KNOWN], k > 0
            report = fit_on_draws(model, DIAGONAL, draws, start, (1e-12, most), q, space)
            used += report.evaluations
        return report.elbo, q[0].copy(), np.diag(q[1]).copy(), used

    whole, parts = run(7), run(4, 4)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)


# Distributions.


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_gaussian_of_low_rank_is_that_with_the_covariance(rank):
    factor, dim = random_factor(rank, 6), 6
    mean = np.arange(6.0)
    thin = Gaussian._from_factor(mean, factor)
    root = dense(factor)
    full = fv.Gaussian(mean, root @ root.T)
    points = thin.sample(5, 0)
    np.testing.assert_allclose(thin.logpdf(points), full.logpdf(points), rtol=1e-12)
    assert thin.logpdf(points[0]) == pytest.approx(full.logpdf(points[0]), rel=1e-12)
    assert thin.entropy() == pytest.approx(full.entropy(), rel=1e-13)
    np.testing.assert_allclose(thin._deviations**2, np.diag(full.cov), rtol=1e-12)
    noise = np.random.default_rng(0).standard_normal((5, dim))
    np.testing.assert_allclose(points, mean + noise @ root.T, rtol=1e-12)
    copy = pickle.loads(pickle.dumps(thin))
    assert copy._dense is None
    np.testing.assert_array_equal(copy._thin.factor, factor)
    np.testing.assert_allclose(thin.cov, full.cov, rtol=1e-12, atol=1e-12)
    assert copy == thin
    assert fv.kl(thin, full) == pytest.approx(0.0, abs=1e-12)


# Fits.


@pytest.mark.parametrize(("dim", "rank"), [(4, 1), (20, 2), (70, 3)])
def test_a_posterior_of_low_rank_is_found(dim, rank):
    cov = structured(dim, rank)
    model = structured_model(cov)
    for family in ("lowrank", ("lowrank", rank)):
        f = fv.fit(model, family)
        assert f.converged
        assert f.family == "lowrank"
        assert len(f.q._thin.factor) == 1 + rank
        assert fv.kl(f.q, fv.Gaussian(np.zeros(dim), cov)) < 1e-6
        truth = 0.5 * np.linalg.slogdet(2.0 * math.pi * cov)[1]
        assert abs(f.elbo.value - truth) < 1e-6
        assert fv.elbo(model, f.q).value == pytest.approx(truth, abs=1e-6)


def test_a_low_rank_lies_between_diagonal_and_full():
    model = regression(12, 40)
    diag, one, three, full = (
        fv.elbo(model, fv.fit(model, family).q).value
        for family in ("diag", ("lowrank", 1), ("lowrank", 3), "full")
    )
    assert diag < one < three < full
    again = fv.fit(model, ("lowrank", 1), start=fv.fit(model, "full").q)
    assert fv.elbo(model, again.q).value == pytest.approx(one, abs=0.005)


def correlated_rows(n=300, dim=8):
    """Regressors that go together, not centred, and an intercept."""
    rng = np.random.default_rng(11)
    x = 3.0 + rng.standard_normal((n, 1)) + 0.3 * rng.standard_normal((n, dim))
    x[:, 0] = 1.0
    return x


def test_the_start_of_low_rank_is_the_closest():
    """No better one is near, where deviations beside the columns go to zero."""
    x = correlated_rows()
    root = np.linalg.cholesky(np.linalg.inv(x.T @ x))
    start = racing.Start(np.zeros(8), root, conditional_deviations(root), 0)
    for rank in (1, 2, 6):
        factor = low_rank_start(start, rank)
        precision, rng = x.T @ x, np.random.default_rng(rank)

        def divergence(s, columns, precision=precision):
            cov = np.diag(s * s) + columns.T @ columns
            return 0.5 * ((precision * cov).sum() - np.linalg.slogdet(cov)[1])

        s, v = factor[0], factor[1:]
        columns = s * v * np.sqrt(2.0 + (v * v).sum(axis=1))[:, None]
        least = divergence(s, columns)
        for _ in range(100):
            moved = columns + 0.1 * rng.standard_normal(columns.shape) @ root.T
            stretch = np.exp(0.1 * rng.standard_normal(8))
            assert divergence(stretch * s, moved) > least - 1e-6
            assert divergence(s, columns + 0.01 * (moved - columns)) > least - 1e-6


@pytest.mark.parametrize("family", ["diag", "lowrank", ("lowrank", 1)])
def test_regressors_that_go_together_take_few_evaluations(family):
    x = correlated_rows()
    y = (np.random.default_rng(12).random(300) < 0.5).astype(float)
    model = fv.Model(logistic, 8, (x, y), log_joint_grad=logistic_gradient)
    f, full = fv.fit(model, family), fv.fit(model)
    assert f.converged
    assert f.evaluations <= (1.5 if family == "diag" else 1.3) * full.evaluations


def test_forty_coordinates_that_go_together_have_as_many_pairs_of_draws():
    """On fewer, second moments are not the identity: the ELBO over 32 pairs is too high by a nat."""
    cov = np.linalg.inv(0.1 * np.eye(40) + 0.9)
    model, scale = structured_model(cov), 1.0 / np.sqrt(np.diag(np.linalg.inv(cov)))
    f = fv.fit(model, "diag")
    assert f.converged
    np.testing.assert_allclose(f.q._deviations, scale, rtol=1e-6)
    assert f.evaluations <= 1.5 * fv.fit(model).evaluations
    start = racing.choose_start(model, None, "diag")
    assert deterministic._mislead(start, "diag", 32)
    assert not deterministic._mislead(start, "diag", 40)
    start = racing.choose_start(structured_model(np.eye(40)), None, "diag")
    assert not deterministic._mislead(start, "diag", 32)


def test_positive_coordinates():
    """log z is a Gaussian of rank one."""
    cov = structured(3, 1, seed=4) / 20.0

    def log_joint(z, precision):
        r = 0.0
        for i in range(3):
            r -= math.log(z[i])
            for j in range(3):
                r -= 0.5 * math.log(z[i]) * precision[i, j] * math.log(z[j])
        return r

    f = fv.fit(fv.Model(log_joint, 3, (np.linalg.inv(cov),), "positive"), "lowrank")
    assert f.converged
    np.testing.assert_allclose(f.q.gaussian.cov, cov, atol=2e-3)


def test_refusals():
    model = structured_model(structured(4, 1))
    with pytest.raises(ValueError, match=r"family\[1\] must be at most 2 in 4 dimensions, not 3"):
        fv.fit(model, ("lowrank", 3))
    with pytest.raises(ValueError, match=r"family\[1\] must be at least 1"):
        fv.fit(model, ("lowrank", 0))
    with pytest.raises(ValueError, match=r"family must be a name or .*, not .*diag"):
        fv.fit(model, ("diag", 2))
    with pytest.raises(ValueError, match="at least three latent dimensions"):
        fv.fit(structured_model(structured(2, 1)), "lowrank")
    with pytest.raises(ValueError, match="needs a gradient"):
        fv.fit(fv.Model(gaussian, 4, model.data, log_joint_grad="differences"), "lowrank")
    with pytest.raises(ValueError, match="does not fit"):
        fv.fit(model, "lowrank", method="sgd")
    with pytest.raises(ValueError, match="linear_response takes"):
        fv.fit(model, "lowrank").linear_response()
    with pytest.raises(ValueError, match="family must be one of"):
        fv.fit_batch(model, [model.data], "lowrank")


def test_two_thousand_dimensions():
    """Nothing of size D x D is made, which would take 32 MB."""
    dim = 2000
    rng = np.random.default_rng(5)
    centre, scale = rng.standard_normal(dim), np.exp(rng.standard_normal(dim))
    model = fv.Model(apart, dim, (centre, scale), log_joint_grad=apart_gradient)
    fv.fit(model, "diag")
    tracemalloc.start()
    f = fv.fit(model, "diag")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6
    assert f.converged
    assert f.q._dense is None
    assert f.q._cov is None
    np.testing.assert_allclose(f.q.mean, centre, atol=0.02)
    np.testing.assert_allclose(f.q._deviations, scale, rtol=0.02)
    truth = 0.5 * dim * math.log(2.0 * math.pi) + np.log(scale).sum()
    assert f.elbo.value <= truth + 3.0 * f.elbo.error
    assert f.elbo.value == pytest.approx(truth, abs=0.1)
    assert fv.elbo(model, f.q).value == pytest.approx(f.elbo.value, abs=1e-6)
    for family in ("full", "isotropic", "lowrank"):
        with pytest.raises(ValueError, match="works in up to 1000 dimensions"):
            fv.fit(model, family)
    with pytest.raises(ValueError, match="needs a gradient in more than 1000"):
        fv.fit(fv.Model(apart, dim, model.data, log_joint_grad="differences"), "diag")


# What starts and checks cost.


@pytest.mark.parametrize("family", ["diag", "full"])
def test_a_fit_with_a_gradient_takes_few_evaluations(family):
    f = fv.fit(regression(10, 200), family)
    assert f.converged
    assert f.evaluations <= 1200


def test_a_fit_in_a_hundred_dimensions_takes_few_evaluations():
    f = fv.fit(regression(100, 300), "diag")
    assert f.converged
    assert f.evaluations <= 2500


def test_the_mode_of_q_is_no_rival():
    """Of the deviation of the noise it is 1.7 deviations away, where half as many regressors go together."""

    def log_joint(z, x, y):
        r = -0.5 * z[-1] ** 2 - y.size * math.log(z[-1])
        for i in range(y.size):
            m = 0.0
            for j in range(x.shape[1]):
                m += x[i, j] * z[j]
            r -= 0.5 * ((y[i] - m) / z[-1]) ** 2
        return r

    x = correlated_rows(60, 30)
    y = np.random.default_rng(13).standard_normal(60)
    f = fv.fit(fv.Model(log_joint, 31, (x, y), [*["real"] * 30, "positive"]), "diag")
    q = f.q.gaussian
    assert rivals.rival_of(f.model, "diag", q, f.elbo.value, f.elbo.error, 1e5).start is None


def test_where_laplace_is_nearly_exact_few_draws_are_enough():
    model = regression(10, 10_000)
    f, finer = fv.fit(model), fv.fit(model, draws=160)
    assert f.converged
    assert f.evaluations <= 800
    assert fv.elbo(model, f.q, rng=1).value >= fv.elbo(model, finer.q, rng=1).value - 0.01


def test_laplace_by_gradients_is_that_by_values():
    by_gradients, by_values = (
        laplace_from(regression(6, 60, gradient), np.zeros(6))
        for gradient in (logistic_gradient, "differences")
    )
    np.testing.assert_allclose(by_gradients.mean, by_values.mean, atol=1e-2)
    np.testing.assert_allclose(by_gradients.factor, by_values.factor, atol=2e-2)
    np.testing.assert_allclose(by_gradients.scale, by_values.scale, rtol=2e-2)
    assert by_gradients.evaluations < 0.3 * by_values.evaluations
    precision = by_gradients.factor @ by_gradients.factor.T
    model = regression(6, 60)
    probability = 1.0 / (1.0 + np.exp(-model.data[0] @ by_gradients.mean))
    weights = probability * (1.0 - probability)
    exact = np.eye(6) + (model.data[0].T * weights) @ model.data[0]
    np.testing.assert_allclose(np.linalg.inv(precision), exact, atol=0.05)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_laplace_by_gradients_in_any_unit(scale):
    """The differences of gradients are over steps that are small in the deviations that are found."""

    def log_joint(z, scale):
        r = 0.0
        for i in range(z.size):
            r -= math.cosh(z[i] / scale)
        return r

    found = laplace_from(fv.Model(log_joint, 5, (scale,)), np.full(5, scale))
    np.testing.assert_allclose(found.mean, 0.0, atol=1e-3 * scale)
    np.testing.assert_allclose(found.factor, scale * np.eye(5), atol=1e-3 * scale)


@pytest.mark.parametrize("wider", [1.0, 0.5, 3.0])
def test_pairs_beside_a_quadratic_are_exact_for_quadratics(wider):
    """Also where the curvature is known up to a factor, as that at a mode beside the average under q."""
    cov = structured(8, 2)
    model, root = structured_model(cov), wider * np.linalg.cholesky(cov)
    scale = 1.0 / np.sqrt(np.diag(np.linalg.inv(cov)))
    found = expectations.expectation_by_pairs(model, np.zeros(8), np.diag(scale), -math.inf, 0, 0.1, root)
    assert found.value == pytest.approx(-4.0, abs=1e-10)
    assert found.error < 1e-10


def test_pairs_beside_a_quadratic_are_unbiased():
    """Errors over many seeds are as large as stated, for a regression with a start that is off."""
    model, dim = regression(8, 30), 8
    q = fv.fit(model, "diag").q
    truth = fv.elbo(model, q, rng=7).value - q.entropy()
    factor, root = np.diag(q._deviations), 1.5 * np.eye(dim)
    errors = []
    for seed in range(60):
        found = expectations.expectation_by_pairs(model, q._mean, factor, -math.inf, seed, 10.0, root)
        errors.append((found.value - truth) / found.error)
    assert abs(np.mean(errors)) < 3.5 / math.sqrt(60)
    assert 0.75 < np.sqrt(np.mean(np.square(errors))) < 1.35


def test_the_conjugate_mean_of_ten_points():
    """y ~ N(μ, 1), μ ~ N(0, 10²): the posterior is a Gaussian, in closed form."""
    y = np.random.default_rng(0).normal(2.0, 1.0, 10)

    def log_joint(z, y):
        return -0.5 * ((z[0] / 10.0) ** 2 + ((y - z[0]) ** 2).sum())

    q = fv.fit(fv.Model(log_joint, 1, (y,))).q
    precision = 10.0 + 0.01
    assert q.mean[0] == pytest.approx(y.sum() / precision, rel=1e-12)
    assert math.sqrt(q.cov[0, 0]) == pytest.approx(1.0 / math.sqrt(precision), rel=1e-12)


def test_moments_of_positive_coordinates_in_many_dimensions():
    """They need no covariance, and are those of the same q with one."""
    factor = np.vstack([random_factor(2, 4)])
    thin = fv.TransformedGaussian(Gaussian._from_factor(np.arange(4.0), factor), ["positive", "real"] * 2, 4)
    root = dense(factor)
    full = fv.TransformedGaussian(fv.Gaussian(np.arange(4.0), root @ root.T), ["positive", "real"] * 2, 4)
    np.testing.assert_allclose(thin.mean, full.mean, rtol=1e-12)
    np.testing.assert_allclose(thin._deviations, np.sqrt(np.diag(full.cov)), rtol=1e-12)
    assert thin.gaussian._dense is None


def test_a_fit_to_a_finer_tolerance_goes_on_from_the_last_value():
    """It does not take the value and the gradient at its start again, and its result is the same."""
    model = regression(5, 60)
    found = []
    for known in (True, False):
        fits = deterministic._FixedDraws(model, "diag", racing.choose_start(model, None, "diag"), 100)
        rough = fits.climb(20, 1e-2)
        before = fits.evaluations
        assert fits.climb(20, 1e-2).evaluations == 0
        assert fits.evaluations == before
        fits.known = known
        fine = fits.climb(20, 1e-8)
        assert fine.elbo >= rough.elbo
        found.append((int(fine.evaluations), fine.steps, fits.mean.tobytes(), fits.factor.tobytes()))
    (fewer, *same), (more, *other) = found
    assert same == other
    assert fewer == more - 40


def test_most_steps_are_kept_by_a_fit_that_goes_on():
    model = regression(5, 60)
    fits = deterministic._FixedDraws(model, "full", racing.choose_start(model, None, "full"), 2)
    assert fits.climb(20, 1e-12).status == STEPS_EXHAUSTED
    fits.max_steps = 1
    report = fits.climb(20, 1e-12)
    assert (report.status, report.steps, report.evaluations) == (STEPS_EXHAUSTED, 1, 0)

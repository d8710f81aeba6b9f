"""Fits of several Gaussians by the ELBO."""

import math
import pickle
from functools import partial

import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions.ascent import Elbo, Objective, Parts, climb, halved, scores_of
from fastvi.inference import expectations
from fastvi.inference.exports import groups_of
from fastvi.inference.kernel_calls import slopes_at
from fastvi.inference.mixture_fits import _Fitted, _Growth
from helpers import posteriors


def two_modes(dim, distance=10.0, weights=(0.5, 0.5)):
    """Normalised, so that KL(q ‖ p) is minus the ELBO."""
    return fv.Model(posteriors.mixture, dim, posteriors.modes(dim, distance, weights))


def funnel(dim):
    return fv.Model(posteriors.funnel, dim, (3.0,))


def random_parts(count, dim, diagonal, seed=0):
    rng = np.random.default_rng(seed)
    logs = np.log(rng.dirichlet(np.full(count, 3.0)))
    means, deviations = rng.standard_normal((count, dim)), rng.uniform(0.5, 1.5, (count, dim))
    if diagonal:
        return Parts(logs, means, deviations)
    below = np.tril(0.4 * rng.standard_normal((count, dim, dim)), -1)
    return Parts(logs, means, below + deviations[:, :, None] * np.eye(dim))


# The objective.


@pytest.mark.parametrize("diagonal", [False, True])
def test_scores_are_those_of_the_mixture(diagonal):
    parts = random_parts(3, 4, diagonal)
    points = np.random.default_rng(1).standard_normal((6, 4))
    found, mixture = scores_of(parts, points), parts.mixture()
    np.testing.assert_allclose(found.log_q, mixture.logpdf(points), rtol=1e-13)
    np.testing.assert_allclose(found.shares.sum(axis=0), 1.0, rtol=1e-14)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-6
        slope = (mixture.logpdf(points + step) - mixture.logpdf(points - step)) / 2e-6
        np.testing.assert_allclose(found.gradient[:, i], slope, atol=1e-7)


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_gradient_is_that_of_differences(diagonal):
    parts = random_parts(3, 3, diagonal)
    noise = np.random.default_rng(2).standard_normal((20, 3))
    weights = np.random.default_rng(3).dirichlet(np.ones(20))
    model = funnel(3)
    objective = Objective(Elbo(partial(slopes_at, model), noise, weights), parts)
    x = 0.3 * np.random.default_rng(4).standard_normal(objective.size)
    value, gradient = objective(x)
    moved, sums = objective.parts(x), 0.0
    for weight, mean, factor in zip(moved.weights, moved.means, moved.dense(), strict=True):
        points = mean + noise @ factor.T
        sums += weight * weights @ (model.log_density(points) - moved.mixture().logpdf(points))
    assert value == pytest.approx(sums, rel=1e-12)
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = 1e-5
        slope = (objective(x + step)[0] - objective(x - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_an_ascent_halves_steps_to_where_nothing_is_finite():
    def function(x):
        if x[0] >= 3.0:
            return -math.inf, x
        left = 3.0 - x[0]
        return 0.02 * math.log(left) + 2.0 * x[0] - x[1] ** 2, np.array([2.0 - 0.02 / left, -2.0 * x[1]])

    found = climb(function, np.array([-5.0, 3.0]), 40, 1e-12)
    np.testing.assert_allclose(found.x, [2.99, 0.0], atol=1e-5)
    assert not found.stuck
    assert found.lack <= 1e-12
    assert found.values == sorted(found.values)


# Fits.


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_two_far_modes(dim):
    f = fv.fit(two_modes(dim), ("mixture", 4))
    assert f.converged
    assert f.family == "mixture"
    assert abs(f.elbo.value) < 1e-6
    assert f.elbo.error < 1e-6
    np.testing.assert_allclose(f.q.weights, 0.5, atol=1e-6)
    np.testing.assert_allclose(f.q.mean, 0.0, atol=1e-5)
    assert f.gains == pytest.approx([math.log(2.0)], abs=1e-5)
    assert f.diagnose().close


def test_modes_of_groups_of_coordinates_are_crossed():
    def log_joint(z):
        return -0.5 * ((abs(z[0]) - 90.0) ** 2 + (abs(z[1]) - 90.0) ** 2 + z[2] ** 2) - 2.756815599614018

    model = fv.Model(log_joint, 3)
    f = fv.fit(model, ("mixture", 4))
    assert f.elbo.value == pytest.approx(math.log(4.0), abs=1e-6)
    assert f.diagnose().close
    three = fv.fit(model, ("mixture", 3))
    found = three.diagnose()
    assert not found.close
    assert found.other_mode is not None
    assert not any(np.allclose(found.other_mode, mean, atol=0.1) for mean in three.q.means)


@pytest.mark.parametrize(
    ("name", "argument", "dim", "count"),
    [("funnel", 3.0, 2, 4), ("funnel", 3.0, 5, 4), ("funnel", 3.0, 10, 4), ("banana", 1.0, 2, 4)],
)
def test_half_of_the_divergence_is_gone(name, argument, dim, count):
    model = fv.Model(getattr(posteriors, name), dim, (argument,))
    single, f = fv.fit(model), fv.fit(model, ("mixture", count))
    assert f.converged
    assert -f.elbo.value < -0.5 * single.elbo.value
    assert -f.elbo.value > -3.0 * f.elbo.error
    assert all(gain > 0.0 for gain in f.gains)
    assert sum(f.gains) == pytest.approx(f.elbo.value - single.elbo.value, abs=0.1)
    assert len(f.q.weights) == 1 + len(f.gains)
    assert fv.fit(model, ("mixture", count)).q == f.q


@pytest.mark.parametrize("dim", [1, 2])
def test_the_elbo_is_that_of_a_fine_lattice(dim):
    q = random_parts(3, dim, False).mixture()
    model = fv.Model(posteriors.student, dim, (4.0,))
    found = fv.elbo(model, q)
    line = np.linspace(-14.0, 14.0, 701)
    points = np.stack(np.meshgrid(*[line] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    density = q.pdf(points)
    exact = (density * (model.log_density(points) - np.log(np.maximum(density, 1e-300)))).sum()
    assert found.value == pytest.approx(exact * (line[1] - line[0]) ** dim, abs=1e-8)
    assert found.error < 1e-8


def test_the_error_by_fresh_draws_is_honest():
    model = funnel(3)
    q = fv.fit(model, ("mixture", 2)).q
    truth = expectations.mixture_expectation(model, q, 1000, 0.0, 128)
    errors = []
    for seed in range(60):
        found = expectations.mixture_expectation(model, q, seed, 10.0)
        errors.append((found.value - truth.value) / found.error)
    assert abs(np.mean(errors)) < 4.0 / math.sqrt(60)
    assert 0.7 < np.sqrt(np.mean(np.square(errors))) < 1.35


def test_a_gaussian_needs_one_component():
    model = fv.Model(posteriors.gaussian, 4, posteriors.correlated(4, 0.5))
    f = fv.fit(model, ("mixture", 5))
    assert f.gains == ()
    assert f.evaluations < 6000
    assert f.elbo.value == pytest.approx(0.0, abs=1e-9)
    single = fv.fit(model)
    assert fv.fit(model, ("mixture", 1)).elbo.value == single.elbo.value
    assert f.q.components == (single.q,)


def test_what_pays():
    growth = _Growth(funnel(3), 1e-8, 100, None)
    growth.value = -1.0

    def pays(gain, error, before):
        fitted = _Fitted(random_parts(2, 3, False), -1.0 + gain, error, 0, 0.0)
        return growth.pays(fitted, before)

    assert pays(0.0021, 0.0, 0.0)
    assert not pays(0.0019, 0.0, 0.0)
    assert pays(0.0101, 0.003, 0.004)
    assert not pays(0.0099, 0.003, 0.004)
    assert not pays(-math.inf, 0.0, 0.0)


def test_what_does_not_pay_is_left_out():
    f = fv.fit(fv.Model(posteriors.student, 1, (3.0,)), ("mixture", 10))
    assert f.converged
    assert 1 <= len(f.gains) <= 4
    assert min(f.gains) > 2e-3
    assert -2e-3 < f.elbo.value < 0.0


@pytest.mark.parametrize("diagonal", [False, True])
def test_halves_have_the_same_moments(diagonal):
    parts = random_parts(2, 3, diagonal)
    axis = np.array([0.0, 1.0, 0.0]) if diagonal else np.array([0.48, 0.6, 0.64])
    halves = halved(parts, 1, axis)
    assert len(halves.logs) == 3
    np.testing.assert_allclose(halves.mixture().mean, parts.mixture().mean, atol=1e-14)
    np.testing.assert_allclose(halves.mixture().cov, parts.mixture().cov, rtol=1e-12, atol=1e-14)
    assert np.linalg.norm(halves.means[1] - halves.means[2]) > 0.5


def test_differences_and_diagonal_covariances():
    model = fv.Model(posteriors.mixture, 3, posteriors.modes(3, 8.0), log_joint_grad="differences")
    f = fv.fit(model, ("mixture", 2))
    assert f.converged
    assert abs(f.elbo.value) < 1e-6
    wide = fv.fit(two_modes(55), ("mixture", 2))
    assert wide.converged
    assert abs(wide.elbo.value) < 1e-6
    assert np.count_nonzero(wide.q.covs[0]) == 55


def test_few_steps_are_told():
    f = fv.fit(funnel(3), ("mixture", 2), max_steps=2)
    assert not f.converged
    assert f.status.startswith("the steps were used up")


def test_a_wrong_gradient_is_told():
    import numba

    @numba.njit
    def value(z):
        return -0.5 * (abs(z[0]) - 3.0) ** 2

    @numba.njit
    def wrong(z, grad):
        grad[0] = z[0]
        return value(z)

    f = fv.fit(fv.Model(value, 1, log_joint_grad=wrong), ("mixture", 2))
    assert "is not the gradient" in f.status
    assert not f.converged


# What a fit with a support gives.


@pytest.fixture(scope="module")
def named():
    def log_joint(p):
        """Log tau is a mixture of N(-2, 0.5²) and N(1, 0.5²), mu is N(log tau, 1)."""
        s = math.log(p.tau)
        a, b = -2.0 * (s + 2.0) ** 2, -2.0 * (s - 1.0) ** 2
        return np.logaddexp(a, b) - math.log(2.0 * math.pi) - s - 0.5 * (p.mu - s) ** 2

    return fv.fit(fv.Model(log_joint, {"mu": "real", "tau": "positive"}), ("mixture", 2))


def test_a_support(named):
    assert isinstance(named.q, fv.TransformedMixture)
    assert abs(named.elbo.value) < 1e-6
    assert named["mu"].mean == pytest.approx(-0.5, abs=1e-4)
    mean = 0.5 * (math.exp(-2.0 + 0.125) + math.exp(1.0 + 0.125))
    second = 0.5 * (math.exp(-4.0 + 0.5) + math.exp(2.0 + 0.5))
    assert named["tau"].mean == pytest.approx(mean, rel=1e-4)
    assert named["tau"].sd == pytest.approx(math.sqrt(second - mean**2), rel=1e-4)
    draws = named.sample(1000, 0, named=True)
    assert draws["tau"].min() > 0.0
    assert named.diagnose().close
    assert named.psis_k < 0.1
    assert "components     2, which added 0." in named.summary()
    assert named.sample(20, 0, resample=True).shape == (20, 2)
    assert fv.elbo(named.model, named.q).value == pytest.approx(named.elbo.value, abs=1e-9)
    again = pickle.loads(pickle.dumps(named))
    assert again.q.mixture == named.q.mixture
    assert again.gains == named.gains


def test_a_transformed_mixture(named):
    q = named.q
    assert (q.dim, q.support, len(q.components)) == (2, ["real", "positive"], 2)
    draws = q.sample(40_000, 0)
    assert q.entropy() == pytest.approx(-q.logpdf(draws).mean(), abs=0.02)
    np.testing.assert_allclose(q.cov, np.cov(draws.T), rtol=0.05)
    assert q.logpdf([0.0, -1.0]) == -math.inf
    point = np.array([0.3, 0.7])
    parts = [w * part.pdf(point) for w, part in zip(q.weights, q.components, strict=True)]
    assert q.pdf(point) == pytest.approx(sum(parts), rel=1e-12)
    with pytest.raises(TypeError, match="mixture must be a GaussianMixture, not Gaussian"):
        fv.TransformedMixture(fv.Gaussian(0, 1), "positive", 1)
    with pytest.raises(ValueError, match="mixture has dimension 2, the support has 1"):
        fv.TransformedMixture(fv.GaussianMixture([1], [[0, 0]], [np.eye(2)]), "positive", 1)
    with pytest.raises(ValueError, match="q has the support"):
        fv.elbo(fv.Model(lambda z: -(z[0] ** 2) - z[1], 2), q)


def test_as_datasets(named):
    pytest.importorskip("xarray")
    groups = groups_of(named, 30, 0, None, None)
    parameters = groups["variational_parameters"]
    assert parameters["weight"].shape == (2,)
    assert parameters["cov"].dims == ("component", "coordinate", "other_coordinate")
    stats = groups["sample_stats"]
    np.testing.assert_allclose(stats["lp"].values, stats["log_q"].values, atol=1e-4)
    assert groups["posterior"].attrs["family"] == "mixture"


def test_what_a_mixture_has_not(named):
    with pytest.raises(ValueError, match="linear_response needs a Gaussian q, not a TransformedMixture"):
        named.linear_response()
    with pytest.raises(TypeError, match=r"q must be a Gaussian, .*, not TransformedMixture"):
        fv.elbo_grad(named.model, named.q)
    with pytest.raises(TypeError, match=r"q must be a Gaussian, .*, not TransformedMixture"):
        fv.decompose(named.model, named.q)
    value = fv.elbo(named.model, named.q.mixture)
    assert value.value == -math.inf
    assert "Use a TransformedMixture" in value.note


def test_refusals():
    model = two_modes(2)
    for family, error, text in [
        ("mixture", ValueError, "needs a number of Gaussians"),
        (("mixture", 0), ValueError, r"family\[1\] must be at least 1, not 0"),
        (("mixture", 65), ValueError, r"family\[1\] must be at most 64, not 65"),
        (("mixture", 2.5), TypeError, r"family\[1\] must be an integer, not 2.5"),
        (("mixtur", 2), ValueError, "family must be a name or .*, not .*mixtur"),
        (("mixture",), ValueError, "family must be a name or"),
    ]:
        with pytest.raises(error, match=text):
            fv.fit(model, family)
    for start, error, text in [
        (fv.GaussianMixture([1], [[0, 0]], [np.eye(2)]), TypeError, "start must be a point or a Gaussian"),
        ("here", TypeError, "start is a str"),
        ([0.0], ValueError, "start must be a point of shape"),
        (fv.Gaussian(0, 1), ValueError, "start has dimension 1"),
    ]:
        with pytest.raises(error, match=text):
            fv.fit(model, ("mixture", 2), start=start)
    with pytest.raises(ValueError, match='method="sgd" does not fit family="mixture"'):
        fv.fit(model, ("mixture", 2), method="sgd")
    with pytest.raises(ValueError, match="family must be one of"):
        fv.fit_batch(model, [model.data], ("mixture", 2))
    with pytest.raises(ValueError, match="works in up to 256 dimensions"):
        fv.fit(two_modes(257), ("mixture", 2))


def test_starts_and_draws():
    f = fv.fit(two_modes(3, 6.0), ("mixture", 2), starts=2, draws=100)
    assert len(f.starts) == 2
    assert abs(f.elbo.value) < 1e-6
    assert fv.fit(funnel(3), ("mixture", 2), draws=8).status.startswith("fresh draws find a lower ELBO")
    begun = fv.fit(two_modes(3, 6.0), ("mixture", 2), start=fv.Gaussian(np.zeros(3), np.eye(3)), rng=3)
    assert abs(begun.elbo.value) < 1e-6

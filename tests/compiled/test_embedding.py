"""Distributions, projections and fits in a user's compiled code, with public names only."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba import njit, prange
from numba.core.errors import TypingError
from numba.core.runtime import rtsys

import fastvi as fv
from fastvi.compiled import external
from fastvi.kernels import statuses
from helpers.programs import copied, run_program

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


def plane(seed):
    """A mean and a covariance in two dimensions."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((2, 2)) + 2.0 * np.eye(2)
    return rng.standard_normal(2), root @ root.T


P = fv.GaussianMixture([0.3, 0.7], [[-3, 0.5], [3, 0]], [np.eye(2), [[1, 0.3], [0.3, 0.5]]])


# Distributions.


@njit
def of_gaussians(mean, cov, z, q):
    p = fv.Gaussian(mean, cov)
    return p, p.dim, p.mean, p.cov, p.cholesky, p.logpdf(z), p.pdf(z), p.entropy(), fv.kl(p, q), fv.kl(q, p)


def test_gaussians_are_what_they_are_in_python():
    mean, cov = plane(0)
    q = fv.Gaussian(*plane(1))
    z = np.array([[0.1, 0.2], [1.0, -1.0]])
    p, dim, m, c, factor, logpdf, pdf, entropy, there, back = of_gaussians(mean, cov, z, q)
    own = fv.Gaussian(mean, cov)
    assert isinstance(p, fv.Gaussian)
    assert p == own or np.allclose(p.cov, own.cov, rtol=1e-15)
    assert dim == 2
    np.testing.assert_array_equal(m, own.mean)
    np.testing.assert_allclose(c, cov, rtol=1e-15)
    np.testing.assert_allclose(factor, own.cholesky, rtol=1e-15)
    np.testing.assert_allclose(logpdf, own.logpdf(z), rtol=1e-14)
    np.testing.assert_allclose(pdf, own.pdf(z), rtol=1e-14)
    assert math.isclose(entropy, own.entropy(), rel_tol=1e-14)
    assert math.isclose(there, fv.kl(own, q), rel_tol=1e-14)
    assert math.isclose(back, fv.kl(q, own), rel_tol=1e-14)


@njit(parallel=True)
def divergences_of_many(means, covs, q, out):
    for i in prange(len(means)):
        out[i] = fv.kl(fv.Gaussian(means[i], covs[i]), q)


def test_one_bad_gaussian_marks_itself_only():
    pairs = [plane(seed) for seed in range(20)]
    means, covs = np.stack([m for m, _ in pairs]), np.stack([c for _, c in pairs])
    q, out, expected = fv.Gaussian([0, 0], np.eye(2)), np.empty(20), np.empty(20)
    for i, (m, c) in enumerate(pairs):
        expected[i] = fv.kl(fv.Gaussian(m, c), q)
    means[3, 1] = np.nan
    covs[5] = [[1.0, 2.0], [2.0, 1.0]]  # not positive definite
    covs[7] = [[1.0, 0.5], [0.4, 1.0]]  # not symmetric
    divergences_of_many(means, covs, q, out)
    bad = np.isin(np.arange(20), [3, 5, 7])
    assert np.isnan(out[bad]).all()
    np.testing.assert_allclose(out[~bad], expected[~bad], rtol=1e-13)


@njit
def of_numbers(mean, variance, z):
    p = fv.Gaussian(mean, variance)
    return p, p.logpdf(z)


def test_one_dimension_takes_numbers():
    p, value = of_numbers(1.0, 4.0, 2)
    assert p == fv.Gaussian(1.0, 4.0)
    assert math.isclose(value, fv.Gaussian(1.0, 4.0).logpdf(2.0), rel_tol=1e-15)
    for variance in (0.0, -1.0, math.nan, math.inf):
        assert math.isnan(of_numbers(1.0, variance, 2)[1])


@njit
def of_mixtures(weights, means, covs, z):
    p = fv.GaussianMixture(weights, means, covs)
    return p, p.dim, p.weights, p.mean, p.cov, p.logpdf(z), p.pdf(z)


def test_mixtures_are_what_they_are_in_python():
    z = np.array([0.5, -0.2])
    p, dim, weights, mean, cov, logpdf, pdf = of_mixtures(P.weights, P.means, P.covs, z)
    assert isinstance(p, fv.GaussianMixture)
    assert dim == 2
    for found, expected in (
        (p.weights, P.weights),
        (p.means, P.means),
        (p.covs, P.covs),
        (weights, P.weights),
        (mean, P.mean),
        (cov, P.cov),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
    assert math.isclose(logpdf, P.logpdf(z), rel_tol=1e-14)
    assert math.isclose(pdf, P.pdf(z), rel_tol=1e-14)
    assert math.isnan(of_mixtures(P.weights, P.means, P.covs, np.zeros(3))[5])  # of another dimension
    for weights in ([0.3, 0.6], [-0.1, 1.1], [np.nan, 1.0], [1.0]):
        assert math.isnan(of_mixtures(np.array(weights), P.means, P.covs, z)[5])


@njit(nogil=True)
def both_projections(p):
    m = fv.m_projection(p)
    return (
        m,
        fv.m_projection(p, "diag"),
        fv.m_projection(p, "isotropic"),
        fv.kl_estimate(p, m.q),
        fv.i_projection(p),
    )


def test_projections_are_those_of_python_also_in_threads_without_the_gil():
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(both_projections, [P] * 8))
    own_m, own_i = fv.m_projection(P), fv.i_projection(P)
    for m, diagonal, round_, estimate, i in results:
        for found, expected in (
            (m.q, own_m.q),
            (diagonal.q, fv.m_projection(P, "diag").q),
            (round_.q, fv.m_projection(P, "isotropic").q),
        ):
            np.testing.assert_allclose(found.mean, expected.mean, atol=1e-13)
            np.testing.assert_allclose(found.cov, expected.cov, atol=1e-13)
        assert m.converged
        assert abs(estimate.value - own_m.kl) <= estimate.error + own_m.error
        assert len(i.optima) == len(own_i.optima) == 2
        for found, expected in zip(i.optima, own_i.optima, strict=True):
            assert found.converged
            assert abs(found.kl - expected.kl) <= found.error + expected.error
            np.testing.assert_allclose(found.q.mean, expected.q.mean, atol=1e-6)
        assert i.q == i.optima[0].q == results[0][4].q  # the same bits in each thread
        assert (i.kl, i.error, i.converged) == (i.optima[0].kl, i.optima[0].error, True)


def test_what_has_no_projection_is_not_a_number():
    p, *_ = of_mixtures(np.array([0.3, 0.6]), P.means, P.covs, np.zeros(2))
    *_, estimate, i = both_projections(p)
    assert math.isnan(estimate.value)
    assert math.isnan(i.kl)
    assert not i.converged


@njit
def both_reductions(p, k):
    fine, rough = fv.reduce_mixture(p, k), fv.reduce_mixture(p, k, "runnalls")
    return fine.mixture, fine.converged, fine.iterations, rough.mixture, rough.converged


def test_reductions_are_those_of_python():
    rng = np.random.default_rng(3)
    for dim, k, least in ((1, 2, 1.0), (2, 3, 1.0), (3, 2, 1.0), (1, 3, 1e-2), (1, 4, 1e-2), (2, 3, 1e-2)):
        weights = np.append(rng.dirichlet(np.ones(6)), 0.0)
        widths = rng.choice([1.0, least], 7)[:, None, None] ** 2
        p = fv.GaussianMixture(weights, rng.normal(size=(7, dim)), widths * np.eye(dim))
        fine, converged, sweeps, rough, _ = both_reductions(p, k)
        own, greedy = fv.reduce_mixture(p, k), fv.reduce_mixture(p, k, "runnalls")
        assert (converged, sweeps) == (own.converged, own.iterations)
        for one, two in ((fine, own.mixture), (rough, greedy.mixture)):
            np.testing.assert_allclose(one.means, two.means, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(one.covs, two.covs, rtol=1e-9, atol=1e-9)
        assert both_reductions(p, 7)[0].weights.size == 6  # one has no weight
    assert both_reductions(p, 1)[1]
    nan, *_ = of_mixtures(np.array([0.3, 0.6]), P.means, P.covs, np.zeros(2))
    for k in (1, 2):
        nothing, converged, *_ = both_reductions(nan, k)
        assert np.isnan(nothing.weights).all()
        assert not converged
    p = fv.GaussianMixture([0.5 - 1e-17, 0.5, 1e-17], [0.0, 3.0, 40.0], np.ones(3))
    assert (both_reductions(p, 2)[1:3], both_reductions(p, 2)[4]) == ((True, 0), True)  # exact to rounding
    nothing, converged, *_ = both_reductions(p, 0)
    assert np.isnan(nothing.means).all()
    assert not converged


@njit
def onto_mixtures(p, k):
    two, given, same = (
        fv.m_projection(p, ("mixture", 2)),
        fv.m_projection(p, ("mixture", k)),
        fv.reduce_mixture(p, k),
    )
    return two.mixture.means, (given.mixture, given.converged, given.iterations), tuple(same)


def test_m_projections_onto_mixtures_are_reductions():
    rng = np.random.default_rng(4)
    p = fv.GaussianMixture(rng.dirichlet(np.ones(5)), rng.normal(size=(5, 2)), [np.eye(2)] * 5)
    for k in (1, 2, 3):
        two, given, same = onto_mixtures(p, k)
        assert given == same
        assert given[0].weights.size == k
        if k == 2:
            np.testing.assert_array_equal(two, given[0].means)
            np.testing.assert_allclose(two, fv.m_projection(p, ("mixture", 2)).q.means, atol=1e-9)
    assert np.isnan(onto_mixtures(p, 0)[1][0].means).all()


@njit
def near_start(p, k, start):
    return fv.i_projection(p, ("mixture", k), starts=(start,))


@njit
def near_reduction(p):
    return fv.i_projection(p, ("mixture", 2), (fv.reduce_mixture(p, 2).mixture,), rtol=1e-6)


def test_i_projections_onto_mixtures_near_a_start_are_those_of_python():
    rng = np.random.default_rng(5)
    for dim in (1, 2, 3):
        means = 2.0 * rng.normal(size=(5, dim))
        p = fv.GaussianMixture(np.append(rng.dirichlet(np.ones(4)), 0.0), means, [np.eye(dim)] * 5)
        start = fv.reduce_mixture(p, 2).mixture
        found, own = near_start(p, 2, start), fv.i_projection(p, ("mixture", 2), starts=[start])
        assert found.converged
        assert own.converged
        assert found.kl == pytest.approx(own.kl, rel=1e-10)
        assert found.error == pytest.approx(own.error, rel=0.1)
        assert found.gradient_norm < 1e-3
        for part in ("weights", "means", "covs"):
            np.testing.assert_allclose(getattr(found.q, part), getattr(own.q, part), rtol=1e-6, atol=1e-6)
        assert len(found.optima) == 1
        assert found.optima[0].kl == found.kl
        assert near_reduction(p).kl == pytest.approx(own.kl, rel=1e-5)
        exact = near_start(p, 4, fv.reduce_mixture(p, 4).mixture)
        assert (exact.kl, exact.error, exact.converged) == (0.0, 0.0, True)
        np.testing.assert_allclose(exact.q.means, means[:4])


@njit
def onto(p, k):
    return fv.i_projection(p, ("mixture", k))


def test_i_projections_onto_mixtures_search_as_python_does():
    """The same kernels in the same frame: the gradients at all optima have the same bits."""
    rng = np.random.default_rng(8)
    for dim, components, k in ((1, 5, 2), (1, 30, 4), (2, 6, 3), (2, 4, 1), (3, 4, 2), (2, 3, 3), (1, 1, 2)):
        means = rng.choice([1.0, 4.0]) * rng.normal(size=(components + 1, dim))
        weights = np.append(rng.dirichlet(np.ones(components)), 0.0)
        p = fv.GaussianMixture(weights, means, [np.eye(dim)] * (components + 1))
        found, own = onto(p, k), fv.i_projection(p, ("mixture", k))
        assert found.kl == pytest.approx(own.kl, rel=1e-12, abs=1e-15)
        assert found.converged
        assert (found.q, found.kl, found.error) == found.optima[0][:3]
        assert len(found.optima) == len(own.optima)
        for one, two in zip(found.optima, own.optima, strict=True):
            assert (one.gradient_norm, one.converged) == (two.gradient_norm, two.converged)
            assert one.kl == pytest.approx(two.kl, rel=1e-12, abs=1e-15)
            assert one.error == pytest.approx(two.error, rel=0.1, abs=1e-13)
            if components > k:
                for part in ("weights", "means", "covs"):
                    np.testing.assert_allclose(
                        getattr(one.q, part), getattr(two.q, part), rtol=1e-9, atol=1e-9
                    )
        assert [optimum.kl for optimum in found.optima] == sorted(optimum.kl for optimum in found.optima)
    assert onto(fv.Gaussian(1.0, 2.0), 2).q.means == [[1.0]]


def test_i_projections_onto_mixtures_whose_merges_are_singular_are_those_of_python():
    means = 1e9 * np.array([[1.0, 1.3], [-1.0, -1.3], [2.1, 2.73], [0.0, 0.0]])
    p = fv.GaussianMixture([0.4, 0.3, 0.2, 0.1], means, [1e-2 * np.eye(2)] * 4)
    found, own = onto(p, 2), fv.i_projection(p, ("mixture", 2))
    assert found.kl == pytest.approx(-math.log(0.7), rel=1e-9)
    assert found.gradient_norm == own.gradient_norm


@pytest.mark.parametrize("seed", [7, 38])
def test_i_projections_onto_mixtures_of_which_a_component_runs_off(seed):
    """It has deviations of 1e75, so that the divergence is not resolved, and is no minimum."""
    rng = np.random.default_rng((8, seed))
    dim, components = int(rng.integers(1, 4)), 3
    a = 0.5 * rng.normal(size=(components, dim, dim))
    weights, means = rng.dirichlet(np.ones(components)), rng.normal(0.0, 2.5, (components, dim))
    p = fv.GaussianMixture(weights, means, a @ a.swapaxes(1, 2) + 0.1 * np.eye(dim))
    found, own = onto(p, 2), fv.i_projection(p, ("mixture", 2))
    assert own.converged
    assert found.converged
    assert found.kl == pytest.approx(own.kl, rel=1e-9)


def test_i_projections_onto_mixtures_that_may_be_the_best_come_first():
    """Three of the components are so narrow that the divergence of some optima is not resolved."""
    rng = np.random.default_rng((2, 3, 1))
    count, widths = int(rng.integers(3, 8)), rng.choice([1.0, 0.05], 7)
    weights, means = rng.dirichlet(np.ones(count)), rng.normal(size=(count, 3))
    p = fv.GaussianMixture(weights, means, widths[:, None, None] ** 2 * np.eye(3))
    found, own = onto(p, 2), fv.i_projection(p, ("mixture", 2))
    assert not found.converged
    assert not own.converged
    for one, two in zip(found.optima, own.optima, strict=True):
        assert (one.kl, one.error) == pytest.approx((two.kl, two.error), rel=1e-9)
    assert found.error > 0.01 * found.kl
    assert [one.gradient_norm for one in found.optima] == [two.gradient_norm for two in own.optima]


def test_i_projections_onto_mixtures_of_what_they_do_not_take_are_not_a_number():
    line = fv.GaussianMixture([0.5, 0.3, 0.2], [0.0, 3.0, 6.0], [1.0, 1.0, 1.0])
    two, flat = fv.reduce_mixture(line, 2).mixture, fv.GaussianMixture([0.5, 0.5], np.eye(2), [np.eye(2)] * 2)
    many = fv.GaussianMixture([0.5, 0.3, 0.2], np.eye(3, 4), [np.eye(4)] * 3)
    for p, k, start in (
        (line, 1, two),
        (line, 3, two),
        (line, 0, two),
        (line, 2, flat),
        (many, 2, fv.reduce_mixture(many, 2).mixture),
    ):
        found = near_start(p, k, start)
        assert not found.converged
        assert math.isnan(found.kl)
        assert np.isnan(found.q.weights).all()
        assert np.isnan(found.q.means).all()
    nan, *_ = of_mixtures(np.array([0.3, 0.6]), P.means, P.covs, np.zeros(2))
    for p, k in ((line, 0), (line, -1), (many, 2), (nan, 1), (nan, 2)):
        found = onto(p, k)
        assert not found.converged
        assert math.isnan(found.kl)
        assert np.isnan(found.q.weights).all()
        assert found.q.means.shape == (max(k, 1), p.means.shape[1])
    # One of p's components is too narrow for the lattices, and for the quadrature of the divergence.
    narrow = fv.GaussianMixture([0.5, 0.3, 0.2], [0.0, 0.1, 3.0], [1.0, 1e-10, 1.0])
    assert not near_start(narrow, 2, fv.reduce_mixture(narrow, 2).mixture).converged


# Models.


@njit
def log_joint(z, x):
    """p(z) = exp(-z), p(x | z) = N(x | z, 1)."""
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)


@njit(nogil=True)
def fits_of_many(xs, mean, sd, elbo, converged):
    for i in range(xs.size):
        found = fv.fit(fv.Model(log_joint, 1, (xs[i],), "positive"))
        mean[i], sd[i] = found.q.gaussian.mean[0], found.q.gaussian.cholesky[0, 0]
        elbo[i], converged[i] = found.elbo.value, found.converged


def test_whole_fits_in_a_users_loop():
    xs = np.linspace(-2.0, 4.0, 12)
    xs[4] = np.nan
    mean, sd, elbo = np.empty(12), np.empty(12), np.empty(12)
    converged = np.empty(12, bool)
    fits_of_many(xs, mean, sd, elbo, converged)
    assert converged.tolist() == [i != 4 for i in range(12)]
    assert np.isnan([elbo[4], mean[4], sd[4]]).all()
    model = fv.Model(log_joint, 1, data=(0.0,), support="positive")
    for i in np.flatnonzero(converged):
        own = fv.fit(model.with_data((xs[i],)))
        assert abs(own.elbo.value - elbo[i]) <= 1e-9
        assert abs(own.q.gaussian.mean[0] - mean[i]) <= 1e-7
        assert abs(own.q.gaussian.cholesky[0, 0] - sd[i]) <= 1e-7


@njit
def all_of_a_model(model, q):
    return q, fv.elbo(model, q), fv.elbo_grad(model, q), fv.log_evidence(model)


def test_models_of_python_come_in():
    model = fv.Model(log_joint, 1, data=(2.0,), support="positive")
    q = fv.TransformedGaussian(fv.Gaussian(0.2, 0.5), "positive", 1)
    again, bound, gradient, evidence = all_of_a_model(model, q)
    assert isinstance(again, fv.TransformedGaussian)
    assert again.support == ["positive"]
    np.testing.assert_array_equal(again.gaussian.mean, q.gaussian.mean)
    np.testing.assert_array_equal(again.gaussian.cholesky, q.gaussian.cholesky)
    assert abs(bound.value - fv.elbo(model, q).value) <= 1e-12
    expected = fv.elbo_grad(model, q)
    assert abs(gradient.mean[0] - expected.mean[0]) <= 1e-10
    assert abs(gradient.cholesky[0, 0] - expected.cholesky[0, 0]) <= 1e-10
    assert abs(evidence.value - fv.log_evidence(model).value) <= evidence.error + 1e-12
    other = fv.TransformedGaussian(fv.Gaussian(0.2, 0.5), ("lower", 1.0), 1)  # on another support
    assert math.isnan(all_of_a_model(model, other)[1].value)
    # New data of the same type compile nothing.
    before = len(all_of_a_model.signatures)
    _, bound, *_ = all_of_a_model(model.with_data((3.0,)), q)
    assert len(all_of_a_model.signatures) == before
    assert abs(bound.value - fv.elbo(model.with_data((3.0,)), q).value) <= 1e-12


@njit
def touchy(z, limit):
    if z[0] > limit:
        raise ValueError("too far")
    return -0.5 * z[0] ** 2


@njit
def fit_of_touchy(limit):
    model = fv.Model(touchy, 1, (limit,))
    found = fv.fit(model)
    return found.status, found.converged, found.q, fv.log_evidence(model).value


@njit
def two_modes(z, centre):
    return np.logaddexp(-0.5 * (z[0] + centre) ** 2, -1.0 - 0.5 * (z[0] - centre) ** 2)


@njit
def status_of_fit(model):
    found = fv.fit(model)
    return found.status, found.converged, found.elbo.value


def test_a_fit_that_another_start_may_better_has_not_converged():
    """In compiled code no other starts are tried, but the log density on a line shows what they may find."""
    for centre in (0.1, 3.0, 8.0):
        model = fv.Model(two_modes, 1, (centre,))
        status, converged, value = status_of_fit(model)
        best = fv.fit(model).elbo.value
        if centre == 0.1:
            assert converged
            assert value == best
        else:
            assert (status, converged) == (statuses.UNCONFIRMED, False)
            assert value <= best


def test_a_log_joint_that_raises_ends_its_own_fit_only():
    status, converged, q, evidence = fit_of_touchy(-1.0)
    assert (status, converged) == (statuses.RAISED, False)
    assert math.isnan(q.mean[0])
    assert math.isnan(evidence)
    assert fit_of_touchy(100.0)[1]


@njit
def with_data_of_all_kinds(z, kind, none, scale, shape, table):
    return -0.5 * ((z[0] - table[0, 1]) / scale) ** 2 - 0.5 * (z[1] - shape[1]) ** 2 if kind else 0.0


@njit
def fit_of_all_kinds(scale, shape, table, rtol, most):
    model = fv.Model(with_data_of_all_kinds, 2, (True, None, scale, shape, table))
    return fv.fit(model, "diag", rtol=rtol, max_steps=most)


def test_data_of_all_kinds_and_numbers_of_other_types():
    table = np.arange(12.0, dtype=np.float32).reshape(2, 6)[:, ::2]
    found = fit_of_all_kinds(np.float32(3.0), (1, 2.5), table, np.float32(1e-6), np.int32(50))
    np.testing.assert_allclose(found.q.mean, [2.0, 2.5], atol=1e-6)
    np.testing.assert_allclose(found.q.cov, [[9.0, 0.0], [0.0, 1.0]], atol=1e-5)


@njit
def logpdf_of(p, z):
    return p.logpdf(z)


@pytest.mark.parametrize("z", [P.means, P.means[:, ::-1], P.means.T, P.means.astype(np.float32), P.means[0]])
def test_points_of_every_layout(z):
    np.testing.assert_allclose(logpdf_of(P, z), P.logpdf(z), rtol=1e-13)


@njit
def bound_of(q):
    return fv.elbo(fv.Model(log_joint, 1, (2.0,), ("lower", 0.0)), q).value


def test_a_gaussian_on_the_whole_line_has_mass_where_the_joint_is_zero():
    assert bound_of(fv.Gaussian(1.0, 1.0)) == -math.inf


@njit
def operations_on_all(p, x, count):
    total = 0.0
    for _ in range(count):
        model = fv.Model(log_joint, 1, (x,), "positive")
        found = fv.fit(model)
        total += fv.fit(model, start=found.q).elbo.value + fv.elbo_grad(model, found.q).mean[0]
        total += fv.log_evidence(model).value + fv.elbo(model, found.q).value
        total += fv.kl(p, fv.m_projection(p).q) + fv.i_projection(p, "diag").kl + p.logpdf(p.means)[0]
    return total


@pytest.mark.usefixtures("counted")
def test_what_an_operation_allocates_is_freed():
    operations_on_all(P, 2.0, 1)
    before = rtsys.get_allocation_stats()
    operations_on_all(P, 2.0, 10)
    after = rtsys.get_allocation_stats()
    assert after.alloc - before.alloc > 100
    assert after.alloc - before.alloc == after.free - before.free


# Typing errors: their messages name the function, and what it takes.


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            lambda p, q: fv.kl(p, q),
            (np.arange(3), np.arange(3)),
            r"fastvi\.kl .*contiguous 1-D arrays of float",
        ),
        (
            lambda p, q: fv.kl(p, q),
            (np.ones(6)[::2], np.ones(3)),
            r"fastvi\.kl .*contiguous 1-D arrays of float",
        ),
        (lambda p, q: fv.kl(p, q), (P, np.ones(3)), r"fastvi\.kl .*not fastvi\.GaussianMixture"),
        (
            lambda p: fv.i_projection(p, "round"),
            (P,),
            r"fastvi\.i_projection: family must be one of full, diag",
        ),
        (lambda p, f: fv.i_projection(p, f), (P, "full"), r"fastvi\.i_projection: family must be a constant"),
        (
            lambda p: fv.i_projection(p),
            (np.ones(3),),
            r"fastvi\.i_projection .*takes a Gaussian or a Gaussian",
        ),
        (
            lambda p: fv.m_projection(p),
            (np.ones(3),),
            r"fastvi\.m_projection .*takes a Gaussian or a Gaussian",
        ),
        (
            lambda p: fv.m_projection(p, ("mixtures", 2)),
            (P,),
            r"fastvi\.m_projection: family\[0\] must be one of mixture",
        ),
        (
            lambda p: fv.m_projection(p, ("mixture", 1.5)),
            (P,),
            r'fastvi\.m_projection: family must be \("mixture", k\)',
        ),
        (
            lambda p: fv.i_projection(p, ("mixture", 2), (p, p)),
            (P,),
            r"fastvi\.i_projection onto mixtures .* takes starts=\(q,\)",
        ),
        (lambda m, c: fv.Gaussian(m, c), (np.ones(2), np.ones(2)), r"fastvi\.Gaussian .*\(D,\) and \(D, D\)"),
        (lambda w: fv.GaussianMixture(w, w, w), (np.ones(2),), r"fastvi\.GaussianMixture .*\(K,\), \(K, D\)"),
        (lambda p: p.logpdf(np.arange(2)), (P,), r"logpdf .*a float array \(D,\) or \(N, D\)"),
        (lambda: fv.Model(3.0, 1), (), r"fastvi\.Model .*jitted log_joint\(z, \*data\)"),
        (lambda n: fv.Model(log_joint, n, (1.0,)), (1,), r"fastvi\.Model: dim must be a positive constant"),
        (lambda: fv.Model(log_joint, 1, [1.0]), (), r"fastvi\.Model: data must be a tuple"),
        (lambda: fv.Model(log_joint, 1, (1.0,), "big"), (), r"fastvi\.Model: support must be one of real"),
        (
            lambda: fv.Model(log_joint, 1, (1.0,), "lower"),
            (),
            r"fastvi\.Model: support must be .*\('lower', a\)",
        ),
        (
            lambda: fv.fit(fv.Model(log_joint, 3, (1.0,))),
            (),
            r"fastvi\.fit .*one or two latent dimensions, not 3",
        ),
        (lambda: fv.fit(fv.Model(log_joint, 1, (1.0,)), "mean"), (), r"fastvi\.fit: family='mean' holds"),
        (lambda p: fv.fit(p), (P,), r"fastvi\.fit .*takes a Model, not fastvi\.GaussianMixture"),
        (
            lambda: fv.elbo(fv.Model(log_joint, 1, (1.0,)), 3.0),
            (),
            r"fastvi\.elbo .*a Gaussian or a Transformed",
        ),
    ],
)
def test_errors_of_types_name_the_function_and_what_it_takes(function, arguments, message):
    with pytest.raises(TypingError, match=message):
        njit(function)(*arguments)


# The user's own cache on disk.


def test_a_users_cached_function_is_loaded_by_the_next_process(tmp_path):
    program = copied("cached_distances", tmp_path)
    first, second = (run_program(program).splitlines() for _ in range(2))
    assert first[0] == second[0]
    assert [first[1], second[1]] == ["0 1", "1 0"]


#: Small ones, compiled into the user's code.
INLINED = {
    "fastvi.kernels.borrowing._overload_borrow.<locals>.<lambda>",
    "fastvi.kernels.discrete.divergences.unit_one",
    "fastvi.kernels.models.calling._overload_number.<locals>.<lambda>",
    "fastvi.kernels.numerics.matrices.copy_matrix",
    "fastvi.kernels.numerics.matrices.copy_vector",
    "fastvi.kernels.numerics.matrices.fill_matrix",
    "fastvi.kernels.numerics.matrices.filled_matrix",
    "fastvi.kernels.projections.optimum.read",
}


def test_kernels_are_not_compiled_again(tmp_path):
    """Where no test has done so before, the first process compiles them; the user's functions are new."""
    program = copied("cached_operations", tmp_path)
    first, second = (run_program(program).splitlines() for _ in range(2))
    assert first[0] == "loaded [0, 0]"
    assert second[:2] == ["loaded [1, 1]", "compiled for these 0"]
    compiled = {name for name in second[2].split(" ") if name.startswith("fastvi.kernels")}
    assert compiled <= INLINED


def test_nothing_with_a_log_joint_has_a_symbol_that_another_function_may_have():
    """A weak symbol of a name that is already in the process would be taken for it."""

    @njit
    def all_of_a_model(x, q):
        model = fv.Model(log_joint, 1, (x,), "positive")
        return fv.fit(model).elbo, fv.fit(model, start=q).elbo, fv.elbo(model, q), fv.log_evidence(model)

    all_of_a_model(2.0, fv.Gaussian(0.0, 1.0))
    (module,) = all_of_a_model.inspect_llvm().values()
    defined = [line for line in module.splitlines() if line.startswith("define")]
    assert any("fastvi.log_joint" in line for line in defined)
    assert not [line for line in defined if "fastvi" in line and "linkonce" in line]


def test_a_cached_function_of_another_version_is_compiled_again():
    path = "kernels.discrete.divergences.KERNELS.kl.whole"
    vector = numba.float64[::1]
    arguments = vector, vector, numba.types.UniTuple(numba.float64, 2), numba.int64
    kept = external._Needed(path, arguments, numba.float64, external._version())
    assert pickle.loads(pickle.dumps(kept)) == kept
    for other in (kept._replace(version="0.0.1"), kept._replace(returns=numba.float32)):
        with pytest.raises(OSError, match="compiled for other kernels"):  # as numba's cache expects
            pickle.loads(pickle.dumps(other))

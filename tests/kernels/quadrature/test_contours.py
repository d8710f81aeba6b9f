"""Moments along contours: against lattices in the plane, mpmath, and the errors they state."""

import math

import numpy as np
import pytest
from mpmath import mp

import fastvi as fv
from fastvi.kernels.borrowing import named
from fastvi.kernels.densities import gaussians, mixtures
from fastvi.kernels.quadrature import contours, lattice_rows, mixture_kl
from fastvi.kernels.quadrature import moments as moments_
from helpers.forms import both, plain

LOW = [0, 1, 2, 5, 6, 10]
POWERS = [(a, b) for b in range(5) for a in range(5 - b)]


def random_cov(rng, condition):
    angle, ratio = rng.uniform(0.0, math.pi), condition ** rng.uniform(0.0, 0.5)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    cov = 10.0 ** rng.uniform(-0.3, 0.3) * rotation @ np.diag([ratio, 1.0 / ratio]) @ rotation.T
    return 0.5 * (cov + cov.T)


def random_pair(rng, separation, condition):
    direction = rng.standard_normal(2)
    return fv.GaussianMixture(
        rng.dirichlet([1.0, 1.0]),
        [[0.0, 0.0], separation * direction / np.linalg.norm(direction)],
        [random_cov(rng, condition), random_cov(rng, condition)],
    )


def in_frame(p, q):
    """The coefficients of p in the frame of q, and log q at its mean."""
    coefficients, dim = np.empty((p.weights.size, 13)), q.dim
    triple = np.log(p.weights), np.array(p.means), np.linalg.cholesky(p.covs)
    mixtures.write_coefficients(
        mixtures.Mixture(*triple), np.array(q.mean), np.array(q.cholesky), coefficients, np.empty(6)
    )
    return coefficients, -np.log(np.diag(q.cholesky)).sum() - 0.5 * dim * gaussians.LOG_2PI


def ratio_of(p, q):
    """log r in the frame of q, as `integrate` takes it."""
    table = np.empty((2, 10))
    assert lattice_rows.ratios(in_frame(p, q)[0], 1e6, table) == 2
    row = table[1]
    return row[0], row[1], row[2], -2.0 * row[4], -row[5], -2.0 * row[7]


def summed(ratio, step=0.05, radius=9.0):
    """The moments by the trapezoid rule in the plane."""
    axis = np.arange(-radius, radius + 0.5 * step, step)
    x, y = axis[:, None], axis[None, :]
    constant, b0, b1, b00, b01, b11 = ratio
    log_r = constant + b0 * x + b1 * y - 0.5 * (b00 * x * x + b11 * y * y) - b01 * x * y
    terms = np.exp(-0.5 * (x * x + y * y)) * (step * step / (2.0 * math.pi)) * np.logaddexp(0.0, log_r)
    return {(a, b): (terms * x**a * y**b).sum() for a, b in POWERS}


def frames(p):
    """Gaussians that an I-projection may pass: components of p, its moment match, a narrow and a wide one."""
    match = fv.m_projection(p).q
    odd = [fv.Gaussian(match.mean, scale * match.cov) for scale in (0.05, 2.0)]
    return [*p.components, match, *odd]


@both
@pytest.mark.parametrize("seed", range(6))
def test_moments(form, seed):
    p = random_pair(np.random.default_rng(seed), 0.8 * seed, 4.0)
    for q in frames(p):
        ratio, moments = ratio_of(p, q), np.zeros(moments_.MOMENTS)
        error, nodes = form(contours.integrate)(ratio, 1e-14, contours.FINEST, moments)
        wanted = summed(ratio)
        size = max(abs(value) for value in wanted.values())
        assert error < 1e-9
        assert nodes <= contours.MOST_ON_LINE
        for (a, b), value in wanted.items():
            assert moments[a + 5 * b] == pytest.approx(-value, rel=1e-11, abs=1e-12 * (1.0 + size))
        assert (np.delete(moments, [a + 5 * b for a, b in POWERS]) == 0.0).all()


def test_the_sums_without_the_compiler():
    nodes = 32
    ratio = (-2.0, 1.0, -0.5, 0.5, 0.2, -0.4)
    c, u = 0.3, 0.125 * np.arange(nodes)
    edge, signs = (math.cos(math.pi * c), math.sin(math.pi * c)), 1.0 - 2.0 * (np.arange(nodes) % 2)
    given = np.sinh(u), np.cosh(u), signs, c, edge, ratio
    for one, two in zip(plain(contours._sums)(*given), contours._sums(*given), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


@pytest.mark.parametrize("constant", [-30.0, -3.0, 0.0])
@pytest.mark.parametrize(
    ("slope", "curvature"), [(0.0, -0.6), (0.5, 0.0), (3.0, 1.0), (6.0, -0.9), (4.0, 40.0)]
)
def test_moments_by_mpmath(constant, slope, curvature):
    """A ratio that does not depend on y: the moments are those in x times those of a normal y."""
    ratio, moments = (constant, slope, 0.0, curvature, 0.0, 0.0), np.zeros(moments_.MOMENTS)
    error, _ = contours.integrate(ratio, 1e-15, contours.FINEST, moments)
    normal = {0: 1.0, 2: 1.0, 4: 3.0}

    with mp.workdps(25):
        # The trapezoid rule is exact to rounding: the nearest pole is nine steps away.
        wanted = [mp.mpf(0)] * 5
        for k in range(-448, 449):
            x = mp.mpf(k) / 32
            term = mp.npdf(x) * mp.log1p(mp.exp(constant + slope * x - curvature * x * x / 2)) / 32
            wanted = [total + term * x**a for a, total in enumerate(wanted)]
        wanted = [float(total) for total in wanted]
    assert abs(moments[0] + wanted[0]) <= error
    # exp(s constant) oscillates where it is not yet small.
    assert error < (1e-6 if constant < -20.0 else 2e-14 * (1.0 + wanted[0]))
    for a, b in POWERS:
        exact = wanted[a] * normal.get(b, 0.0)
        assert moments[a + 5 * b] == pytest.approx(-exact, rel=1e-10, abs=1e-12 * max(wanted) + 10.0 * error)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9, 1e-13])
def test_the_stated_error_is_above_the_true_one(tolerance):
    """The stated error also meets the tolerance most often, with few nodes."""
    rng = np.random.default_rng(7)
    reached, counts, tried = 0, [], 0
    for trial in range(150):
        p = random_pair(rng, rng.uniform(0.0, 10.0), (10.0, 1e4)[trial % 2])
        for q in [*frames(p), *(optimum.q for optimum in fv.i_projection(p).optima)]:
            coefficients, own = in_frame(p, q)
            table, exact, moments = np.empty((2, 10)), *np.zeros((2, moments_.MOMENTS))
            best, _ = contours.expect(coefficients, own, 2, 0.0, contours.FINEST, table, exact)
            error, nodes = contours.expect(coefficients, own, 2, tolerance, contours.ROUGH, table, moments)
            if not best < 1e-3 * error:
                # Otherwise rounding, or a pole that no step here resolves.
                assert not tolerance > 1e-8 or best < 1e-10 or error > 0.1 * best
                continue
            tried += 1
            reached += error <= tolerance
            counts.append(nodes)
            difference = moments - exact
            rounding = 1e-15 * np.abs(exact[LOW]).max()
            assert abs(difference[0]) <= error + rounding
            assert np.linalg.norm(difference[LOW]) <= 3.0 * error + rounding
    assert tried > 300 or tolerance < 1e-8
    assert reached > 0.9 * tried
    assert not counts or np.median(counts) <= 128


@both
def test_expectations_of_a_mixture(form):
    """With two components near q; one far from q is left out."""
    p, q = random_pair(np.random.default_rng(3), 3.0, 4.0), fv.Gaussian([0.4, 0.3], [[0.8, 0.3], [0.3, 1.1]])
    far = fv.GaussianMixture(
        [*(0.9 * p.weights), 0.1], [*p.means, [300.0, 0.0]], [*p.covs, [[1.0, 0.0], [0.0, 1.0]]]
    )
    steps, shift, space = np.full(3, 0.2), np.zeros(3), named(moments_.Workspace, moments_.workspace(3))
    for mixture in (p, far):
        coefficients, own = in_frame(mixture, q)
        moments, wanted = np.empty((2, moments_.MOMENTS))
        error, nodes = form(contours.expect)(
            coefficients, own, 2, 1e-12, contours.USUAL, space.by_rows.polynomials, moments
        )
        moments_.integrate_nodes(coefficients, own, 2, steps, shift, 9.0, space, wanted)
        assert error <= 1e-12
        assert 0 < nodes <= 3 * contours.MOST_ON_LINE
        np.testing.assert_allclose(moments, wanted, rtol=1e-11, atol=1e-12 * np.abs(wanted).max())


@both
def test_one_component_is_a_polynomial(form):
    q = fv.Gaussian([0.4, 0.3], [[0.8, 0.3], [0.3, 1.1]])
    p = fv.GaussianMixture([1.0], [[1.0, -1.0]], [[[1.0, 0.2], [0.2, 0.5]]])
    coefficients, own = in_frame(p, q)
    moments = np.empty(moments_.MOMENTS)
    assert form(contours.expect)(coefficients, own, 2, 1e-9, 1, np.empty((1, 10)), moments) == (0.0, 1)
    assert moments[0] == pytest.approx(fv.kl(q, p.components[0]), rel=1e-13)


@both
def test_what_contours_are_not_for(form):
    rng = np.random.default_rng(0)
    moments = np.empty(moments_.MOMENTS)
    for components, dim in ((3, 2), (2, 1), (2, 3)):
        p = fv.GaussianMixture(
            np.full(components, 1.0 / components),
            rng.standard_normal((components, dim)),
            [np.eye(dim)] * components,
        )
        coefficients, own = in_frame(p, p.components[0])
        table = np.empty((components, 10))
        error, _ = form(contours.expect)(coefficients, own, dim, 1e-9, 0, table, moments)
        assert error == math.inf


def least_bound(ratio):
    """log(1 + r) is at most r**c / c, whose expectation is known, for any c from 0 to 1."""
    constant, b0, b1, b00, b01, b11 = ratio
    slope, curvature, bounds = np.array([b0, b1]), np.array([[b00, b01], [b01, b11]]), []
    for c in 10.0 ** np.linspace(-14.0, 0.0, 141):
        matrix = np.eye(2) + c * curvature
        if np.linalg.eigvalsh(matrix)[0] > 0.0:
            exponent = c * constant + 0.5 * c * c * slope @ np.linalg.solve(matrix, slope)
            bounds.append(math.exp(min(exponent, 600.0)) / math.sqrt(np.linalg.det(matrix)) / c)
    return min(bounds)


def test_numbers_out_of_range_have_no_small_error():
    """Coefficients of any size give a large error or NaN, which is within no tolerance."""
    rng = np.random.default_rng(1)
    within = 0
    for _ in range(1000):
        ratio = rng.standard_normal(6) * 10.0 ** rng.uniform(-1.0, 10.0, 6)
        ratio[0] = -abs(ratio[0])
        moments = np.zeros(moments_.MOMENTS)
        error, _ = contours.integrate(tuple(ratio), 1e-9, contours.USUAL, moments)
        if error <= 1e-9:
            within += 1
            assert -1e-9 <= -moments[0] <= least_bound(ratio) + 1e-9
    assert within > 100
    moments = np.zeros(moments_.MOMENTS)
    assert not contours.integrate((math.nan, 0.0, 0.0, 0.0, 0.0, 0.0), 1e-9, 1, moments)[0] <= 1.0


def reverse(p, q, rtol):
    """KL(q ‖ p), its error, and its gradient."""
    triple = np.log(p.weights), np.array(p.means), np.linalg.cholesky(p.covs)
    grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
    space = mixture_kl.workspace(p.weights.size, p.weights.size, 2)
    given = np.array(q.mean), np.array(q.cholesky), rtol, grad_mean, grad_chol, space
    value, error = mixture_kl.reverse_kl(*triple, *given)
    return value, error, np.append(grad_mean, grad_chol)


@pytest.mark.parametrize("rtol", [1e-6, 1e-12])
def test_a_component_in_two_halves_is_the_same_mixture(rtol):
    """Three components are integrated on lattices, two along a contour where its error is small enough."""
    rng, counts = np.random.default_rng(5), []
    for trial in range(10):
        p = random_pair(rng, 0.6 * trial, 4.0)
        (v, w), (m, n), (a, b) = p.weights, p.means, p.covs
        halves = fv.GaussianMixture([v, 0.5 * w, 0.5 * w], [m, n, n], [a, b, b])
        for q in frames(p)[:4]:
            (value, error, gradient), (other, other_error, other_gradient) = (
                reverse(mixture, q, rtol) for mixture in (p, halves)
            )
            assert max(error, other_error) <= 2.0 * rtol * (1.0 + abs(value)) + 1e-13
            assert abs(value - other) <= error + other_error
            scale = 1.0 + np.abs(gradient).max()
            np.testing.assert_allclose(gradient, other_gradient, rtol=0, atol=10.0 * scale * (rtol + 1e-13))
        one, two = fv.kl_estimate(p, q, rtol=rtol), fv.kl_estimate(halves, q, rtol=rtol)
        assert abs(one.value - two.value) <= one.error + two.error
        counts.append((one.evaluations, two.evaluations))
    few, many = np.median(counts, axis=0)
    assert few < 2 * contours.MOST_ON_LINE + 3
    assert many > 2000

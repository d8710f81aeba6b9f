"""Divergences and entropies of distributions: every stated error must bound the true one."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvi as fv
from fastvi import Gaussian, GaussianMixture, Grid2D, entropy_estimate, kl_bounds, kl_estimate
from fastvi.distributions.integrals import quasi_monte_carlo
from helpers.messages import says
from reference import densities as reference


def rotation(rng, dim):
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def rotated_cov(rng, variances):
    axes = rotation(rng, len(variances))
    cov = (axes * variances) @ axes.T
    return 0.5 * (cov + cov.T)


def random_gaussian(rng, dim, scale=1.0, condition=10.0):
    variances = scale**2 * condition ** rng.uniform(-0.5, 0.5, dim)
    return Gaussian(scale * rng.standard_normal(dim), rotated_cov(rng, variances))


def random_parts(rng, dim, count, separation, condition):
    """Components up to `separation` apart, of condition numbers up to `condition`, rotated at random."""
    weights = rng.dirichlet(np.ones(count))
    if count > 1:
        weights[0] = 10 ** rng.uniform(-6, 0)
    directions = rng.standard_normal((count, dim))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    means = 0.5 * separation * rng.uniform(0, 1, count)[:, None] * directions
    covs = []
    for _ in range(count):
        spread = condition ** (0.5 * rng.uniform(0, 1))
        covs.append(rotated_cov(rng, np.geomspace(spread, 1.0 / spread, dim) * 10 ** rng.uniform(-0.5, 0.5)))
    return weights / weights.sum(), means, np.array(covs)


def affine(p, matrix, shift):
    """The distribution of matrix z + shift."""
    if isinstance(p, Gaussian):
        cov = matrix @ p.cov @ matrix.T
        return Gaussian(matrix @ p.mean + shift, 0.5 * (cov + cov.T))
    covs = matrix @ p.covs @ matrix.T
    return GaussianMixture(p.weights, p.means @ matrix.T + shift, 0.5 * (covs + covs.swapaxes(1, 2)))


def within(estimate, truth, slack):
    """The stated error bounds the true one; `slack` is what the truth itself may be off by."""
    off = abs(float(estimate.value - truth))
    assert estimate.error >= 0.0
    assert off <= estimate.error + slack, f"off by {off:.3g}: {estimate!r}"


@pytest.mark.parametrize("dim", range(1, 9))
@pytest.mark.parametrize("scale", [1.0, 1e-100, 1e100])
def test_kl_of_gaussians(dim, scale):
    rng = np.random.default_rng(dim)
    for _ in range(3):
        p, q = random_gaussian(rng, dim, scale), random_gaussian(rng, dim, scale)
        value = fv.kl(p, q)
        assert type(value) is float
        exact = reference.gaussian_kl(p.mean, p.cov, q.mean, q.cov)
        assert abs(value / exact - 1) <= 1e-13
        estimate = kl_estimate(p, q)
        assert estimate.value == value
        assert (estimate.method, estimate.evaluations, estimate.outside) == ("closed form", 0, 0.0)


@pytest.mark.parametrize("dim", range(1, 9))
@pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8])
def test_kl_of_gaussians_nearly_equal(dim, step):
    """A divergence of step**2: no digit of it survives in log-determinants that are subtracted."""
    rng = np.random.default_rng(100 + dim)
    p = random_gaussian(rng, dim)
    nudge = rng.standard_normal((dim, dim))
    q = Gaussian(p.mean + step * rng.standard_normal(dim), p.cov + step * 0.05 * (nudge + nudge.T))
    for one, two in ((p, q), (q, p)):
        exact = reference.gaussian_kl_of_factors(one.mean, one.cholesky, two.mean, two.cholesky)
        assert abs(fv.kl(one, two) / exact - 1) <= 1e-13


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7])
def test_the_error_of_nearly_equal_gaussians_counts_their_rounded_factors(step):
    """The Cholesky factors are rounded, which is not small beside the difference of the covariances."""
    rng = np.random.default_rng(5)
    for dim in (2, 4, 8):
        p = random_gaussian(rng, dim)
        nudge = rng.standard_normal((dim, dim))
        q = Gaussian(p.mean, p.cov + step * 0.05 * (nudge + nudge.T))
        within(kl_estimate(p, q), reference.gaussian_kl(p.mean, p.cov, q.mean, q.cov), 0.0)


@pytest.mark.parametrize("ratio", [1e-150, 1e-12, 1e12, 1e150])
def test_kl_of_gaussians_of_very_different_widths(ratio):
    p = Gaussian([0.0, 1.0], [[1.0, 0.25], [0.25, 2.0]])
    q = Gaussian([0.5, 0.0], ratio * np.array([[2.0, -0.5], [-0.5, 1.0]]))
    for one, two in ((p, q), (q, p)):
        exact = reference.gaussian_kl(one.mean, one.cov, two.mean, two.cov)
        assert abs(fv.kl(one, two) / exact - 1) <= 1e-13


def test_kl_that_overflows_is_infinite():
    value = kl_estimate(Gaussian(0.0, 1.0), Gaussian(1e200, 1e-200))
    assert value.value == math.inf
    assert not math.isnan(value.error)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_gaussians_of_condition_number_1e12(dim):
    """Rounding the factor changes the smallest variance by 1e-4 of itself; the error must include that."""
    rng = np.random.default_rng(dim)
    for _ in range(5):
        q = Gaussian(rng.standard_normal(dim), rotated_cov(rng, np.geomspace(1e-6, 1e6, dim)))
        p = random_gaussian(rng, dim)
        within(kl_estimate(p, q), reference.gaussian_kl(p.mean, p.cov, q.mean, q.cov), 0.0)
        within(entropy_estimate(q), reference.gaussian_entropy(q.cov), 0.0)


@pytest.mark.parametrize("dim", range(1, 7))
def test_nothing_between_a_distribution_and_itself(dim):
    rng = np.random.default_rng(dim)
    p = random_gaussian(rng, dim)
    assert fv.kl(p, p) == 0.0
    assert fv.kl(p, Gaussian(p.mean, p.cov)) == 0.0
    m = GaussianMixture(*random_parts(rng, dim, 3, 5.0, 10.0))
    assert kl_estimate(m, m).value == 0.0
    assert kl_estimate(m, GaussianMixture(m.weights, m.means, m.covs)).error == 0.0
    assert kl_bounds(m, m) == (0.0, 0.0)


def test_a_grid_and_itself():
    g = Grid2D.from_distribution(Gaussian([0, 0], np.eye(2)))
    assert fv.kl(g, g) == 0.0
    assert fv.kl(g, Grid2D(g.x, g.y, g.logp + 700.0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_gaussian_entropy(dim):
    rng = np.random.default_rng(dim)
    for scale in (1.0, 1e-50, 1e50):
        p = random_gaussian(rng, dim, scale)
        estimate = entropy_estimate(p)
        within(estimate, reference.gaussian_entropy(p.cov), 0.0)
        assert (estimate.value, estimate.method) == (p.entropy(), "closed form")


def test_base():
    p, q = Gaussian(0.0, 1.0), GaussianMixture([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0])
    g = Grid2D.from_distribution(Gaussian([0, 0], np.eye(2)))
    for one, two in ((p, Gaussian(1.0, 2.0)), (q, p), (g, Gaussian([1, 0], np.eye(2)))):
        assert fv.kl(one, two, base=2) == pytest.approx(fv.kl(one, two) / math.log(2.0), rel=1e-15)
        assert fv.kl(one, two, base=10.0) == pytest.approx(fv.kl(one, two) / math.log(10.0), rel=1e-15)
    with says(ValueError, "base must be a finite number above 1", "1"):
        fv.kl(p, p, base=1)


@pytest.mark.parametrize("keyword", [{"axis": 0}, {"mass": "any"}, {"log": True}, {"keepdims": True}])
def test_keywords_for_arrays(keyword):
    p = Gaussian(0.0, 1.0)
    with says(ValueError, "axis, dim, mass, log, keepdims and nan_policy are for arrays"):
        fv.kl(p, p, **keyword)


def test_an_array_and_a_distribution():
    p = Gaussian(0.0, 1.0)
    for other in (np.array([0.5, 0.5]), [0.5, 0.5], 1.0, None, "p"):
        with says(TypeError, "q must be a Gaussian, a GaussianMixture or a Grid2D", type(other).__name__):
            fv.kl(p, other)
        with says(TypeError, "p must be a Gaussian, a GaussianMixture or a Grid2D", type(other).__name__):
            fv.kl(other, p)
        with says(TypeError, "p must be a Gaussian, a GaussianMixture or a Grid2D", type(other).__name__):
            kl_estimate(other, p)
        with says(TypeError, "p must be", type(other).__name__):
            entropy_estimate(other)


def test_bounds_are_for_gaussians_and_mixtures():
    p = Gaussian([0, 0], np.eye(2))
    g = Grid2D.from_distribution(p)
    with says(TypeError, "p must be a Gaussian or a GaussianMixture, not Grid2D"):
        kl_bounds(g, p)
    with says(TypeError, "q must be a Gaussian or a GaussianMixture, not Grid2D"):
        kl_bounds(p, g)
    with says(TypeError, "p must be a Gaussian or a GaussianMixture, not Grid2D"):
        fv.mixture_entropy_bounds(g)


def test_dimensions_that_differ():
    p, q = Gaussian([0, 0], np.eye(2)), Gaussian(np.zeros(3), np.eye(3))
    m = GaussianMixture([1.0], np.zeros((1, 4)), [np.eye(4)])
    g = Grid2D.from_distribution(p)
    for one, two in ((p, q), (m, p), (q, m), (g, q), (m, g)):
        with says(ValueError, f"p and q must have the same dimension: p has {one.dim}, q has {two.dim}"):
            fv.kl(one, two)
    with says(ValueError, "p and q must have the same dimension: p has 2, q has 3"):
        kl_bounds(p, q)


@pytest.mark.parametrize("rtol", [0.0, -1e-3, 1.0, 2.0, 1e-15, math.inf])
def test_rtol_out_of_range(rtol):
    p = Gaussian(0.0, 1.0)
    with says(ValueError, "rtol must be from 1e-14 to 1", repr(rtol)):
        kl_estimate(p, p, rtol=rtol)
    with says(ValueError, "rtol must be from 1e-14 to 1", repr(rtol)):
        entropy_estimate(p, rtol=rtol)


def test_rtol_that_is_no_number():
    p = Gaussian(0.0, 1.0)
    with says(ValueError, "rtol is nan"):
        kl_estimate(p, p, rtol=math.nan)
    for rtol in ("small", None, 1j):
        with says(TypeError, "rtol must be a real number", repr(rtol)):
            kl_estimate(p, p, rtol=rtol)


def test_estimate():
    e = kl_estimate(Gaussian(0, 1), Gaussian(1, 1))
    assert float(e) == e.value == 0.5
    assert repr(e).startswith("Estimate(0.5 ± ")
    assert "closed form, 0 evaluations)" in repr(e)
    with pytest.raises(dataclasses.FrozenInstanceError):
        e.value = 1.0
    assert e == kl_estimate(Gaussian(0, 1), Gaussian(1, 1))
    assert hash(e) == hash(dataclasses.replace(e))
    text = repr(fv.Estimate(1.25, 0.001, 7, "grid sum", 0.125))
    assert text == "Estimate(1.25 ± 0.001, grid sum, 7 evaluations, 0.125 outside the grid)"


def planar_pair(seed):
    rng = np.random.default_rng(seed)
    separation, condition = rng.uniform(0, 12), 10 ** rng.uniform(0, 4)
    p = random_parts(rng, 2, rng.integers(2, 4), 2 * separation, condition)
    return p, random_parts(rng, 2, rng.integers(1, 4), 2 * separation, condition)


def as_distribution(parts):
    return GaussianMixture(*parts) if len(parts[0]) > 1 else Gaussian(parts[1][0], parts[2][0])


@pytest.mark.parametrize("block", range(20))
def test_two_hundred_random_mixtures(block):
    for seed in range(10 * block, 10 * block + 10):
        p, q = planar_pair(seed)
        one, two = as_distribution(p), as_distribution(q)
        truth = reference.mixture_integral_2d(p, q)
        entropy = -reference.mixture_integral_2d(p)
        slack = 1e-12 * max(1.0, truth)
        for rtol in (1e-3, 1e-6, 1e-10):
            estimate = kl_estimate(one, two, rtol=rtol)
            assert estimate.method == "quadrature"
            within(estimate, truth, slack)
        within(entropy_estimate(one), entropy, 1e-12)
        lower, upper = kl_bounds(one, two)
        assert lower - slack <= truth <= upper + slack
        lower, upper = fv.mixture_entropy_bounds(one)
        assert lower - 1e-12 <= entropy <= upper + 1e-12


def test_the_random_mixtures_are_resolved():
    """A bound that holds because it is huge would prove nothing."""
    errors = []
    for seed in range(200):
        p, q = planar_pair(seed)
        estimate = kl_estimate(as_distribution(p), as_distribution(q))
        errors.append(estimate.error / max(estimate.value, 1.0))
    assert np.median(errors) <= 1e-9
    assert np.quantile(errors, 0.95) <= 1e-7


LINES = {
    "near": (([0.5, 0.5], [-0.5, 0.5], [1.0, 1.0]), ([1.0], [0.0], [1.25])),
    "far": (([0.3, 0.7], [-6.0, 6.0], [1.0, 1.0]), ([0.6, 0.4], [-6.5, 5.0], [2.0, 0.5])),
    "narrow": (([0.999, 0.001], [0.0, 1.0], [1.0, 1e-4]), ([1.0], [0.5], [2.0])),
    "rare": (([1e-6, 1.0 - 1e-6], [9.0, 0.0], [0.01, 1.0]), ([0.5, 0.5], [0.0, 3.0], [1.0, 4.0])),
    "narrow q": (([1.0], [0.0], [1.0]), ([0.9, 0.1], [0.0, 1.0], [1.0, 1e-4])),
    "twelve": (([0.2, 0.3, 0.5], [0.0, 6.0, 12.0], [1.0, 0.25, 1.0]), ([1.0], [7.0], [25.0])),
}


@pytest.mark.parametrize("name", LINES)
def test_mixtures_on_the_line(name):
    p, q = LINES[name]
    one, two = GaussianMixture(*p), GaussianMixture(*q)
    truth, entropy = reference.mixture_integral_1d(p, q), -reference.mixture_integral_1d(p)
    for rtol in (1e-3, 1e-6, 1e-10, 1e-13):
        within(kl_estimate(one, two, rtol=rtol), truth, 1e-14)
        within(entropy_estimate(one, rtol=rtol), entropy, 1e-14)
    lower, upper = kl_bounds(one, two)
    assert lower - 1e-13 <= truth <= upper + 1e-13
    lower, upper = fv.mixture_entropy_bounds(one)
    assert lower - 1e-13 <= entropy <= upper + 1e-13


@pytest.mark.parametrize("seed", range(3))
def test_mixtures_in_space(seed):
    rng = np.random.default_rng(seed)
    p, q = random_parts(rng, 3, 2, 3.0, 3.0), random_parts(rng, 3, 1 + seed % 2, 3.0, 3.0)
    truth, coarser = (reference.mixture_integral_3d(p, q, step) for step in (0.2, 0.25))
    slack = abs(truth - coarser) + 1e-13
    assert slack < 1e-9
    one, two = as_distribution(p), as_distribution(q)
    for rtol in (1e-4, 1e-8):
        within(kl_estimate(one, two, rtol=rtol), truth, slack)
    within(entropy_estimate(one, rtol=1e-8), -reference.mixture_integral_3d(p), slack)
    lower, upper = kl_bounds(one, two)
    assert lower - slack <= truth <= upper + slack


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_one_component_is_a_gaussian(dim):
    rng = np.random.default_rng(dim)
    for _ in range(3):
        p, q = random_gaussian(rng, dim), random_gaussian(rng, dim)
        m, n = (GaussianMixture([1.0], g.mean[None], g.cov[None]) for g in (p, q))
        exact = fv.kl(p, q)
        for one, two in ((m, q), (p, n), (m, n)):
            within(kl_estimate(one, two), exact, 1e-14 * max(1.0, exact))
            assert kl_bounds(one, two).upper == pytest.approx(exact, rel=1e-13)
            assert kl_bounds(one, two).lower <= exact * (1.0 + 1e-13)
        within(entropy_estimate(m), p.entropy(), 1e-14)
        assert fv.mixture_entropy_bounds(m) == pytest.approx((p.entropy(), p.entropy()), rel=1e-14)
        assert fv.mixture_entropy_bounds(p) == fv.mixture_entropy_bounds(m)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8])
def test_bounds_of_far_components_meet(dim):
    """Without overlap the entropy is that of the components and of the choice between them."""
    rng = np.random.default_rng(dim)
    weights, means = np.array([0.2, 0.3, 0.5]), np.zeros((3, dim))
    means[:, 0] = [-1e3, 0.0, 1e3]
    covs = np.array([rotated_cov(rng, rng.uniform(0.5, 2.0, dim)) for _ in range(3)])
    p = GaussianMixture(weights, means, covs)
    entropy = sum(w * (part.entropy() - math.log(w)) for w, part in zip(weights, p.components, strict=True))
    assert fv.mixture_entropy_bounds(p) == pytest.approx((entropy, entropy), rel=1e-14)


def test_quasi_monte_carlo_brackets_and_says_so():
    rng = np.random.default_rng(55)
    for _ in range(4):
        p, q = random_parts(rng, 5, 3, 4.0, 10.0), random_parts(rng, 5, 2, 4.0, 10.0)
        one, two = GaussianMixture(*p), GaussianMixture(*q)
        estimate, entropy = kl_estimate(one, two), entropy_estimate(one)
        for e in (estimate, entropy):
            assert e.method == "quasi-Monte Carlo (standard error)"
            assert "quasi-Monte Carlo (standard error)" in repr(e)
            assert e.evaluations == 65536
            assert 0.0 < e.error < 1e-2 * max(1.0, abs(e.value))
        lower, upper = kl_bounds(one, two)
        assert lower - 5 * estimate.error <= estimate.value <= upper + 5 * estimate.error
        lower, upper = fv.mixture_entropy_bounds(one)
        assert lower - 5 * entropy.error <= entropy.value <= upper + 5 * entropy.error
        assert kl_estimate(one, two) == estimate


def test_averages_stay_between_the_bounds():
    moved = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((4, 40, 40)) / 40**0.5
        covs = a @ a.swapaxes(1, 2) + 0.3 * np.eye(40)
        p = GaussianMixture([0.25] * 4, 1.5 * rng.standard_normal((4, 40)), covs)
        q = Gaussian(p.mean, p.cov)
        found, bounds = kl_estimate(p, q), kl_bounds(p, q)
        assert bounds.lower <= found.value <= bounds.upper
        assert found.error <= bounds.upper - bounds.lower
        assert ("moved to the upper bound" in found.note) == (found.value == bounds.upper)
        moved += bool(found.note)
        entropy, ends = entropy_estimate(p), fv.mixture_entropy_bounds(p)
        assert ends.lower <= entropy.value <= ends.upper
    assert moved


def test_standard_errors_are_honest():
    """One Gaussian, called a mixture of two of the same: the closed form is known."""
    rng = np.random.default_rng(56)
    scores = []
    for _ in range(12):
        p, q = random_gaussian(rng, 5), random_gaussian(rng, 5)
        split = GaussianMixture([0.5, 0.5], [p.mean] * 2, [p.cov] * 2)
        estimate, entropy = quasi_monte_carlo(split, q), quasi_monte_carlo(split, None)
        scores.append((estimate.value - fv.kl(p, q)) / estimate.error)
        scores.append((entropy.value - p.entropy()) / entropy.error)
    # Student's t with 15 degrees of freedom; P(|t| > 5) = 2e-4, and the mean square is 15/13.
    assert np.abs(scores).max() <= 5.0
    assert 0.25 <= np.mean(np.square(scores)) <= 3.0


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_components_1e8_apart_from_nothing(dim):
    """Two components 1e-8 apart are one Gaussian to sixteen digits."""
    rng = np.random.default_rng(dim)
    p, q = random_gaussian(rng, dim), random_gaussian(rng, dim)
    close = GaussianMixture([0.5, 0.5], [p.mean, p.mean + 1e-8], [p.cov] * 2)
    middle = Gaussian(p.mean + 0.5e-8, p.cov)
    within(kl_estimate(close, q), fv.kl(middle, q), 1e-14)
    within(kl_estimate(close, middle), 0.0, 1e-15)
    within(entropy_estimate(close), p.entropy(), 1e-14)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_components_1e6_apart(dim):
    rng = np.random.default_rng(dim)
    parts = [random_gaussian(rng, dim) for _ in range(2)]
    weights, shift = np.array([0.25, 0.75]), np.full(dim, 1e6)
    p = GaussianMixture(weights, [parts[0].mean, parts[1].mean + shift], [g.cov for g in parts])
    entropy = sum(w * (g.entropy() - math.log(w)) for w, g in zip(weights, parts, strict=True))
    within(entropy_estimate(p), entropy, 1e-13)
    q = Gaussian(p.mean, p.cov)
    # E_p[log q] depends on p only through its moments, which are those of q.
    within(kl_estimate(p, q), float(reference.gaussian_entropy(q.cov)) - entropy, 1e-3 * (dim > 1) + 1e-12)
    r = GaussianMixture(weights[::-1], p.means, p.covs)
    within(kl_estimate(p, r), 0.25 * math.log(1 / 3) + 0.75 * math.log(3), 1e-13)


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_mixtures_of_condition_number_1e12(angle):
    """Stretched by 1e6 and rotated: rounding the factor changes the smallest variance by 1e-4 of itself."""
    rng = np.random.default_rng(9)
    c, s = math.cos(angle), math.sin(angle)
    stretch = np.array([[c, -s], [s, c]]) @ np.diag([1e3, 1e-3])
    p, q = (
        affine(GaussianMixture(*random_parts(rng, 2, 2, 4.0, 2.0)), stretch, np.zeros(2)) for _ in range(2)
    )
    truth = reference.mixture_integral_2d((p.weights, p.means, p.covs), (q.weights, q.means, q.covs))
    within(kl_estimate(p, q), truth, 1e-12 * max(1.0, truth))


def test_a_component_of_condition_number_1e12_beside_a_round_one():
    """A narrow component in the plane: the error must cover what is wrong with the value."""
    p = GaussianMixture([0.5, 0.5], [[0, 0], [1, 0]], [np.eye(2), np.diag([1e-6, 1e6])])
    q = Gaussian(p.mean, p.cov)
    estimate, entropy = kl_estimate(p, q), entropy_estimate(p)
    truth = -reference.mixture_integral_2d((p.weights, p.means, p.covs), tolerance=1e-11)
    within(entropy, truth, 1e-7)
    within(estimate, q.entropy() - truth, 1e-7)
    lower, upper = kl_bounds(p, q)
    assert lower <= estimate.value <= upper


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_weights_of_1e_300(dim):
    rng = np.random.default_rng(dim)
    p, other, q = (random_gaussian(rng, dim) for _ in range(3))
    rare = GaussianMixture([1e-300, 1.0], [other.mean, p.mean], [other.cov, p.cov])
    within(kl_estimate(rare, q), fv.kl(p, q), 1e-13)
    within(entropy_estimate(rare), p.entropy(), 1e-13)
    within(kl_estimate(q, rare), fv.kl(q, p), 1e-13 * max(1.0, fv.kl(q, p)))
    lower, upper = kl_bounds(rare, q)
    assert lower - 1e-12 <= fv.kl(p, q) <= upper + 1e-12


def test_a_rare_component_where_nothing_else_is():
    """Only the component of weight 1e-300 covers p: log q is -690 there, not -5000."""
    p = Gaussian(100.0, 1.0)
    q = GaussianMixture([1e-300, 1.0], [100.0, 0.0], [1.0, 1.0])
    estimate = kl_estimate(p, q)
    within(estimate, -math.log(1e-300), 1e-12)
    lower, upper = kl_bounds(p, q)
    assert lower <= estimate.value + 1e-9
    assert estimate.value <= upper + 1e-9


def test_weight_zero():
    p = GaussianMixture([0.0, 1.0], [[5, 5], [0, 0]], [np.eye(2)] * 2)
    q, r = Gaussian([1, 0], np.eye(2)), Gaussian([0, 0], np.eye(2))
    within(kl_estimate(p, q), 0.5, 1e-14)
    within(kl_estimate(q, p), 0.5, 1e-14)
    within(entropy_estimate(p), r.entropy(), 1e-14)
    assert fv.mixture_entropy_bounds(p) == pytest.approx((r.entropy(), r.entropy()), rel=1e-14)
    assert kl_bounds(p, q).upper == pytest.approx(0.5, rel=1e-13)
    assert kl_bounds(q, p).upper == pytest.approx(0.5, rel=1e-13)


def test_what_is_too_sharp_is_owned_up_to():
    """Narrow components that cross: too many nodes for a lattice, so the error comes from the bounds."""
    sharp = GaussianMixture(
        [0.4, 0.3, 0.3],
        [[0.0, 0.0], [0.5, 0.2], [-0.3, 0.4]],
        [np.diag([1.0, 1e-10]), np.diag([1e-10, 1.0]), [[0.5, 0.5 - 1e-10], [0.5 - 1e-10, 0.5]]],
    )
    q = Gaussian([0, 0], np.eye(2))
    estimate, bounds = kl_estimate(sharp, q), kl_bounds(sharp, q)
    assert bounds.lower <= estimate.value <= bounds.upper
    apart = max(bounds.upper - estimate.value, estimate.value - bounds.lower)
    assert apart > 1e-3
    assert apart <= estimate.error <= 1.001 * apart  # with the rounding of the factors
    entropy, limits = entropy_estimate(sharp), fv.mixture_entropy_bounds(sharp)
    assert limits.lower <= entropy.value <= limits.upper
    assert entropy.error == max(limits.upper - entropy.value, entropy.value - limits.lower)


P, Q = Gaussian([0.5, -0.25], [[1.0, 0.3], [0.3, 0.8]]), Gaussian([0.0, 0.0], [[1.5, -0.2], [-0.2, 1.0]])
BOUNDS = [(-11.0, 11.0), (-10.0, 10.0)]


def test_two_grids_are_a_sum():
    rng = np.random.default_rng(3)
    x, y = np.cumsum(rng.uniform(0.1, 1.0, 17)), np.cumsum(rng.uniform(0.1, 1.0, 12))
    tables = rng.normal(size=(2, 17, 12))
    p, q = (Grid2D(x, y, t) for t in tables)
    a, b = (0.5 * (np.diff(z, prepend=z[0]) + np.diff(z, append=z[-1])) for z in (x, y))
    cells = np.outer(a, b)
    u, v = (cells * np.exp(t) for t in tables)
    u, v = u / u.sum(), v / v.sum()
    truth = float((u * np.log(u / v)).sum())
    estimate = kl_estimate(p, q)
    assert estimate.value == pytest.approx(truth, rel=1e-13)
    assert (estimate.method, estimate.evaluations, estimate.outside) == ("grid sum", 17 * 12, 0.0)
    assert fv.kl(p.normalized(), q) == pytest.approx(truth, rel=1e-13)
    assert fv.kl(p, q) == estimate.value


def test_two_grids_of_gaussians():
    p, q = (Grid2D.from_distribution(g, BOUNDS, (161, 161)) for g in (P, Q))
    within(kl_estimate(p, q), fv.kl(P, Q), 1e-13)
    within(entropy_estimate(p), P.entropy(), 1e-13)
    coarse = [Grid2D.from_distribution(g, BOUNDS, (17, 17)) for g in (P, Q)]
    within(kl_estimate(*coarse), fv.kl(P, Q), 0.0)
    within(entropy_estimate(coarse[0]), P.entropy(), 0.0)
    assert kl_estimate(*coarse).error > 1e-6


@pytest.mark.parametrize("shift", [-800.0, 0.0, 800.0])
def test_a_grid_and_a_gaussian(shift):
    """The grid's density need not be normalised."""
    p = Grid2D.from_distribution(P, BOUNDS, (161, 161))
    p = Grid2D(p.x, p.y, p.logp + shift)
    forth, back = kl_estimate(p, Q), kl_estimate(Q, p)
    within(forth, fv.kl(P, Q), 1e-13 * max(1.0, abs(shift)))
    within(back, fv.kl(Q, P), 1e-13 * max(1.0, abs(shift)))
    for e in (forth, back):
        assert e.error < 1e-9
        assert e.method == "grid sum"
        assert e.outside < 1e-13


def test_a_grid_and_a_mixture():
    m = GaussianMixture([0.4, 0.6], [[-1, 0], [2, 1]], [P.cov, Q.cov])
    g = Grid2D.from_distribution(m, [(-14, 14), (-12, 12)], (241, 241))
    exact = kl_estimate(m, Q, rtol=1e-12)
    within(kl_estimate(g, Q), exact.value, exact.error)
    exact = kl_estimate(Q, m, rtol=1e-12)
    within(kl_estimate(Q, g), exact.value, exact.error)
    within(entropy_estimate(g), entropy_estimate(m, rtol=1e-12).value, 1e-12)


@pytest.mark.parametrize("edge", [0.5, 1.0, 2.0, 3.0])
def test_mass_outside_a_grid_that_is_cut(edge):
    """The other distribution's mass outside the grid is reported, in both orders of the arguments."""
    unit = Gaussian([0, 0], np.eye(2))
    inside = math.erf(edge / math.sqrt(2.0)) ** 2
    g = Grid2D.from_distribution(unit, [(-edge, edge)] * 2, (401, 401))
    forth, back = kl_estimate(g, unit), kl_estimate(unit, g)
    for e in (forth, back):
        assert e.outside == pytest.approx(1.0 - inside, abs=1e-4)
        assert "outside the grid" in repr(e)
    # A Gaussian cut to the box, against itself: log of what was cut off.
    within(forth, -math.log(inside), 0.0)
    # The generalised sum counts the mass outside once; the error, the log ratio at the edge as well.
    assert back.value == pytest.approx(inside * math.log(inside) + 1.0 - inside, abs=1e-5)
    assert back.error >= -0.99 * (1.0 - inside) * math.log(inside)


def test_grids_that_differ():
    p = Grid2D.from_distribution(P, BOUNDS, (31, 31))
    for bounds, shape in ((BOUNDS, (31, 33)), ([(-11.0, 11.5), BOUNDS[1]], (31, 31))):
        q = Grid2D.from_distribution(Q, bounds, shape)
        with says(ValueError, "p and q must be on one grid", "(31, 31)", str(shape)):
            fv.kl(p, q)


def test_regions_without_density():
    x = np.linspace(-6.0, 6.0, 121)
    table = -0.5 * (x[:, None] ** 2 + x[None, :] ** 2)
    whole = Grid2D(x, x, table)
    half = Grid2D(x, x, np.where(x[:, None] > 0.0, table, -math.inf))
    unit = Gaussian([0, 0], np.eye(2))
    for p in (whole, unit, GaussianMixture([0.5, 0.5], [[0, 0], [1, 0]], [np.eye(2)] * 2)):
        estimate = kl_estimate(p, half)
        assert estimate.value == math.inf
        assert not math.isnan(estimate.error)
        assert fv.kl(p, half) == math.inf
    share = half.integral / whole.integral
    assert fv.kl(half, whole) == pytest.approx(-math.log(share), rel=1e-12)
    assert fv.kl(half, unit) == pytest.approx(-math.log(half.integral / (2 * math.pi)), rel=1e-8)
    assert fv.kl(half, half) == 0.0


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 6), exponent=st.integers(-12, 2))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_kl_of_gaussians_is_positive(seed, dim, exponent):
    rng = np.random.default_rng(seed)
    p = random_gaussian(rng, dim)
    step = 10.0**exponent * rng.uniform(0.1, 1.0, dim)
    q = Gaussian(p.mean + step, p.cov)
    assert fv.kl(p, p) == 0.0
    assert p == q or fv.kl(p, q) > 0.0
    r = Gaussian(p.mean, p.cov * (1.0 + 10.0**exponent))
    assert p == r or fv.kl(p, r) > 0.0
    assert fv.kl(random_gaussian(rng, dim), p) > 0.0


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 5))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_kl_of_gaussians_does_not_depend_on_coordinates(seed, dim):
    rng = np.random.default_rng(seed)
    p, q = random_gaussian(rng, dim), random_gaussian(rng, dim)
    matrix = rotation(rng, dim) * np.geomspace(0.1, 10.0, dim) @ rotation(rng, dim)
    shift = rng.standard_normal(dim)
    moved = fv.kl(affine(p, matrix, shift), affine(q, matrix, shift))
    assert moved == pytest.approx(fv.kl(p, q), rel=1e-9)


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 2))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_kl_of_mixtures_does_not_depend_on_coordinates(seed, dim):
    rng = np.random.default_rng(seed)
    p, q = (GaussianMixture(*random_parts(rng, dim, 2, 5.0, 10.0)) for _ in range(2))
    matrix = rotation(rng, dim) * np.geomspace(0.3, 3.0, dim) @ rotation(rng, dim)
    shift = rng.standard_normal(dim)
    one, two = affine(p, matrix, shift), affine(q, matrix, shift)
    here, there = kl_estimate(p, q), kl_estimate(one, two)
    assert here.value >= 0.0
    within(there, here.value, here.error + 1e-12 * max(1.0, here.value))
    gain = math.log(abs(np.linalg.det(matrix)))
    here, there = entropy_estimate(p), entropy_estimate(one)
    within(there, here.value + gain, here.error + 1e-12)

"""`fastvi.densities` against the textbook formulas in mpmath, from Python and in compiled code."""

import math

import mpmath as mp
import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import densities
from fastvi.kernels.densities import log_densities as kernels
from helpers.forms import all_plain, compiled_only
from helpers.messages import says
from reference import log_densities as reference

INF, NAN = math.inf, math.nan


def wide(rng, low=-8.0, high=8.0):
    return float(10.0 ** rng.uniform(low, high))


def location(rng):
    return float(rng.normal() * 10.0 ** rng.uniform(-3, 4))


def near(rng, mean):
    """A count near a mean, or somewhere."""
    if rng.random() < 0.5:
        return float(math.floor(max(mean + 3.0 * rng.normal() * math.sqrt(mean), 0.0)))
    return float(rng.integers(0, 200))


def positive_near(rng, mean):
    return (
        mean * math.exp(rng.normal() * 10.0 ** rng.uniform(-4, 1))
        if rng.random() < 0.8
        else wide(rng, -200, 200)
    )


def poisson(rng):
    alpha = rng.uniform(-20, 14)
    return near(rng, math.exp(alpha)), alpha


def binomial(rng):
    trials, alpha = float(rng.integers(1, 10 ** int(rng.integers(1, 8)))), rng.normal() * 4.0
    return min(near(rng, trials / (1.0 + math.exp(-alpha))), trials), trials, alpha


def negative_binomial(rng):
    eta = rng.uniform(-20, 14)
    return near(rng, math.exp(eta)), eta, wide(rng)


def beta(rng):
    a, b = wide(rng), wide(rng)
    x = rng.beta(a, b) if rng.random() < 0.7 else wide(rng, -300, 0)
    return float(min(max(x, 1e-300), 1.0 - 2.0**-53)), a, b


def gamma(rng):
    a, b = wide(rng), wide(rng)
    return positive_near(rng, a / b), a, b


def inv_gamma(rng):
    a, b = wide(rng), wide(rng)
    return positive_near(rng, b / a), a, b


def lognormal(rng):
    mu, sigma = rng.normal() * 5.0, wide(rng, -2, 2)
    return math.exp(mu + sigma * rng.normal()) if sigma < 10 else 2.0, mu, sigma


def located(rng):
    mu, sigma = location(rng), wide(rng)
    return mu + sigma * rng.standard_cauchy(), mu, sigma


def student(rng):
    x, mu, sigma = located(rng)
    return x, wide(rng), mu, sigma


def half(rng):
    sigma = wide(rng)
    return abs(sigma * rng.standard_cauchy()), sigma


DRAWS = {
    "normal": located,
    "student_t": student,
    "cauchy": located,
    "laplace": located,
    "half_normal": half,
    "half_student_t": lambda rng: (abs(rng.standard_cauchy()), wide(rng), wide(rng, -3, 3)),
    "half_cauchy": half,
    "lognormal": lognormal,
    "exponential": half,
    "gamma": gamma,
    "inv_gamma": inv_gamma,
    "beta": beta,
    "poisson_log": poisson,
    "bernoulli_logit": lambda rng: (float(rng.integers(2)), location(rng) / 10.0),
    "binomial_logit": binomial,
    "neg_binomial_2_log": negative_binomial,
}

NAMES = list(DRAWS)


def allowed(name, arguments):
    """(exact value, error that is allowed): 1e-14, or two roundings of the arguments."""
    function = getattr(reference, name)
    exact = [mp.mpf(x) for x in arguments]
    value = function(*exact)
    error = 1e-14 * max(1, abs(value))
    for i, x in enumerate(exact):
        if x != 0 and not (i == 0 and x == mp.floor(x)):
            moved = [*exact[:i], x * (1 + mp.mpf(2) ** -52), *exact[i + 1 :]]
            step = abs(function(*moved) - value)
            error += 2 * step if mp.isfinite(step) else 0
    return value, error


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_right_to_fourteen_digits(name):
    rng = np.random.default_rng(sum(map(ord, name)))
    value = all_plain(kernels.KERNELS[name].value)
    for _ in range(150):
        arguments = DRAWS[name](rng)
        exact, error = allowed(name, arguments)
        assert abs(value(*arguments) - exact) <= error, (arguments, float(exact), value(*arguments))


@pytest.mark.parametrize("size", [0.1, 2.0, 3.0, 4.0, 30.0, 600.0])
def test_bernoulli_sums_at_all_sizes_of_the_log_odds(size):
    """One sign, so that all terms are alike: from 0.7 down to 1e-300."""
    rng = np.random.default_rng(7)
    alpha = size * rng.uniform(0.9, 1.0, 1200)
    for y, odds in ((np.ones(1200), alpha), (np.zeros(1200), -alpha), ((alpha > 0.95 * size) * 1.0, alpha)):
        wanted = mp.fsum(reference.bernoulli_logit(a, b) for a, b in zip(y, exactly(odds), strict=True))
        assert abs(densities.bernoulli_logit(y, odds) - wanted) <= -2e-15 * wanted


@compiled_only
@pytest.mark.parametrize("name", NAMES)
def test_sums_over_arrays_and_numbers(name):
    """In compiled code, and from Python; mixed ones where the number of parameters is new."""
    rng = np.random.default_rng(3)
    function = getattr(densities, name)
    sample = np.array([DRAWS[name](rng) for _ in range(700)])
    columns = [np.ascontiguousarray(column) for column in sample.T]
    value = all_plain(kernels.KERNELS[name].value)
    of_many = numba.njit(lambda arguments: function(*arguments))

    def same(found, expected):
        assert abs(found - math.fsum(expected)) <= 1e-13 * math.fsum(map(abs, expected))

    same(function(*columns), [value(*map(float, row)) for row in sample])
    # At parameters that are valid for each x.
    first = [float(x) for x in sample[0, 1:]]
    if name == "binomial_logit":
        first[0] = columns[0].max() + 1.0
    expected = [value(float(x), *first) for x in columns[0]]
    same(function(columns[0], *first), expected)
    same(of_many((columns[0], *first)), expected)
    if name in ("half_normal", "normal", "student_t"):
        same(of_many(tuple(columns)), [value(*map(float, row)) for row in sample])
        expected = [value(1.0, *first[:-1], float(b)) for b in columns[-1]]
        same(of_many((1, *first[:-1], columns[-1])), expected)
        same(of_many((1.0, *first)), [value(1.0, *first)])


EDGES = [
    ("normal", (INF, 0.0, 1.0), -INF),
    ("normal", (NAN, 0.0, 1.0), NAN),
    ("normal", (0.0, 0.0, 0.0), NAN),
    ("normal", (0.0, 0.0, -1.0), NAN),
    ("normal", (0.0, INF, 1.0), NAN),
    ("normal", (0.0, 0.0, INF), NAN),
    ("student_t", (INF, 3.0, 0.0, 1.0), -INF),
    ("student_t", (0.0, 0.0, 0.0, 1.0), NAN),
    ("student_t", (1e200, 3.0, 0.0, 1.0), -4.0 * math.log(1e200) + math.log(18 * math.sqrt(3) / math.pi / 3)),
    ("cauchy", (1e300, 0.0, 1e-5), -math.log(math.pi * 1e-5) - 2 * math.log(1e305)),
    ("cauchy", (0.0, NAN, 1.0), NAN),
    ("laplace", (-INF, 0.0, 1.0), -INF),
    ("half_normal", (-1e-9, 1.0), -INF),
    ("half_normal", (-1.0, -1.0), NAN),
    ("half_normal", (0.0, 1.0), 0.5 * math.log(2 / math.pi)),
    ("half_cauchy", (-1.0, 1.0), -INF),
    ("half_student_t", (-1.0, 3.0, 1.0), -INF),
    ("lognormal", (0.0, 0.0, 1.0), -INF),
    ("lognormal", (-1.0, 0.0, 1.0), -INF),
    ("lognormal", (0.0, 0.0, -1.0), NAN),
    ("exponential", (-1.0, 1.0), -INF),
    ("exponential", (0.0, 2.0), math.log(2.0)),
    ("exponential", (1.0, 0.0), NAN),
    ("gamma", (-1.0, 2.0, 1.0), -INF),
    ("gamma", (0.0, 2.0, 1.0), -INF),
    ("gamma", (0.0, 1.0, 3.0), math.log(3.0)),
    ("gamma", (0.0, 0.5, 3.0), INF),
    ("gamma", (INF, 2.0, 1.0), -INF),
    ("gamma", (1.0, -2.0, 1.0), NAN),
    ("gamma", (1.0, 2.0, 0.0), NAN),
    ("inv_gamma", (0.0, 2.0, 1.0), -INF),
    ("inv_gamma", (-1.0, 2.0, 1.0), -INF),
    ("inv_gamma", (1.0, 2.0, NAN), NAN),
    ("beta", (0.0, 2.0, 2.0), -INF),
    ("beta", (1.0, 2.0, 2.0), -INF),
    ("beta", (0.0, 1.0, 3.0), math.log(3.0)),
    ("beta", (1.0, 3.0, 1.0), math.log(3.0)),
    ("beta", (1.0, 3.0, 0.5), INF),
    ("beta", (1.1, 1.0, 1.0), -INF),
    ("beta", (0.5, 0.0, 1.0), NAN),
    ("poisson_log", (-1.0, 0.0), -INF),
    ("poisson_log", (0.5, 0.0), -INF),
    ("poisson_log", (0.0, -INF), 0.0),
    ("poisson_log", (1.0, -INF), -INF),
    ("poisson_log", (1.0, INF), -INF),
    ("poisson_log", (1.0, NAN), NAN),
    ("poisson_log", (1.0, -1e4), -1e4),
    ("bernoulli_logit", (1.0, -1e300), -1e300),
    ("bernoulli_logit", (1.0, INF), 0.0),
    ("bernoulli_logit", (0.0, INF), -INF),
    ("bernoulli_logit", (2.0, 0.0), -INF),
    ("bernoulli_logit", (1.0, NAN), NAN),
    ("bernoulli_logit", (NAN, 0.0), NAN),
    ("binomial_logit", (11.0, 10.0, 0.0), -INF),
    ("binomial_logit", (-1.0, 10.0, 0.0), -INF),
    ("binomial_logit", (1.0, 2.5, 0.0), NAN),
    ("binomial_logit", (0.0, 0.0, 1.0), 0.0),
    ("binomial_logit", (10.0, 10.0, -800.0), -8000.0),
    ("binomial_logit", (1.0, 2.0, -800.0), -800.0 + math.log(2.0)),
    ("binomial_logit", (1.0, 2.0, INF), -INF),
    ("neg_binomial_2_log", (-1.0, 0.0, 1.0), -INF),
    ("neg_binomial_2_log", (1.0, 0.0, 0.0), NAN),
    ("neg_binomial_2_log", (1.0, INF, 1.0), NAN),
    ("neg_binomial_2_log", (0.0, 0.0, 1.0), -math.log(2.0)),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), EDGES)
def test_edges(name, arguments, expected):
    """Numbers and one entry of an array, plain; and compiled, from Python."""
    plain = all_plain(kernels.KERNELS[name].value)(*arguments)
    for value in (plain, getattr(densities, name)(*arguments)):
        np.testing.assert_allclose(value, expected, rtol=1e-14)


def simplex(rng, size):
    # Entries with 20 bits, whose sum is exactly 1.
    cuts = np.sort(rng.choice(np.arange(1, 2**20), size - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [2**20]])) / 2.0**20


def exactly(array):
    return [exactly(x) if np.ndim(x) else mp.mpf(float(x)) for x in array]


def test_vectors_and_matrices():
    rng = np.random.default_rng(5)
    for _ in range(40):
        size = int(rng.integers(2, 6))
        theta, alpha = simplex(rng, size), 10.0 ** rng.uniform(-4, 4, size)
        value, wanted = densities.dirichlet(theta, alpha), reference.dirichlet(exactly(theta), exactly(alpha))
        assert abs(value - wanted) <= 1e-14 * max(1, abs(wanted)) + 1e-16 * alpha.sum()
        # Along one coordinate, where there are partial derivatives.
        theta[0] *= 1.002
        value, wanted = densities.dirichlet(theta, alpha), reference.dirichlet(exactly(theta), exactly(alpha))
        assert abs(value - wanted) <= 1e-14 * max(1, abs(wanted)) + 1e-16 * alpha.sum()
        lower = np.tril(rng.normal(size=(size, size)))
        np.fill_diagonal(lower, 10.0 ** rng.uniform(-2, 2, size))
        x, mu = rng.normal(size=(2, size))
        value = densities.multi_normal_cholesky(x, mu, lower)
        wanted = reference.multi_normal_cholesky(exactly(x), exactly(mu), exactly(lower))
        assert abs(value - wanted) <= 1e-13 * abs(wanted)
        many = densities.multi_normal_cholesky([x, mu], mu, lower)
        assert abs(many - value - densities.multi_normal_cholesky(mu, mu, lower)) <= 1e-13 * abs(many)
        factor = np.linalg.cholesky(np.corrcoef(rng.normal(size=(size, 20))))
        eta = float(10.0 ** rng.uniform(-3, 4))
        value = densities.lkj_corr_cholesky(factor, eta)
        wanted = reference.lkj_corr_cholesky(exactly(factor), mp.mpf(eta))
        assert abs(value - wanted) <= 1e-14 * (10 + abs(wanted) + eta)
        beta = rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3)
        value, wanted = densities.log_sum_exp(beta), reference.log_sum_exp(exactly(beta))
        assert abs(value - wanted) <= 1e-14 * abs(beta).max() + 1e-15
        wanted = reference.categorical_logit(1, exactly(beta))
        assert abs(densities.categorical_logit(1, beta) - wanted) <= 1e-14 * (1 + abs(beta).max())
        assert abs(densities.categorical_logit([1, 1], beta) - 2 * wanted) <= 1e-13 * (1 + abs(beta).max())
        theta[0] /= 1.002
        value, wanted = densities.log_mix(theta, beta), reference.log_mix(exactly(theta), exactly(beta))
        assert abs(value - wanted) <= 1e-14 * (1 + abs(beta).max())
        matrix = lower @ lower.T
        found, good = densities.cholesky(matrix)
        assert good
        np.testing.assert_allclose(found @ found.T, matrix, rtol=1e-10, atol=1e-14 * abs(matrix).max())


def test_edges_of_vectors_and_matrices():
    d = densities
    assert d.dirichlet([0.0, 1.0], [2.0, 1.0]) == -INF
    assert d.dirichlet([0.0, 1.0], [0.5, 1.0]) == INF
    assert abs(d.dirichlet([0.0, 1.0], [1.0, 3.0]) - math.log(3.0)) <= 1e-14
    assert d.dirichlet([-0.1, 1.1], [1.0, 1.0]) == d.dirichlet([0.5, 0.6], [1.0, 1.0]) == -INF
    assert math.isnan(d.dirichlet([0.5, 0.5], [1.0, 0.0]))
    assert d.multi_normal_cholesky([INF, 0.0], [0.0, 0.0], np.eye(2)) == -INF
    assert math.isnan(d.multi_normal_cholesky([0.0], [0.0], [[-1.0]]))
    assert d.lkj_corr_cholesky([[1.0, 0.0], [0.9, 0.9]], 1.0) == -INF
    assert d.lkj_corr_cholesky([[1.0]], 2.0) == 0.0
    assert math.isnan(d.lkj_corr_cholesky([[1.0, 0.0], [0.6, 0.8]], 0.0))
    assert d.categorical_logit(2, [0.0, 0.0]) == d.categorical_logit(-1, [0.0, 0.0]) == -INF
    assert d.log_sum_exp([]) == d.log_sum_exp([-INF, -INF]) == d.log_sum_exp(-INF, -INF) == -INF
    assert d.log_sum_exp([INF, 0.0]) == d.log_sum_exp(0.0, INF) == INF
    assert math.isnan(d.log_sum_exp([NAN, INF]))
    assert (d.log_mix(0.0, -INF, 2.0), d.log_mix(0.5, -INF, -INF)) == (2.0, -INF)
    assert math.isnan(d.log_mix(1.5, 0.0, 0.0))
    assert math.isnan(d.log_mix(0.0, NAN, 0.0))
    assert abs(d.log_mix([0.25, 0.75], [0.0, -1.0]) - d.log_mix(0.25, 0.0, -1.0)) <= 1e-15
    factor, good = d.cholesky([[1.0, 2.0], [2.0, 1.0]])
    assert np.isnan(factor).all()
    assert not good


@numba.njit
def everything(theta, alpha, x, factor, outcomes, n):
    d = fv.densities
    lower, good = d.cholesky(factor @ factor.T)
    return np.array(
        [
            d.dirichlet(theta, alpha),
            d.multi_normal_cholesky(x[0], alpha, lower),
            d.multi_normal_cholesky(x, alpha, lower),
            d.lkj_corr_cholesky(factor, 2),
            d.categorical_logit(outcomes, alpha),
            d.categorical_logit(n, alpha),
            d.log_sum_exp(alpha),
            d.log_sum_exp(1, 2.0),
            d.log_mix(theta, alpha),
            d.log_mix(0.3, 1.0, 2),
            d.normal(n, 0, 2),
            1.0 if good else 0.0,
        ]
    )


def test_compiled_code_gives_the_same():
    rng = np.random.default_rng(6)
    theta, alpha = simplex(rng, 3), np.array([1.0, 2.0, 3.0])
    factor = np.linalg.cholesky(np.corrcoef(rng.normal(size=(3, 9))))
    arguments = theta, alpha, rng.normal(size=(4, 3)), factor, np.array([0, 2, 1]), 1
    wanted = getattr(everything, "py_func", everything)(*arguments)
    np.testing.assert_allclose(everything(*arguments), wanted, rtol=1e-13)


def test_bad_arguments():
    with says(ValueError, "normal takes numbers and arrays of one length, not x (2,), mu (3,), sigma ()"):
        densities.normal(np.zeros(2), np.zeros(3), 1.0)
    with says(TypeError, "mu must be a number or an array of numbers", "'a'"):
        densities.normal(0.0, "a", 1.0)
    with says(TypeError, "x must be a number", "of shape (2, 2)"):
        densities.normal(np.zeros((2, 2)), 0.0, 1.0)
    with says(ValueError, "theta and alpha must have one length, not 2 and 3"):
        densities.dirichlet([0.5, 0.5], [1.0, 1.0, 1.0])
    with says(ValueError, "x, mu and factor must have the shapes"):
        densities.multi_normal_cholesky([0.0], [0.0, 0.0], np.eye(2))
    with says(ValueError, "matrix must be square, not of shape (1, 2)"):
        densities.cholesky([[1.0, 2.0]])


@compiled_only
def test_compiled_code_takes_numbers_and_arrays():
    function = numba.njit(lambda x, mu: fv.densities.normal(x, mu, 1.0))
    assert math.isnan(function(np.zeros(2), np.zeros(3)))
    assert function(np.zeros(0), 0.0) == 0.0
    assert function(np.zeros(6)[::2], 0.0) == 3 * function(0.0, 0.0)
    with says(numba.TypingError, "fastvi.densities.normal in compiled code takes numbers and 1-D arrays"):
        function(np.zeros((2, 2)), 0.0)


@numba.njit
def _of_booleans(counts, number, numbers):
    over = 0.0
    for n in counts:
        over += fv.densities.bernoulli_logit(n > 2.0, number)
    high = counts > 2.0
    return over, fv.densities.bernoulli_logit(high, number), fv.densities.bernoulli_logit(high, numbers)


def test_booleans_in_compiled_code():
    counts, numbers = np.array([1.0, 3.0, 5.0]), np.array([0.1, 0.2, 0.3])
    one, two, three = _of_booleans(counts, 0.3, numbers)
    assert one == pytest.approx(fv.densities.bernoulli_logit(counts > 2, 0.3), rel=1e-14)
    assert two == one
    assert three == fv.densities.bernoulli_logit(counts > 2, numbers)

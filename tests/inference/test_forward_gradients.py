"""Gradients by forward differentiation: of each operation and density, of models, and what is refused."""

import copy
import math
import pickle
import threading
import warnings

import mpmath as mp
import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import densities
from fastvi.inference import compilation
from fastvi.kernels.densities import slopes as kernels
from helpers.forms import all_plain, compiled_only
from helpers.messages import says
from reference import log_densities as reference

pytestmark = compiled_only


def gradients_of(model, points):
    """(values, gradients) at points, by the compiled function that fits call."""
    points = np.atleast_2d(np.asarray(points, float))
    gradients = np.full(points.shape, np.nan)
    values, failed = model._tabulate(points, gradients)
    assert not failed
    np.testing.assert_allclose(values, model.log_density(points), rtol=1e-13, atol=1e-13)
    return values, gradients


def cases(arguments, expressions, names=None):
    """A function f(k, ...) of which case k is that expression: compiled once."""
    lines = [f"    {'el' if k else ''}if k == {k}:\n        return {e}\n" for k, e in enumerate(expressions)]
    scope = {"math": math, "np": np, "fv": fv, "densities": densities, **(names or {})}
    exec(f"def log_joint({arguments}):\n{''.join(lines)}    return 0.0 * z[0]\n", scope)
    return scope["log_joint"]


# Operations.


class Exactly:
    """`math` and `np` for mpmath."""

    arcsin = asin = staticmethod(mp.asin)
    arccos = acos = staticmethod(mp.acos)
    arctan = atan = staticmethod(mp.atan)
    arcsinh = asinh = staticmethod(mp.asinh)
    arccosh = acosh = staticmethod(mp.acosh)
    arctanh = atanh = staticmethod(mp.atanh)
    arctan2 = atan2 = staticmethod(mp.atan2)
    lgamma = staticmethod(lambda x: mp.log(abs(mp.gamma(x))))
    log2 = staticmethod(lambda x: mp.log(x, 2))
    exp2 = staticmethod(lambda x: mp.mpf(2) ** x)
    square = staticmethod(lambda x: x * x)
    reciprocal = staticmethod(lambda x: 1 / x)
    abs = staticmethod(abs)
    maximum, minimum = staticmethod(max), staticmethod(min)
    logaddexp = staticmethod(lambda x, y: mp.log(mp.exp(x) + mp.exp(y)))
    power = pow = staticmethod(lambda x, y: x**y)
    pi, inf = mp.pi, mp.inf

    def __getattr__(self, name):
        return getattr(mp, {"fabs": "fabs", "negative": "chop"}.get(name, name))


EXACTLY = {"math": Exactly(), "np": Exactly(), "float": lambda x: x}


def exact_gradient(expression, point):
    """By differences with 60 digits."""
    code = compile(expression, "case", "eval")

    def value(*z):
        return mp.mpf(eval(code, {**EXACTLY, "z": z}))

    at = [mp.mpf(x) for x in point]
    n = len(at)
    h = mp.mpf(10) ** -20

    def along(i):
        up, down = list(at), list(at)
        up[i] += h
        down[i] -= h
        return (value(*up) - value(*down)) / (2 * h)

    return [along(i) for i in range(n)]


ONE = (
    "exp expm1 log log1p log10 sqrt sin cos tan asin acos atan sinh cosh tanh asinh atanh erf erfc "
    "lgamma gamma fabs"
)
ONE_NP = (
    "exp expm1 log log1p log2 exp2 log10 sqrt square reciprocal sin cos tan arcsin arccos arctan sinh cosh "
    "tanh arcsinh arctanh abs"
)
OPERATIONS = [
    *(f"math.{name}(z[0])" for name in ONE.split()),
    *(f"np.{name}(z[0])" for name in ONE_NP.split()),
    "math.acosh(1.5 + z[0])",
    "np.arccosh(1.5 + z[0])",
    "math.lgamma(z[1] - 3.0)",
    "math.gamma(z[1] - 3.0)",
    *(f"{a} {sign} {b}" for sign in "+-*/" for a, b in (("z[0]", "z[1]"), ("2", "z[1]"), ("z[0]", "2.5"))),
    "-z[0] + (+z[1])",
    "float(z[0]) * abs(-z[1])",
    *(f"z[0] ** {n}" for n in (-3, -1, 0, 1, 2, 3, 7, 20, 0.5)),
    "z[0] ** z[1] + 2 ** z[0] + 1.5 ** z[1] + pow(z[0], z[1]) + math.pow(z[0], 2.5) + np.power(z[1], z[0])",
    "np.logaddexp(z[0], z[1]) + np.logaddexp(z[0], 0.25) + np.logaddexp(1, z[1])",
    "math.hypot(z[0], z[1]) + np.hypot(z[0], 2.0)",
    "math.atan2(z[0], z[1]) + np.arctan2(1.0, z[0])",
    "max(z[0], z[1], 0) * min(z[0], z[1], 5) + max(z[0], 1) + min(1, z[1])",
    "np.maximum(z[0], z[1]) * np.minimum(z[0], 2.0)",
    "(z[0] if z[0] < z[1] else z[1]) * (z[1] if z[0] >= 0.1 and z[1] != 3.0 else 1.0)",
    "(z[0] > 0.2) * z[1] + (not z[0]) + (z[0] == z[1])",
]


def exact(expression, point):
    return [float(x) for x in exact_gradient(expression, point)]


def test_each_operation():
    model = fv.Model(cases("z, k", OPERATIONS), 2, (0,), log_joint_grad="forward")
    points = [[0.3, 0.7], [0.85, 0.4]]
    for k, expression in enumerate(OPERATIONS):
        _, found = gradients_of(model.with_data((k,)), points)
        wanted = [exact(expression, point) for point in points]
        np.testing.assert_allclose(found, wanted, rtol=5e-14, atol=1e-14, err_msg=expression)


LEAVES = ["z[0]", "z[1]", "z[2]", "1", "0.5", "2.25"]
STEPS = [
    "({a} + {b})",
    "({a} - {b})",
    "({a} * {b})",
    "({a} / (1.5 + {b} ** 2))",
    "math.exp(-{a} ** 2)",
    "np.log1p({a} * {a})",
    "math.sin({a})",
    "math.tanh({a})",
    "np.sqrt({a} ** 2 + 0.5)",
    "math.atan({a})",
    "np.logaddexp({a}, {b})",
    "max({a}, {b})",
    "np.minimum({a}, {b})",
    "abs({a})",
    "({a}) ** 3",
    "1.5 ** math.tanh({a})",
    "math.erf({a})",
    "math.lgamma(1.0 + {a} ** 2)",
    "({a} if {a} > {b} else {b} * {a})",
]


def expression_of(rng, depth):
    if depth == 0 or rng.random() < 0.15:
        return LEAVES[rng.integers(len(LEAVES))]
    step = STEPS[rng.integers(len(STEPS))]
    return step.format(a=expression_of(rng, depth - 1), b=expression_of(rng, depth - 1))


def test_random_expressions():
    rng = np.random.default_rng(19)
    found = [expression_of(rng, 4) for _ in range(200)]
    chosen = [e for e in found if "z[" in e and 60 < len(e) < 200][:25]
    model = fv.Model(cases("z, k", chosen), 3, (0,), log_joint_grad="forward")
    points = rng.normal(size=(2, 3))
    for k, expression in enumerate(chosen):
        _, slopes = gradients_of(model.with_data((k,)), points)
        wanted = np.array([exact(expression, point) for point in points])
        scale = 1.0 + abs(wanted).max()
        np.testing.assert_allclose(slopes, wanted, rtol=0, atol=1e-12 * scale, err_msg=expression)


# Where a derivative is infinite, jumps, or overflows.

EDGES = [
    ("abs(z[0])", [0.0, 1.0], [0.0, 0.0]),
    ("math.sqrt(z[0] ** 2)", [0.0, 1.0], [0.0, 0.0]),
    ("math.sqrt(z[1]) + z[0] ** 2", [1.0, 0.0], [2.0, math.sqrt(1e5)]),
    ("z[1] * math.sqrt(0.0 * z[0])", [1.0, 2.0], [0.0, 0.0]),
    ("z[0] ** 0.5 + z[1]", [0.0, 1.0], [math.sqrt(1e5), 1.0]),
    ("z[0] ** 2 + z[0] ** 1 + z[0] ** 0", [0.0, 1.0], [1.0, 0.0]),
    ("z[0] ** 1.5 + z[0] ** z[1]", [0.0, 2.0], [0.0, 0.0]),
    ("(-z[1]) ** 3 + z[0] ** (k - 4)", [-1.5, 2.0], [6.75, -12.0]),
    ("max(z[0], z[1])", [1.0, 1.0], [1.0, 0.0]),
    ("np.maximum(z[0], z[1]) + np.minimum(z[0], z[1])", [1.0, 1.0], [2.0, 0.0]),
    ("1.0 / (1.0 + math.exp(-z[0])) + 3.0 * z[0] + z[1]", [-800.0, 1.0], [3.0, 1.0]),
    ("z[1] * math.exp(-math.exp(z[0]))", [1000.0, 2.0], [0.0, 0.0]),
    ("np.hypot(z[0], z[1])", [0.0, 0.0], [0.0, 0.0]),
    ("math.floor(z[0]) * z[1] + np.sign(z[0]) * z[1]", [2.5, 3.0], [0.0, 3.0]),
    ("3", [1.0, 2.0], [0.0, 0.0]),
    ("z[0] > 0", [1.0, 2.0], [0.0, 0.0]),
]


def test_edges():
    model = fv.Model(cases("z, k", [e[0] for e in EDGES[:-2]]), 2, (0,), log_joint_grad="forward")
    for k, (expression, point, wanted) in enumerate(EDGES[:-2]):
        _, found = gradients_of(model.with_data((k,)), point)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-6, atol=1e-12, err_msg=expression)
    for expression, point, wanted in EDGES[-2:]:
        alone = {}
        exec(f"def log_joint(z):\n    return {expression}", alone)
        _, found = gradients_of(fv.Model(alone["log_joint"], 2, log_joint_grad="forward"), point)
        assert found[0].tolist() == wanted


# Arrays.

ARRAYS = [
    "z.sum() * sum(z[:2]) + np.mean(z) + np.dot(z, x[0]) + (x @ z).sum() ** 2 + (z @ x.T)[1] * z[:3] @ z[1:]",
    "(np.exp(z) * x[0]).sum() + (x[0] / (2.0 + z**2)).sum() + (3 - z[:1] * -z).sum() ** 2",
    "z.max() + math.log(np.exp(z - z.max()).sum()) + z.min()",
    "z[-1] * z[len(z) - 2] + z.size * z[0] + z.shape[0] * z[1] + z[-2:].sum() ** 2 + z[i].sum() ** 2",
    "np.maximum(z, 0.2).sum() * np.logaddexp(z, x[0]).sum()",
    "in_loops(z) + in_place(z, x) + in_tuples(z)",
]


@numba.njit
def in_loops(z):
    s, k, top = 0, True, 0
    for i, v in enumerate(z):
        s += i * v * v
    for a, b in zip(z[1:], z):  # noqa: B905 (numba has no strict)
        s = s + a * b
    for v in z:
        k = k * v
        if v > top:
            top = v
    grown = 1.0
    while grown < 10.0:
        grown = grown * (1.5 + z[0] ** 2)
    return s + k * top + grown


@numba.njit
def shifted(v):
    v -= 1.0
    return v.sum()


@numba.njit
def in_place(z, x):
    a = 2.0 * z
    b, part = a, a[1:3]
    a += z[0]
    b *= x[0]
    part /= 1.0 + z[:2] ** 2
    return (a * a).sum() + shifted(b) * b[0]


@numba.njit
def in_tuples(z):
    values = [z[0], z[1] ** 2]
    one, two = values[0], values[1]
    pair = z[0], z[1]
    s = sum(pair) * pair[1]
    maybe = None
    if one > -100.0:
        maybe = two
    return s + (0.0 if maybe is None else maybe**2)


def differences(model, points):
    """Of two steps, extrapolated."""
    slopes = np.zeros(points.shape)
    for k in range(points.shape[1]):
        for h, weight in ((1e-3, 4.0 / 3.0), (2e-3, -1.0 / 3.0)):
            step = np.zeros(points.shape)
            step[:, k] = h * np.clip(abs(points[:, k]), 1e-3, 1.0)
            rise = model.log_density(points + step) - model.log_density(points - step)
            slopes[:, k] += weight * rise / (2.0 * step[:, k])
    return slopes


def test_arrays():
    names = {"in_loops": in_loops, "in_place": in_place, "in_tuples": in_tuples}
    rng = np.random.default_rng(2)
    data = 0, rng.normal(size=(3, 4)), np.array([2, 0, -1])
    model = fv.Model(cases("z, k, x, i", ARRAYS, names), 4, data, log_joint_grad="forward")
    points = np.array([[0.3, -0.7, 0.45, 0.9], [0.21, 0.4, 0.8, -0.35]])
    for k, expression in enumerate(ARRAYS):
        case = model.with_data((k, *data[1:]))
        _, found = gradients_of(case, points)
        wanted = differences(case, points)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8, err_msg=expression)


# Densities.

#: Arguments of each density that has some, without counts.
ARGUMENTS = {
    "normal": [0.7, -0.4, 1.3],
    "student_t": [0.7, 3.5, -0.4, 1.3],
    "cauchy": [0.7, -0.4, 1.3],
    "laplace": [0.7, -0.4, 1.3],
    "half_normal": [0.7, 1.3],
    "half_student_t": [0.7, 3.5, 1.3],
    "half_cauchy": [0.7, 1.3],
    "lognormal": [0.7, -0.4, 1.3],
    "exponential": [0.7, 1.3],
    "gamma": [0.7, 3.5, 1.3],
    "inv_gamma": [0.7, 3.5, 1.3],
    "beta": [0.7, 3.5, 1.3],
    "poisson_log": [0.7],
    "bernoulli_logit": [0.7],
    "binomial_logit": [0.7],
    "neg_binomial_2_log": [0.7, 1.3],
}

#: What these take for their first arguments.
COUNTS = {
    "poisson_log": (3,),
    "bernoulli_logit": (1,),
    "binomial_logit": (3, 9),
    "neg_binomial_2_log": (3,),
}


def exact_slopes(name, arguments):
    """The derivatives of a density in those of its arguments that are no counts."""
    function, counts = getattr(reference, name), [mp.mpf(n) for n in COUNTS.get(name, ())]
    h, slopes = mp.mpf(10) ** -20, []
    for i in range(len(arguments)):
        moved = [[mp.mpf(x) for x in arguments] for _ in range(2)]
        moved[0][i] += h
        moved[1][i] -= h
        slopes.append(float((function(*counts, *moved[0]) - function(*counts, *moved[1])) / (2 * h)))
    return slopes


@pytest.mark.parametrize("name", ARGUMENTS)
def test_slopes_of_each_density(name):
    slopes, rng = all_plain(kernels.SLOPES[name]), np.random.default_rng(7)
    counts, at = COUNTS.get(name, ()), np.array(ARGUMENTS[name])
    for _ in range(30):
        z = at * np.exp(0.8 * rng.normal(size=at.size))
        if name == "beta":
            z[0] = rng.uniform(0.05, 0.95)
        found = slopes(*map(float, counts), *map(float, z))
        assert all(map(math.isnan, found[: len(counts)]))
        wanted = exact_slopes(name, z)
        scale = 1.0 + abs(z).max() + np.abs(wanted).max()
        np.testing.assert_allclose(found[len(counts) :], wanted, rtol=0, atol=4e-15 * scale)


#: For each number of arguments.
NUMBERS = [
    ("student_t(z[0], z[1], z[2], z[3])", "student_t"),
    ("gamma(z[0], z[1], z[2])", "gamma"),
    ("half_cauchy(z[0], z[1])", "half_cauchy"),
    ("bernoulli_logit(n > 2, z[0])", "bernoulli_logit"),
    ("binomial_logit(n, 9, z[0])", "binomial_logit"),
]


def test_densities_of_numbers():
    calls = [f"densities.{call}" for call, _ in NUMBERS]
    model = fv.Model(cases("z, k, n", calls), 4, (0, 3), log_joint_grad="forward")
    for k, (_, name) in enumerate(NUMBERS):
        at = ARGUMENTS[name]
        _, found = gradients_of(model.with_data((k, 3)), [*at, 1.0, 1.0, 1.0][:4])
        np.testing.assert_allclose(found[0, : len(at)], exact_slopes(name, at), rtol=1e-14, err_msg=name)
        assert not found[0, len(at) :].any()


#: The same with arrays of dual numbers, and with arrays of data as the first argument.
SUMS = [
    ("normal(z[:2], z[1:3], z[3])", "normal", [(0, 1, 3), (1, 2, 3)]),
    ("student_t(z[:2], z[2], z[0], z[1:3])", "student_t", [(0, 2, 0, 1), (1, 2, 0, 2)]),
    ("exponential(z, z[0])", "exponential", [(i, 0) for i in range(4)]),
    ("neg_binomial_2_log(y, z[0], z[1])", "neg_binomial_2_log", 700 * [(0, 1)]),
    ("bernoulli_logit(y > 2, z[0])", "bernoulli_logit", 700 * [(0,)]),
]


def test_sums_of_densities():
    calls = [f"densities.{call}" for call, _, _ in SUMS]
    y = np.full(700, 3.0)
    model = fv.Model(cases("z, k, y", calls), 4, (0, y), log_joint_grad="forward")
    z = np.array([0.7, 1.3, 0.4, 2.2])
    for k, (call, name, terms) in enumerate(SUMS):
        _, found = gradients_of(model.with_data((k, y)), z)
        wanted = np.zeros(4)
        for term in set(terms):
            for i, slope in zip(term, exact_slopes(name, z[list(term)]), strict=True):
                wanted[i] += slope * terms.count(term)
        np.testing.assert_allclose(found[0], wanted, rtol=2e-14, atol=1e-14, err_msg=call)


def test_sums_with_data_for_x_take_many_blocks():
    """An array of 700 numbers with one scale and a location for each."""

    def log_joint(z, x, rows):
        return densities.normal(x, rows @ z[:2], z[2]) + densities.student_t(x, z[3], z[0], z[2])

    rng = np.random.default_rng(5)
    x, rows, z = rng.normal(size=700), rng.normal(size=(700, 2)), np.array([[0.3, -0.2, 1.4, 4.0]])
    model = fv.Model(log_joint, 4, (x, rows), ["real", "real", "positive", "positive"])
    assert model.gradient == "forward"
    _, found = gradients_of(model, z)
    slopes = np.zeros(4)
    for value, row in zip(x, rows, strict=True):
        _, in_mu, in_sigma = exact_slopes("normal", [value, row @ z[0, :2], 1.4])
        slopes += [*(in_mu * row), in_sigma, 0.0]
        _, in_nu, in_mu, in_sigma = exact_slopes("student_t", [value, 4.0, 0.3, 1.4])
        slopes += [in_mu, 0.0, in_sigma, in_nu]
    np.testing.assert_allclose(found[0], slopes, rtol=1e-11)


def of_vectors(p, k, y):
    if k == 0:
        return densities.dirichlet(p.w, 1.0 + p.w)
    if k == 1:
        return densities.multi_normal_cholesky(p.x, p.mu, p.L)
    if k == 2:
        return densities.multi_normal_cholesky(y, p.mu, p.L) + densities.lkj_corr_cholesky(p.L, p.s)
    if k == 3:
        return densities.log_sum_exp(p.x) * densities.log_sum_exp(p.s, p.mu[0])
    if k == 4:
        return densities.log_mix(p.w, p.x) * densities.log_mix(p.w[0], p.s, p.mu[1])
    if k == 5:
        return densities.categorical_logit(2, p.x) + densities.categorical_logit(np.array([0, 1, 1]), p.mu)
    return (
        p.L[2, 1] ** 2 * p.L[1][0] * p.a[1, 0] + p.a[0].sum() ** 2 + p.s * densities.dirichlet(p.w, y[0] ** 2)
    )


NAMED = {
    "w": ("simplex", 3),
    "L": ("cholesky_corr", 3),
    "x": (3,),
    "mu": ("ordered", 3),
    "s": "positive",
    "a": (2, 2),
}


def test_densities_of_vectors_and_named_parameters():
    y = np.random.default_rng(1).normal(size=(4, 3))
    model = fv.Model(of_vectors, NAMED, (0, y), log_joint_grad="forward")
    latent = np.random.default_rng(3).normal(size=(2, model.latent_dim))
    points = model._support.to_model(latent)[0]
    for k in range(7):
        case = model.with_data((k, y))
        _, found = gradients_of(case, points)
        np.testing.assert_allclose(found, differences(case, points), rtol=1e-7, atol=1e-7, err_msg=str(k))
        assert fv.check_gradient(case, points)


# Models, with their gradients written by hand.


def schools(p, y, s):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_cauchy(p.tau, 5.0)
    for j in range(8):
        value += densities.normal(p.eta[j], 0.0, 1.0)
        value += densities.normal(y[j], p.mu + p.tau * p.eta[j], s[j])
    return value


def schools_gradient(p, g, y, s):
    g.mu, g.tau = -p.mu / 25.0, -2.0 * p.tau / (25.0 + p.tau**2)
    for j in range(8):
        r = (y[j] - p.mu - p.tau * p.eta[j]) / s[j] ** 2
        g.mu += r
        g.tau += r * p.eta[j]
        g.eta[j] = -p.eta[j] + r * p.tau
    return schools_value(p, y, s)


def nes(p, x, y):
    return densities.normal(p.beta, 0.0, 10.0) + densities.normal(y, x @ p.beta, p.sigma)


def nes_gradient(p, g, x, y):
    r = (y - x @ p.beta) / p.sigma
    g.sigma = ((r * r).sum() - y.size) / p.sigma
    slopes = r @ x / p.sigma - p.beta / 100.0
    for j in range(slopes.size):
        g.beta[j] = slopes[j]
    return nes_value(p, x, y)


def radon(p, county, floor, y):
    value = densities.normal(p.mu, 0.0, 10.0) + densities.half_cauchy(p.tau, 2.5)
    value += densities.normal(p.slope, 0.0, 10.0) + densities.half_cauchy(p.sigma, 2.5)
    value += densities.normal(p.alpha, p.mu, p.tau)
    for i in range(y.size):
        value += densities.normal(y[i], p.alpha[county[i]] + p.slope * floor[i], p.sigma)
    return value


def radon_gradient(p, g, county, floor, y):
    g.mu, g.slope = -p.mu / 100.0, -p.slope / 100.0
    g.tau, g.sigma = -2.0 * p.tau / (6.25 + p.tau**2), -2.0 * p.sigma / (6.25 + p.sigma**2)
    for j in range(p.alpha.size):
        r = (p.alpha[j] - p.mu) / p.tau
        g.tau += (r * r - 1.0) / p.tau
        g.mu += r / p.tau
        g.alpha[j] = -r / p.tau
    for i in range(y.size):
        r = (y[i] - p.alpha[county[i]] - p.slope * floor[i]) / p.sigma
        g.sigma += (r * r - 1.0) / p.sigma
        g.slope += r * floor[i] / p.sigma
        g.alpha[county[i]] += r / p.sigma
    return radon_value(p, county, floor, y)


def counts(p, group, y):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_normal(p.tau, 1.0)
    value += densities.normal(p.alpha, p.mu, p.tau)
    return value + densities.poisson_log(y, p.alpha[group])


def counts_gradient(p, g, group, y):
    g.mu, g.tau = -p.mu / 25.0, -p.tau
    for j in range(p.alpha.size):
        r = (p.alpha[j] - p.mu) / p.tau
        g.tau += (r * r - 1.0) / p.tau
        g.mu += r / p.tau
        g.alpha[j] = -r / p.tau
    for i in range(y.size):
        g.alpha[group[i]] += y[i] - math.exp(p.alpha[group[i]])
    return counts_value(p, group, y)


schools_value, nes_value = numba.njit(schools), numba.njit(nes)
radon_value, counts_value = numba.njit(radon), numba.njit(counts)


def posteriors():
    rng = np.random.default_rng(11)
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    x = rng.normal(size=(300, 9))
    group = rng.integers(0, 20, 200)
    floor, noise = rng.integers(0, 2, 200).astype(float), rng.normal(size=300)
    scales = {"tau": "positive", "sigma": "positive"}
    return {
        "schools": (
            schools,
            schools_gradient,
            {"mu": "real", "tau": "positive", "eta": (8,)},
            (effects, errors),
        ),
        "nes": (nes, nes_gradient, {"beta": (9,), "sigma": "positive"}, (x, x @ rng.normal(size=9) + noise)),
        "radon": (
            radon,
            radon_gradient,
            {"mu": "real", "slope": "real", "alpha": (20,), **scales},
            (group, floor, 1.0 - 0.6 * floor + noise[:200]),
        ),
        "counts": (
            counts,
            counts_gradient,
            {"mu": "real", "tau": "positive", "alpha": (20,)},
            (group, rng.poisson(3.0, 200).astype(float)),
        ),
    }


@pytest.mark.parametrize("name", ["schools", "nes", "radon", "counts"])
def test_gradients_and_optima_are_those_of_written_gradients(name):
    log_joint, gradient, parameters, data = posteriors()[name]
    forward = fv.Model(log_joint, parameters, data)
    written = fv.Model(log_joint, parameters, data, log_joint_grad=gradient)
    latent = 0.5 * np.random.default_rng(1).normal(size=(5, forward.dim))
    points = forward._support.to_model(latent)[0]
    values, found = gradients_of(forward, points)
    same, wanted = gradients_of(written, points)
    np.testing.assert_allclose(values, same, rtol=1e-13)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * abs(wanted).max())
    assert (forward.gradient, written.gradient) == ("forward", "written")
    one, two = fv.fit(forward, "diag"), fv.fit(written, "diag")
    assert one.converged
    # Fits end where they lack less than a hundredth of the ELBO's error. Rounding changes where they start.
    assert abs(one.elbo.value - two.elbo.value) <= 0.02 * two.elbo.error
    r = forward.latent_dim
    start = fv.Gaussian(np.zeros(r), 0.01 * np.eye(r))
    one, two = fv.fit(forward, "diag", start=start), fv.fit(written, "diag", start=start)
    assert one.converged
    assert abs(one.elbo.value - two.elbo.value) <= 1e-9 * abs(two.elbo.value)
    np.testing.assert_allclose(one.q.mean, two.q.mean, atol=1e-5)


# Models.


def plain(z, scale):
    return -0.5 * (z @ z) / scale - 0.1 * math.cosh(z[0] - z[2])


def with_theta(z, theta, x):
    return -0.5 * (z * z).sum() / theta[0] - (z[0] - x) ** 2 + 0.0 * theta.size


def compilations(make):
    before = compilation.compiled_count()
    made = make()
    return made, compilation.compiled_count() - before


def test_it_is_compiled_once_when_a_fit_asks_for_it():
    model, made = compilations(lambda: fv.Model(plain, 3, (2.0,)))
    assert made == 1
    assert compilations(lambda: fv.elbo(model, fv.Gaussian(np.zeros(3), np.eye(3))))[1] == 0
    assert compilations(lambda: fv.fit(fv.Model(lambda z: -(z[0] ** 2) - z[1] ** 2, 2)))[1] == 1
    fit, made = compilations(lambda: fv.fit(model))
    assert made == 1
    others = [
        lambda: fv.fit(model.with_data((3.0,))),
        lambda: fv.fit(fv.Model(plain, 3, (4.0,))),
        lambda: fv.fit_batch(model, (np.array([1.0, 2.0]),)),
        lambda: fv.fit(copy.deepcopy(model)),
        lambda: fv.elbo_grad(model, fit.q),
        lambda: fv.fit(pickle.loads(pickle.dumps(fv.Model(plain, 3, (2.0,), log_joint_grad="forward")))),
        lambda: fv.fit(fv.Model(plain, 3, (2.0,), log_joint_grad="differences")),
    ]
    for other in others:
        assert compilations(other)[1] == 0
    batch = fv.fit_batch(model, (np.array([1.0, 2.0]),))
    assert batch.q(1).mean.tolist() == fit.q.mean.tolist()
    assert fv.fit(copy.deepcopy(model)).elbo == fit.elbo


def test_threads_share_it():
    model = fv.Model(lambda z, x: -(z[0] ** 2) - z[1] ** 4 - x * z[2] ** 2, 3, (1.0,))
    found = [None] * 4

    def run(k):
        found[k] = fv.fit(model)

    def all_at_once():
        threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert compilations(all_at_once)[1] == 1
    assert all(fit.elbo == found[0].elbo for fit in found)


def test_theta_and_a_choice():
    model = fv.Model(with_theta, 3, (1.0,), theta=[2.0])
    _, found = gradients_of(model, [[1.0, 2.0, 3.0]])
    assert found[0].tolist() == [-0.5, -1.0, -1.5]
    assert gradients_of(model.with_theta([4.0]), [[1.0, 2.0, 3.0]])[1][0].tolist() == [-0.25, -0.5, -0.75]
    assert fv.check_gradient(model)
    off = fv.Model(with_theta, 3, (1.0,), log_joint_grad="differences", theta=[2.0])
    assert off.gradient == pickle.loads(pickle.dumps(off)).gradient == "differences"
    with says(ValueError, "model has no gradient to check: it takes differences"):
        fv.check_gradient(off)
    with says(ValueError, 'log_joint_grad must be a function, "forward" or "differences", not \'reverse\''):
        fv.Model(plain, 3, (2.0,), log_joint_grad="reverse")


# What has no derivatives here.


@numba.njit
def filled(z):
    values = np.empty(3)
    for i in range(3):
        values[i] = z[i] ** 2
    return values.sum()


@numba.njit("f8(f8)")
def typed(x):
    return x * x


@numba.cfunc("f8(f8)")
def in_c(x):
    return x * x


REFUSED = [
    ("filled(z)", "setitem(array(float64, 1d, C), int64, fastvi.Dual)"),
    ("in_c(z[0])", ""),
    ("typed(z[0])", "fastvi.Dual"),
    ("float(int(z[0])) * z[1]", "int(fastvi.Dual)"),
    ("np.float64(z[0]) * z[1]", "(fastvi.Dual)"),
    ("round(z[0]) * z[1]", "round(fastvi.Dual)"),
    ("z[0] % 1.5", "mod(fastvi.Dual, float64)"),
    ("z[0] // 0.3", "floordiv(fastvi.Dual, float64)"),
    ("abs(complex(z[0], z[1]))", "complex(fastvi.Dual, fastvi.Dual)"),
    ("abs(z[0] + 1j)", "add(fastvi.Dual, complex128)"),
    ("math.trunc(z[0]) * z[1]", "trunc(fastvi.Dual)"),
    ("math.copysign(z[0], z[1])", "copysign(fastvi.Dual, fastvi.Dual)"),
    ("np.where(z > 0, z, 0.0).sum()", "gt(fastvi.DualArray(1), Literal[int](0))"),
    ("z[0] ** 2 * (3.0 if isinstance(z[0], float) else 1.0)", "isinstance(fastvi.Dual"),
    ("z[0] ** 2 * (3.0 if np.isscalar(z[0]) else 1.0)", "its values are others"),
    ("z[0] ** 2 * (3.0 if hasattr(z, 'T') else 1.0)", "its values are others"),
    ("z[0] ** 2 * (3.0 if z is z else 1.0)", "no default `is` implementation"),
]


@pytest.mark.parametrize(("expression", "reason"), REFUSED)
def test_what_has_no_derivatives_takes_differences_without_a_word(expression, reason):
    scope = {"math": math, "np": np, "filled": filled, "typed": typed, "in_c": in_c}
    exec(f"def log_joint(z):\n    return {expression}", scope)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fv.Model(scope["log_joint"], 3).gradient == "differences"
        with says(TypeError, "log_joint has no gradient by forward differentiation:", reason):
            fv.Model(scope["log_joint"], 3, log_joint_grad="forward")


@pytest.mark.filterwarnings("error")
def test_such_a_model_is_fitted_as_ever():
    def log_joint(z):
        return -filled(z)

    fit, other = fv.fit(fv.Model(log_joint, 3)), fv.fit(fv.Model(log_joint, 3, log_joint_grad="differences"))
    assert fit.converged
    assert fit.elbo == other.elbo
    assert fit.evaluations == other.evaluations


def test_exceptions_are_those_of_the_log_joint():
    def log_joint(z):
        if z[0] > 2.0:
            raise ValueError("too far")
        return -(z[0] ** 2) - z[1] ** 2 - 1.0 / z[2]

    model = fv.Model(log_joint, 3, log_joint_grad="forward")
    points, gradients = np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]]), np.zeros((2, 3))
    assert model._tabulate(points, gradients)[1] == 2
    assert gradients[0].tolist() == [-2.0, -2.0, 1.0]
    assert model._tabulate(np.array([[1.0, 1.0, 0.0]]), gradients)[1] == 1
    with says(ValueError, "too far"):
        fv.fit(model, start=fv.Gaussian([5.0, 0.0, 1.0], 1e-3 * np.eye(3)))

"""Tasks that go on in step, and how many calls a fit of a model takes whose calls are expensive."""

import math
import threading

import numpy as np
import pytest

import fastvi as fv
from fastvi.inference import racing
from fastvi.inference.kernel_calls import densities_or_zero, log_densities, slopes_at
from fastvi.inference.lockstep import together

RNG = np.random.default_rng(20261120)

DATA = np.random.default_rng(1).normal(3.0, 2.0, 10_000)


class Counted:
    """A model by `from_block`, with its calls: the points of each."""

    def __init__(self, function, dim, slopes=True):
        self.calls, self.function = [], function
        self.model = fv.from_block(self if slopes else None, lambda z: self(z)[0], dim)

    def __call__(self, z):
        self.calls.append(len(z))
        return self.function(z)


def quadratic(z):
    return -0.5 * (z * z).sum(axis=1), -z


def logistic(dim, n=400):
    x = RNG.normal(size=(n, dim))
    y = RNG.random(n) < 1.0 / (1.0 + np.exp(-x @ RNG.normal(size=dim) / np.sqrt(dim)))

    @np.errstate(over="ignore")
    def function(z):
        linear = z @ x.T
        values = (y * linear - np.logaddexp(0.0, linear)).sum(axis=1) - 0.125 * (z * z).sum(axis=1)
        return values, (y - 1.0 / (1.0 + np.exp(-linear))) @ x - 0.25 * z

    return function


def poisson(dim, n=300):
    x = 0.4 * RNG.normal(size=(n, dim))
    y = RNG.poisson(np.exp(x @ (0.5 * RNG.normal(size=dim))))

    def function(z):
        linear = np.minimum(z @ x.T, 300.0)
        means = np.exp(linear)
        return (y * linear - means).sum(axis=1) - 0.5 * (z * z).sum(axis=1), (y - means) @ x - z

    return function


def schools(z):
    y, sigma = np.array([28, 8, -3, 7, -1, 1, 18, 12.0]), np.array([15, 10, 16, 11, 9, 11, 10, 18.0])
    mu, tau, each = z[:, 0], np.exp(np.minimum(z[:, 1], 50.0)), z[:, 2:]
    rest = (y - mu[:, None] - tau[:, None] * each) / sigma
    values = -0.02 * mu**2 - np.log1p((tau / 5.0) ** 2) + z[:, 1]
    values = values - 0.5 * (each**2).sum(axis=1) - 0.5 * (rest**2).sum(axis=1)
    up, far = rest / sigma, (tau / 5.0) ** 2
    to_tau = 1.0 - 2.0 * far / (1.0 + far) + tau * (up * each).sum(axis=1)
    return values, np.column_stack([-0.04 * mu + up.sum(axis=1), to_tau, tau[:, None] * up - each])


@pytest.mark.parametrize(
    ("name", "most"), [("logistic 5", 15), ("logistic 11", 15), ("logistic 50", 20), ("poisson 8", 14)]
)
@pytest.mark.parametrize("family", ["full", "diag"])
def test_a_fit_takes_few_calls(name, most, family):
    kind, dim = name.split()
    function = {"logistic": logistic, "poisson": poisson}[kind](int(dim))
    counted = Counted(function, int(dim))
    fit = fv.fit(counted.model, family)
    assert fit.converged
    assert len(counted.calls) <= most


def banana(z):
    return (-0.5 * z[:, 0] ** 2 - 2.0 * (z[:, 1] - z[:, 0] ** 2) ** 2,)


@np.errstate(over="ignore", invalid="ignore")
def normal(z):
    moved = (DATA - z[:, :1]) * np.exp(-z[:, 1:])
    return (-0.5 * (moved * moved).sum(axis=1) - DATA.size * z[:, 1] - 0.005 * z[:, 0] ** 2,)


@pytest.mark.parametrize("family", ["full", "diag"])
@pytest.mark.parametrize(
    ("function", "dim", "most"),
    [
        (quadratic, 1, 9),
        (quadratic, 2, 10),
        (logistic(1), 1, 11),
        (logistic(2), 2, 12),
        (normal, 2, 16),
        (banana, 2, 60),
    ],
)
def test_a_fit_by_quadrature_takes_few_calls(function, dim, most, family):
    calls = []

    def value(z):
        calls.append(len(z))
        return function(z)[0]

    model = fv.from_block(None, value, dim)
    fit = fv.fit(model, family)
    assert fit.converged
    few = len(calls)
    assert few <= most
    assert fit.evaluations == sum(calls)
    # The same by blocks of 512 and single points, as for other models.
    object.__setattr__(model, "_calls_are_expensive", False)
    other = fv.fit(model, family)
    assert len(calls) - few > (few if dim == 1 else 1.5 * few)
    assert abs(fit.elbo.value - other.elbo.value) <= 1e-7 * (1.0 + abs(other.elbo.value))
    assert np.allclose(fit.q.mean, other.q.mean, rtol=0, atol=1e-6)
    assert np.allclose(fit.q.cov, other.q.cov, rtol=1e-6, atol=1e-9)


def test_a_hierarchy_takes_some_calls_more():
    counted = Counted(schools, 10)
    fit = fv.fit(counted.model)
    assert fit.converged
    assert len(counted.calls) <= 36
    assert fit.evaluations == sum(counted.calls)
    # The same by single points, as for other models: the other q is no better.
    alone = Counted(schools, 10)
    object.__setattr__(alone.model, "_calls_are_expensive", False)
    other = fv.fit(alone.model)
    assert len(alone.calls) > 2 * len(counted.calls)
    assert fit.elbo.value > other.elbo.value - 3.0 * (fit.elbo.error + other.elbo.error)


def centred_schools(z):
    """In coordinates in which the density grows without end, where its mass is not."""
    y, sigma = np.array([28, 8, -3, 7, -1, 1, 18, 12.0]), np.array([15, 10, 16, 11, 9, 11, 10, 18.0])
    mu, log_tau, each = z[:, 0], z[:, 1], z[:, 2:]
    precision = np.exp(-2.0 * log_tau)
    apart, rest, far = each - mu[:, None], (y - each) / sigma, np.exp(2.0 * log_tau) / 25.0
    squares = (apart**2).sum(axis=1)
    values = (
        -0.02 * mu**2 - np.log1p(far) - 7.0 * log_tau - 0.5 * (precision * squares + (rest**2).sum(axis=1))
    )
    inward = precision[:, None] * apart
    to_log_tau = -7.0 - 2.0 * far / (1.0 + far) + precision * squares
    return values, np.column_stack([-0.04 * mu + inward.sum(axis=1), to_log_tau, rest / sigma - inward])


@pytest.mark.parametrize(("family", "most", "wanted"), [("diag", 50, -33.407), ("full", 90, -32.599)])
def test_the_mode_has_no_mass(family, most, wanted):
    quiet = np.errstate(over="ignore", invalid="ignore")
    counted = Counted(quiet(centred_schools), 10)
    fit = fv.fit(counted.model, family)
    assert fit.converged
    assert len(counted.calls) <= most
    assert fit.evaluations == sum(counted.calls)
    # Its ELBO is that of tests/inference/test_starts.py, less constants.
    constants = -8.0 * math.log(2.0 * math.pi) - 0.5 * math.log(2.0 * math.pi * 25.0)
    constants += math.log(2.0 / (5.0 * math.pi)) - np.log([15, 10, 16, 11, 9, 11, 10, 18.0]).sum()
    assert abs(fit.elbo.value + constants - wanted) <= 4 * fit.elbo.error + 0.01


def test_calls_are_taken_together():
    counted = Counted(quadratic, 3)
    points = RNG.normal(size=(4, 6, 3))
    threads, here = set(), threading.get_ident()

    def ask(block, times):
        threads.add(threading.get_ident())
        return [densities_or_zero(counted.model, block[:k]) for k in range(1, 1 + times)]

    tasks = [lambda k=k: ask(points[k], 1 + k) for k in range(4)]
    found = list(together(counted.model, tasks))
    assert counted.calls == [4, 6, 6, 4]
    assert len(threads) == 4
    assert here not in threads
    for k, values in enumerate(found):
        assert len(values) == 1 + k
        for n, each in enumerate(values):
            assert np.allclose(each, quadratic(points[k, : n + 1])[0], rtol=1e-15)


def test_slopes_and_values_and_tasks_of_tasks_go_together():
    counted, z = Counted(quadratic, 3), RNG.normal(size=(5, 3))

    def nested():
        tasks = [lambda: densities_or_zero(counted.model, z[:2]), lambda: slopes_at(counted.model, z[2:])[2]]
        return list(together(counted.model, tasks))

    (values, slopes), alone = together(counted.model, [nested, lambda: log_densities(counted.model, z)[1]])
    assert counted.calls == [10]
    assert np.allclose(values, quadratic(z[:2])[0], rtol=1e-15)
    assert np.array_equal(slopes, -z[2:])
    assert np.allclose(alone, quadratic(z)[0], rtol=1e-15)


def test_tasks_of_other_models_run_when_they_are_asked_for():
    def log_joint(z):
        return -0.5 * z[0] ** 2

    ran = []
    tasks = [lambda k=k: ran.append(k) or k for k in range(3)]
    assert next(together(fv.Model(log_joint, 1), tasks)) == 0
    assert ran == [0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
def test_an_exception_ends_all_tasks(error):
    ended = []

    def broken(z):
        raise error("no connection")

    model = fv.from_block(None, broken, 3)

    def ask(k):
        try:
            densities_or_zero(model, np.zeros((1, 3)))
        finally:
            ended.append(k)

    before = threading.active_count()
    with pytest.raises(error, match="no connection"):
        together(model, [lambda: ask(0), lambda: ask(1)])
    assert ended == [0, 1]
    assert threading.active_count() == before

    def wrong():
        raise ZeroDivisionError("of a task")

    good = Counted(quadratic, 3)
    with pytest.raises(ZeroDivisionError, match="of a task"):
        together(good.model, [lambda: log_densities(good.model, np.zeros((2, 3))), wrong])
    assert good.calls == [2]


@pytest.mark.parametrize("dim", [3, 84])
def test_gaussians_on_a_path_have_the_covariance_of_bfgs(dim):
    root = RNG.normal(size=(dim, dim))
    spread, hessian = RNG.uniform(0.1, 2.0, dim), root @ root.T + np.eye(dim)
    pairs = [(step, hessian @ step) for step in RNG.normal(size=(6, dim))]
    covariance, gradient = racing._updated(spread, pairs), RNG.normal(size=dim)
    assert np.allclose(covariance @ pairs[-1][1], pairs[-1][0], rtol=0, atol=1e-10)
    expected = 1.0 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    np.testing.assert_allclose(racing._conditional(spread, pairs), expected, rtol=1e-9)
    np.testing.assert_allclose(racing._moved(spread, pairs, gradient), covariance @ gradient, atol=1e-9)


def test_one_call_has_the_statuses_of_the_kernels():
    z = RNG.normal(size=(700, 3))

    def log_joint(z):
        return np.log(z[0]) if z[1] < 0.5 else -z[2]

    @np.errstate(invalid="ignore")
    def function(z):
        return np.where(z[:, 1] < 0.5, np.log(z[:, 0]), -z[:, 2])

    for support in ("real", ["positive", "real", ("lower", 1.0)]):
        names = dict(zip("abc", [support] * 3 if support == "real" else support, strict=True))
        model, same = fv.from_block(None, function, names), fv.Model(log_joint, 3, support=support)
        for points in (z, np.abs(z), np.full((2, 3), 700.0)):
            one, two = densities_or_zero(model, points), densities_or_zero(same, points)
            assert np.allclose(one, two, rtol=1e-13)
            one, two = log_densities(model, points), log_densities(same, points)
            assert one[0] == two[0]
            if one[0]:
                assert np.array_equal(one[2], two[2])

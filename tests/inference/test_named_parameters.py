"""Models of named parameters: the same numbers as with z, by name, and what is refused before compiling."""

import pickle

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.inference import compilation
from fastvi.inference.parameters import layout_of
from helpers.forms import compiled_only
from helpers.messages import says

pytestmark = compiled_only

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

SCHOOLS = {"mu": "real", "tau": "positive", "theta": (8,)}


@numba.njit
def by_name(p, y, sigma):
    value = -0.02 * p.mu**2 - np.log1p(0.04 * p.tau**2)
    for j in range(8):
        r = (y[j] - p.mu - p.tau * p.theta[j]) / sigma[j]
        value -= 0.5 * (p.theta[j] ** 2 + r * r)
    return value


@numba.njit
def by_index(z, y, sigma):
    value = -0.02 * z[0] ** 2 - np.log1p(0.04 * z[1] ** 2)
    for j in range(8):
        r = (y[j] - z[0] - z[1] * z[2 + j]) / sigma[j]
        value -= 0.5 * (z[2 + j] ** 2 + r * r)
    return value


@numba.njit
def gradient(p, g, y, sigma):
    g.mu = -0.04 * p.mu
    g.tau = -0.08 * p.tau / (1.0 + 0.04 * p.tau**2)
    for j in range(8):
        slope = (y[j] - p.mu - p.tau * p.theta[j]) / sigma[j] ** 2
        g.mu += slope
        g.tau += slope * p.theta[j]
        g.theta[j] = slope * p.tau - p.theta[j]
    return by_name(p, y, sigma)


@pytest.fixture(scope="module")
def models():
    flat = fv.Model(by_index, 10, (Y, SIGMA), ["real", "positive"] + ["real"] * 8)
    return fv.Model(by_name, SCHOOLS, (Y, SIGMA), log_joint_grad=gradient), flat


def test_the_log_joint_is_that_of_z(models):
    named, flat = models
    z = np.abs(np.random.default_rng(0).normal(size=(20, 10)))
    assert named.log_density(z).tolist() == flat.log_density(z).tolist()
    assert (named.dim, named.latent_dim, named.support) == (10, 10, flat.support)
    assert named.parameters == SCHOOLS
    assert flat.parameters is None
    assert repr(named) == f"Model(by_name, {SCHOOLS!r}, data=2 items)"
    assert fv.check_gradient(named)


def test_fits_are_read_by_name(models):
    named, flat = models
    f = fv.fit(named, draws=64)
    plain = fv.fit(flat, draws=64)
    # One has a written gradient, the other one by forward differentiation.
    assert abs(f.elbo.value - plain.elbo.value) <= 1e-9
    same = fv.fit(fv.Model(by_name, SCHOOLS, (Y, SIGMA)), draws=64)
    assert same.elbo == plain.elbo
    mean, sd = f["tau"]
    assert (type(mean), mean, sd) == (float, f.q.mean[1], np.sqrt(f.q.cov[1, 1]))
    assert f["theta"].mean.tolist() == f.q.mean[2:].tolist()
    draws = f.sample(5, 1, named=True)
    assert {name: x.shape for name, x in draws.items()} == {"mu": (5,), "tau": (5,), "theta": (5, 8)}
    assert np.array_equal(np.column_stack(list(draws.values())), f.sample(5, 1))
    lines = [line.split()[0] for line in f.summary().splitlines()[-10:]]
    assert lines == ["mu", "tau", *(f"theta[{j}]" for j in range(8))]
    with says(KeyError, "no parameter is called 'nu'; there are mu, tau, theta"):
        f["nu"]
    with says(TypeError, "the model's parameters have no names"):
        plain["tau"]
    with says(TypeError, "the model's parameters have no names"):
        plain.sample(2, 0, named=True)


def test_copies_and_other_data(models):
    named, _ = models
    z = np.linspace(0.5, 1.5, 10)
    same = pickle.loads(pickle.dumps(named))
    assert same.log_density(z) == named.log_density(z)
    assert same.parameters == SCHOOLS
    assert fv.check_gradient(same)
    other = named.with_data((Y + 1.0, SIGMA))
    assert other.log_density(z) == fv.Model(by_name, SCHOOLS, (Y + 1.0, SIGMA)).log_density(z)


def test_nothing_is_compiled_again(models):
    before = compilation.compiled_count()
    fv.Model(by_name, dict(SCHOOLS), (SIGMA, Y))
    assert compilation.compiled_count() == before
    fv.Model(by_name, {"tau": "positive", "mu": "real", "theta": (8,)}, (Y, SIGMA))
    assert compilation.compiled_count() == before + 1


@numba.njit
def each_kind(p):
    count, matrix, w, c, chol, box, scale, rows = p
    value = p.count + 2.0 * p.matrix[1, 2] + 3.0 * p.w[3] + 4.0 * p.c[1] + 5.0 * p.chol[2, 1]
    value += 6.0 * p.box[1] + 7.0 * p.scale[0, 1] + 8.0 * p.rows[1, 2] + p.matrix.sum() + rows.size
    return value + count + matrix[0, 0] + w.size + c[0] + chol[0, 0] + box[0] + scale[1, 0]


EACH = {
    "count": ("lower", -1.0),
    "matrix": (2, 3),
    "w": ("simplex", 4),
    "c": ("ordered", 2),
    "chol": ("cholesky_corr", 3),
    "box": ("interval", [0.0, 1.0], [1.0, 3.0]),
    "scale": ("positive", (2, 2)),
    "rows": (("simplex", 3), (2,)),
}


def test_each_kind_of_parameter():
    model = fv.Model(each_kind, EACH)
    z = model._support.to_model(np.random.default_rng(1).normal(size=(1, model.latent_dim)))[0][0]
    parts = model._layout.split(z)
    shapes = [(), (2, 3), (4,), (2,), (3, 3), (2,), (2, 2), (2, 3)]
    assert [x.shape for x in parts.values()] == shapes
    assert abs(parts["w"].sum() - 1.0) <= 1e-14
    np.testing.assert_allclose((parts["chol"] ** 2).sum(axis=1), 1.0)
    np.testing.assert_allclose(parts["rows"].sum(axis=1), 1.0)
    plain = model._layout
    point = fv.kernels.models.named.parameters_class(tuple(plain.names))(**parts)
    assert abs(model.log_density(z) - each_kind.py_func(point)) <= 1e-12
    assert plain.labels[7] == "w[0]"
    assert plain.labels[13 + 5] == "chol[1, 2]"
    assert len(plain.labels) == model.dim


@numba.njit
def with_theta(p, theta, x):
    return -0.5 * (p.a[0] - theta[0]) ** 2 - 0.5 * (x - p.a[0]) ** 2


def test_theta_and_compiled_code():
    model = fv.Model(with_theta, {"a": (1,)}, (2.0,), theta=[1.0])
    assert model.log_density([0.5]) == -0.5 * (0.25 + 2.25)

    @numba.njit
    def evidence(m):
        return fv.log_evidence(m).value

    plain = fv.Model(lambda p: -0.5 * p.a[0] ** 2, {"a": (1,)})
    assert abs(evidence(plain) - 0.5 * np.log(2 * np.pi)) <= 1e-10


@pytest.mark.parametrize(
    ("parameters", "error", "part"),
    [
        ({}, ValueError, "parameters must have at least one name"),
        ({1: "real"}, TypeError, "names of parameters must be strings, not 1"),
        ({"a b": "real"}, ValueError, "must be an identifier without a leading _, not 'a b'"),
        ({"lambda": "real"}, ValueError, "not 'lambda'"),
        ({"_a": "real"}, ValueError, "not '_a'"),
        ({"ﬁ": "real", "fi": "real"}, ValueError, "Python takes the name 'ﬁ' for 'fi'"),
        ({"a": (0,)}, ValueError, "parameter a: shape[0] must be at least 1, not 0"),
        ({"a": (2.5,)}, TypeError, "parameter a: shape[0] must be an integer"),
        ({"a": ("positive", (3, 0))}, ValueError, "parameter a: shape[1] must be at least 1"),
        ({"a": 3}, ValueError, "parameter a: a shape must be a tuple, not 3: write (3,)"),
        ({"a": ("positive", 3)}, ValueError, "parameter a: a shape must be a tuple"),
        ({"a": "half"}, ValueError, "parameter a must be 'real', 'positive'"),
        ({"a": "simplex"}, ValueError, "parameter a: 'simplex' needs its size, ('simplex', k)"),
        ({"a": ("simplex", 1)}, ValueError, "parameter a is 'simplex': a simplex has at least two"),
        ({"a": (("interval", [0.0, 0.0], 1.0), (3,))}, ValueError, "shape (3,), but ends of the shape (2,)"),
        ({"a": ("interval", 1.0, 0.0)}, ValueError, "parameter a must be ('interval', a, b) with a < b"),
        ({"a": None}, ValueError, "parameter a must be 'real'"),
    ],
)
def test_bad_parameters(parameters, error, part):
    with says(error, part):
        layout_of(parameters)


def test_bad_functions():
    """Nothing is compiled for them."""
    before = compilation.compiled_count()
    with says(ValueError, "log_joint asks for p.nu, but the parameters are mu, tau, theta"):
        fv.Model(lambda p: p.mu + p.nu, SCHOOLS)
    with says(ValueError, "log_joint asks for p.thetas", "mu, tau, theta"):
        fv.Model(lambda p: p.thetas.sum(), SCHOOLS)
    with says(ValueError, "log_joint has the argument tau, which is also the name of a parameter"):
        fv.Model(lambda p, tau: p.mu, SCHOOLS, (1.0,))
    with says(TypeError, "must take 2 arguments: (p, data[0])"):
        fv.Model(lambda p: p.mu, SCHOOLS, (1.0,))
    with says(ValueError, "give no support"):
        fv.Model(lambda p: p.mu, SCHOOLS, support="positive")

    def writes(p):
        p.mu = 1.0
        return 0.0

    with says(ValueError, "log_joint assigns to p.mu: parameters are read-only"):
        fv.Model(writes, SCHOOLS)

    def wrong(p, g):
        g.nu = 1.0
        return 0.0

    assert compilation.compiled_count() == before
    with says(ValueError, "log_joint_grad asks for g.nu"):
        fv.Model(lambda p: p.mu, SCHOOLS, log_joint_grad=wrong)
    with says(TypeError, "log_joint writes to z (or to data)"):

        def fills(p):
            p.theta[0] = 1.0
            return 0.0

        fv.Model(fills, SCHOOLS)

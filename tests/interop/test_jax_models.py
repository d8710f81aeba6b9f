"""Models of JAX and NumPyro beside the same log joint in fastvi; skipped where these are missing."""

import math
import warnings

import numpy as np
import pytest

import fastvi as fv
from helpers.doors import needed, run_readme
from reference.eight_schools import SIGMA, Y, check_same


@pytest.fixture
def jax():
    jax = needed("jax")
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", False)


def schools(jax):
    from jax.scipy.stats import cauchy, norm

    def logdensity(position):
        mu, effects, log_tau = position
        tau = jax.numpy.exp(log_tau)
        total = norm.logpdf(mu, 0, 5) + math.log(2.0) + cauchy.logpdf(tau, 0, 5) + log_tau
        total += norm.logpdf(effects).sum()
        return total + norm.logpdf(Y, mu + tau * effects, SIGMA).sum()

    return fv.from_jax(logdensity, (0.0, np.zeros(8), 0.0))


def test_jax_equals_the_native_model(jax):
    fit = check_same(schools(jax))
    mu, effects, log_tau = fit.sample(7, 0, named=True)
    z = fit.sample(7, 0)
    assert np.array_equal(np.column_stack([mu, effects, log_tau]), z)
    data = fit.to_xarray(7, 0)
    assert list(data.data_vars) == ["0", "1", "2"]
    assert np.array_equal(data["1"].values[0], effects)


def test_leaves_have_the_names_of_their_paths(jax):
    needed("xarray")
    tree = {"layer/w": np.zeros((2, 3)), "b": {"c": 0.0, "d": [np.zeros(1)]}}

    def logdensity(position):
        return -0.5 * sum((leaf**2).sum() for leaf in jax.tree_util.tree_leaves(position))

    fit = fv.fit(fv.from_jax(logdensity, tree), "diag")
    data = fit.to_xarray(5, 0)
    assert {name: data[name].shape[2:] for name in data} == {"b.c": (), "b.d.0": (1,), "layer.w": (2, 3)}
    assert np.array_equal(data["layer.w"].values[0], fit.sample(5, 0, named=True)["layer/w"])
    same = fv.fit(fv.from_jax(logdensity, {"a": {"b": 0.0}, "a.b": 0.0}))
    assert list(same.to_xarray(5, 0).data_vars) == ["['a']['b']", "['a.b']"]


def test_numpyro_equals_the_native_model(jax):
    numpyro = needed("numpyro")
    dist = numpyro.distributions

    def model(y, sigma):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        t = numpyro.sample("t", dist.Normal(0, 1).expand([8]).to_event(1))
        theta = numpyro.deterministic("theta", mu + tau * t)
        numpyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)

    fit = check_same(fv.from_numpyro(model, Y, sigma=SIGMA))
    named, z = fit.sample(7, 0, named=True), fit.sample(7, 0)
    assert np.allclose(named["tau"], np.exp(z[:, 9]), rtol=1e-12)
    assert np.allclose(named["theta"], z[:, :1] + np.exp(z[:, 9:]) * z[:, 1:9], rtol=1e-12)
    assert "z of tau" in fit.summary()
    data = fit.to_xarray(7, 0)
    assert set(data.data_vars) == {"mu", "tau", "t", "theta"}
    assert np.array_equal(data["theta"].values[0], named["theta"])
    with pytest.raises(ValueError, match="no latent sites"):
        fv.from_numpyro(lambda: numpyro.sample("y", dist.Normal(0, 1), obs=1.0))


def test_blocks_of_any_size_are_those_of_single_points(jax):
    model, points = schools(jax), np.random.default_rng(20261128).standard_normal((17, 10))
    assert fv.check_gradient(model, points)
    values, slopes = np.empty(17), np.empty((17, 10))
    for k, point in enumerate(points):
        values[k] = model._tabulate(point[None], slopes[k : k + 1])[0].item()
    for count in (1, 7, 8, 9, 16, 17):
        found, before = np.empty((count, 10)), points.copy()
        beside, _ = model._tabulate(points[:count], found)
        assert np.allclose(found, slopes[:count], rtol=1e-13)
        assert np.allclose(beside, values[:count], rtol=1e-13)
        assert np.allclose(model.log_density(points[:count]), values[:count], rtol=1e-13)
        assert np.array_equal(points, before)


def test_a_density_that_is_no_number_is_refused(jax):
    model = fv.from_jax(lambda z: -(z**2), np.zeros(3))
    with pytest.raises(ValueError, match=r"values of a block of 8 points must have shape \(8,\)"):
        model.log_density(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="scalar"):
        fv.fit(model)


def test_an_exception_of_a_density_is_raised_as_it_is(jax):
    def broken(position):
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        fv.fit(fv.from_jax(broken, np.zeros(3)))


def test_the_example_of_the_readme_runs(jax):
    run_readme("fv.from_jax(", fv=fv)


def test_single_precision_is_warned_of():
    jax = needed("jax")
    assert not jax.config.jax_enable_x64
    with pytest.warns(UserWarning, match="single precision"):
        fv.from_jax(lambda z: -(z**2).sum(), np.zeros(3))


def test_bad_positions_are_named(jax):
    with pytest.raises(TypeError, match=r"position\['k'\] must have floating-point numbers, not dtype int"):
        fv.from_jax(lambda p: 0.0, {"k": np.arange(3)})
    with pytest.raises(ValueError, match="no numbers"):
        fv.from_jax(lambda p: 0.0, {})
    with pytest.raises(TypeError, match="logdensity must be a function"):
        fv.from_jax(3, np.zeros(3))


def test_a_missing_jax_names_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match=r'pip install "fastvi\[jax\]"'), warnings.catch_warnings():
        fv.from_jax(lambda z: 0.0, np.zeros(3))

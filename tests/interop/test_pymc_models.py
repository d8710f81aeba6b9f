"""Models of PyMC beside the same log joint in fastvi; skipped where PyMC is missing."""

import sys
import threading
import warnings

import numpy as np
import pytest

import fastvi as fv
from helpers.doors import needed, run_readme
from reference.eight_schools import SIGMA, Y, check_same

SCHOOLS = list("ABCDEFGH")

# PyMC's, nutpie's and ArviZ's: of what is to come, of what they compile.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pymc():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed("nutpie")
        return needed("pymc")


@pytest.fixture(scope="module")
def schools(pymc):
    five = np.float64(5.0)  # of a Python number PyMC makes constants of single precision
    with pymc.Model(coords={"school": SCHOOLS}) as model:
        mu = pymc.Normal("mu", 0, five)
        t = pymc.Normal("t", 0, 1, dims="school")
        tau = pymc.HalfCauchy("tau", five)
        theta = pymc.Deterministic("theta", mu + tau * t, dims="school")
        pymc.Normal("y", theta, SIGMA, observed=Y, dims="school")
    return model


@pytest.fixture(scope="module")
def fit(schools):
    return check_same(fv.from_pymc(schools), 1e-8)


def test_parameters_have_their_names(fit):
    z, named = fit.sample(7, 0), fit.sample(7, 0, named=True)
    assert list(named) == ["mu", "t", "tau", "theta"]
    assert np.array_equal(named["mu"], z[:, 0])
    assert np.array_equal(named["t"], z[:, 1:9])
    assert np.allclose(named["tau"], np.exp(z[:, 9]), rtol=1e-13)
    assert np.allclose(named["theta"], z[:, :1] + np.exp(z[:, 9:]) * z[:, 1:9], rtol=1e-13)
    summary = fit.summary()
    assert "t[7]" in summary
    assert "tau_log__" in summary
    assert fv.check_gradient(fit.model)
    assert fit.elbo.note == ""


def test_pymc_and_arviz_work_on_a_fit(pymc, schools, fit):
    arviz = needed("arviz")
    data = fit.to_arviz(200, 0)
    assert data.posterior["theta"].dims == ("chain", "draw", "school")
    assert data.posterior["school"].values.tolist() == SCHOOLS
    pymc.compute_log_likelihood(data, model=schools, progressbar=False)
    theta = fit.sample(200, 0, named=True)["theta"]
    expected = -0.5 * ((Y - theta) / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
    assert np.allclose(data.log_likelihood["y"].values[0], expected, rtol=1e-6)
    assert -40.0 < arviz.loo(data).elpd_loo < -25.0
    predicted = pymc.sample_posterior_predictive(data, model=schools, random_seed=0, progressbar=False)
    assert predicted.posterior_predictive["y"].shape == (1, 200, 8)
    assert len(arviz.summary(data, kind="stats")) == 18


def test_jax_gives_the_same(schools, fit):
    needed("jax")
    other = check_same(fv.from_pymc(schools, "jax"), 1e-8)
    assert other.elbo.value == pytest.approx(fit.elbo.value, abs=1e-9)
    assert other.model._labels == fit.model._labels
    one, same = other.to_xarray(5, 0), fit.to_xarray(5, 0)
    for name in same:
        assert np.allclose(one[name], same[name], rtol=1e-9)
        assert one[name].dims == same[name].dims


def test_shapes_and_dimensions_are_those_of_the_model(pymc):
    x = np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])
    with pymc.Model(coords={"row": ["a", "b"]}) as model:
        model.add_coord("column", length=3)
        data = pymc.Data("x", x)
        b = pymc.Normal("b", 0.0, 1.0, dims=("row", "column"))
        pymc.Normal("y", data @ b, 1.0, observed=np.ones((3, 3)))
        pymc.Deterministic("product", data @ b)
    bridge = fv.from_pymc(model)
    z = np.linspace(-1.0, 1.0, 6)
    residuals = 1.0 - x @ z.reshape(2, 3)
    expected = -0.5 * z @ z - 0.5 * (residuals**2).sum() - 7.5 * np.log(2 * np.pi)
    assert bridge.log_density(z) == pytest.approx(expected, abs=1e-12)
    pymc.set_data({"x": 2 * x}, model=model)  # data count as they are at the call
    assert bridge.log_density(z) == pytest.approx(expected, abs=1e-12)
    found = fv.fit(bridge, "diag").to_xarray(9, 0)
    assert found["b"].dims == ("chain", "draw", "row", "column")
    assert found["row"].values.tolist() == ["a", "b"]
    assert found["column"].values.tolist() == [0, 1, 2]
    assert np.allclose(found["product"], x @ found["b"].values)


def test_points_that_pymc_rejects_have_no_density(pymc):
    from pytensor.raise_op import Assert

    with pymc.Model() as model:
        a = pymc.Normal("a", 1.0, 0.1, shape=3)
        checked = Assert("a is high")(a, pymc.math.max(a) < 5.0)
        # A negative deviation has no density. Whatever has none in an Assert raises an exception.
        pymc.Normal("y", 0.0, checked[0] + 1.0, observed=0.0)
    bridge = fv.from_pymc(model)
    values = bridge.log_density([[-1.5, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 5.5]])
    assert values[0] == values[2] == -np.inf
    assert values[1] == pytest.approx(-np.log(2) - 2 * np.log(2 * np.pi) + 3 * np.log(10), abs=1e-7)
    high = fv.elbo(bridge, fv.Gaussian([6.0] * 3, 1e-4 * np.eye(3)))
    assert high.value == -np.inf
    assert "PyMC raises an exception there" in high.note
    fit = fv.fit(bridge, "diag", start=[4.9] * 3)
    assert fit.converged
    assert np.allclose(fit.q.mean, 1.0, atol=0.02)


def test_threads_do_not_disturb_each_other(fit):
    found = []
    team = [threading.Thread(target=lambda: found.append(fv.fit(fit.model, "diag"))) for _ in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert [one.elbo.value for one in found] == [fit.elbo.value] * 4


def test_the_example_of_the_readme_runs(pymc):
    run_readme("fv.from_pymc(", fv=fv, y=Y, sigma=SIGMA)


def test_what_cannot_work_is_refused(pymc, schools):
    with pymc.Model() as discrete:
        p = pymc.Beta("p", 1, 1)
        k = pymc.Binomial("k", 5, p)
        pymc.Normal("y", k, 1, observed=2.0)
    with pytest.raises(ValueError, match="has discrete free variables: k"):
        fv.from_pymc(discrete)
    with pymc.Model() as none:
        pymc.Normal("y", 0, 1, observed=2.0)
    with pytest.raises(ValueError, match="has no free variables"):
        fv.from_pymc(none)
    with pymc.Model() as minibatch:
        part = pymc.Minibatch(np.arange(100.0), batch_size=10)
        mu = pymc.Normal("mu")
        pymc.Normal("y", mu, 1, observed=part, total_size=100)
    with pytest.raises(ValueError, match="has random numbers in it, as that of a Minibatch"):
        fv.from_pymc(minibatch)
    with pytest.raises(TypeError, match=r"must be a pymc\.Model, not float"):
        fv.from_pymc(3.0)
    with pytest.raises(ValueError, match="backend must be"):
        fv.from_pymc(schools, "c")


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymc", None)
    with pytest.raises(ImportError, match=r'pip install "fastvi\[pymc\]"'):
        fv.from_pymc(None)

"""Fits as xarray and ArviZ have them; what needs ArviZ is skipped where it is missing."""

import math
import sys
import warnings

import numpy as np
import pytest

import fastvi as fv
from helpers.doors import needed, run_readme
from reference.eight_schools import SIGMA, Y

SHAPES = {"mu": "real", "tau": "positive", "theta": (8,), "w": ("simplex", 3)}


def log_joint(p, y, sigma):
    d = fv.densities
    prior = d.normal(p.mu, 0.0, 5.0) + d.half_cauchy(p.tau, 5.0) + d.normal(p.theta, 0.0, 1.0)
    for i in range(3):
        prior += (i + 1) * math.log(p.w[i])
    return prior + d.normal(y, p.mu + p.tau * p.theta, sigma)


@pytest.fixture(scope="module")
def fit():
    return fv.fit(fv.Model(log_joint, SHAPES, data=(Y, SIGMA)))


@pytest.fixture
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is to come
        yield needed("arviz")


@pytest.fixture
def xarray():
    return pytest.importorskip("xarray")


def test_the_posterior_has_the_draws_by_their_names(fit, xarray):
    data, named = fit.to_xarray(7, 0), fit.sample(7, 0, named=True)
    assert isinstance(data, xarray.Dataset)
    assert list(data.data_vars) == list(named)
    for name, values in named.items():
        assert np.array_equal(data[name].values, values[None])
    assert data["theta"].dims == ("chain", "draw", "theta_dim_0")
    assert data["theta_dim_0"].values.tolist() == list(range(8))
    assert data["tau"].dims == ("chain", "draw")
    assert data.attrs["elbo"] == fit.elbo.value
    assert data.attrs["elbo_error"] == fit.elbo.error
    assert data.attrs["psis_k"] == fit.psis_k
    assert data.attrs["inference_library_version"] == fv.__version__


def test_dimensions_and_labels_have_their_names(fit, xarray):
    schools = list("ABCDEFGH")
    data = fit.to_xarray(3, 0, dims={"theta": ["school"]}, coords={"school": schools})
    assert data["theta"].sel(school="C").values.tolist() == [fit.sample(3, 0)[:, 4].tolist()]
    for dims, coords, words in (
        ({"eta": ["school"]}, None, "dims has 'eta', but the parameters are mu, tau, theta, w"),
        ({"theta": ["a", "b"]}, None, r"dims\['theta'\] has 2 names, but theta has the shape \(8,\)"),
        (None, {"school": schools}, "coords has 'school', but the dimensions are chain"),
        (None, {"theta_dim_0": [1, 2]}, r"coords\['theta_dim_0'\] must be 8 labels"),
        ({"theta": ["mu"]}, None, "mu is the name of a parameter and of a dimension"),
    ):
        with pytest.raises(ValueError, match=words):
            fit.to_xarray(3, dims=dims, coords=coords)
    with pytest.raises(TypeError, match="dims must be a dict"):
        fit.to_xarray(3, dims=["school"])
    with pytest.raises(ValueError, match="draws must be at least 1"):
        fit.to_xarray(0)


def plain(z):
    return -0.5 * (z**2).sum(axis=1)


def test_other_models_have_their_coordinates(xarray):
    for model in (
        fv.Model(lambda z: -z[0] - 0.5 * z[1] ** 2, 2, support=["positive", "real"]),
        fv.from_block(lambda z: (plain(z), -z), plain, 2),
    ):
        fit = fv.fit(model)
        data = fit.to_xarray(5, 0)
        assert np.array_equal(data["z"].values[0], fit.sample(5, 0))
        assert data["z"].dims == ("chain", "draw", "z_dim_0")


def groups(arviz, data):
    """The Datasets of InferenceData or of a DataTree."""
    if hasattr(data, "children"):
        return {name: child.to_dataset() for name, child in data.children.items()}
    return {name: data[name] for name in data.groups()}


def test_groups_say_what_the_fit_found(arviz, fit):
    found = groups(arviz, fit.to_arviz(500, 0))
    assert set(found) == {"posterior", "sample_stats", "unconstrained_posterior", "variational_parameters"}
    z = fit.sample(500, 0)
    lp, log_q = (found["sample_stats"][name].values[0] for name in ("lp", "log_q"))
    assert np.array_equal(lp, fit.model.log_density(z))
    assert np.allclose(log_q, fit.q.logpdf(z), rtol=1e-9)
    gap = (lp - log_q).mean() - fit.elbo.value
    assert abs(gap) < 5.0 * (lp - log_q).std() / math.sqrt(500)
    latent = found["unconstrained_posterior"]["z"]
    assert latent["coordinate"].values.tolist() == [
        "mu",
        "tau",
        *[f"theta[{i}]" for i in range(8)],
        "w[0]",
        "w[1]",
    ]
    assert np.allclose(np.exp(latent.sel(coordinate="tau").values[0]), z[:, 1], rtol=1e-12)
    q = found["variational_parameters"]
    assert np.array_equal(q["mean"].values, fit.q.gaussian.mean)
    assert np.array_equal(q["cov"].values, fit.q.gaussian.cov)
    other = groups(arviz, fv.fit(fit.model, "diag").to_arviz(9, 0))["variational_parameters"]
    assert list(other.data_vars) == ["mean", "sd"]


def test_a_truncated_fit_has_its_parameters(arviz):
    fit = fv.fit(fv.Model(lambda z: -z[0] - 0.5 * (2.0 - z[0]) ** 2, 1, support="positive"), "truncated")
    found = groups(arviz, fit.to_arviz(9, 0))
    assert float(found["variational_parameters"]["mu"]) == fit.q.mu
    assert np.allclose(np.exp(found["unconstrained_posterior"]["z"].values[0]), fit.sample(9, 0))


def test_summaries_plots_and_files_work(arviz, fit, tmp_path):
    matplotlib = needed("matplotlib")
    matplotlib.use("Agg")
    data = fit.to_arviz(2000, 0, dims={"theta": ["school"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one chain
        table = arviz.summary(data, kind="stats")
        assert len(table) == 13
        assert float(table.loc["tau", "mean"]) == pytest.approx(fit["tau"].mean, rel=0.2)
        arviz.plot_forest(data)
        path = tmp_path / "fit.nc"
        data.to_netcdf(str(path))
        back = arviz.from_netcdf(str(path))
    assert back["posterior"].attrs["elbo"] == fit.elbo.value
    for name, group in groups(arviz, data).items():
        assert groups(arviz, back)[name].equals(group), name


@pytest.mark.filterwarnings("ignore")  # of one chain
def test_the_example_of_the_readme_runs(arviz, fit, tmp_path, monkeypatch):
    needed("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    run_readme("f.to_arviz(", f=fit)
    assert (tmp_path / "schools.nc").exists()


def test_since_version_1_it_is_a_data_tree(arviz, xarray, fit, monkeypatch):
    """Of ArviZ 1.0, which needs a newer Python, this stub has that one name only."""
    monkeypatch.setattr(arviz, "InferenceData", xarray.DataTree)
    data = fit.to_arviz(9, 0)
    assert isinstance(data, xarray.DataTree)
    assert data.attrs["elbo"] == fit.elbo.value
    assert np.array_equal(data["posterior"]["tau"].values[0], fit.sample(9, 0)[:, 1])


@pytest.mark.parametrize(("name", "call"), [("arviz", "to_arviz"), ("xarray", "to_xarray")])
def test_a_missing_package_names_the_command(fit, monkeypatch, name, call):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "fastvi\[arviz\]"'):
        getattr(fit, call)()


def test_a_batch_has_a_dimension_for_its_data_sets(xarray):
    def counted(p, x):
        return -0.5 * p.mu**2 - p.tau + x

    model = fv.Model(counted, {"mu": "real", "tau": "positive"}, data=(0.0,))
    batch = fv.fit_batch(model, (np.array([0.0, np.nan, 1.0]),))
    data = batch.to_xarray(labels=["a", "b", "c"])
    assert isinstance(data, xarray.Dataset)
    assert dict(data.sizes) == {"data_set": 3, "coordinate": 2, "other_coordinate": 2}
    assert data["coordinate"].values.tolist() == ["mu", "tau"]
    for name in ("mean", "cov", "elbo", "error", "gradient_norm", "evaluations", "converged"):
        assert np.array_equal(data[name].values, getattr(batch, name), equal_nan=True)
    assert data["status"].values.tolist() == [batch.status(n) for n in range(3)]
    assert float(data["elbo"].sel(data_set="c")) == batch.elbo[2]
    with pytest.raises(ValueError, match=r"labels must be 3, one for each data set, not of shape \(2,\)"):
        batch.to_xarray(["a", "b"])

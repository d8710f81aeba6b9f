"""Models of Stan beside the same log joint in fastvi; skipped where stanli is missing."""

import _ctypes
import sys
import threading

import numpy as np
import pytest

import fastvi as fv
from fastvi.interop import stan_models
from helpers.doors import needed, run_readme
from reference.eight_schools import SIGMA, Y, check_same, native

SCHOOLS = """
data { int n; vector[n] y; vector[n] sigma; }
parameters { real mu; vector[n] t; real<lower=0> tau; }
transformed parameters { vector[n] theta = mu + tau * t; }
model { %s }
generated quantities {
  array[n] real log_lik;
  real noise = normal_rng(0, 1);
  for (i in 1:n) log_lik[i] = normal_lpdf(y[i] | theta[i], sigma[i]);
}
"""
SAMPLING = "mu ~ normal(0, 5); tau ~ cauchy(0, 5); t ~ std_normal(); y ~ normal(theta, sigma);"
TARGET = """ // no constant is dropped here, ~ in a comment aside
  target += normal_lpdf(mu | 0, 5) + cauchy_lpdf(tau | 0, 5) + log(2);
  target += std_normal_lpdf(t) + normal_lpdf(y | theta, sigma);
"""
DATA = {"n": np.int64(8), "y": Y, "sigma": SIGMA.tolist()}


@pytest.fixture
def stanli():
    return needed("stanli")


def library(stanli):
    (path,) = (stan_models.Path(stanli.__file__).parent / "_bin").glob("libstanli.*")
    return path


def test_all_constants_are_those_of_the_native_model(stanli):
    fit = check_same(fv.from_stan(SCHOOLS % TARGET, data=DATA))
    assert fit.elbo.note == ""
    z, named = fit.sample(7, 0), fit.sample(7, 0, named=True)
    assert list(named) == ["mu", "t", "tau", "theta", "log_lik", "noise"]
    theta = z[:, :1] + np.exp(z[:, 9:]) * z[:, 1:9]
    assert np.array_equal(named["mu"], z[:, 0])
    assert np.allclose(named["theta"], theta, rtol=1e-13)
    residuals = (Y - theta) / SIGMA
    assert np.allclose(
        named["log_lik"], -0.5 * residuals**2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi), rtol=1e-12
    )
    assert "z of t[8]" in fit.summary()
    data = fit.to_xarray(7, 0, dims={"theta": ["school"]})
    assert list(data.data_vars) == list(named)
    assert data["theta"].dims == ("chain", "draw", "school")
    assert np.array_equal(data["log_lik"].values[0], named["log_lik"])
    assert data.attrs["elbo"] == fit.elbo.value
    assert fv.check_gradient(fit.model)


def test_dropped_constants_are_said(stanli):
    model, same = fv.from_stan(SCHOOLS % SAMPLING, data=DATA), native()
    points = np.random.default_rng(0).standard_normal((33, 10))
    gap = model.log_density(points) - same.log_density(points)
    assert np.allclose(gap, gap[0], rtol=0, atol=1e-10)
    assert abs(gap[0]) > 1.0
    fit = fv.fit(model, "diag")
    assert fit.elbo.value == pytest.approx(fv.fit(same, "diag").elbo.value + gap[0], abs=1e-9)
    for said in (fit.elbo.note, fv.elbo(model, fit.q).note, fit.summary(), repr(fit), repr(fit.elbo)):
        assert "up to a constant" in said
    one = fv.from_stan("parameters { real x; } model { x ~ std_normal(); }")
    assert "up to a constant" in fit.to_xarray(5).attrs["elbo_note"]
    assert "up to a constant" in fv.log_evidence(one).note
    assert "up to a constant" in fv.fit(one).elbo.note
    lupdf = fv.from_stan("parameters { real x; } model { target += std_normal_lupdf(x); }")
    assert "up to a constant" in fv.fit(lupdf).elbo.note


def test_random_numbers_are_those_of_the_draws(stanli):
    fit = fv.fit(fv.from_stan(SCHOOLS % TARGET, data=DATA), "diag")
    noise = [fit.sample(2000, seed, named=True)["noise"] for seed in (0, 0, 1)]
    assert np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    assert abs(noise[0].mean()) < 0.1
    assert abs(noise[0].std() - 1.0) < 0.1


def test_rng_decides_the_transformed_data(stanli):
    """The density of N(y, 1) at 0 tells the y that Stan has drawn."""
    code = """
    transformed data { real y = normal_rng(0, 1); }
    parameters { real x; }
    model { target += normal_lpdf(x | y, 1); }
    """

    def density(**how):
        return fv.from_stan(code, **how).log_density([0.0])

    generator = np.random.default_rng(5)
    assert density() == density(rng=0)
    assert density(rng=5) == density(rng=np.int64(5)) == density(rng=generator)
    others = [density(rng=generator), density(rng=0), density(rng=None), density(rng=None)]
    assert len({density(rng=5), *others}) == 5


def test_shapes_are_those_of_the_program(stanli):
    code = """
    parameters { matrix[2, 3] a; simplex[3] w; array[2] vector[2] b; cov_matrix[2] s; }
    model {
      target += std_normal_lpdf(to_vector(a)) + dirichlet_lpdf(w | rep_vector(2, 3));
      for (i in 1:2) target += normal_lpdf(b[i] | i, 0.01);
      target += wishart_lpdf(s | 5, identity_matrix(2));
    }
    generated quantities { real at = a[2, 1]; }
    """
    named = fv.fit(fv.from_stan(code)).sample(50, 0, named=True)
    assert {name: values.shape[1:] for name, values in named.items()} == {
        "a": (2, 3),
        "w": (3,),
        "b": (2, 2),
        "s": (2, 2),
        "at": (),
    }
    assert np.array_equal(named["a"][:, 1, 0], named["at"])
    assert np.allclose(named["w"].sum(axis=1), 1.0)
    assert np.allclose(named["b"].mean(axis=0), [[1, 1], [2, 2]], atol=0.01)
    assert np.array_equal(named["s"], named["s"].transpose(0, 2, 1))


def test_a_rejected_point_has_no_density(stanli):
    code = """
    parameters { real x; }
    model { if (x > 5) reject("x is high: ", x); target += normal_lpdf(x | 1, 0.1); }
    """
    model = fv.from_stan(code)
    assert model.log_density([[5.5], [1.0]]).tolist() == [-np.inf, pytest.approx(1.383646559789373)]
    fit = fv.fit(model, start=[4.9])
    assert fit.converged
    assert fit.elbo.value == pytest.approx(0.0, abs=1e-9)
    wide = fv.elbo(model, fv.Gaussian(4.0, 1.0))
    assert wide.value == -np.inf
    assert "Stan rejects it (" in wide.note
    assert "x is high" in wide.note
    nowhere = fv.from_stan('parameters { real x; } model { reject("never"); }')
    with pytest.raises(ValueError, match=r"cannot start: log_joint is -inf at z = .*never"):
        fv.fit(nowhere)


@pytest.mark.parametrize(
    ("code", "data", "words"),
    [
        ("parameters { real x } model { }", None, "the Stan program does not compile: "),
        ("parameters { real x; } model { x ~ normal(y, 1); }", None, "does not compile: "),
        ("data { int n; } parameters { real x; } model { }", None, "Stan cannot make the model: .*n"),
        ("data { int<lower=1> n; } parameters { real x; } model { }", {"n": 0}, "Stan cannot make the model"),
        (
            "data { vector[3] v; } parameters { real x; } model { }",
            {"v": [1.0]},
            "Stan cannot make the model",
        ),
        ("model { }", None, "the Stan program has no parameters"),
    ],
)
def test_errors_of_stan_are_said(stanli, code, data, words):
    with pytest.raises(ValueError, match=words):
        fv.from_stan(code, data=data)


def test_files_are_read(stanli, tmp_path):
    program, data = tmp_path / "model.stan", tmp_path / "data.json"
    (tmp_path / "functions.stan").write_text("real density(real x) { return normal_lpdf(x | 2, 1); }")
    program.write_text(
        "functions {\n#include functions.stan\n}\n"
        "data { int n; } parameters { vector[n] x; } model { for (i in 1:n) target += density(x[i]); }"
    )
    data.write_text('{"n": 2}')
    for given in (data, str(data), '{"n": 2}', {"n": 2}, {"n": np.int32(2)}):
        fit = fv.fit(fv.from_stan(file=program, data=given))
        assert np.allclose(fit.q.mean, 2.0)
    assert "up to a constant" in fit.elbo.note  # what is included may drop some


def test_bad_arguments_are_named(stanli):
    with pytest.raises(TypeError, match="give the code"):
        fv.from_stan()
    with pytest.raises(TypeError, match="code must be a string"):
        fv.from_stan(3)
    code = "data { int n; } parameters { real x; } model { }"
    with pytest.raises(TypeError, match="data must be a dict"):
        fv.from_stan(code, data=[1])
    with pytest.raises(TypeError, match=r"data\['n'\] must have numbers, not complex"):
        fv.from_stan(code, data={"n": 1j})
    with pytest.raises(TypeError, match=r"data\['n'\] has masked entries"):
        fv.from_stan(code, data={"n": np.ma.array([1.0, 2.0], mask=[0, 1])})
    with pytest.raises(ValueError, match=r"rng must be .* not -1"):
        fv.from_stan(code, data={"n": 1}, rng=-1)
    with pytest.raises(TypeError, match=r"rng must be .* not 1\.5"):
        fv.from_bridgestan(library(stanli), rng=1.5)
    for call in (fv.from_stan, fv.from_bridgestan):
        with pytest.raises(TypeError, match="seed"):
            call(code, seed=1)


def test_a_library_is_called_as_it_is(stanli, monkeypatch):
    program = {"build_id": stanli.build_id(), "mir": stanli.stan_to_mir(SCHOOLS % TARGET), "name": "schools"}
    data = {**DATA, "__stanli": program}
    model = fv.from_bridgestan(library(stanli), data)
    fit = fv.fit(model, "diag")
    assert fit.elbo.value == pytest.approx(fv.fit(native(), "diag").elbo.value, abs=1e-9)
    assert "up to a constant" in fit.elbo.note  # the library does not say what it drops
    # A library without threads is called with Python's lock held.
    monkeypatch.setattr(stan_models._StanModel, "threads", False)
    locked = fv.fit(fv.from_bridgestan(library(stanli), data), "diag")
    assert locked.elbo.value == fit.elbo.value
    assert np.array_equal(locked.q.mean, fit.q.mean)
    with pytest.raises(ValueError, match="cannot make the model"):
        fv.from_bridgestan(library(stanli), DATA)


def test_what_is_no_library_of_bridgestan(tmp_path):
    with pytest.raises(ValueError, match="no function bs_model_construct"):
        fv.from_bridgestan(_ctypes.__file__)
    with pytest.raises(OSError, match="no_such"):
        fv.from_bridgestan(tmp_path / "no_such.so")


def test_threads_do_not_disturb_each_other(stanli):
    model = fv.from_stan(SCHOOLS % TARGET, data=DATA)
    alone, found = fv.fit(model, "diag"), []
    team = [threading.Thread(target=lambda: found.append(fv.fit(model, "diag"))) for _ in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert [fit.elbo.value for fit in found] == [alone.elbo.value] * 4


def test_the_example_of_the_readme_runs(stanli):
    run_readme("fv.from_stan(", fv=fv)


def test_a_missing_stanli_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "stanli", None)
    with pytest.raises(ImportError, match=r'pip install "fastvi\[stan\]"'):
        fv.from_stan("model { }")

"""Twelve posteriors of posteriordb from their Stan programs, beside NumPyro and pymc-extras.

``python -m bench.posteriors FOLDER`` with a clone of posteriordb (M. Magnusson et al., 2022), from which
programs, data and reference draws are read; then parts of names of posteriors, if not all are wanted. Needs
``pip install "fastvi[jax,pymc,stan]" pymc-extras``.

Each has q of the family "full": fastvi for the Stan program; NumPyro's AutoMultivariateNormal with 10,000
steps of Adam under one jit, for the log density that JAX compiles of the same model in PyMC, written here;
and pathfinder for that model. A time is that of the last of three calls, the error of a mean is in deviations
of the reference draws, and a ratio is that of the deviations: of both the worst of all parameters.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import time
import zipfile
from pathlib import Path

import numpy as np

import fastvi as fv

from .peers import circumstances, in_words
from .svi import svi_of

DRAWS = 20_000


# The models in PyMC, with the names that the Stan programs have.


def _schools(pm, d):
    effects = pm.Normal("theta_trans", 0, 1, shape=8)
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
    theta = pm.Deterministic("theta", mu + tau * effects)
    pm.Normal("y", theta, d["sigma"], observed=d["y"])


def _schools_centered(pm, d):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
    theta = pm.Normal("theta", mu, tau, shape=8)
    pm.Normal("y", theta, d["sigma"], observed=d["y"])


def _autoregression(pm, d):
    lags, y = d["K"], d["y"]
    alpha, beta = pm.Normal("alpha", 0, 10), pm.Normal("beta", 0, 10, shape=lags)
    before = np.column_stack([y[lags - k : len(y) - k] for k in range(1, lags + 1)])
    pm.Normal("y", alpha + before @ beta, pm.HalfCauchy("sigma", 2.5), observed=y[lags:])


def _blr(pm, d):
    beta = pm.Normal("beta", 0, 10, shape=d["D"])
    pm.Normal("y", d["X"] @ beta, pm.HalfNormal("sigma", 10), observed=d["y"])


def _covariance(pm, d):
    rho, alpha = pm.Gamma("rho", 25, 4), pm.HalfNormal("alpha", 2)
    squares = (d["x"][:, None] - d["x"]) ** 2
    return alpha**2 * pm.math.exp(-0.5 * squares / rho**2)


def _gp_poisson(pm, d):
    import pytensor.tensor as pt

    factor = pt.linalg.cholesky(_covariance(pm, d) + 1e-10 * np.eye(d["N"]))
    f = pm.Deterministic("f", factor @ pm.Normal("f_tilde", 0, 1, shape=d["N"]))
    pm.Poisson("k", pm.math.exp(f), observed=d["k"])


def _gp(pm, d):
    cov = _covariance(pm, d) + pm.HalfNormal("sigma", 1) * np.eye(d["N"])
    pm.MvNormal("y", np.zeros(d["N"]), cov=cov, observed=d["y"])


def _regression(pm, columns, y, sigma=None):
    x = np.column_stack([np.ones(len(y)), *columns])
    beta = pm.Flat("beta", shape=x.shape[1])
    pm.Normal("y", x @ beta, pm.HalfFlat("sigma") if sigma is None else sigma, observed=y)


def _kidscore(pm, d):
    columns = d["mom_hs"], d["mom_iq"], d["mom_hs"] * d["mom_iq"]
    _regression(pm, columns, d["kid_score"], pm.HalfCauchy("sigma", 2.5))


def _kilpisjarvi(pm, d):
    alpha, beta = (
        pm.Normal("alpha", d["pmualpha"], d["psalpha"]),
        pm.Normal("beta", d["pmubeta"], d["psbeta"]),
    )
    pm.Normal("y", alpha + beta * d["x"], pm.HalfFlat("sigma"), observed=d["y"])


def _earnings(pm, d):
    _regression(pm, (d["height"], d["male"], d["height"] * d["male"]), np.log(d["earn"]))


def _mesquite(pm, d):
    area, height = d["diam1"] * d["diam2"], d["canopy_height"]
    logs = area * height, area, d["diam1"] / d["diam2"], d["total_height"]
    _regression(pm, (*map(np.log, logs), d["group"]), np.log(d["weight"]))


def _mixture(pm, d):
    ordered = pm.distributions.transforms.ordered
    mu = pm.Normal("mu", 0, 2, shape=2, transform=ordered, initval=[-1.0, 1.0])
    sigma, theta = pm.HalfNormal("sigma", 2, shape=2), pm.Beta("theta", 5, 5)
    parts = [pm.Normal.dist(mu[k], sigma[k]) for k in range(2)]
    pm.Mixture("y", w=pm.math.stack([theta, 1 - theta]), comp_dists=parts, observed=d["y"])


def _nes(pm, d):
    ages = [(d["age_discrete"] == k).astype(float) for k in (2, 3, 4)]
    columns = d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"]
    _regression(pm, columns, d["partyid7"])


POSTERIORS = {
    "eight_schools-eight_schools_noncentered": _schools,
    "eight_schools-eight_schools_centered": _schools_centered,
    "arK-arK": _autoregression,
    "sblrc-blr": _blr,
    "gp_pois_regr-gp_pois_regr": _gp_poisson,
    "gp_pois_regr-gp_regr": _gp,
    "kidiq-kidscore_interaction": _kidscore,
    "kilpisjarvi_mod-kilpisjarvi": _kilpisjarvi,
    "earnings-logearn_interaction": _earnings,
    "mesquite-logmesquite_logvash": _mesquite,
    "low_dim_gauss_mix-low_dim_gauss_mix": _mixture,
    "nes2000-nes": _nes,
}


def read(folder, name):
    """(Stan program, data, reference draws by the names of the parameters)."""
    base = folder / "posterior_database"

    def of_json(path):
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
                return json.loads(archive.read(archive.namelist()[0]))
        return json.loads(path.read_text(encoding="utf-8"))

    about = of_json(base / "posteriors" / f"{name}.json")
    data = of_json(base / "data" / "data" / f"{about['data_name']}.json.zip")
    place = base / "reference_posteriors" / "draws" / "draws"
    chains = of_json(place / f"{about['reference_posterior_name']}.json.zip")
    reference = {key: np.concatenate([chain[key] for chain in chains]) for key in chains[0]}
    return base / "models" / "stan" / f"{about['model_name']}.stan", data, reference


def flat(draws):
    """Draws by the names of scalars: beta[1] for the first entry."""
    found = {}
    for name, values in draws.items():
        values = np.asarray(values)
        for index in np.ndindex(values.shape[1:]):
            label = ",".join(str(i + 1) for i in index)
            found[name + (f"[{label}]" if label else "")] = values[(slice(None), *index)]
    return found


def errors(draws, reference):
    """(the worst error of a mean, the ratio of deviations farthest from 1)."""
    found = flat(draws)
    means, ratios = [], []
    for name, values in reference.items():
        means.append(abs(found[name].mean() - values.mean()) / values.std())
        ratios.append(found[name].std() / values.std())
    return max(means), max(ratios, key=lambda ratio: abs(np.log(ratio)))


def timed(call, clock=time.perf_counter):
    """(what the last of three calls returns, its seconds)."""
    for _ in range(3):
        start = clock()
        found = call()
        seconds = clock() - start
    return found, seconds


def ours(program, data):
    model = fv.from_stan(file=program, data=data)
    fit, seconds = timed(lambda: fv.fit(model, "full"))
    return seconds, fit.sample(DRAWS, 1, named=True), fit.diagnose().verdict


def numpyro(model):
    run, named = svi_of(model, "AutoMultivariateNormal")
    (mean, factor), seconds = timed(run)
    z = mean + np.random.default_rng(1).standard_normal((DRAWS, len(mean))) @ np.asarray(factor).T
    return seconds, named(z), ""


def pathfinder(model):
    from pymc_extras.inference import fit_pathfinder

    quiet = {"progressbar": False, "display_summary": False, "concurrent": None}
    found, seconds = timed(lambda: fit_pathfinder(model, random_seed=1, **quiet).posterior)
    return seconds, {name: found[name].values.reshape(-1, *found[name].shape[2:]) for name in found}, ""


def arrays(data):
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in data.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.posteriors", description=__doc__)
    parser.add_argument("folder", type=Path, help="a clone of posteriordb")
    parser.add_argument("part", nargs="*", help="part of the name of a posterior (default: all)")
    given = parser.parse_args()
    import pymc

    logging.disable(logging.WARNING)
    print("| posterior | fastvi | mean, sd | NumPyro | mean, sd | pathfinder | mean, sd | fastvi's verdict |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, fill in POSTERIORS.items():
        if given.part and not any(part in name for part in given.part):
            continue
        program, data, reference = read(given.folder, name)
        with pymc.Model() as model:
            fill(pymc, arrays(data))
        cells, verdict = [name.partition("-")[2]], ""
        for run, arguments in ((ours, (program, data)), (numpyro, (model,)), (pathfinder, (model,))):
            try:
                seconds, draws, said = run(*arguments)
            except Exception as error:  # the others go on
                cells += [type(error).__name__, ""]
            else:
                mean, ratio = errors(draws, reference)
                cells += [in_words(seconds), f"{mean:.2g}, {ratio:.2f}"]
                verdict = verdict or said
        print(f"| {' | '.join([*cells, verdict])} |", flush=True)
    print()
    print(circumstances())


if __name__ == "__main__":
    main()

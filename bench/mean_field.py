"""Eight regressions with q of the family "diag" and its linear response, beside DADVI and NumPyro.

``python -m bench.mean_field``, or with parts of names. The models are of the kinds that R. Giordano, M.
Ingram and T. Broderick took from Gelman and Hill's book (Black Box Variational Inference with a Deterministic
Objective, JMLR 25, 2024), written in PyMC, with data drawn here in the sizes of those in the book. Needs
``pip install "fastvi[jax,pymc]" pymc-extras``.

Each has a diagonal covariance: fastvi's, DADVI's, and NumPyro's with 10,000 steps of Adam under one jit. A
time is the CPU time of the last of three calls, on one thread. Errors are root mean squares of the logarithm
of a deviation over that of NUTS (nutpie, 4 chains of 5,000 draws), in unconstrained coordinates.
"""

from __future__ import annotations

import argparse
import functools
import logging
import time

import numpy as np

import fastvi as fv

from .peers import circumstances, in_words
from .posteriors import timed as timed_by
from .svi import svi_of

CHAINS, DRAWS = 4, 5000

timed = functools.partial(timed_by, clock=time.process_time)

#: The ratio of times to DADVI, and the share of the mean field's error, that are wanted.
FASTER, SHARE = 50, 1 / 3


def _sigmoid(u):
    return 1.0 / (1.0 + np.exp(-u))


def _linear(pm, x, y):
    beta = pm.Normal("beta", 0.0, 50.0, shape=x.shape[1])
    pm.Normal("y", x @ beta, pm.HalfCauchy("sigma", 2.5), observed=y)


def _earnings(pm, rng):
    """Logarithms of earnings on height in inches, not centred, and sex: 1,192 people."""
    male = (rng.random(1192) < 0.37).astype(float)
    height = rng.normal(64.5 + 5.5 * male, 2.6)
    x = np.column_stack([np.ones(1192), height, male, height * male])
    _linear(pm, x, rng.normal(7.8 + 0.02 * height + 0.4 * male, 0.88))


def _test_scores(pm, rng):
    """Scores of 434 children on their mothers' school and IQ, with the interaction."""
    school, iq = (rng.random(434) < 0.79).astype(float), rng.normal(100.0, 15.0, 434)
    x = np.column_stack([np.ones(434), school, iq, school * iq])
    _linear(pm, x, rng.normal(x @ [-11.0, 51.0, 1.1, -0.5], 18.0))


def _shrubs(pm, rng):
    """Logarithms of the weight of 46 shrubs on those of six measures that go together."""
    size = rng.normal(0.3, 0.4, (46, 1))
    x = np.column_stack([np.ones(46), size + rng.normal(0.0, 0.2, (46, 5)), rng.integers(0, 2, 46)])
    _linear(pm, x, rng.normal(x @ [4.8, 0.4, 1.1, 0.4, 0.4, -0.2, 0.6], 0.33))


def _wells(pm, rng):
    """Whether 3,020 households change their well: distance, arsenic, schooling, interactions."""
    distance, arsenic = rng.gamma(1.5, 0.32, 3020), 0.5 + rng.gamma(1.0, 1.1, 3020)
    school = rng.integers(0, 18, 3020) / 4.0
    x = np.column_stack([np.ones(3020), distance, arsenic, school, distance * arsenic, distance * school])
    y = rng.random(3020) < _sigmoid(x @ [-0.1, -0.9, 0.5, 0.05, -0.1, 0.3])
    beta = pm.Normal("beta", 0.0, 5.0, shape=6)
    pm.Bernoulli("y", logit_p=x @ beta, observed=y.astype(int))


def _radon(pm, rng):
    """Radon in 919 houses of 85 counties: intercepts that vary, their level in the soil, the floor."""
    county, floor = rng.integers(0, 85, 919), (rng.random(919) < 0.17).astype(float)
    soil = rng.normal(0.0, 0.4, 85)
    level = 1.5 + 0.7 * soil + rng.normal(0.0, 0.16, 85)
    y = rng.normal(level[county] - 0.67 * floor, 0.76)
    mu, slope, uranium = pm.Normal("mu", 0, 10), pm.Normal("slope", 0, 10), pm.Normal("uranium", 0, 10)
    tau, sigma = pm.HalfNormal("tau", 1.0), pm.HalfCauchy("sigma", 2.5)
    alpha = pm.Normal("alpha", mu + uranium * soil, tau, shape=85)
    pm.Normal("y", alpha[county] + slope * floor, sigma, observed=y)


def _pupils(pm, rng):
    """Marks of 1,200 pupils in 40 schools: intercepts and slopes that vary."""
    school, x = rng.integers(0, 40, 1200), rng.standard_normal(1200)
    level, slope = rng.normal(0.0, 0.5, 40), rng.normal(0.6, 0.2, 40)
    y = rng.normal(level[school] + slope[school] * x, 0.75)
    a, b = pm.Normal("a", 0, 5), pm.Normal("b", 0, 5)
    tau = pm.HalfNormal("tau", 1.0, shape=2)
    levels, slopes = pm.Normal("levels", a, tau[0], shape=40), pm.Normal("slopes", b, tau[1], shape=40)
    pm.Normal("y", levels[school] + slopes[school] * x, pm.HalfCauchy("sigma", 2.5), observed=y)


def _votes(pm, rng):
    """2,015 votes in 49 states: a logistic regression with intercepts that vary, sex and race."""
    state, x = rng.integers(0, 49, 2015), (rng.random((2015, 2)) < (0.5, 0.1)).astype(float)
    level = rng.normal(0.4, 0.45, 49)
    y = rng.random(2015) < _sigmoid(level[state] + x @ [-0.1, -1.7])
    mu, tau, beta = pm.Normal("mu", 0, 5), pm.HalfNormal("tau", 1.0), pm.Normal("beta", 0, 5, shape=2)
    alpha = pm.Normal("alpha", mu, tau, shape=49)
    pm.Bernoulli("y", logit_p=alpha[state] + x @ beta, observed=y.astype(int))


def _stops(pm, rng):
    """Counts of police stops of 3 groups in 75 precincts, with a factor of its own for each count."""
    precinct, group = np.repeat(np.arange(75), 3), np.tile(np.arange(3), 75)
    arrests = rng.gamma(1.5, 100.0, 225) + 5.0
    rate = rng.normal(0.0, 0.5, 75)[precinct] + np.array([0.0, 0.4, 0.5])[group] - 1.0
    y = rng.poisson(arrests * np.exp(rate + rng.normal(0.0, 0.25, 225)))
    mu, groups = pm.Normal("mu", 0, 5), pm.Normal("groups", 0, 1, shape=2)
    tau, extra = pm.HalfNormal("tau", 1.0), pm.HalfNormal("extra", 1.0)
    precincts = pm.Normal("precincts", 0.0, tau, shape=75)
    own = pm.Normal("own", 0.0, extra, shape=225)
    shift = pm.math.concatenate([np.zeros(1), groups])
    rates = mu + shift[group] + precincts[precinct] + own
    pm.Poisson("y", arrests * pm.math.exp(rates), observed=y)


REGRESSIONS = {
    "earnings": _earnings,
    "test scores": _test_scores,
    "shrubs": _shrubs,
    "wells, logistic": _wells,
    "radon, varying intercepts": _radon,
    "pupils, varying slopes": _pupils,
    "votes, logistic, varying intercepts": _votes,
    "police stops, Poisson, overdispersed": _stops,
}


def truth(model):
    """Deviations of the unconstrained coordinates, by NUTS."""
    import nutpie

    quiet = {"progress_bar": False, "store_unconstrained": True}
    compiled = nutpie.compile_pymc_model(model)
    found = nutpie.sample(compiled, draws=DRAWS, chains=CHAINS, seed=1, **quiet)
    draws = found.sample_stats["unconstrained_draw"].values
    return draws.reshape(CHAINS * DRAWS, -1).std(axis=0)


def ours(model):
    """(deviations, those by linear response, seconds of the fit and of both)."""
    compiled = fv.from_pymc(model)
    fit, seconds = timed(lambda: fv.fit(compiled, "diag"))
    response, more = timed(fit.linear_response)
    latent = fit.q.gaussian if isinstance(fit.q, fv.TransformedGaussian) else fit.q
    return np.sqrt(np.diag(latent.cov)), np.sqrt(np.diag(response.latent_cov)), seconds, seconds + more


def dadvi(model):
    """(deviations, seconds)."""
    from pymc_extras.inference import fit_dadvi

    with model:
        found, seconds = timed(lambda: fit_dadvi(progressbar=False, random_seed=1))
    return np.exp(np.split(found["optimizer_result"]["x"].values, 2)[1]), seconds


def numpyro(model):
    """(deviations, seconds)."""
    (_, sd), seconds = timed(svi_of(model, "AutoNormal")[0])
    return np.asarray(sd), seconds


def error(sd, exact):
    """Root mean square of log(sd / exact)."""
    return float(np.sqrt((np.log(sd / exact) ** 2).mean()))


def compare(make) -> list[str]:
    """The cells of one regression."""
    import pymc

    with pymc.Model() as model:
        make(pymc, np.random.default_rng(20261127))
    exact = truth(model)
    sd, response, of_fit, of_both = ours(model)
    theirs, of_dadvi = dadvi(model)
    svi, of_svi = numpyro(model)
    ratio, share = of_dadvi / of_both, error(response, exact) / error(sd, exact)
    return [
        str(len(exact)),
        in_words(of_fit),
        in_words(of_both),
        f"{error(sd, exact):.3f}",
        f"{error(response, exact):.3f}" + (" (missed)" if share > SHARE else ""),
        f"{in_words(of_dadvi)}, {ratio:.0f} x" + (" (missed)" if ratio < FASTER else ""),
        f"{error(theirs, exact):.3f}",
        f"{in_words(of_svi)}, {of_svi / of_both:.0f} x",
        f"{error(svi, exact):.3f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.mean_field", description=__doc__)
    parser.add_argument("part", nargs="*", help="part of the name of a regression (default: all)")
    parts = parser.parse_args().part
    logging.disable(logging.WARNING)
    fv.set_num_threads(1)
    heads = "regression", "d", "fit", "and response", "error of sd", "by response"
    heads += "DADVI", "error of sd", "NumPyro SVI", "error of sd"
    print(f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", sep="\n")
    for name, make in REGRESSIONS.items():
        if not parts or any(part in name for part in parts):
            print(f"| {' | '.join([name, *compare(make)])} |", flush=True)
    print()
    print(circumstances())


if __name__ == "__main__":
    main()

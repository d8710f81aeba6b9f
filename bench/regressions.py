"""Two regressions from PyMC, with q of the family "full", beside what PyMC and pymc-extras have for them.

An error is the larger one of two, both root mean squares over the latent coordinates, beside NUTS: of the
means in units of its deviations, and of the logarithms of the deviations.
"""

from __future__ import annotations

import functools
import logging

import numpy as np

import fastvi as fv

from .contenders import Comparison, Peer

STEPS = 10_000

#: Of NUTS: enough that its own error is below 0.01.
CHAINS, DRAWS = 4, 5000


@functools.cache
def logistic():
    """500 rows, an intercept and 10 predictors."""
    import pymc

    rng = np.random.default_rng(20260401)
    x = np.column_stack([np.ones(500), rng.standard_normal((500, 10))])
    y = rng.random(500) < 1.0 / (1.0 + np.exp(-x @ rng.normal(0.0, 0.7, 11)))
    with pymc.Model() as model:
        beta = pymc.Normal("beta", 0.0, 2.5, shape=11)
        pymc.Bernoulli("y", logit_p=x @ beta, observed=y.astype(int))
    return model


@functools.cache
def counts():
    """800 counts in 80 groups: their rates, two slopes, mean and deviation of the rates."""
    import pymc

    rng = np.random.default_rng(20260402)
    group, x = rng.integers(0, 80, 800), rng.standard_normal((800, 2))
    rates = rng.normal(1.0, 0.6, 80)
    y = rng.poisson(np.exp(rates[group] + x @ [0.3, -0.2]))
    with pymc.Model() as model:
        mu, tau = pymc.Normal("mu", 0.0, 2.0), pymc.HalfNormal("tau", 1.0)
        slopes = pymc.Normal("slopes", 0.0, 1.0, shape=2)
        alpha = pymc.Normal("alpha", mu, tau, shape=80)
        pymc.Poisson("y", pymc.math.exp(alpha[group] + x @ slopes), observed=y)
    return model


def moments(model, posterior):
    """Means and deviations of the latent coordinates, in their order, from draws of the parameters."""
    columns = []
    for variable in model.free_RVs:
        draws = posterior[variable.name].values
        draws = draws.reshape(draws.shape[0] * draws.shape[1], -1)
        columns.append(np.log(draws) if variable.name == "tau" else draws)
    latent = np.concatenate(columns, axis=1)
    return latent.mean(axis=0), latent.std(axis=0)


@functools.cache
def nuts(make):
    """By nutpie, whose compiled functions fastvi calls; None without it."""
    try:
        import nutpie
    except ImportError:
        return None
    logging.getLogger("pymc").setLevel(logging.ERROR)
    compiled = nutpie.compile_pymc_model(make())
    found = nutpie.sample(compiled, draws=DRAWS, chains=CHAINS, seed=1, progress_bar=False)
    return moments(make(), found.posterior)


def error(value, exact):
    if exact is None:
        return None
    mean, sd = exact
    parts = (value[0] - mean) / sd, np.log(value[1] / sd)
    return float(max(np.sqrt((part**2).mean()) for part in parts))


def ours(make):
    def load():
        import pymc  # noqa: F401  (for the name of what is missing)

        model = fv.from_pymc(make())

        def run():
            q = fv.fit(model, "full").q
            return q.mean, np.sqrt(np.diag(q.cov))

        return run

    return load


def advi(make):
    import pymc

    model = make()

    def run():
        found = pymc.fit(STEPS, method="advi", model=model, progressbar=False, random_seed=1)
        return found.mean.eval(), found.std.eval()

    return run


def dadvi(make):
    import pymc  # noqa: F401  (for the name of what is missing)
    from pymc_extras.inference import fit_dadvi

    model = make()

    def run():
        found = fit_dadvi(model, progressbar=False, random_seed=1)
        mean, log_sd = np.split(found["optimizer_result"]["x"].values, 2)
        return mean, np.exp(log_sd)

    return run


def pathfinder(make):
    import pymc  # noqa: F401  (for the name of what is missing)
    from pymc_extras.inference import fit_pathfinder

    model = make()

    def run():
        quiet = {"progressbar": False, "display_summary": False, "concurrent": None}
        return moments(model, fit_pathfinder(model, random_seed=1, **quiet).posterior)

    return run


def laplace(make):
    import pymc  # noqa: F401  (for the name of what is missing)
    from pymc_extras.inference import fit_laplace

    model = make()

    def run():
        found = fit_laplace(model=model, progressbar=False, random_seed=1).fit
        return found["mean_vector"].values, np.sqrt(np.diag(found["covariance_matrix"].values))

    return run


REGRESSIONS = tuple(
    Comparison(
        work=f"doors: {name} from PyMC, full",
        inputs=tuple,
        exact=functools.partial(nuts, make),
        fastvi=ours(make),
        peers=tuple(
            Peer(peer, functools.partial(load, make), (10,))
            for peer, load in (
                ("pm.fit, ADVI, 10,000 steps", advi),
                ("pymc-extras DADVI", dadvi),
                ("pymc-extras pathfinder", pathfinder),
                ("pymc-extras Laplace", laplace),
            )
        ),
        error=error,
    )
    for name, make in (
        ("logistic regression, n = 500, d = 11", logistic),
        ("Poisson with 80 groups, d = 84", counts),
    )
)

"""Models from elsewhere, beside what their own systems do: eight schools, non-centred, in coordinates mu,
log tau, effects.

All of it needs ``pip install "fastvi[jax,pymc,stan]" pymc-extras``; a row says what is not installed.
"""

from __future__ import annotations

import functools
import logging
import math

import numpy as np

import fastvi as fv

from .contenders import Comparison, Peer
from .inference import EFFECTS, ERRORS, exact_schools, gap, numpyro_schools, schools_model
from .regressions import REGRESSIONS

#: Points of a block for one gradient each, and of one for JAX.
POINTS, BLOCK = 1000, 64


def in_these_coordinates(z):
    """The log joint of the native model at points (n, 10)."""
    native = schools_model(True)
    latent = np.array(z)
    latent[:, 1] = np.exp(latent[:, 1])
    return native.log_density(latent) + z[:, 1]


def points(count):
    return (np.random.default_rng(1981).standard_normal((count, 10)),)


CODE = """
data { vector[8] y; vector[8] s; }
parameters { real mu; real<lower=0> tau; vector[8] e; }
model {
  target += normal_lpdf(mu | 0, 5) + cauchy_lpdf(tau | 0, 5) + log(2);
  target += std_normal_lpdf(e) + normal_lpdf(y | mu + tau * e, s);
}
"""


@functools.cache
def of_stan():
    return fv.from_stan(CODE, data={"y": EFFECTS, "s": ERRORS})


@functools.cache
def pymc_model():
    import pymc

    logging.getLogger("pymc").setLevel(logging.ERROR)
    with pymc.Model() as model:
        mu, tau = pymc.Normal("mu", 0.0, 5.0), pymc.HalfCauchy("tau", 5.0)
        e = pymc.Normal("e", 0.0, 1.0, shape=8)
        pymc.Normal("y", mu + tau * e, ERRORS, observed=EFFECTS)
    return model


@functools.cache
def of_pymc():
    import pymc  # noqa: F401  (for the name of what is missing)

    return fv.from_pymc(pymc_model())


def logdensity(z):
    import jax.numpy as jnp
    from jax.scipy.stats import cauchy, norm

    mu, log_tau, e = z[0], z[1], z[2:]
    tau = jnp.exp(log_tau)
    total = norm.logpdf(mu, 0.0, 5.0) + math.log(2.0) + cauchy.logpdf(tau, 0.0, 5.0) + log_tau
    return total + norm.logpdf(e).sum() + norm.logpdf(EFFECTS, mu + tau * e, ERRORS).sum()


def ready_jax():
    """JAX in double precision, with small calls in the calling thread, as `from_jax` says."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax


@functools.cache
def of_jax():
    ready_jax()
    return fv.from_jax(logdensity, np.zeros(10))


def block_of(make):
    """Values and gradients of a block, by the C function that kernels call; its arguments are made before."""

    def load():
        from fastvi.inference.sharing import GRADIENTS

        model, state = make(), {}
        call = GRADIENTS(model._gradient_address)

        def run(z):
            if id(z) not in state:
                arrays = z, model._theta, model._table, np.empty(len(z)), np.empty_like(z)
                places = [array.ctypes.data for array in arrays]
                counts = len(z), model.dim
                state[id(z)] = arrays, (places[0], *counts, places[1], model._theta.size, *places[2:])
            arrays, arguments = state[id(z)]
            call(*arguments)
            return arrays[3]

        return run

    return load


def stan_by_ctypes():
    """The library's own call, in a loop with its arguments made before."""
    stan = of_stan()._keep[0]
    call = stan.library.bs_log_density_gradient
    state = {}

    def run(z):
        if id(z) not in state:
            values, gradients = np.empty(len(z)), np.empty_like(z)
            rows = [
                (stan.model, stan.drops, True, row.ctypes.data, values[i:].ctypes.data, g.ctypes.data, None)
                for i, (row, g) in enumerate(zip(z, gradients, strict=True))
            ]
            state[id(z)] = values, gradients, rows
        values, _, rows = state[id(z)]
        for arguments in rows:
            call(*arguments)
        return values

    return run


def jax_call():
    """The compiled function of a block, and its results as arrays."""
    jax = ready_jax()
    function = jax.jit(jax.vmap(jax.value_and_grad(logdensity)))

    def run(z):
        values, gradients = function(z)
        np.asarray(gradients)
        return np.asarray(values)

    return run


def fit_of(make):
    def load():
        model = make()
        return lambda y, s: fv.fit(model, "diag")

    return load


def pymc_advi():
    import pymc

    model = pymc_model()

    def run(y, s):
        found = pymc.fit(10_000, method="advi", model=model, progressbar=False, random_seed=1981)
        return found.mean.eval(), found.std.eval()

    return run


def dadvi():
    import pymc  # noqa: F401  (for the name of what is missing)
    from pymc_extras.inference import fit_dadvi

    model = pymc_model()

    def run(y, s):
        found = fit_dadvi(model, progressbar=False, random_seed=1981)
        mean, log_sd = np.split(found["optimizer_result"]["x"].values, 2)
        return mean, np.exp(log_sd)

    return run


def peers_of_schools(*wanted):
    """PyMC's two and NumPyro, with the ratios that are wanted."""
    loads = (
        ("pm.fit, ADVI, 10,000 steps", pymc_advi),
        ("pymc-extras DADVI", dadvi),
        ("NumPyro SVI, 10,000 steps under jax.jit", functools.partial(numpyro_schools, True)),
    )
    return tuple(Peer(name, load, goal) for (name, load), goal in zip(loads, wanted, strict=True))


DOORS = (
    Comparison(
        work=f"doors: from_stan, gradients at {POINTS:,} points",
        inputs=functools.partial(points, POINTS),
        exact=in_these_coordinates,
        fastvi=block_of(of_stan),
        peers=(Peer("the library's function, by ctypes in a loop", stan_by_ctypes, (1 / 1.1,)),),
    ),
    Comparison(
        work=f"doors: from_jax, gradients at {BLOCK} points",
        inputs=functools.partial(points, BLOCK),
        exact=in_these_coordinates,
        fastvi=block_of(of_jax),
        peers=(Peer("jax call and asarray", jax_call),),
    ),
    *(
        Comparison(
            work=f"doors: eight schools from {system}, diagonal",
            inputs=lambda: (EFFECTS, ERRORS),
            exact=exact_schools,
            fastvi=fit_of(make),
            peers=peers_of_schools(*wanted),
            error=gap,
        )
        for system, make, wanted in (
            ("PyMC", of_pymc, ((500,), (500,), ())),
            ("Stan", of_stan, ((1000,), (1000,), ())),
            ("JAX", of_jax, ((), (), (20,))),
        )
    ),
    *REGRESSIONS,
)

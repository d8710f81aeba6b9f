"""Fits of q to a model, beside NumPyro's stochastic fits and JAX's BFGS.

NumPyro runs SVI with AutoNormal and 10,000 steps of Adam, in two ways: by `SVI.run`, which compiles its loop
in each call, and by a function under `jax.jit` that takes the data as arguments and is compiled before it is
timed.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

import fastvi as fv

from .contenders import Comparison, Peer, UnavailableError

STEPS = 10_000
RATE = 0.01

#: Data sets in the batch.
BATCH = 10_000

# The worked example: p(z) = exp(-z), p(x | z) = N(x | z, 1), z on the real line.


def worked(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)


def exact_worked(x):
    return [x - 1.0], [1.0]


def spread(q):
    """Mean and standard deviations of q in latent coordinates."""
    if isinstance(q, fv.Fit):
        q = q.q
    if isinstance(q, fv.TransformedGaussian):
        q = q.gaussian
    if isinstance(q, fv.Gaussian):
        return q.mean, np.sqrt(np.diag(q.cov))
    return tuple(np.asarray(part, np.float64) for part in q)


def worst_of_q(value, exact):
    """The largest error of a mean or deviation."""
    return max(float(np.abs(found - true).max()) for found, true in zip(spread(value), exact, strict=True))


def fastvi_worked():
    model = fv.Model(worked, 1, data=(1.0,))
    return lambda x: fv.fit(model.with_data((x,)))


def fastvi_worked_anew():
    return lambda x: fv.fit(fv.Model(worked, 1, data=(x,)))


def svi_fit(model, sites, compiled, seed=20240229):
    """(*data) -> mean and deviations of the sites."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(RATE), Trace_ELBO())

    def gather(found):
        return tuple(
            jax.numpy.concatenate([jax.numpy.ravel(found[f"{site}_auto_{part}"]) for site in sites])
            for part in ("loc", "scale")
        )

    def loop(key, *data):
        state = svi.init(key, *data)
        state, _ = jax.lax.scan(lambda state, _: svi.update(state, *data), state, None, length=STEPS)
        return gather(svi.get_params(state))

    def library(key, *data):
        return gather(svi.run(key, STEPS, *data, progress_bar=False).params)

    run = jax.jit(loop) if compiled else library
    key = jax.random.PRNGKey(seed)
    # Arrays, so that new data are not new constants, for which JAX compiles again.
    return lambda *data: jax.block_until_ready(run(key, *map(jax.numpy.asarray, data)))


def numpyro_worked(compiled):
    import numpyro
    import numpyro.distributions as dist

    def model(x):
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("prior", -z)
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return svi_fit(model, ["z"], compiled)


# The same with z > 0, and q Gaussian in log z: many data sets at once.


@functools.cache
def observations():
    return (np.random.default_rng(20240229).normal(2.0, 1.5, BATCH),)


def exact_batch(x):
    """The ELBOs at the optima, from the root of one equation.

    With m = E_q[z], v = E_q[z**2] the gradient is zero where (x - 1) m = v - 1 and sigma**2 = 1 / (1 + v).
    """
    low, high = np.full_like(x, -40.0), np.full_like(x, 40.0)
    for _ in range(100):
        log_v = 0.5 * (low + high)
        v = np.exp(log_v)
        above = 2.0 * np.sinh(0.5 * log_v) * np.exp(0.5 / (1.0 + v)) > x - 1.0
        low, high = np.where(above, low, log_v), np.where(above, log_v, high)
    variance = 1.0 / (1.0 + v)
    mu = 0.5 * log_v - variance
    m = np.exp(mu + 0.5 * variance)
    return (x - 1.0) * m - 0.5 * v - 0.5 * x**2 + mu + 0.5 * np.log(variance) + 0.5


def worst_elbo(value, exact):
    return float(np.abs(np.asarray(value) - exact).max())


def fastvi_batch():
    if not hasattr(fv, "fit_batch"):
        raise UnavailableError("this fastvi has no fit_batch")
    model = fv.Model(worked, 1, data=(1.0,), support="positive")
    return lambda x: fv.fit_batch(model, (x,), "diag").elbo


def jax_batch():
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from jax.scipy.optimize import minimize

    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    weights /= weights.sum()
    entropy = 0.5 * math.log(2.0 * math.pi * math.e)

    def loss(theta, x):
        log_z = theta[0] + jnp.exp(theta[1]) * nodes
        z = jnp.exp(log_z)
        joint = -z - 0.5 * (x - z) ** 2 - 0.5 * math.log(2.0 * math.pi) + log_z
        return -(weights @ joint) - theta[1] - entropy

    one = jax.jit(jax.vmap(lambda x: -minimize(loss, jnp.zeros(2), (x,), method="BFGS").fun))
    return lambda x: one(x).block_until_ready()


# Eight schools (Rubin 1981), non-centred: mu, tau and a standardised effect for each school.

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SUPPORT = ["real", "positive"] + ["real"] * 8
_NORMAL = -0.5 * math.log(2.0 * math.pi)


def schools(z, y, s):
    mu, tau = z[0], z[1]
    total = _NORMAL - math.log(5.0) - 0.5 * (mu / 5.0) ** 2
    total += math.log(2.0 / (math.pi * 5.0)) - math.log1p((tau / 5.0) ** 2)
    product = 1.0
    for j in range(y.size):
        e = z[2 + j]
        r = (y[j] - mu - tau * e) / s[j]
        total += 2.0 * _NORMAL - 0.5 * (e * e + r * r)
        product *= s[j]
    return total - math.log(product)


def schools_grad(z, grad, y, s):
    mu, tau = z[0], z[1]
    total = _NORMAL - math.log(5.0) - 0.5 * (mu / 5.0) ** 2
    total += math.log(2.0 / (math.pi * 5.0)) - math.log1p((tau / 5.0) ** 2)
    grad[0], grad[1] = -mu / 25.0, -2.0 * tau / (25.0 + tau * tau)
    product = 1.0
    for j in range(y.size):
        e, inverse = z[2 + j], 1.0 / s[j]
        r = (y[j] - mu - tau * e) * inverse
        total += 2.0 * _NORMAL - 0.5 * (e * e + r * r)
        product *= s[j]
        residual = r * inverse
        grad[0] += residual
        grad[1] += e * residual
        grad[2 + j] = tau * residual - e
    return total - math.log(product)


@functools.cache
def schools_model(gradient):
    return fv.Model(
        schools, 10, (EFFECTS, ERRORS), SUPPORT, log_joint_grad=schools_grad if gradient else None
    )


def schools_elbo(q, draws=100_000):
    """The ELBO of a (mean, deviations) on draws that are the same for all, in pairs."""
    mean, sd = spread(q)
    half = np.random.default_rng(1981).standard_normal((draws // 2, 10))
    z = mean + sd * np.concatenate([half, -half])
    mu, log_tau, e = z[:, :1], z[:, 1], z[:, 2:]
    tau = np.exp(log_tau)
    r = (EFFECTS - mu - tau[:, None] * e) / ERRORS
    joint = _NORMAL - math.log(5.0) - 0.5 * (mu[:, 0] / 5.0) ** 2
    joint += math.log(2.0 / (math.pi * 5.0)) - np.log1p((tau / 5.0) ** 2) + log_tau
    joint += (2.0 * _NORMAL - np.log(ERRORS) - 0.5 * (e * e + r * r)).sum(axis=1)
    return float(joint.mean() + np.log(sd).sum() + 5.0 * math.log(2.0 * math.pi * math.e))


def exact_schools(y, s):
    """The best known ELBO: that of a fit on 16,384 draws."""
    return schools_elbo(fv.fit(schools_model(True), "diag", draws=16_384))


def gap(value, exact):
    """Nats below the best known ELBO."""
    return exact - schools_elbo(value)


def fastvi_schools(gradient):
    def load():
        model = schools_model(gradient)
        return lambda y, s: fv.fit(model.with_data((y, s)), "diag")

    return load


def numpyro_schools(compiled, seed=20240229):
    import numpyro
    import numpyro.distributions as dist

    def model(y, s):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            e = numpyro.sample("e", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * e, s), obs=y)

    return svi_fit(model, ["mu", "tau", "e"], compiled, seed)


# The first fit of a new process, timed from its start to its end.

_PROGRAMS = Path(__file__).parent / "programs"


def first_fit(library):
    """A fit of the worked example in a process of its own; the engine is in the cache after the first."""

    def load():
        __import__(library)
        rest = [] if library == "fastvi" else [str(RATE), str(STEPS)]

        def run(x):
            program = [sys.executable, str(_PROGRAMS / f"first_fit_{library}.py"), repr(x), *rest]
            done = subprocess.run(program, env=os.environ, check=True, capture_output=True, text=True)
            return json.loads(done.stdout)

        return run

    return load


def numpyro_peers(load, wanted=()):
    """NumPyro's two ways; a ratio is wanted only for the loop that is compiled before it is timed."""
    return (
        Peer("NumPyro SVI, 10,000 steps under jax.jit", functools.partial(load, True), wanted),
        Peer("NumPyro SVI.run, 10,000 steps", functools.partial(load, False)),
    )


INFERENCE = (
    Comparison(
        work="fit of the worked example, new data",
        inputs=lambda: (5.0,),
        exact=exact_worked,
        fastvi=fastvi_worked,
        peers=numpyro_peers(numpyro_worked, (10_000,)),
        error=worst_of_q,
    ),
    Comparison(
        work="the same, with a Model made anew",
        inputs=lambda: (5.0,),
        exact=exact_worked,
        fastvi=fastvi_worked_anew,
        peers=numpyro_peers(numpyro_worked)[:1],
        error=worst_of_q,
    ),
    Comparison(
        work=f"{BATCH:,} fits in log z",
        inputs=observations,
        exact=exact_batch,
        fastvi=fastvi_batch,
        peers=(Peer("jax vmap of BFGS, 32 Gauss-Hermite nodes", jax_batch, (50,)),),
        threads=(2,),
        error=worst_elbo,
    ),
    Comparison(
        work="eight schools, diagonal, with a gradient",
        inputs=lambda: (EFFECTS, ERRORS),
        exact=exact_schools,
        fastvi=fastvi_schools(True),
        peers=numpyro_peers(numpyro_schools, (1500,)),
        error=gap,
    ),
    Comparison(
        work="eight schools, diagonal, without one",
        inputs=lambda: (EFFECTS, ERRORS),
        exact=exact_schools,
        fastvi=fastvi_schools(False),
        peers=numpyro_peers(numpyro_schools, (1500,)),
        error=gap,
    ),
    Comparison(
        work="first fit of a new process",
        inputs=lambda: (5.0,),
        exact=exact_worked,
        fastvi=first_fit("fastvi"),
        peers=(Peer("NumPyro SVI.run, 10,000 steps", first_fit("numpyro"), (2,)),),
        error=worst_of_q,
    ),
)


def worst_of_worked():
    """The largest error of the worked example's q and ELBO over some data."""
    worst = 0.0
    for x in (-3.0, 0.0, 1.0, 5.0, 40.0):
        fit = fastvi_worked()(x)
        worst = max(worst, worst_of_q(fit, exact_worked(x)), abs(fit.elbo.value - (0.5 - x)))
    return worst


def main() -> None:
    """The ELBOs of eight schools, on the same 100,000 draws: fastvi's, and that of ten runs of NumPyro."""
    numba.set_num_threads(1)
    ours = schools_elbo(fastvi_schools(True)()(EFFECTS, ERRORS))
    theirs = [schools_elbo(numpyro_schools(True, seed)(EFFECTS, ERRORS)) for seed in range(10)]
    print(f"best known       {exact_schools(EFFECTS, ERRORS):.4f}")
    print(f"fastvi           {ours:.4f}")
    print(f"NumPyro, 10 runs {min(theirs):.4f} to {max(theirs):.4f}")


if __name__ == "__main__":
    main()

"""Large posteriors beside one optimum, NumPyro and DADVI: ``python -m bench.large``, or with parts of names.

Logistic regressions with many dimensions or rows, and matches of 1,000 players (Bradley and Terry). The time
of a fit is compared with that of scikit-learn's L-BFGS for the mode alone, which is a floor, and with those
of NumPyro's SVI under one jit (10,000 steps of Adam, or 1,000 where there are a million rows) and
pymc-extras' DADVI. A time is the CPU time of the last of three calls, or of two where one takes more than
ten seconds. ELBOs are those that `fv.elbo` finds for each q, below the best one of the row. Needs
``pip install "fastvi[jax,pymc]" pymc-extras scikit-learn``; what is missing is left out.
"""

from __future__ import annotations

import argparse
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastvi as fv

from . import growth_models
from .peers import circumstances, in_words
from .svi import RATE

#: Seconds of a call that is made twice, not three times.
LONG = 10.0

#: Times of one optimum that a fit may take, and the ratio to peers that is wanted for matches.
MOST, FASTER = 15, 20


class Work(NamedTuple):
    """One posterior and who fits it."""

    model: Callable[[], fv.Model]
    floor: Callable[[], Any] | None  #: finds the mode
    families: tuple[str, ...]
    peers: dict[str, Callable[[], tuple[Callable[[], Any], Callable[[Any], fv.Gaussian]]]]


# Logistic regressions.


rows = functools.lru_cache(maxsize=1)(growth_models.rows)


def logistic(x, y):
    gradient = growth_models.logistic_gradient
    return fv.Model(growth_models.logistic, x.shape[1], (x, y), log_joint_grad=gradient)


def mode(x, y):
    from sklearn.linear_model import LogisticRegression

    LogisticRegression(C=1.0, fit_intercept=False, tol=1e-6, max_iter=10_000).fit(x, y)


def numpyro_logistic(guide, x, y, steps):
    import numpyro
    import numpyro.distributions as dist

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ z), obs=y)

    return numpyro_fit(model, guide, steps)


# Matches of players.


@functools.cache
def players(count, matches):
    """(winner, loser) of each of so many matches."""
    rng = np.random.default_rng(20261127)
    strength = rng.standard_normal(count)
    one = rng.integers(0, count, matches)
    other = (one + rng.integers(1, count, matches)) % count
    won = rng.random(matches) < 1.0 / (1.0 + np.exp(strength[other] - strength[one]))
    return np.where(won, one, other), np.where(won, other, one)


def bradley_terry(count, winner, loser):
    data = winner, loser
    return fv.Model(growth_models.matches, count, data, log_joint_grad=growth_models.matches_gradient)


def numpyro_matches(guide, count, winner, loser):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([count]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=z[winner] - z[loser]), obs=jnp.ones(len(winner)))

    return numpyro_fit(model, guide, 10_000)


def dadvi_matches(count, winner, loser):
    import pymc
    from pymc_extras.inference import fit_dadvi

    with pymc.Model() as model:
        z = pymc.Normal("z", 0.0, 1.0, shape=count)
        pymc.Bernoulli("y", logit_p=z[winner] - z[loser], observed=np.ones(len(winner), int))

    def run():
        with model:
            return fit_dadvi(progressbar=False, random_seed=1)["optimizer_result"]["x"].values

    def q(found):
        mean, logs = np.split(found, 2)
        return fv.Gaussian(mean, np.diag(np.exp(2.0 * logs)))

    return run, q


def numpyro_fit(model, guide, steps):
    """(what runs SVI, what makes a Gaussian of its result)."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    made = getattr(autoguide, guide)(model)
    svi = SVI(model, made, numpyro.optim.Adam(RATE), Trace_ELBO())

    @jax.jit
    def run(key):
        state, _ = jax.lax.scan(lambda state, _: svi.update(state), svi.init(key), None, length=steps)
        return svi.get_params(state)

    def q(found):
        if guide == "AutoNormal":
            return fv.Gaussian(found["z_auto_loc"], np.diag(np.asarray(found["z_auto_scale"]) ** 2))
        posterior = made.get_posterior(found)
        return fv.Gaussian(posterior.mean, np.asarray(posterior.covariance_matrix))

    return lambda: jax.block_until_ready(run(jax.random.PRNGKey(1))), q


def _regression(n, dim, families, guides, steps=10_000):
    def peer(guide):
        return lambda: numpyro_logistic(guide, *rows(n, dim), steps)

    return Work(
        lambda: logistic(*rows(n, dim)),
        lambda: mode(*rows(n, dim)),
        families,
        {f"NumPyro {guide}": peer(guide) for guide in guides},
    )


_BOTH = "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"


def _matches(family, guide, dadvi):
    def data():
        return 1000, *players(1000, 100_000)

    peers = {f"NumPyro {guide}": lambda: numpyro_matches(guide, *data())}
    if dadvi:
        peers["DADVI"] = lambda: dadvi_matches(*data())
    return Work(lambda: bradley_terry(*data()), None, (family,), peers)


WORKS = {
    "logistic, d = 10, n = 1,000": _regression(1_000, 10, ("full", "lowrank"), _BOTH),
    "logistic, d = 100, n = 1,000": _regression(1_000, 100, ("full", "lowrank"), _BOTH),
    "logistic, d = 1,000, n = 1,000": _regression(1_000, 1_000, ("lowrank",), _BOTH[1:]),
    "logistic, d = 10, n = 1,000,000": _regression(1_000_000, 10, ("full",), _BOTH[:1], 1_000),
    "1,000 players, 100,000 matches, diag": _matches("diag", "AutoNormal", True),
    "1,000 players, 100,000 matches, lowrank": _matches("lowrank", _BOTH[1], False),
}


def timed(call):
    """(what the last call returns, its CPU time)."""
    for k in range(3):
        start = time.process_time()
        found = call()
        seconds = time.process_time() - start
        if k == 1 and seconds > LONG:
            break
    return found, seconds


def compare(name, work) -> None:
    """Print the rows of one posterior."""
    model = work.model()
    results = {}
    for family in work.families:
        fit, seconds = timed(lambda family=family: fv.fit(model, family))
        results[f"fastvi, {family}"] = seconds, fit.elbo.value
    first = min(seconds for seconds, _ in results.values())
    for peer, load in work.peers.items():
        try:
            run, q = load()
            found, seconds = timed(run)
        except ImportError as missing:
            print(f"| {name} | {peer} | not installed: {missing.name} | | |", flush=True)
        else:
            results[peer] = seconds, fv.elbo(model, q(found)).value
    best = max(elbo for _, elbo in results.values())
    ratio = ""
    if work.floor is not None:
        _, floor = timed(work.floor)
        print(f"| {name} | one optimum, by scikit-learn | {in_words(floor)} | | |", flush=True)
    for who, (seconds, elbo) in results.items():
        if who.startswith("fastvi") and work.floor is not None:
            missed = " (missed)" if seconds > MOST * floor else ""
            ratio = f"{seconds / floor:.1f} x the optimum{missed}"
        elif who.startswith("fastvi"):
            ratio = ""
        else:
            missed = " (missed)" if work.floor is None and seconds < FASTER * first else ""
            ratio = f"{seconds / first:.0f} x fastvi{missed}"
        print(f"| {name} | {who} | {in_words(seconds)} | {ratio} | {best - elbo:.3f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("part", nargs="*", help="part of the name of a posterior (default: all)")
    parts = parser.parse_args().part
    logging.disable(logging.WARNING)
    fv.set_num_threads(1)
    heads = "posterior", "who", "time", "ratio", "nats below the best"
    print(f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", sep="\n")
    for name, work in WORKS.items():
        if not parts or any(part in name for part in parts):
            compare(name, work)
    print()
    print(circumstances())


if __name__ == "__main__":
    main()

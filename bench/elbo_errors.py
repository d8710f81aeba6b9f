"""The stated error of the ELBO against the truth: rms of (estimate - exact) / error, which should be 1.

The exact ELBO of a regression is a sum over observations of expectations in one dimension, by Gauss and
Hermite's rule. `python -m bench.elbo_errors [data sets] [seeds]`; by default 40 and 4, which take minutes.
"""

from __future__ import annotations

import math
import sys

import numba
import numpy as np

import fastvi as fv

KINDS = ("poisson", "logistic", "student")
DIMENSIONS = (4, 10, 50)


@numba.njit
def term(kind, y, eta):
    if kind == 0:
        return y * eta - math.exp(eta)
    if kind == 1:
        return y * eta - max(eta, 0.0) - math.log1p(math.exp(-abs(eta)))
    return -2.5 * math.log1p((y - eta) ** 2 / 4.0)


@numba.njit
def log_joint(z, kind, x, y):
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * z[i] ** 2
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += x[n, i] * z[i]
        s += term(kind, y[n], eta)
    return s


@numba.njit
def log_joint_grad(z, grad, kind, x, y):
    for i in range(z.size):
        grad[i] = -z[i]
    for n in range(y.size):
        eta = 0.0
        for i in range(z.size):
            eta += x[n, i] * z[i]
        if kind == 0:
            slope = y[n] - math.exp(eta)
        elif kind == 1:
            slope = y[n] - 1.0 / (1.0 + math.exp(-eta))
        else:
            slope = 5.0 * (y[n] - eta) / (4.0 + (y[n] - eta) ** 2)
        for i in range(z.size):
            grad[i] += slope * x[n, i]
    return log_joint(z, kind, x, y)


def regression(kind: str, dim: int, seed: int) -> fv.Model:
    """A regression on random predictors, with a standard normal prior."""
    rng = np.random.default_rng((900 + seed, dim, KINDS.index(kind)))
    count = 8 * dim
    x = rng.standard_normal((count, dim)) * 1.4 / math.sqrt(dim)
    eta = x @ rng.standard_normal(dim)
    if kind == "poisson":
        y = rng.poisson(np.exp(eta)).astype(float)
    elif kind == "logistic":
        y = (rng.random(count) < 1.0 / (1.0 + np.exp(-eta))).astype(float)
    else:
        y = eta + rng.standard_t(4, size=count)
    return fv.Model(log_joint, dim, (KINDS.index(kind), x, y), log_joint_grad=log_joint_grad)


def exact_elbo(model: fv.Model, q: fv.Gaussian) -> float:
    kind, x, y = model.data
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    middle, spread = x @ q.mean, np.sqrt(np.einsum("ni,ij,nj->n", x, q.cov, x))
    terms = sum(
        w * term(kind, y[n], middle[n] + spread[n] * t)
        for n in range(y.size)
        for t, w in zip(nodes, weights / weights.sum(), strict=True)
    )
    return terms - 0.5 * (q.mean @ q.mean + np.trace(q.cov)) + q.entropy()


def scores(kind: str, dim: int, family: str, sets: int, seeds: int) -> list[float]:
    """(estimate - exact) / stated error of the ELBOs of fits, from `seeds` sources of draws each."""
    found = []
    cell = (KINDS.index(kind), DIMENSIONS.index(dim), int(family == "diag"))
    for k in range(sets):
        model = regression(kind, dim, k)
        q = fv.fit(model, family).q
        truth = exact_elbo(model, q)
        for seed in range(seeds):
            e = fv.elbo(model, q, rng=np.random.default_rng((*cell, k, seed)))
            found.append((e.value - truth) / e.error)
    return found


def main(sets: int = 40, seeds: int = 4) -> None:
    every: list[float] = []
    for kind in KINDS:
        for dim in DIMENSIONS:
            for family in ("full", "diag"):
                z = scores(kind, dim, family, sets, seeds)
                every += z
                print(f"{kind:10}d = {dim:3} {family:6}{math.sqrt(np.mean(np.square(z))):.2f}", flush=True)
    z = np.array(every)
    print(f"all {math.sqrt(np.mean(z**2)):.3f}, beyond 2: {np.mean(np.abs(z) > 2):.1%} of {z.size}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))

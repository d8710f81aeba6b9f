"""Gradients by forward differentiation, beside written ones and differences: ``python -m bench.gradients``.

For each posterior the time of a gradient and of a fit with a diagonal covariance, and how far the optima are
apart; then what a name and a density cost beside an index and a loop by hand. The posteriors have the sizes
of those of posteriordb by the same names (M. Magnusson et al., 2022), with data drawn from the model. Times
are CPU times on one thread.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np

import fastvi as fv
from fastvi import densities, kernels
from fastvi.inference.kernel_calls import workspace
from fastvi.inference.model import target_of
from fastvi.kernels.families.table import MEAN

from .inference import EFFECTS, ERRORS
from .limits import least
from .peers import circumstances

KINDS = ("written", "forward", "differences")


class Posterior(NamedTuple):
    """A model with its gradient, by names."""

    log_joint: Any
    gradient: Any
    parameters: dict[str, Any]
    data: tuple[Any, ...]

    def model(self, gradient: Any) -> fv.Model:
        """The model, with this function, "forward" or "differences" for its gradient."""
        return fv.Model(self.log_joint, self.parameters, self.data, log_joint_grad=gradient)


# Eight schools, non-centred.


def schools(p, y, s):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_cauchy(p.tau, 5.0)
    for j in range(8):
        value += densities.normal(p.eta[j], 0.0, 1.0)
        value += densities.normal(y[j], p.mu + p.tau * p.eta[j], s[j])
    return value


def schools_gradient(p, g, y, s):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_cauchy(p.tau, 5.0)
    in_mu, in_tau = -p.mu / 25.0, -2.0 * p.tau / (25.0 + p.tau**2)
    for j in range(8):
        r = (y[j] - p.mu - p.tau * p.eta[j]) / s[j] ** 2
        value += densities.normal(p.eta[j], 0.0, 1.0)
        value += densities.normal(y[j], p.mu + p.tau * p.eta[j], s[j])
        in_mu += r
        in_tau += r * p.eta[j]
        g.eta[j] = -p.eta[j] + r * p.tau
    g.mu, g.tau = in_mu, in_tau
    return value


# A linear regression of nine predictors.


def nes(p, x, y):
    value = 0.0
    for j in range(9):
        value += densities.normal(p.beta[j], 0.0, 10.0)
    for i in range(y.size):
        mean = 0.0
        for j in range(9):
            mean += x[i, j] * p.beta[j]
        value += densities.normal(y[i], mean, p.sigma)
    return value


def nes_gradient(p, g, x, y):
    value, in_sigma = 0.0, 0.0
    for j in range(9):
        value += densities.normal(p.beta[j], 0.0, 10.0)
        g.beta[j] = -p.beta[j] / 100.0
    for i in range(y.size):
        mean = 0.0
        for j in range(9):
            mean += x[i, j] * p.beta[j]
        value += densities.normal(y[i], mean, p.sigma)
        r = (y[i] - mean) / p.sigma**2
        in_sigma += r * (y[i] - mean) / p.sigma - 1.0 / p.sigma
        for j in range(9):
            g.beta[j] += r * x[i, j]
    g.sigma = in_sigma
    return value


# Normal intercepts of 85 counties and slopes of two predictors.


def radon(p, county, floor, uranium, y):
    value = densities.normal(p.mu, 0.0, 10.0) + densities.half_cauchy(p.tau, 2.5)
    value += densities.normal(p.slope, 0.0, 10.0) + densities.normal(p.level, 0.0, 10.0)
    value += densities.half_cauchy(p.sigma, 2.5)
    for j in range(85):
        value += densities.normal(p.alpha[j], p.mu + p.level * uranium[j], p.tau)
    for i in range(y.size):
        value += densities.normal(y[i], p.alpha[county[i]] + p.slope * floor[i], p.sigma)
    return value


def radon_gradient(p, g, county, floor, uranium, y):
    value = densities.normal(p.mu, 0.0, 10.0) + densities.half_cauchy(p.tau, 2.5)
    value += densities.normal(p.slope, 0.0, 10.0) + densities.normal(p.level, 0.0, 10.0)
    value += densities.half_cauchy(p.sigma, 2.5)
    in_mu, in_level, in_slope = -p.mu / 100.0, -p.level / 100.0, -p.slope / 100.0
    in_tau, in_sigma = -2.0 * p.tau / (6.25 + p.tau**2), -2.0 * p.sigma / (6.25 + p.sigma**2)
    for j in range(85):
        value += densities.normal(p.alpha[j], p.mu + p.level * uranium[j], p.tau)
        r = (p.alpha[j] - p.mu - p.level * uranium[j]) / p.tau**2
        in_tau += r * r * p.tau - 1.0 / p.tau
        in_mu += r
        in_level += r * uranium[j]
        g.alpha[j] = -r
    for i in range(y.size):
        value += densities.normal(y[i], p.alpha[county[i]] + p.slope * floor[i], p.sigma)
        r = (y[i] - p.alpha[county[i]] - p.slope * floor[i]) / p.sigma**2
        in_sigma += r * r * p.sigma - 1.0 / p.sigma
        in_slope += r * floor[i]
        g.alpha[county[i]] += r
    g.mu, g.level, g.slope, g.tau, g.sigma = in_mu, in_level, in_slope, in_tau, in_sigma
    return value


# Counts of 82 groups.


def counts(p, group, x, y):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_normal(p.tau, 1.0)
    for j in range(82):
        value += densities.normal(p.alpha[j], p.mu, p.tau)
    for i in range(y.size):
        value += densities.poisson_log(y[i], p.alpha[group[i]] + x[i])
    return value


def counts_gradient(p, g, group, x, y):
    value = densities.normal(p.mu, 0.0, 5.0) + densities.half_normal(p.tau, 1.0)
    in_mu, in_tau = -p.mu / 25.0, -p.tau
    for j in range(82):
        value += densities.normal(p.alpha[j], p.mu, p.tau)
        r = (p.alpha[j] - p.mu) / p.tau**2
        in_tau += r * r * p.tau - 1.0 / p.tau
        in_mu += r
        g.alpha[j] = -r
    for i in range(y.size):
        rate = p.alpha[group[i]] + x[i]
        value += densities.poisson_log(y[i], rate)
        g.alpha[group[i]] += y[i] - math.exp(rate)
    g.mu, g.tau = in_mu, in_tau
    return value


def posteriors() -> dict[str, Posterior]:
    """The posteriors by their names."""
    rng = np.random.default_rng(20240229)
    x = rng.normal(size=(758, 9))
    x[:, 0] = 1.0
    party = x @ rng.normal(size=9) + 1.5 * rng.normal(size=758)
    county, floor = rng.integers(0, 85, 919), rng.integers(0, 2, 919).astype(float)
    uranium = rng.normal(size=85)
    levels = 1.3 + 0.7 * uranium + 0.3 * rng.normal(size=85)
    radon_y = levels[county] - 0.6 * floor + 0.8 * rng.normal(size=919)
    group, exposure = rng.integers(0, 82, 820), 0.3 * rng.normal(size=820)
    rates = 1.0 + 0.5 * rng.normal(size=82)
    y = rng.poisson(np.exp(rates[group] + exposure)).astype(float)
    of_radon = {
        "mu": "real",
        "tau": "positive",
        "level": "real",
        "slope": "real",
        "alpha": (85,),
        "sigma": "positive",
    }
    return {
        "eight schools (10)": Posterior(
            schools, schools_gradient, {"mu": "real", "tau": "positive", "eta": (8,)}, (EFFECTS, ERRORS)
        ),
        "nes (10, 758 rows)": Posterior(nes, nes_gradient, {"beta": (9,), "sigma": "positive"}, (x, party)),
        "radon (90, 919 rows)": Posterior(radon, radon_gradient, of_radon, (county, floor, uranium, radon_y)),
        "counts (84, 820 rows)": Posterior(
            counts,
            counts_gradient,
            {"mu": "real", "tau": "positive", "alpha": (82,)},
            (group, exposure, y),
        ),
    }


def seconds_of_gradient(model: fv.Model) -> float:
    """Of one gradient, of 200 in a call; differences are to both sides, with 2 d + 1 evaluations."""
    r, n = model.latent_dim, 200
    points = 0.3 * np.random.default_rng(0).standard_normal((n, r))
    space = workspace("draws", MEAN, r, model.dim)
    values, slopes, target = np.empty(n), np.empty((n, r)), target_of(model, gradient=True)
    run = kernels.inference.entry_points.log_joint_gradients
    return least(lambda: run(target, points, np.ones(r), space, values, slopes)) / n


def seconds_of_value(model: fv.Model, points: Any) -> float:
    """Of the log joint at one point."""
    return least(lambda: model._tabulate(points)) / len(points)


# What a name costs: the eight schools by index; and a density: logistic regression by a loop.


def schools_by_index(z, y, s):
    value = densities.normal(z[0], 0.0, 5.0) + densities.half_cauchy(z[1], 5.0)
    for j in range(8):
        value += densities.normal(z[2 + j], 0.0, 1.0)
        value += densities.normal(y[j], z[0] + z[1] * z[2 + j], s[j])
    return value


def logistic(z, x, y):
    return densities.bernoulli_logit(y, x @ z)


def logistic_by_hand(z, x, y):
    value = 0.0
    for i in range(y.size):
        eta = 0.0
        for j in range(z.size):
            eta += x[i, j] * z[j]
        value += y[i] * eta - max(eta, 0.0) - math.log1p(math.exp(-abs(eta)))
    return value


def main() -> None:
    """Print the tables."""
    print(circumstances())
    print("\nµs a gradient; ms a fit, and how far its means are from those with a written gradient.")
    smoke = os.environ.get("FASTVI_BENCH") == "smoke"
    for name, posterior in list(posteriors().items())[: 1 if smoke else None]:
        models = {kind: posterior.model(posterior.gradient if kind == "written" else kind) for kind in KINDS}
        times = {kind: seconds_of_gradient(model) for kind, model in models.items()}
        fits = {kind: fv.fit(model, "diag") for kind, model in models.items()}
        took = {kind: least(lambda model=model: fv.fit(model, "diag")) for kind, model in models.items()}
        for kind in KINDS:
            off = abs(fits[kind].q.mean - fits["written"].q.mean).max()
            print(
                f"{name:22} {kind:12} {1e6 * times[kind]:9.2f} ({times[kind] / times['written']:5.1f} x)"
                f" {1e3 * took[kind]:9.1f} ({took[kind] / took['written']:5.1f} x) {off:8.1e}"
            )
    points = np.abs(np.random.default_rng(1).standard_normal((500, 10)))
    named = posteriors()["eight schools (10)"].model("differences")
    by_index = fv.Model(schools_by_index, 10, named.data, ["real", "positive"] + ["real"] * 8)
    ratio = seconds_of_value(named, points) / seconds_of_value(by_index, points)
    print(f"p.tau and p.eta[j] beside z[i], eight schools: {ratio:.3f} x")
    rng = np.random.default_rng(2)
    n = 1000 if smoke else 100_000
    data = rng.standard_normal((n, 10)), (rng.random(n) < 0.5).astype(float)
    model, by_hand = (fv.Model(f, 10, data) for f in (logistic, logistic_by_hand))
    point = 0.3 * rng.standard_normal((1, 10))
    ratio = seconds_of_value(by_hand, point) / seconds_of_value(model, point)
    print(f"a loop with log1p and exp beside bernoulli_logit, n = {n}, d = 10: {ratio:.1f} x")


if __name__ == "__main__":
    main()

"""Posteriors that are improper along a curve, and what tells them: Laplace's log marginal densities."""

import math

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.inference.improper import tails_of
from fastvi.inference.marginals import Marginal
from helpers.posteriors import groups, standard_groups

SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
INCOMES = np.array([2138912.8, 1806775.4, 2031183.3, 2008142.5, 1475707.4])
INCOME_ERRORS = np.array([234329.6, 193508.7, 344377.6, 292810.7, 244066.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@numba.njit
def regression(z, x, y, power):
    """Coefficients with flat priors, and the logarithm of the deviation of the noise, on the real line."""
    total = (1.0 + power - y.size) * z[-1]
    for i in range(y.size):
        total -= 0.5 * ((y[i] - x[i] @ z[:-1]) / math.exp(z[-1])) ** 2
    return total


@numba.njit
def nested(z, y, group, power):
    """Groups of several observations, whose deviation has the prior 1 / sigma."""
    count = z.size - 3
    mean, tau, sigma = z[count], z[count + 1], z[count + 2]
    total = power * math.log(tau) - (1.0 + y.size) * math.log(sigma)
    for j in range(count):
        total -= 0.5 * ((z[j] - mean) / tau) ** 2 + math.log(tau)
    for i in range(y.size):
        total -= 0.5 * ((y[i] - z[group[i]]) / sigma) ** 2
    return total


@numba.njit
def decay(z, x, y):
    """An amplitude, a rate and the deviation of the noise, each with the prior 1 / z, and an offset."""
    amplitude, rate, offset, noise = z
    total = -math.log(amplitude) - math.log(rate) - (1.0 + y.size) * math.log(noise)
    for i in range(y.size):
        total -= 0.5 * ((y[i] - offset - amplitude * math.exp(-rate * x[i])) / noise) ** 2
    return total


@numba.njit
def with_t_noise(z, x, y, power):
    """A regression whose noise has a t distribution with 4 degrees of freedom, and its scale."""
    scale = z[z.size - 1]
    total = (power - y.size) * math.log(scale)
    for i in range(y.size):
        total -= 2.5 * math.log1p(((y[i] - x[i] @ z[:-1]) / scale) ** 2 / 4.0)
    return total


@numba.njit
def saturating(z, x, y, power):
    """A Michaelis-Menten curve, whose constants and noise have the prior z^power exp(-(1 + power) z)."""
    highest, half, noise = z
    total = -y.size * math.log(noise)
    for k in range(3):
        total += power * math.log(z[k]) - (1.0 + power) * z[k]
    for i in range(y.size):
        total -= 0.5 * ((y[i] - highest * x[i] / (half + x[i])) / noise) ** 2
    return total


@numba.njit
def logistic(z, x, y, power):
    """A growth curve, whose constants and noise have the prior z^power exp(-(1 + power) z)."""
    highest, rate, middle, noise = z
    total = -y.size * math.log(noise)
    for k in range(4):
        total += power * math.log(z[k]) - (1.0 + power) * z[k]
    for i in range(y.size):
        total -= 0.5 * ((y[i] - highest / (1.0 + math.exp(-rate * (x[i] - middle)))) / noise) ** 2
    return total


@numba.njit
def counts_in_groups(z, y, power):
    """Counts whose log rates are groups with a proper mean."""
    mean, tau = z[y.size], z[y.size + 1]
    total = power * math.log(tau) - 0.5 * (mean / 10.0) ** 2
    for j in range(y.size):
        total += y[j] * z[j] - math.exp(z[j]) - 0.5 * ((z[j] - mean) / tau) ** 2 - math.log(tau)
    return total


@numba.njit
def horseshoe(z, x, y, power):
    """Slopes z[:p] z[p : 2p] tau, noise and, last, tau, with the prior tau^power."""
    p, sigma, tau = x.shape[1], z[z.size - 2], z[z.size - 1]
    total = power * math.log(tau) - y.size * math.log(sigma) - 0.5 * (sigma / 10.0) ** 2
    for i in range(y.size):
        mean = 0.0
        for k in range(p):
            mean += x[i, k] * z[k] * z[p + k] * tau
        total -= 0.5 * ((y[i] - mean) / sigma) ** 2
    for k in range(p):
        total -= 0.5 * z[k] ** 2 + math.log1p(z[p + k] ** 2)
    return total


def model_of_groups(log_joint, y, s, power, rate=0.0):
    support = ["real"] * (y.size + 1) + ["positive"]
    return fv.Model(log_joint, y.size + 2, (y, s, power, rate), support=support)


def density_of_log_tau(t, y, s, power):
    """The exact log marginal density of log tau, but for a constant."""
    weights = 1.0 / (s**2 + math.exp(2.0 * t))
    mean = weights @ y / weights.sum()
    value = (1.0 + power) * t + np.log(s).sum() + 0.5 * np.log(weights).sum() - 0.5 * math.log(weights.sum())
    return value - 0.5 * weights @ (y - mean) ** 2


@pytest.mark.parametrize("log_joint", [groups, standard_groups])
@pytest.mark.parametrize("seed", range(4))
def test_marginal_densities_are_exact_or_none(log_joint, seed):
    """Given log tau the groups are Gaussian, and Laplace's approximation exact. Beyond e^14 it is rounded."""
    rng = np.random.default_rng(seed)
    count, scale = int(rng.integers(2, 12)), 10.0 ** rng.uniform(-4.0, 5.0)
    y, s = scale * rng.standard_normal(count), scale * np.exp(0.5 * rng.standard_normal(count))
    model, middle = model_of_groups(log_joint, y, s, -0.7), math.log(scale)
    unit = np.full(count + 2, 1.0 if log_joint is standard_groups else scale)
    known = 0
    for side in (1.0, -1.0):
        marginal = Marginal(model, np.append(np.zeros(count + 1), middle), unit, count + 1)
        for distance in (1.0, 4.0, 8.0, 11.0, 14.0, 18.0, 24.0, 36.0):
            t = middle + side * distance
            value = marginal.at(t)
            if value is not None:
                assert value == pytest.approx(density_of_log_tau(t, y, s, -0.7), abs=5e-3)
                known += 1
    assert known >= 8


def test_no_marginal_density_where_the_others_have_no_mode():
    """A log joint that rises without end in the others, one that fails, and one that is lost in rounding."""

    @numba.njit
    def without_mode(z, case):
        if case == 0:
            return 0.5 * z[1] ** 2 - 0.5 * z[0] ** 2
        return -math.exp(-z[0]) - z[1] ** 2 if z[0] < 5.0 else math.nan

    for case in (0, 1):
        model = fv.Model(without_mode, 2, (case,))
        marginal = Marginal(model, np.zeros(2), np.ones(2), 0)
        assert marginal.at(8.0) is None
    marginal = Marginal(model_of_groups(groups, SCHOOLS, ERRORS, 0.0), np.zeros(10), np.full(10, 5.0), 9)
    assert marginal.at(-40.0) is None


def linear(count, size, power, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, count))
    return fv.Model(regression, count + 1, (x, x.sum(axis=1) + rng.standard_normal(size), power))


def decaying():
    """As soon as nothing is left at the second time a higher rate changes nothing."""
    rng, x = np.random.default_rng(0), np.linspace(0.0, 4.0, 30)
    y = 1.0 + 3.0 * np.exp(-x) + 0.1 * rng.standard_normal(30)
    return fv.Model(decay, 4, (x, y), support=["positive", "positive", "real", "positive"])


def robust(count, size, power):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, count))
    data = x, x.sum(axis=1) + rng.standard_t(4, size), power
    return fv.Model(with_t_noise, count + 1, data, support=["real"] * count + ["positive"])


def curve(power, seed=1):
    rng = np.random.default_rng(seed)
    x = np.exp(rng.standard_normal(40))
    y = 2.0 * x / (1.0 + x) + 0.1 * rng.standard_normal(40)
    return fv.Model(saturating, 3, (x, y, power), support="positive")


def growth(power, seed=0):
    rng = np.random.default_rng(seed)
    x = np.sort(np.exp(rng.standard_normal(30)))
    y = 2.0 / (1.0 + np.exp(-2.0 * (x - 1.0))) + 0.1 * rng.standard_normal(30)
    return fv.Model(logistic, 4, (x, y, power), support="positive")


def sparse(power, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((25, 3))
    y = x @ [2.0, 0.0, 0.0] + rng.standard_normal(25)
    return fv.Model(horseshoe, 8, (x, y, power), support=["real"] * 3 + ["positive"] * 5)


def counts(power):
    y = np.array([823.0, 27.0, 0.0, 24.0])
    return fv.Model(counts_in_groups, 6, (y, power), support=["real"] * 5 + ["positive"])


def in_groups(count, each, power, y=None):
    group = np.arange(count * each) % count
    rng = np.random.default_rng(0)
    drawn = 3.0 * rng.standard_normal(count)[group] + rng.standard_normal(count * each)
    support = ["real"] * (count + 1) + ["positive"] * 2
    data = drawn if y is None else np.array(y), group, power
    return fv.Model(nested, count + 3, data, support=support)


@pytest.mark.parametrize("family", ["diag", "full"])
@pytest.mark.parametrize(
    "model",
    [
        lambda: model_of_groups(groups, SCHOOLS, ERRORS, -1.0),
        lambda: model_of_groups(groups, SCHOOLS[:2], ERRORS[:2], 0.0),
        lambda: model_of_groups(standard_groups, SCHOOLS[:2], ERRORS[:2], 0.0),
        lambda: model_of_groups(standard_groups, 1e4 * SCHOOLS[:2], 1e3 * ERRORS[:2], 0.0),
        lambda: linear(3, 4, 0.0),
        lambda: linear(4, 4, -1.0),
        lambda: in_groups(5, 3, -1.0),
        lambda: in_groups(2, 4, 0.0),
        # where groups draw together the log density is 2,000 and 23,000 below that of q
        lambda: model_of_groups(groups, 30.0 * SCHOOLS, ERRORS, -1.0),
        lambda: model_of_groups(groups, 100.0 * SCHOOLS, ERRORS, -1.0),
        lambda: counts(-1.0),
        lambda: robust(3, 4, 0.0),
        lambda: curve(-1.0),
        # an infinite rate is a step, with no mode of where it is
        lambda: growth(-1.0),
        # the density falls where the slopes' own scales grow, and rises far out where there are no slopes
        lambda: sparse(-1.5),
        decaying,
    ],
)
def test_improper_by_a_logarithm(model, family):
    """Each was called converged, and usable or undecided."""
    found = fv.fit(model(), family)
    assert "improper" in found.status
    assert not found.converged
    assert found.diagnose().verdict == "the posterior is improper: no q is close to it"


@pytest.mark.parametrize("family", ["diag", "full"])
@pytest.mark.parametrize(
    "model",
    [
        lambda: model_of_groups(groups, SCHOOLS, ERRORS, 0.0),
        lambda: model_of_groups(groups, SCHOOLS, ERRORS, -0.95),
        lambda: model_of_groups(groups, SCHOOLS[:3], ERRORS[:3], 0.0),
        lambda: model_of_groups(standard_groups, SCHOOLS[:3], ERRORS[:3], 0.0),
        lambda: model_of_groups(standard_groups, SCHOOLS[:2], ERRORS[:2], -0.05),
        # inverse gammas as vague as they come, whose log density is level over twelve units
        lambda: model_of_groups(groups, 100.0 * SCHOOLS, ERRORS, -1.002, 0.001),
        lambda: model_of_groups(standard_groups, 100.0 * SCHOOLS, ERRORS, -1.002, 0.001),
        # the top of whose peak is flat where rounding ends it
        lambda: model_of_groups(groups, INCOMES, INCOME_ERRORS, -1.002, 0.001),
        lambda: model_of_groups(groups, INCOMES, INCOME_ERRORS, -1.02, 0.01),
        lambda: linear(3, 5, 0.0),
        lambda: linear(4, 5, -1.0),
        lambda: in_groups(5, 3, -0.95),
        lambda: in_groups(3, 4, 0.0),
        lambda: model_of_groups(groups, 100.0 * SCHOOLS, ERRORS, -0.95),
        lambda: counts(-0.95),
        lambda: robust(3, 5, 0.0),
        lambda: curve(-0.9),
        lambda: growth(-0.9),
        lambda: sparse(-0.9),
    ],
)
def test_proper_neighbours(model, family):
    found = fv.fit(model(), family)
    assert "improper" not in found.status
    assert "improper" not in found.diagnose().verdict


@pytest.mark.parametrize("family", ["diag", "full"])
@pytest.mark.parametrize(
    ("power", "offset", "scale"), [(-1.3, 0.0, 1.0), (-2.0, 0.0, 1.0), (-2.0, 1e5, 0.1), (-2.0, 1e6, 1.0)]
)
def test_marginal_densities_that_rise_where_rounding_ends_them(power, offset, scale, family):
    """Whether they fall again beyond is not known: no status is "converged", and q is not called close.

    Groups far from 0 are rounded from near on.
    """
    count = 4 if offset else 8
    y, s = offset + scale * SCHOOLS[:count], scale * ERRORS[:count]
    found = fv.fit(model_of_groups(groups, y, s, power), family)
    assert not found.converged
    diagnosis = found.diagnose()
    assert not diagnosis.close
    assert "usable" not in diagnosis.verdict


def test_those_that_rise_where_no_float_is_high_enough():
    """An inverse gamma has its peak at 1 where the errors are 1e8: it rises from 23,000 nats below q on."""
    found = fv.fit(model_of_groups(groups, 1e9 * SCHOOLS, 1e7 * ERRORS, -3.0, 1.0))
    assert found.converged


def test_they_take_no_more_evaluations_than_allowed():
    """But for those of one coordinate on one side."""
    model = model_of_groups(groups, SCHOOLS, ERRORS, 0.0)
    mean = np.array([*SCHOOLS, 8.0, 2.0])
    none, one, all_ = (tails_of(model, mean, np.eye(10), most)[1] for most in (0, 150, 1e9))
    assert none <= 100 < one < all_


def test_q_that_comes_back_from_far_out():
    """On its way q had a deviation of e^110. Moved on to where tau is no float, it gained: "improper"."""
    y = [-1557.0, -2780.0, 3969.0, 4028.0, -1888.0, -1147.0, -1157.0, -519.0, 39.0, 832.0]
    y += [-4624.0, -955.0, 1851.0, 1073.0, -3055.0]
    found = fv.fit(in_groups(3, 5, 0.0, y))
    assert "improper" not in found.status

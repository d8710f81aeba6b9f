"""Fits of hierarchies with numbers as people have them, in units such as grams and dollars.

With flat and scale-free priors the posterior of c y is that of y in other units, so the ELBO of its best q
differs by a known multiple of log c.
"""

import math

import numba
import numpy as np
import pytest

import fastvi as fv


@numba.njit
def crossed(z, y, rows, columns, count):
    """Effects of rows and of columns, their mean, the deviations of these and of the noise, in a table."""
    mean, of_rows, of_columns, noise = z[-4], z[-3], z[-2], z[-1]
    total = -(1.0 + y.size) * math.log(noise)
    for j in range(count):
        total -= 0.5 * (z[j] / of_rows) ** 2 + math.log(of_rows)
    for j in range(count, z.size - 4):
        total -= 0.5 * (z[j] / of_columns) ** 2 + math.log(of_columns)
    for i in range(y.size):
        total -= 0.5 * ((y[i] - mean - z[rows[i]] - z[count + columns[i]]) / noise) ** 2
    return total


@numba.njit
def line_in_groups(z, y, x, group):
    """Intercepts, their mean, a slope, the deviations of intercepts and noise."""
    count = z.size - 4
    mean, slope, spread, noise = z[count], z[count + 1], z[count + 2], z[count + 3]
    total = -(1.0 + y.size) * math.log(noise)
    for j in range(count):
        total -= 0.5 * ((z[j] - mean) / spread) ** 2 + math.log(spread)
    for i in range(y.size):
        total -= 0.5 * ((y[i] - z[group[i]] - slope * x[i]) / noise) ** 2
    return total


def table(unit, seed):
    """The model, and its coordinates less the normal densities, and one more for the prior of the noise."""
    rng = np.random.default_rng((1, seed))
    rows, columns = np.divmod(np.arange(40), 8)
    y = 5.0 + rng.standard_normal(5)[rows] + rng.standard_normal(8)[columns] + rng.standard_normal(40)
    support = ["real"] * 14 + ["positive"] * 3
    return fv.Model(crossed, 17, (unit * y, rows, columns, 5), support=support), 17 - 13 - 41


def lines(unit, seed):
    """The predictor is a number of a year."""
    rng = np.random.default_rng((2, seed))
    group, x = np.arange(30) % 5, 1990.0 + rng.integers(0, 30, 30)
    y = rng.standard_normal(5)[group] + 0.1 * (x - 2000.0) + rng.standard_normal(30)
    support = ["real"] * 7 + ["positive"] * 2
    return fv.Model(line_in_groups, 9, (unit * y, x, group), support=support), 9 - 5 - 31


@pytest.mark.parametrize("unit", [1e-4, 1e4, 1e6])
@pytest.mark.parametrize("family", ["diag", "full"])
@pytest.mark.parametrize(("model_of", "seed"), [(table, 0), (table, 1), (lines, 0), (lines, 1)])
def test_the_fit_in_other_units(model_of, seed, family, unit):
    """Of fits in units of 1e4 a third took all steps, or found no start: "log_joint is -inf"."""
    (model, power), (other, _) = model_of(1.0, seed), model_of(unit, seed)
    one, two = fv.fit(model, family), fv.fit(other, family)
    assert one.converged
    assert two.converged
    apart = two.elbo.value - one.elbo.value - power * math.log(unit)
    assert abs(apart) < 4.0 * (one.elbo.error + two.elbo.error)
    assert abs(apart) < 0.02
    grown = two.q.gaussian.mean[:-4] / one.q.gaussian.mean[:-4]
    assert np.median(grown) == pytest.approx(unit, rel=0.2)


@numba.njit
def evidence_of(model):
    return fv.log_evidence(model)


@numba.njit
def line_with_t_noise(z, y, x):
    """A slope with a flat prior, and the scale of t noise with 4 degrees of freedom, with 1 / scale."""
    total = -(1.0 + y.size) * math.log(z[1])
    for i in range(y.size):
        total -= 2.5 * math.log1p(((y[i] - z[0] * x[i]) / z[1]) ** 2 / 4.0)
    return total


def line(unit, seed, of_x=1.0):
    rng = np.random.default_rng((3, seed))
    x = rng.standard_normal(int(rng.integers(8, 40)))
    y = x * rng.standard_normal() + rng.standard_t(4, x.size)
    data = unit * y, of_x * x
    return fv.Model(line_with_t_noise, 2, data, support=["real", "positive"]), 1 - x.size


@pytest.mark.parametrize("unit", [1e5, 1e7])
@pytest.mark.parametrize("seed", range(6))
def test_the_plane_in_other_units(seed, unit):
    """The joint falls off from the origin by powers: half of these were called improper."""
    (model, power), (other, _) = line(1.0, seed), line(unit, seed)
    shift = power * math.log(unit)
    one, two = fv.log_evidence(model), fv.log_evidence(other)
    assert abs(two.value - one.value - shift) <= one.error + two.error + 1e-9
    compiled = evidence_of(other)
    assert compiled.value == pytest.approx(two.value, rel=1e-12)
    assert compiled.error == pytest.approx(two.error, rel=0.1)
    for family in ("diag", "full"):
        one, two = fv.fit(model, family), fv.fit(other, family)
        assert one.converged
        assert two.converged
        assert abs(two.elbo.value - one.elbo.value - shift) <= one.elbo.error + two.elbo.error + 1e-6

"""Projections of tables onto products: exact identities, every local optimum, bad tables."""

import math

import numpy as np
import pytest
from scipy import optimize

import fastvi as fv
from fastvi import kernels
from helpers.messages import says


def total_correlation(table):
    """The sum of p log p over the product of marginals, cell by cell."""
    value = 0.0
    for cell in np.ndindex(table.shape):
        product = 1.0
        for axis, index in enumerate(cell):
            product *= table.take(index, axis=axis).sum()
        if table[cell] > 0.0:
            value += table[cell] * math.log(table[cell] / product)
    return value


@pytest.mark.parametrize("shape", [(4,), (2, 2), (3, 5), (2, 3, 4), (2, 2, 2, 3)])
def test_marginals(shape):
    table = np.random.default_rng(1).dirichlet(np.ones(math.prod(shape))).reshape(shape)
    table.flat[0] = 0.0
    table /= table.sum()
    m = fv.m_projection(table, family="product")
    assert len(m.q) == len(shape)
    for axis, factor in enumerate(m.q):
        others = tuple(a for a in range(len(shape)) if a != axis)
        np.testing.assert_allclose(factor, table.sum(axis=others), rtol=1e-15, atol=1e-16)
    assert m.kl == pytest.approx(total_correlation(table), rel=1e-13, abs=1e-15)
    assert abs(m.kl - total_correlation(table)) <= m.error
    assert m.converged


def test_mutual_information():
    table = np.array([[0.4, 0.1], [0.1, 0.4]])
    exact = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert fv.m_projection(table, family="product").kl == pytest.approx(exact, rel=1e-14)


def product_table(seed, shape):
    rng = np.random.default_rng(seed)
    factors = [rng.dirichlet(np.ones(n)) + 0.01 for n in shape]
    factors = [f / f.sum() for f in factors]
    table = np.ones(())
    for f in factors:
        table = np.multiply.outer(table, f)
    return table, factors


@pytest.mark.parametrize("shape", [(3,), (2, 2), (4, 3), (3, 2, 4), (2, 3, 2, 3)])
def test_product_tables_are_their_own_projections(shape):
    table, factors = product_table(2, shape)
    for project in (fv.m_projection, fv.i_projection):
        result = project(table, family="product")
        assert 0.0 <= result.kl < 1e-14
        assert result.converged
        assert len(result.optima) == 1
        for one, two in zip(result.q, factors, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)


def mean_field_value(table, a, b):
    q = np.multiply.outer(np.array([a, 1.0 - a]), np.array([b, 1.0 - b]))
    return float(np.sum(q * (np.log(q) - np.log(table))))


def exhaustive(table):
    """All local minima over two probabilities: the local minima on a grid, polished."""
    log_p = np.log(table)
    a = np.linspace(0.0005, 0.9995, 400)
    h = a * np.log(a) + (1.0 - a) * np.log(1.0 - a)
    u, v = a[:, None], a[None, :]
    values = (
        h[:, None]
        + h[None, :]
        - (
            u * v * log_p[0, 0]
            + u * (1 - v) * log_p[0, 1]
            + (1 - u) * v * log_p[1, 0]
            + (1 - u) * (1 - v) * log_p[1, 1]
        )
    )
    padded = np.pad(values, 1, constant_values=math.inf)
    neighbours = [padded[1 + i : 401 + i, 1 + j : 401 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    valleys = np.argwhere(values <= np.min(neighbours, axis=0))
    found = []
    for i, j in valleys:
        polished = optimize.minimize(
            lambda t: mean_field_value(table, *(1.0 / (1.0 + np.exp(-t)))),
            np.log([a[i] / (1 - a[i]), a[j] / (1 - a[j])]),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000},
        )
        found.append(polished.fun)
    return sorted(found)


@pytest.mark.parametrize("seed", range(12))
def test_mean_field_on_two_by_two_tables(seed):
    concentration = (0.3, 1.0, 3.0)[seed % 3]
    table = np.random.default_rng(seed).dirichlet(np.full(4, concentration)).reshape(2, 2) + 1e-4
    table /= table.sum()
    result = fv.i_projection(table, family="product")
    assert abs(result.kl - exhaustive(table)[0]) < 1e-8
    assert result.converged
    assert result.kl == pytest.approx(
        mean_field_value(table, result.q[0][0], result.q[1][0]), rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize(
    "table",
    [
        [[0.45, 0.05], [0.05, 0.45]],
        [[0.49, 0.01], [0.01, 0.49]],
        [[0.59, 0.01], [0.01, 0.39]],
        [[0.01, 0.69], [0.29, 0.01]],
        [[0.75, 0.001], [0.001, 0.248]],
    ],
)
def test_mean_field_finds_both_modes(table):
    table = np.array(table)
    wanted = exhaustive(table)
    assert len(wanted) == 2
    result = fv.i_projection(table, family="product")
    np.testing.assert_allclose([optimum.kl for optimum in result.optima], wanted, rtol=0, atol=1e-8)
    for optimum in result.optima:
        assert abs(optimum.q[0][0] - 0.5) > 0.1, "the saddle between them is none"


@pytest.mark.parametrize("strength", [0.5, 0.9])
def test_a_symmetric_table_below_the_threshold_has_one_optimum(strength):
    """Two spins with coupling J: the uniform distribution is the minimum up to J = 1."""
    table = np.exp(strength * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    table /= table.sum()
    result = fv.i_projection(table, family="product")
    assert len(result.optima) == 1
    for factor in result.q:
        np.testing.assert_allclose(factor, 0.5, rtol=0, atol=1e-9)
    assert result.kl == pytest.approx(math.log(math.cosh(strength)), rel=1e-12)


def test_a_saddle_is_not_returned():
    table = np.array([[0.45, 0.05], [0.05, 0.45]])
    with says(ValueError, "saddle", "starts"):
        fv.i_projection(table, family="product", starts=[([0.5, 0.5], [0.5, 0.5])])
    result = fv.i_projection(table, family="product", starts=[([0.5, 0.5], [0.6, 0.4])])
    assert len(result.optima) == 1
    # m = tanh(J m) with J = log(9) / 2.
    m = optimize.brentq(lambda m: m - math.tanh(0.5 * math.log(9.0) * m), 0.1, 1.0, xtol=1e-14)
    assert abs(abs(result.q[0][0] - 0.5) - 0.5 * m) < 1e-8


@pytest.mark.parametrize("shape", [(2, 2), (5, 4), (3, 4, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_divergence_falls_from_round_to_round(shape, seed):
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(math.prod(shape), 0.5)).reshape(shape) + 1e-6
    table /= table.sum()
    lengths = np.array(shape, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    q = np.concatenate([rng.dirichlet(np.ones(n)) for n in shape])
    trace = np.full(500, math.nan)
    value, rounds, _ = kernels.projections.mean_field.mean_field(
        np.log(table).ravel(),
        lengths,
        offsets,
        q,
        1e-12,
        500,
        np.empty(len(shape), np.int64),
        np.empty(max(shape)),
        trace,
    )
    assert 2 <= rounds <= 500
    assert trace[rounds - 1] == value
    assert np.all(np.diff(trace[:rounds]) <= 1e-14 * (1.0 + np.abs(trace[0])))
    assert trace[0] > trace[rounds - 1]
    factors = np.split(q, offsets[1:])
    outer = np.ones(())
    for factor in factors:
        assert factor.sum() == pytest.approx(1.0, rel=1e-14)
        outer = np.multiply.outer(outer, factor)
    assert value == pytest.approx(fv.kl(outer.ravel(), table.ravel(), mass="normalize"), rel=1e-11)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_optima_of_tables_are_fixed_points(shape):
    """log q_a = E[log p | a] + constant, for every factor."""
    table = np.random.default_rng(9).dirichlet(np.full(math.prod(shape), 0.7)).reshape(shape) + 1e-4
    table /= table.sum()
    result = fv.i_projection(table, family="product")
    divergences = [optimum.kl for optimum in result.optima]
    assert divergences == sorted(divergences)
    for optimum in result.optima:
        for axis, factor in enumerate(optimum.q):
            expected = np.moveaxis(np.log(table), axis, 0)
            for other in reversed([f for a, f in enumerate(optimum.q) if a != axis]):
                expected = expected @ other
            difference = np.log(factor) - expected
            np.testing.assert_allclose(difference, difference.mean(), rtol=0, atol=1e-7)


def test_starts_of_tables():
    table = np.array([[0.45, 0.05], [0.05, 0.45]])
    result = fv.i_projection(table, family="product", starts=[([0.1, 0.9], [0.1, 0.9])])
    assert len(result.optima) == 1
    assert result.q[0][1] > 0.5
    result = fv.i_projection(
        table, family="product", starts=[([0.1, 0.9], [0.1, 0.9]), ([1.0, 0.0], [1.0, 0.0])]
    )
    assert len(result.optima) == 2


@pytest.mark.parametrize(
    ("starts", "parts"),
    [
        ([([0.5, 0.5],)], ("starts[0]", "one vector for each axis", "(2, 3)")),
        ([([0.5, 0.5], [0.5, 0.5])], ("starts[0]", "one vector for each axis", "(2, 3)")),
        ([([0.5, 0.5], [0.5, 0.5, 0.5])], ("starts[0][1]", "probability vector")),
        ([([1.5, -0.5], [0.5, 0.25, 0.25])], ("starts[0][0]", "probability vector")),
        ([([math.nan, 0.5], [0.5, 0.25, 0.25])], ("starts[0][0]", "probability vector")),
        ([([0.5, 0.5], [0.5, 0.25, 0.25]), ([2.0, 2.0], [1.0, 0.0, 0.0])], ("starts[1][0]",)),
        ([], ("starts is empty",)),
    ],
)
def test_bad_starts_of_tables(starts, parts):
    with says(ValueError, *parts):
        fv.i_projection(np.full((2, 3), 1 / 6), family="product", starts=starts)


def test_starts_of_tables_of_the_wrong_kind():
    table = np.full((2, 2), 0.25)
    for starts in (3, [3], [fv.Gaussian(0, 1)]):
        with says(TypeError, "starts"):
            fv.i_projection(table, family="product", starts=starts)


@pytest.mark.parametrize("project", [fv.m_projection, fv.i_projection])
@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ([[0.5, 0.4], [0.05, 0.04]], ("p sums to 0.99",)),
        ([[0.5, 0.5], [-0.25, 0.25]], ("p[1, 0] is -0.25", "finite and >= 0")),
        ([[0.5, math.nan], [0.25, 0.25]], ("p[0, 1] is nan",)),
        ([[0.5, math.inf], [0.25, 0.25]], ("p[0, 1] is inf",)),
        (np.empty((0, 2)), ("p must be a table", "(0, 2)")),
        (1.0, ("p must be a table", "()")),
    ],
)
def test_bad_tables(project, table, parts):
    with says(ValueError, *parts):
        project(table, family="product")


@pytest.mark.parametrize(
    ("table", "index"),
    [
        ([[0.5, 0.0], [0.25, 0.25]], "p[0, 1]"),
        (np.eye(8).reshape(2, 4, 8) / 8, "p[0, 0, 1]"),
        ([0.0, 1.0], "p[0]"),
    ],
)
def test_zeros_in_tables(table, index):
    with says(ValueError, f"{index} is 0", "infinite"):
        fv.i_projection(table, family="product")
    assert fv.m_projection(table, family="product").kl >= 0.0


def test_rounding_in_a_table_is_divided_out():
    table = np.array([[0.4, 0.1], [0.1, 0.4]])
    for project in (fv.m_projection, fv.i_projection):
        value = project(table * (1.0 + 9e-7), family="product").kl
        assert value == pytest.approx(project(table, family="product").kl, rel=1e-12)
        with says(ValueError, "p sums to 1.0000"):
            project(table * (1.0 + 1.1e-6), family="product")

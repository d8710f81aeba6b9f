"""Jensen-Shannon divergence of many distributions, and mutual information: exact identities, kinds, doors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvi as fv
from fastvi.cfuncs import Mass, Status
from helpers.forms import JIT
from helpers.messages import says
from reference.discrete import exact, relative_error

seeded = settings(max_examples=100, deadline=None, derandomize=True, database=None)
compiled_only = pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set")


def tables(rng, *shape):
    """Arrays of non-negative numbers, none of whose rows is empty."""
    first = np.zeros(shape)
    first[..., 0] = 1.0
    yield "random", rng.gamma(1.0, size=shape)
    yield "sparse", rng.gamma(0.1, size=shape) * rng.integers(0, 2, shape) + first
    yield "counts", rng.poisson(3.0, shape) + first
    yield "wide", np.exp(rng.normal(0.0, 50.0, shape))
    yield "subnormal", rng.integers(0, 9, shape) * 5e-324 + 5e-324 * first
    for gap in (1e-3, 1e-6, 1e-9, 1e-12):
        parts = [
            rng.gamma(1.0, size=n).reshape([-1 if a == b else 1 for b in range(len(shape))])
            for a, n in enumerate(shape)
        ]
        yield f"within {gap}", math.prod(parts) * (1.0 + gap * rng.standard_normal(shape))
    yield "single", np.where(np.arange(math.prod(shape)).reshape(shape) == 0, 1e-200, 0.0) + 1e-205 * first


def all_weights(rng, k):
    yield np.full(k, 1.0 / k)
    yield rng.dirichlet(np.ones(k))
    small = np.full(k, 1e-9)
    small[-1] = 1.0 - small[:-1].sum()
    yield small


@pytest.mark.parametrize(
    "shape", [(1, 3), (2, 1), (2, 5), (3, 7), (6, 4), (4, 300)] if JIT else [(2, 5), (3, 7)]
)
def test_js_of_many_against_the_reference(shape):
    rng = np.random.default_rng(shape[1])
    for kind, table in tables(rng, *shape):
        for weights in all_weights(rng, shape[0]):
            for mass in ("normalize", "any"):
                value = fv.js_many(table, weights, mass=mass)
                expected = exact("js_many", *table, mass=mass, weights=weights)
                assert relative_error(value, expected) <= 1e-13, (kind, weights, mass)


def test_js_of_two_is_js():
    for p, q in np.random.default_rng(1).dirichlet(np.ones(9), (20, 2)):
        assert fv.js_many([p, q]) == pytest.approx(fv.js(p, q), rel=1e-13)
        expected = fv.js(p, q, weights=(0.25, 0.75), base=2)
        assert fv.js_many([p, q], [0.25, 0.75], base=2) == pytest.approx(expected, rel=1e-13)


def test_js_of_equal_and_of_disjoint_distributions():
    p = np.random.default_rng(2).dirichlet(np.ones(9))
    assert fv.js_many([p] * 5) == 0.0
    assert fv.js_many([[1, 2], [2, 4], [3, 6]], mass="normalize") == 0.0
    assert fv.js_many([p]) == 0.0
    assert fv.js_many(np.eye(4), base=2) == 2.0
    weights = [0.5, 0.0, 0.25, 0.25]
    assert fv.js_many(np.eye(4), weights) == pytest.approx(fv.entropy(weights), rel=1e-15)


def test_js_of_many_is_a_difference_of_entropies_and_a_mutual_information():
    rng = np.random.default_rng(3)
    table, weights = rng.dirichlet(np.ones(6), 4), rng.dirichlet(np.ones(4))
    value = fv.js_many(table, weights)
    assert value == pytest.approx(fv.entropy(weights @ table) - weights @ fv.entropy(table), rel=1e-12)
    assert value == pytest.approx(fv.mutual_information(weights[:, None] * table), rel=1e-13)
    assert fv.js_many(table.T, weights, axis=0) == value


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_js_of_narrow_types(dtype):
    table = np.random.default_rng(4).dirichlet(np.ones(50), 3).astype(dtype)
    assert fv.js_many(table) == pytest.approx(fv.js_many(table.astype(float), mass="normalize"), rel=1e-6)


def test_errors_of_js_of_many():
    table = np.full((3, 2), 0.5)
    for index, value, mass in (
        ((1, 0), math.nan, "any"),
        ((2, 1), -0.5, "normalize"),
        ((0, 1), math.inf, "unit"),
    ):
        bad = table.copy()
        bad[index] = value
        with says(ValueError, f"P[{index[0]}, {index[1]}] is {value}"):
            fv.js_many(bad, mass=mass)
        with says(ValueError, f"P[{index[1]}, {index[0]}] is {value}"):
            fv.js_many(bad.T, mass=mass, axis=0)
    with says(ValueError, "P sums to 0.75 in row (1,)"):
        fv.js_many([[0.5, 0.5], [0.5, 0.25]])
    with says(ValueError, "P sums to 0 in row (1,)"):
        fv.js_many([[0.5, 0.5], [0.0, 0.0]], mass="normalize")
    with says(ValueError, "P sums to 0.95996", "row (1,)"):
        fv.js_many(np.array([[0.5, 0.5005], [0.48, 0.48]], np.float16))
    with says(ValueError, "P must have shape (k, n)", "(2,)"):
        fv.js_many([0.5, 0.5])
    with says(ValueError, "P must have shape (k, n)", "(0, 2)"):
        fv.js_many(np.empty((0, 2)))
    with says(ValueError, "weights must have shape (3,)", "(2,)"):
        fv.js_many(table, [0.5, 0.5])
    with says(ValueError, "weights sum to 0.8"):
        fv.js_many(table, [0.5, 0.2, 0.2])
    with says(ValueError, "weights[1] is -0.5"):
        fv.js_many(table, [0.5, -0.5, 1.0])
    with says(ValueError, "axis 2 is out of range"):
        fv.js_many(table, axis=2)
    with says(ValueError, "base must be"):
        fv.js_many(table, base=1)


@pytest.mark.parametrize(
    "shape", [(1, 3), (2, 2), (5, 4), (2, 3, 4), (2, 1, 2, 3), (2,) * 6] if JIT else [(2, 3, 2)]
)
def test_mutual_information_against_the_reference(shape):
    rng = np.random.default_rng(len(shape))
    for kind, joint in tables(rng, *shape):
        value = fv.mutual_information(joint, mass="normalize")
        expected = exact("mutual_information", joint.ravel(), shape=shape)
        assert relative_error(value, expected) <= 1e-13, (kind, value, float(expected))


def test_independent_variables():
    counts = np.einsum("i,j,k->ijk", [1, 2, 3], [4, 5], [6, 0, 7])
    assert fv.mutual_information(counts, mass="normalize") == 0.0
    assert fv.mutual_information([[1, 2], [2, 4]], mass="normalize") == 0.0


def test_variables_that_determine_each_other():
    p = np.random.default_rng(6).dirichlet(np.ones(5))
    assert fv.mutual_information(np.diag(p)) == pytest.approx(fv.entropy(p), rel=1e-14)
    for rare in (1e-20, 1e-200, 1e-300):  # the product of its marginals is far below the floats
        value = fv.mutual_information([[1.0, 0.0], [0.0, rare]])
        assert value == pytest.approx(fv.entropy([1.0, rare]), rel=1e-13)
    cube = np.zeros((5, 5, 5))
    cube[np.arange(5), np.arange(5), np.arange(5)] = p
    assert fv.mutual_information(cube) == pytest.approx(2.0 * fv.entropy(p), rel=1e-14)
    parity = np.zeros((2, 2, 2))
    for i, j in np.ndindex(2, 2):
        parity[i, j, i ^ j] = 0.25
    assert fv.mutual_information(parity, base=2) == 1.0  # though any two are independent
    assert fv.mutual_information(parity.sum(axis=2)) == 0.0


@seeded
@given(st.integers(0, 10**9), st.sampled_from([(3, 4), (2, 3, 2), (2, 2, 2, 2)]))
def test_identities_of_mutual_information(seed, shape):
    joint = np.random.default_rng(seed).dirichlet(np.full(math.prod(shape), 0.3)).reshape(shape)
    value = fv.mutual_information(joint)
    marginals = [joint.sum(axis=tuple(b for b in range(joint.ndim) if b != a)) for a in range(joint.ndim)]
    entropies = sum(fv.entropy(m, mass="normalize") for m in marginals)
    assert value == pytest.approx(entropies - fv.entropy(joint, axis=None), rel=1e-11, abs=1e-14)
    assert value >= 0.0
    assert fv.mutual_information(joint.T.copy()) == pytest.approx(value, rel=1e-13, abs=1e-300)
    # The chain rule of total correlation: that of two of the variables as one, and between these two.
    if joint.ndim > 2:
        pair = joint.sum(axis=tuple(range(2, joint.ndim)))
        merged = joint.reshape(-1, *shape[2:])
        parts = fv.mutual_information(merged, mass="normalize") + fv.mutual_information(
            pair, mass="normalize"
        )
        assert value == pytest.approx(parts, rel=1e-12)


def test_axes_of_mutual_information():
    joint = np.random.default_rng(7).dirichlet(np.ones(12), (2, 3)).reshape(2, 3, 3, 4)
    found = fv.mutual_information(joint, axis=(2, 3))
    assert found.shape == (2, 3)
    assert found[1, 2] == fv.mutual_information(joint[1, 2])
    assert fv.mutual_information(joint, axis=(-1, -2), keepdims=True).shape == (2, 3, 1, 1)
    assert np.array_equal(fv.mutual_information(np.moveaxis(joint, 2, 0), axis=(0, 3)), found)
    wrong = joint.copy()
    wrong[1, 2, 0, 0] = math.nan
    with says(ValueError, "joint[1, 2, 0, 0] is nan"):
        fv.mutual_information(wrong, axis=(2, 3))
    kept = fv.mutual_information(wrong, axis=(2, 3), nan_policy="propagate")
    assert math.isnan(kept[1, 2])
    assert np.array_equal(np.isfinite(kept), found != found[1, 2])
    left = fv.mutual_information(wrong, axis=(2, 3), nan_policy="omit", mass="normalize")
    without = joint[1, 2].copy()
    without[0, 0] = 0.0
    assert left[1, 2] == fv.mutual_information(without, mass="normalize")


def test_errors_of_mutual_information():
    with says(ValueError, "two axes or more"):
        fv.mutual_information([0.5, 0.5])
    with says(ValueError, "two axes or more"):
        fv.mutual_information(np.full((2, 2), 0.5), axis=1)
    with says(ValueError, "joint sums to 2.0"):
        fv.mutual_information(np.full((2, 2), 0.5))
    with says(ValueError, "joint sums to 0", "normalised"):
        fv.mutual_information(np.zeros((2, 2)), mass="normalize")
    with says(ValueError, "mutual_information", "not 'any'"):
        fv.mutual_information(np.full((2, 2), 0.25), mass="any")
    with says(ValueError, "nan_policy"):
        fv.mutual_information(np.full((2, 2), 0.25), nan_policy="drop")
    with says(ValueError, "empty along axis"):
        fv.mutual_information(np.empty((2, 0)))


def test_mutual_information_of_labelled_tables():
    pd, xr = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    da = pytest.importorskip("dask.array")
    joint = np.random.default_rng(8).dirichlet(np.ones(12)).reshape(3, 4)
    value = fv.mutual_information(joint)
    assert fv.mutual_information(pd.DataFrame(joint)) == value
    named = xr.DataArray(np.stack([joint, joint]), dims=("s", "x", "y"))
    assert fv.mutual_information(named, dim=("x", "y")).dims == ("s",)
    assert float(fv.mutual_information(named[0])) == value
    assert fv.mutual_information(da.from_array(joint, chunks=(1, 2))).compute() == value


@compiled_only
def test_every_door():
    import numba

    from fastvi import cfuncs

    c, out = np.ctypeslib.as_ctypes, np.zeros(1)
    rng = np.random.default_rng(9)
    table, weights = rng.dirichlet(np.ones(6), 4), np.array([0.5, 0.25, 0.125, 0.125])
    value = fv.js_many(table, weights)
    assert cfuncs.js_many.ctypes(c(table.ravel()), 4, 6, c(weights), Mass.UNIT, c(out)) == Status.FINE
    assert out[0] == value
    weighted = numba.njit(lambda p, w: fv.js_many(p, w))
    assert weighted(table, weights) == value
    assert numba.njit(lambda p: fv.js_many(p, base=2.0))(table) == fv.js_many(table, base=2.0)
    assert numba.njit(lambda p: fv.js_many(p, mass="any"))(3 * table) == fv.js_many(3 * table, mass="any")
    for bad in ([0.5, 0.5], [1.0, -0.5, 0.25, 0.25], [0.5, 0.5, 0.5, 0.5], [math.nan] * 4):
        assert math.isnan(weighted(table, np.array(bad)))
    assert math.isnan(weighted(-table, weights))
    assert cfuncs.js_many.ctypes(c(-table.ravel()), 4, 6, c(weights), Mass.UNIT, c(out)) == Status.INVALID
    assert cfuncs.js_many.ctypes(c(table.ravel()), 4, 6, c(2 * weights), Mass.UNIT, c(out)) == Status.INVALID
    assert cfuncs.js_many.ctypes(c(table.ravel()), 0, 6, c(weights), Mass.UNIT, c(out)) == Status.BAD_ARGUMENT
    assert math.isnan(out[0])

    joint = rng.dirichlet(np.ones(24)).reshape(2, 3, 4)
    value, lengths = fv.mutual_information(joint), np.array(joint.shape, np.int64)
    run = cfuncs.mutual_information.ctypes
    assert run(c(joint.ravel()), c(lengths), 3, Mass.UNIT, c(out)) == Status.FINE
    assert out[0] == value
    compiled = numba.njit(lambda p: fv.mutual_information(p))
    assert compiled(joint) == value
    assert compiled(joint.reshape(6, 4)) == fv.mutual_information(joint.reshape(6, 4))
    assert math.isnan(compiled(2.0 * joint))
    assert run(c(2.0 * joint.ravel()), c(lengths), 3, Mass.UNIT, c(out)) == Status.INVALID
    assert run(c(joint.ravel()), c(lengths), 1, Mass.UNIT, c(out)) == Status.BAD_ARGUMENT
    assert run(c(joint.ravel()), c(0 * lengths), 3, Mass.UNIT, c(out)) == Status.BAD_ARGUMENT
    assert run(c(joint.ravel()), c(lengths), 3, Mass.ANY, c(out)) == Status.BAD_ARGUMENT

"""Arguments with labels: pandas, xarray; and arrays that are computed later: Dask."""

import numpy as np
import pytest

import fastvi as fv
from helpers.divergence_rows import EVERY, PAIRED, evaluate
from helpers.messages import says

every = pytest.mark.parametrize("name", EVERY)
paired = pytest.mark.parametrize("name", PAIRED)
RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.ones(5), size=(2, 4))
SQUARE, OTHER = RNG.dirichlet(np.ones(4), size=(2, 4))
ROWS, COLUMNS = list("wxyz"), list("abcde")


@pytest.fixture
def pd():
    return pytest.importorskip("pandas")


@pytest.fixture
def xr():
    return pytest.importorskip("xarray")


@pytest.fixture
def da():
    return pytest.importorskip("dask.array")


def frames(pd):
    return pd.DataFrame(P, ROWS, COLUMNS), pd.DataFrame(Q, ROWS, COLUMNS)


@paired
def test_series_in_another_order(name, pd):
    p, q = pd.Series(P[0], COLUMNS), pd.Series(Q[0], COLUMNS)
    found = evaluate(name, p, q.iloc[[3, 0, 4, 2, 1]])
    assert found == evaluate(name, P[0], Q[0])
    assert type(found) is float
    assert evaluate(name, p, Q[0]) == found


def test_series_with_other_labels(pd):
    p = pd.Series([0.5, 0.5], ["a", "b"])
    with says(ValueError, "different labels along the index", "'b' only in p", "'c' only in q"):
        fv.kl(p, pd.Series([0.5, 0.5], ["a", "c"]))
    with says(ValueError, "different labels", "'c' only in q"):
        fv.kl(p, pd.Series([0.5, 0.25, 0.25], ["a", "b", "c"]))
    twice = pd.Series([0.5, 0.25, 0.25], ["a", "b", "b"])
    assert fv.kl(twice, twice.copy()) == 0.0
    with says(ValueError, "another order", "repeat"):
        fv.kl(twice, twice.iloc[[1, 0, 2]])


@paired
def test_frames_are_matched_along_both_axes(name, pd):
    p, q = frames(pd)
    mixed = q.iloc[[2, 0, 3, 1], [4, 2, 0, 1, 3]]
    expected = evaluate(name, P, Q)
    found = evaluate(name, p, mixed)
    assert type(found) is pd.Series
    assert found.index.tolist() == ROWS
    assert np.array_equal(found, expected)
    turned = evaluate(name, p.T, mixed.T, axis=0)
    assert turned.index.tolist() == ROWS
    assert np.array_equal(turned, expected)
    assert evaluate(name, p, mixed, axis=None, mass="normalize") == evaluate(
        name, P, Q, axis=None, mass="normalize"
    )
    assert evaluate(name, p, mixed, keepdims=True).shape == (4, 1)


@paired
def test_a_series_is_one_distribution_beside_a_frame(name, pd):
    p, q = frames(pd)
    row = q.loc["y"].iloc[[4, 2, 0, 1, 3]]
    for found, expected in (
        (evaluate(name, p, row), evaluate(name, P, Q[2])),
        (evaluate(name, row, p), evaluate(name, Q[2], P)),
        (evaluate(name, p.T, row, axis=0), evaluate(name, P, Q[2])),
        (evaluate(name, row, p.T, axis=0), evaluate(name, Q[2], P)),
        (evaluate(name, p, Q[2]), evaluate(name, P, Q[2])),
        (evaluate(name, P, q), evaluate(name, P, Q)),
    ):
        assert found.index.tolist() == ROWS
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_frames_with_other_labels(pd):
    p, q = frames(pd)
    with says(ValueError, "along the index", "'w' only in p", "'v' only in q"):
        fv.kl(p, q.rename(index={"w": "v"}))
    with says(ValueError, "along the columns", "'a' only in p", "1 only in q"):
        fv.kl(p, q.rename(columns={"a": 1}))
    with says(ValueError, "along the columns"):
        fv.kl(p, pd.Series(Q[0]))
    with says(ValueError, "axis must be one"):
        fv.kl(p, q.loc["w"], axis=None)


def test_one_frame(pd):
    p = frames(pd)[0]
    found = fv.entropy(p)
    assert found.index.tolist() == ROWS
    assert np.array_equal(found, fv.entropy(P))
    assert fv.entropy(p.T, axis=0).index.tolist() == ROWS
    assert type(fv.entropy(p.loc["w"])) is float


def test_nullable_types_of_pandas(pd):
    p = pd.Series([1, None, 3], dtype="Int64")
    q = pd.Series([0.5, 0.25, 0.25], dtype="Float64")
    with says(ValueError, "p[1] is nan"):
        fv.kl(p, q, mass="normalize")
    expected = fv.kl([1, 3], [0.5, 0.25], mass="normalize")
    assert fv.kl(p, q, mass="normalize", nan_policy="omit") == pytest.approx(expected, rel=1e-14)
    assert fv.entropy(pd.Series([0.1] * 10, dtype="Float32")) == pytest.approx(np.log(10.0), rel=1e-6)
    with says(TypeError, "dtype object"):
        fv.entropy(pd.Series([0.5, "half"], dtype=object))


def test_gradient_in_the_order_of_p(pd):
    p, q = frames(pd)
    expected = fv.kl_grad(P, Q)
    found = fv.kl_grad(p, q.iloc[:, [4, 2, 0, 1, 3]])
    for x, y in zip(found, expected, strict=True):
        assert np.array_equal(x, y)


def arrays(xr, p=P, q=Q):
    coords = {"r": ROWS, "k": COLUMNS[: p.shape[1]]}
    return (xr.DataArray(x, dims=("r", "k"), coords=coords) for x in (p, q))


@every
def test_dimensions_are_matched_by_name(name, xr):
    p, q = arrays(xr, SQUARE, OTHER)
    expected = evaluate(name, SQUARE, OTHER)
    for found in (
        evaluate(name, p, q, dim="k"),
        evaluate(name, p, q.T),
        evaluate(name, p.T, q, dim="k"),
        evaluate(name, p.T, q, axis=0),
        evaluate(name, p, q.isel(r=[2, 0, 1, 3], k=[3, 0, 2, 1]), dim="k"),
        evaluate(name, p, q, dim=["k"]),
    ):
        assert type(found) is xr.DataArray
        assert found.dims == ("r",)
        assert found.r.values.tolist() == ROWS
        assert np.array_equal(found, expected)


@paired
def test_other_dimensions_broadcast_by_name(name, xr):
    p, q = arrays(xr)
    found = evaluate(name, p, q.rename(r="s").T, dim="k")
    assert found.dims == ("r", "s")
    assert np.array_equal(found, evaluate(name, P[:, None], Q))
    assert np.array_equal(evaluate(name, p, q.isel(r=1), dim="k"), evaluate(name, P, Q[1]))
    assert np.array_equal(evaluate(name, p, Q[1], dim="k"), evaluate(name, P, Q[1]))
    whole = evaluate(name, p, q.T, dim=("r", "k"), mass="normalize")
    assert whole.shape == ()
    assert float(whole) == evaluate(name, P, Q, axis=None, mass="normalize")
    assert float(evaluate(name, p, q.T, dim=..., mass="normalize")) == float(whole)
    assert float(evaluate(name, p, q.T, axis=None, mass="normalize")) == float(whole)


def test_errors_of_named_dimensions(xr, pd):
    p, q = arrays(xr)
    with says(ValueError, "q has no dimension 'k'", "'r', 'j'"):
        fv.kl(p, q.rename(k="j"), dim="k")
    with says(ValueError, "different labels along 'k'", "'e' only in p"):
        fv.kl(p, q.isel(k=slice(0, 4)), dim="k")
    with says(ValueError, "dim='k'", "axis=0"):
        fv.kl(p, q, dim="k", axis=0)
    with says(ValueError, "keepdims"):
        fv.kl(p, q, dim="k", keepdims=True)
    with says(TypeError, "dim='k'", "give axis"):
        fv.kl(P, Q, dim="k")
    with says(ValueError, "q is no DataArray"):
        fv.kl(p, Q, dim="k")
    with says(ValueError, "several different ones"):
        fv.kl(p, q, dim=("k", "k"))
    with says(TypeError, "a DataArray and a table of pandas"):
        fv.kl(p, pd.Series(Q[0], COLUMNS), dim="k")
    with says(TypeError, "p is a DataArray", "gradients"):
        fv.kl_grad(p, q)


class ComputedError(Exception):
    pass


@pytest.fixture
def refusing(da):
    """Computing anything is an error."""
    dask = pytest.importorskip("dask")

    def refuse(*args, **keywords):
        raise ComputedError

    with dask.config.set(scheduler=refuse):
        yield da


@every
def test_dask_arrays_are_not_computed(name, refusing):
    da = refusing
    p, q = da.from_array(P, chunks=(3, 2)), da.from_array(Q, chunks=(2, 5))
    cases = [
        (evaluate(name, p, q), evaluate(name, P, Q)),
        (evaluate(name, p, Q), evaluate(name, P, Q)),
        (evaluate(name, p.T, q.T, axis=0), evaluate(name, P, Q)),
        (evaluate(name, p[0], q[1]), evaluate(name, P[0], Q[1])),
        (evaluate(name, p, q, keepdims=True), evaluate(name, P, Q, keepdims=True)),
        (
            evaluate(name, p, q, axis=None, mass="normalize"),
            evaluate(name, P, Q, axis=None, mass="normalize"),
        ),
        (evaluate(name, p[:, None], q), evaluate(name, P[:, None], Q)),
        (evaluate(name, p, q[0]), evaluate(name, P, Q[0])),
    ]
    for found, expected in cases:
        assert isinstance(found, da.Array)
        assert found.shape == np.shape(expected)
        with pytest.raises(ComputedError):
            found.compute()
        assert np.array_equal(found.compute(scheduler="synchronous"), expected)


def test_chunked_data_arrays_stay_lazy(xr, refusing):
    p, q = arrays(xr)
    found = fv.kl(p.chunk({"r": 2, "k": 3}), q.T, dim="k")
    assert isinstance(found.data, refusing.Array)
    assert np.array_equal(found.compute(scheduler="synchronous"), fv.kl(P, Q))


@pytest.mark.parametrize("metric", ["kl", "js", "chi2"])
def test_pairwise_of_dask_arrays(metric, refusing):
    p, q = refusing.from_array(P, chunks=(3, 2)), refusing.from_array(Q, chunks=(1, 5))
    for given, expected in (((p, q), (P, Q)), ((p,), (P,)), ((p, Q), (P, Q)), ((P, q), (P, Q))):
        found = fv.pairwise(*given, metric=metric, base=None)
        assert isinstance(found, refusing.Array)
        with pytest.raises(ComputedError):
            found.compute()
        computed = found.compute(scheduler="synchronous")
        np.testing.assert_allclose(computed, fv.pairwise(*expected, metric=metric), rtol=1e-13, atol=1e-300)
    with says(ValueError, "rows of one length"):
        fv.pairwise(p, q[:, 1:])
    with says(ValueError, "out has no use"):
        fv.pairwise(p, out=np.empty((4, 4)))
    with says(ValueError, "mass"):
        fv.pairwise(p, mass="sum")


def test_pairwise_of_labelled_tables(pd, xr):
    expected = fv.pairwise(P, Q)
    p, q = frames(pd)
    assert np.array_equal(fv.pairwise(p, q.iloc[:, [4, 2, 0, 1, 3]]), expected)
    with says(ValueError, "P and Q have different labels along the columns", "'a' only in P, 'v' only in Q"):
        fv.pairwise(p, q.rename(columns={"a": "v"}))
    p, q = arrays(xr)
    q = q.rename(r="s")
    assert np.array_equal(fv.pairwise(p, q.T.isel(k=[4, 2, 0, 1, 3])), expected)
    with says(ValueError, "Q has no dimension 'k'"):
        fv.pairwise(p, q.rename(k="j"))


def test_what_cannot_wait_says_so(refusing):
    lazy = refusing.from_array(P)
    with says(TypeError, "weights is a Array", "weights.compute()"):
        fv.js_many(P, lazy[:, 0])
    with says(TypeError, "p is a Array", "numpy.asarray(p)"):
        fv.kl_grad(lazy, Q)
    with pytest.raises(ValueError, match="mass"):
        fv.kl(lazy, Q, mass="sum")

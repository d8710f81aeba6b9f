"""All pairs at once: each entry is what the one-pair function gives, in bounded memory."""

import builtins
import math
import sys
import tracemalloc
import types

import numpy as np
import pytest

import fastvi as fv
from helpers.divergence_rows import OF_MEASURES, PAIRED, WITH_BASE, parameters

METRICS = {name: parameters(name) for name in PAIRED}
every = pytest.mark.parametrize("metric", METRICS)


def one_by_one(metric, P, Q, **keywords):
    function = getattr(fv, metric)
    return np.array([[function(p, q, **METRICS[metric], **keywords) for q in Q] for p in P])


def assert_pairs(metric, P, Q=None, tolerance=1e-13, **keywords):
    got = fv.pairwise(P, Q, metric, **METRICS[metric], **keywords)
    wanted = one_by_one(metric, P, P if Q is None else Q, **keywords)
    assert got.shape == wanted.shape
    assert got.dtype == np.float64
    # equal infinities, and finite values to the last digits but for the smallest of all numbers
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=1e-323)
    return got


def rows(seed, n, d, concentration=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(d, concentration), size=n)


def nearly_equal(seed, n, d):
    """Rows at distances from 1e-1 down to 1e-9 of one row."""
    rng = np.random.default_rng(seed)
    table = rows(seed, 1, d) * (1.0 + np.logspace(-1, -9, n)[:, None] * rng.uniform(-1, 1, (n, d)))
    return table / table.sum(axis=1, keepdims=True)


def with_zeros(seed, n, d):
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.ones(d), size=n)
    table[rng.random((n, d)) < 0.3] = 0.0
    table[0] = 0.0
    table[0, 0] = 1.0
    return table / table.sum(axis=1, keepdims=True)


def with_subnormals(seed, n, d):
    table = rows(seed, n, d)
    table[:, :3] = np.random.default_rng(seed).choice([5e-324, 1e-310, 1e-300, 1e-200], size=(n, 3))
    return table / table.sum(axis=1, keepdims=True)


def across_orders(seed, n, d):
    table = 10.0 ** np.random.default_rng(seed).uniform(-300, 0, size=(n, d))
    return table / table.sum(axis=1, keepdims=True)


def between(seed, n, d):
    """Rows on the way from one row to another, in steps that reach from far to near."""
    one, other = rows(seed, 2, d)
    share = np.logspace(0, -3, n)[:, None]
    table = (1.0 - share) * one + share * other
    return table / table.sum(axis=1, keepdims=True)


def barely_overlapping():
    """Two rows of a pair share one entry, and less than 1e-290 of each other or nothing."""
    shared = np.repeat([0.0, 5e-324, 1e-310, 1e-295, 1e-200], 2)[:, None]
    return np.hstack([np.tile(np.eye(2), (5, 1)), shared])


KINDS = {
    "random": rows(0, 13, 31),
    "concentrated": rows(1, 11, 40, 100.0),
    "sparse": rows(2, 11, 40, 0.01),
    "nearly-equal": nearly_equal(3, 11, 37),
    "zeros": with_zeros(4, 12, 6),
    "subnormals": with_subnormals(5, 11, 9),
    "orders": across_orders(6, 11, 29),
    "between": between(29, 24, 37),
    "barely-overlapping": barely_overlapping(),
    "one-hots": np.eye(7),
    "one-column": np.ones((5, 1)),
}


@every
@pytest.mark.parametrize("kind", KINDS)
def test_each_entry(metric, kind):
    table = KINDS[kind]
    assert_pairs(metric, table, table[::-1] * 1.0)


@every
@pytest.mark.parametrize("kind", ["random", "nearly-equal", "zeros", "one-hots"])
def test_a_table_with_itself(metric, kind):
    got = assert_pairs(metric, KINDS[kind])
    if metric != "cross_entropy":
        assert np.all(np.diagonal(got) == 0.0)


@pytest.mark.parametrize("kind", ["zeros", "one-hots"])
def test_missing_support_is_infinite(kind):
    table = KINDS[kind]
    for metric in ("kl", "cross_entropy"):
        got = fv.pairwise(table, metric=metric)
        missing = ((table[:, None] > 0.0) & (table == 0.0)).any(axis=-1)
        assert missing.any()
        assert np.array_equal(np.isinf(got), missing)


@every
def test_duplicate_rows_are_exactly_zero(metric):
    table = np.repeat(rows(7, 3, 100), 2, axis=0)
    got = fv.pairwise(table, table.copy(), metric, **METRICS[metric])
    same = np.arange(6)[:, None] // 2 == np.arange(6) // 2
    if metric == "cross_entropy":
        wanted = np.broadcast_to(fv.entropy(table)[:, None], got.shape)
        np.testing.assert_allclose(got[same], wanted[same], rtol=1e-13)
    else:
        assert np.all(got[same] == 0.0)
        assert np.all(got[~same] > 0.01)


@every
def test_normalised_counts(metric):
    rng = np.random.default_rng(8)
    P, Q = rng.poisson(5.0, size=(7, 20)), 1 + rng.poisson(50.0, size=(5, 20))
    assert P.dtype.kind == "i"
    assert_pairs(metric, P, Q, mass="normalize")


@pytest.mark.parametrize("metric", [name for name in PAIRED if name in OF_MEASURES])
def test_measures(metric):
    rng = np.random.default_rng(9)
    P, Q = rng.gamma(1.0, 3.0, size=(7, 20)), rng.gamma(1.0, 0.5, size=(5, 20))
    P[2, 3] = Q[1, 4] = 0.0
    Q[3] = P[3] * (1.0 + 1e-7)
    P[5] = 0.0
    assert_pairs(metric, P, Q, mass="any")
    Q[2] = 0.0
    assert_pairs(metric, P, Q, mass="any")


@every
def test_float32(metric):
    P, Q = rows(10, 7, 90).astype(np.float32), nearly_equal(11, 6, 90).astype(np.float32)
    assert_pairs(metric, P, Q, tolerance=1e-6)
    assert_pairs(metric, Q, tolerance=1e-6)


@every
def test_layouts(metric):
    P, Q = rows(12, 7, 20), rows(13, 9, 20)
    wanted = fv.pairwise(P, Q, metric, **METRICS[metric])
    wide = np.full((14, 40), np.nan)
    wide[::2, ::-2] = P
    frozen = Q.copy()
    frozen.flags.writeable = False
    before = wide.tobytes(), frozen.tobytes()
    assert np.array_equal(fv.pairwise(wide[::2, ::-2], frozen, metric, **METRICS[metric]), wanted)
    assert np.array_equal(
        fv.pairwise(np.asfortranarray(P), Q.tolist(), metric, **METRICS[metric]),
        wanted,
    )
    assert (wide.tobytes(), frozen.tobytes()) == before


@pytest.mark.parametrize("metric", ["kl", "js", "chi2"])
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (1, 1, 1),
        (1, 1, 7),
        (1, 300, 5),
        (300, 1, 5),
        (127, 263, 3),
        (67, 521, 11),
        (2, 3, 4099),
        (3, 2, 20_011),
    ],
)
def test_sizes(metric, n, m, d):
    """Every entry of small tables, a sample of large ones: tiles have edges."""
    P, Q = rows(14, n, d), rows(15, m, d)
    got = fv.pairwise(P, Q, metric)
    assert got.shape == (n, m)
    i = np.unique(np.linspace(0, n - 1, 40).astype(int))
    j = np.unique(np.linspace(0, m - 1, 40).astype(int))
    np.testing.assert_allclose(got[np.ix_(i, j)], one_by_one(metric, P[i], Q[j]), rtol=1e-13)
    function = getattr(fv, metric)
    np.testing.assert_allclose(got[-1], function(P[-1], Q), rtol=1e-13)
    np.testing.assert_allclose(got[:, -1], function(P, Q[-1]), rtol=1e-13)
    np.testing.assert_allclose(got, function(P[:, None], Q), rtol=1e-13)


@every
def test_no_rows(metric):
    P = rows(16, 3, 4)
    assert fv.pairwise(P[:0], P, metric, **METRICS[metric]).shape == (0, 3)
    assert fv.pairwise(P, P[:0], metric, **METRICS[metric]).shape == (3, 0)
    assert fv.pairwise(P[:0], metric=metric, **METRICS[metric]).shape == (0, 0)


@pytest.mark.parametrize("metric", [name for name in PAIRED if name in WITH_BASE])
def test_base(metric):
    assert_pairs(metric, rows(17, 7, 20), rows(18, 5, 20), base=2)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, 2, math.inf])
def test_alpha(alpha):
    P, Q = with_zeros(19, 6, 9), rows(20, 5, 9)
    got = fv.pairwise(P, Q, "renyi", alpha=alpha)
    np.testing.assert_allclose(got, fv.renyi(P[:, None], Q, alpha), rtol=1e-13)
    if alpha != math.inf:
        got = fv.pairwise(P, Q, "alpha_divergence", alpha=alpha)
        np.testing.assert_allclose(got, fv.alpha_divergence(P[:, None], Q, alpha), rtol=1e-13)


@pytest.mark.parametrize("metric", ["kl", "js_distance", "hellinger"])
def test_out(metric, tmp_path):
    P, Q = rows(21, 70, 20), rows(22, 300, 20)
    wanted = fv.pairwise(P, Q, metric)
    out = np.full((70, 300), np.nan)
    assert fv.pairwise(P, Q, metric, out=out) is out
    assert np.array_equal(out, wanted)
    out = np.full((70, 300), np.nan, np.float32)
    assert fv.pairwise(P, Q, metric, out=out) is out
    assert np.array_equal(out, wanted.astype(np.float32))
    out = np.full((300, 140), np.nan)[:, ::2].T
    assert fv.pairwise(P, Q, metric, out=out) is out
    assert np.array_equal(out, wanted)
    out = np.memmap(tmp_path / "out", dtype=np.float64, mode="w+", shape=(70, 300))
    assert fv.pairwise(P, Q, metric, out=out) is out
    out.flush()
    del out
    assert np.array_equal(np.fromfile(tmp_path / "out").reshape(70, 300), wanted)


def test_out_in_big_endian():
    P = rows(23, 5, 6)
    out = np.full((5, 5), np.nan).astype(">f8")
    fv.pairwise(P, out=out)
    assert np.array_equal(out, fv.pairwise(P))


@pytest.fixture
def bars(monkeypatch):
    """A replacement of tqdm that records its calls."""
    seen = []

    def tqdm(steps, **_):
        seen.append(0)
        for step in steps:
            yield step
            seen[-1] += 1

    module = types.ModuleType("tqdm.auto")
    module.tqdm = tqdm
    package = types.ModuleType("tqdm")
    package.auto = module
    monkeypatch.setitem(sys.modules, "tqdm", package)
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    return seen


def test_progress_shows_a_bar(bars):
    P = rows(24, 600, 8)
    assert np.array_equal(fv.pairwise(P, progress=True), fv.pairwise(P))
    assert len(bars) == 1
    assert bars[0] > 1


def test_no_bar_unless_asked(bars):
    fv.pairwise(rows(24, 600, 8))
    assert bars == []


def test_progress_with_the_real_tqdm(capsys):
    pytest.importorskip("tqdm")
    P = rows(24, 600, 8)
    assert np.array_equal(fv.pairwise(P, progress=True), fv.pairwise(P))
    assert "pairwise" in capsys.readouterr().err


def test_progress_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError):
        builtins.__import__("tqdm.auto")
    P = rows(24, 600, 8)
    assert np.array_equal(fv.pairwise(P, progress=True), fv.pairwise(P))
    assert capsys.readouterr().err == ""


def peak_beyond(result_bytes, compute):
    tracemalloc.start()
    try:
        compute()
        return tracemalloc.get_traced_memory()[1] - result_bytes
    finally:
        tracemalloc.stop()


LIMIT = 64 << 20


@pytest.mark.parametrize("metric", ["kl", "js", "total_variation"])
def test_memory_beyond_a_new_result(metric):
    P, Q = rows(25, 3000, 8), rows(26, 3000, 8)
    fv.pairwise(P[:9], Q[:9], metric)
    beyond = peak_beyond(3000 * 3000 * 8, lambda: fv.pairwise(P, Q, metric))
    assert 0 < beyond < LIMIT


@pytest.mark.parametrize("metric", ["kl", "js"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_memory_beyond_a_memmap(metric, dtype, tmp_path):
    n, m, d = 20_000, 2000, 6
    P, Q = rows(27, n, d), rows(28, m, d)
    fv.pairwise(P[:9], Q[:9], metric)
    out = np.memmap(tmp_path / "out", dtype=dtype, mode="w+", shape=(n, m))
    beyond = peak_beyond(0, lambda: fv.pairwise(P, Q, metric, out=out))
    assert 0 < beyond < LIMIT
    tolerance = 1e-13 if dtype is np.float64 else 1e-6
    function = getattr(fv, metric)
    np.testing.assert_allclose(out[n - 1], function(P[-1], Q), rtol=tolerance)
    np.testing.assert_allclose(out[::4999, m - 1], function(P[::4999], Q[-1]), rtol=tolerance)
    assert np.all(np.asarray(out[::997]) > 0.0)


@pytest.mark.parametrize("metric", ["kl", "js", "hellinger"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", ["c", "strided"])
def test_memory_beyond_long_rows(metric, dtype, layout):
    """Rows of 250,000 entries are what the docstring promises; the table itself is larger than the limit."""
    table = np.full((40 if dtype is np.float64 else 80, 250_000), 1 / 250_000, dtype)
    assert table.nbytes > LIMIT
    if layout == "strided":
        table = np.asfortranarray(table)
    fv.pairwise(table[:, :8] * 31_250, metric=metric)
    assert 0 < peak_beyond(0, lambda: fv.pairwise(table, table[:3], metric)) < LIMIT

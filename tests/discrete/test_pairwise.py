"""All pairs at once: each entry is what the one-pair function gives, in bounded memory."""

import builtins
import math
import sys
import tracemalloc
import types
from unittest import mock

import numba
import numpy as np
import pytest
from mpmath import mp

import fastvi as fv
from fastvi.discrete import all_pairs
from fastvi.discrete.all_pairs import _METHODS
from helpers.divergence_rows import OF_MEASURES, PAIRED, SYMMETRIC, WITH_BASE, parameters
from reference import discrete as reference

METRICS = {name: parameters(name) for name in PAIRED}

#: Entries of pairs of small tables: tests set that of the package to 0.
FEW = all_pairs._FEW
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
    with mock.patch.object(all_pairs, "_FEW", FEW):
        few = fv.pairwise(P, Q, metric, **METRICS[metric], **keywords)
    np.testing.assert_allclose(few, wanted, rtol=tolerance, atol=0.0)
    return got


@every
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_small_tables_have_the_bits_of_the_function(metric, dtype, monkeypatch):
    monkeypatch.setattr(all_pairs, "_FEW", FEW)
    P, Q = rows(50, 5, 7), rows(51, 4, 7)
    if dtype is np.int64:
        P, Q = 100.0 * P + 1.0, 50.0 * Q + 1.0
    P, Q = P.astype(dtype), Q.astype(dtype)
    one = {"mass": "normalize"} if dtype is np.int64 else {}
    for keywords in (one, {"mass": "normalize"}, one | ({"base": 2} if metric in WITH_BASE else {})):
        for a, b in ((P, Q), (P[::-1], Q), (P, Q.astype(np.float64))):
            got = fv.pairwise(a, b, metric, **METRICS[metric], **keywords)
            assert np.array_equal(got, one_by_one(metric, a.astype(b.dtype), b, **keywords))
    itself = fv.pairwise(P, metric=metric, **METRICS[metric], **one)
    assert np.array_equal(itself.diagonal(), np.zeros(5)) or metric == "cross_entropy"
    if metric in SYMMETRIC:
        assert np.array_equal(itself, itself.T)
        assert np.array_equal(np.triu(itself), np.triu(one_by_one(metric, P, P, **one)))
    else:
        assert np.array_equal(itself, one_by_one(metric, P, P, **one))


def test_a_wrong_row_of_a_small_table_is_named(monkeypatch):
    monkeypatch.setattr(all_pairs, "_FEW", FEW)
    P = rows(52, 4, 3)
    wrong = P.copy()
    wrong[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"P\[2, 1\]"):
        fv.pairwise(wrong, P)
    with pytest.raises(ValueError, match=r"Q\[2, 1\]"):
        fv.pairwise(P, wrong)
    with pytest.raises(ValueError, match=r"P sums to 1.25 in row \(1,\)"):
        fv.pairwise(np.array([[0.5, 0.5], [0.5, 0.75]]))
    with pytest.raises(ValueError, match="one length"):
        fv.pairwise(P, P[:, :2].copy())


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


def similar(seed, n, d, size):
    rng = np.random.default_rng(seed)
    table = rows(seed, 1, d) * (1.0 + size * rng.uniform(-1, 1, (n, d)))
    return table / table.sum(axis=1, keepdims=True)


def in_clusters(seed, n, d):
    """Rows within 1e-5 of one of three rows, all equal to it in the last cluster."""
    rng = np.random.default_rng(seed)
    size = np.where(np.arange(n) % 3 == 2, 0.0, 1e-5)[:, None]
    table = rows(seed, 3, d)[np.arange(n) % 3] * (1.0 + size * rng.uniform(-1, 1, (n, d)))
    return table / table.sum(axis=1, keepdims=True)


def with_an_outlier(seed, n, d):
    table = similar(seed, n, d, 1e-6)
    table[n // 2] = rows(seed + 1, 1, d)
    return table


def similar_with_zeros(seed, n, d):
    """Zeros in places that rows share, and a few that they do not."""
    rng = np.random.default_rng(seed)
    table = similar(seed, n, d, 0.05)
    table[:, rng.random(d) < 0.2] = 0.0
    table[rng.random((n, d)) < 0.01] = 0.0
    return table / table.sum(axis=1, keepdims=True)


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
    "within-5-percent": similar(30, 12, 33, 0.05),
    "within-1e-7": similar(31, 12, 33, 1e-7),
    "equal": np.tile(rows(32, 1, 33), (9, 1)),
    "clusters": in_clusters(33, 15, 34),
    "outlier": with_an_outlier(34, 13, 35),
    "similar-with-zeros": similar_with_zeros(35, 13, 36),
    "rows-of-2": nearly_equal(36, 12, 2),
    "rows-of-3": between(37, 14, 3),
    "rows-of-8": rows(38, 12, 8, 0.3),
    "one-hots": np.eye(7),
    "one-column": np.ones((5, 1)),
}


def sample(got):
    """Some places: the smallest results, where digits are lost first, and others at random."""
    order = np.argsort(np.where(got > 0.0, got, math.inf), axis=None)
    return np.unique(np.r_[order[:3], np.random.default_rng(0).integers(0, got.size, 3)])


def assert_exact(metric, P, Q, mass="unit", tolerance=1e-13):
    got = fv.pairwise(P, Q, metric, mass=mass, **METRICS[metric])
    for i, j in zip(*np.unravel_index(sample(got), got.shape), strict=True):
        if np.array_equal(P[i], Q[j]) and metric != "cross_entropy":
            assert got[i, j] == 0.0
            continue
        wanted = reference.exact(metric, P[i], Q[j], mass=mass, **METRICS[metric])
        assert reference.relative_error(got[i, j], wanted) <= tolerance, (i, j, got[i, j], wanted)


@every
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_definition(metric, kind):
    table = KINDS[kind]
    assert_exact(metric, table, table[::-1] * 1.0)


@every
@pytest.mark.parametrize("lam", [3, 30, 3000])
def test_counts_against_the_definition(metric, lam):
    rng = np.random.default_rng(lam)
    P, Q = rng.poisson(lam, (9, 40)), 1 + rng.poisson(lam, (8, 40))
    Q[0] = 7 * (P[0] + 1)
    P[0] += 1
    assert_exact(metric, P, Q, "normalize")


@every
def test_counts_that_differ_in_the_last_digits(metric):
    """Over their masses they differ by less than 1e-14, and the masses are rounded by 1e-16."""
    rng = np.random.default_rng(51)
    base = rng.integers(10**14, 10**15, 40)
    P, Q = (k * base + rng.integers(-3, 4, (6, 40)) for k in (1, 3))
    assert_exact(metric, P.astype(float), Q.astype(float), "normalize")


@every
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_masses_of_any_size(metric, scale):
    P, Q = scale * similar(39, 7, 20, 0.1), rows(40, 6, 20)
    Q[2] = KINDS["random"][0, :20]
    assert_exact(metric, P, Q, "normalize")
    assert_exact(metric, P, similar(39, 5, 20, 0.1) * 3.0, "normalize")
    if metric in OF_MEASURES and metric not in ("alpha_divergence", "cross_entropy"):
        assert_exact(metric, P, scale * similar(39, 5, 20, 0.1), "any")


@every
@pytest.mark.parametrize("small", [5e-324, 1e-310, 1e-200])
def test_entries_that_underflow_over_their_mass(metric, small):
    """They are no zeros, and where they decide, they need all their digits: that is left to the kernels."""
    P = np.array([[small, 3e-200, 0.0], [0.0, 3 * small, 1e60], [small, 1e-30, 1e-20]])
    Q = np.array([[7 * small, 1e199, 0.0], [3e190, 11 * small, 0.0], [1e-2, 1e-60, 1e-3]])
    assert_pairs(metric, P, Q, mass="normalize")


@pytest.mark.parametrize("metric", ["kl", "cross_entropy", "js", "hellinger", "chi2", "renyi"])
def test_long_rows_of_equal_counts(metric):
    """Equal addends round the same way: sums of them drift unless they are added in segments."""
    P = np.full((3, 15_000), 6.0)
    P[:, 0] = [2_400_000, 2_400_006, 1_000_000]
    assert_exact(metric, P[:2], P[1:], "normalize")


@pytest.mark.parametrize("alpha", [-2.0, 1e-12, 0.5, 1.0 + 1e-9, 2.0, 7.0, 40.0])
@pytest.mark.parametrize("kind", ["random", "within-1e-7", "zeros", "outlier"])
def test_orders_against_the_definition(alpha, kind):
    table = KINDS[kind]
    for metric in ("alpha_divergence", "renyi") if alpha > 0.0 else ("alpha_divergence",):
        got = fv.pairwise(table, table[::-1] * 1.0, metric, alpha=alpha)
        for i, j in zip(*np.unravel_index(sample(got), got.shape), strict=True):
            wanted = reference.exact(metric, table[i], table[len(table) - 1 - j], alpha=alpha)
            assert reference.relative_error(got[i, j], wanted) <= 1e-13


#: At most so many of 100 pairs are computed one by one.
SELDOM = 2.0


@pytest.mark.parametrize("metric", list(_METHODS))
@pytest.mark.parametrize(
    "kind", ["counts", "similar", "nearly equal", "zeros", "one-hot", "outlier", "random"]
)
def test_pairs_are_seldom_computed_one_by_one(metric, kind, monkeypatch):
    rng = np.random.default_rng(41)
    P, Q = {
        "counts": lambda: (1.0 + rng.poisson(20.0, (60, 64)), 1.0 + rng.poisson(20.0, (80, 64))),
        "similar": lambda: (similar(42, 60, 64, 0.1), similar(42, 80, 64, 0.1)),
        "nearly equal": lambda: (similar(42, 60, 64, 1e-8), similar(42, 80, 64, 1e-8)),
        "zeros": lambda: (similar_with_zeros(43, 60, 64), similar_with_zeros(43, 80, 64)),
        "one-hot": lambda: (np.eye(64)[:60], np.eye(64)[rng.integers(0, 64, 80)]),
        "outlier": lambda: (with_an_outlier(44, 60, 64), with_an_outlier(44, 80, 64)),
        "random": lambda: (rows(45, 60, 64, 5.0), rows(46, 80, 64, 5.0)),
    }[kind]()
    one_by_one = []
    fill = fv.discrete.all_pairs._Exact.fill

    def counted(self, p, values):
        one_by_one.append(np.isnan(values).sum())
        fill(self, p, values)

    monkeypatch.setattr(fv.discrete.all_pairs._Exact, "fill", counted)
    monkeypatch.setattr(fv.discrete.all_pairs, "_CLUSTER", 1 << 14)
    got = fv.pairwise(P, Q, metric, mass="normalize", **METRICS[metric])
    assert sum(one_by_one) <= SELDOM / 100.0 * got.size


@pytest.mark.parametrize("metric", SYMMETRIC)
@pytest.mark.parametrize("shape", [(1, 5), (70, 9), (300, 20), (530, 6)])
def test_a_symmetric_table(metric, shape):
    """Half of it is computed: all of it must be written, and mirrored to the last bit."""
    P = rows(47, *shape)
    P[-1] = P[0]
    for out in (
        None,
        np.full((len(P), len(P)), np.nan, np.float32),
        np.full((len(P), 2 * len(P)), np.nan)[:, ::2],
    ):
        got = fv.pairwise(P, metric=metric, out=out)
        assert np.array_equal(got, got.T)
        assert np.all(np.diagonal(got) == 0.0)
        assert got[0, -1] == 0.0
        wanted = fv.pairwise(P, P.copy(), metric)
        np.testing.assert_allclose(got, wanted, rtol=1e-13 if got.dtype == np.float64 else 1e-6, atol=1e-300)
    assert np.array_equal(fv.pairwise(P, P, metric), fv.pairwise(P, metric=metric))


@every
def test_threads_do_not_change_a_bit(metric):
    P, Q = (np.vstack([similar(48, 300, 16, 1e-6), rows(k, 200, 16)]) for k in (49, 50))
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = fv.pairwise(P, Q, metric, **METRICS[metric])
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        all_threads = fv.pairwise(P, Q, metric, **METRICS[metric])
    finally:
        numba.set_num_threads(before)
    assert one.tobytes() == all_threads.tobytes()


def test_small_cross_entropies():
    """One entry is nearly all: the entropy has an error of 1e-16 from the mass, and more of itself."""
    rest = np.logspace(-7, -2, 60)[:, None] * [[1.0, 1e-12, 5e-3, 5e-2]]
    P = np.hstack([1.0 - rest.sum(axis=1, keepdims=True), rest])
    P /= P.sum(axis=1, keepdims=True)
    got = fv.pairwise(P, P.copy(), "cross_entropy")
    for i in range(len(P)):
        wanted = reference.exact("cross_entropy", P[i], P[i])
        assert reference.relative_error(got[i, i], wanted) <= 8e-14


def test_a_base_and_counts():
    P, Q = [[1, 3, 1]], [[1, 2, 1]]
    wanted = reference.exact("kl", np.array(P[0]), np.array(Q[0]), mass="normalize") / mp.log(2)
    got = fv.pairwise(P, Q, mass="normalize", base=2)
    assert reference.relative_error(got[0, 0], wanted) <= 1e-14


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

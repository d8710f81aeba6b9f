"""What the array functions mean: axes, keywords, dtypes, layouts, and the identities between them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

import fastvi as fv
from fastvi.discrete import quick, rows
from fastvi.kernels.discrete.divergences import KERNELS
from fastvi.kernels.discrete.registry import ROWS
from helpers.divergence_rows import EVERY, OF_MEASURES, PAIRED, ROOTED, SYMMETRIC, WITH_BASE, evaluate

LOG2 = math.log(2.0)

paired = pytest.mark.parametrize("name", PAIRED)
every = pytest.mark.parametrize("name", EVERY)


def random(seed, *shape):
    """Two arrays of distributions along the last axis."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(shape[-1]), size=(2, *shape[:-1]))


def close(x, y, tolerance=1e-13):
    return np.testing.assert_allclose(x, y, rtol=tolerance, atol=0.0)


@every
def test_one_distribution_gives_a_float(name):
    p, q = random(0, 9)
    assert type(evaluate(name, p, q)) is float
    assert type(evaluate(name, p.tolist(), q.tolist())) is float
    assert type(evaluate(name, p[::-1], q[::-1])) is float


@every
def test_many_distributions_give_a_float64_array(name):
    for dtype in (np.float64, np.float32):
        p, q = random(1, 4, 9).astype(dtype)
        result = evaluate(name, p, q)
        assert type(result) is np.ndarray
        assert result.dtype == np.float64
        assert result.shape == (4,)


@pytest.fixture
def sorted_out(monkeypatch):
    """A function that calls another one with tables that are sorted out as those of other forms are."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr("fastvi.discrete.rows.plain_tables", lambda *given: None)
            return function()

    return call


@every
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_common_tables_have_the_bits_of_others(name, dtype, sorted_out):
    """In the layouts that a short way to the kernels takes."""
    for shape in ((1, 3), (40, 5), (7, 70), (2, 3, 12)):
        p, q = random(11, *shape)
        if dtype in (np.int64, np.uint8, bool):
            p, q = (np.maximum(200.0 * a, 1.0).astype(dtype) for a in (p, q))
        p, q = p.astype(dtype), q.astype(dtype)
        given = [
            (p, q, {}),
            (np.repeat(p, 2, axis=-1)[..., ::2], q, {}),
            (p, q, {"axis": len(shape) - 1, "keepdims": True}),
            (p.astype(np.float64), q, {"axis": -1}),
        ]
        if len(shape) == 2:
            given += [(p, q, {"axis": axis, "keepdims": keep}) for axis in (0, -2) for keep in (False, True)]
            given += [(p, q[0], {}), (p[0], q, {"axis": 1})] if ROWS[name].arrays == 2 else []
        for a, b, keywords in given:
            keywords = {"mass": "normalize", **keywords}
            result = evaluate(name, a, b, **keywords)
            expected = sorted_out(lambda a=a, b=b, keywords=keywords: evaluate(name, a, b, **keywords))
            assert result.shape == expected.shape
            assert result.tobytes() == expected.tobytes()
            assert result.dtype == np.float64


@paired
def test_a_table_and_one_distribution(name):
    p, q = random(12, 30, 6)
    one = q[0].copy()
    rows = [evaluate(name, row, one) for row in p], [evaluate(name, one, row) for row in p]
    assert evaluate(name, p, one).tolist() == rows[0]
    assert evaluate(name, one, p).tolist() == rows[1]
    assert evaluate(name, p, one[None]).tolist() == rows[0]
    assert evaluate(name, p, one, axis=1).tolist() == rows[0]


def test_arguments_stay_as_they_are():
    p, q = random(13, 4, 6)
    for read_only in (False, True):
        p.flags.writeable = q.flags.writeable = not read_only
        copies = p.copy(), q.copy()
        values = fv.kl(p, q, base=2)
        values[:] = 0.0  # the result is the caller's own
        assert p.flags.writeable is not read_only
        assert np.array_equal(p, copies[0])
        assert np.array_equal(q, copies[1])


@pytest.mark.parametrize("bad", [math.nan, -0.25, 2.0])
def test_the_row_of_a_table_that_is_wrong_is_named(bad):
    p, q = random(14, 5, 6)
    p[3, 2] = bad
    with pytest.raises(ValueError, match=r"(?s)p.*3"):
        fv.kl(p, q)
    with pytest.raises(ValueError, match="axis"):
        fv.kl(q, q, axis=2)
    with pytest.raises(ValueError, match="same length"):
        fv.kl(q, q[:, :5].copy())
    with pytest.raises(ValueError, match="broadcast"):
        fv.kl(q, q[:3])


@every
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_axis(name, axis):
    p, q = random(2, 3, 4, 5)
    last = evaluate(name, p, q)
    moved = evaluate(name, np.moveaxis(p, -1, axis), np.moveaxis(q, -1, axis), axis=axis)
    assert moved.shape == (3, 4)
    assert np.array_equal(moved, last)
    assert last[1, 2] == evaluate(name, p[1, 2], q[1, 2])


@every
@pytest.mark.parametrize(("axis", "shape"), [(0, (1, 3, 4)), (1, (3, 1, 4)), (2, (3, 4, 1)), (-2, (3, 1, 4))])
def test_keepdims(name, axis, shape):
    p, q = (np.moveaxis(x, -1, axis) for x in random(3, 3, 4, 5))
    kept = evaluate(name, p, q, axis=axis, keepdims=True)
    assert kept.shape == shape
    assert np.array_equal(kept.squeeze(axis), evaluate(name, p, q, axis=axis))


@every
def test_keepdims_of_one_distribution(name):
    p, q = random(4, 6)
    result = evaluate(name, p, q, keepdims=True)
    assert result.shape == (1,)
    assert result[0] == evaluate(name, p, q)


@paired
@pytest.mark.parametrize(
    ("lead_p", "lead_q", "lead"),
    [
        ((), (4,), (4,)),
        ((4,), (), (4,)),
        ((3, 1), (4,), (3, 4)),
        ((3, 1), (1, 4), (3, 4)),
        ((2, 3, 1), (3, 4), (2, 3, 4)),
        ((1,), (1, 1, 1), (1, 1, 1)),
    ],
)
def test_other_axes_broadcast(name, lead_p, lead_q, lead):
    p, q = random(5, *lead_p, 6)[0], random(6, *lead_q, 6)[1]
    result = evaluate(name, p, q)
    assert result.shape == lead
    full = np.broadcast_to(p, (*lead, 6)), np.broadcast_to(q, (*lead, 6))
    for index in np.ndindex(lead):
        assert result[index] == evaluate(name, full[0][index], full[1][index])


@paired
def test_axis_counts_in_the_larger_array(name):
    p, q = random(7, 4, 6)
    result = evaluate(name, p.T, q[0][:, None], axis=0)
    assert np.array_equal(result, evaluate(name, p, q[0]))


@every
@pytest.mark.parametrize(("shape", "lead"), [((0, 5), (0,)), ((3, 0, 5), (3, 0))])
def test_no_distributions_give_an_empty_array(name, shape, lead):
    p = np.empty(shape)
    result = evaluate(name, p, p.copy())
    assert result.shape == lead
    assert result.dtype == np.float64


@pytest.mark.parametrize("name", [name for name in WITH_BASE if name not in ROOTED])
def test_base(name):
    p, q = random(8, 3, 7)
    close(evaluate(name, p, q, base=2) * LOG2, evaluate(name, p, q))
    close(evaluate(name, p[0], q[0], base=10) * math.log(10), evaluate(name, p[0], q[0]))


def test_base_of_the_js_distance_is_inside_the_root():
    p, q = random(9, 3, 7)
    close(fv.js_distance(p, q, base=2) ** 2, fv.js(p, q, base=2))
    assert fv.js_distance([1.0, 0.0], [0.0, 1.0], base=2) == 1.0


@every
def test_mass_normalize_divides_by_the_sums(name):
    p, q = random(10, 3, 7)
    # powers of two: the quotients are exact
    result = evaluate(name, p * 8.0, q / 4.0, mass="normalize")
    close(result, evaluate(name, p, q, mass="normalize"), 1e-14)
    close(result, evaluate(name, p, q), 1e-14)


@pytest.mark.parametrize("name", [name for name in OF_MEASURES if "entropy" not in name])
def test_divergences_of_measures_are_homogeneous(name):
    p, q = np.random.default_rng(11).gamma(1.0, size=(2, 3, 7))
    result = evaluate(name, p, q, mass="any")
    scale = 2.0 if name in ROOTED else 4.0
    close(evaluate(name, p * 4.0, q * 4.0, mass="any"), scale * result, 1e-15)
    assert np.all(result > 0.0)


def test_measures_kl_splits_into_shape_and_mass():
    """KL of measures = mass(p) KL(normalised) + the term of the two masses."""
    p, q = random(12, 7)
    a, b = 3.0, 0.5
    expected = a * fv.kl(p, q) + a * math.log(a / b) - a + b
    close(fv.kl(a * p, b * q, mass="any"), expected)


def test_unit_mass_divides_rounding_out():
    p, q = random(13, 7)
    off = p * (1.0 + 5e-7)
    close(fv.kl(off, q), fv.kl(p, q))
    assert abs(fv.kl(off, q, mass="any") - fv.kl(p, q)) > 1e-8


@every
def test_log_probabilities(name):
    p, q = random(14, 3, 7)
    close(evaluate(name, np.log(p), np.log(q), log=True), evaluate(name, p, q), 1e-12)


@every
def test_log_probabilities_of_zeros(name):
    p, q = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.25, 0.5, 0.25, 0.0])
    with np.errstate(divide="ignore"):
        logs = np.log(p), np.log(q)
    close(evaluate(name, *logs, log=True), evaluate(name, p, q))
    assert math.isfinite(evaluate(name, p, q)) or name == "jeffreys"


@every
def test_dtypes(name):
    weights = np.array([[1, 0, 2, 5], [3, 4, 0, 1]]), np.array([[2, 1, 3, 4], [1, 1, 1, 1]])
    expected = evaluate(name, *(w.astype(np.float64) for w in weights), mass="normalize")
    for dtype in (np.int8, np.int32, np.int64, np.uint8, np.uint64, ">i4", ">f8", "<f8"):
        result = evaluate(name, *(w.astype(dtype) for w in weights), mass="normalize")
        assert np.array_equal(result, expected), dtype
    for dtype in (np.float32, np.float16, ">f4"):
        result = evaluate(name, *(w.astype(dtype) for w in weights), mass="normalize")
        close(result, expected, 1e-6)


@every
def test_booleans_are_counts(name):
    p, q = np.array([True, False, True]), np.array([True, True, True])
    close(evaluate(name, p, q, mass="normalize"), evaluate(name, [0.5, 0.0, 0.5], [1 / 3] * 3))


@paired
def test_mixed_dtypes_promote(name):
    p, q = random(15, 3, 7)
    p32 = p.astype(np.float32)
    wide = evaluate(name, p32.astype(np.float64), q, mass="normalize")
    assert np.array_equal(evaluate(name, p32, q, mass="normalize"), wide)


@every
def test_nested_lists(name, monkeypatch):
    p, q = random(16, 3, 7)
    # These are made arrays without sorting out shapes, which takes five times as long.
    monkeypatch.setattr("fastvi.discrete.rows.pair_up", None)
    rows = p.tolist()
    assert np.array_equal(evaluate(name, rows, q.tolist()), evaluate(name, p, q))
    assert np.array_equal(evaluate(name, tuple(map(tuple, p)), q), evaluate(name, p, q))
    assert np.array_equal(evaluate(name, p, q.tolist()), evaluate(name, p, q))
    assert np.array_equal(evaluate(name, rows, q[0].tolist()), evaluate(name, p, q[0]))
    assert np.array_equal(evaluate(name, rows, rows), evaluate(name, p, p))
    counts = [[1, 2, 3], [4, 5, 6]]
    as_arrays = evaluate(name, np.array(counts), np.array(counts[::-1]), mass="normalize")
    assert np.array_equal(evaluate(name, counts, counts[::-1], mass="normalize"), as_arrays)
    if ROWS[name].arrays == 2:
        monkeypatch.setattr("fastvi.discrete.all_pairs._rows", None)
        monkeypatch.setattr("fastvi.discrete.all_pairs._FEW", 1000)
        keywords = {"alpha": 1.7} if ROWS[name].orders else {}
        assert np.array_equal(
            fv.pairwise(rows, q.tolist(), name, **keywords), fv.pairwise(p, q, name, **keywords)
        )
        assert np.array_equal(
            fv.pairwise(rows, None, name, **keywords), fv.pairwise(p, None, name, **keywords)
        )


def test_ragged_lists():
    with pytest.raises(ValueError, match="inhomogeneous"):
        fv.kl([[0.5, 0.5], [1.0]], [0.5, 0.5])


def strided(x):
    """The same values, every second entry of a larger array, backwards."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
    view = wide[..., ::-2]
    view[...] = x
    assert not view.flags.c_contiguous
    return view


def read_only(x):
    view = x.copy()
    view.flags.writeable = False
    return view


def shifted(x):
    """The same values in memory that is not aligned."""
    raw = np.zeros(x.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


@every
@pytest.mark.parametrize("shape", [(7,), (3, 7)])
@pytest.mark.parametrize("layout", [strided, read_only, np.asfortranarray, shifted], ids=lambda f: f.__name__)
def test_layouts(name, shape, layout):
    p, q = random(17, *shape)
    assert np.array_equal(evaluate(name, layout(p), layout(q)), evaluate(name, p, q))
    assert np.array_equal(evaluate(name, layout(p), q), evaluate(name, p, q))


def rounded(x):
    return np.round(x * 1e5).astype(np.int64) + 1


def strided_rounded(x):
    wide = np.full((x.size, 3), -1)
    wide[:, 1] = rounded(x)
    return wide[:, 1]


def every_fourth(x):
    return np.repeat(x, 4)[::4]


@pytest.fixture
def uncopied(monkeypatch):
    """Arrays of 1500 entries, two pieces, are not copied; the results of the kernels that read them."""
    results = []

    def recorded(name):
        kernel = KERNELS[name]
        if kernel.uncopied is None:
            return kernel

        def compute(*arguments):
            results.append(kernel.uncopied(*arguments))
            return results[-1]

        return kernel._replace(uncopied=compute)

    monkeypatch.setattr(quick, "_UNCOPIED", 1500)
    monkeypatch.setattr(rows, "_kernels_of", recorded)
    return results


def same(x, y, p):
    """The same bits; for contiguous integers, whose loops may be vectorised in another way, the digits."""
    return x == y or (p.flags.c_contiguous and abs(x - y) <= 2e-14 * abs(y))


@pytest.mark.parametrize("name", [name for name in EVERY if name != "renyi_entropy"])
@pytest.mark.parametrize("mass", ["unit", "normalize", "any"])
@pytest.mark.parametrize(
    "layout", [every_fourth, strided, rounded, strided_rounded], ids=lambda layout: layout.__name__
)
def test_arrays_that_are_read_as_they_are(name, mass, layout, uncopied):
    if (mass == "unit" and "rounded" in layout.__name__) or (mass == "any" and name not in OF_MEASURES):
        return
    p, q = (layout(x) for x in random(21, 1500))
    copies = np.ascontiguousarray(p, np.float64), np.ascontiguousarray(q, np.float64)
    orders = [0.7, 2.5, math.inf] if name == "renyi" else [1.7] if ROWS[name].orders else [None]
    for order in orders:
        keywords = {"mass": mass} | ({} if order is None else {"alpha": order})
        expected = evaluate(name, *copies, **keywords)
        assert not uncopied
        value = evaluate(name, p, q, **keywords)
        assert same(value, expected, p)
        # A cross-entropy of measures has no loop of its own.
        assert uncopied == [value] or (mass == "any" and "entropy" in name)
        uncopied.clear()


@pytest.mark.parametrize("name", [name for name in PAIRED if name != "cross_entropy"])
def test_alike_arrays_that_are_read_as_they_are(name, uncopied):
    q = random(22, 1500)[1]
    p = q * (1.0 + 1e-9 * np.sin(np.arange(1500.0)))
    cases = [(p, q, "unit"), (p, q, "normalize"), (3.0 * q, q, "normalize"), (q, q, "unit")]
    for x, y, mass in cases:
        expected = evaluate(name, x, y, mass=mass)
        assert evaluate(name, every_fourth(x), every_fourth(y), mass=mass) == expected
    # Of nine million in each entry: the differences are 1e-7 of it.
    a, b = 9_000_000 + np.arange(1500) % 3, np.full(1500, 9_000_000)
    for x, y in ((a, b), (3 * a, a), (b, b)):
        expected = evaluate(name, x.astype(np.float64), y.astype(np.float64), mass="normalize")
        close(evaluate(name, x, y, mass="normalize"), expected)
    assert len(uncopied) == len(cases) + 3


@every
def test_arrays_of_two_forms(name, uncopied):
    p, q = random(23, 1500)
    expected = evaluate(name, p, rounded(q).astype(np.float64), mass="normalize")
    assert evaluate(name, p, rounded(q), mass="normalize") == expected
    assert evaluate(name, every_fourth(p), rounded(q), mass="normalize") == expected
    assert evaluate(name, every_fourth(p), strided_rounded(q), mass="normalize") == expected


@paired
@pytest.mark.parametrize("place", [0, 1499])
def test_what_is_wrong_in_an_array_that_is_read_as_it_is(name, place, uncopied):
    p, q = random(24, 1500)
    for wrong in (math.nan, math.inf, -0.5):
        bad = every_fourth(p)
        bad[place] = wrong
        with pytest.raises(ValueError, match=rf"p.*\[{place}\]"):
            evaluate(name, bad, every_fourth(q), mass="normalize")
    bad = rounded(p)
    bad[place] = -1
    with pytest.raises(ValueError, match=rf"p.*\[{place}\]"):
        evaluate(name, bad, rounded(q), mass="normalize")
    with pytest.raises(ValueError, match="sum"):
        evaluate(name, 2.0 * every_fourth(p), every_fourth(q))


@pytest.mark.parametrize("name", ["kl", "cross_entropy", "chi2", "jeffreys", "renyi", "total_variation"])
def test_zeros_in_arrays_that_are_read_as_they_are(name, uncopied):
    p, q = (rounded(x) for x in random(25, 1500))
    q[7] = 0
    for x, y in ((p, q), (q, p), (np.where(q == 0, 0, p), q)):
        for order in (0.7, 2.5, math.inf) if name == "renyi" else (None,):
            keywords = {} if order is None else {"alpha": order}
            expected = evaluate(
                name, x.astype(np.float64), y.astype(np.float64), mass="normalize", **keywords
            )
            close(evaluate(name, x, y, mass="normalize", **keywords), expected)
            wide = np.repeat(x, 2)[::2], np.repeat(y, 2)[::2]
            assert evaluate(name, *wide, mass="normalize", **keywords) == expected


@every
@pytest.mark.parametrize("keywords", [{}, {"mass": "normalize"}, {"log": True}, {"axis": 0}], ids=str)
@pytest.mark.parametrize("shape", [(8,), (8, 8)])
def test_inputs_are_never_written_to(name, keywords, shape):
    p, q = random(18, *shape)
    if keywords.get("axis") == 0 and p.ndim == 2:
        p, q = p.T, q.T
    if keywords.get("log"):
        p, q = np.log(p), np.log(q)
    before = p.tobytes(), q.tobytes()
    evaluate(name, p, q, **keywords)
    assert (p.tobytes(), q.tobytes()) == before
    assert p.flags.writeable
    assert q.flags.writeable


def test_long_inputs_stay_writeable():
    """Long arrays are handed to the kernels as read-only views; the caller's array must not become one."""
    p, q = random(19, 200_000)
    before = p.tobytes(), q.tobytes()
    fv.kl(p, q)
    assert (p.tobytes(), q.tobytes()) == before
    assert p.flags.writeable
    assert q.flags.writeable


@pytest.mark.parametrize("n", [1, 2, 17, 3000])
def test_kl_is_cross_entropy_less_entropy(n):
    p, q = random(20, n)
    assert abs(fv.kl(p, q) - (fv.cross_entropy(p, q) - fv.entropy(p))) < 1e-13 * max(1.0, fv.entropy(p))


@pytest.mark.parametrize("n", [1, 2, 17, 3000])
def test_jeffreys_is_both_kl(n):
    p, q = random(21, n)
    close(fv.jeffreys(p, q), fv.kl(p, q) + fv.kl(q, p))


def test_unhalved_js_of_lecture_notes():
    """With m = p + q instead of (p + q) / 2 the sum is JSD - log 2."""
    p, q = random(22, 5, 40)
    m = p + q
    unhalved = 0.5 * (p * np.log(p / m) + q * np.log(q / m)).sum(axis=-1)
    close(fv.js(p, q) - LOG2, unhalved)
    assert np.all(unhalved < 0.0)


def test_js_is_mean_kl_from_the_mixture():
    p, q = random(23, 5, 40)
    for u in (0.5, 0.125):
        m = u * p + (1 - u) * q
        close(fv.js(p, q, weights=(u, 1 - u)), u * fv.kl(p, m) + (1 - u) * fv.kl(q, m))


def test_js_of_disjoint_distributions_is_the_entropy_of_the_weights():
    p, q = [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]
    close(fv.js(p, q), LOG2)
    close(fv.js(p, q, weights=(0.25, 0.75)), fv.entropy([0.25, 0.75]))


def test_js_weights_follow_their_array():
    p, q = random(24, 3, 9)
    left, right = fv.js(p, q, weights=(0.2, 0.8)), fv.js(q, p, weights=(0.8, 0.2))
    close(left, right)
    assert np.all(np.abs(left / fv.js(p, q, weights=(0.8, 0.2)) - 1.0) > 1e-3)


def test_js_distance_is_the_root():
    p, q = random(25, 5, 40)
    close(fv.js_distance(p, q) ** 2, fv.js(p, q))
    assert fv.js_distance(p[0], q[0]) == math.sqrt(fv.js(p[0], q[0]))


def test_renyi_special_orders():
    p, q = random(26, 5, 40)
    close(fv.renyi(p, q, 0.5), 2.0 * fv.bhattacharyya(p, q))
    assert np.array_equal(fv.renyi(p, q, 1), fv.kl(p, q))
    close(fv.renyi(p, q, 2), np.log1p(fv.chi2(p, q)))
    close(fv.renyi(p, q, math.inf), np.log((p / q).max(axis=-1)), 1e-12)
    assert fv.renyi([0.5, 0.5, 0.0], [0.25, 0.25, 0.5], 0) == LOG2


def test_renyi_turns_around_at_one_half():
    p, q = random(27, 5, 40)
    a = 0.2
    close((1 - a) * fv.renyi(p, q, a), a * fv.renyi(q, p, 1 - a))


def test_alpha_divergence_special_orders():
    p, q = random(28, 5, 40)
    close(fv.alpha_divergence(p, q, 0.5), 4.0 * fv.hellinger(p, q) ** 2)
    close(fv.alpha_divergence(p, q, 2), fv.chi2(p, q) / 2.0)
    close(fv.alpha_divergence(p, q, -1), fv.chi2(q, p) / 2.0)
    close(fv.alpha_divergence(p, q, 1), fv.kl(p, q))
    close(fv.alpha_divergence(p, q, 0), fv.kl(q, p))
    close(fv.alpha_divergence(p, q, 0.3), fv.alpha_divergence(q, p, 0.7))


def test_mutual_information_is_kl_from_the_product():
    joint = np.random.default_rng(29).dirichlet(np.ones(30)).reshape(5, 6)
    x, y = joint.sum(axis=1), joint.sum(axis=0)
    information = fv.kl(joint.ravel(), np.outer(x, y).ravel(), mass="normalize")
    close(information, fv.entropy(x) + fv.entropy(y) - fv.entropy(joint.ravel()), 1e-12)
    close(information, fv.kl(joint / x[:, None], y) @ x, 1e-12)


def test_grouping():
    """KL = KL of the group masses + mean KL within the groups."""
    p, q = random(30, 12)
    groups_p, groups_q = p.reshape(3, 4), q.reshape(3, 4)
    mass_p, mass_q = groups_p.sum(axis=1), groups_q.sum(axis=1)
    within = fv.kl(groups_p, groups_q, mass="normalize") @ mass_p
    close(fv.kl(p, q), fv.kl(mass_p, mass_q) + within)


def test_divergence_of_products_adds_up():
    p, q = random(31, 5)
    r, s = random(32, 6)
    both = np.outer(p, r).ravel(), np.outer(q, s).ravel()
    close(fv.kl(*both), fv.kl(p, q) + fv.kl(r, s))
    close(fv.renyi(*both, 3), fv.renyi(p, q, 3) + fv.renyi(r, s, 3))
    close(fv.bhattacharyya(*both), fv.bhattacharyya(p, q) + fv.bhattacharyya(r, s))


def test_entropy_of_the_uniform_distribution_is_log_n():
    for n in (1, 2, 7, 1000):
        assert abs(fv.entropy(np.full(n, 1.0 / n)) - math.log(n)) <= 1e-14 * math.log(n)
    assert fv.entropy([1.0, 0.0, 0.0]) == 0.0


def test_entropy_of_a_measure_can_be_negative():
    close(fv.entropy([2.0, 3.0], mass="any"), -(2 * math.log(2) + 3 * math.log(3)))


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "jeffreys", "chi2"])
def test_missing_support_is_infinite(name):
    assert evaluate(name, [0.5, 0.5], [1.0, 0.0]) == math.inf
    assert evaluate(name, [[0.5, 0.5], [1.0, 0.0]], [1.0, 0.0]).tolist() == [
        math.inf,
        0.0,
    ]


def test_support_that_is_missing_in_the_first_argument():
    p, q = [1.0, 0.0], [0.5, 0.5]
    close(fv.kl(p, q), LOG2)
    assert fv.jeffreys(p, q) == math.inf
    close(fv.chi2(p, q), 1.0)


def test_disjoint_distributions_are_at_the_largest_distance():
    p, q = [1.0, 0.0], [0.0, 1.0]
    assert fv.hellinger(p, q) == 1.0
    assert fv.total_variation(p, q) == 1.0
    for alpha in (0, 0.5, 1, 2, math.inf):
        assert fv.renyi(p, q, alpha) == math.inf
    assert fv.bhattacharyya(p, q) == math.inf


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_alpha_between_zero_and_one_is_finite_without_common_support(alpha):
    close(fv.alpha_divergence([1.0, 0.0], [0.0, 1.0], alpha), 1.0 / (alpha * (1.0 - alpha)))


def test_kl_grad_agrees_with_central_differences():
    rng = np.random.default_rng(33)
    p, q = rng.gamma(2.0, size=(2, 9))
    value, grad_p, grad_q = fv.kl_grad(p, q)
    assert type(value) is float
    assert value == fv.kl(p, q, mass="any")
    step = 1e-5
    for k in range(p.size):
        e = np.zeros(p.size)
        e[k] = step
        difference_p = (fv.kl(p + e, q, mass="any") - fv.kl(p - e, q, mass="any")) / (2 * step)
        difference_q = (fv.kl(p, q + e, mass="any") - fv.kl(p, q - e, mass="any")) / (2 * step)
        # third derivatives are below 1e3 here: the differences are good to 1e-7
        assert abs(difference_p - grad_p[k]) < 1e-7
        assert abs(difference_q - grad_q[k]) < 1e-7
    assert np.abs(grad_p).min() > 1e-6
    assert np.abs(grad_q).min() > 1e-6


def test_kl_grad_is_right_to_the_last_digits():
    rng = np.random.default_rng(34)
    p = rng.gamma(2.0, size=60)
    q = p * (1.0 + np.logspace(-12, 0.0, 60) * rng.choice([-1.0, 1.0], 60) * 0.9)
    _, grad_p, grad_q = fv.kl_grad(p, q)
    for x, y, g, h in zip(p, q, grad_p, grad_q, strict=True):
        with mp.workdps(50):
            x, y = mpf(float(x)), mpf(float(y))
            assert abs(g / mp.log(x / y) - 1) < 1e-13
            assert abs(h / (1 - x / y) - 1) < 1e-13


def test_kl_grad_at_zeros():
    value, grad_p, grad_q = fv.kl_grad([0.0, 1.0, 0.0, 2.0], [0.0, 1.0, 3.0, 2.0])
    assert value == 3.0
    assert grad_p.tolist() == [0.0, 0.0, -math.inf, 0.0]
    assert grad_q.tolist() == [0.0, 0.0, 1.0, 0.0]
    value, grad_p, grad_q = fv.kl_grad([1.0, 1.0], [0.0, 1.0])
    assert value == math.inf
    assert grad_p.tolist() == [math.inf, 0.0]
    assert grad_q.tolist() == [-math.inf, 0.0]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_kl_grad_along_an_axis(axis):
    p, q = np.random.default_rng(35).gamma(1.0, size=(2, 3, 4, 5))
    moved = np.moveaxis(p, -1, axis), np.moveaxis(q, -1, axis)
    value, grad_p, grad_q = fv.kl_grad(*moved, axis=axis)
    assert value.shape == (3, 4)
    assert grad_p.shape == grad_q.shape == moved[0].shape
    one = fv.kl_grad(p[2, 1], q[2, 1])
    assert value[2, 1] == one[0]
    assert np.array_equal(np.moveaxis(grad_p, axis, -1)[2, 1], one[1])
    assert np.array_equal(np.moveaxis(grad_q, axis, -1)[2, 1], one[2])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kl_grad_of_plain_arrays_is_that_of_rows(dtype):
    """Contiguous arrays have a shorter code path; with zeros and a negative entry it gives the same."""
    p, q = np.random.default_rng(37).gamma(1.0, size=(2, 50)).astype(dtype)
    p[3] = p[4] = q[4] = q[5] = 0.0
    value, *grads = fv.kl_grad(p, q)
    rows = fv.kl_grad(p[None], q[None])
    assert type(value) is float
    assert value == rows[0][0] == math.inf
    assert all(g.shape == p.shape and np.array_equal(g, r[0]) for g, r in zip(grads, rows[1:], strict=True))
    p[7] = -1.0  # the caller's arrays stay writable
    with pytest.raises(ValueError, match=r"p\[7\]"):
        fv.kl_grad(p, q)


def test_kl_grad_broadcasts():
    p, q = np.random.default_rng(36).gamma(1.0, size=(2, 3, 5))
    value, grad_p, grad_q = fv.kl_grad(p[:, None], q)
    assert value.shape == (3, 3)
    assert grad_p.shape == grad_q.shape == (3, 3, 5)
    assert np.array_equal(grad_q[2, 1], fv.kl_grad(p[2], q[1])[2])


# Entries of all kinds: zeros, subnormals, ordinary ones, nearly equal pairs.
entry = st.one_of(
    st.just(0.0),
    st.sampled_from([5e-324, 1e-310, 2.2250738585072014e-308, 1e-300, 1e-16]),
    st.floats(1e-12, 1.0),
)


@st.composite
def distributions(draw, count=2, least=1):
    n = draw(st.integers(least, 12))
    rows = []
    for _ in range(count):
        if rows and draw(st.booleans()):
            bumps = draw(st.lists(st.floats(-1e-7, 1e-7), min_size=n, max_size=n))
            row = rows[-1] * (1.0 + np.array(bumps))
        else:
            row = np.array(draw(st.lists(entry, min_size=n, max_size=n)))
        assume(row.sum() > 1e-250)
        rows.append(row / row.sum())
    return rows


@st.composite
def counts(draw):
    """Integers, so that bins are merged without rounding; the second row may be close to the first."""
    n = draw(st.integers(2, 12))
    row = st.lists(st.one_of(st.just(0), st.integers(1, 2**40)), min_size=n, max_size=n)
    p = np.array(draw(row))
    if draw(st.booleans()):
        q = p + np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    else:
        q = np.array(draw(row))
    assume(p.any() and q.any())
    return p, q


seeded = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@every
def test_never_negative_never_nan(name):
    @seeded
    @given(distributions())
    def check(pair):
        value = evaluate(name, *pair)
        assert value >= 0.0
        assert evaluate(name, pair[0], pair[0].copy()) == 0.0 or "entropy" in name

    check()


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric(name):
    @seeded
    @given(distributions())
    def check(pair):
        p, q = pair
        forth, back = evaluate(name, p, q), evaluate(name, q, p)
        assert forth == back or abs(forth - back) <= 1e-13 * forth + 1e-323

    check()


@pytest.mark.parametrize("name", [name for name in PAIRED if name not in SYMMETRIC])
def test_not_symmetric(name):
    p, q = [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]
    assert abs(evaluate(name, p, q) / evaluate(name, q, p) - 1.0) > 1e-3


@pytest.mark.parametrize("name", ["total_variation", "hellinger", "js_distance"])
def test_triangle_inequality(name):
    @seeded
    @given(distributions(count=3))
    def check(rows):
        p, q, r = rows
        assert evaluate(name, p, r) <= evaluate(name, p, q) + evaluate(name, q, r) + 1e-15

    check()


@seeded
@given(distributions())
def test_bounds_between_divergences(pair):
    """Pinsker's inequality and others that hold for all pairs of distributions."""
    p, q = pair
    tv, h2, kl = fv.total_variation(p, q), fv.hellinger(p, q) ** 2, fv.kl(p, q)
    slack = 1.0 + 1e-12
    assert 2.0 * tv * tv <= kl * slack + 5e-324
    assert 2.0 * h2 <= kl * slack + 5e-324
    assert h2 <= tv * slack + 5e-324
    assert kl <= math.log1p(fv.chi2(p, q)) * slack + 5e-324
    assert fv.js(p, q) <= LOG2 * min(tv * slack, 1.0 + 1e-15) + 5e-324
    assert tv <= 1.0 + 1e-15


@seeded
@given(distributions())
def test_renyi_grows_with_its_order(pair):
    orders = (0, 0.1, 0.5, 0.9, 1 - 1e-9, 1, 1 + 1e-9, 1.5, 3, 20, math.inf)
    values = [fv.renyi(*pair, a) for a in orders]
    for low, high in itertools.pairwise(values):
        assert low <= high * (1.0 + 1e-12) + 2e-323


@pytest.mark.parametrize("name", [name for name in PAIRED if name != "cross_entropy"])
def test_merging_bins_never_increases(name):
    @seeded
    @given(counts())
    def check(pair):
        fine = evaluate(name, *pair, mass="normalize")
        merged = (np.append(x[2:], x[0] + x[1]) for x in pair)
        assert evaluate(name, *merged, mass="normalize") <= fine * (1.0 + 1e-12)

    check()


@pytest.mark.parametrize("name", ["kl", "cross_entropy", "jeffreys", "chi2"])
def test_logarithms_are_infinite_where_an_entry_underflows_beside_a_zero(name):
    """p > 0 = q, though exp(log p) is 0."""
    p, q = np.array([0.0, -800.0]), np.array([0.0, -math.inf])
    assert getattr(fv, name)(p, q, log=True) == math.inf
    q[1] = -900.0
    assert 0.0 <= getattr(fv, name)(p, q, log=True) < math.inf
    # Distributions that are far apart have a loop of their own.
    p, q = np.array([0.0, -1.0, -800.0]), np.array([-1.0, 0.0, -math.inf])
    assert getattr(fv, name)(p, q, log=True, mass="normalize") == math.inf
    q[2] = -900.0
    assert 0.01 < getattr(fv, name)(p, q, log=True, mass="normalize") < math.inf


def test_an_entry_that_underflows_counts_beside_one_that_is_smaller_beyond_measure():
    p, q = np.array([0.0, -1.0, -701.0]), np.array([-1.0, 0.0, -1e300])
    with mp.workdps(40):
        total = 1 + mp.exp(-1)  # of q, and of p to 300 digits
        expected = mp.tanh(mpf(1) / 2) + mp.exp(-701) / total * mpf(1e300)
    assert fv.kl(p, q, log=True, mass="normalize") == pytest.approx(float(expected), rel=1e-13)


def test_jeffreys_of_logarithms_with_a_zero_is_infinite_and_masses_are_checked():
    p, q = np.log([0.5, 0.25, 0.25]), np.array([math.log(0.5), math.log(0.5), -math.inf])
    assert fv.jeffreys(p, q, log=True) == fv.jeffreys(q, p, log=True) == math.inf
    assert fv.jeffreys(np.append(p, -math.inf), np.append(p[::-1], -math.inf), log=True) > 0.0
    with pytest.raises(ValueError, match=r"exp\(q\) sums to"):
        fv.jeffreys(p, q + 0.1, log=True)
    # The smaller entries underflow, and are beside others that do not.
    p, q = np.array([0.0, -50.0, -900.0]), np.array([0.0, -900.0, -50.0])
    assert fv.jeffreys(p, q, log=True, mass="normalize") == pytest.approx(
        2 * 850 * math.exp(-50.0), rel=1e-13
    )

"""`nan_policy` and masked arrays, several axes, and sums judged by the type of the entries."""

import math

import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.discrete.registry import METRICS
from helpers.divergence_rows import EVERY, OF_MEASURES, PAIRED, evaluate
from helpers.messages import says
from reference.discrete import exact, relative_error

every = pytest.mark.parametrize("name", EVERY)
paired = pytest.mark.parametrize("name", PAIRED)


def random(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(shape[-1]), size=(2, *shape[:-1]))


def spoiled(array, *where):
    copy = array.copy()
    for index in where:
        copy[index] = math.nan
    return copy


@every
@pytest.mark.parametrize("mass", ["unit", "normalize", "any"])
@pytest.mark.parametrize("log", [False, True])
def test_propagate_harms_no_other_row(name, mass, log):
    if mass == "any" and name not in OF_MEASURES:
        mass = "unit"
    p, q = np.log(random(0, 5, 6)) if log else random(0, 5, 6)
    good = evaluate(name, p, q, mass=mass, log=log)
    bad = evaluate(name, spoiled(p, (1, 2)), spoiled(q, (3, 0)), mass=mass, log=log, nan_policy="propagate")
    lost = [1] if name not in PAIRED else [1, 3]
    assert np.isnan(bad[lost]).all()
    kept = np.delete(np.arange(5), lost)
    assert np.array_equal(bad[kept], good[kept])
    assert math.isnan(evaluate(name, spoiled(p[0], 1), q[0], mass=mass, log=log, nan_policy="propagate"))


@every
@pytest.mark.parametrize("log", [False, True])
def test_propagate_gives_nan_where_there_is_nothing_to_normalise(name, log):
    p, q = random(1, 4, 6)
    p[2] = 0.0
    with np.errstate(divide="ignore"):
        p, q = (np.log(p), np.log(q)) if log else (p, q)
    found = evaluate(name, p, q, mass="normalize", log=log, nan_policy="propagate")
    assert np.array_equal(np.isnan(found), [False, False, True, False])
    with says(ValueError, "p", "sums to 0", "(2,)"):
        evaluate(name, p, q, log=log, nan_policy="propagate")


@paired
def test_propagate_raises_for_everything_else(name):
    p, q = random(2, 4, 6)
    q[3, 1] = -0.5
    for k in (1, 3):  # also beside a NaN, in the other row of the pair
        with says(ValueError, "q[3, 1] is -0.5"):
            evaluate(name, spoiled(p, (k, 2)), q, nan_policy="propagate")
    with says(ValueError, "q[3, 1] is -0.5"):
        evaluate(name, p, spoiled(q, (3, 0)), nan_policy="propagate")
    p, q = random(2, 4, 6)
    q[3] *= 2.0
    with says(ValueError, "q sums to 2.0", "row (3,)"):
        evaluate(name, spoiled(p, (3, 2)), q, nan_policy="propagate")


def test_raise_names_the_entry():
    p, q = random(3, 4, 6)
    with says(ValueError, "p[1, 2] is nan"):
        fv.kl(spoiled(p, (1, 2)), q, nan_policy="raise")


@every
@pytest.mark.parametrize("log", [False, True])
def test_omit_leaves_out_what_is_missing_in_either(name, log):
    p, q = np.log(random(4, 3, 7)) if log else random(4, 3, 7)
    keywords = {"mass": "normalize", "log": log}
    found = evaluate(name, spoiled(p, (1, 2)), spoiled(q, (1, 5)), nan_policy="omit", **keywords)
    whole = evaluate(name, p, q, **keywords)
    assert found[0] == whole[0]
    assert found[2] == whole[2]
    left = [0, 1, 3, 4, 5, 6] if name not in PAIRED else [0, 1, 3, 4, 6]
    expected = evaluate(name, p[1, left], q[1, left], **keywords)
    assert found[1] == pytest.approx(expected, rel=1e-13, abs=0)
    row = evaluate(name, spoiled(p[1], 2), spoiled(q[1], 5), nan_policy="omit", **keywords)
    assert row == found[1]


@paired
def test_omitted_entries_of_rows_that_broadcast(name):
    """An entry that one row of p has not got is left out of q for that pair only."""
    p, q = random(5, 3, 7)
    found = evaluate(name, spoiled(p, (1, 2)), q[0], mass="normalize", nan_policy="omit")
    for k, left in enumerate(([0, 1, 2, 3, 4, 5, 6], [0, 1, 3, 4, 5, 6])[k % 2] for k in range(3)):
        expected = evaluate(name, p[k, left], q[0, left], mass="normalize")
        assert found[k] == pytest.approx(expected, rel=1e-13, abs=0)


@every
def test_masked_entries_are_omitted(name):
    p, q = random(6, 3, 7)
    holes = np.zeros((3, 7), bool)
    holes[1, 2] = holes[0, 6] = True
    expected = evaluate(name, np.where(holes, np.nan, p), q, mass="normalize", nan_policy="omit")
    found = evaluate(name, np.ma.masked_array(np.where(holes, -7.0, p), holes), q, mass="normalize")
    assert np.array_equal(found, expected)
    assert type(found) is np.ndarray
    assert evaluate(name, np.ma.masked_array(p[0], holes[0]), q[0], mass="normalize") == expected[0]
    turned = evaluate(name, np.ma.masked_array(p, holes).T, q.T, axis=0, mass="normalize")
    assert np.array_equal(turned, expected)


@every
def test_masked_arrays_without_masked_entries_are_arrays(name):
    p, q = random(7, 3, 7)
    assert np.array_equal(evaluate(name, np.ma.masked_array(p), q), evaluate(name, p, q))
    counts = np.ma.masked_array([3, 4], [False, False])
    assert evaluate(name, counts, [1, 2], mass="normalize") == evaluate(
        name, [3, 4], [1, 2], mass="normalize"
    )


@every
def test_nothing_left(name):
    p, q = random(8, 2, 3)
    gone = spoiled(p, 1)
    for mass in ("unit", "normalize"):
        found = evaluate(name, gone, q, mass=mass, nan_policy="omit")
        assert math.isnan(found[1])
        assert found[0] == evaluate(name, p[0], q[0], mass=mass)
    found = evaluate(name, np.ma.masked_array(p, [[False] * 3, [True] * 3]), q)
    assert np.array_equal(np.isnan(found), [False, True])


def test_what_is_left_is_checked():
    p, q = random(9, 2, 4)
    with says(ValueError, "p sums to", "row (1,)"):
        fv.kl(spoiled(p, (1, 0)), q, nan_policy="omit")
    q[1, 3] = -1.0
    with says(ValueError, "q[1, 3] is -1.0"):
        fv.kl(spoiled(p, (1, 0)), q, nan_policy="omit", mass="normalize")
    with says(ValueError, "q[0] is nan"):
        fv.kl(np.ma.masked_array([0.5, 0.5, 0.5], [False, False, True]), [math.nan, 1.0, 3.0])


@pytest.mark.parametrize("policy", ["ignore", None, True])
def test_unknown_policy(policy):
    for function in (fv.kl, fv.kl_grad):
        with says(ValueError, "nan_policy must be one of 'raise', 'propagate', 'omit'", repr(policy)):
            function([0.5, 0.5], [0.5, 0.5], nan_policy=policy)


def test_kl_grad():
    p, q = random(10, 3, 4)
    value, grad_p, grad_q = fv.kl_grad(p, q)
    lost = fv.kl_grad(spoiled(p, (1, 2)), q, nan_policy="propagate")
    assert np.array_equal(np.isnan(lost[0]), [False, True, False])
    for found, expected in ((lost[1], grad_p), (lost[2], grad_q)):
        assert np.isnan(found[1]).all()
        assert np.array_equal(found[[0, 2]], expected[[0, 2]])
    left = fv.kl_grad(spoiled(p, (1, 2)), q, nan_policy="omit")
    assert left[0][1] == pytest.approx(fv.kl(np.delete(p[1], 2), np.delete(q[1], 2), mass="any"), rel=1e-13)
    assert left[1][1, 2] == left[2][1, 2] == 0.0
    assert np.array_equal(np.delete(left[1][1], 2), np.delete(grad_p[1], 2))
    whole = fv.kl_grad(p, q, axis=None)
    assert whole[0] == pytest.approx(value.sum(), rel=1e-13)
    assert np.array_equal(whole[1], grad_p)
    moved = fv.kl_grad(p.T[None], q.T[None], axis=(1, 0))
    assert moved[1].shape == (1, 4, 3)
    assert np.array_equal(moved[1][0], grad_p.T)


@every
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [(0, 2), (2, 0), (-1, 0), (1,), (0, 1, 2), None])
def test_several_axes(name, axis, keepdims):
    p, q = random(11, 2, 3, 4)
    found = evaluate(name, p, q, axis=axis, mass="normalize", keepdims=keepdims)
    axes = range(3) if axis is None else {k % 3 for k in axis}
    others = [k for k in range(3) if k not in axes]
    rows = [x.transpose(*others, *sorted(axes)).reshape(*(x.shape[k] for k in others), -1) for x in (p, q)]
    expected = evaluate(name, *rows, mass="normalize")
    assert np.array_equal(np.squeeze(found), expected)
    if keepdims:
        assert found.shape == tuple(1 if k in axes else p.shape[k] for k in range(3))
    else:
        assert np.shape(found) == tuple(p.shape[k] for k in others)


@paired
def test_several_axes_broadcast_the_others(name):
    p, q = random(12, 5, 3, 4)
    found = evaluate(name, p, q[0], axis=(-1, -2), mass="normalize")
    assert np.array_equal(found, evaluate(name, p.reshape(5, 12), q[0].ravel(), mass="normalize"))


def test_errors_of_several_axes():
    p, q = random(13, 5, 3, 4)
    with says(ValueError, "p[4, 1, 2] is nan"):
        fv.kl(spoiled(p, (4, 1, 2)), q, axis=(0, 2), mass="any")
    with says(ValueError, "p[4, 1, 2] is nan"):
        fv.kl(spoiled(p, (4, 1, 2)), q, axis=None, mass="normalize")
    with says(ValueError, "q[1, 2] is nan"):
        fv.kl(p, spoiled(q[0], (1, 2)), axis=(1, 2), mass="normalize")
    with says(ValueError, "same length along axis None", "(5, 3, 4) of p", "(3, 4) of q"):
        fv.kl(p, q[0], axis=None)
    with says(ValueError, "axis (0, -3) names an axis twice"):
        fv.kl(p, q, axis=(0, -3))
    with says(ValueError, "empty tuple"):
        fv.kl(p, q, axis=())
    with says(ValueError, "axis 3 is out of range"):
        fv.kl(p, q, axis=(0, 3))


def softmax(rng, n, scale, dtype):
    """Rows of a softmax as networks compute them: float32 inside, one rounding of each entry at the end."""
    logits = (scale * rng.normal(size=(20, n))).astype(np.float32)
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (rows / rows.sum(axis=1, keepdims=True)).astype(dtype)


def half_types():
    yield "float16", lambda: np.float16
    yield "bfloat16", lambda: pytest.importorskip("ml_dtypes").bfloat16


half = pytest.mark.parametrize("make", [make for _, make in half_types()], ids=[n for n, _ in half_types()])


@half
@pytest.mark.parametrize("n", [2, 10, 1000, 50_000])
@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_half_precision_rows_are_accepted(make, n, scale):
    rng = np.random.default_rng(14)
    p, q = softmax(rng, n, scale, make()), softmax(rng, n, scale, make())
    for name in ("kl", "entropy", "js", "total_variation"):
        wide = evaluate(name, p.astype(float), q.astype(float), mass="normalize")
        np.testing.assert_allclose(evaluate(name, p, q), wide, rtol=1e-6, atol=1e-12)
    with np.errstate(divide="ignore"):
        assert np.isfinite(fv.entropy(np.log(softmax(rng, n, scale, float)).astype(make()), log=True)).all()


@half
def test_half_precision_is_computed_from_the_values_given(make):
    p, q = (x[0] for x in np.split(softmax(np.random.default_rng(15), 30, 1.0, make()), 2))
    for name in PAIRED:
        parameters = {"alpha": 0.7} if "alpha" in name or name == "renyi" else {}
        expected = exact(name, p.astype(float), q.astype(float), **parameters)
        assert relative_error(evaluate(name, p, q, **parameters), expected) < 1e-6, name


@half
def test_sums_that_are_wrong_are_refused_in_half_precision(make):
    p = softmax(np.random.default_rng(16), 10, 1.0, make())
    for off in (0.96, 1.04):
        wrong = (p.astype(float) * off).astype(make())
        with says(ValueError, "q sums to", "row (0,)", "mass='unit' wants 1 within"):
            fv.kl(p, wrong)
        with says(ValueError, "p sums to", "row (0,)", "mass='unit' wants 1 within"):
            fv.entropy(wrong)


def test_each_argument_has_the_tolerance_of_its_own_type():
    p = np.array([0.25, 0.75 + 5e-4])
    assert fv.kl(p.astype(np.float32), [0.5, 0.5]) > 0.0
    assert fv.kl([0.5, 0.5], p.astype(np.float32)) > 0.0
    with says(ValueError, "p sums to", "within 1e-06"):
        fv.kl(p, np.array([0.5, 0.5], np.float32))
    with says(ValueError, "p sums to", "within 1e-03"):
        fv.kl(np.array([0.5, 0.51], np.float32), [0.5, 0.5])


COLLECTIONS = {
    "dict": ({"a": 0.5, "b": 0.5}, "is a dict", "[p[k] for k in keys]"),
    "set": ({0.25, 0.75}, "is a set", "no order"),
    "generator": ((x for x in (0.5, 0.5)), "is a generator", "list(p)"),
    "values": ({"a": 0.5}.values(), "is a dict_values", "list(p)"),
    "text": ("0.5", "is a str", "list or an array of numbers"),
    "complex": (np.array([0.5, 0.5j]), "dtype complex128", "p.real"),
    "objects": (np.array([0.5, 1], object), "dtype object", "np.asarray(p, dtype=float)"),
    "words": (["0.5", "0.5"], "dtype <U3", "np.asarray(p, dtype=float)"),
    "record": (np.array([(0.5, 1)], [("a", float), ("b", int)]), "p['a']"),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_what_to_write_instead(kind):
    value, *words = COLLECTIONS[kind]
    with says(TypeError, "p ", *words):
        fv.kl(value, [0.5, 0.5])


def test_tiny_negative_entries_are_named_and_not_clipped():
    for name in EVERY:
        with says(ValueError, "p[1] is -1e-17", "clip it yourself: np.maximum(p, 0)"):
            evaluate(name, [1.0, -1e-17], [0.5, 0.5])
    with says(ValueError, "q[0, 1] is -9.99", "clip"):
        fv.kl([0.5, 0.5], np.array([[1.0, -1e-9]], np.float32))
    with pytest.raises(ValueError, match=r"p\[1\] is -0\.01: must be finite and >= 0$"):
        fv.kl([1.01, -0.01], [0.5, 0.5])


def _parameters(name):
    return {"alpha": 1.5} if METRICS[name].orders else {}


def _table(seed, rows, dtype=float):
    return np.random.default_rng(seed).random((rows, 7)).astype(dtype)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("policy", ["propagate", "omit"])
@pytest.mark.parametrize("itself", [False, True])
def test_all_pairs_are_as_the_function_has_them(name, policy, itself):
    p, q = spoiled(_table(20, 5), (1, 2), (1, 3)), spoiled(_table(21, 4), (3, 0))
    if policy == "propagate":
        p[4] = 0.0
    keywords = {"mass": "normalize", "nan_policy": policy, **_parameters(name)}
    found = fv.pairwise(p, None if itself else q, name, **keywords)
    wanted = getattr(fv, name)(p[:, None], (p if itself else q)[None], **keywords)
    assert np.isnan(wanted).any() == (policy == "propagate")
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_all_pairs_of_masked_rows(name):
    p, keywords = _table(22, 5), {"mass": "normalize", **_parameters(name)}
    masked = np.ma.array(p, mask=np.zeros(p.shape, bool))
    np.testing.assert_array_equal(
        fv.pairwise(masked, metric=name, **keywords), fv.pairwise(p, metric=name, **keywords)
    )
    masked.mask[2, 3] = masked.mask[4, 0] = True
    wanted = getattr(fv, name)(masked[:, None], masked[None], **keywords)
    np.testing.assert_allclose(fv.pairwise(masked, metric=name, **keywords), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("keywords", [{}, {"nan_policy": "propagate"}, {"nan_policy": "omit"}])
def test_all_pairs_name_what_no_policy_allows(keywords):
    p = spoiled(_table(23, 4), *([(2, 0)] if keywords else []))
    p[2, 5] = -1.0
    with says(ValueError, "P[2, 5] is -1.0"):
        fv.pairwise(p, mass="normalize", **keywords)


def test_all_pairs_name_a_row_with_nothing_to_normalise():
    p = random(25, 4, 7)[0]
    p[2] = 0.0
    for keywords in ({}, {"nan_policy": "omit"}):
        with says(ValueError, "P sums to 0", "(2,)"):
            fv.pairwise(p, mass="normalize", **keywords)
    with says(ValueError, "P sums to 0", "(2,)"):
        fv.pairwise(p, nan_policy="propagate")


def test_all_pairs_of_half_precision_have_its_tolerance():
    p = _table(24, 4, np.float16)
    p = (p / p.sum(axis=1, keepdims=True, dtype=np.float32) * np.float32(1.0015)).astype(np.float16)
    assert np.abs(p.astype(float).sum(axis=1) - 1.0).max() > 1e-3
    np.testing.assert_allclose(fv.pairwise(p), fv.kl(p[:, None], p[None]), rtol=1e-6)
    with says(ValueError, "P sums to", "within 2e-03"):
        fv.pairwise(p * np.float16(1.01))

"""Messages about invalid input: they name the argument, the index, the value and the choices."""

import math

import numpy as np
import pytest

import fastvi as fv
from helpers.divergence_rows import (
    EVERY,
    OF_DISTRIBUTIONS,
    PAIRED,
    WEIGHTED,
    WITH_BASE,
    WITHOUT_BASE,
    evaluate,
    parameters,
)
from helpers.messages import says

paired = pytest.mark.parametrize("name", PAIRED)
every = pytest.mark.parametrize("name", EVERY)
GOOD = np.array([0.25, 0.25, 0.5])
TABLE = np.full((4, 3), 1 / 3)


def spoiled(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


@every
@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-0.25, "-0.25")])
@pytest.mark.parametrize("mass", ["unit", "normalize", "any"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bad_entry(name, value, shown, mass, dtype):
    if mass == "any" and name in OF_DISTRIBUTIONS:
        mass = "unit"
    good = GOOD.astype(dtype)
    with says(ValueError, "p[1] is " + shown, "must be finite and >= 0"):
        evaluate(name, spoiled(good, 1, value), good, mass=mass)
    if name in PAIRED:
        with says(ValueError, "q[2] is " + shown, "must be finite and >= 0"):
            evaluate(name, good, spoiled(good, 2, value), mass=mass)


@every
def test_no_entry_is_a_number(name):
    with says(ValueError, "p[0] is nan", "must be finite and >= 0"):
        evaluate(name, np.full(3, math.nan), GOOD)


@every
def test_negative_integers(name):
    with says(ValueError, "p[0] is -3", ">= 0"):
        evaluate(name, [-3, 4, 5], [1, 2, 3], mass="normalize")


@paired
def test_a_negative_entry_that_leaves_the_sum_at_one(name):
    with says(ValueError, "p[2] is -0.5"):
        evaluate(name, [0.75, 0.75, -0.5], GOOD)
    with says(ValueError, "q[0] is -1e-300"):
        evaluate(name, GOOD, [-1e-300, 0.5, 0.5])


@paired
def test_bad_entry_beside_an_infinite_divergence(name):
    """p > 0 = q makes a sum infinite before the bad entry is met."""
    with says(ValueError, "p[2] is -0.5"):
        evaluate(name, [0.5, 1.0, -0.5], [0.0, 0.5, 0.5])
    with says(ValueError, "q[2] is nan"):
        evaluate(name, [0.5, 0.5, 0.0], [0.0, 1.0, math.nan])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [0, 1999, 2001, 4999])
def test_bad_entry_and_the_order_inf(k, dtype):
    """Before, beside and behind an infinite ratio, and without one."""
    for beside in (0.0, 2.0**-9):
        for value in (math.nan, -0.125):
            for name in "pq":
                arrays = {"p": np.full(5000, 2.0**-10, dtype), "q": np.full(5000, 2.0**-9, dtype)}
                arrays["p"][10], arrays["q"][2000] = 2.0**-4, beside
                arrays[name][k] = value
                with says(ValueError, f"{name}[{k}] is {value}"):
                    fv.renyi(**arrays, alpha=math.inf, mass="normalize")


@paired
@pytest.mark.parametrize("k", [0, 5, 16383, 16384, 40_000, 49_999])
def test_bad_entry_of_a_long_array(name, k):
    p = np.full(50_000, 1 / 50_000)
    for value in (math.nan, -1e-9):
        with says(ValueError, f"p[{k}] is {value}"):
            evaluate(name, spoiled(p, k, value), p)
        with says(ValueError, f"q[{k}] is {value}"):
            evaluate(name, p, spoiled(p, k, value))


@pytest.mark.parametrize("name", ["kl", "js", "total_variation"])
def test_bad_entry_of_a_threaded_array(name):
    p = np.full(500_000, 1 / 500_000)
    with says(ValueError, "q[400000] is nan"):
        evaluate(name, p, spoiled(p, 400_000, math.nan))


@every
def test_only_the_first_bad_entry_is_named(name):
    bad = spoiled(spoiled(TABLE, (2, 1), math.nan), (3, 0), -1.0)
    with says(ValueError, "p[2, 1] is nan"):
        evaluate(name, bad, TABLE)


@every
def test_index_with_the_axis_in_the_middle(name):
    p = np.full((2, 5, 3), 0.2)
    with says(ValueError, "p[1, 3, 2] is nan"):
        evaluate(name, spoiled(p, (1, 3, 2), math.nan), p, axis=1)
    with says(ValueError, "p[1, 3, 2] is nan"):
        evaluate(name, spoiled(p, (1, 3, 2), math.nan), p, axis=-2)


@paired
def test_index_in_an_array_that_is_broadcast(name):
    q = spoiled(TABLE, (3, 1), -2.0)[:, None]
    with says(ValueError, "q[3, 0, 1] is -2.0"):
        evaluate(name, TABLE, q)
    with says(ValueError, "q[1] is inf"):
        evaluate(name, TABLE, [0.5, math.inf, 0.5])


@every
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_log_probability(name, value):
    good = np.log(TABLE)
    with says(ValueError, f"p[2, 0] is {value}", "log-probabilities must be below +inf"):
        evaluate(name, spoiled(good, (2, 0), value), good, log=True)
    if name in PAIRED:
        with says(ValueError, f"q[3, 1] is {value}", "log-probabilities must be below +inf"):
            evaluate(name, good, spoiled(good, (3, 1), value), log=True)


@every
def test_sum_other_than_one(name):
    with says(
        ValueError, "p sums to 0.75", "mass='unit' wants 1 within 1e-06", "mass='normalize'", "mass='any'"
    ):
        evaluate(name, [0.25, 0.5], [0.5, 0.5])
    with says(ValueError, "p sums to 1.5 in row (2,)"):
        evaluate(name, spoiled(np.full((4, 2), 0.5), (2, 0), 1.0), [0.5, 0.5])
    with says(ValueError, "p sums to 0.0"):
        evaluate(name, [0.0, 0.0], [0.5, 0.5])


@paired
def test_sum_of_the_second_argument(name):
    with says(ValueError, "q sums to 0.75"):
        evaluate(name, [0.5, 0.5], [0.25, 0.5])
    table = spoiled(np.full((3, 2, 4), 0.5), (1, 0, 2), 1.0)
    with says(ValueError, "q sums to 1.5 in row (1, 2)"):
        evaluate(name, np.full((3, 2, 4), 0.5), table, axis=1)


@every
@pytest.mark.parametrize(
    ("dtype", "inside", "outside", "shown"),
    [(np.float64, 9e-7, 1.1e-6, "1e-06"), (np.float32, 9e-4, 1.1e-3, "1e-03")],
)
def test_how_far_a_sum_may_be_from_one(name, dtype, inside, outside, shown):
    good = np.array([0.5, 0.5], dtype)
    for sign in (1, -1):
        assert evaluate(name, np.array([0.5, 0.5 + sign * inside], dtype), good) >= 0.0
        with says(ValueError, "p sums to", f"wants 1 within {shown}"):
            evaluate(name, np.array([0.5, 0.5 + sign * outside], dtype), good)


@every
def test_sum_of_log_probabilities(name):
    with says(ValueError, "exp(p) sums to 0.75"):
        evaluate(name, np.log([0.25, 0.5]), np.log([0.5, 0.5]), log=True)
    with says(ValueError, "exp(p) sums to 0", "cannot be normalised"):
        evaluate(name, np.full(3, -math.inf), np.log(GOOD), log=True, mass="normalize")


@every
def test_nothing_to_normalise(name):
    with says(ValueError, "p sums to 0", "cannot be normalised"):
        evaluate(name, [0, 0], [1, 1], mass="normalize")
    with says(ValueError, "p sums to 0 in row (1,)", "cannot be normalised"):
        evaluate(name, [[1, 1], [0, 0]], [1, 1], mass="normalize")
    if name in PAIRED:
        with says(ValueError, "q sums to 0", "cannot be normalised"):
            evaluate(name, [1, 1], [0, 0], mass="normalize")


@every
def test_huge_sums(name):
    with says(ValueError, "p sums to 2e+300", "sums above 1e+289 are not supported"):
        evaluate(name, [1e300, 1e300], [1.0, 1.0], mass="normalize")
    with says(ValueError, "p sums to inf", "not supported"):
        evaluate(name, [1.7e308, 1.7e308], [1.0, 1.0], mass="normalize")


@every
def test_no_dimension(name):
    with says(ValueError, "at least one dimension", "()"):
        evaluate(name, 1.0, 1.0)


@paired
def test_both_shapes_are_named(name):
    with says(ValueError, "same length along axis -1", "(3,) of p", "(4,) of q"):
        evaluate(name, GOOD, np.full(4, 0.25))
    with says(ValueError, "same length along axis 0", "(4, 3) of p", "(3, 3) of q"):
        evaluate(name, TABLE, TABLE[:3], axis=0)
    with says(ValueError, "do not broadcast", "other than -1", "(4, 3) of p", "(2, 3) of q"):
        evaluate(name, TABLE, TABLE[:2])


@paired
def test_the_axis_itself_does_not_broadcast(name):
    with says(ValueError, "same length along axis", "(3,) of p", "(1,) of q"):
        evaluate(name, GOOD, [1.0])


@every
def test_empty_axis(name):
    with says(ValueError, "empty along axis -1", "(0,)"):
        evaluate(name, [], [])
    with says(ValueError, "empty along axis 0", "(0, 3)"):
        evaluate(name, np.empty((0, 3)), np.empty((0, 3)), axis=0)


@every
@pytest.mark.parametrize("axis", [2, -3, 100])
def test_axis_out_of_range(name, axis):
    with says(ValueError, f"axis {axis} is out of range", "(4, 3)"):
        evaluate(name, TABLE, TABLE, axis=axis)


@every
@pytest.mark.parametrize("axis", [1.0, "0", [0, 1], (0, "1")])
def test_axis_that_is_no_integer(name, axis):
    with says(TypeError, "axis must be an integer", repr(axis)):
        evaluate(name, TABLE, TABLE, axis=axis)


@every
@pytest.mark.parametrize("mass", ["sum", None, 1, [], "UNIT"])
def test_unknown_mass(name, mass):
    with says(ValueError, "mass must be one of", "'unit'", "'normalize'", "'any'", repr(mass)):
        evaluate(name, GOOD, GOOD, mass=mass)


@pytest.mark.parametrize("name", OF_DISTRIBUTIONS)
def test_no_measures(name):
    with says(ValueError, name, "'unit' or 'normalize'", "not 'any'"):
        evaluate(name, GOOD, GOOD, mass="any")
    if name in PAIRED:
        with says(ValueError, name, "'unit' or 'normalize'", "not 'any'"):
            fv.pairwise(TABLE, metric=name, mass="any", **parameters(name))


@pytest.mark.parametrize("name", WITH_BASE)
@pytest.mark.parametrize("base", [1, 1.0, 0.5, 0, -2, math.inf])
def test_base_out_of_range(name, base):
    with says(ValueError, "base must be a finite number above 1", repr(base)):
        evaluate(name, GOOD, GOOD, base=base)


@pytest.mark.parametrize("name", WITH_BASE)
def test_base_that_is_no_number(name):
    with says(ValueError, "base is nan"):
        evaluate(name, GOOD, GOOD, base=math.nan)
    for base in ("two", [2, 3], 1j):
        with says(TypeError, "base must be a real number", repr(base)):
            evaluate(name, GOOD, GOOD, base=base)


@pytest.mark.parametrize("name", WITHOUT_BASE)
def test_base_without_meaning(name):
    with says(ValueError, name, "base has no meaning", "base=2"):
        evaluate(name, GOOD, GOOD, base=2)
    with says(ValueError, name, "base has no meaning", "base=2"):
        fv.pairwise(TABLE, metric=name, base=2, **parameters(name))


@pytest.mark.parametrize("name", WEIGHTED)
def test_bad_weights(name):
    for weights in [(0.5, 0.6), (1.0, 0.0), (-0.5, 1.5), (0.0, 1.0), (math.inf, 0.5), (0.5, 0.5 + 1e-9)]:
        with says(ValueError, "weights must be positive and sum to 1", repr(weights)):
            evaluate(name, GOOD, GOOD, weights=weights)
    for weights in [0.5, (0.5,), (0.2, 0.3, 0.5), None]:
        with says(ValueError, "weights must be two numbers", repr(weights)):
            evaluate(name, GOOD, GOOD, weights=weights)
    with says(ValueError, "weights[1] is nan"):
        evaluate(name, GOOD, GOOD, weights=(0.5, math.nan))
    with says(TypeError, "weights[0] must be a real number", "'a'"):
        evaluate(name, GOOD, GOOD, weights="ab")


def test_bad_alpha():
    with says(ValueError, "alpha must be >= 0", "-0.5"):
        fv.renyi(GOOD, GOOD, -0.5)
    for alpha in (math.inf, -math.inf):
        with says(ValueError, "alpha must be finite", repr(alpha)):
            fv.alpha_divergence(GOOD, GOOD, alpha)
    for function in (fv.renyi, fv.alpha_divergence):
        with says(ValueError, "alpha is nan"):
            function(GOOD, GOOD, math.nan)
        for alpha in ("half", None, 1j):
            with says(TypeError, "alpha must be a real number", repr(alpha)):
                function(GOOD, GOOD, alpha)


BAD_ARRAYS = {
    "complex": (np.array([0.5, 0.5j]), TypeError, "dtype complex128"),
    "object": (np.array([0.5, None], dtype=object), TypeError, "dtype object"),
    "string": (["0.5", "0.5"], TypeError, "dtype <U3"),
    "none": (None, TypeError, "dtype object"),
    "date": (np.array(["2001-01-01", "2001-01-02"], dtype="M8[D]"), TypeError, "dtype datetime64"),
    "ragged": ([[0.5, 0.5], [1.0]], ValueError, "not an array of numbers"),
}


@every
@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_arrays_of_other_things(name, bad):
    array, error, words = BAD_ARRAYS[bad]
    with says(error, "p ", words):
        evaluate(name, array, [0.5, 0.5])
    if name in PAIRED:
        with says(error, "q ", words):
            evaluate(name, [0.5, 0.5], array)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize <= 8, reason="long double is double here")
def test_long_double_is_not_rounded_in_silence():
    with says(TypeError, "p has dtype", "expected real numbers (float32, float64 or integers)"):
        fv.kl(np.array([0.5, 0.5], np.longdouble), [0.5, 0.5])


def test_kl_grad():
    with says(ValueError, "p[1] is nan"):
        fv.kl_grad([0.5, math.nan], [0.5, 0.5])
    with says(ValueError, "q[1, 0] is -1.0"):
        fv.kl_grad(np.ones((2, 2)), [[1.0, 1.0], [-1.0, 1.0]])
    with says(ValueError, "same length along axis -1", "(2,) of p", "(3,) of q"):
        fv.kl_grad([0.5, 0.5], GOOD)
    with says(ValueError, "empty along axis -1"):
        fv.kl_grad([], [])


def test_pairwise_metric():
    for metric in ("euclidean", None, ["kl"], "entropy", "kl_grad"):
        with says(
            ValueError, "metric must be one of 'kl', 'cross_entropy'", "'alpha_divergence'", repr(metric)
        ):
            fv.pairwise(TABLE, metric=metric)


@pytest.mark.parametrize("metric", ["kl", "cross_entropy", "js", "hellinger"])
def test_pairwise_entries(metric):
    with says(ValueError, "P[2, 1] is nan"):
        fv.pairwise(spoiled(TABLE, (2, 1), math.nan), TABLE, metric)
    with says(ValueError, "Q[3, 0] is -0.5"):
        fv.pairwise(TABLE, spoiled(TABLE, (3, 0), -0.5), metric)
    with says(ValueError, "P sums to 1.5 in row (1,)"):
        fv.pairwise(spoiled(np.full((3, 2), 0.5), (1, 1), 1.0), metric=metric)
    with says(ValueError, "Q sums to 0 in row (0,)", "cannot be normalised"):
        fv.pairwise(TABLE, np.zeros((2, 3)), metric, mass="normalize")


def test_pairwise_row_of_a_large_table():
    """Rows are checked in blocks: the number must count from the start."""
    table = np.full((20_000, 3), 1 / 3)
    with says(ValueError, "P[19999, 2] is inf"):
        fv.pairwise(spoiled(table, (19_999, 2), math.inf), TABLE)


@pytest.mark.parametrize("metric", ["kl", "js", "chi2"])
def test_pairwise_checks_rows_that_no_other_row_meets(metric):
    with says(ValueError, "P[1, 0] is nan"):
        fv.pairwise(spoiled(TABLE, (1, 0), math.nan), np.empty((0, 3)), metric)


def test_pairwise_shapes():
    with says(ValueError, "P must have two dimensions", "(3,)"):
        fv.pairwise(GOOD)
    with says(ValueError, "Q must have two dimensions", "(1, 4, 3)"):
        fv.pairwise(TABLE, TABLE[None])
    with says(ValueError, "rows of one length", "(4, 3)", "(4, 2)"):
        fv.pairwise(TABLE, TABLE[:, :2])
    with says(ValueError, "P has empty rows", "(4, 0)"):
        fv.pairwise(np.empty((4, 0)))


def test_pairwise_out():
    for shape in [(4, 3), (4,), (4, 4, 1)]:
        with says(ValueError, f"out has shape {shape}", "(4, 4)"):
            fv.pairwise(TABLE, out=np.empty(shape))
    with says(TypeError, "out must be a float array", "int64"):
        fv.pairwise(TABLE, out=np.empty((4, 4), np.int64))
    with says(TypeError, "out must be a float array", "list"):
        fv.pairwise(TABLE, out=[[0.0] * 4] * 4)
    out = np.empty((4, 4))
    out.flags.writeable = False
    with says(ValueError, "out is read-only"):
        fv.pairwise(TABLE, out=out)


def test_pairwise_alpha():
    for metric in ("renyi", "alpha_divergence"):
        with says(ValueError, metric, "needs alpha"):
            fv.pairwise(TABLE, metric=metric)
    with says(ValueError, "alpha has no use", "'kl'", "alpha=2"):
        fv.pairwise(TABLE, alpha=2)
    with says(ValueError, "alpha must be >= 0", "-1"):
        fv.pairwise(TABLE, metric="renyi", alpha=-1)
    with says(ValueError, "alpha must be finite", "inf"):
        fv.pairwise(TABLE, metric="alpha_divergence", alpha=math.inf)


def test_pairwise_keywords():
    with says(ValueError, "mass must be one of", "'none'"):
        fv.pairwise(TABLE, mass="none")
    with says(ValueError, "base must be a finite number above 1", "1"):
        fv.pairwise(TABLE, base=1)
    with says(TypeError, "P has dtype complex128"):
        fv.pairwise(TABLE.astype(complex))


def test_out_is_untouched_by_a_failed_call():
    out = np.full((4, 4), -7.0)
    with pytest.raises(ValueError, match="Q sums to"):
        fv.pairwise(TABLE, spoiled(TABLE, (3, 2), 0.9), out=out)
    assert np.all(out == -7.0)

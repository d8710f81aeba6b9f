"""The kernels themselves: compiled and plain, exact steps, elementary functions, compiler options.

The whole file also runs under NUMBA_DISABLE_JIT=1, where the kernels are plain functions.
"""

import importlib
import inspect
import itertools
import json
import math
import os
import pkgutil
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
import reference
from divergence_rows import parameters, theta
from mpmath import mp, mpf

import fastvi
import fastvi.kernels
from fastvi.kernels import compiler
from fastvi.kernels.discrete import all_pairs, divergences
from fastvi.kernels.discrete.masses import ANY, NORMALIZE, UNIT
from fastvi.kernels.discrete.normalized import CHUNK
from fastvi.kernels.numerics import elementary, error_free

JIT = not numba.config.DISABLE_JIT
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(fastvi.kernels.__path__, "fastvi.kernels.")
]


def dispatchers():
    """Every compiled function of the kernels: of modules, in registries, and those that others call."""
    found, queue = {}, [value for module in MODULES for value in vars(module).values()]
    while queue:
        value = queue.pop()
        if isinstance(value, (Mapping, tuple)):
            queue.extend(value.values() if isinstance(value, Mapping) else value)
        elif hasattr(value, "py_func") and value.__module__.startswith("fastvi.") and id(value) not in found:
            found[id(value)] = value
            function = value.py_func
            queue.extend(function.__globals__.get(name) for name in function.__code__.co_names)
    return list(found.values())


DISPATCHERS = dispatchers()
ENTRY_POINTS = [k for entry in divergences.KERNELS.values() for k in entry if k is not None] + [
    k for registry in (all_pairs.ROWS, all_pairs.LOG_ROWS, all_pairs.PAIRS) for k in registry.values()
]

compiled_only = pytest.mark.skipif(not JIT, reason="NUMBA_DISABLE_JIT is set")


@pytest.fixture(autouse=True)
def _quiet():
    """Plain kernels divide by zero where compiled ones do, and NumPy's scalars would warn of it."""
    with np.errstate(all="ignore"):
        yield


def plain(function):
    return getattr(function, "py_func", function)


def pair(seed, n, dtype=np.float64):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(n), size=2).astype(dtype)
    return p, q


every = pytest.mark.parametrize("name", divergences.KERNELS)


def truth(name, p, q, **keywords):
    return reference.exact(name, p, q, **parameters(name), **keywords)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("n", [1, 5, 70, 300])
def test_against_the_reference(name, dtype, tolerance, n):
    p, q = pair(n, n, dtype)
    value = divergences.KERNELS[name].whole(p, q, theta(name), UNIT)
    assert reference.relative_error(value, truth(name, p, q)) <= tolerance
    assert isinstance(value, float), "float32 is summed in float64"


@every
def test_logarithms_against_the_reference(name):
    p, q = np.log(pair(1, 40))
    value = divergences.KERNELS[name].log(p, q, theta(name), UNIT)
    assert reference.relative_error(value, truth(name, p, q, log=True)) <= 1e-13


@every
@pytest.mark.parametrize("kind", ["apart", "near", "zeros"])
def test_compiled_and_plain_agree(name, kind):
    p, q = pair(2, 60)
    if kind == "near":
        q = p * (1 + 1e-7)
    elif kind == "zeros":
        p[::3] = 0.0
    for kernel, x, y in [
        (divergences.KERNELS[name].whole, p, q),
        (divergences.KERNELS[name].log, np.log(p + 1e-3), np.log(q + 1e-3)),
    ]:
        value = kernel(x, y, theta(name), NORMALIZE)
        other = plain(kernel)(x, y, theta(name), NORMALIZE)
        assert value > 0.0
        assert value == pytest.approx(other, rel=1e-13, abs=0.0)


@every
def test_invalid_input_gives_nan(name):
    kernel, parameter = divergences.KERNELS[name].whole, theta(name)
    p, q = pair(3, 40)
    for value in (math.nan, math.inf, -math.inf, -1e-9, -1.0):
        for k in (0, 5, 39):
            bad = p.copy()
            bad[k] = value
            for mass in (UNIT, NORMALIZE, ANY):
                assert math.isnan(kernel(bad, q, parameter, mass)), (value, k, mass)
                assert math.isnan(kernel(q, bad, parameter, mass)), (value, k, mass)
    assert math.isnan(kernel(2.0 * p, q, parameter, UNIT))
    assert math.isnan(kernel(p, 2.0 * q, parameter, UNIT))
    assert math.isnan(kernel(np.zeros(3), np.ones(3), parameter, NORMALIZE))
    assert math.isnan(kernel(np.ones(3), np.zeros(3), parameter, NORMALIZE))


@every
def test_invalid_logarithms_give_nan(name):
    kernel, parameter = divergences.KERNELS[name].log, theta(name)
    p, q = np.log(pair(4, 40))
    for value in (math.nan, math.inf):
        bad = p.copy()
        bad[7] = value
        assert math.isnan(kernel(bad, q, parameter, NORMALIZE))
        assert math.isnan(kernel(q, bad, parameter, NORMALIZE))
    assert math.isnan(kernel(p + 1.0, q, parameter, UNIT))


@every
def test_zeros_and_infinities_survive_the_compiler(name):
    """What a fast-math flag too many would break: 0 log 0, p > 0 = q, and telling NaN from numbers."""
    kernel, parameter = divergences.KERNELS[name].whole, theta(name)
    for dtype in (np.float64, np.float32):
        p = np.zeros(100, dtype)
        p[::2] = 0.02
        unlike_entropy = 0.0 if name != "cross_entropy" else math.log(50)
        assert kernel(p, p.copy(), parameter, UNIT) == pytest.approx(unlike_entropy, abs=0.0, rel=1e-6)
        other = p[::-1].copy()
        assert reference.relative_error(kernel(p, other, parameter, UNIT), truth(name, p, other)) <= 1e-6
        p[2] = math.nan
        assert math.isnan(kernel(p, p[::-1].copy(), parameter, UNIT))


@pytest.mark.parametrize("name", [n for n, k in divergences.KERNELS.items() if k.partial is not None])
def test_chunks_add_up_to_the_whole(name):
    kernel, parameter = divergences.KERNELS[name], theta(name)
    n = 2 * CHUNK + 17 if JIT else CHUNK + 3
    p, q = pair(5, n)
    chunks = -(-n // CHUNK)
    parts = np.full((chunks, 3), math.nan)
    for i in reversed(range(chunks)):
        kernel.partial(p, q, parameter, i, i + 1, parts)
    value = kernel.finish(p, q, parts, parameter, UNIT)
    assert value == kernel.whole(p, q, parameter, UNIT)
    assert value > 0.0


def test_kl_grad_writes_both_gradients():
    p, q = pair(6, 30)
    grads = np.full((2, 30), math.nan)
    value = divergences.kl_grad(p, q, grads[0], grads[1])
    other = np.empty((2, 30))
    assert plain(divergences.kl_grad)(p, q, other[0], other[1]) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(grads, other, rtol=1e-13)
    np.testing.assert_allclose(grads[1], 1.0 - p / q, rtol=1e-12)


def test_pairs_and_rows():
    rng = np.random.default_rng(7)
    p, q = rng.dirichlet(np.ones(6), size=4), rng.dirichlet(np.ones(6), size=3)
    log_p, log_q = np.log(p), np.log(q)
    for array in (p, q, log_p, log_q):
        array.flags.writeable = False  # as the API hands them on: any other type is compiled again
    for name, kernel in divergences.KERNELS.items():
        parameter, out = theta(name), np.full((4, 3), math.nan)
        all_pairs.PAIRS[name](p, q, parameter, UNIT, out)
        ip, iq = np.divmod(np.arange(12), 3)
        rows = np.full(12, math.nan)
        all_pairs.ROWS[name](p, q, ip, iq, parameter, UNIT, rows)
        assert np.array_equal(rows.reshape(4, 3), out)
        assert out[2, 1] == kernel.whole(p[2].copy(), q[1].copy(), parameter, UNIT)
        logs = np.full(12, math.nan)
        all_pairs.LOG_ROWS[name](log_p, log_q, ip, iq, parameter, UNIT, logs)
        np.testing.assert_allclose(logs, rows, rtol=1e-12)


def test_add_products_is_a_matrix_product():
    rng = np.random.default_rng(8)
    p, s = rng.random((8, 12)), rng.random((12, 5))
    out = np.ones((8, 5))
    all_pairs.add_products(p, s, out)
    np.testing.assert_allclose(out, 1.0 + p @ s, rtol=1e-15)


def test_minus_logs_are_large_for_zero():
    q = np.array([[0.5, 0.0, 1.5], [5e-324, 1.0, 1e-310]])
    masses = q.sum(axis=1)
    out = np.full((3, 2), math.nan)
    all_pairs.minus_logs(q, masses, out)
    assert out[1, 0] > 1e6 * 745
    assert math.isfinite(out[1, 0])
    for j, k in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]:
        expected = -mp.log(mpf(float(q[j, k])) / mpf(float(masses[j])))
        assert abs(out[k, j] - expected) <= 1e-15 * abs(expected)


def test_mixture_entropy():
    p, q = pair(9, 50)
    halves = np.empty((2, 50))
    all_pairs.halves(np.stack([p, q]) * 3.0, np.array([3.0, 3.0]), halves)
    np.testing.assert_allclose(halves[0], p / 2, rtol=1e-15)
    expected = reference.exact("entropy", (p + q) / 2)
    assert reference.relative_error(all_pairs.mixture_entropy(halves[0], halves[1]), expected) <= 1e-14


# Error-free arithmetic, checked in exact fractions.


def numbers(seed, count, low=-300, high=300):
    rng = np.random.default_rng(seed)
    values = rng.uniform(1.0, 2.0, count) * 2.0 ** rng.integers(low, high, count) * rng.choice([-1, 1], count)
    return [float(x) for x in values]


def test_two_product_is_exact():
    for x, y in zip(numbers(10, 500), numbers(11, 500), strict=True):
        for product in {error_free.two_product, plain(error_free.two_product)}:
            high, low = product(x, y)
            assert high == x * y
            assert Fraction(high) + Fraction(low) == Fraction(x) * Fraction(y)


def test_cross_difference_where_the_products_nearly_agree():
    rng = np.random.default_rng(12)
    zeros = 0
    for x, u, scale in rng.uniform(0.5, 1.0, size=(500, 3)).tolist():
        y, v = x * scale, u / scale
        wanted = Fraction(x) * Fraction(u) - Fraction(y) * Fraction(v)
        got = Fraction(error_free.cross_difference(x, u, y, v))
        assert abs(got - wanted) <= Fraction(1, 2**52) * abs(wanted)
        zeros += wanted == 0
    assert zeros < 100


def test_cross_difference_far_apart():
    for x, u, y, v in zip(*(numbers(13 + i, 200, -100, 100) for i in range(4)), strict=True):
        wanted = Fraction(x) * Fraction(u) - Fraction(y) * Fraction(v)
        got = Fraction(error_free.cross_difference(x, u, y, v))
        assert abs(got - wanted) <= Fraction(1, 2**51) * abs(wanted)


def test_add_compensated_loses_nothing():
    for seed in range(20):
        values = numbers(20 + seed, 40, -30, 30)
        total, lost = 0.0, 0.0
        for x in values:
            before = Fraction(total)
            step, extra = error_free.add_compensated(total, 0.0, x)
            assert Fraction(step) + Fraction(extra) == before + Fraction(x)
            total, lost = error_free.add_compensated(total, lost, x)
        assert abs(total + lost - math.fsum(values)) <= 1e-15 * abs(math.fsum(values))


def test_add_compensated_beats_a_plain_sum():
    total, lost = 1.0, 0.0
    for _ in range(1000):
        total, lost = error_free.add_compensated(total, lost, 1e-17)
    assert total + lost == pytest.approx(1.0 + 1e-14, rel=1e-16, abs=0.0)
    assert total + lost > 1.0


def test_add_compensated_at_infinity():
    assert error_free.add_compensated(1.0, 0.5, math.inf) == (math.inf, 0.0)
    assert math.isnan(error_free.add_compensated(1.0, 0.0, math.nan)[0])
    total, lost = error_free.add_compensated(math.inf, 0.0, 3.0)
    assert total + lost == math.inf


def test_difference_is_not_reordered():
    """In a loop that may reorder its sums (x + e) - x must not become e."""
    assert error_free.difference(1.0 + 1e-17, 1.0) == 0.0
    assert error_free.difference(0.3, 0.1) == 0.3 - 0.1


# Elementary functions, over their whole range.

ULP = 2.0**-52
# What kernels pass on: entries times 2**54, from the smallest subnormal to the largest mass.
SMALLEST, LARGEST = 2.0**-1020, 2.0**1014


def positive_numbers():
    rng = np.random.default_rng(40)
    spread = 2.0 ** rng.uniform(-1020, 1014, 600)
    around_one = 1.0 + rng.uniform(-0.4, 0.6, 300) * 10.0 ** rng.uniform(-15, 0, 300)
    edges = [SMALLEST, LARGEST, 1.0, 1 + ULP, 1 - ULP / 2, 2.0, 0.5, 1.5, 4 / 3, 2 / 3, math.sqrt(2)]
    return [float(x) for x in itertools.chain(spread, around_one, edges)]


def test_log():
    for x in positive_numbers():
        with mp.workdps(50):
            expected = mp.log(mpf(x))
            assert abs(elementary.log(x) - expected) <= 2 * ULP * abs(expected), x


@pytest.mark.parametrize("scale", [1.0, 1e300, 1e-300])
def test_log_ratio_near_equality(scale):
    rng = np.random.default_rng(41)
    for exponent in np.linspace(-16, -0.1, 300):
        q = scale * float(rng.uniform(1.0, 7.0))
        p = q * (1.0 + float(rng.choice([-1, 1])) * 10.0 ** float(exponent))
        with mp.workdps(50):
            expected = mp.log(mpf(p) / mpf(q))
            assert abs(elementary.log_ratio(p, q, p - q) - expected) <= 3 * ULP * abs(expected)


def test_log_ratio_far_apart():
    values = positive_numbers()
    for p, q in zip(values, values[::-1], strict=True):
        with mp.workdps(50):
            expected = mp.log(mpf(p) / mpf(q))
            assert abs(elementary.log_ratio(p, q, p - q) - expected) <= 3 * ULP * abs(expected), (p, q)


def test_exp():
    rng = np.random.default_rng(42)
    for x in itertools.chain(
        rng.uniform(-708, 709, 600), rng.normal(0, 1e-3, 100), [0.0, 1.0, 709.0, -708.0]
    ):
        with mp.workdps(50):
            expected = mp.exp(mpf(float(x)))
            assert abs(elementary.exp(float(x)) - expected) <= 2 * ULP * expected, x


def test_exp_of_small_and_special_arguments():
    for x in np.random.default_rng(43).uniform(-745, -708, 200):
        with mp.workdps(50):
            off = abs(elementary.exp(float(x)) - mp.exp(mpf(float(x))))
            assert off <= mpf(5e-324) + 2 * ULP * mp.exp(mpf(float(x)))
    for x in (-746.0, -760.0, -1e4, -1e300, -math.inf):
        assert elementary.exp(x) == 0.0
    assert elementary.exp(0.0) == 1.0
    assert math.isnan(elementary.exp(math.nan))
    for x in (709.7, 709.78):
        with mp.workdps(50):
            assert abs(elementary.exp(x) / mp.exp(mpf(x)) - 1) <= 2 * ULP
    for x in (709.79, 710.0, 711.0, 800.0, 1e300, math.inf):
        assert elementary.exp(x) == math.inf


def test_logarithm_of_anything():
    subnormal = [5e-324, 1e-310, 2.0**-1022, 2.0**-1000, 2.0**-999]
    for x in itertools.chain(positive_numbers(), subnormal):
        with mp.workdps(50):
            expected = mp.log(mpf(x))
            assert abs(elementary.logarithm(x) - expected) <= 2 * ULP * abs(expected), x
    assert elementary.logarithm(0.0) == elementary.logarithm(-0.0) == -math.inf
    assert elementary.logarithm(math.inf) == math.inf
    for x in (-5e-324, -1.0, -math.inf, math.nan):
        assert math.isnan(elementary.logarithm(x))


def test_expm1_small():
    rng = np.random.default_rng(44)
    for x in itertools.chain(
        rng.uniform(-0.35, 0.35, 300), 10.0 ** rng.uniform(-300, -1, 100), [-0.35, 0.35]
    ):
        with mp.workdps(350):
            expected = mp.expm1(mpf(float(x)))
            assert abs(elementary.expm1_small(float(x)) - expected) <= 2 * ULP * abs(expected)
    assert elementary.expm1_small(0.0) == 0.0


def test_cos_sin():
    rng = np.random.default_rng(5)
    near = [(k / 2 + d) * math.pi for k in range(-9, 10) for d in (-1e-9, 0.0, 1e-9)]
    with mp.workdps(40):
        for x in [*near, *rng.uniform(-30.0, 30.0, 300), *rng.uniform(-1e6, 1e6, 300)]:
            cos, sin = elementary.cos_sin(float(x))
            assert abs(cos - mp.cos(mpf(float(x)))) <= 2 * ULP
            assert abs(sin - mp.sin(mpf(float(x)))) <= 2 * ULP
    assert elementary.cos_sin(0.0) == (1.0, 0.0)


def test_atanh_tail():
    for s in np.linspace(1e-4, 0.2, 200):
        with mp.workdps(50):
            # the argument is what the float is, so that only the polynomial is judged
            w = mpf(float(s * s))
            root = mp.sqrt(w)
            expected = (mp.atanh(root) - root) / root**3
            assert abs(elementary.atanh_tail(float(s * s)) / expected - 1) <= 5e-15


if JIT:

    @numba.njit
    def step(p, q):
        return elementary.exponent_step(p, q)

else:
    step = elementary.exponent_step

RANGE = {np.float64: (-1022, 1024, 2.0**52), np.float32: (-126, 128, 2.0**23)}


@pytest.mark.parametrize("dtype", RANGE)
def test_exponent_step(dtype):
    low, high, unit = RANGE[dtype]
    rng = np.random.default_rng(45)
    seen = set()
    for _ in range(500):
        p, q = (dtype(rng.uniform(1, 2) * 2.0 ** int(e)) for e in rng.integers(low + 1, high - 1, 2))
        scaled, k = step(*((float(p), float(q)) if dtype is np.float64 else (p, q)))
        shift = int(float(k) / unit)
        assert shift == float(k) / unit
        assert Fraction(float(scaled)) == Fraction(float(q)) * Fraction(2) ** shift
        # the bound the series rest on
        assert Fraction(2, 3) <= Fraction(float(p)) / Fraction(float(scaled)) <= Fraction(3, 2)
        seen.add(shift)
    assert len(seen) > 50


@pytest.mark.parametrize("dtype", RANGE)
def test_exponent_step_never_traps(dtype):
    """Zeros, subnormals and infinities give the same meaningless pair compiled and plain; NaN gives any."""
    convert = float if dtype is np.float64 else dtype
    special = [0.0, 5e-324 if dtype is np.float64 else 1e-45, math.inf, 1.0]
    for p, q in itertools.product(map(convert, special), repeat=2):
        got, wanted = step(p, q), elementary.exponent_step(p, q)
        np.testing.assert_array_equal(np.array(got, dtype), np.array(wanted, dtype))
    assert len(step(convert(math.nan), convert(-1.0))) == 2


def test_exponent_step_leaves_neighbours_alone():
    for ratio in (1.0, 1.3, 0.75, 1 + 1e-9):
        assert step(ratio, 1.0) == (1.0, 0.0)
        assert step(1e-200 * ratio, 1e-200) == (1e-200, 0.0)


# Compiler options.


@compiled_only
def test_the_search_finds_the_kernels():
    modules = {function.__module__ for function in DISPATCHERS}
    assert {divergences.__name__, all_pairs.__name__, elementary.__name__} <= modules
    names = {function.__name__ for function in DISPATCHERS}
    assert {
        "kl",
        "_kl_refined",
        "_kl_refined_sums",
        "_kl_sums32",
        "js_term",
        "log_ratio",
        "_js_pairs",
    } <= names
    assert len(DISPATCHERS) > 80


@compiled_only
def test_fast_math_never_ignores_nan_or_infinity():
    for function in DISPATCHERS:
        flags = function.targetoptions.get("fastmath", False)
        flags = {flags} if isinstance(flags, (str, bool)) else set(flags)
        assert flags <= {False, "contract", "reassoc"}, function


@compiled_only
def test_sums_are_reordered_only_in_loops():
    """The formulas' exact differences must stay as written: only functions with a loop may reorder."""
    reordering = [f for f in DISPATCHERS if "reassoc" in (f.targetoptions.get("fastmath") or ())]
    assert len(reordering) > 10
    for function in reordering:
        assert "for " in inspect.getsource(function.py_func), function


@compiled_only
def test_error_free_steps_allow_no_fast_math():
    for function in (
        error_free.two_product,
        error_free.cross_difference,
        error_free.add_compensated,
        error_free.difference,
        elementary._exp_reduced,
    ):
        assert not function.targetoptions.get("fastmath"), function


@compiled_only
def test_every_kernel_releases_the_gil_and_divides_as_the_hardware():
    for function in DISPATCHERS:
        assert function.targetoptions["nogil"], function
        assert function.targetoptions["error_model"] == "numpy", function
        assert not function.targetoptions.get("parallel"), function


@compiled_only
def test_constants_do_not_make_other_kernels():
    @compiler.kernel
    def power(x, n):
        return x**n

    @numba.njit
    def use(x, n):
        return power(x, 2) + power(x, 3) + power(x, n)

    assert use(2.0, 4) == 28.0
    assert power(2.0, 5) == 32.0
    assert power.signatures == [(numba.types.float64, numba.types.int64)]


@compiled_only
def test_what_the_api_calls_is_cached_under_its_own_name():
    """The disk cache goes by the name: two kernels of one name would be one kernel in the next process."""
    seen = {}
    cached = [f for f in DISPATCHERS if type(f._cache).__name__ == "FunctionCache"]
    inlined = {id(entry.inner) for entry in divergences.KERNELS.values()}  # into the code of users
    assert {id(f) for f in ENTRY_POINTS} - inlined <= {id(f) for f in cached}
    for function in cached:
        key = (function.__module__, function.__qualname__)
        assert seen.setdefault(key, function) is function, key


def test_specialise_binds_globals():
    def template(x):
        return inner(x) + 1.0  # noqa: F821

    double = compiler.specialise(template, "doubled", decorate=lambda f: f, inner=lambda x: 2.0 * x)
    square = compiler.specialise(template, "squared", decorate=lambda f: f, inner=lambda x: x * x)
    assert (double(5.0), square(5.0)) == (11.0, 26.0)
    assert double.__name__ == "doubled"


ASSEMBLY = """
import json, re, sys
import numpy as np
from fastvi.kernels.discrete import chunks, entropies

jobs = {
    "_kl_sums64": (chunks._kl_sums64, np.float64, ()),
    "_kl_sums32": (chunks._kl_sums32, np.float32, ()),
    "_js_sums": (chunks._js_sums, np.float64, ()),
    "_cross_sums": (entropies._cross_sums, np.float64, (1.0,)),
    "_kl_lifted": (chunks._kl_lifted, np.float64, ((0.0, 0.0),)),
    "_js_lifted": (chunks._js_lifted, np.float64, ((0.5, 0.5),)),
}
counts = {}
for name, (function, dtype, rest) in jobs.items():
    p = np.full(100, 0.01, dtype)
    p.flags.writeable = False
    function(p, p, *rest)
    (code,) = function.inspect_asm().values()
    counts[name] = {
        "packed": len(re.findall(r"\\bvdivp[ds]\\b[^\\n]*%[yz]mm", code)),
        "calls": len(re.findall(r"\\bcall\\w*\\b[^\\n]*\\b_?(?:log|exp)\\w*", code)),
    }
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Counts of packed divisions; a process of its own, code from the disk cache has no assembly."""
    if not JIT:
        pytest.skip("NUMBA_DISABLE_JIT is set")
    import llvmlite.binding as llvm

    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this machine has no AVX2: no vector width to look for")
    env = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": str(Path(fastvi.__file__).parents[1]),
    }
    run = subprocess.run(
        [sys.executable, "-c", ASSEMBLY], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "name", ["_kl_sums64", "_kl_sums32", "_js_sums", "_cross_sums", "_kl_lifted", "_js_lifted"]
)
def test_hot_loops_are_vectorised(assembly, name):
    assert assembly[name]["packed"] > 0
    assert assembly[name]["calls"] == 0

"""Divergences of arrays in a user's compiled code, with `import fastvi` only."""

import math
from functools import cache

import numba
import numpy as np
import pytest
from numba import njit, prange
from numba.core.errors import TypingError

import fastvi
from fastvi.kernels.discrete.divergences import KERNELS
from fastvi.kernels.discrete.registry import ROWS
from helpers.divergence_rows import EVERY, OF_MEASURES, WITH_BASE, evaluate, parameters
from helpers.programs import copied, run_program

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


def compiled(name, **keywords):
    """A divergence as a function of two arrays, in compiled code; the keywords are constants there."""
    function, row, alpha = getattr(fastvi, name), ROWS[name], parameters(name).get("alpha")
    base, mass, log = (keywords.get(key, default) for key, default in DEFAULTS.items())

    if row.arrays == 1 and row.orders:
        return njit(lambda p, q: function(p, alpha, base=base, mass=mass, log=log))
    if row.arrays == 1:
        return njit(lambda p, q: function(p, base=base, mass=mass, log=log))
    if row.orders:
        return njit(lambda p, q: function(p, q, alpha, base=base, mass=mass, log=log))
    return njit(lambda p, q: function(p, q, base=base, mass=mass, log=log))


DEFAULTS = {"base": None, "mass": "unit", "log": False}


@cache
def by_default(name):
    """Compiled once for all tests."""
    return compiled(name)


@njit
def with_base(p, q):
    return (
        fastvi.entropy(p, base=2),
        fastvi.kl(p, q, base=10),
        fastvi.js_distance(p, q, base=2.0),
        fastvi.bhattacharyya(p, q, base=1.5),
    )


@njit
def normalised(p, q):
    return (
        fastvi.cross_entropy(p, q, mass="normalize"),
        fastvi.kl(p, q, mass="normalize"),
        fastvi.js_distance(p, q, mass="normalize"),
        fastvi.hellinger(p, q, mass="normalize"),
    )


@njit
def measured(p, q):
    return fastvi.entropy(p, mass="any"), fastvi.kl(p, q, mass="any"), fastvi.js(p, q, mass="any")


@njit
def weighted(p, q, u):
    return fastvi.js(p, q, weights=(u, 1 - u)), fastvi.js_distance(p, q, weights=(u, 1 - u), base=2)


@njit
def ordered(p, q, alpha):
    return fastvi.renyi(p, q, alpha), fastvi.alpha_divergence(p, q, min(alpha, 1e3))


@njit
def spelled_out(p, q):
    return fastvi.kl(p, q, axis=-1, base=None, mass="unit", log=False, keepdims=False), fastvi.kl(
        p, q, axis=0
    )


def pair(seed, n, dtype=np.float64):
    return np.random.default_rng(seed).dirichlet(np.ones(n), size=2).astype(dtype)


every = pytest.mark.parametrize("name", EVERY)


@every
@pytest.mark.parametrize("n", [1, 5, 200, 40_000])
def test_the_same_bits_as_in_python(name, n):
    p, q = pair(n, n)
    value = by_default(name)(p, q)
    assert value == evaluate(name, p, q)
    assert value > 0.0 or (n == 1 and value == 0.0)


@every
@pytest.mark.parametrize("n", [5, 40_000])
def test_the_same_bits_for_other_keywords(name, n):
    """Weights in float32, with a base where there is one."""
    p, q = pair(n, n, np.float32) * np.float32(3.0)
    keywords = {"mass": "normalize", "base": 2.5 if name in WITH_BASE else None}
    assert compiled(name, **keywords)(p, q) == evaluate(name, p, q, **keywords) > 0.0


@every
def test_the_same_bits_for_logarithms(name):
    keywords = {"log": True, "mass": "any" if name in OF_MEASURES else "unit"}
    p, q = np.log(pair(200, 200))
    assert compiled(name, **keywords)(p, q) == evaluate(name, p, q, **keywords) > 0.0


@pytest.mark.parametrize("function", [with_base, normalised], ids=lambda x: x.__name__)
@pytest.mark.parametrize("n", [5, 200])
def test_several_in_one_function(function, n):
    p, q = pair(n, n)
    if function is normalised:
        p, q = p * 3.0, q * 7.0
    assert function(p, q) == function.py_func(p, q)


def test_measures():
    p, q = np.random.default_rng(1).gamma(1.0, size=(2, 50))
    assert measured(p, q) == measured.py_func(p, q)
    assert measured(p, q)[1] > 0.0


@pytest.mark.parametrize("u", [0.5, 0.125, 0.9])
def test_weights(u):
    p, q = pair(2, 50)
    assert weighted(p, q, u) == weighted.py_func(p, q, u)


def test_parameters_of_other_types_compile_no_other_kernel():
    """One kernel for each kind of array: its parameters are always float64."""
    p, q = pair(2, 50)
    for u in (np.float32(0.25), np.float64(0.25)):
        assert weighted(p, q, u) == weighted(p, q, 0.25)
    for alpha in (np.float32(0.5), np.int8(2), 2):
        assert ordered(p, q, alpha) == ordered(p, q, float(alpha))
    for name in ("js", "js_distance", "renyi", "alpha_divergence"):
        for _, _, theta, mass in KERNELS[name].whole.signatures:
            assert (theta, mass) == (numba.types.UniTuple(numba.float64, 2), numba.int64)


@pytest.mark.parametrize("alpha", [0, 0.0, 0.5, 1, 1.0, 1 + 1e-9, 2, 10.0, math.inf])
def test_orders(alpha):
    p, q = pair(3, 50)
    assert ordered(p, q, alpha) == ordered.py_func(p, q, alpha)


def test_keywords_at_their_defaults():
    p, q = pair(4, 50)
    assert spelled_out(p, q) == (fastvi.kl(p, q),) * 2


@every
def test_zeros_and_infinities(name):
    p, q = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])
    for x, y in ((p, q), (q, p)):
        assert by_default(name)(x, y) == evaluate(name, x, y)
    assert by_default("kl")(p, q) == math.inf
    assert by_default("kl")(q, p) == math.log(2.0)


def test_read_only_arrays():
    p, q = pair(5, 50)
    expected = two(p, q)
    p.flags.writeable = q.flags.writeable = False
    assert two(p, q) == expected == fastvi.kl(p, q)


def test_gradient():
    @njit
    def gradient(p, q):
        return fastvi.kl_grad(p, q)

    p, q = np.random.default_rng(6).gamma(1.0, size=(2, 50))
    p[3] = q[5] = 0.0
    for dtype in (np.float64, np.float32):
        x, y = p.astype(dtype), q.astype(dtype)
        got, wanted = gradient(x, y), fastvi.kl_grad(x, y)
        assert got[0] == wanted[0]
        assert np.array_equal(got[1], wanted[1])
        assert np.array_equal(got[2], wanted[2])
    value, grad_p, _ = gradient(np.ones(3), np.ones(4))
    assert math.isnan(value)
    assert grad_p.shape == (3,)


BAD = {
    "nan": ([0.5, math.nan], [0.5, 0.5]),
    "negative": ([1.5, -0.5], [0.5, 0.5]),
    "infinite": ([0.5, 0.5], [0.5, math.inf]),
    "sum": ([0.5, 0.75], [0.5, 0.5]),
    "sum-of-q": ([0.5, 0.5], [0.5, 0.25]),
    # valid as far as the shorter one goes
    "length": ([0.5, 0.5], [0.5, 0.5, 0.0]),
    "empty": ([], []),
}


@every
@pytest.mark.parametrize("bad", BAD)
def test_invalid_input_gives_nan(name, bad):
    p, q = map(np.array, BAD[bad])
    value = by_default(name)(p, q)
    if ROWS[name].arrays == 1 and bad in ("infinite", "sum-of-q", "length"):
        assert value == pytest.approx(math.log(2.0), rel=1e-15), "q is no concern of the entropy of p"
    else:
        assert math.isnan(value)


def test_invalid_parameters_give_nan():
    p, q = pair(7, 5)

    @njit
    def based(p, q, base):
        return fastvi.kl(p, q, base=base)

    for base in (1.0, 0.5, -1.0, math.nan, math.inf):
        assert math.isnan(based(p, q, base))
    assert based(p, q, 2.0) == fastvi.kl(p, q, base=2.0)
    for u in (0.0, 1.0, -0.5, math.nan):
        assert math.isnan(weighted(p, q, u)[0])
    for alpha in (-0.5, math.nan):
        assert math.isnan(ordered(p, q, alpha)[0])

    @njit
    def of_order(p, q, alpha):
        return fastvi.alpha_divergence(p, q, alpha)

    for alpha in (math.inf, -math.inf, math.nan):
        assert math.isnan(of_order(p, q, alpha))
    assert of_order(p, q, -3.0) == fastvi.alpha_divergence(p, q, -3.0)


def test_prange_marks_the_bad_items_and_no_other():
    assert "all rows agree" in run_program("parallel_rows")


def test_a_cached_function_is_loaded_by_the_next_process(tmp_path):
    program = copied("cached_information", tmp_path)
    for hits in (0, 1):
        assert f"hits {hits}" in run_program(program)


def test_serial_prange_in_this_process():
    @njit
    def rows(p, q):
        out = np.empty(len(p))
        for i in prange(len(p)):
            out[i] = fastvi.kl(p[i], q[i])
        return out

    p, q = np.random.default_rng(9).dirichlet(np.ones(40), size=(2, 20))
    assert np.array_equal(rows(p, q), fastvi.kl(p, q))


@njit
def two(p, q):
    return fastvi.kl(p, q)


@njit
def one(p):
    return fastvi.entropy(p)


@njit
def by_order(p, q):
    return fastvi.renyi(p, q, 2.0)


@pytest.mark.parametrize(
    ("function", "count", "name"), [(two, 2, "kl"), (one, 1, "entropy"), (by_order, 2, "renyi")]
)
@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 0.5),
        np.full(4, 0.5)[::2],
        np.array([1, 0]),
        np.array([True, False]),
        np.array([0.5, 0.5j]),
    ],
    ids=["2-d", "strided", "integer", "bool", "complex"],
)
def test_arrays_that_compiled_code_does_not_take(function, count, name, array):
    with pytest.raises(TypingError, match=rf"fastvi\.{name} .*contiguous 1-D arrays of float64 or float32"):
        function(*(array,) * count)


def test_mixed_dtypes_are_a_typing_error():
    with pytest.raises(TypingError, match=r"fastvi\.kl .*arrays of one dtype"):
        two(*[pair(10, 5, d)[0] for d in (np.float64, np.float32)])


def test_mass_must_be_constant():
    @njit
    def variable(p, q, mass):
        return fastvi.kl(p, q, mass=mass)

    with pytest.raises(TypingError, match=r"fastvi\.kl: mass must be a constant"):
        variable(*pair(11, 5), "unit")


def test_log_must_be_constant():
    @njit
    def variable(p, q, log):
        return fastvi.js(p, q, log=log)

    with pytest.raises(TypingError, match=r"fastvi\.js: log must be a constant"):
        variable(*pair(11, 5), True)


def test_unknown_mass():
    @njit
    def unknown(p, q):
        return fastvi.chi2(p, q, mass="sum")

    with pytest.raises(TypingError, match=r"fastvi\.chi2: mass must be one of 'unit', 'normalize', 'any'"):
        unknown(*pair(12, 5))


def test_no_renyi_divergence_of_measures():
    @njit
    def measures(p, q):
        return fastvi.renyi(p, q, 2.0, mass="any")

    with pytest.raises(
        TypingError, match=r"fastvi\.renyi: mass must be one of 'unit', 'normalize', not 'any'"
    ):
        measures(*pair(13, 5))


def test_axis_and_keepdims():
    @njit
    def along(p, q):
        return fastvi.kl(p, q, axis=1)

    @njit
    def kept(p, q):
        return fastvi.kl(p, q, keepdims=True)

    with pytest.raises(TypingError, match=r"fastvi\.kl: axis must be one of"):
        along(*pair(14, 5))
    with pytest.raises(TypingError, match=r"fastvi\.kl: keepdims must be one of"):
        kept(*pair(14, 5))


def test_base_without_meaning():
    @njit
    def based(p, q):
        return fastvi.total_variation(p, q, base=2)

    with pytest.raises(TypingError, match=r"fastvi\.total_variation is not a logarithm"):
        based(*pair(15, 5))

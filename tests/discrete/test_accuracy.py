"""Every function against mpmath with 50 digits and more, in the regimes where naive formulas fail."""

import itertools
import math

import numpy as np
import pytest
from mpmath import mp, mpf
from scipy.special import logsumexp

import fastvi as fv
from fastvi.kernels.discrete.registry import ROWS
from helpers.divergence_rows import EVERY, OF_MEASURES, OF_ORDER, ROOTED, WITH_BASE, arrays
from reference import discrete as reference


def with_parameters(name, orders):
    """(name, keywords) of a divergence: for weights that differ too, and for the orders that it allows."""
    row = ROWS[name]
    if row.orders:
        low, high = row.orders
        return [(name, {"alpha": alpha}) for alpha in orders if low <= alpha <= high]
    return [(name, {})] + ([(name, {"weights": (0.125, 0.875)})] if name == "js" else [])


ORDERS = (-1, 0, 0.3, 0.5, 1, 1 - 1e-9, 1 + 1e-9, 2, 3.5, 10, math.inf)
ALL = [function for name in EVERY for function in with_parameters(name, ORDERS)]
MEASURES = [function for function in ALL if function[0] in OF_MEASURES]
FEW = [(name, {"alpha": 0.3} if name in OF_ORDER else {}) for name in EVERY if name != "js_distance"]


def label(value):
    if isinstance(value, tuple):
        name, parameters = value
        return "-".join([name, *map(str, parameters.values())])
    return str(value)


def over(functions):
    return pytest.mark.parametrize("function", functions, ids=label)


def call(function, p, q, **keywords):
    name, parameters = function
    return getattr(fv, name)(*arrays(name, p, q), **parameters, **keywords)


def truth(function, p, q, **keywords):
    name, parameters = function
    return reference.exact(name, *arrays(name, p, q), **parameters, **keywords)


def assert_right(function, p, q, tolerance=1e-13, **keywords):
    value, expected = call(function, p, q, **keywords), truth(function, p, q, **keywords)
    assert type(value) is float
    assert value >= 0.0 or (keywords.get("mass") == "any" and "entropy" in function[0])
    error = reference.relative_error(value, expected) if value >= 0 else relative_signed(value, expected)
    assert error <= tolerance, f"got {value!r}, expected {mp.nstr(expected, 20)}"


def relative_signed(value, expected):
    return reference.relative_error(-value, -expected)


def dirichlet(seed, n, concentration):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(n, concentration), size=2)
    return p, q


def noisy(seed, n, epsilon):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n))
    q = p * (1.0 + epsilon * rng.standard_normal(n))
    return p, q / q.sum()


def scaled(seed, n, epsilon):
    """Proportional but for the rounding of the product: the truth is near 1e-33."""
    p = np.random.default_rng(seed).dirichlet(np.ones(n))
    return p, p * (1.0 + epsilon)


def orders(seed, n, lowest):
    """Entries of all sizes from 10**lowest to 1."""
    rng = np.random.default_rng(seed)
    p, q = 10.0 ** rng.uniform(lowest, 0.0, size=(2, n))
    return p / p.sum(), q / q.sum()


def sparse(seed, n):
    """Zeros in either, both or neither."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(n), size=2)
    p[rng.random(n) < 0.4] = 0.0
    q[(rng.random(n) < 0.4) & (p == 0.0)] = 0.0
    return p / p.sum(), q / q.sum()


def one_hot(n, k=0):
    p = np.zeros(n)
    p[k] = 1.0
    return p


def array(*values):
    return np.array(values, dtype=np.float64)


REGIMES = {
    **{
        f"dirichlet-{a}-{n}": dirichlet(i, n, a)
        for i, (a, n) in enumerate(
            itertools.chain(
                [(0.01, 2), (0.01, 60), (0.1, 17), (0.3, 100), (1.0, 1), (1.0, 2), (1.0, 3), (1.0, 200)],
                [(10.0, 16), (100.0, 5), (100.0, 150)],
            )
        )
    },
    **{f"noise-{e}": noisy(20 + i, 40, e) for i, e in enumerate([1e-2, 1e-3, 1e-5, 1e-7, 1e-8, 1e-9])},
    "noise-1e-9-150": noisy(30, 150, 1e-9),
    **{f"scaled-{e}": scaled(40 + i, 30, e) for i, e in enumerate([1e-7, 3e-9, 1e-12])},
    **{f"orders-{-d}": orders(50 + i, 60, d) for i, d in enumerate([-20, -150, -300, -320])},
    "sparse": sparse(60, 50),
    "sparse-100": sparse(61, 100),
    "subnormal-q": (array(0, 1), array(5e-324, 1)),
    "subnormal-p": (array(5e-324, 1), array(0, 1)),
    "subnormal-both": (array(5e-324, 1), array(1e-323, 1)),
    "subnormal-far": (array(5e-324, 1), array(0.5, 0.5)),
    "subnormal-far-q": (array(0.5, 0.5), array(5e-324, 1)),
    "subnormal-several": (array(3e-320, 1e-310, 1), array(2e-309, 7e-322, 1)),
    "normal-limit": (array(2.2250738585072014e-308, 1), array(2.225073858507201e-308, 1)),
    "one-hot-uniform": (one_hot(7), np.full(7, 1 / 7)),
    "uniform-one-hot": (np.full(7, 1 / 7), one_hot(7)),
    "one-hot-uniform-500": (one_hot(500, 499), np.full(500, 1 / 500)),
    "one-hots": (one_hot(5), one_hot(5, 3)),
    "dominated-some": (array(1 - 1e-5, 1e-5), array(1 - 3e-6, 3e-6)),
    "dominated": (array(1 - 1e-9, 1e-9), array(1 - 3e-10, 3e-10)),
    "dominated-far": (array(1.0, 1e-30), array(1.0, 1e-200)),
    "last-bit": (array(0.5, 0.5), array(np.nextafter(0.5, 1), np.nextafter(0.5, 0))),
    "masses": (array(0.5, 0.5), array(0.5 + 4e-7, 0.5)),
    "masses-both": (array(0.3, 0.7 - 9e-7), array(0.3 + 1e-12, 0.7 + 9e-7)),
}


@over(ALL)
@pytest.mark.parametrize("regime", REGIMES)
def test_float64(regime, function):
    assert_right(function, *REGIMES[regime])


def single(p, q):
    return np.asarray(p, dtype=np.float32), np.asarray(q, dtype=np.float32)


REGIMES32 = {
    **{
        f"dirichlet-{a}-{n}": single(*dirichlet(100 + i, n, a))
        for i, (a, n) in enumerate([(0.01, 30), (0.1, 200), (1.0, 1), (1.0, 7), (1.0, 150), (100.0, 130)])
    },
    **{f"noise-{e}": single(*noisy(120 + i, 150, e)) for i, e in enumerate([1e-2, 1e-4, 1e-6, 1e-7])},
    "noise-few": single(*noisy(130, 9, 1e-5)),
    "orders-30": single(*orders(131, 80, -30)),
    "orders-45": single(*orders(132, 80, -45)),
    "sparse": single(*sparse(133, 70)),
    "subnormal-q": single([0, 1], [1e-45, 1]),
    "subnormal-p": single([1e-45, 1], [0, 1]),
    "subnormal-far": single([1e-45, 1], [0.5, 0.5]),
    "one-hot-uniform": single(one_hot(100), np.full(100, 0.01)),
    "one-hots": single(one_hot(5), one_hot(5, 3)),
    "masses": single([0.5, 0.5], [0.5004, 0.5]),
    "last-bit": (np.array([0.5, 0.5], np.float32), np.array([0.5 + 6e-8, 0.5 - 3e-8], np.float32)),
    # above the 2048 entries of a float32 partial sum
    "long": single(*dirichlet(134, 3000, 1.0)),
}


@over(ALL)
@pytest.mark.parametrize("regime", REGIMES32)
def test_float32(regime, function):
    if regime == "long" and function not in FEW:
        pytest.skip("mpmath takes long, and these share their loops with others")
    p, q = REGIMES32[regime]
    assert p.dtype == q.dtype == np.float32
    assert_right(function, p, q, tolerance=1e-6)


@over(FEW)
def test_equal_float32_entries(function):
    """Whose terms all round the same way: against the same numbers in float64."""
    rng = np.random.default_rng(135)
    for _ in range(200):
        n = rng.integers(64, 1200)
        low = rng.integers(1, n)
        p, q = (np.repeat(rng.random(2).astype(np.float32), (low, n - low)) for _ in "pq")
        expected = call(function, p.astype(np.float64), q.astype(np.float64), mass="normalize")
        value = call(function, p, q, mass="normalize")
        assert abs(value - expected) <= 1e-6 * expected, (p[0], p[-1], q[0], q[-1], low, n)


# The worst of 1,500 random ones for each function, where vectors have four or two floats: equal terms all
# round the same way, and the fewer lanes there are, the more are added in each.
EQUAL_TERMS = [
    ("kl", {}, [1.1390357515531295, 0.8934023107503516], [1.379484972874848, 1.8222238282931627], [442, 518]),
    (
        "kl",
        {},
        [1.8819981918559838, 1.5655588888666694, 1.8112269468258955],
        [1.4546084665405725, 0.6547015479664113, 1.095916927575975],
        [323, 75, 144],
    ),
    ("kl", {}, [0.8706500477458058, 0.9260661458223451], [0.5335908383247159, 1.5835482790943687], [249, 7]),
    (
        "hellinger",
        {},
        [0.8502441642549092, 0.8603587383346707, 1.7948773929274142],
        [1.0425539149958691, 0.6647078926007532, 0.8304501254641801],
        [160, 559, 333],
    ),
    (
        "chi2",
        {},
        [1.9658166085477324, 0.9175300020928477, 1.282341315591655],
        [0.8211112808665764, 0.6252930942097192, 1.1584045317164031],
        [467, 493, 11],
    ),
    (
        "renyi",
        {"alpha": 3.0},
        [1.8662377172880777, 1.8478845182246038, 1.06373520877245],
        [1.8800908976923998, 0.8431004167312739, 0.8793247073559434],
        [402, 130, 573],
    ),
    (
        "alpha_divergence",
        {"alpha": 0.3},
        [1.8391981947528153, 1.8763979911622712, 0.7615781210984217],
        [1.8461191019298113, 0.7416020051410556, 0.9078238352299934],
        [86, 450, 578],
    ),
]


@pytest.mark.parametrize(("name", "keywords", "p", "q", "repeats"), EQUAL_TERMS)
def test_equal_terms_that_are_small_beside_their_parts(name, keywords, p, q, repeats):
    value = getattr(fv, name)(np.repeat(p, repeats), np.repeat(q, repeats), mass="normalize", **keywords)
    expected = reference.exact(
        name, np.array(p), np.array(q), mass="normalize", repeats=np.array(repeats), **keywords
    )
    # At most 3.2e-14 with four lanes.
    assert reference.relative_error(value, expected) <= 5e-14


@pytest.mark.parametrize("top", [1.0 + 3e-7, 1.5, 40.0, 1e30])
def test_largest_ratio_of_float32(top):
    """In a later chunk, beside a ratio that is smaller by a rounding, and among subnormal numbers."""
    q = np.full(5000, 1e-3, np.float32)
    p = q.copy()
    p[4900] *= np.float32(top)
    p[4901] = np.nextafter(p[4900], np.float32(0.0))
    q[100:103], p[100:103] = np.float32([1e-40, 3e-42, 0.0]), np.float32([1.1e-40, 0.0, 0.0])
    value = fv.renyi(p, q, math.inf, mass="normalize")
    assert (
        reference.relative_error(value, reference.exact("renyi", p, q, alpha=math.inf, mass="normalize"))
        <= 1e-6
    )


def test_largest_ratio_of_large_float32():
    """Entries that overflow when they are lifted, beside others whose products with the ratio do."""
    q = np.full(5000, 1e33, np.float32)
    p = q.copy()
    p[10], p[4900] = 3.0 * q[10], 5.0 * q[4900]
    expected = reference.exact("renyi", p, q, alpha=math.inf, mass="normalize")
    assert reference.relative_error(fv.renyi(p, q, math.inf, mass="normalize"), expected) <= 1e-6


#: Functions whose sums in float32 lanes are of all terms, however few make up the sum.
LANES32 = [
    ("total_variation", {}),
    ("chi2", {}),
    *(("alpha_divergence", {"alpha": alpha}) for alpha in (-1.7, 1.5, 2.5, 3.0)),
    *(("renyi", {"alpha": alpha}) for alpha in (1.5, 2.5, math.inf)),
]


@pytest.mark.parametrize(("name", "keywords"), LANES32)
def test_equal_terms_of_float32_far_and_near(name, keywords):
    """All of a kind round the same way, and orders multiply it: against the same numbers in float64."""
    rng = np.random.default_rng(136)
    for i in range(400):
        n = rng.integers(64, 1300)
        low = rng.integers(1, n)
        p, q = rng.random((2, 2)).astype(np.float32)
        if i % 2:
            q = (p * np.exp(rng.normal(size=2) * 10.0 ** rng.uniform(-4.0, 1.0))).astype(np.float32)
        p, q = (np.repeat(a, (low, n - low)) for a in (p, q))
        for mass in ("normalize", "any")[: 1 + (name != "renyi")]:
            value, expected = (
                getattr(fv, name)(*(a.astype(dtype) for a in (p, q)), mass=mass, **keywords)
                for dtype in (np.float32, np.float64)
            )
            assert abs(value - expected) <= 8e-7 * expected, (p[0], p[-1], q[0], q[-1], low, n, mass)


def logs(p, q):
    with np.errstate(divide="ignore"):
        return np.log(p), np.log(q)


LOG_REGIMES = {
    **{k: logs(*REGIMES[k]) for k in ("dirichlet-0.3-100", "dirichlet-1.0-3", "noise-0.01", "noise-1e-05")},
    **{k: logs(*REGIMES[k]) for k in ("noise-1e-08", "sparse", "subnormal-q", "orders-300", "one-hots")},
    **{k: logs(*REGIMES[k]) for k in ("one-hot-uniform", "subnormal-far", "last-bit")},
    # finite logarithms of numbers that no float holds
    "below-floats": (array(0.0, -2000.0, -1500.0), array(0.0, -1500.0, -1501.0)),
    "below-floats-far": (array(-1000.0, 0.0), array(math.log(0.5), math.log(0.5))),
}


@over(ALL)
@pytest.mark.parametrize("regime", LOG_REGIMES)
def test_log_probabilities(regime, function):
    assert_right(function, *LOG_REGIMES[regime], log=True)


@over(FEW)
def test_log_probabilities_in_float32(function):
    p, q = single(*logs(*dirichlet(140, 60, 1.0)))
    assert_right(function, p, q, tolerance=1e-6, log=True)


@over(FEW)
def test_log_weights_normalised(function):
    rng = np.random.default_rng(141)
    p, q = rng.normal(-500.0, 3.0, size=50), rng.normal(300.0, 3.0, size=50)
    assert_right(function, p, q, log=True, mass="normalize")


#: Distributions that are equal but for what one entry, far smaller, makes of them.
ONE_TELLS = {
    "other-masses": (array(0.1, 0.1, 0.1, 1e-120), array(0.3, 0.3, 0.3, 1e-125)),
    "random-masses": (array(*[0.37] * 11, 1e-90), array(*[0.71] * 11, 3e-91)),
    "many-sizes": (
        np.array([7.0, 3.0, 9e-17, 1e-33, 1e-60]),
        np.array([7.0, 3.0, 9e-17, 1e-33, 2e-60]) * 1.1,
    ),
    "tiny-over-tinier": (array(0.06, 0.08, 1.5e-157, 0.5), array(0.06, 0.08, 2.6e-273, 0.5)),
}


@over(ALL)
@pytest.mark.parametrize("regime", ONE_TELLS)
def test_one_tiny_entry_tells(regime, function):
    assert_right(function, *ONE_TELLS[regime], mass="normalize")


LOG_ONE_TELLS = {
    "two": (array(-371.4, 504.5), array(-228.6, 647.3)),
    "offset": (array(-405.7, -512.9, -314.9, -61.0), array(66.3, -40.9, 157.1, 411.0)),
    "equal": (array(-0.3, -0.3, -0.3, -600.0), array(0.3, 0.3, 0.3, -600.3)),
    "root-underflows": (array(0.0, -1000.0), array(0.0, -1001.0)),
    "far-but-alike": (array(1e-3, -655.123, -651.77), array(2e-3, -654.9, -651.3)),
}


@over(ALL)
@pytest.mark.parametrize("regime", LOG_ONE_TELLS)
def test_one_tiny_entry_tells_in_logarithms(regime, function):
    assert_right(function, *LOG_ONE_TELLS[regime], log=True, mass="normalize")


@pytest.mark.parametrize("alpha", [-200.0, -50.0, 17.0, 50.0, 200.0])
@pytest.mark.parametrize("n", [2, 8, 9, 64])
def test_large_exponents(n, alpha):
    """The relative error of a power is that of its exponent, absolute: for 700, 1.5e-13 in one float."""
    rng = np.random.default_rng(145)
    function = "alpha_divergence", {"alpha": alpha}
    for _ in range(8):
        q = rng.dirichlet(np.ones(n))
        near = rng.dirichlet(np.ones(n)) * min(1.0, 100.0 / abs(alpha))
        p = q * (1.0 - min(1.0, 100.0 / abs(alpha))) + near
        assert_right(function, p, q, mass="normalize")
        # The sums of exponentials have an error of 2e-16.
        tolerance = max(1e-13, 1e-15 * abs(alpha))
        assert_right(function, *logs(p, q), tolerance, log=True, mass="normalize")


@pytest.mark.parametrize("alpha", [-2.5, 1.5, 3.0])
def test_large_exponents_of_subnormal_numbers(alpha):
    values = [5e-324, 1e-310, 1e-20, 0.3, 7.5, 1e50]
    for p, q in itertools.product(values, values):
        expected = truth(("alpha_divergence", {"alpha": alpha}), [p, 1.0], [q, 1.0], mass="any")
        if expected < reference.LARGEST:
            assert_right(("alpha_divergence", {"alpha": alpha}), [p, 1.0], [q, 1.0], mass="any")


@pytest.mark.parametrize("n", [2, 30])
def test_large_exponents_in_logarithms(n):
    rng = np.random.default_rng(146)
    for _ in range(20):
        p, q = rng.normal(scale=150.0, size=(2, n))
        assert_right(("chi2", {}), p, q, log=True, mass="normalize")


def test_float32_near_the_last_bit():
    """Differences of some units in the last place, beside one entry that is equal."""
    rng = np.random.default_rng(147)
    for name in ("kl", "js", "hellinger", "total_variation", "chi2", "jeffreys"):
        for size in (1e-7, 1e-5):
            p = np.full(100, 8.4e-12, np.float32)
            q = (p * (1.0 + size * rng.standard_normal(100))).astype(np.float32)
            p[3] = q[3] = 1.0
            assert_right((name, {}), p, q, tolerance=1e-6, mass="normalize")


MEASURE_REGIMES = {
    "masses-apart": (array(1.5, 0.0, 3.0), array(0.25, 2.0, 3.0)),
    "scaled-up": (np.array([0.2, 0.3]), np.array([0.2, 0.3]) * (1 + 1e-9)),
    "random": tuple(np.random.default_rng(150).gamma(0.5, 3.0, size=(2, 80))),
    "large": tuple(np.random.default_rng(151).gamma(0.5, 1e200, size=(2, 20))),
    "small": tuple(np.random.default_rng(152).gamma(2.0, 1e-250, size=(2, 20))),
    "zero-p": (np.zeros(3), array(0.0, 1.0, 2.0)),
    "zeros": (np.zeros(3), np.zeros(3)),
    "zero-q": (array(0.0, 1.0, 2.0), np.zeros(3)),
}


@over(MEASURES)
@pytest.mark.parametrize("regime", MEASURE_REGIMES)
def test_measures(regime, function):
    assert_right(function, *MEASURE_REGIMES[regime], mass="any")


@over(MEASURES)
def test_measures_from_logs(function):
    rng = np.random.default_rng(153)
    p, q = rng.normal(3.0, 2.0, size=(2, 40))
    p[3], q[5] = -math.inf, p[5]
    assert_right(function, p, q, mass="any", log=True)


@over(ALL)
def test_counts_normalised(function):
    rng = np.random.default_rng(160)
    p, q = rng.poisson(20.0, size=(2, 60))
    p[7] = 0
    q += 1
    assert p.dtype.kind == "i"
    assert_right(function, p, q, mass="normalize")


@over(ALL)
@pytest.mark.parametrize("size", [1e-200, 1e-7, 1e7, 1e8, 1e9, 1e250])
def test_weights_of_any_size_normalised(function, size):
    p, q = REGIMES["dirichlet-10.0-16"]
    assert_right(function, p * size, q / size, mass="normalize")


ZERO_AT_EQUALITY = [f for f in ALL if "entropy" not in f[0]]
COUNTS = np.array([3, 0, 7, 11, 13, 2**40])


@over(ZERO_AT_EQUALITY)
@pytest.mark.parametrize(
    ("p", "q", "mass"),
    [
        (REGIMES["dirichlet-1.0-200"][0], REGIMES["dirichlet-1.0-200"][0].copy(), "unit"),
        (REGIMES["orders-320"][0], REGIMES["orders-320"][0].copy(), "unit"),
        (REGIMES32["dirichlet-0.1-200"][0], REGIMES32["dirichlet-0.1-200"][0].copy(), "unit"),
        (COUNTS, COUNTS * 3, "normalize"),
        (COUNTS * 7, COUNTS * 5, "normalize"),
        (COUNTS * 1e-300, COUNTS * 1e-300 * 2.0**800, "normalize"),
        (np.full(97, 1 / 97), np.full(97, 3.7), "normalize"),
        (array(5e-324, 1e-323), array(1, 2), "normalize"),
    ],
    ids=[
        "same",
        "same-orders",
        "same-float32",
        "counts",
        "counts-7-5",
        "power-of-two",
        "uniform",
        "subnormal",
    ],
)
def test_proportional_is_exactly_zero(p, q, mass, function):
    assert call(function, p, q, mass=mass) == 0.0


@over(ZERO_AT_EQUALITY)
def test_equal_logs_are_exactly_zero(function):
    p, _ = LOG_REGIMES["sparse"]
    assert call(function, p, p.copy(), log=True) == 0.0


@pytest.mark.parametrize(
    ("function", "p", "q"),
    [
        (("chi2", {}), array(0.5, 0.5), array(1e-310, 1.0)),
        (("chi2", {}), array(0.5, 0.5), array(5e-324, 1.0)),
        (("alpha_divergence", {"alpha": 2}), array(0.5, 0.5), array(5e-324, 1.0)),
        (("alpha_divergence", {"alpha": 3.5}), array(0.5, 0.5), array(1e-200, 1.0)),
        (("alpha_divergence", {"alpha": -1}), array(5e-324, 1.0), array(0.5, 0.5)),
    ],
    ids=label,
)
def test_overflow_is_infinite(function, p, q):
    assert truth(function, p, q) > reference.LARGEST
    assert call(function, p, q) == math.inf


@pytest.mark.parametrize(
    ("function", "p", "q"),
    [
        (("chi2", {}), array(0.5, 0.5), array(2e-309, 1.0)),
        (("alpha_divergence", {"alpha": 2}), array(0.5, 0.5), array(2e-309, 1.0)),
        (("renyi", {"alpha": 10}), array(0.5, 0.5), array(1e-300, 1.0)),
        (("renyi", {"alpha": 2}), array(0.5, 0.5), array(5e-324, 1.0)),
        (("renyi", {"alpha": math.inf}), array(0.5, 0.5), array(5e-324, 1.0)),
    ],
    ids=label,
)
def test_large_but_finite(function, p, q):
    assert truth(function, p, q) < reference.LARGEST
    assert_right(function, p, q)


COPIES = 2**17


def test_the_tiled_array_has_ten_million_entries():
    assert REGIMES_TILED["apart"][0].size * COPIES > 9_900_000


REGIMES_TILED = {"apart": dirichlet(170, 76, 1.0), "near": noisy(171, 76, 1e-6)}


@over(FEW)
@pytest.mark.parametrize("regime", REGIMES_TILED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
def test_ten_million_entries(regime, function, dtype, tolerance):
    """k copies of p / k, k a power of two: the divergence is that of p, an entropy is larger by log k."""
    p, q = (x.astype(dtype) for x in REGIMES_TILED[regime])
    expected = truth(function, p, q)
    if "entropy" in function[0]:
        with mp.workdps(50):
            expected += mp.log(COPIES)
    k = dtype(1 / COPIES)
    value = call(function, np.tile(p * k, COPIES), np.tile(q * k, COPIES))
    assert reference.relative_error(value, expected) <= tolerance


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double")
@pytest.mark.parametrize("noise", [None, 1e-3])
def test_a_million_random_entries(noise):
    """kl and js, chunks and their combination, against sums in extended precision."""
    rng = np.random.default_rng(180)
    p = rng.dirichlet(np.ones(1_000_003))
    q = rng.dirichlet(np.ones(p.size)) if noise is None else p * (1 + noise * rng.standard_normal(p.size))
    x, y = p.astype(np.longdouble), q.astype(np.longdouble)
    x, y = x / x.sum(), y / y.sum()
    m = (x + y) / 2
    expected_kl = (x * np.log(x / y) - x + y).sum()
    expected_js = ((x * np.log(x / m) - x + m).sum() + (y * np.log(y / m) - y + m).sum()) / 2
    assert abs(fv.kl(p, q, mass="normalize") / expected_kl - 1) <= 1e-13
    assert abs(fv.js(p, q, mass="normalize") / expected_js - 1) <= 1e-13


@pytest.mark.parametrize("base", [2, 10, 1.5, math.e])
@over([f for f in FEW if f[0] in WITH_BASE])
def test_base(function, base):
    p, q = REGIMES["dirichlet-10.0-16"]
    with mp.workdps(50):
        expected = truth(function, p, q) / mp.log(mpf(float(base)))
    assert reference.relative_error(call(function, p, q, base=base), expected) <= 1e-13


def test_the_oracle_knows_textbook_values():
    """The reference itself, against published values."""
    half, other = array(0.5, 0.5), array(0.75, 0.25)
    with mp.workdps(40):
        expected = {
            "entropy": mp.log(2),
            "kl": mp.log(mpf(4) / 3) / 2,
            "total_variation": mpf(1) / 4,
            "chi2": mpf(1) / 3,
            "jeffreys": mp.log(3) / 4,
            "bhattacharyya": -mp.log(mp.sqrt(mpf(3) / 8) + mp.sqrt(mpf(1) / 8)),
        }
        for name, value in expected.items():
            got = reference.exact(name, *((half,) if name == "entropy" else (half, other)))
            assert abs(got - value) < mpf(10) ** -35, name
        assert abs(reference.exact("renyi", half, other, alpha=2) - mp.log(mpf(4) / 3)) < mpf(10) ** -35
        assert abs(reference.exact("js", array(1, 0), array(0, 1)) - mp.log(2)) < mpf(10) ** -35


def test_the_oracle_keeps_numbers_for_one_precision():
    for digits in (20, 300):
        with mp.workdps(digits):
            assert abs(reference._log(mpf(3)) - mp.log(3)) < mpf(10) ** (1 - digits)
            assert abs(reference._sqrt(mpf(3)) ** 2 - 3) < mpf(10) ** (1 - digits)


@over(
    [("hellinger", {}), ("bhattacharyya", {})]
    + [("alpha_divergence", {"alpha": a}) for a in (-1, 0.3, 1 + 1e-9, 2.5, 10)]
)
def test_from_far_to_near(function):
    """A sum of powers is accurate for far distributions and has no digits left for near ones."""
    p, other = dirichlet(61, 700, 1.0)
    for share in np.logspace(0, -6, 13):
        q = (1.0 - share) * p + share * other
        assert_right(function, p, q / q.sum())
        assert_right(function, p, q * 1.01, mass="normalize")
    for part in (slice(0, 512), slice(512, 700)):
        q = p.copy()
        q[part] = other[part]
        assert_right(function, p, q / q.sum())
        q[part] = p[part] * (1.0 + 1e-9 * other[part])
        assert_right(function, p, q / q.sum())


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("p", "q", "alpha"), [(1e-247, 2e-253, 45.0), (3e-222, 2e-214, -50.0), (3e-260, 6e-272, 49.0)]
)
def test_powers_of_small_measures(p, q, alpha, log):
    """Beside the masses, the powers are no floats."""
    p, q = np.array([p, 0.3 * p, p]), np.array([q, 0.4 * q, p])
    p, q = (np.log(p), np.log(q)) if log else (p, q)
    assert_right(("alpha_divergence", {"alpha": alpha}), p, q, log=log, mass="any")


@pytest.mark.parametrize("scale", [1.0, 1e-279])
def test_infinite_powers(scale):
    """Also where the factor of the masses would leave the floats."""
    p, q = np.linspace(1.0, 2.0, 17) * scale, np.full(17, 1e-3 * scale)
    q[7] = 2.0 * scale
    for alpha in (-200.0, -1e3, -1e6):
        assert_right(("alpha_divergence", {"alpha": alpha}), p, q, mass="normalize")


@pytest.mark.parametrize("alpha", [-190600.034, 467460.5, 1.5e6, -2.1e6])
@pytest.mark.parametrize("log", [False, True])
def test_large_orders_of_many_equal_entries(alpha, log):
    """The ratio of the masses is to be known to 1e-19: the order multiplies its error."""
    counts = [1, 1, 246]
    apart = 60.0 / alpha
    p = np.repeat([1.03055304, -6.73222585, 0.37468381], counts)
    q = p + np.repeat([20.0 * apart, 0.0, 0.3], counts)
    p, q = (p, q) if log else (np.exp(p), np.exp(q))
    assert_right(("alpha_divergence", {"alpha": alpha}), p, q, log=log, mass="normalize")


@pytest.mark.parametrize("power", [3.0, 5.0, 10.0, 50.0, 2195.4])
@pytest.mark.parametrize("top", [304.0, 307.5, 400.0])
@pytest.mark.parametrize("least", [1e-290, 4.3e-301, 3e-307])
def test_large_powers_of_entries_near_the_least_float(power, top, least):
    """q (q / p)**power is 10**top, a float or not; the factor with which it is summed makes p subnormal."""
    p = np.full(40, 1.6e-9)
    p[7], p[23] = 1.0, least
    q = p.copy()
    q[23] = 10.0 ** ((top + power * math.log10(least)) / (1.0 + power))
    for one, other, order in ((p, q, -power), (q, p, 1.0 + power)):
        assert_right(("alpha_divergence", {"alpha": order}), one, other, mass="normalize")


@over([("total_variation", {}), ("hellinger", {}), ("bhattacharyya", {})])
@pytest.mark.parametrize("scale", [1e-30, 3e-9, 7.0, 1e22])
def test_other_masses_in_float32(scale, function):
    """Many entries, also equal ones, which all round the same way; zeros; an entry that is negative."""
    rng = np.random.default_rng(203)
    p, q = rng.random((2, 3000))
    q[rng.random(3000) < 0.2] = 0.0
    counts = [[0.3, 1.0, 0.1], [0.7, 0.2, 0.3]]
    for a, b in ((p, q), np.repeat(counts, [1000, 1500, 700], axis=1)):
        a, b = (3.0 * a).astype(np.float32), (scale * b).astype(np.float32)
        assert_right(function, a, b, 1e-6, mass="normalize")
        assert_right(function, b, a, 1e-6, mass="normalize")
        for one, other in ((-a, b), (a, -b)):
            one[:-1], other[:-1] = abs(one[:-1]), abs(other[:-1])
            with pytest.raises(ValueError, match="must be finite and >= 0"):
                call(function, one, other, mass="normalize")


@pytest.mark.parametrize("alpha", [5e-324, 1e-310, 1e-300, 1e-150, 1e-10])
@pytest.mark.parametrize("repeats", [1, 20])
def test_shares_that_are_no_floats_over_tiny_orders(repeats, alpha):
    """What p lacks is q over the order, which is a float: of 1.6e-432, 1.6e-132."""
    function = "alpha_divergence", {"alpha": alpha}
    for top in (1e20, 1e120, 1e170, 2e266):
        p, q = np.array([0.0, top, 1e-298]), np.array([3e-253, 2.0 * top, 1e-298])
        p, q = np.repeat(p, repeats), np.repeat(q, repeats)
        assert_right(function, p, q, mass="normalize")
    for least in (-700.0, -760.0, -1000.0, -1400.0):
        p, q = np.array([0.0, -1.0, -math.inf]), np.array([0.0, -1.0, least])
        p, q = np.repeat(p, repeats), np.repeat(q, repeats)
        assert_right(function, p, q, log=True, mass="normalize")
        for scale in (-650.0, 0.0, 300.0, 650.0):
            assert_right(function, p + scale, q + scale, log=True, mass="any")


@over([("chi2", {}), ("alpha_divergence", {"alpha": 2}), ("alpha_divergence", {"alpha": -1.5})])
@pytest.mark.parametrize("least", [-1100.0, -1300.0, -1650.0])
def test_powers_that_are_larger_than_all_entries_that_differ(least, function):
    """Raised with the entries, which are e**-1600 beside the largest, they would overflow."""
    p, q = np.array([600.0, -1000.0, -1001.0]), np.array([600.0, least, -1001.5])
    assert_right(function, p, q, log=True, mass="any")
    assert_right(function, q, p, log=True, mass="any")


@over(ALL)
def test_entries_that_underflow_over_their_masses(function):
    """q over its mass is 1e-380 in one place."""
    p, q = np.array([1.0, 1e-100, 3e-90]), np.array([1e280, 1e-100, 2e270])
    assert_right(function, p, q, mass="normalize")
    assert_right(function, np.tile(p, 30), np.tile(q, 30), mass="normalize")
    if function[0] == "alpha_divergence" or function[0] == "chi2":
        return
    near = q * np.array([1.0, 3.0, 1.0 + 1e-9])
    assert_right(function, q, near, mass="normalize")


@over(ALL)
@pytest.mark.parametrize(("near", "least"), [(1e-5, 1e-6), (5e-8, 1e-7)])
@pytest.mark.parametrize("scale", [1e-29, 1e-14, 1e20])
def test_small_entries_beside_near_ones_in_float32(function, scale, near, least):
    """Their products underflow, or those of the large ones overflow; they make most of the divergence."""
    rng = np.random.default_rng(4)
    p, small = rng.random(100) + 1e-3, np.arange(100) % 3 == 0
    p[small] = 10.0 ** rng.uniform(-36, -10, size=small.sum())
    q = np.where(small, least * rng.random(100), p * (1.0 + near * rng.standard_normal(100)))
    p, q = (p * scale).astype(np.float32), (q * scale).astype(np.float32)
    assert_right(function, p, q, 1e-6, mass="normalize")


@pytest.mark.parametrize("order", [0.0, -0.0, 1.0])
def test_limits_of_orders_for_logarithms_with_zeros(order):
    """What a power lacks to one is no limit: it is over order * (order - 1), whose zero has a sign."""
    p = np.array([0.0, -388.3, -math.inf, -407.4, -2.0])
    q = np.array([0.0, -301.8, 658.7, -math.inf, 1.0])
    for one, other in ((p, q), (q, p), (p[[0, 1, 4]], q[[0, 1, 4]]), (p[:2], p[[0, 3]])):
        for repeats in (1, 40):
            pair = np.repeat(one, repeats), np.repeat(other, repeats)
            assert_right(("alpha_divergence", {"alpha": order}), *pair, log=True, mass="normalize")


@over([function for function in ALL if function[0] in ROOTED])
@pytest.mark.parametrize("smallest", [-1300.0, -1370.0, -1400.0, -1412.0])
def test_roots_of_logarithms_as_small_as_floats_are(smallest, function):
    assert_right(function, np.array([0.0, -1466.9]), np.array([0.0, smallest]), log=True, mass="normalize")
    top = smallest + 40.0
    assert_right(function, np.array([top]), np.array([smallest - 1000.0]), log=True, mass="any")


@over(
    [function for function in MEASURES if "entropy" not in function[0] and function[0] != "alpha_divergence"]
)
def test_logarithms_that_differ_far_below_the_largest(function):
    p, q = np.array([300.0, -566.7167841202061]), np.array([300.0, -566.7167841202101])
    assert_right(function, p, q, log=True, mass="any")


@pytest.mark.parametrize("offset", [0.0, -8e3])
def test_largest_ratio_of_logarithms(offset):
    """Many of the largest differences are equal after rounding."""
    rng = np.random.default_rng(20261127)
    q = rng.normal(size=40)
    p = q + 0.5 + offset
    p[::3] -= 1.0
    assert_right(("renyi", {"alpha": np.inf}), p, q, log=True, mass="normalize")
    p[3], q[5] = -np.inf, -1e4
    assert_right(("renyi", {"alpha": np.inf}), p, q, log=True, mass="normalize")


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.01), (1 - 1e-9, 1e-9)])
@over([("cross_entropy", {}), ("entropy", {})])
def test_entropies_of_one_pass(shares, function):
    """Equal counts beside a large one: the logarithm of the mass cancels much or nearly all of the sum."""
    p, q = np.full(1024, 6.0), np.full(1024, 1.0 / 3.0)
    p[7], q[7] = (share / (1.0 - share) * a.sum() for share, a in zip(shares, (p, q), strict=True))
    assert_right(function, p, q, mass="normalize")


@over([("cross_entropy", {}), ("entropy", {})])
def test_entropies_beside_chunks_of_zeros(function):
    """Wherever the other entries are, also where they are but one that has nearly all of the mass."""
    for weight in (1.0, 1e12):
        p, q = np.zeros(5000), np.zeros(5000)
        for place in (0, 63, 64, 1023, 2000, 4999):
            p[place], q[place] = 1.0 + place, 2.0 + math.sqrt(place)
        p[2000], q[2000] = weight, 2.0 * weight
        assert_right(function, p, q, mass="normalize")
        p[3000] = 1e-30
        if function[0] == "cross_entropy":
            assert call(function, p, q, mass="normalize") == math.inf


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.9999])
@pytest.mark.parametrize("scale", [1.0, 3000.0, 1e25, 1e-25, 1e-37])
@over([("cross_entropy", {}), ("entropy", {})])
def test_entropies_of_float32(function, scale, share):
    """Large ones and those that are small beside the logarithm of a mass, of large and small entries."""
    rng = np.random.default_rng(177)
    for _ in range(10):
        n = rng.integers(65, 600)
        p, q = (rng.random(2).repeat((n - n // 3, n // 3)) for _ in "pq")
        p[7], q[7] = p.sum() * share / (1.0 - share), q.sum() * share / (1.0 - share)
        assert_right(function, *((a * scale).astype(np.float32) for a in (p, q)), 1e-6, mass="normalize")


FAR = with_parameters("renyi", (0.3, 0.5, 2.5, 7.0, math.inf)) + with_parameters(
    "alpha_divergence", (-1.0, 0.3, 2.5, 7.0)
)
FAR += [(name, {}) for name in EVERY if name not in OF_ORDER]


def spread_logs(seed, n, scale):
    p, q = scale * np.random.default_rng(seed).normal(size=(2, n))
    p[n // 2], q[n - 3] = p.max() + 1.0, q.max() + 2.0  # neither largest entry is in the first part
    return p, q


@pytest.mark.parametrize("scale", [3.0, 100.0])
@over(FAR)
def test_logarithms_in_one_pass(function, scale):
    """Several parts, whose masses and powers differ by many orders of magnitude."""
    p, q = spread_logs(20261127, 300, scale)
    assert_right(function, p, q + 300.25, log=True, mass="normalize")
    assert_right(function, *(a - logsumexp(a) for a in (p, q)), log=True)
    p[280] = q[280] = p[3] = -math.inf
    assert_right(function, p, q, log=True, mass="normalize")
    q[290] = -math.inf
    assert_right(function, p, q, log=True, mass="normalize")


@over(FAR)
def test_logarithms_that_are_near_or_nearly_so(function):
    """Terms of both signs cancel, in the first part or in all of it."""
    rng = np.random.default_rng(20261128)
    p = rng.normal(size=300)
    for epsilon in (1e-6, 0.3):
        q = p + epsilon * rng.normal(size=300)
        assert_right(function, p, q, log=True, mass="normalize")
        q[270:] -= 0.3
        assert_right(function, p, q, log=True, mass="normalize")
        q[:270] = p[:270]
        assert_right(function, p, q, log=True, mass="normalize")


@pytest.mark.parametrize("bad", [math.nan, math.inf, 800.0])
@over([function for function in FAR if ROWS[function[0]].arrays == 2])
def test_invalid_logarithms_behind_valid_ones(function, bad):
    for i in (0, 299):
        p, q = (a - logsumexp(a) for a in spread_logs(20261129, 300, 3.0))
        p[i] = bad
        with pytest.raises(ValueError, match="p"):
            call(function, p, q, log=True)
        with pytest.raises(ValueError, match="q"):
            call(function, q, p, log=True)


@pytest.mark.parametrize("concentration", [0.05, 0.3])
@over([function for function in FAR if function[0] in OF_ORDER])
def test_powers_of_sparse_draws(function, concentration):
    """Few powers make the sum, and most of them are of entries near zero."""
    for seed in range(2):
        p, q = dirichlet(seed, 300, concentration)
        assert_right(function, p, q, mass="normalize")


@over([function for function in FAR if function[0] in OF_ORDER])
def test_powers_over_many_orders_of_magnitude(function):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        p, q = np.exp(rng.choice([10.0, 50.0]) * rng.normal(size=(2, 300)))
        p[rng.random(300) < 0.1] = 0.0
        assert_right(function, p, q, mass="normalize")
        assert_right(function, np.where(q > 0, p, 0.0), np.repeat(q[::2], 2), mass="normalize")


@over(FAR)
def test_equal_logarithms_beside_others(function):
    """All roundings of equal entries are alike, and a divergence of 1e-6 is made of 1e-11 of each."""
    name, parameters = function
    for levels in ((0.12, 0.36), (-0.07, -0.11)), ((0.3, 0.1), (0.1, 0.2)):
        p, q = np.array(levels).T
        for repeats in ([1, 100_000], [10_000, 30_000]):
            keywords = {"log": True, "mass": "normalize", **parameters}
            value = getattr(fv, name)(*arrays(name, np.repeat(p, repeats), np.repeat(q, repeats)), **keywords)
            expected = reference.exact(name, *arrays(name, p, q), repeats=repeats, **keywords)
            assert reference.relative_error(value, expected) <= 1e-13


@over(
    [("hellinger", {}), ("bhattacharyya", {}), ("chi2", {})]
    + [("alpha_divergence", {"alpha": a}) for a in (-1.7, -1e-9, 0.3, 0.5, 1 + 1e-9, 2.5, 3.0)]
    + [("renyi", {"alpha": a}) for a in (0.3, 2.5, 8.0)]
)
@pytest.mark.parametrize("far", [False, True])
def test_near_arrays_of_other_masses(function, far):
    """All entries are near each other, or one behind the first chunk is not."""
    rng = np.random.default_rng(62)
    for epsilon in (0.0, 1e-15, 1e-9, 1e-3, 0.03, 0.1):
        q = np.tile(rng.random(40), 60)
        p = 3.0 * q * np.tile(1.0 + epsilon * rng.uniform(-1.0, 1.0, 40), 60)
        if far:
            p[2_000] *= 1.7
        assert_right(function, p, q, mass="normalize")


@over(
    [(name, {}) for name in ("hellinger", "bhattacharyya", "chi2")]
    + [(name, {"alpha": a}) for name in ("alpha_divergence", "renyi") for a in (2.5, 3.5, 400.0)]
)
def test_ratios_that_agree_to_more_digits_than_floats_have(function):
    """By chance to 20 digits, and to 30: the masses are to be known to more, in one chunk and in several."""
    for p, q, counts in (
        ((293.519819, 2.43079933e-04), (628.466935, 5.20468093e-04), (1, 16)),
        ((7731247577365885.0, 43894974723509.0), (3.824925219286923, 0.02171641693527491), (1, 124)),
        ((67343140280122.0, 425790094651.0), (3.211152917415442, 0.020303138507616367), (4170, 30)),
    ):
        assert_right(function, np.repeat(p, counts), np.repeat(q, counts), mass="normalize")


@pytest.mark.parametrize("order", [1e3, 1e6, 1e12])
def test_large_orders_of_near_measures(order):
    """The sum of powers is large, and the divergence small."""
    for seed in range(3):
        p, q = noisy(seed, 300, 1e-5)
        assert_right(("renyi", {"alpha": order}), p, q, mass="normalize")


def test_large_orders_of_entries_far_below():
    """All that differs is a power of entries near 1e-310: the error of its exponent is that of the result."""
    rng = np.random.default_rng(20261130)
    for exponent in rng.uniform(20.0, 600.0, 100):
        change, small = 10.0 ** rng.uniform(-5.0, -2.0), 10.0 ** rng.uniform(-312.0, -300.0)
        p, q = (
            np.array([0.03, small * (1.0 + change), small]),
            np.array([0.03, small, small * (1.0 + change)]),
        )
        assert_right(("renyi", {"alpha": exponent / change}), p, q, mass="normalize")
        assert_right(("renyi", {"alpha": exponent / change}), p, 8.0 * q, mass="normalize")


@pytest.mark.parametrize("n", [9, 11, 63, 64, 128, 129])
def test_the_largest_ratio_wherever_it_is(n):
    """Rows of up to 128 entries have a loop of their own, and each four of their entries one division."""
    rng = np.random.default_rng(n)
    order_inf = ("renyi", {"alpha": math.inf})
    for k in range(n):
        p, q = rng.uniform(0.5, 1.0, (2, n))
        p[k] *= 4.0
        assert_right(order_inf, p, q, mass="normalize")
        assert_right(order_inf, p * 1e-160, q * 1e160, mass="normalize")
        p[(k + 1) % n] = 0.0
        assert_right(order_inf, p, q, mass="normalize")
        q[(k + 1) % n] = 0.0
        assert_right(order_inf, p, q, mass="normalize")
        q[k] = 0.0
        assert fv.renyi(p, q, math.inf, mass="normalize") == math.inf
        q[k] = -0.5
        with pytest.raises(ValueError, match="must be finite and >= 0"):
            fv.renyi(p, q, math.inf, mass="normalize")


@over([(name, {}) for name in ROOTED])
def test_roots_of_logarithms_that_differ_far_below(function):
    """The square is below the floats: what is factored out has an exponent of its own."""
    rng = np.random.default_rng(20261127)
    for small, smaller in rng.uniform((1000.0, 1400.0), (1400.0, 2400.0), (60, 2)):
        p, q = np.array([-0.16, -smaller]), np.array([0.0, -small])
        assert_right(function, p, q, 1e-14, log=True, mass="normalize")


@over([(name, {}) for name in ROOTED] + [("renyi", {"alpha": math.inf})])
@pytest.mark.parametrize("small", [(1.5e-323,), (3e-320, 2e-310), (1.4e-257, 5e-252), (0.0, 1e-290, 1e-305)])
def test_differences_of_entries_that_are_no_normal_numbers(small, function):
    """The root of a square below the floats, and the largest of differences near 1e-310."""
    few, near = np.array([*small, 1.0]), np.array([*small, 1.0 + 1e-9])
    apart = np.array([*np.nextafter(small, 1.0), 1.0])
    for p, q in ((few, near), (few, apart), (np.append(few, 0.3), np.append(2.0 * apart, 2.0 * 0.3))):
        for repeats in (1, 30):
            pair = np.repeat(p, repeats), np.repeat(q, repeats)
            assert_right(function, *pair, mass="normalize")
            if function[0] != "renyi":
                assert_right(function, *pair, mass="any")
        assert_right(function, p * 2.0**860, q * 2.0**863, mass="normalize")


def test_the_largest_of_many_equal_ratios():
    """That of all entries but one is 1 + 3e-257: differences of entries near 1e-78 are no normal numbers."""
    p = np.array([0.9, 0.1, 1e-40, 6e-78, 2e-96, 1.9e-302])
    q = p.copy()
    q[-1] = 3.1e-257
    assert_right(("renyi", {"alpha": math.inf}), p, q, mass="normalize")


@pytest.mark.parametrize("n", [64, 3000])
@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.15, 0.25, 1.0])
def test_total_variation_with_and_without_a_correction_of_the_masses(n, size):
    rng = np.random.default_rng(71)
    q = rng.random(n)
    p = 3.0 * q * (1.0 + size * rng.uniform(-1.0, 1.0, n))
    assert_right(("total_variation", {}), p, q, mass="normalize")


@over([("bhattacharyya", {}), ("hellinger", {}), ("cross_entropy", {}), ("renyi", {"alpha": 2.5})])
@pytest.mark.parametrize("scale", [3.0, 100.0, 220.0])
@pytest.mark.parametrize("n", [30, 270])
def test_logits_of_any_spread(n, scale, function):
    """From overlaps near one to what underflows, also beside the root of the largest entry."""
    p, q = scale * np.random.default_rng(8).normal(size=(2, n)) + np.array([[40.0], [-800.0]])
    assert_right(function, p, q, mass="normalize", log=True)
    p, q = (a - logsumexp(a) for a in (p, q))
    assert_right(function, p, q, log=True)


@pytest.mark.parametrize("middle", [-500.0, -600.0, -705.0])
@pytest.mark.parametrize("last", [-1e19, -1e30, -1e150, -1e250])
def test_cross_entropy_of_logarithms_made_of_entries_that_underflow(last, middle):
    p, q = np.array([0.0, middle, -740.0] * 3), np.array([0.0, -800.0, last] * 3)
    p[3:], q[3:] = -math.inf, -math.inf
    with mp.workdps(400):
        first, second = mp.exp(middle), mp.exp(-740)
        expected = (800 * first - last * second) / (1 + first + second) + mp.log1p(mp.exp(-800))
    value = fv.cross_entropy(p, q, mass="normalize", log=True)
    assert reference.relative_error(value, expected) <= 1e-13


@pytest.mark.parametrize("entropy", [1e-300, 1e-200, 1e-12, 1e-3, 0.3])
def test_entropies_of_logarithms_from_none_on(entropy):
    p = np.array([5.0] + [5.0 + math.log(entropy / 99.0)] * 99)
    assert_right(("entropy", {}), p, p, mass="normalize", log=True)


@over(
    [(name, {}) for name in ("hellinger", "bhattacharyya", "total_variation")]
    + [("renyi", {"alpha": math.inf})]
)
@pytest.mark.parametrize("size", [2.3, 1.26, 1.25, 1.0, 0.13, 0.06, 1e-3, 1e-9, 1e-15])
@pytest.mark.parametrize("mass", [1.0, 3.0, 1.05])
def test_few_values_from_far_to_near(mass, size, function):
    """Of many equal entries all roundings are the same."""
    repeats = np.array([7001, 2999, 12])
    for seed in range(3):
        p = np.random.default_rng(seed).uniform(1.0, 2.0, 3)
        q = mass * p * (1.0 + size * np.array([0.3, -0.4, 0.11]))
        expected = truth(function, p, q, mass="normalize", repeats=repeats)
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), repeats))
        value = call(function, p[order], q[order], mass="normalize")
        assert reference.relative_error(value, expected) <= 1e-13

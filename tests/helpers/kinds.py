"""Inputs of all the kinds that people have, drawn at random, for `tests/discrete/test_hunt.py`."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

F32 = np.float32

#: What `mass` may be for any masses.
_BOTH = ["normalize", "any"]


class Case(NamedTuple):
    """Two arrays as they are passed; with `repeats`, each entry is meant so many times."""

    kind: str
    p: Any
    q: Any
    mass: str = "normalize"
    log: bool = False
    repeats: Any = None


def _lengths(rng):
    return int(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64, 100]))


def _weights(rng, n):
    """Positive numbers of one of several shapes."""
    shape = rng.integers(5)
    if shape == 0:
        return rng.random(n) + 1e-3
    if shape == 1:
        return rng.gamma(rng.choice([0.05, 0.3, 1.0, 30.0]), size=n) + 1e-300
    if shape == 2:
        return np.exp(rng.choice([1.0, 5.0, 50.0]) * rng.normal(size=n))
    if shape == 3:
        return rng.poisson(20.0, n) + 1.0
    x = np.full(n, 10.0 ** rng.uniform(-6, 0))
    x[rng.integers(n)] = 10.0 ** rng.uniform(0, 6)
    return x


def _two(rng, n):
    p = _weights(rng, n)
    way = rng.integers(4)
    if way == 0:
        return p, _weights(rng, n)
    if way == 1:
        return p, p * (1.0 + 10.0 ** rng.uniform(-15, -1) * rng.normal(size=n))
    if way == 2:
        return p, p * np.where(rng.random(n) < 0.9, 1.0, 1.0 + 10.0 ** rng.uniform(-15, -1))
    return p, np.abs(p + 10.0 ** rng.uniform(-9, -1) * p.mean() * rng.normal(size=n))


def _zeros(rng, p, q):
    p, q = p.copy(), q.copy()
    share = rng.choice([0.1, 0.5, 0.9])
    p[rng.random(p.size) < share] = 0.0
    q[rng.random(q.size) < rng.choice([0.0, share])] = 0.0
    keep = rng.integers(p.size)
    p[keep], q[keep] = 1.0, 2.0
    return p, q


def _unit(rng):
    p, q = _two(rng, _lengths(rng))
    return Case("unit", p / p.sum(), q / q.sum(), "unit")


def _nearly_unit(rng):
    p, q = _two(rng, _lengths(rng))
    return Case("nearly unit", p / p.sum() * (1 + 1e-7), q / q.sum() * (1 - 3e-10), "unit")


def _other_masses(rng):
    p, q = _two(rng, _lengths(rng))
    return Case("other masses", p * 10.0 ** rng.uniform(-3, 3), q * 10.0 ** rng.uniform(-3, 3))


def _measures(rng):
    p, q = _two(rng, _lengths(rng))
    return Case("measures", p, q * rng.choice([1.0, 1.0 + 1e-9, 2.0]), "any")


def _with_zeros(rng):
    p, q = _zeros(rng, *_two(rng, _lengths(rng)))
    if rng.random() < 0.5:
        p[q == 0.0] = 0.0
    return Case("zeros", p, q, str(rng.choice(_BOTH)))


def _counts(rng):
    n = _lengths(rng)
    p = rng.poisson(rng.choice([0.5, 5.0, 1e4]), n)
    q = rng.poisson(p) if rng.random() < 0.5 else rng.poisson(5.0, n)
    p[0] += 1
    return Case("counts", p, q + 1)


def _large_counts(rng):
    """Integers of any type, up to the largest that are floats."""
    n, kind = _lengths(rng), rng.choice(["i1", "u1", "i2", "i4", "u4", "i8", "u8", "?"])
    most = min(np.iinfo(kind).max, 2**53) if kind != "?" else 1
    p = (most * rng.random(n) ** rng.choice([1, 30])).round().astype(kind)
    q = (most * rng.random(n)).round().astype(kind) if rng.random() < 0.5 else p.copy()
    k = rng.integers(n, size=3)
    q[k[0]] = most - q[k[0]]
    p[k[1]] = q[k[1]] = most
    p[k[2]] = q[k[2]] = 1
    return Case("large counts", p, q)


def _negative_zeros(rng):
    p, q = _zeros(rng, *_two(rng, _lengths(rng)))
    p[(p == 0.0) & (rng.random(p.size) < 0.5)] = -0.0
    q[(q == 0.0) & (rng.random(p.size) < 0.5)] = -0.0
    p, q, dtype = p / p.max(), q / q.max(), rng.choice([float, F32])
    return Case("negative zeros", p.astype(dtype), q.astype(dtype), str(rng.choice(_BOTH)))


def _subnormal(rng):
    """All entries of one array, or both, are below the normal numbers."""
    n = _lengths(rng)
    p, q = rng.integers(0, 10 ** int(rng.integers(1, 14)), (2, n)) * 5e-324
    p[0] = q[0] = 5e-324 * int(rng.integers(1, 1000))
    if rng.random() < 0.3:
        q = rng.random(n) + 1e-3
    return Case("subnormal", p, q)


def _float16(rng):
    p, q = (a / a.max() for a in _two(rng, _lengths(rng)))
    f = 2.0 ** rng.integers(-10, 15)
    p, q = (p * f).astype(np.float16), (q * f).astype(np.float16)
    return Case("float16", p, q)


def _proportional(rng):
    p = _weights(rng, _lengths(rng))
    return Case("proportional", p, p * rng.choice([1.0, 2.0, 3.0, 7.0, 1e-5, 1.0 / 3.0]))


def _huge_or_tiny(rng):
    p, q = _two(rng, _lengths(rng))
    p, q = p / p.max(), q / q.max()
    f = 10.0 ** rng.uniform(-280, 275)
    g = f * 10.0 ** rng.choice([0.0, 1.0, -30.0]) if abs(np.log10(f)) < 240 else f
    return Case("huge or tiny", p * f, q * g, str(rng.choice(_BOTH)))


def _tiny_entries(rng):
    p, q = _two(rng, _lengths(rng))
    p, q = p / p.sum(), q / q.sum()
    k = rng.integers(p.size)
    p[k], q[k] = 10.0 ** rng.uniform(-310, -150, size=2)
    if rng.random() < 0.5:
        keep = np.arange(p.size) != k
        q[keep] = p[keep]
    return Case("tiny entries", p, q)


def _tiny_differences(rng):
    """The large entries are nearly multiples of each other, and the small ones differ by no normal number."""
    n = int(rng.integers(2, 20))
    large, scale = int(rng.integers(1, n)), 2.0 ** rng.choice([0, 0, 150, 660, 930])
    p = 10.0 ** rng.uniform(-5.0, 0.0, size=n)
    p[large:] = 10.0 ** rng.uniform(-323.0, rng.choice([-318.0, -300.0, -150.0]), size=n - large)
    q, way = p.copy(), rng.integers(4)
    if way == 0:
        q[0] *= 1.0 + 10.0 ** rng.uniform(-15.9, -0.1)
    elif way == 1:
        q[large:] = np.nextafter(q[large:], 1.0)
    elif way == 2:
        q[large:] *= np.abs(1.0 + 10.0 ** rng.uniform(-16, 1) * rng.normal(size=n - large))
    else:
        p[large:] *= rng.random(n - large) < 0.5
    return Case("tiny differences", p * scale, q * scale * rng.choice([1.0, 8.0]), str(rng.choice(_BOTH)))


def _wide(rng):
    """Entries that span more than floats do, so that some underflow over the mass."""
    n = _lengths(rng)
    p, q = 10.0 ** rng.uniform(-320.0, 286.0, size=(2, n))
    if rng.random() < 0.3:
        q = p * np.exp(10.0 ** rng.uniform(-12, 1) * rng.normal(size=n)).clip(0.5, 2.0)
    if rng.random() < 0.3:
        p, q = _zeros(rng, p, q)
    k = rng.integers(n)
    p[k], q[k] = 10.0 ** rng.uniform(0, 286, size=2)
    return Case("wide", p, q)


def _float32(rng):
    p, q = _zeros(rng, *_two(rng, _lengths(rng))) if rng.random() < 0.3 else _two(rng, _lengths(rng))
    p, q = p / p.max(), q / q.max()
    f = 10.0 ** rng.choice([0.0, 0.0, -10.0, 10.0, 36.0])
    return Case("float32", (p * f).astype(F32), (q * f).astype(F32))


def _wide_float32(rng):
    """Large entries are the same to rounding, or nearly: small ones make the divergence."""
    n = int(rng.integers(2, 300))
    large = rng.random(n) < rng.uniform(0.2, 0.9)
    near = np.exp(10.0 ** rng.uniform(-8, -4) * rng.normal(size=n) * (rng.random(n) < 0.5))
    p = np.where(large, rng.random(n) ** 3, 10.0 ** rng.uniform(-36, -4, size=n))
    q = np.where(large, p * near, 10.0 ** rng.uniform(-14, -4) * rng.random(n))
    if rng.random() < 0.3:
        p[~large & (rng.random(n) < 0.3)] = 0.0
    p[0] = q[0] = 1.0
    f = 10.0 ** rng.uniform(-34, 35) if rng.random() < 0.7 else 1.0
    p, q = (p * f).astype(F32), (q * f).astype(F32)
    return Case("wide float32", *(p, q) if rng.random() < 0.5 else (q, p))


def _many_float32(rng):
    n = int(rng.integers(1000, 5000))
    p, q = (rng.gamma(rng.choice([0.1, 1.0, 50.0]), size=n).astype(F32) for _ in range(2))
    k = int(rng.integers(2, 60))
    values = rng.integers(k, size=n)
    _, first, counts = np.unique(values, return_index=True, return_counts=True)
    return Case("many float32", p[first], q[first], repeats=counts)


def _masses_float32(rng):
    """A few values, each so many times, near or apart, of masses that are far apart."""
    k = int(rng.integers(1, 40))
    p = np.exp(rng.choice([0.3, 1.0, 3.0]) * rng.normal(size=k))
    q = np.exp(rng.normal(size=k))
    if rng.random() < 0.6:
        q = p * np.exp(10.0 ** rng.uniform(-7, 0.3) * rng.normal(size=k))
    if rng.random() < 0.3:
        q[rng.random(k) < 0.3] *= 10.0 ** rng.uniform(-6, 0)
    if rng.random() < 0.2:
        p[1:][rng.random(k - 1) < 0.3] = 0.0
    size = int(10.0 ** rng.uniform(1.8, 4.0))
    p, q = (a * 10.0 ** rng.uniform(-12, 12) for a in (p, q))
    repeats = rng.multinomial(size, rng.dirichlet(np.full(k, rng.choice([0.3, 3.0])))) + 1
    return Case("float32, masses", p.astype(F32), q.astype(F32), repeats=repeats)


def _equal_addends(rng):
    k = int(rng.integers(2, 5))
    repeats = rng.integers(1, 15_000, k)
    repeats[0] = 1
    p, q = rng.integers(1, 10, (2, k))
    p[0] = 10 ** rng.integers(1, 8)
    q[0] = rng.choice([p[0], 10 ** rng.integers(1, 8)])
    return Case("equal addends", p.astype(float), q.astype(float), repeats=repeats)


def _many_near(rng):
    """Several chunks of distributions that are as near as 1 % to a rounding error."""
    k = int(rng.integers(2, 40))
    p = _weights(rng, k)
    q = p * rng.choice([1.0, 3.0, 1e-3])
    if rng.random() < 0.7:
        q *= 1.0 + 10.0 ** rng.uniform(-17, -2) * rng.normal(size=k)
    return Case(
        "many near", p, q, repeats=rng.multinomial(int(rng.integers(1000, 5000)), np.full(k, 1.0 / k)) + 1
    )


def _many_masses(rng):
    """A few values, each so many times, of masses that may be far apart."""
    k = int(rng.integers(2, 12))
    p = rng.choice([1.0, 3.0, 10.0]) * rng.normal(size=k)
    q = rng.normal(size=k) if rng.random() < 0.5 else p + 10.0 ** rng.uniform(-5, 0.5) * rng.normal(size=k)
    p, q = (a + rng.integers(2) * rng.uniform(-200.0, 200.0) for a in (p, q))
    return Case(
        "many, masses",
        np.exp(p),
        np.exp(q),
        repeats=rng.multinomial(int(10.0 ** rng.uniform(0.0, 3.5)), np.full(k, 1.0 / k)) + 1,
    )


def _log_many(rng):
    """Several chunks of log-probabilities."""
    k = int(rng.integers(2, 40))
    p = rng.choice([1.0, 10.0, 100.0]) * rng.normal(size=k)
    q = rng.normal(size=k) if rng.random() < 0.5 else p + 10.0 ** rng.uniform(-9, 0) * rng.normal(size=k)
    return Case("log, many", p, q, log=True, repeats=rng.multinomial(3000, np.full(k, 1.0 / k)) + 1)


def _log_equal(rng):
    """A few values, one of them so many times that each has 1e-5 of the mass."""
    k = int(rng.integers(2, 5))
    p = rng.choice([0.01, 0.1, 1.0, 10.0]) * rng.normal(size=k)
    q = rng.normal(size=k) if rng.random() < 0.5 else p + 10.0 ** rng.uniform(-7, 0) * rng.normal(size=k)
    repeats = np.ones(k, np.int64) if rng.random() < 0.5 else rng.integers(1, 1000, k)
    repeats[-1] = 10.0 ** rng.uniform(2.0, 5.0)
    return Case("log, equal", p, q, log=True, repeats=repeats)


def _log_unit(rng):
    n = _lengths(rng)
    p, q = (a - logsumexp(a) for a in rng.choice([1.0, 10.0, 100.0]) * rng.normal(size=(2, n)))
    return Case("log, unit", p, q, "unit", True)


def _log_softmax(rng):
    n = _lengths(rng)
    scale = rng.choice([0.1, 1.0, 30.0, 100.0, 300.0])
    p = scale * rng.normal(size=n)
    q = (
        scale * rng.normal(size=n)
        if rng.random() < 0.5
        else p + 10.0 ** rng.uniform(-12, 1) * rng.normal(size=n)
    )
    return Case(
        "log, softmax", p + rng.uniform(-350, 350), q + rng.choice([0.0, rng.uniform(-350, 350)]), log=True
    )


def _log_temperature(rng):
    """Logits over temperatures from hot to cold, of one model or two that are near."""
    n, dtype = _lengths(rng), rng.choice([float, float, F32])
    p = rng.normal(size=n)
    q = rng.normal(size=n) if rng.random() < 0.5 else p + 10.0 ** rng.uniform(-8, -1) * rng.normal(size=n)
    t, u = 10.0 ** rng.uniform(-3, 2, size=2)
    p, q = p / t, q / (u if rng.random() < 0.3 else t)
    if rng.random() < 0.5:
        p, q = p - logsumexp(p), q - logsumexp(q)
    return Case("log, temperature", p.astype(dtype), q.astype(dtype), log=True)


def _log_offset(rng):
    """Logarithms beside huge constants, which differ in few digits."""
    n = _lengths(rng)
    p = rng.choice([1.0, 30.0]) * rng.normal(size=n)
    q = p + rng.choice([1e-3, 1.0]) * rng.normal(size=n)
    p, q = (a + rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(3, 15.5) for a in (p, q))
    return Case("log, offset", p, q, log=True)


def _log_far(rng):
    n = int(rng.integers(2, 6))
    p, q = -(10.0 ** rng.uniform(-1, 3.5, size=(2, n)))
    p[0], q[0] = rng.choice([0.0, -0.16]), 0.0
    return Case("log, far", p, q, log=True)


def _log_with_zeros(rng):
    case = _log_softmax(rng)
    p, q = case.p.copy(), case.q.copy()
    p[rng.random(p.size) < 0.3] = -np.inf
    q[rng.random(q.size) < rng.choice([0.0, 0.3])] = -np.inf
    k = rng.integers(p.size)
    p[k] = q[k] = max(0.0, case.p.max())
    return Case("log, -inf", p, q, log=True)


def _log_float32(rng):
    case = _log_softmax(rng)
    return Case("log, float32", case.p.astype(F32), case.q.astype(F32), log=True)


def _log_measures(rng):
    """Of any mass that is a float; they may differ far below their largest entry only."""
    n = _lengths(rng)
    p = 10.0 ** rng.uniform(0.0, 3.0) * rng.normal(size=n)
    q = p + 10.0 ** rng.uniform(-9, 3) * rng.normal(size=n) * (rng.random(n) < rng.choice([0.3, 1.0]))
    top = max(p.max(), q.max()) - rng.uniform(-600.0, 600.0)
    p, q = p - top, q - top
    if rng.random() < 0.3:
        p[0] = q[0] = max(p.max(), q.max())
    return Case("log, measures", p, q, "any", True)


def _log_alone(rng):
    """Distributions that differ in entries that one of them lacks, or in little more."""
    n = int(rng.integers(1, 10))
    p = -(10.0 ** rng.uniform(0.0, 3.3, size=n))
    q, k = p.copy(), rng.integers(n)
    p[rng.random(n) < 0.4] = -np.inf
    q[rng.random(n) < rng.choice([0.0, 0.0, 0.4])] = -np.inf
    p[k], q[k] = 0.0, rng.choice([0.0, 1e-9, rng.normal()])
    return Case("log, alone", p, q, str(rng.choice(_BOTH)), True)


def _alone(rng):
    """The same, of entries that may underflow over their masses."""
    n = int(rng.integers(1, 10))
    p = 10.0 ** rng.uniform(-323.0, -10.0, size=n)
    q, k = p.copy(), rng.integers(n)
    p[rng.random(n) < 0.4] = 0.0
    q[rng.random(n) < rng.choice([0.0, 0.0, 0.4])] = 0.0
    p[k], q[k] = 10.0 ** rng.uniform(0.0, 286.0, size=2) if rng.random() < 0.7 else (1.0, 1.5)
    return Case("alone", p, q)


KINDS = {
    function.__name__.strip("_"): function
    for function in (
        _unit,
        _nearly_unit,
        _other_masses,
        _measures,
        _with_zeros,
        _counts,
        _large_counts,
        _negative_zeros,
        _subnormal,
        _float16,
        _proportional,
        _huge_or_tiny,
        _tiny_entries,
        _tiny_differences,
        _wide,
        _float32,
        _wide_float32,
        _many_float32,
        _masses_float32,
        _equal_addends,
        _many_near,
        _many_masses,
        _log_many,
        _log_equal,
        _log_unit,
        _log_softmax,
        _log_temperature,
        _log_offset,
        _log_far,
        _log_with_zeros,
        _log_float32,
        _log_measures,
        _log_alone,
        _alone,
    )
}

"""Slow, obvious versions of every divergence: the formulas of the docstrings in mpmath.

Each float is taken exactly. The precision is 50 digits and as many more as the entries span orders of
magnitude, so that 1 + 5e-324 is not 1 here. The formulas are the generalised ones for measures, which
are the usual ones when both arguments sum to one.

mpmath takes long. Tests call one function after the other with the same arrays, so the exact entries, their
logarithms and roots are kept for the next one.
"""

import functools
import math
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
from mpmath import mp, mpf

LARGEST = mpf(sys.float_info.max)
QUANTUM = mpf(5e-324)


def _digits(rows, log, shifted):
    """Enough to leave 50 digits where terms cancel: in p near q, orders near 1, entries of all sizes."""
    sizes = []  # binary exponents
    for row in rows:
        if log:
            top = max(row) if shifted else 0.0
            sizes += [(x - top) / math.log(2) for x in row if x > -math.inf]
        else:
            sizes += [math.frexp(x)[1] for x in row if x > 0]
    return 100 + (math.ceil((max(sizes) - min(sizes)) * math.log10(2)) if sizes else 0)


def _exact(row, log, shifted):
    """The entries; of logarithms, with `shifted` over the largest."""
    values = [mpf(x) for x in row]
    top = max(values) if shifted else mpf(0)
    return [mp.exp(x - top) for x in values] if log else values


def _kept(function):
    """A function of a number that keeps its last values, each for one precision."""
    kept = functools.lru_cache(1 << 16)(lambda x, precision: function(x))
    return lambda x: kept(x, mp.prec)


_log, _sqrt, _exp = map(_kept, (mp.log, mp.sqrt, mp.exp))


def _xlog(x, y):
    """x log(x / y)."""
    return mpf(0) if x == 0 else x * (_log(x) - _log(y))


def _divided(x, y):
    return x / y if y != 0 else mp.inf


def entropy(p):
    return -mp.fsum(x * _log(x) for x in p if x > 0)


def renyi_entropy(p, alpha):
    a = mpf(float(alpha))
    if a == 1:
        return entropy(p)
    if a == mp.inf:
        return -mp.log(max(p))
    if a > 1000:
        # Relative to the largest entry, by logarithms: mpmath multiplies x**a together where a is an integer.
        top = max(p)
        total = mp.fsum(mp.exp(a * mp.log(x / top)) for x in p if x > 0)
        return (a * mp.log(top) + mp.log(total)) / (1 - a)
    return mp.log(mp.fsum(x**a for x in p if x > 0)) / (1 - a)


def cross_entropy(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mp.inf
    return -mp.fsum(x * _log(y) for x, y in zip(p, q, strict=True) if x > 0)


def kl(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mp.inf
    return mp.fsum(_xlog(x, y) - x + y for x, y in zip(p, q, strict=True))


def js(p, q, weights=(0.5, 0.5)):
    u, v = (mpf(float(w)) for w in weights)
    m = [u * x + v * y for x, y in zip(p, q, strict=True)]
    return mp.fsum(u * _xlog(x, z) + v * _xlog(y, z) for x, y, z in zip(p, q, m, strict=True))


def js_many(*rows, weights):
    weights = [mpf(float(w)) for w in weights]
    weights = [w / mp.fsum(weights) for w in weights]
    middle = [
        mp.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*rows, strict=True)
    ]
    return mp.fsum(w * kl(row, middle) for w, row in zip(weights, rows, strict=True) if w > 0)


def mutual_information(joint, shape):
    """From the entries of an array of this shape."""
    places = list(np.ndindex(*shape))
    marginals = [[mpf(0)] * length for length in shape]
    for place, x in zip(places, joint, strict=True):
        for axis, k in enumerate(place):
            marginals[axis][k] += x
    product = [mp.fprod(marginals[axis][k] for axis, k in enumerate(place)) for place in places]
    return kl(joint, product)


def js_distance(p, q, weights=(0.5, 0.5)):
    return mp.sqrt(js(p, q, weights))


def jeffreys(p, q):
    return kl(p, q) + kl(q, p)


def hellinger(p, q):
    return mp.sqrt(mp.fsum((_sqrt(x) - _sqrt(y)) ** 2 for x, y in zip(p, q, strict=True)) / 2)


def total_variation(p, q):
    return mp.fsum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2


def chi2(p, q):
    return mp.fsum(_divided((x - y) ** 2, y) for x, y in zip(p, q, strict=True) if x != y)


def bhattacharyya(p, q):
    overlap = mp.fsum(_sqrt(x) * _sqrt(y) for x, y in zip(p, q, strict=True))
    return -mp.log(overlap) if overlap > 0 else mp.inf


def _power(x, y, a):
    """x**a y**(1 - a) with its limits at zero."""
    if x and y:
        if a == int(a) and abs(a) < 100:
            return x**a * y ** (1 - a)
        return _exp(a * _log(x) + (1 - a) * _log(y))
    if x:
        return mpf(0) if a < 1 else (x if a == 1 else mp.inf)
    if y:
        return mpf(0) if a > 0 else (y if a == 0 else mp.inf)
    return mpf(0)


def renyi(p, q, alpha):
    a = mpf(float(alpha))
    pairs = list(zip(p, q, strict=True))
    if a == 1:
        return kl(p, q)
    if a == mp.inf:
        return mp.log(max(_divided(x, y) for x, y in pairs if x > 0))
    if a == 0:
        missing = mp.fsum(y for x, y in pairs if x == 0)
        return -mp.log1p(-missing) if any(x > 0 and y > 0 for x, y in pairs) else mp.inf
    total = mp.fsum(_power(x, y, a) for x, y in pairs)
    if total == 0 or total == mp.inf:
        return mp.inf
    return mp.log(total) / (a - 1)


def alpha_divergence(p, q, alpha):
    a = mpf(float(alpha))
    if a == 1:
        return kl(p, q)
    if a == 0:
        return kl(q, p)
    return mp.fsum(_power(x, y, a) - a * x + (a - 1) * y for x, y in zip(p, q, strict=True)) / (a * (a - 1))


def _finite(p, q=()):
    return [(x, y) for x, y in zip(p, q, strict=False) if x > -math.inf and y > -math.inf]


def _same_zeros(p, q=()):
    return all((x > -math.inf) == (y > -math.inf) for x, y in zip(p, q, strict=False))


@functools.lru_cache(64)
def _measures(rows, counts, mass, log, more_digits):
    """(measures, whether two are the same but for their masses where these do not count, digits)."""
    shifted = mass != "any"
    digits = _digits(rows, log, shifted) + more_digits
    with mp.workdps(digits):
        measures = [_exact(row, log, shifted) for row in rows]
        if counts is not None:
            # All sums are homogeneous: n equal entries add what one entry n times as large adds.
            measures = [[n * x for n, x in zip(counts, m, strict=True)] for m in measures]
        same = len(measures) == 2 and measures[0] == measures[1]
        if mass != "any":
            sums = [mp.fsum(m) for m in measures]
            if len(measures) == 2 and not same:  # quotients may round apart
                pairs = zip(*measures, strict=True)
                same = all(x * sums[1] == y * sums[0] for x, y in pairs)
                if log:
                    differences = {Fraction(x) - Fraction(y) for x, y in _finite(*rows)}
                    same = len(differences) == 1 and _same_zeros(*rows)
            measures = [[x / s for x in m] for m, s in zip(measures, sums, strict=True)]
        return measures, same, digits


def exact(name, *arrays, mass="unit", log=False, repeats=None, **parameters):
    """The value of the divergence `name` for exactly these floats, each `repeats` times."""
    rows, counts = tuple(tuple(map(float, np.ravel(a))) for a in arrays), None
    if len(rows) == 2 or name == "entropy":  # equal entries are one, of which there are as many
        columns = Counter()
        repeats = [1] * len(rows[0]) if repeats is None else repeats
        for *column, n in zip(*rows, repeats, strict=True):
            columns[tuple(column)] += int(n)
        rows, counts = tuple(zip(*columns, strict=True)), tuple(columns.values())
    more_digits = 0
    if len(rows) == 2 and "alpha" in parameters:  # sums are divided by orders near 0 and 1
        a = mpf(float(parameters["alpha"]))
        more_digits = sum(max(0, -int(mp.log10(abs(x)))) for x in (a, a - 1) if x not in (0, mp.inf))
    measures, same, digits = _measures(rows, counts, mass, log, more_digits)
    if same and "entropy" not in name:
        return mpf(0)
    with mp.workdps(digits):
        value = globals()[name](*measures, **parameters)
        if counts is not None and "entropy" in name:
            value += mp.fsum(x * mp.log(n) for n, x in zip(counts, measures[0], strict=True))
        return value


def relative_error(value, expected):
    """|value / expected - 1|, with what a float cannot hold forgiven: overflow, the last subnormal digit."""
    if math.isnan(value):
        return math.inf
    if expected > LARGEST:
        return 0.0 if value == math.inf or value > sys.float_info.max * (1 - 1e-13) else math.inf
    if value == math.inf:
        return math.inf
    with mp.workdps(60):
        off = abs(mpf(float(value)) - expected)
        if expected < QUANTUM:
            return 0.0 if off <= QUANTUM else math.inf
        return float(max(off - QUANTUM, 0) / expected)

"""Divergences of log-probabilities: what `divergences` and `renyi` do with logarithms of entries.

An entry may underflow where its logarithm, and the logarithm r of the ratio, are finite. So terms are made
of r, which is a difference without any rounding but its last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, exported, formula, inlined, kernel, specialise
from ..numerics.elementary import (
    LN2,
    LN2_HIGH,
    LN2_LOW,
    exp,
    expm1_small,
    exponent_step,
    log_quotient,
    scaled_exp,
)
from ..numerics.error_free import add_compensated, two_product, two_sum
from . import far_logarithms, terms
from .far_logarithms import log_mass
from .masses import ANY, UNIT
from .normalized import LIFT, PART, UNLIFT, has_digits, is_unit, sensitivity
from .terms import exchanged

#: Largest |r| for which a term is a series in r, or made of exp(r) - 1.
_NEAR = 0.3

#: Difference from the offset of all below which the logarithm of the ratio of two entries takes its place.
_CLOSE = 1e-3

#: Sum of |p - q| up to which the offset is found from that of the largest entry: its error is 1e-20 then.
_NEARLY_EQUAL = 1e-5

#: Orders up to this multiply an error of the masses, 6e-15, to less than 1e-13.
_SMALL_ORDER = 8.0

#: Largest coefficient of the series in `_alpha_near`, so that its product with an entry is finite.
_MOST_COEFFICIENT = 1e300

#: Largest |log(p / q)| times the order for which `alpha_log_term` takes the series.
_SERIES_RANGE = 0.25

#: An order nearer to 1 is as 1 for entries > 0: |log(p / q)| is at most 1500.
_AS_ONE = 1e-18

#: Entries below this are zero: a term has no use for their logarithm.
_LEAST = 2.0**-1021

#: Largest logarithm whose exponential, lifted, is finite.
_MOST = 670.0

#: How far sums that overflow are lowered, by 2**128, and sums that underflow are raised, by 2**940: sums of
#: 2**28 entries stay floats.
_LOWERED, _RAISED = 128.0 * LN2, 940.0 * LN2

#: Lifted sums below this may be made of what underflowed.
_LEAST_SQUARE = 2.0**-850


class LogNormalization(NamedTuple):
    """Constants of `log_entry` for two arrays of log-probabilities."""

    top_p: float  #: subtracted from log p: the maximum, or 0 for a mass of one
    rest_p: float  #: and then the logarithm of the sum over that
    top_q: float
    rest_q: float
    offset: float  #: subtracted from log p - log q
    offset_lost: float  #: and this, a rounding error of `offset`
    offset_rest: float  #: and then this, far smaller


@inlined
def _log_probability(u, top, rest):
    """(u - top) - rest, and what its roundings have lost."""
    s, lost = two_sum(u, -top)
    t, more = two_sum(s, -rest)
    return t, lost + more if s > -math.inf else 0.0


@formula
def log_entry(p, q, normalization):
    """What a term is made of, of entries that are normalised.

    LIFT times p, q and p - q; log(p / q), which is 0 where both are 0; log p, or log q where p = 0; and what
    the roundings of these two have lost: for an exponent of 700, 1e-13 of its power.
    """
    n = normalization
    u, v = np.float64(p), np.float64(q)
    log_p, lost_p = _log_probability(u, n.top_p, n.rest_p)
    log_q, lost_q = _log_probability(v, n.top_q, n.rest_q)
    x, y = scaled_exp(LIFT, log_p), scaled_exp(LIFT, log_q)
    x = x * (1.0 + lost_p) if x > _LEAST else 0.0
    y = y * (1.0 + lost_q) if y > _LEAST else 0.0
    s, lost = two_sum(u, -v)
    t, more = two_sum(s, -n.offset)
    r, lost_r = two_sum(t, -(n.offset_rest - ((lost - n.offset_lost) + more)))
    r = r if abs(s) < math.inf else (0.0 if u == v else s)
    near = abs(r) < _NEAR
    small = expm1_small(r if near else 0.0)
    alone = r == -math.inf
    lost = lost_r, (lost_q if alone else lost_p)
    return x, y, (y * small if near else x - y), r, (log_q if alone else log_p), lost


@inlined
def _sum_of_four(a, low, b, least):
    """a + b + low + least as three floats, each below the last digit of the one before.

    As one float, b may lack 1e-11 of a small log(p / q), and `least` may be 1e-40 beside one of 1e-14.
    """
    high, lost = two_sum(a, b)
    low, rest = two_sum(low, lost)
    return high, low, rest + least


@kernel
def make_log_normalization(p, q, mass):
    """The normalization for log-probabilities, and the factor of its sums: NaN for invalid input."""
    top_p, sum_p = log_mass(p, mass)
    top_q, sum_q = log_mass(q, mass)
    refused = LogNormalization(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), math.nan
    if not (sum_p >= 0.0 and sum_q >= 0.0):
        return refused
    if mass == ANY:
        top = max(top_p, top_q)
        if top == -math.inf:
            top = 0.0
        return LogNormalization(top, 0.0, top, 0.0, 0.0, 0.0, 0.0), math.exp(top)
    if mass == UNIT and not (is_unit(sum_p, p) and is_unit(sum_q, p)):
        return refused
    if not (sum_p > 0.0 and sum_q > 0.0):
        return refused
    rest_p, rest_q = math.log(sum_p), math.log(sum_q)
    offset, lost = two_sum(top_p, -top_q)
    return LogNormalization(
        top_p, rest_p, top_q, rest_q, *_sum_of_four(offset, lost, rest_p - rest_q, 0.0)
    ), 1.0


@inlined
def _with_offset(normalization, offset, lost, rest):
    n = normalization
    return LogNormalization(n.top_p, n.rest_p, n.top_q, n.rest_q, offset, lost, rest)


@adder
def _log_excess(p, q, normalization):
    total = 0.0
    for i in range(p.size):
        total += log_entry(p[i], q[i], normalization)[2]
    return total


@kernel
def _all_excess(p, q, normalization):
    total, lost = 0.0, 0.0
    for low in range(0, p.size, PART):
        part = _log_excess(p[low : low + PART], q[low : low + PART], normalization)
        total, lost = add_compensated(total, lost, part)
    return (total + lost) * UNLIFT


@inlined
def _corrected(normalization, excess):
    """The normalization without this sum of all differences, which is the error of its offset."""
    n = normalization
    return _with_offset(n, *_sum_of_four(n.offset, n.offset_lost, n.offset_rest, excess))


@adder
def _ratio_excess(p, q, normalization, factor):
    """Lifted sums of p exp(offset) - q, where the offset is that of two entries, and of |p - q|."""
    total, size = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, _, _ = log_entry(p[i], q[i], normalization)
        total += d if abs(r) < _NEAR else x * factor - y
        size += abs(d)
    return total, size


@kernel
def _from_largest(p, q, normalization):
    """(The normalization with its offset from that of the largest entry if that is close, sum of |p - q|)."""
    n = normalization
    k = np.argmax(p)
    s, lost = two_sum(np.float64(p[k]), -np.float64(q[k]))
    rest = n.offset_rest - ((s - n.offset) + (lost - n.offset_lost))
    if not abs(rest) <= _CLOSE:
        return n, 1.0
    n = _with_offset(n, s, lost, 0.0)
    total, size, factor = 0.0, 0.0, math.exp(rest)
    for low in range(0, p.size, PART):
        sums = _ratio_excess(p[low : low + PART], q[low : low + PART], n, factor)
        total += sums[0]
        size += sums[1]
    return _with_offset(n, s, lost, math.log1p(total * UNLIFT)), size * UNLIFT


@kernel
def corrected_log_normalization(p, q, normalization):
    """The normalization with its offset corrected, as `normalized.exact_normalization`."""
    n, _ = _from_largest(p, q, normalization)
    return _corrected(n, _all_excess(p, q, n))


@kernel
def exact_log_normalization(p, q, mass):
    """`make_log_normalization`, corrected."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return normalization, factor
    return corrected_log_normalization(p, q, normalization), factor


@kernel
def _exp_sum_parts(p, top):
    """The sum of exp(p - top) in two floats."""
    total, low = 0.0, 0.0
    for i in range(p.size):
        s, lost = two_sum(np.float64(p[i]), -top)
        if s > -700.0:
            x = exp(s)
            # The logarithm of the exponential shows what its rounding has lost.
            log_x, log_low = log_quotient(x, 0.0, 1.0, 0.0)
            total, low = add_compensated(total, low, x)
            low += x * (((s - log_x) - log_low) + lost)
    return two_sum(total, low)


@kernel
def precise_log_normalization(p, q, normalization):
    """The normalization with an offset to 1e-19: a large order multiplies its error."""
    n = normalization
    # The error of this is 1e-15 of the sum of |p - q|.
    near, size = _from_largest(p, q, n)
    if size <= _NEARLY_EQUAL:
        return near
    x, x_low = _exp_sum_parts(p, n.top_p)
    y, y_low = _exp_sum_parts(q, n.top_q)
    log_ratio, rest = log_quotient(x, x_low, y, y_low)
    offset, lost = two_sum(n.top_p, -n.top_q)
    return _with_offset(n, *_sum_of_four(offset, lost, log_ratio, rest))


@kernel
def shifted(p, q):
    """Whether p and q differ by one constant, exactly: whether they are the same distribution."""
    k = 0
    while k < p.size - 1 and not p[k] > -math.inf:
        k += 1
    s, lost = two_sum(np.float64(p[k]), -np.float64(q[k]))
    if not abs(s) < math.inf:
        return False
    for i in range(p.size):
        if p[i] == q[i] == -math.inf:
            continue
        t, rest = two_sum(np.float64(p[i]), -np.float64(q[i]))
        if t != s or rest != lost:
            return False
    return True


# Terms of what `log_entry` gives.


@formula
def kl_log_term(x, y, d, r, log_p, lost, theta):
    """p log(p / q) - p + q."""
    # Near p = q: y (e**r (r - 1) + 1) = y r**2 (1/2 + r/3 + ... + (k - 1) r**(k - 2) / k!).
    s = 12.0 / 6227020800.0
    s = s * r + 11.0 / 479001600.0
    s = s * r + 10.0 / 39916800.0
    s = s * r + 9.0 / 3628800.0
    s = s * r + 8.0 / 362880.0
    s = s * r + 7.0 / 40320.0
    s = s * r + 6.0 / 5040.0
    s = s * r + 5.0 / 720.0
    s = s * r + 4.0 / 120.0
    s = s * r + 3.0 / 24.0
    s = s * r + 2.0 / 6.0
    s = s * r + 0.5
    far = math.inf if r == math.inf else (y if x == 0.0 else x * r - d)
    return y * (r * r) * s if abs(r) < _NEAR else far


@formula
def jeffreys_log_term(x, y, d, r, log_p, lost, theta):
    """(p - q) log(p / q)."""
    return abs(r) if abs(r) == math.inf else d * r


@formula
def lifted_exp(x, y, lost):
    """LIFT times e**(x + y + lost)."""
    exponent, more = two_sum(x, y)
    power = scaled_exp(LIFT, exponent) * (1.0 + (lost + more))
    return math.inf if exponent > _MOST else (power if exponent > -800.0 else 0.0)


@formula
def chi2_log_term(x, y, d, r, log_p, lost, theta):
    """(p - q)**2 / q = p**2 / q - 2 p + q."""
    power = lifted_exp(log_p, r, lost[0] + lost[1])
    far = (0.0 if log_p == -math.inf else power) - 2.0 * x + y
    return d * expm1_small(r) if abs(r) < _NEAR else far


@formula
def _alpha_near(q, x, a):
    """`terms.alpha_term` near p = q, where |x| a < `_SERIES_RANGE`, x = log(p / q): nothing cancels."""
    # q (x**2 / 2! + c_3 x**3 / 3! + ...), c_(j+1) = 1 + a c_j. The coefficients do not depend on the entry.
    # They stay finite: an infinite one times x**2 = 0 would be NaN.
    c3 = 1.0 + a
    c4 = min(1.0 + a * c3, _MOST_COEFFICIENT)
    c5 = min(1.0 + a * c4, _MOST_COEFFICIENT)
    c6 = min(1.0 + a * c5, _MOST_COEFFICIENT)
    c7 = min(1.0 + a * c6, _MOST_COEFFICIENT)
    c8 = min(1.0 + a * c7, _MOST_COEFFICIENT)
    c9 = min(1.0 + a * c8, _MOST_COEFFICIENT)
    c10 = min(1.0 + a * c9, _MOST_COEFFICIENT)
    c11 = min(1.0 + a * c10, _MOST_COEFFICIENT)
    c12 = min(1.0 + a * c11, _MOST_COEFFICIENT)
    c13 = min(1.0 + a * c12, _MOST_COEFFICIENT)
    s = c13 * (1.0 / 6227020800.0)
    s = s * x + c12 * (1.0 / 479001600.0)
    s = s * x + c11 * (1.0 / 39916800.0)
    s = s * x + c10 * (1.0 / 3628800.0)
    s = s * x + c9 * (1.0 / 362880.0)
    s = s * x + c8 * (1.0 / 40320.0)
    s = s * x + c7 * (1.0 / 5040.0)
    s = s * x + c6 * (1.0 / 720.0)
    s = s * x + c5 * (1.0 / 120.0)
    s = s * x + c4 * (1.0 / 24.0)
    s = s * x + c3 * (1.0 / 6.0)
    return q * (x * x) * (s * x + 0.5)


@formula
def _over_order(log_p, lost, order):
    """LIFT times p / order, for 0 < order <= 1/2, which may be a float where p is none."""
    small = order < 2.0**-1000
    scaled, k = exponent_step(1.0, order * 2.0**54 if small else order)
    k = k * 2.0**-52 + (54.0 if small else 0.0)
    high, low = two_sum(k * LN2_HIGH, k * LN2_LOW)
    return lifted_exp(log_p, high, lost + low) / scaled


@formula
def alpha_log_term(x, y, d, r, log_p, lost, theta):
    """`terms.alpha_term`."""
    swap, a, beta = exchanged(theta)
    p, q = (y, x) if swap else (x, y)
    d, s = (-d, -r) if swap else (d, r)
    log_q, lost_q = two_sum(log_p, -r)
    log = log_q if swap else log_p
    rest = lost_q + (lost[1] - (1.0 + beta) * lost[0]) if swap else lost[1] + beta * lost[0]
    near = _alpha_near(q, s, a)
    exponent, more = two_product(beta, s)
    # p (exp(beta r) - 1) / beta
    little = p * expm1_small(exponent if abs(exponent) < _NEAR else 0.0)
    power = lifted_exp(log, exponent, rest + more) if abs(s) < math.inf else (math.inf if s > 0.0 else 0.0)
    limit = abs(beta) < _AS_ONE
    grown = (little if abs(exponent) < _NEAR else power - p) / (1.0 if limit else beta)
    grown = p * s if limit & (abs(s) < math.inf) else grown
    grown = (_over_order(log_p, lost[1], -beta) if beta < 0.0 else math.inf) if s == math.inf else grown
    grown = 0.0 if s == -math.inf else grown
    value = near if abs(s) * a < _SERIES_RANGE else (grown - d) / a
    return 0.0 if (d == 0.0) & (r == 0.0) else value


def _log_term(x, y, d, r, log_p, lost, theta):
    """Template (`term`): the term for log-probabilities, where p and q may underflow without harm."""
    return term(x, y, d, theta)  # noqa: F821


def _log_sums(p, q, normalization, theta):
    """Template (`term`): (the sum over the exponentials of p and q, that of all differences), lifted."""
    a, excess = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, log_p, lost = log_entry(p[i], q[i], normalization)
        a += term(x, y, d, r, log_p, lost, theta)  # noqa: F821
        excess += d
    return a, excess


def _all_log_sums(p, q, normalization, theta):
    """Template (`log_sums`): the same, by chunks."""
    a, al, e, el = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        x, y = log_sums(p[low : low + PART], q[low : low + PART], normalization, theta)  # noqa: F821
        a, al = add_compensated(a, al, x)
        e, el = add_compensated(e, el, y)
    return a + al, e + el


@kernel
def shifted_normalization(normalization, change):
    """The normalization with which the logarithms of all entries are less by `change`."""
    n = normalization
    # The rest would lose the digits that `change` is larger by: 1e-13 of a power.
    top_p, lost_p = two_sum(n.top_p, change)
    top_q, lost_q = two_sum(n.top_q, change)
    return LogNormalization(
        top_p, n.rest_p + lost_p, top_q, n.rest_q + lost_q, n.offset, n.offset_lost, n.offset_rest
    )


@kernel
def _largest_different(p, q, normalization):
    """The largest logarithm of an entry of p or q where they differ."""
    n, largest = normalization, -math.inf
    for i in range(p.size):
        if log_entry(p[i], q[i], n)[3] != 0.0:
            log_p, _ = _log_probability(np.float64(p[i]), n.top_p, n.rest_p)
            log_q, _ = _log_probability(np.float64(q[i]), n.top_q, n.rest_q)
            largest = max(largest, log_p, log_q)
    return largest


def _log_divergence(p, q, theta, mass):
    """Template (`first`, `second`, `log_sums`, `smooth`, `orders`, `root`, `finish`): the computation."""
    value = first(p, q, theta, mass)  # noqa: F821
    if math.isnan(value):
        value = second(p, q, theta, mass)  # noqa: F821
    if value == value:
        return finish(value, 1.0)  # noqa: F821
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    precise = orders and mass != ANY and sensitivity(theta) > _SMALL_ORDER  # noqa: F821
    if precise:
        if shifted(p, q):
            return 0.0
        normalization = precise_log_normalization(p, q, normalization)
    a, excess = log_sums(p, q, normalization, theta)  # noqa: F821
    if mass != ANY and not precise:
        for i in range(3):
            if has_digits(a, excess, theta, smooth, LIFT):  # noqa: F821
                break
            if shifted(p, q):
                return 0.0
            if i == 0:
                normalization = _corrected(normalization, excess * UNLIFT)
            else:
                normalization = corrected_log_normalization(p, q, normalization)
            a, excess = log_sums(p, q, normalization, theta)  # noqa: F821
    # The factor of all sums is the square of `half`, which stays a float. Powers of four have exact roots.
    half = math.exp(0.5 * normalization.top_p) if mass == ANY else 1.0
    if a < _LEAST_SQUARE and (root or half > 1.0):  # noqa: F821
        # A square may underflow where its root does not, and what differs beside an entry that does not.
        largest = _largest_different(p, q, normalization)
        if largest == -math.inf:
            return 0.0
        change, lost = 0.0, 0.0
        for attempt in range(3):
            # The terms may be larger than the entries: powers, or parts of an order that is tiny.
            change = largest - _RAISED if attempt == 0 else (attempt - 3) * _RAISED
            raised, a, lost = shifted_normalization(normalization, change), 0.0, 0.0
            for i in range(p.size):
                if log_entry(p[i], q[i], normalization)[3] != 0.0:
                    part, _ = log_sums(p[i : i + 1], q[i : i + 1], raised, theta)  # noqa: F821
                    a, lost = add_compensated(a, lost, part)
            if a < math.inf:
                break
        quarter = math.exp(0.25 * change)
        # In this order no product leaves the floats if the result does not.
        value = finish(a + lost, UNLIFT) * finish(quarter, half) * finish(quarter, half)  # noqa: F821
        return value * finish(quarter, 1.0) * finish(quarter, 1.0)  # noqa: F821
    unlift = UNLIFT
    if a == math.inf:
        change, unlift = _LOWERED, UNLIFT * 2.0**128
        if half < 1.0:
            # Beside the largest entry, terms with large exponents may overflow where their sum does not.
            change, half = change - normalization.top_p, 1.0
        a, _ = log_sums(p, q, shifted_normalization(normalization, change), theta)  # noqa: F821
    return finish(a, unlift) * finish(half, 1.0) * finish(half, 1.0)  # noqa: F821


def log_term(name, term):
    """The term of this name, of what `log_entry` gives."""
    found = globals().get(f"{term}_log_term")
    if found is not None:
        return found
    return specialise(_log_term, f"_{name}_log_term", formula, term=getattr(terms, f"{term}_term"))


def assemble(name, row, normalise, chunk, **ends):
    """The kernel of a divergence; `ends` are those of `_log_divergence`."""
    term = row.term
    log_sums = specialise(_log_sums, f"_log_{name}_sums", adder, term=log_term(name, term))
    all_sums = specialise(_all_log_sums, f"_log_{name}_all_sums", log_sums=log_sums)
    first, second = far_logarithms.assemble(name, term, normalise, chunk)
    ends |= {"first": first, "second": second, "log_sums": all_sums, "orders": bool(row.orders)}
    return specialise(_log_divergence, f"log_{name}", exported, **ends)

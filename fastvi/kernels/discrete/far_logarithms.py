"""Divergences of log-probabilities in one pass, of distributions that are not close to each other.

Three passes, each of which returns NaN where its result would lack digits; then `logarithmic` takes the
terms one by one. `linear` sums p log(p / q): the difference of two logarithms is what a loop over
exponentials takes a logarithm for. `overlap` sums sqrt(p q), which needs no root of exponentials of halves.
`_power_sum` is that of p (p / q)**beta, with exponents in two floats, beside the largest one: nothing
overflows, and what underflows does not count. `quick` gives exponentials to the loops of `chunks`.

Entries are taken over a power of two, not over the largest one: what is subtracted from a logarithm would be
rounded, and that is subtracted from the exponent, exactly. Exponentials of 100,000 logarithms take 0.55 ns an
entry instead of 0.75.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel, specialise
from ..numerics.elementary import LN2, LN2_HIGH, LN2_LOW, decay, exp, exponential_over
from ..numerics.error_free import add_compensated, two_product, two_sum
from .chunks import Sums, add_sums, rounded_sums
from .masses import ANY, NORMALIZE, UNIT
from .normalized import CHUNK, PART, is_unit

#: Powers of two below this make entries that are zero beside the largest, and exponents below this powers.
_LEAST_STEP, _LEAST_LOG = -1010.0, -700.0

#: The same for roots of entries, total variation and Jensen-Shannon, in which these do not count: the product
#: of two is to be a normal number. With one in twelve subnormal, a loop takes twice the time.
_LEAST_ROOT_STEP = -505.0

#: Entries with a larger power of two, beside the largest one or beside one, are refused.
_MOST_STEP = 2.0

#: Largest logarithm, of either sign, of the largest entry: `exponential_over` holds up to 700,000.
_MOST_TOP = 5e5

#: A difference of two logarithms with which an entry of e**-700 counts: their product is the term of KL.
_ABSENT = 1e200

#: Results below this are left to sums over differences of logarithms: the roundings of exponentials, 4e-16,
#: are not small enough beside p / q - 1.
_LEAST = 0.01

#: The same for sums of logarithms of ratios, in which the roundings of equal exponentials do not cancel.
_LEAST_LINEAR = 0.1

#: How many times the sizes of all terms may be contained in their sum.
_MOST_LOSS = 16.0

#: Relative difference of the masses of the first chunk up to which that shows how near all entries are.
_ALIKE = 0.1

#: The most that powers multiply an error of the masses by, and the least and the largest exponent: that of
#: the largest entries of distributions that are close is 0.
_MOST_ORDER, _LEAST_EXPONENT, _MOST_EXPONENT = 8.0, 1.0, 700.0

#: Exponent above which an alpha-divergence of such an order is above the floats.
_INFINITE = 720.0

#: Overlaps beside which roots of entries that are made zero, 1e-152, do not count, and how far from one they
#: must be for Hellinger's and Bhattacharyya's distances: the sums of parts lose 2e-15.
_LEAST_OVERLAP, _LEAST_HELLINGER, _LEAST_DISTANCE = 1e-130, 1.0 / 32.0, 1.0 / 16.0

#: Logarithms of q below this are left to another way, also where p is made zero: beside cross-entropies above
#: the second, the others do not count.
_FAR_DOWN, _LEAST_CROSS = -1e20, 1e-250

#: Part of the sum of powers and one that their difference must be.
_LEAST_PART = 0.1


@inlined
def _key(x):
    """An integer in the order of numbers that are not NaN: LLVM finds the largest integer in vectors."""
    bits = np.float64(x).view(np.int64)
    return bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


#: The `_key` of -inf.
_LEAST_KEY = np.int64(-0x7FF0000000000001)


@inlined
def _of_key(key):
    """The number of a `_key`."""
    return np.int64(key ^ ((key >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))).view(np.float64)


@kernel
def top_of(p):
    """The maximum; NaN where an entry is NaN or +inf."""
    # 0.15 ns an entry, half of what four maxima of floats take.
    most, bad = _LEAST_KEY, 0
    for i in range(p.size):
        most = max(most, _key(p[i]))
        bad += not p[i] < math.inf
    return math.nan if bad > 0 else _of_key(most)


@adder
def _exp_sum(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exp(np.float64(p[i]) - shift)
    return total


@adder
def _sum_over(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exponential_over(np.float64(p[i]), shift, _LEAST_STEP)[0]
    return total


def _all(p, shift):
    """Template (`sum_of`, `size`): the sum of all entries."""
    total, lost = 0.0, 0.0
    for low in range(0, p.size, size):  # noqa: F821
        total, lost = add_compensated(total, lost, sum_of(p[low : low + size], shift))  # noqa: F821
    return total + lost


#: The sum of exp(p - shift), and that of exp(p) over 2**shift.
_mass_less = specialise(_all, "_mass_less", sum_of=_exp_sum, size=PART)
_mass_over = specialise(_all, "_mass_over", sum_of=_sum_over, size=CHUNK)


@kernel
def log_mass(p, mass):
    """(The maximum, or 0 for a mass of one; the sum of exp(p - that)); NaN or inf where an entry is."""
    top = 0.0 if mass == UNIT else top_of(p)
    if not top > -math.inf:
        return top, 0.0 if top == -math.inf else math.nan
    return top, _mass_less(p, top)


@kernel
def _step(top):
    """The power of two that entries are taken over, by the largest logarithm; NaN where there is none."""
    return float(round(top * (1.0 / LN2))) if abs(top) < _MOST_TOP else math.nan


@kernel
def _shift(p, mass):
    """The same; 0 where the mass is to be one."""
    return 0.0 if mass == UNIT else _step(top_of(p))


class Shifts(NamedTuple):
    """What is subtracted from the logarithms of two arrays, and the difference of the two in two floats."""

    p: float
    q: float
    offset: float
    lost: float


@inlined
def _steps(shift_p, shift_q):
    """`Shifts` by powers of two, which are the first fields."""
    change = shift_p - shift_q
    return Shifts(shift_p, shift_q, change * LN2_HIGH, change * LN2_LOW)


# The formulas of one pair of entries are not part of the loops, which may change the order of sums.


@formula
def _log_ratio(u, v, shifts):
    """The difference of two finite logarithms, both shifted."""
    r, lost = two_sum(u, -v)
    r, more = two_sum(r, -shifts.offset)
    return r + ((lost + more) - shifts.lost)


# Kullback-Leibler and Jeffreys.


class LinearSums(NamedTuple):
    """Sums over some entries, with r = log(p / q) before the masses are taken out."""

    p: float  #: of p r; NaN where this pass does not hold
    q: float  #: of q r
    size: float  #: of (p + q) |r|, or of p |r|
    mass_p: float
    mass_q: float
    p_alone: int  #: the number of entries with p > 0 = q
    q_alone: int


def _linear_sums(p, q, shifts):
    """Template (`symmetric`): `LinearSums` of one chunk."""
    a, b, size, mass, other, p_alone, q_alone, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0
    for i in range(p.size):
        u, v = np.float64(p[i]), np.float64(q[i])
        x, m = exponential_over(u, shifts.p, _LEAST_STEP)
        y, n = exponential_over(v, shifts.q, _LEAST_STEP)
        in_p, in_q = u > -math.inf, v > -math.inf
        r = _log_ratio(u, v, shifts) if in_p & in_q else 0.0
        hidden = ((x == 0.0) | (y == 0.0)) & (abs(r) > _ABSENT)
        bad += (not m <= _MOST_STEP) | (not n <= _MOST_STEP) | hidden
        p_alone += in_p & (not in_q)
        q_alone += in_q & (not in_p)
        a += x * r
        size += ((x + y) if symmetric else x) * abs(r)  # noqa: F821
        b += y * r
        mass += x
        other += y
    return LinearSums(math.nan if bad > 0 else a, b, size, mass, other, p_alone, q_alone)


@inlined
def _divergence(sums, symmetric):
    """(The divergence, what it is the difference of) from the sums over all entries."""
    first = sums.p / sums.mass_p
    second = sums.q / sums.mass_q if symmetric else math.log(sums.mass_p / sums.mass_q)
    return first - second, sums.size / (min(sums.mass_p, sums.mass_q) if symmetric else sums.mass_p)


def _linear(p, q, theta, mass):
    """Template (`sums_of`, `symmetric`): KL(p || q), or Jeffreys' divergence; NaN for another way."""
    if mass == ANY:
        return math.nan
    shift_p, shift_q = _shift(p, mass), _shift(q, mass)
    if not (abs(shift_p) < math.inf and abs(shift_q) < math.inf):
        return math.nan
    shifts = _steps(shift_p, shift_q)
    total, lost = LinearSums(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0), (0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, PART):
        part = sums_of(p[low : low + PART], q[low : low + PART], shifts)  # noqa: F821
        if math.isnan(part.p):
            return math.nan
        a, a_lost = add_compensated(total.p, lost[0], part.p)
        b, b_lost = add_compensated(total.q, lost[1], part.q)
        m, m_lost = add_compensated(total.mass_p, lost[2], part.mass_p)
        n, n_lost = add_compensated(total.mass_q, lost[3], part.mass_q)
        alone = total.p_alone + part.p_alone, total.q_alone + part.q_alone
        total, lost = LinearSums(a, b, total.size + part.size, m, n, *alone), (a_lost, b_lost, m_lost, n_lost)
        if low == 0 and abs(m - n) <= _ALIKE * m and not _divergence(total, symmetric)[0] > _LEAST_LINEAR:  # noqa: F821
            return math.nan
    total = LinearSums(
        total.p + lost[0],
        total.q + lost[1],
        total.size,
        total.mass_p + lost[2],
        total.mass_q + lost[3],
        total.p_alone,
        total.q_alone,
    )
    if mass == UNIT and not (is_unit(total.mass_p, p) and is_unit(total.mass_q, p)):
        return math.nan
    if total.p_alone > 0 or (symmetric and total.q_alone > 0):  # noqa: F821
        return math.inf
    value, size = _divergence(total, symmetric)  # noqa: F821
    return value if value > _LEAST_LINEAR and size <= _MOST_LOSS * value and value < math.inf else math.nan


def linear(name, symmetric):
    """The pass for KL, or with `symmetric` for Jeffreys' divergence."""
    sums_of = specialise(_linear_sums, f"_{name}_linear_sums", adder, symmetric=symmetric)
    return specialise(_linear, f"_{name}_linear", sums_of=sums_of, symmetric=symmetric)


# Cross-entropy.


@adder
def _cross_sums(p, q, shifts, top):
    """(Sum of p (top - log q), mass of p, of the q below the top, numbers of q at it and not allowed)."""
    a, mass, rest, at_top, bad = 0.0, 0.0, 0.0, 0, 0
    for i in range(p.size):
        u, v = np.float64(p[i]), np.float64(q[i])
        x, m = exponential_over(u, shifts.p, _LEAST_STEP)
        y, _ = exponential_over(v, shifts.q, _LEAST_STEP)
        bad += (not m <= _MOST_STEP) | ((v < _FAR_DOWN) & (u > -math.inf))
        a += x * (top - v) if x > 0.0 else 0.0
        mass += x
        rest += y if v < top else 0.0
        at_top += v == top
    return a, mass, rest, at_top, bad


@kernel
def cross_entropy(p, q, mass):
    """-sum exp(p) q of normalised entries; NaN for another way."""
    if mass == ANY:
        return math.nan
    top = top_of(q)
    shift_p, shift_q = _shift(p, mass), _step(top)
    if not (abs(shift_p) < math.inf and abs(shift_q) < math.inf):
        return math.nan
    shifts = _steps(shift_p, shift_q)
    a, al, m, ml, r, rl, at_top = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        part, mass_p, rest, more, bad = _cross_sums(u, v, shifts, top)
        if bad > 0:
            return math.nan
        a, al = add_compensated(a, al, part)
        m, ml = add_compensated(m, ml, mass_p)
        r, rl = add_compensated(r, rl, rest)
        at_top += more
    mass_p, largest = m + ml, exponential_over(top, shift_q, _LEAST_STEP)[0]
    rest = (r + rl) + (at_top - 1) * largest
    if mass == UNIT and not (is_unit(mass_p, p) and is_unit(exp(shift_q * LN2) * (largest + rest), p)):
        return math.nan
    # Both parts are >= 0: log(top / q), and the logarithm of the mass over the top.
    value = (a + al) / mass_p + math.log1p(rest / largest)
    return value if _LEAST_CROSS < value < math.inf else math.nan


# Powers.


class Order(NamedTuple):
    """An order, and the exponent of the largest power, in two floats each: alpha, and beta = alpha - 1."""

    alpha: float
    beta: float
    beta_lost: float
    peak: float
    peak_lost: float


@inlined
def _exponent(u, v, alpha, beta):
    """The logarithm of p**alpha q**-beta, rounded, where both are positive; else -inf."""
    return alpha * u - beta * v if (u > -math.inf) & (v > -math.inf) else -math.inf


@kernel
def _peak(p, q, alpha, beta):
    """The largest exponent; NaN where one is no number or +inf."""
    most, bad = _LEAST_KEY, 0
    for i in range(p.size):
        exponent = _exponent(np.float64(p[i]), np.float64(q[i]), alpha, beta)
        most = max(most, _key(exponent))
        bad += not exponent < math.inf
    return math.nan if bad > 0 else _of_key(most)


@formula
def _power(u, v, order):
    """p**alpha q**-beta over exp(peak) of two logarithms; 0 where one is -inf."""
    a, a_lost = two_product(order.alpha, u)
    b, b_lost = two_product(-order.beta, v)
    exponent, lost = two_sum(a, b)
    below = (exponent - order.peak) + (lost + ((a_lost + b_lost) - (order.beta_lost * v + order.peak_lost)))
    both = (u > -math.inf) & (v > -math.inf)
    return decay(below) if both & (below > _LEAST_LOG) else 0.0


@adder
def _power_sums(p, q, order, shifts):
    """(Sum of p**alpha q**-beta over exp(peak), mass of p, of q, numbers of p alone and of q alone)."""
    power, mass, other, p_alone, q_alone = 0.0, 0.0, 0.0, 0, 0
    for i in range(p.size):
        u, v = np.float64(p[i]), np.float64(q[i])
        in_p, in_q = u > -math.inf, v > -math.inf
        p_alone += in_p & (not in_q)
        q_alone += in_q & (not in_p)
        power += _power(u, v, order)
        mass += exponential_over(u, shifts.p, _LEAST_STEP)[0]
        other += exponential_over(v, shifts.q, _LEAST_STEP)[0]
    return power, mass, other, p_alone, q_alone


class PowerSum(NamedTuple):
    """exp(peak) part exp(rest) is the sum of p**alpha q**(1-alpha)."""

    peak: float  #: NaN where another way is needed, inf where the sum is infinite
    part: float
    rest: float


@kernel
def _power_sum(p, q, alpha, mass):
    """The `PowerSum` of an order; of 0 and 1, where a limit is wanted, another way is needed."""
    failed = PowerSum(math.nan, 0.0, 0.0)
    if mass == ANY or abs(alpha) > _MOST_ORDER or alpha == 0.0 or alpha == 1.0:
        return failed
    shift_p, shift_q = _step(top_of(p)), _step(top_of(q))
    beta, beta_lost = two_sum(alpha, -1.0)
    peak = _peak(p, q, alpha, beta) if math.isfinite(shift_p) and math.isfinite(shift_q) else math.nan
    if not abs(peak) < math.inf:
        return failed
    # The exponent of the two powers of two, in two floats, and the peak beside it.
    a, a_lost = two_product(alpha, shift_p * LN2_HIGH)
    b, b_lost = two_product(-beta, shift_q * LN2_HIGH)
    steps, lost = two_sum(a, b)
    lost += (a_lost + b_lost) + ((alpha * shift_p - beta * shift_q) * LN2_LOW - beta_lost * (shift_q * LN2))
    beside = peak - steps
    if not _LEAST_EXPONENT < abs(beside) < math.inf:
        return failed
    peak, more = two_sum(steps, beside)
    order, shifts = Order(alpha, beta, beta_lost, peak, lost + more), _steps(shift_p, shift_q)
    power, lost, m, ml, n, nl, p_alone, q_alone = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
    for low in range(0, p.size, PART):
        u, v = p[low : low + PART], q[low : low + PART]
        part, mass_p, mass_q, more_p, more_q = _power_sums(u, v, order, shifts)
        power, lost = add_compensated(power, lost, part)
        m, ml = add_compensated(m, ml, mass_p)
        n, nl = add_compensated(n, nl, mass_q)
        p_alone += more_p
        q_alone += more_q
    mass_p, mass_q = m + ml, n + nl
    unit_p, unit_q = exp(shift_p * LN2) * mass_p, exp(shift_q * LN2) * mass_q
    if mass == UNIT and not (is_unit(unit_p, p) and is_unit(unit_q, p)):
        return failed
    if (p_alone > 0 and alpha > 1.0) or (q_alone > 0 and alpha < 0.0):
        return PowerSum(math.inf, 1.0, 0.0)
    return PowerSum(beside, (power + lost) / mass_p, -beta * math.log(mass_p / mass_q))


@kernel
def renyi_powers(p, q, theta, mass):
    """The Rényi divergence; NaN for another way."""
    s = _power_sum(p, q, theta[0], mass)
    if not s.part > 0.0 or s.peak == math.inf:
        return s.peak
    log = math.log(s.part)
    value, size = s.peak + (log + s.rest), abs(s.peak) + abs(log) + abs(s.rest)
    return value / (theta[0] - 1.0) if size <= _MOST_LOSS * abs(value) else math.nan


@kernel
def alpha_powers(p, q, theta, mass):
    """The alpha-divergence; NaN for another way."""
    s, alpha = _power_sum(p, q, theta[0], mass), theta[0]
    if not (abs(s.peak) < math.inf and s.part > 0.0):
        return s.peak
    if s.peak + (math.log(s.part) + s.rest) > _INFINITE:
        return math.inf
    if not abs(s.peak) < _MOST_EXPONENT:
        return math.nan
    power = math.exp(s.peak) * s.part * math.exp(s.rest)
    good = (abs(power - 1.0) > _LEAST_PART * (power + 1.0)) & (power < math.inf)
    return (power - 1.0) / (alpha * (alpha - 1.0)) if good else math.nan


@kernel
def chi2_powers(p, q, theta, mass):
    """chi2 of p from q, twice the alpha-divergence of order 2; NaN for another way."""
    return 2.0 * alpha_powers(p, q, (2.0, 0.0), mass)


# Loops over exponentials.


@kernel
def _exponentials(p, shift, factor, least, tiny_count, out):
    """Write exp(p) over 2**shift times a factor, 0 up to the power `least` of two; the number not allowed.

    Those are entries that are too large, and with `tiny_count` positive ones that are made zero.
    """
    count = 0
    for i in range(p.size):
        u = np.float64(p[i])
        x, n = exponential_over(u, shift, least)
        count += (not n <= _MOST_STEP) | (tiny_count & (n <= least) & (u > -math.inf))
        out[i] = x * factor
    return count


def quick(p, q, theta, mass):
    """Template (`chunk`, `normalise`, `any_masses`, `tiny_count`): a loop of `chunks`, or NaN."""
    if mass == ANY:
        return math.nan
    shift_p, shift_q = _shift(p, mass), _shift(q, mass)
    if not (abs(shift_p) < math.inf and abs(shift_q) < math.inf):
        return math.nan
    factor_p, factor_q = 1.0, 1.0
    if not (mass == UNIT or any_masses):  # noqa: F821
        factor_p, factor_q = 1.0 / _mass_over(p, shift_p), 1.0 / _mass_over(q, shift_q)
    least = _LEAST_STEP if tiny_count else _LEAST_ROOT_STEP  # noqa: F821
    size = min(CHUNK, p.size)
    x, y = np.empty(size), np.empty(size)
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        missed = _exponentials(u, shift_p, factor_p, least, tiny_count, x)  # noqa: F821
        missed += _exponentials(v, shift_q, factor_q, least, tiny_count, y)  # noqa: F821
        if missed > 0:
            return math.nan
        sums = chunk(x[: u.size], y[: u.size], theta)  # noqa: F821
        if math.isnan(sums.terms):
            return math.nan
        total, lost = add_sums(total, lost, sums)
        # Where its masses are alike, the first chunk shows whether there will be digits.
        first = any_masses and low == 0 and abs(sums.change) <= _ALIKE * sums.mass_p  # noqa: F821
        if first and not normalise(sums, theta, NORMALIZE, False)[1]:  # noqa: F821
            return math.nan
    sums = rounded_sums(total, lost)
    if mass == UNIT and not (is_unit(sums.mass_p, p) and is_unit(sums.mass_q, p)):
        return math.nan
    value, good = normalise(sums, theta, NORMALIZE, False)  # noqa: F821
    return value if good and _LEAST < value < math.inf else math.nan


# Overlaps.


@adder
def _overlap_sums(p, q, shift_p, shift_q):
    """(Sum of sqrt(p q), of p, of q, number of entries that are too large) of entries over 4**shift."""
    overlap, mass, other, bad = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        x, m = exponential_over(0.5 * np.float64(p[i]), shift_p, _LEAST_ROOT_STEP)
        y, n = exponential_over(0.5 * np.float64(q[i]), shift_q, _LEAST_ROOT_STEP)
        bad += not max(m, n) <= _MOST_STEP
        overlap += x * y
        mass += x * x
        other += y * y
    return overlap, mass, other, bad


@kernel
def _overlap(p, q, mass, least):
    """The sum of sqrt(p q) of normalised entries; NaN where one less this is below `least`."""
    if mass == ANY:
        return math.nan
    shift_p = 0.0 if mass == UNIT else _step(0.5 * top_of(p))
    shift_q = 0.0 if mass == UNIT else _step(0.5 * top_of(q))
    if not (abs(shift_p) < math.inf and abs(shift_q) < math.inf):
        return math.nan
    o, ol, m, ml, n, nl = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        overlap, mass_p, mass_q, bad = _overlap_sums(
            p[low : low + PART], q[low : low + PART], shift_p, shift_q
        )
        if bad > 0:
            return math.nan
        o, ol = add_compensated(o, ol, overlap)
        m, ml = add_compensated(m, ml, mass_p)
        n, nl = add_compensated(n, nl, mass_q)
        # Where its masses are alike, the first part shows whether there will be digits.
        if low == 0 and abs(m - n) <= _ALIKE * m and not o <= (1.0 - least) * math.sqrt(m * n):
            return math.nan
    mass_p, mass_q = m + ml, n + nl
    if mass == UNIT and not (is_unit(mass_p, p) and is_unit(mass_q, p)):
        return math.nan
    value = (o + ol) / (math.sqrt(mass_p) * math.sqrt(mass_q))
    # What is made zero, e**-350 of the larger sum's root, is nothing beside more than this.
    return value if _LEAST_OVERLAP < value <= 1.0 - least else math.nan


@kernel
def hellinger_overlap(p, q, theta, mass):
    """The squared Hellinger distance; NaN for another way."""
    return 1.0 - _overlap(p, q, mass, _LEAST_HELLINGER)


@kernel
def bhattacharyya_overlap(p, q, mass):
    """The Bhattacharyya distance; NaN for another way."""
    return -math.log(_overlap(p, q, mass, _LEAST_DISTANCE))


@kernel
def never(p, q, theta, mass):
    """For a divergence without such a pass."""
    return math.nan


# Assembly.


#: Divergences whose terms, of distributions that are far apart, need no digits of masses or of logarithms, by
#: the names of their terms; and whether their sums show the divergence for any masses.
_QUICK = {"kl": True, "chi2": True, "alpha": True, "total_variation": False, "js": False}

#: Where `quick` fails: sums of powers.
_POWERS = {"chi2": chi2_powers, "alpha": alpha_powers}


def assemble(name, term, normalise, chunk):
    """The passes for the term of this name, (p, q, theta, mass) -> the divergence or NaN, in their order."""
    if term == "jeffreys":
        return linear(name, True), never
    if term == "hellinger":
        return hellinger_overlap, never
    if term not in _QUICK:
        return never, never
    by_chunks = specialise(
        quick,
        f"_log_{name}_quick",
        chunk=chunk,
        normalise=normalise,
        any_masses=_QUICK[term],
        tiny_count=term in _POWERS or term == "kl",
    )
    return (linear(name, False), by_chunks) if term == "kl" else (by_chunks, _POWERS.get(term, never))

"""Divergences of log-probabilities in one pass, of distributions that are not close to each other.

Three passes, each of which returns NaN where its result would lack digits; then `logarithmic` takes the
terms one by one. `linear` sums p log(p / q): the difference of two logarithms is what a loop over
exponentials takes a logarithm for. `_power_sum` is that of p (p / q)**beta, with exponents in two floats,
beside the largest one: nothing overflows, and what underflows does not count. `quick` gives exponentials to
the loops of `chunks`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel, specialise
from ..numerics.elementary import decay, exp
from ..numerics.error_free import add_compensated, two_product, two_sum
from .chunks import Sums, add_sums, rounded_sums
from .masses import ANY, NORMALIZE, UNIT
from .normalized import CHUNK, PART, is_unit

#: Logarithms below this make entries that are zero beside the largest.
_LEAST_LOG = -700.0

#: The same for overlaps and total variation, in which these do not count: the product of two entries is to be
#: a normal number. With one in twelve subnormal, a loop takes twice the time.
_LEAST_ROOT = -350.0

#: Logarithms of entries that are larger, beside the largest one or beside one, are refused.
_MOST_LOG = 1.0

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

#: Part of the sum of powers and one that their difference must be.
_LEAST_PART = 0.1


@inlined
def larger(a, b):
    """The larger of two numbers that are not NaN."""
    return b if b > a else a


@kernel
def top_of(p):
    """The maximum; NaN where an entry is NaN or +inf."""
    # Four maxima, so that none waits for the one before.
    a, b, c, d, bad = -math.inf, -math.inf, -math.inf, -math.inf, False
    n = p.size - p.size % 4
    for i in range(0, n, 4):
        w, x, y, z = p[i], p[i + 1], p[i + 2], p[i + 3]
        a, b, c, d = larger(a, w), larger(b, x), larger(c, y), larger(d, z)
        bad |= not ((w < math.inf) & (x < math.inf) & (y < math.inf) & (z < math.inf))
    for i in range(n, p.size):
        a = larger(a, p[i])
        bad |= not p[i] < math.inf
    return math.nan if bad else np.float64(larger(larger(a, b), larger(c, d)))


@kernel
def _shift(p, mass):
    """What is subtracted from logarithms before their exponentials are taken.

    The maximum, which takes 0.4 ns an entry to find; 0 where the mass is to be one.
    """
    return 0.0 if mass == UNIT else top_of(p)


@adder
def _exp_sum(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exp(np.float64(p[i]) - shift)
    return total


@kernel
def _mass_over(p, top):
    """The sum of exp(p - top)."""
    total, lost = 0.0, 0.0
    for low in range(0, p.size, PART):
        total, lost = add_compensated(total, lost, _exp_sum(p[low : low + PART], top))
    return total + lost


@kernel
def log_mass(p, mass):
    """(`_shift`, the sum of exp(p - shift)); NaN or inf where an entry is NaN or +inf."""
    top = _shift(p, mass)
    if not top > -math.inf:
        return top, 0.0 if top == -math.inf else math.nan
    return top, _mass_over(p, top)


class Shifts(NamedTuple):
    """What is subtracted from two arrays of logarithms, and the difference of the two in two floats."""

    p: float
    q: float
    offset: float
    lost: float


@inlined
def _shifts(shift_p, shift_q):
    offset, lost = two_sum(shift_p, -shift_q)
    return Shifts(shift_p, shift_q, offset, lost)


# The formulas of one pair of entries are not part of the loops, which may change the order of sums.


@formula
def _shifted(u, shift):
    """u - shift, and what its rounding has lost."""
    return two_sum(u, -shift)


@formula
def _weight(s, lost):
    """exp(s + lost), or zero."""
    return decay(s) * (1.0 + lost) if s > _LEAST_LOG else 0.0


@formula
def _log_ratio(u, v, shifts):
    """The difference of two finite logarithms, both shifted, in two floats."""
    r, lost = two_sum(u, -v)
    r, more = two_sum(r, -shifts.offset)
    return r, (lost + more) - shifts.lost


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


@formula
def _rounded_ratio(u, v, shifts):
    r, lost = _log_ratio(u, v, shifts)
    return r + lost


def _linear_sums(p, q, shifts):
    """Template (`symmetric`): `LinearSums` of one chunk."""
    a, b, size, mass, other, p_alone, q_alone, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0
    for i in range(p.size):
        u, v = np.float64(p[i]), np.float64(q[i])
        s, lost_p = _shifted(u, shifts.p)
        t, lost_q = _shifted(v, shifts.q)
        in_p, in_q = u > -math.inf, v > -math.inf
        r = _rounded_ratio(u, v, shifts) if in_p & in_q else 0.0
        hidden = ((s <= _LEAST_LOG) | (t <= _LEAST_LOG)) & (abs(r) > _ABSENT)
        bad += (not s <= _MOST_LOG) | (not t <= _MOST_LOG) | hidden
        p_alone += in_p & (not in_q)
        q_alone += in_q & (not in_p)
        x, y = _weight(s, lost_p), _weight(t, lost_q)
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
    shifts = _shifts(shift_p, shift_q)
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


# Powers.


@inlined
def _exponent(u, v, beta, shift_p, shift_q):
    """The logarithm of p (p / q)**beta, rounded, where both are positive; else -inf."""
    value = (u - shift_p) + beta * ((u - v) - (shift_p - shift_q))
    return value if (u > -math.inf) & (v > -math.inf) else -math.inf


@kernel
def _peak(p, q, beta, shift_p, shift_q):
    """The largest exponent."""
    a, b = -math.inf, -math.inf
    n = p.size - p.size % 2
    for i in range(0, n, 2):
        a = larger(a, _exponent(np.float64(p[i]), np.float64(q[i]), beta, shift_p, shift_q))
        b = larger(b, _exponent(np.float64(p[i + 1]), np.float64(q[i + 1]), beta, shift_p, shift_q))
    for i in range(n, p.size):
        a = larger(a, _exponent(np.float64(p[i]), np.float64(q[i]), beta, shift_p, shift_q))
    return larger(a, b)


@formula
def _power(u, v, alpha, shifts, peak):
    """(p**alpha q**(1-alpha) over exp(peak), p, q) of two logarithms; the first is 0 where one is -inf."""
    beta, beta_lost = two_sum(alpha, -1.0)
    s, lost_p = two_sum(u, -shifts.p)
    t, lost_q = two_sum(v, -shifts.q)
    r, lost = _log_ratio(u, v, shifts)
    grown, rest = two_product(beta, r)
    exponent, carry = two_sum(s, grown)
    below = (exponent - peak) + ((carry + rest) + (lost_p + (beta * lost + beta_lost * r)))
    both = (u > -math.inf) & (v > -math.inf)
    power = decay(below) if both & (below > _LEAST_LOG) else 0.0
    return power, _weight(s, lost_p), _weight(t, lost_q)


@adder
def _power_sums(p, q, alpha, shifts, peak):
    """(Sum of p**alpha q**(1-alpha) over exp(peak), mass of p, of q, numbers of p alone and of q alone)."""
    power, mass, other, p_alone, q_alone = 0.0, 0.0, 0.0, 0, 0
    for i in range(p.size):
        u, v = np.float64(p[i]), np.float64(q[i])
        z, x, y = _power(u, v, alpha, shifts, peak)
        in_p, in_q = u > -math.inf, v > -math.inf
        p_alone += in_p & (not in_q)
        q_alone += in_q & (not in_p)
        power += z
        mass += x
        other += y
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
    top_p, top_q, beta = top_of(p), top_of(q), alpha - 1.0
    if not (abs(top_p) < math.inf and abs(top_q) < math.inf):
        return failed
    peak = _peak(p, q, beta, top_p, top_q)
    if not _LEAST_EXPONENT < abs(peak) < math.inf:
        return failed
    shifts = _shifts(top_p, top_q)
    power, lost, m, ml, n, nl, p_alone, q_alone = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
    for low in range(0, p.size, PART):
        u, v = p[low : low + PART], q[low : low + PART]
        part, mass_p, mass_q, more_p, more_q = _power_sums(u, v, alpha, shifts, peak)
        power, lost = add_compensated(power, lost, part)
        m, ml = add_compensated(m, ml, mass_p)
        n, nl = add_compensated(n, nl, mass_q)
        p_alone += more_p
        q_alone += more_q
    mass_p, mass_q = m + ml, n + nl
    unit_p, unit_q = exp(top_p) * mass_p, exp(top_q) * mass_q
    if mass == UNIT and not (is_unit(unit_p, p) and is_unit(unit_q, p)):
        return failed
    if (p_alone > 0 and alpha > 1.0) or (q_alone > 0 and alpha < 0.0):
        return PowerSum(math.inf, 1.0, 0.0)
    return PowerSum(peak, (power + lost) / mass_p, -beta * math.log(mass_p / mass_q))


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


@inlined
def _exponentials(p, shift, factor, least, out):
    """out[i] = exp(p[i] - shift) times a factor, 0 where p[i] - shift is at most `least`."""
    for i in range(p.size):
        s, lost = two_sum(np.float64(p[i]), -shift)
        out[i] = decay(s) * ((1.0 + lost) * factor) if s > least else 0.0


@kernel
def _missed(p, shift, tiny_count):
    """The number of entries that are too large, and with `tiny_count` of those that are made zero."""
    count = 0
    for i in range(p.size):
        s = np.float64(p[i]) - shift
        count += (not s <= _MOST_LOG) | (tiny_count & (s <= _LEAST_LOG) & (s > -math.inf))
    return count


def quick(p, q, theta, mass):
    """Template (`chunk`, `normalise`, `any_masses`, `tiny_count`): a loop of `chunks`, or NaN."""
    if mass == ANY:
        return math.nan
    if mass == UNIT or any_masses:  # noqa: F821
        shift_p, shift_q, sum_p, sum_q = _shift(p, mass), _shift(q, mass), 1.0, 1.0
    else:
        (shift_p, sum_p), (shift_q, sum_q) = log_mass(p, mass), log_mass(q, mass)
    if not (abs(shift_p) < math.inf and abs(shift_q) < math.inf):
        return math.nan
    factor_p, factor_q = 1.0 / sum_p, 1.0 / sum_q
    least = _LEAST_LOG if tiny_count else _LEAST_ROOT  # noqa: F821
    size = min(CHUNK, p.size)
    x, y = np.empty(size), np.empty(size)
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        if _missed(u, shift_p, tiny_count) + _missed(v, shift_q, tiny_count) > 0:  # noqa: F821
            return math.nan
        _exponentials(u, shift_p, factor_p, least, x)
        _exponentials(v, shift_q, factor_q, least, y)
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


@kernel
def never(p, q, theta, mass):
    """For a divergence without such a pass."""
    return math.nan


# Assembly.


#: Divergences whose terms, of distributions that are far apart, need no digits of masses or of logarithms, by
#: the names of their terms; and whether their sums show the divergence for any masses.
_QUICK = {"kl": True, "hellinger": True, "chi2": True, "alpha": True, "total_variation": False, "js": False}

#: Where `quick` fails: sums of powers.
_POWERS = {"chi2": chi2_powers, "alpha": alpha_powers}


def assemble(name, term, normalise, chunk):
    """The passes for the term of this name, (p, q, theta, mass) -> the divergence or NaN, in their order."""
    if term == "jeffreys":
        return linear(name, True), never
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

"""Sums that are large: alpha-divergences of large orders, and sums that overflow when they are lifted.

A power p (p / q)**beta multiplies the errors of the logarithm by beta, and of the normalised entries: 4e-16
each. So for a large beta the logarithm is computed in two floats. Used by `divergences` where a sum is above
one.

``large_<term>(p, q, normalization, theta, a)`` is the sum in place of a, ``low_<term>(p, q, normalization,
theta)`` the sum times `LOW`.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import adder, inlined, kernel
from ..numerics.elementary import LN2_HIGH, LN2_LOW, log_quotient, times_expm1
from ..numerics.error_free import add_compensated, two_product, two_sum
from .normalized import PART, UNLIFT, entry
from .terms import alpha_term, exchanged

#: Factor of sums that overflow when they are lifted.
LOW = 2.0**-128

#: Powers up to this have an error of 1e-14 in one float.
_SMALL_POWER = 16.0

#: Entries whose powers have exponents up to this are not so small that a factor makes them subnormal.
_SMALL = 100.0

#: Part of the sum that all terms may be whose errors, 3e-13 of each, do no harm: a term in two floats takes
#: 50 ns.
_NEGLIGIBLE = 3e-3

#: Largest exponent of a power that may be finite. With one above the second, the entry is tiny: it is
#: multiplied by e**_FIRST and lowered before it is raised, for `times_expm1` ends at 1400.
_MOST, _LARGE, _FIRST = 1456.0, 1000.0, 100.0

#: An entry that is raised to a power above 1 may be lowered from here, and by what it was lifted from here.
_LOWERABLE = 2.0**-800
_UNLIFTABLE = 2.0**-960


@kernel
def _raised(x):
    """A small number times a power of two, so that it is a normal number, and the exponent."""
    return (x * 2.0**200, 200.0) if x < 2.0**-800 else (x, 0.0)


@kernel
def log_ratio_parts(p, q, normalization):
    """log(p / q) of normalised entries > 0, in two floats: an error of 1e-19."""
    n = normalization
    x, raised_p = _raised(np.float64(p) * n.scale_p)
    y, raised_q = _raised(np.float64(q) * n.scale_q)
    a, a_low = two_product(x, n.base_q)
    b, b_low = two_product(y, n.base_p)
    b, lost = two_sum(b, y * n.first)
    b_low += lost + y * n.second
    high, low = log_quotient(a, a_low, b, b_low)
    k = raised_q - raised_p
    high, lost = two_sum(k * LN2_HIGH, high)
    return two_sum(high, lost + (k * LN2_LOW + low))


@kernel
def _power_term(p, d, beta, high, low, order, factor):
    """factor (p (exp(beta x) - 1) / beta - d) / order for x = high + low."""
    exponent, rest = two_product(beta, high)
    rest += beta * low
    if exponent > _MOST:
        return math.inf
    if exponent > _LARGE:
        return times_expm1(p * (math.exp(_FIRST) * factor), exponent - _FIRST) * (1.0 + rest) / beta / order
    grown = (times_expm1(p, exponent) + p) * (1.0 + rest)
    return factor * (((grown - p) / beta - d) / order)


@kernel
def _ratio(beta):
    """The ratio of two entries above which an exponent is large."""
    return math.exp(_SMALL / beta) if 700.0 * beta > _SMALL else math.inf


@inlined
def _most_lowered(x, factor):
    """The factor, or a larger one with which an entry stays a normal number."""
    less = UNLIFT if x > _UNLIFTABLE else 1.0
    return factor if x > _LOWERABLE else max(factor, less)


@adder
def _powers(p, q, normalization, theta, ratio, factor, least, large):
    """(The lifted sum of `alpha_term`, times a factor, without those that need more digits; their number).

    These are terms above `least` of entries above this ratio, and terms that are NaN because the factor makes
    an entry subnormal: they are written to `large`, 0 for the others.
    """
    swap, _, _ = exchanged(theta)
    total, count = 0.0, 0
    for i in range(p.size):
        x, y, d = entry(p[i], q[i], normalization)
        raised, other = (y, x) if swap else (x, y)
        f = _most_lowered(raised, factor)
        value = alpha_term(x * f, y * f, d * f, theta) * (factor / f)
        beyond = ((raised > ratio * other) & (other > 0.0) & (value > least)) | (value != value)
        total += 0.0 if beyond else value
        large[i] = value if beyond else 0.0
        count += beyond
    return total, count


@kernel
def _alpha_sum(p, q, normalization, theta, factor):
    """The (lifted) sum of `alpha_term`, times a factor."""
    swap, order, beta = exchanged(theta)
    ratio, large = _ratio(beta), np.empty(min(PART, p.size))
    total, lost = 0.0, 0.0
    for low in range(0, p.size, PART):
        u, v = p[low : low + PART], q[low : low + PART]
        least = total * (_NEGLIGIBLE / p.size)
        part, count = _powers(u, v, normalization, theta, ratio, factor, least, large)
        total, lost = add_compensated(total, lost, part)
        for i in range(u.size if count > 0 else 0):
            if large[i] != 0.0:
                x, y, d = entry(u[i], v[i], normalization)
                if swap:
                    x, y, d = y, x, -d
                high, lower = log_ratio_parts(u[i], v[i], normalization)
                if swap:
                    high, lower = -high, -lower
                f = _most_lowered(x, factor)
                value = _power_term(x * f, d * f, beta, high, lower, order, factor / f)
                total, lost = add_compensated(total, lost, value)
    return total + lost


@kernel
def large_alpha(p, q, normalization, theta, a):
    """Of `alpha_term`."""
    return _alpha_sum(p, q, normalization, theta, 1.0) if exchanged(theta)[2] > _SMALL_POWER else a


@kernel
def low_alpha(p, q, normalization, theta):
    """Of `alpha_term`."""
    return _alpha_sum(p, q, normalization, theta, LOW)


@kernel
def large_as_it_is(p, q, normalization, theta, a):
    """For terms without exponents."""
    return a


@kernel
def low_chi2(p, q, normalization, theta):
    """Of `chi2_term`."""
    total, lost = 0.0, 0.0
    for i in range(p.size):
        _, y, d = entry(p[i], q[i], normalization)
        total, lost = add_compensated(total, lost, 0.0 if d == 0.0 else ((d * LOW) / y) * d)
    return total + lost


@kernel
def low_infinite(p, q, normalization, theta):
    """For sums that overflow only where they are infinite."""
    return math.inf

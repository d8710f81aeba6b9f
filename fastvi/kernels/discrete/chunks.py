"""The fast loops of divergences: the sums over one chunk of two arrays, and the sum of all chunks.

A fast loop sums entries as they are. It holds for entries that are 0 or not tiny, and says where it does not
hold: then `careful` sums all of them again. Used by `divergences` and `renyi`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types

from ..compiler import adder, formula, inlined, kernel, overloaded, specialise
from ..numerics.elementary import LN2, atanh_tail, decay, exponent_step, log_ratio, power_of_two
from ..numerics.error_free import add_compensated, fma
from . import terms
from .normalized import PART
from .registry import HALVES
from .terms import js_term

#: float32 chunks shorter than this are summed in float64: the rounding errors of single entries (up to 1e-6
#: each) do not average out.
SHORT32 = 64

#: Added to entries: next to a sum of about one this is nothing, and the logarithm of a zero is finite.
NOTHING64 = 2.0**-1000
NOTHING32 = np.float32(2.0**-126)

#: Positive entries below these would change by that.
TINY64 = 2.0**-940
TINY32 = np.float32(2.0**-100)

#: Sums below these may be made of what was added, or of what underflowed.
_LEAST64 = 1e-250
_LEAST32 = 1e-20
_LEAST_SUM32 = np.float32(2.0**-88)

#: Products of float32 entries outside of these have overflowed, or underflowed and not the digits of a root.
_LEAST_PRODUCT32, _MOST_PRODUCT32 = np.float32(2.0**-126), np.float32(2.0**127)

#: The share of a float32 sum that entries with such products may have.
_LOSS32 = np.float32(1e-7)

#: Largest exponent of a power in `_alpha_sums`, whose relative error is 4e-16 of its exponent, and order.
_MOST_EXPONENT = 128.0
_MOST_ORDER = 16.0

#: The same in float32, and of its opposite: powers are far from where they overflow and underflow.
_MOST_EXPONENT32 = np.float32(100.0)

#: How far sums of powers in float32 are from those of equal distributions, over the sum of their orders.
_FAR32 = 0.5

#: 2 / ln 2, and 1.5 * 2**23: adding and subtracting it rounds to the nearest integer.
_TWO_OVER_LN2, _ROUNDER32 = np.float32(2.0 / LN2), np.float32(1.5 * 2.0**23)

#: Orders up to this multiply what equal addends lose in a chunk, 7e-15, to less than 3e-14. With those above,
#: entries are summed by blocks of so many.
SMALL_ORDER = 3.0
_BLOCK = 64

#: The errors of float32 terms, up to 1e-6 each, average out in a sum of at least so many of one size. Squares
#: of terms tell while their sum is between these.
_MANY32, _LEAST_SQUARES32, _MOST_SQUARES32 = np.float32(16.0), np.float32(2.0**-110), np.float32(2.0**110)

#: ln 2 over 2**23 in two parts, of which the first has 10 bits: its product with an exponent is exact.
_LN2_HIGH32 = np.float32(0.693359375 * 2.0**-23)
_LN2_LOW32 = np.float32((LN2 - 0.693359375) * 2.0**-23)

#: Entries of float32 that are summed in float32: 4 for each of 32 lanes. Equal terms all round the same way.
#: With twice as many, results were 1.3e-6 off.
BLOCK32 = 128

_ZERO32, _HALF32, _ONE32 = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class Sums(NamedTuple):
    """Sums over some entries of p and q."""

    terms: float  #: NaN where the fast loop does not hold
    change: float  #: of the mass: the sum of q - p
    mass_p: float
    mass_q: float


@inlined
def add_sums(total, lost, sums):
    """Compensated addition of all: the new total, and what its roundings have lost."""
    a, al = add_compensated(total.terms, lost.terms, sums.terms)
    d, dl = add_compensated(total.change, lost.change, sums.change)
    m, ml = add_compensated(total.mass_p, lost.mass_p, sums.mass_p)
    n, nl = add_compensated(total.mass_q, lost.mass_q, sums.mass_q)
    return Sums(a, d, m, n), Sums(al, dl, ml, nl)


@inlined
def rounded_sums(total, lost):
    """The sums with what their roundings have lost."""
    return Sums(
        total.terms + lost.terms,
        total.change + lost.change,
        total.mass_p + lost.mass_p,
        total.mass_q + lost.mass_q,
    )


@kernel
def sum_of_parts(parts):
    """The sum of all chunks from those of each, a row of `parts` in the order of the fields of `Sums`."""
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for i in range(parts.shape[0]):
        total, lost = add_sums(total, lost, Sums(parts[i, 0], parts[i, 1], parts[i, 2], parts[i, 3]))
    return rounded_sums(total, lost)


@kernel
def no_chunk(p, q, theta):
    """For a divergence without a fast loop."""
    return Sums(math.nan, 0.0, 0.0, 0.0)


@inlined
def _sums(holds, terms, change, mass_p, mass_q):
    return Sums(
        np.float64(terms) if holds else math.nan, np.float64(change), np.float64(mass_p), np.float64(mass_q)
    )


@inlined
def _is_of_many(a, squares):
    """Whether no few terms make up a sum, by the sum of their squares."""
    return (_MANY32 * squares <= a * a) & (squares > _LEAST_SQUARES32) & (squares < _MOST_SQUARES32)


def _blocks(p, q, theta):
    """Template (`narrow`, `size`): the sums of a float32 chunk, by blocks."""
    a, change, mass, other = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, size):  # noqa: F821
        # The last entries make a block with those before.
        high = low + size if p.size - low >= size + SHORT32 else p.size  # noqa: F821
        sums = narrow(p[low:high], q[low:high], theta)  # noqa: F821
        a += sums.terms
        change += sums.change
        mass += sums.mass_p
        other += sums.mass_q
        if high == p.size or math.isnan(a):
            break
    return Sums(a, change, mass, other)


def _parts(p, q, theta):
    """Template (`part`): the sums of a chunk, by parts."""
    if p.size <= PART:
        return part(p, q, theta)  # noqa: F821
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, PART):
        total, lost = add_sums(total, lost, part(p[low : low + PART], q[low : low + PART], theta))  # noqa: F821
    return rounded_sums(total, lost)


def _by_parts(part):
    return specialise(_parts, f"{part.__name__}_parts", part=part)


def _by_blocks(narrow, size=BLOCK32):
    return specialise(_blocks, f"{narrow.__name__}_blocks", narrow=narrow, size=size)


def _by_dtype(wide, narrow):
    """The loop `wide` for float64, and for float32 `narrow`, then `wide` where that does not hold."""

    def loop(p, q, theta):
        # In plain Python a sum has one lane, and 256 additions in float32 would lose 1e-6.
        return wide(p, q, theta)

    @overloaded(loop)
    def _chosen(p, q, theta):
        if p.dtype != types.float32:
            return lambda p, q, theta: wide(p, q, theta)

        def first_narrow(p, q, theta):
            sums = narrow(p, q, theta)
            return wide(p, q, theta) if math.isnan(sums.terms) else sums

        return first_narrow

    return loop


@formula
def _kl_parts(p, q):
    """(u, v, k, q - b): the term is u v + p k ln 2 + (q - b), b = q 2**k, as in `kl_term`."""
    b, k = exponent_step(p, q)
    pb = p - b
    s = pb / (p + b)
    w = s * s
    return pb * s, 1.0 + (s + w) * atanh_tail(w), k, q - b


@adder
def _kl_sums64(p, q, theta):
    # No part of a term is summed by itself: p k ln 2 may be 16 times as large as the term, and so would be
    # the rounding error of a sum of equal numbers.
    total, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < (TINY64 if x > 0.0 else 0.0))
        g, h, k, rest = _kl_parts(x + NOTHING64, y + NOTHING64)
        total += g * h + (x * (k * (LN2 * 2.0**-52)) + rest)
        change += y - x
        mass += x
        other += y
    return _sums((not bad) & (total > _LEAST64), total, change, mass, other)


@formula
def _atanh_tail32(w):
    """`atanh_tail` in float32: minimax polynomial of degree 2, an error of 2.4e-7, times s + w <= 1/4."""
    r = w * np.float32(0.149795983671) + np.float32(0.19989455054)
    return w * r + np.float32(0.333333568681)


@formula
def log_ratio32(p, q, d):
    """`log_ratio` in float32."""
    b, k = exponent_step(p, q)
    s = (d if k == _ZERO32 else p - b) / (p + b)
    w = s * s
    r = s + s
    return (r + (r * w) * _atanh_tail32(w) + k * _LN2_LOW32) + k * _LN2_HIGH32


@formula
def _kl_term32(p, q, d):
    """`kl_term`, d = p - q."""
    b, k = exponent_step(p, q)
    pb = d if k == _ZERO32 else p - b
    s = pb / (p + b)
    w = s * s
    h = _ONE32 + (s + w) * _atanh_tail32(w)
    # In one constant the rounding of k ln 2 would be 15 times as large, near p / b = 3 / 2.
    rest = p * (k * _LN2_LOW32) + (p * (k * _LN2_HIGH32) + (q - b))
    return (pb * s) * h + rest


# Loops over float32 entries: templates (`scaled`), of p and q, or with `scaled` of p and q times the sum of
# `theta`.


@formula
def _scaled32(x, y, high, low):
    """y times high + low, and its difference from x, in which each part is rounded once."""
    return y * high, fma(y, high, -x) + y * low


def _kl_sums_narrow(p, q, theta):
    a, squares, change, mass, other = _ZERO32, _ZERO32, _ZERO32, _ZERO32, _ZERO32
    bad, high, low = p.size < SHORT32, np.float32(theta[0]), np.float32(theta[1])
    for i in range(p.size):
        x, y = p[i], q[i]
        if scaled:  # noqa: F821
            y, d = _scaled32(x, y, high, low)
        else:
            d = y - x
        bad |= (x < _ZERO32) | (y < (TINY32 if x > _ZERO32 else _ZERO32))
        g = _kl_term32(x + NOTHING32, y + NOTHING32, -d)
        a += g
        squares += g * g
        change += d
        mass += x
        other += y
    bad |= not _is_of_many(a, squares)
    return _sums((not bad) & (a > max(_LEAST32 * mass, _LEAST_SUM32)), a, change, mass, other)


@formula
def _js_parts(p, q, d):
    """The parts of twice the term, m = (p + q) / 2 and d = (p - q) / 2: of KL(p || m) and of KL(q || m)."""
    m = 0.5 * (p + q)
    bp, kp = exponent_step(p, m)
    bq, kq = exponent_step(q, m)
    near = (kp == 0.0) & (kq == 0.0)
    dp = d if near else p - bp
    dq = -d if near else q - bq
    # Two divisions take 1.31 ns an entry, one division of a product 1.39 to 1.7 ns.
    sp = dp / (p + bp)
    sq = dq / (q + bq)
    wp, wq = sp * sp, sq * sq
    hp = 1.0 + (sp + wp) * atanh_tail(wp)
    hq = 1.0 + (sq + wq) * atanh_tail(wq)
    return dp * sp, hp, dq * sq, hq, kp, kq, (m - bp) + (m - bq)


@adder
def _js_sums64(p, q, theta):
    a, k, far, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < 0.0)
        d = x - y
        gp, hp, gq, hq, kp, kq, mb = _js_parts(x + NOTHING64, y + NOTHING64, 0.5 * d)
        a += gp * hp + gq * hq
        k += x * kp + y * kq
        far += mb
        change -= d
        mass += x
        other += y
    total = a + k * (LN2 * 2.0**-52) + far
    return _sums((not bad) & (total > _LEAST64), 0.5 * total, change, mass, other)


def _js_sums_narrow(p, q, theta):
    a, squares, change, mass, other = _ZERO32, _ZERO32, _ZERO32, _ZERO32, _ZERO32
    bad, high, low = p.size < SHORT32, np.float32(theta[0]), np.float32(theta[1])
    for i in range(p.size):
        x, y = p[i], q[i]
        if scaled:  # noqa: F821
            y, e = _scaled32(x, y, high, low)
        else:
            e = y - x
        bad |= (x < _ZERO32) | (y < _ZERO32)
        m = _HALF32 * (x + y) + NOTHING32
        d = _HALF32 * e
        # Without d, the rounding of m would be left of 1e-7 in p and q.
        g = _kl_term32(x + NOTHING32, m, -d) + _kl_term32(y + NOTHING32, m, d)
        a += g
        squares += g * g
        change += e
        mass += x
        other += y
    bad |= not _is_of_many(a, squares)
    return _sums((not bad) & (a > max(_LEAST32 * mass, _LEAST_SUM32)), _HALF32 * a, change, mass, other)


@adder
def _weighted_js_sums(p, q, theta):
    a, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        d = x - y
        bad |= (x < 0.0) | (y < 0.0)
        a += js_term(x + NOTHING64, y + NOTHING64, d, theta)
        change -= d
        mass += x
        other += y
    return _sums((not bad) & (a > _LEAST64), a, change, mass, other)


_js_sums32 = specialise(_js_sums_narrow, "_js_sums32", adder, scaled=False)
_js_sums = _by_dtype(_js_sums64, _by_blocks(_js_sums32))


@kernel
def js_chunk(p, q, theta):
    """The sums of `js_term`."""
    if theta[0] == 0.5 and theta[1] == 0.5:
        return _js_sums(p, q, theta)
    return _weighted_js_sums(p, q, theta)


@adder
def _jeffreys_sums64(p, q, theta):
    a, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        d = x - y
        # A zero beside a positive number makes the sum infinite, which `careful` says.
        bad |= (x < 0.0) | ((min(x, y) < TINY64) & (d != 0.0))
        a += d * log_ratio(x + NOTHING64, y + NOTHING64, d)
        change -= d
        mass += x
        other += y
    return _sums((not bad) & (a > _LEAST64), a, change, mass, other)


def _jeffreys_sums_narrow(p, q, theta):
    a, squares, change, mass, other = _ZERO32, _ZERO32, _ZERO32, _ZERO32, _ZERO32
    bad, high, low = p.size < SHORT32, np.float32(theta[0]), np.float32(theta[1])
    for i in range(p.size):
        x, y = p[i], q[i]
        if scaled:  # noqa: F821
            y, e = _scaled32(x, y, high, low)
            d = -e
        else:
            d = x - y
        bad |= (x < _ZERO32) | ((min(x, y) < TINY32) & (d != _ZERO32))
        g = d * log_ratio32(x + NOTHING32, y + NOTHING32, d)
        a += g
        squares += g * g
        change -= d
        mass += x
        other += y
    bad |= not _is_of_many(a, squares)
    return _sums((not bad) & (a > max(_LEAST32 * mass, _LEAST_SUM32)), a, change, mass, other)


@formula
def _middle(x, y):
    """(x + y) / 2, also in a loop whose order is free."""
    return 0.5 * (x + y)


@adder
def _hellinger_sums64(p, q, theta):
    # One root, where `hellinger_term` has two and a division. A term is off by at most 3e-16 of the middle:
    # `normalise_hellinger` looks at what is left of this. The masses minus the overlap would be off by the
    # roundings of three sums.
    a, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < 0.0)
        a += _middle(x, y) - math.sqrt(abs(x * y))
        change += y - x
        mass += x
        other += y
    return _sums(not bad, a, change, mass, other)


def _hellinger_sums_narrow(p, q, theta):
    a, squares, change, mass, other, lost = _ZERO32, _ZERO32, _ZERO32, _ZERO32, _ZERO32, _ZERO32
    bad, high, low = p.size < SHORT32, np.float32(theta[0]), np.float32(theta[1])
    for i in range(p.size):
        x, y = p[i], q[i]
        if scaled:  # noqa: F821
            y, d = _scaled32(x, y, high, low)
        else:
            d = y - x
        product = abs(x * y)
        bad |= (x < _ZERO32) | (y < _ZERO32) | (product > _MOST_PRODUCT32)
        root = np.float32(math.sqrt(product))
        # (sqrt x - sqrt y)**2, as d**2 / (sqrt x + sqrt y)**2
        g = d * (d / ((x + y) + (root + root) + NOTHING32))
        a += g
        squares += g * g
        change += d
        mass += x
        other += y
        lost += abs(d) if (product < _LEAST_PRODUCT32) & (min(x, y) > _ZERO32) else _ZERO32
    bad |= not _is_of_many(a, squares) & (lost <= _LOSS32 * a)
    least = max(np.float32(1e-8) * mass, _LEAST_SUM32)
    return _sums((not bad) & (a > least), _HALF32 * a, change, mass, other)


_hellinger_sums32 = specialise(_hellinger_sums_narrow, "_hellinger_sums32", adder, scaled=False)


@adder
def overlap_chunk(p, q, theta):
    """The sums of sqrt(p q)."""
    overlap, mass, other, bad = 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < 0.0)
        overlap += math.sqrt(abs(x * y))
        mass += x
        other += y
    return _sums(not bad, overlap, other - mass, mass, other)


hellinger_chunk = _by_dtype(_by_parts(_hellinger_sums64), _by_blocks(_hellinger_sums32))


@adder
def _total_variation_sums64(p, q, theta):
    a, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < 0.0)
        d = y - x
        a += abs(d)
        change += d
        mass += x
        other += y
    return _sums((not bad) & (a > _LEAST64), 0.5 * a, change, mass, other)


@formula
def sum_of_four(a, b, c, d):
    """a + b + c + d, added in pairs also in a loop whose order is free."""
    return (a + b) + (c + d)


@inlined
def quarters(p):
    """Four parts of one length; up to three entries are left."""
    n = p.size // 4
    return p[:n], p[n : 2 * n], p[2 * n : 3 * n], p[3 * n : 4 * n]


@adder
def _scaled_total_variation_sums32(p, q, theta):
    # As `_total_variation_sums32`, of q times the sum of `theta`: differences have their digits one by one.
    p0, p1, p2, p3 = quarters(p)
    q0, q1, q2, q3 = quarters(q)
    a, high, low = _ZERO32, np.float32(theta[0]), np.float32(theta[1])
    for i in range(p0.size):
        x0, x1, x2, x3 = p0[i], p1[i], p2[i], p3[i]
        y0, y1, y2, y3 = q0[i], q1[i], q2[i], q3[i]
        _, d0 = _scaled32(x0, y0, high, low)
        _, d1 = _scaled32(x1, y1, high, low)
        _, d2 = _scaled32(x2, y2, high, low)
        _, d3 = _scaled32(x3, y3, high, low)
        a += sum_of_four(abs(d0), abs(d1), abs(d2), abs(d3))
    for i in range(4 * p0.size, p.size):
        a += abs(_scaled32(p[i], q[i], high, low)[1])
    return Sums(np.float64(_HALF32 * a), 0.0, 0.0, 0.0)


@adder
def _total_variation_sums32(p, q, theta):
    # Four entries at a time, so that blocks may be long: the end of one takes as long as a hundred entries.
    # All takes 0.14 ns an entry instead of 0.19.
    p0, p1, p2, p3 = quarters(p)
    q0, q1, q2, q3 = quarters(q)
    a, change, mass, other, bad = _ZERO32, _ZERO32, _ZERO32, _ZERO32, p.size < SHORT32
    for i in range(p0.size):
        x0, x1, x2, x3 = p0[i], p1[i], p2[i], p3[i]
        y0, y1, y2, y3 = q0[i], q1[i], q2[i], q3[i]
        d0, d1, d2, d3 = y0 - x0, y1 - x1, y2 - x2, y3 - x3
        bad |= min(min(min(x0, x1), min(x2, x3)), min(min(y0, y1), min(y2, y3))) < _ZERO32
        a += sum_of_four(abs(d0), abs(d1), abs(d2), abs(d3))
        change += sum_of_four(d0, d1, d2, d3)
        mass += sum_of_four(x0, x1, x2, x3)
        other += sum_of_four(y0, y1, y2, y3)
    for i in range(4 * p0.size, p.size):
        x, y = p[i], q[i]
        bad |= min(x, y) < _ZERO32
        a += abs(y - x)
        change += y - x
        mass += x
        other += y
    return _sums((not bad) & (a > _LEAST32 * mass), _HALF32 * a, change, mass, other)


total_variation_chunk = _by_dtype(_total_variation_sums64, _by_blocks(_total_variation_sums32, 4 * BLOCK32))


def _scaled_sums(p, q, theta):
    """Template (`term`): the same of few terms, in float64."""
    a, change, mass, other, bad, factor = 0.0, 0.0, 0.0, 0.0, False, theta[0] + theta[1]
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i]) * factor
        bad |= (x < 0.0) | (y < 0.0)
        a += term(x, y, x - y, HALVES)  # noqa: F821
        change += y - x
        mass += x
        other += y
    return _sums(not bad, a, change, mass, other)


def _narrow_or_wide(p, q, theta):
    """Template (`narrow`, `wide`): the sums of a float32 chunk."""
    sums = narrow(p, q, theta)  # noqa: F821
    return wide(p, q, theta) if math.isnan(sums.terms) else sums  # noqa: F821


def _scaled_chunk(name):
    sums = SCALED_SUMS32[name]
    if name == "total_variation":
        return _by_blocks(sums, 4 * BLOCK32)
    wide = specialise(_scaled_sums, f"_scaled_{name}_sums64", adder, term=getattr(terms, f"{name}_term"))
    return specialise(_narrow_or_wide, f"_scaled_{name}_chunk", narrow=_by_blocks(sums), wide=wide)


#: The sums of float32 entries of p, and of q times the sum of `theta`, by the names of terms; of weights, for
#: equal ones.
SCALED_SUMS32 = {
    **{
        name: specialise(template, f"_scaled_{name}_sums32", adder, scaled=True)
        for name, template in (
            ("kl", _kl_sums_narrow),
            ("js", _js_sums_narrow),
            ("jeffreys", _jeffreys_sums_narrow),
            ("hellinger", _hellinger_sums_narrow),
        )
    },
    "total_variation": _scaled_total_variation_sums32,
}

#: The same of a chunk.
SCALED32 = {name: _scaled_chunk(name) for name in SCALED_SUMS32}


@formula
def _square_over(d, y):
    """d**2 / y. In a loop whose order is free, LLVM would square d, which may underflow."""
    return d * (d / y)


@adder
def _chi2_sums64(p, q, theta):
    a, change, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < (TINY64 if x > 0.0 else 0.0))
        d = y - x
        a += _square_over(d, y + NOTHING64)
        change += d
        mass += x
        other += y
    return _sums((not bad) & (_LEAST64 < a < math.inf), a, change, mass, other)


@adder
def masses32(p, q):
    """The masses of a float32 block. Of equal entries nothing is rounded: results multiply such errors."""
    p0, p1, p2, p3 = quarters(p)
    q0, q1, q2, q3 = quarters(q)
    mass, other = 0.0, 0.0
    for i in range(p0.size):
        mass += np.float64(sum_of_four(p0[i], p1[i], p2[i], p3[i]))
        other += np.float64(sum_of_four(q0[i], q1[i], q2[i], q3[i]))
    for i in range(4 * p0.size, p.size):
        mass += np.float64(p[i])
        other += np.float64(q[i])
    return mass, other


@adder
def _chi2_sums32(p, q, theta):
    # No term has an error above 3e-7: a few make a sum as well as many.
    a, change, bad = _ZERO32, _ZERO32, p.size < SHORT32
    for i in range(p.size):
        x, y = p[i], q[i]
        bad |= (x < _ZERO32) | (y < (TINY32 if x > _ZERO32 else _ZERO32))
        d = y - x
        a += _square_over(d, y + NOTHING32)
        change += d
    mass, other = masses32(p, q)
    held = (not bad) & (a > max(_LEAST32 * mass, _LEAST_SUM32)) & (a < math.inf)
    return _sums(held, a, change, mass, other)


chi2_chunk = _by_dtype(_by_parts(_chi2_sums64), _by_blocks(_chi2_sums32))
_kl_sums32 = specialise(_kl_sums_narrow, "_kl_sums32", adder, scaled=False)
kl_chunk = _by_dtype(_by_parts(_kl_sums64), _by_blocks(_kl_sums32))
_jeffreys_sums32 = specialise(_jeffreys_sums_narrow, "_jeffreys_sums32", adder, scaled=False)
jeffreys_chunk = _by_dtype(_jeffreys_sums64, _by_blocks(_jeffreys_sums32))


@formula
def _power(p, q, beta):
    """p (p / q)**beta, and the logarithm of the second factor."""
    y = beta * log_ratio(p + NOTHING64, q + NOTHING64, p - q)
    return p * decay(y), y


@adder
def _alpha_sums(p, q, theta):
    # From the sum of p**a q**(1-a), with fewer operations than `alpha_term`: 1.9 ns an entry, where `scaled`
    # takes 3.4 with its masses.
    beta = theta[0] - 1.0
    # A count: a flag takes 1.15 times as long.
    power, mass, other, bad = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        z, exponent = _power(x, y, beta)
        least = min(x, y)
        both = (least >= TINY64) & (exponent <= _MOST_EXPONENT)
        # What may not be positive beside a zero.
        alone = x if beta >= 0.0 else (y if beta <= -1.0 else 0.0)
        bad += not (both | ((least == 0.0) & (alone == 0.0)))
        power += z if both else 0.0
        mass += x
        other += y
    return _sums(bad == 0, power, other - mass, mass, other)


@kernel
def _alpha_parts(p, q, theta):
    size = PART if abs(theta[0]) <= SMALL_ORDER else _BLOCK
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, size):
        sums = _alpha_sums(p[low : low + size], q[low : low + size], theta)
        total, lost = add_sums(total, lost, sums)
    return rounded_sums(total, lost)


@formula
def _exp2_32(r):
    """2**r in float32 for |r| <= 1/2: minimax polynomial of degree 6, an error of 2e-9."""
    s = np.float32(0.000153456697297)
    s = s * r + np.float32(0.00134000630975)
    s = s * r + np.float32(0.00961849049613)
    s = s * r + np.float32(0.0555032845145)
    s = s * r + np.float32(0.240226468669)
    s = s * r + np.float32(0.693147205887)
    return s * r + _ONE32


@formula
def _power32(p, q, beta, high, low):
    """`_power` in float32, with the binary logarithm; beta = 2**23 (high + low).

    `high` has so few bits that its product with an exponent is exact, and so is the difference of that from
    the nearest integer: the error of the logarithm's fraction, 5e-8, is all that beta multiplies.
    """
    b, k = exponent_step(p, q)
    s = (p - b) / (p + b)
    w = s * s
    r = s * _TWO_OVER_LN2
    whole = k * high
    rest = k * low + beta * (r + (r * w) * _atanh_tail32(w))
    y = whole + rest
    n = (y + _ROUNDER32) - _ROUNDER32
    return (p * _exp2_32((whole - n) + rest)) * power_of_two(n), y


@adder
def _alpha_sums32(p, q, theta):
    exact = theta[0] - 1.0
    few = np.float64(round(exact * 2.0**8)) * 2.0**-8
    beta, high, low = np.float32(exact), np.float32(few * 2.0**-23), np.float32((exact - few) * 2.0**-23)
    power, bad = _ZERO32, _ZERO32
    for i in range(p.size):
        x, y = p[i], q[i]
        z, exponent = _power32(x + NOTHING32, y + NOTHING32, beta, high, low)
        least = min(x, y)
        both = (least >= TINY32) & (exponent <= _MOST_EXPONENT32)
        # What may not be positive beside a zero.
        alone = x if exact >= 0.0 else (y if exact <= -1.0 else _ZERO32)
        bad += _ZERO32 if both | ((least == _ZERO32) & (alone == _ZERO32)) else _ONE32
        power += z if both & (exponent >= -_MOST_EXPONENT32) else _ZERO32
    mass, other = masses32(p, q)
    held = (bad == _ZERO32) & (p.size >= SHORT32) & (power > max(_LEAST32 * mass, _LEAST_SUM32))
    return _sums(held & (power < math.inf), power, other - mass, mass, other)


_alpha_blocks32 = _by_blocks(_alpha_sums32)


@kernel
def _is_far32(sums, theta):
    """Whether p and q are so far apart that errors of 5e-7 in the powers do not matter.

    The divergence of all entries is as far from that of equal ones as those of all chunks are.
    """
    alpha, beta = theta[0], theta[0] - 1.0
    equal = sums.mass_p * decay(beta * math.log(sums.mass_p / sums.mass_q))
    return abs(sums.terms - equal) > _FAR32 * (abs(alpha) + abs(beta)) * equal


@kernel
def _alpha_far32(p, q, theta):
    """The sums in float32; NaN where they have not the digits."""
    if max(abs(theta[0]), abs(theta[0] - 1.0)) > SMALL_ORDER:
        return Sums(math.nan, 0.0, 0.0, 0.0)
    # The first block often tells whether all is in vain.
    size = BLOCK32 if p.size >= 2 * BLOCK32 else p.size
    a = _alpha_blocks32(p[:size], q[:size], theta)
    if size < p.size and _is_far32(a, theta):
        b = _alpha_blocks32(p[size:], q[size:], theta)
        a = Sums(a.terms + b.terms, a.change + b.change, a.mass_p + b.mass_p, a.mass_q + b.mass_q)
    return Sums(a.terms if _is_far32(a, theta) else math.nan, a.change, a.mass_p, a.mass_q)


_alpha_by_dtype = _by_dtype(_alpha_parts, _alpha_far32)


@kernel
def alpha_chunk(p, q, theta):
    """The sums of p**a q**(1-a), a = theta[0]."""
    if not 0.0 < abs(theta[0]) <= _MOST_ORDER or theta[0] == 1.0:
        return Sums(math.nan, 0.0, 0.0, 0.0)
    return _alpha_by_dtype(p, q, theta)

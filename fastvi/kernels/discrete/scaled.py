"""Sums over entries that are divided by the masses, in one fast pass. Used by `divergences` and `renyi`.

For masses that differ where no closed form has the digits: half of the time of `normalized.entry`, whose
differences also hold for distributions as near to each other as rounding errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel, specialise
from ..numerics.error_free import add_compensated, fma
from . import terms
from .chunks import SCALED32
from .closed_forms import LEAST32, MOST32, end32, none32, only32
from .masses import NORMALIZE
from .normalized import CHUNK, LIFT, MOST_EXCESS, PART, UNLIFT, moderate, sensitivity
from .reading import all_of, piece

#: Lifted sums up to which distributions are alike: as near as rounding errors of the masses.
_ALIKE, _ALIKE_LINEAR = 1e-26 * LIFT, 1e-13 * LIFT

#: The same where what is wrong with the masses is known: as near as roundings of `entry`, 1e-32 each.
_ALIKE_KNOWN = 1e-34 * LIFT

#: Lifted sums of |p - q| below this are made of roundings of `entry`, 1e-32 each.
_LEAST_SIZE = 1e-18 * LIFT

#: How far off the masses may be, times the order: two sums with 128 additions in each lane are 2.8e-14 off.
#: It is the relative error of a sum of distributions that are not near each other; a `change` of their
#: differences alone makes it larger.
_KNOWN = 5e-14

#: The share of the mass from which sums in float32 have its digits, and the part of it that the first chunk
#: is to have.
_LEAST_SHARE32, _LEAST_FIRST32 = 0.05, 0.25

#: Sums of |p - q| are off by the sum of all p - q, or less: they need no correction for one up to this part.
_MOST_SIMPLE = 1e-14

#: Largest square of (p - q) / (p + q) for a term by a power series.
_NEAR_SQUARE = 1.0 / 256.0

#: Largest (p - q) / (p + q) for `_near_alpha_term`, and of the same times twice the order: what the series
#: leaves out is below 1e-16 of it.
_NEAR_ALPHA, _NEAR_EXPONENT = 1.0 / 20.0, 0.25

#: Part of a lifted sum below its last digit, times LIFT.
_NOTHING = 1e-17 * LIFT

#: Part of a sum that its rest may be of what is wrong with the masses.
_MOST_BESIDE = 1.0 / 16.0


class CarefulSums(NamedTuple):
    """Lifted sums over normalised entries x and y, d = x - y."""

    terms: float
    excess: float  #: of all d: what is wrong with the two masses
    signed: float  #: of the y with the signs of d: how total variation changes with the masses
    close: float  #: of the y whose d may change its sign with them


class Scales(NamedTuple):
    """Constants of `entry` for two arrays."""

    p: float  #: LIFT over the mass
    q: float
    change: float = 0.0  #: added to `q` for differences: a `correction`


@formula
def entry(p, q, scales):
    """LIFT times p and q over their masses, and their difference.

    The difference is p s - q t - q `change`, in whose first two parts p s - v and q t - v, v = q t rounded,
    are rounded once each.
    """
    x, y, s, t = np.float64(p), np.float64(q), scales.p, scales.q
    v = y * t
    return x * s, v, (fma(x, s, -v) - fma(y, t, -v)) - y * scales.change


@adder
def _difference_sums(p, q, scales):
    """(Sum of all p - q, sum of their sizes), both lifted, of one chunk."""
    excess, size = 0.0, 0.0
    for i in range(p.size):
        _, _, d = entry(p[i], q[i], scales)
        excess += d
        size += abs(d)
    return excess, size


@inlined
def _changed(scales, excess, size):
    """The scales with the change that takes this sum of all p - q out; NaN where it is not known well."""
    known = (size > _LEAST_SIZE) & (abs(excess) <= MOST_EXCESS * size)
    return Scales(scales.p, scales.q, scales.change + excess * UNLIFT * scales.q if known else math.nan)


@inlined
def _all_differences(p, q, scales):
    """(Sum of all p - q, sum of their sizes), both lifted."""
    if p.size <= PART:
        return _difference_sums(all_of(p, PART), all_of(q, PART), scales)
    e, el, size, lost = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        excess, part = _difference_sums(piece(p, low, PART), piece(q, low, PART), scales)
        e, el = add_compensated(e, el, excess)
        size, lost = add_compensated(size, lost, part)
    return e + el, size + lost


@kernel
def corrected(p, q, scales):
    """The scales with the change that takes the sum of all differences out; NaN where digits are too few."""
    excess, size = _all_differences(p, q, scales)
    return _changed(scales, excess, size)


@formula
def _hellinger_term(p, q, d, theta):
    """`hellinger_term` with one root. The product of two entries below 1e-170 may underflow."""
    return 0.0 if d == 0.0 else 0.5 * (d * (d / ((p + q) + 2.0 * math.sqrt(abs(p * q)))))


@formula
def _near_hellinger_term(p, q, d, theta):
    """The same where s = d / (p + q) is at most 1/16, without a root; NaN elsewhere."""
    # (p + q) (1 - sqrt(1 - w)) / 2, w = s**2: a power series. It takes 0.7 ns an entry, two thirds less.
    s = 0.0 if d == 0.0 else d / (p + q)
    w = s * s
    series = 33.0 / 2048.0
    series = series * w + 21.0 / 1024.0
    series = series * w + 7.0 / 256.0
    series = series * w + 5.0 / 128.0
    series = series * w + 1.0 / 16.0
    series = series * w + 1.0 / 8.0
    series = series * w + 0.5
    return 0.5 * (d * s) * series if w <= _NEAR_SQUARE else math.nan


@formula
def _near_alpha_term(p, q, d, series):
    """`alpha_term` where p is near q, by the coefficients of `_alpha_series`; NaN elsewhere."""
    # m ((1 + s)**a (1 - s)**(1-a) - 1 - (2 a - 1) s) / (a (a - 1)), m = (p + q) / 2, as a power series in s:
    # proportional arrays take 1.3 ns an entry instead of 4.4.
    s = 0.0 if d == 0.0 else d / (p + q)
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, reach = series
    value = c11 + c12 * s
    value = c10 + value * s
    value = c9 + value * s
    value = c8 + value * s
    value = c7 + value * s
    value = c6 + value * s
    value = c5 + value * s
    value = c4 + value * s
    value = c3 + value * s
    value = c2 + value * s
    value = c1 + value * s
    return (d * s) * (1.0 + value * s) if abs(s) <= reach else math.nan


@kernel
def _alpha_series(alpha):
    """The coefficients of s, s**2, ... in `_near_alpha_term` beside one, and the largest s for them."""
    # (1 + s)**a (1 - s)**(1-a) has the logarithmic derivative ((2 a - 1) - s) / (1 - s**2).
    rate = 2.0 * alpha - 1.0
    c1 = rate / 3.0
    c2 = (rate * c1 + 1.0) / 4.0
    c3 = (rate * c2 + 2.0 * c1) / 5.0
    c4 = (rate * c3 + 3.0 * c2) / 6.0
    c5 = (rate * c4 + 4.0 * c3) / 7.0
    c6 = (rate * c5 + 5.0 * c4) / 8.0
    c7 = (rate * c6 + 6.0 * c5) / 9.0
    c8 = (rate * c7 + 7.0 * c6) / 10.0
    c9 = (rate * c8 + 8.0 * c7) / 11.0
    c10 = (rate * c9 + 9.0 * c8) / 12.0
    c11 = (rate * c10 + 10.0 * c9) / 13.0
    c12 = (rate * c11 + 11.0 * c10) / 14.0
    reach = min(_NEAR_ALPHA, _NEAR_EXPONENT / max(abs(rate), 1.0))
    return c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, reach


def _near_alpha(p, q, scales, theta, least, most):
    """Template (`sums`): `CarefulSums` of the alpha-divergence where all entries are near each other."""
    return sums(p, q, scales, _alpha_series(theta[0]), least, most)  # noqa: F821


@inlined
def first_scales(masses):
    """The scales for two masses, with what is known of the change."""
    scale = LIFT / masses.q
    return Scales(LIFT / masses.p, scale, masses.excess * scale if masses.excess == masses.excess else 0.0)


# Sums over normalised entries, as `entry` and `normalized.entry` read them.


def _term_sums(p, q, constants, theta):
    """Template (`read`, `term`): `CarefulSums` of one chunk."""
    a, excess = 0.0, 0.0
    for i in range(p.size):
        x, y, d = read(p[i], q[i], constants)  # noqa: F821
        a += term(x, y, d, theta)  # noqa: F821
        excess += d
    return CarefulSums(a, excess, 0.0, 0.0)


def _total_variation_sums(p, q, constants, theta):
    """Template (`read`): the same for total variation."""
    a, excess, signed, close = 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        _, y, d = read(p[i], q[i], constants)  # noqa: F821
        a += abs(d)
        excess += d
        signed += math.copysign(y, d)
        close += y if abs(d) < 1e-13 * y else 0.0
    return CarefulSums(0.5 * a, excess, signed, close)


def _all_sums(p, q, constants, theta, least, most):
    """Template (`part`): the sums of all chunks.

    inf where the terms of one are above `most`, NaN where they are NaN or those of the first at most `least`.
    """
    a, al, e, el, signed, close = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        sums = part(piece(p, low, PART), piece(q, low, PART), constants, theta)  # noqa: F821
        if sums.terms > most:
            return CarefulSums(math.inf, 0.0, 0.0, 0.0)
        if math.isnan(sums.terms) or (low == 0 and sums.terms <= least):
            return CarefulSums(math.nan, 0.0, 0.0, 0.0)
        if p.size <= PART:
            return sums
        a, al = add_compensated(a, al, sums.terms)
        e, el = add_compensated(e, el, sums.excess)
        signed += sums.signed
        close += sums.close
    return CarefulSums(a + al, e + el, signed, close)


def make_sums(name, term, read):
    """The kernel (p, q, constants, theta, least, most) -> `CarefulSums` of entries that `read` normalises."""
    if term is None:
        part = specialise(_total_variation_sums, f"_{name}_part", adder, read=read)
    else:
        part = specialise(_term_sums, f"_{name}_part", adder, read=read, term=term)
    return specialise(_all_sums, f"_{name}_sums", part=part)


@kernel
def _simple_total_variation(p, q, scales, theta):
    """The lifted sum, or NaN where it needs more care."""
    # What is wrong with the masses is seen in a first pass, and taken out of a second, if there is need.
    for _ in range(2):
        excess, size = _all_differences(p, q, scales)
        if size > _LEAST_SIZE and abs(excess) <= _MOST_SIMPLE * size:
            return 0.5 * size
        scales = _changed(scales, excess, size)
        if math.isnan(scales.change):
            break
    return math.nan


@kernel
def _none_simple(p, q, scales, theta):
    """For other terms."""
    return math.nan


@kernel
def _none_near(p, q, scales, theta, least, most):
    """For terms without a form where p is near q."""
    return CarefulSums(math.nan, 0.0, 0.0, 0.0)


# The divergence from the sums.


def _correct(sums, theta):
    """Template (`term`): the sum without what is wrong with the masses, and whether that is known."""
    # The same term of the two masses is contained in it, but for a part as small as the excess. It is at most
    # the square of the excess over LIFT, often below the last digit of the sum.
    if sums.excess * sums.excess <= _NOTHING * sums.terms:
        beside = 0.0
    else:
        beside = term(LIFT, LIFT - sums.excess, sums.excess, theta)  # noqa: F821
    known = abs(sums.excess) * sensitivity(theta) <= _KNOWN * LIFT
    return sums.terms - beside, known & (beside <= _MOST_BESIDE * sums.terms)


@kernel
def _correct_linear(sums, theta):
    beside = 0.5 * sums.excess * (sums.signed * UNLIFT)
    good = abs(sums.excess) * (sums.close * UNLIFT) <= 1e-15 * sums.terms
    return sums.terms - beside, good & (abs(beside) <= _MOST_BESIDE * sums.terms)


def _narrow32(p, q, theta, masses):
    """Template (`blocks`): the lifted sum of float32 entries, or NaN; q is scaled to the mass of p."""
    ratio = masses.p / masses.q
    # Weights that differ have no such loop.
    if theta[0] != theta[1] or not (min(ratio, masses.p) > LEAST32 and max(ratio, masses.p) < MOST32):
        return math.nan
    high, least = np.float64(np.float32(ratio)), _LEAST_SHARE32 * masses.p
    total = 0.0
    for low in range(0, p.size, CHUNK):
        end = end32(low, p.size)
        part = blocks(p[low:end], q[low:end], (high, ratio - high)).terms  # noqa: F821
        # The first chunk shows whether the sum may be large enough.
        if math.isnan(part) or (low == 0 and not part > least * (_LEAST_FIRST32 * end / p.size)):
            return math.nan
        total += part
        if end == p.size:
            break
    return LIFT * (total / masses.p) if total > least else math.nan


def _scaled(p, q, masses, theta):
    """Template (`narrow`, `simple`, `near`, `all_sums`, `correct`, `alike`, `alike_known`, `most`): the sum.

    NaN where another way is needed, inf where that is because the sum is above `most`.
    """
    if not moderate(p, masses.p, masses.q, NORMALIZE):
        return math.nan
    a = narrow(p, q, theta, masses)  # noqa: F821
    if a == a:
        return a
    scales = first_scales(masses)
    a = simple(p, q, scales, theta)  # noqa: F821
    if a == a:
        return a
    known = masses.excess == masses.excess
    least = (alike_known if known else alike) * min(1.0, PART / p.size)  # noqa: F821
    for i in range(2):
        if i == 1:
            scales, least = corrected(p, q, scales), 0.0
        if scales.change == scales.change:
            sums = near(p, q, scales, theta, least, most)  # noqa: F821
            if math.isnan(sums.terms):
                sums = all_sums(p, q, scales, theta, least, most)  # noqa: F821
            if sums.terms == math.inf:
                return math.inf
            a, good = correct(sums, theta)  # noqa: F821
            if good and 0.0 < a < most:  # noqa: F821
                return a
    return math.nan


def make_correction(name, term):
    """The kernel that takes what is wrong with the masses out of `CarefulSums`."""
    if term is None:
        return _correct_linear
    return specialise(_correct, f"_{name}_correct", term=term)


def summed(row_term):
    """(The term of this name for `make_sums`, the sum up to which distributions are alike)."""
    if row_term == "total_variation":
        return None, _ALIKE_LINEAR
    return getattr(terms, f"{row_term}_term"), _ALIKE


def assemble(name, row_term, most=math.inf, narrow=False):
    """The pass for the term of this name, (p, q, masses, theta) -> the lifted sum, inf or NaN.

    With `narrow`, of float32 entries in float32 where that has the digits.
    """
    loop = none32
    if narrow and row_term in SCALED32:
        loop = only32(specialise(_narrow32, f"_{name}_narrow", blocks=SCALED32[row_term]))
    term, alike = summed(row_term)
    quick, near = term, _none_near
    if row_term == "hellinger":
        quick, near = _hellinger_term, make_sums(f"{name}_near", _near_hellinger_term, entry)
    elif row_term == "alpha":
        loop_near = make_sums(f"{name}_near", _near_alpha_term, entry)
        near = specialise(_near_alpha, f"_{name}_near_alpha", sums=loop_near)
    return specialise(
        _scaled,
        f"_{name}_scaled",
        narrow=loop,
        simple=_none_simple if term is not None else _simple_total_variation,
        near=near,
        all_sums=make_sums(f"{name}_scaled", quick, entry),
        correct=make_correction(name, term),
        alike=alike,
        alike_known=_ALIKE_KNOWN if term is not None else alike,
        most=most,
    )

"""Sums over entries that are divided by the masses, in one fast pass. Used by `divergences` and `renyi`.

For masses that differ where no closed form has the digits: half of the time of `normalized.entry`, whose
differences also hold for distributions as near to each other as rounding errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, kernel, specialise
from ..numerics.error_free import add_compensated, fma
from . import terms
from .masses import NORMALIZE
from .normalized import CHUNK, LIFT, UNLIFT, moderate, sensitivity

#: Lifted sums up to which distributions are alike: as near as rounding errors of the masses.
ALIKE, ALIKE_LINEAR = 1e-26 * LIFT, 1e-13 * LIFT

#: Lifted sums of |p - q| below this are made of roundings of `entry`, 1e-32 each, and their sum p - q is to
#: be no larger than this part: the correction is rounded as well.
_LEAST_SIZE, _MOST_EXCESS = 1e-18 * LIFT, 0.9

#: Part of a sum that its rest may be of what is wrong with the masses.
MOST_BESIDE = 1.0 / 16.0


class CarefulSums(NamedTuple):
    """Lifted sums over normalised entries x and y, d = x - y."""

    terms: float
    excess: float  #: of all d: what is wrong with the two masses
    signed: float  #: of the y with the signs of d: how total variation changes with the masses
    close: float  #: of the y whose d may change its sign with them


@formula
def entry(p, q, s, t, c):
    """p s, q t, and p s - q (t + c), whose first two parts p s - v and q t - v are rounded once each."""
    x, y = np.float64(p), np.float64(q)
    v = y * t
    return x * s, v, (fma(x, s, -v) - fma(y, t, -v)) - y * c


@adder
def _difference_sums(p, q, s, t):
    """(Sum of all p - q, sum of their sizes), both lifted, of one chunk."""
    excess, size = 0.0, 0.0
    for i in range(p.size):
        _, _, d = entry(p[i], q[i], s, t, 0.0)
        excess += d
        size += abs(d)
    return excess, size


@kernel
def correction(p, q, s, t):
    """The change of t that takes the sum of all differences out; NaN where these have too few digits."""
    e, el, size = 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        excess, part = _difference_sums(p[low : low + CHUNK], q[low : low + CHUNK], s, t)
        e, el = add_compensated(e, el, excess)
        size += part
    excess = e + el
    known = (size > _LEAST_SIZE) & (abs(excess) <= _MOST_EXCESS * size)
    return excess * UNLIFT * t if known else math.nan


def _sums(p, q, s, t, c, theta):
    """Template (`term`): `CarefulSums` of one chunk."""
    a, excess = 0.0, 0.0
    for i in range(p.size):
        x, y, d = entry(p[i], q[i], s, t, c)
        a += term(x, y, d, theta)  # noqa: F821
        excess += d
    return CarefulSums(a, excess, 0.0, 0.0)


@adder
def _total_variation_sums(p, q, s, t, c, theta):
    """The same for total variation."""
    a, excess, signed, close = 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        _, y, d = entry(p[i], q[i], s, t, c)
        a += abs(d)
        excess += d
        signed += math.copysign(y, d)
        close += y if abs(d) < 1e-13 * y else 0.0
    return CarefulSums(0.5 * a, excess, signed, close)


@formula
def _hellinger_term(p, q, d, theta):
    """`hellinger_term` with one root. The product of two entries below 1e-170 may underflow."""
    return 0.0 if d == 0.0 else 0.5 * (d * (d / ((p + q) + 2.0 * math.sqrt(abs(p * q)))))


def _all_sums(p, q, s, t, c, least, theta):
    """Template (`part`): the sums of all chunks; NaN where the first has at most `least`."""
    a, al, e, el, signed, close = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        sums = part(p[low : low + CHUNK], q[low : low + CHUNK], s, t, c, theta)  # noqa: F821
        if not sums.terms < LIFT or (low == 0 and sums.terms <= least):
            return CarefulSums(math.nan, 0.0, 0.0, 0.0)
        a, al = add_compensated(a, al, sums.terms)
        e, el = add_compensated(e, el, sums.excess)
        signed += sums.signed
        close += sums.close
    return CarefulSums(a + al, e + el, signed, close)


# The divergence from the sums.


def _settle(sums, theta):
    """Template (`term`): the sum without what is wrong with the masses, and whether that is known."""
    # The same term of the two masses is contained in it, but for a part as small as the excess.
    beside = term(LIFT, LIFT - sums.excess, sums.excess, theta)  # noqa: F821
    known = abs(sums.excess) * sensitivity(theta) <= 1e-14 * LIFT
    return sums.terms - beside, known & (beside <= MOST_BESIDE * sums.terms)


@kernel
def _settle_linear(sums, theta):
    beside = 0.5 * sums.excess * (sums.signed * UNLIFT)
    good = abs(sums.excess) * (sums.close * UNLIFT) <= 1e-15 * sums.terms
    return sums.terms - beside, good & (abs(beside) <= MOST_BESIDE * sums.terms)


def _scaled(p, q, masses, theta):
    """Template (`all_sums`, `settle`, `alike`): the lifted sum; NaN where another way is needed."""
    if not moderate(p, masses.p, masses.q, NORMALIZE):
        return math.nan
    s, t = LIFT / masses.p, LIFT / masses.q
    c, least = 0.0, alike * min(1.0, CHUNK / p.size)  # noqa: F821
    for i in range(2):
        if i == 1:
            c, least = correction(p, q, s, t), 0.0
        if c == c:
            a, good = settle(all_sums(p, q, s, t, c, least, theta), theta)  # noqa: F821
            if good and 0.0 < a < LIFT:
                return a
    return math.nan


def make_settle(name, term):
    """The kernel that takes what is wrong with the masses out of `CarefulSums`."""
    if term == "total_variation":
        return _settle_linear
    return specialise(_settle, f"_{name}_settle", term=getattr(terms, f"{term}_term"))


def assemble(name, term):
    """The pass for the term of this name, (p, q, masses, theta) -> the lifted sum or NaN."""
    if term == "total_variation":
        part, alike = _total_variation_sums, ALIKE_LINEAR
    else:
        chosen = _hellinger_term if term == "hellinger" else getattr(terms, f"{term}_term")
        part, alike = specialise(_sums, f"_{name}_scaled_part", adder, term=chosen), ALIKE
    all_sums = specialise(_all_sums, f"_{name}_scaled_sums", part=part)
    settle = make_settle(name, term)
    return specialise(_scaled, f"_{name}_scaled", all_sums=all_sums, settle=settle, alike=alike)

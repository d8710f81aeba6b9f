"""Entries and differences that underflow when they are normalised, and squares that do beside their roots.

Of (1, 1e-100) and (1e280, 1e-100), the second entry of q over its mass is 1e-380. Terms are made there as for
log-probabilities (`logarithmic`): of the logarithm of the ratio of two entries, known to twice the digits.
Entries that do not underflow are those of `normalized`, and their differences come from the relative ones:
of (1, 1e-320) and (1 + 1e-9, 1e-320), the second is 1e-329, and the Hellinger distance is 4e-170. Used by
`divergences` and `renyi`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import formula, inlined, kernel, specialise
from ..numerics.elementary import log_quotient
from ..numerics.error_free import add_compensated, two_sum
from . import logarithmic
from .logarithmic import lifted_exp
from .masses import ANY
from .normalized import (
    MOST_OF_TINY,
    UNLIFT,
    Normalization,
    as_they_are,
    differing,
    entry,
    exact_normalization,
    make_normalization,
    proportional,
    relative_difference,
)

#: Lifted entries from here on have all digits.
_NORMAL = 2.0**-1021

#: An entry that is this times its mass becomes `_NORMAL`: the product of both.
_LEAST, _OVER_MASS = 2.0**-538, 2.0**-537

#: Below this, the logarithm of a ratio has more digits from the difference of the entries; above, in two
#: floats: large orders multiply its error, 1e-13 where the product of both is 500.
_CLOSE = 1e-5

#: Entries below this may be subnormal: they are multiplied by 2**54 before a logarithm is taken.
_TINY = 2.0**-960

#: How far sums that overflow are lowered, and squares that may have underflowed are raised: lifted sums below
#: the third.
_LOWERED, _RAISED, LEAST_SQUARE = 2.0**-128, 2.0**940, 2.0**-850


class WideNormalization(NamedTuple):
    """Constants of `wide_entry` for two arrays."""

    entries: Normalization
    log_mass: float  #: the logarithm of the mass of p, and what its rounding has lost
    log_mass_rest: float
    log_ratio: float  #: of the ratio of the masses of p and q, the same
    log_ratio_rest: float
    factor: float  #: of all entries: a power of two
    log_factor: float


@kernel
def _below(p, least):
    """The number of positive entries that are smaller."""
    count = 0
    for i in range(p.size):
        count += (p[i] > 0.0) & (p[i] < least)
    return count


@inlined
def may_be_wide(p, masses):
    """Whether arrays with these masses may be `is_wide`."""
    return p.itemsize != 4 and (masses.tiny or max(masses.p, masses.q) > MOST_OF_TINY)


@kernel
def is_wide(p, q, masses):
    """Whether a positive entry underflows where its lifted array is normalised."""
    if not may_be_wide(p, masses):
        return False
    least_p, least_q = masses.p * _LEAST * _OVER_MASS, masses.q * _LEAST * _OVER_MASS
    return (least_p > 0.0 and _below(p, least_p) > 0) or (least_q > 0.0 and _below(q, least_q) > 0)


@inlined
def _less(a, a_rest, b, b_rest):
    """The difference of two numbers in two floats each."""
    s, lost = two_sum(a, -b)
    return two_sum(s, lost + (a_rest - b_rest))


@kernel
def log_of(p, q):
    """The logarithm of the ratio of two positive numbers in two floats."""
    small_p, small_q = p < _TINY, q < _TINY
    high, low = log_quotient(p * 2.0**54 if small_p else p, 0.0, q * 2.0**54 if small_q else q, 0.0)
    if small_p == small_q:
        return high, low
    lift, rest = log_quotient(2.0**54, 0.0, 1.0, 0.0)
    return _less(high, low, lift, rest) if small_p else _less(high, low, -lift, -rest)


@kernel
def make_wide(p, q, masses, factor):
    """The normalization of two measures, and a factor of all entries."""
    n = exact_normalization(p, q, make_normalization(masses))
    scale, rest = log_quotient(n.scale_p, 0.0, 1.0, 0.0)
    log_mass = _less(*log_quotient(n.mass_p, 0.0, 1.0, 0.0), scale, rest)
    base, low = two_sum(n.base_p, n.first)
    ratio = log_quotient(base, low + n.second, n.base_q, 0.0)
    other, other_rest = log_quotient(n.scale_q, 0.0, 1.0, 0.0)
    log_ratio = _less(*ratio, *_less(scale, rest, other, other_rest))
    return WideNormalization(n, *log_mass, *log_ratio, factor, math.log(factor))


@kernel
def _wide_of(p, q, masses, mass, factor):
    """The normalization that `mass` asks for."""
    if mass == ANY:
        return WideNormalization(as_they_are(), 0.0, 0.0, 0.0, 0.0, factor, math.log(factor))
    return make_wide(p, q, masses, factor)


@inlined
def _flushed(x):
    """A lifted entry, or 0 where digits are missing."""
    return x if x >= _NORMAL else 0.0


@inlined
def _log_part(p, log_mass, rest, log_factor):
    """The logarithm of p over its mass, times the factor, and what its rounding has lost."""
    if not p > 0.0:
        return -math.inf, 0.0
    s, lost = _less(*log_of(p, 1.0), log_mass, rest)
    log_p, more = two_sum(s, log_factor)
    return log_p, lost + more


@formula
def wide_entry(p, q, normalization):
    """What `logarithmic.log_entry` gives, of entries of two measures."""
    w = normalization
    x, y, d = entry(p, q, w.entries)
    u, v = np.float64(p), np.float64(q)
    log_p, lost_p = _log_part(u, w.log_mass, w.log_mass_rest, w.log_factor)
    log_q, lost_q = _log_part(
        v, *_less(w.log_mass, w.log_mass_rest, w.log_ratio, w.log_ratio_rest), w.log_factor
    )
    normal = x >= _NORMAL and y >= _NORMAL
    r, lost_r, change = 0.0, 0.0, math.inf
    if u > 0.0 and v > 0.0:
        if normal:
            change = relative_difference(u, v, w.entries)
        if abs(change) < _CLOSE:
            r = math.log1p(change)
        else:
            r, lost_r = _less(*log_of(u, v), w.log_ratio, w.log_ratio_rest)
    elif u > 0.0 or v > 0.0:
        r = math.inf if u > 0.0 else -math.inf
    x, y, d = x * w.factor, y * w.factor, d * w.factor
    if normal:
        d = y * change if abs(change) < 1.0 else x - y
    else:
        x = _flushed(lifted_exp(log_p, 0.0, lost_p)) if u > 0.0 else 0.0
        y = _flushed(lifted_exp(log_q, 0.0, lost_q)) if v > 0.0 else 0.0
        d = y * math.expm1(r) if abs(r) < 1.0 else x - y
    return (x, y, d, r, log_p, (lost_r, lost_p)) if u > 0.0 else (x, y, d, r, log_q, (lost_r, lost_q))


def _wide_sums(p, q, normalization, theta):
    """Template (`term`): the lifted sum of terms."""
    total, lost = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, log_p, rests = wide_entry(p[i], q[i], normalization)
        # Equal entries of measures may overflow where they are raised.
        if r != 0.0:
            total, lost = add_compensated(total, lost, term(x, y, d, r, log_p, rests, theta))  # noqa: F821
    return total + lost


@kernel
def same(p, q, masses):
    """Whether distributions that are `is_wide` are the same."""
    if not proportional(p, q, make_normalization(masses)):
        return False
    w = make_wide(p, q, masses, 1.0)
    for i in range(p.size):
        x, y, _, r, _, _ = wide_entry(p[i], q[i], w)
        # The other entries are multiples of each other. One in the last place is 1.1e-16.
        if min(x, y) < _NORMAL and abs(r) > 5e-17:
            return False
    return True


def _wide(p, q, masses, theta, mass):
    """Template (`sums`, `root`, `finish`): the divergence, of wide entries or of a root that is small."""
    if differing(p, q) == 0 if mass == ANY else same(p, q, masses):
        return 0.0
    a = max(sums(p, q, _wide_of(p, q, masses, mass, 1.0), theta), 0.0)  # noqa: F821
    if a < LEAST_SQUARE and root:  # noqa: F821
        a = sums(p, q, _wide_of(p, q, masses, mass, _RAISED), theta)  # noqa: F821
        return finish(a, UNLIFT) * finish(1.0 / _RAISED, 1.0)  # noqa: F821
    if a < math.inf:
        return finish(a, UNLIFT)  # noqa: F821
    a = sums(p, q, _wide_of(p, q, masses, mass, _LOWERED), theta)  # noqa: F821
    return finish(a, UNLIFT / _LOWERED)  # noqa: F821


def assemble(name, row, finish):
    """The kernel (p, q, masses, theta, mass) -> the divergence, for a row with a term."""
    term = logarithmic.log_term(f"{name}_wide", row.term)
    return specialise(
        _wide,
        f"_{name}_wide",
        sums=specialise(_wide_sums, f"_{name}_wide_sums", term=term),
        root=row.root,
        finish=finish,
    )

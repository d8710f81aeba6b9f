"""Entropy and cross-entropy: two rows of `registry` with kernels of their own.

One pass gives the sums of p log(1 / q), p and q, and with them the result where it is not small beside its
two parts, the first sum over the second and the logarithm of the third. Elsewhere entries are divided by the
mass first. Where one entry dominates, -log(q / mass) is taken apart as log(top / q) + log1p((mass - top) /
top), top = max q, where both parts are >= 0.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from ..borrowing import borrow_to_read
from ..compiler import adder, exported, formula, kernel, overloaded, specialise
from ..numerics.elementary import log, scaled_exp
from ..numerics.error_free import add_compensated
from . import far_logarithms, short_rows
from .chunks import BLOCK32, NOTHING32, NOTHING64, TINY32, TINY64, log_ratio32
from .far_logarithms import top_of
from .masses import ANY, NORMALIZE, UNIT
from .normalized import (
    CHUNK,
    LEAST_SCALED,
    LIFT,
    PART,
    UNLIFT,
    allowed,
    argmax,
    is_unit,
    make_normalization,
    masses_of,
    moderate,
)
from .reading import piece, readable
from .short_rows import SHORT
from .terms import cross_term
from .wide import is_wide, log_of

#: Part of the mass that one entry has where the entropy is taken apart.
_DOMINANT = 0.9

#: Ratios below this are divided in an order that keeps subnormals out.
_TINY_RATIO = 1e-200

#: Least result of one pass, and part of the sizes of its terms that it must be: equal addends leave 7e-15 of
#: the masses, and of these.
_LEAST, _LEAST_PART = 0.2, 0.4

#: The same for float32, whose terms are 2e-7 off, as are sums of `BLOCK32` equal ones. Of a mass above the
#: last, no term of weight is subnormal.
_LEAST32, _LEAST_PART32, _LEAST_MASS32 = 0.5, 0.6, 2.0**-60

_ZERO32, _ONE32 = np.float32(0.0), np.float32(1.0)

#: Entries that are looked at together for one that is not 0.
_FEW = 64


@adder
def _log_sums64(p, q):
    """(Sum of p log(1 / q), of the sizes of these terms, of p, of q); the first is NaN where this fails."""
    a, size, mass, other, bad = 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        bad |= (x < 0.0) | (y < (TINY64 if x > 0.0 else 0.0))
        term = x * log(y + NOTHING64)
        a -= term
        size += abs(term)
        mass += x
        other += y
    return math.nan if bad else a, size, mass, other


@adder
def _log_sums32(p, q):
    a, size, mass, other, bad = _ZERO32, _ZERO32, _ZERO32, _ZERO32, False
    for i in range(p.size):
        x, y = p[i], q[i]
        bad |= (x < _ZERO32) | (y < (TINY32 if x > _ZERO32 else _ZERO32))
        v = y + NOTHING32
        term = x * log_ratio32(v, _ONE32, v - _ONE32)
        a -= term
        size += abs(term)
        mass += x
        other += y
    return math.nan if bad else np.float64(a), np.float64(size), np.float64(mass), np.float64(other)


@adder
def _log_blocks32(p, q):
    a, size, mass, other = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, BLOCK32):
        t, s, x, y = _log_sums32(p[low : low + BLOCK32], q[low : low + BLOCK32])
        a += t
        size += s
        mass += x
        other += y
    return a, size, mass, other


@kernel
def _all_zero(p):
    """Whether all entries are 0. That they are not is seen in the first few of most chunks."""
    for low in range(0, p.size, _FEW):
        part, count = p[low : low + _FEW], 0
        for i in range(part.size):
            count += part[i] != 0.0
        if count > 0:
            return False
    return True


def _pass(p, q, mass):
    """Template (`log_sums`, `least_mass`, `least`, `part`): the cross-entropy; NaN where digits lack."""
    a, al, s, sl, m, ml, n, nl = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        u, v = piece(p, low, CHUNK), piece(q, low, CHUNK)
        # Where one entry has nearly all of the mass, most others may be 0: 0.3 ns an entry instead of 2.3.
        if p.size > CHUNK and _all_zero(u) and _all_zero(v):
            continue
        sum_of_logs, size, mass_p, mass_q = log_sums(u, v)  # noqa: F821
        if math.isnan(sum_of_logs):
            return math.nan
        a, al = add_compensated(a, al, sum_of_logs)
        s, sl = add_compensated(s, sl, size)
        m, ml = add_compensated(m, ml, mass_p)
        n, nl = add_compensated(n, nl, mass_q)
    mass_p, mass_q = m + ml, n + nl
    if not (moderate(p, mass_p, mass_q, mass) and mass_p > least_mass):  # noqa: F821
        return math.nan
    second = math.log(mass_q)
    value = (a + al) / mass_p + second
    size = (s + sl) / mass_p + abs(second)
    return value if max(least, part * size) < value < math.inf else math.nan  # noqa: F821


_pass64 = specialise(
    _pass, "_cross_pass64", log_sums=_log_sums64, least_mass=0.0, least=_LEAST, part=_LEAST_PART
)
_pass32 = specialise(
    _pass,
    "_cross_pass32",
    log_sums=_log_blocks32,
    least_mass=_LEAST_MASS32,
    least=_LEAST32,
    part=_LEAST_PART32,
)


def _in_one_pass(p, q, mass):
    """The cross-entropy; NaN where it would lack digits."""
    return _pass64(p, q, mass)


@overloaded(_in_one_pass)
def _in_one_pass_by_type(p, q, mass):
    if p.dtype != types.float32:
        return lambda p, q, mass: _pass64(p, q, mass)

    def narrow_first(p, q, mass):
        value = _pass32(p, q, mass)
        return value if value == value else _pass64(p, q, mass)

    return narrow_first


@adder
def _cross_sums(p, q, top):
    """(Sum of p log(top / q), sum of the q other than top, number of q at top, sum of p); sums lifted."""
    a, rest, at_top, mass, negative = 0.0, 0.0, 0, 0.0, 0
    lifted = top * LIFT
    for i in range(p.size):
        x = np.float64(p[i]) * LIFT
        y = np.float64(q[i]) * LIFT
        a += cross_term(x, y, lifted)
        rest += y if y != lifted else 0.0
        at_top += y == lifted
        mass += x
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        mass = math.nan
    return a, rest, at_top, mass


@kernel
def _cross_totals(p, q, top):
    """(Sum of p log(top / q), sum of the q other than top, sum of the others, sum of p), all lifted."""
    a, al, r, rl, m, ml, at_top = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        if _all_zero(u) and _all_zero(v):
            continue
        x, y, n, z = _cross_sums(u, v, top)
        a, al = add_compensated(a, al, x)
        r, rl = add_compensated(r, rl, y)
        m, ml = add_compensated(m, ml, z)
        at_top += n
    return a + al, r + rl, at_top * (top * LIFT), m + ml


@kernel
def _lifted_log1p(rest, top):
    """LIFT times log1p(rest / top), for a ratio that may be subnormal."""
    ratio = rest / top
    return math.log1p(ratio) * LIFT if ratio > _TINY_RATIO else rest * LIFT / top


@adder
def _normalised_sum(p, q, scale_p, scale_q):
    """-sum p log q over entries times these scales; q is lifted."""
    total = 0.0
    for i in range(p.size):
        total += cross_term(np.float64(p[i]) * scale_p, np.float64(q[i]) * scale_q, LIFT)
    return total


@kernel
def _wide_cross_entropy(p, q, masses, top):
    """The cross-entropy of distributions that are `is_wide`."""
    n = make_normalization(masses)
    total, lost, mass, mass_lost, rest, rest_lost = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    unit, at_top = top * n.scale_q, -1
    for i in range(p.size):
        x, y = np.float64(p[i]) * n.scale_p, np.float64(q[i])
        if x > 0.0:
            total, lost = add_compensated(total, lost, x * log_of(top, y)[0])
            mass, mass_lost = add_compensated(mass, mass_lost, x)
        if y == top:
            at_top += 1
        else:
            rest, rest_lost = add_compensated(rest, rest_lost, y * n.scale_q)
    return (total + lost) / (mass + mass_lost) + math.log1p(at_top + (rest + rest_lost) / unit)


@kernel
def _over_mass(a, mass):
    """A lifted sum over a lifted mass, lifted. The order of the two operations avoids subnormals."""
    return a / (mass * UNLIFT) if mass > 1.0 else a / mass * LIFT


_short_cross_entropy = short_rows.assemble_one("cross_entropy")


@exported
def cross_entropy(p, q, theta, mass):
    """-sum p log q."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    if p.size <= SHORT:
        value = _short_cross_entropy(p, q, theta, mass)
        if value == value:
            return value
    if mass == ANY:
        total, below, at_top, mass_p = _cross_totals(p, q, 1.0)
        return total * UNLIFT if allowed(p, mass_p * UNLIFT, (below + at_top) * UNLIFT, mass) else math.nan
    value = _in_one_pass(p, q, mass)
    if value == value:
        return value
    masses = masses_of(p, q)
    if not allowed(p, masses.p, masses.q, mass):
        return math.nan
    if masses.p_alone:
        return math.inf
    top = np.float64(q[argmax(q)])
    if mass == NORMALIZE and is_wide(p, q, masses):
        return _wide_cross_entropy(p, q, masses, top)
    # Where the result is small, and the rounding of q / mass is not, one entry has nearly all of the mass.
    if top <= _DOMINANT * masses.q and min(masses.p, masses.q) > LEAST_SCALED:
        scale_p, scale_q = 1.0 / masses.p, LIFT / masses.q
        value, lost = 0.0, 0.0
        for low in range(0, p.size, CHUNK):
            part = _normalised_sum(p[low : low + CHUNK], q[low : low + CHUNK], scale_p, scale_q)
            value, lost = add_compensated(value, lost, part)
        return value + lost
    total, below, at_top, mass_p = _cross_totals(p, q, top)
    rest = below + (at_top - top * LIFT)
    return (_over_mass(total, mass_p) + _lifted_log1p(rest, top * LIFT)) * UNLIFT


@exported
def cross_entropy_uncopied(p, q, integers, buffers, theta, mass):
    """`cross_entropy` of what is `readable`; NaN where that needs more passes."""
    if mass == ANY:
        return math.nan
    return _pass64(readable(p, integers[0], buffers[0]), readable(q, integers[1], buffers[1]), mass)


@formula
def _log_cross_term(x, p, q, top):
    value = 0.0 if x == 0.0 else x * (top - q)
    return math.inf if (q == -math.inf) & (p > -math.inf) else value


@adder
def _log_cross_sums(p, q, shift, top):
    """Lifted sums of exp(p - shift) (top - q), exp(p - shift), exp(q - top) < 1; the number of q at top."""
    a, mass, rest, at_top = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        u, y = np.float64(p[i]), np.float64(q[i])
        x = scaled_exp(LIFT, u - shift)
        a += _log_cross_term(x, u, y, top)
        mass += x
        rest += scaled_exp(LIFT, y - top) if y != top else 0.0
        at_top += y == top
    return a, mass, rest, at_top


@exported
def log_cross_entropy(p, q, theta, mass):
    """`cross_entropy` for log-probabilities: -sum exp(p) q."""
    value = far_logarithms.cross_entropy(p, q, mass)
    if value == value:
        return value
    top_p, top_q = top_of(p), top_of(q)
    if not (top_p < math.inf and top_q < math.inf):
        return math.nan
    if top_p == -math.inf:
        return 0.0 if mass == ANY else math.nan
    if top_q == -math.inf:
        return math.inf if mass == ANY else math.nan
    a, al, m, ml, r, rl, at_top = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for low in range(0, p.size, PART):
        x, y = p[low : low + PART], q[low : low + PART]
        part, mass_p, rest, n = _log_cross_sums(x, y, top_p, top_q)
        a, al = add_compensated(a, al, part)
        m, ml = add_compensated(m, ml, mass_p)
        r, rl = add_compensated(r, rl, rest)
        at_top += n
    sum_p = (m + ml) * UNLIFT
    if mass == ANY:
        return ((a + al) * UNLIFT - sum_p * top_q) * math.exp(top_p)
    rest = (r + rl) + (at_top - 1) * LIFT
    if mass == UNIT:
        unit_q = math.exp(top_q) * (1.0 + rest * UNLIFT)
        if not (is_unit(math.exp(top_p) * sum_p, p) and is_unit(unit_q, p)):
            return math.nan
    return ((a + al) / sum_p + _lifted_log1p(rest, LIFT)) * UNLIFT

"""The sums over two arrays that a divergence is made of: fast loops over one chunk, and the sum of chunks.

A fast loop assumes positive entries that are not tiny. It says whether they were; if not, `lifted_sums` sums
the terms (`terms`) of any finite entries. Used by `divergences` and `renyi`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types

from ..compiler import adder, formula, inlined, kernel, overloaded, specialise
from ..numerics.elementary import LN2, atanh_tail, decay, exponent_step, log_ratio
from ..numerics.error_free import add_compensated, difference
from .normalized import CHUNK, LIFT
from .terms import alpha_term, hellinger_term, js_term, kl_term

#: Entries per float32 partial sum: 128 additions per lane, a rounding error of 4e-8.
_BLOCK32 = 2048

#: float32 arrays shorter than this are summed in float64: the rounding errors of single entries (up to 1e-6
#: each) do not average out.
_SHORT32 = 64

#: Entries of a chunk whose sum is tried as a difference, before that of the whole chunk.
_FIRST = 512

#: Entries below these are left to `lifted_sums`.
_TINY64 = 2.0**-400
_TINY32 = np.float32(2.0**-100)

#: A sum computed as a difference is accepted if it is at least this part of what it is the difference of: the
#: rounding error of a chunk's sums is near 5e-16.
_LEAST_REMAINDER = 1.0 / 32.0

#: Largest exponent of a power in `_alpha_sums`: exp(690) is finite.
_MOST_EXPONENT = 690.0


class Sums(NamedTuple):
    """Sums over some entries of p and q, times `LIFT`."""

    terms: float
    change: float  #: of the mass: the sum of q - p
    mass: float  #: the sum of p; NaN where an entry of p or q is negative


@inlined
def _add(total, lost, sums):
    """Compensated addition of all three: the new total, and what its roundings have lost."""
    a, al = add_compensated(total.terms, lost.terms, sums.terms)
    d, dl = add_compensated(total.change, lost.change, sums.change)
    m, ml = add_compensated(total.mass, lost.mass, sums.mass)
    return Sums(a, d, m), Sums(al, dl, ml)


@inlined
def _rounded(total, lost):
    return Sums(total.terms + lost.terms, total.change + lost.change, total.mass + lost.mass)


def whole_sums(p, q, theta):
    """Template (`chunk`): the sum of all chunks, in order."""
    total, lost = Sums(0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0)
    for low in range(0, p.size, CHUNK):
        total, lost = _add(total, lost, chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta))  # noqa: F821
    return _rounded(total, lost)


@kernel
def sum_of_parts(parts):
    """The same from the sums of each chunk, a row of `parts` in the order of the fields of `Sums`."""
    total, lost = Sums(0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0)
    for i in range(parts.shape[0]):
        total, lost = _add(total, lost, Sums(parts[i, 0], parts[i, 1], parts[i, 2]))
    return _rounded(total, lost)


def lifted_sums(p, q, theta):
    """Template (`term`): the sums over any finite entries, zeros and subnormals among them."""
    a, change, mass, negative = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        x = np.float64(p[i]) * LIFT
        y = np.float64(q[i]) * LIFT
        d = difference(x, y)
        a += term(x, y, d, theta)  # noqa: F821
        change -= d
        mass += x
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        mass = math.nan
    return Sums(a, change, mass)


@formula
def _kl_parts(p, q):
    """(u, v, k, p - b, q - b): the term is u v + p k ln 2 + (q - b), b = q 2**k, as in `kl_term`."""
    b, k = exponent_step(p, q)
    pb = p - b
    s = pb / (p + b)
    w = s * s
    return pb * s, 1.0 + (s + w) * atanh_tail(w), k, pb, q - b


# Fast loops: (sums, whether all entries were positive and not tiny). The check costs 0.07 ns an entry inside
# the loop, and 0.2 ns in a pass of its own, which reads the arrays once more.


@adder
def _kl_sums64(p, q):
    # The parts of `kl_term` are summed separately. This saves a product and the difference p - q, and
    # multiplies the rounding error of the sum, 1e-16, by at most 20.
    a, pk, qb, pb, mass, tiny = 0.0, 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        tiny |= (p[i] < _TINY64) | (q[i] < _TINY64)
        g, h, k, dp, dq = _kl_parts(p[i], q[i])
        a += g * h
        pk += p[i] * k
        qb += dq
        pb += dp
        mass += p[i]
    total = a + pk * (LN2 * 2.0**-52) + qb
    return Sums(total * LIFT, (qb - pb) * LIFT, mass * LIFT), not tiny


@formula
def _kl_parts32(p, q):
    """(The term, q - p)."""
    one = np.float32(1.0)
    b, k = exponent_step(p, q)
    pb = p - b
    s = pb / (p + b)
    w = s * s
    # Minimax polynomial of `atanh_tail`, degree 2: an error of 2.4e-7, times s + w <= 1/4.
    r = w * np.float32(0.149795983671) + np.float32(0.19989455054)
    r = w * r + np.float32(0.333333568681)
    h = one + (s + w) * r
    rest = p * (k * np.float32(LN2 * 2.0**-23)) + (q - b)
    return (pb * s) * h + rest, q - p


@adder
def _kl_sums32(p, q):
    a, change, mass, tiny = 0.0, 0.0, 0.0, p.size < _SHORT32
    for first in range(0, p.size, _BLOCK32):
        x, y = p[first : first + _BLOCK32], q[first : first + _BLOCK32]
        a32, change32, mass32 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in range(x.size):
            tiny |= (x[i] < _TINY32) | (y[i] < _TINY32)
            g, d = _kl_parts32(x[i], y[i])
            a32 += g
            change32 += d
            mass32 += x[i]
        a += np.float64(a32)
        change += np.float64(change32)
        mass += np.float64(mass32)
    return Sums(a * LIFT, change * LIFT, mass * LIFT), not tiny


def _kl_sums(p, q):
    return _kl_sums32(p, q) if p.dtype == np.float32 else _kl_sums64(p, q)


@overloaded(_kl_sums)
def _overload_kl_sums(p, q):
    sums = _kl_sums32 if p.dtype == types.float32 else _kl_sums64
    return lambda p, q: sums(p, q)


@formula
def _js_parts(p, q):
    """The parts of twice the term, m = (p + q) / 2: of KL(p || m), of KL(q || m), and (p - q) / 2."""
    m = 0.5 * (p + q)
    d = 0.5 * (p - q)
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
    return dp * sp, hp, dq * sq, hq, kp, kq, (m - bp) + (m - bq), d


@adder
def _js_sums(p, q):
    a, k, far, change, mass, tiny = 0.0, 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        tiny |= (x < _TINY64) | (y < _TINY64)
        gp, hp, gq, hq, kp, kq, mb, d = _js_parts(x, y)
        a += gp * hp + gq * hq
        k += x * kp + y * kq
        far += mb
        change -= d
        mass += x
    total = a + k * (LN2 * 2.0**-52) + far
    return Sums(total * (0.5 * LIFT), change * (2.0 * LIFT), mass * LIFT), not tiny


@adder
def _hellinger_sums(p, q):
    # The masses minus the overlap: one root, where `hellinger_term` has two and a division.
    overlap, mass, other, tiny = 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        tiny |= (x < _TINY64) | (y < _TINY64)
        overlap += math.sqrt(abs(x * y))
        mass += x
        other += y
    middle = 0.5 * (mass + other)
    a = middle - overlap
    good = (not tiny) & (a > _LEAST_REMAINDER * middle)
    return Sums(a * LIFT, (other - mass) * LIFT, mass * LIFT), good


@formula
def _power(p, q, beta):
    """p (p / q)**beta, and the logarithm of the second factor."""
    y = beta * log_ratio(p, q, p - q)
    return p * decay(y), y


@adder
def _alpha_sums(p, q, alpha):
    # From sum p**a q**(1-a), without the series near p = q and the selects of `alpha_term`: 1.9 ns an entry
    # instead of 4.2.
    beta = alpha - 1.0
    power, mass, other, extreme = 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        z, exponent = _power(x, y, beta)
        extreme |= (x < _TINY64) | (y < _TINY64) | (abs(exponent) > _MOST_EXPONENT)
        power += z
        mass += x
        other += y
    a = (power - alpha * mass + beta * other) / (alpha * beta)
    size = power + abs(alpha) * mass + abs(beta) * other
    good = (not extreme) & (a * abs(alpha * beta) > _LEAST_REMAINDER * size)
    return Sums(a * LIFT, (other - mass) * LIFT, mass * LIFT), good


_kl_lifted = specialise(lifted_sums, "_kl_lifted", adder, term=kl_term)
_js_lifted = specialise(lifted_sums, "_js_lifted", adder, term=js_term)
_alpha_lifted = specialise(lifted_sums, "_alpha_lifted", adder, term=alpha_term)
_hellinger_lifted = specialise(lifted_sums, "_hellinger_lifted", adder, term=hellinger_term)


@inlined
def _seems_positive(p, q):
    """Whether the first and the middle entries are positive: most sparse arrays skip the fast loop so."""
    k = p.size // 2
    return (p[0] > 0.0) & (q[0] > 0.0) & (p[k] > 0.0) & (q[k] > 0.0)


@inlined
def kl_chunk(p, q, theta):
    """The sums of `kl_term`."""
    if _seems_positive(p, q):
        sums, good = _kl_sums(p, q)
        if good:
            return sums
    return _kl_lifted(p, q, theta)


@kernel
def js_chunk(p, q, theta):
    """The sums of `js_term`."""
    if theta[0] == 0.5 and theta[1] == 0.5 and _seems_positive(p, q):
        sums, good = _js_sums(p, q)
        if good:
            return sums
    return _js_lifted(p, q, theta)


@kernel
def hellinger_chunk(p, q, theta):
    """The sums of `hellinger_term`."""
    if _seems_positive(p, q):
        # The first entries show whether p and q are too close for a difference.
        sums, good = _hellinger_sums(p[:_FIRST], q[:_FIRST])
        if good and p.size > _FIRST:
            sums, good = _hellinger_sums(p, q)
        if good:
            return sums
    return _hellinger_lifted(p, q, theta)


@kernel
def alpha_chunk(p, q, theta):
    """The sums of `alpha_term`."""
    if _seems_positive(p, q) and theta[0] != 0.0 and theta[0] != 1.0:
        sums, good = _alpha_sums(p[:_FIRST], q[:_FIRST], theta[0])
        if good and p.size > _FIRST:
            sums, good = _alpha_sums(p, q, theta[0])
        if good:
            return sums
    return _alpha_lifted(p, q, theta)

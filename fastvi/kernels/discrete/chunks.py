"""One chunk of two arrays, and all of them: LIFT times (sum of terms, sum of q - p, sum of p).

A negative entry makes the last NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from ..compiler import adder, formula, inlined, kernel, specialise
from ..numerics.elementary import LN2, atanh_tail, decay, exponent_step, log_ratio
from ..numerics.error_free import add_compensated, difference
from .normalized import CHUNK, LIFT
from .terms import alpha_term, hellinger_term, js_term, kl_term

#: Entries per float32 partial sum: 128 additions per lane, off by 4e-8.
_BLOCK32 = 2048

#: Entries that show whether a chunk's sum is a good difference.
_FIRST = 512


def whole_sums(p, q, theta):
    """Template (`chunk`): the chunks in order, with a compensated sum."""
    a, al, d, dl, m, ml = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y, z = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821
        a, al = add_compensated(a, al, x)
        d, dl = add_compensated(d, dl, y)
        m, ml = add_compensated(m, ml, z)
    return a + al, d + dl, m + ml


# Entries below these are left to the slower loops.
_TINY64 = 2.0**-400
_TINY32 = np.float32(2.0**-100)


def lifted_sums(p, q, theta):
    """Template (`term`): any finite entries, zeros and subnormals among them."""
    a, delta, mass, negative = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        x = np.float64(p[i]) * LIFT
        y = np.float64(q[i]) * LIFT
        d = difference(x, y)
        a += term(x, y, d, theta)  # noqa: F821
        delta -= d
        mass += x
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        mass = math.nan
    return a, delta, mass


@formula
def _kl_parts(p, q):
    b, k = exponent_step(p, q)
    pb = p - b
    s = pb / (p + b)
    w = s * s
    return pb * s, 1.0 + (s + w) * atanh_tail(w), k, pb, q - b


# The fast loops are for positive entries that are not tiny, and say whether all were: this is cheaper
# inside the loop (0.07 ns an entry) than in a pass of its own (0.2 ns), which reads the arrays once more.


@adder
def _kl_sums64(p, q):
    # The pieces of kl_term are added up apart: this saves a product and the difference p - q, and costs
    # at most a factor of 20 in the rounding of a sum that is good to 1e-16.
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
    return (total * LIFT, (qb - pb) * LIFT, mass * LIFT), not tiny


@formula
def _kl_parts32(p, q):
    one = np.float32(1.0)
    b, k = exponent_step(p, q)
    pb = p - b
    s = pb / (p + b)
    w = s * s
    # Minimax of atanh_tail, degree 2: an error of 2.4e-7, which (s + w) divides by 4 or more.
    r = w * np.float32(0.149795983671) + np.float32(0.19989455054)
    r = w * r + np.float32(0.333333568681)
    h = one + (s + w) * r
    rest = p * (k * np.float32(LN2 * 2.0**-23)) + (q - b)
    return (pb * s) * h + rest, q - p


@adder
def _kl_sums32(p, q):
    # In a short sum the roundings of single entries (up to 1e-6 each) do not average out.
    a, delta, mass, tiny = 0.0, 0.0, 0.0, p.size < 64
    for first in range(0, p.size, _BLOCK32):
        x, y = p[first : first + _BLOCK32], q[first : first + _BLOCK32]
        a32, delta32, mass32 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in range(x.size):
            tiny |= (x[i] < _TINY32) | (y[i] < _TINY32)
            g, d = _kl_parts32(x[i], y[i])
            a32 += g
            delta32 += d
            mass32 += x[i]
        a += np.float64(a32)
        delta += np.float64(delta32)
        mass += np.float64(mass32)
    return (a * LIFT, delta * LIFT, mass * LIFT), not tiny


def _kl_sums(p, q):
    return _kl_sums32(p, q) if p.dtype == np.float32 else _kl_sums64(p, q)


@overload(_kl_sums)
def _overload_kl_sums(p, q):
    sums = _kl_sums32 if p.dtype == types.float32 else _kl_sums64
    return lambda p, q: sums(p, q)


@formula
def _js_parts(p, q):
    m = 0.5 * (p + q)
    d = 0.5 * (p - q)
    bp, kp = exponent_step(p, m)
    bq, kq = exponent_step(q, m)
    near = (kp == 0.0) & (kq == 0.0)
    dp = d if near else p - bp
    dq = -d if near else q - bq
    # Two divisions take 1.31 ns an entry; one division of a product, 1.39 to 1.7 ns.
    sp = dp / (p + bp)
    sq = dq / (q + bq)
    wp, wq = sp * sp, sq * sq
    hp = 1.0 + (sp + wp) * atanh_tail(wp)
    hq = 1.0 + (sq + wq) * atanh_tail(wq)
    return dp * sp, hp, dq * sq, hq, kp, kq, (m - bp) + (m - bq), d


@adder
def _js_sums(p, q):
    a, k, far, delta, mass, tiny = 0.0, 0.0, 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        tiny |= (x < _TINY64) | (y < _TINY64)
        gp, hp, gq, hq, kp, kq, mb, d = _js_parts(x, y)
        a += gp * hp + gq * hq
        k += x * kp + y * kq
        far += mb
        delta -= d
        mass += x
    total = a + k * (LN2 * 2.0**-52) + far
    return (total * (0.5 * LIFT), delta * (2.0 * LIFT), mass * LIFT), not tiny


# A sum that is the difference of others keeps its digits where this part of them is left: the rounding of a
# chunk's sums is near 5e-16.
_LEFT = 1.0 / 32.0


@adder
def _hellinger_sums(p, q):
    # As the masses less the overlap it takes one root, instead of two and a division.
    overlap, mass, other, tiny = 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        tiny |= (x < _TINY64) | (y < _TINY64)
        overlap += math.sqrt(abs(x * y))
        mass += x
        other += y
    middle = 0.5 * (mass + other)
    a = middle - overlap
    return (a * LIFT, (other - mass) * LIFT, mass * LIFT), (not tiny) & (a > _LEFT * middle)


@formula
def _power(p, q, beta):
    """p (p / q)**beta and the exponent in it."""
    y = beta * log_ratio(p, q, p - q)
    return p * decay(y), y


@adder
def _alpha_sums(p, q, alpha):
    # From sum p**a q**(1-a), which takes neither the series near p = q nor a choice: 1.9 ns instead of 4.2.
    beta = alpha - 1.0
    power, mass, other, wild = 0.0, 0.0, 0.0, False
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        z, exponent = _power(x, y, beta)
        wild |= (x < _TINY64) | (y < _TINY64) | (abs(exponent) > 690.0)
        power += z
        mass += x
        other += y
    left = power - alpha * mass + beta * other
    good = left / (alpha * beta) * abs(alpha * beta) > _LEFT * (power + abs(alpha) * mass + abs(beta) * other)
    return (left / (alpha * beta) * LIFT, (other - mass) * LIFT, mass * LIFT), (not wild) & good


_kl_lifted = specialise(lifted_sums, "_kl_lifted", adder, term=kl_term)
_js_lifted = specialise(lifted_sums, "_js_lifted", adder, term=js_term)
_alpha_lifted = specialise(lifted_sums, "_alpha_lifted", adder, term=alpha_term)
_hellinger_lifted = specialise(lifted_sums, "_hellinger_lifted", adder, term=hellinger_term)


@inlined
def _looks_ordinary(p, q):
    """Whether a few entries are positive: sparse arrays mostly show it, and need not be tried twice."""
    k = p.size // 2
    return (p[0] > 0.0) & (q[0] > 0.0) & (p[k] > 0.0) & (q[k] > 0.0)


@inlined
def kl_chunk(p, q, theta):
    """The chunk of `kl_term`."""
    if _looks_ordinary(p, q):
        sums, ordinary = _kl_sums(p, q)
        if ordinary:
            return sums
    return _kl_lifted(p, q, theta)


@kernel
def js_chunk(p, q, theta):
    """The chunk of `js_term`."""
    if theta[0] == 0.5 and theta[1] == 0.5 and _looks_ordinary(p, q):
        sums, ordinary = _js_sums(p, q)
        if ordinary:
            return sums
    return _js_lifted(p, q, theta)


@kernel
def hellinger_chunk(p, q, theta):
    """The chunk of `hellinger_term`."""
    if _looks_ordinary(p, q):
        # A first part tells near distributions, which are not worth a second pass.
        sums, good = _hellinger_sums(p[:_FIRST], q[:_FIRST])
        if good and p.size > _FIRST:
            sums, good = _hellinger_sums(p, q)
        if good:
            return sums
    return _hellinger_lifted(p, q, theta)


@kernel
def alpha_chunk(p, q, theta):
    """The chunk of `alpha_term`."""
    if _looks_ordinary(p, q) and theta[0] != 0.0 and theta[0] != 1.0:
        sums, good = _alpha_sums(p[:_FIRST], q[:_FIRST], theta[0])
        if good and p.size > _FIRST:
            sums, good = _alpha_sums(p, q, theta[0])
        if good:
            return sums
    return _alpha_lifted(p, q, theta)

"""Divergences of two discrete distributions: the loops behind `fastvi.divergences`.

A divergence is written once, as the *term* that one entry adds to the sum for two measures. Every term
is >= 0 and is given the exact difference ``d = p - q``, so that it keeps its relative accuracy as p
approaches q and the sum cannot be negative. All terms are homogeneous (scaling p and q scales the term).

The kernel of a divergence, ``name(p, q, theta, mass) -> float``, takes two contiguous 1-D arrays of one
length and dtype, and returns NaN for invalid input (negative or non-finite entries, a mass that `mass`
does not allow), raises nothing and needs no GIL. It is built from `_divergence` below:

1.  The array is cut into chunks of `CHUNK` entries. Each gives (sum of terms, sum of q - p, sum of p).
    The chunks are combined in order with a compensated sum: the result depends neither on the number of
    threads nor, beyond the last digits, on n.
2.  For distributions that do not sum to exactly one, `settle` turns the sums for the measures into the
    divergence of the normalised distributions, or says that the digits are not there.
3.  Then `refined` runs again over entries normalised in twice the precision. This is rare: p close to
    proportional to q, or masses that differ.

`theta` holds the parameters of the divergence as two floats: the weights of `js`, the order of `renyi`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .elementary import (
    LN2,
    atanh_tail,
    exp,
    expm1_small,
    exponent_step,
    log_ratio,
)
from .jit import Lazily, adder, formula, kernel, specialise
from .masses import ANY, LARGEST_MASS, UNIT, UNIT_TOLERANCE32, UNIT_TOLERANCE64

#: Entries per chunk. 1000 additions per vector lane leave a rounding near 5e-16 in a chunk's sum, and what is
#: done once per chunk (0.1 µs) is lost in it.
CHUNK = 16384

#: Entries per float32 partial sum: 128 additions per lane, off by 4e-8.
_BLOCK32 = 2048

#: Multiplies entries where some are zero or tiny: subnormals become normal numbers, exactly.
_LIFT = 2.0**54

# Entries below these are left to the slower loops.
_TINY64 = 2.0**-400
_TINY32 = np.float32(2.0**-100)


# Terms. p and q are finite, >= 0, and zero or normal; d = p - q; theta = (a, b).


@formula
def kl_term(p, q, d, theta):
    """p log(p / q) - p + q."""
    # With b = q 2**k next to p, this is (p log(p / b) - p + b) + p k ln 2 + (q - b); the bracket is
    # (p + b) s**2 (1 + (1 + s) s tail), s = (p - b) / (p + b), and for k = 0 nothing else remains.
    b, k = exponent_step(p, q)
    pb = d if k == 0.0 else p - b
    s = pb / (p + b)
    w = s * s
    value = (pb * s) * (1.0 + (s + w) * atanh_tail(w)) + (p * (k * (LN2 * 2.0**-52)) + (q - b))
    value = math.inf if q == 0.0 else value
    return q if p == 0.0 else value


@formula
def js_term(p, q, d, theta):
    """u p log(p / m) + v q log(q / m) with m = u p + v q, for weights theta = (u, v)."""
    u, v = theta
    m = u * p + v * q
    return u * kl_term(p, m, v * d, theta) + v * kl_term(q, m, -u * d, theta)


@formula
def jeffreys_term(p, q, d, theta):
    """(p - q) log(p / q)."""
    value = math.inf if p == 0.0 or q == 0.0 else d * log_ratio(p, q, d)
    return 0.0 if d == 0.0 else value


@formula
def hellinger_term(p, q, d, theta):
    """(sqrt p - sqrt q)**2 / 2: the square of the distance adds up."""
    root = d / (math.sqrt(p) + math.sqrt(q))
    return 0.0 if d == 0.0 else 0.5 * (root * root)


@formula
def total_variation_term(p, q, d, theta):
    """|p - q| / 2."""
    return 0.5 * abs(d)


@formula
def chi2_term(p, q, d, theta):
    """(p - q)**2 / q."""
    return 0.0 if d == 0.0 else d * (d / q)


@kernel
def alpha_term(p, q, d, theta):
    """(p**a q**(1-a) - a p + (a - 1) q) / (a (a - 1)) for a = theta[0]; KL for a = 1 and a = 0."""
    x = log_ratio(p, q, d) if p > 0.0 and q > 0.0 else 0.0
    return alpha_log_term(p, q, d, x, theta)


# The same given x = log(p / q), for log-probabilities: there p or q may be rounded to zero when x is
# finite. Those that x cannot help keep their term.


@kernel
def kl_log_term(p, q, d, x, theta):
    """`kl_term` from x."""
    if abs(x) < 0.3 and q > 0.0:
        return kl_term(p, q, d, theta)
    return q if p == 0.0 else max(p * x - p + q, 0.0)


@kernel
def jeffreys_log_term(p, q, d, x, theta):
    """`jeffreys_term` from x."""
    return 0.0 if d == 0.0 else d * x


@kernel
def chi2_log_term(p, q, d, x, theta):
    """`chi2_term` from x: q exp(2 x) - 2 p + q where q alone has underflowed."""
    if abs(x) < 0.3 and q > 0.0:
        return d * (d / q)
    half = math.exp(0.5 * x)
    return q if p == 0.0 else max(p * half * half - 2.0 * p + q, 0.0)


@formula
def js_log_term(p, q, d, x, theta):
    """`js_term`: an underflow of p or q is harmless."""
    return js_term(p, q, d, theta)


@formula
def hellinger_log_term(p, q, d, x, theta):
    """`hellinger_term`: an underflow of p or q is harmless."""
    return hellinger_term(p, q, d, theta)


@formula
def total_variation_log_term(p, q, d, x, theta):
    """`total_variation_term`: an underflow of p or q is harmless."""
    return total_variation_term(p, q, d, theta)


@kernel
def alpha_log_term(p, q, d, x, theta):
    """`alpha_term` from x."""
    a = theta[0]
    if a < 0.5:  # the divergence of order a from p to q is that of order 1 - a from q to p
        p, q, d, x, a = q, p, -d, -x, 1.0 - a
    beta = a - 1.0
    if d == 0.0:
        return 0.0
    if p == 0.0:
        return q / a
    if q == 0.0 and (x == 0.0 or x == math.inf):
        return math.inf if beta >= 0.0 else p / -beta
    if abs(x) * a < 0.5:
        # q sum over j >= 2 of c_j x**j / j!, c_2 = 1, c_(j+1) = 1 + a c_j: nothing cancels
        power, c, total = 0.5 * x * x, 1.0, 0.0
        for j in range(3, 24):
            total += c * power
            power *= x / j
            c = 1.0 + a * c
        return q * total
    y = beta * x
    if y > 709.0:
        return math.inf
    grown = x if beta == 0.0 else math.expm1(y) / beta
    return (p * grown - d) / a


# Whether the sum `a` for two measures, divided by the mass of the first, is the divergence of the
# normalised distributions to the digits of the input, where the masses differ by the fraction `delta`:
# (value, yes or no). `loss` is the relative error that may be made here, by item size.

_LOSS64 = 1e-14
_LOSS32 = 2e-7


@kernel
def settle_kl(a, delta, loss):
    """For KL, which knows its correction exactly."""
    # Grouping: sum of terms = (mass of p) * KL(normalised) + (term of the two masses), exactly. The first
    # is good to loss / 16 (float32: loss / 2), and that much may cancel.
    if delta * delta <= 1e-17 * a:
        return a, True
    value = a - kl_term(1.0, 1.0 + delta, -delta, (0.0, 0.0))
    return value, a <= (16.0 if loss == _LOSS64 else 2.0) * value


@kernel
def settle_quadratic(a, delta, loss):
    """For sums that grow with the square of p - q."""
    # Near p = q a change of mass by delta changes the sum by delta a and by delta**2.
    return a, delta == 0.0 or (abs(delta) <= loss and delta * delta <= loss * a)


@kernel
def settle_linear(a, delta, loss):
    """For sums that grow with |p - q|."""
    return a, delta == 0.0 or abs(delta) <= loss * min(a, 1.0)


# Error-free arithmetic: compiled without fast-math.


@kernel
def difference(x, y):
    """x - y, where the caller may reorder sums but must not take this apart."""
    return x - y


@kernel
def add_compensated(total, lost, x):
    """Neumaier's step: the new total, and what its roundings have lost so far."""
    s = total + x
    if not abs(s) < math.inf:
        return s, 0.0
    if abs(total) >= abs(x):
        return s, lost + ((total - s) + x)
    return s, lost + ((x - s) + total)


@kernel
def two_product(x, y):
    """x y as an unevaluated sum of two floats (Dekker 1971), with no fused operation needed."""
    c = 134217729.0 * x
    xh = c - (c - x)
    xl = x - xh
    c = 134217729.0 * y
    yh = c - (c - y)
    yl = y - yh
    high = x * y
    return high, ((xh * yh - high) + xh * yl + xl * yh) + xl * yl


@kernel
def cross_difference(x, u, y, v):
    """x u - y v with a relative error of 2**-53 even where the two products nearly agree."""
    a, al = two_product(x, u)
    b, bl = two_product(y, v)
    return (a - b) + (al - bl)


# One chunk: (sum of terms, sum of q - p, sum of p). A negative entry makes the last NaN.


def _lifted_sums(p, q, theta):
    """Template (`term`): any finite entries, zeros and subnormals among them."""
    a, delta, mass, negative = 0.0, 0.0, 0.0, 0
    for i in range(p.size):
        x = np.float64(p[i]) * _LIFT
        y = np.float64(q[i]) * _LIFT
        d = difference(x, y)
        a += term(x, y, d, theta)  # noqa: F821
        delta -= d
        mass += x
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        mass = math.nan
    return a * (1.0 / _LIFT), delta * (1.0 / _LIFT), mass * (1.0 / _LIFT)


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
    return (a + pk * (LN2 * 2.0**-52) + qb, qb - pb, mass), not tiny


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
        a += a32
        delta += delta32
        mass += mass32
    return (a, delta, mass), not tiny


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
    return (0.5 * (a + k * (LN2 * 2.0**-52) + far), 2.0 * delta, mass), not tiny


_kl_lifted = specialise(_lifted_sums, "_kl_lifted", adder, term=kl_term)
_js_lifted = specialise(_lifted_sums, "_js_lifted", adder, term=js_term)


@kernel
def _starts_ordinary(p, q):
    """Whether a few entries are positive: sparse arrays mostly show it, and need not be tried twice."""
    ordinary = True
    for i in range(min(p.size, 4)):
        ordinary &= (p[i] > 0.0) & (q[i] > 0.0)
    return ordinary


@kernel
def _kl_chunk(p, q, theta):
    if _starts_ordinary(p, q):
        sums, ordinary = _kl_sums(p, q)
        if ordinary:
            return sums
    return _kl_lifted(p, q, theta)


@kernel
def _js_chunk(p, q, theta):
    if theta[0] == 0.5 and theta[1] == 0.5 and _starts_ordinary(p, q):
        sums, ordinary = _js_sums(p, q)
        if ordinary:
            return sums
    return _js_lifted(p, q, theta)


# Entries of the normalised distributions.


@kernel
def _scale_to_one(mass):
    """The power of two that brings `mass`, after `_LIFT`, into [1/2, 1), and the mass so scaled."""
    fraction, exponent = math.frexp(mass * _LIFT)
    return math.ldexp(1.0, -exponent), fraction


@kernel
def _entry(p, q, frame):
    """p and q over their masses, and the difference of the two with full relative accuracy."""
    cp, cq, sp, sq, inverse_p, inverse_q, correction = frame
    x = np.float64(p) * _LIFT * cp
    y = np.float64(q) * _LIFT * cq
    d = cross_difference(x, sq, y, sp) * (inverse_p * inverse_q)
    y *= inverse_q
    return x * inverse_p, y, d - correction * y


@adder
def _excess(p, q, frame):
    """The sum of the differences of the entries: what rounding has left of the two masses."""
    total = 0.0
    for i in range(p.size):
        total += _entry(p[i], q[i], frame)[2]
    return total


@kernel
def _frame(p, q, mass_p, mass_q):
    """What `_entry` needs. The masses are sums with rounding; the last number makes up for it."""
    cp, sp = _scale_to_one(mass_p)
    cq, sq = _scale_to_one(mass_q)
    frame = (cp, cq, sp, sq, 1.0 / sp, 1.0 / sq, 0.0)
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _excess(p[low : low + CHUNK], q[low : low + CHUNK], frame)
        total, lost = add_compensated(total, lost, part)
    return (cp, cq, sp, sq, 1.0 / sp, 1.0 / sq, total + lost)


@kernel
def _proportional(p, q, frame):
    """Whether p and q are exact multiples of each other."""
    cp, cq = frame[0], frame[1]
    k = np.argmax(p)
    u, v = np.float64(p[k]) * _LIFT * cp, np.float64(q[k]) * _LIFT * cq
    for i in range(p.size):
        x, y = np.float64(p[i]) * _LIFT * cp, np.float64(q[i]) * _LIFT * cq
        if cross_difference(x, v, y, u) != 0.0:
            return False
    return True


def _refined_sums(p, q, frame, theta):
    """Template (`term`): the sum over normalised entries."""
    a = 0.0
    for i in range(p.size):
        x, y, d = _entry(p[i], q[i], frame)
        a += term(x * _LIFT, y * _LIFT, d * _LIFT, theta)  # noqa: F821
    return a * (1.0 / _LIFT)


def _refined(p, q, mass_p, mass_q, theta):
    """Template (`refined_sums`): the divergence of the normalised distributions, to the last digits."""
    frame = _frame(p, q, mass_p, mass_q)
    if _proportional(p, q, frame):
        return 0.0
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = refined_sums(p[low : low + CHUNK], q[low : low + CHUNK], frame, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    return total + lost


# From the sums of the chunks to the result.


def _tolerances(p):
    """(how far a mass may be from one, the loss allowed to `settle`) for the item size of `p`."""
    single = p.dtype == np.float32
    return (UNIT_TOLERANCE32, _LOSS32) if single else (UNIT_TOLERANCE64, _LOSS64)


@overload(_tolerances)
def _overload_tolerances(p):
    if p.dtype == types.float32:
        return lambda p: (UNIT_TOLERANCE32, _LOSS32)
    return lambda p: (UNIT_TOLERANCE64, _LOSS64)


@kernel
def _unit(mass, p):
    return abs(mass - 1.0) <= _tolerances(p)[0]


@kernel
def _allowed(p, mass_p, mass_q, mass):
    """Whether two masses are finite and what `mass` asks for."""
    if not (mass_p <= LARGEST_MASS and abs(mass_q) <= LARGEST_MASS):
        return False
    if mass == UNIT:
        return _unit(mass_p, p) and _unit(mass_q, p)
    return mass == ANY or (mass_p > 0.0 and mass_q > 0.0)


@kernel
def _total(parts):
    """The sums of all chunks, in order."""
    a, al, d, dl, m, ml = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(parts.shape[0]):
        a, al = add_compensated(a, al, parts[i, 0])
        d, dl = add_compensated(d, dl, parts[i, 1])
        m, ml = add_compensated(m, ml, parts[i, 2])
    return a + al, d + dl, m + ml


def _conclude(p, q, a, delta, mass_p, theta, mass):
    """Template (`settle`, `refined`): the result from the sums."""
    mass_q = mass_p + delta
    if not _allowed(p, mass_p, mass_q, mass):
        return math.nan
    if mass == ANY or a == math.inf:
        return a
    value, settled = settle(a / mass_p, delta / mass_p, _tolerances(p)[1])  # noqa: F821
    return value if settled else refined(p, q, mass_p, mass_q, theta)  # noqa: F821


def _divergence(p, q, theta, mass):
    """Template (`chunk`, `conclude`): the whole computation on one thread."""
    a, al, d, dl, m, ml = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y, z = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821
        a, al = add_compensated(a, al, x)
        d, dl = add_compensated(d, dl, y)
        m, ml = add_compensated(m, ml, z)
    return conclude(p, q, a + al, d + dl, m + ml, theta, mass)  # noqa: F821


def _partial(p, q, theta, first, last, parts):
    """Template (`chunk`): chunks number `first` to `last` - 1, each into its row of `parts`."""
    for i in range(first, last):
        low = i * CHUNK
        parts[i] = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821


def _finish(p, q, parts, theta, mass):
    """Template (`conclude`): the result from the parts."""
    a, delta, mass_p = _total(parts)
    return conclude(p, q, a, delta, mass_p, theta, mass)  # noqa: F821


# Log-probabilities: (maximum, sum of exp(p - maximum)); NaN for NaN or +inf.


@adder
def _exp_sum(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exp(np.float64(p[i]) - shift)
    return total


@kernel
def _log_mass(p):
    top = -math.inf
    for i in range(p.size):
        if not p[i] < math.inf:
            return math.nan, math.nan
        top = max(top, np.float64(p[i]))
    if top == -math.inf:
        return top, 0.0
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _exp_sum(p[low : low + CHUNK], top)
        total, lost = add_compensated(total, lost, part)
    return top, total + lost


@formula
def _log_entry(p, q, cp, cq, offset):
    """exp(p - cp), exp(q - cq), the difference of the two, the logarithm of their ratio."""
    x, y = exp(p - cp), exp(q - cq)
    ratio = (p - q) - offset
    small = expm1_small(ratio) if abs(ratio) < 0.3 else 0.0
    return x, y, (y * small if abs(ratio) < 0.3 else x - y), ratio


@adder
def _log_excess(p, q, cp, cq, offset):
    total = 0.0
    for i in range(p.size):
        total += _log_entry(np.float64(p[i]), np.float64(q[i]), cp, cq, offset)[2]
    return total


def _log_sums(p, q, cp, cq, offset, theta):
    """Template (`term`): the sum over entries exp(p - cp) and exp(q - cq)."""
    a = 0.0
    for i in range(p.size):
        x, y, d, r = _log_entry(np.float64(p[i]), np.float64(q[i]), cp, cq, offset)
        a += term(x * _LIFT, y * _LIFT, d * _LIFT, r, theta)  # noqa: F821
    return a * (1.0 / _LIFT)


@kernel
def _log_frame(p, q, mass):
    """(cp, cq, offset, factor): the shifts of `_log_entry`, and what the sum is to be multiplied by."""
    top_p, sum_p = _log_mass(p)
    top_q, sum_q = _log_mass(q)
    if mass == ANY:
        top = max(top_p, top_q)
        if top == -math.inf:
            top = 0.0
        return top, top, 0.0, math.exp(top) if sum_p >= 0.0 and sum_q >= 0.0 else math.nan
    mass_p, mass_q = math.exp(top_p) * sum_p, math.exp(top_q) * sum_q
    if mass == UNIT and not (_unit(mass_p, p) and _unit(mass_q, p)):
        return 0.0, 0.0, 0.0, math.nan
    if not (sum_p > 0.0 and sum_q > 0.0):
        return 0.0, 0.0, 0.0, math.nan
    lp, lq = math.log(sum_p), math.log(sum_q)
    cp, cq, offset = top_p + lp, top_q + lq, (top_p - top_q) + (lp - lq)
    excess, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _log_excess(p[low : low + CHUNK], q[low : low + CHUNK], cp, cq, offset)
        excess, lost = add_compensated(excess, lost, part)
    return cp, cq, offset + (excess + lost), 1.0


def _log_divergence(p, q, theta, mass):
    """Template (`log_sums`): the divergence of distributions given by their logarithms."""
    cp, cq, offset, factor = _log_frame(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = p[low : low + CHUNK], q[low : low + CHUNK]
        part = log_sums(x, y, cp, cq, offset, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    return (total + lost) * factor


# Entropy and cross-entropy: -log(q / mass) = log(top / q) + log1p((mass - top) / top) for any number `top`.
# With top = 1 it is one pass, and good unless little is left of the two parts. With top = max q both parts
# are >= 0, so that a distribution with one dominant entry keeps its digits too.


@formula
def _cross_term(p, q, top):
    value = p * log_ratio(top, q, top - q)
    value = math.inf if q == 0.0 else value
    return 0.0 if p == 0.0 else value


@adder
def _cross_sums(p, q, top):
    """(sum of p log(top / q), sum of the q below top, number of q at the top, sum of p)."""
    a, rest, at_top, mass, negative = 0.0, 0.0, 0, 0.0, 0
    lifted = top * _LIFT
    for i in range(p.size):
        x = np.float64(p[i]) * _LIFT
        y = np.float64(q[i]) * _LIFT
        a += _cross_term(x, y, lifted)
        rest += y if y != lifted else 0.0
        at_top += y == lifted
        mass += x
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        mass = math.nan
    return a * (1.0 / _LIFT), rest * (1.0 / _LIFT), at_top, mass * (1.0 / _LIFT)


@kernel
def _cross_totals(p, q, top):
    """(sum of p log(top / q), sum of q less one top, sum of p)."""
    a, al, r, rl, m, ml, at_top = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for low in range(0, p.size, CHUNK):
        x, y, n, z = _cross_sums(p[low : low + CHUNK], q[low : low + CHUNK], top)
        a, al = add_compensated(a, al, x)
        r, rl = add_compensated(r, rl, y)
        m, ml = add_compensated(m, ml, z)
        at_top += n
    return a + al, (r + rl) + (at_top - 1) * top, m + ml


@kernel
def cross_entropy(p, q, theta, mass):
    """-sum p log q."""
    total, rest, mass_p = _cross_totals(p, q, 1.0)
    mass_q = 1.0 + rest
    if not _allowed(p, mass_p, mass_q, mass):
        return math.nan
    if mass == ANY:
        return total
    value, shift = total / mass_p, math.log(mass_q)
    if value + shift > 0.02 * (value + abs(shift)):
        return value + shift
    top = 0.0
    for i in range(q.size):
        top = max(top, np.float64(q[i]))
    total, rest, _ = _cross_totals(p, q, top)
    return total / mass_p + math.log1p(rest / top)


@formula
def _log_cross_term(x, q, top):
    return 0.0 if x == 0.0 else x * (top - q)


@adder
def _log_cross_sums(p, q, shift, top):
    """(sum of exp(p - shift) (top - q), sum of exp(q - top) below the top, number at the top)."""
    a, rest, at_top = 0.0, 0.0, 0
    for i in range(p.size):
        y = np.float64(q[i])
        a += _log_cross_term(exp(np.float64(p[i]) - shift), y, top)
        rest += exp(y - top) if y != top else 0.0
        at_top += y == top
    return a, rest, at_top


@kernel
def log_cross_entropy(p, q, theta, mass):
    """-sum exp(p) q."""
    top_p, sum_p = _log_mass(p)
    top_q, sum_q = _log_mass(q)
    if not (sum_p >= 0.0 and sum_q >= 0.0):
        return math.nan
    if top_p == -math.inf:
        return 0.0 if mass == ANY else math.nan
    if top_q == -math.inf:
        return math.inf if mass == ANY else math.nan
    if mass == UNIT and not (_unit(math.exp(top_p) * sum_p, p) and _unit(math.exp(top_q) * sum_q, p)):
        return math.nan
    a, al, r, rl, at_top = 0.0, 0.0, 0.0, 0.0, 0
    for low in range(0, p.size, CHUNK):
        x, y = p[low : low + CHUNK], q[low : low + CHUNK]
        part, rest, n = _log_cross_sums(x, y, top_p, top_q)
        a, al = add_compensated(a, al, part)
        r, rl = add_compensated(r, rl, rest)
        at_top += n
    if mass == ANY:
        return ((a + al) - sum_p * top_q) * math.exp(top_p)
    return (a + al) / sum_p + math.log1p((r + rl) + (at_top - 1))


# Bhattacharyya and Renyi: functions of one sum over normalised entries.


@adder
def _masses(p, q):
    a, b, negative = 0.0, 0.0, 0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        a += x
        b += y
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        a = math.nan
    return a, b


@kernel
def _masses_of(p, q):
    a, al, b, bl = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = _masses(p[low : low + CHUNK], q[low : low + CHUNK])
        a, al = add_compensated(a, al, x)
        b, bl = add_compensated(b, bl, y)
    return a + al, b + bl


@kernel
def _order_from_sum(a, alpha):
    """The Renyi divergence from the alpha-divergence `a`, and whether that keeps the digits."""
    beta = alpha - 1.0
    if alpha == 1.0:
        return a, True
    x = alpha * beta * a
    return math.log1p(x) / beta if x > -1.0 else math.inf, -0.5 < x < 1.0


def _renyi_passes(p, q, alpha, frame):
    """Template (`read`): the Renyi divergence of the entries `read(p, q, frame)`."""
    theta = (alpha, 0.0)
    a, lost, below, above, top = 0.0, 0.0, 0.0, 0.0, -math.inf
    for i in range(p.size):
        x, y, d, r = read(p[i], q[i], frame)  # noqa: F821
        if y > 0.0:
            if x > 0.0:
                above += y
            else:
                below += y
        if x > 0.0:
            top = max(top, r)
        if alpha < math.inf:
            a, lost = add_compensated(a, lost, alpha_log_term(x, y, d, r, theta))
    if alpha == math.inf:
        return max(top, 0.0)
    if alpha == 0.0:
        return -math.log1p(-below) if below < 0.5 else -math.log(above / (above + below))
    value, exact = _order_from_sum(a + lost, alpha)
    if exact or top == -math.inf:
        return value
    beta = alpha - 1.0
    if top == math.inf and beta > 0.0:
        return math.inf
    # log of sum p exp(beta r), with the largest exponent taken out
    peak = -math.inf
    for i in range(p.size):
        x, y, d, r = read(p[i], q[i], frame)  # noqa: F821
        if x > 0.0 and r < math.inf:
            peak = max(peak, beta * r)
    if peak == -math.inf:
        return math.inf
    total, lost = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r = read(p[i], q[i], frame)  # noqa: F821
        if x > 0.0 and r < math.inf:
            total, lost = add_compensated(total, lost, x * math.exp(beta * r - peak))
    return max((peak + math.log(total + lost)) / beta, 0.0)


@kernel
def _read(p, q, frame):
    x, y, d = _entry(p, q, frame)
    r = math.inf if y == 0.0 else -math.inf
    if x > 0.0 and y > 0.0:
        r = log_ratio(x * _LIFT, y * _LIFT, d * _LIFT)
    return x, y, d, r


@kernel
def _read_log(p, q, frame):
    return _log_entry(np.float64(p), np.float64(q), frame[0], frame[1], frame[2])


_renyi_plain = specialise(_renyi_passes, "_renyi_plain", read=_read)
_renyi_log = specialise(_renyi_passes, "_renyi_log", read=_read_log)


@kernel
def renyi(p, q, theta, mass):
    """log(sum p**a q**(1-a)) / (a - 1), a = theta[0] from 0 to inf; KL for a = 1."""
    mass_p, mass_q = _masses_of(p, q)
    if not _allowed(p, mass_p, mass_q, mass):
        return math.nan
    frame = _frame(p, q, mass_p, mass_q)
    if _proportional(p, q, frame):
        return 0.0
    return _renyi_plain(p, q, theta[0], frame)


@kernel
def log_renyi(p, q, theta, mass):
    """The same for log-probabilities."""
    cp, cq, offset, factor = _log_frame(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    return _renyi_log(p, q, theta[0], (cp, cq, offset))


@kernel
def _bhattacharyya(hellinger, overlap):
    return -math.log1p(-hellinger) if hellinger < 0.5 else -math.log(overlap)


@adder
def _overlap_sums(p, q, frame):
    h, overlap = 0.0, 0.0
    for i in range(p.size):
        x, y, d = _entry(p[i], q[i], frame)
        x, y, d = x * _LIFT, y * _LIFT, d * _LIFT
        h += hellinger_term(x, y, d, (0.0, 0.0))
        overlap += math.sqrt(x) * math.sqrt(y)
    return h * (1.0 / _LIFT), overlap * (1.0 / _LIFT)


@kernel
def bhattacharyya(p, q, theta, mass):
    """-log sum sqrt(p q)."""
    mass_p, mass_q = _masses_of(p, q)
    if not _allowed(p, mass_p, mass_q, mass):
        return math.nan
    frame = _frame(p, q, mass_p, mass_q)
    if _proportional(p, q, frame):
        return 0.0
    h, hl, o, ol = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = _overlap_sums(p[low : low + CHUNK], q[low : low + CHUNK], frame)
        h, hl = add_compensated(h, hl, x)
        o, ol = add_compensated(o, ol, y)
    return _bhattacharyya(h + hl, o + ol)


@kernel
def log_bhattacharyya(p, q, theta, mass):
    """The same for log-probabilities."""
    cp, cq, offset, factor = _log_frame(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    h, hl, o, ol = 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        s, t = np.float64(p[i]), np.float64(q[i])
        x, y, d, _ = _log_entry(s, t, cp, cq, offset)
        h, hl = add_compensated(h, hl, hellinger_term(x, y, d, (0.0, 0.0)))
        half = 0.5 * ((s - cp) + (t - cq)) if x > 0.0 and y > 0.0 else -math.inf
        o, ol = add_compensated(o, ol, math.exp(half))
    return _bhattacharyya(h + hl, o + ol)


# Small steps for compiled callers, which pick one of each when their code is compiled.


@kernel
def same(x):
    """The result as it is."""
    return x


@kernel
def root(x):
    """The result is the square root."""
    return math.sqrt(x)


@kernel
def one(base):
    """The unit is the nat."""
    return 1.0


@kernel
def log_unit(base):
    """The number of nats in one unit of the logarithm to `base`; NaN unless 1 < base < inf."""
    return math.log(base) if 1.0 < base < math.inf else math.nan


# The gradient of the generalised divergence.


@kernel
def kl_grad(p, q, grad_p, grad_q):
    """Write log(p / q) and 1 - p / q into `grad_p` and `grad_q`, 0 where both are 0; return the value."""
    for i in range(p.size):
        x, y = np.float64(p[i]) * _LIFT, np.float64(q[i]) * _LIFT
        if x > 0.0 and y > 0.0:
            grad_p[i] = log_ratio(x, y, x - y)
            grad_q[i] = (y - x) / y
        elif x > 0.0:
            grad_p[i], grad_q[i] = math.inf, -math.inf
        elif y > 0.0:
            grad_p[i], grad_q[i] = -math.inf, 1.0
        else:
            grad_p[i], grad_q[i] = 0.0, 0.0
    return kl(p, q, (0.0, 0.0), ANY)


# Assembly: one divergence from its parts.


class Divergence(NamedTuple):
    """The compiled kernels of one divergence."""

    whole: Any  #: (p, q, theta, mass) -> float, two 1-D arrays
    log: Any  #: the same for log-probabilities
    partial: Any = None  #: (p, q, theta, first, last, parts): some chunks of a long array
    finish: Any = None  #: (p, q, parts, theta, mass) -> float, from all parts


def _assemble(name, term, log_term, settle, chunk=None):
    if chunk is None:
        chunk = specialise(_lifted_sums, f"_{name}_chunk", adder, term=term)
    refined_sums = specialise(_refined_sums, f"_{name}_refined_sums", adder, term=term)
    refined = specialise(_refined, f"_{name}_refined", refined_sums=refined_sums)
    conclude = specialise(_conclude, f"_{name}_conclude", settle=settle, refined=refined)
    log_sums = specialise(_log_sums, f"_log_{name}_sums", adder, term=log_term)
    return Divergence(
        whole=specialise(_divergence, name, chunk=chunk, conclude=conclude),
        log=specialise(_log_divergence, f"log_{name}", log_sums=log_sums),
        partial=specialise(_partial, f"_{name}_partial", chunk=chunk),
        finish=specialise(_finish, f"_{name}_finish", conclude=conclude),
    )


_SETTLED = {
    "kl": (kl_term, kl_log_term, settle_kl, _kl_chunk),
    "js": (js_term, js_log_term, settle_quadratic, _js_chunk),
    "jeffreys": (jeffreys_term, jeffreys_log_term, settle_quadratic),
    "hellinger": (hellinger_term, hellinger_log_term, settle_quadratic),
    "total_variation": (total_variation_term, total_variation_log_term, settle_linear),
    "chi2": (chi2_term, chi2_log_term, settle_quadratic),
    "alpha_divergence": (alpha_term, alpha_log_term, settle_quadratic),
}

#: The kernels of each divergence, by the name of its function.
KERNELS = Lazily(
    {name: partial(_assemble, name, *parts) for name, parts in _SETTLED.items()}
    | {
        "renyi": lambda: Divergence(renyi, log_renyi),
        "bhattacharyya": lambda: Divergence(bhattacharyya, log_bhattacharyya),
        "cross_entropy": lambda: Divergence(cross_entropy, log_cross_entropy),
    }
)

kl = KERNELS["kl"].whole
js = KERNELS["js"].whole

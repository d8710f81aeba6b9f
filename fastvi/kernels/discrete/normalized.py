"""Entries of the normalised distributions, with the difference of two to full relative accuracy.

Entries near zero are no trouble: everything is computed times `LIFT`, which makes subnormals normal numbers,
exactly, and the result is brought back by `UNLIFT` at the very end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel
from ..numerics.elementary import LN2, exp, expm1_small, log, log_ratio, scaled_exp
from ..numerics.error_free import add_compensated, cross_difference
from .masses import ANY, LARGEST_MASS, UNIT, UNIT_TOLERANCE32, UNIT_TOLERANCE64

#: Entries per chunk. 1000 additions per vector lane leave a rounding near 5e-16 in a chunk's sum, and what is
#: done once per chunk (0.1 µs) is lost in it.
CHUNK = 16384

#: The relative error that may be made where masses are not exactly one, by item size.
LOSS64 = 1e-14
LOSS32 = 2e-7

#: Sums, masses and normalised entries are computed times this: subnormals become normal numbers, exactly.
LIFT = 2.0**54
UNLIFT = 2.0**-54


class Scale(NamedTuple):
    """What brings the entries of one array to a mass from LIFT / 2 to LIFT."""

    first: float  #: a power of two
    second: float  #: another: their product may be beyond the floats
    mass: float  #: the mass so scaled


class Frame(NamedTuple):
    """What `entry` needs to normalise the entries of two arrays."""

    p: Scale
    q: Scale
    correction: float  #: of the difference of two entries, for the rounding of the masses


class LogFrame(NamedTuple):
    """What `read_log` needs to normalise log-probabilities."""

    p: float  #: taken away from those of p
    q: float
    offset: float  #: taken away from their difference


@inlined
def tolerances(p):
    """(how far a mass may be from one, the loss allowed to `normalise`) for the item size of `p`."""
    single = p.itemsize == 4
    return (UNIT_TOLERANCE32, LOSS32) if single else (UNIT_TOLERANCE64, LOSS64)


@kernel
def is_unit(mass, p):
    """Whether a sum of entries like those of `p` is one, within rounding."""
    return abs(mass - 1.0) <= tolerances(p)[0]


@kernel
def allowed(p, mass_p, mass_q, mass):
    """Whether two (lifted) masses are finite and what `mass` asks for."""
    if not (mass_p <= LARGEST_MASS * LIFT and abs(mass_q) <= LARGEST_MASS * LIFT):
        return False
    if mass == UNIT:
        return is_unit(mass_p * UNLIFT, p) and is_unit(mass_q * UNLIFT, p)
    return mass == ANY or (mass_p > 0.0 and mass_q > 0.0)


@adder
def _masses(p, q):
    a, b, negative = 0.0, 0.0, 0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        a += x * LIFT
        b += y * LIFT
        negative += (x < 0.0) | (y < 0.0)
    if negative:
        a = math.nan
    return a, b


@kernel
def masses_of(p, q):
    """The two (lifted) masses; NaN where an entry is negative."""
    a, al, b, bl = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = _masses(p[low : low + CHUNK], q[low : low + CHUNK])
        a, al = add_compensated(a, al, x)
        b, bl = add_compensated(b, bl, y)
    return a + al, b + bl


@kernel
def over_mass(a, mass):
    """A lifted sum over a lifted mass, lifted: in the order that keeps subnormals out."""
    return a / (mass * UNLIFT) if mass > 1.0 else a / mass * LIFT


@kernel
def _scale(mass):
    """The scale for an unlifted mass."""
    fraction, exponent = math.frexp(mass)
    k = 108 - exponent
    return Scale(math.ldexp(1.0, k // 2), math.ldexp(1.0, k - k // 2), fraction * LIFT)


@formula
def _scaled(p, scale):
    return np.float64(p) * scale.first * scale.second


@kernel
def entry(p, q, frame):
    """LIFT times: p and q over their masses, and the difference of the two to full relative accuracy."""
    x, y = _scaled(p, frame.p), _scaled(q, frame.q)
    sp, sq = frame.p.mass, frame.q.mass
    inverse_p, inverse_q = LIFT / sp, LIFT / sq
    d = cross_difference(x, sq, y, sp) * (inverse_p * inverse_q * UNLIFT)
    y *= inverse_q
    return x * inverse_p, y, d - frame.correction * y


@adder
def _excess(p, q, frame):
    """The sum of the differences of the entries: what rounding has left of the two masses."""
    total = 0.0
    for i in range(p.size):
        total += entry(p[i], q[i], frame)[2]
    return total


@kernel
def make_frame(p, q, mass_p, mass_q):
    """The frame for two (lifted) masses, which are sums with rounding: its correction makes up for it."""
    frame = Frame(_scale(mass_p), _scale(mass_q), 0.0)
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _excess(p[low : low + CHUNK], q[low : low + CHUNK], frame)
        total, lost = add_compensated(total, lost, part)
    return Frame(frame.p, frame.q, (total + lost) * UNLIFT)


@kernel
def plain_frame():
    """The frame that leaves the entries as they are."""
    scale = Scale(LIFT, 1.0, LIFT)
    return Frame(scale, scale, 0.0)


@kernel
def proportional(p, q, frame):
    """Whether p and q are exact multiples of each other."""
    k = np.argmax(p)
    u, v = _scaled(p[k], frame.p), _scaled(q[k], frame.q)
    for i in range(p.size):
        if cross_difference(_scaled(p[i], frame.p), v, _scaled(q[i], frame.q), u) != 0.0:
            return False
    return True


@formula
def read(p, q, frame):
    """An `entry`, log(p / q) (inf where q = 0, else -inf where p = 0), and log p."""
    x, y, d = entry(p, q, frame)
    r = math.inf if y == 0.0 else log_ratio(x, y, d)
    return x, y, d, -math.inf if x == 0.0 else r, -math.inf if x == 0.0 else log(x) - 54.0 * LN2


@adder
def _exp_sum(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exp(np.float64(p[i]) - shift)
    return total


@kernel
def log_mass(p):
    """(the maximum, the sum of exp(p - maximum)); NaN where an entry is NaN or +inf."""
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
def read_log(p, q, frame):
    """The same for log-probabilities, where `frame` is from `make_log_frame`."""
    u, v = np.float64(p), np.float64(q)
    x, y = scaled_exp(LIFT, u - frame.p), scaled_exp(LIFT, v - frame.q)
    r = (u - v) - frame.offset
    near = abs(r) < 0.3
    small = expm1_small(r) if near else 0.0
    return x, y, (y * small if near else x - y), r, u - frame.p


@adder
def _log_excess(p, q, frame):
    total = 0.0
    for i in range(p.size):
        total += read_log(p[i], q[i], frame)[2]
    return total


@kernel
def make_log_frame(p, q, mass):
    """What `read_log` needs, and what its sums are to be multiplied by: NaN for refused input."""
    top_p, sum_p = log_mass(p)
    top_q, sum_q = log_mass(q)
    refused = LogFrame(0.0, 0.0, 0.0), math.nan
    if not (sum_p >= 0.0 and sum_q >= 0.0):
        return refused
    if mass == ANY:
        top = max(top_p, top_q)
        if top == -math.inf:
            top = 0.0
        return LogFrame(top, top, 0.0), math.exp(top)
    if mass == UNIT and not (is_unit(math.exp(top_p) * sum_p, p) and is_unit(math.exp(top_q) * sum_q, p)):
        return refused
    if not (sum_p > 0.0 and sum_q > 0.0):
        return refused
    lp, lq = math.log(sum_p), math.log(sum_q)
    frame = LogFrame(top_p + lp, top_q + lq, (top_p - top_q) + (lp - lq))
    excess, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _log_excess(p[low : low + CHUNK], q[low : low + CHUNK], frame)
        excess, lost = add_compensated(excess, lost, part)
    return LogFrame(frame.p, frame.q, frame.offset + (excess + lost) * UNLIFT), 1.0

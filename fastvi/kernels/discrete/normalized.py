"""Masses of two arrays, and the entries of the normalised distributions. Used by all divergences.

The difference of two normalised entries has full relative accuracy. All is computed times `LIFT`, which makes
subnormals normal numbers, exactly; `UNLIFT` takes the factor out of the result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel
from ..numerics.elementary import LN2, exp, expm1_small, log, log_ratio, scaled_exp
from ..numerics.error_free import add_compensated, cross_difference
from .masses import ANY, LARGEST_MASS, UNIT, UNIT_TOLERANCE32, UNIT_TOLERANCE64

#: Entries per chunk. 1000 additions per vector lane leave a rounding error near 5e-16 in a chunk's sum, and
#: the 0.1 µs that each chunk costs are negligible beside its loop.
CHUNK = 16384

#: The largest relative error from masses that are not exactly one, by item size.
LOSS64 = 1e-14
LOSS32 = 2e-7

#: Factor of all sums, masses and normalised entries, and its inverse.
LIFT = 2.0**54
UNLIFT = 2.0**-54


class Scale(NamedTuple):
    """Powers of two that scale one array to a mass from LIFT / 2 to LIFT."""

    first: float
    second: float  #: apart, because the product of the two may overflow
    mass: float  #: the scaled mass


class Normalization(NamedTuple):
    """Constants of `entry` for two arrays."""

    p: Scale
    q: Scale
    correction: float  #: for the rounding of the masses: this times q is subtracted from p - q


class LogNormalization(NamedTuple):
    """Constants of `log_entry` for two arrays of log-probabilities."""

    p: float  #: subtracted from log p
    q: float  #: subtracted from log q
    offset: float  #: subtracted from log p - log q


@inlined
def tolerances(p):
    """(the tolerance of a unit mass, the loss allowed to `normalise`) for the item size of `p`."""
    single = p.itemsize == 4
    return (UNIT_TOLERANCE32, LOSS32) if single else (UNIT_TOLERANCE64, LOSS64)


@kernel
def is_unit(mass, p):
    """Whether a mass is one within the tolerance for the item size of `p`."""
    return abs(mass - 1.0) <= tolerances(p)[0]


@kernel
def allowed(p, mass_p, mass_q, mass):
    """Whether two (lifted) masses are finite and as `mass` requires."""
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
    """The two (lifted) masses; the first is NaN where an entry of either is negative."""
    a, al, b, bl = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = _masses(p[low : low + CHUNK], q[low : low + CHUNK])
        a, al = add_compensated(a, al, x)
        b, bl = add_compensated(b, bl, y)
    return a + al, b + bl


@kernel
def over_mass(a, mass):
    """A lifted sum over a lifted mass, lifted. The order of the two operations avoids subnormals."""
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
def entry(p, q, normalization):
    """LIFT times: p and q over their masses, and the difference of the two to full relative accuracy."""
    x, y = _scaled(p, normalization.p), _scaled(q, normalization.q)
    sp, sq = normalization.p.mass, normalization.q.mass
    inverse_p, inverse_q = LIFT / sp, LIFT / sq
    d = cross_difference(x, sq, y, sp) * (inverse_p * inverse_q * UNLIFT)
    y *= inverse_q
    return x * inverse_p, y, d - normalization.correction * y


@adder
def _excess(p, q, normalization):
    """The sum of the differences of the entries, which is 0 but for the rounding of the two masses."""
    total = 0.0
    for i in range(p.size):
        total += entry(p[i], q[i], normalization)[2]
    return total


@kernel
def make_normalization(p, q, mass_p, mass_q):
    """The normalization for two (lifted) masses; its correction makes up for their rounding."""
    normalization = Normalization(_scale(mass_p), _scale(mass_q), 0.0)
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _excess(p[low : low + CHUNK], q[low : low + CHUNK], normalization)
        total, lost = add_compensated(total, lost, part)
    return Normalization(normalization.p, normalization.q, (total + lost) * UNLIFT)


@kernel
def identity_normalization():
    """The normalization that does not change the entries."""
    scale = Scale(LIFT, 1.0, LIFT)
    return Normalization(scale, scale, 0.0)


@kernel
def proportional(p, q, normalization):
    """Whether p and q are exact multiples of each other."""
    k = np.argmax(p)
    u, v = _scaled(p[k], normalization.p), _scaled(q[k], normalization.q)
    for i in range(p.size):
        if cross_difference(_scaled(p[i], normalization.p), v, _scaled(q[i], normalization.q), u) != 0.0:
            return False
    return True


@formula
def entry_with_logs(p, q, normalization):
    """An `entry`, log(p / q) (-inf where p = 0, else inf where q = 0), and log p."""
    x, y, d = entry(p, q, normalization)
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
def log_entry(p, q, normalization):
    """`entry_with_logs` for log-probabilities; the normalization is from `make_log_normalization`."""
    u, v = np.float64(p), np.float64(q)
    x, y = scaled_exp(LIFT, u - normalization.p), scaled_exp(LIFT, v - normalization.q)
    r = (u - v) - normalization.offset
    near = abs(r) < 0.3
    small = expm1_small(r) if near else 0.0
    return x, y, (y * small if near else x - y), r, u - normalization.p


@adder
def _log_excess(p, q, normalization):
    total = 0.0
    for i in range(p.size):
        total += log_entry(p[i], q[i], normalization)[2]
    return total


@kernel
def make_log_normalization(p, q, mass):
    """The normalization for log-probabilities, and the factor of its sums: NaN for invalid input."""
    top_p, sum_p = log_mass(p)
    top_q, sum_q = log_mass(q)
    refused = LogNormalization(0.0, 0.0, 0.0), math.nan
    if not (sum_p >= 0.0 and sum_q >= 0.0):
        return refused
    if mass == ANY:
        top = max(top_p, top_q)
        if top == -math.inf:
            top = 0.0
        return LogNormalization(top, top, 0.0), math.exp(top)
    if mass == UNIT and not (is_unit(math.exp(top_p) * sum_p, p) and is_unit(math.exp(top_q) * sum_q, p)):
        return refused
    if not (sum_p > 0.0 and sum_q > 0.0):
        return refused
    lp, lq = math.log(sum_p), math.log(sum_q)
    normalization = LogNormalization(top_p + lp, top_q + lq, (top_p - top_q) + (lp - lq))
    excess, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _log_excess(p[low : low + CHUNK], q[low : low + CHUNK], normalization)
        excess, lost = add_compensated(excess, lost, part)
    return LogNormalization(
        normalization.p, normalization.q, normalization.offset + (excess + lost) * UNLIFT
    ), 1.0

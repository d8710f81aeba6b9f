"""Masses of two arrays, and the entries of the normalised distributions. Used by all divergences.

The difference of two normalised entries has full relative accuracy. All is computed times `LIFT`, which makes
subnormals normal numbers, exactly; `UNLIFT` takes the factor out of the result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, formula, inlined, kernel
from ..numerics.elementary import LN2, exponent_step, log, log_ratio
from ..numerics.error_free import add_compensated, cross_difference, difference, fma, two_sum
from .masses import ANY, LARGEST_MASS, UNIT, UNIT_TOLERANCE32, UNIT_TOLERANCE64
from .reading import all_of, piece

#: Entries per chunk. The chunks are added up with compensation. Within one, equal addends beside a large one
#: all round the same way: 64 additions per vector lane leave at most 7e-15 of it (16384 entries: 1e-13).
CHUNK = 1024

#: The same for loops that are not vectorised, or with few lanes: 1024 additions in a row leave 1.2e-13. In
#: sums from which masses are subtracted, so do 256 in each of four lanes, of a loop that is not unrolled.
PART = 256

#: The largest relative error from masses that are not exactly one, by item size.
LOSS64 = 1e-14
LOSS32 = 2e-7

#: Factor of all normalised entries, and its inverse.
LIFT = 2.0**54
UNLIFT = 2.0**-54

#: Masses in between leave the fast loops far from overflow and underflow.
_LEAST_MASS, _MOST_MASS = 2.0**-300, 2.0**300

#: Relative difference from the ratio of the masses below which the ratio of two entries takes its place, and
#: up to which arrays are near.
_NEAR = 1e-3

#: The part of the sizes of all differences that their sum may be: it is to have its digits.
MOST_EXCESS = 0.9

#: Entries from here on do not underflow where they are divided by masses up to the second.
TINY, MOST_OF_TINY = 2.0**-900, 2.0**170

#: Masses below this are scaled as if they were this: the factor stays finite.
LEAST_SCALED = 2.0**-960


class Masses(NamedTuple):
    """The sums of two arrays, and whether one has zeros where the other is positive."""

    p: float  #: NaN where an entry of p or q is negative or no number
    q: float
    p_alone: bool  #: p > 0 = q somewhere
    q_alone: bool  #: q > 0 = p somewhere
    tiny: bool  #: a positive entry is below `TINY`
    excess: float  #: the sum of all p / mass - q / mass, with the inverses rounded; NaN where it is not known


class Normalization(NamedTuple):
    """Constants of `entry` for two arrays.

    Entries are in the ratio of the exact masses if p ``base_q`` = q (``base_p`` + ``first`` + ``second``).
    """

    scale_p: float  #: a power of two; the other fields are of the scaled arrays
    scale_q: float
    mass_p: float
    mass_q: float
    base_p: float  #: the two masses, or two entries
    base_q: float
    first: float  #: corrections of `base_p`, each far smaller than the one before
    second: float


@kernel
def is_unit(mass, p):
    """Whether a mass is one within the tolerance for the item size of `p`."""
    return abs(mass - 1.0) <= (UNIT_TOLERANCE32 if p.itemsize == 4 else UNIT_TOLERANCE64)


@kernel
def allowed(p, mass_p, mass_q, mass):
    """Whether two masses are finite and as `mass` requires."""
    if not (mass_p <= LARGEST_MASS and mass_q <= LARGEST_MASS):
        return False
    if mass == UNIT:
        return is_unit(mass_p, p) and is_unit(mass_q, p)
    return mass == ANY or (mass_p > 0.0 and mass_q > 0.0)


@inlined
def moderate(p, mass_p, mass_q, mass):
    """`allowed` for masses at which the fast loops hold."""
    if mass == UNIT:
        return is_unit(mass_p, p) & is_unit(mass_q, p)
    return (min(mass_p, mass_q) > _LEAST_MASS) & (max(mass_p, mass_q) < _MOST_MASS)


@adder
def _sums_and_small(p, q):
    a, b, small = 0.0, 0.0, 0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        a += x
        b += y
        small += min(x, y) < TINY
    return a, b, small


@adder
def _flags(p, q):
    # Counts: as booleans the flags take 0.5 ns an entry instead of 0.22.
    negative, p_alone, q_alone, tiny = 0, 0, 0, 0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        negative += (x < 0.0) | (y < 0.0)
        p_alone += (x > 0.0) & (y == 0.0)
        q_alone += (y > 0.0) & (x == 0.0)
        tiny += ((x > 0.0) & (x < TINY)) | ((y > 0.0) & (y < TINY))
    return negative, p_alone, q_alone, tiny


@inlined
def _masses(p, q, a, b, small):
    negative, p_alone, q_alone, tiny = _flags(p, q) if small > 0 else (0, 0, 0, 0)
    return Masses(math.nan if negative > 0 else a, b, p_alone > 0, q_alone > 0, tiny > 0, math.nan)


@inlined
def _mass_sums(p, q):
    return _masses(p, q, *_sums_and_small(p, q))


@kernel
def no_masses():
    """The masses of no entries."""
    return Masses(0.0, 0.0, False, False, False, math.nan)


@inlined
def _add(part, total, lost):
    a, al = add_compensated(total.p, lost.p, part.p)
    b, bl = add_compensated(total.q, lost.q, part.q)
    alone = total.p_alone | part.p_alone, total.q_alone | part.q_alone
    total = Masses(a, b, *alone, total.tiny | part.tiny, math.nan)
    return total, Masses(al, bl, False, False, False, math.nan)


@inlined
def add_chunk(p, q, total, lost):
    """The masses with those of one more chunk, and what the roundings of their sums have lost."""
    return _add(_mass_sums(p, q), total, lost)


@inlined
def with_rest(total, lost):
    """The masses with what their roundings have lost."""
    return Masses(total.p + lost.p, total.q + lost.q, total.p_alone, total.q_alone, total.tiny, total.excess)


@kernel
def masses_of(p, q):
    """The masses of two arrays."""
    if p.size <= CHUNK:
        return _mass_sums(all_of(p, CHUNK), all_of(q, CHUNK))
    total, lost = no_masses(), no_masses()
    for low in range(0, p.size, CHUNK):
        total, lost = add_chunk(piece(p, low, CHUNK), piece(q, low, CHUNK), total, lost)
    return with_rest(total, lost)


@adder
def _sums_and_rests(p, q, ratio, ratio_low):
    """`_sums_and_small`, the sum of all p - q ratio, and that of their sizes, for a ratio in two floats."""
    a, b, small, rest, size = 0.0, 0.0, 0, 0.0, 0.0
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        d = difference(fma(-ratio, y, x), ratio_low * y)
        a += x
        b += y
        small += min(x, y) < TINY
        rest += d
        size += abs(d)
    return a, b, small, rest, size


@kernel
def masses_with_excess(p, q):
    """The same, with the excess where the arrays are long and near."""
    if p.size <= CHUNK:
        return masses_of(p, q)
    x, y = piece(p, 0, CHUNK), piece(q, 0, CHUNK)
    part = _mass_sums(x, y)
    ratio = part.p / part.q
    ratio_low = _sums_and_rests(x, y, ratio, 0.0)[3] / part.q
    total, lost = no_masses(), no_masses()
    near, rest, rest_lost, size = True, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = piece(p, low, CHUNK), piece(q, low, CHUNK)
        # The differences take less time here than in a pass of their own, which reads the arrays again.
        if near:
            a, b, small, d, sizes = _sums_and_rests(x, y, ratio, ratio_low)
            total, lost = _add(_masses(x, y, a, b, small), total, lost)
            rest, rest_lost = add_compensated(rest, rest_lost, d)
            size += sizes
            near = size <= _NEAR * total.p
        else:
            total, lost = add_chunk(x, y, total, lost)
    total = with_rest(total, lost)
    rest += rest_lost
    if not (near and abs(rest) <= MOST_EXCESS * size):
        return total
    inverse_p, inverse_q = 1.0 / total.p, 1.0 / total.q
    excess = inverse_p * rest + total.q * (fma(inverse_p, ratio, -inverse_q) + inverse_p * ratio_low)
    return Masses(total.p, total.q, total.p_alone, total.q_alone, total.tiny, excess)


@kernel
def _scale(mass):
    """The power of two that brings a mass near `LIFT`."""
    mass = max(mass, LEAST_SCALED)
    return exponent_step(LIFT, mass)[0] / mass


@kernel
def make_normalization(masses):
    """The normalization for two masses > 0."""
    scale_p, scale_q = _scale(masses.p), _scale(masses.q)
    mass_p, mass_q = masses.p * scale_p, masses.q * scale_q
    return Normalization(scale_p, scale_q, mass_p, mass_q, mass_p, mass_q, 0.0, 0.0)


@kernel
def make_scaling(masses):
    """A normalization that multiplies both arrays by one power of two, and the factor of its sums."""
    # Large masses are not scaled down: small entries would become subnormal.
    scale = max(_scale(max(masses.p, masses.q)) * UNLIFT, 1.0)
    return Normalization(scale, scale, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0), 1.0 / scale


@kernel
def as_they_are():
    """The normalization that changes nothing."""
    return Normalization(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


@inlined
def sensitivity(theta):
    """How many times the relative change of a mass changes the sum: the order, where there is one."""
    return max(abs(theta[0]), 1.0)


@kernel
def has_digits(a, excess, theta, smooth, one):
    """Whether a sum has its digits though the sum of all p - q is `excess`, not 0; both times `one`.

    That is what is wrong with the masses, some 1e-16. It changes a `smooth` sum in second order.
    """
    if smooth:
        return abs(excess) * sensitivity(theta) <= 1e-14 * one and excess * excess <= 1e-15 * one * a
    return abs(excess) <= 1e-14 * a


@kernel
def corrected(normalization, excess):
    """The normalization without this sum of all differences, which is the rounding of the two masses."""
    n = normalization
    change = excess * UNLIFT * n.mass_p * (n.base_q / n.mass_q)
    first, second = (change, 0.0) if n.first == 0.0 else (n.first, n.second + change)
    return Normalization(n.scale_p, n.scale_q, n.mass_p, n.mass_q, n.base_p, n.base_q, first, second)


@kernel
def entry(p, q, normalization):
    """LIFT times: p and q over their masses, and the difference of the two to full relative accuracy."""
    n = normalization
    x, y = np.float64(p) * n.scale_p, np.float64(q) * n.scale_q
    inverse_p, inverse_base = LIFT / n.mass_p, LIFT / n.base_q
    # Where p and q are nearly proportional, the first difference is exact, and so is that without `first`.
    d = fma(-y, n.first, cross_difference(x, n.base_q, y, n.base_p)) - y * n.second
    return x * inverse_p, y * (LIFT / n.mass_q), d * (inverse_p * inverse_base * UNLIFT)


@kernel
def relative_difference(p, q, normalization):
    """(p - q) / q of two entries > 0 over their masses, also where p - q is no normal number."""
    n = normalization
    x, y = np.float64(p) * n.scale_p, np.float64(q) * n.scale_q
    # The products are multiples of so large a number that their difference has its digits.
    ratio = (cross_difference(x, n.base_q, y, n.base_p) / y - n.first) - n.second
    return ratio / n.base_q * (n.mass_q / n.mass_p)


@adder
def _excess(p, q, normalization):
    total = 0.0
    for i in range(p.size):
        total += entry(p[i], q[i], normalization)[2]
    return total


@kernel
def without_excess(p, q, normalization):
    """The normalization, corrected once."""
    total, lost = 0.0, 0.0
    for low in range(0, p.size, PART):
        total, lost = add_compensated(
            total, lost, _excess(p[low : low + PART], q[low : low + PART], normalization)
        )
    return corrected(normalization, total + lost)


@kernel
def _above(p, top):
    """The number of larger entries."""
    count = 0
    for i in range(p.size):
        count += p[i] > top
    return count


@kernel
def argmax(p):
    """The place of the largest entry, where none is NaN: 0.2 ns an entry, `np.argmax` takes 1.0."""
    k = 0
    for low in range(0, p.size, CHUNK):
        part = p[low : low + CHUNK]
        # Most chunks have none that is larger than those before.
        if _above(part, p[k]) > 0:
            k = low + np.argmax(part)
    return k


@kernel
def _largest(p, q, normalization):
    """The largest entry of p, and that of q beside it, times the scales."""
    k = argmax(p)
    return np.float64(p[k]) * normalization.scale_p, np.float64(q[k]) * normalization.scale_q


@kernel
def with_exact_masses(p, q, normalization):
    """The normalization with masses in two floats."""
    # The sum of all differences has a rounding error of 3e-15 where p and q are far apart.
    n = normalization
    a, a_low, b, b_low = 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        a, a_low = add_compensated(a, a_low, np.float64(p[i]) * n.scale_p)
        b, b_low = add_compensated(b, b_low, np.float64(q[i]) * n.scale_q)
    (a, a_low), (b, b_low) = two_sum(a, a_low), two_sum(b, b_low)
    return Normalization(n.scale_p, n.scale_q, a, b, a, b, a_low - a * (b_low / b), 0.0)


@kernel
def exact_normalization(p, q, normalization):
    """The normalization, corrected for the rounding of the masses.

    The ratio of the exact masses is to have digits of its difference from the ratio of most entries: for
    (1, 1, 1, 1e-200) and (3, 3, 3, 2e-200), the differences of the first three are as small as the last. So
    where the ratio of two large entries is close, the rest is computed from that.
    """
    n = normalization
    x, y = _largest(p, q, n)
    if not abs(x * n.mass_q - y * n.mass_p) <= _NEAR * y * n.mass_p:
        return with_exact_masses(p, q, n)
    n = Normalization(n.scale_p, n.scale_q, n.mass_p, n.mass_q, x, y, 0.0, 0.0)
    return without_excess(p, q, without_excess(p, q, n))


@kernel
def _off(p, q, scale_p, scale_q, u, v):
    """The number of entries with p v != q u, times the scales."""
    count = 0
    for i in range(p.size):
        count += cross_difference(np.float64(p[i]) * scale_p, v, np.float64(q[i]) * scale_q, u) != 0.0
    return count


@adder
def differing(p, q):
    """The number of entries in which p and q differ."""
    count = 0
    for i in range(p.size):
        count += p[i] != q[i]
    return count


@kernel
def proportional(p, q, normalization):
    """Whether p and q are exact multiples of each other."""
    n = normalization
    for i in (0, p.size // 2, p.size - 1):
        x, y = np.float64(p[i]) * n.scale_p * n.mass_q, np.float64(q[i]) * n.scale_q * n.mass_p
        if not abs(x - y) <= 1e-14 * y:
            return False
    u, v = _largest(p, q, n)
    for low in range(0, p.size, CHUNK):
        if _off(p[low : low + CHUNK], q[low : low + CHUNK], n.scale_p, n.scale_q, u, v) != 0:
            return False
    return True


@formula
def entry_with_logs(p, q, normalization):
    """An `entry`, log(p / q) (-inf where p = 0, else inf where q = 0), and log p; see `log_entry`."""
    x, y, d = entry(p, q, normalization)
    r = math.inf if y == 0.0 else log_ratio(x, y, d)
    return x, y, d, -math.inf if x == 0.0 else r, -math.inf if x == 0.0 else log(x) - 54.0 * LN2, (0.0, 0.0)

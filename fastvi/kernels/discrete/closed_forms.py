"""Divergences of normalised distributions in closed form, from one pass over the two measures.

`divergences` and `renyi` assemble `quick` from a fast loop (`chunks`) and one of the conversions here,
``normalise(sums, theta, mass, single) -> (value, good)``: the divergence of the normalised distributions (of
the measures, for `ANY`) from the sums over the two measures, and whether it has the digits of the input;
`single` is for float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..compiler import inlined, kernel, overloaded, specialise
from ..numerics.elementary import log_ratio
from .chunks import SCALED32, SHORT32, Sums, add_sums, masses32, rounded_sums
from .masses import ANY, NORMALIZE
from .normalized import CHUNK, LOSS32, LOSS64, moderate
from .reading import all_of, piece
from .registry import NO_THETA
from .terms import kl_term

#: Below this part of the sum the term of the two masses, delta**2 / 2, is no more than rounding.
_NO_TERM = 1e-17

#: Sums of powers below this may be made of powers that underflow.
LEAST_POWER = 1e-250

#: Part of the mean mass that the sum of `hellinger_term` must be: its float64 loop is off by 3e-16 of that.
_LEAST_HELLINGER, _LEAST_HELLINGER32 = 1.0 / 128.0, 1e-9

#: Largest exponent whose rounding, 1e-14, does no harm to a power of the ratio of the masses.
_MOST_EXPONENT = 50.0

#: Where products with the ratio of the masses are far from the ends of float32.
LEAST32, MOST32 = 1e-15, 1e15

#: Parts of float32 arrays, and the entries of each, that show the ratio of the masses: to 3 % if random.
_PARTS, _PART = 8, 128

#: Part of the mass from which the sum of the first chunk promises digits.
_LEAST_FIRST32 = 1e-3

#: Part of its terms that the alpha-divergence must be: equal addends leave 7e-15 of error.
_LEAST_ALPHA = 0.1


@kernel
def _most_loss(single):
    """How many times a difference may be contained in what it is the difference of."""
    # Equal entries all round the same way: with a factor of 2, some results of float32 were 3e-6 off
    # and with 16 some of float64 were 1.2e-13 off.
    return 1.25 if single else 6.0


@kernel
def normalise_kl(sums, theta, mass, single):
    """Of `kl_term`."""
    # The grouping property: sum of terms = (mass of p) KL(normalised) + (term of the two masses), exactly.
    a, p, q, change = sums.terms, sums.mass_p, sums.mass_q, sums.change
    if mass == ANY:
        return a, True
    if change * change <= _NO_TERM * a * p:
        return a / p, True
    rest = a - kl_term(p, q, -change, NO_THETA)
    return rest / p, a <= _most_loss(single) * rest


@kernel
def normalise_quadratic(sums, theta, mass, single):
    """Of a term that is quadratic in p - q near p = q."""
    # Near p = q the term is quadratic in p - q: a change of mass by delta changes the sum by delta a +
    # delta**2.
    if mass == ANY:
        return sums.terms, True
    value, delta, loss = sums.terms / sums.mass_p, sums.change / sums.mass_p, LOSS32 if single else LOSS64
    return value, delta == 0.0 or (abs(delta) <= loss and delta * delta <= loss * value)


@kernel
def normalise_linear(sums, theta, mass, single):
    """Of a term that is linear in p - q."""
    if mass == ANY:
        return sums.terms, True
    value, delta, loss = sums.terms / sums.mass_p, sums.change / sums.mass_p, LOSS32 if single else LOSS64
    return value, delta == 0.0 or abs(delta) <= loss * value


@kernel
def normalise_hellinger(sums, theta, mass, single):
    """Of `hellinger_term`."""
    # sum (sqrt p - sqrt q)**2 / 2 = (this term of the two masses) + sqrt(product of the masses) (the result).
    least = (_LEAST_HELLINGER32 if single else _LEAST_HELLINGER) * 0.5 * (sums.mass_p + sums.mass_q)
    if mass == ANY:
        return sums.terms, sums.terms > least
    root_p, root_q = math.sqrt(sums.mass_p), math.sqrt(sums.mass_q)
    between = sums.change / (root_p + root_q)
    rest = sums.terms - 0.5 * between * between
    good = (sums.terms <= min(_most_loss(single), 4.0) * rest) & (rest > least)
    return rest / (root_p * root_q), good


@kernel
def normalise_chi2(sums, theta, mass, single):
    """Of `chi2_term`."""
    if mass == ANY:
        return sums.terms, True
    rest = sums.terms - sums.change * (sums.change / sums.mass_q)
    return rest * (sums.mass_q / sums.mass_p) / sums.mass_p, sums.terms <= _most_loss(single) * rest


@kernel
def normalise_alpha(sums, theta, mass, single):
    """Of p**a q**(1-a), a = theta[0]."""
    power, p, q = sums.terms, sums.mass_p, sums.mass_q
    alpha, beta = theta[0], theta[0] - 1.0
    if mass == ANY:
        whole = power - alpha * p + beta * q
        size = power + abs(alpha) * p + abs(beta) * q
    else:
        exponent = beta * math.log(p / q)
        if abs(exponent) > _MOST_EXPONENT:
            return math.nan, False
        whole = power / (p * math.exp(exponent)) - 1.0
        size = 1.0 + abs(alpha) + abs(beta)
    return whole / (alpha * beta), abs(whole) > _LEAST_ALPHA * size and power > LEAST_POWER


@inlined
def renyi_of_alpha(a, alpha):
    """The Rényi divergence of an order > 0 from the alpha-divergence; NaN where it loses digits."""
    # The sum of p**alpha q**(1-alpha) is 1 + change.
    rest = alpha * a
    change = (alpha - 1.0) * rest
    tiny, held = abs(change) <= 1e-200, -0.5 < change < 2.0**1000
    # `math.log1p` is not vectorised: rows of 2 would take 42 ns instead of 35.
    shrink = log_ratio(1.0 + change, 1.0, change) / (1.0 if tiny else change)
    return rest * (1.0 if tiny else shrink) if held else math.nan


@inlined
def bhattacharyya_of_hellinger(a):
    """The Bhattacharyya distance from the squared Hellinger distance; NaN where it loses digits."""
    return -log_ratio(1.0 - a, 1.0, -a) if a < 0.5 else math.nan


def conclude(p, sums, theta, mass):
    """Template (`normalise`): the result from the sums of all chunks; NaN where they do not give it."""
    if moderate(p, sums.mass_p, sums.mass_q, mass):
        value, good = normalise(sums, theta, mass, p.itemsize == 4)  # noqa: F821
        if good and 0.0 <= value < math.inf:
            return value
    return math.nan


@inlined
def masses_alike(p, masses):
    """Whether the masses may be as near as what `normalise_quadratic` and `normalise_linear` take."""
    # A tenth more: the sums of `quick` are rounded in another order.
    return abs(masses.q - masses.p) <= 1.1 * (LOSS32 if p.itemsize == 4 else LOSS64) * masses.p


def _first_holds(p, sums, theta, mass):
    """Template (`normalise`): whether the first of several chunks shows that digits will be left."""
    return mass != NORMALIZE or normalise(sums, theta, mass, p.itemsize == 4)[1]  # noqa: F821


@kernel
def _always(p, sums, theta, mass):
    """The same for a closed form that takes masses that are `masses_alike`: those of a chunk say nothing."""
    return True


def quick(p, q, theta, mass):
    """Template (`chunk`, `promising`, `concluded`): the result of one pass; NaN if none."""
    if p.size <= CHUNK:
        return concluded(p, chunk(all_of(p, CHUNK), all_of(q, CHUNK), theta), theta, mass)  # noqa: F821
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, CHUNK):
        sums = chunk(piece(p, low, CHUNK), piece(q, low, CHUNK), theta)  # noqa: F821
        if math.isnan(sums.terms):
            return math.nan
        if low == 0 and not promising(p, sums, theta, mass):  # noqa: F821
            return math.nan
        total, lost = add_sums(total, lost, sums)
    return concluded(p, rounded_sums(total, lost), theta, mass)  # noqa: F821


@inlined
def end32(low, size):
    """The end of a chunk of float32 entries: the last one has no few more, for blocks have no fewer."""
    return low + CHUNK if size - low >= CHUNK + SHORT32 else size


@kernel
def _ratio32(p, q):
    """The ratio of the masses as parts from all over the arrays show it."""
    step, mass_p, mass_q = p.size // _PARTS, 0.0, 0.0
    size = min(step, _PART)
    for low in range(0, p.size, max(1, step)):
        a, b = masses32(p[low : low + size], q[low : low + size])
        mass_p += a
        mass_q += b
    return mass_p / mass_q


def _quick32(p, q, theta, mass):
    """Template (`blocks`, `concluded`): `quick` of float32 entries whose masses differ.

    q is scaled to about the mass of p: the nearer the two are, the more digits the closed form leaves.
    """
    if mass != NORMALIZE or p.size < SHORT32:
        return math.nan
    ratio = _ratio32(p, q)
    if not LEAST32 < ratio < MOST32:
        return math.nan
    factor = np.float64(np.float32(ratio)), 0.0
    total, lost = Sums(0.0, 0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0, 0.0)
    for low in range(0, p.size, CHUNK):
        high = end32(low, p.size)
        sums = blocks(p[low:high], q[low:high], factor)  # noqa: F821
        # The first chunk shows whether the sum is no larger than the term of the two masses.
        if math.isnan(sums.terms) or (low == 0 and not sums.terms > _LEAST_FIRST32 * sums.mass_p):
            return math.nan
        total, lost = add_sums(total, lost, sums)
        if high == p.size:
            break
    return concluded(p, rounded_sums(total, lost), theta, mass)  # noqa: F821


@kernel
def none32(p, q, theta, mass):
    """For float64, and for a divergence without such a loop."""
    return math.nan


def only32(narrow):
    """The kernel `narrow` for float32 arrays, and `none32` for others."""

    def chosen(p, q, theta, mass):
        # In plain Python a sum has one lane, and would lose digits.
        return math.nan

    @overloaded(chosen)
    def _by_type(p, q, theta, mass):
        if getattr(p, "dtype", None) == types.float32:
            return lambda p, q, theta, mass: narrow(p, q, theta, mass)
        return lambda p, q, theta, mass: math.nan

    return chosen


class ClosedForm(NamedTuple):
    """The kernels of a fast loop and a closed form."""

    any_masses: bool  #: else the masses must be `masses_alike`
    promising: Any  #: `_first_holds` or `_always`
    concluded: Any  #: `conclude`
    quick: Any
    quick32: Any  #: where that does not hold


def assemble(name, chunk, normalise, term=""):
    """The `ClosedForm` for a fast loop and how its sums are normalised.

    `term` is the name of its term, for a loop in float32.
    """
    any_masses = normalise not in (normalise_quadratic, normalise_linear)
    promising = (
        specialise(_first_holds, f"_{name}_first_holds", normalise=normalise) if any_masses else _always
    )
    ends = {
        "promising": promising,
        "concluded": specialise(conclude, f"_{name}_concluded", normalise=normalise),
    }
    quick32 = none32
    if any_masses and term in SCALED32:
        narrow = specialise(_quick32, f"_{name}_quick32", blocks=SCALED32[term], concluded=ends["concluded"])
        quick32 = only32(narrow)
    return ClosedForm(
        any_masses, quick=specialise(quick, f"_{name}_quick", chunk=chunk, **ends), quick32=quick32, **ends
    )

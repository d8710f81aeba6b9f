"""Rényi divergences and the Bhattacharyya distance: logarithms of one sum over normalised entries.

Rows of `registry` name this module. The sums are those of the alpha-divergence and of the squared Hellinger
distance, from which the logarithm follows by log1p where the two distributions are close.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from ..borrowing import borrow_to_read
from ..compiler import adder, exported, formula, inlined, kernel, overloaded, specialise
from ..numerics.elementary import LN2, exp, log, log_ratio
from ..numerics.error_free import add_compensated
from . import closed_forms, far_logarithms, scaled, short_rows
from .chunks import alpha_chunk, hellinger_chunk, overlap_chunk, quarters, sum_of_four
from .closed_forms import bhattacharyya_of_hellinger, renyi_of_alpha
from .far_logarithms import bhattacharyya_overlap, renyi_powers, top_of
from .logarithmic import (
    alpha_log_term,
    corrected_log_normalization,
    exact_log_normalization,
    log_entry,
    make_log_normalization,
    shifted,
)
from .masses import NORMALIZE
from .normalized import (
    CHUNK,
    LIFT,
    PART,
    UNLIFT,
    allowed,
    entry,
    entry_with_logs,
    exact_normalization,
    make_normalization,
    masses_with_excess,
    moderate,
    proportional,
)
from .reading import all_of, piece, readable
from .registry import NO_THETA
from .short_rows import SHORT
from .terms import alpha_term, hellinger_term
from .wide import is_wide, make_wide, may_be_wide, same, wide_entry

#: Orders above this are computed as the order inf, from which they differ by at most |log p_i| / alpha.
#: (Above 1e305, the product of the order and log(p / q) overflows.)
_AS_INFINITE = 1e300


#: Part of its two parts that the logarithm of the sum must be: equal addends leave 7e-15 of error.
_LEAST_REMAINDER = 0.2

#: The same for the logarithm of an overlap: that of uniform random arrays is 0.12.
_LEAST_DISTANCE = 0.1

#: Squared distances of few entries up to which one minus them has the digits of its logarithm: an error of
#: 1e-15 becomes 2e-14.
_MOST_HELLINGER = 63.0 / 64.0

#: Above this, the roots of products of entries that underflow, 1e-152 each, are nothing beside their sum.
_LEAST_OVERLAP = 1e-120

#: Below this, the rounding of the largest ratio leaves less than 14 digits of its logarithm; for float32,
#: that of the masses less than 7. Where that of the first chunk is below half of this, it is taken for all.
_LEAST_LOG = 0.05
_LEAST_LOG32 = 0.7

#: Least logarithm of a sum of powers in which roundings of exponents do no harm: their parts are up to 750.
_LEAST_FAR = 5.0

#: Exponents up to this have an error of 2e-14 from a logarithm in one float.
_LARGE_EXPONENT = 64.0

#: Factor of lifted entries whose differences are compared with each other.
_RAISED = 2.0**400

#: Entries of a chunk in which a larger ratio is searched for at once.
_PIECE = 128

#: Products of entries from here to its inverse are normal numbers.
_LEAST_FACTOR = 2.0**-500

#: Factor of float32 entries that makes subnormals normal numbers.
_LIFT32 = np.float32(2.0**24)

#: Sums of such entries and products below this are far from overflow.
_LARGE32 = np.float32(2.0**120)
_ZERO32 = np.float32(0.0)


@formula
def _alpha_term(x, y, d, r, log_p, lost, theta):
    return alpha_term(x, y, d, theta)


def _alpha_sums(p, q, normalization, theta):
    """Template (`read`, `term`): the (lifted) alpha-divergence where p > 0, and the mass of q elsewhere."""
    a, outside = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, log_p, lost = read(p[i], q[i], normalization)  # noqa: F821
        alone = r == -math.inf
        a += 0.0 if alone else term(x, y, d, r, log_p, lost, theta)  # noqa: F821
        outside += y if alone else 0.0
    return a, outside


def _covered(p, q, normalization):
    """Template (`read`): the mass of q outside and inside the support of p."""
    outside, inside = 0.0, 0.0
    for i in range(p.size):
        _, y, _, r, _, _ = read(p[i], q[i], normalization)  # noqa: F821
        outside += y if r == -math.inf else 0.0
        inside += y if r > -math.inf else 0.0
    return outside * UNLIFT, inside * UNLIFT


def _extremes(p, q, normalization, beta):
    """Template (`read`): the largest log(p / q) where p > 0, and the largest finite log(p (p / q)**beta)."""
    top, peak = -math.inf, -math.inf
    for i in range(p.size):
        _, _, _, r, log_p, _ = read(p[i], q[i], normalization)  # noqa: F821
        if r > -math.inf and log_p > -math.inf:
            top = max(top, r)
            if r < math.inf:
                peak = max(peak, log_p + beta * r)
    return top, peak


def _powers(p, q, normalization, beta, peak):
    """Template (`read`): the sum of p (p / q)**beta / exp(peak) where p and q are positive."""
    total = 0.0
    for i in range(p.size):
        _, _, _, r, log_p, _ = read(p[i], q[i], normalization)  # noqa: F821
        both = (r > -math.inf) & (r < math.inf) & (log_p > -math.inf)
        total += exp(log_p + beta * r - peak) if both else 0.0
    return total


def _order(p, q, alpha, normalization):
    """Template (`alpha_sums`, `covered`, `extremes`, `powers`): the Rényi divergence of order alpha."""
    if alpha > _AS_INFINITE:
        return max(extremes(p, q, normalization, 0.0)[0], 0.0)  # noqa: F821
    if alpha == 0.0:
        outside, inside = covered(p, q, normalization)  # noqa: F821
        return -math.log1p(-outside) if outside < 0.5 else -math.log(inside)
    a, al, o, ol = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        x, y = p[low : low + PART], q[low : low + PART]
        part, outside = alpha_sums(x, y, normalization, (alpha, 0.0))  # noqa: F821
        a, al = add_compensated(a, al, part)
        o, ol = add_compensated(o, ol, outside)
    a, beta = a + al, alpha - 1.0
    # sum p**alpha q**-beta = 1 + alpha beta a + beta o, unless the two nearly cancel or a overflows.
    rest = (alpha * a + (o + ol)) * UNLIFT
    if alpha == 1.0:
        return rest
    change = beta * rest
    if -0.5 < change < math.inf:
        shrink = math.log1p(change) / change if abs(change) > 1e-200 else 1.0
        return rest * shrink
    top, peak = extremes(p, q, normalization, beta)  # noqa: F821
    if peak == -math.inf or (top == math.inf and beta > 0.0):
        return math.inf
    total, lost = 0.0, 0.0
    for low in range(0, p.size, PART):
        x, y = p[low : low + PART], q[low : low + PART]
        total, lost = add_compensated(total, lost, powers(x, y, normalization, beta, peak))  # noqa: F821
    return max((peak + math.log(total + lost)) / beta, 0.0)


@inlined
def _log_ratio(u, v):
    return np.float64(u) - np.float64(v) if u > -math.inf else -math.inf


@kernel
def _ratios_from(p, q, top):
    """The number of logarithms of ratios that are at least `top`."""
    count = 0
    for i in range(p.size):
        count += _log_ratio(p[i], q[i]) >= top
    return count


@kernel
def _largest_log_ratio(p, q, normalization):
    """The largest log(p / q) where p > 0."""
    top, best = -math.inf, -math.inf
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        # Most chunks have no larger difference than those before.
        if _ratios_from(u, v, top) == 0:
            continue
        for i in range(u.size):
            r = _log_ratio(u[i], v[i])
            # Rounding keeps the order of differences: those that are equal are looked at closely.
            if r >= top and r > -math.inf:
                exact = log_entry(u[i], v[i], normalization)[3]
                top, best = r, exact if r > top else max(best, exact)
    return best


def _orders(name, read, term):
    return specialise(
        _order,
        f"_{name}",
        alpha_sums=specialise(_alpha_sums, f"_{name}_alpha_sums", adder, read=read, term=term),
        covered=specialise(_covered, f"_{name}_covered", adder, read=read),
        extremes=specialise(_extremes, f"_{name}_extremes", read=read),
        powers=specialise(_powers, f"_{name}_powers", adder, read=read),
    )


_plain_extremes = specialise(_extremes, "_renyi_plain_extremes", read=entry_with_logs)
_renyi_plain = _orders("renyi_plain", entry_with_logs, _alpha_term)
_renyi_log = _orders("renyi_log", log_entry, alpha_log_term)
_renyi_wide = _orders("renyi_wide", wide_entry, alpha_log_term)


@adder
def _ratio_sums64(p, q, top):
    a, b, beyond, lifted = 0.0, 0.0, 0, top * LIFT
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        a += x
        b += y
        beyond += (min(x, y) < 0.0) | (not x * LIFT <= y * lifted)
    return a, b, beyond > 0


@formula
def _excess32(x, y, factor):
    """Positive where x / y is above `factor` over `_LIFT32`, or the rounding of the product hides it."""
    # The difference of x, which is made no subnormal, and of a product that is rounded with it.
    return x * _LIFT32 - y * factor


@adder
def _ratio_sums32(p, q, top):
    # Rounding makes an entry count that should not, never one that should. Four entries at a time have one
    # comparison: 0.13 ns an entry, 0.18 with one for each, 0.28 in float64.
    p0, p1, p2, p3 = quarters(p)
    q0, q1, q2, q3 = quarters(q)
    a, b, beyond, factor = _ZERO32, _ZERO32, False, np.float32(top * (1.0 - 4e-7) * 2.0**24)
    for i in range(p0.size):
        x0, x1, x2, x3 = p0[i], p1[i], p2[i], p3[i]
        y0, y1, y2, y3 = q0[i], q1[i], q2[i], q3[i]
        a += sum_of_four(x0, x1, x2, x3)
        b += sum_of_four(y0, y1, y2, y3)
        least = min(min(min(x0, x1), min(x2, x3)), min(min(y0, y1), min(y2, y3)))
        z0, z1 = _excess32(x0, y0, factor), _excess32(x1, y1, factor)
        z2, z3 = _excess32(x2, y2, factor), _excess32(x3, y3, factor)
        beyond |= (least < _ZERO32) | (max(max(z0, z1), max(z2, z3)) > _ZERO32)
    for i in range(4 * p0.size, p.size):
        a += p[i]
        b += q[i]
        beyond |= (min(p[i], q[i]) < _ZERO32) | (_excess32(p[i], q[i], factor) > _ZERO32)
    # Else a difference may be inf - inf.
    finite = (a * _LIFT32 < _LARGE32) & (b * factor < _LARGE32)
    return np.float64(a), np.float64(b), beyond | (not finite)


def _ratio_sums(p, q, top):
    """(Mass of p, mass of q, whether an entry is negative or p / q above top; if NaN, so is a mass)."""
    return _ratio_sums64(p, q, top)


@overloaded(_ratio_sums)
def _ratio_sums_by_type(p, q, top):
    if p.dtype == types.float32:
        return lambda p, q, top: _ratio_sums32(p, q, top)
    return lambda p, q, top: _ratio_sums64(p, q, top)


@kernel
def _largest_ratio(p, q, top):
    """The largest p / q, and `top`; NaN where an entry is negative."""
    # Numbers >= 0 are in the order of their bits, with NaN above them, and the largest integer is found in
    # vectors: 0.6 ns an entry instead of 2.3.
    most = np.float64(top).view(np.int64)
    for i in range(p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        ratio = x / y if y > 0.0 else (math.inf if x > 0.0 else 0.0)
        ratio = np.float64(math.nan if min(x, y) < 0.0 else ratio)
        most = max(most, ratio.view(np.int64))
    return np.int64(most).view(np.float64)


@inlined
def _larger_ratio(x, y, u, v):
    """(x, y) or (u, v): that of the larger ratio, but for two roundings, 2e-16."""
    larger = u * y > x * v
    return (u if larger else x), (v if larger else y)


@adder
def _row_and_largest_ratio(p, q):
    """(Mass of p, mass of q, largest p / q) of few entries; NaN where one is zero, negative or tiny."""
    # Of four ratios products find the largest one, which is divided: rows of 64 take 0.97 ns an entry, with a
    # division for each 1.43.
    p0, p1, p2, p3 = quarters(p)
    q0, q1, q2, q3 = quarters(q)
    a, b, bad, most = 0.0, 0.0, 0, np.int64(0)
    for i in range(p0.size):
        x0, x1, x2, x3 = np.float64(p0[i]), np.float64(p1[i]), np.float64(p2[i]), np.float64(p3[i])
        y0, y1, y2, y3 = np.float64(q0[i]), np.float64(q1[i]), np.float64(q2[i]), np.float64(q3[i])
        a += sum_of_four(x0, x1, x2, x3)
        b += sum_of_four(y0, y1, y2, y3)
        bad += not min(min(min(x0, x1), min(x2, x3)), min(min(y0, y1), min(y2, y3))) >= _LEAST_FACTOR
        x, y = _larger_ratio(*_larger_ratio(x0, y0, x1, y1), *_larger_ratio(x2, y2, x3, y3))
        most = max(most, np.float64(x / y).view(np.int64))
    for i in range(4 * p0.size, p.size):
        x, y = np.float64(p[i]), np.float64(q[i])
        a += x
        b += y
        bad += not min(x, y) >= _LEAST_FACTOR
        most = max(most, np.float64(x / y).view(np.int64))
    held = (bad == 0) & (max(a, b) <= 1.0 / _LEAST_FACTOR)
    return a, b, np.int64(most).view(np.float64) if held else math.nan


@kernel
def _masses_and_largest_ratio(p, q):
    """The two masses and the largest p / q.

    This is not finite where it overflows, an entry is negative, or the first chunk is near equality.
    """
    if p.size <= _PIECE:
        mass_p, mass_q, top = _row_and_largest_ratio(all_of(p, _PIECE), all_of(q, _PIECE))
        if top < math.inf:
            return mass_p, mass_q, top
    mass_p, lost_p, mass_q, lost_q, top = 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = piece(p, low, CHUNK), piece(q, low, CHUNK)
        a, b, beyond = _ratio_sums(x, y, top)
        mass_p, lost_p = add_compensated(mass_p, lost_p, a)
        mass_q, lost_q = add_compensated(mass_q, lost_q, b)
        # Most chunks have no larger ratio than those before, and that is seen without a division; so too of
        # those that have one, most parts.
        if beyond:
            for first in range(0, x.size, _PIECE):
                u, v = x[first : first + _PIECE], y[first : first + _PIECE]
                if x.size <= _PIECE or _ratio_sums(u, v, top)[2]:
                    top = _largest_ratio(u, v, top)
        if not top < math.inf:
            break
        if low == 0 and p.size > CHUNK and top * mass_q < math.exp(0.5 * _LEAST_LOG) * mass_p:
            return mass_p, mass_q, math.nan
    return mass_p + lost_p, mass_q + lost_q, top


@kernel
def _order_inf_in_one_pass(p, q, mass):
    """The logarithm of the largest ratio; NaN where it lacks digits."""
    mass_p, mass_q, ratio = _masses_and_largest_ratio(p, q)
    if not (ratio < math.inf and allowed(p, mass_p, mass_q, mass)):
        return math.nan
    value = math.log(ratio * (mass_q / mass_p))
    return value if (_LEAST_LOG32 if p.itemsize == 4 else _LEAST_LOG) <= value < math.inf else math.nan


@kernel
def _exceeded_by(p, q, scales, top):
    """The number of entries with (p - q) / q > top, both normalised."""
    count = 0
    for i in range(p.size):
        _, y, d = scaled.entry(p[i], q[i], scales)
        count += d > top * y
    return count


@kernel
def _largest_difference(p, q, masses):
    """The largest (p - q) / q of normalised entries; NaN where these are too near each other."""
    if not moderate(p, masses.p, masses.q, NORMALIZE):
        return math.nan
    s = scaled.first_scales(masses)
    if math.isnan(masses.excess):
        s = scaled.corrected(p, q, s)
    if math.isnan(s.change):
        return math.nan
    # Differences of entries near 1e-300 are to be normal numbers.
    scales, top = scaled.Scales(s.p * _RAISED, s.q * _RAISED, s.change * _RAISED), 0.0
    for low in range(0, p.size, CHUNK):
        u, v = p[low : low + CHUNK], q[low : low + CHUNK]
        if _exceeded_by(u, v, scales, top) > 0:
            for i in range(u.size):
                _, y, d = scaled.entry(u[i], v[i], scales)
                if d > top * y:
                    top = d / y
    return top


@kernel
def _normalise_renyi(sums, theta, mass, single):
    """The divergence from the sums of p**a q**(1-a), and whether it has the digits of the input."""
    if not sums.terms > closed_forms.LEAST_POWER:
        return math.nan, False
    # (1 / beta) log(power / (mass_p**alpha mass_q**-beta))
    first = math.log(sums.terms / sums.mass_p) / (theta[0] - 1.0)
    second = math.log(sums.mass_q / sums.mass_p)
    value, size = first + second, abs(first) + abs(second)
    small = abs(value * (theta[0] - 1.0)) < _LEAST_REMAINDER
    return value, (value > _LEAST_REMAINDER * size) and not small


@formula
def _exponent(p, q, scale_p, scale_q, beta):
    """log(p (p / q)**beta) of entries times their scales, lifted; -inf where one is zero."""
    x, y = np.float64(p) * scale_p, np.float64(q) * scale_q
    value = (log(x) - 54.0 * LN2) + beta * log_ratio(x, y, x - y)
    return value if (x > 0.0) & (y > 0.0) else -math.inf


@kernel
def _exponents(p, q, scale_p, scale_q, beta, out):
    for i in range(p.size):
        out[i] = _exponent(p[i], q[i], scale_p, scale_q, beta)


@adder
def _sum_over(exponents, peak):
    total = 0.0
    for i in range(exponents.size):
        total += exp(exponents[i] - peak)
    return total


@kernel
def _far_renyi(p, q, masses, alpha):
    """The divergence from powers beside the largest one so far; NaN where the logarithm lacks digits.

    5 ns an entry, where `_renyi_plain` takes 16.
    """
    beta = alpha - 1.0
    if not (moderate(p, masses.p, masses.q, NORMALIZE) and 0.0 < alpha < _AS_INFINITE):
        return math.nan
    scale_p, scale_q = LIFT / masses.p, LIFT / masses.q
    exponents = np.empty(min(PART, p.size))
    total, lost, peak = 0.0, 0.0, -math.inf
    for low in range(0, p.size, PART):
        u, v = p[low : low + PART], q[low : low + PART]
        part = exponents[: u.size]
        _exponents(u, v, scale_p, scale_q, beta, part)
        top = top_of(part)
        if not top < math.inf:
            return math.nan
        if top > peak:
            change = math.exp(peak - top)
            total, lost, peak = total * change, lost * change, top
        if peak > -math.inf:
            total, lost = add_compensated(total, lost, _sum_over(part, peak))
    if peak == -math.inf:
        return math.nan
    log_power = peak + math.log(total + lost)
    value = log_power / beta
    return value if _LEAST_FAR < abs(log_power) < math.inf and value > _LEAST_LOG else math.nan


_short_renyi = short_rows.assemble_one("renyi")
_short_bhattacharyya = short_rows.assemble_one("bhattacharyya")
# Of larger sums, `_far_renyi` takes 2.9 ns an entry instead of 3.4.
_scaled_alpha = scaled.assemble("renyi", "alpha", LIFT)
_scaled_hellinger = scaled.assemble("bhattacharyya", "hellinger")
_quick_renyi = closed_forms.assemble("renyi", alpha_chunk, _normalise_renyi).quick
_quick_log_renyi = specialise(
    far_logarithms.quick,
    "_log_renyi_quick",
    chunk=alpha_chunk,
    normalise=_normalise_renyi,
    any_masses=True,
    tiny_count=True,
)


@kernel
def _has_large_exponents(p, q, normalization, alpha):
    """Whether a power has an exponent whose rounding counts."""
    # That of an entry of 1e-309 beside equal ones is wrong by 1.9e-13.
    beta = alpha - 1.0
    return beta > _LARGE_EXPONENT and beta * _plain_extremes(p, q, normalization, 0.0)[0] > _LARGE_EXPONENT


@exported
def renyi(p, q, theta, mass):
    """log(sum p**a q**(1-a)) / (a - 1) for a = theta[0] from 0 to inf; KL for a = 1."""
    p, q, alpha = borrow_to_read(p), borrow_to_read(q), theta[0]
    if p.size <= SHORT:
        value = _short_renyi(p, q, theta, mass)
        if value == value:
            return value
    elif 0.0 < alpha < _AS_INFINITE and alpha != 1.0:
        value = _quick_renyi(p, q, theta, mass)
        if value > 0.0:
            return value
    if alpha > _AS_INFINITE:
        value = _order_inf_in_one_pass(p, q, mass)
        if value == value:
            return value
    masses = masses_with_excess(p, q)
    if not allowed(p, masses.p, masses.q, mass):
        return math.nan
    if masses.p_alone and alpha >= 1.0:
        return math.inf
    if mass == NORMALIZE and is_wide(p, q, masses):
        if same(p, q, masses):
            return 0.0
        return _renyi_wide(p, q, alpha, make_wide(p, q, masses, 1.0))
    normalization = make_normalization(masses)
    if proportional(p, q, normalization):
        return 0.0
    value = math.nan
    if alpha > _AS_INFINITE:
        value = math.log1p(_largest_difference(p, q, masses))
    elif alpha > 0.0:
        value = renyi_of_alpha(_scaled_alpha(p, q, masses, theta) * UNLIFT, alpha)
        if not 0.0 < value < math.inf:
            value = _far_renyi(p, q, masses, alpha)
    if 0.0 < value < math.inf:
        return value
    # With the order inf all entries count, also those whose differences are no normal numbers.
    if alpha > _AS_INFINITE or _has_large_exponents(p, q, normalization, alpha):
        return _renyi_wide(p, q, alpha, make_wide(p, q, masses, 1.0))
    return _renyi_plain(p, q, alpha, exact_normalization(p, q, normalization))


@exported
def renyi_uncopied(p, q, integers, buffers, theta, mass):
    """`renyi` of what is `readable`; NaN where that needs more passes."""
    p, q, alpha = readable(p, integers[0], buffers[0]), readable(q, integers[1], buffers[1]), theta[0]
    if alpha > _AS_INFINITE:
        return _order_inf_in_one_pass(p, q, mass)
    if alpha == 0.0 or alpha == 1.0:
        return math.nan
    value = _quick_renyi(p, q, theta, mass)
    if value > 0.0:
        return value
    masses = masses_with_excess(p, q)
    if not allowed(p, masses.p, masses.q, mass) or (mass == NORMALIZE and may_be_wide(p, masses)):
        return math.nan
    if masses.p_alone and alpha >= 1.0:
        return math.inf
    value = renyi_of_alpha(_scaled_alpha(p, q, masses, theta) * UNLIFT, alpha)
    return value if 0.0 < value < math.inf else math.nan


@exported
def log_renyi(p, q, theta, mass):
    """`renyi` for log-probabilities."""
    if 0.0 < theta[0] < _AS_INFINITE and theta[0] != 1.0:
        value = _quick_log_renyi(p, q, theta, mass)
        if not value > 0.0:
            value = renyi_powers(p, q, theta, mass)
        if value > 0.0:
            return value
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    if shifted(p, q):
        return 0.0
    if theta[0] > _AS_INFINITE:
        value = _largest_log_ratio(p, q, normalization)
        if value > _LEAST_LOG:
            return value
    return _renyi_log(p, q, theta[0], corrected_log_normalization(p, q, normalization))


@kernel
def _bhattacharyya(hellinger, overlap):
    """The distance from the (lifted) squared Hellinger distance and the (lifted) sum of sqrt(p q)."""
    h = hellinger * UNLIFT
    return -math.log1p(-h) if h < 0.5 else 54.0 * LN2 - math.log(overlap) if overlap > 0.0 else math.inf


def _careful_overlaps(p, q, normalization):
    """Template (`read`): the (lifted) squared Hellinger distance, and sum of sqrt(p q)."""
    h, overlap = 0.0, 0.0
    for i in range(p.size):
        x, y, d, _, _, _ = read(p[i], q[i], normalization)  # noqa: F821
        h += hellinger_term(x, y, d, NO_THETA)
        overlap += math.sqrt(x) * math.sqrt(y)
    return h, overlap


def _all_overlaps(p, q, normalization):
    """Template (`overlap_sums`): the same, by chunks."""
    h, hl, o, ol = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, PART):
        x, y = overlap_sums(p[low : low + PART], q[low : low + PART], normalization)  # noqa: F821
        h, hl = add_compensated(h, hl, x)
        o, ol = add_compensated(o, ol, y)
    return h + hl, o + ol


@formula
def _entry(p, q, normalization):
    """`entry_with_logs` without the logarithms."""
    x, y, d = entry(p, q, normalization)
    return x, y, d, 0.0, 0.0, (0.0, 0.0)


_overlaps = specialise(
    _all_overlaps,
    "_overlaps",
    overlap_sums=specialise(_careful_overlaps, "_overlap_sums", adder, read=_entry),
)
_log_overlaps = specialise(
    _all_overlaps,
    "_log_overlaps",
    overlap_sums=specialise(_careful_overlaps, "_log_overlap_sums", adder, read=log_entry),
)


@kernel
def _normalise_overlap(sums, theta, mass, single):
    """The distance from the sums of sqrt(p q), and whether it has the digits of the input."""
    if not sums.terms > _LEAST_OVERLAP:
        return math.nan, False
    value = -math.log(sums.terms / (math.sqrt(sums.mass_p) * math.sqrt(sums.mass_q)))
    return value, value > _LEAST_DISTANCE


_hellinger = closed_forms.assemble(
    "bhattacharyya_hellinger", hellinger_chunk, closed_forms.normalise_hellinger, "hellinger"
)
_quick_hellinger, _quick_hellinger32 = _hellinger.quick, _hellinger.quick32
_quick_overlap = closed_forms.assemble("bhattacharyya_overlap", overlap_chunk, _normalise_overlap).quick


@kernel
def _quick_distance(p, q, mass):
    """The distance from the overlap, or where that is near one from what is left; NaN if neither holds."""
    # No chunk tells which: one of random entries has a distance of 0.12, and many of their rows of 64 would
    # need both.
    if p.size <= CHUNK and p.itemsize == 8:
        h = _quick_hellinger(p, q, NO_THETA, mass)
        if 0.0 < h < _MOST_HELLINGER:
            return -log_ratio(1.0 - h, 1.0, -h)
        return _quick_overlap(p, q, NO_THETA, mass)
    distance = _quick_overlap(p, q, NO_THETA, mass)
    if distance < math.inf or p.itemsize == 4:
        return distance
    value = bhattacharyya_of_hellinger(_quick_hellinger(p, q, NO_THETA, mass))
    return value if value > 0.0 else math.nan


@exported
def bhattacharyya(p, q, theta, mass):
    """-log sum sqrt(p q)."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    if p.size <= SHORT:
        value = _short_bhattacharyya(p, q, theta, mass)
        if value == value:
            return value
    elif p.itemsize == 4:
        value = bhattacharyya_of_hellinger(_quick_hellinger(p, q, NO_THETA, mass))
        if not value > 0.0:
            value = bhattacharyya_of_hellinger(_quick_hellinger32(p, q, NO_THETA, mass))
        if value > 0.0:
            return value
    distance = _quick_distance(p, q, mass)
    if distance < math.inf:
        return distance
    masses = masses_with_excess(p, q)
    if not allowed(p, masses.p, masses.q, mass):
        return math.nan
    if mass == NORMALIZE and is_wide(p, q, masses):
        return 0.5 * renyi(p, q, (0.5, 0.0), mass)
    value = bhattacharyya_of_hellinger(_scaled_hellinger(p, q, masses, NO_THETA) * UNLIFT)
    if value > 0.0:
        return value
    normalization = make_normalization(masses)
    if proportional(p, q, normalization):
        return 0.0
    return _bhattacharyya(*_overlaps(p, q, exact_normalization(p, q, normalization)))


@exported
def bhattacharyya_uncopied(p, q, integers, buffers, theta, mass):
    """`bhattacharyya` of what is `readable`; NaN where that needs more passes."""
    p, q = readable(p, integers[0], buffers[0]), readable(q, integers[1], buffers[1])
    distance = _quick_distance(p, q, mass)
    if distance < math.inf:
        return distance
    masses = masses_with_excess(p, q)
    if not allowed(p, masses.p, masses.q, mass) or (mass == NORMALIZE and may_be_wide(p, masses)):
        return math.nan
    value = bhattacharyya_of_hellinger(_scaled_hellinger(p, q, masses, NO_THETA) * UNLIFT)
    return value if value > 0.0 else math.nan


@adder
def _far_overlaps(p, q, normalization, peak):
    """The sum of sqrt(p q) / exp(peak) where both are positive."""
    total = 0.0
    for i in range(p.size):
        _, _, _, r, log_p, _ = log_entry(p[i], q[i], normalization)
        total += exp(log_p - 0.5 * r - peak) if abs(r) < math.inf else 0.0
    return total


@exported
def log_bhattacharyya(p, q, theta, mass):
    """`bhattacharyya` for log-probabilities."""
    value = bhattacharyya_overlap(p, q, mass)
    if value > 0.0:
        return value
    value = 0.5 * renyi_powers(p, q, (0.5, 0.0), mass)
    if value > 0.0:
        return value
    normalization, factor = exact_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    if shifted(p, q):
        return 0.0
    h, overlap = _log_overlaps(p, q, normalization)
    if h * UNLIFT < 0.5 or overlap > 1e-130:
        return _bhattacharyya(h, overlap)
    # Products of entries have underflowed: the largest one is factored out.
    peak = -math.inf
    for i in range(p.size):
        _, _, _, r, log_p, _ = log_entry(p[i], q[i], normalization)
        if abs(r) < math.inf and log_p > -math.inf:
            peak = max(peak, log_p - 0.5 * r)
    if peak == -math.inf:
        return math.inf
    return -peak - math.log(_far_overlaps(p, q, normalization, peak))

"""Rényi divergences and the Bhattacharyya distance: logarithms of one sum over normalised entries.

Rows of `registry` name this module. The sums are those of the alpha-divergence and of the squared Hellinger
distance, from which the logarithm follows by log1p where the two distributions are close.
"""

from __future__ import annotations

import math

from ..compiler import adder, exported, kernel, specialise
from ..numerics.elementary import LN2, exp
from ..numerics.error_free import add_compensated
from .chunks import alpha_chunk, hellinger_chunk, whole_sums
from .normalized import (
    CHUNK,
    UNLIFT,
    allowed,
    entry,
    entry_with_logs,
    log_entry,
    make_log_normalization,
    make_normalization,
    masses_of,
    proportional,
)
from .registry import NO_THETA
from .terms import alpha_log_term, hellinger_term

#: Orders above this are computed as the order inf, from which they differ by at most |log p_i| / alpha.
#: (Above 1e305, the product of the order and log(p / q) overflows.)
_AS_INFINITE = 1e300


def _alpha_sums(p, q, normalization, theta):
    """Template (`read`): the (lifted) alpha-divergence."""
    a = 0.0
    for i in range(p.size):
        x, y, d, r, _ = read(p[i], q[i], normalization)  # noqa: F821
        a += alpha_log_term(x, y, d, r, theta)
    return a


def _covered(p, q, normalization):
    """Template (`read`): the mass of q outside and inside the support of p."""
    outside, inside = 0.0, 0.0
    for i in range(p.size):
        _, y, _, r, _ = read(p[i], q[i], normalization)  # noqa: F821
        outside += y if r == -math.inf else 0.0
        inside += y if r > -math.inf else 0.0
    return outside * UNLIFT, inside * UNLIFT


def _extremes(p, q, normalization, beta):
    """Template (`read`): the largest log(p / q) where p > 0, and the largest finite log(p (p / q)**beta)."""
    top, peak = -math.inf, -math.inf
    for i in range(p.size):
        _, _, _, r, log_p = read(p[i], q[i], normalization)  # noqa: F821
        if r > -math.inf:
            top = max(top, r)
            if r < math.inf:
                peak = max(peak, log_p + beta * r)
    return top, peak


def _powers(p, q, normalization, beta, peak):
    """Template (`read`): the sum of p (p / q)**beta / exp(peak) where p and q are positive."""
    total = 0.0
    for i in range(p.size):
        _, _, _, r, log_p = read(p[i], q[i], normalization)  # noqa: F821
        total += exp(log_p + beta * r - peak) if (r > -math.inf) & (r < math.inf) else 0.0
    return total


def _order(p, q, alpha, normalization):
    """Template (`alpha_sums`, `covered`, `extremes`, `powers`): the Rényi divergence of order alpha."""
    if alpha > _AS_INFINITE:
        return max(extremes(p, q, normalization, 0.0)[0], 0.0)  # noqa: F821
    if alpha == 0.0:
        outside, inside = covered(p, q, normalization)  # noqa: F821
        return -math.log1p(-outside) if outside < 0.5 else -math.log(inside)
    a, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = p[low : low + CHUNK], q[low : low + CHUNK]
        a, lost = add_compensated(a, lost, alpha_sums(x, y, normalization, (alpha, 0.0)))  # noqa: F821
    a += lost
    beta = alpha - 1.0
    if alpha == 1.0:
        return a * UNLIFT
    # sum p**alpha q**-beta = 1 + alpha beta a, unless the two nearly cancel or a overflows.
    change = (alpha * beta) * (a * UNLIFT)
    if -0.5 < change < math.inf:
        shrink = math.log1p(change) / change if abs(change) > 1e-200 else 1.0
        return alpha * a * shrink * UNLIFT
    top, peak = extremes(p, q, normalization, beta)  # noqa: F821
    if peak == -math.inf or (top == math.inf and beta > 0.0):
        return math.inf
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = p[low : low + CHUNK], q[low : low + CHUNK]
        total, lost = add_compensated(total, lost, powers(x, y, normalization, beta, peak))  # noqa: F821
    return max((peak + math.log(total + lost)) / beta, 0.0)


def _orders(name, read):
    return specialise(
        _order,
        f"_{name}",
        alpha_sums=specialise(_alpha_sums, f"_{name}_alpha_sums", adder, read=read),
        covered=specialise(_covered, f"_{name}_covered", adder, read=read),
        extremes=specialise(_extremes, f"_{name}_extremes", read=read),
        powers=specialise(_powers, f"_{name}_powers", adder, read=read),
    )


_renyi_plain = _orders("renyi_plain", entry_with_logs)
_renyi_log = _orders("renyi_log", log_entry)


_renyi_sums = specialise(whole_sums, "_renyi_sums", chunk=alpha_chunk)
_bhattacharyya_sums = specialise(whole_sums, "_bhattacharyya_sums", chunk=hellinger_chunk)


@kernel
def _normalised_renyi(p, q, theta, mass):
    """The divergence of p and q over their masses, in one pass; NaN where too few digits survive."""
    a, delta, mass_p = _renyi_sums(p, q, theta)
    if not allowed(p, mass_p, mass_p + delta, mass):
        return math.nan
    # sum p**alpha q**-beta = mass_p (1 + beta (alpha a / mass_p - change)), change = mass_q / mass_p - 1. The
    # relative error of `change` counts as far as it exceeds the result.
    alpha, beta, change = theta[0], theta[0] - 1.0, delta / mass_p
    growth = beta * (alpha * (a / mass_p) - change)
    if not (-0.5 < growth < math.inf and abs(change) < 0.5):
        return math.nan
    value = math.log1p(growth) / beta + math.log1p(change)
    return value if value > 1e-290 and abs(change) <= 10.0 * value else math.nan


@exported
def renyi(p, q, theta, mass):
    """log(sum p**a q**(1-a)) / (a - 1) for a = theta[0] from 0 to inf; KL for a = 1."""
    if 0.0 < theta[0] < math.inf and theta[0] != 1.0:
        value = _normalised_renyi(p, q, theta, mass)
        if value > 0.0:
            return value
    mass_p, mass_q = masses_of(p, q)
    if not allowed(p, mass_p, mass_q, mass):
        return math.nan
    normalization = make_normalization(p, q, mass_p, mass_q)
    if proportional(p, q, normalization):
        return 0.0
    return _renyi_plain(p, q, theta[0], normalization)


@exported
def log_renyi(p, q, theta, mass):
    """`renyi` for log-probabilities."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    return _renyi_log(p, q, theta[0], normalization)


@kernel
def _bhattacharyya(hellinger, overlap):
    """The distance from the (lifted) squared Hellinger distance and the (lifted) sum of sqrt(p q)."""
    h = hellinger * UNLIFT
    return -math.log1p(-h) if h < 0.5 else 54.0 * LN2 - math.log(overlap) if overlap > 0.0 else math.inf


@adder
def _overlap_sums(p, q, normalization):
    h, overlap = 0.0, 0.0
    for i in range(p.size):
        x, y, d = entry(p[i], q[i], normalization)
        h += hellinger_term(x, y, d, NO_THETA)
        overlap += math.sqrt(x) * math.sqrt(y)
    return h, overlap


@kernel
def _normalised_hellinger(p, q, mass):
    """The squared Hellinger distance of p and q over their masses, in one pass.

    NaN where too few digits survive.
    """
    a, delta, mass_p = _bhattacharyya_sums(p, q, NO_THETA)
    mass_q = mass_p + delta
    if not (abs(delta) <= 0.5 * mass_p and allowed(p, mass_p, mass_q, mass)):
        return math.nan
    # sum (sqrt p - sqrt q)**2 / 2 = (this term of the two masses) + sqrt(product of the masses) * (the
    # result)
    root_p, root_q = math.sqrt(mass_p), math.sqrt(mass_q)
    between = delta / (root_p + root_q)
    rest = a - 0.5 * between * between
    # The difference of the masses has an error of 1e-15 of them.
    good = rest > 1e-290 and abs(delta) <= 10.0 * rest
    return rest / (root_p * root_q) if good else math.nan


@exported
def bhattacharyya(p, q, theta, mass):
    """-log sum sqrt(p q)."""
    distance = _normalised_hellinger(p, q, mass)
    if distance < 0.98:
        return -math.log1p(-distance)
    mass_p, mass_q = masses_of(p, q)
    if not allowed(p, mass_p, mass_q, mass):
        return math.nan
    normalization = make_normalization(p, q, mass_p, mass_q)
    if proportional(p, q, normalization):
        return 0.0
    h, hl, o, ol = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = _overlap_sums(p[low : low + CHUNK], q[low : low + CHUNK], normalization)
        h, hl = add_compensated(h, hl, x)
        o, ol = add_compensated(o, ol, y)
    return _bhattacharyya(h + hl, o + ol)


@exported
def log_bhattacharyya(p, q, theta, mass):
    """`bhattacharyya` for log-probabilities."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    # The sum of sqrt(p q) may underflow: its largest term is factored out.
    h, lost, peak = 0.0, 0.0, -math.inf
    for i in range(p.size):
        x, y, d, r, log_p = log_entry(p[i], q[i], normalization)
        h, lost = add_compensated(h, lost, hellinger_term(x, y, d, NO_THETA))
        if abs(r) < math.inf:
            peak = max(peak, log_p - 0.5 * r)
    h += lost
    if h * UNLIFT < 0.5:
        return _bhattacharyya(h, 0.0)
    if peak == -math.inf:
        return math.inf
    total = 0.0
    for i in range(p.size):
        _, _, _, r, log_p = log_entry(p[i], q[i], normalization)
        if abs(r) < math.inf:
            total += math.exp(log_p - 0.5 * r - peak)
    return -peak - math.log(total)

"""Gaussians truncated to an interval, which may be unbounded: log mass and moments.

For fits of truncated Gaussians and their results. Moments by the tanh-sinh rule (Takahasi & Mori 1974).
"""

from __future__ import annotations

import math

from ..compiler import kernel
from .gaussians import LOG_2PI

#: Range and coarsest step of the rule in t. Outside is exp(-pi sinh(3.4)) = 4e-21 of the interval.
REACH = 3.4
STEP = 0.2

#: Halvings of that step for moments, as a factor.
MOMENTS_STEP = 1.0 / 8.0

#: From this many standard deviations on, log Phi is computed from its asymptotic series.
ASYMPTOTIC = 25.0

#: Standard deviations over which the density falls by more than exp(-40).
SPAN = 9.0


@kernel
def span(mu, sigma, low, high):
    """Part of [low, high] outside of which the density is below exp(-40) of its maximum in it."""
    mode = min(max(mu, low), high)
    reach = math.hypot(mode - mu, SPAN * sigma)
    return max(low, mu - reach), min(high, mu + reach)


@kernel
def tanh_sinh_node(t, first, last):
    """(z, weight) of the node at t of the tanh-sinh rule on [first, last]."""
    s = math.pi * math.sinh(t)
    e = math.exp(-abs(s))
    small, large = e / (1.0 + e), 1.0 / (1.0 + e)
    width = last - first
    z = first + width * small if s < 0.0 else last - width * small
    return z, width * math.pi * math.cosh(t) * small * large


@kernel
def log_mass(mu, sigma, low, high):
    """Logarithm of the mass of N(mu, sigma**2) in [low, high]."""
    a, b = (low - mu) / sigma, (high - mu) / sigma
    # By symmetry on the negative side, where both tails are small numbers.
    if a > 0.0:
        a, b = -b, -a
    if b <= 0.0:
        return _log_lower(b, a)
    return math.log1p(-0.5 * math.erfc(-a / math.sqrt(2.0)) - 0.5 * math.erfc(b / math.sqrt(2.0)))


@kernel
def _log_lower(b, a):
    """log(Phi(b) - Phi(a)) for a < b <= 0."""
    upper = _log_tail(-b)
    if a == -math.inf:
        return upper
    return upper + math.log(-math.expm1(_log_tail(-a) - upper))


@kernel
def _log_tail(x):
    """log Phi(-x) for x >= 0."""
    if x < ASYMPTOTIC:
        return math.log(0.5 * math.erfc(x / math.sqrt(2.0)))
    # The asymptotic series, whose first neglected term is 1e-12 here (Abramowitz & Stegun 26.2.12).
    w = 1.0 / (x * x)
    series = 1.0 - w * (1.0 - 3.0 * w * (1.0 - 5.0 * w * (1.0 - 7.0 * w * (1.0 - 9.0 * w))))
    return -0.5 * x * x - math.log(x) - 0.5 * LOG_2PI + math.log(series)


@kernel
def moments(mu, sigma, low, high, out):
    """Write E[z], E[(z - E z)**2] and E[((z - mu) / sigma)**2] of the truncated Gaussian; log of its mass."""
    first, last = span(mu, sigma, low, high)
    mode = min(max(mu, low), high)
    top = -0.5 * ((mode - mu) / sigma) ** 2
    step = STEP * MOMENTS_STEP
    width = int(REACH / step)
    for i in range(3):
        out[i] = 0.0
    total = 0.0
    for k in range(-width, width + 1):
        z, weight = tanh_sinh_node(k * step, first, last)
        square = ((z - mu) / sigma) ** 2
        w = weight * math.exp(-0.5 * square - top)
        total += w
        out[0] += w * (z - mode)
        out[2] += w * square
    out[0] = mode + out[0] / total
    out[2] /= total
    for k in range(-width, width + 1):
        z, weight = tanh_sinh_node(k * step, first, last)
        w = weight * math.exp(-0.5 * ((z - mu) / sigma) ** 2 - top)
        out[1] += w * (z - out[0]) ** 2
    out[1] /= total
    return log_mass(mu, sigma, low, high)

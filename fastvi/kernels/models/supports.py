"""Transforms between latent coordinates, in which q is Gaussian, and the support of a model.

A latent coordinate has a kind and two bounds: z = x, low + exp x, high - exp x, or low + (high - low) / (1 +
exp -x). A simplex of n + 1 entries has n latent coordinates, by stick breaking with the density of its first
n entries; their first bounds count down from n to 1. The log-Jacobians are added up.

Far out z rounds to its bound, where many densities are not finite: the nearest number inside is handed over.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import kernel
from ..numerics.elementary import exp
from .kinds import INTERVAL, LOWER, REAL, SIMPLEX, UPPER

#: exp of this is still finite.
LARGEST_EXPONENT = 709.0

#: The numbers next to 0 and 1, between them.
LEAST, BELOW_ONE = 5e-324, 1.0 - 2.0**-53

#: Numbers this close to a bound, in units of the spacing of floats there, have lost their digits.
CLOSE = 64.0

#: How far the sum of a simplex may be from 1.
SUM_TOLERANCE = 1e-9


@kernel
def _log_logistic(x):
    """log(1 / (1 + exp(-x)))."""
    return -math.log1p(math.exp(-x)) if x > -30.0 else x - math.exp(x)


@kernel
def _logistic(x):
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@kernel
def is_real(kinds):
    """Whether the latent coordinates are the model's own."""
    for i in range(kinds.size):
        if kinds[i] != REAL:
            return False
    return True


@kernel
def to_support(kinds, bounds, latent, count, z, log_jacobian):
    """Write the rows of z (N, D) for the first `count` rows of latent (N, R), and the log-Jacobians."""
    for n in range(count):
        log_jacobian[n] = 0.0
    j, inside = 0, False
    for i in range(kinds.size):
        kind, low, high = kinds[i], bounds[i, 0], bounds[i, 1]
        if kind == REAL:
            for n in range(count):
                z[n, j] = latent[n, i]
        elif kind == LOWER:
            nearest = np.nextafter(low, math.inf)
            for n in range(count):
                z[n, j] = max(low + exp(min(latent[n, i], LARGEST_EXPONENT)), nearest)
                log_jacobian[n] += latent[n, i]
        elif kind == UPPER:
            nearest = np.nextafter(high, -math.inf)
            for n in range(count):
                z[n, j] = min(high - exp(min(latent[n, i], LARGEST_EXPONENT)), nearest)
                log_jacobian[n] += latent[n, i]
        elif kind == INTERVAL:
            width = high - low
            above, below = np.nextafter(low, math.inf), np.nextafter(high, -math.inf)
            for n in range(count):
                x = latent[n, i]
                z_ = low + width * _logistic(x) if x < 0.0 else high - width * _logistic(-x)
                z[n, j] = min(max(z_, above), below)
                log_jacobian[n] += math.log(width) + _log_logistic(x) + _log_logistic(-x)
        else:
            left = low
            for n in range(count):
                rest = z[n, j] if inside else 1.0
                x = latent[n, i] - math.log(left)
                z[n, j] = min(max(rest * _logistic(x), LEAST), BELOW_ONE)
                log_jacobian[n] += math.log(rest) + _log_logistic(x) + _log_logistic(-x)
                z[n, j + 1] = min(max(rest * _logistic(-x), LEAST), BELOW_ONE)
            inside = left > 1.0
            if not inside:
                j += 1
        j += 1


@kernel
def _has_lost_digits(z, low, high):
    near = low > -math.inf and z - low <= CLOSE * (np.nextafter(low, math.inf) - low)
    return near or (high < math.inf and high - z <= CLOSE * (high - np.nextafter(high, -math.inf)))


@kernel
def at_a_bound(kinds, bounds, z):
    """Whether a coordinate of one z is so near to a bound that its distance is only known roughly."""
    j = 0
    for i in range(kinds.size):
        kind, low, high = kinds[i], bounds[i, 0], bounds[i, 1]
        if kind == LOWER and _has_lost_digits(z[j], low, math.inf):
            return True
        if kind == UPPER and _has_lost_digits(z[j], -math.inf, high):
            return True
        if kind == INTERVAL and _has_lost_digits(z[j], low, high):
            return True
        if kind == SIMPLEX:
            if _has_lost_digits(z[j], 0.0, 1.0):
                return True
            if low == 1.0:
                j += 1
                if _has_lost_digits(z[j], 0.0, 1.0):
                    return True
        j += 1
    return False


@kernel
def to_latent(kinds, bounds, z, latent):
    """Write the latent coordinates of one z; False where it lies outside of the support."""
    j, rest = 0, 1.0
    for i in range(kinds.size):
        kind, low, high = kinds[i], bounds[i, 0], bounds[i, 1]
        if kind == REAL:
            latent[i] = z[j]
        elif kind == LOWER:
            if not z[j] > low:
                return False
            latent[i] = math.log(z[j] - low)
        elif kind == UPPER:
            if not z[j] < high:
                return False
            latent[i] = math.log(high - z[j])
        elif kind == INTERVAL:
            if not low < z[j] < high:
                return False
            latent[i] = math.log(z[j] - low) - math.log(high - z[j])
        else:
            share = z[j] / rest
            if not 0.0 < share < 1.0:
                return False
            latent[i] = math.log(share) - math.log1p(-share) + math.log(low)
            rest -= z[j]
            if low == 1.0:
                if not abs(rest - z[j + 1]) <= SUM_TOLERANCE:
                    return False
                rest = 1.0
                j += 1
        j += 1
    return True


@kernel
def pull_back(kinds, bounds, latent, z, gradient, latent_gradient):
    """Write the gradient in the latent coordinates of log joint + log-Jacobian, from that in z."""
    j = z.size
    behind = 0.0
    for k in range(kinds.size):
        i = kinds.size - 1 - k
        kind, low, high = kinds[i], bounds[i, 0], bounds[i, 1]
        x = latent[i]
        j -= 1
        if kind == REAL:
            latent_gradient[i] = gradient[j]
        elif kind == LOWER:
            latent_gradient[i] = gradient[j] * (z[j] - low) + 1.0
        elif kind == UPPER:
            latent_gradient[i] = gradient[j] * (z[j] - high) + 1.0
        elif kind == INTERVAL:
            u = _logistic(x)
            latent_gradient[i] = gradient[j] * (high - low) * u * (1.0 - u) + (1.0 - 2.0 * u)
        else:
            # `behind` is d / d log(rest) of all entries that are broken off after this one.
            if low == 1.0:
                behind = gradient[j] * z[j]
                j -= 1
            u = _logistic(x - math.log(low))
            own = gradient[j] * z[j]
            latent_gradient[i] = (1.0 - u) * (own + 1.0) - u * (behind + 1.0)
            behind += own + 1.0

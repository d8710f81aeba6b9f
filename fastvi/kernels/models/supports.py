"""Transforms between latent coordinates, in which q is Gaussian, and the support of a model.

A latent coordinate has a kind and two bounds: z = x, low + exp x, high - exp x, or low + (high - low) / (1 +
exp -x). A simplex of n + 1 entries has n latent coordinates, by stick breaking with the density of its first
n entries; their first bounds count down from n to 1. An ordered vector begins with a real or a positive
coordinate; each next entry is that before it + exp x. The Cholesky factor of a correlation matrix (K, K) is
K² entries of z in rows, with a latent coordinate and the bounds K and r K + c for each entry (r, c) below the
diagonal: tanh x is its share of the length that the entries before it leave of a row of length 1. Its density
is that of these entries. The log-Jacobians are added up.

The maps are those of the Stan Reference Manual, chapter Constraint Transforms, sections Lower bounded scalar,
Upper bounded scalar, Lower and upper bounded scalar, Ordered vector, Unit simplex (by stick breaking), and
Cholesky factors of correlation matrices.

Far out z rounds to its bound, where many densities are not finite: the nearest number inside is handed over.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import kernel
from ..numerics.elementary import exp
from .kinds import CORRELATION, INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER

#: exp of this is still finite, and so are its products with numbers up to 1e8: log(k z) - k z is NaN where
#: k z is not.
LARGEST_EXPONENT = 690.0

#: The numbers next to 0 and 1, between them.
LEAST, BELOW_ONE = 5e-324, 1.0 - 2.0**-53

#: Numbers this close to a bound, in units of the spacing of floats there, have lost their digits.
CLOSE = 64.0

#: How far the sum of a simplex, or the squared length of a row of a factor, may be from 1.
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
def _log_sech(x):
    """log(1 / cosh(x))."""
    a = abs(x)
    return math.log(2.0) - a - math.log1p(math.exp(-2.0 * a))


@kernel
def _sech(x):
    """1 / cosh(x), without overflow."""
    e = math.exp(-abs(x))
    return 2.0 * e / (1.0 + e * e)


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
        elif kind == ORDERED:
            for n in range(count):
                z[n, j] = z[n, j - 1] + exp(min(latent[n, i], LARGEST_EXPONENT))
                log_jacobian[n] += latent[n, i]
        elif kind == CORRELATION:
            j += _to_row(int(low), int(high), latent, i, count, z, j, log_jacobian)
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
def _to_row(size, place, latent, i, count, z, j, log_jacobian):
    """Write entry `place` of a factor for latent coordinate i; how many coordinates come after its own.

    The diagonal entry holds what is left of the length of its row. `j` counts one coordinate for each entry
    below the diagonal; the last of these has all others of the factor.
    """
    row, column = place // size, place % size
    start = j - (row * (row - 1) // 2 + column)
    if place == size:
        for n in range(count):
            for k in range(size * size):
                z[n, start + k] = 0.0
            z[n, start] = 1.0
    entry, diagonal = start + place, start + row * (size + 1)
    for n in range(count):
        x = latent[n, i]
        left = z[n, diagonal] if column > 0 else 1.0
        z[n, entry] = left * math.tanh(x)
        z[n, diagonal] = left * _sech(x)
        log_jacobian[n] += math.log(left) + 2.0 * _log_sech(x)
    return beyond(size, place)


@kernel
def beyond(size, place):
    """The coordinates of a factor that its last entry below the diagonal has besides its own."""
    return size * size - size * (size - 1) // 2 if place == size * size - 2 else 0


@kernel
def _from_row(size, place, z, start):
    """(whether the row of an entry of a factor is one of length 1, the entry's latent coordinate)."""
    row, column = place // size, place % size
    first = start + row * size
    tail = 0.0
    for k in range(column + 1, row + 1):
        tail += z[first + k] * z[first + k]
    good = z[first + row] > 0.0
    if column == 0:
        good = good and abs(tail + z[first] * z[first] - 1.0) <= SUM_TOLERANCE
        for k in range(row + 1, size):
            good = good and z[first + k] == 0.0
    if row == 1:
        good = good and z[start] == 1.0
        for k in range(1, size):
            good = good and z[start + k] == 0.0
    return good, math.asinh(z[first + column] / math.sqrt(tail)) if good else math.nan


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
        if kind == CORRELATION:
            j += beyond(int(low), int(high))
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
        elif kind == ORDERED:
            if not z[j] > z[j - 1]:
                return False
            latent[i] = math.log(z[j] - z[j - 1])
        elif kind == CORRELATION:
            size, place = int(low), int(high)
            row = place // size
            good, latent[i] = _from_row(size, place, z, j - (row * (row - 1) // 2 + place % size))
            if not good:
                return False
            j += beyond(size, place)
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
    # `behind` is d / d log(rest) of all entries that are broken off after this one; `above` is the sum of the
    # gradient in the later entries of an ordered vector; `square` is that of the rest of a row of a factor.
    behind, above, square = 0.0, 0.0, 0.0
    for k in range(kinds.size):
        i = kinds.size - 1 - k
        kind, low, high = kinds[i], bounds[i, 0], bounds[i, 1]
        x = latent[i]
        j -= 1
        if kind == REAL:
            latent_gradient[i] = gradient[j] + above
            above = 0.0
        elif kind == LOWER:
            latent_gradient[i] = (gradient[j] + above) * (z[j] - low) + 1.0
            above = 0.0
        elif kind == UPPER:
            latent_gradient[i] = gradient[j] * (z[j] - high) + 1.0
        elif kind == INTERVAL:
            u = _logistic(x)
            latent_gradient[i] = gradient[j] * (high - low) * u * (1.0 - u) + (1.0 - 2.0 * u)
        elif kind == ORDERED:
            above += gradient[j]
            latent_gradient[i] = above * exp(min(x, LARGEST_EXPONENT)) + 1.0
        elif kind == CORRELATION:
            size, place = int(low), int(high)
            row, column = place // size, place % size
            j -= beyond(size, place)
            start = j - (row * (row - 1) // 2 + column)
            entry, diagonal = start + place, start + row * (size + 1)
            if column == row - 1:
                behind = gradient[diagonal] * z[diagonal]
                square = z[diagonal] * z[diagonal]
            own = gradient[entry] * math.sqrt(square) * _sech(x)
            latent_gradient[i] = own - math.tanh(x) * (behind + 2.0)
            behind += gradient[entry] * z[entry] + 1.0
            square += z[entry] * z[entry]
        else:
            if low == 1.0:
                behind = gradient[j] * z[j]
                j -= 1
            u = _logistic(x - math.log(low))
            own = gradient[j] * z[j]
            latent_gradient[i] = (1.0 - u) * (own + 1.0) - u * (behind + 1.0)
            behind += own + 1.0

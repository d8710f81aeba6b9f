"""Densities tabulated on a rectangular grid: trapezoid weights, moments, peaks.

For `fastvi.Grid2D` and the starts of its projections.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import adder, exported, formula, kernel
from ..numerics.elementary import exp
from ..numerics.matrices import copy_vector

#: Logarithms of densities below this are those of 0, where p log p is 0.
LOG_OF_ZERO = -1e300


@exported
def trapezoid(points, out):
    """Write the weights of the trapezoid rule on increasing points."""
    n = points.size
    for i in range(n):
        low = points[i] - points[i - 1] if i > 0 else 0.0
        high = points[i + 1] - points[i] if i + 1 < n else 0.0
        out[i] = 0.5 * (low + high)


@formula
def _mass(weight, value):
    return weight * exp(value)


@adder
def _row(y, b, log_p, top):
    """Sums of b p, b p y, b p y**2 and b p log p along a row."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for j in range(y.size):
        value = log_p[j] - top
        p = _mass(b[j], value)
        s0 += p
        s1 += p * y[j]
        s2 += p * (y[j] * y[j])
        s3 += p * (value if value > LOG_OF_ZERO else 0.0)
    return s0, s1, s2, s3


@exported
def summary(x, y, a, b, log_p, mean, cov):
    """Write the mean and the covariance; (log of the integral, entropy of the normalised density)."""
    top = -math.inf
    for i in range(x.size):
        for j in range(y.size):
            top = max(top, log_p[i, j])
    # Moments about the centre of the grid: those about the origin lose digits far from it.
    cx, cy = 0.5 * (x[0] + x[-1]), 0.5 * (y[0] + y[-1])
    shifted = np.empty(y.size)
    for j in range(y.size):
        shifted[j] = y[j] - cy
    m, mx, my, xx, xy, yy, plogp = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        s0, s1, s2, s3 = _row(shifted, b, log_p[i], top)
        u = x[i] - cx
        m += a[i] * s0
        mx += a[i] * s0 * u
        my += a[i] * s1
        xx += a[i] * s0 * (u * u)
        xy += a[i] * s1 * u
        yy += a[i] * s2
        plogp += a[i] * s3
    mx, my = mx / m, my / m
    mean[0], mean[1] = cx + mx, cy + my
    cov[0, 0] = xx / m - mx * mx
    cov[1, 0] = xy / m - mx * my
    cov[0, 1] = cov[1, 0]
    cov[1, 1] = yy / m - my * my
    return top + math.log(m), math.log(m) - plogp / m


@exported
def peaks(x, y, log_p, means, most):
    """Write the highest local maxima, at most `most`, as rows (x, y, log p) of `means`; their number."""
    count = 0
    for i in range(x.size):
        for j in range(y.size):
            value = log_p[i, j]
            if value == -math.inf or not _is_peak(log_p, i, j):
                continue
            # Insertion sort by log p, the highest first.
            place = count
            while place > 0 and means[place - 1, 2] < value:
                place -= 1
            if place >= most:
                continue
            count = min(count + 1, most)
            for k in range(count - 1, place, -1):
                copy_vector(means[k - 1], means[k])
            means[place, 0], means[place, 1], means[place, 2] = x[i], y[j], value
    return count


@kernel
def _is_peak(log_p, i, j):
    for k in range(max(i - 1, 0), min(i + 2, log_p.shape[0])):
        for m in range(max(j - 1, 0), min(j + 2, log_p.shape[1])):
            # Of equal neighbours the first is the local maximum.
            if log_p[k, m] > log_p[i, j] or (log_p[k, m] == log_p[i, j] and (k < i or (k == i and m < j))):
                return False
    return True

"""Error-free arithmetic: compiled without fast-math, whatever the caller is compiled with."""

from __future__ import annotations

import math

from ..compiler import kernel


@kernel
def difference(x, y):
    """x - y, where the caller may reorder sums but must not take this apart."""
    return x - y


@kernel
def add_compensated(total, lost, x):
    """Neumaier's step: the new total, and what its roundings have lost so far."""
    s = total + x
    if not abs(s) < math.inf:
        return s, 0.0
    if abs(total) >= abs(x):
        return s, lost + ((total - s) + x)
    return s, lost + ((x - s) + total)


@kernel
def two_product(x, y):
    """x y as an unevaluated sum of two floats (Dekker 1971), with no fused operation needed."""
    c = 134217729.0 * x
    xh = c - (c - x)
    xl = x - xh
    c = 134217729.0 * y
    yh = c - (c - y)
    yl = y - yh
    high = x * y
    return high, ((xh * yh - high) + xh * yl + xl * yh) + xl * yl


@kernel
def cross_difference(x, u, y, v):
    """x u - y v with a relative error of 2**-53 even where the two products nearly agree."""
    a, al = two_product(x, u)
    b, bl = two_product(y, v)
    return (a - b) + (al - bl)

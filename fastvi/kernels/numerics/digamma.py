"""The digamma function, the derivative of log Γ."""

from __future__ import annotations

import math

from ..compiler import formula
from .elementary import logarithm


@formula
def digamma(x):
    """d log Γ(x) / dx for x > 0, with an error of 1e-15 (1 + |log x|) or 1e-15 / x; NaN elsewhere.

    The asymptotic series holds from 8 on; below, ψ(x) = ψ(x + 8) - 1 / x - ... - 1 / (x + 7).
    """
    x = x if x > 0.0 else math.nan
    small = x < 8.0
    y = x + 8.0 if small else x
    r = 1.0 / y
    w = r * r
    s = 3617.0 / 8160.0
    s = s * w - 1.0 / 12.0
    s = s * w + 691.0 / 32760.0
    s = s * w - 1.0 / 132.0
    s = s * w + 1.0 / 240.0
    s = s * w - 1.0 / 252.0
    s = s * w + 1.0 / 120.0
    s = s * w - 1.0 / 12.0
    value = logarithm(y) - 0.5 * r + w * s
    if small:
        rest = 1.0 / (x + 1.0) + 1.0 / (x + 2.0) + 1.0 / (x + 3.0) + 1.0 / (x + 4.0)
        rest += 1.0 / (x + 5.0) + 1.0 / (x + 6.0) + 1.0 / (x + 7.0)
        value = (value - rest) - 1.0 / x
    return value

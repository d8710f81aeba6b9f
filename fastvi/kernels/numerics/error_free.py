"""Error-free sums and products, for kernels that need more digits than one float has.

Compiled without fast-math flags, which hold for each function by itself: inlined into a caller with such
flags they stay as written.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..compiler import inlined, kernel, overloaded


@kernel
def difference(x, y):
    """x - y, as one operation also in a caller that may reorder sums."""
    return x - y


@inlined
def two_sum(x, y):
    """x + y, and what its rounding has lost (Knuth)."""
    s = x + y
    b = s - x
    return s, (x - (s - b)) + (y - b)


@kernel
def add_compensated(total, lost, x):
    """Compensated addition (Neumaier 1974): (the new total, the sum of its rounding errors so far)."""
    s = total + x
    if not abs(s) < math.inf:
        return s, 0.0
    if abs(total) >= abs(x):
        return s, lost + ((total - s) + x)
    return s, lost + ((x - s) + total)


def fma(x, y, z):
    """x y + z, rounded once."""
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    real = np.float32 if isinstance(x, np.float32) else float
    try:
        return real(float(exact)) if exact else real(x * y + z)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


@intrinsic
def _fma(typing_context, x, y, z):
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    real = types.float32 if x == y == z == types.float32 else types.float64
    return real(real, real, real), generate


@overloaded(fma)
def _overload_fma(x, y, z):
    return lambda x, y, z: _fma(x, y, z)


def two_product(x, y):
    """x y as an unevaluated sum of two floats: by a fused operation, without one as Dekker (1971)."""
    c = 134217729.0 * x
    xh = c - (c - x)
    xl = x - xh
    c = 134217729.0 * y
    yh = c - (c - y)
    yl = y - yh
    high = x * y
    return high, ((xh * yh - high) + xh * yl + xl * yh) + xl * yl


@intrinsic
def _two_product(typing_context, x, y):
    def generate(context, builder, signature, arguments):
        if "+fma" not in context.codegen()._tm_features:
            return context.compile_internal(builder, two_product, signature, arguments)
        high = builder.fmul(*arguments)
        pair = high, builder.fma(*arguments, builder.fneg(high))
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(types.float64, 2)(types.float64, types.float64), generate


@overloaded(two_product)
def _overload_two_product(x, y):
    return lambda x, y: _two_product(x, y)


@kernel
def cross_difference(x, u, y, v):
    """x u - y v to 2**-52 of itself, even where the two products nearly agree (Kahan's algorithm).

    Exactly 0 for equal products.
    """
    w = y * v
    return fma(x, u, -w) + fma(-y, v, w)

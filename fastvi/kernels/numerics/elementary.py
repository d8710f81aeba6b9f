"""Logarithm, exponential, cosine and sine in arithmetic that LLVM vectorises, for all kernels.

A call to the ``log`` of the C library is not vectorised (4 ns each). Here the exponent is computed in integer
registers and the rest by a short polynomial, inlined into the loop of the caller.

The functions that use the bits of a number are plain Python, so that kernels also run uncompiled, with an
intrinsic for compiled code. The intrinsic computes in integers of the width of the number: numba widens int32
arithmetic to int64, which would halve the lanes of float32.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..compiler import formula, kernel, overloaded
from .error_free import fma, two_product, two_sum

LN2 = math.log(2.0)

_LARGEST = sys.float_info.max

# ln 2 = LN2_HIGH + LN2_LOW, with 20 trailing zeros in the first: k * LN2_HIGH is exact for |k| < 2**20.
LN2_HIGH = 6.931471803691238e-01
LN2_LOW = 1.9082149292705877e-10

#: Coefficients of (atanh(s) - s - s**3 / 3) / s**5 in s**2; for |s| <= 1/5 the next term is less than 1e-21.
_ATANH = tuple(1.0 / i for i in range(27, 3, -2))

#: 1/3 in two floats.
_THIRD, _THIRD_LOW = 1.0 / 3.0, 1.850371707708594e-17

#: 1.5 * 2**52: adding and subtracting it rounds to the nearest integer, without a call.
ROUNDER = 6755399441055744.0

#: A number whose last bit is worth 2**52, and its bits.
_SHIFT = 1.5 * 2.0**104
_BITS_OF_SHIFT = int(np.float64(_SHIFT).view(np.int64))

_FRACTION = {types.float64: 52, types.float32: 23}
_WIDTH = {types.float64: 64, types.float32: 32}


def exponent_step(p, q):
    """Scale `q` by a power of two to be near `p`: ``(b, k)`` with b = q 2**k, p / b in [2/3, 3/2].

    `k` is returned times 2**52 (2**23 in float32), as a float: that saves a shift. Exact for positive normal
    numbers; zeros, subnormals and special values give a meaningless pair, without a trap.

    The difference of two bit patterns is a piecewise linear log2 of their ratio, with an error of at most
    0.0861; rounded to an integer it leaves a ratio within 2**(0.5 + 0.0861) = 3/2.
    """
    fraction, integer = (52, np.int64) if isinstance(p, float) else (23, np.int32)
    real = np.float64 if fraction == 52 else np.float32
    i = int(real(p).view(integer))
    j = int(real(q).view(integer))
    step = (i - j + (1 << (fraction - 1))) >> fraction << fraction
    pattern = (j + step) & ((1 << np.iinfo(integer).bits) - 1)
    unsigned = np.uint64 if fraction == 52 else np.uint32
    return real(unsigned(pattern).view(real)), real(step)


@intrinsic
def _exponent_step(typing_context, p, q):
    def generate(context, builder, signature, arguments):
        real = context.get_value_type(p)
        integer = ir.IntType(_WIDTH[p])
        fraction = _FRACTION[p]
        i = builder.bitcast(arguments[0], integer)
        j = builder.bitcast(arguments[1], integer)
        half = ir.Constant(integer, 1 << (fraction - 1))
        mask = ir.Constant(integer, -(1 << fraction))
        step = builder.and_(builder.add(builder.sub(i, j), half), mask)
        scaled = builder.bitcast(builder.add(j, step), real)
        if _WIDTH[p] == 32 or "+avx512dq" in context.codegen()._tm_features:
            number = builder.sitofp(step, real)
        else:
            # AVX2 converts no int64. The last bit of 2**104 is worth 2**52: k, made positive by 2048, is
            # added to the bits of such a number. A loop of logarithms takes 0.77 of the time.
            positive = builder.xor(step, ir.Constant(integer, -(1 << 63)))
            bits = builder.add(
                builder.lshr(positive, ir.Constant(integer, 52)), ir.Constant(integer, _BITS_OF_SHIFT)
            )
            number = builder.fsub(builder.bitcast(bits, real), ir.Constant(real, _SHIFT + 2048 * 2.0**52))
        pair = (scaled, number)
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(p, 2)(p, q), generate


@overloaded(exponent_step)
def _overload_exponent_step(p, q):
    if p in _FRACTION and p == q:
        return lambda p, q: _exponent_step(p, q)
    return None


def power_of_two(k):
    """2**k for an integral float k in [-1022, 1023], [-126, 127] in float32; meaningless for any other k."""
    real, most = (float, 1023) if isinstance(k, float) else (np.float32, 127)
    return real(math.ldexp(1.0, int(k)) if -most < k <= most else 0.0)


@intrinsic
def _power_of_two(typing_context, k):
    def generate(context, builder, signature, arguments):
        # The low bits of (k + 1023) + 2**52 are k + 1023; shifted by 52 they are the exponent.
        real, integer = context.get_value_type(k), ir.IntType(_WIDTH[k])
        fraction, bias = _FRACTION[k], (1 << (_WIDTH[k] - _FRACTION[k] - 2)) - 1
        shifted = builder.fadd(arguments[0], ir.Constant(real, 2.0**fraction + bias))
        bits = builder.shl(builder.bitcast(shifted, integer), ir.Constant(integer, fraction))
        return builder.bitcast(bits, real)

    return k(k), generate


@overloaded(power_of_two)
def _overload_power_of_two(k):
    return (lambda k: _power_of_two(k)) if k in _FRACTION else None


@formula
def atanh_tail(w):
    """(atanh(s) - s) / s**3 at w = s**2, for |s| <= 1/5: minimax polynomial of degree 6, error 1.4e-15.

    A logarithm multiplies it by w <= 0.04, so its relative error is 6e-17.
    """
    r = 0.07559243554362285
    r = r * w + 0.07641851876201573
    r = r * w + 0.09092305123147032
    r = r * w + 0.11111091388337241
    r = r * w + 0.14285714418022774
    r = r * w + 0.19999999999667778
    return r * w + 0.3333333333333347


@formula
def log_ratio(p, q, d):
    """log(p / q) for positive normal p, q, given d = p - q: correct in the last digits for p near q."""
    b, k = exponent_step(p, q)
    s = (d if k == 0.0 else p - b) / (p + b)
    w = s * s
    r = 2.0 * s
    return k * (LN2 * 2.0**-52) + (r + r * w * atanh_tail(w))


@kernel
def log_quotient(p, p_low, q, q_low):
    """log((p + p_low) / (q + q_low)) in two floats, for positive normal p, q: an error of 1e-19."""
    near, k = exponent_step(p, q)
    low = q_low / q * near
    top, bottom = p - near, p + near
    _, lost = two_sum(p, near)
    # As `log_ratio`, with s and s**3 / 3 in two floats.
    s = top / bottom
    s_low = (fma(-s, bottom, top) + ((p_low - low) - s * (lost + (p_low + low)))) / bottom
    w, w_low = two_product(s, s)
    cube, cube_low = two_product(s, w)
    third, third_low = two_product(cube, _THIRD)
    third_low += cube * _THIRD_LOW + (cube_low + s * w_low + 3.0 * w * s_low) * _THIRD
    tail = 0.0
    for coefficient in _ATANH:
        tail = tail * w + coefficient
    k = k * 2.0**-52
    high, lost = two_sum(k * LN2_HIGH, 2.0 * s)
    high, more = two_sum(high, 2.0 * third)
    return two_sum(high, (lost + more) + (k * LN2_LOW + 2.0 * ((s_low + third_low) + cube * w * tail)))


@formula
def log(x):
    """Natural logarithm of a positive normal number."""
    return log_ratio(x, 1.0, x - 1.0)


@kernel
def _exp_reduced(x):
    """(k, r) with x = k ln 2 + r, |r| <= 0.35."""
    k = (x * (1.0 / LN2) + ROUNDER) - ROUNDER
    return k, (x - k * LN2_HIGH) - k * LN2_LOW


@formula
def _expm1_tail(r):
    """(exp(r) - 1 - r) / r**2 for |r| <= 0.35: 1 / 2 + r / 6 + ... + r**12 / 14!, truncation below 1e-19."""
    s = 1.0 / 87178291200.0
    s = s * r + 1.0 / 6227020800.0
    s = s * r + 1.0 / 479001600.0
    s = s * r + 1.0 / 39916800.0
    s = s * r + 1.0 / 3628800.0
    s = s * r + 1.0 / 362880.0
    s = s * r + 1.0 / 40320.0
    s = s * r + 1.0 / 5040.0
    s = s * r + 1.0 / 720.0
    s = s * r + 1.0 / 120.0
    s = s * r + 1.0 / 24.0
    s = s * r + 1.0 / 6.0
    return s * r + 0.5


@formula
def _expm1_reduced(r):
    """exp(r) - 1 for |r| <= 0.35."""
    return r + r * r * _expm1_tail(r)


@formula
def _exp_polynomial(r):
    """exp(r) for |r| <= 0.35, by Estrin's scheme: shorter chains of dependent operations than Horner's."""
    r2 = r * r
    r4 = r2 * r2
    low = (1.0 + r) + r2 * (0.5 + r * (1.0 / 6.0))
    middle = (1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0 + r * (1.0 / 5040.0))
    high = (1.0 / 40320.0 + r * (1.0 / 362880.0)) + r2 * (1.0 / 3628800.0 + r * (1.0 / 39916800.0))
    return low + r4 * (middle + r4 * (high + r4 * (1.0 / 479001600.0)))


@formula
def _two_powers(k):
    """Two powers of two with the product 2**k, both normal, for results below 2**-1022."""
    half = (k * 0.5 + ROUNDER) - ROUNDER
    return power_of_two(half), power_of_two(k - half)


@formula
def scaled_exp(s, x):
    """s e**x for x <= 709, also -inf; NaN for NaN. Only the product must be in range."""
    k, r = _exp_reduced(-800.0 if x < -800.0 else x)
    one, two = _two_powers(k)
    return (s * one) * _exp_polynomial(r) * two


@formula
def exp(x):
    """e**x for any x, with a relative error of 4e-16, vectorised in a loop.

    For log joints: a loop over ``math.exp`` takes 4 ns a number, one over this at most 1.7 ns.

    Parameters
    ----------
    x : float

    Returns
    -------
    float
        inf above 709.78, 0 below -745, NaN for NaN.

    Examples
    --------
    >>> from fastvi import kernels
    >>> kernels.elementary.exp(0.0), kernels.elementary.exp(1000.0)
    (1.0, inf)
    """
    # Not by `scaled_exp`: a fit with one in its log joint takes 5 % longer then.
    y = 710.0 if x > 710.0 else x
    k, r = _exp_reduced(-800.0 if y < -800.0 else y)
    one, two = _two_powers(k)
    return (_exp_polynomial(r) * one) * two


@formula
def logarithm(x):
    """Natural logarithm of any x, vectorised in a loop. For log joints, like `exp`.

    Parameters
    ----------
    x : float

    Returns
    -------
    float
        -inf for 0, NaN for NaN and negative numbers.

    Examples
    --------
    >>> from fastvi import kernels
    >>> kernels.elementary.logarithm(1.0), kernels.elementary.logarithm(0.0)
    (0.0, -inf)
    """
    # Subnormal numbers are scaled to normal ones, for which `log` holds.
    small = x < 2.0**-1000
    value = log(x * 2.0**54 if small else x) - (54.0 * LN2 if small else 0.0)
    value = math.inf if x == math.inf else value
    return value if x > 0.0 else (-math.inf if x == 0.0 else math.nan)


@formula
def decay(x):
    """e**x for x <= 709, and 3e-308 below -708, with a relative error of 4e-16.

    Faster than `exp`, since one power of two suffices.
    """
    k, r = _exp_reduced(x if x > -708.0 else -708.0)
    return _exp_polynomial(r) * power_of_two(k)


@formula
def exponential_over(x, shift, least):
    """(e**x over 2**shift, its power of two), for |x| < 7e5 and an integral shift; 0 up to the power `least`.

    NaN for NaN; the first is meaningless where the second is above 1000. `least` is at least -1022.
    """
    k, r = _exp_reduced(x)
    n = k - shift
    value = _exp_polynomial(r) * power_of_two(n)
    return (0.0 if n <= least else value), n


@formula
def power_reduced(beta, k, low):
    """(n, r) with beta (k 2**-52 ln 2 + low) = n ln 2 + r, |r| <= 0.35: of a product that is not rounded.

    A rounded exponent of 700 would leave 6e-14 of its power. k is one of `exponent_step`. Below -1097, n is
    that and r -0.5.
    """
    # No infinite factor of what is 0.
    fraction = low * min(beta * (1.0 / LN2), _LARGEST)
    whole = beta * 2.0**-52
    z = fma(whole, k, fraction)
    n = (z + ROUNDER) - ROUNDER
    n = n if n > -1097.0 else -1097.0
    r = (fma(whole, k, -n) + fraction) * LN2
    return n, (r if r > -0.5 else -0.5)


@formula
def expm1_parts(p, k, r):
    """Of p (e**x - 1), x = k ln 2 + r: whether |x| <= ln(2) / 2, (e**x - 1 - x) / x**2 if so, and the whole.

    |r| <= 0.35 or, for k = -1097, r = -0.5. The whole is inf where it does not fit, and holds up to x = 1400.
    """
    tail = _expm1_tail(r)
    one, f = _two_powers(k)
    e = p * one
    whole = e * f
    # Without a fused operation, the first product may be -inf where the second is inf.
    grown = math.inf if whole == math.inf else (e * (r + r * r * tail)) * f + (whole - p)
    return k == 0.0, tail, grown


@formula
def times_expm1(p, x):
    """p (e**x - 1) with full relative accuracy near x = 0, for x <= 1400; inf where it does not fit."""
    k, r = _exp_reduced(-760.0 if x < -760.0 else x)
    return expm1_parts(p, k, r)[2]


@formula
def expm1_small(x):
    """e**x - 1 for |x| <= 0.35, with full relative accuracy."""
    return _expm1_reduced(x)


#: pi = PI_HIGH + PI_LOW, with 20 trailing zeros in the first.
PI_HIGH = 3.1415926534682512
PI_LOW = 1.2154201013012384e-10


@formula
def cos_sin(x):
    """(cos x, sin x) for |x| < 1e6, with an error of 3e-16: reduced to [-pi/2, pi/2], then Taylor series."""
    k = (x * (1.0 / math.pi) + ROUNDER) - ROUNDER
    r = (x - k * PI_HIGH) - k * PI_LOW
    # The sign is (-1)**k: `odd` is 0 for an even k and +-1/2 for an odd one.
    half = 0.5 * k
    odd = half - ((half + ROUNDER) - ROUNDER)
    sign = 1.0 - 8.0 * (odd * odd)
    w = r * r
    c = 1.0 / 2432902008176640000.0
    c = c * w - 1.0 / 6402373705728000.0
    c = c * w + 1.0 / 20922789888000.0
    c = c * w - 1.0 / 87178291200.0
    c = c * w + 1.0 / 479001600.0
    c = c * w - 1.0 / 3628800.0
    c = c * w + 1.0 / 40320.0
    c = c * w - 1.0 / 720.0
    c = c * w + 1.0 / 24.0
    c = c * w - 0.5
    s = -1.0 / 121645100408832000.0
    s = s * w + 1.0 / 355687428096000.0
    s = s * w - 1.0 / 1307674368000.0
    s = s * w + 1.0 / 6227020800.0
    s = s * w - 1.0 / 39916800.0
    s = s * w + 1.0 / 362880.0
    s = s * w - 1.0 / 5040.0
    s = s * w + 1.0 / 120.0
    s = s * w - 1.0 / 6.0
    return sign + sign * (w * c), sign * (r + r * w * s)

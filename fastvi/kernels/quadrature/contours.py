"""Moments of log q - log p in the plane for two components of p, by contour integrals in one variable.

The fast path of `mixture_kl` and of projections of mixtures. For two components log p = log f_m + log(1 +
e**l), with l = log f_o - log f_m quadratic in xi, and

    log(1 + e**l) = 1 / (2 pi i) int pi / (s sin(pi s)) e**(s l) ds,   Re s = c between 0 and 1

(the inverse Mellin transform of log(1 + x): Gradshteyn & Ryzhik 4.293.10). The expectations of xi**alpha
e**(s l) under a standard normal vector are known in closed form, those of a Gaussian with a complex mean and
covariance. So the integral over the plane becomes one along a line. All singularities lie on the real axis:
the poles at the integers, and s = 1 / lambda for the eigenvalues of the curvature of l, where the matrix of
the Gaussian is singular. The integrand is analytic in a wide strip around the line s = c (1 + i sinh u), and
decays like exp(-exp u): the trapezoid rule in u needs three dozen nodes for ten digits, a lattice in the
plane thousands (Trefethen & Weideman, SIAM Review 56 (2014), sections 5 and 14).
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import adder, formula, kernel
from ..numerics.elementary import cos_sin, decay
from ..numerics.matrices import clear_vector
from .lattice_rows import add_polynomial, ratios
from .moments import RADIUS

#: Levels and their steps in u: far from an optimum, the usual one, and for the last digits.
ROUGH, USUAL, FINEST = 0, 1, 2
STEPS = (0.25, 0.125, 0.0625)

#: Most nodes of a line, up to u = 8 for the finest step; their number is a multiple of LANES.
MOST_ON_LINE = 128
LANES = 8

#: Logarithm of the tolerance over the first node that is left out.
LOG_MARGIN = 5.0

#: Bounds of the error: a factor of the power 3/2 of the error of every other node, a factor of the latter
#: itself, and a factor of the first node that is left out.
POWER_FACTOR, HALF_FACTOR, TAIL_FACTOR = 30.0, 2.0, 10.0

#: Rounding error for each unit of the exponents, relative to the sum of absolute values; what is added to
#: these units; and what keeps the error from being 0 / 0 where all nodes are 0.
ROUNDING, LEAST_EXPONENTS, TINY = 2.2e-16, 8.0, 1e-300

_U = np.array(STEPS)[:, None] * np.arange(MOST_ON_LINE)
_SINH = np.sinh(_U)
# The two halves of the line are complex conjugates: every node but the first counts twice.
_WEIGHTS = np.array(STEPS)[:, None] * np.cosh(_U)
_WEIGHTS[:, 0] *= 0.5
_SIGNS = np.where(np.arange(MOST_ON_LINE) % 2 == 0, 1.0, -1.0)


@formula
def _times(u, v):
    (re, im), (x, y) = u, v
    return re * x - im * y, re * y + im * x


@formula
def _real(u, v):
    """The real part of u v."""
    (re, im), (x, y) = u, v
    return re * x - im * y


@formula
def _plus(u, v, factor, w):
    """u + factor v w."""
    (re, im), (a, b), (x, y) = u, v, w
    a, b = factor * a, factor * b
    return re + (a * x - b * y), im + (a * y + b * x)


@formula
def _real_plus(u, v, factor, w):
    """The real part of u + factor v w, for a real u."""
    return u + factor * _real(v, w)


@formula
def _inverse_root(z):
    """(1 / sqrt(z), 1 / |z|**2) for z that is not a negative real number."""
    x, y = z
    square = x * x + y * y
    size = math.sqrt(square)
    inverse = 1.0 / size
    one = math.sqrt(0.5 * (size + abs(x)))
    two = 0.5 * y / one
    # sqrt(z) is one + i two where x > 0, else |two| + i one with the sign of y.
    right, up = x >= 0.0, y >= 0.0
    re = one if right else abs(two)
    im = two if right else (one if up else -one)
    return (re * inverse, -im * inverse), inverse * inverse


@formula
def _matrix(c, t, ratio):
    """The entries of I + s B at s = c + i t, and its determinant."""
    _, _, _, b00, b01, b11 = ratio
    m00, m11 = (1.0 + c * b00, t * b00), (1.0 + c * b11, t * b11)
    m01 = (c * b01, t * b01)
    (re, im), (re_square, im_square) = _times(m00, m11), _times(m01, m01)
    return m00, m11, m01, (re - re_square, im - im_square)


@formula
def _node(sinh, c, edge, ratio):
    """At s = c (1 + i sinh u): E exp(s l) c / (s sin(pi s)), and the mean and covariance of the Gaussian.

    `edge` is (cos, sin) of pi c; `ratio` as in `integrate`.
    """
    constant, b0, b1, _, _, _ = ratio
    cos_edge, sin_edge = edge
    t = c * sinh
    s = (c, t)
    # c / (s sin(pi s)), where sin(pi s) = exp(pi t) / 2 (sin(pi c) (1 + q) + i cos(pi c) (1 - q)).
    half = decay(-math.pi * t)
    q = half * half
    below_re, below_im = _times(s, (sin_edge * (1.0 + q), cos_edge * (1.0 - q)))
    scale = (2.0 * c) * half / (below_re * below_re + below_im * below_im)
    m00, m11, m01, det = _matrix(c, t, ratio)
    # The covariance V is the inverse.
    root, inverse = _inverse_root(det)
    det_re, det_im = det
    over = (det_re * inverse, -det_im * inverse)
    (x00, y00), (x11, y11), (x01, y01) = _times(m11, over), _times(m00, over), _times(m01, over)
    x01, y01 = -x01, -y01
    # The mean s V b, and the exponent s constant + s b' mean / 2.
    x0, y0 = _times(s, (x00 * b0 + x01 * b1, y00 * b0 + y01 * b1))
    x1, y1 = _times(s, (x01 * b0 + x11 * b1, y01 * b0 + y11 * b1))
    size, phase = _times(s, (constant + 0.5 * (b0 * x0 + b1 * x1), 0.5 * (b0 * y0 + b1 * y1)))
    size = scale * decay(size)
    cos, sin = cos_sin(phase)
    f = _times((below_re, -below_im), root)
    f = _times(f, (size * cos, size * sin))
    return f, (x0, y0), (x1, y1), (x00, y00), (x01, y01), (x11, y11)


@adder
def _sums(sinh, weights, signs, c, edge, ratio):
    """Sums along a line: degree <= 2; the same with alternating signs; degree 3 and 4; of absolute values."""
    s00, s10, s20, s01, s11, s02 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    a00, a10, a20, a01, a11, a02 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s30, s21, s12, s03 = 0.0, 0.0, 0.0, 0.0
    s40, s31, s22, s13, s04 = 0.0, 0.0, 0.0, 0.0, 0.0
    size = 0.0
    for i in range(sinh.size):
        (re, im), m, n, v00, v01, v11 = _node(sinh[i], c, edge, ratio)
        re, im = weights[i] * re, weights[i] * im
        f = (re, im)
        # E xi**(alpha + e_a) = m_a E xi**alpha + sum_b alpha_b V_ab E xi**(alpha - e_b)
        f10, f01 = _times(f, m), _times(f, n)
        f20, f11 = _plus(_times(f10, m), f, 1.0, v00), _plus(_times(f10, n), f, 1.0, v01)
        f02 = _plus(_times(f01, n), f, 1.0, v11)
        f30, f21 = _plus(_times(f20, m), f10, 2.0, v00), _plus(_times(f20, n), f10, 2.0, v01)
        f12, f03 = _plus(_times(f02, m), f01, 2.0, v01), _plus(_times(f02, n), f01, 2.0, v11)
        (re10, _), (re20, _), (re01, _), (re11, _), (re02, _) = f10, f20, f01, f11, f02
        sign = signs[i]
        s00 += re
        s10 += re10
        s20 += re20
        s01 += re01
        s11 += re11
        s02 += re02
        a00 += sign * re
        a10 += sign * re10
        a20 += sign * re20
        a01 += sign * re01
        a11 += sign * re11
        a02 += sign * re02
        size += abs(re) + abs(im)
        (re30, _), (re21, _), (re12, _), (re03, _) = f30, f21, f12, f03
        s30 += re30
        s21 += re21
        s12 += re12
        s03 += re03
        s40 += _real_plus(_real(f30, m), f20, 3.0, v00)
        s31 += _real_plus(_real(f30, n), f20, 3.0, v01)
        s22 += _real_plus(_real_plus(_real(f21, n), f20, 1.0, v11), f11, 2.0, v01)
        s13 += _real_plus(_real(f03, m), f02, 3.0, v01)
        s04 += _real_plus(_real(f03, n), f02, 3.0, v11)
    low = (s00, s10, s20, s01, s11, s02)
    return low, (a00, a10, a20, a01, a11, a02), (s30, s40, s21, s31, s12, s22, s03, s13, s04), size


@kernel
def _exponent(t, c, ratio):
    """Approximate logarithm of the size of a node: the real part of the exponent, less pi t."""
    constant, b0, b1, _, _, _ = ratio
    (x00, y00), (x11, y11), (x01, y01), (re, im) = _matrix(c, t, ratio)
    # b' V b = b' adj(M) b / det
    above = b0 * b0 * x11 + b1 * b1 * x00 - 2.0 * b0 * b1 * x01
    beside = b0 * b0 * y11 + b1 * b1 * y00 - 2.0 * b0 * b1 * y01
    inverse = 1.0 / (re * re + im * im)
    x, y = (above * re + beside * im) * inverse, (beside * re - above * im) * inverse
    return c * constant + 0.5 * ((c * c - t * t) * x - 2.0 * c * t * y) - math.pi * t


@kernel
def _centre(ratio):
    """Crossing of the line and the real axis: halfway between two singularities, or at a saddle point."""
    constant, b0, b1, b00, b01, b11 = ratio
    # Half the greatest eigenvalue of -B.
    most = math.sqrt(0.25 * (b00 - b11) ** 2 + b01 * b01) - 0.5 * (b00 + b11)
    c = 0.5 / max(most, 1.0)
    square = b0 * b0 + b1 * b1
    if c * (constant + c * square) > 1.0:
        # exp(c constant + c**2 |b|**2 / 2) / c is least here.
        c = (math.sqrt(constant * constant + 4.0 * square) - constant) / (2.0 * square)
    return c


@kernel
def integrate(ratio, tolerance, level, moments):
    """Subtract the moments E xi**alpha log(1 + r), |alpha| <= 4, in the plane: (error, nodes).

    `ratio` has the coefficients of log r: the constant, the gradient (2) and minus the second derivatives
    (3).
    """
    c = _centre(ratio)
    sinh, limit = _SINH[level], math.log(tolerance) - LOG_MARGIN
    most = sinh.size >> (FINEST - level)
    n, last = LANES, 0.0
    while True:
        last = _exponent(c * sinh[min(n, most - 1)], c, ratio)
        if last < limit or n >= most:
            break
        n += LANES
    edge = (math.cos(math.pi * c), math.sin(math.pi * c))
    low, (a00, a10, a20, a01, a11, a02), high, size = _sums(
        sinh[:n], _WEIGHTS[level, :n], _SIGNS[:n], c, edge, ratio
    )
    s00, s10, s20, s01, s11, s02 = low
    s30, s40, s21, s31, s12, s22, s03, s13, s04 = high
    moments[0] -= s00
    moments[1] -= s10
    moments[2] -= s20
    moments[3] -= s30
    moments[4] -= s40
    moments[5] -= s01
    moments[6] -= s11
    moments[7] -= s21
    moments[8] -= s31
    moments[10] -= s02
    moments[11] -= s12
    moments[12] -= s22
    moments[15] -= s03
    moments[16] -= s13
    moments[20] -= s04
    square = a00 * a00 + a10 * a10 + a20 * a20 + a01 * a01 + a11 * a11 + a02 * a02
    constant, b0, b1, b00, b01, b11 = ratio
    digits = LEAST_EXPONENTS + abs(constant) + abs(b0) + abs(b1) + abs(b00) + abs(b01) + abs(b11)
    # `half` is the error of every other node alone; the error of all nodes is about its square. The power 3/2
    # guards against a difference that is small by accident: in 3,000 random frames the error was at most a
    # third of the estimate.
    half = math.sqrt(square)
    left = half * min(HALF_FACTOR, POWER_FACTOR * math.sqrt(half / (size + TINY)))
    return left + TAIL_FACTOR * math.exp(last) + ROUNDING * digits * size, n


@kernel
def expect(coefficients, log_peak, dim, tolerance, level, table, moments):
    """Write the moments of log q - log p in the frame of q: (error, nodes).

    The error is infinite where more than two components of p are relevant, or in other dimensions than two.
    The step is halved, from that of `level`, until the error is within the tolerance. `table` is scratch
    space, the polynomials of `lattice_rows.Workspace`; log_peak is log q at its mean.
    """
    error, nodes = math.inf, 0
    if dim != 2:
        return error, nodes
    count = ratios(coefficients, RADIUS, table)
    if count == 0 or count > 2:
        return error, nodes
    while error > tolerance and level <= FINEST:
        clear_vector(moments)
        add_polynomial(table[0], log_peak, dim, moments)
        if count == 1:
            return 0.0, 1
        row = table[1]
        ratio = (row[0], row[1], row[2], -2.0 * row[4], -row[5], -2.0 * row[7])
        error, n = integrate(ratio, tolerance, level, moments)
        nodes += n
        level += 1
    return error, nodes

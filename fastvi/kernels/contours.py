"""Moments of log(1 + r), r the ratio of two Gaussian densities, as sums along a line in the complex plane.

For a mixture of two, log p = log f_m + log(1 + e**l) with l = log f_o - log f_m quadratic in xi, and

    log(1 + e**l) = 1 / (2 pi i) int pi / (s sin(pi s)) e**(s l) ds,   Re s = c between 0 and 1

(the Mellin transform of log(1 + x), inverted: Gradshteyn & Ryzhik 4.293.10). The expectations of
xi**alpha e**(s l) under a standard normal vector are known, those of a Gaussian with a complex mean and
covariance: an integral over the plane is left as one along a line. What is not analytic lies on the real
axis: the poles at 0, -1, ... and 1, 2, ..., and s = 1 / lambda for the eigenvalues of the curvature of l,
where the Gaussian has no inverse. So s = c (1 + i sinh u) has a wide strip around it where all is analytic,
and what is summed decays like exp(-exp u): the trapezoid rule in u takes three dozen nodes for ten digits,
where a lattice in the plane takes thousands (Trefethen & Weideman, SIAM Review 56 (2014), sections 5 and 14).
"""

from __future__ import annotations

import math

import numpy as np

from .elementary import cos_sin, decay
from .jit import adder, formula, kernel
from .matrices import clear_vector
from .rows import add_polynomial, ratios

#: The steps in u: on the way to an optimum, the usual one, and for the last digits.
ROUGH, USUAL, FINEST = 0, 1, 2
STEPS = (0.25, 0.125, 0.0625)

#: Where a line ends, at u = 8; nodes come in whole vectors.
MOST = 128
LANES = 8

#: The first node that is left out is this much below the tolerance, as a logarithm.
MARGIN = 5.0

#: Components that are nowhere in this ball of any size are not counted.
RADIUS = 10.0

_U = np.array(STEPS)[:, None] * np.arange(MOST)
_SINH = np.sinh(_U)
# The halves of the line are conjugates: every node but the first counts twice.
_WEIGHTS = np.array(STEPS)[:, None] * np.cosh(_U)
_WEIGHTS[:, 0] *= 0.5
_SIGNS = np.where(np.arange(MOST) % 2 == 0, 1.0, -1.0)


@formula
def _times(u, v):
    return u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]


@formula
def _plus(u, v, factor, w):
    """u + factor v w."""
    a, b = factor * v[0], factor * v[1]
    return u[0] + (a * w[0] - b * w[1]), u[1] + (a * w[1] + b * w[0])


@formula
def _real_plus(u, v, factor, w):
    """The real part of u + factor v w, of which u is given as a real number."""
    return u + factor * (v[0] * w[0] - v[1] * w[1])


@formula
def _real(u, v):
    return u[0] * v[0] - u[1] * v[1]


@formula
def _inverse_root(z):
    """(1 / sqrt(z), 1 / |z|**2) for z that is not a negative number."""
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
    m00, m11 = (1.0 + c * ratio[3], t * ratio[3]), (1.0 + c * ratio[5], t * ratio[5])
    m01 = (c * ratio[4], t * ratio[4])
    product, square = _times(m00, m11), _times(m01, m01)
    return m00, m11, m01, (product[0] - square[0], product[1] - square[1])


@formula
def _node(sinh, c, edge, ratio):
    """At s = c (1 + i sinh u): E exp(s l) c / (s sin(pi s)), and the mean and covariance it goes with.

    `edge` is (cos, sin) of pi c; `ratio` is that of `integrate`.
    """
    constant, b0, b1 = ratio[0], ratio[1], ratio[2]
    t = c * sinh
    s = (c, t)
    # c / (s sin(pi s)), where sin(pi s) = exp(pi t) / 2 (sin(pi c) (1 + q) + i cos(pi c) (1 - q)).
    half = decay(-math.pi * t)
    q = half * half
    re, im = edge[1] * (1.0 + q), edge[0] * (1.0 - q)
    below = _times(s, (re, im))
    scale = (2.0 * c) * half / (below[0] * below[0] + below[1] * below[1])
    m00, m11, m01, det = _matrix(c, t, ratio)
    # The covariance V is the inverse.
    root, inverse = _inverse_root(det)
    over = (det[0] * inverse, -det[1] * inverse)
    v00, v11, v01 = _times(m11, over), _times(m00, over), _times(m01, over)
    v01 = (-v01[0], -v01[1])
    # The mean s V b, and the exponent s constant + s b' mean / 2.
    mean0 = _times(s, (v00[0] * b0 + v01[0] * b1, v00[1] * b0 + v01[1] * b1))
    mean1 = _times(s, (v01[0] * b0 + v11[0] * b1, v01[1] * b0 + v11[1] * b1))
    exponent = _times(
        s,
        (constant + 0.5 * (b0 * mean0[0] + b1 * mean1[0]), 0.5 * (b0 * mean0[1] + b1 * mean1[1])),
    )
    size = scale * decay(exponent[0])
    cos, sin = cos_sin(exponent[1])
    f = _times((below[0], -below[1]), root)
    f = _times(f, (size * cos, size * sin))
    return f, mean0, mean1, v00, v01, v11


@adder
def _sums(sinh, weights, signs, c, edge, ratio):
    """Along a line: moments x**a y**b of degree <= 2, those with alternating signs, the others, the size."""
    s00, s10, s20, s01, s11, s02 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    a00, a10, a20, a01, a11, a02 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s30, s21, s12, s03 = 0.0, 0.0, 0.0, 0.0
    s40, s31, s22, s13, s04 = 0.0, 0.0, 0.0, 0.0, 0.0
    size = 0.0
    for i in range(sinh.size):
        f, m, n, v00, v01, v11 = _node(sinh[i], c, edge, ratio)
        f = (weights[i] * f[0], weights[i] * f[1])
        # E xi**(alpha + e_a) = m_a E xi**alpha + sum_b alpha_b V_ab E xi**(alpha - e_b)
        f10, f01 = _times(f, m), _times(f, n)
        f20, f11 = _plus(_times(f10, m), f, 1.0, v00), _plus(_times(f10, n), f, 1.0, v01)
        f02 = _plus(_times(f01, n), f, 1.0, v11)
        f30, f21 = _plus(_times(f20, m), f10, 2.0, v00), _plus(_times(f20, n), f10, 2.0, v01)
        f12, f03 = _plus(_times(f02, m), f01, 2.0, v01), _plus(_times(f02, n), f01, 2.0, v11)
        sign = signs[i]
        s00 += f[0]
        s10 += f10[0]
        s20 += f20[0]
        s01 += f01[0]
        s11 += f11[0]
        s02 += f02[0]
        a00 += sign * f[0]
        a10 += sign * f10[0]
        a20 += sign * f20[0]
        a01 += sign * f01[0]
        a11 += sign * f11[0]
        a02 += sign * f02[0]
        size += abs(f[0]) + abs(f[1])
        s30 += f30[0]
        s21 += f21[0]
        s12 += f12[0]
        s03 += f03[0]
        s40 += _real_plus(_real(f30, m), f20, 3.0, v00)
        s31 += _real_plus(_real(f30, n), f20, 3.0, v01)
        s22 += _real_plus(_real_plus(_real(f21, n), f20, 1.0, v11), f11, 2.0, v01)
        s13 += _real_plus(_real(f03, m), f02, 3.0, v01)
        s04 += _real_plus(_real(f03, n), f02, 3.0, v11)
    low = (s00, s10, s20, s01, s11, s02)
    return low, (a00, a10, a20, a01, a11, a02), (s30, s40, s21, s31, s12, s22, s03, s13, s04), size


@kernel
def _exponent(t, c, ratio):
    """The logarithm of about how large a node is: the real part of the exponent, less pi t."""
    constant, b0, b1 = ratio[0], ratio[1], ratio[2]
    m00, m11, m01, (re, im) = _matrix(c, t, ratio)
    # b' V b = b' adj(M) b / det
    above = b0 * b0 * m11[0] + b1 * b1 * m00[0] - 2.0 * b0 * b1 * m01[0]
    beside = b0 * b0 * m11[1] + b1 * b1 * m00[1] - 2.0 * b0 * b1 * m01[1]
    inverse = 1.0 / (re * re + im * im)
    x, y = (above * re + beside * im) * inverse, (beside * re - above * im) * inverse
    return c * constant + 0.5 * ((c * c - t * t) * x - 2.0 * c * t * y) - math.pi * t


@kernel
def _centre(ratio):
    """Where the line crosses the real axis: halfway between two singularities, or at a saddle."""
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

    `ratio` is log r: its constant, slopes (2) and minus its second derivatives (3).
    """
    c = _centre(ratio)
    sinh, limit = _SINH[level], math.log(tolerance) - MARGIN
    most = sinh.size >> (FINEST - level)
    n, last = LANES, 0.0
    while True:
        last = _exponent(c * sinh[min(n, most - 1)], c, ratio)
        if last < limit or n >= most:
            break
        n += LANES
    edge = (math.cos(math.pi * c), math.sin(math.pi * c))
    low, change, high, size = _sums(sinh[:n], _WEIGHTS[level, :n], _SIGNS[:n], c, edge, ratio)
    moments[0] -= low[0]
    moments[1] -= low[1]
    moments[2] -= low[2]
    moments[5] -= low[3]
    moments[6] -= low[4]
    moments[10] -= low[5]
    moments[3] -= high[0]
    moments[4] -= high[1]
    moments[7] -= high[2]
    moments[8] -= high[3]
    moments[11] -= high[4]
    moments[12] -= high[5]
    moments[15] -= high[6]
    moments[16] -= high[7]
    moments[20] -= high[8]
    square, digits = 0.0, 8.0
    for i in range(6):
        square += change[i] * change[i]
        digits += abs(ratio[i])
    # Every other node alone would be off by so much, and all of them by about the square of that. The power
    # of 3/2 is for what is small by accident: in 3,000 random frames the error was a third of this at most.
    half = math.sqrt(square)
    left = half * min(2.0, 30.0 * math.sqrt(half / (size + 1e-300)))
    return left + 10.0 * math.exp(last) + 2.2e-16 * digits * size, n


@kernel
def expect(coefficients, own, dim, tolerance, level, table, moments):
    """Write the moments of log q - log p in the frame of q: (error, nodes).

    The error is infinite where more than two components matter, and outside of the plane. The step is
    halved, from that of `level`, until the error is within the tolerance. `table` is scratch space, see
    `rows.workspace`.
    """
    error, nodes = math.inf, 0
    if dim != 2:
        return error, nodes
    count = ratios(coefficients, RADIUS, table)
    if count == 0 or count > 2:
        return error, nodes
    while error > tolerance and level <= FINEST:
        clear_vector(moments)
        add_polynomial(table[0], own, dim, moments)
        if count == 1:
            return 0.0, 1
        row = table[1]
        ratio = (row[0], row[1], row[2], -2.0 * row[4], -row[5], -2.0 * row[7])
        error, n = integrate(ratio, tolerance, level, moments)
        nodes += n
        level += 1
    return error, nodes

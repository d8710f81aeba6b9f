"""Moments of log q - log p on a lattice, row by row, with one logarithm and no exponential per node.

The fast path of `moments.integrate_moments`. With f_m the component that is largest at the mean of q,
log p = log f_m + log(1 + sum_k r_k), r_k = f_k / f_m. Both log f_m and log r_k are quadratic in (x, y, z), so
the moments of log q - log f_m are known in closed form, and only the last logarithm needs a sum. It is at
most sum_k r_k, and the weight of a node times r_k is a Gaussian: each row is cut to where one of these is
larger than the weight at the edge of the ball. That leaves half of the nodes; `left_out` bounds the change.

From one row to the next r_k is multiplied by exp(a x) and by a number, so one row of exp(a x) serves for all
rows. r_k itself is recomputed every FRESH rows, which keeps its rounding error at 1e-15.

The polynomials lose digits where a component is far narrower than q, and exponentials overflow:
`usable_ratios` says whether the method can be used.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector
from ..compiler import adder, formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..densities.mixtures import DROPPED
from ..numerics.elementary import decay, log_ratio
from .lattice import LANES as VECTOR
from .lattice import ROWS, bell_curve, cell, half_chord

#: Most nodes along a row.
ACROSS = 1024

#: A row is padded to a multiple of this: the remainder of a vectorised loop would take as long.
LANES = 16

#: Rows from one whose ratios are computed by exponentials to the next.
FRESH = 16

#: Exponents below which a component is negligible, and above which rounding is not: at 600 it is 1e-13.
NOTHING, LARGEST = -60.0, 600.0

#: Start of a row without nodes; its end is minus that.
NOWHERE = 1e9

#: Curvature along a row above which a Gaussian is not cut: the roots of so flat a quadratic lose digits.
LEAST_CURVED = -1e-2


class Ratios(NamedTuple):
    """The ratios along a row, and their change to the next."""

    values: Matrix  #: (K, ACROSS + LANES) each r_k
    growths: Matrix  #: (K, ACROSS + LANES) exp(a x), by which r_k is multiplied from row to row


class Line(NamedTuple):
    """The nodes along a row."""

    x: Vector  #: (ACROSS + LANES,) the coordinates
    weights: Vector  #: (ACROSS + LANES,) exp(-x**2 / 2)
    total: Vector  #: (ACROSS + LANES,) the sum of the ratios


class Workspace(NamedTuple):
    """Scratch space for mixtures of up to K components."""

    polynomials: Matrix  #: (K, 10) log f_m and then each log r_k, see `ratios`
    ratios: Ratios
    scales: Matrix  #: (K, FRESH) the number by which r_k is multiplied as well, row by row
    line: Line
    rows: Matrix  #: (4, ROWS) weight, first node, node after the last, half chord of each row


@kernel
def workspace(components):
    """Scratch space for mixtures of up to so many components."""
    return Workspace(
        polynomials=np.empty((components, 10)),
        ratios=Ratios(np.empty((components, ACROSS + LANES)), np.empty((components, ACROSS + LANES))),
        scales=np.empty((components, FRESH)),
        line=Line(np.empty(ACROSS + LANES), np.empty(ACROSS + LANES), np.empty(ACROSS + LANES)),
        rows=np.empty((4, ROWS)),
    )


@kernel
def _expand(row, out):
    """Write the coefficients of a log density as a polynomial: of 1, x, y, z, xx, xy, xz, yy, yz, zz."""
    b0, b1, b2 = row[1], row[2], row[3]
    x0, y0, z0, x1, y1, z1 = row[4], row[5], row[6], row[7], row[8], row[9]
    x2, y2, z2 = row[10], row[11], row[12]
    out[0] = row[0] - 0.5 * (b0 * b0 + b1 * b1 + b2 * b2)
    out[1] = -(b0 * x0 + b1 * x1 + b2 * x2)
    out[2] = -(b0 * y0 + b1 * y1 + b2 * y2)
    out[3] = -(b0 * z0 + b1 * z1 + b2 * z2)
    out[4] = -0.5 * (x0 * x0 + x1 * x1 + x2 * x2)
    out[5] = -(x0 * y0 + x1 * y1 + x2 * y2)
    out[6] = -(x0 * z0 + x1 * z1 + x2 * z2)
    out[7] = -0.5 * (y0 * y0 + y1 * y1 + y2 * y2)
    out[8] = -(y0 * z0 + y1 * z1 + y2 * z2)
    out[9] = -0.5 * (z0 * z0 + z1 * z1 + z2 * z2)


@kernel
def _extent(row, radius):
    """Bound of the absolute value of a polynomial without its constant in the ball."""
    square = radius * radius
    linear = radius * (abs(row[1]) + abs(row[2]) + abs(row[3]))
    pure = square * (abs(row[4]) + abs(row[7]) + abs(row[9]))
    mixed = square * (abs(row[5]) + abs(row[6]) + abs(row[8]))
    return linear + pure + 0.5 * mixed


@kernel
def _largest_exponent(row, step, radius):
    """Bound of the exponents of ratios and growths, in the box around the ball."""
    mixed = radius * radius * (abs(row[5]) + abs(row[6]) + abs(row[8]))
    # Bound of the logarithm of what a row is multiplied by up to the next fresh one.
    distance = min(FRESH * step, 2.0 * radius)
    growth = distance * (abs(row[2]) + radius * (2.0 * abs(row[7]) + abs(row[8]) + abs(row[5])))
    return max(row[0] + _extent(row, radius) + 0.5 * mixed, 0.0) + growth


@kernel
def ratios(coefficients, radius, table):
    """Write the polynomials of log f_m and of each log r_k not negligible in the ball; their number."""
    best, top = -1, DROPPED
    for k in range(coefficients.shape[0]):
        row = coefficients[k]
        value = row[0] - 0.5 * (row[1] * row[1] + row[2] * row[2] + row[3] * row[3])
        if row[0] > DROPPED and value > top:
            best, top = k, value
    if best < 0:
        return 0
    main = table[0]
    _expand(coefficients[best], main)
    count = 1
    for k in range(coefficients.shape[0]):
        if k == best or coefficients[k, 0] == DROPPED:
            continue
        row = table[count]
        _expand(coefficients[k], row)
        for i in range(10):
            row[i] -= main[i]
        if not row[0] + _extent(row, radius) < NOTHING:
            count += 1
    return count


@kernel
def usable_ratios(coefficients, steps, radius, table):
    """`ratios`, or 0 where the sum by rows overflows, loses digits or needs too long rows."""
    if not 2.0 * radius / steps[0] < ACROSS - 2:
        return 0
    count = ratios(coefficients, radius, table)
    for k in range(1, count):
        row = table[k]
        if not abs(row[0]) + _extent(row, radius) < LARGEST:
            return 0
        if not _largest_exponent(row, steps[1], radius) < LARGEST:
            return 0
    return count


@formula
def _exp_quadratic(a, b, c, x):
    return decay(a + x * (b + c * x))


@inlined
def _fresh(a, b, c, x, out):
    """out = exp(a + b x + c x**2)."""
    for i in range(x.size):
        out[i] = _exp_quadratic(a, b, c, x[i])


@inlined
def _scale(slope, curve, first, height, out):
    """Write the factors at x = 0 of the ratios of the rows up to the next fresh one."""
    for k in range(FRESH):
        d = k * height
        out[k] = _exp_quadratic(0.0, slope + 2.0 * curve * first, curve, d)


@inlined
def _advance(kept, scale, ratios, growth, total):
    """total = kept total + scale ratios; `ratios` is advanced to the next row."""
    for i in range(total.size):
        r = ratios[i]
        total[i] = kept * total[i] + scale * r
        ratios[i] = r * growth[i]


@formula
def _term(weight, r):
    return weight * log_ratio(1.0 + r, 1.0, r)


@adder
def _row_sums(x, weights, ratios):
    """Sums of w x**k log(1 + r) along a row, k <= 4."""
    s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        v = x[i]
        u = _term(weights[i], ratios[i])
        square = v * v
        uv = u * v
        s0 += u
        s1 += uv
        s2 += u * square
        s3 += uv * square
        s4 += u * (square * square)
    return s0, s1, s2, s3, s4


@inlined
def _across(width, step, offset, radius, x, bell):
    """Write the coordinates and weights along a row. Outside of the ball: `radius`, and a weight of 0."""
    for i in range(x.size):
        v = min((i - width + offset) * step, radius)
        x[i] = v
        bell[i] = bell_curve(v) if v < radius else 0.0


@inlined
def _chords(rows, count, first, height, z, radius):
    """Write the weights and half chords of rows, and empty ranges of nodes."""
    for j in range(count):
        y = (first + j) * height
        rows[0, j] = decay(-0.5 * (y * y + z * z))
        rows[1, j], rows[2, j] = NOWHERE, -NOWHERE
        rows[3, j] = math.sqrt(max(radius * radius - y * y - z * z, 0.0))


@inlined
def _widen(rows, count, first, height, z, level, row):
    """Widen the ranges of rows to where the weight times this ratio is above exp(level)."""
    curve = row[4] - 0.5
    for j in range(count):
        y, chord = (first + j) * height, rows[3, j]
        a = row[0] + y * (row[2] + row[7] * y) + z * (row[3] + row[8] * y + row[9] * z)
        b = row[1] + row[5] * y + row[6] * z
        square = b * b - 4.0 * curve * (a - 0.5 * (y * y + z * z) - level)
        root, middle = math.sqrt(max(square, 0.0)), -b
        low, high = (middle + root) / (2.0 * curve), (middle - root) / (2.0 * curve)
        low, high = (low, high) if curve < LEAST_CURVED else (-chord, chord)
        some = curve >= LEAST_CURVED or square > 0.0
        rows[1, j] = min(rows[1, j], max(low, -chord) if some else NOWHERE)
        rows[2, j] = max(rows[2, j], min(high, chord) if some else -NOWHERE)


@inlined
def add_moments(sums, z, moments):
    """Add the sums over nodes with one z, as from `moments.weighted_powers`, to the moments."""
    s0, s1, s2, s3, s04 = sums
    power = 1.0
    for c in range(5):
        for a in range(5 - c):
            moments[25 * c + a] += power * s0[a]
        for a in range(4 - c):
            moments[25 * c + 5 + a] += power * s1[a]
        for a in range(3 - c):
            moments[25 * c + 10 + a] += power * s2[a]
        for a in range(2 - c):
            moments[25 * c + 15 + a] += power * s3[a]
        if c == 0:
            moments[20] += s04
        if z == 0.0:
            break
        power *= z


@kernel
def _normal(n):
    """E x**n of a standard normal x, n <= 6."""
    return (1.0, 0.0, 1.0, 0.0, 3.0, 0.0, 15.0)[n]


@inlined
def add_polynomial(main, log_peak, dim, moments):
    """Add the moments of log q - log f_m, a polynomial, in closed form; log_peak is log q at its mean."""
    for c in range(5 if dim > 2 else 1):
        z0, z1, z2 = _normal(c), _normal(c + 1), _normal(c + 2) if dim > 2 else 0.0
        for b in range(5 - c if dim > 1 else 1):
            y0, y1, y2 = _normal(b), _normal(b + 1), _normal(b + 2) if dim > 1 else 0.0
            # Coefficients of 1, x and x**2 after the expectation over y and z.
            one = (log_peak - main[0]) * (y0 * z0) - main[2] * (y1 * z0) - main[3] * (y0 * z1)
            one -= (0.5 + main[7]) * (y2 * z0) + main[8] * (y1 * z1) + (0.5 + main[9]) * (y0 * z2)
            linear = -main[1] * (y0 * z0) - main[5] * (y1 * z0) - main[6] * (y0 * z1)
            square = -(0.5 + main[4]) * (y0 * z0)
            for a in range(5 - c - b):
                x0, x1, x2 = _normal(a), _normal(a + 1), _normal(a + 2)
                moments[25 * c + 5 * b + a] += one * x0 + linear * x1 + square * x2


@inlined
def _ends(rows, count, width, step, offset):
    """Convert the ranges of rows from coordinates to nodes: the first, and the one after the last vector."""
    for j in range(count):
        low = max(math.ceil(rows[1, j] / step - offset + width), 0.0)
        nodes = math.floor(rows[2, j] / step - offset + width) + 1.0 - low
        rows[1, j] = low
        rows[2, j] = low + LANES * math.ceil(nodes / LANES)


@kernel
def integrate_rows(count, log_peak, dim, steps, shift, radius, space, moments):
    """Moments of log q - log p, where `usable_ratios` has returned `count`; the number of nodes."""
    table, scales, rows, (ratios, growths) = space.polynomials, space.scales, space.rows, space.ratios
    step, height, depth = steps[0], steps[1], steps[2]
    width = half_chord(radius * radius, step)
    size = (2 * width + 2 * LANES) & -LANES
    level = -0.5 * radius * radius
    line = space.line
    x, bell, total = line.x[:size], line.weights[:size], line.total[:size]
    _across(width, step, shift[0], radius, x, bell)
    for k in range(1, count):
        _fresh(0.0, table[k, 5] * height, 0.0, x, growths[k, :size])
    for i in range(size):
        total[i] = 0.0
    nodes = 0
    planes = half_chord(radius * radius, depth) if dim > 2 else 0
    for plane in range(-planes, planes + 1):
        z = (plane + shift[2]) * depth
        last = half_chord(radius * radius - z * z, height) if dim > 1 else 0
        s00, s10, s20, s30, s40 = 0.0, 0.0, 0.0, 0.0, 0.0
        s01, s11, s21, s31 = 0.0, 0.0, 0.0, 0.0
        s02, s12, s22 = 0.0, 0.0, 0.0
        s03, s13, s04 = 0.0, 0.0, 0.0
        low, high, fresh = 0, 0, 0
        for j in range(2 * last + 1):
            k = j & (ROWS - 1)
            y = (j - last + shift[1]) * height
            if k == 0:
                fresh = 0
                some = (min(ROWS, 2 * last + 1 - j) + VECTOR - 1) & -VECTOR
                _chords(rows, some, j - last + shift[1], height, z, radius)
                for c in range(1, count):
                    _widen(rows, some, j - last + shift[1], height, z, level, table[c])
                _ends(rows, some, width, step, shift[0])
            near, far = int(rows[1, k]), int(rows[2, k])
            if fresh == 0:
                if near >= far:
                    continue
                # The ratios on the union of the ranges of the rows up to the next fresh one.
                fresh = min(FRESH, ROWS - k, 2 * last + 1 - j)
                low, high = near, far
                for i in range(k, k + fresh):
                    low, high = min(low, int(rows[1, i])), max(high, int(rows[2, i]))
                for c in range(1, count):
                    row = table[c]
                    a = row[0] + y * (row[2] + row[7] * y) + z * (row[3] + row[8] * y + row[9] * z)
                    b = row[1] + row[5] * y + row[6] * z
                    _fresh(a, b, row[4], x[low:high], ratios[c, low:high])
                    _scale(row[2] + row[8] * z, row[7], y, height, scales[c])
                first = j
            for c in range(1, count):
                kept, scale = 0.0 if c == 1 else 1.0, scales[c, j - first]
                _advance(kept, scale, ratios[c, low:high], growths[c, low:high], total[low:high])
            fresh -= 1
            if near >= far:
                continue
            nodes += far - near
            u0, u1, u2, u3, u4 = _row_sums(x[near:far], bell[near:far], total[near:far])
            w = rows[0, k]
            u0, u1, u2, u3, u4 = w * u0, w * u1, w * u2, w * u3, w * u4
            s00 += u0
            s10 += u1
            s20 += u2
            s30 += u3
            s40 += u4
            s01 += u0 * y
            s11 += u1 * y
            s21 += u2 * y
            s31 += u3 * y
            y2 = y * y
            s02 += u0 * y2
            s12 += u1 * y2
            s22 += u2 * y2
            s03 += u0 * (y2 * y)
            s13 += u1 * (y2 * y)
            s04 += u0 * (y2 * y2)
        add_moments(
            (
                (s00, s10, s20, s30, s40),
                (s01, s11, s21, s31),
                (s02, s12, s22),
                (s03, s13),
                s04,
            ),
            z,
            moments,
        )
    volume = -cell(steps, dim)
    for i in range(moments.size):
        moments[i] *= volume
    add_polynomial(table[0], log_peak, dim, moments)
    return nodes


@kernel
def left_out(components, dim, radius):
    """Bound of what is cut from the rows: there the weight times each r_k is below exp(-radius**2 / 2)."""
    volume = (2.0 * radius, math.pi * radius**2, 4.0 / 3.0 * math.pi * radius**3)[dim - 1]
    return (components - 1) * volume * math.exp(-0.5 * (radius * radius + dim * LOG_2PI))

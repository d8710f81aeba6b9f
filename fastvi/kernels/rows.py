"""Moments of log q - log p on a lattice, row by row, without an exponential for each node.

With f_m the component that is largest where q is, log p = log f_m + log(1 + sum_k r_k), r_k = f_k / f_m. Both
log f_m and log r_k are quadratic in (x, y, z). From one row to the next r_k is multiplied by exp(a x) and a
number, so one row of exp(a x) serves for all rows; r_k itself is computed afresh every few of them, which
keeps its rounding at 1e-15. What is left for each node is one logarithm: 1.6 ns on a fine lattice, where
`expectations.integrate` takes 3.0.

Polynomials lose digits where a component is far narrower than q, and exponentials overflow: `fits` says where
all this may be used.
"""

from __future__ import annotations

import numpy as np

from .elementary import decay, log_ratio
from .jit import adder, formula, inlined, kernel
from .lattices import ROWS, _bell, cell, half_chord, next_rows
from .mixtures import DROPPED

#: The least and the most nodes along a row: each row takes 50 ns by itself.
LEAST, ACROSS = 36, 1024

#: Rows are cut at multiples of this.
LANES = 8

#: Rows between two that are computed afresh.
FRESH = 16

#: Exponents below which a component does not matter, and beyond which rounding does: at 600 it is 1e-13.
NOTHING, LARGEST = -60.0, 600.0


@kernel
def workspace(components):
    """Scratch space for mixtures of up to so many components."""
    return (
        np.empty((components, 10)),
        np.empty((components, ACROSS + LANES)),
        np.empty((components, ACROSS + LANES)),
        np.empty((4, ACROSS + LANES)),
        np.empty(2 * ROWS),
        np.empty((components, FRESH)),
    )


@kernel
def _expand(row, out):
    """Write the log density as a polynomial: 1, x, y, z, xx, xy, xz, yy, yz, zz."""
    for i in range(10):
        out[i] = 0.0
    out[0] = row[0]
    for e in range(3):
        b, x, y, z = row[1 + e], row[4 + 3 * e], row[5 + 3 * e], row[6 + 3 * e]
        out[0] -= 0.5 * b * b
        out[1] -= b * x
        out[2] -= b * y
        out[3] -= b * z
        out[4] -= 0.5 * x * x
        out[5] -= x * y
        out[6] -= x * z
        out[7] -= 0.5 * y * y
        out[8] -= y * z
        out[9] -= 0.5 * z * z


@kernel
def _extent(row, step, radius):
    """(bound of a polynomial without its constant, in the ball; of what happens on the way, in the box)."""
    square = radius * radius
    linear = radius * (abs(row[1]) + abs(row[2]) + abs(row[3]))
    pure = square * (abs(row[4]) + abs(row[7]) + abs(row[9]))
    mixed = square * (abs(row[5]) + abs(row[6]) + abs(row[8]))
    # How far the rows go from a fresh one, and what they are multiplied by until then.
    way = min(FRESH * step, 2.0 * radius)
    steady = way * (abs(row[2]) + radius * (2.0 * abs(row[7]) + abs(row[8]) + abs(row[5])))
    return linear + pure + 0.5 * mixed, max(row[0] + linear + pure + mixed, 0.0) + steady


@kernel
def fits(coefficients, steps, radius, space):
    """Write the polynomials of log f_m and then of each log r_k; their number, 0 where this is no use."""
    table = space[0]
    if not LEAST < 2.0 * radius / steps[0] < ACROSS - 2:
        return 0
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
        size, most = _extent(row, steps[1], radius)
        if row[0] + size < NOTHING:
            continue
        if not (abs(row[0]) + size < LARGEST and most < LARGEST):
            return 0
        count += 1
    return count


@formula
def _exp_quadratic(a, b, c, x):
    return decay(a + x * (b + c * x))


@kernel
def _fresh(a, b, c, x, out):
    """out = exp(a + b x + c x**2)."""
    for i in range(x.size):
        out[i] = _exp_quadratic(a, b, c, x[i])


@inlined
def _scale(slope, curve, first, height, out):
    """What the ratios of each of the next rows are to be multiplied by, at x = 0."""
    for k in range(FRESH):
        d = k * height
        out[k] = _exp_quadratic(0.0, slope + 2.0 * curve * first, curve, d)


@inlined
def _advance(kept, scale, ratios, growth, total):
    """total = kept total + scale ratios; the ratios of the next row are left behind."""
    for i in range(total.size):
        r = ratios[i]
        total[i] = kept * total[i] + scale * r
        ratios[i] = r * growth[i]


@formula
def _term(weight, a, b, c, x, r):
    return weight * ((a + x * (b + c * x)) - log_ratio(1.0 + r, 1.0, r))


@adder
def _row_sums(x, weights, ratios, a, b, c):
    """Sums along a row of w x**k (a + b x + c x**2 - log(1 + r)), k <= 4."""
    s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        v = x[i]
        u = _term(weights[i], a, b, c, v, ratios[i])
        square = v * v
        uv = u * v
        s0 += u
        s1 += uv
        s2 += u * square
        s3 += uv * square
        s4 += u * (square * square)
    return s0, s1, s2, s3, s4


@kernel
def _across(width, step, offset, x, bell, masked):
    """Write the coordinates and weights along a row, and no weights yet for the first."""
    for i in range(x.size):
        v = (i - width + offset) * step
        x[i] = v
        bell[i] = _bell(v)
        masked[i] = 0.0


@inlined
def _mask(masked, bell, width, before, half):
    """Change the weights from those of a chord to those of another."""
    for i in range(before + 1, half + 1):
        masked[width - i] = bell[width - i]
        masked[width + i] = bell[width + i]
    for i in range(half + 1, before + 1):
        masked[width - i] = 0.0
        masked[width + i] = 0.0


@kernel
def add_moments(sums, z, moments):
    """Add what `_moments` of the nodes with one z gives."""
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
def integrate_rows(count, own, dim, steps, shift, radius, space, moments):
    """`expectations.integrate` of log q - log p to degree 4, after `fits` has returned `count`."""
    table, ratios, growths, columns, rows, scales = space
    step, height, depth = steps[0], steps[1], steps[2]
    width = half_chord(radius * radius, step)
    size = (2 * width + LANES) & -LANES
    x, bell, masked, total = columns[0, :size], columns[1, :size], columns[2, :size], columns[3, :size]
    _across(width, step, shift[0], x, bell, masked)
    for k in range(1, count):
        _fresh(0.0, table[k, 5] * height, 0.0, x, growths[k, :size])
    for i in range(size):
        total[i] = 0.0
    main = table[0]
    nodes = 0
    planes = half_chord(radius * radius, depth) if dim > 2 else 0
    for plane in range(-planes, planes + 1):
        z = (plane + shift[2]) * depth
        last = half_chord(radius * radius - z * z, height) if dim > 1 else 0
        s00, s10, s20, s30, s40 = 0.0, 0.0, 0.0, 0.0, 0.0
        s01, s11, s21, s31 = 0.0, 0.0, 0.0, 0.0
        s02, s12, s22 = 0.0, 0.0, 0.0
        s03, s13, s04 = 0.0, 0.0, 0.0
        before, low, high = -1, 0, 0
        for j in range(2 * last + 1):
            k = j & (ROWS - 1)
            y = (j - last + shift[1]) * height
            if k == 0:
                next_rows(rows, 2 * last + 1 - j, j - last + shift[1], height, z, step, radius)
            if j & (FRESH - 1) == 0:
                # All that the rows up to the next fresh ones need.
                most = 0.0
                for i in range(k, min(k + FRESH, k + 2 * last + 1 - j)):
                    most = max(most, rows[ROWS + i])
                low = (width - int(most)) & -LANES
                high = (width + int(most) + LANES) & -LANES
                for c in range(1, count):
                    row = table[c]
                    a = row[0] + y * (row[2] + row[7] * y) + z * (row[3] + row[8] * y + row[9] * z)
                    b = row[1] + row[5] * y + row[6] * z
                    _fresh(a, b, row[4], x[low:high], ratios[c, low:high])
                    _scale(row[2] + row[8] * z, row[7], y, height, scales[c])
            for c in range(1, count):
                kept, scale = 0.0 if c == 1 else 1.0, scales[c, j & (FRESH - 1)]
                _advance(kept, scale, ratios[c, low:high], growths[c, low:high], total[low:high])
            half = int(rows[ROWS + k])
            _mask(masked, bell, width, before, half)
            before = half
            nodes += 2 * half + 1
            near, far = (width - half) & -LANES, (width + half + LANES) & -LANES
            a = own - 0.5 * (y * y + z * z)
            a -= main[0] + y * (main[2] + main[7] * y) + z * (main[3] + main[8] * y + main[9] * z)
            b = -(main[1] + main[5] * y + main[6] * z)
            c = -0.5 - main[4]
            u0, u1, u2, u3, u4 = _row_sums(x[near:far], masked[near:far], total[near:far], a, b, c)
            w = rows[k]
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
        _mask(masked, bell, width, before, -1)
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
    volume = cell(steps, dim)
    for i in range(moments.size):
        moments[i] *= volume
    return nodes

"""Weighted sums of the data for the M-step of EM: of r, r d and r d d'.

r are the responsibilities of a component and d = x - mean. `iterations.sweep` adds those of each block. There
are special loops for one to three dimensions.
"""

from __future__ import annotations

from ..compiler import adder, formula, inlined, kernel
from ..numerics.matrices import copy_vector, dot
from .e_step import differences, eight, eight_rows, four, four_rows, multiply_row, subtract

#: Which of the sums of r d d' are added in four or more dimensions.
ALL, DIAGONAL_ONLY, NONE = 0, 1, 2


@formula
def _terms_1(x, m0, e, inverse_total):
    r, d = e * inverse_total, x - m0
    rd = r * d
    return r, rd, rd * d


@adder
def _moments_1(x, m0, e, inverse_total):
    s, s0, s00 = 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t00 = _terms_1(x[n], m0, e[n], inverse_total[n])
        s += t
        s0 += t0
        s00 += t00
    return s, s0, s00


@formula
def _terms_2(x, y, m0, m1, e, inverse_total):
    r, d0, d1 = e * inverse_total, x - m0, y - m1
    r0, r1 = r * d0, r * d1
    return r, r0, r1, r0 * d0, r1 * d0, r1 * d1


@adder
def _moments_2(x, y, m0, m1, e, inverse_total):
    s, s0, s1, s00, s10, s11 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t1, t00, t10, t11 = _terms_2(x[n], y[n], m0, m1, e[n], inverse_total[n])
        s += t
        s0 += t0
        s1 += t1
        s00 += t00
        s10 += t10
        s11 += t11
    return s, s0, s1, s00, s10, s11


@formula
def _terms_3(x, y, z, m0, m1, m2, e, inverse_total):
    r, d0, d1, d2 = e * inverse_total, x - m0, y - m1, z - m2
    r0, r1, r2 = r * d0, r * d1, r * d2
    return r, r0, r1, r2, r0 * d0, r1 * d0, r1 * d1, r2 * d0, r2 * d1, r2 * d2


@adder
def _moments_3(x, y, z, m0, m1, m2, e, inverse_total):
    s, s0, s1, s2 = 0.0, 0.0, 0.0, 0.0
    s00, s10, s11, s20, s21, s22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(x.size):
        t, t0, t1, t2, t00, t10, t11, t20, t21, t22 = _terms_3(
            x[n], y[n], z[n], m0, m1, m2, e[n], inverse_total[n]
        )
        s += t
        s0 += t0
        s1 += t1
        s2 += t2
        s00 += t00
        s10 += t10
        s11 += t11
        s20 += t20
        s21 += t21
        s22 += t22
    return s, s0, s1, s2, s00, s10, s11, s20, s21, s22


@adder
def scale(values, inverse_total):
    """values *= inverse_total; their sum."""
    s = 0.0
    for n in range(values.size):
        values[n] *= inverse_total[n]
        s += values[n]
    return s


@adder
def _weigh(x, weights, out):
    """out = x times weights; the sum of out."""
    s = 0.0
    for n in range(out.size):
        out[n] = x[n] * weights[n]
        s += out[n]
    return s


@formula
def _terms(x, m, r):
    d = x - m
    rd = r * d
    return rd, rd * d


@adder
def _squares(x, m, r):
    """(sum of r d, sum of r d**2)."""
    s, t = 0.0, 0.0
    for n in range(x.size):
        rd, rdd = _terms(x[n], m, r[n])
        s += rd
        t += rdd
    return s, t


@adder
def _four_squares(x, mean, r):
    """`_squares` of four coordinates."""
    a, b, c, d = x
    m0, m1, m2, m3 = mean
    s0, s1, s2, s3, t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(r.size):
        rd0, rdd0 = _terms(a[n], m0, r[n])
        rd1, rdd1 = _terms(b[n], m1, r[n])
        rd2, rdd2 = _terms(c[n], m2, r[n])
        rd3, rdd3 = _terms(d[n], m3, r[n])
        s0 += rd0
        s1 += rd1
        s2 += rd2
        s3 += rd3
        t0 += rdd0
        t1 += rdd1
        t2 += rdd2
        t3 += rdd3
    return (s0, s1, s2, s3), (t0, t1, t2, t3)


@adder
def _eight_squares(x, mean, r):
    """`_squares` of eight coordinates."""
    a, b, c, d, e, f, g, h = x
    m0, m1, m2, m3, m4, m5, m6, m7 = mean
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    t0, t1, t2, t3, t4, t5, t6, t7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(r.size):
        rd0, rdd0 = _terms(a[n], m0, r[n])
        rd1, rdd1 = _terms(b[n], m1, r[n])
        rd2, rdd2 = _terms(c[n], m2, r[n])
        rd3, rdd3 = _terms(d[n], m3, r[n])
        rd4, rdd4 = _terms(e[n], m4, r[n])
        rd5, rdd5 = _terms(f[n], m5, r[n])
        rd6, rdd6 = _terms(g[n], m6, r[n])
        rd7, rdd7 = _terms(h[n], m7, r[n])
        s0 += rd0
        s1 += rd1
        s2 += rd2
        s3 += rd3
        s4 += rd4
        s5 += rd5
        s6 += rd6
        s7 += rd7
        t0 += rdd0
        t1 += rdd1
        t2 += rdd2
        t3 += rdd3
        t4 += rdd4
        t5 += rdd5
        t6 += rdd6
        t7 += rdd7
    return (s0, s1, s2, s3, s4, s5, s6, s7), (t0, t1, t2, t3, t4, t5, t6, t7)


@formula
def _term(x, m, r):
    return r * (x - m)


@adder
def _four_differences(x, mean, r):
    """The sums of r d for four coordinates."""
    (a, b, c, d), (m0, m1, m2, m3) = x, mean
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for n in range(r.size):
        s0 += _term(a[n], m0, r[n])
        s1 += _term(b[n], m1, r[n])
        s2 += _term(c[n], m2, r[n])
        s3 += _term(d[n], m3, r[n])
    return s0, s1, s2, s3


@kernel
def _add_differences_of_block(columns, first, mean, shares, inverse_total, out):
    """The sums of r and r d alone."""
    dim, last = mean.size, first + shares.size
    out[0] += scale(shares, inverse_total)
    whole = dim - dim % 4
    for i in range(0, whole, 4):
        sums = _four_differences(four_rows(columns, i, first, last), four(mean, i), shares)
        for j in range(4):
            out[1 + i + j] += sums[j]
    for i in range(whole, dim):
        out[1 + i] += _squares(columns[i, first:last], mean[i], shares)[0]


@inlined
def _add_squares(i, dim, sums, squares, out):
    """Add those of some coordinates, from i on."""
    for j in range(len(sums)):
        out[1 + i + j] += sums[j]
        out[dim + (i + j + 1) * (i + j + 2) // 2] += squares[j]


@kernel
def _add_squares_of_block(columns, first, mean, shares, inverse_total, out):
    """Diagonal covariances: the sums of r, r d and r d**2."""
    dim, last, i = mean.size, first + shares.size, 0
    out[0] += scale(shares, inverse_total)
    while i + 8 <= dim:
        sums, squares = _eight_squares(eight_rows(columns, i, first, last), eight(mean, i), shares)
        _add_squares(i, dim, sums, squares, out)
        i += 8
    if i + 4 <= dim:
        four_sums, four_squares = _four_squares(four_rows(columns, i, first, last), four(mean, i), shares)
        _add_squares(i, dim, four_sums, four_squares, out)
        i += 4
    while i < dim:
        s, t = _squares(columns[i, first:last], mean[i], shares)
        _add_squares(i, dim, (s,), (t,), out)
        i += 1


@formula
def _terms_of_triangle(x, n, mean, r):
    d0, d1, d2, d3 = differences(x, n, mean)
    r0, r1, r2, r3 = r * d0, r * d1, r * d2, r * d3
    products = (r0 * d0, r1 * d0, r1 * d1, r2 * d0, r2 * d1, r2 * d2, r3 * d0, r3 * d1, r3 * d2, r3 * d3)
    return (r0, r1, r2, r3), products


@adder
def _triangle_of_moments(x, mean, r):
    """The sums of r d of four coordinates, and of r d d'."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    s00, s10, s11, s20, s21, s22, s30, s31, s32, s33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(r.size):
        (t0, t1, t2, t3), products = _terms_of_triangle(x, n, mean, r[n])
        t00, t10, t11, t20, t21, t22, t30, t31, t32, t33 = products
        s0 += t0
        s1 += t1
        s2 += t2
        s3 += t3
        s00 += t00
        s10 += t10
        s11 += t11
        s20 += t20
        s21 += t21
        s22 += t22
        s30 += t30
        s31 += t31
        s32 += t32
        s33 += t33
    return (s0, s1, s2, s3), (s00, s10, s11, s20, s21, s22, s30, s31, s32, s33)


@formula
def _four_products(a, d0, d1, d2, d3):
    return a * d0, a * d1, a * d2, a * d3


@adder
def _square_of_moments(x, mean, y, other, r):
    """The sums of r d d' of four coordinates and four others."""
    s00, s01, s02, s03, s10, s11, s12, s13 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s20, s21, s22, s23, s30, s31, s32, s33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(r.size):
        a, b, c, d = differences(x, n, mean)
        d0, d1, d2, d3 = differences(y, n, other)
        a, b, c, d = _four_products(r[n], a, b, c, d)
        t0, t1, t2, t3 = _four_products(a, d0, d1, d2, d3)
        s00 += t0
        s01 += t1
        s02 += t2
        s03 += t3
        t0, t1, t2, t3 = _four_products(b, d0, d1, d2, d3)
        s10 += t0
        s11 += t1
        s12 += t2
        s13 += t3
        t0, t1, t2, t3 = _four_products(c, d0, d1, d2, d3)
        s20 += t0
        s21 += t1
        s22 += t2
        s23 += t3
        t0, t1, t2, t3 = _four_products(d, d0, d1, d2, d3)
        s30 += t0
        s31 += t1
        s32 += t2
        s33 += t3
    return (s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33)


@adder
def _weigh_difference(x, m, r, out):
    """out = r d; (the sum of r d, the sum of r d**2)."""
    s, t = 0.0, 0.0
    for n in range(out.size):
        rd, rdd = _terms(x[n], m, r[n])
        out[n] = rd
        s += rd
        t += rdd
    return s, t


@inlined
def _place(i, dim):
    """Where the row of a coordinate starts among the sums of r d d'."""
    return 1 + dim + i * (i + 1) // 2


@kernel
def _add_moments_of_block(columns, first, mean, row, shares, inverse_total, out):
    """By blocks of four coordinates: a number that is loaded is used four times."""
    dim, last = mean.size, first + shares.size
    whole, weighted = dim - dim % 4, row[: shares.size]
    out[0] += scale(shares, inverse_total)
    for i in range(0, whole, 4):
        x, m = four_rows(columns, i, first, last), four(mean, i)
        for j in range(0, i, 4):
            block = _square_of_moments(x, m, four_rows(columns, j, first, last), four(mean, j), shares)
            for a in range(4):
                for b in range(4):
                    out[_place(i + a, dim) + j + b] += block[a][b]
        sums, products = _triangle_of_moments(x, m, shares)
        at = 0
        for a in range(4):
            out[1 + i + a] += sums[a]
            for b in range(a + 1):
                out[_place(i + a, dim) + i + b] += products[at]
                at += 1
    for i in range(whole, dim):
        place = _place(i, dim)
        s, t = _weigh_difference(columns[i, first:last], mean[i], shares, weighted)
        out[1 + i] += s
        out[place + i] += t
        for j in range(0, whole, 4):
            x = four_rows(columns, j, first, last)
            four_sums = _four_differences(x, four(mean, j), weighted)
            for b in range(4):
                out[place + j + b] += four_sums[b]
        for j in range(whole, i):
            out[place + j] += _squares(columns[j, first:last], mean[j], weighted)[0]


@kernel
def add_moments_in_units(columns, first, mean, inverse, block, row, shares, inverse_total, out):
    """`add_moments` for d = inverse (x - mean), in any dimension."""
    dim, count = mean.size, shares.size
    out[0] += scale(shares, inverse_total)
    for i in range(dim):
        subtract(columns[i, first : first + count], mean[i], block[i, :count])
    for i in range(dim - 1, -1, -1):
        multiply_row(inverse, i, block, row[:count])
        copy_vector(row[:count], block[i, :count])
    place = 1 + dim
    for i in range(dim):
        out[1 + i] += _weigh(block[i, :count], shares, row[:count])
        for j in range(i + 1):
            out[place] += dot(row[:count], block[j, :count])
            place += 1


@inlined
def add_moments(columns, first, mean, which, row, shares, inverse_total, out):
    """Add the sums of a block to `out`: of r, of r d, and of the lower triangle of r d d' by rows."""
    dim, last = mean.size, first + shares.size
    if dim == 1:
        s, s0, s00 = _moments_1(columns[0, first:last], mean[0], shares, inverse_total)
        out[0] += s
        out[1] += s0
        out[2] += s00
    elif dim == 2:
        x, y = columns[0, first:last], columns[1, first:last]
        s, s0, s1, s00, s10, s11 = _moments_2(x, y, mean[0], mean[1], shares, inverse_total)
        out[0] += s
        out[1] += s0
        out[2] += s1
        out[3] += s00
        out[4] += s10
        out[5] += s11
    elif dim == 3:
        x, y, z = columns[0, first:last], columns[1, first:last], columns[2, first:last]
        s, s0, s1, s2, s00, s10, s11, s20, s21, s22 = _moments_3(
            x, y, z, mean[0], mean[1], mean[2], shares, inverse_total
        )
        out[0] += s
        out[1] += s0
        out[2] += s1
        out[3] += s2
        out[4] += s00
        out[5] += s10
        out[6] += s11
        out[7] += s20
        out[8] += s21
        out[9] += s22
    elif which == NONE:
        _add_differences_of_block(columns, first, mean, shares, inverse_total, out)
    elif which == DIAGONAL_ONLY:
        _add_squares_of_block(columns, first, mean, shares, inverse_total, out)
    else:
        _add_moments_of_block(columns, first, mean, row, shares, inverse_total, out)

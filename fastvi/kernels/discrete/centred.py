"""Divergences of all pairs of rows by one matrix product, without cancellation where rows are similar.

For any row c, the centre, a divergence of a pair is that of p from c, that of c from q, and a product:

    D(p, q) = D(p, c) + D(c, q) + sum_k f_k(p) g_k(q)

    divergence           f(p)                        g(q)
    kl                   p - c                       log(c / q)
    chi2                 (p**2 - c**2) / c           c / q - 1
    alpha_divergence     c ((p / c)**a - 1) / a      (1 - (q / c)**b) / b,  b = 1 - a
    hellinger, squared   sqrt p - sqrt c             sqrt c - sqrt q
    jeffreys             p - c and log(c / p)        log(c / q) and q - c

(for kl the three-point identity of Chen and Teboulle, SIAM J. Optim. 3 (1993), lemma 3.1; the others follow
by multiplying out). Where rows are similar and c is their mean, f and g are small, and all terms have the
size of the result. JS is D(p, c) / 2 + D(q, c) / 2 - D((p + q) / 2, c) with the D of kl: one logarithm an
entry.

Rows of mass P are used as x = p / P, where 1 / P is rounded: x has the mass 1 + e. A divergence of x and y
exceeds that of the normalised rows by `gap` times the square of the difference of their masses, which is
subtracted. What must be accurate is each difference x - c, and it is (`_placed`).

Where the result is a small part of its terms (`least_part`), it has lost digits: such a pair is left NaN, for
`all_pairs.ROWS` to compute.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import Lazily, adder, exported, formula, kernel, specialise
from ..numerics.elementary import LN2, atanh_tail, exponent_step, log, log_ratio, times_expm1
from ..numerics.error_free import add_compensated, two_product
from .masses import ANY
from .normalized import differing
from .registry import NO_THETA
from .terms import alpha_term, kl_term

#: The number of rows and the inner length of a product are multiples of this.
STRIP = 4

#: Entries that are summed without compensation: 64 additions of four products.
SEGMENT = 256

#: Normalised entries, masses and results below this have lost digits to subnormal numbers.
_TINY, _TINY_MASS, _TINY_RESULT = 1e-290, 1e-200, 1e-270

#: Part of a sum that the square of the difference of the masses, which is subtracted, may be.
_MOST_BESIDE = 0.1

#: Overlaps below this may have lost digits to subnormal entries.
_TINY_OVERLAP = 1e-130

#: The largest |order| whose powers are accurate, and the largest |log| of one.
MOST_ORDER, _MOST_LOG = 16.0, 200.0

#: A factor for entries below `_TINY`, of which a logarithm is taken.
_LIFT, _LOG_LIFT = 2.0**200, 200.0 * LN2

#: Rows of `centre`: c = first + second to twice the precision, 1 / c and sqrt c (0 where c = 0).
C, LOW, INVERSE, ROOT = range(4)

#: Columns of the sums of a row: D(p, c) or D(c, q), the norms of its one or two lines of the product, the sum
#: of x - c, and the number of zeros.
VALUE, NORM, OTHER_NORM, EXCESS, ZEROS, SUMS = range(6)

#: Bits that say what makes a pair infinite: p > 0 = q somewhere, q > 0 = p somewhere, p q = 0 everywhere.
OUTSIDE_Q, OUTSIDE_P, APART = 1, 2, 4


def least_part(d):
    """Part of its terms that a result must be, for a relative error of 1e-13, for rows of length d."""
    # Measured: the terms have an error of at most (10 + sqrt(d)) 2**-53 of their size in a segment.
    return (10.0 + math.sqrt(min(d, SEGMENT))) * 2.0**-53 / 1e-13


@formula
def _placed(x, scale, c, low):
    """x scale, and x scale - c with a relative error of 2**-52."""
    high, rest = two_product(x, scale)
    return high, (high - c) + (rest - low)


@adder
def _segment_sum(x):
    total = 0.0
    for k in range(x.size):
        total += np.float64(x[k])
    return total


@adder
def _negatives(x):
    count = 0
    for k in range(x.size):
        count += x[k] < 0.0
    return count


@kernel
def _mass(x):
    total, lost = 0.0, 0.0
    for low in range(0, x.size, SEGMENT):
        total, lost = add_compensated(total, lost, _segment_sum(x[low : low + SEGMENT]))
    return total + lost


@exported
def masses(p, out):
    """out[i] = sum of p[i]; NaN where an entry is negative."""
    for i in range(p.shape[0]):
        out[i] = math.nan if _negatives(p[i]) else _mass(p[i])


@exported
def scales(masses, mass, out):
    """What rows are multiplied by: 1 for `ANY`, else 1 / mass; NaN for tiny masses, and so all results."""
    for i in range(masses.size):
        if masses[i] > _TINY_MASS or masses[i] == 0.0:
            out[i] = 1.0 if mass == ANY else 1.0 / masses[i]
        else:
            out[i] = math.nan


@exported
def mean_centre(q, scale, centre):
    """The mean of the rows of q: the first row and the mean of the differences from it.

    Where all rows are equal it is that row, to the last bit of `LOW`, and all results are exactly 0.
    """
    m, d = q.shape
    c, low = centre[C], centre[LOW]
    first = 0
    while first < m - 1 and not scale[first] > 0.0:
        first += 1
    c[:] = 0.0
    count = 1
    for j in range(first + 1, m):
        if scale[j] > 0.0:
            count += 1
            for k in range(d):
                high, rest = two_product(q[first, k], scale[first])
                c[k] += _placed(q[j, k], scale[j], high, rest)[1]
    for k in range(d):
        high, rest = two_product(q[first, k], scale[first])
        rest += c[k] / count
        c[k] = high + rest
        low[k] = (high - c[k]) + rest
        if 0.0 < c[k] < _TINY:
            c[k], low[k] = _TINY, 0.0
        centre[INVERSE, k] = 1.0 / c[k] if c[k] > 0.0 else 0.0
        centre[ROOT, k] = math.sqrt(c[k]) if c[k] > 0.0 else 0.0


# The formulas of an entry: (D, the factors of the two products, their squares with weights 1 / c and c). `h`
# is the entry and `d` its difference from c; `lifted` is h times `_LIFT`.


@formula
def _solid(h, d, c):
    """h, c and d where a logarithm of h / c is to be taken, else 1, 1 and 0: subnormal numbers are slow."""
    some = (h > _TINY) & (c > 0.0)
    return h if some else 1.0, c if some else 1.0, d if some else 0.0


@formula
def _chosen(value, factor, h, c, absent, absent_factor, outside):
    """(value, factor); (absent, absent_factor) where h = 0, (outside, 0) where c = 0, and 0 where both are 0.

    Where c is 0, so are all rows of q. An absent entry of q has such a factor that p = 0 adds 0; where p > 0
    makes the pair infinite, `_infinities` finds it.
    """
    value = absent if h == 0.0 else value
    factor = absent_factor if h == 0.0 else factor
    alone = outside if h > 0.0 else 0.0
    return value if c > 0.0 else alone, factor if c > 0.0 else 0.0


@formula
def _log_parts(h, c, d):
    """(log(h / c), whether it is near 0, s, u): if so it is 2 (s + u), with s = (h - c) / (h + c)."""
    b, k = exponent_step(h, c)
    near = k == 0.0
    s = (d if near else h - b) / (h + b)
    w = s * s
    u = s * w * atanh_tail(w)
    return k * (LN2 * 2.0**-52) + 2.0 * (s + u), near, s, u


@formula
def _kl_side(h, d, c, outside):
    x, y, e = _solid(h, d, c)
    r, near, s, u = _log_parts(x, y, e)
    # The terms are h log(h / c) - h + c and, in `_kl_right`, c log(c / h) - c + h.
    value = e * s + 2.0 * x * u if near else x * r - e
    return _chosen(value if h > _TINY else c, d, h, c, c, d, outside)


@formula
def _kl_left(h, d, lifted, c, inverse, root, theta):
    value, f = _kl_side(h, d, c, math.inf)
    return value, f, 0.0, d * (d * inverse), 0.0


@formula
def _kl_right(h, d, lifted, c, inverse, root, theta):
    tiny = h < _TINY
    x, y, e = _solid(lifted if tiny else h, lifted - c if tiny else d, c)
    ratio, near, s, u = _log_parts(x, y, e)
    r = (_LOG_LIFT if tiny else 0.0) - ratio
    value = e * s - 2.0 * y * u if near & (not tiny) else c * r + d
    value, g = _chosen(value, r, h, c, 0.0, 1.0, math.nan)
    return value, g, 0.0, c * (g * g), 0.0


@formula
def _chi2_left(h, d, lifted, c, inverse, root, theta):
    value, f = _chosen(d * (d * inverse), d * ((h + c) * inverse), h, c, c, -c, math.inf)
    return value, f, 0.0, f * (f * inverse), 0.0


@formula
def _chi2_right(h, d, lifted, c, inverse, root, theta):
    ratio = d / (h if h > _TINY else math.nan)
    value, g = _chosen(d * ratio, -ratio, h, c, 0.0, 1.0, math.nan)
    return value, g, 0.0, c * (g * g), 0.0


@formula
def _good_power(value, y, h):
    return math.nan if (abs(y) > _MOST_LOG) | (h < _TINY) else value


@formula
def _alpha_left(h, d, lifted, c, inverse, root, theta):
    a = theta[0]
    x, y, e = _solid(h, d, c)
    power = a * log_ratio(x, y, e)
    value = _good_power(alpha_term(x, y, e, theta), power, h)
    f = times_expm1(y, power) / a
    absent, absent_factor = (c / a, -c / a) if a > 0.0 else (0.0, -c)
    outside = h / (1.0 - a) if a < 1.0 else math.inf
    value, f = _chosen(value, f, h, c, absent, absent_factor, outside)
    return value, f, 0.0, f * (f * inverse), 0.0


@formula
def _alpha_right(h, d, lifted, c, inverse, root, theta):
    b = 1.0 - theta[0]
    x, y, e = _solid(h, d, c)
    power = b * log_ratio(x, y, e)
    value = _good_power(alpha_term(y, x, -e, theta), power, h)
    g = times_expm1(1.0, power) / -b
    absent, absent_factor = (c / b, 1.0 / b) if b > 0.0 else (0.0, 1.0)
    value, g = _chosen(value, g, h, c, absent, absent_factor, math.nan)
    return value, g, 0.0, c * (g * g), 0.0


@formula
def _root_left(h, d, lifted, c, inverse, root, theta):
    between = math.sqrt(abs(h)) + root
    f = d / (between if between > 0.0 else 1.0)
    return 0.5 * (f * f), f, 0.0, f * f, 0.0


@formula
def _root_right(h, d, lifted, c, inverse, root, theta):
    value, f, _, square, _ = _root_left(h, d, lifted, c, inverse, root, theta)
    return value, -f, 0.0, square, 0.0


@formula
def _jeffreys(h, d, c):
    """(D, log(c / h))."""
    x, y, e = _solid(h, d, c)
    r = -log_ratio(x, y, e)
    return _chosen(-e * r if h > _TINY else math.nan, r, h, c, c, 1.0, math.nan)


@formula
def _jeffreys_left(h, d, lifted, c, inverse, root, theta):
    value, r = _jeffreys(h, d, c)
    return value, d, r, d * (d * inverse), c * (r * r)


@formula
def _jeffreys_right(h, d, lifted, c, inverse, root, theta):
    value, r = _jeffreys(h, d, c)
    return value, r, d, c * (r * r), d * (d * inverse)


@formula
def _js_side(h, d, lifted, c, inverse, root, theta):
    value, f = _kl_side(h, d, c, h * LN2)
    return 0.5 * value, 0.5 * f, 0.0, 0.0, 0.0


# The factors of rows, and the sums of each. A row of `out` is a line of the product, or two, one after the
# other.


@formula
def _store_one(out, other, k, f, g):
    out[k] = f


@formula
def _store_two(out, other, k, f, g):
    out[k] = f
    other[k] = g


def _segment(x, scale, c, c_low, inverse, root, theta, out, other):
    """Template (`entry`, `store`): the factors of a segment of a row, and its sums."""
    value, square, other_square, excess, zeros = 0.0, 0.0, 0.0, 0.0, 0
    for k in range(x.size):
        h, d = _placed(x[k], scale, c[k], c_low[k])
        v, f, g, f2, g2 = entry(h, d, x[k] * _LIFT * scale, c[k], inverse[k], root[k], theta)  # noqa: F821
        store(out, other, k, f, g)  # noqa: F821
        # An entry that underflows is no zero.
        value += v if (h > 0.0) | (x[k] == 0.0) else math.nan
        square += f2
        other_square += g2
        excess += d
        zeros += x[k] == 0.0
    return value, square, other_square, excess, zeros


def _factors(p, scale, centre, theta, out, sums):
    """Template (`segment`): the factors of each row of p, and its sums; further entries of `out` are kept."""
    d, half = p.shape[1], out.shape[1] // 2
    for i in range(p.shape[0]):
        value, square, other_square, excess, zeros = 0.0, 0.0, 0.0, 0.0, 0
        value_lost, excess_lost = 0.0, 0.0
        for low in range(0, d, SEGMENT):
            high = min(low + SEGMENT, d)
            c, c_low, inverse, root = (
                centre[C, low:high],
                centre[LOW, low:high],
                centre[INVERSE, low:high],
                centre[ROOT, low:high],
            )
            part = segment(  # noqa: F821
                p[i, low:high],
                scale[i],
                c,
                c_low,
                inverse,
                root,
                theta,
                out[i, low:high],
                out[i, half + low : half + high],
            )
            value, value_lost = add_compensated(value, value_lost, part[0])
            square += part[1]
            other_square += part[2]
            excess, excess_lost = add_compensated(excess, excess_lost, part[3])
            zeros += part[4]
        sums[i, VALUE] = value + value_lost
        sums[i, NORM], sums[i, OTHER_NORM] = math.sqrt(square), math.sqrt(other_square)
        sums[i, EXCESS] = excess + excess_lost
        sums[i, ZEROS] = zeros


def _make_factors(name, entry, store):
    segment = specialise(_segment, f"_{name}_segment", adder, entry=entry, store=store)
    return specialise(_factors, f"_{name}_factors", exported, segment=segment)


_ENTRIES = {
    "kl_left": (_kl_left, _store_one),
    "kl_right": (_kl_right, _store_one),
    "chi2_left": (_chi2_left, _store_one),
    "chi2_right": (_chi2_right, _store_one),
    "alpha_left": (_alpha_left, _store_one),
    "alpha_right": (_alpha_right, _store_one),
    "root_left": (_root_left, _store_one),
    "root_right": (_root_right, _store_one),
    "jeffreys_left": (_jeffreys_left, _store_two),
    "jeffreys_right": (_jeffreys_right, _store_two),
    "js": (_js_side, _store_one),
}

#: By name: (rows, scales, centre, theta, out, sums).
FACTORS = Lazily(
    {name: lambda name=name, pair=pair: _make_factors(name, *pair) for name, pair in _ENTRIES.items()}
)


# The product.


@exported
def transpose(x, out):
    """out = x transposed, row by row of four: NumPy's copy takes four times as long."""
    whole = x.shape[0] // STRIP * STRIP
    for i in range(0, whole, STRIP):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for k in range(a.size):
            out[k, i], out[k, i + 1], out[k, i + 2], out[k, i + 3] = a[k], b[k], c[k], d[k]
    for i in range(whole, x.shape[0]):
        for k in range(x.shape[1]):
            out[k, i] = x[i, k]


@adder
def _add_strip(p, s, i, k, start, row, out):
    """out[row : row + 4, start:] += p[i : i + 4, k : k + 4] times s[k : k + 4, start:]."""
    # The 16 factors are read before the loop: LLVM cannot know that the stores in it leave them unchanged.
    a0, a1, a2, a3 = p[i, k], p[i, k + 1], p[i, k + 2], p[i, k + 3]
    b0, b1, b2, b3 = p[i + 1, k], p[i + 1, k + 1], p[i + 1, k + 2], p[i + 1, k + 3]
    c0, c1, c2, c3 = p[i + 2, k], p[i + 2, k + 1], p[i + 2, k + 2], p[i + 2, k + 3]
    d0, d1, d2, d3 = p[i + 3, k], p[i + 3, k + 1], p[i + 3, k + 2], p[i + 3, k + 3]
    # An index that might be negative is checked at each use: the rows begin at `start`.
    s0, s1, s2, s3 = s[k, start:], s[k + 1, start:], s[k + 2, start:], s[k + 3, start:]
    a, b, c, d = out[row, start:], out[row + 1, start:], out[row + 2, start:], out[row + 3, start:]
    for j in range(s0.size):
        w, x, y, z = s0[j], s1[j], s2[j], s3[j]
        a[j] += a0 * w + a1 * x + a2 * y + a3 * z
        b[j] += b0 * w + b1 * x + b2 * y + b3 * z
        c[j] += c0 * w + c1 * x + c2 * y + c3 * z
        d[j] += d0 * w + d1 * x + d2 * y + d3 * z


@kernel
def _add_segments(p, s, i, start, work, out):
    """The strip of rows i to i + 3 of `products`, whose segments are added with compensation."""
    part, lost = work[0], work[1]
    lost[:, start:] = 0.0
    for low in range(0, p.shape[1], SEGMENT):
        part[:, start:] = 0.0
        for k in range(low, min(low + SEGMENT, p.shape[1]), STRIP):
            _add_strip(p, s, i, k, start, 0, part)
        for r in range(STRIP):
            for j in range(start, s.shape[1]):
                out[i + r, j], lost[r, j] = add_compensated(out[i + r, j], lost[r, j], part[r, j])
    for r in range(STRIP):
        for j in range(start, s.shape[1]):
            out[i + r, j] += lost[r, j]


@exported
def add_products(p, s, first, work, out):
    """out += p s, in blocks of four rows by four: 16 products for each four sums stored.

    In row i from column first + i only. `work`, (2, 4, columns), is used for lines longer than `SEGMENT`. The
    BLAS is a little faster, but chooses its threads, and with them the bits, itself.
    """
    for i in range(0, p.shape[0], STRIP):
        start = max(0, first + i)
        if p.shape[1] > SEGMENT:
            _add_segments(p, s, i, start, work, out)
        else:
            for k in range(0, p.shape[1], STRIP):
                _add_strip(p, s, i, k, start, i, out)


@exported
def supports(p, out):
    """Bits that say where each row is not zero."""
    for i in range(p.shape[0]):
        for w in range(out.shape[1]):
            word = np.int64(0)
            for b in range(min(64, p.shape[1] - 64 * w)):
                word |= np.int64(p[i, 64 * w + b] != 0.0) << np.int64(b)
            out[i, w] = word


@kernel
def _infinities(word, words, where, out):
    """Add bits to `out`, not 0 in the end for pairs that are infinitely far apart, or are not for `APART`."""
    for j in range(out.size):
        x = words[j]
        if where == OUTSIDE_Q:
            out[j] |= word & ~x
        elif where == OUTSIDE_P:
            out[j] |= x & ~word
        elif where == APART:
            out[j] |= word & x
        else:
            out[j] |= word ^ x


@exported
def set_infinities(bits_p, bits_q, where, first, work, out):
    """Write inf for pairs with the `supports` bits_p (a row each) and bits_q (a column each)."""
    for i in range(bits_p.shape[0]):
        start = max(0, first + i)
        found, row = work[start:], out[i, start:]
        found[:] = 0
        for w in range(bits_q.shape[0]):
            _infinities(bits_p[i, w], bits_q[w, start:], where, found)
        for j in range(row.size):
            infinite = (found[j] == 0) == (where == APART)
            row[j] = math.inf if infinite else row[j]


@exported
def set_zeros(p, q, out):
    """Write 0 where out is NaN and two rows are equal."""
    for i in range(p.shape[0]):
        for j in range(q.shape[0]):
            if out[i, j] != out[i, j] and differing(p[i], q[j]) == 0:
                out[i, j] = 0.0


# The result of a pair, or NaN, from the divergence, its product, its two other terms, the size of all that is
# added up, the part of it that must remain, and a number that belongs to the row of p.


@formula
def _conclude(value, product, terms, size, least, theta, extra):
    return value if value >= least * size else math.nan


@formula
def _conclude_entropy(value, product, terms, size, least, theta, extra):
    # The cross-entropy is the divergence and the entropy of p, which has an error of its own.
    return value + extra if value + extra >= least * (size + 0.5) else math.nan


@formula
def _conclude_chi2(value, product, terms, size, least, theta, extra):
    # The norms are large where one q is far below c. For masses of 1 there is another bound: where f < 0 < g,
    # |f| <= c, and where g < 0 < f, |g| <= 1. The sums of c g and of f where they are positive are at most D
    # and the sum of |q - c| / 2, or twice that of |p - c| / 2. `extra` is infinite for other masses.
    other = 3.0 * terms + abs(product) + extra * math.sqrt(terms)
    return value if value >= least * min(size, other) else math.nan


@formula
def _conclude_root(value, product, terms, size, least, theta, extra):
    # The root halves the relative error.
    return math.sqrt(value) if value >= 0.5 * least * size else math.nan


@formula
def _conclude_renyi(value, product, terms, size, least, theta, extra):
    scale = theta[0] * (theta[0] - 1.0)
    rest = 1.0 + scale * value
    result = log_ratio(rest, 1.0, scale * value)
    good = (rest > _TINY) & (abs(result) * rest >= least * abs(scale) * size)
    return result / (theta[0] - 1.0) if good else math.nan


@formula
def _conclude_overlap(value, product, terms, size, least, theta, extra):
    rest = 1.0 - value
    result = -log_ratio(rest, 1.0, -value)
    good = (rest > _TINY) & (result * rest >= least * size)
    return result if good else math.nan


@formula
def _conclude_overlap_from_zero(value, product, terms, size, least, theta, extra):
    # With the centre 0 the product is minus the overlap.
    result = -log_ratio(-product, 1.0, -product - 1.0)
    return result if (-product > _TINY_OVERLAP) & (result >= least) else math.nan


def _concluded(values, norms, other_norms, excesses, left, gap, least, theta, extra, out):
    """Template (`conclude`): the results of a row, from the products in `out`."""
    value, norm, other_norm, excess = left[VALUE], left[NORM], left[OTHER_NORM], left[EXCESS]
    for j in range(out.size):
        terms = value + values[j]
        size = terms + (norm * norms[j] + other_norm * other_norms[j])
        e = excess - excesses[j]
        whole, beside = terms + out[j], gap * (e * e)
        result = conclude(whole - beside, out[j], terms, size, least, theta, extra)  # noqa: F821
        good = (result < math.inf) & ((size > _TINY_RESULT) | (size == 0.0))
        # Rows that differ by no more than the rounding of their masses.
        good &= beside <= _MOST_BESIDE * abs(whole)
        out[j] = result if good else math.nan


def _results(left, right, gap, least, theta, extra, first, out):
    """Template (`concluded`): the results of all pairs, from the products in `out`.

    They are NaN where digits are lost. Row i has results from column first + i, and 0 before it.
    """
    for i in range(out.shape[0]):
        start = max(0, first + i)
        out[i, :start] = 0.0
        concluded(  # noqa: F821
            right[VALUE, start:],
            right[NORM, start:],
            right[OTHER_NORM, start:],
            right[EXCESS, start:],
            left[i],
            gap,
            least,
            theta,
            extra[i],
            out[i, start:],
        )


def _make_results(name, conclude):
    concluded = specialise(_concluded, f"_{name}_concluded", adder, conclude=conclude)
    return specialise(_results, f"_{name}_results", exported, concluded=concluded)


_CONCLUSIONS = {
    "plain": _conclude,
    "entropy": _conclude_entropy,
    "chi2": _conclude_chi2,
    "root": _conclude_root,
    "renyi": _conclude_renyi,
    "overlap": _conclude_overlap,
    "overlap_from_zero": _conclude_overlap_from_zero,
}

#: By name: (left, right, gap, least, theta, extra, first, out).
RESULTS = Lazily({name: lambda name=name: _make_results(name, _CONCLUSIONS[name]) for name in _CONCLUSIONS})


@formula
def _entropy_term(x):
    y = x if x > _TINY else 1.0
    return -y * log(y)


@adder
def _entropy_segment(p, scale):
    total = 0.0
    for k in range(p.size):
        total += _entropy_term(p[k] * scale)
    return total


@exported
def entropies(p, scale, out):
    """out[i] = the entropy of p[i] times its scale, with an error of 1e-15 of itself or of 1."""
    for i in range(p.shape[0]):
        total, lost = 0.0, 0.0
        for low in range(0, p.shape[1], SEGMENT):
            part = _entropy_segment(p[i, low : low + SEGMENT], scale[i])
            total, lost = add_compensated(total, lost, part)
        out[i] = total + lost


# Jensen-Shannon: D(m, c) of the mixture m = (p + q) / 2 of each pair, from halves of the deviations, which
# are the factors of `js`. Where c is 0, they are 0 and c is given as 1.


@formula
def _near_term(d, c):
    """The `kl_term` of c + d and c, for d from -c / 3 to c / 2."""
    s = d / (d + (c + c))
    w = s * s
    return (d * s) * (1.0 + (s + w) * atanh_tail(w))


@adder
def _near_segment(a, b, c):
    total = 0.0
    for k in range(c.size):
        total += _near_term(a[k] + b[k], c[k])
    return total


@adder
def _far_segment(a, b, c):
    total = 0.0
    for k in range(c.size):
        # Not 0: the subnormal numbers that `kl_term` would compute with are slow.
        d = a[k] + b[k]
        m = c[k] + d
        total += kl_term(m if m > _TINY else _TINY, c[k], d, NO_THETA)
    return total


@kernel
def _middle(a, b, c, near):
    """D(m, c), in 0.4 of the time where all entries are near c."""
    if c.size <= SEGMENT:
        return _near_segment(a, b, c) if near else _far_segment(a, b, c)
    total, lost = 0.0, 0.0
    for low in range(0, c.size, SEGMENT):
        high = low + SEGMENT
        x, y, z = a[low:high], b[low:high], c[low:high]
        total, lost = add_compensated(total, lost, _near_segment(x, y, z) if near else _far_segment(x, y, z))
    return total + lost


@exported
def subtract_middles(a, b, far_p, far_q, c, first, out):
    """out[i, j] -= D(m, c), in row i from column first + i only.

    a and b hold the factors of the rows, far_p and far_q the largest of each, in units of c.
    """
    for i in range(a.shape[0]):
        for j in range(max(0, first + i), b.shape[0]):
            out[i, j] -= _middle(a[i], b[j], c, far_p[i] + far_q[j] < 1.0 / 3.0)

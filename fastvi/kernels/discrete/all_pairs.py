"""Loops over rows and over all pairs of rows, and the faster methods of `fastvi.pairwise`.

KL, Hellinger and Bhattacharyya of all pairs are matrix products, JS is a difference of entropies. Where these
cancel, the exact kernel computes the entry again.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import Lazily, adder, exported, formula, kernel, specialise
from ..numerics.elementary import LN2, atanh_tail, exponent_step, log
from .divergences import KERNELS, hellinger, js, js_distance, kl, kl_grad
from .entropies import cross_entropy
from .masses import ANY, NORMALIZE, UNIT
from .normalized import CHUNK
from .registry import HALVES, METRICS, NO_THETA
from .renyi import bhattacharyya
from .terms import kl_term

#: Stands for -log 0 in a product with probabilities: its sum with any p > 0 is far above every finite
#: cross-entropy (at most 745), and p = 0 adds 0.
_MINUS_LOG_0 = 1e300

#: Cross-entropies above this contain `_MINUS_LOG_0`, where no p > 0 is below `_TINY`.
_INFINITE = 1e6

#: Entries and masses below this are left to the exact kernels.
_TINY = 1e-290

#: The number of rows and the inner length of `add_products` are multiples of this.
STRIP = 4

#: Part of 1 + the entropy of the mixture that a JS must be, for an error of 1e-13: each entropy has an error
#: of 3e-16.
_LEAST_JS = 8e-3

#: The least overlap whose logarithm is computed, and the distance from which an overlap may have lost digits
#: to subnormal products.
_LEAST_OVERLAP, _FAR = 1e-305, 660.0


def _rows(p, q, ip, iq, theta, mass, out):
    """Template (`whole`): out[k] = whole(p[ip[k]], q[iq[k]])."""
    for k in range(out.size):
        out[k] = whole(p[ip[k]], q[iq[k]], theta, mass)  # noqa: F821


def _pairs(p, q, theta, mass, out):
    """Template (`whole`): out[i, j] = whole(p[i], q[j])."""
    for i in range(p.shape[0]):
        for j in range(q.shape[0]):
            out[i, j] = whole(p[i], q[j], theta, mass)  # noqa: F821


def _each(template, names, prefix, kind, suffix):
    return Lazily(
        {
            name: lambda name=name: specialise(
                template, f"_{prefix}{name}_{suffix}", exported, whole=getattr(KERNELS[name], kind)
            )
            for name in names
        }
    )


ROWS = _each(_rows, KERNELS, "", "whole", "rows")
LOG_ROWS = _each(_rows, KERNELS, "log_", "log", "rows")
PAIRS = _each(_pairs, METRICS, "", "whole", "pairs")


@exported
def kl_grad_rows(p, q, ip, iq, out, grad_p, grad_q):
    """`kl_grad` of each pair of rows p[ip[k]], q[iq[k]]."""
    for k in range(out.size):
        out[k] = kl_grad(p[ip[k]], q[iq[k]], grad_p[k], grad_q[k])


@adder
def _mass(p):
    total = 0.0
    for i in range(p.size):
        total += p[i]
    return total


@exported
def masses(p, out):
    """out[i] = sum of p[i]."""
    for i in range(p.shape[0]):
        out[i] = _mass(p[i])


@exported
def minus_logs(q, masses_q, out):
    """out[k, j] = -log(q[j, k] / masses_q[j]), `_MINUS_LOG_0` for zeros; further rows of `out` are kept."""
    for j in range(q.shape[0]):
        scale = 1.0 / masses_q[j]
        for k in range(q.shape[1]):
            x = np.float64(q[j, k])
            y = x * scale
            if y > 1e-300:
                out[k, j] = -log(y)
            else:
                out[k, j] = math.log(masses_q[j]) - math.log(x) if x > 0.0 else _MINUS_LOG_0


@adder
def _add_strip(p, s, i, k, out):
    """out[i : i + 4] += p[i : i + 4, k : k + 4] times s[k : k + 4]."""
    # The 16 factors are read before the loop: LLVM cannot know that the stores in it leave them unchanged.
    a0, a1, a2, a3 = p[i, k], p[i, k + 1], p[i, k + 2], p[i, k + 3]
    b0, b1, b2, b3 = p[i + 1, k], p[i + 1, k + 1], p[i + 1, k + 2], p[i + 1, k + 3]
    c0, c1, c2, c3 = p[i + 2, k], p[i + 2, k + 1], p[i + 2, k + 2], p[i + 2, k + 3]
    d0, d1, d2, d3 = p[i + 3, k], p[i + 3, k + 1], p[i + 3, k + 2], p[i + 3, k + 3]
    for j in range(s.shape[1]):
        w, x, y, z = s[k, j], s[k + 1, j], s[k + 2, j], s[k + 3, j]
        out[i, j] += a0 * w + a1 * x + a2 * y + a3 * z
        out[i + 1, j] += b0 * w + b1 * x + b2 * y + b3 * z
        out[i + 2, j] += c0 * w + c1 * x + c2 * y + c3 * z
        out[i + 3, j] += d0 * w + d1 * x + d2 * y + d3 * z


@exported
def add_products(p, s, out):
    """out += p s, in blocks of four rows by four: 16 products for each four sums stored.

    1.4 ms for 400 x 300 x 256. The BLAS takes 1.2 ms, but chooses its threads, and with them the bits,
    itself.
    """
    for i in range(0, p.shape[0], STRIP):
        for k in range(0, p.shape[1], STRIP):
            _add_strip(p, s, i, k, out)


@kernel
def _smallest(p):
    """The smallest entry that is not zero."""
    least = math.inf
    for k in range(p.size):
        if 0.0 < p[k] < least:
            least = p[k]
    return least


@kernel
def _least_remainder(n):
    """Part of two sums over n entries that their difference must be, for a relative error of 1e-13."""
    # Measured: a product of length n has a relative error of at most (6 + sqrt(n)) 2**-53, and 2**-53 / 1e-13
    # is 1.1e-3.
    return 1.1e-3 * (6.0 + math.sqrt(n))


@exported
def kl_from_products(p, q, masses_q, mass, out):
    """KL of all pairs as cross-entropy - entropy, from the products of `p` and `minus_logs` in `out`.

    Where the two nearly cancel, the exact kernel takes over.
    """
    least = _least_remainder(p.shape[1])
    for i in range(p.shape[0]):
        mass_p = _mass(p[i])
        entropy = cross_entropy(p[i], p[i], NO_THETA, NORMALIZE)
        tiny = _smallest(p[i]) < _TINY
        for j in range(q.shape[0]):
            cross = out[i, j] / mass_p
            value = cross - entropy
            if not value > least * (cross + 1.0) or tiny:
                out[i, j] = kl(p[i], q[j], NO_THETA, mass)
            elif cross > _INFINITE:
                out[i, j] = math.inf
            elif mass == ANY:
                gap = mass_p - masses_q[j]
                out[i, j] = mass_p * value + kl_term(mass_p, masses_q[j], gap, NO_THETA)
            else:
                out[i, j] = value


# The overlaps, sums of sqrt(p q), of all pairs are a matrix product of roots.


@exported
def roots(p, masses_p, mass, out):
    """out[i, k] = sqrt(p[i, k] / masses_p[i]), sqrt(p[i, k]) for `ANY`; the rest of `out` is kept."""
    for i in range(p.shape[0]):
        scale = 1.0 if mass == ANY else 1.0 / math.sqrt(masses_p[i])
        for k in range(p.shape[1]):
            out[i, k] = math.sqrt(np.float64(p[i, k])) * scale


@exported
def hellinger_from_overlaps(p, q, masses_p, masses_q, mass, out):
    """The Hellinger distance of all pairs, the root of (mean mass - overlap), from the overlaps in `out`.

    Where the two nearly cancel, the exact kernel takes over.
    """
    least = _least_remainder(p.shape[1])
    for i in range(p.shape[0]):
        for j in range(q.shape[0]):
            middle = 0.5 * (masses_p[i] + masses_q[j]) if mass == ANY else 1.0
            square = middle - out[i, j]
            if square > least * middle and middle > _TINY:
                out[i, j] = math.sqrt(square)
            else:
                out[i, j] = hellinger(p[i], q[j], NO_THETA, mass)


@exported
def bhattacharyya_from_overlaps(p, q, mass, out):
    """The Bhattacharyya distance of all pairs, -log of the overlaps in `out`.

    Where the overlap is near 1 or tiny, it has lost digits and the exact kernel takes over.
    """
    least = _least_remainder(p.shape[1])
    # With masses near 1 an overlap of 0 is no underflow.
    unit = mass == UNIT
    for i in range(p.shape[0]):
        row = out[i]
        for j in range(row.size):
            overlap = row[j]
            row[j] = math.inf if unit & (overlap == 0.0) else -log(max(overlap, _LEAST_OVERLAP))
        for j in range(row.size):
            if not least < row[j] < _FAR and row[j] < math.inf:
                row[j] = bhattacharyya(p[i], q[j], NO_THETA, mass)


@exported
def halves(p, masses_p, out):
    """out[i] = p[i] / masses_p[i] / 2 + 1e-300: zeros get a finite logarithm, and no sum changes."""
    for i in range(p.shape[0]):
        scale = 0.5 / masses_p[i]
        for k in range(p.shape[1]):
            out[i, k] = np.float64(p[i, k]) * scale + 1e-300


@formula
def _log_parts(m):
    """(m k, m atanh(s)) with m log m = m k ln 2 + 2 m atanh(s); k is times 2**52, as in `exponent_step`."""
    b, k = exponent_step(m, 1.0)
    s = (m - b) / (m + b)
    w = s * s
    return m * k, (m * s) * (1.0 + w * atanh_tail(w))


@adder
def _mixture_sum(x, y):
    far, near = 0.0, 0.0
    for k in range(x.size):
        f, g = _log_parts(x[k] + y[k])
        far += f
        near += g
    return -(far * (LN2 * 2.0**-52) + 2.0 * near)


@kernel
def mixture_entropy(x, y):
    """The entropy of x + y, with an error near 3e-16 of itself or of 1."""
    total = 0.0
    for low in range(0, x.size, CHUNK):
        total += _mixture_sum(x[low : low + CHUNK], y[low : low + CHUNK])
    return total


@exported
def entropies(x, out):
    """out[i] = the entropy of the distribution whose `halves` are x[i]."""
    for i in range(x.shape[0]):
        out[i] = mixture_entropy(x[i], x[i])


@exported
def js_tile(p, q, x, y, entropies_p, entropies_q, mass, rooted, out):
    """JS of all pairs, or its root if `rooted`, as a difference of entropies.

    x and y are the `halves` of p and q. This takes one logarithm an entry instead of two. Where the entropies
    nearly cancel, the exact kernel takes over.
    """
    for i in range(p.shape[0]):
        for j in range(q.shape[0]):
            mixture = mixture_entropy(x[i], y[j])
            value = mixture - 0.5 * (entropies_p[i] + entropies_q[j])
            if value > _LEAST_JS * (mixture + 1.0):
                out[i, j] = math.sqrt(value) if rooted else value
            elif rooted:
                out[i, j] = js_distance(p[i], q[j], HALVES, mass)
            else:
                out[i, j] = js(p[i], q[j], HALVES, mass)

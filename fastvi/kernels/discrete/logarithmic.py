"""Divergences of log-probabilities: what `divergences` and `renyi` do with logarithms of entries.

An entry may underflow where its logarithm, and the logarithm r of the ratio, are finite. So terms are made
of r, which is a difference without any rounding but its last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..compiler import adder, exported, formula, inlined, kernel, specialise
from ..numerics.elementary import LN2, exp, expm1_small, scaled_exp
from ..numerics.error_free import add_compensated
from . import terms
from .masses import ANY, UNIT
from .normalized import CHUNK, LIFT, UNLIFT, is_unit, settled
from .terms import SMALL_ORDER, alpha_near

#: Largest |r| for which a term is a series in r, or made of exp(r) - 1.
_NEAR = 0.3

#: Entries below this are zero: a term has no use for their logarithm.
_LEAST = 2.0**-1020

#: Largest logarithm whose exponential, lifted, is finite.
_MOST = 670.0

#: How far sums that overflow are lowered: by 2**128.
_LOWERED = 128.0 * LN2


class LogNormalization(NamedTuple):
    """Constants of `log_entry` for two arrays of log-probabilities."""

    top_p: float  #: subtracted from log p: the maximum
    rest_p: float  #: and then the logarithm of the sum over that
    top_q: float
    rest_q: float
    offset: float  #: subtracted from log p - log q
    offset_rest: float  #: and then this, far smaller


@inlined
def _difference(x, y):
    """x - y, and what its rounding has lost."""
    s = x - y
    b = s - x
    return s, (x - (s - b)) - (y + b)


@formula
def log_entry(p, q, normalization):
    """LIFT times p, q and p - q, all normalised; log(p / q), which is 0 where both are 0; and log p."""
    n = normalization
    u, v = np.float64(p), np.float64(q)
    log_p, log_q = (u - n.top_p) - n.rest_p, (v - n.top_q) - n.rest_q
    x, y = scaled_exp(LIFT, log_p), scaled_exp(LIFT, log_q)
    x = x if x > _LEAST else 0.0
    y = y if y > _LEAST else 0.0
    s, lost = _difference(u, v)
    r = (s - n.offset) + (lost - n.offset_rest)
    r = r if abs(s) < math.inf else (0.0 if u == v else s)
    near = abs(r) < _NEAR
    small = expm1_small(r if near else 0.0)
    return x, y, (y * small if near else x - y), r, log_p


@inlined
def _larger(a, b):
    return b if b > a else a


@kernel
def _top(p):
    """The maximum; NaN where an entry is NaN or +inf."""
    # Four maxima, so that none waits for the one before.
    a, b, c, d, bad = -math.inf, -math.inf, -math.inf, -math.inf, False
    n = p.size - p.size % 4
    for i in range(0, n, 4):
        w, x, y, z = p[i], p[i + 1], p[i + 2], p[i + 3]
        a, b, c, d = _larger(a, w), _larger(b, x), _larger(c, y), _larger(d, z)
        bad |= not ((w < math.inf) & (x < math.inf) & (y < math.inf) & (z < math.inf))
    for i in range(n, p.size):
        a = _larger(a, p[i])
        bad |= not p[i] < math.inf
    return math.nan if bad else np.float64(_larger(_larger(a, b), _larger(c, d)))


@adder
def _exp_sum(p, shift):
    total = 0.0
    for i in range(p.size):
        total += exp(np.float64(p[i]) - shift)
    return total


@kernel
def log_mass(p):
    """(the maximum, the sum of exp(p - maximum)); NaN where an entry is NaN or +inf."""
    top = _top(p)
    if not top > -math.inf:
        return top, 0.0 if top == -math.inf else math.nan
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _exp_sum(p[low : low + CHUNK], top)
        total, lost = add_compensated(total, lost, part)
    return top, total + lost


@kernel
def make_log_normalization(p, q, mass):
    """The normalization for log-probabilities, and the factor of its sums: NaN for invalid input."""
    top_p, sum_p = log_mass(p)
    top_q, sum_q = log_mass(q)
    refused = LogNormalization(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), math.nan
    if not (sum_p >= 0.0 and sum_q >= 0.0):
        return refused
    if mass == ANY:
        top = max(top_p, top_q)
        if top == -math.inf:
            top = 0.0
        return LogNormalization(top, 0.0, top, 0.0, 0.0, 0.0), math.exp(top)
    if mass == UNIT and not (is_unit(math.exp(top_p) * sum_p, p) and is_unit(math.exp(top_q) * sum_q, p)):
        return refused
    if not (sum_p > 0.0 and sum_q > 0.0):
        return refused
    rest_p, rest_q = math.log(sum_p), math.log(sum_q)
    offset, lost = _difference(top_p, top_q)
    return LogNormalization(top_p, rest_p, top_q, rest_q, offset, (rest_p - rest_q) + lost), 1.0


@kernel
def _corrected(normalization, excess):
    """The normalization without this (lifted) sum of all differences, which is the error of its offset."""
    n = normalization
    return LogNormalization(n.top_p, n.rest_p, n.top_q, n.rest_q, n.offset, n.offset_rest + excess * UNLIFT)


@adder
def _log_excess(p, q, normalization):
    total = 0.0
    for i in range(p.size):
        total += log_entry(p[i], q[i], normalization)[2]
    return total


@kernel
def exact_log_normalization(p, q, mass):
    """`make_log_normalization`, corrected."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return normalization, factor
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = _log_excess(p[low : low + CHUNK], q[low : low + CHUNK], normalization)
        total, lost = add_compensated(total, lost, part)
    return _corrected(normalization, total + lost), factor


@kernel
def shifted(p, q):
    """Whether p and q differ by one constant, exactly: whether they are the same distribution."""
    k = 0
    while k < p.size - 1 and not p[k] > -math.inf:
        k += 1
    s, lost = _difference(np.float64(p[k]), np.float64(q[k]))
    if not abs(s) < math.inf:
        return False
    for i in range(p.size):
        if p[i] == q[i] == -math.inf:
            continue
        t, rest = _difference(np.float64(p[i]), np.float64(q[i]))
        if t != s or rest != lost:
            return False
    return True


# Terms of x, y, d, r and log p as `log_entry` gives them.


@formula
def kl_log_term(x, y, d, r, log_p, theta):
    """p log(p / q) - p + q."""
    # Near p = q: y (e**r (r - 1) + 1) = y r**2 (1/2 + r/3 + ... + (k - 1) r**(k - 2) / k!).
    s = 12.0 / 6227020800.0
    s = s * r + 11.0 / 479001600.0
    s = s * r + 10.0 / 39916800.0
    s = s * r + 9.0 / 3628800.0
    s = s * r + 8.0 / 362880.0
    s = s * r + 7.0 / 40320.0
    s = s * r + 6.0 / 5040.0
    s = s * r + 5.0 / 720.0
    s = s * r + 4.0 / 120.0
    s = s * r + 3.0 / 24.0
    s = s * r + 2.0 / 6.0
    s = s * r + 0.5
    far = math.inf if r == math.inf else (y if x == 0.0 else x * r - d)
    return y * (r * r) * s if abs(r) < _NEAR else far


@formula
def jeffreys_log_term(x, y, d, r, log_p, theta):
    """(p - q) log(p / q)."""
    return abs(r) if abs(r) == math.inf else d * r


@formula
def _lifted_exp(x):
    """LIFT e**x."""
    return math.inf if x > _MOST else scaled_exp(LIFT, x)


@formula
def chi2_log_term(x, y, d, r, log_p, theta):
    """(p - q)**2 / q = p**2 / q - 2 p + q."""
    far = (0.0 if log_p == -math.inf else _lifted_exp(log_p + r)) - 2.0 * x + y
    return d * expm1_small(r) if abs(r) < _NEAR else far


@formula
def alpha_log_term(x, y, d, r, log_p, theta):
    """`terms.alpha_term`."""
    swap = theta[0] < 0.5
    a = 1.0 - theta[0] if swap else theta[0]
    beta = -theta[0] if swap else a - 1.0
    p, q = (y, x) if swap else (x, y)
    d, s = (-d, -r) if swap else (d, r)
    log = log_p - r if swap else log_p
    near = alpha_near(q, s, a)
    exponent = beta * s
    # p (exp(beta r) - 1) / beta
    little = p * expm1_small(exponent if abs(exponent) < _NEAR else 0.0)
    power = _lifted_exp(log + exponent) if abs(s) < math.inf else (math.inf if s > 0.0 else 0.0)
    limit = abs(beta) < SMALL_ORDER
    grown = (little if abs(exponent) < _NEAR else power - p) / (1.0 if limit else beta)
    grown = p * s if limit & (abs(s) < math.inf) else grown
    grown = (-p / beta if beta < 0.0 else math.inf) if s == math.inf else grown
    grown = 0.0 if s == -math.inf else grown
    value = near if abs(s) * a < 0.25 else (grown - d) / a
    return 0.0 if (d == 0.0) & (r == 0.0) else value


def _log_term(x, y, d, r, log_p, theta):
    """Template (`term`): the term for log-probabilities, where p and q may underflow without harm."""
    return term(x, y, d, theta)  # noqa: F821


def _log_sums(p, q, normalization, theta):
    """Template (`term`): (the sum over the exponentials of p and q, that of all differences), lifted."""
    a, excess = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, log_p = log_entry(p[i], q[i], normalization)
        a += term(x, y, d, r, log_p, theta)  # noqa: F821
        excess += d
    return a, excess


def _all_log_sums(p, q, normalization, theta):
    """Template (`log_sums`): the same, by chunks."""
    a, al, e, el = 0.0, 0.0, 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        x, y = log_sums(p[low : low + CHUNK], q[low : low + CHUNK], normalization, theta)  # noqa: F821
        a, al = add_compensated(a, al, x)
        e, el = add_compensated(e, el, y)
    return a + al, e + el


@kernel
def lowered(normalization):
    """The normalization with which all sums are less by `_LOWERED`."""
    n = normalization
    return LogNormalization(
        n.top_p, n.rest_p + _LOWERED, n.top_q, n.rest_q + _LOWERED, n.offset, n.offset_rest
    )


def _log_divergence(p, q, theta, mass):
    """Template (`log_sums`, `smooth`, `finish`): the whole computation for log-probabilities."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    a, excess = log_sums(p, q, normalization, theta)  # noqa: F821
    if mass != ANY:
        for _ in range(2):
            if settled(a, excess, theta, smooth, LIFT):  # noqa: F821
                break
            if shifted(p, q):
                return 0.0
            normalization = _corrected(normalization, excess)
            a, excess = log_sums(p, q, normalization, theta)  # noqa: F821
    if a < math.inf:
        return finish(a, UNLIFT * factor)  # noqa: F821
    a, _ = log_sums(p, q, lowered(normalization), theta)  # noqa: F821
    return finish(a, UNLIFT * factor * 2.0**128)  # noqa: F821


def assemble(name, term, smooth, finish):
    """The kernel of a divergence whose term is called `term`."""
    log_term = globals().get(f"{term}_log_term")
    if log_term is None:
        plain = getattr(terms, f"{term}_term")
        log_term = specialise(_log_term, f"_{name}_log_term", formula, term=plain)
    log_sums = specialise(_log_sums, f"_log_{name}_sums", adder, term=log_term)
    all_sums = specialise(_all_log_sums, f"_log_{name}_all_sums", log_sums=log_sums)
    return specialise(
        _log_divergence, f"log_{name}", exported, log_sums=all_sums, smooth=smooth, finish=finish
    )

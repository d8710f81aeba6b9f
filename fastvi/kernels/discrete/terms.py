"""Terms: what one pair of entries of two measures adds to a divergence.

A term is >= 0, so that no sum of terms is negative. It is given the exact difference ``d = p - q``, which
keeps its relative accuracy as p approaches q. All terms are homogeneous: scaling p, q and d scales the term.
p and q are finite, >= 0, and zero or normal numbers. `theta` holds the parameters of the divergence as two
floats: the weights of `js_term`, the order of `alpha_term`. `registry.Row.term` names them; `divergences` and
`chunks` sum them.
"""

from __future__ import annotations

import math

from ..compiler import formula
from ..numerics.elementary import LN2, atanh_tail, exponent_step, log_ratio, times_expm1

#: Largest |log(p / q)| for which terms are computed from the difference d, without cancellation.
_NEAR = 0.3


@formula
def kl_term(p, q, d, theta):
    """p log(p / q) - p + q."""
    # With b = q 2**k next to p, this is (p log(p / b) - p + b) + p k ln 2 + (q - b); the bracket is
    # (p + b) s**2 (1 + (1 + s) s tail), s = (p - b) / (p + b), and for k = 0 nothing else remains.
    b, k = exponent_step(p, q)
    pb = d if k == 0.0 else p - b
    s = pb / (p + b)
    w = s * s
    value = (pb * s) * (1.0 + (s + w) * atanh_tail(w)) + (p * (k * (LN2 * 2.0**-52)) + (q - b))
    value = math.inf if q == 0.0 else value
    return q if p == 0.0 else value


@formula
def js_term(p, q, d, theta):
    """u p log(p / m) + v q log(q / m) with m = u p + v q, for weights theta = (u, v)."""
    u, v = theta
    m = u * p + v * q
    return u * kl_term(p, m, v * d, theta) + v * kl_term(q, m, -u * d, theta)


@formula
def jeffreys_term(p, q, d, theta):
    """(p - q) log(p / q)."""
    value = math.inf if p == 0.0 or q == 0.0 else d * log_ratio(p, q, d)
    return 0.0 if d == 0.0 else value


@formula
def hellinger_term(p, q, d, theta):
    """(sqrt p - sqrt q)**2 / 2: the square of the distance is a sum."""
    # A negative entry is refused later; in plain Python its root would raise first.
    root = 0.0 if d == 0.0 else d / (math.sqrt(abs(p)) + math.sqrt(abs(q)))
    return 0.5 * (root * root)


@formula
def total_variation_term(p, q, d, theta):
    """|p - q| / 2."""
    return 0.5 * abs(d)


@formula
def chi2_term(p, q, d, theta):
    """(p - q)**2 / q."""
    return 0.0 if d == 0.0 else d * (d / q)


@formula
def alpha_term(p, q, d, theta):
    """(p**a q**(1-a) - a p + (a - 1) q) / (a (a - 1)) for a = theta[0]; KL for a = 1 and a = 0."""
    x = math.inf if q == 0.0 else log_ratio(p, q, d)
    return alpha_from_ratio(p, q, d, -math.inf if p == 0.0 else x, theta)


@formula
def cross_term(p, q, top):
    """p log(top / q)."""
    value = p * log_ratio(top, q, top - q)
    value = math.inf if q == 0.0 else value
    return 0.0 if p == 0.0 else value


# Where a divergence is infinite: p > 0 = q somewhere, or q > 0 = p. Without this function it never is.


@formula
def kl_infinite(p_alone, q_alone, theta):
    """Where p > 0 = q."""
    return p_alone


@formula
def jeffreys_infinite(p_alone, q_alone, theta):
    """Where p > 0 = q, or q > 0 = p."""
    return p_alone | q_alone


@formula
def chi2_infinite(p_alone, q_alone, theta):
    """Where p > 0 = q."""
    return p_alone


@formula
def alpha_infinite(p_alone, q_alone, theta):
    """Where p > 0 = q for an order from 1, or q > 0 = p for one up to 0."""
    return (p_alone & (theta[0] >= 1.0)) | (q_alone & (theta[0] <= 0.0))


#: Largest coefficient of the series in `alpha_near`, so that its product with an entry is finite.
_MOST_COEFFICIENT = 1e300

#: Largest |log(p / q)| times the order for which `alpha_from_ratio` takes the series.
_SERIES_RANGE = 0.25

#: Below this an order is as 0 (and 1 minus it as 1) for entries > 0: |log(p / q)| is at most 1500.
SMALL_ORDER = 1e-18

#: Largest exponent of `times_expm1`; beyond it the term is infinite.
_OVERFLOW = 1400.0


@formula
def alpha_near(q, x, a):
    """`alpha_term` near p = q, where |x| a < `_SERIES_RANGE`, x = log(p / q): nothing cancels."""
    # q (x**2 / 2! + c_3 x**3 / 3! + ...), c_(j+1) = 1 + a c_j. The coefficients do not depend on the entry.
    # They stay finite: an infinite one times x**2 = 0 would be NaN.
    c3 = 1.0 + a
    c4 = min(1.0 + a * c3, _MOST_COEFFICIENT)
    c5 = min(1.0 + a * c4, _MOST_COEFFICIENT)
    c6 = min(1.0 + a * c5, _MOST_COEFFICIENT)
    c7 = min(1.0 + a * c6, _MOST_COEFFICIENT)
    c8 = min(1.0 + a * c7, _MOST_COEFFICIENT)
    c9 = min(1.0 + a * c8, _MOST_COEFFICIENT)
    c10 = min(1.0 + a * c9, _MOST_COEFFICIENT)
    c11 = min(1.0 + a * c10, _MOST_COEFFICIENT)
    c12 = min(1.0 + a * c11, _MOST_COEFFICIENT)
    c13 = min(1.0 + a * c12, _MOST_COEFFICIENT)
    s = c13 * (1.0 / 6227020800.0)
    s = s * x + c12 * (1.0 / 479001600.0)
    s = s * x + c11 * (1.0 / 39916800.0)
    s = s * x + c10 * (1.0 / 3628800.0)
    s = s * x + c9 * (1.0 / 362880.0)
    s = s * x + c8 * (1.0 / 40320.0)
    s = s * x + c7 * (1.0 / 5040.0)
    s = s * x + c6 * (1.0 / 720.0)
    s = s * x + c5 * (1.0 / 120.0)
    s = s * x + c4 * (1.0 / 24.0)
    s = s * x + c3 * (1.0 / 6.0)
    return q * (x * x) * (s * x + 0.5)


@formula
def exchanged(theta):
    """(whether p and q are exchanged, the order then, beta): the order is at least 1/2.

    The divergence of order a from p to q is that of order 1 - a from q to p. beta is the order less 1, exact
    for small orders: where one entry is 0, the term is the other over this.
    """
    swap = theta[0] < 0.5
    return swap, 1.0 - theta[0] if swap else theta[0], -theta[0] if swap else theta[0] - 1.0


@formula
def alpha_from_ratio(p, q, d, x, theta):
    """`alpha_term` from x = log(p / q), which is inf where q = 0 < p and -inf where p = 0."""
    swap, a, beta = exchanged(theta)
    p, q = (q, p) if swap else (p, q)
    d, x = (-d, -x) if swap else (d, x)
    near = alpha_near(q, x, a)
    # Elsewhere: (p (exp(beta x) - 1) / beta - p + q) / a.
    y = beta * x
    limit = abs(beta) < SMALL_ORDER
    grown = p * x if limit else times_expm1(p, y) / (1.0 if limit else beta)
    far = math.inf if y > _OVERFLOW else (grown - d) / a
    value = near if abs(x) * a < _SERIES_RANGE else far
    without_q = math.inf if beta >= 0.0 else p / -beta
    value = without_q if x == math.inf else value
    value = q / a if p == 0.0 else value
    return 0.0 if d == 0.0 else value

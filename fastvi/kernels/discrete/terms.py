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
from ..numerics.elementary import LN2, atanh_tail, expm1_parts, exponent_step, log_ratio, power_reduced

#: Largest |log(p / q)| for which terms are computed from the difference d, without cancellation.
_NEAR = 0.3

#: Largest power of two of `expm1_parts`; beyond it the term is infinite.
_OVERFLOW = 2019.0

#: Below this, beta log(p / q) is small: |log(p / q)| is at most 1500.
_LEAST_BETA = 1e-5


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
    swap, a, beta = exchanged(theta)
    p, q, d = (q, p, -d) if swap else (p, q, d)
    # a times the term is p (exp(y) - 1) / beta - d, y = beta x, x = log(p / q). Near y = 0 that cancels, and
    # `kl_term` and p x y (exp(y) - 1 - y) / y**2 take its place. One polynomial serves both.
    b, k = exponent_step(p, q)
    pb = d if k == 0.0 else p - b
    s = pb / (p + b)
    w = s * s
    tail = atanh_tail(w)
    r, far = 2.0 * s, k * (LN2 * 2.0**-52)
    low = r + r * w * tail
    kl = (pb * s) * (1.0 + (s + w) * tail) + (p * far + (q - b))
    n, y = power_reduced(beta, k, low)
    small, rest, grown = expm1_parts(p, n, y)
    # Where beta is so small that it has no inverse, no y is large.
    inverse = 1.0 / beta if abs(beta) > _LEAST_BETA else 0.0
    value = kl + (p * (far + low)) * (y * rest) if small else grown * inverse - d
    value = math.inf if n > _OVERFLOW else value
    without_q = math.inf if beta >= 0.0 else p * a / -beta
    value = without_q if q == 0.0 else value
    value = q if p == 0.0 else value
    return 0.0 if d == 0.0 else value * (1.0 / a)


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


@formula
def exchanged(theta):
    """(whether p and q are exchanged, the order then, beta): the order is at least 1/2.

    The divergence of order a from p to q is that of order 1 - a from q to p. beta is the order less 1, exact
    for small orders: where one entry is 0, the term is the other over this.
    """
    swap = theta[0] < 0.5
    return swap, 1.0 - theta[0] if swap else theta[0], -theta[0] if swap else theta[0] - 1.0

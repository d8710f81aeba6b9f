"""What one entry adds to a divergence, and when the sum is the divergence of the normalised distributions.

A term is that for two measures. It is >= 0 and is given the exact difference ``d = p - q``, so that it
keeps its relative accuracy as p approaches q, and no sum of terms can be negative. All terms are homogeneous:
scaling p, q and d scales the term. p and q are finite, >= 0, and zero or normal numbers; `theta` holds the
parameters of the divergence as two floats: the weights of `js_term`, the order of `alpha_term`. Which terms a
divergence needs, and by which names they are found, is in `registry.Row`.
"""

from __future__ import annotations

import math

from ..compiler import formula, kernel
from ..numerics.elementary import LN2, atanh_tail, exponent_step, log_ratio, times_expm1


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
    """(sqrt p - sqrt q)**2 / 2: the square of the distance adds up."""
    # A negative entry is refused later; in plain Python its root would raise before that.
    root = d / (math.sqrt(abs(p)) + math.sqrt(abs(q)))
    return 0.0 if d == 0.0 else 0.5 * (root * root)


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
    return alpha_log_term(p, q, d, -math.inf if p == 0.0 else x, theta)


# The same given x = log(p / q), for log-probabilities: there p or q may be rounded to zero when x is
# finite. A divergence without a `*_log_term` keeps its term.


@kernel
def kl_log_term(p, q, d, x, theta):
    """`kl_term` from x."""
    if abs(x) < 0.3 and q > 0.0:
        return kl_term(p, q, d, theta)
    return q if p == 0.0 else max(p * x - p + q, 0.0)


@kernel
def jeffreys_log_term(p, q, d, x, theta):
    """`jeffreys_term` from x."""
    return 0.0 if d == 0.0 else d * x


@kernel
def chi2_log_term(p, q, d, x, theta):
    """`chi2_term` from x: q exp(2 x) - 2 p + q where q alone has underflowed."""
    if abs(x) < 0.3 and q > 0.0:
        return d * (d / q)
    half = math.exp(0.5 * x)
    return q if p == 0.0 else max(p * half * half - 2.0 * p + q, 0.0)


#: The largest coefficient of the series in `alpha_log_term`: times any entry, it is finite.
LARGEST = 1e300


@formula
def alpha_log_term(p, q, d, x, theta):
    """`alpha_term` from x, which is inf where q = 0 < p and -inf where p = 0."""
    # The divergence of order a from p to q is that of order 1 - a from q to p.
    swap = theta[0] < 0.5
    a = 1.0 - theta[0] if swap else theta[0]
    p, q = (q, p) if swap else (p, q)
    d, x = (-d, -x) if swap else (d, x)
    beta = a - 1.0
    # Near p = q: q (x**2 / 2! + c_3 x**3 / 3! + ...), c_(j+1) = 1 + a c_j, where nothing cancels. The
    # coefficients do not depend on the entry. They stay finite: an infinite one times x**2 = 0 would be NaN.
    c3 = 1.0 + a
    c4 = min(1.0 + a * c3, LARGEST)
    c5 = min(1.0 + a * c4, LARGEST)
    c6 = min(1.0 + a * c5, LARGEST)
    c7 = min(1.0 + a * c6, LARGEST)
    c8 = min(1.0 + a * c7, LARGEST)
    c9 = min(1.0 + a * c8, LARGEST)
    c10 = min(1.0 + a * c9, LARGEST)
    c11 = min(1.0 + a * c10, LARGEST)
    c12 = min(1.0 + a * c11, LARGEST)
    c13 = min(1.0 + a * c12, LARGEST)
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
    s = s * x + 0.5
    near = q * (x * x) * s
    # Elsewhere: (p (exp(beta x) - 1) / beta - p + q) / a.
    y = beta * x
    grown = p * x if beta == 0.0 else times_expm1(p, y) / beta
    far = math.inf if y > 1400.0 else (grown - d) / a
    value = near if abs(x) * a < 0.25 else far
    without_q = math.inf if beta >= 0.0 else p / -beta
    value = without_q if x == math.inf else value
    value = q / a if p == 0.0 else value
    return 0.0 if d == 0.0 else value


#: What `*_low` terms are multiplied by, so that a sum overflows only if the result does.
LOW = 2.0**-128


@formula
def chi2_low(p, q, d, x, theta):
    """LOW times `chi2_term`."""
    value = ((d * LOW) / q) * d if q > 0.0 else chi2_log_term(p * LOW, 0.0, d * LOW, x, theta)
    value = math.inf if x == math.inf else value
    return 0.0 if d == 0.0 else value


@formula
def alpha_low(p, q, d, x, theta):
    """LOW times `alpha_term`."""
    # The entry that is raised to a power above 1 must not be rounded to zero.
    raised = q if theta[0] < 0.5 else p
    if abs(x) == math.inf or raised < 2.0**-800:
        return alpha_log_term(p, q, d, x, theta) * LOW
    return alpha_log_term(p * LOW, q * LOW, d * LOW, x, theta)

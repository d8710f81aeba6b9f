"""Rényi entropies: a row of `registry` with kernels of its own.

With l_i = log p_i <= 0 and beta = alpha - 1, sum p_i**alpha = 1 + sum p_i (exp(beta l_i) - 1), where all
terms have one sign: log1p of that sum loses nothing near alpha = 1, and nothing where one entry is nearly 1,
if l_i is -(log(top / p_i) + log1p(rest / top)) with the largest entry `top` and the sum `rest` of the others.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import adder, exported, formula, kernel, specialise
from ..numerics.elementary import exp, log_ratio, scaled_exp, times_expm1
from ..numerics.error_free import add_compensated
from .masses import LARGEST_MASS, UNIT
from .normalized import CHUNK, LIFT, UNLIFT, is_unit

#: Orders above this are computed as the order inf, from which they differ by less than the last digit.
_AS_INFINITE = 1e300

#: Numbers below this are their own log1p and expm1, and are computed times `LIFT`: they may be subnormal.
_TINY = 1e-200


@formula
def _read(p, top):
    """LIFT p / top, and log(top / p), inf for p = 0."""
    x = np.float64(p) * LIFT
    r = log_ratio(top, x, top - x)
    return x / top * LIFT, math.inf if x == 0.0 else r


@formula
def _log_read(p, top):
    """The same for log-probabilities."""
    d = np.float64(p) - top
    return scaled_exp(LIFT, d), -d


def _largest(p):
    top = -math.inf
    for i in range(p.size):
        top = max(top, np.float64(p[i]))
    return top


def _others(p, top):
    """Template (`read`): the sum of the entries below `top` over `top`, lifted, and the number at `top`."""
    below, at_top = 0.0, 0
    for i in range(p.size):
        u, r = read(p[i], top)  # noqa: F821
        below += 0.0 if r == 0.0 else u
        at_top += r == 0.0
    return below, at_top


def _growth(p, top, ratio, last, alpha):
    """Template (`read`): the (lifted) sum of p_i**alpha - p_i of those below `top`, times 1 + ratio."""
    beta, total = alpha - 1.0, 0.0
    for i in range(p.size):
        u, r = read(p[i], top)  # noqa: F821
        y = -beta * (r + last)
        near = times_expm1(u, min(y, 1.0))
        far = scaled_exp(LIFT * (1.0 + ratio), -alpha * (r + last)) - u
        term = near if y <= 1.0 else far
        total += 0.0 if (r == 0.0) | (r == math.inf) else term
    return total


def _powers(p, top, alpha):
    """Template (`read`): the sum of (p_i / top)**alpha."""
    total = 0.0
    for i in range(p.size):
        r = read(p[i], top)[1]  # noqa: F821
        total += exp(-alpha * r)
    return total


def _positive(p, top):
    """Template (`read`): the number of entries above 0."""
    count = 0
    for i in range(p.size):
        count += read(p[i], top)[1] < math.inf  # noqa: F821
    return count


def _order(p, alpha, top, rest, at_top):
    """Template (`growth`, `powers`, `positive`): the entropy, from the lifted sum `rest` over the largest."""
    ratio = rest * UNLIFT
    last = math.log1p(ratio)  # -log of the largest probability
    if alpha > _AS_INFINITE:
        return last
    if alpha == 0.0:
        return math.log(positive(p, top))  # noqa: F821
    beta = alpha - 1.0
    if beta == 0.0:
        return math.nan  # another row of the registry
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        total, lost = add_compensated(total, lost, growth(p[low : low + CHUNK], top, ratio, last, alpha))  # noqa: F821
    if ratio < _TINY:
        at_the_top = -beta * rest
    elif -beta * last > 1.0:
        at_the_top = at_top * LIFT * ((1.0 + ratio) * math.exp(-alpha * last) - 1.0)
    else:
        at_the_top = at_top * LIFT * math.expm1(-beta * last)
    total, lost = add_compensated(total, lost, at_the_top)
    change = (total + lost) / (1.0 + ratio)
    if change < -0.5 * LIFT:
        total, lost = 0.0, 0.0
        for low in range(0, p.size, CHUNK):
            total, lost = add_compensated(total, lost, powers(p[low : low + CHUNK], top, alpha))  # noqa: F821
        return (alpha * last - math.log(total + lost)) / beta
    small = abs(change * UNLIFT) < _TINY
    value = change / -beta * UNLIFT if small else math.log1p(change * UNLIFT) / -beta
    return value if value > 0.0 else 0.0


_top = specialise(_largest, "_renyi_entropy_top")


def _kernels(name, read):
    return (
        specialise(_others, f"_{name}_others", adder, read=read),
        specialise(
            _order,
            f"_{name}_order",
            growth=specialise(_growth, f"_{name}_growth", adder, read=read),
            powers=specialise(_powers, f"_{name}_powers", adder, read=read),
            positive=specialise(_positive, f"_{name}_positive", adder, read=read),
        ),
    )


_others_plain, _order_plain = _kernels("renyi_entropy", _read)
_others_log, _order_log = _kernels("log_renyi_entropy", _log_read)


@kernel
def _is_valid(p):
    for i in range(p.size):
        if not 0.0 <= p[i] < math.inf:
            return False
    return True


@exported
def renyi_entropy(p, q, theta, mass):
    """log(sum p**a) / (1 - a) for a = theta[0] from 0 to inf, other than 1; q is not used."""
    top = _top(p)
    if not (0.0 < top <= LARGEST_MASS and _is_valid(p)):
        return math.nan
    rest, lost, at_top = 0.0, 0.0, -1
    for low in range(0, p.size, CHUNK):
        part, count = _others_plain(p[low : low + CHUNK], top * LIFT)
        rest, lost = add_compensated(rest, lost, part)
        at_top += count
    rest = rest + lost + at_top * LIFT
    total = top * (1.0 + rest * UNLIFT)
    if not total <= LARGEST_MASS or (mass == UNIT and not is_unit(total, p)):
        return math.nan
    return _order_plain(p, theta[0], top * LIFT, rest, at_top + 1)


@exported
def log_renyi_entropy(p, q, theta, mass):
    """`renyi_entropy` for log-probabilities."""
    top = -math.inf
    for i in range(p.size):
        if not p[i] < math.inf:
            return math.nan
        top = max(top, np.float64(p[i]))
    if top == -math.inf:
        return math.nan
    rest, lost, at_top = 0.0, 0.0, -1
    for low in range(0, p.size, CHUNK):
        part, count = _others_log(p[low : low + CHUNK], top)
        rest, lost = add_compensated(rest, lost, part)
        at_top += count
    rest = rest + lost + at_top * LIFT
    if mass == UNIT and not is_unit(math.exp(top) * (1.0 + rest * UNLIFT), p):
        return math.nan
    return _order_log(p, theta[0], top, rest, at_top + 1)

"""Divergences of many distributions from what they have in common: Jensen-Shannon and mutual information.

Both are sums of `kl_term`, which are >= 0. Their differences p - q have full relative accuracy: masses and
marginals are sums of two floats, and products of them lose nothing.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import exported, inlined, kernel
from ..numerics.error_free import add_compensated, two_product
from .masses import ANY, LARGEST_MASS, UNIT
from .normalized import LIFT, UNLIFT, is_unit
from .registry import NO_THETA
from .terms import kl_term

#: Products of marginals below this may have lost digits: the term is then computed from logarithms.
_LEAST_PRODUCT = 1e-250

#: Numbers for each distribution in the workspace of `js_many`.
JS_SPACE = 6


@inlined
def _joined(high, low):
    """The same sum of two floats, the first of which is rounded correctly."""
    total = high + low
    return total, low - (total - high)


@inlined
def _product(a, al, b, bl):
    """(a + al) (b + bl) as the sum of two floats."""
    high, low = two_product(a, b)
    return _joined(high, low + (a * bl + al * b))


@kernel
def _scale(p, lift):
    """Two powers of two whose product brings the mass of p to [lift / 2, lift); NaN for an invalid array.

    The product itself may be beyond the floats.
    """
    total, valid = 0.0, True
    for i in range(p.size):
        total += np.float64(p[i])
        valid &= p[i] >= 0.0
    if not (valid and 0.0 < total <= LARGEST_MASS):
        return math.nan, math.nan
    exponent = math.frexp(lift)[1] - 1 - math.frexp(total)[1]
    return math.ldexp(1.0, exponent // 2), math.ldexp(1.0, exponent - exponent // 2)


@kernel
def _precise_sum(p, first, second):
    """The sum of the scaled entries, as the sum of two floats."""
    total, lost = 0.0, 0.0
    for i in range(p.size):
        total, lost = add_compensated(total, lost, np.float64(p[i]) * first * second)
    return _joined(total, lost)


# Jensen-Shannon.


@exported
def js_many(p, weights, mass, space):
    """sum_i w_i KL(p[i] ‖ m), m = sum_i w_i p[i], for weights that sum to one; NaN for invalid input.

    `space` is (`JS_SPACE`, rows of p). Differences are taken from the row with the largest weight, which is
    at least 1 / rows: d_i - sum_j w_j d_j then loses no more than a factor sqrt(rows).
    """
    firsts, seconds, highs, lows, values, gaps = space[0], space[1], space[2], space[3], space[4], space[5]
    for i in range(p.shape[0]):
        if mass == ANY:
            first, _ = _scale(p[i], 1.0)
            valid = first > 0.0 or not p[i].any()
            firsts[i], seconds[i], highs[i], lows[i] = LIFT, 1.0, 1.0, 0.0
        else:
            firsts[i], seconds[i] = _scale(p[i], LIFT)
            highs[i], lows[i] = _precise_sum(p[i], firsts[i], seconds[i])
            valid = firsts[i] > 0.0
            if mass == UNIT and valid:
                valid = is_unit(highs[i] / firsts[i] / seconds[i], p)
        if not valid:
            return math.nan
    lift = 1.0 if mass == ANY else LIFT
    c = np.argmax(weights)
    total, lost = 0.0, 0.0
    for k in range(p.shape[1]):
        y = np.float64(p[c, k]) * firsts[c] * seconds[c]
        middle, shift = 0.0, 0.0
        for i in range(p.shape[0]):
            x = np.float64(p[i, k]) * firsts[i] * seconds[i]
            a, al = two_product(x, highs[c])
            b, bl = two_product(y, highs[i])
            gap = (a - b) + ((al - bl) + (x * lows[c] - y * lows[i]))
            values[i] = x / highs[i] * lift
            gaps[i] = gap / highs[c] / highs[i] * lift
            middle += weights[i] * values[i]
            shift += weights[i] * gaps[i]
        if middle > 0.0:
            part = 0.0
            for i in range(p.shape[0]):
                if weights[i] > 0.0:
                    part += weights[i] * kl_term(values[i], middle, gaps[i] - shift, NO_THETA)
            total, lost = add_compensated(total, lost, part)
    return (total + lost) * UNLIFT


# Mutual information.


@kernel
def _marginals(p, lengths, first, second, high, low):
    """The sums of scaled entries over all axes but one, one axis after the other, as sums of two floats."""
    high[:] = 0.0
    low[:] = 0.0
    last = lengths[lengths.size - 1]
    end = high.size - last
    for row in range(p.size // last):
        total, lost = 0.0, 0.0
        for j in range(last):
            x = np.float64(p[row * last + j]) * first * second
            total, lost = add_compensated(total, lost, x)
            high[end + j], low[end + j] = add_compensated(high[end + j], low[end + j], x)
        rest, start = row, end
        for axis in range(lengths.size - 2, -1, -1):
            start -= lengths[axis]
            k = start + rest % lengths[axis]
            rest //= lengths[axis]
            high[k], low[k] = add_compensated(high[k], low[k], total)
            low[k] += lost
    for k in range(high.size):
        high[k], low[k] = _joined(high[k], low[k])


@inlined
def _information_term(x, powers, product, mass, log_mass, count, logs):
    """The (lifted) term of one cell: its entry x, S**(count-1), the product of its marginals, the mass S."""
    b, bl = product
    divisor = mass**count
    y = b / divisor
    if x == 0.0:
        return y
    if b < _LEAST_PRODUCT:
        return x / mass * (math.log(x) + (count - 1) * log_mass - logs - 1.0) + y
    a, al = two_product(x, powers[0])
    al += x * powers[1]
    return kl_term(x / mass, y, ((a - b) + (al - bl)) / divisor, NO_THETA)


@exported
def mutual_information(p, lengths, mass, space):
    """KL of a joint distribution from the product of its marginals; NaN for invalid input.

    p has the entries of an array with these lengths of its axes; `space` is (2, the sum of the lengths).
    """
    first, second = _scale(p, LIFT)
    if not first > 0.0:
        return math.nan
    high, low = space[0], space[1]
    _marginals(p, lengths, first, second, high, low)
    total, lost = 0.0, 0.0
    for k in range(lengths[0]):
        total, lost = add_compensated(total, lost, high[k])
        lost += low[k]
    s, sl = _joined(total * UNLIFT, lost * UNLIFT)
    if mass == UNIT and not is_unit(s * LIFT / first / second, p):
        return math.nan
    # The entries and the first marginal stay lifted.
    for k in range(lengths[0], high.size):
        high[k] *= UNLIFT
        low[k] *= UNLIFT
    count, last = lengths.size, lengths[lengths.size - 1]
    end = high.size - last
    power, power_low = 1.0, 0.0
    for _ in range(count - 1):
        power, power_low = _product(power, power_low, s, sl)
    log_s = math.log(s)
    value, rest_of_value = 0.0, 0.0
    for row in range(p.size // last):
        b, bl, rest, start = 1.0, 0.0, row, end
        logs = 0.0
        for axis in range(count - 2, -1, -1):
            start -= lengths[axis]
            k = start + rest % lengths[axis]
            rest //= lengths[axis]
            b, bl = _product(b, bl, high[k], low[k])
            logs += math.log(high[k]) if high[k] > 0.0 else 0.0
        part = 0.0
        for j in range(last):
            x = np.float64(p[row * last + j]) * first * second
            k = end + j
            log_k = math.log(high[k]) if x > 0.0 and b * high[k] < _LEAST_PRODUCT else 0.0
            product = _product(b, bl, high[k], low[k])
            part += _information_term(x, (power, power_low), product, s, log_s, count, logs + log_k)
        value, rest_of_value = add_compensated(value, rest_of_value, part)
    return (value + rest_of_value) * UNLIFT


@exported
def mutual_information_rows(p, lengths, mass, space, out):
    """out[i] = mutual_information(p[i])."""
    for i in range(out.size):
        out[i] = mutual_information(p[i], lengths, mass, space)

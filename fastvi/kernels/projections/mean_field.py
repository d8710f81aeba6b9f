"""Mean field for a joint probability table of any number of axes, for `i_projection` with family="product".

Coordinate ascent, one axis after another (Bishop, PRML eq. 10.9). A table is given flat (C order) as log p,
with its shape; a product distribution is the concatenation of its factors, axis after axis.
"""

from __future__ import annotations

import math

from ..compiler import adder, exported, kernel
from ..numerics.matrices import add_scaled, clear_matrix


@adder
def _weighted_sum(weights, values):
    """Inner product; 0 times an infinite value is 0."""
    total = 0.0
    for i in range(values.size):
        total += weights[i] * values[i] if weights[i] > 0.0 else 0.0
    return total


@kernel
def _expectations(log_p, shape, offsets, q, axis, index, out):
    """out[v] = E[log p | axis = v] under the other factors; `index` is scratch space, one number per axis.

    Row by row: 0.5 ns an entry for a table of 30**3, instead of 4.1 with the index counted for each entry.
    """
    last = shape.size - 1
    width = shape[last]
    for v in range(shape[axis]):
        out[v] = 0.0
    for a in range(last):
        index[a] = 0
    inner = q[offsets[last] : offsets[last] + width]
    for low in range(0, log_p.size, width):
        row = log_p[low : low + width]
        weight = 1.0
        for a in range(last):
            if a != axis:
                weight *= q[offsets[a] + index[a]]
        if weight > 0.0:
            if axis == last:
                add_scaled(weight, row, out)
            else:
                out[index[axis]] += weight * _weighted_sum(inner, row)
        for a in range(last - 1, -1, -1):
            index[a] += 1
            if index[a] < shape[a]:
                break
            index[a] = 0


@kernel
def _update(values, factor):
    """factor = exp(values), normalised: (log of the sum, largest change of an entry)."""
    top = -math.inf
    for v in range(values.size):
        top = max(top, values[v])
    total = 0.0
    for v in range(values.size):
        total += math.exp(values[v] - top)
    change = 0.0
    for v in range(values.size):
        new = math.exp(values[v] - top) / total
        change = max(change, abs(new - factor[v]))
        factor[v] = new
    return top + math.log(total), change


@kernel
def _negative_entropy(factor):
    total = 0.0
    for v in range(factor.size):
        if factor[v] > 0.0:
            total += factor[v] * math.log(factor[v])
    return total


@exported
def mean_field(log_p, shape, offsets, q, rtol, most_rounds, index, values, trace):
    """Coordinate ascent from q, which is overwritten: (KL(q ‖ p), rounds, last change of an entry).

    Each update is the exact minimum over one factor, so the divergence falls; it is written to `trace` after
    each round. It ends when no entry changes by more than `rtol`.
    """
    axes = shape.size
    value, change, rounds = math.inf, math.inf, 0
    while rounds < most_rounds:
        change = 0.0
        for axis in range(axes):
            out = values[: shape[axis]]
            _expectations(log_p, shape, offsets, q, axis, index, out)
            log_sum, moved = _update(out, q[offsets[axis] : offsets[axis] + shape[axis]])
            change = max(change, moved)
            # After the update the divergence is minus log_sum and the entropies of the other factors.
            value = -log_sum
            for a in range(axes):
                if a != axis:
                    value += _negative_entropy(q[offsets[a] : offsets[a] + shape[a]])
        trace[rounds] = value
        rounds += 1
        if change <= rtol:
            break
    return value, rounds, change


@exported
def second_expectations(log_p, shape, offsets, q, one, two, index, out):
    """out[u, v] = E[log p | axis one = u, axis two = v] under the other factors."""
    axes = shape.size
    clear_matrix(out)
    for a in range(axes):
        index[a] = 0
    for k in range(log_p.size):
        weight = 1.0
        for a in range(axes):
            if a not in (one, two):
                weight *= q[offsets[a] + index[a]]
        out[index[one], index[two]] += weight * log_p[k]
        for a in range(axes - 1, -1, -1):
            index[a] += 1
            if index[a] < shape[a]:
                break
            index[a] = 0

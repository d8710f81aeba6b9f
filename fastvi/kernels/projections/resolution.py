"""Whether nodes are fine enough for narrow components of q: `refinements` asks when a descent has ended.

Shifted nodes that are further apart than such a component is wide may miss it as those of the descent did: of
200 mixtures on the line with needles of 0.005 deviations 127 ended more than 1e-4 above the minimum.
"""

from __future__ import annotations

import math

from ..compiler import inlined, kernel
from ..numerics.matrices import clear_vector
from .nodes import STEPS

#: The logarithm of a density is less smooth than a Gaussian: as one of a quarter of its variance.
ROUGHNESS = 4.0

#: Costs below this share of the least are not worked out.
NEGLIGIBLE = 1e-4

#: Waves with up to so many periods between nodes along each axis are summed one by one.
MOST_PERIODS = 3


@kernel
def mark_unresolved(p, q, least, nodes):
    """Write errors of inf for the groups whose nodes are too coarse for q; the excess of KL(p ‖ q) of all.

    The nodes are those of `add_shifted`. Under exp(-d² / 2), d the distance from a component of q in its
    deviations, lies the mass M of one of p. A sum over nodes is off by M sqrt(v), v its variance as the nodes
    are shifted. For a component with the weight w that costs M² v / w, or less where only a share of the mass
    is its own. Groups for which this exceeds the least are marked.
    """
    weights, dim = q[0], q[1].shape[1]
    costs, overlaps, excess = nodes.values, nodes.overlaps, 0.0
    clear_vector(costs)
    for j in range(weights.size):
        mass = 0.0
        for k in range(p[0].size):
            overlaps[k] = _overlap(p, k, q, j, nodes.square)
            mass += overlaps[k]
        own = min(1.0, weights[j] / mass) if mass > 0.0 else 0.0
        for g in range(nodes.groups[0]):
            step, unit = STEPS[dim - 1][nodes.levels[g]], nodes.units[g]
            for k in nodes.members[nodes.bounds[g] : nodes.bounds[g + 1]]:
                part = own * overlaps[k]
                if part * part > NEGLIGIBLE * least * weights[j]:
                    # Once more, for the square that it writes: most pairs need none.
                    _overlap(p, k, q, j, nodes.square)
                    if unit > 0.0:
                        _to_units(unit, p[2][k], nodes.square)
                    _with_shifted(nodes.square)
                    costs[g] += part * part * _variance(step, nodes.square) / weights[j]
    for g in range(nodes.groups[0]):
        excess += costs[g]
        if costs[g] > least:
            nodes.errors[g] = math.inf
    return excess


@kernel
def _overlap(p, k, q, j, covariance):
    """The mass of component k of p under exp(-d² / 2), d the distance from j of q in its deviations.

    Written is the covariance of that product, in the coordinates in which component k is standard normal.
    """
    log_weights, means, chols = p
    chol, other = chols[k], q[2][j]
    a, x = other[0, 0] / chol[0, 0], (q[1][j, 0] - means[k, 0]) / chol[0, 0]
    b, c, y, area = 0.0, 0.0, 0.0, a
    if means.shape[1] == 2:
        b, c = (other[1, 0] - chol[1, 0] * a) / chol[1, 1], other[1, 1] / chol[1, 1]
        y = (q[1][j, 1] - means[k, 1] - chol[1, 0] * x) / chol[1, 1]
        area = a * c
    # Relative to component k, S = (a², ab; ab, b² + c²) is the covariance of the other, S + I = (s, t; t, u).
    s, t, u = 1.0 + a * a, a * b, 1.0 + b * b + c * c
    det = s * u - t * t
    covariance[0, 0] = a * a * (1.0 + c * c) / det
    if means.shape[1] == 2:
        covariance[1, 0], covariance[1, 1] = t / det, (b * b + c * c * s) / det
    square = (u * x * x - 2.0 * t * x * y + s * y * y) / det
    return area / math.sqrt(det) * math.exp(log_weights[k] - 0.5 * square)


@kernel
def _to_units(unit, chol, covariance):
    """Multiply a covariance by a factor from both sides, in place, and measure it in squares of the unit."""
    a, b, c = chol[0, 0] / unit, chol[1, 0] / unit, chol[1, 1] / unit
    s, t, u = covariance[0, 0], covariance[1, 0], covariance[1, 1]
    covariance[0, 0] = a * a * s
    covariance[1, 0] = a * (b * s + c * t)
    covariance[1, 1] = b * b * s + 2.0 * b * c * t + c * c * u


@kernel
def _with_shifted(covariance):
    """Turn and stretch a covariance as a lattice and the shifted one to a single lattice of the same step.

    The node (x, y) goes to (x + y, y - x), which are whole numbers for those of both lattices.
    """
    if covariance.shape[0] == 1:
        covariance[0, 0] *= 4.0
        return
    a, b, c = covariance[0, 0], covariance[1, 0], covariance[1, 1]
    covariance[0, 0], covariance[1, 0], covariance[1, 1] = a + 2.0 * b + c, c - a, a - 2.0 * b + c


@kernel
def _variance(step, covariance):
    """The relative variance of a sum over a shifted lattice of a Gaussian of this covariance.

    By Poisson's formula it is the sum of exp(-(2π)² ν'Cν / step²) over the frequencies ν that are not 0.
    Along a ridge between the nodes many frequencies matter: those in one direction are summed in closed form,
    and where the ellipse is small in both, all are.
    """
    scale = ROUGHNESS * step * step
    a = covariance[0, 0] / scale
    if covariance.shape[0] == 1:
        return _along(a)
    b, c = covariance[1, 0] / scale, covariance[1, 1] / scale
    area = 4.0 * math.pi * math.sqrt(max(a * c - b * b, 0.0))
    total = _along(a) + _along(c)
    for i in range(1, MOST_PERIODS + 1):
        for j in range(1, MOST_PERIODS + 1):
            if i == 1 or j == 1 or i != j:
                total += _along(i * i * a + 2.0 * i * j * b + j * j * c)
                total += _along(i * i * a - 2.0 * i * j * b + j * j * c)
    return max(total, 1.0 / area - 1.0) if area > 0.0 else math.inf


@inlined
def _along(square):
    """The sum of exp(-(2π n)² square) over n that are not 0."""
    root = 4.0 * math.pi * square
    if root > 1.0:
        return 2.0 * math.exp(-math.pi * root)
    return (1.0 + 2.0 * math.exp(-math.pi / root)) / math.sqrt(root) - 1.0 if root > 0.0 else math.inf

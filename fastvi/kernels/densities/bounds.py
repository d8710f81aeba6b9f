"""Bounds of the entropy and the KL divergence of Gaussian mixtures, from pairs of components.

For `fastvi.entropy_bounds` and `fastvi.kl_bounds`, in any dimension.
"""

from __future__ import annotations

import math

from ..compiler import exported, kernel
from ..numerics.matrices import half_log_det
from .gaussians import LOG_2PI, bhattacharyya, gaussian_kl, log_overlap
from .mixtures import Mixture

#: Largest error of the mass of phi in `matched_bound`: below it the bound is that of a distribution.
MASS_ERROR = 1e-9

#: Rounds of Hershey and Olsen's matching of components.
ROUNDS = 20


@kernel
def _add_log(top, total, value):
    """Streaming log-sum-exp: add exp(value) to exp(top) total."""
    if value > top:
        return value, total * math.exp(top - value) + 1.0
    return top, (total + math.exp(value - top) if value > -math.inf else total)


@kernel
def _log_mean(log_weights, values):
    """log of the sum of exp(log_weights + values)."""
    top, total = -math.inf, 0.0
    for i in range(values.size):
        if log_weights[i] > -math.inf:
            top, total = _add_log(top, total, log_weights[i] + values[i])
    return top + math.log(total)


@kernel
def _gaussian_entropy(chol):
    """The entropy of a Gaussian."""
    return half_log_det(chol) + 0.5 * chol.shape[0] * (LOG_2PI + 1.0)


@exported
def entropy_bounds(log_weights, means, chols, values, matrix, space):
    """(lower, upper) bound of the entropy of a mixture.

    Kolchinsky & Tracey 2017, eq. 10, with the Bhattacharyya distance and with the KL divergence. Scratch
    space: `values` (2 K), `matrix` (D, D), `space` (2 D).
    """
    components = log_weights.size
    lower, upper = 0.0, 0.0
    near, far = values[:components], values[components : 2 * components]
    for i in range(components):
        weight = math.exp(log_weights[i])
        if weight == 0.0:
            continue
        for j in range(components):
            near[j] = -bhattacharyya(means[i], chols[i], means[j], chols[j], matrix, space) if i != j else 0.0
            far[j] = -gaussian_kl(means[i], chols[i], means[j], chols[j], space) if i != j else 0.0
        own = _gaussian_entropy(chols[i])
        lower += weight * (own - _log_mean(log_weights, near))
        upper += weight * (own - _log_mean(log_weights, far))
    return lower, upper


@exported
def kl_bounds(p, q, values, matrix, space):
    """(lower, upper) bound of KL(p ‖ q) of two mixtures, from pairs of components; see `fastvi.kl_bounds`.

    Scratch space: `values` (2 max(K_p, K_q)), `matrix` (D, D), `space` (2 D).
    """
    log_weights, means, chols = p
    p = Mixture(log_weights, means, chols)
    lower_entropy, upper_entropy = entropy_bounds(log_weights, means, chols, values, matrix, space)
    log_weights, means, chols = q
    q = Mixture(log_weights, means, chols)
    cross_least, cross_most, own_most = 0.0, 0.0, 0.0
    for a in range(p.log_weights.size):
        weight = math.exp(p.log_weights[a])
        if weight == 0.0:
            continue
        mean, chol = p.means[a], p.chols[a]
        overlaps, distances = (
            values[: q.log_weights.size],
            values[q.log_weights.size : 2 * q.log_weights.size],
        )
        for b in range(q.log_weights.size):
            overlaps[b], _ = log_overlap(mean, chol, q.means[b], q.chols[b], 1.0, matrix, space)
            distances[b] = -gaussian_kl(mean, chol, q.means[b], q.chols[b], space)
        # E_a[log q] is at most the log of the overlap (Jensen), at least the variational bound from the KLs.
        cross_most += weight * _log_mean(q.log_weights, overlaps)
        cross_least += weight * (_log_mean(q.log_weights, distances) - _gaussian_entropy(chol))
        own = values[: p.log_weights.size]
        for b in range(p.log_weights.size):
            own[b], _ = log_overlap(mean, chol, p.means[b], p.chols[b], 1.0, matrix, space)
        own_most += weight * _log_mean(p.log_weights, own)
    return max(-upper_entropy - cross_most, 0.0), min(own_most, -lower_entropy) - cross_least


@exported
def all_kl(p, q, costs, space):
    """costs[a, b] = KL(p_a ‖ q_b)."""
    log_weights, means, chols = p
    p = Mixture(log_weights, means, chols)
    log_weights, means, chols = q
    q = Mixture(log_weights, means, chols)
    for a in range(p.log_weights.size):
        for b in range(q.log_weights.size):
            costs[a, b] = gaussian_kl(p.means[a], p.chols[a], q.means[b], q.chols[b], space)


@exported
def matched_bound(p, q, phi, psi, costs, rounds):
    """Hershey & Olsen's variational upper bound of KL(p ‖ q), eq. 20 to 25; all arrays (K_p, K_q).

    `costs` holds KL(p_a ‖ q_b). Each round lowers the bound.
    """
    m, n = costs.shape
    (log_p, _, _), (log_q, _, _) = p, q
    for a in range(m):
        for b in range(n):
            phi[a, b] = math.exp(log_p[a] + log_q[b])
    for _ in range(rounds):
        for b in range(n):
            column = 0.0
            for a in range(m):
                column += phi[a, b]
            for a in range(m):
                psi[a, b] = math.exp(log_q[b]) * phi[a, b] / column if column > 0.0 else 0.0
        for a in range(m):
            row = 0.0
            for b in range(n):
                phi[a, b] = psi[a, b] * math.exp(-costs[a, b])
                row += phi[a, b]
            for b in range(n):
                phi[a, b] = math.exp(log_p[a]) * phi[a, b] / row if row > 0.0 else 0.0
    # With the last psi fixed phi is optimal. The bound holds only where the masses of phi sum to one.
    total, mass_p = 0.0, 0.0
    for a in range(m):
        for b in range(n):
            if phi[a, b] > 0.0:
                total += phi[a, b] * (math.log(phi[a, b] / psi[a, b]) + costs[a, b])
                mass_p += phi[a, b]
    return total if abs(mass_p - 1.0) < MASS_ERROR else math.inf
